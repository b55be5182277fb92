//! Many worlds on several threads. Each world runs in one; what comes out is taken in the order of the seeds.

use holdfast_sim::{Replay, Setup, Summary};
use std::collections::BTreeMap;
use std::num::NonZero;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

/// How many threads: as many as there are processors if nobody says.
pub(super) fn jobs(chosen: Option<u16>) -> usize {
    let processors = || std::thread::available_parallelism().map_or(1, NonZero::get);
    chosen.map_or_else(processors, usize::from)
}

/// Runs the seeds, until one fails unless `keep_going`. `progress` is told of each, in order.
pub(super) fn run(
    seeds: Range<u64>,
    setup: &Setup,
    jobs: usize,
    keep_going: bool,
    progress: &mut dyn FnMut(&Summary, &Replay),
) -> Summary {
    let next = AtomicU64::new(seeds.start);
    let (send, receive) = mpsc::channel::<(u64, Replay)>();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            let (send, next, end) = (send.clone(), &next, seeds.end);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    // Nobody receives any more once a failure has ended the run.
                    if seed >= end || send.send((seed, holdfast_sim::play(seed, setup, false))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        in_order(seeds.start, receive, keep_going, progress)
    })
}

fn in_order(
    first: u64,
    results: mpsc::Receiver<(u64, Replay)>,
    keep_going: bool,
    progress: &mut dyn FnMut(&Summary, &Replay),
) -> Summary {
    let mut summary = Summary::default();
    let mut early = BTreeMap::new();
    let mut due = first;
    for (seed, replay) in results {
        early.insert(seed, replay);
        while let Some(replay) = early.remove(&due) {
            summary.add(due, &replay);
            due += 1;
            progress(&summary, &replay);
            if !keep_going && !summary.failures.is_empty() {
                return summary;
            }
        }
    }
    summary
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_sim::Mutant;

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let setup = Setup::default();
        let one = run(0..5, &setup, 1, false, &mut |_, _| {});
        let mut order = Vec::new();
        let three = run(0..5, &setup, 3, false, &mut |s, _| order.push(s.seeds));
        assert_eq!(one, three);
        assert_eq!(order, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn the_first_failure_is_that_of_the_first_seed_that_fails() {
        let setup = Setup { mutant: Some(Mutant::EarlyAnswers), ..Setup::default() };
        let one = run(0..8, &setup, 1, false, &mut |_, _| {});
        assert_eq!(one.failures.len(), 1, "the mutant is caught: {one:?}");
        assert_eq!(run(0..8, &setup, 3, false, &mut |_, _| {}), one);
        let all = run(0..8, &setup, 3, true, &mut |_, _| {});
        assert_eq!((all.seeds, &all.failures[0]), (8, &one.failures[0]));
    }
}
