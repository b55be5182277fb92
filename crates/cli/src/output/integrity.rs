//! What scrubs and comparisons of copies found.

use super::json::optional;
use super::table::Rows;
use super::text::known;
use crate::units;
use holdfast_agent::admin::pb;
use serde_json::{Value, json};
use std::fmt::Write;
use std::time::Duration;

/// What a primary gives its copies to apply their records before they are compared, and to name what differs.
pub(crate) const REACH: Duration = Duration::from_secs(10);
pub(crate) const WALK: Duration = Duration::from_secs(20);
/// Ranges that a sentence names.
const NAMED: usize = 8;

/// Of one of the copies of a volume.
pub(crate) fn integrity_json(i: &pb::Integrity, copies: &[pb::Copy]) -> Value {
    let scrub = i.scrub.unwrap_or_default();
    json!({
        "blocks": counts_json(i.total.as_ref()),
        "unrepairable_ranges": ranges_json(&i.unrepairable),
        "unrepairable_more": i.unrepairable_more,
        "scrub": {
            "position": scrub.position,
            "length": scrub.length,
            "requested": scrub.requested,
            "passes": scrub.passes,
            "eta_seconds": scrub_left(&scrub, units::unix_ms()).map(|left| left.as_secs()),
            "started_unix_ms": scrub.started_unix_ms,
            "ended_unix_ms": scrub.ended_unix_ms,
        },
        "verify_runs": i.verify_runs,
        "verify_running": i.verifying != 0,
        "verify_eta_seconds": (i.verifying != 0).then(|| verdict_within(copies).as_secs()),
        "proofs": i.proofs,
        "differs": i.differs.iter().map(|d| json!({ "node": d.node, "lsn": d.lsn })).collect::<Value>(),
        "last_verify": i.verdict.as_ref().map(verdict_fields),
    })
}

/// Of the present pass, at its pace; the clocks of two nodes may differ by seconds, which is little of a pass.
fn scrub_left(scrub: &pb::Scrub, now_unix_ms: u64) -> Option<Duration> {
    let under_way = scrub.requested || scrub.position > 0;
    let elapsed = now_unix_ms.saturating_sub(scrub.started_unix_ms.filter(|_| under_way)?);
    units::left(scrub.position, scrub.length, Duration::from_millis(elapsed))
}

fn counts_json(counts: Option<&pb::BlockCounts>) -> Value {
    let c = counts.copied().unwrap_or_default();
    json!({
        "verified": c.verified,
        "mismatches": c.mismatches,
        "repaired": c.repaired,
        "unrepairable": c.unrepairable,
    })
}

fn ranges_json(ranges: &[pb::Range]) -> Value {
    ranges.iter().map(|r| json!({ "offset": r.offset, "length": r.length })).collect()
}

fn ranges_text(ranges: &[pb::Range], more: bool) -> String {
    let one = |r: &pb::Range| format!("{} to {}", r.offset, r.offset + r.length);
    let mut named: Vec<String> = ranges.iter().take(NAMED).map(one).collect();
    if more || ranges.len() > NAMED {
        named.push("more".to_owned());
    }
    named.join(", ")
}

pub(crate) fn told_json(volume: &str, nodes: &[String]) -> Value {
    json!({ "volume": volume, "nodes": nodes })
}

pub(crate) fn told_text(volume: &str, nodes: &[String]) -> String {
    format!("{volume}: the copies on {} are being read; see: holdfast status {volume}", nodes.join(", "))
}

pub(crate) fn scrubbed_json(volume: &str, copies: &[&pb::Copy]) -> Value {
    let copies = copies.iter().map(|c| {
        let i = c.integrity.clone().unwrap_or_default();
        let found = i.scrub.as_ref().and_then(|s| s.of_run);
        json!({
            "node": c.node,
            "blocks": counts_json(found.as_ref()),
            "unrepairable_ranges": ranges_json(&i.unrepairable),
            "unrepairable_more": i.unrepairable_more,
        })
    });
    json!({ "volume": volume, "copies": copies.collect::<Value>() })
}

pub(crate) fn scrubbed_text(volume: &str, copies: &[&pb::Copy]) -> String {
    let mut rows = Rows::new(&["copy on", "blocks read", "mismatches", "repaired", "unrepairable"]);
    let mut lost = String::new();
    for copy in copies {
        let i = copy.integrity.clone().unwrap_or_default();
        let c = i.scrub.and_then(|s| s.of_run).unwrap_or_default();
        let numbers = [c.verified, c.mismatches, c.repaired, c.unrepairable].map(units::count);
        rows.add(std::iter::once(copy.node.clone()).chain(numbers));
        if !i.unrepairable.is_empty() {
            let ranges = ranges_text(&i.unrepairable, i.unrepairable_more);
            let _ = writeln!(lost, "UNSAFE no copy can supply these bytes of the copy on {}: {ranges}", copy.node);
        }
    }
    format!("volume {volume} was read\n{rows}\n{lost}")
}

pub(crate) fn verdict_json(volume: &str, verdict: &pb::Verdict) -> Value {
    let mut fields = verdict_fields(verdict);
    fields["volume"] = Value::from(volume);
    fields
}

fn verdict_fields(verdict: &pb::Verdict) -> Value {
    let copies = verdict.copies.iter().map(|c| {
        json!({
            "node": c.node,
            "outcome": c.outcome,
            "digest": optional(&c.digest),
            "reason": optional(&c.reason),
            "ranges": ranges_json(&c.ranges),
            "more": c.more,
        })
    });
    json!({
        "equal": verdict.copies.iter().all(|c| c.outcome == "equal"),
        "lsn": verdict.lsn,
        "ended_unix_ms": verdict.ended_unix_ms,
        "copies": copies.collect::<Value>(),
    })
}

pub(crate) fn verdict_text(volume: &str, verdict: &pb::Verdict) -> String {
    let mut rows = Rows::new(&["copy on", "outcome", "digest"]);
    for copy in &verdict.copies {
        rows.add([copy.node.clone(), copy.outcome.replace('_', " "), known(&copy.digest)]);
    }
    format!("volume {volume}, all copies at record {}\n{rows}", verdict.lsn)
}

/// What is odd about a copy, in words.
pub(crate) fn copy_outcome(copy: &pb::CopyVerdict) -> String {
    match copy.outcome.as_str() {
        "different" => {
            format!("the copy on {} differs in the bytes {}", copy.node, ranges_text(&copy.ranges, copy.more))
        }
        _ => format!("the copy on {} was not compared: {}", copy.node, copy.reason),
    }
}

/// The copy that has most records to apply, and how many.
fn furthest_behind(copies: &[pb::Copy]) -> Option<(&str, u64)> {
    let end = copies.iter().filter_map(|c| c.durable_lsn).max().unwrap_or(0);
    let behind = copies.iter().filter_map(|c| Some((c.node.as_str(), end.saturating_sub(c.applied_lsn?))));
    behind.max_by_key(|(_, records)| *records).filter(|(_, records)| *records > 0)
}

/// How far a comparison is.
fn comparing(copies: &[pb::Copy]) -> String {
    let walk = WALK.as_secs();
    match furthest_behind(copies) {
        Some((node, records)) => format!(
            "{node} has {} records to apply; copies get {} s to reach the one compared, then {walk} s",
            units::count(records),
            REACH.as_secs(),
        ),
        None => format!("all records are applied; copies get {walk} s to be compared"),
    }
}

/// The same as a bound: nobody tells when it began.
fn verdict_within(copies: &[pb::Copy]) -> Duration {
    if furthest_behind(copies).is_some() { REACH + WALK } else { WALK }
}

/// What is under way, and what was found; nothing if nothing was.
pub(crate) fn integrity_lines(volume: &pb::Volume) -> String {
    let mut out = String::new();
    for (copy, i) in volume.copies.iter().filter_map(|c| Some((c, c.integrity.as_ref()?))) {
        let (total, scrub) = (i.total.unwrap_or_default(), i.scrub.unwrap_or_default());
        if scrub.requested || scrub.position > 0 {
            let (at, of) = (units::bytes(scrub.position), units::bytes(scrub.length));
            let whose = if scrub.requested { "scrub" } else { "background scrub" };
            let left = scrub_left(&scrub, units::unix_ms());
            let left = left.map_or_else(String::new, |left| format!(", {} left", units::duration(left)));
            let _ = writeln!(out, "{whose} of the copy on {}: {at} of {of}{left}", copy.node);
        }
        if let Some(ended) = scrub.ended_unix_ms {
            let _ = writeln!(out, "the copy on {} was last scrubbed at {} UTC", copy.node, units::time(ended));
        }
        if total.mismatches > 0 {
            let _ = writeln!(
                out,
                "the copy on {}: {} blocks did not match, {} were repaired, {} could not be",
                copy.node,
                units::count(total.mismatches),
                units::count(total.repaired),
                units::count(total.unrepairable)
            );
        }
        if i.verifying != 0 {
            let _ = writeln!(out, "verify by the copy on {}: {}", copy.node, comparing(&volume.copies));
        }
        if let Some(verdict) = &i.verdict {
            let equal = verdict.copies.iter().all(|c| c.outcome == "equal");
            let found = if equal { "all copies equal" } else { "not all copies equal" };
            let _ = writeln!(
                out,
                "last verify at {} UTC, record {}: {found}",
                units::time(verdict.ended_unix_ms),
                verdict.lsn
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_says_how_long_it_takes() {
        let minute_ago = units::unix_ms() - 60_000;
        let scrub =
            pb::Scrub { position: 1 << 30, length: 3 << 30, started_unix_ms: Some(minute_ago), ..Default::default() };
        let left = scrub_left(&scrub, minute_ago + 60_000);
        assert_eq!(left, Some(Duration::from_secs(120)));
        for unknown in [
            pb::Scrub { started_unix_ms: None, ..scrub },
            pb::Scrub { position: 0, ..scrub },
            pb::Scrub { position: 0, requested: true, ..scrub },
        ] {
            assert_eq!(scrub_left(&unknown, minute_ago + 60_000), None, "{unknown:?}");
        }
        assert_eq!(scrub_left(&scrub, minute_ago - 5), Some(Duration::ZERO), "another clock");
        let copy = |node: &str, applied, integrity| pb::Copy {
            node: node.to_owned(),
            durable_lsn: Some(5000),
            applied_lsn: Some(applied),
            integrity: Some(integrity),
            ..Default::default()
        };
        let integrity = pb::Integrity { scrub: Some(scrub), verifying: 7, ..Default::default() };
        let said = |behind: u64| {
            let copies = vec![copy("n1", 5000, integrity.clone()), copy("n2", 5000 - behind, pb::Integrity::default())];
            integrity_lines(&pb::Volume { copies, ..Default::default() })
        };
        assert!(
            said(0).starts_with("background scrub of the copy on n1: 1 GiB of 3 GiB, 2 min 0 s left\n"),
            "{}",
            said(0)
        );
        assert!(
            said(0).contains("verify by the copy on n1: all records are applied; copies get 20 s to be compared"),
            "{}",
            said(0)
        );
        assert!(
            said(1500).contains("n2 has 1\u{202f}500 records to apply; copies get 10 s to reach"),
            "{}",
            said(1500)
        );
        let bound = |behind: u64| {
            let copies = [copy("n1", 5000, integrity.clone()), copy("n2", 5000 - behind, pb::Integrity::default())];
            let of = |at: usize| {
                integrity_json(copies[at].integrity.as_ref().expect("it was told"), &copies)["verify_eta_seconds"]
                    .clone()
            };
            (of(0), of(1))
        };
        assert_eq!((bound(0), bound(1500)), ((json!(20), Value::Null), (json!(30), Value::Null)), "at most");
    }
}
