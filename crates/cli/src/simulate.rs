//! `holdfast sim`: the adapter to the simulator.

use crate::args::{Output, SimArgs};
use crate::error::CliError;
use crate::units;
use holdfast_sim::{Failure, Summary};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::time::{Duration, Instant};

/// Seeds that a run without arguments tries.
const SEEDS: u64 = 500;

pub(crate) fn run(args: &SimArgs, output: Output) -> Result<(), CliError> {
    match (args.seed, args.seeds) {
        (Some(seed), None) => replay(seed, args.verbose, output),
        (first, count) => many(first.unwrap_or(0), count.unwrap_or(SEEDS), output),
    }
}

fn many(first: u64, count: u64, output: Output) -> Result<(), CliError> {
    let wrong = || {
        CliError::Usage(format!("expected --seeds of 1 or more that fit above --seed, found {count} from {first} on"))
    };
    let end = first.checked_add(count).filter(|_| count > 0).ok_or_else(wrong)?;
    let bar = ProgressBar::new(count);
    let template = "[{bar:30.cyan/dim}] {pos} of {len} seeds, {eta} left";
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    let start = Instant::now();
    let result = holdfast_sim::run(first..end, &mut |_| bar.inc(1));
    bar.finish_and_clear();
    let summary = result.map_err(|failure| failed(&failure))?;
    match output {
        Output::Json => println!("{}", summary_json(&summary)),
        Output::Table => println!("{}", summary_text(&summary, start.elapsed())),
    }
    Ok(())
}

fn failed(failure: &Failure) -> CliError {
    for event in &failure.events {
        eprintln!("{event}");
    }
    CliError::Simulator(format!("{failure}; see all of it: holdfast sim --seed {} --verbose", failure.seed))
}

fn replay(seed: u64, verbose: bool, output: Output) -> Result<(), CliError> {
    let replay = holdfast_sim::replay(seed);
    if verbose {
        for event in &replay.events {
            match output {
                Output::Json => eprintln!("{event}"),
                Output::Table => println!("{event}"),
            }
        }
    }
    let (events, hash) = (replay.events.len(), format!("{:016x}", replay.hash));
    if let Err(violation) = replay.result {
        let sentence = format!("seed {seed} breaks {}: {} (hash {hash})", violation.property, violation.text);
        return Err(CliError::Simulator(sentence));
    }
    match output {
        Output::Json => println!("{}", json!({ "seed": seed, "events": events, "hash": hash })),
        Output::Table => println!("seed {seed}: {events} events, hash {hash}, every property held"),
    }
    Ok(())
}

fn summary_json(summary: &Summary) -> serde_json::Value {
    json!({
        "seeds": summary.seeds,
        "events": summary.events,
        "acknowledged": summary.acked,
        "reads": summary.reads,
        "epochs": summary.epochs,
        "terms": summary.terms,
        "virtual_ms": summary.virtual_ms,
        "faults": summary.faults.values().sum::<u64>(),
    })
}

fn summary_text(summary: &Summary, took: Duration) -> String {
    format!(
        "{} seeds, every property held: {} changes acknowledged, {} reads checked, {} epochs of volumes and {} terms of the control plane, {} faults injected, {} simulated in {}",
        units::count(summary.seeds),
        units::count(summary.acked),
        units::count(summary.reads),
        units::count(summary.epochs),
        units::count(summary.terms),
        units::count(summary.faults.values().sum()),
        units::duration(Duration::from_millis(summary.virtual_ms)),
        units::duration(took),
    )
}
