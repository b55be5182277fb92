//! S1 at its root: what counts as committed lies on stable storage of W members, by what their disks were seen to hold.

use super::Violation;
use crate::options::VolumePlan;
use holdfast_types::{Epoch, Lsn, NodeId};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
pub(crate) struct Quorums {
    members: Vec<NodeId>,
    write_quorum: usize,
    holders: BTreeMap<(Lsn, Epoch), BTreeSet<NodeId>>,
    wiped: BTreeSet<NodeId>,
    /// Mutants of other properties switch this off, so that theirs must be the one to fire.
    pub(crate) off: bool,
}

impl Quorums {
    pub(crate) fn new(plan: &VolumePlan) -> Quorums {
        Quorums {
            members: plan.members.clone(),
            write_quorum: usize::from(plan.write_quorum),
            holders: BTreeMap::new(),
            wiped: BTreeSet::new(),
            off: false,
        }
    }

    pub(crate) fn durable(&mut self, node: NodeId, lsn: Lsn, epoch: Epoch) {
        if self.members.contains(&node) && !self.wiped.contains(&node) {
            self.holders.entry((lsn, epoch)).or_default().insert(node);
        }
    }

    /// What the node held and is not committed yet counts no more, unless it is reported again.
    pub(crate) fn forgot(&mut self, node: NodeId) {
        for holders in self.holders.values_mut() {
            holders.remove(&node);
        }
    }

    pub(crate) fn wiped(&mut self, node: NodeId) {
        self.wiped.insert(node);
    }

    pub(crate) fn committed(&mut self, lsn: Lsn, epoch: Epoch) -> Result<(), Violation> {
        let holders = self.holders.remove(&(lsn, epoch)).unwrap_or_default();
        if holders.len() >= self.write_quorum || self.off {
            return Ok(());
        }
        let text = format!(
            "record {lsn} of {epoch} counts as committed, but only {holders:?} hold it durably; {} of {:?} must",
            self.write_quorum, self.members
        );
        Err(Violation::new("S1", text))
    }
}
