//! The end of this node's process, announced: its primaries are handed over one volume at a time, or the others are asked to wait for
//! its next life; a leader of Raft steps down.
//!
//! All of it is courtesy. Whoever ends without it is found silent, and what it led is claimed.

use super::lead::present;
use super::wire::Message;
use super::{Control, Output};
use holdfast_cluster::{Command, CopyState, SpaceLeft, State};
use holdfast_consensus as consensus;
use holdfast_types::{Epoch, NodeId, Time, VolumeId, VolumeView};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Who was nominated in which epoch of a volume. One of whom nothing came is not asked again.
#[derive(Default)]
pub(super) struct Leaving {
    nominated: BTreeMap<VolumeId, (Epoch, BTreeSet<NodeId>)>,
}

impl Control {
    /// Volumes that this node leads and that somebody else may still take.
    #[must_use]
    pub fn to_hand_over(&self, now: Time) -> usize {
        let Some(state) = self.replicated.state() else { return 0 };
        let led = led_by(state, self.config.me);
        led.filter(|view| view.nominee.is_some() || self.successors(view, now).next().is_some()).count()
    }

    /// Volumes that this node leads.
    #[must_use]
    pub fn led(&self) -> usize {
        self.replicated.state().map_or(0, |state| led_by(state, self.config.me).count())
    }

    /// Nominates a successor for everything that this node leads, once it has been told to.
    pub(super) fn hand_over(&mut self, now: Time) {
        let (Some(mut leaving), Some(state)) = (self.leaving.take(), self.replicated.state()) else { return };
        let views: Vec<VolumeView> = led_by(state, self.config.me).collect();
        for view in views {
            let (epoch, nominated) = leaving.nominated.entry(view.volume).or_default();
            if *epoch != view.active.epoch {
                (*epoch, *nominated) = (view.active.epoch, BTreeSet::new());
            }
            if let Some(nominee) = view.nominee {
                nominated.insert(nominee.node);
            } else if let Some(node) = self.best_successor(&view, nominated, now) {
                let (volume, base) = (view.volume, view.active.epoch);
                self.propose(&Command::Nominate { volume, node, base, planned: true }, now);
            }
        }
        self.leaving = Some(leaving);
    }

    /// The successor with the longest log among those that follow.
    fn best_successor(&self, view: &VolumeView, tried: &BTreeSet<NodeId>, now: Time) -> Option<NodeId> {
        let report = |n: NodeId| self.detector.report(n, view.volume);
        let follows = |n: &NodeId| {
            let ready = |r: &holdfast_cluster::CopyReport| r.state == CopyState::InSync && r.space != SpaceLeft::Out;
            report(*n).is_some_and(ready) && !tried.contains(n)
        };
        let log = |n: &NodeId| (report(*n).map(|r| (r.epoch, r.durable)), std::cmp::Reverse(*n));
        self.successors(view, now).filter(follows).max_by_key(log)
    }

    /// Members that live and can lead, or will be able to.
    fn successors(&self, view: &VolumeView, now: Time) -> impl Iterator<Item = NodeId> {
        let lost: Vec<NodeId> = self
            .detector
            .report(self.config.me, view.volume)
            .map_or_else(Vec::new, |r| r.lost.iter().map(|l| l.node).collect());
        let able = move |n: &NodeId| {
            let sound =
                |r: &holdfast_cluster::CopyReport| !matches!(r.state, CopyState::Failed { .. }) && r.hung.is_none();
            let stays = self.detector.alive(*n, now) && self.detector.restarting(*n, now).is_none();
            stays && self.detector.report(*n, view.volume).is_some_and(sound)
        };
        let others = view.active.members.iter().map(|m| m.node).filter(|n| *n != self.config.me);
        let leaving = view.leaving.clone();
        others.filter(able).filter(move |n| !lost.contains(n) && !leaving.contains(n)).collect::<Vec<_>>().into_iter()
    }

    /// Tells everybody that this life ends and another one follows.
    pub(super) fn say_restarts(&mut self, within: Duration, now: Time, out: &mut Vec<Output>) {
        let (me, life) = (self.config.me, self.config.life);
        let ms = u32::try_from(within.as_millis()).unwrap_or(u32::MAX);
        assert!(ms > 0, "nobody waits for no time");
        self.detector.restarts(me, life.0, within, now);
        let Some(state) = self.replicated.state() else { return };
        let bytes = Message::Restarts(life, ms).encode();
        let peers = present(state).map(|(id, _)| id).filter(|id| *id != me);
        out.extend(peers.map(|to| Output::Send { to, bytes: bytes.clone() }));
    }

    /// A leader lets the voter that is furthest lead.
    pub(super) fn step_down(&mut self, now: Time, out: &mut Vec<Output>) {
        let status = self.raft.status();
        if !status.is_leader {
            return;
        }
        // Raft's own word on who is active is forgotten once in an election timeout.
        let lives = |n: NodeId| self.detector.alive(n, now) && status.voters.contains(&n);
        let voters = status.progress.iter().filter(|p| lives(p.node));
        if let Some(next) = voters.max_by_key(|p| p.matched) {
            self.raft(consensus::Input::TransferLeadership(next.node), now, out);
        }
    }
}

fn led_by(state: &State, me: NodeId) -> impl Iterator<Item = VolumeView> {
    let views = state.volumes.keys().filter_map(|id| state.view(*id));
    views.filter(move |view| view.active.primary == Some(me))
}
