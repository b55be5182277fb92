//! `cargo xtask crash-states` and `cargo xtask corruption-sweep`: what crashes and failing devices may leave of a store, for some
//! time, from where the last run ended.

use holdfast_crash::{
    CutPlan, ErrorTally, FaultClass, Op, RotTally, Tally, Workload, astray_sweep, error_sweep, explore, rot_sweep,
};
use holdfast_store::io::DiskError;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Operations of the longest workload.
const LONGEST: u32 = 4;

struct Options {
    minutes: u64,
    from: u64,
}

fn parse(args: &[String]) -> Result<Options, String> {
    let mut options = Options { minutes: 1, from: 0 };
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let number = words.next().and_then(|n| n.parse().ok());
        let number = number.ok_or_else(|| format!("expected a whole number after {word}"))?;
        match word.as_str() {
            "--minutes" => options.minutes = number,
            "--from" => options.from = number,
            other => return Err(format!("expected --minutes or --from, found {other}")),
        }
    }
    Ok(options)
}

fn options(args: &[String], task: &str) -> Result<Options, ExitCode> {
    parse(args).map_err(|sentence| {
        eprintln!("{sentence}; usage: cargo xtask {task} [--minutes M] [--from N]");
        ExitCode::from(2)
    })
}

/// The numbers of all workloads, in an order that meets short and long ones alike.
fn workload(n: u64) -> u64 {
    let count = Workload::count(LONGEST);
    // A step that has no divisor in common with any count of this alphabet: it meets each once.
    n % count * 100_003 % count
}

/// Cuts workloads until the time is over. The last line: `next workloads states opened deep letters`; with no minutes at all the letters
/// of the alphabet are all that it tells, by which the numbers are counted.
pub(crate) fn states(args: &[String]) -> ExitCode {
    let Options { minutes, from } = match options(args, "crash-states") {
        Ok(options) => options,
        Err(code) => return code,
    };
    let end = Instant::now() + Duration::from_secs(minutes * 60);
    let (mut tally, mut next) = (Tally::default(), from);
    while Instant::now() < end {
        let seed = next / Workload::count(LONGEST);
        let plan = CutPlan { subsets: 256, torn: 8, deep: 25, deep_subsets: 16, seed };
        match explore(workload(next), &plan) {
            Ok(more) => tally.add(&more),
            Err(what) => {
                eprintln!("{what}");
                return ExitCode::FAILURE;
            }
        }
        next += 1;
    }
    let Tally { workloads, states, opened, deep, .. } = tally;
    println!("{next} {workloads} {states} {opened} {deep} {}", Op::ALL.len());
    ExitCode::SUCCESS
}

/// Damages directories until the time is over; once also every n-th operation that fails. The last line: `next damaged refused shown
/// unread harmless runs`.
pub(crate) fn corruption(args: &[String]) -> ExitCode {
    let Options { minutes, from } = match options(args, "corruption-sweep") {
        Ok(options) => options,
        Err(code) => return code,
    };
    let end = Instant::now() + Duration::from_secs(minutes * 60);
    match sweep(end, from) {
        Ok((next, rot, errors)) => {
            let RotTally { damaged, refused, shown, unread, harmless } = rot;
            println!("{next} {damaged} {refused} {shown} {unread} {harmless} {}", errors.runs);
            ExitCode::SUCCESS
        }
        Err(what) => {
            eprintln!("{what}");
            ExitCode::FAILURE
        }
    }
}

/// Round 0 takes every byte; each later one every 16th, with other bits and other places.
fn sweep(end: Instant, from: u64) -> Result<(u64, RotTally, ErrorTally), String> {
    let (mut rot, mut errors, mut round) = (RotTally::default(), ErrorTally::default(), from);
    for class in FaultClass::ALL {
        for (error, for_ever) in [
            (DiskError::Io(5), false),
            (DiskError::Io(5), true),
            (DiskError::NoSpace, false),
            (DiskError::NoSpace, true),
        ] {
            errors.runs += error_sweep(class, error, for_ever)?.runs;
        }
    }
    while Instant::now() < end || round == from {
        rot.add(&rot_sweep(if round == 0 { 1 } else { 16 }, round)?);
        rot.add(&astray_sweep(1, round)?);
        round += 1;
    }
    Ok((round, rot, errors))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_has_its_turn() {
        let count = Workload::count(LONGEST);
        let mut met = vec![false; usize::try_from(count).expect("some hundred thousand")];
        (0..count).for_each(|n| met[usize::try_from(workload(n)).expect("below the count")] = true);
        assert!(met.iter().all(|m| *m));
    }

    #[test]
    fn options_are_read_and_nonsense_is_named() {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let options = parse(&words("--minutes 3 --from 17")).expect("options");
        assert_eq!((options.minutes, options.from), (3, 17));
        assert_eq!(parse(&words("--minutes x")).err().as_deref(), Some("expected a whole number after --minutes"));
        assert!(parse(&words("--speed 3")).is_err());
    }
}
