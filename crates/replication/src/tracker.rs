//! The quorum tracker: the only place that makes `Quorum` proofs.

use holdfast_types::{Configuration, Lsn, MAX_MEMBERS, NodeId, Quorum};
use std::collections::BTreeMap;

/// Counts what each member of one configuration holds durably, under the configuration's epoch.
#[derive(Clone, Debug)]
pub(crate) struct Tracker {
    durable: BTreeMap<NodeId, Lsn>,
    write_quorum: usize,
}

impl Tracker {
    pub(crate) fn new(configuration: &Configuration) -> Tracker {
        configuration.validate();
        Tracker {
            durable: configuration.members.iter().map(|m| (m.node, Lsn::ZERO)).collect(),
            write_quorum: usize::from(configuration.write_quorum),
        }
    }

    /// `node` holds everything up to `durable`, acknowledged under the tracker's epoch. Acknowledgements are cumulative
    /// and may arrive late; only a member's count moves.
    pub(crate) fn note(&mut self, node: NodeId, durable: Lsn) {
        if let Some(d) = self.durable.get_mut(&node) {
            *d = durable.max(*d);
        }
    }

    /// What `node` was counted to hold.
    pub(crate) fn durable(&self, node: NodeId) -> Lsn {
        self.durable.get(&node).copied().unwrap_or(Lsn::ZERO)
    }

    /// The W-th greatest durable position: held by a write quorum. No member is special, not even the primary.
    pub(crate) fn quorum(&self) -> Quorum<Lsn> {
        let mut sorted = [Lsn::ZERO; MAX_MEMBERS];
        let count = self.durable.len();
        assert!(self.write_quorum >= 1 && self.write_quorum <= count && count <= MAX_MEMBERS, "W of N: {self:?}");
        for (slot, lsn) in sorted.iter_mut().zip(self.durable.values()) {
            *slot = *lsn;
        }
        let sorted = &mut sorted[..count];
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        Quorum::attest(sorted[self.write_quorum - 1])
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
        t.note(NodeId(2), Lsn(7));
        assert_eq!(t.quorum().get(), Lsn(0), "one copy is no quorum of two");
        t.note(NodeId(3), Lsn(5));
        assert_eq!(t.quorum().get(), Lsn(5), "any two, the primary is not special");
        t.note(NodeId(1), Lsn(6));
        assert_eq!(t.quorum().get(), Lsn(6));
        t.note(NodeId(9), Lsn(99));
        assert_eq!(t.quorum().get(), Lsn(6), "who is no member does not count (S20, S22)");
    }

    #[test]
    fn all_mode_waits_for_the_slowest() {
        let mut t = tracker(3, 3);
        for (n, l) in [(1, 9), (2, 4), (3, 8)] {
            t.note(NodeId(n), Lsn(l));
        }
        assert_eq!(t.quorum().get(), Lsn(4));
    }
}
