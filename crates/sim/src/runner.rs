//! Runs seeds, one after another, and replays one with its events in words.

use crate::checkers::Violation;
use crate::faults::{FaultCounts, FaultKind};
use crate::options::{Mutant, Options};
use crate::world::{Outcome, World};
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Events that a failure carries.
const LAST_EVENTS: usize = 200;
/// A batch at least this large must have fired every kind of fault.
const WHOLE_BATCH: u64 = 200;

/// What many seeds came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Seeds that ran.
    pub seeds: u64,
    /// Their events.
    pub events: u64,
    /// Changes that were answered to guests.
    pub acked: u64,
    /// Reads that were answered to guests.
    pub reads: u64,
    /// Epochs that were activated.
    pub epochs: u64,
    /// Virtual time, in milliseconds.
    pub virtual_ms: u64,
    /// How often each kind of fault fired.
    pub faults: FaultCounts,
    /// In how many seeds each kind of fault fired.
    pub faulty_seeds: FaultCounts,
}

/// A seed that broke a property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which.
    pub seed: u64,
    /// The property.
    pub property: &'static str,
    /// What was expected and what was found.
    pub text: String,
    /// The last events before it, oldest first.
    pub events: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {} breaks {}: {}", self.seed, self.property, self.text)
    }
}

impl std::error::Error for Failure {}

/// One seed with its events in words.
#[derive(Clone, Debug)]
pub struct Replay {
    /// Every event, oldest first; the first line says what the seed decided.
    pub events: Vec<String>,
    /// Hash of the events.
    pub hash: u64,
    /// How it ended.
    pub result: Result<Outcome, Violation>,
}

/// Runs seeds until one fails. `progress` is told of every seed that has passed.
///
/// # Errors
/// The first seed that breaks a property; or, after at least 200 seeds, a kind of fault that never fired.
pub fn run(seeds: Range<u64>, progress: &mut dyn FnMut(u64)) -> Result<Summary, Box<Failure>> {
    let mut summary = Summary::default();
    let last = seeds.end.saturating_sub(1);
    for seed in seeds {
        match run_seed(seed) {
            Ok(outcome) => summary.add(&outcome),
            Err(violation) => {
                let mut events = replay(seed).events;
                events.drain(..events.len().saturating_sub(LAST_EVENTS));
                return Err(Box::new(Failure { seed, property: violation.property, text: violation.text, events }));
            }
        }
        progress(seed);
    }
    let silent = silent_faults(&summary);
    if summary.seeds >= WHOLE_BATCH && !silent.is_empty() {
        let text =
            format!("of {} seeds none fired {silent:?}: the simulator does not test what it says", summary.seeds);
        return Err(Box::new(Failure { seed: last, property: "coverage", text, events: Vec::new() }));
    }
    Ok(summary)
}

/// Kinds of faults that never fired.
#[must_use]
pub fn silent_faults(summary: &Summary) -> Vec<FaultKind> {
    FaultKind::ALL.iter().copied().filter(|k| !summary.faults.contains_key(k)).collect()
}

/// Runs one seed.
///
/// # Errors
/// The property that it breaks.
pub fn run_seed(seed: u64) -> Result<Outcome, Violation> {
    play(seed, None, false).result
}

/// Runs one seed and tells its events in words.
#[must_use]
pub fn replay(seed: u64) -> Replay {
    play(seed, None, true)
}

/// The same in a world that misbehaves; its events are told if `recording`.
#[must_use]
pub fn replay_mutant(seed: u64, mutant: Mutant, recording: bool) -> Replay {
    play(seed, Some(mutant), recording)
}

fn play(seed: u64, mutant: Option<Mutant>, recording: bool) -> Replay {
    let mut options = Options::draw(seed);
    options.mutant = mutant;
    if let Some(mutant) = mutant {
        options.suit(mutant);
    }
    let head = format!("{options:?}");
    let mut world = World::new(seed, options, recording);
    let result = catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|panic| Err(panicked(panic.as_ref())));
    let log = world.into_log();
    let hash = log.hash();
    let mut events = log.into_lines();
    if recording {
        events.insert(0, head);
    }
    Replay { events, hash, result }
}

pub(crate) fn panicked(panic: &(dyn std::any::Any + Send)) -> Violation {
    let text =
        panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
    Violation { property: "panic", text: text.unwrap_or_else(|| "a panic without words".to_owned()) }
}

impl Summary {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.events += outcome.events;
        self.acked += outcome.acked;
        self.reads += outcome.reads;
        self.epochs += outcome.epochs;
        self.virtual_ms += outcome.virtual_ms;
        for (kind, count) in &outcome.faults {
            *self.faults.entry(*kind).or_default() += count;
            *self.faulty_seeds.entry(*kind).or_default() += 1;
        }
    }
}
