//! The JSON that scripts rely on: names and types change only with a note in the changelog.

use crate::commands::{Duty, Wish};
use holdfast_agent::admin::pb;
use serde_json::{Value, json};

pub(crate) fn status_json(status: &pb::StatusResponse) -> Value {
    json!({
        "cluster": status.cluster,
        "answered_by": status.answered_by,
        "leader": optional(&status.leader),
        "unsafe": status.r#unsafe,
        "version": status.version,
        "version_held": optional(&status.version_held),
        "generation": status.generation,
        "recoveries": status.recoveries.iter().map(recovery).collect::<Value>(),
        "nodes": nodes_json(&status.nodes),
        "volumes": volumes_json(&status.volumes),
    })
}

/// A recovery of the control plane.
fn recovery(r: &pb::ControlRecovery) -> Value {
    json!({
        "generation": r.generation,
        "before": r.before,
        "unix_ms": r.unix_ms,
        "uid": r.uid,
        "user": r.user,
        "host": r.host,
        "node": r.node,
        "given_up": r.given_up,
        "term": r.term,
        "index": r.index,
    })
}

pub(crate) fn nodes_json(nodes: &[pb::Node]) -> Value {
    nodes.iter().map(node).collect()
}

fn node(node: &pb::Node) -> Value {
    json!({
        "name": node.name,
        "id": node.id,
        "state": node.state,
        "voter": node.voter,
        "leader": node.leader,
        "address": node.address,
        "failure_domain": node.failure_domain,
        "copies": node.copies,
        "primaries": node.primaries,
        "draining": node.draining,
        "wanted": node.wanted,
        "witness": node.witness,
        "copies_left": node.copies_left,
        "notes": node.notes,
        "free_bytes": node.free_bytes,
        "speaks": (node.speaks_newest != 0).then(|| json!([node.speaks_oldest, node.speaks_newest])),
        "build": optional(&node.build),
    })
}

/// Without the node unless it was waited for, and is still one.
pub(crate) fn duty_json(name: &str, duty: Duty, done: bool, reached: Option<&pb::Node>) -> Value {
    json!({ "node": name, "wanted": duty.word(), "done": done, "reached": reached.map(node) })
}

pub(crate) fn volumes_json(volumes: &[pb::Volume]) -> Value {
    volumes.iter().map(volume_json).collect()
}

pub(crate) fn volume_json(volume: &pb::Volume) -> Value {
    json!({
        "name": volume.name,
        "id": volume.id,
        "size": volume.size,
        "size_wanted": volume.size_wanted,
        "epoch": volume.epoch,
        "primary": optional(&volume.primary),
        "state": volume.state,
        "reason": optional(&volume.reason),
        "durability": volume.durability,
        "quorum": volume.quorum,
        "degraded": optional(&volume.degraded),
        "single_copy": volume.single_copy,
        "copies_wanted": volume.copies_wanted,
        "copies": copies(volume),
        "exposure": volume.exposure,
        "exposed_bytes": volume.exposed_bytes,
        "exposed_seconds": volume.exposed_seconds,
        "unsafe": volume.r#unsafe,
        "clients": volume.clients,
        "nbd_socket": optional(&volume.nbd_socket),
        "pending_epoch": (volume.pending_epoch != 0).then_some(volume.pending_epoch),
        "pending_primary": optional(&volume.pending_primary),
        "limits": volume.limits.map(|l| json!({
            "iops": (l.iops != 0).then_some(l.iops),
            "bytes_per_second": (l.bytes_per_second != 0).then_some(l.bytes_per_second),
            "burst_ms": l.burst_ms,
        })),
        "socket_access": volume.socket_access.as_ref().map(|s| json!({
            "owner": optional(&s.owner),
            "group": optional(&s.group),
            "mode": format!("{:04o}", s.mode),
        })),
        "receipts": volume.receipts.iter().map(super::receipt_json).collect::<Value>(),
    })
}

fn copies(volume: &pb::Volume) -> Value {
    volume.copies.iter().map(|c| copy(c, &volume.copies)).collect()
}

/// One of all copies of a volume.
fn copy(copy: &pb::Copy, all: &[pb::Copy]) -> Value {
    json!({
        "node": copy.node,
        "role": copy.role,
        "state": copy.state,
        "durable_lsn": copy.durable_lsn,
        "applied_lsn": copy.applied_lsn,
        "digest": optional(&copy.digest),
        "lag_lsn": copy.lag_lsn,
        "lag_bytes": copy.lag_bytes,
        "lag_seconds": copy.lag_seconds,
        "integrity": copy.integrity.as_ref().map(|i| super::integrity_json(i, all)),
        "note": optional(&copy.note),
        "slow": copy.slow.as_ref().map(|s| json!({
            "latency_us": s.latency_us,
            "others_us": s.others_us,
            "link": s.link,
        })),
        "resync": copy.resync.as_ref().map(|r| json!({
            "source": optional(&r.source),
            "passes": r.passes,
            "done_bytes": r.done_bytes,
            "total_bytes": r.total_bytes,
            "bytes_per_second": r.bytes_per_second,
            "eta_seconds": r.eta_seconds,
            "paused": optional(&r.paused),
        })),
    })
}

pub(crate) fn restart_json(answer: &pb::NodeRestartResponse) -> Value {
    json!({ "node": answer.node, "primaries": answer.primaries, "within_seconds": answer.within_seconds })
}

pub(crate) fn token_json(token: &pb::TokenCreateResponse) -> Value {
    json!({ "token": token.token, "expires_unix_ms": token.expires_unix_ms, "address": token.address })
}

/// What is new is null unless it was waited for.
pub(crate) fn failover_json(volume: &str, answer: &pb::FailoverResponse, reached: Option<&pb::Volume>) -> Value {
    json!({
        "volume": volume,
        "planned": answer.planned,
        "wanted_primary": answer.to,
        "old_epoch": answer.epoch,
        "old_primary": optional(&answer.from),
        "new_epoch": reached.map(|v| v.epoch),
        "new_primary": reached.map(|v| &v.primary),
    })
}

/// Without the volume unless it was waited for.
pub(crate) fn copies_json(wish: &Wish, reached: Option<&pb::Volume>) -> Value {
    json!({
        "volume": wish.volume,
        "copy_on": wish.on,
        "no_copy_on": wish.off,
        "done": reached.is_some(),
        "copies": reached.map(copies),
    })
}

pub(crate) fn deleted_json(volume: &str, silent: &[String]) -> Value {
    json!({ "deleted": volume, "copies_left_on": silent })
}

pub(crate) fn event_json(event: &pb::Event) -> Value {
    json!({
        "seq": event.seq,
        "unix_ms": event.unix_ms,
        "node": event.node,
        "kind": event.kind,
        "volume": optional(&event.volume),
        "message": event.message,
    })
}

/// Empty means absent in the API, null in JSON.
pub(super) fn optional(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { Value::from(text) }
}
