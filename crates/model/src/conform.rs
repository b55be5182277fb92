//! Whether a run that was recorded elsewhere is one that the model allows (TESTING.md, G6).
//!
//! A trace is text: a step to a line, empty lines and lines that start with `#` left out. Whoever records one numbers nodes
//! from 0 with the first primary as 0, and epochs, writes and LSNs from the first open epoch, which is 1. What a member
//! answers to a claimant is written down before the member's next promise, even if it arrives later.

use crate::log::CAPACITY;
use crate::properties::broken;
use crate::rules::apply;
use crate::scope::{Property, Scope};
use crate::state::State;
use crate::step::{NotAStep, Step, alphabet};
use std::fmt;

/// Where a trace and the model part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deviation {
    /// A line is no step.
    Unreadable {
        /// Counted from 1.
        line: usize,
        /// What it is instead.
        why: NotAStep,
    },
    /// More nodes, epochs, records or kinds of faults than the scope has: nothing is said about the trace.
    Beyond {
        /// The step's place in the trace, from 0.
        at: usize,
        /// The step.
        step: Step,
    },
    /// The model does not take the step there.
    NotAllowed {
        /// The step's place in the trace, from 0.
        at: usize,
        /// The step.
        step: Step,
        /// The state before it, for people.
        state: String,
    },
    /// The model takes the step, and a property is broken.
    Broken {
        /// The step's place in the trace, from 0.
        at: usize,
        /// The step.
        step: Step,
        /// What is broken.
        property: Property,
    },
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Deviation::Unreadable { line, why } => write!(f, "line {line}: {why}"),
            Deviation::Beyond { at, step } => {
                write!(f, "step {at}, `{step}`, is beyond the scope: record a shorter run, or choose a larger scope")
            }
            Deviation::NotAllowed { at, step, state } => {
                write!(f, "expected a step that the model allows, found step {at}, `{step}`, in this state: {state}")
            }
            Deviation::Broken { at, step, property } => write!(f, "step {at}, `{step}`, breaks {property}"),
        }
    }
}

impl std::error::Error for Deviation {}

/// Reads a trace.
///
/// # Errors
/// The first line that is no step.
pub fn parse(text: &str) -> Result<Vec<Step>, Deviation> {
    let lines = (1..).zip(text.lines().map(str::trim));
    let steps = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    steps.map(|(line, text)| text.parse().map_err(|why| Deviation::Unreadable { line, why })).collect()
}

/// Takes the steps one after the other, from the first state of `scope` with the given clocks (a bit for each node with the
/// fast one; 0 without leases).
///
/// # Errors
/// The first step that the model does not allow, or that breaks a property.
pub fn conforms(scope: &Scope, fast: u8, trace: &[Step]) -> Result<(), Deviation> {
    let known = alphabet(scope);
    let first = State::first(scope).into_iter().find(|s| s.fast == fast);
    let mut state = first.expect("the clocks are a bit for each node of a scope with leases, or 0");
    for (at, step) in trace.iter().copied().enumerate() {
        let full = matches!(step, Step::Claim { .. } | Step::Change { .. }) && state.max_epoch == scope.epochs
            || matches!(step, Step::Write { .. }) && state.issued == scope.writes;
        let answers =
            matches!(step, Step::Answer { epoch, lsn } if (1..=scope.epochs).contains(&epoch) && lsn < CAPACITY);
        if full || !(answers || known.contains(&step)) {
            return Err(Deviation::Beyond { at, step });
        }
        let after = apply(scope, &state, step).map_err(|property| Deviation::Broken { at, step, property })?;
        let Some(after) = after else {
            return Err(Deviation::NotAllowed { at, step, state: format!("{state:?}") });
        };
        if let Some(property) = broken(scope, &after) {
            return Err(Deviation::Broken { at, step, property });
        }
        state = after;
    }
    Ok(())
}
