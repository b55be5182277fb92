//! The operator takes nodes out of service and puts them back; one may leave for ever.

use super::World;
use super::admin::Wish;
use crate::checkers::Violation;
use crate::faults::FaultKind;
use crate::options::index;
use holdfast_cluster::{Command, Duty};
use holdfast_types::{NodeId, VolumeId};

/// Nodes that a cluster keeps.
const LEAST: usize = 3;

impl World {
    pub(super) fn change_nodes(&mut self, kind: FaultKind, node: NodeId) -> Result<(), Violation> {
        // What the seed planned is possible only on nodes in service.
        if self.admin.unfinished().is_some() {
            return Ok(());
        }
        let duties = self.checkers.control.duties();
        let out: Vec<NodeId> = duties.iter().filter(|(_, d)| **d != Duty::InService).map(|(n, _)| *n).collect();
        let (node, wanted) = match kind {
            FaultKind::NodeDrain if out.len() + LEAST <= duties.len() + 1 => (node, Duty::Drained),
            FaultKind::NodeUndrain if !out.is_empty() => {
                (out[index(self.rngs.faults.below(out.len() as u64))], Duty::InService)
            }
            FaultKind::NodeRemove => match out.into_iter().find(|n| self.may_remove(*n)) {
                Some(node) => (node, Duty::Removed),
                None => return Ok(()),
            },
            _ => return Ok(()),
        };
        self.propose(Wish::Nodes(kind), Command::WantNode { node, wanted })
    }

    /// One node at most leaves: no founder, and none whose copies are still to be accounted for.
    fn may_remove(&self, node: NodeId) -> bool {
        let holds = |v: VolumeId| {
            let copies = self.checkers.control.copies(v);
            let member = self.checkers.control.view(v).is_some_and(|v| v.active.member(node).is_some());
            member || copies.is_none_or(|c| c.wanted.contains(&node))
        };
        self.options.nodes.len() > LEAST
            && self.options.nodes.len() == self.nodes.len()
            && node != self.options.control.named[0]
            && !self.nodes[&node].wiped
            && self.lost_copies.keys().all(|(n, _)| *n != node)
            && !self.options.volumes.iter().any(|v| holds(v.id))
    }

    /// Its peers refuse a node from the moment that they know of its removal. Here that is one moment for all.
    pub(super) fn retire_removed(&mut self) -> Result<(), Violation> {
        let removed: Vec<NodeId> =
            self.options.nodes.iter().copied().filter(|n| self.checkers.control.is_removed(*n)).collect();
        for node in removed {
            self.fired(FaultKind::NodeRemove);
            self.note("retire", &[node.0], || format!("{node} was removed"));
            if self.nodes[&node].alive() {
                self.crash(node)?;
            }
            self.options.nodes.retain(|n| *n != node);
        }
        Ok(())
    }

    /// Why a node that is to be drained is not, though it could be.
    pub(super) fn drain_sickness(&self, volume: VolumeId) -> Option<String> {
        let (copies, view) = (self.checkers.control.copies(volume)?, self.checkers.control.view(volume)?);
        let duties = self.checkers.control.duties();
        let witness = self.options.control.witness;
        let serves = |n: &NodeId| duties.get(n) == Some(&Duty::InService) && Some(*n) != witness;
        let holds = |n: &NodeId| {
            copies.wanted.contains(n)
                || copies.dropped.contains(n)
                || copies.aside.contains_key(n)
                || view.holder(*n).is_some()
        };
        let spare = self.options.nodes.iter().find(|n| serves(n) && !holds(n));
        let left = copies.wanted.iter().find(|n| !serves(n));
        if let (Some(left), Some(spare)) = (left, spare) {
            return Some(format!(
                "the copy of {volume} on {left}, which is to be drained, could go to {spare}: {copies:?}"
            ));
        }
        let primary = view.active.primary.filter(|p| !serves(p))?;
        let other = view.active.members.iter().find(|m| serves(&m.node) && !self.nodes[&m.node].wiped)?;
        Some(format!("{primary}, which is to be drained, leads {volume}, and {} could", other.node))
    }
}
