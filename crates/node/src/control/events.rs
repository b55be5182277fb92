//! What happened, for the operator: found by comparing the state before with the state after.

use super::Output;
use super::copies::registered_copies;
use super::lead::present;
use holdfast_cluster::{Detector, Duty, Phase, Receipt, State, Successor, Volume, Why};
use holdfast_types::{Configuration, Durability, Epoch, Incarnation, NodeId, Time, VolumeId, VolumeView};
use std::collections::BTreeMap;

/// Kinds of events, named as the admin API names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A node answers again.
    NodeUp,
    /// A node is silent.
    NodeDown,
    /// A node joined.
    NodeAdded,
    /// A node was removed.
    NodeRemoved,
    /// Another node leads the control plane, or none.
    Leader,
    /// Another epoch is active.
    Epoch,
    /// A node claims a volume.
    Claim,
    /// A node is to become primary.
    Nominee,
    /// A volume exists.
    VolumeCreated,
    /// A volume is to have another size.
    VolumeResized,
    /// A volume no longer exists.
    VolumeDeleted,
    /// A copy counts from now on.
    CopyRegistered,
    /// A copy is refused.
    CopyFailed,
    /// A node is to be drained, to be removed, or in service again.
    NodeWanted,
    /// The leader moves a copy, or takes that back.
    CopyMoved,
    /// An operator gave up members that are gone.
    ForcedRecovery,
    /// What a forced recovery lost is known, or known better.
    LossReceipt,
}

impl EventKind {
    /// As the admin API names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            EventKind::NodeUp => "node_up",
            EventKind::NodeDown => "node_down",
            EventKind::NodeAdded => "node_added",
            EventKind::NodeRemoved => "node_removed",
            EventKind::Leader => "leader",
            EventKind::Epoch => "epoch",
            EventKind::Claim => "claim",
            EventKind::Nominee => "nominee",
            EventKind::VolumeCreated => "volume_created",
            EventKind::VolumeResized => "volume_resized",
            EventKind::VolumeDeleted => "volume_deleted",
            EventKind::CopyRegistered => "copy_registered",
            EventKind::CopyFailed => "copy_failed",
            EventKind::NodeWanted => "node_wanted",
            EventKind::CopyMoved => "copy_moved",
            EventKind::ForcedRecovery => "forced_recovery",
            EventKind::LossReceipt => "loss_receipt",
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, on this node's clock.
    pub at: Time,
    /// What.
    pub kind: EventKind,
    /// The volume it is about.
    pub volume: Option<String>,
    /// One sentence.
    pub message: String,
}

/// What was last seen, to compare with.
#[derive(Default)]
pub(super) struct Watch {
    leader: Option<String>,
    nodes: BTreeMap<NodeId, (String, Duty)>,
    alive: BTreeMap<NodeId, bool>,
    volumes: BTreeMap<VolumeId, Seen>,
    /// The first state is no news: it is what was stored.
    started: bool,
}

/// One volume as it was.
struct Seen {
    name: String,
    size: u64,
    view: Option<VolumeView>,
    registered: BTreeMap<NodeId, Incarnation>,
    successors: BTreeMap<NodeId, Successor>,
    durability: Durability,
    receipts: Vec<Receipt>,
}

impl Watch {
    pub(super) fn leader(&mut self, leader: Option<String>, now: Time, out: &mut Vec<Output>) {
        if self.leader == leader {
            return;
        }
        let message = match &leader {
            Some(name) => format!("{name} leads the control plane"),
            None => "the control plane has no leader".to_owned(),
        };
        self.leader = leader;
        emit(out, now, EventKind::Leader, None, message);
    }

    /// Compares who lives with who lived.
    pub(super) fn liveness(&mut self, state: &State, detector: &Detector, now: Time, out: &mut Vec<Output>) {
        for (id, node) in present(state) {
            // One that was never heard of is no news yet: this node may have started a moment ago.
            let alive = detector.alive(id, now) && detector.life(id).is_some();
            match (self.alive.insert(id, alive), alive) {
                (Some(true), false) => {
                    emit(out, now, EventKind::NodeDown, None, format!("node {} is silent", node.name));
                }
                (Some(false) | None, true) => {
                    emit(out, now, EventKind::NodeUp, None, format!("node {} answers", node.name));
                }
                (Some(true), true) | (Some(false) | None, false) => {}
            }
        }
        self.alive.retain(|node, _| state.node(*node).is_some());
    }

    /// Compares the state with the one before.
    pub(super) fn state(&mut self, state: &State, now: Time, out: &mut Vec<Output>) {
        let nodes: BTreeMap<NodeId, (String, Duty)> =
            present(state).map(|(id, n)| (id, (n.name.clone(), n.wanted))).collect();
        let volumes: BTreeMap<VolumeId, Seen> = state.volumes.iter().map(|(id, v)| (*id, see(state, *id, v))).collect();
        if std::mem::replace(&mut self.started, true) {
            self.nodes_changed(&nodes, now, out);
            self.volumes_changed(&volumes, &nodes, now, out);
        }
        (self.nodes, self.volumes) = (nodes, volumes);
    }

    fn nodes_changed(&self, nodes: &BTreeMap<NodeId, (String, Duty)>, now: Time, out: &mut Vec<Output>) {
        for (node, (name, wanted)) in nodes {
            match self.nodes.get(node) {
                None => emit(out, now, EventKind::NodeAdded, None, format!("node {name} joined as {node}")),
                Some((_, before)) if before != wanted => {
                    let what = match wanted {
                        Duty::InService => "is in service again",
                        Duty::Drained => "is to be drained: its copies move to other nodes",
                        Duty::Removed => "is to leave the cluster",
                    };
                    emit(out, now, EventKind::NodeWanted, None, format!("node {name} {what}"));
                }
                Some(_) => {}
            }
        }
        for (_, (name, _)) in self.nodes.iter().filter(|(node, _)| !nodes.contains_key(node)) {
            emit(out, now, EventKind::NodeRemoved, None, format!("node {name} was removed"));
        }
    }

    fn volumes_changed(
        &self,
        volumes: &BTreeMap<VolumeId, Seen>,
        nodes: &BTreeMap<NodeId, (String, Duty)>,
        now: Time,
        out: &mut Vec<Output>,
    ) {
        let name = |node: NodeId| nodes.get(&node).map_or_else(|| node.to_string(), |(name, _)| name.clone());
        for (id, after) in volumes {
            if let Some(before) = self.volumes.get(id) {
                changes(before, after, &name, now, out);
            } else {
                let message = format!("volume {} of {} bytes was created as {id}", after.name, after.size);
                emit(out, now, EventKind::VolumeCreated, Some(&after.name), message);
            }
        }
        for (_, gone) in self.volumes.iter().filter(|(id, _)| !volumes.contains_key(id)) {
            let message = format!("volume {} and all its copies are gone", gone.name);
            emit(out, now, EventKind::VolumeDeleted, Some(&gone.name), message);
        }
    }
}

fn see(state: &State, id: VolumeId, volume: &Volume) -> Seen {
    Seen {
        name: volume.name.clone(),
        size: volume.size.bytes(),
        view: state.view(id),
        registered: registered_copies(volume),
        successors: match &volume.phase {
            Phase::Open { copies, .. } => copies.successors.clone(),
            Phase::Creating { .. } | Phase::Deleting { .. } => BTreeMap::new(),
        },
        durability: volume.durability,
        receipts: volume.receipts.clone(),
    }
}

/// What changed about one volume.
fn changes(before: &Seen, after: &Seen, name: &dyn Fn(NodeId) -> String, now: Time, out: &mut Vec<Output>) {
    let volume = Some(after.name.as_str());
    for (node, incarnation) in &after.registered {
        if before.registered.get(node) != Some(incarnation) {
            let message = format!("the copy on {} counts as {incarnation}", name(*node));
            emit(out, now, EventKind::CopyRegistered, volume, message);
        }
    }
    if before.size != after.size {
        let message = format!("volume {} is to have {} bytes instead of {}", after.name, after.size, before.size);
        emit(out, now, EventKind::VolumeResized, volume, message);
    }
    receipts_changed(before, after, name, now, out);
    let Some(now_view) = &after.view else { return };
    for message in moves(before, after, now_view, name) {
        emit(out, now, EventKind::CopyMoved, volume, message);
    }
    let then_view = before.view.as_ref();
    if let Some(nominee) = now_view.nominee
        && then_view.and_then(|v| v.nominee) != Some(nominee)
    {
        let how = if nominee.planned { "after the primary has handed over" } else { "without waiting for the primary" };
        let message = format!("{} is to succeed epoch {} {how}", name(nominee.node), nominee.base);
        emit(out, now, EventKind::Nominee, volume, message);
    }
    if let Some(pending) = &now_view.pending
        && then_view.and_then(|v| v.pending.as_ref()) != Some(pending)
    {
        let (epoch, who) = (pending.configuration.epoch, primary(&pending.configuration, name));
        let message = format!("{who} claims epoch {epoch} on the base of {}", pending.base);
        emit(out, now, EventKind::Claim, volume, message);
    }
    if let Some(then_view) = then_view
        && then_view.active.epoch != now_view.active.epoch
    {
        emit(out, now, EventKind::Epoch, volume, reign(then_view, now_view, name));
    }
}

/// Copies that the leader began to move, and moves that ended.
fn moves(before: &Seen, after: &Seen, view: &VolumeView, name: &dyn Fn(NodeId) -> String) -> Vec<String> {
    let began = after.successors.iter().filter(|(new, s)| before.successors.get(new) != Some(s)).map(|(new, s)| {
        let why = match s.why {
            Why::Drained => "its node is to be drained",
            Why::Gone => "it was gone for longer than replace_after",
        };
        format!("the copy on {} is replaced on {}: {why}", name(s.of), name(*new))
    });
    let ended = before.successors.iter().filter(|(new, s)| after.successors.get(new) != Some(s)).map(|(new, s)| {
        if view.active.member(*new).is_some() {
            format!("the copy on {} counts in place of the one on {}", name(*new), name(s.of))
        } else {
            format!("the copy on {} is not replaced on {} any more", name(s.of), name(*new))
        }
    });
    began.chain(ended).collect()
}

/// Who ordered which forced recovery, and what it cost.
fn receipts_changed(before: &Seen, after: &Seen, name: &dyn Fn(NodeId) -> String, now: Time, out: &mut Vec<Output>) {
    let volume = Some(after.name.as_str());
    for receipt in &after.receipts {
        let known = before.receipts.iter().find(|r| r.number == receipt.number);
        if known.is_none() {
            let names = |members: &mut dyn Iterator<Item = NodeId>| members.map(name).collect::<Vec<_>>().join(", ");
            let left = names(&mut receipt.survivors.iter().map(|m| m.node));
            let given_up = names(&mut receipt.given_up().map(|m| m.node));
            let by = &receipt.by;
            let uid = by.uid.map_or_else(|| "an unknown user".to_owned(), |uid| format!("{} (uid {uid})", by.user));
            let message = format!(
                "forced recovery {} by {uid} on {}: epoch {} with {left} succeeds epoch {}; the copies on {given_up} are given up",
                receipt.number, by.host, receipt.epoch, receipt.before.epoch
            );
            emit(out, now, EventKind::ForcedRecovery, volume, message);
        }
        let (said, says) = (known.map(|r| r.loss(before.durability)), receipt.loss(after.durability));
        if said != Some(says) && receipt.opened {
            let message = format!("forced recovery {}: {}", receipt.number, receipt.sentence(after.durability));
            emit(out, now, EventKind::LossReceipt, volume, message);
        }
    }
}

/// Who reigns, after whom, and why.
fn reign(before: &VolumeView, after: &VolumeView, name: &dyn Fn(NodeId) -> String) -> String {
    let why = match before.nominee {
        _ if before.active.epoch == Epoch::ZERO => "the volume opens for the first time",
        _ if after.forced.is_some() => "an operator goes on with the copies that are left",
        _ if before.forced.is_some() => "it goes on with the copies that are left",
        Some(nominee) if nominee.planned => "a planned switchover",
        Some(_) => "the control plane chose its primary",
        None => "its primary asked for it",
    };
    let (epoch, new, old) = (after.active.epoch, primary(&after.active, name), primary(&before.active, name));
    if before.active.primary == after.active.primary {
        format!("epoch {epoch} is active, {new} stays primary: {why}")
    } else {
        format!("epoch {epoch} is active, primary {new} after {old}: {why}")
    }
}

fn primary(configuration: &Configuration, name: &dyn Fn(NodeId) -> String) -> String {
    configuration.primary.map_or_else(|| "nobody".to_owned(), name)
}

fn emit(out: &mut Vec<Output>, at: Time, kind: EventKind, volume: Option<&str>, message: String) {
    out.push(Output::Event(Event { at, kind, volume: volume.map(str::to_owned), message }));
}
