//! S1 at its root: what counts as committed lies on stable storage of W members, by what their disks were seen to hold.

use super::Violation;
use holdfast_types::{Configuration, Epoch, Lsn, NodeId};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub(crate) struct Quorums {
    /// Of each epoch that was claimed.
    configurations: BTreeMap<Epoch, Configuration>,
    holders: BTreeMap<(Lsn, Epoch), BTreeSet<NodeId>>,
    wiped: BTreeSet<NodeId>,
    /// Mutants of other properties switch this off, so that theirs must be the one to fire.
    pub(crate) off: bool,
}

impl Quorums {
    /// Who counts in an epoch.
    pub(crate) fn configured(&mut self, configuration: &Configuration) {
        self.configurations.insert(configuration.epoch, configuration.clone());
    }

    pub(crate) fn durable(&mut self, node: NodeId, lsn: Lsn, epoch: Epoch) {
        if !self.wiped.contains(&node) {
            self.holders.entry((lsn, epoch)).or_default().insert(node);
        }
    }

    /// What the node held and is not committed yet counts no more, unless it is reported again.
    pub(crate) fn forgot(&mut self, node: NodeId) {
        for holders in self.holders.values_mut() {
            holders.remove(&node);
        }
    }

    /// What it held until now counts: an acknowledgement of it may have arrived, and the loss is one of those that the quorum is for.
    pub(crate) fn wiped(&mut self, node: NodeId) {
        self.wiped.insert(node);
    }

    /// The copy there is another one now, and counts for what it holds.
    pub(crate) fn renewed(&mut self, node: NodeId) {
        self.wiped.remove(&node);
    }

    /// M2: every added member holds the epoch's start when the epoch becomes active.
    pub(crate) fn holds_start(&self, node: NodeId, start: Lsn, epoch: Epoch) -> Result<(), Violation> {
        if self.off || self.holders.get(&(start, epoch)).is_some_and(|h| h.contains(&node)) {
            return Ok(());
        }
        let text = format!("{epoch} became active, and {node}, which it adds, does not hold its first record {start}");
        Err(Violation::new("S21", text))
    }

    /// A record of `epoch` counts as committed because the primary of `under` says so.
    pub(crate) fn committed(&mut self, lsn: Lsn, epoch: Epoch, under: Epoch) -> Result<(), Violation> {
        let holders = self.holders.remove(&(lsn, epoch)).unwrap_or_default();
        let Some(configuration) = self.configurations.get(&under).filter(|_| !self.off) else { return Ok(()) };
        let counted = holders.iter().filter(|n| configuration.member(**n).is_some()).count();
        if counted >= usize::from(configuration.write_quorum) {
            return Ok(());
        }
        let text = format!(
            "record {lsn} of {epoch} counts as committed, but only {holders:?} hold it durably; {} of {:?} must",
            configuration.write_quorum, configuration.members
        );
        Err(Violation::new("S1", text))
    }
}
