//! The operator changes who holds copies, and replaces disks that were wiped.

use super::admin::Wish;
use super::storm::Cure;
use super::{Event, World};
use crate::checkers::Violation;
use crate::faults::FaultKind;
use crate::log::{MS, SECOND};
use crate::options::index;
use holdfast_cluster::{Command, Degraded};
use holdfast_types::{NodeId, VolumeId};

/// Copies that the operator wants at most, and at least.
const MOST: usize = 5;
const LEAST: usize = 2;

impl World {
    pub(super) fn change_members(&mut self, kind: FaultKind, node: NodeId) -> Result<(), Violation> {
        if kind == FaultKind::DiskReplaced {
            return self.replace_disk(node);
        }
        let volume = self.options.volumes[index(self.rngs.faults.below(self.options.volumes.len() as u64))].id;
        let Some(copies) = self.checkers.control.copies(volume) else { return Ok(()) };
        let wanted: Vec<NodeId> = copies.wanted.iter().copied().collect();
        let free: Vec<NodeId> = self.options.nodes.iter().copied().filter(|n| !wanted.contains(n)).collect();
        let rng = &mut self.rngs.faults;
        let old = wanted[index(rng.below(wanted.len() as u64))];
        let new = (!free.is_empty()).then(|| free[index(rng.below(free.len() as u64))]);
        // What was begun is taken back, also if one copy is left then, where that is borne.
        let allows = self.options.volumes.iter().any(|v| v.id == volume && v.degraded == Some(Degraded::Allow));
        let learns = |n: NodeId| allows && copies.learners.contains_key(&n);
        let command = match (kind, new) {
            (FaultKind::CopyAdd, Some(node)) if wanted.len() < MOST => Command::AddCopy { volume, node },
            (FaultKind::CopyRemove, _) if wanted.len() > LEAST || learns(old) => {
                Command::RemoveCopy { volume, node: old }
            }
            (FaultKind::CopyReplace, Some(new)) if rng.chance(700_000) => Command::ReplaceCopy { volume, old, new },
            // Two copies that are both made anew would be one too few meanwhile.
            (FaultKind::CopyReplace, _) if wanted.len() > LEAST => Command::ReplaceCopy { volume, old, new: old },
            _ => return Ok(()),
        };
        self.propose(Wish::Members(kind), command)
    }

    /// A disk is wiped where every volume bears it, and nothing else is about to change there.
    fn replace_disk(&mut self, node: NodeId) -> Result<(), Violation> {
        let bears = |v: VolumeId| {
            let view = self.checkers.control.view(v)?;
            let copies = self.checkers.control.copies(v)?;
            let settled = view.active.members.len() == copies.wanted.len() && copies.learners.is_empty();
            let (n, w) = (view.active.members.len(), usize::from(view.active.write_quorum));
            let concerned = view.holder(node).is_some() || copies.wanted.contains(&node);
            Some(!concerned || (settled && copies.renew.is_empty() && view.pending.is_none() && n > w && w > 1))
        };
        let all = self.options.volumes.iter().all(|v| bears(v.id) == Some(true));
        if !all || !self.lost_copies.is_empty() || self.nodes.values().any(|n| n.wiped) || !self.nodes[&node].alive() {
            return Ok(());
        }
        self.fired(FaultKind::DiskReplaced);
        self.crash(node)?;
        for plan in self.options.volumes.clone() {
            let view = self.checkers.control.view(plan.id).expect("it bears the loss");
            if let Some(lost) = view.holder(node) {
                self.lost_copies.insert((node, plan.id), lost.incarnation);
            }
        }
        self.wipe(node);
        for plan in self.options.volumes.clone() {
            if !self.lost_copies.contains_key(&(node, plan.id)) {
                self.checkers.renewed(node, plan.id);
            }
        }
        self.node(node).wiped = !self.lost_copies.is_empty();
        let at = self.now + self.span(5 * MS, 5 * SECOND);
        self.at(at, Event::Cure(Cure::Restart { node, and_crash: false }));
        self.at(at + 100 * MS, Event::Members);
        Ok(())
    }

    /// The operator asks until the control plane knows that lost copies are to be made anew.
    pub(super) fn members_turn(&mut self) -> Result<(), Violation> {
        self.look_at_members();
        if self.lost_copies.is_empty() {
            return Ok(());
        }
        self.at(self.now + 500 * MS, Event::Members);
        for ((node, volume), _) in self.lost_copies.clone() {
            let Some(copies) = self.checkers.control.copies(volume).cloned() else { continue };
            if copies.renew.contains(&node) || copies.dropped.contains(&node) || !copies.wanted.contains(&node) {
                continue;
            }
            // A good copy that was to be made anew is needed now; only an operator can know that.
            let good = |other: &&NodeId| !self.lost_copies.contains_key(&(**other, volume));
            let withdrawn: Vec<NodeId> = copies.renew.iter().filter(good).copied().collect();
            for other in withdrawn {
                self.propose(Wish::Renew, Command::AddCopy { volume, node: other })?;
            }
            self.propose(Wish::Renew, Command::ReplaceCopy { volume, old: node, new: node })?;
        }
        Ok(())
    }

    /// Copies that were lost and are others by now, or none.
    pub(super) fn look_at_members(&mut self) {
        let lost = std::mem::take(&mut self.lost_copies);
        let nodes: Vec<NodeId> = lost.keys().map(|(node, _)| *node).collect();
        for ((node, volume), incarnation) in lost {
            let holder = self.checkers.control.view(volume).and_then(|v| v.holder(node));
            // Until its node has said that the old one is gone, that node may not know yet that it counts no more.
            let dropped = self.checkers.control.copies(volume).is_some_and(|c| c.dropped.contains(&node));
            if holder.map_or(dropped, |m| m.incarnation == incarnation) {
                self.lost_copies.insert((node, volume), incarnation);
            } else {
                self.checkers.renewed(node, volume);
            }
        }
        for node in nodes {
            if self.lost_copies.keys().all(|(n, _)| *n != node) && self.nodes[&node].wiped {
                self.node(node).wiped = false;
                self.atlas.healed(node);
                let volumes: Vec<VolumeId> = self.options.volumes.iter().map(|v| v.id).collect();
                volumes.into_iter().for_each(|v| self.checkers.renewed(node, v));
            }
        }
    }

    /// Why the copies are not the wanted ones, if they are not.
    pub(super) fn members_sickness(&self, volume: VolumeId) -> Option<String> {
        if !self.options.changes_members {
            return None;
        }
        let (copies, view) = (self.checkers.control.copies(volume)?, self.checkers.control.view(volume)?);
        let settled = view.active.members.len() == copies.wanted.len()
            && copies.learners.is_empty()
            && copies.renew.is_empty()
            && copies.dropped.is_empty()
            && copies.successors.is_empty()
            && self.lost_copies.is_empty();
        (!settled).then(|| format!("{volume} is to have {copies:?}, {:?} are lost", self.lost_copies))
    }
}
