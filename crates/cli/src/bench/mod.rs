//! `holdfast bench`: latency, throughput and processor time of volumes or of any NBD export, next to the raw file system.
//!
//! ```text
//! args ──> plan ──> rounds: [ load (NBD) | raw file | raw files at once ] ──> series ──> report, plot
//! ```
//! The targets of a round run one after another, and a ratio is that of one round: what else the machine does changes
//! slowly and weighs on both sides. Figures are medians of the rounds.
//!
//! Deliberately absent: reconnecting (a measurement that lost its server is none), and several client machines.

mod load;
mod plan;
mod plot;
pub mod processes;
mod raw;
mod report;
mod sample;
mod source;
mod uri;

pub(crate) use plan::Pattern;

use crate::args::{BenchArgs, Output};
use crate::error::CliError;
use crate::progress::{Progress, Step};
use crate::{commands, output};
use load::{Load, LoadError};
use plan::Plan;
use processes::Processes;
use raw::Raw;
use report::Outcome;
use sample::{Sample, Series};
use std::path::Path;
use std::time::Duration;
use uri::{Export, Place};

pub(crate) fn run(socket: &Path, output: Output, timeout: Option<Duration>, args: &BenchArgs) -> Result<(), CliError> {
    let mut plan = Plan::new(args)?;
    let (exports, about) = exports(socket, timeout, args)?;
    if let Some((volume, size)) = &about.smallest {
        plan.fit(volume, *size)?;
    }
    if plan.destroys() {
        output::confirm(&what_is_lost(&exports, &plan, about.smallest.is_some()), "yes", args.yes)?;
    }
    let outcome = measure(&mut plan, &exports, about)
        .map_err(|e| CliError::Bench(format!("the measurement ended early: {e}")))?;
    if let Some(path) = &plan.plot {
        let title = format!("{} of {} bytes, depth {}", plan.pattern.name(), plan.block, plan.depth);
        std::fs::write(path, plot::svg(&title, &outcome.series))
            .map_err(CliError::io(format!("write {}", path.display())))?;
    }
    output::print(output, || report::json(&plan, &outcome), || report::text(&plan, &outcome));
    let mismatches = outcome.mismatches();
    if mismatches > 0 {
        return Err(CliError::Bench(format!(
            "expected every read to return what was written last, found {mismatches} that did not; run `holdfast verify`, and \
             keep the copies"
        )));
    }
    Ok(())
}

/// What the volumes promise; nothing is known of exports of others.
#[derive(Clone, Debug, Default)]
pub(crate) struct About {
    pub(crate) text: String,
    /// Of each volume, if it is the same number for all.
    pub(crate) copies: Option<u64>,
    /// The smallest volume and its bytes.
    pub(crate) smallest: Option<(String, u64)>,
}

/// Where the volumes are attached, and what they promise.
fn exports(socket: &Path, timeout: Option<Duration>, args: &BenchArgs) -> Result<(Vec<Export>, About), CliError> {
    if !args.nbd.is_empty() {
        let parsed = args.nbd.iter().map(|uri| Export::parse(uri).map_err(|e| CliError::Usage(format!("--nbd: {e}"))));
        return Ok((parsed.collect::<Result<_, _>>()?, About::default()));
    }
    let volumes = crate::run::runtime()?.block_on(commands::show_volumes(socket, timeout, &args.volumes))?;
    let smallest = volumes.iter().min_by_key(|v| v.size).map(|v| (v.name.clone(), v.size));
    let mut exports = Vec::new();
    let mut about: Vec<String> = Vec::new();
    let mut copies_of: Vec<u64> = Vec::new();
    for volume in volumes {
        if volume.nbd_socket.is_empty() {
            let (name, primary) = (&volume.name, &volume.primary);
            let found = if primary.is_empty() { "no primary".to_owned() } else { format!("its primary on {primary}") };
            return Err(CliError::Bench(format!(
                "expected {name} to be attachable on the node that answers on {}, found {found}; run this there, or name its \
                 socket with --nbd",
                socket.display()
            )));
        }
        let copies = volume.copies.len();
        copies_of.push(copies as u64);
        let line = format!(
            "durability {}, acknowledged by {} of {copies} copies, mutual TLS",
            volume.durability, volume.quorum
        );
        if !about.contains(&line) {
            about.push(line);
        }
        exports.push(Export { place: Place::Unix(volume.nbd_socket.into()), name: volume.name });
    }
    copies_of.dedup();
    let copies = if let [copies] = copies_of[..] { Some(copies) } else { None };
    Ok((exports, About { text: about.join("; "), copies, smallest }))
}

/// A benchmark that writes ends whatever the volumes hold. How large exports are is not known before they are attached.
fn what_is_lost(exports: &[Export], plan: &Plan, known: bool) -> String {
    let name = |e: &Export| if e.name.is_empty() { "the export".to_owned() } else { e.name.clone() };
    let names: Vec<String> = exports.iter().map(name).collect();
    let or_all = if known || plan.region_chosen { "" } else { ", or as much as the smallest has if that is less" };
    format!("this overwrites the first {} of {}{or_all}", crate::units::bytes(plan.region), names.join(", "))
}

fn measure(plan: &mut Plan, exports: &[Export], about: About) -> Result<Outcome, LoadError> {
    let mut load = Load::open(exports, plan)?;
    let plan = &*plan;
    let processes = Processes::find(&load.servers());
    let mut raws = Vec::new();
    if let Some(path) = &plan.raw {
        raws.push(("raw".to_owned(), Raw::new(path, 1, plan)?));
        if plan.raw_streams > 1 {
            raws.push((format!("raw×{}", plan.raw_streams), Raw::new(path, plan.raw_streams, plan)?));
        }
    }
    if plan.fill {
        let (mut progress, mut filled, all) = (Progress::new(), 0, plan.region * exports.len() as u64);
        load.fill(plan, &mut |bytes| {
            filled += bytes;
            progress.reach("filling", filled, all);
        })?;
    }
    let name = if exports.len() == 1 { exports[0].name.clone() } else { format!("{} volumes", exports.len()) };
    let mut series = vec![Series::new(if name.is_empty() { "export".to_owned() } else { name })];
    series.extend(raws.iter().map(|(name, _)| Series::new(name.clone())));
    let (mut progress, mut done) = (Progress::new(), 0);
    let all = u64::from(plan.rounds) * series.len() as u64;
    let takes = (plan.warm_up + plan.duration).saturating_mul(plan.rounds * u32::try_from(series.len()).unwrap_or(1));
    // Nothing is drawn while something is measured: how long all of it takes stays true, what is left would not.
    let mut tell = |done: u64| {
        let text = format!("measuring, {} in all", crate::units::duration(takes));
        progress.show(|| Step { done, all, text, notes: Vec::new() });
    };
    tell(done);
    for _ in 0..plan.rounds {
        series[0].samples.push(round(&mut load, plan, &processes)?);
        done += 1;
        tell(done);
        for (series, (_, raw)) in series[1..].iter_mut().zip(&raws) {
            series.samples.push(raw.run(plan.warm_up, plan.duration)?);
            done += 1;
            tell(done);
        }
    }
    let (agents, peak_memory) = (processes.count(), processes.peak_memory());
    Ok(Outcome { series, about, agents, peak_memory })
}

fn round(load: &mut Load, plan: &Plan, processes: &Processes) -> Result<Sample, LoadError> {
    let warm_up = load.run(plan.warm_up)?;
    let (before, written) = (processes.cpu(), processes.written());
    let mut sample = load.run(plan.duration)?;
    sample.cpu = processes.cpu().zip(before).and_then(|(after, before)| after.checked_sub(before));
    sample.written = processes.written().zip(written).and_then(|(after, before)| after.checked_sub(before));
    sample.mismatches += warm_up.mismatches;
    Ok(sample)
}

#[cfg(test)]
pub(crate) fn example() -> serde_json::Value {
    let (plan, outcome) = report::example("vm1");
    report::json(&plan, &outcome)
}

#[cfg(test)]
pub(crate) fn example_text(name: &str) -> String {
    let (plan, outcome) = report::example(name);
    report::text(&plan, &outcome)
}
