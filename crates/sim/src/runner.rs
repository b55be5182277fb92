//! Runs seeds, one after another, and replays one with its events in words.

use crate::checkers::Violation;
use crate::faults::{FaultCounts, FaultKind, NODES};
use crate::log::{START, fold};
use crate::options::Mutant;
use crate::setup::Setup;
use crate::world::{Outcome, Reached, World};
use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// Events that a failure carries.
const LAST_EVENTS: usize = 200;
/// A batch at least this large must have fired every kind of fault.
const WHOLE_BATCH: u64 = 200;

/// What many seeds came to, taken in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Terms in which somebody led the control plane.
    pub terms: u64,
    /// Virtual time, in milliseconds.
    pub virtual_ms: u64,
    /// How often each kind of fault fired.
    pub faults: FaultCounts,
    /// In how many seeds each kind of fault fired.
    pub faulty_seeds: FaultCounts,
    /// Seeds that broke a property.
    pub failures: Vec<Failure>,
    /// Hash of the hashes of all seeds.
    pub hash: u64,
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
    /// How far it came.
    pub reached: Reached,
    /// How often each kind of fault fired.
    pub faults: FaultCounts,
    /// Of an episode: from the failure until the volume was served again.
    pub stall: Option<Duration>,
    /// How it ended.
    pub result: Result<Outcome, Violation>,
}

impl Replay {
    /// The events that the end comes from.
    #[must_use]
    pub fn last_events(&self) -> &[String] {
        &self.events[self.events.len().saturating_sub(LAST_EVENTS)..]
    }
}

/// Runs seeds until one fails. `progress` is told of every seed that has passed.
///
/// # Errors
/// The first seed that breaks a property; or, after at least 200 seeds, a kind of fault that never fired.
pub fn run(seeds: Range<u64>, progress: &mut dyn FnMut(u64)) -> Result<Summary, Box<Failure>> {
    let setup = Setup::default();
    let mut summary = Summary::default();
    let last = seeds.end.saturating_sub(1);
    for seed in seeds {
        summary.add(seed, &play(seed, &setup, false));
        if let Some(failure) = summary.failures.pop() {
            return Err(Box::new(failure));
        }
        progress(seed);
    }
    match summary.gap(&setup) {
        Some(text) => Err(Box::new(Failure { seed: last, property: "coverage", text })),
        None => Ok(summary),
    }
}

/// Runs one seed.
///
/// # Errors
/// The property that it breaks.
pub fn run_seed(seed: u64) -> Result<Outcome, Violation> {
    play(seed, &Setup::default(), false).result
}

/// Runs one seed and tells its events in words.
#[must_use]
pub fn replay(seed: u64) -> Replay {
    play(seed, &Setup::default(), true)
}

/// The same in a world that misbehaves; its events are told if `recording`.
#[must_use]
pub fn replay_mutant(seed: u64, mutant: Mutant, recording: bool) -> Replay {
    play(seed, &Setup { mutant: Some(mutant), ..Setup::default() }, recording)
}

/// Runs one seed under what was chosen; its events are told if `recording`.
#[must_use]
pub fn play(seed: u64, setup: &Setup, recording: bool) -> Replay {
    let options = setup.options(seed);
    let head = if recording { format!("{options:?}") } else { String::new() };
    let mut world = World::new(seed, options, recording);
    let result = run_world(&mut world);
    let (reached, faults) = (world.reached(), world.faults().clone());
    let stall = world.stall().map(Duration::from_nanos);
    let log = world.into_log();
    let hash = log.hash();
    let mut events = log.into_lines();
    if recording {
        events.insert(0, head);
    }
    Replay { events, hash, reached, faults, stall, result }
}

/// Runs a world to its end; an assertion of the code under test is a violation like any other.
pub(crate) fn run_world(world: &mut World) -> Result<Outcome, Violation> {
    PANIC_AT.set(Some(String::new()));
    let result = catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|panic| Err(panicked(panic.as_ref())));
    PANIC_AT.set(None);
    result
}

thread_local! {
    /// Where the world that runs in this thread panicked; empty if it did not, `None` if no world runs.
    static PANIC_AT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// From now on a panic in a world prints nothing: it is a violation whose text names its place. To be called once, by a
/// program that does nothing but simulate.
pub fn take_panics() {
    let other = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let ours = PANIC_AT.with_borrow_mut(|at| match at {
            Some(place) => {
                *place = panic.location().map(|l| format!("{}:{}: ", l.file(), l.line())).unwrap_or_default();
                true
            }
            None => false,
        });
        if !ours {
            other(panic);
        }
    }));
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Violation {
    let text =
        panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
    let place = PANIC_AT.take().unwrap_or_default();
    let text = text.unwrap_or_else(|| "a panic without words".to_owned());
    Violation { property: "panic", text: format!("{place}{text}") }
}

impl Default for Summary {
    fn default() -> Summary {
        Summary {
            seeds: 0,
            events: 0,
            acked: 0,
            reads: 0,
            epochs: 0,
            terms: 0,
            virtual_ms: 0,
            faults: FaultCounts::new(),
            faulty_seeds: FaultCounts::new(),
            failures: Vec::new(),
            hash: START,
        }
    }
}

impl Summary {
    /// Adds the next seed.
    pub fn add(&mut self, seed: u64, replay: &Replay) {
        self.seeds += 1;
        self.events += replay.reached.events;
        self.virtual_ms += replay.reached.virtual_ms;
        for (kind, count) in &replay.faults {
            *self.faults.entry(*kind).or_default() += count;
            *self.faulty_seeds.entry(*kind).or_default() += 1;
        }
        self.hash = fold(fold(self.hash, seed), replay.hash);
        match &replay.result {
            Ok(outcome) => {
                self.acked += outcome.acked;
                self.reads += outcome.reads;
                self.epochs += outcome.epochs;
                self.terms += outcome.terms;
            }
            Err(violation) => {
                let Violation { property, text } = violation.clone();
                self.failures.push(Failure { seed, property, text });
            }
        }
    }

    /// Kinds of faults that should have fired and never did.
    #[must_use]
    pub fn silent_faults(&self, setup: &Setup) -> Vec<FaultKind> {
        let expected = setup.profile.kinds().unwrap_or_else(|| FaultKind::ALL.to_vec());
        // Few seeds of a mixed batch take nodes in and out of service; those of the profile for that are asked.
        let mixed = setup.profile.kinds().is_none();
        let unasked = |k: &FaultKind| k.is_answer() || mixed && NODES.contains(k);
        expected.into_iter().filter(|k| !unasked(k) && !self.faults.contains_key(k)).collect()
    }

    /// What a large enough batch did not test although it should have. A chosen cluster may not be able to have each fault.
    #[must_use]
    pub fn gap(&self, setup: &Setup) -> Option<String> {
        let silent = self.silent_faults(setup);
        if self.seeds < WHOLE_BATCH || setup.topology.is_some() || silent.is_empty() {
            return None;
        }
        let names: Vec<&str> = silent.iter().map(|k| k.name()).collect();
        let names = names.join(", ");
        Some(format!("of {} seeds none fired {names}: the simulator does not test what it says", self.seeds))
    }
}
