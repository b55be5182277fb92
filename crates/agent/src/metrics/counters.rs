//! What guests did with the volumes that are led here, for `holdfast top`: counters, of which it takes differences.

use super::Answers;
use super::control::ControlSample;
use super::histogram::BOUNDS;
use super::history::Lag;
use super::rounded;
use super::shard::{Requests, ShardSample, VolumeSample};
use super::volumes::lags;
use crate::admin::pb;
use holdfast_types::Time;
use std::collections::BTreeMap;

impl Answers {
    /// For the admin API.
    ///
    /// # Errors
    /// Which thread did not answer: a sentence.
    pub(crate) fn counters(&self) -> Result<pb::CountersResponse, String> {
        let (Some(control), Some(shard)) = (&self.control, &self.shard) else {
            return Err(format!(
                "expected an answer of every thread, found none of the {}",
                self.silent().join(" and the ")
            ));
        };
        Ok(pb::CountersResponse {
            at_ns: shard.at.since(Time(0)).as_nanos().try_into().unwrap_or(u64::MAX),
            bounds_ns: BOUNDS.to_vec(),
            volumes: volumes(control, shard),
            journal_bytes: shard.journal_bytes,
            journal_bound_bytes: shard.journal_bound,
            disk_in_flight: shard.disk.in_flight as u64,
            disk_oldest_ns: shard.disk.oldest.as_nanos().try_into().unwrap_or(u64::MAX),
        })
    }

    /// How far copies of volumes that are led from here are behind, where the threads answered: nobody else knows the log's end.
    pub(crate) fn add_lags(&self, volumes: &mut [pb::Volume]) {
        if let (Some(control), Some(shard)) = (&self.control, &self.shard) {
            add(volumes, lags(control, shard));
        }
    }
}

fn add(volumes: &mut [pb::Volume], lags: Vec<(String, String, Lag)>) {
    let mut by_name: BTreeMap<String, &mut pb::Volume> = volumes.iter_mut().map(|v| (v.name.clone(), v)).collect();
    for (volume, node, lag) in lags {
        let copies = by_name.get_mut(&volume).map_or(&mut [][..], |v| &mut v.copies);
        for copy in copies.iter_mut().filter(|c| c.node == node) {
            (copy.lag_bytes, copy.lag_seconds) = (Some(lag.bytes), Some(rounded(lag.age.as_secs_f64())));
        }
    }
}

fn volumes(control: &ControlSample, shard: &ShardSample) -> Vec<pb::VolumeCounters> {
    let lags = lags(control, shard);
    let led = control.volumes.iter().filter(|v| v.led_here);
    let counted = led.filter_map(|volume| {
        let sample = shard.volumes.iter().find(|s| s.volume == volume.id)?;
        let mut counters = counters(&volume.status.name, sample);
        let of_it = lags.iter().filter(|(name, ..)| *name == volume.status.name);
        counters.lags.extend(of_it.map(|(_, node, lag)| pb::CopyLag {
            node: node.clone(),
            bytes: lag.bytes,
            age_ns: lag.age.as_nanos().try_into().unwrap_or(u64::MAX),
        }));
        Some(counters)
    });
    counted.collect()
}

fn counters(name: &str, sample: &VolumeSample) -> pb::VolumeCounters {
    let guests = &sample.guests;
    pb::VolumeCounters {
        volume: name.to_owned(),
        reads: Some(requests(&guests.reads)),
        writes: Some(requests(&guests.writes)),
        flushes: Some(requests(&guests.flushes)),
        discards: Some(requests(&guests.discards)),
        in_flight: guests.in_flight,
        limited: guests.held_back,
        lags: Vec::new(),
    }
}

fn requests(requests: &Requests) -> pb::RequestCounters {
    pb::RequestCounters {
        bytes: requests.bytes,
        failed: requests.failed,
        buckets: requests.took.counts().to_vec(),
        took_ns: requests.took.sum_ns(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn copies_that_are_behind_say_how_far_and_others_are_left_alone() {
        let copy = |node: &str| pb::Copy { node: node.to_owned(), lag_lsn: Some(3), ..pb::Copy::default() };
        let volume = |name: &str| pb::Volume {
            name: name.to_owned(),
            copies: vec![copy("n1"), copy("n2"), copy("n3")],
            ..pb::Volume::default()
        };
        let mut volumes = vec![volume("led-here"), volume("led-elsewhere")];
        let lag = |ms: u64, bytes| Lag { age: Duration::from_micros(ms * 1000 + 1), bytes };
        let named = |node: &str, lag| ("led-here".to_owned(), node.to_owned(), lag);
        let gone = ("deleted-meanwhile".to_owned(), "n2".to_owned(), lag(1, 1));
        add(&mut volumes, vec![named("n2", lag(2_500, 4096)), named("n3", Lag::default()), gone]);
        let of = |v: &pb::Volume| v.copies.iter().map(|c| (c.lag_bytes, c.lag_seconds)).collect::<Vec<_>>();
        assert_eq!(of(&volumes[0]), [(None, None), (Some(4096), Some(2.5)), (Some(0), Some(0.0))]);
        assert_eq!(of(&volumes[1]), [(None, None); 3], "its primary knows");
    }
}
