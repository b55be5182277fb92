//! This node's copies: what the shard said of them, what the state wants of them, and what still has to be proposed.

use super::Output;
use super::events::{Event, EventKind};
use crate::local::{Aside, Grant, LocalView};
use holdfast_cluster::{Command, CopyReport, CopyState, FoundCopy, Phase, State, Volume};
use holdfast_types::{Incarnation, NodeId, Time, VolumeId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long to wait before proposing again what the state still does not show.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Copies {
    /// The shard's latest word.
    pub(super) reports: Vec<CopyReport>,
    /// Copies that the shard has.
    created: BTreeMap<VolumeId, Incarnation>,
    /// Copies that the shard removed, until the state knows.
    deleted: BTreeSet<VolumeId>,
    /// When something was last proposed for a volume.
    proposed: BTreeMap<VolumeId, Time>,
    /// Refused for good: another on-disk state counts (S20). Said once.
    refused: BTreeSet<VolumeId>,
}

impl Copies {
    pub(super) fn created(&mut self, volume: VolumeId, incarnation: Incarnation) {
        let before = self.created.insert(volume, incarnation);
        if before != Some(incarnation) {
            self.refused.remove(&volume);
            self.proposed.remove(&volume);
        }
        self.deleted.remove(&volume);
    }

    pub(super) fn deleted(&mut self, volume: VolumeId) {
        self.created.remove(&volume);
        self.refused.remove(&volume);
        self.proposed.remove(&volume);
        self.deleted.insert(volume);
    }

    /// What is to be proposed now.
    pub(super) fn due(&mut self, local: &LocalView, me: NodeId, now: Time) -> Vec<Command> {
        self.deleted.retain(|volume| local.delete.contains(volume));
        let mut commands = Vec::new();
        for (volume, _) in &local.create {
            if let Some(incarnation) = self.created.get(volume)
                && due(&mut self.proposed, *volume, now)
            {
                commands.push(Command::RegisterCopy { volume: *volume, node: me, incarnation: *incarnation });
            }
        }
        for report in &self.reports {
            let CopyState::Aside { incarnation, whole } = report.state else { continue };
            let volume = report.volume;
            let missing = local.aside.get(&volume).is_some_and(|a| a.incarnation == incarnation && !a.found);
            if missing && due(&mut self.proposed, volume, now) {
                let found =
                    FoundCopy { last_epoch: report.epoch, last: report.received, committed: report.committed, whole };
                commands.push(Command::FoundCopy { volume, node: me, incarnation, found });
            }
        }
        for volume in &self.deleted {
            if due(&mut self.proposed, *volume, now) {
                commands.push(Command::CopyDeleted { volume: *volume, node: me });
            }
        }
        commands
    }

    /// Says once of each copy that another on-disk state counts in its place (S20).
    pub(super) fn strangers(&mut self, state: &State, me: NodeId, now: Time, out: &mut Vec<Output>) {
        for (volume, found) in &self.created {
            let Some(known) = state.volumes.get(volume) else { continue };
            let Some(registered) = registered_copy(known, me) else { continue };
            if registered != *found && self.refused.insert(*volume) {
                let message = format!(
                    "expected the copy {registered} of volume {} on this node, found {found}: its disk lost its memory, so \
                     it does not count; replace the copy",
                    known.name
                );
                let volume = Some(known.name.clone());
                out.push(Output::Event(Event { at: now, kind: EventKind::CopyFailed, volume, message }));
            }
        }
    }
}

/// Whether the state says anything about a copy of this volume on `me`.
pub(super) fn concerns(state: &State, me: NodeId, volume: VolumeId) -> bool {
    state.volumes.get(&volume).is_some_and(|v| match &v.phase {
        Phase::Creating { copies, .. } => copies.contains_key(&me),
        Phase::Open { active, copies, .. } => {
            active.member(me).is_some()
                || copies.learners.contains_key(&me)
                || copies.dropped.contains(&me)
                || copies.aside.contains_key(&me)
        }
        Phase::Deleting { copies } => copies.contains(&me),
    })
}

/// What the state says about the copies of `me`.
pub(super) fn local_view(state: &State, me: NodeId) -> LocalView {
    let registered = state.volumes.iter().filter_map(|(id, v)| Some((*id, registered_copy(v, me)?)));
    let views = state.views_for(me);
    let granted = |volume: VolumeId| {
        let known = state.volumes.get(&volume)?;
        let grant = Grant { limits: known.limits, socket: known.socket.clone() };
        (grant != Grant::default()).then_some((volume, grant))
    };
    LocalView {
        grants: views.iter().filter_map(|v| granted(v.volume)).collect(),
        views,
        create: state.copies_wanted(me),
        delete: state.copies_unwanted(me),
        registered: registered.collect(),
        aside: aside(state, me),
        version: state.version,
    }
}

fn aside(state: &State, me: NodeId) -> BTreeMap<VolumeId, Aside> {
    let of = |(id, v): (&VolumeId, &Volume)| {
        let Phase::Open { copies, .. } = &v.phase else { return None };
        let (incarnation, epoch) = (*copies.aside.get(&me)?, v.receipts.last()?.epoch);
        Some((*id, Aside { incarnation, epoch, found: state.was_found(*id, me) }))
    };
    state.volumes.iter().filter_map(of).collect()
}

/// The on-disk state that counts on one node.
fn registered_copy(volume: &Volume, node: NodeId) -> Option<Incarnation> {
    match &volume.phase {
        Phase::Creating { copies, .. } => copies.get(&node).copied().flatten(),
        Phase::Open { active, copies, .. } => copies.learner(node).or_else(|| Some(active.member(node)?.incarnation)),
        Phase::Deleting { .. } => None,
    }
}

/// The on-disk states that count.
pub(super) fn registered_copies(volume: &Volume) -> BTreeMap<NodeId, Incarnation> {
    match &volume.phase {
        Phase::Creating { copies, .. } => copies.iter().filter_map(|(n, i)| Some((*n, (*i)?))).collect(),
        Phase::Open { active, copies, .. } => {
            let learners = copies.registered();
            active.members.iter().chain(&learners).map(|m| (m.node, m.incarnation)).collect()
        }
        Phase::Deleting { .. } => BTreeMap::new(),
    }
}

fn due(proposed: &mut BTreeMap<VolumeId, Time>, volume: VolumeId, now: Time) -> bool {
    let due = proposed.get(&volume).is_none_or(|last| now.since(*last) >= AGAIN);
    if due {
        proposed.insert(volume, now);
    }
    due
}
