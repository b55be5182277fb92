//! S11 and S14: epochs rise, each has one primary in one life of its process, and one of them answers at any LSN.

use super::Violation;
use holdfast_format::message::Message;
use holdfast_types::{Epoch, Life, Lsn, NodeId};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(crate) struct Epochs {
    active: Epoch,
    primaries: BTreeMap<Epoch, NodeId>,
    /// Under the same primary: which epoch goes on in which.
    continued: BTreeMap<Epoch, Epoch>,
    writers: BTreeMap<Epoch, (NodeId, Life)>,
    /// The highest epoch under which each node has answered anybody: a promise that left the node.
    promised: BTreeMap<NodeId, Epoch>,
    answered: BTreeMap<Lsn, (Epoch, NodeId)>,
    /// Epochs below were given up by an operator.
    given_up: Epoch,
}

impl Epochs {
    pub(crate) fn was_activated(&self, epoch: Epoch) -> bool {
        self.primaries.contains_key(&epoch)
    }

    /// The epoch in which the reign of `epoch` goes on with other members.
    pub(crate) fn continued_by(&self, epoch: Epoch) -> Option<Epoch> {
        self.continued.get(&epoch).copied()
    }

    /// The same primary goes on.
    pub(crate) fn continued(&mut self, next: Epoch) {
        self.continued.insert(self.active, next);
    }

    /// The active epoch, if `node` leads it.
    pub(crate) fn led_by(&self, node: NodeId) -> Option<Epoch> {
        (self.primaries.get(&self.active) == Some(&node)).then_some(self.active)
    }

    fn reaches(&self, from: Epoch, to: Epoch) -> bool {
        let steps = std::iter::successors(Some(from), |e| self.continued_by(*e));
        steps.take_while(|e| *e <= to).any(|e| e == to)
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

    /// An operator gave up every epoch below `epoch`, and with them what stood above `to`.
    pub(crate) fn give_up(&mut self, epoch: Epoch, to: Lsn) {
        self.given_up = epoch;
        self.answered.retain(|lsn, _| *lsn <= to);
    }

    /// The record was answered from memories that are lost: another one may be answered in its place.
    pub(crate) fn lost(&mut self, (lsn, record): (Lsn, Epoch)) {
        if self.answered.get(&lsn).is_some_and(|(of, _)| *of == record) {
            self.answered.remove(&lsn);
        }
    }

    pub(crate) fn is_given_up(&self, epoch: Epoch) -> bool {
        epoch < self.given_up
    }

    /// A change was answered at a position, in a session that began in `epoch`.
    pub(crate) fn answered(&mut self, lsn: Lsn, record: Epoch, node: NodeId, epoch: Epoch) -> Result<(), Violation> {
        if self.is_given_up(epoch) {
            let text = format!("record {lsn} of {record} was answered by {node} in {epoch}, which had been given up");
            return Err(Violation::new("S11", text));
        }
        let first = *self.answered.entry(lsn).or_insert((record, node));
        let primary = self.primaries.get(&record).copied();
        if first != (record, node) || !self.reaches(epoch, record) || primary != Some(node) {
            let text = format!(
                "record {lsn} of {record} was answered by {node} in {epoch}; the first to answer there was {} in {}, the primary of \
                 {record} is {primary:?}",
                first.1, first.0
            );
            return Err(Violation::new("S11", text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_the_log_is_answered_once_unless_the_memories_that_held_it_are_lost() {
        let mut epochs = Epochs::default();
        let (n1, n2) = (NodeId(1), NodeId(2));
        epochs.activated(Epoch(1), n1).unwrap();
        epochs.answered(Lsn(5), Epoch(1), n1, Epoch(1)).unwrap();
        epochs.activated(Epoch(2), n2).unwrap();
        let again = |epochs: &mut Epochs| epochs.answered(Lsn(5), Epoch(2), n2, Epoch(2));
        assert_eq!(again(&mut epochs).unwrap_err().property, "S11");
        epochs.lost((Lsn(5), Epoch(2)));
        assert_eq!(again(&mut epochs).unwrap_err().property, "S11", "another record was lost");
        epochs.lost((Lsn(5), Epoch(1)));
        again(&mut epochs).unwrap();
    }
}
