//! A majority of the voters is lost for ever, and the operator goes on with one that is left (PROTOCOL.md, G1 to G5). Later the others come back
//! all the same, at any moment, also before everybody has heard of the new regime: each is told, ends, and rejoins when the operator says so.
//!
//! No copy is given up: what only the lost nodes hold is waited for, so nothing that was acknowledged may be lost, ever. What the lost
//! majority alone had agreed on is gone; if it was who counts, a volume waits for an operator for good.

use super::storm::Cure;
use super::{Event, World};
use crate::checkers::Violation;
use crate::faults::FaultKind;
use crate::log::{MS, SECOND};
use crate::options::index;
use holdfast_cluster::{Operator, Recovery};
use holdfast_consensus::Stored;
use holdfast_node::control::{RecoveryOrder, Remains};
use holdfast_types::{Generation, NodeId, Speaks, VolumeId};
use std::collections::BTreeSet;

/// A step of the operator.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// One of the voters that are left goes on alone.
    Recover,
    /// One that was lost is found.
    Return(NodeId),
    /// One that was given up takes part again.
    Rejoin(NodeId),
}

impl World {
    /// The fault: so many voters are gone that the others can agree on nothing.
    pub(super) fn lose_voters(&mut self) -> Result<(), Violation> {
        let away = self.nodes.values().any(|n| n.raft_disk.superseded.is_some());
        let Some(leader) = self.raft_leader().filter(|_| self.lost.voters.is_empty() && !away) else { return Ok(()) };
        let mut voters = self.nodes[&leader].control.as_ref().expect("it leads").raft_status().voters;
        if voters.len() < 3 {
            return Ok(());
        }
        let least = voters.len() - voters.len() / 2;
        let lost = least + index(self.rngs.faults.below((voters.len() - least) as u64));
        for _ in 0..lost {
            let node = voters.remove(index(self.rngs.faults.below(voters.len() as u64)));
            if self.nodes[&node].alive() {
                self.crash(node)?;
            }
            self.lost.voters.insert(node);
        }
        let gone = self.lost.voters.clone();
        self.note("voters", &[lost as u64], || format!("the voters {gone:?} are gone, {voters:?} are left"));
        let at = self.now + self.span(50 * MS, 3 * SECOND);
        self.at(at, Event::Regime(Act::Recover));
        Ok(())
    }

    pub(super) fn act(&mut self, act: Act) -> Result<(), Violation> {
        match act {
            Act::Recover => self.recover_control(),
            Act::Return(node) => {
                self.lost.voters.remove(&node);
                self.cure(Cure::Restart { node, and_crash: false })
            }
            Act::Rejoin(node) => self.rejoin(node),
        }
    }

    /// On the one of those that are left whose log is longest.
    fn recover_control(&mut self) -> Result<(), Violation> {
        if self.settling.is_some() || self.lost.voters.is_empty() {
            return Ok(());
        }
        let ends =
            |id: &NodeId| self.remains(*id).map(|r| (r.log().voters.contains(id), r.log().term, r.log().index, *id));
        let left = self.options.nodes.iter().filter(|n| !self.is_gone(**n));
        let best = left.filter_map(ends).filter(|end| end.0).max();
        let recovered = match best {
            Some((.., id)) => self.recover_on(id)?,
            None => None,
        };
        // They come back in any case; if nothing was recovered, to go on as before.
        for node in self.lost.voters.clone() {
            let at = self.now + self.span(5 * MS, 8 * SECOND);
            self.at(at, Event::Regime(Act::Return(node)));
        }
        if let Some(generation) = recovered {
            self.fired(FaultKind::VotersLost);
            self.checkers.control.recovered(generation);
        }
        Ok(())
    }

    fn recover_on(&mut self, id: NodeId) -> Result<Option<Generation>, Violation> {
        if self.nodes[&id].alive() {
            self.crash(id)?;
        }
        let at = self.now + self.span(5 * MS, SECOND);
        self.at(at, Event::Cure(Cure::Restart { node: id, and_crash: false }));
        let remains = self.remains(id).expect("it had something to recover");
        let given_up: BTreeSet<NodeId> =
            self.lost.voters.iter().copied().filter(|n| remains.log().voters.contains(n)).collect();
        let by = Operator { uid: Some(0), user: "root".to_owned(), host: id.to_string() };
        let met = self.nodes[&id].raft_disk.recovery().map_or(Generation::FIRST, |r| r.generation);
        let order = RecoveryOrder { node: id, given_up: &given_up, met, by, at_ms: self.now / MS };
        // Who votes may have changed unnoticed: then others can still agree, and nothing is forced.
        let Ok(recovery) = remains.order(order) else { return Ok(None) };
        let generation = recovery.generation;
        self.note("recover", &[id.0, generation.0], || format!("{id} goes on alone as generation {generation}"));
        let stored = remains.recovered(recovery.clone()).map_err(|why| Violation::new("recovery", why))?;
        self.node(id).raft_disk.go_over(recovery, stored);
        Ok(Some(generation))
    }

    fn remains(&self, id: NodeId) -> Option<Remains> {
        let stored = self.nodes[&id].raft_disk.stored();
        Remains::of(&stored, self.options.control.cluster(), Speaks::THIS).expect("what was stored can be read")
    }

    /// A node is told that it was given up.
    pub(super) fn is_superseded(&mut self, id: NodeId, recovery: Recovery) {
        self.note("superseded", &[id.0, recovery.generation.0], || format!("{id} was given up"));
        self.fired(FaultKind::GivenUpReturned);
        self.node(id).raft_disk.superseded = Some(recovery);
    }

    /// Its process has ended with that.
    pub(super) fn end_superseded(&mut self, id: NodeId) -> Result<(), Violation> {
        if self.nodes[&id].raft_disk.superseded.is_none() || !self.nodes[&id].alive() {
            return Ok(());
        }
        self.crash(id)?;
        let at = self.now + self.span(10 * MS, 2 * SECOND);
        self.at(at, Event::Regime(Act::Rejoin(id)));
        Ok(())
    }

    fn rejoin(&mut self, id: NodeId) -> Result<(), Violation> {
        let Some(recovery) = self.node(id).raft_disk.superseded.take() else { return Ok(()) };
        self.node(id).raft_disk.go_over(recovery, Stored::default());
        self.cure(Cure::Restart { node: id, and_crash: false })
    }

    /// The storm is over: whoever is away comes back.
    pub(super) fn end_of_lost_voters(&mut self) {
        self.lost.voters.clear();
    }

    /// A copy holds records of a reign that the recovered control plane does not know: the volume waits for an operator.
    pub(super) fn is_sealed(&self, volume: VolumeId) -> bool {
        let Some(view) = self.checkers.control.view(volume).filter(|v| v.recovered.is_some()) else { return false };
        let waits = |n: &NodeId| {
            let rows = self.nodes[n].shard.as_ref().map(|s| s.rows()).unwrap_or_default();
            let row = rows.into_iter().find(|r| r.volume == volume);
            row.and_then(|r| r.status?.waiting).is_some_and(|why| why.contains("knows nothing since it was recovered"))
        };
        view.active.members.iter().any(|m| waits(&m.node))
    }
}
