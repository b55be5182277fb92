//! Shrinking: the least of a failing seed that still breaks the same property.
//!
//! Faults are left out by halves and then one by one, the storm ends earlier, volumes, nodes, guests and requests go. A cut
//! changes the order of all events after it, and a race may hide: each is tried with some other orders as well.

use crate::checkers::Violation;
use crate::cuts::Cuts;
use crate::runner::play;
use crate::setup::{NODES, Setup};
use crate::world::Reached;
use std::collections::BTreeSet;

/// Orders of events that are tried for a cut.
const ORDERS: u64 = 3;

/// What remains of a failing seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shrunk {
    /// What was left out: it replays exactly, together with the seed and what else was chosen.
    pub cuts: Cuts,
    /// What was expected and what was found now.
    pub text: String,
    /// How far the whole seed came, and what of its faults came to that.
    pub before: Reached,
    /// How far it comes now.
    pub after: Reached,
    /// Fault events that remain.
    pub faults: u64,
    /// Worlds that were run.
    pub tries: u64,
}

/// Shrinks what a seed needs to fail, as long as `go_on` says so. `None` if it does not fail.
pub fn shrink(seed: u64, setup: &Setup, go_on: &mut dyn FnMut() -> bool) -> Option<Shrunk> {
    let whole = play(seed, setup, false);
    let violation = whole.result.err()?;
    let mut search = Search {
        seed,
        setup: setup.clone(),
        target: sort(&violation),
        text: violation.text,
        reached: whole.reached,
        tries: 1,
        go_on,
    };
    let kept = search.setup.cuts.faults.take().unwrap_or_else(|| (0..whole.reached.fault_events).collect());
    search.setup.cuts.faults = Some(kept);
    search.forget_later_faults();
    while search.round() {}
    let faults = search.faults().len() as u64;
    let Search { setup, text, reached, tries, .. } = search;
    Some(Shrunk { cuts: setup.cuts, text, before: whole.reached, after: reached, faults, tries })
}

/// What makes two violations the same: the property, and for a panic its place.
fn sort(violation: &Violation) -> (&'static str, String) {
    let place = match violation.property {
        "panic" => violation.text.split(": ").next().unwrap_or_default().to_owned(),
        _ => String::new(),
    };
    (violation.property, place)
}

struct Search<'a> {
    seed: u64,
    /// The smallest that fails so far.
    setup: Setup,
    target: (&'static str, String),
    text: String,
    reached: Reached,
    tries: u64,
    go_on: &'a mut dyn FnMut() -> bool,
}

impl Search<'_> {
    /// Tries every sort of cut; whether one helped.
    fn round(&mut self) -> bool {
        let before = self.setup.cuts.clone();
        self.drop_faults();
        self.shorten_storm();
        self.drop_volumes();
        self.drop_nodes();
        self.quiet_guests();
        self.setup.cuts != before
    }

    fn faults(&self) -> &BTreeSet<u64> {
        self.setup.cuts.faults.as_ref().expect("the search starts from an explicit list")
    }

    /// Fault events that had not come when it failed play no part.
    fn forget_later_faults(&mut self) {
        let end = self.reached.fault_events;
        if let Some(faults) = &mut self.setup.cuts.faults {
            faults.retain(|n| *n < end);
        }
    }

    /// Keeps a cut if the same property breaks.
    fn attempt(&mut self, cut: impl FnOnce(&mut Cuts)) -> bool {
        let mut cuts = self.setup.cuts.clone();
        cut(&mut cuts);
        let own = cuts.order;
        let others = (1..ORDERS).map(Some).chain([None]).filter(|o| *o != own);
        for order in [own].into_iter().chain(others).take(usize::try_from(ORDERS).expect("a few")) {
            if !(self.go_on)() {
                return false;
            }
            let setup = Setup { cuts: Cuts { order, ..cuts.clone() }, ..self.setup.clone() };
            let replay = play(self.seed, &setup, false);
            self.tries += 1;
            if let Err(violation) = replay.result
                && sort(&violation) == self.target
            {
                (self.setup, self.text, self.reached) = (setup, violation.text, replay.reached);
                self.forget_later_faults();
                return true;
            }
        }
        false
    }

    fn drop_faults(&mut self) {
        let mut chunk = self.faults().len();
        while chunk > 0 {
            let mut at = 0;
            while at < self.faults().len() {
                let gone: BTreeSet<u64> = self.faults().iter().copied().skip(at).take(chunk).collect();
                let fewer: BTreeSet<u64> = self.faults().difference(&gone).copied().collect();
                if !self.attempt(|cuts| cuts.faults = Some(fewer)) {
                    at += chunk;
                }
            }
            chunk = if chunk == 1 { 0 } else { chunk.div_ceil(2) };
        }
    }

    /// Only what failed after the storm can do with a shorter one: else it has not ended yet.
    fn shorten_storm(&mut self) {
        loop {
            let storm = self.setup.options(self.seed).storm / crate::log::MS;
            let shorter = [storm / 4, storm / 2, storm * 3 / 4];
            let late = self.reached.virtual_ms >= storm;
            if !late || !shorter.into_iter().any(|ms| ms > 500 && self.attempt(|cuts| cuts.storm_ms = Some(ms))) {
                return;
            }
        }
    }

    fn drop_volumes(&mut self) {
        let all: BTreeSet<u64> = self.setup.options(self.seed).volumes.iter().map(|v| v.id.0).collect();
        let mut kept = all.clone();
        for volume in all {
            let fewer: BTreeSet<u64> = kept.iter().copied().filter(|v| *v != volume).collect();
            if !fewer.is_empty() && self.attempt(|cuts| cuts.volumes = Some(fewer.clone())) {
                kept = fewer;
            }
        }
    }

    fn drop_nodes(&mut self) {
        loop {
            let nodes = self.setup.options(self.seed).nodes.len() as u64;
            if nodes <= *NODES.start() || !self.attempt(|cuts| cuts.nodes = Some(nodes - 1)) {
                return;
            }
        }
    }

    fn quiet_guests(&mut self) {
        let several = self.setup.options(self.seed).volumes.iter().any(|v| v.clients > 1);
        if several {
            self.attempt(|cuts| cuts.clients = Some(1));
        }
        loop {
            let requests = self.setup.options(self.seed).requests;
            let fewer = [requests / 8, requests / 2];
            if !fewer.into_iter().any(|n| n >= 4 && self.attempt(|cuts| cuts.requests = Some(n))) {
                return;
            }
        }
    }
}
