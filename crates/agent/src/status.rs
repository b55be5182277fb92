//! The cluster's state in the admin API's words.

use crate::admin::pb;
use crate::control::View;
use holdfast_cluster::{self as cluster, VolumeState};
use tonic::Status;

mod integrity;
mod receipts;

use receipts::receipts;

/// Everything that `holdfast status` shows.
pub(crate) fn status(view: &View<'_>) -> Result<pb::StatusResponse, Status> {
    let state = view.control.state().ok_or_else(|| {
        Status::unavailable("this node has not heard from its cluster since it joined; check that its peers reach its listen.peer address")
    })?;
    let found = cluster::status(state, view.control.detector(), view.now);
    let raft = view.control.raft_status();
    let name = |id: holdfast_types::NodeId| state.node(id).map_or_else(String::new, |n| n.name.clone());
    let me = name(view.me);
    let volumes: Vec<pb::Volume> = found.volumes.into_iter().map(|v| volume(view, v)).collect();
    let nodes = found.nodes.into_iter().map(|n| {
        let id = holdfast_types::NodeId(n.id);
        let count = |f: &dyn Fn(&pb::Volume) -> bool| {
            u32::try_from(volumes.iter().filter(|v| f(v)).count()).unwrap_or(u32::MAX)
        };
        pb::Node {
            state: match n.state {
                "restarting" => "restarting",
                _ if id == view.me => "up",
                "alive" => "up",
                _ => "down",
            }
            .to_owned(),
            voter: raft.voters.contains(&id),
            leader: raft.leader == Some(id),
            id: n.id,
            address: n.address,
            failure_domain: n.failure_domain,
            copies: count(&|v| v.copies.iter().any(|c| c.node == n.name)),
            primaries: count(&|v| v.primary == n.name),
            draining: n.wanted != "in_service",
            wanted: n.wanted.to_owned(),
            witness: n.witness,
            copies_left: u32::try_from(n.copies_left).unwrap_or(u32::MAX),
            notes: n.notes,
            held: n.held,
            free_bytes: n.free_bytes,
            name: n.name,
        }
    });
    let nodes: Vec<pb::Node> = nodes.collect();
    let leader = raft.leader.map(name).unwrap_or_default();
    let mut dangers = Vec::new();
    let down: Vec<&str> = nodes.iter().filter(|n| n.state == "down").map(|n| n.name.as_str()).collect();
    if !down.is_empty() {
        dangers.push(format!("nodes that do not answer: {}", down.join(", ")));
    }
    for node in nodes.iter().filter(|n| n.draining) {
        dangers.extend(
            node.notes.iter().filter(|_| node.held).map(|note| format!("{} can't be drained: {note}", node.name)),
        );
    }
    if leader.is_empty() {
        dangers
            .push("the control plane has no leader: a majority of its voters must run and reach each other".to_owned());
    }
    Ok(pb::StatusResponse {
        cluster: state.cluster.to_string(),
        nodes,
        volumes,
        answered_by: me,
        leader,
        r#unsafe: dangers,
    })
}

fn volume(view: &View<'_>, v: cluster::VolumeStatus) -> pb::Volume {
    let id = holdfast_types::VolumeId(v.id);
    let known = view.control.state().and_then(|s| s.view(id));
    let primary_here = known.as_ref().is_some_and(|k| k.active.primary == Some(view.me));
    let pending = known.as_ref().and_then(|k| k.pending.as_ref());
    let node = |id| view.control.state().and_then(|s| s.node(id)).map_or_else(String::new, |n| n.name.clone());
    let state = match v.state {
        VolumeState::Healthy => "healthy",
        VolumeState::Degraded => "degraded",
        VolumeState::Stalled => "stalled",
        VolumeState::Opening => "opening",
        VolumeState::Failed => "failed",
    };
    let socket = view.nbd_dir.join(format!("{}.sock", v.name));
    pb::Volume {
        id: v.id,
        size: v.size,
        size_wanted: v.size_wanted,
        epoch: v.epoch,
        primary: v.primary.unwrap_or_default(),
        state: state.to_owned(),
        durability: v.durability.to_owned(),
        quorum: u32::from(v.quorum),
        copies_wanted: u32::try_from(v.copies_wanted).unwrap_or(u32::MAX),
        copies: v.copies.into_iter().map(|c| copy(view, c)).collect(),
        exposure: v.exposure,
        exposed_bytes: v.exposed.map(|e| e.0),
        exposed_seconds: v.exposed.map(|e| e.1),
        reason: v.reasons.first().filter(|_| v.state != VolumeState::Healthy).cloned().unwrap_or_default(),
        r#unsafe: v.reasons,
        nbd_socket: if primary_here { socket.display().to_string() } else { String::new() },
        clients: known.as_ref().and_then(|k| Some(view.control.detector().report(k.active.primary?, id)?.clients)),
        receipts: receipts(view, id),
        pending_epoch: pending.map_or(0, |p| p.configuration.epoch.0),
        pending_primary: pending.and_then(|p| p.configuration.primary).map(node).unwrap_or_default(),
        name: v.name,
    }
}

fn copy(view: &View<'_>, c: cluster::CopyStatus) -> pb::Copy {
    let state = copy_word(c.state);
    // What it was when it was last heard may be another copy's role by now.
    let role =
        if state == "unreachable" && !matches!(c.role, "learner" | "aside") { "unknown" } else { role_word(c.role) };
    pb::Copy {
        node: c.node,
        role: role.to_owned(),
        state: state.to_owned(),
        durable_lsn: c.durable_lsn,
        applied_lsn: c.applied_lsn,
        digest: c.digest.unwrap_or_default(),
        lag_bytes: c.lag_bytes,
        lag_seconds: None,
        lag_lsn: c.lag_lsn,
        integrity: c.integrity.map(|i| integrity::integrity(view, i)),
        note: c.note.unwrap_or_default(),
        resync: c.resync.map(|r| pb::Resync {
            source: r.source.map(|id| view.name(id)).unwrap_or_default(),
            passes: r.passes,
            done_bytes: r.done_bytes,
            total_bytes: r.total_bytes,
            bytes_per_second: r.bytes_per_second,
            eta_seconds: r.eta_seconds,
            paused: r.paused.unwrap_or_default(),
        }),
    }
}

/// The roles of the API; a copy of which nothing was heard follows nobody.
fn role_word(role: &str) -> &'static str {
    match role {
        "primary" => "primary",
        "claimant" => "opening",
        "learner" => "learner",
        "aside" => "aside",
        _ => "secondary",
    }
}

/// The states of the API, from those of the state machine.
pub(crate) fn copy_word(state: &str) -> &'static str {
    match state {
        "serving" | "in_sync" => "healthy",
        "catching_up" => "catching_up",
        "resyncing" => "resyncing",
        "lost" => "lost",
        "failed" => "failed",
        "hung" => "hung",
        "creating" => "creating",
        "joining" => "joining",
        "leaving" => "leaving",
        "deleting" => "deleting",
        "aside" => "aside",
        "silent" => "unreachable",
        // A new epoch is on its way, or nothing was reported yet.
        _ => "opening",
    }
}
