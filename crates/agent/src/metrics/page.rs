//! The status page: for people who have a browser and no shell. Read-only, of this agent alone, without anything from elsewhere.
//!
//! Flow: the page is three files of this binary; its script asks for `/status.json`, which is what `holdfast status` and `holdfast
//! events` tell, and for `/history.json`, which [`Recorder`] keeps: the rates of the volumes that this node leads, one point in
//! [`STEP`], an hour of them.
//!
//! Invariants: memory is bounded by [`POINTS`] and [`VOLUMES`]; names go out as JSON, and the page shows them as text; the policy that
//! goes with every answer (`http`) lets a browser run nothing else.
//!
//! Deliberately absent: the rates of volumes that other nodes lead. Their agents tell them.

use super::{Answers, Vitals, rounded};
use crate::admin::pb;
use crate::control::{Ask, Happened};
use crate::random;
use holdfast_types::{Time, VolumeId};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;

pub(super) const HTML: &str = include_str!("page/page.html");
pub(super) const CSS: &str = include_str!("page/page.css");
pub(super) const JS: &str = include_str!("page/page.js");

/// Between two points.
pub(super) const STEP: Duration = Duration::from_secs(10);
/// An hour.
const POINTS: usize = 360;
/// Volumes of one point; of more only the first ones by name are drawn.
const VOLUMES: usize = 500;
/// Events on the page, the newest first.
const EVENTS: usize = 50;
/// Kinds of them: who leads, and who is there.
const TOLD: [&str; 10] = [
    "epoch",
    "node_up",
    "node_down",
    "node_added",
    "node_removed",
    "node_wanted",
    "leader",
    "copy_failed",
    "forced_recovery",
    "loss_receipt",
];

/// What guests of one volume did in a second, and how long that took.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rates {
    read: f64,
    written: f64,
    reads: f64,
    writes: f64,
    /// Means; `None`: there were none.
    read_ms: Option<f64>,
    write_ms: Option<f64>,
}

/// Counters of one volume at one moment: bytes, requests, nanoseconds, of reads and of writes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Counted {
    pub(super) bytes: [u64; 2],
    pub(super) requests: [u64; 2],
    pub(super) took_ns: [u64; 2],
}

/// Keeps the last hour.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    points: VecDeque<BTreeMap<String, Rates>>,
    last: BTreeMap<VolumeId, (Time, Counted)>,
    until_ms: u64,
}

impl Recorder {
    /// One more point. Nobody answered: a gap.
    pub(super) fn record(&mut self, answers: &Answers, unix_ms: u64) {
        let mut point = BTreeMap::new();
        if let (Some(control), Some(shard)) = (&answers.control, &answers.shard) {
            let led = control.volumes.iter().filter(|v| v.led_here);
            for volume in led.take(VOLUMES) {
                let Some(sample) = shard.volumes.iter().find(|s| s.volume == volume.id) else { continue };
                let (reads, writes) = (&sample.guests.reads, &sample.guests.writes);
                let counted = Counted {
                    bytes: [reads.bytes, writes.bytes],
                    requests: [reads.took.count(), writes.took.count()],
                    took_ns: [reads.took.sum_ns(), writes.took.sum_ns()],
                };
                if let Some(rates) = self.since_last(volume.id, shard.at, counted) {
                    point.insert(volume.status.name.clone(), rates);
                }
            }
            let ids: BTreeSet<VolumeId> = control.volumes.iter().filter(|v| v.led_here).map(|v| v.id).collect();
            self.last.retain(|id, _| ids.contains(id));
        }
        self.points.push_back(point);
        if self.points.len() > POINTS {
            self.points.pop_front();
        }
        self.until_ms = unix_ms;
    }

    fn since_last(&mut self, volume: VolumeId, at: Time, now: Counted) -> Option<Rates> {
        let (then_at, then) = self.last.insert(volume, (at, now))?;
        let seconds = at.since(then_at).as_secs_f64();
        let grew = |of: fn(&Counted) -> [u64; 2], which: usize| of(&now)[which].saturating_sub(of(&then)[which]);
        // Counters of a volume whose socket was made anew begin again.
        if seconds <= 0.0 || grew(|c| c.requests, 0) > now.requests[0] || now.requests[1] < then.requests[1] {
            return None;
        }
        let per_second = |n: u64| approximate(n) / seconds;
        let mean_ms = |which: usize| {
            let count = grew(|c| c.requests, which);
            (count > 0).then(|| approximate(grew(|c| c.took_ns, which)) / approximate(count) / 1e6)
        };
        Some(Rates {
            read: per_second(grew(|c| c.bytes, 0)),
            written: per_second(grew(|c| c.bytes, 1)),
            reads: per_second(grew(|c| c.requests, 0)),
            writes: per_second(grew(|c| c.requests, 1)),
            read_ms: mean_ms(0),
            write_ms: mean_ms(1),
        })
    }

    /// For `/history.json`: for each volume a list of each number, all as long as there are points; null where nothing is known.
    pub(super) fn json(&self) -> Value {
        let names: BTreeSet<&String> = self.points.iter().flat_map(BTreeMap::keys).collect();
        let list = |name: &String, of: &dyn Fn(&Rates) -> Option<f64>| -> Value {
            self.points.iter().map(|point| point.get(name).and_then(of).map(rounded)).collect()
        };
        let volume = |name: &String| {
            json!({
                "read": list(name, &|r| Some(r.read)),
                "written": list(name, &|r| Some(r.written)),
                "reads": list(name, &|r| Some(r.reads)),
                "writes": list(name, &|r| Some(r.writes)),
                "read_ms": list(name, &|r| r.read_ms),
                "write_ms": list(name, &|r| r.write_ms),
            })
        };
        let volumes: Map<String, Value> = names.into_iter().map(|name| (name.clone(), volume(name))).collect();
        let step_ms = u64::try_from(STEP.as_millis()).unwrap_or(u64::MAX);
        json!({ "step_ms": step_ms, "until_ms": self.until_ms, "points": self.points.len(), "volumes": volumes })
    }
}

#[expect(clippy::cast_precision_loss, reason = "it is drawn")]
fn approximate(n: u64) -> f64 {
    n as f64
}

/// For `/status.json`.
///
/// # Errors
/// The control thread does not answer, or knows nothing yet: a sentence.
pub(super) async fn status(vitals: &Vitals, answers: &Answers, patience: Duration) -> Result<Value, String> {
    let asked = async {
        let (answer, answered) = oneshot::channel();
        // Whoever asked has gone.
        let look = Ask::Look(Box::new(move |view| drop(answer.send(view.status()))));
        vitals.asks.send(look).await.ok()?;
        let status = answered.await.ok()?;
        let (answer, answered) = oneshot::channel();
        vitals.asks.send(Ask::Events(answer)).await.ok()?;
        Some((status, answered.await.ok()?.0))
    };
    let found = timeout(patience, asked).await.ok().flatten();
    let (status, events) = found.ok_or("expected an answer of the control thread, found none")?;
    let mut status = status.map_err(|e| e.message().to_owned())?;
    answers.add_lags(&mut status.volumes);
    Ok(told(&status, &events))
}

fn told(status: &pb::StatusResponse, events: &[Happened]) -> Value {
    let copy = |copy: &pb::Copy| {
        json!({
            "node": copy.node,
            "role": copy.role,
            "state": copy.state,
            "note": copy.note,
            "lag_lsn": copy.lag_lsn,
            "lag_bytes": copy.lag_bytes,
            "lag_seconds": copy.lag_seconds,
        })
    };
    let volume = |v: &pb::Volume| {
        json!({
            "name": v.name,
            "state": v.state,
            "reason": v.reason,
            "primary": optional(&v.primary),
            "epoch": v.epoch,
            "size": v.size,
            "durability": v.durability,
            "quorum": v.quorum,
            "clients": v.clients,
            "exposed_bytes": v.exposed_bytes.unwrap_or(0),
            "unsafe": v.r#unsafe,
            "copies": v.copies.iter().map(copy).collect::<Value>(),
        })
    };
    let node = |n: &pb::Node| {
        json!({
            "name": n.name,
            "state": n.state,
            "leader": n.leader,
            "voter": n.voter,
            "witness": n.witness,
            "wanted": n.wanted,
            "address": n.address,
            "failure_domain": n.failure_domain,
            "free_bytes": n.free_bytes,
        })
    };
    let event =
        |h: &Happened| json!({ "unix_ms": h.unix_ms, "kind": h.kind, "volume": h.volume, "message": h.message });
    let newest = events.iter().rev().filter(|h| TOLD.contains(&h.kind)).take(EVENTS);
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "unix_ms": random::unix_ms(),
        "cluster": status.cluster,
        "answered_by": status.answered_by,
        "leader": optional(&status.leader),
        "unsafe": status.r#unsafe,
        "nodes": status.nodes.iter().map(node).collect::<Value>(),
        "volumes": status.volumes.iter().map(volume).collect::<Value>(),
        "events": newest.map(event).collect::<Value>(),
    })
}

fn optional(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { Value::from(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V: VolumeId = VolumeId(1);

    fn counted(n: u64) -> Counted {
        Counted { bytes: [n * 4096, n * 8192], requests: [n, 2 * n], took_ns: [n * 1_000_000, n * 4_000_000] }
    }

    #[test]
    fn rates_are_what_was_counted_in_between() {
        let mut recorder = Recorder::default();
        assert_eq!(recorder.since_last(V, Time(0), counted(5)), None, "nothing to compare with");
        let at = |s: u64| Time(s * 1_000_000_000);
        let rates = recorder.since_last(V, at(10), counted(25)).expect("ten seconds later");
        assert!((rates.read - 8192.0).abs() < 1e-9 && (rates.written - 16_384.0).abs() < 1e-9, "{rates:?}");
        assert_eq!((rates.reads, rates.writes), (2.0, 4.0));
        assert_eq!((rates.read_ms, rates.write_ms), (Some(1.0), Some(2.0)));
        let idle = recorder.since_last(V, at(20), counted(25)).expect("idle is known, too");
        assert_eq!((idle.reads, idle.write_ms), (0.0, None));
        assert_eq!(recorder.since_last(V, at(30), counted(1)), None, "counted anew");
        assert!(recorder.since_last(V, at(40), counted(2)).is_some());
    }

    #[test]
    fn an_hour_is_kept_and_gaps_are_gaps() {
        let mut recorder = Recorder::default();
        let rates =
            recorder.since_last(V, Time(0), counted(0)).or_else(|| recorder.since_last(V, Time(1 << 30), counted(9)));
        let nobody = Answers { control: None, shard: None };
        for n in 0..POINTS as u64 + 5 {
            recorder.record(&nobody, n);
        }
        recorder.points.back_mut().expect("a point").insert("v<1>".to_owned(), rates.expect("rates"));
        let json = recorder.json();
        assert_eq!((&json["points"], &json["until_ms"]), (&json!(POINTS), &json!(POINTS + 4)));
        let reads = json["volumes"]["v<1>"]["reads"].as_array().expect("a list");
        assert!(reads.len() == POINTS && reads[0].is_null() && reads[POINTS - 1].is_number());
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        for file in [HTML, CSS, JS] {
            let foreign =
                file.match_indices("http").filter(|(at, _)| !file[*at..].starts_with("http://www.w3.org/2000/svg"));
            assert_eq!(foreign.count(), 0);
            assert!(!file.contains("innerHTML =") && !file.contains("eval(") && !file.contains("url("));
        }
        assert!(!HTML.contains("<style") && !HTML.contains("onclick") && HTML.contains("lang=\"en\""));
    }
}
