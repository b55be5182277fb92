//! Forced recoveries, their receipts, and orphans.

use super::json::optional;
use super::table::Rows;
use crate::units;
use holdfast_agent::admin::pb;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;

pub(crate) fn receipt_json(r: &pb::Receipt) -> Value {
    json!({
        "number": r.number,
        "unix_ms": r.unix_ms,
        "uid": r.uid,
        "user": optional(&r.user),
        "host": optional(&r.host),
        "old_epoch": r.old_epoch,
        "epoch": r.epoch,
        "survivors": r.survivors,
        "given_up": r.given_up,
        "kept_lsn": r.kept_lsn,
        "loss": r.loss,
        "lost_from": r.lost_from,
        "lost_committed_to": r.lost_committed_to,
        "lost_to": r.lost_to,
        "since_unix_ms": r.since_unix_ms,
        "until_unix_ms": r.until_unix_ms,
        "complete": r.complete,
        "sentence": r.sentence,
        "found": r.found.iter().map(|f| json!({
            "node": f.node,
            "last_epoch": f.last_epoch,
            "last_lsn": f.last_lsn,
            "committed_lsn": f.committed_lsn,
        })).collect::<Value>(),
    })
}

/// A line or two for each receipt of a volume.
pub(crate) fn receipts_text(volume: &pb::Volume) -> String {
    let mut out = String::new();
    for r in &volume.receipts {
        let who = if r.user.is_empty() { "somebody" } else { &r.user };
        let kept = r.kept_lsn.map_or_else(String::new, |lsn| format!(" kept up to record {lsn};"));
        let _ = writeln!(
            out,
            "forced recovery {} at {} UTC by {who} on {}, epoch {} was given up with the copies on {}:{kept} {}",
            r.number,
            units::time(r.unix_ms),
            r.host,
            r.old_epoch,
            r.given_up.join(", "),
            r.sentence
        );
        if r.loss != "nothing" && r.loss != "open" {
            out += &span(r.since_unix_ms, r.until_unix_ms);
        }
    }
    out
}

/// Between which times a loss lies.
fn span(since: Option<u64>, until: Option<u64>) -> String {
    let since = since.map_or_else(
        || "from when on writes are concerned is not known".to_owned(),
        |ms| format!("what was acknowledged before {} UTC is kept, as far as reports tell", units::time(ms)),
    );
    let until = until.map_or_else(
        || "the copies that are gone were never heard of by this node".to_owned(),
        |ms| format!("the last sign of life of the copies that are gone was at {} UTC", units::time(ms)),
    );
    format!("{since}; {until}\n")
}

fn plan_json(volume: &str, p: &pb::RecoveryPlanResponse) -> Value {
    json!({
        "volume": volume,
        "epoch": p.epoch,
        "survivors": p.survivors,
        "primary": p.primary,
        "committed_lsn": p.committed_lsn,
        "held_lsn": p.held_lsn,
        "whole": p.whole,
        "since_unix_ms": p.since_unix_ms,
        "until_unix_ms": p.until_unix_ms,
        "stale": p.stale,
        "alone": p.alone,
        "members": p.members.iter().map(|m| json!({
            "node": m.node,
            "survives": m.survives,
            "state": m.state,
            "epoch": m.epoch,
            "durable_lsn": m.durable_lsn,
            "committed_lsn": m.committed_lsn,
            "heard_unix_ms": m.heard_unix_ms,
        })).collect::<Value>(),
    })
}

/// What an operator is told before anything is given up.
pub(crate) fn plan_text(volume: &str, old_primary: &str, p: &pb::RecoveryPlanResponse) -> String {
    let mut rows = Rows::new(&["copy on", "state", "epoch", "durable", "committed", "last heard (UTC)"]).plain();
    for m in &p.members {
        let heard = m.heard_unix_ms.map_or_else(|| "never".to_owned(), units::time);
        let row = [
            m.node.clone(),
            m.state.clone(),
            m.epoch.to_string(),
            m.durable_lsn.to_string(),
            m.committed_lsn.to_string(),
            heard,
        ];
        rows.add(row);
    }
    let given_up: Vec<&str> = p.members.iter().filter(|m| !m.survives).map(|m| m.node.as_str()).collect();
    let (left, gone) = (p.survivors.join(", "), given_up.join(", "));
    let mut out =
        format!("{rows}\n\n{volume} would go on in a new epoch with the copies on {left}; {} leads.\n", p.primary);
    let _ = writeln!(
        out,
        "The copies on {gone} are given up for ever: when they come back they count for nothing and are kept as evidence."
    );
    if p.stale {
        let _ = writeln!(
            out,
            "No copy that counts is left. {left} was left out when {old_primary} went on alone, and lacks what was acknowledged since."
        );
    }
    if given_up.contains(&old_primary) && p.alone {
        let _ = writeln!(
            out,
            "{old_primary} was primary and needs nobody to acknowledge: make sure that its host is off. While its agent runs and has not heard of this, it \
             goes on, and all that it acknowledges is lost."
        );
    } else if given_up.contains(&old_primary) {
        let others: Vec<&str> = given_up.iter().copied().filter(|n| *n != old_primary).collect();
        let others = if others.is_empty() { "the others".to_owned() } else { others.join(", ") };
        let _ = writeln!(
            out,
            "{old_primary} was primary: make sure that its host is off. Alone it can acknowledge nothing, but while its agent runs and reaches \
             enough of {others} and nobody else, it could go on."
        );
    }
    out += &prospects(p);
    out
}

fn prospects(p: &pb::RecoveryPlanResponse) -> String {
    if p.whole {
        return "Nothing that was acknowledged will be lost, unless the agent of the primary restarts before it has opened: it holds every write.\n"
            .to_owned();
    }
    let (held, committed) = (p.held_lsn, p.committed_lsn);
    let known = if committed > held {
        let from = held + 1;
        format!(
            "Records {from} to {committed} were committed and WILL be lost; later ones may have been, and will be lost, too.\n"
        )
    } else {
        format!(
            "The greatest record known to be committed is {committed}, which is kept. Later ones may have been acknowledged; of them those above {held} will be lost.\n"
        )
    };
    known + &span(p.since_unix_ms, p.until_unix_ms)
}

pub(crate) fn recovered_json(volume: &str, p: &pb::RecoveryPlanResponse, reached: Option<&pb::Volume>) -> Value {
    json!({
        "plan": plan_json(volume, p),
        "new_epoch": reached.map(|v| v.epoch),
        "new_primary": reached.map(|v| &v.primary),
        "receipt": reached.and_then(|v| v.receipts.last()).map(receipt_json),
    })
}

pub(crate) fn recovered_text(volume: &str, reached: Option<&pb::Volume>) -> String {
    match reached {
        Some(v) => format!("{volume}: {} is primary in epoch {}\n{}", v.primary, v.epoch, receipts_text(v)),
        None => format!("{volume} is being recovered. See: holdfast status {volume}"),
    }
}

fn orphan_json(o: &pb::Orphan) -> Value {
    let known = o.records.is_some();
    let of = |n: u64| known.then_some(n);
    json!({
        "id": o.id,
        "volume": o.volume,
        "node": o.node,
        "epoch": o.epoch,
        "bytes": o.bytes,
        "records": o.records,
        "first_lsn": of(o.first_lsn),
        "last_lsn": of(o.last_lsn),
        "first_epoch": of(o.first_epoch),
        "last_epoch": of(o.last_epoch),
        "cut_unix_ms": of(o.cut_unix_ms),
        "whole": known.then_some(o.whole),
    })
}

pub(crate) fn orphans_json(orphans: &[pb::Orphan]) -> Value {
    orphans.iter().map(orphan_json).collect()
}

pub(crate) fn orphans_text(orphans: &[pb::Orphan]) -> String {
    if orphans.is_empty() {
        return "no orphans".to_owned();
    }
    let mut rows = Rows::new(&["orphan", "bytes", "records", "LSNs", "epochs", "cut (UTC)", "whole"]);
    for o in orphans {
        let known = |text: String| if o.records.is_some() { text } else { format!("ask {}", o.node) };
        let row = [
            o.id.clone(),
            units::bytes(o.bytes),
            known(o.records.unwrap_or(0).to_string()),
            known(format!("{} to {}", o.first_lsn, o.last_lsn)),
            known(if o.first_epoch == o.last_epoch {
                o.last_epoch.to_string()
            } else {
                format!("{} to {}", o.first_epoch, o.last_epoch)
            }),
            known(units::time(o.cut_unix_ms)),
            known(if o.whole { "yes" } else { "DAMAGED" }.to_owned()),
        ];
        rows.add(row);
    }
    rows.to_string()
}

pub(crate) fn orphan_shown_json(shown: &pb::OrphanShowResponse) -> Value {
    let mut value = orphan_json(&shown.orphan.clone().unwrap_or_default());
    value["ranges"] = shown.ranges.iter().map(|r| json!({ "offset": r.offset, "length": r.length })).collect();
    value["more_ranges"] = Value::from(shown.more);
    value
}

pub(crate) fn orphan_exported_json(id: &str, file: &Path, listing: &str, records: u64, bytes: u64) -> Value {
    json!({ "id": id, "file": file.display().to_string(), "listing": listing, "records": records, "bytes": bytes })
}

pub(crate) fn orphan_deleted_json(id: &str) -> Value {
    json!({ "deleted": id })
}

pub(crate) fn orphan_shown_text(shown: &pb::OrphanShowResponse) -> String {
    let orphan = shown.orphan.clone().unwrap_or_default();
    let mut out = orphans_text(std::slice::from_ref(&orphan));
    let _ = writeln!(out, "\n\nbytes of {} that its records change:", orphan.volume);
    for range in &shown.ranges {
        let _ = writeln!(out, "  {} to {}", range.offset, range.offset + range.length);
    }
    if shown.more {
        out += "  and more\n";
    }
    out
}
