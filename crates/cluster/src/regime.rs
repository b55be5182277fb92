//! Recoveries of the control plane itself, after a majority of its voters was lost for ever (PROTOCOL.md, G1 to G5).
//!
//! ```text
//!   what one voter has left ──State::recovered──► the same in a later generation: a state that no command has led to
//!     ids and epochs     above all that the lost majority can have given away
//!     an open volume     active e ──► active e' > e without records, the same members: it opens by the normal epoch change, and
//!                        only with members enough to know also of a change that this state has not heard of
//! ```
//! No command: there is nobody to agree on one. It is done to the files of a node that does not run, and everybody else takes the
//! state over from there.

use crate::members::Copies;
use crate::recovery::{MAX_WHO_BYTES, Operator};
use crate::state::{Phase, State, Volume};
use crate::wire;
use holdfast_types::{ClusterVersion, Configuration, Epoch, Generation, Mutant, NodeId, VolumeId, VolumeView, mutated};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Receipts kept: with the last ones it can be said what the present regime comes from.
const MAX_RECOVERIES: usize = 16;
/// Voters that a recovery can give up, and bytes of a receipt: far more than there are.
const MAX_GIVEN_UP: usize = 64;
const MAX_BYTES: usize = 16 << 10;

/// The receipt of a recovery of the control plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recovery {
    /// The regime that it opened.
    #[serde(with = "wire::one")]
    pub generation: Generation,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// By whom.
    pub by: Operator,
    /// On which node.
    #[serde(with = "wire::one")]
    pub node: NodeId,
    /// Voters that are gone for ever, by the operator's word.
    #[serde(with = "wire::list")]
    pub given_up: Vec<NodeId>,
    /// The regime that it ended, and where that one's log ended on this node.
    #[serde(with = "wire::one")]
    pub before: Generation,
    /// Term of the last entry.
    pub term: u64,
    /// Index of the last entry.
    pub index: u64,
}

impl Recovery {
    /// For a note or a message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data always has a JSON form")
    }

    /// `None`: it is none.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Recovery> {
        let found: Recovery = serde_json::from_slice(bytes).ok().filter(|_| bytes.len() <= MAX_BYTES)?;
        found.check().is_ok().then_some(found)
    }

    fn check(&self) -> Result<(), String> {
        let is = |holds: bool, otherwise: &str| if holds { Ok(()) } else { Err(otherwise.to_owned()) };
        is(self.generation > self.before, "G1: a recovery opens a generation that is not later")?;
        is(self.given_up.len() <= MAX_GIVEN_UP, "more voters were given up than there are")?;
        is(!self.given_up.contains(&self.node), "G2: a recovery gives up the node that it is made on")?;
        let by = [&self.by.user, &self.by.host];
        is(by.iter().all(|text| text.len() <= MAX_WHO_BYTES), "who recovered is too long")
    }
}

/// What a recovery means for one volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prospect {
    /// The volume.
    pub volume: VolumeId,
    /// Its name.
    pub name: String,
    /// The epoch that is known here.
    pub epoch: Epoch,
    /// Who counts, as far as is known here.
    pub members: Vec<NodeId>,
    /// Those of them that are given up.
    pub given_up: Vec<NodeId>,
    /// It opens by itself when enough of the others answer; otherwise an operator has to give its lost copies up, too.
    pub by_itself: bool,
}

impl State {
    /// The regime that governs this state.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.recoveries.last().map_or(Generation::FIRST, |r| r.generation)
    }

    /// Of a node among all that ever were: the order in which ids are given away never changes.
    #[must_use]
    pub fn rank(&self, node: NodeId) -> Option<u64> {
        let at = self.nodes.keys().position(|n| *n == node)?;
        u64::try_from(at).ok()
    }

    /// The state with which the new regime begins.
    ///
    /// # Errors
    /// A receipt that does not fit this state.
    pub fn recovered(mut self, recovery: Recovery) -> Result<State, String> {
        recovery.check()?;
        if recovery.before != self.generation() || recovery.generation <= self.generation() {
            let (found, expected) = (recovery.before, self.generation());
            return Err(format!("expected a recovery of generation {expected}, found one of {found}"));
        }
        let generation = recovery.generation;
        // Raised unnoticed, if at all: whoever reads this state knows of generations.
        self.version = self.version.max(ClusterVersion::TOLD);
        // One that the lost majority has seen used must not be good for another node.
        self.tokens.clear();
        let floor = if mutated(Mutant::EpochsNotRaised) { 0 } else { generation.floor() };
        self.next_node = self.next_node.max(NodeId(generation.node_floor()));
        self.next_volume = self.next_volume.max(VolumeId(generation.floor()));
        for volume in self.volumes.values_mut() {
            volume.recover(Epoch(floor));
        }
        if self.recoveries.len() >= MAX_RECOVERIES {
            self.recoveries.remove(0);
        }
        self.recoveries.push(recovery);
        self.check()?;
        Ok(self)
    }

    /// What would become of each volume if these nodes were given up.
    #[must_use]
    pub fn prospects(&self, lost: &BTreeSet<NodeId>) -> Vec<Prospect> {
        let of = |(id, v): (&VolumeId, &Volume)| {
            let members = match &v.phase {
                Phase::Open { active, .. } => active.members.iter().map(|m| m.node).collect(),
                Phase::Creating { copies, .. } => copies.keys().copied().collect::<Vec<_>>(),
                Phase::Deleting { .. } => return None,
            };
            let given_up: Vec<NodeId> = members.iter().copied().filter(|n| lost.contains(n)).collect();
            let by_itself = match self.view(*id) {
                // The epoch that it gets, as it would be.
                Some(view) => {
                    VolumeView { recovered: Some(view.active.epoch), ..view }.is_fence(|n| !lost.contains(&n))
                }
                None => given_up.is_empty(),
            };
            let (epoch, name) = (v.max_epoch, v.name.clone());
            Some(Prospect { volume: *id, name, epoch, members, given_up, by_itself })
        };
        self.volumes.iter().filter_map(of).collect()
    }
}

impl Volume {
    /// Whatever was claimed and is not known here was claimed below `floor`.
    fn recover(&mut self, floor: Epoch) {
        self.max_epoch = self.max_epoch.max(floor);
        let primary = match &self.phase {
            Phase::Deleting { .. } => return,
            // It may have opened unnoticed.
            Phase::Creating { .. } => {
                self.recovered.get_or_insert(Epoch::ZERO);
                return;
            }
            Phase::Open { active, nominee, .. } => {
                let first = nominee.map_or(active.members[0].node, |n| n.node);
                active.primary.unwrap_or(first)
            }
        };
        let known = self.recovered;
        self.max_epoch = self.max_epoch.next();
        let epoch = self.max_epoch;
        let Phase::Open { active, pending, nominee, copies } = &mut self.phase else { unreachable!("looked at above") };
        let before = std::mem::replace(&mut active.epoch, epoch);
        active.primary = Some(primary);
        (*pending, *nominee, copies.alone) = (None, None, None);
        // A forced recovery that nobody has opened yet goes on: it asks all that are left already.
        if let Some(receipt) = self.receipts.last_mut().filter(|r| r.epoch == before && !r.opened) {
            (receipt.epoch, receipt.kept, receipt.known.bound) = (epoch, None, None);
        }
        // But it may have been opened unnoticed, too.
        self.recovered = Some(known.unwrap_or(before));
    }

    /// The first configuration of a volume whose copies are all registered only after a recovery.
    pub(crate) fn first_after_recovery(&mut self, members: Configuration, primary: NodeId) -> Phase {
        self.max_epoch = self.max_epoch.next();
        let active = Configuration { epoch: self.max_epoch, primary: Some(primary), ..members };
        let copies = Copies::of(&active);
        Phase::Open { active, pending: None, nominee: None, copies }
    }

    /// What contradicts the rest of it.
    pub(crate) fn check_recovered(&self) -> Result<(), String> {
        match (&self.phase, self.recovered) {
            (Phase::Open { active, .. }, Some(known)) if active.epoch <= known => {
                Err("G3: the epoch after a recovery does not rise".to_owned())
            }
            _ => Ok(()),
        }
    }
}

pub(crate) fn check(recoveries: &[Recovery]) -> Result<(), String> {
    if recoveries.len() > MAX_RECOVERIES || !recoveries.windows(2).all(|w| w[0].generation < w[1].generation) {
        return Err("G1: recoveries of the control plane do not rise".to_owned());
    }
    recoveries.iter().try_for_each(Recovery::check)
}
