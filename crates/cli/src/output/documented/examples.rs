//! An answer of each command, with a value for every field that has one.

use super::super::*;
use crate::commands::{Duty, Wish, support};
use crate::explain::explain;
use crate::{bench, daemon, demo, offline, simulate, top};
use holdfast_agent::admin::pb;
use std::path::Path;

pub(super) fn all() -> Vec<(&'static str, Value)> {
    let mut all = cluster();
    all.extend(volumes());
    all.extend(losses());
    all.extend(simulate::examples());
    all.extend(offline::examples());
    let settled = daemon::settled_json("n1", Path::new("/data"));
    let others = [
        ("init", settled.clone()),
        ("join", settled),
        ("support-bundle", support::example()),
        ("demo", demo::report::example()),
        ("bench", bench::example()),
    ];
    all.extend(others);
    all
}

fn text() -> String {
    "text".to_owned()
}

fn cluster() -> Vec<(&'static str, Value)> {
    let token = pb::TokenCreateResponse { token: text(), expires_unix_ms: 1, address: text() };
    let restart = pb::NodeRestartResponse { node: text(), primaries: 1, within_seconds: 1 };
    let duty = |duty| duty_json("n1", duty, true, Some(&node()));
    vec![
        ("token create", token_json(&token)),
        ("status", status_json(&status())),
        ("top", top::sample::example(status(), event())),
        ("explain", explain(&status(), &volume()).json("vm1")),
        ("node list", nodes_json(&[node()])),
        ("node restart", restart_json(&restart)),
        ("node drain", duty(Duty::Drained)),
        ("node undrain", duty(Duty::InService)),
        ("node remove", duty_json("n1", Duty::Removed, true, None)),
        ("events", event_json(&event())),
    ]
}

fn volumes() -> Vec<(&'static str, Value)> {
    let volume = volume();
    let copies: Vec<&pb::Copy> = volume.copies.iter().collect();
    let wish = |on: Option<&str>, off: Option<&str>| Wish {
        volume: text(),
        on: on.map(str::to_owned),
        off: off.map(str::to_owned),
    };
    let answer = pb::FailoverResponse { epoch: 1, from: text(), to: text(), planned: true };
    vec![
        ("volume create", volume_json(&volume)),
        ("volume list", volumes_json(std::slice::from_ref(&volume))),
        ("volume show", volume_json(&volume)),
        ("volume resize", volume_json(&volume)),
        ("volume limit", volume_json(&volume)),
        ("volume socket", volume_json(&volume)),
        ("volume delete", deleted_json("vm1", &[text()])),
        ("failover", failover_json("vm1", &answer, Some(&volume))),
        ("copy add", copies_json(&wish(Some("n1"), None), Some(&volume))),
        ("copy remove", copies_json(&wish(None, Some("n1")), None)),
        ("copy replace", copies_json(&wish(Some("n1"), Some("n2")), Some(&volume))),
        ("scrub", scrubbed_json("vm1", &copies)),
        ("scrub --no-wait", told_json("vm1", &[text()])),
        ("verify", verdict_json("vm1", &verdict())),
    ]
}

fn losses() -> Vec<(&'static str, Value)> {
    let member = pb::PlannedMember {
        node: text(),
        survives: true,
        state: text(),
        epoch: 1,
        durable_lsn: 1,
        committed_lsn: 1,
        heard_unix_ms: Some(1),
    };
    let plan = pb::RecoveryPlanResponse {
        survivors: vec![text()],
        members: vec![member],
        since_unix_ms: Some(1),
        until_unix_ms: Some(1),
        ..Default::default()
    };
    let orphan = pb::Orphan { id: text(), records: Some(1), whole: true, ..Default::default() };
    let ranges = vec![pb::ByteRange { offset: 0, length: 1 }];
    let shown = pb::OrphanShowResponse { orphan: Some(orphan.clone()), ranges, more: false };
    vec![
        ("failover --force --accept-loss", recovered_json("vm1", &plan, Some(&volume()))),
        ("orphan list", orphans_json(&[orphan])),
        ("orphan show", orphan_shown_json(&shown)),
        ("orphan export", orphan_exported_json("vm1/n1/2", Path::new("f"), "f.records", 1, 1)),
        ("orphan delete", orphan_deleted_json("vm1/n1/2")),
    ]
}

fn status() -> pb::StatusResponse {
    pb::StatusResponse {
        cluster: text(),
        nodes: vec![node()],
        volumes: vec![volume()],
        answered_by: text(),
        leader: text(),
        r#unsafe: vec![text()],
        version: 2,
        version_held: text(),
        generation: "1".to_owned(),
        recoveries: vec![pb::ControlRecovery { uid: Some(0), given_up: vec![text()], ..Default::default() }],
    }
}

pub(super) fn node() -> pb::Node {
    pb::Node {
        name: text(),
        notes: vec![text()],
        free_bytes: Some(1),
        speaks_oldest: 1,
        speaks_newest: 2,
        build: text(),
        ..Default::default()
    }
}

pub(super) fn event() -> pb::Event {
    pb::Event { seq: 1, unix_ms: 1, node: text(), kind: text(), volume: text(), message: text() }
}

/// `vm1`, with everything that a volume can have.
pub(super) fn volume() -> pb::Volume {
    pb::Volume {
        name: "vm1".to_owned(),
        primary: text(),
        state: text(),
        copies: vec![copy()],
        exposure: Some(1),
        r#unsafe: vec![text()],
        reason: text(),
        nbd_socket: text(),
        pending_epoch: 1,
        pending_primary: text(),
        clients: Some(1),
        size_wanted: Some(1),
        exposed_bytes: Some(1),
        exposed_seconds: Some(1),
        degraded: text(),
        receipts: vec![receipt()],
        limits: Some(pb::GuestLimits { iops: 1, bytes_per_second: 1, burst_ms: 1 }),
        socket_access: Some(pb::SocketAccess { owner: text(), group: text(), mode: 0o600 }),
        ..Default::default()
    }
}

fn copy() -> pb::Copy {
    pb::Copy {
        node: "n2".to_owned(),
        role: text(),
        state: text(),
        durable_lsn: Some(1),
        applied_lsn: Some(1),
        digest: text(),
        lag_bytes: Some(1),
        lag_seconds: Some(1.5),
        lag_lsn: Some(1),
        integrity: Some(integrity()),
        note: text(),
        slow: Some(pb::Slow { latency_us: 1, others_us: 1, link: false }),
        resync: Some(pb::Resync { source: text(), eta_seconds: Some(1), paused: text(), ..Default::default() }),
    }
}

fn integrity() -> pb::Integrity {
    let counts = Some(pb::BlockCounts::default());
    let scrub = pb::Scrub {
        position: 1,
        length: 2,
        of_run: counts,
        started_unix_ms: Some(1),
        ended_unix_ms: Some(1),
        ..Default::default()
    };
    pb::Integrity {
        total: counts,
        unrepairable: vec![pb::Range { offset: 0, length: 1 }],
        scrub: Some(scrub),
        verifying: 1,
        verdict: Some(verdict()),
        differs: vec![pb::Difference { node: text(), lsn: 1 }],
        ..Default::default()
    }
}

fn verdict() -> pb::Verdict {
    let ranges = vec![pb::Range { offset: 0, length: 1 }];
    let copy = pb::CopyVerdict { node: text(), outcome: text(), digest: text(), reason: text(), ranges, more: false };
    pb::Verdict { run: 1, lsn: 1, ended_unix_ms: 1, copies: vec![copy] }
}

fn receipt() -> pb::Receipt {
    pb::Receipt {
        uid: Some(0),
        user: text(),
        host: text(),
        survivors: vec![text()],
        given_up: vec![text()],
        kept_lsn: Some(1),
        lost_from: Some(1),
        lost_committed_to: Some(1),
        lost_to: Some(1),
        since_unix_ms: Some(1),
        until_unix_ms: Some(1),
        found: vec![pb::FoundCopy { node: text(), ..Default::default() }],
        ..Default::default()
    }
}

/// What prints tables, with names as long as they may be and numbers as great as they get.
pub(super) fn tables() -> Vec<(&'static str, String)> {
    let long = || "n".repeat(63);
    let node = pb::Node { name: long(), state: "up".to_owned(), address: long(), failure_domain: long(), ..node() };
    let copy = pb::Copy {
        node: long(),
        state: "catching_up".to_owned(),
        durable_lsn: Some(u64::MAX),
        applied_lsn: Some(u64::MAX),
        digest: "0123456789abcdef".to_owned(),
        lag_bytes: Some(u64::MAX),
        lag_seconds: Some(1e9),
        ..copy()
    };
    let volume = pb::Volume {
        name: long(),
        size: u64::MAX,
        size_wanted: Some(u64::MAX),
        epoch: u64::MAX,
        primary: long(),
        durability: "flush".to_owned(),
        copies: vec![copy; 3],
        ..volume()
    };
    let status = |volumes| pb::StatusResponse { nodes: vec![node.clone(); 3], volumes, ..status() };
    let copies: Vec<&pb::Copy> = volume.copies.iter().collect();
    let verdict = pb::Verdict {
        copies: vec![pb::CopyVerdict { node: long(), digest: "0123456789abcdef".to_owned(), ..Default::default() }],
        ..verdict()
    };
    let member =
        pb::PlannedMember { node: long(), durable_lsn: u64::MAX, heard_unix_ms: Some(1 << 40), ..Default::default() };
    let plan = pb::RecoveryPlanResponse { members: vec![member; 3], ..Default::default() };
    let id = format!("{0}/{0}/1", long());
    let orphan =
        pb::Orphan { id, bytes: u64::MAX, records: Some(u64::MAX), cut_unix_ms: 1 << 40, ..Default::default() };
    vec![
        ("status", status_text(&status(vec![volume.clone(); 2]))),
        ("status vm1", status_text(&status(vec![volume.clone()]))),
        ("node list", nodes_text(&[node])),
        ("volume list", volumes_table(std::slice::from_ref(&volume))),
        ("volume show", volume_text(&volume)),
        ("scrub", scrubbed_text("vm1", &copies)),
        ("verify", verdict_text("vm1", &verdict)),
        ("failover --accept-loss", plan_text("vm1", "n1", &plan)),
        ("orphan list", orphans_text(&[orphan])),
        ("bench", bench::example_text(&long())),
    ]
}
