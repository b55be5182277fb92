//! The cluster's state in the admin API's words.

use crate::admin::pb;
use crate::control::View;
use crate::random;
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
    let (version, held_back) = (found.version, found.held_back.unwrap_or_default());
    let unreadable: Vec<String> = found.nodes.iter().filter_map(unreadable).collect();
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
            speaks_oldest: n.speaks.map_or(0, |s| s.0),
            speaks_newest: n.speaks.map_or(0, |s| s.1),
            build: n.build.unwrap_or_default(),
            name: n.name,
        }
    });
    let nodes: Vec<pb::Node> = nodes.collect();
    let leader = raft.leader.map(name).unwrap_or_default();
    let dangers = unreadable.into_iter().chain(dangers(view, &nodes, &me, leader.is_empty())).collect();
    Ok(pb::StatusResponse {
        cluster: state.cluster.to_string(),
        nodes,
        volumes,
        answered_by: me,
        leader,
        r#unsafe: dangers,
        version,
        version_held: held_back,
        generation: state.generation().to_string(),
        recoveries: state.recoveries.iter().map(|r| recovery(view, r)).collect(),
    })
}

/// What puts promises at risk, beside what stands at each volume.
fn dangers(view: &View<'_>, nodes: &[pb::Node], me: &str, leaderless: bool) -> Vec<String> {
    let mut dangers = Vec::new();
    let down: Vec<&str> = nodes.iter().filter(|n| n.state == "down").map(|n| n.name.as_str()).collect();
    if !down.is_empty() {
        dangers.push(format!("nodes that do not answer: {}", down.join(", ")));
    }
    if view.certificate.is_overdue(random::unix_ms() / 1000) {
        let until = crate::audit::utc(view.certificate.until.saturating_mul(1000));
        dangers
            .push(format!("the certificate of {me} ends at {until}: its renewal fails, see `holdfast events` there"));
    }
    for node in nodes.iter().filter(|n| n.draining) {
        dangers.extend(
            node.notes.iter().filter(|_| node.held).map(|note| format!("{} can't be drained: {note}", node.name)),
        );
    }
    if leaderless {
        dangers.push(without_leader(nodes, me));
    }
    dangers.extend(given_up(view, nodes));
    dangers
}

/// Why nothing is agreed upon, and what to do.
fn without_leader(nodes: &[pb::Node], me: &str) -> String {
    let named = |wanted: &dyn Fn(&pb::Node) -> bool| {
        nodes.iter().filter(|n| n.voter && wanted(n)).map(|n| n.name.as_str()).collect::<Vec<_>>()
    };
    let (voters, silent) = (named(&|_| true), named(&|n| n.state == "down"));
    let needed = voters.len() / 2 + 1;
    if voters.len() - silent.len() >= needed {
        return "the control plane has no leader: a majority of its voters must run and reach each other".to_owned();
    }
    let (all, silent) = (voters.join(", "), silent.join(", "));
    let votes = voters.contains(&me);
    let here = if votes { "here" } else { "on a voter that is left" };
    format!(
        "the control plane has no leader: of the voters {all} {needed} must run and reach each other, and {silent} do not answer; start them. \
         Only if they are gone for ever: stop the agent {here} and run `holdfast control recover DATA_DIR --lost NAME...`, which says \
         what may be lost before it does anything"
    )
}

/// Who was given up when the control plane was recovered, and is neither back nor removed.
fn given_up(view: &View<'_>, nodes: &[pb::Node]) -> Option<String> {
    let state = view.control.state()?;
    let last = state.recoveries.last()?;
    let away = |n: &&pb::Node| n.state == "down" && last.given_up.contains(&holdfast_types::NodeId(n.id));
    let away: Vec<&str> = nodes.iter().filter(away).map(|n| n.name.as_str()).collect();
    (!away.is_empty()).then(|| {
        format!(
            "given up when the control plane was recovered as generation {}, and not back: {}; drain and remove them (`holdfast node drain`, \
             `holdfast node remove`), or run `holdfast control rejoin` on their hosts",
            last.generation,
            away.join(", ")
        )
    })
}

fn recovery(view: &View<'_>, r: &cluster::Recovery) -> pb::ControlRecovery {
    pb::ControlRecovery {
        generation: r.generation.to_string(),
        before: r.before.to_string(),
        unix_ms: r.at_ms,
        uid: r.by.uid,
        user: r.by.user.clone(),
        host: r.by.host.clone(),
        node: view.name(r.node),
        given_up: r.given_up.iter().map(|n| view.name(*n)).collect(),
        term: r.term,
        index: r.index,
    }
}

/// A node that is too old or too new for the one that answers.
fn unreadable(n: &cluster::NodeStatus) -> Option<String> {
    let why = n.unreadable.as_ref()?;
    Some(format!("the heartbeats of {} can't be read here ({why}); upgrade the older one of the two agents", n.name))
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
        degraded: v.degraded.unwrap_or_default().to_owned(),
        single_copy: v.single_copy,
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
        limits: (!v.limits.is_none()).then_some(pb::GuestLimits {
            iops: v.limits.iops,
            bytes_per_second: v.limits.bandwidth,
            burst_ms: v.limits.burst_ms,
        }),
        socket_access: (!v.socket.is_default()).then(|| pb::SocketAccess {
            mode: v.socket.bits(),
            owner: v.socket.owner,
            group: v.socket.group,
        }),
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
        // The shard measures them, `Answers::add_lags`.
        lag_bytes: None,
        lag_seconds: None,
        lag_lsn: c.lag_lsn,
        integrity: c.integrity.map(|i| integrity::integrity(view, i)),
        note: c.note.unwrap_or_default(),
        slow: c.slow.map(|s| pb::Slow { latency_us: s.latency_us, others_us: s.others_us, link: s.link }),
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
