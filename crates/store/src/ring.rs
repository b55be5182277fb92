//! The journal's segments: opening the next one, giving old ones free, keeping spare files ready.
//!
//! A segment goes through: file created (zero-written) → *spare* → header durable → named by the journal's head: *open* →
//! *closed* → released → spare.
//! The header of a new segment lists all segments that stay part of the journal. So a segment is released by the very
//! write that opens another one, and only a slot that the newest durable header does not list is ever overwritten:
//! whatever a crash leaves in such a slot, recovery does not look at it.
//!
//! Therefore the last spare is used only together with a release, else the next header would have no place to go to.
//!
//! Segments are released in any order, not only the oldest: a volume that is stalled pins what it needs and no more. What may
//! be released: see `Level`. A copy that failed or is being deleted pins its records until its superblock is gone: safety
//! before its neighbours' room.

use crate::io::{DiskOpKind, FileId};
use crate::journal::{HeadFile, Journal};
use crate::ops::{Cx, Tag};
use crate::replica::Replica;
use holdfast_format::{ClosedSegment, FrameSlot, JournalHead, SegmentHeader};
use holdfast_types::{Lsn, Mutant, VolumeId, mutated};
use std::collections::{BTreeMap, BTreeSet};

const HEADER: u64 = SegmentHeader::LEN as u64;
/// Spare segments kept ready.
const SPARES: usize = 2;

/// A segment that is part of the journal.
#[derive(Debug, Default)]
pub(crate) struct Segment {
    pub(crate) slot: u32,
    /// Bytes of its file.
    pub(crate) bytes: u64,
    /// Its last frame; absent while it is open.
    pub(crate) end: Option<u64>,
    /// Highest record of each volume in it.
    pub(crate) records: BTreeMap<VolumeId, Lsn>,
    /// Highest commit mark of each volume in it.
    pub(crate) marks: BTreeMap<VolumeId, Lsn>,
    /// Recovery found rot in it: kept as evidence while a copy does not know its log's end.
    pub(crate) damaged: bool,
}

/// The segment that takes frames.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) generation: u64,
    /// Where the next frame goes.
    pub(crate) tail: u64,
    /// Bytes from there to the end.
    pub(crate) room: u64,
}

/// A segment whose header is being written.
#[derive(Debug)]
pub(crate) struct Opening {
    generation: u64,
    bytes: u64,
    /// Slots that are free when the header is durable, with the bytes of their files.
    released: Vec<(u32, u64)>,
}

/// What segments are kept for. Each level gives up more than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// Records above a checkpoint, and those that other copies may still ask for.
    CatchUp,
    /// Records above a checkpoint: retention is a preference. What a failed copy may still hold alone is never given up:
    /// without it the copy would open as whole after a restart and count in a fence quorum (S19, S20).
    Replay,
}

impl Segment {
    /// Remembers whose records and marks a frame brings.
    pub(crate) fn note(&mut self, slots: &[FrameSlot]) {
        for slot in slots {
            let (map, volume, lsn) = match slot {
                FrameSlot::Record(header) => (&mut self.records, header.volume, header.lsn),
                FrameSlot::Commit(mark) => (&mut self.marks, mark.volume, mark.committed),
            };
            let highest = map.entry(volume).or_insert(lsn);
            *highest = (*highest).max(lsn);
        }
    }

    fn needed(&self, level: Level, replicas: &BTreeMap<VolumeId, Replica>, failed: &BTreeSet<VolumeId>) -> bool {
        let needed = |(volume, lsn): (&VolumeId, &Lsn)| match replicas.get(volume) {
            Some(r) if mutated(Mutant::ReusesUncheckpointed) => *lsn > r.applied,
            Some(r) => {
                let retained = level == Level::CatchUp && !mutated(Mutant::ReusesUntrimmed) && *lsn > r.trim;
                *lsn > r.checkpoint || retained
            }
            None => failed.contains(volume) && !mutated(Mutant::ReusesFailedCopy),
        };
        let evidence = self.damaged && replicas.values().any(|r| r.unknown_to.is_some());
        evidence
            || self.records.iter().any(needed)
            || self.marks.iter().any(|(v, l)| replicas.get(v).is_some_and(|r| *l > r.checkpoint))
    }
}

impl Journal {
    /// Creates spare files ahead of need, one at a time.
    pub(crate) fn keep_spares(&mut self, cx: &mut Cx<'_>) {
        let count = self.slots.len() + usize::from(self.creating.is_some());
        let few = self.spares.len() < SPARES && count < as_count(cx.config.max_segments);
        // The start of a life may take the last spare of a full journal; one more file then, or no segment could ever be
        // released again. Each life adds one at most, and only if the journal is full at its start.
        if few || self.spares.is_empty() || count < as_count(cx.config.min_segments) {
            self.create_spare(cx);
        }
    }

    /// Makes the file of the head, unless it is there or being made.
    pub(crate) fn create_head(&mut self, cx: &mut Cx<'_>) {
        if self.head == HeadFile::Missing {
            self.head = HeadFile::Creating;
            let len = JournalHead::LEN as u64;
            cx.submit(Tag::Head(false), FileId::JournalHead, DiskOpKind::Create { len, written: true });
        }
    }

    /// Creates one more spare file, unless one is being created.
    pub(crate) fn create_spare(&mut self, cx: &mut Cx<'_>) {
        if self.creating.is_some() {
            return;
        }
        let slot = (0..).find(|slot| !self.slots.contains(slot)).expect("there are more numbers than segments");
        self.creating = Some(slot);
        let kind = DiskOpKind::Create { len: cx.config.segment_bytes, written: true };
        cx.submit(Tag::Slot(slot), FileId::Segment(slot), kind);
    }

    pub(crate) fn slot_created(&mut self, slot: u32) {
        assert_eq!(self.creating.take(), Some(slot), "one segment is created at a time");
        self.slots.insert(slot);
        self.spares.insert(slot);
    }

    /// Opens the next segment, if there is a spare one and another stays spare.
    pub(crate) fn switch_segment(
        &mut self,
        cx: &mut Cx<'_>,
        replicas: &mut BTreeMap<VolumeId, Replica>,
        failed: &BTreeSet<VolumeId>,
    ) {
        let full = self.slots.len() >= as_count(cx.config.max_segments) || cx.ops.slot_is_short();
        let released = self.to_release(full, replicas, failed);
        let reserve = if mutated(Mutant::LastSpareFilled) { 1 } else { 2 };
        if self.spares.is_empty() || self.spares.len() + released.len() < reserve {
            self.starved = full;
            return;
        }
        self.starved = false;
        self.open_segment(cx, replicas, &released);
    }

    /// First segment of a life: takes the last spare, too, for without it nothing could ever be written.
    pub(crate) fn open_first_segment(
        &mut self,
        cx: &mut Cx<'_>,
        replicas: &mut BTreeMap<VolumeId, Replica>,
        failed: &BTreeSet<VolumeId>,
    ) {
        let full = self.slots.len() >= as_count(cx.config.max_segments);
        let released = self.to_release(full, replicas, failed);
        self.open_segment(cx, replicas, &released);
    }

    /// Segments that the next one lets go. A journal that is full gives up what lagging copies would still fetch, rather
    /// than the room for the next segment.
    fn to_release(&self, full: bool, replicas: &BTreeMap<VolumeId, Replica>, failed: &BTreeSet<VolumeId>) -> Vec<u64> {
        let released = self.releasable(Level::CatchUp, replicas, failed, usize::MAX);
        if full && self.spares.len() + released.len() < 2 {
            return self.releasable(Level::Replay, replicas, failed, SPARES);
        }
        released
    }

    fn releasable(
        &self,
        level: Level,
        replicas: &BTreeMap<VolumeId, Replica>,
        failed: &BTreeSet<VolumeId>,
        most: usize,
    ) -> Vec<u64> {
        let free = |s: &Segment| s.end.is_some_and(|end| end <= self.durable_seq) && !s.needed(level, replicas, failed);
        self.segments
            .iter()
            .filter(|(_, segment)| free(segment))
            .map(|(generation, _)| *generation)
            .take(most)
            .collect()
    }

    fn open_segment(&mut self, cx: &mut Cx<'_>, replicas: &mut BTreeMap<VolumeId, Replica>, released: &[u64]) {
        assert!(self.opening.is_none(), "one segment is opened at a time");
        if let Some(active) = self.active.take() {
            let segment = self.segments.get_mut(&active.generation).expect("the open segment is in the ring");
            segment.end = Some(self.next_seq - 1);
        }
        let freed = released.iter().map(|generation| self.release(*generation, replicas)).collect();
        let slot = self.spares.pop_first().expect("the caller saw a spare segment");
        let closed = |(generation, segment): (&u64, &Segment)| ClosedSegment {
            generation: *generation,
            end: segment.end.expect("only the open segment has no end, and it was closed"),
        };
        let header = SegmentHeader {
            journal: self.id,
            generation: self.next_generation,
            life: self.life,
            first_seq: self.next_seq,
            bytes: cx.config.segment_bytes,
            slot,
            closed: self.segments.iter().map(closed).collect(),
        };
        self.next_generation += 1;
        let (generation, bytes) = (header.generation, cx.config.segment_bytes);
        self.segments.insert(generation, Segment { slot, bytes, ..Segment::default() });
        self.opening = Some(Opening { generation, bytes, released: freed });
        let kind = DiskOpKind::Write { offset: 0, data: vec![header.encode()], durable: true };
        cx.submit(Tag::SegmentHeader, FileId::Segment(slot), kind);
    }

    /// Takes a segment out of the journal; gives its slot and the bytes of its file.
    fn release(&mut self, generation: u64, replicas: &mut BTreeMap<VolumeId, Replica>) -> (u32, u64) {
        let segment = self.segments.remove(&generation).expect("a releasable segment is in the ring");
        for (volume, lsn) in segment.records {
            if let Some(replica) = replicas.get_mut(&volume) {
                replica.forget_log(lsn.min(replica.checkpoint));
            }
        }
        (segment.slot, segment.bytes)
    }

    /// The header of the new segment is durable: the head may name it. Only then may it take frames: if it is gone at the next
    /// start, that must be seen.
    pub(crate) fn write_head(&self, cx: &mut Cx<'_>) {
        let generation = self.opening.as_ref().expect("a header that was written was being written").generation;
        let head = JournalHead { journal: self.id, generation };
        let kind = DiskOpKind::Write { offset: 0, data: vec![head.encode()], durable: true };
        cx.submit(Tag::Head(true), FileId::JournalHead, kind);
    }

    /// The journal's head names the new segment.
    pub(crate) fn segment_opened(&mut self) {
        let opening = self.opening.take().expect("a header that was written was being written");
        for (slot, bytes) in opening.released {
            // A file of another size, from another configuration, is made anew before it is used.
            if bytes == opening.bytes {
                self.spares.insert(slot);
            } else {
                self.slots.remove(&slot);
            }
        }
        self.active = Some(Active { generation: opening.generation, tail: HEADER, room: opening.bytes - HEADER });
    }
}

fn as_count(n: u32) -> usize {
    usize::try_from(n).expect("at most 120 segments")
}
