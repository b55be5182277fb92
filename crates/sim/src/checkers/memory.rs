//! Durability `flush`: what was answered from memories is lost only with as many memories as the volume says.

use super::{Committed, Violation};
use crate::log::Nanos;
use holdfast_types::{Epoch, Lsn, NodeId};
use std::collections::BTreeSet;

/// A change that was answered, and that the world does not know to be committed yet.
#[derive(Clone, Debug)]
struct Volatile {
    change: u64,
    first: u64,
    count: u64,
    at: (Lsn, Epoch),
    invoked: Nanos,
    answered: Nanos,
}

/// What became of an answered change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Committed: from its answer on it counts like any other.
    Committed { change: u64, answered: Nanos },
    /// Gone with the memories that held it, and its place in the log with it.
    Lost { change: u64, at: (Lsn, Epoch) },
}

#[derive(Debug)]
pub(crate) struct Memories {
    members: Vec<NodeId>,
    write_quorum: usize,
    volatile: Vec<Volatile>,
    /// When processes of members ended.
    ends: Vec<(Nanos, NodeId)>,
}

impl Memories {
    pub(crate) fn new(members: &[NodeId], write_quorum: u8) -> Memories {
        let write_quorum = usize::from(write_quorum);
        Memories { members: members.to_vec(), write_quorum, volatile: Vec::new(), ends: Vec::new() }
    }

    pub(crate) fn answered(
        &mut self,
        change: u64,
        sectors: (u64, u64),
        at: (Lsn, Epoch),
        invoked: Nanos,
        answered: Nanos,
    ) {
        let (first, count) = sectors;
        self.volatile.push(Volatile { change, first, count, at, invoked, answered });
    }

    /// A process ended: what it held in memory is gone.
    pub(crate) fn ended(&mut self, node: NodeId, now: Nanos) {
        if self.members.contains(&node) {
            self.ends.push((now, node));
        }
    }

    /// The last record that must be committed by now: of the changes that were answered before `moment` and touch the
    /// sectors.
    pub(crate) fn must_hold(&self, sectors: Option<(u64, u64)>, moment: Nanos) -> Option<(Lsn, Epoch)> {
        let touches =
            |v: &&Volatile| sectors.is_none_or(|(first, count)| v.first < first + count && first < v.first + v.count);
        self.volatile.iter().filter(|v| v.answered < moment).filter(touches).map(|v| v.at).max()
    }

    /// Takes out whose fate is known. `started`: an epoch was activated, so what is not in its log never will be.
    pub(crate) fn settle(&mut self, committed: &Committed, started: Option<Epoch>) -> Result<Vec<Fate>, Violation> {
        let mut fates = Vec::new();
        for v in std::mem::take(&mut self.volatile) {
            if committed.holds(v.change) {
                fates.push(Fate::Committed { change: v.change, answered: v.answered });
            } else if started.is_some_and(|epoch| v.at.1 < epoch) {
                self.may_be_lost(&v)?;
                fates.push(Fate::Lost { change: v.change, at: v.at });
            } else {
                self.volatile.push(v);
            }
        }
        Ok(fates)
    }

    fn may_be_lost(&self, v: &Volatile) -> Result<(), Violation> {
        let lost: BTreeSet<NodeId> =
            self.ends.iter().filter(|(at, _)| *at >= v.invoked).map(|(_, node)| *node).collect();
        if lost.len() >= self.write_quorum {
            return Ok(());
        }
        let text = format!(
            "change {} was answered from {} memories as record {} of {}, only those of {lost:?} were lost since, and it is gone",
            v.change, self.write_quorum, v.at.0, v.at.1
        );
        Err(Violation::new("S1", text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_types::{VolumeId, VolumeSize};

    #[test]
    fn a_loss_is_forgiven_only_with_a_quorum_of_memories() {
        let members = [NodeId(1), NodeId(2), NodeId(3)];
        let committed = Committed::new(VolumeId(1), VolumeSize::new(1 << 20).unwrap());
        let mut memories = Memories::new(&members, 2);
        memories.answered(7, (8, 8), (Lsn(5), Epoch(1)), 100, 200);
        memories.ended(NodeId(1), 50);
        memories.ended(NodeId(2), 150);
        memories.ended(NodeId(9), 160);
        assert_eq!(memories.must_hold(Some((0, 8)), 300), None);
        assert_eq!(memories.must_hold(Some((0, 9)), 200), None);
        assert_eq!(memories.must_hold(Some((0, 9)), 300), Some((Lsn(5), Epoch(1))));
        assert_eq!(memories.settle(&committed, None), Ok(Vec::new()));
        let mut other =
            Memories { volatile: memories.volatile.clone(), ends: memories.ends.clone(), ..Memories::new(&members, 2) };
        assert!(memories.settle(&committed, Some(Epoch(2))).is_err(), "one member's memory was lost since, not two");
        other.ended(NodeId(3), 250);
        assert_eq!(
            other.settle(&committed, Some(Epoch(2))),
            Ok(vec![Fate::Lost { change: 7, at: (Lsn(5), Epoch(1)) }])
        );
    }
}
