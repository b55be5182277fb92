//! What happened, for the operator: found by comparing the state before with the state after.

use super::Output;
use super::copies::registered_copies;
use super::lead::present;
use holdfast_cluster::{Detector, Duty, Phase, Receipt, State, Successor, Volume, Why};
use holdfast_types::{
    ClusterVersion, Configuration, Durability, Epoch, Generation, GuestLimits, Incarnation, NodeId, SocketAccess, Time,
    VolumeId, VolumeView,
};
use std::collections::{BTreeMap, BTreeSet};

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
    /// The guests of a volume are granted something else.
    VolumeGranted,
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
    /// One of two copies is to go on alone, does, or does no more.
    SingleCopy,
    /// An operator gave up members that are gone.
    ForcedRecovery,
    /// What a forced recovery lost is known, or known better.
    LossReceipt,
    /// The cluster was raised to a later version, or a node speaks one that can't be read here.
    Version,
    /// A command was refused because it would have broken an invariant of the state: this program is wrong.
    Defect,
    /// The control plane was recovered after a majority of its voters was lost.
    ControlRecovered,
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
            EventKind::VolumeGranted => "volume_granted",
            EventKind::VolumeDeleted => "volume_deleted",
            EventKind::CopyRegistered => "copy_registered",
            EventKind::CopyFailed => "copy_failed",
            EventKind::NodeWanted => "node_wanted",
            EventKind::CopyMoved => "copy_moved",
            EventKind::SingleCopy => "single_copy",
            EventKind::ForcedRecovery => "forced_recovery",
            EventKind::LossReceipt => "loss_receipt",
            EventKind::Version => "version",
            EventKind::Defect => "defect",
            EventKind::ControlRecovered => "control_recovered",
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
    version: Option<ClusterVersion>,
    generation: Option<Generation>,
    /// The first state is no news: it is what was stored.
    started: bool,
}

/// One volume as it was.
struct Seen {
    name: String,
    size: u64,
    limits: GuestLimits,
    socket: SocketAccess,
    view: Option<VolumeView>,
    registered: BTreeMap<NodeId, Incarnation>,
    successors: BTreeMap<NodeId, Successor>,
    left_out: BTreeMap<NodeId, Epoch>,
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

    /// Of the control plane as a whole.
    pub(super) fn of_control(&self, kind: EventKind, message: String, now: Time, out: &mut Vec<Output>) {
        emit(out, now, kind, None, message);
    }

    /// What a node says of itself can't be read.
    pub(super) fn unreadable(&self, name: &str, why: &str, now: Time, out: &mut Vec<Output>) {
        let message = format!(
            "the heartbeats of {name} can't be read here ({why}): one of the two agents is too old for the other; upgrade the older one"
        );
        emit(out, now, EventKind::Version, None, message);
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

    /// Compares the state with the one before. `only`: the volumes that may have changed, if nothing else has.
    pub(super) fn state(&mut self, state: &State, only: Option<&BTreeSet<VolumeId>>, now: Time, out: &mut Vec<Output>) {
        if let Some(only) = only.filter(|_| self.started) {
            return only.iter().for_each(|id| self.volume(state, *id, now, out));
        }
        let nodes: BTreeMap<NodeId, (String, Duty)> =
            present(state).map(|(id, n)| (id, (n.name.clone(), n.wanted))).collect();
        let before = self.version.replace(state.version).filter(|before| *before != state.version);
        if let Some(before) = before {
            let message = format!(
                "the cluster is of version {} now, raised from {before}: agents that do not speak it can't be started any more",
                state.version
            );
            emit(out, now, EventKind::Version, None, message);
        }
        self.recovered(state, now, out);
        if std::mem::replace(&mut self.started, true) {
            self.nodes_changed(&nodes, now, out);
            self.nodes = nodes;
            let known: BTreeSet<VolumeId> = self.volumes.keys().chain(state.volumes.keys()).copied().collect();
            known.into_iter().for_each(|id| self.volume(state, id, now, out));
        } else {
            self.nodes = nodes;
            self.volumes = state.volumes.iter().map(|(id, v)| (*id, see(state, *id, v))).collect();
        }
    }

    /// Compares one volume with what it was.
    fn volume(&mut self, state: &State, id: VolumeId, now: Time, out: &mut Vec<Output>) {
        let after = state.volumes.get(&id).map(|v| see(state, id, v));
        let before = self.volumes.remove(&id);
        let name = |node: NodeId| self.nodes.get(&node).map_or_else(|| node.to_string(), |(name, _)| name.clone());
        match (&before, &after) {
            (Some(before), Some(after)) => changes(before, after, &name, now, out),
            (None, Some(after)) => {
                let message = format!("volume {} of {} bytes was created as {id}", after.name, after.size);
                emit(out, now, EventKind::VolumeCreated, Some(&after.name), message);
            }
            (Some(gone), None) => {
                let message = format!("volume {} and all its copies are gone", gone.name);
                emit(out, now, EventKind::VolumeDeleted, Some(&gone.name), message);
            }
            (None, None) => {}
        }
        if let Some(after) = after {
            self.volumes.insert(id, after);
        }
    }

    /// Also where this is the first state of this life: it is what the operator looks for.
    fn recovered(&mut self, state: &State, now: Time, out: &mut Vec<Output>) {
        let generation = state.generation();
        if self.generation.replace(generation) == Some(generation) {
            return;
        }
        let Some(r) = state.recoveries.last() else { return };
        let name = |n: &NodeId| state.nodes.get(n).map_or_else(|| n.to_string(), |n| n.name.clone());
        let given_up: Vec<String> = r.given_up.iter().map(name).collect();
        let (by, host, on, given_up) = (&r.by.user, &r.by.host, name(&r.node), given_up.join(", "));
        let message = format!(
            "the control plane was recovered on {on} by {by} on {host}: generation {generation} goes on from entry {} of term {}, and gave up \
             {given_up}",
            r.index, r.term
        );
        emit(out, now, EventKind::ControlRecovered, None, message);
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
}

fn see(state: &State, id: VolumeId, volume: &Volume) -> Seen {
    Seen {
        name: volume.name.clone(),
        size: volume.size.bytes(),
        limits: volume.limits,
        socket: volume.socket.clone(),
        view: state.view(id),
        registered: registered_copies(volume),
        successors: match &volume.phase {
            Phase::Open { copies, .. } => copies.successors.clone(),
            Phase::Creating { .. } | Phase::Deleting { .. } => BTreeMap::new(),
        },
        left_out: match &volume.phase {
            Phase::Open { copies, .. } => copies.left_out.clone(),
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
    if before.limits != after.limits {
        let message = format!("guests of volume {} may ask for {}", after.name, after.limits);
        emit(out, now, EventKind::VolumeGranted, volume, message);
    }
    if before.socket != after.socket {
        let message = format!("the socket of volume {} has {}", after.name, after.socket);
        emit(out, now, EventKind::VolumeGranted, volume, message);
    }
    receipts_changed(before, after, name, now, out);
    let Some(now_view) = &after.view else { return };
    for message in moves(before, after, now_view, name) {
        emit(out, now, EventKind::CopyMoved, volume, message);
    }
    for message in alone(before, after, now_view, name) {
        emit(out, now, EventKind::SingleCopy, volume, message);
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
            Why::Asked => "an operator asked for that",
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

/// Whether one of two copies goes on without the other one.
fn alone(before: &Seen, after: &Seen, view: &VolumeView, name: &dyn Fn(NodeId) -> String) -> Vec<String> {
    let mut said = Vec::new();
    let decided = before.view.as_ref().and_then(|v| v.alone) != view.alone;
    if let Some(node) = view.alone.filter(|_| decided) {
        let others: Vec<String> = view.left_out().into_iter().map(name).collect();
        let others = others.join(", ");
        said.push(format!("the copy on {} is to go on alone, it does not reach the one on {others}", name(node)));
    }
    for node in after.left_out.keys().filter(|n| !before.left_out.contains_key(n)) {
        let (left, epoch) = (primary(&view.active, name), view.active.epoch);
        said.push(format!(
            "{left} goes on alone from epoch {epoch} on: every write is on one disk, {} is left out",
            name(*node)
        ));
    }
    for node in before.left_out.keys().filter(|n| !after.left_out.contains_key(n)) {
        let what =
            if view.active.member(*node).is_some() { "holds every write again and counts" } else { "is given up" };
        said.push(format!("the copy on {}, which was left out, {what}", name(*node)));
    }
    said
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
        _ if after.recovered.is_some() => "the control plane was recovered, nobody has opened it since",
        _ if before.recovered.is_some() => "it opens for the first time since the control plane was recovered",
        _ if after.forced.is_some() => "an operator goes on with the copies that are left",
        _ if before.forced.is_some() => "it goes on with the copies that are left",
        _ if after.active.members.len() < before.active.members.len() && before.alone.is_some() => {
            "it goes on with one copy"
        }
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
