//! The quorum tracker: the only place that makes `Quorum` and `Answerable` proofs.

use holdfast_types::{Answerable, Configuration, Durability, Lsn, MAX_MEMBERS, Mutant, NodeId, Quorum, mutated};
use std::collections::BTreeMap;

/// What one member holds, under the configuration's epoch.
#[derive(Clone, Copy, Debug, Default)]
struct Holds {
    /// On stable storage.
    durable: Lsn,
    /// In memory at least; of the member's current life.
    received: Lsn,
}

/// Counts what each member of one configuration holds, under the configuration's epoch.
#[derive(Clone, Debug)]
pub(crate) struct Tracker {
    holds: BTreeMap<NodeId, Holds>,
    write_quorum: usize,
    /// The one member that counts, where the primary alone acknowledges.
    alone: Option<NodeId>,
}

impl Tracker {
    pub(crate) fn new(configuration: &Configuration) -> Tracker {
        configuration.validate();
        Tracker {
            holds: configuration.members.iter().map(|m| (m.node, Holds::default())).collect(),
            write_quorum: usize::from(configuration.write_quorum),
            alone: configuration.primary.filter(|_| configuration.primary_decides()),
        }
    }

    /// `node` holds everything up to `received`, and up to `durable` on stable storage, acknowledged under the tracker's
    /// epoch. Acknowledgements are cumulative and may arrive late; only a member's count moves.
    pub(crate) fn note(&mut self, node: NodeId, received: Lsn, durable: Lsn) {
        if mutated(Mutant::LearnerCounts) && self.holds.len() < MAX_MEMBERS {
            self.holds.entry(node).or_default();
        }
        if let Some(h) = self.holds.get_mut(&node) {
            h.durable = durable.max(h.durable);
            h.received = received.max(durable).max(h.received);
        }
    }

    /// A mistake: one copy is enough.
    pub(crate) fn needs_one(&mut self) {
        self.write_quorum = 1;
    }

    /// Contact with `node` was lost: its process may have ended, and its memory with it.
    pub(crate) fn lost_contact(&mut self, node: NodeId) {
        if let Some(h) = self.holds.get_mut(&node) {
            h.received = h.durable;
        }
    }

    /// The W-th greatest durable position: on stable storage of a write quorum. No member is special, not even the
    /// primary, unless it alone is the write quorum.
    pub(crate) fn quorum(&self) -> Quorum<Lsn> {
        Quorum::attest(self.held_by_quorum(|h| h.durable))
    }

    /// Up to where writes may be answered.
    pub(crate) fn answerable(&self, durability: Durability) -> Answerable<Lsn> {
        Answerable::attest(match durability {
            Durability::Sync | Durability::Async => self.held_by_quorum(|h| h.durable),
            Durability::Flush => self.held_by_quorum(|h| h.received),
        })
    }

    fn held_by_quorum(&self, position: impl Fn(&Holds) -> Lsn) -> Lsn {
        if let Some(primary) = self.alone {
            return position(&self.holds[&primary]);
        }
        let mut sorted = [Lsn::ZERO; MAX_MEMBERS];
        let count = self.holds.len();
        assert!(self.write_quorum >= 1 && self.write_quorum <= count && count <= MAX_MEMBERS, "W of N: {self:?}");
        for (slot, holds) in sorted.iter_mut().zip(self.holds.values()) {
            *slot = position(holds);
        }
        let sorted = &mut sorted[..count];
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        let fewer = usize::from(mutated(Mutant::WriteQuorumTooSmall) && self.write_quorum > 1);
        sorted[self.write_quorum - 1 - fewer]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_types::{Epoch, Incarnation, Member};

    fn tracker(n: u64, w: u8) -> Tracker {
        let members = (1..=n).map(|i| Member { node: NodeId(i), incarnation: Incarnation(i) }).collect();
        Tracker::new(&Configuration { epoch: Epoch(1), primary: Some(NodeId(1)), members, write_quorum: w })
    }

    #[test]
    fn the_wth_greatest_counts() {
        let mut t = tracker(3, 2);
        assert_eq!(t.quorum().get(), Lsn(0));
        t.note(NodeId(2), Lsn(9), Lsn(7));
        assert_eq!(t.quorum().get(), Lsn(0), "one copy is no quorum of two");
        t.note(NodeId(3), Lsn(5), Lsn(5));
        assert_eq!(t.quorum().get(), Lsn(5), "any two, the primary is not special");
        t.note(NodeId(1), Lsn(6), Lsn(6));
        assert_eq!(t.quorum().get(), Lsn(6));
        t.note(NodeId(9), Lsn(99), Lsn(99));
        assert_eq!(t.quorum().get(), Lsn(6), "who is no member does not count (S20, S22)");
    }

    #[test]
    fn all_mode_waits_for_the_slowest() {
        let mut t = tracker(3, 3);
        for (n, l) in [(1, 9), (2, 4), (3, 8)] {
            t.note(NodeId(n), Lsn(l), Lsn(l));
        }
        assert_eq!(t.quorum().get(), Lsn(4));
    }

    #[test]
    fn memory_counts_for_answers_in_flush_mode_until_contact_is_lost() {
        let mut t = tracker(3, 2);
        t.note(NodeId(1), Lsn(9), Lsn(3));
        t.note(NodeId(2), Lsn(8), Lsn(5));
        assert_eq!(t.answerable(Durability::Flush).get(), Lsn(8));
        assert_eq!(t.answerable(Durability::Sync).get(), Lsn(3));
        assert_eq!(t.quorum().get(), Lsn(3));
        t.lost_contact(NodeId(2));
        assert_eq!(t.answerable(Durability::Flush).get(), Lsn(5), "its memory may be gone, its disk is not");
    }

    #[test]
    fn a_primary_that_decides_alone_counts_alone() {
        let mut t = tracker(3, 1);
        t.note(NodeId(2), Lsn(8), Lsn(8));
        t.note(NodeId(3), Lsn(8), Lsn(8));
        assert_eq!(t.quorum().get(), Lsn(0), "the others' copies are no quorum");
        t.note(NodeId(1), Lsn(9), Lsn(4));
        assert_eq!(t.answerable(Durability::Async).get(), Lsn(4));
    }
}
