//! One sample: what was counted between two looks, and how the cluster was at the second one. Pure.

use crate::output;
use holdfast_agent::admin::pb;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The cluster over one interval.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    pub(super) unix_ms: u64,
    /// Between the two looks, on the agent's clock.
    pub(super) seconds: f64,
    pub(super) status: pb::StatusResponse,
    /// Of the volumes that the agent leads, and led at both looks.
    pub(super) rates: BTreeMap<String, Rates>,
    pub(super) journal: [u64; 2],
    pub(super) disk_in_flight: u64,
    pub(super) disk_oldest_ns: u64,
    pub(super) events: Vec<pb::Event>,
}

/// What guests of one volume did, in a second.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    pub(super) reads: Answers,
    pub(super) writes: Answers,
    pub(super) flushes: Answers,
    pub(super) discards: Answers,
    /// Requests that waited for the volume's limits.
    pub(super) limited: f64,
    /// Not answered at the second look.
    pub(super) in_flight: u64,
    pub(super) lags: Vec<pb::CopyLag>,
}

/// Requests of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Answers {
    pub(super) per_second: f64,
    pub(super) bytes: f64,
    pub(super) errors: f64,
    /// Milliseconds; `None`: there were none.
    pub(super) p50: Option<f64>,
    pub(super) p99: Option<f64>,
    pub(super) mean: Option<f64>,
}

impl Sample {
    pub(super) fn new(
        unix_ms: u64,
        before: &pb::CountersResponse,
        after: &pb::CountersResponse,
        status: pb::StatusResponse,
        events: Vec<pb::Event>,
    ) -> Sample {
        let seconds = real(after.at_ns.saturating_sub(before.at_ns)) / 1e9;
        let then = |name: &str| before.volumes.iter().find(|v| v.volume == name);
        let led = after.volumes.iter().filter_map(|now| {
            let rates = Rates::between(then(&now.volume)?, now, &after.bounds_ns, seconds)?;
            Some((now.volume.clone(), rates))
        });
        Sample {
            unix_ms,
            seconds,
            rates: led.collect(),
            status,
            journal: [after.journal_bytes, after.journal_bound_bytes],
            disk_in_flight: after.disk_in_flight,
            disk_oldest_ns: after.disk_oldest_ns,
            events,
        }
    }

    pub(crate) fn json(&self) -> Value {
        let status = &self.status;
        let known = self.journal[1] > 0;
        json!({
            "unix_ms": self.unix_ms,
            "interval_seconds": rounded(self.seconds),
            "cluster": status.cluster,
            "answered_by": status.answered_by,
            "leader": (!status.leader.is_empty()).then_some(&status.leader),
            "unsafe": status.r#unsafe,
            "journal_bytes": known.then_some(self.journal[0]),
            "journal_bound_bytes": known.then_some(self.journal[1]),
            "disk_in_flight": known.then_some(self.disk_in_flight),
            "disk_oldest_ms": known.then(|| rounded(real(self.disk_oldest_ns) / 1e6)),
            "nodes": output::nodes_json(&status.nodes),
            "volumes": status.volumes.iter().map(|v| self.volume_json(v)).collect::<Value>(),
            "events": self.events.iter().map(output::event_json).collect::<Value>(),
        })
    }

    /// As `status` shows it, with rates, and lags that the primary measures.
    fn volume_json(&self, volume: &pb::Volume) -> Value {
        let rates = self.rates.get(&volume.name);
        let mut shown = output::volume_json(volume);
        for (copy, shown) in volume.copies.iter().zip(shown["copies"].as_array_mut().into_iter().flatten()) {
            if let Some(lag) = rates.and_then(|r| r.lags.iter().find(|l| l.node == copy.node)) {
                shown["lag_bytes"] = Value::from(lag.bytes);
                shown["lag_seconds"] = rounded(real(lag.age_ns) / 1e9);
            }
        }
        shown["rates"] = rates.map_or(Value::Null, Rates::json);
        shown
    }
}

impl Rates {
    /// `None`: it was counted anew in between, or no time has passed.
    fn between(before: &pb::VolumeCounters, after: &pb::VolumeCounters, bounds: &[u64], seconds: f64) -> Option<Rates> {
        if seconds <= 0.0 {
            return None;
        }
        let kind = |of: fn(&pb::VolumeCounters) -> &Option<pb::RequestCounters>| {
            let none = pb::RequestCounters::default();
            let (then, now) = (of(before).as_ref().unwrap_or(&none), of(after).as_ref().unwrap_or(&none));
            Answers::between(then, now, bounds, seconds)
        };
        Some(Rates {
            reads: kind(|v| &v.reads)?,
            writes: kind(|v| &v.writes)?,
            flushes: kind(|v| &v.flushes)?,
            discards: kind(|v| &v.discards)?,
            limited: real(after.limited.checked_sub(before.limited)?) / seconds,
            in_flight: after.in_flight,
            lags: after.lags.clone(),
        })
    }

    fn json(&self) -> Value {
        json!({
            "reads": self.reads.json(),
            "writes": self.writes.json(),
            "flushes": self.flushes.json(),
            "discards": self.discards.json(),
            "limited_per_second": rounded(self.limited),
            "in_flight": self.in_flight,
        })
    }

    /// Of the copy that lags most: bytes, and the age of the oldest record that it lacks in nanoseconds.
    pub(super) fn behind(&self) -> Option<(u64, u64)> {
        self.lags.iter().map(|lag| (lag.bytes, lag.age_ns)).max_by_key(|(bytes, age)| (*age, *bytes))
    }
}

impl Answers {
    fn between(
        before: &pb::RequestCounters,
        after: &pb::RequestCounters,
        bounds: &[u64],
        seconds: f64,
    ) -> Option<Answers> {
        let zero = std::iter::repeat_n(&0, after.buckets.len().saturating_sub(before.buckets.len()));
        let then = before.buckets.iter().chain(zero);
        let grown: Option<Vec<u64>> =
            after.buckets.iter().zip(then).map(|(now, then)| now.checked_sub(*then)).collect();
        let grown = grown?;
        let count: u64 = grown.iter().sum();
        let per_second = |then: u64, now: u64| Some(real(now.checked_sub(then)?) / seconds);
        let took = real(after.took_ns.checked_sub(before.took_ns)?) / 1e6;
        Some(Answers {
            per_second: real(count) / seconds,
            bytes: per_second(before.bytes, after.bytes)?,
            errors: per_second(before.failed, after.failed)?,
            p50: quantile(&grown, bounds, 0.5),
            p99: quantile(&grown, bounds, 0.99),
            mean: (count > 0).then(|| took / real(count)),
        })
    }

    fn json(&self) -> Value {
        json!({
            "per_second": rounded(self.per_second),
            "bytes_per_second": rounded(self.bytes),
            "errors_per_second": rounded(self.errors),
            "p50_ms": self.p50.map(rounded),
            "p99_ms": self.p99.map(rounded),
            "mean_ms": self.mean.map(rounded),
        })
    }
}

/// In milliseconds, as Prometheus' `histogram_quantile` has it: evenly spread within a bucket; beyond the last bound, that bound.
fn quantile(counts: &[u64], bounds: &[u64], q: f64) -> Option<f64> {
    let rank = q * real(counts.iter().sum());
    let mut below = 0.0;
    for (at, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let count = real(*count);
        if below + count >= rank {
            let low = at.checked_sub(1).map_or(0, |before| bounds[before]);
            let high = bounds.get(at).copied().unwrap_or(low);
            let inside = (rank - below) / count;
            return Some((real(low) + (real(high) - real(low)) * inside) / 1e6);
        }
        below += count;
    }
    None
}

#[expect(clippy::cast_precision_loss, reason = "rates are not exact to 15 digits")]
pub(super) fn real(n: u64) -> f64 {
    n as f64
}

/// Rounded, so that nobody takes noise for digits.
fn rounded(value: f64) -> Value {
    json!((value * 1000.0).round() / 1000.0)
}

#[cfg(test)]
const BOUNDS: [u64; 3] = [1_000_000, 2_000_000, 10_000_000];

#[cfg(test)]
fn counters(at_s: u64, writes: u64) -> pb::CountersResponse {
    let requests =
        |n: u64| pb::RequestCounters { bytes: n * 4096, failed: 0, buckets: vec![0, n, 0, 0], took_ns: n * 1_500_000 };
    let volume = pb::VolumeCounters {
        volume: "vm1".to_owned(),
        reads: Some(requests(0)),
        writes: Some(requests(writes)),
        flushes: Some(requests(0)),
        discards: None,
        in_flight: 3,
        limited: writes,
        lags: vec![pb::CopyLag { node: "n2".to_owned(), bytes: 4096, age_ns: 2_500_000_000 }],
    };
    pb::CountersResponse {
        at_ns: at_s * 1_000_000_000,
        bounds_ns: BOUNDS.to_vec(),
        volumes: vec![volume],
        journal_bytes: 1,
        journal_bound_bytes: 2,
        disk_in_flight: 0,
        disk_oldest_ns: 0,
    }
}

/// Of a cluster with these volumes and nodes; `vm1` is led here.
#[cfg(test)]
pub(crate) fn example(status: pb::StatusResponse, event: pb::Event) -> Value {
    let (before, mut after) = (counters(10, 100), counters(12, 500));
    after.volumes[0].reads = after.volumes[0].writes.clone();
    Sample::new(0, &before, &after, status, vec![event]).json()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(before: &pb::CountersResponse, after: &pb::CountersResponse) -> Sample {
        Sample::new(0, before, after, pb::StatusResponse::default(), Vec::new())
    }

    #[test]
    fn rates_are_what_was_counted_in_between() {
        let sample = sample(&counters(10, 100), &counters(12, 500));
        let rates = &sample.rates["vm1"];
        assert_eq!((rates.writes.per_second, rates.writes.bytes, rates.limited), (200.0, 200.0 * 4096.0, 200.0));
        assert_eq!((rates.writes.p50, rates.writes.mean), (Some(1.5), Some(1.5)));
        assert_eq!((rates.reads, rates.discards.p99), (Answers::default(), None));
        assert_eq!((rates.in_flight, rates.behind()), (3, Some((4096, 2_500_000_000))));
    }

    #[test]
    fn counters_that_began_anew_have_no_rates() {
        assert!(sample(&counters(10, 100), &counters(12, 99)).rates.is_empty());
        assert!(sample(&counters(10, 100), &counters(10, 100)).rates.is_empty(), "no time has passed");
        assert!(sample(&pb::CountersResponse::default(), &counters(12, 9)).rates.is_empty(), "led only now");
        assert!(sample(&counters(12, 9), &pb::CountersResponse::default()).rates.is_empty(), "led no more");
    }

    #[test]
    fn quantiles_lie_in_their_bucket() {
        assert_eq!(quantile(&[0, 0, 0, 0], &BOUNDS, 0.5), None);
        assert_eq!(quantile(&[4, 0, 0, 0], &BOUNDS, 0.5), Some(0.5));
        assert_eq!(quantile(&[1, 0, 1, 0], &BOUNDS, 0.99), Some(2.0 + 8.0 * 0.98));
        assert_eq!(quantile(&[0, 0, 0, 7], &BOUNDS, 0.5), Some(10.0), "beyond the last bound");
        assert_eq!(quantile(&[7], &[], 0.5), Some(0.0));
    }
}
