//! Metrics of the volumes with a copy here, and of those that nobody else tells of.

use super::control::{ControlSample, VolumeHere};
use super::shard::{GuestCounters, Requests, ShardSample, VolumeSample};
use super::text::{Kind, Nanos, Page};
use holdfast_cluster::{Integrity, VolumeState};
use holdfast_types::{Lsn, NodeId};

/// Every word for a volume's state; exactly one of them is 1.
const STATES: [(VolumeState, &str); 5] = [
    (VolumeState::Healthy, "healthy"),
    (VolumeState::Degraded, "degraded"),
    (VolumeState::Stalled, "stalled"),
    (VolumeState::Opening, "opening"),
    (VolumeState::Failed, "failed"),
];

/// Every word for a copy's state.
const COPY_STATES: [&str; 12] = [
    "healthy",
    "catching_up",
    "resyncing",
    "lost",
    "failed",
    "hung",
    "opening",
    "creating",
    "joining",
    "leaving",
    "deleting",
    "unreachable",
];

pub(super) fn write(page: &mut Page, control: Option<&ControlSample>, shard: Option<&ShardSample>) {
    let Some(control) = control else { return };
    let volumes = Volumes { page, control, shard };
    volumes.write();
}

struct Volumes<'a> {
    page: &'a mut Page,
    control: &'a ControlSample,
    shard: Option<&'a ShardSample>,
}

impl Volumes<'_> {
    fn write(mut self) {
        self.write_state();
        self.write_copies();
        self.write_integrity();
        self.write_guests();
        self.write_lag();
        self.write_slow();
    }

    /// Of volumes that are led from here.
    fn write_slow(&mut self) {
        let help = "Whether a copy makes writes durable much later than the others do, as its primary measures it.";
        self.page.family("holdfast_copy_slow", Kind::Gauge, help);
        for volume in self.control.volumes.iter().filter(|v| v.led_here) {
            for copy in &volume.status.copies {
                let labels = [("volume", volume.status.name.as_str()), ("node", copy.node.as_str())];
                self.page.sample(&labels, u8::from(copy.slow.is_some()));
            }
        }
    }

    /// One number for each volume; those that have none are left out.
    fn each<V: std::fmt::Display>(
        &mut self,
        name: &'static str,
        kind: Kind,
        help: &'static str,
        value: impl Fn(&VolumeHere) -> Option<V>,
    ) {
        self.page.family(name, kind, help);
        for volume in &self.control.volumes {
            if let Some(value) = value(volume) {
                self.page.sample(&[("volume", &volume.status.name)], value);
            }
        }
    }

    fn write_state(&mut self) {
        let help = "The state of a volume as this node sees it: 1 for the one that holds.";
        self.page.family("holdfast_volume_state", Kind::Gauge, help);
        for volume in &self.control.volumes {
            for (state, word) in STATES {
                let holds = u8::from(volume.status.state == state);
                self.page.sample(&[("volume", &volume.status.name), ("state", word)], holds);
            }
        }
        let gauge = Kind::Gauge;
        self.each("holdfast_volume_size_bytes", gauge, "Bytes that guests see.", |v| Some(v.status.size));
        self.each("holdfast_volume_primary", gauge, "Whether this node is the primary.", |v| {
            Some(u8::from(v.led_here))
        });
        self.each("holdfast_volume_epoch", gauge, "The active epoch.", |v| Some(v.status.epoch));
        let help = "Epochs that became active while this agent ran: failovers, switchovers, changes of copies.";
        self.each("holdfast_volume_epoch_changes_total", Kind::Counter, help, |v| Some(v.epoch_changes));
        let help = "Copies that a write needs to be acknowledged.";
        self.each("holdfast_volume_write_quorum", gauge, help, |v| Some(v.status.quorum));
        self.each("holdfast_volume_copies_wanted", gauge, "Copies that the volume is to have.", |v| {
            Some(v.status.copies_wanted)
        });
        let help = "Whether the volume goes on with one copy alone, as the other one of two is gone.";
        self.each("holdfast_volume_single_copy", gauge, help, |v| Some(u8::from(v.status.single_copy)));
        let help = "Copies that hold everything that was acknowledged, as this node sees it.";
        self.each("holdfast_volume_copies_healthy", gauge, help, |v| {
            Some(v.status.copies.iter().filter(|c| crate::status::copy_word(c.state) == "healthy").count())
        });
        let help = "Requests per second that guests may make; 0: as many as they like.";
        self.each("holdfast_volume_limit_requests_per_second", gauge, help, |v| Some(v.status.limits.iops));
        let help = "Bytes per second that guests may read and write; 0: as many as they like.";
        self.each("holdfast_volume_limit_bytes_per_second", gauge, help, |v| Some(v.status.limits.bandwidth));
        let help = "Bytes times seconds during which acknowledged data had fewer copies than promised.";
        self.each("holdfast_volume_exposure_byte_seconds_total", Kind::Counter, help, |v| v.status.exposure);
        self.write_exposed();
    }

    /// Of volumes that are led from here: the primary measures it.
    fn write_exposed(&mut self) {
        let exposed = |v: &VolumeHere| v.status.exposed.filter(|_| v.led_here);
        let help = "Bytes that were acknowledged and have fewer copies than promised now, as the primary measures it.";
        self.each("holdfast_volume_exposed_bytes", Kind::Gauge, help, |v| exposed(v).map(|(bytes, _)| bytes));
        let help = "How long there have been such bytes without a pause; 0: there are none.";
        self.each("holdfast_volume_exposed_seconds", Kind::Gauge, help, |v| exposed(v).map(|(_, seconds)| seconds));
    }

    fn write_copies(&mut self) {
        let help = "The state of this node's copy: 1 for the one that holds.";
        self.page.family("holdfast_copy_state", Kind::Gauge, help);
        for (volume, state) in self.control.volumes.iter().filter_map(|v| Some((v, v.copy_state?))) {
            for word in COPY_STATES {
                let holds = u8::from(state == word);
                self.page.sample(&[("volume", &volume.status.name), ("state", word)], holds);
            }
        }
        let gauge = Kind::Gauge;
        let report = |v: &VolumeHere| v.report.clone();
        let help = "Last record that this node's copy has received.";
        self.each("holdfast_copy_received_lsn", gauge, help, |v| report(v).map(|r| r.received.0));
        let help = "Last record that this node's copy holds on stable storage.";
        self.each("holdfast_copy_durable_lsn", gauge, help, |v| report(v).map(|r| r.durable.0));
        let help = "Last record that this node's copy knows to be committed.";
        self.each("holdfast_copy_committed_lsn", gauge, help, |v| report(v).map(|r| r.committed.0));
        let help = "Last record that is in this node's image.";
        self.each("holdfast_copy_applied_lsn", gauge, help, |v| report(v).map(|r| r.applied.0));
        let help = "Bytes that a resync of this copy has fetched.";
        self.each("holdfast_copy_resync_done_bytes", gauge, help, |v| report(v)?.resync.map(|r| r.done_bytes));
        let help = "Bytes that a resync of this copy is known to need.";
        self.each("holdfast_copy_resync_needed_bytes", gauge, help, |v| report(v)?.resync.map(|r| r.total_bytes));
    }

    fn write_integrity(&mut self) {
        let counter = Kind::Counter;
        let of = |v: &VolumeHere| -> Option<Integrity> { v.report.as_ref().map(|r| r.integrity.clone()) };
        let help = "Blocks of the image that the scrub read and verified.";
        self.each("holdfast_copy_verified_blocks_total", counter, help, |v| Some(of(v)?.total.verified));
        let help = "Blocks that did not match their checksum, found by the scrub or by a read.";
        self.each("holdfast_copy_mismatched_blocks_total", counter, help, |v| Some(of(v)?.total.mismatches));
        let help = "Blocks that were repaired from another copy.";
        self.each("holdfast_copy_repaired_blocks_total", counter, help, |v| Some(of(v)?.total.repaired));
        let help = "Blocks found that no copy could supply.";
        self.each("holdfast_copy_unrepairable_blocks_total", counter, help, |v| Some(of(v)?.total.unrepairable));
        let help = "Ranges of blocks that no copy could supply when they were last read; more may be left out.";
        self.each("holdfast_copy_unrepairable_ranges", Kind::Gauge, help, |v| Some(of(v)?.unrepairable.len()));
        let help = "Passes of the scrub over the whole copy that have ended.";
        self.each("holdfast_copy_scrub_passes_total", counter, help, |v| Some(of(v)?.scrub.passes));
        let help = "When the last pass of the scrub ended, in seconds since 1970.";
        self.each("holdfast_copy_scrub_end_timestamp_seconds", Kind::Gauge, help, |v| {
            of(v)?.scrub.ended_ms.map(|ms| Nanos(ms.saturating_mul(1_000_000)))
        });
        let help = "Digests of other copies that this primary compared with its own in passing.";
        self.each("holdfast_volume_digest_proofs_total", counter, help, |v| Some(of(v)?.proofs));
        let help = "Comparisons of all copies that this primary made.";
        self.each("holdfast_volume_verify_runs_total", counter, help, |v| Some(of(v)?.verify_runs));
        let help = "Copies whose digest differed from this primary's when it was last compared.";
        self.each("holdfast_volume_differing_copies", Kind::Gauge, help, |v| Some(of(v)?.differs.len()));
    }

    /// The volumes of which both threads told, in order.
    fn guests(&self) -> Vec<(String, VolumeSample)> {
        let samples = self.shard.map_or(&[] as &[VolumeSample], |s| &s.volumes);
        let name =
            |s: &VolumeSample| self.control.volumes.iter().find(|v| v.id == s.volume).map(|v| v.status.name.clone());
        samples.iter().filter_map(|s| Some((name(s)?, s.clone()))).collect()
    }

    fn write_guests(&mut self) {
        let guests = self.guests();
        let page = &mut *self.page;
        let mut plain = |name, kind, help, value: &dyn Fn(&VolumeSample) -> u64| {
            page.family(name, kind, help);
            for (volume, sample) in &guests {
                page.sample(&[("volume", volume)], value(sample));
            }
        };
        plain("holdfast_volume_clients", Kind::Gauge, "Clients attached here.", &|s| u64::from(s.clients));
        let help = "Requests that guests wait for.";
        plain("holdfast_volume_requests_in_flight", Kind::Gauge, help, &|s| s.guests.in_flight);
        let counter = Kind::Counter;
        let help = "Clients that were refused because they asked for another export than this socket's.";
        plain("holdfast_volume_foreign_exports_total", counter, help, &|s| s.guests.strangers);
        let help = "Requests of guests that waited for what the volume's limits let go.";
        plain("holdfast_volume_limited_requests_total", counter, help, &|s| s.guests.held_back);
        let reads = |s: &VolumeSample| s.guests.reads.took.count();
        plain("holdfast_volume_reads_total", counter, "Reads of guests that were answered here.", &reads);
        let writes = |s: &VolumeSample| s.guests.writes.took.count();
        plain("holdfast_volume_writes_total", counter, "Writes of guests that were answered here.", &writes);
        let flushes = |s: &VolumeSample| s.guests.flushes.took.count();
        plain("holdfast_volume_flushes_total", counter, "Flushes of guests that were answered here.", &flushes);
        let help = "Discards and writes of zeros that were answered here.";
        plain("holdfast_volume_discards_total", counter, help, &|s| s.guests.discards.took.count());
        let help = "Bytes that guests read.";
        plain("holdfast_volume_read_bytes_total", counter, help, &|s| s.guests.reads.bytes);
        let help = "Bytes that guests wrote, as acknowledged.";
        plain("holdfast_volume_written_bytes_total", counter, help, &|s| s.guests.writes.bytes);
        let help = "Bytes that guests discarded or zeroed.";
        plain("holdfast_volume_discarded_bytes_total", counter, help, &|s| s.guests.discards.bytes);
        let help = "Requests of guests that were answered with an error.";
        plain("holdfast_volume_request_errors_total", counter, help, &|s| {
            let g = &s.guests;
            [&g.reads, &g.writes, &g.flushes, &g.discards].iter().map(|r| r.failed).sum()
        });
        let help = "Time that they waited before they were taken; not part of the time to answer.";
        page.family("holdfast_volume_limit_wait_seconds_total", counter, help);
        for (volume, sample) in &guests {
            page.sample(&[("volume", volume)], Nanos(sample.guests.held_back_ns));
        }
        let mut times = |name, help, of: &dyn Fn(&GuestCounters) -> &Requests| {
            page.family(name, Kind::Histogram, help);
            for (volume, sample) in &guests {
                page.histogram(&[("volume", volume)], &of(&sample.guests).took);
            }
        };
        times("holdfast_volume_read_duration_seconds", "Time to answer a read.", &|g| &g.reads);
        times("holdfast_volume_write_duration_seconds", "Time to acknowledge a write.", &|g| &g.writes);
        times("holdfast_volume_flush_duration_seconds", "Time to answer a flush.", &|g| &g.flushes);
    }

    /// Of the other copies of volumes that are led from here: nobody else knows the log's end.
    fn write_lag(&mut self) {
        let lags = self.shard.map_or_else(Vec::new, |shard| lags(self.control, shard));
        let page = &mut *self.page;
        let help = "Age of the oldest record that a copy lacks, as its primary measures it: at least that much.";
        page.family("holdfast_copy_lag_seconds", Kind::Gauge, help);
        for (volume, node, lag) in &lags {
            let ns = u64::try_from(lag.age.as_nanos()).unwrap_or(u64::MAX);
            page.sample(&[("volume", volume), ("node", node)], Nanos(ns));
        }
        let help = "Bytes that guests wrote since the last record that a copy certainly holds.";
        page.family("holdfast_copy_lag_bytes", Kind::Gauge, help);
        for (volume, node, lag) in &lags {
            page.sample(&[("volume", volume), ("node", node)], lag.bytes);
        }
    }
}

/// How far copies of volumes that are led from here are behind: the volume, the copy's node, how far.
pub(super) fn lags(control: &ControlSample, shard: &ShardSample) -> Vec<(String, String, super::history::Lag)> {
    let mut lags = Vec::new();
    for volume in control.volumes.iter().filter(|v| v.led_here) {
        let sample = shard.volumes.iter().find(|g| g.volume == volume.id);
        let Some(history) = sample.and_then(|s| s.history.as_ref()) else { continue };
        let lag = |(node, held): &(NodeId, Lsn)| {
            (volume.status.name.clone(), control.name(*node), history.lag(*held, shard.at))
        };
        lags.extend(volume.others.iter().map(lag));
    }
    lags
}
