//! What the shard's thread counts, and the copy of it that a scrape gets. All plain integers of one owner: the hot path pays
//! an addition, and for a request or a disk operation one more reading of the clock at most.

use super::histogram::Histogram;
use super::history::History;
use holdfast_replication::GuestOp;
use holdfast_store::Written;
use holdfast_store::io::{DiskDone, DiskOp, DiskOpKind, FileId, OpId};
use holdfast_transport::{PeerStats, TurnedAway};
use holdfast_types::{NodeId, Time, VolumeId};
use std::collections::BTreeMap;
use std::time::Duration;

/// Requests of one kind that were answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests {
    /// Bytes they were about.
    pub(crate) bytes: u64,
    /// Answered with an error; counted in `took`, too.
    pub(crate) failed: u64,
    /// From when the request was complete until its answer was decided.
    pub(crate) took: Histogram,
}

/// A volume as its guests used it here, since this agent opened its socket.
#[derive(Clone, Debug, Default)]
pub(crate) struct GuestCounters {
    pub(crate) reads: Requests,
    pub(crate) writes: Requests,
    pub(crate) flushes: Requests,
    /// Discards and writes of zeros.
    pub(crate) discards: Requests,
    /// Asked and not answered.
    pub(crate) in_flight: u64,
    /// Clients that asked for an export that this socket does not serve.
    pub(crate) strangers: u64,
    /// Requests that had to wait for what the volume's limits let go, before they were asked, and how long all together.
    pub(crate) held_back: u64,
    pub(crate) held_back_ns: u64,
}

impl GuestCounters {
    pub(crate) fn waited(&mut self, time: Duration) {
        self.held_back += 1;
        self.held_back_ns = self.held_back_ns.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(crate) fn answered(&mut self, op: GuestOp, bytes: u64, took: Duration, well: bool) {
        let requests = match op {
            GuestOp::Read => &mut self.reads,
            GuestOp::Write => &mut self.writes,
            GuestOp::Flush => &mut self.flushes,
            GuestOp::Discard | GuestOp::WriteZeroes => &mut self.discards,
        };
        requests.bytes += if well { bytes } else { 0 };
        requests.failed += u64::from(!well);
        requests.took.record(took);
    }
}

/// What a disk operation is for, as far as its duration is told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DiskClass {
    /// A frame or a header of the journal: a guest may wait for it.
    JournalWrite,
    /// Any other write.
    Write,
    /// Any read.
    Read,
    /// fdatasync.
    Sync,
    /// Files made, cut, punched, removed.
    Other,
}

impl DiskClass {
    pub(crate) const ALL: [DiskClass; 5] =
        [DiskClass::JournalWrite, DiskClass::Write, DiskClass::Read, DiskClass::Sync, DiskClass::Other];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            DiskClass::JournalWrite => "journal_write",
            DiskClass::Write => "write",
            DiskClass::Read => "read",
            DiskClass::Sync => "sync",
            DiskClass::Other => "other",
        }
    }

    fn of(op: &DiskOp) -> DiskClass {
        match (&op.kind, op.file) {
            (DiskOpKind::Write { .. }, FileId::Segment(_) | FileId::JournalHead) => DiskClass::JournalWrite,
            (DiskOpKind::Write { .. }, _) => DiskClass::Write,
            (DiskOpKind::Read { .. }, _) => DiskClass::Read,
            (DiskOpKind::Sync, _) => DiskClass::Sync,
            _ => DiskClass::Other,
        }
    }
}

/// Times the disk's operations. Bounded by what the store has in flight.
#[derive(Clone, Debug, Default)]
pub(crate) struct DiskMeter {
    begun: BTreeMap<OpId, (Time, DiskClass)>,
    took: [Histogram; DiskClass::ALL.len()],
    failed: u64,
}

impl DiskMeter {
    pub(crate) fn begins(&mut self, op: &DiskOp, now: Time) {
        self.begun.insert(op.id, (now, DiskClass::of(op)));
    }

    pub(crate) fn ended(&mut self, done: &DiskDone, now: Time) {
        let Some((begun, class)) = self.begun.remove(&done.id) else { return };
        self.took[class as usize].record(now.since(begun));
        self.failed += u64::from(done.result.is_err());
    }

    pub(crate) fn sample(&self, now: Time) -> DiskSample {
        let oldest = self.begun.values().map(|(begun, _)| now.since(*begun)).max();
        DiskSample {
            took: self.took.clone(),
            failed: self.failed,
            in_flight: self.begun.len(),
            oldest: oldest.unwrap_or_default(),
        }
    }
}

/// The disk at one moment.
#[derive(Clone, Debug)]
pub(crate) struct DiskSample {
    /// By class, as in `DiskClass::ALL`.
    pub(crate) took: [Histogram; DiskClass::ALL.len()],
    pub(crate) failed: u64,
    pub(crate) in_flight: usize,
    /// How long the oldest of them has been waiting.
    pub(crate) oldest: Duration,
}

/// One volume of the shard at one moment.
#[derive(Clone, Debug)]
pub(crate) struct VolumeSample {
    pub(crate) volume: VolumeId,
    pub(crate) guests: GuestCounters,
    pub(crate) clients: u32,
    /// Of the log that this primary writes.
    pub(crate) history: Option<History>,
}

/// The shard at one moment.
#[derive(Clone, Debug)]
pub(crate) struct ShardSample {
    pub(crate) at: Time,
    pub(crate) volumes: Vec<VolumeSample>,
    pub(crate) disk: DiskSample,
    pub(crate) journal_bytes: u64,
    pub(crate) journal_bound: u64,
    pub(crate) journal_full: bool,
    pub(crate) journal_lost: u64,
    pub(crate) staged_bytes: u64,
    pub(crate) unapplied_bytes: u64,
    pub(crate) table_bytes: usize,
    pub(crate) written: Written,
    pub(crate) short_of_space: bool,
    pub(crate) hung: bool,
    pub(crate) peers: Vec<(NodeId, PeerStats)>,
    pub(crate) turned_away: TurnedAway,
    pub(crate) refused_messages: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_store::io::{DiskError, DiskReply};

    #[test]
    fn classes_are_where_they_are_looked_for() {
        for (at, class) in DiskClass::ALL.iter().enumerate() {
            assert_eq!(*class as usize, at);
        }
    }

    #[test]
    fn the_disk_is_timed_by_class() {
        let mut meter = DiskMeter::default();
        let write =
            |file| DiskOp { id: OpId(1), file, kind: DiskOpKind::Write { offset: 0, data: Vec::new(), durable: true } };
        meter.begins(&write(FileId::Segment(3)), Time(1_000));
        let open = meter.sample(Time(3_000));
        assert_eq!((open.in_flight, open.oldest), (1, Duration::from_nanos(2_000)));
        meter.ended(&DiskDone { id: OpId(1), result: Ok(DiskReply::Done) }, Time(4_000));
        let read = DiskOp { id: OpId(2), file: FileId::JournalHead, kind: DiskOpKind::Read { offset: 0, len: 512 } };
        meter.begins(&read, Time(5_000));
        meter.ended(&DiskDone { id: OpId(2), result: Err(DiskError::Io(5)) }, Time(6_000));
        // What was never begun here was begun by nobody.
        meter.ended(&DiskDone { id: OpId(9), result: Ok(DiskReply::Done) }, Time(6_000));
        let sample = meter.sample(Time(6_000));
        let count = |class: DiskClass| sample.took[class as usize].count();
        assert_eq!((count(DiskClass::JournalWrite), count(DiskClass::Read), count(DiskClass::Write)), (1, 1, 0));
        assert_eq!((sample.failed, sample.in_flight, sample.oldest), (1, 0, Duration::ZERO));
    }

    #[test]
    fn answers_are_counted_by_kind_and_errors_bring_no_bytes() {
        let mut counters = GuestCounters::default();
        counters.answered(GuestOp::Write, 4096, Duration::from_millis(1), true);
        counters.answered(GuestOp::Write, 4096, Duration::from_millis(1), false);
        counters.answered(GuestOp::WriteZeroes, 512, Duration::ZERO, true);
        assert_eq!((counters.writes.bytes, counters.writes.failed, counters.writes.took.count()), (4096, 1, 2));
        assert_eq!((counters.discards.bytes, counters.reads.took.count()), (512, 0));
    }
}
