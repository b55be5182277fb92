//! S11 and S14: epochs rise, each has one primary in one life of its process, and one of them answers at any LSN.

use super::Violation;
use holdfast_format::message::Message;
use holdfast_types::{Epoch, Life, Lsn, NodeId};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(crate) struct Epochs {
    active: Epoch,
    primaries: BTreeMap<Epoch, NodeId>,
    writers: BTreeMap<Epoch, (NodeId, Life)>,
    /// The highest epoch under which each node has answered anybody: a promise that left the node.
    promised: BTreeMap<NodeId, Epoch>,
    answered: BTreeMap<Lsn, (Epoch, NodeId)>,
}

impl Epochs {
    pub(crate) fn was_activated(&self, epoch: Epoch) -> bool {
        self.primaries.contains_key(&epoch)
    }

    pub(crate) fn activated(&mut self, epoch: Epoch, node: NodeId) -> Result<(), Violation> {
        if epoch <= self.active {
            return Err(Violation::new("S14", format!("{epoch} became active after {}", self.active)));
        }
        self.active = epoch;
        self.primaries.insert(epoch, node);
        Ok(())
    }

    pub(crate) fn sent(&mut self, node: NodeId, life: Life, message: &Message) -> Result<(), Violation> {
        match message {
            Message::Append { epoch, .. } | Message::Adopt { epoch, .. } => self.leads(node, life, *epoch),
            Message::Tail { epoch, .. } | Message::AppendAck { epoch, .. } => self.promises(node, *epoch),
            _ => Ok(()),
        }
    }

    /// N0: one writer per epoch, and it is one life of one process.
    fn leads(&mut self, node: NodeId, life: Life, epoch: Epoch) -> Result<(), Violation> {
        let writer = *self.writers.entry(epoch).or_insert((node, life));
        if writer != (node, life) {
            let text =
                format!("{epoch} is written by {node} in life {} and by {} in life {}", life.0, writer.0, writer.1.0);
            return Err(Violation::new("S14", text));
        }
        Ok(())
    }

    fn promises(&mut self, node: NodeId, epoch: Epoch) -> Result<(), Violation> {
        let highest = self.promised.entry(node).or_default();
        if epoch < *highest {
            return Err(Violation::new("S14", format!("{node} answers under {epoch} after it had promised {highest}")));
        }
        *highest = epoch;
        Ok(())
    }

    /// A change was answered at a position.
    pub(crate) fn answered(&mut self, lsn: Lsn, record: Epoch, node: NodeId, epoch: Epoch) -> Result<(), Violation> {
        let first = *self.answered.entry(lsn).or_insert((epoch, node));
        let primary = self.primaries.get(&epoch).copied();
        if first != (epoch, node) || record != epoch || primary != Some(node) {
            let text = format!(
                "record {lsn} of {record} was answered by {node} in {epoch}; the first to answer there was {} in {}, the primary of \
                 {epoch} is {primary:?}",
                first.1, first.0
            );
            return Err(Violation::new("S11", text));
        }
        Ok(())
    }
}
