//! The journal's segments: opening the next one, giving old ones free, keeping spare files ready.
//!
//! ```text
//! file created (zero-written) ─► spare ─► header durable ─► named by the head: open ─► closed ─► released ─► spare
//!                                  └─► removed, when the journal has shrunk
//! ```
//! The header of a new segment lists all segments that stay part of the journal. So a segment is released by the very
//! write that opens another one, and only a slot that the newest durable header does not list is ever overwritten:
//! whatever a crash leaves in such a slot, recovery does not look at it.
//!
//! Therefore the last spare is used only together with a release, else the next header would have no place to go to.
//!
//! The journal grows to `max_segments` files and no further. What happens there, in this order: what only lagging copies
//! would still fetch is given up, oldest first (they need a resync then); next, writes wait. What must never wait for writes
//! has room of its own, one spare segment that ordinary records do not take: the start of an epoch, and what a fence or a
//! cut has to drain before it can be answered. Both end the state that fills a journal. Should even that room be used
//! up, and at the start of a life, which always takes a segment, files are added up to the format's limit.
//!
//! It shrinks by what was spare throughout a whole `shrink_interval`.
//!
//! Segments are released in any order, not only the oldest: a volume that is stalled pins what it needs and no more. What may
//! be released: see `Level`. A copy that failed or is being deleted pins what lies above its checkpoint until its superblock
//! is gone: safety before its neighbours' room. Below its checkpoint it pins no more than a copy that serves: what a
//! checkpoint covers was durable in the image before the superblock said so, and the next start reads nothing below it.

use crate::copies::Copies;
use crate::io::{DiskOpKind, FileId};
use crate::journal::{HeadFile, Journal};
use crate::ops::{Cx, Tag};
use crate::replica::Replica;
use holdfast_format::{ClosedSegment, FrameSlot, JournalHead, SegmentHeader};
use holdfast_types::{Lsn, Mutant, VolumeId, mutated};
use std::collections::BTreeMap;

const HEADER: u64 = SegmentHeader::LEN as u64;
/// Spare segments kept ready: the next one, the reserve, and one that a release can be written to.
const SPARES: usize = 3;
/// What records may leave of them.
const RESERVED: usize = 2;
/// Files there may be at all: a header lists no more.
const LIMIT: usize = SegmentHeader::MAX_CLOSED;

/// Copies out of service that the next start would open, and what the journal keeps for them.
pub(crate) type Failed = BTreeMap<VolumeId, Held>;

/// What the journal keeps for a copy. The default is everything.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Held {
    /// The next start replays what lies above. Durable in the superblock.
    checkpoint: Lsn,
    /// Others may still ask for what lies above.
    trim: Lsn,
}

impl Held {
    pub(crate) fn by(replica: &Replica) -> Held {
        if mutated(Mutant::ReusesUncheckpointed) {
            return Held { checkpoint: replica.applied, trim: replica.applied };
        }
        Held { checkpoint: replica.checkpoint, trim: replica.trim }
    }

    fn needs(self, lsn: Lsn, level: Level) -> bool {
        let retained = level == Level::CatchUp && !mutated(Mutant::ReusesUntrimmed) && lsn > self.trim;
        lsn > self.checkpoint || retained
    }
}

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
    /// It belongs to the reserve: records that may wait don't go here.
    pub(crate) reserved: bool,
}

/// A segment whose header is being written.
#[derive(Debug)]
pub(crate) struct Opening {
    generation: u64,
    bytes: u64,
    reserved: bool,
    /// Slots that are free when the header is durable, with the bytes of their files.
    released: Vec<(u32, u64)>,
}

/// Who needs the next segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Anything that is to be written.
    Records,
    /// What must not wait for room.
    Reserve,
}

/// What came of the wish for the next segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Switch {
    Opening,
    /// A spare file is being made.
    Later,
    /// Only a release would help.
    Full,
}

/// What segments are kept for. Each level gives up more than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// Records above a checkpoint, and those that other copies may still ask for.
    CatchUp,
    /// Records above a checkpoint, of failed copies, too, which may hold them alone: without them a copy would open as whole
    /// after a restart and count in a fence quorum (S19, S20).
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

    /// Whether a copy has records here that are not committed.
    fn waits(&self, replicas: &Copies) -> bool {
        self.records.iter().any(|(v, lsn)| replicas.get(v).is_some_and(|r| *lsn > r.committed))
    }

    fn needed(&self, level: Level, replicas: &Copies, failed: &Failed) -> bool {
        let held = |volume: &VolumeId| match replicas.get(volume) {
            Some(replica) => Some(Held::by(replica)),
            None if mutated(Mutant::ReusesFailedCopy) => None,
            None => failed.get(volume).copied(),
        };
        let evidence = self.damaged && (!failed.is_empty() || replicas.values().any(|r| r.unknown_to.is_some()));
        evidence
            || self.records.iter().any(|(v, lsn)| held(v).is_some_and(|h| h.needs(*lsn, level)))
            || self.marks.iter().any(|(v, lsn)| held(v).is_some_and(|h| h.needs(*lsn, Level::Replay)))
    }
}

impl Journal {
    /// Creates spare files ahead of need, one at a time.
    pub(crate) fn keep_spares(&mut self, cx: &mut Cx<'_>) {
        let count = self.files();
        let few = self.spares.len() < SPARES && count < as_count(cx.config.max_segments);
        // The start of a life and the reserve may take the last spare of a full journal; one more file then, or no segment
        // could ever be released again. While a segment is being opened, what it releases is as good as spare.
        let none = self.spares.is_empty() && self.opening.is_none() && count < LIMIT;
        if few || none || count < as_count(cx.config.min_segments) {
            self.create_spare(cx);
        }
    }

    /// Whether the format takes one more file.
    pub(crate) fn may_add(&self) -> bool {
        self.files() < LIMIT || self.creating.is_some()
    }

    /// Whether more of this volume would only pin more: half of the journal is pinned by what is not committed, and of its own
    /// records above `committed` the oldest are not in the newest segments. Where it writes slowly beside others that write fast,
    /// few bytes are in many segments.
    pub(crate) fn outstays(&self, most: u32, volume: VolumeId, committed: Lsn) -> bool {
        let newest = self.next_generation.saturating_sub(2);
        self.is_crowded(most)
            && self.segments.range(..newest).any(|(_, s)| s.records.get(&volume).is_some_and(|lsn| *lsn > committed))
    }

    /// Half of the journal was pinned by what is not committed when the open segment was opened.
    pub(crate) fn is_crowded(&self, most: u32) -> bool {
        self.uncommitted >= as_count(most) / 2
    }

    fn files(&self) -> usize {
        self.slots.len() + usize::from(self.creating.is_some())
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

    /// Gives back files that were spare all through an interval, one at a time. A journal that nobody writes to releases
    /// nothing by itself, so that a segment is opened for it.
    pub(crate) fn shrink(&mut self, cx: &mut Cx<'_>, replicas: &mut Copies, failed: &Failed) {
        let (least, most) = (as_count(cx.config.min_segments), as_count(cx.config.max_segments));
        self.beyond = self.slots.len().saturating_sub(most);
        self.least_spares = self.least_spares.min(self.spares.len());
        if self.unrest && self.shrink_at.is_none() && self.slots.len() > least {
            self.unrest = false;
            self.least_spares = self.spares.len();
            self.shrink_at = Some(cx.now + cx.config.shrink_interval);
        }
        if self.shrink_at.is_some_and(|at| at <= cx.now) {
            self.shrink_at = None;
            self.surplus = self.least_spares.saturating_sub(SPARES).min(self.slots.len().saturating_sub(least));
            let idle = self.opening.is_none() && self.active.is_some() && !self.starved;
            // The segment that is closed by it is the next one to be released; alone it is not worth another.
            let level = if self.beyond > 0 { Level::Replay } else { Level::CatchUp };
            if idle && self.releasable(level, replicas, failed, 2).len() == 2 {
                self.switch_segment(cx, replicas, failed, Purpose::Records);
            }
        }
        if self.surplus.max(self.beyond) > 0 && self.removing.is_none() && self.spares.len() > SPARES {
            let slot = self.spares.pop_last().expect("more than a few");
            self.surplus = self.surplus.saturating_sub(1);
            self.removing = Some(slot);
            cx.submit(Tag::Removal(slot), FileId::Segment(slot), DiskOpKind::Delete);
        }
    }

    pub(crate) fn slot_removed(&mut self, slot: u32) {
        assert_eq!(self.removing.take(), Some(slot), "one segment is removed at a time");
        self.slots.remove(&slot);
        self.unrest = true;
    }

    /// Opens the next segment for `purpose`, if enough stays spare.
    pub(crate) fn switch_segment(
        &mut self,
        cx: &mut Cx<'_>,
        replicas: &mut Copies,
        failed: &Failed,
        purpose: Purpose,
    ) -> Switch {
        let full = self.is_full(cx);
        let released = self.to_release(full, replicas, failed);
        let left = self.spares.len() + released.len();
        let enough = match purpose {
            Purpose::Records => left > if mutated(Mutant::LastSpareFilled) { 0 } else { RESERVED },
            Purpose::Reserve => left > 1 || (self.files() < LIMIT && !cx.ops.slot_is_short()),
        };
        if self.spares.is_empty() || !enough {
            return if full { Switch::Full } else { Switch::Later };
        }
        self.open_segment(cx, replicas, &released, purpose == Purpose::Reserve);
        Switch::Opening
    }

    /// What was opened as reserve is for everything again, once as much as that would be left.
    pub(crate) fn end_reserve(&mut self, cx: &Cx<'_>, replicas: &Copies, failed: &Failed) {
        let Some(active) = self.active.as_ref().filter(|a| a.reserved) else { return };
        assert!(self.segments.contains_key(&active.generation), "the open segment is in the ring");
        let left = self.spares.len() + self.to_release(self.is_full(cx), replicas, failed).len();
        let reserved = left < RESERVED && self.is_full(cx);
        self.active.as_mut().expect("looked at just now").reserved = reserved;
    }

    /// No file may be added for records.
    fn is_full(&self, cx: &Cx<'_>) -> bool {
        self.slots.len() >= as_count(cx.config.max_segments) || cx.ops.slot_is_short()
    }

    /// First segment of a life: takes the last spare, too, for without it nothing could ever be written. False if no segment
    /// could be released after it any more: the format's limit is reached, and everything is needed.
    pub(crate) fn open_first_segment(&mut self, cx: &mut Cx<'_>, replicas: &mut Copies, failed: &Failed) -> bool {
        let released = self.to_release(self.is_full(cx), replicas, failed);
        if self.spares.len() + released.len() < 2 && self.files() >= LIMIT {
            return false;
        }
        let reserved = self.is_full(cx) && self.spares.len() + released.len() <= RESERVED;
        self.open_segment(cx, replicas, &released, reserved);
        true
    }

    /// Segments that the next one lets go. A journal that is full gives up what lagging copies would still fetch, rather
    /// than the room for the next segment.
    fn to_release(&self, full: bool, replicas: &Copies, failed: &Failed) -> Vec<u64> {
        let released = self.releasable(Level::CatchUp, replicas, failed, usize::MAX);
        // Above the bound: as many as can be removed then, next to the spares and the one that is opened.
        let spares = if self.beyond > 0 { SPARES + self.beyond } else { RESERVED };
        let wanted = (spares + 1).saturating_sub(self.spares.len());
        if full && released.len() < wanted {
            return self.releasable(Level::Replay, replicas, failed, wanted);
        }
        released
    }

    fn releasable(&self, level: Level, replicas: &Copies, failed: &Failed, most: usize) -> Vec<u64> {
        let free = |s: &Segment| s.end.is_some_and(|end| end <= self.durable_seq) && !s.needed(level, replicas, failed);
        self.segments
            .iter()
            .filter(|(_, segment)| free(segment))
            .map(|(generation, _)| *generation)
            .take(most)
            .collect()
    }

    fn open_segment(&mut self, cx: &mut Cx<'_>, replicas: &mut Copies, released: &[u64], reserved: bool) {
        assert!(self.opening.is_none(), "one segment is opened at a time");
        if let Some(active) = self.active.take() {
            let segment = self.segments.get_mut(&active.generation).expect("the open segment is in the ring");
            segment.end = Some(self.next_seq - 1);
        }
        let freed = released.iter().map(|generation| self.release(*generation, replicas)).collect();
        self.uncommitted = self.segments.values().filter(|segment| segment.waits(replicas)).count();
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
        self.opening = Some(Opening { generation, bytes, reserved, released: freed });
        let kind = DiskOpKind::Write { offset: 0, data: vec![header.encode()], durable: true };
        cx.submit(Tag::SegmentHeader, FileId::Segment(slot), kind);
    }

    /// Takes a segment out of the journal; gives its slot and the bytes of its file.
    fn release(&mut self, generation: u64, replicas: &mut Copies) -> (u32, u64) {
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
        self.unrest = true;
        let Opening { generation, bytes, reserved, .. } = opening;
        self.active = Some(Active { generation, tail: HEADER, room: bytes - HEADER, reserved });
    }
}

fn as_count(n: u32) -> usize {
    usize::try_from(n).expect("at most 120 segments")
}
