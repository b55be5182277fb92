//! `fsck`, `export` and `control`: commands that work on the disk of a stopped agent and ask nobody else.

mod regime;
mod text;

pub(crate) use regime::control;

use crate::args::{ExportArgs, FsckArgs, Output, UptoArg};
use crate::error::CliError;
use crate::output;
use crate::progress::Progress;
use holdfast_agent::offline::{self, Options, Place, Report, Upto};
use serde_json::{Value, json};
use std::ffi::OsStr;

pub(crate) fn fsck(args: &FsckArgs, output: Output) -> Result<(), CliError> {
    offline::hush_caught_panics();
    let place = Place::find(&args.dir)?;
    let mut report = check(&place)?;
    let mut repaired = Vec::new();
    if args.repair && report.repairs().next().is_some() {
        if !args.yes {
            eprintln!("This would be written:");
            report.repairs().for_each(|what| eprintln!("  {what}"));
        }
        output::confirm("this writes copies of headers over what is there", "yes", args.yes)?;
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
    let mut progress = Progress::new();
    Ok(offline::check(place, &mut |done, total| progress.reach("checking", done, total))?)
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
        at_checkpoint: args.at_checkpoint,
    };
    offline::hush_caught_panics();
    let place = Place::find(&args.dir)?;
    let mut progress = Progress::new();
    let exported = offline::export(&place, &options, &mut |done, total| progress.reach("exporting", done, total))?;
    drop(progress);
    let json = || serde_json::to_value(&exported).expect("numbers and text are always JSON");
    output::print(output, json, || text::exported(&exported));
    if exported.bad.is_empty() && exported.unknown_to.is_none() && exported.gap.is_none() {
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

#[cfg(test)]
pub(crate) fn examples() -> [(&'static str, Value); 4] {
    let text = || "a sentence".to_owned();
    // Not all of its fields are public, so it can't be written as one expression.
    let mut volume = offline::VolumeReport::default();
    (volume.name, volume.incarnation, volume.digest) = (Some(text()), Some(text()), Some(text()));
    (volume.size, volume.promised, volume.checkpoint, volume.committed) = (Some(1), Some(1), Some(1), Some(1));
    (volume.durable, volume.unknown_to, volume.epochs) = (Some(1), Some(1), vec![(1, 1)]);
    volume.bad.listed.push((1, 2));
    volume.not_zero.listed.push((1, 2));
    let orphan = offline::OrphanReport { epoch: 1, file: text(), records: Some((1, 2)), bytes: 1, whole: true };
    volume.orphans.push(orphan);
    (volume.problems, volume.notes) = (vec![text()], vec![text()]);
    let segment = offline::SegmentReport { file: text(), generation: 1, frames: 1, records: 1, damaged: false };
    let control = offline::ControlReport { node: Some(text()), volumes: Some(1), problems: vec![text()] };
    let mut report = Report::default();
    (report.control, report.notes) = (Some(control), vec![text()]);
    report.journal =
        offline::JournalReport { id: Some(text()), life: 1, segments: vec![segment], problems: vec![text()] };
    let exported = offline::Exported {
        volume: text(),
        file: "vm1.raw".into(),
        size: 1,
        upto: 1,
        last_epoch: 1,
        committed: 1,
        durable: 1,
        unknown_to: Some(1),
        gap: Some(String::new()),
        data_blocks: 1,
        bad: volume.bad.clone(),
        at_checkpoint: false,
    };
    report.volumes.push(volume);
    let mut checked = json_of(&report, &[text()]);
    // Nothing of this one can be repaired.
    checked["repairable"] = json!([text()]);
    let exported = serde_json::to_value(exported).expect("numbers and text are always JSON");
    let [recover, rejoin] = regime::examples();
    [("fsck", checked), ("export", exported), recover, rejoin]
}
