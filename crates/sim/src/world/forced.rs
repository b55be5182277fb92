//! All copies of a volume but one are gone, as far as anybody knows for ever. The operator goes on with the one that is left, by the
//! plan that the admin API would show. Later the others come back with all that they had.
//!
//! What the recovery relies on is kept to: the primary that is given up may live on alone, cut off from everybody, but its process has ended
//! before it or anybody who would follow it hears of the others again (PROTOCOL.md, F2).

use super::admin::Wish;
use super::storm::Cure;
use super::{Event, World};
use crate::checkers::Violation;
use crate::faults::FaultKind;
use crate::log::{MS, SECOND};
use crate::options::index;
use holdfast_cluster::{Command, Loss, Operator, Phase, State, recovery_plan};
use holdfast_types::{Durability, Epoch, Incarnation, Lsn, NodeId, VolumeId};
use std::collections::{BTreeMap, BTreeSet};

/// Members beyond which too few nodes would be left for the control plane.
const MOST: usize = 3;

/// What is gone, and what the operator does about it.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// Nodes that do not come back before the operator has acted.
    pub(super) gone: BTreeSet<NodeId>,
    /// Voters that are lost for ever, as far as anybody knows: see `regime`.
    pub(super) voters: BTreeSet<NodeId>,
    /// One of them that lives, and what cuts it off.
    alive: Option<(NodeId, u64)>,
    /// Whose volume is to be recovered, from which epoch, on which copy.
    order: Option<(VolumeId, Epoch, NodeId)>,
    /// A recovery was ordered: it may be carried out late.
    ordered: bool,
    /// Copies whose images say nothing about the volume any more.
    pub(super) given_up: BTreeMap<NodeId, Incarnation>,
}

impl World {
    /// The fault.
    pub(super) fn lose_majority(&mut self) -> Result<(), Violation> {
        let id = self.options.volumes[0].id;
        let Some(view) = self.checkers.control.view(id).cloned() else { return Ok(()) };
        let members: Vec<NodeId> = view.active.members.iter().map(|m| m.node).collect();
        let fits = (2..=MOST).contains(&members.len()) && view.active.epoch > Epoch::ZERO && view.forced.is_none();
        if !fits || !self.lost.gone.is_empty() || !self.lost.given_up.is_empty() {
            return Ok(());
        }
        let left = members[index(self.rngs.faults.below(members.len() as u64))];
        for member in view.active.members.iter().filter(|m| m.node != left) {
            let node = member.node;
            self.lost.gone.insert(node);
            let lives =
                view.active.primary == Some(node) && self.nodes[&node].alive() && self.rngs.faults.chance(400_000);
            if lives {
                self.cut_off(node);
            } else if self.nodes[&node].alive() {
                self.crash(node)?;
            }
            self.lost.given_up.insert(node, member.incarnation);
        }
        let gone = self.lost.gone.clone();
        self.note("majority", &[left.0], || format!("{gone:?} are gone, {left} is left"));
        self.lost.order = Some((id, view.active.epoch, left));
        self.lost.ordered = false;
        self.at(self.now + 300 * MS, Event::Forced);
        Ok(())
    }

    /// It lives, and nobody hears of it, nor it of anybody.
    fn cut_off(&mut self, node: NodeId) {
        let others: Vec<NodeId> = self.options.nodes.iter().copied().filter(|n| *n != node).collect();
        let pairs: Vec<_> = others.into_iter().flat_map(|n| [(node, n), (n, node)]).collect();
        let (directions, key) = (World::on_both_planes(&pairs), self.seq);
        for (plane, from, to) in &directions {
            self.net(*plane).kill_direction(*from, *to);
            self.check_later(*plane, *from, *to);
        }
        self.partitions.insert(key, directions);
        self.lost.alive = Some((node, key));
        // No other fault uses the same key.
        self.at(self.now, Event::Forced);
    }

    /// The operator looks whether the recovery can be ordered, orders it, and later decides about the copies that came back.
    pub(super) fn forced_turn(&mut self) -> Result<(), Violation> {
        if self.settling.is_some() {
            return Ok(());
        }
        let Some((id, base, left)) = self.lost.order else { return self.decide_about_evidence() };
        let Some(view) = self.checkers.control.view(id) else { return Ok(()) };
        if view.active.epoch > base {
            // Ordered; or the last word of those that are gone was a change of members.
            self.lost.order = None;
            if view.active.members.iter().all(|m| m.node == left) {
                self.fired(FaultKind::MajorityLost);
            }
            let at = self.now + self.span(5 * MS, 6 * SECOND);
            self.at(at, Event::Revenants);
            return Ok(());
        }
        self.at(self.now + 300 * MS, Event::Forced);
        let Some((state, node)) = self.informed() else { return Ok(()) };
        let control = self.nodes[&node].control.as_ref().expect("it was asked");
        let (at, ms) = (self.nodes[&node].clock.reads(self.now), self.now / MS);
        match recovery_plan(&state, control.detector(), (id, None), (at, ms)) {
            Ok(plan) if plan.survivors == [left] && plan.base == base => {
                let by = Operator { uid: Some(0), user: "root".to_owned(), host: node.to_string() };
                self.lost.ordered = true;
                self.propose(Wish::Renew, plan.command(by, ms))
            }
            _ => Ok(()),
        }
    }

    /// A node that answers and knows the cluster, and what it knows.
    fn informed(&mut self) -> Option<(State, NodeId)> {
        let knows = |id: &NodeId| self.nodes[id].control.as_ref().is_some_and(|c| c.state().is_some());
        let able: Vec<NodeId> =
            self.options.nodes.iter().copied().filter(|n| self.nodes[n].responsive() && knows(n)).collect();
        if able.is_empty() {
            return None;
        }
        let node = able[index(self.rngs.faults.below(able.len() as u64))];
        Some((self.nodes[&node].control.as_ref()?.state()?.clone(), node))
    }

    /// Everything that was gone comes back as it was.
    pub(super) fn revenants(&mut self) -> Result<(), Violation> {
        if let Some((node, key)) = self.lost.alive.take() {
            if self.nodes[&node].alive() {
                self.crash(node)?;
            }
            self.cure(Cure::Partition(key))?;
        }
        for node in std::mem::take(&mut self.lost.gone) {
            let at = self.now + self.span(5 * MS, 2 * SECOND);
            self.at(at, Event::Cure(Cure::Restart { node, and_crash: false }));
        }
        self.at(self.now + SECOND, Event::Forced);
        Ok(())
    }

    /// Copies that were looked at are removed, or made anew.
    fn decide_about_evidence(&mut self) -> Result<(), Violation> {
        self.look_at_evidence();
        if self.lost.given_up.is_empty() {
            return Ok(());
        }
        self.at(self.now + 500 * MS, Event::Forced);
        let Some((state, _)) = self.informed() else { return Ok(()) };
        let volume = self.options.volumes[0].id;
        let Some(Phase::Open { copies, .. }) = state.volumes.get(&volume).map(|v| &v.phase) else { return Ok(()) };
        for node in copies.aside.keys().copied().filter(|n| state.was_found(volume, *n)) {
            let command = match self.rngs.faults.below(10) {
                0..3 => Command::AddCopy { volume, node },
                3..5 => Command::RemoveCopy { volume, node },
                _ => continue,
            };
            self.propose(Wish::Renew, command)?;
        }
        Ok(())
    }

    /// Copies that are others by now, or gone.
    pub(super) fn look_at_evidence(&mut self) {
        if self.lost.order.is_some() || self.lost.given_up.is_empty() {
            return;
        }
        let volume = self.options.volumes[0].id;
        let (view, copies) = (self.checkers.control.view(volume), self.checkers.control.copies(volume));
        let (Some(view), Some(copies)) = (view, copies) else { return };
        let (ordered, gone) = (self.lost.ordered, self.lost.gone.clone());
        let kept = |node: &NodeId, incarnation: &Incarnation| match view.holder(*node) {
            Some(holder) => holder.incarnation == *incarnation && (ordered || !gone.is_empty()),
            None => copies.aside.contains_key(node) || copies.dropped.contains(node),
        };
        self.lost.given_up.retain(|node, incarnation| kept(node, incarnation));
    }

    /// The storm is over: whoever is cut off ends before everything heals.
    pub(super) fn end_of_losses(&mut self) -> Result<(), Violation> {
        if let Some((node, _)) = self.lost.alive.take()
            && self.nodes[&node].alive()
        {
            self.crash(node)?;
        }
        self.lost.gone.clear();
        if self.lost.order.take().is_some() {
            // Never ordered, or nobody knows: what comes back may count all the same.
            self.look_at_evidence();
        }
        Ok(())
    }

    /// Why receipts do not say yet what was lost, if they don't.
    pub(super) fn receipts_sickness(&self, volume: VolumeId) -> Option<String> {
        let leader = self.raft_leader().filter(|_| self.options.loses_majority)?;
        let state = self.nodes[&leader].control.as_ref()?.state()?;
        let open = state.volumes.get(&volume)?.receipts.iter().find(|r| !r.is_complete(Durability::Sync))?;
        Some(format!("{volume} has a receipt that is not complete: {open:?}"))
    }

    /// At the end: receipts name exactly what was lost.
    pub(super) fn judge_receipts(&mut self, volume: VolumeId) -> Result<(), Violation> {
        let Some(leader) = self.raft_leader().filter(|_| self.options.loses_majority) else { return Ok(()) };
        let state = self.nodes[&leader].control.as_ref().and_then(|c| c.state());
        let Some(receipts) = state.and_then(|s| s.volumes.get(&volume)).map(|v| v.receipts.clone()) else {
            return Ok(());
        };
        for (epoch, lost) in self.checkers.volume(volume).losses.clone() {
            let Some(receipt) = receipts.iter().find(|r| r.epoch == epoch) else { continue };
            let loss = receipt.loss(Durability::Sync);
            let named = |lsn: &Lsn| match loss {
                Loss::Bounded { from, to } | Loss::Certain { from, to: Some(to), .. } => (from..=to).contains(lsn),
                Loss::Certain { .. } | Loss::Possible { .. } | Loss::Open | Loss::Nothing => false,
            };
            if !lost.iter().all(named) {
                let text =
                    format!("records {lost:?} had been answered and are lost, the receipt of {epoch} says {loss:?}");
                return Err(Violation::new("S19", text));
            }
        }
        Ok(())
    }

    /// Whether a node is not to be started again yet.
    pub(super) fn is_gone(&self, node: NodeId) -> bool {
        self.lost.gone.contains(&node)
            || self.lost.voters.contains(&node)
            || self.nodes[&node].raft_disk.superseded.is_some()
    }
}
