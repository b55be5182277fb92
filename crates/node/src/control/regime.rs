//! Generations of the control plane (PROTOCOL.md, G1 to G5): who takes whose word, and how a node goes over to a later one.
//!
//! ```text
//!   message of an earlier generation ─► not taken; its sender is told of the recovery that it missed
//!   told of a later one ─┬─ this node was given up ─► Superseded: it says so, and ends
//!                        └─ it was not ─► Adopt: its log is set aside, and it listens to the new regime like a node that joins
//! ```
//! Every message says of which generation its sender is, except those of the first: a cluster that was never recovered says what it always
//! said. A node takes messages of its own generation alone.

use super::applied::{ApplyError, Replicated};
use super::events::EventKind;
use super::wire::{self, Message};
use super::{Control, Output, lead};
use bytes::Bytes;
use holdfast_cluster::{Operator, Recovery, State};
use holdfast_consensus::{ConsensusError, Remains as Log, Stored};
use holdfast_types::{ClusterId, Generation, Mutant, NodeId, Speaks, Time, mutated};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Between two words to the same peer that it is of an earlier generation: about as often as it says anything.
const AGAIN: Duration = Duration::from_millis(500);

/// The regime that a node takes part in.
#[derive(Default)]
pub(super) struct Regime {
    /// The recovery that opened it; none: it is the founder's.
    opened_by: Option<Recovery>,
    /// When a peer of an earlier one was told so.
    told: BTreeMap<NodeId, Time>,
    /// Whether it was given up and came back was said.
    refused: BTreeMap<NodeId, Generation>,
}

impl Regime {
    pub(super) fn of(opened_by: Option<Recovery>) -> Regime {
        Regime { opened_by, ..Regime::default() }
    }

    pub(super) fn generation(&self) -> Generation {
        self.opened_by.as_ref().map_or(Generation::FIRST, |r| r.generation)
    }

    /// Whatever leaves says of which generation it is.
    pub(super) fn mark(&self, out: &mut [Output]) {
        let generation = self.generation();
        for output in out {
            if let Output::Send { bytes, .. } = output {
                *bytes = wire::of_generation(generation, std::mem::take(bytes));
            }
        }
    }
}

impl Control {
    /// The regime that this node takes part in.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.regime.generation()
    }

    /// The recovery of the control plane that opened it, if one did.
    #[must_use]
    pub const fn recovery(&self) -> Option<&Recovery> {
        self.regime.opened_by.as_ref()
    }

    /// What a peer of that generation has to hear of: the recovery that gave it up, if one did, else the last one. Whoever was given up
    /// must not take a later recovery for one that concerns it no more than others: it may hold what a majority agreed on.
    pub(super) fn notice(&self, to: NodeId, generation: Generation) -> Option<Bytes> {
        let notice = |r: &Recovery| Message::Recovered(Bytes::from(r.encode())).encode();
        self.gave_up(to, generation).or(self.regime.opened_by.as_ref()).map(notice)
    }

    /// The first recovery after that generation that gave this node up.
    fn gave_up(&self, node: NodeId, generation: Generation) -> Option<&Recovery> {
        let known = self.replicated.state().map_or(&[][..], |s| &s.recoveries).iter().chain(&self.regime.opened_by);
        known.into_iter().find(|r| r.generation > generation && r.given_up.contains(&node))
    }

    /// Whether to take a message of a peer of that generation.
    pub(super) fn takes(&mut self, from: NodeId, generation: Generation, now: Time, out: &mut Vec<Output>) -> bool {
        let own = self.generation();
        if generation == own || (generation < own && mutated(Mutant::GenerationNotChecked)) {
            return true;
        }
        // Of a later one nothing is taken either: its notice comes first, and is asked for by what this node says.
        if generation < own && self.regime.told.get(&from).is_none_or(|last| now.since(*last) >= AGAIN) {
            self.regime.told.insert(from, now);
            out.extend(self.notice(from, generation).map(|bytes| Output::Send { to: from, bytes }));
            self.say_refused(from, generation, now, out);
        }
        false
    }

    /// Of one that was given up, and is there: once.
    fn say_refused(&mut self, from: NodeId, generation: Generation, now: Time, out: &mut Vec<Output>) {
        let own = self.generation();
        let Some(recovery) = self.gave_up(from, generation) else { return };
        let (recovered_on, by, own) = (recovery.node, recovery.by.user.clone(), own.max(recovery.generation));
        if self.regime.refused.insert(from, generation) == Some(generation) {
            return;
        }
        let name = |node| lead::name(self.replicated.state(), node);
        let message = format!(
            "{} is back with the control plane of generation {generation}, and was given up when {by} recovered it on {} as generation {own}: \
             nothing that it says of the control plane is taken; on its host run `holdfast control rejoin`, or remove the node",
            name(from),
            name(recovered_on)
        );
        self.watch.of_control(EventKind::ControlRecovered, message, now, out);
    }

    /// Somebody knows of a recovery of the control plane.
    pub(super) fn hears_of(&mut self, recovery: Recovery, now: Time, out: &mut Vec<Output>) {
        if recovery.generation <= self.generation() {
            return;
        }
        if recovery.given_up.contains(&self.config.me) {
            if !mutated(Mutant::GivenUpVotesOn) {
                self.gave_up = true;
                out.push(Output::Superseded(recovery));
            }
            return;
        }
        self.adopt(recovery, now, out);
    }

    /// What this node had of the regime before counts for nothing; it is found by those who lead now like one that joins.
    fn adopt(&mut self, recovery: Recovery, now: Time, out: &mut Vec<Output>) {
        let known = self.replicated.state().map(lead::addresses).unwrap_or_default();
        self.introduced.extend(known);
        let (raft, batch) = self.raft.forgetful();
        self.raft = raft;
        self.replicated = Replicated::default();
        self.proposals.forget_sent();
        (self.applied_since_snapshot, self.brief_heartbeats, self.changed.all) = (0, 0, true);
        let message = format!(
            "the control plane was recovered on {} by {}: this node goes over to generation {}, its log of generation {} is set aside",
            recovery.node,
            recovery.by.user,
            recovery.generation,
            self.generation()
        );
        self.watch.of_control(EventKind::ControlRecovered, message, now, out);
        self.regime = Regime::of(Some(recovery.clone()));
        out.push(Output::Adopt { batch, recovery });
    }

    /// A state belongs to the regime that wrote it.
    pub(super) fn is_of_this_regime(&self, replicated: &Replicated) -> Result<(), ApplyError> {
        let (expected, found) = (self.generation(), replicated.state().map_or(Generation::FIRST, State::generation));
        if expected == found { Ok(()) } else { Err(ApplyError::Generation { expected, found }) }
    }
}

/// What one node has left of the control plane, all of its log counted.
#[derive(Clone, Debug)]
pub struct Remains {
    log: Log,
    replicated: Replicated,
}

/// What an operator orders on the node that is left.
#[derive(Clone, Debug)]
pub struct RecoveryOrder<'a> {
    /// The node that goes on.
    pub node: NodeId,
    /// Voters that are gone for ever.
    pub given_up: &'a BTreeSet<NodeId>,
    /// The latest generation that this node has heard of, whether it takes part in it or not.
    pub met: Generation,
    /// Who orders it.
    pub by: Operator,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

/// Why the control plane is not to be recovered so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoveryRefusal {
    /// The node has no vote.
    NoVoter {
        /// Who has.
        voters: Vec<NodeId>,
    },
    /// It has no vote, or is the node that is to go on.
    NotToGiveUp {
        /// Which one.
        node: NodeId,
        /// Who votes.
        voters: Vec<NodeId>,
    },
    /// The voters that are left need nobody.
    MajorityLeft {
        /// So many.
        left: usize,
        /// Of these.
        voters: Vec<NodeId>,
    },
    /// The generations are used up.
    TooMany,
}

/// Why nothing can be made of what is left.
#[derive(Debug, thiserror::Error)]
pub enum RemainsError {
    /// The log contradicts itself.
    #[error(transparent)]
    Log(#[from] ConsensusError),
    /// What is in it can't be carried out.
    #[error("{0}")]
    State(String),
}

impl Remains {
    /// From what a node stores; `None`: it never received anything.
    ///
    /// # Errors
    /// It can't be read by an agent that speaks these versions.
    pub fn of(stored: &Stored, cluster: ClusterId, speaks: Speaks) -> Result<Option<Remains>, RemainsError> {
        let Some(log) = stored.remains()? else { return Ok(None) };
        let failed = |e: ApplyError| RemainsError::State(e.to_string());
        let mut replicated = Replicated::restore(log.state.clone(), cluster, speaks).map_err(failed)?;
        for (index, data) in &log.commands {
            replicated.apply(*index, data.clone(), speaks).map_err(failed)?;
        }
        Ok(Some(Remains { log, replicated }))
    }

    /// The state after the whole log.
    ///
    /// # Panics
    /// Never: it began with one.
    #[must_use]
    pub fn state(&self) -> &State {
        self.replicated.state().expect("a log begins with a state")
    }

    /// The log: who votes, and where it ends.
    #[must_use]
    pub const fn log(&self) -> &Log {
        &self.log
    }

    /// The recovery that opens the next generation on this node: above its own, and above any that it has met.
    ///
    /// # Errors
    /// This node, or one that is to be given up, has no vote, or enough voters are left without it.
    pub fn order(&self, order: RecoveryOrder<'_>) -> Result<Recovery, RecoveryRefusal> {
        let (state, voters, me) = (self.state(), &self.log.voters, order.node);
        if !voters.contains(&me) {
            return Err(RecoveryRefusal::NoVoter { voters: voters.clone() });
        }
        let given_up: Vec<NodeId> = order.given_up.iter().copied().filter(|n| *n != me).collect();
        if let Some(stranger) = order.given_up.iter().find(|n| !voters.contains(n) || **n == me) {
            return Err(RecoveryRefusal::NotToGiveUp { node: *stranger, voters: voters.clone() });
        }
        let left = voters.len() - given_up.len();
        if left > voters.len() / 2 {
            return Err(RecoveryRefusal::MajorityLeft { left, voters: voters.clone() });
        }
        let met = order.met.max(state.generation());
        let generation = state.rank(me).and_then(|rank| met.next(rank)).ok_or(RecoveryRefusal::TooMany)?;
        let (term, index) = (self.log.term, self.log.index);
        let (at_ms, by, before) = (order.at_ms, order.by, state.generation());
        Ok(Recovery { generation, at_ms, by, node: me, given_up, before, term, index })
    }

    /// What the node stores to go on alone, under a recovery that fits this log.
    ///
    /// # Errors
    /// It does not fit.
    pub fn recovered(mut self, recovery: Recovery) -> Result<Stored, String> {
        let me = recovery.node;
        let state = self.state().clone().recovered(recovery)?;
        self.replicated.replace(state);
        let snapshot = self.replicated.snapshot().ok_or("there is no state")?;
        Ok(Stored::recovered(me, snapshot, &self.log))
    }
}
