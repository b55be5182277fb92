//! Breadth-first exploration of all states of a scope: a violation found first is a shortest one.
//!
//! Of a visited state 64 bits are kept, and those of the state it was first reached from, which is enough to find the way
//! again. Two states that share their 64 bits would be taken for one: a chance of 1e-4 in fifty million states.

use crate::properties::broken;
use crate::rules::{apply, apply_to};
use crate::scope::{Property, Scope};
use crate::state::State;
use crate::step::{Step, alphabet};

/// What an exploration has seen.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// States reached, counting one again each time that it was reached.
    pub states: u64,
    /// Different states.
    pub distinct: u64,
    /// Steps to the farthest state.
    pub depth: usize,
    /// How often each step was taken: one that never is has a rule that nothing was explored with.
    pub taken: Vec<(Step, u64)>,
    /// How it ended.
    pub end: End,
}

/// How an exploration ended.
#[derive(Clone, Debug)]
pub enum End {
    /// There is no other state, and all properties hold in all of them.
    Complete,
    /// The limit of states was reached.
    Limit,
    /// A property does not hold.
    Violation(Violation),
}

/// A property that does not hold, and a shortest way there.
#[derive(Clone, Debug)]
pub struct Violation {
    /// What is broken.
    pub property: Property,
    /// The clocks of the first state: a bit for each node with the fast one.
    pub fast: u8,
    /// From the first state; the last step breaks the property.
    pub steps: Vec<Step>,
}

/// Explores `scope`, at most about `limit` different states of it.
#[must_use]
pub fn explore(scope: &Scope, limit: u64) -> Outcome {
    let alphabet: Vec<(Step, u64)> = alphabet(scope).into_iter().map(|step| (step, 0)).collect();
    let mut search = Search { scope, alphabet, seen: Seen::new(), states: 0 };
    let mut frontier = State::first(scope);
    for first in &frontier {
        search.seen.insert(first.fingerprint(), 0);
    }
    let mut depth = 0;
    loop {
        let end = match search.level(&frontier) {
            Err(found) => End::Violation(search.violation(&found)),
            Ok(next) if next.is_empty() => End::Complete,
            Ok(_) if search.seen.len >= limit => End::Limit,
            Ok(next) => {
                depth += 1;
                frontier = next;
                continue;
            }
        };
        return Outcome { states: search.states, distinct: search.seen.len, depth, taken: search.alphabet, end };
    }
}

struct Search<'a> {
    scope: &'a Scope,
    /// Every step, and how often it was taken.
    alphabet: Vec<(Step, u64)>,
    seen: Seen,
    states: u64,
}

/// The step that breaks a property, and the fingerprint of the state before it.
struct Found {
    parent: u64,
    step: Step,
    property: Property,
}

impl Search<'_> {
    /// All new states one step further.
    fn level(&mut self, frontier: &[State]) -> Result<Vec<State>, Found> {
        let mut next = Vec::new();
        for state in frontier {
            let parent = state.fingerprint();
            let mut scratch = *state;
            for (step, count) in &mut self.alphabet {
                let taken = apply_to(self.scope, state, &mut scratch, *step);
                if !taken.map_err(|property| Found { parent, step: *step, property })? {
                    continue;
                }
                let after = std::mem::replace(&mut scratch, *state);
                self.states += 1;
                *count += 1;
                if !self.seen.insert(after.fingerprint(), parent) {
                    continue;
                }
                if let Some(property) = broken(self.scope, &after) {
                    return Err(Found { parent, step: *step, property });
                }
                next.push(after);
            }
        }
        Ok(next)
    }

    /// Follows the fingerprints back to a first state, then takes the steps that lead along them.
    fn violation(&self, found: &Found) -> Violation {
        let mut way = vec![found.parent];
        while let Some(parent) = way.last().and_then(|f| self.seen.parent(*f)).filter(|p| *p != 0) {
            way.push(parent);
        }
        way.reverse();
        let first = State::first(self.scope).into_iter().find(|s| s.fingerprint() == way[0]);
        let mut state = first.expect("the way back ends at a first state");
        let mut steps = Vec::new();
        let fast = state.fast;
        for wanted in &way[1..] {
            let leads_on = |step: &Step| matches!(apply(self.scope, &state, *step), Ok(Some(after)) if after.fingerprint() == *wanted);
            let mut steps_of_scope = self.alphabet.iter().map(|(step, _)| *step);
            let step = steps_of_scope.find(leads_on).expect("the state was reached by some step");
            state = apply(self.scope, &state, step).ok().flatten().expect("the step was just possible");
            steps.push(step);
        }
        steps.push(found.step);
        Violation { property: found.property, fast, steps }
    }
}

/// A table of fingerprints, each with its parent's (0: none); open addressing, at most three quarters full.
struct Seen {
    slots: Vec<(u64, u64)>,
    len: u64,
}

impl Seen {
    fn new() -> Seen {
        Seen { slots: vec![(0, 0); 1 << 16], len: 0 }
    }

    /// Whether it is new.
    fn insert(&mut self, fingerprint: u64, parent: u64) -> bool {
        let at = self.place(fingerprint);
        if self.slots[at].0 != 0 {
            return false;
        }
        self.slots[at] = (fingerprint, parent);
        self.len += 1;
        if self.len * 4 > self.slots.len() as u64 * 3 {
            self.grow();
        }
        true
    }

    fn parent(&self, fingerprint: u64) -> Option<u64> {
        let slot = self.slots[self.place(fingerprint)];
        (slot.0 != 0).then_some(slot.1)
    }

    /// Where it is, or would be.
    fn place(&self, fingerprint: u64) -> usize {
        let mask = self.slots.len() - 1;
        let low = u32::from_le_bytes([0, 1, 2, 3].map(|i: usize| fingerprint.to_le_bytes()[i]));
        let mut at = low as usize & mask;
        while self.slots[at].0 != 0 && self.slots[at].0 != fingerprint {
            at = (at + 1) & mask;
        }
        at
    }

    fn grow(&mut self) {
        let double = vec![(0, 0); self.slots.len() * 2];
        for slot in std::mem::replace(&mut self.slots, double) {
            if slot.0 != 0 {
                let at = self.place(slot.0);
                self.slots[at] = slot;
            }
        }
    }
}
