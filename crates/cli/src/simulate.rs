//! `holdfast sim`: the adapter to the simulator. It brings what the simulator itself must not have: threads, a clock, files.

mod batch;
mod report;
mod setup;
mod what_if;

use crate::args::{Output, SimArgs, SimCommand};
use crate::error::CliError;
use holdfast_sim::{Follow, Setup, Violation};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Seeds that a run without arguments tries.
const SEEDS: u64 = 500;

pub(crate) fn run(args: &SimArgs, output: Output) -> Result<(), CliError> {
    holdfast_sim::take_panics();
    if let Some(SimCommand::WhatIf(args)) = &args.command {
        return what_if::run(args, output);
    }
    let setup = setup::chosen(args)?;
    match args.seed {
        Some(seed) => one(seed, args, &setup, output),
        None => many(args, &setup, output),
    }
}

fn many(args: &SimArgs, setup: &Setup, output: Output) -> Result<(), CliError> {
    let (first, count) = (args.from, args.seeds.unwrap_or(SEEDS));
    let wrong = || {
        CliError::Usage(format!("expected --seeds of 1 or more that fit above --from, found {count} from {first} on"))
    };
    let end = first.checked_add(count).filter(|_| count > 0).ok_or_else(wrong)?;
    let jobs = batch::jobs(args.jobs);
    let start = Instant::now();
    let progress = report::Progress::new(count);
    let summary = batch::run(first..end, setup, jobs, args.keep_going, &mut |summary, _| progress.seed_done(summary));
    progress.finish();
    let took = start.elapsed();
    let shrunk = match summary.failures.first() {
        Some(failure) if args.shrink_seconds > 0 => {
            let end = Instant::now() + Duration::from_secs(args.shrink_seconds);
            let progress = report::Progress::shrinking(failure.seed);
            let shrunk = holdfast_sim::shrink(failure.seed, setup, &mut || {
                progress.try_done();
                Instant::now() < end
            });
            progress.finish();
            shrunk
        }
        _ => None,
    };
    let gap = summary.gap(setup);
    let outcome = report::Outcome { args, setup, summary: &summary, took, shrunk, gap };
    outcome.tell(output);
    outcome.sentence().map_or(Ok(()), |sentence| Err(CliError::Simulator(sentence)))
}

fn one(seed: u64, args: &SimArgs, setup: &Setup, output: Output) -> Result<(), CliError> {
    let replay = holdfast_sim::play(seed, setup, args.trace);
    let hash = format!("{:016x}", replay.hash);
    if args.trace {
        let mut follow = Follow::new(setup::volume(args)?, setup::node(args)?);
        for event in replay.events.iter().filter(|e| follow.shows(e)) {
            match output {
                Output::Json => eprintln!("{event}"),
                Output::Table => println!("{event}"),
            }
        }
    }
    let violation = replay.result.err();
    match output {
        _ if args.hash => println!("{hash}"),
        Output::Json => {
            println!("{}", one_json(seed, replay.reached.events, &hash, violation.as_ref()));
        }
        Output::Table if violation.is_none() => {
            println!("seed {seed}: {} events, hash {hash}, every property held", replay.reached.events);
        }
        Output::Table => {}
    }
    violation.map_or(Ok(()), |v| {
        Err(CliError::Simulator(format!("seed {seed} breaks {}: {} (hash {hash})", v.property, v.text)))
    })
}

/// Of one seed.
pub(crate) fn one_json(seed: u64, events: u64, hash: &str, violation: Option<&Violation>) -> Value {
    let broken = violation.map(|v| json!({ "property": v.property, "text": v.text }));
    json!({ "seed": seed, "events": events, "hash": hash, "violation": broken })
}

#[cfg(test)]
pub(crate) fn examples() -> [(&'static str, Value); 3] {
    let violation = Violation { property: "S1", text: "a sentence".to_owned() };
    let one = one_json(1, 2, "0123456789abcdef", Some(&violation));
    [("sim", report::example()), ("sim --seed", one), ("sim what-if", what_if::example())]
}
