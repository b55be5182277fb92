//! `fsck` and `export`: commands that look at the disk of a stopped agent and ask nobody.

mod text;

use crate::args::{ExportArgs, FsckArgs, Output, UptoArg};
use crate::error::CliError;
use crate::output;
use holdfast_agent::offline::{self, Options, Place, Report, Upto};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::io::IsTerminal;
use std::time::Duration;

pub(crate) fn fsck(args: &FsckArgs, output: Output) -> Result<(), CliError> {
    offline::hush_caught_panics();
    let place = Place::find(&args.dir)?;
    let mut report = check(&place)?;
    let mut repaired = Vec::new();
    if args.repair && report.repairs().next().is_some() {
        if !args.yes {
            ask(&report)?;
        }
        repaired = offline::repair(&place, &report)?;
        report = check(&place)?;
    }
    output::print(output, || json_of(&report, &repaired), || text::report(&report, &repaired, args.repair));
    match report.problems().count() {
        0 => Ok(()),
        problems => {
            let mendable = report.repairs().count();
            Err(CliError::Damaged { dir: args.dir.clone(), problems, mendable })
        }
    }
}

fn check(place: &Place) -> Result<Report, CliError> {
    let bar = bar("checking");
    let report = offline::check(place, &mut |done, total| tell(&bar, done, total));
    bar.finish_and_clear();
    Ok(report?)
}

/// Shows what would be done, and goes on only after a yes.
fn ask(report: &Report) -> Result<(), CliError> {
    if !std::io::stdin().is_terminal() {
        let found = "expected a terminal on which --repair can ask, found none; look at the report without --repair, then add --yes";
        return Err(CliError::Usage(found.to_owned()));
    }
    eprintln!("This would be written:");
    report.repairs().for_each(|what| eprintln!("  {what}"));
    match output::ask("Do it? [y/N] ")?.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(CliError::Usage("not repaired: the answer was not y; nothing was written".to_owned())),
    }
}

fn json_of(report: &Report, repaired: &[String]) -> Value {
    let mut value = serde_json::to_value(report).expect("numbers and text are always JSON");
    value["problems"] = report.problems().map(|(about, text)| json!({ "about": about, "problem": text })).collect();
    value["repairable"] = report.repairs().collect();
    value["repaired"] = repaired.iter().map(String::as_str).collect();
    value
}

pub(crate) fn export(args: &ExportArgs, output: Output) -> Result<(), CliError> {
    let options = Options {
        volume: args.volume.clone(),
        to: args.to.clone(),
        qcow2: is_qcow2(args)?,
        upto: match args.upto {
            UptoArg::Committed => Upto::Committed,
            UptoArg::Durable => Upto::Durable,
        },
        skip_bad: args.skip_bad,
    };
    offline::hush_caught_panics();
    let place = Place::find(&args.dir)?;
    let bar = bar("exporting");
    let exported = offline::export(&place, &options, &mut |done, total| tell(&bar, done, total));
    bar.finish_and_clear();
    let exported = exported?;
    let json = || serde_json::to_value(&exported).expect("numbers and text are always JSON");
    output::print(output, json, || text::exported(&exported));
    if exported.bad.is_empty() && exported.unknown_to.is_none() {
        return Ok(());
    }
    Err(CliError::Incomplete { file: exported.file.clone(), lacks: text::lacks(&exported) })
}

fn is_qcow2(args: &ExportArgs) -> Result<bool, CliError> {
    match args.to.extension().and_then(OsStr::to_str) {
        Some("raw" | "img") => Ok(false),
        Some("qcow2") => Ok(true),
        _ => {
            let found = args.to.display();
            Err(CliError::Usage(format!(
                "expected --to as FILE.raw or FILE.qcow2, found {found}; the ending says the format"
            )))
        }
    }
}

/// Drawn on a terminal alone.
fn bar(what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {percent}% {msg}").expect("the template is right");
    let bar = ProgressBar::new(1).with_style(style).with_prefix(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn tell(bar: &ProgressBar, done: u64, total: u64) {
    bar.set_length(total);
    bar.set_position(done);
}
