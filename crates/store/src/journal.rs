//! Writing the journal: group commit, commit marks, proofs of durability.
//!
//! ```text
//! enqueue ─► queue ─► frame (at most `frames_in_flight`) ─► done, in order ─► durable
//! ```
//!
//! Everything that arrives while the frames are in flight goes into the next one; a record that arrives while the journal
//! is idle leaves at once. A frame is durable when it and all before it are. Each frame says which frames were proven
//! durable when it was issued; that tells rot from a torn write at recovery. The last frame before an idle time is
//! followed by an empty one that proves it (*seal*), so that rot of it is not taken for a torn tail either.
//!
//! Invariants: sequence numbers are dense within a life; a frame lies in one segment; nothing is written before the
//! segment's header is durable. Segments and their reuse are in `ring.rs`.

use crate::io::{DiskOpKind, FileId};
use crate::ops::{Cx, Tag};
use crate::replica::{Location, Replica};
use crate::ring::{Active, Opening, Segment};
use bytes::Bytes;
use holdfast_format::{CommitMark, FrameHeader, FrameSlot, Record, padded};
use holdfast_types::{Lsn, MAX_FRAME_RECORDS, Mutant, SECTOR_SIZE, Time, VolumeId, mutated};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The journal of a running store.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(crate) id: u64,
    pub(crate) life: u64,
    pub(crate) next_seq: u64,
    /// Every frame up to here is durable.
    pub(crate) durable_seq: u64,
    pub(crate) next_generation: u64,
    /// All segments that are part of the journal, by generation.
    pub(crate) segments: BTreeMap<u64, Segment>,
    pub(crate) active: Option<Active>,
    pub(crate) opening: Option<Opening>,
    /// Slots that the newest durable segment header does not list: free to be overwritten.
    pub(crate) spares: BTreeSet<u32>,
    /// All slots that have a file.
    pub(crate) slots: BTreeSet<u32>,
    pub(crate) creating: Option<u32>,
    pub(crate) head: HeadFile,
    pub(crate) starved: bool,
    queue: VecDeque<Record>,
    /// Commit positions that no record carries yet, and since when.
    marks: BTreeMap<VolumeId, (Lsn, Time)>,
    flights: BTreeMap<u64, Flight>,
    /// The last frame with content; to be proven by a later one.
    content_seq: u64,
    /// What the last issued frame proved.
    proven_seq: u64,
    seal_at: Option<Time>,
}

/// The file of the journal's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadFile {
    Missing,
    Creating,
    Present,
}

#[derive(Debug)]
struct Flight {
    done: bool,
    slots: Vec<FrameSlot>,
}

impl Journal {
    /// A journal that continues after `last_seq` in a new life; nothing is written before a segment is open.
    pub(crate) fn new(id: u64, life: u64, last_seq: u64, last_generation: u64) -> Journal {
        Journal {
            id,
            life,
            next_seq: last_seq + 1,
            durable_seq: last_seq,
            next_generation: last_generation + 1,
            segments: BTreeMap::new(),
            active: None,
            opening: None,
            spares: BTreeSet::new(),
            slots: BTreeSet::new(),
            creating: None,
            head: HeadFile::Missing,
            starved: false,
            queue: VecDeque::new(),
            marks: BTreeMap::new(),
            flights: BTreeMap::new(),
            content_seq: 0,
            proven_seq: last_seq,
            seal_at: None,
        }
    }

    pub(crate) fn enqueue(&mut self, record: Record) {
        let header = record.header();
        if self.marks.get(&header.volume).is_some_and(|(committed, _)| *committed <= header.committed) {
            self.marks.remove(&header.volume);
        }
        self.queue.push_back(record);
    }

    /// Asks for a commit mark, if no record carries the position soon.
    pub(crate) fn want_mark(&mut self, volume: VolumeId, committed: Lsn, now: Time) {
        if !mutated(Mutant::NoCommitMarks) {
            self.marks.entry(volume).or_insert((committed, now)).0 = committed;
        }
    }

    /// No segment can be had: copies should do what frees one.
    pub(crate) const fn pressure(&self) -> bool {
        self.starved
    }

    pub(crate) fn slot_of(&self, generation: u64) -> Option<u32> {
        self.segments.get(&generation).map(|segment| segment.slot)
    }

    /// Whether anything of this volume is still on its way into the journal.
    pub(crate) fn carries(&self, volume: VolumeId) -> bool {
        let of = |slot: &FrameSlot| match slot {
            FrameSlot::Record(header) => header.volume == volume,
            FrameSlot::Commit(mark) => mark.volume == volume,
        };
        self.flights.values().any(|flight| flight.slots.iter().any(of))
    }

    /// Drops records of this volume beyond `last` that have not been issued.
    pub(crate) fn drop_queued_after(&mut self, volume: VolumeId, last: Lsn) {
        self.queue.retain(|record| record.header().volume != volume || record.lsn() <= last);
    }

    /// Drops what waits for this volume.
    pub(crate) fn drop_queued(&mut self, volume: VolumeId) {
        self.queue.retain(|record| record.header().volume != volume);
        self.marks.remove(&volume);
    }

    /// The volume's log ends at `last`: what lies in the journal beyond was cut, and segments are not kept for it. All
    /// records of the volume are durable when this is called. Otherwise a cut tail would count as needed until the log
    /// has grown past it, which it can't while the journal is full.
    pub(crate) fn clip(&mut self, volume: VolumeId, last: Lsn) {
        for segment in self.segments.values_mut() {
            if let Some(highest) = segment.records.get_mut(&volume) {
                *highest = (*highest).min(last);
            }
        }
    }

    /// No longer keeps segments for this volume.
    pub(crate) fn forget(&mut self, volume: VolumeId) {
        for segment in self.segments.values_mut() {
            segment.records.remove(&volume);
            segment.marks.remove(&volume);
        }
    }

    /// When the journal wants to be called though nothing happens.
    pub(crate) fn next_timeout(&self, cx_seal: std::time::Duration) -> Option<Time> {
        if self.active.is_none() || self.opening.is_some() || self.starved || !self.flights.is_empty() {
            return None;
        }
        let marks = self.marks.values().map(|(_, since)| *since + cx_seal).min();
        self.seal_at.into_iter().chain(marks).min()
    }

    /// Issues frames as long as there is something to write and room in flight.
    pub(crate) fn pump(
        &mut self,
        cx: &mut Cx<'_>,
        replicas: &mut BTreeMap<VolumeId, Replica>,
        failed: &BTreeSet<VolumeId>,
    ) {
        self.keep_spares(cx);
        while self.flights.values().filter(|f| !f.done).count() < cx.config.frames_in_flight {
            if !self.wants_frame(cx.now, cx.config.seal_delay) {
                self.starved = false;
                break;
            }
            if self.opening.is_some() {
                break;
            }
            let fits = self.active.as_ref().is_some_and(|a| a.room >= self.least_frame(cx));
            if !fits {
                self.switch_segment(cx, replicas, failed);
                break;
            }
            self.starved = false;
            self.issue(cx, replicas);
        }
    }

    fn wants_frame(&self, now: Time, delay: std::time::Duration) -> bool {
        let due = |at: Time| at <= now;
        let idle = self.flights.is_empty();
        !self.queue.is_empty()
            || (idle && self.seal_at.is_some_and(due))
            || (idle && self.marks.values().any(|(_, since)| due(*since + delay)))
    }

    /// Bytes of the smallest frame that can be next.
    fn least_frame(&self, cx: &Cx<'_>) -> u64 {
        let marks = self.due_marks(cx.now, cx.config.seal_delay).len().min(MAX_FRAME_RECORDS - 1);
        let records = usize::from(!self.queue.is_empty());
        let slots = u16::try_from(marks + records).expect("at most 256");
        let body = self.queue.front().map_or(0, |record| padded(record.header().body_len));
        u64::from(FrameHeader::head_len(slots)) + u64::from(body)
    }

    fn due_marks(&self, now: Time, delay: std::time::Duration) -> Vec<VolumeId> {
        self.marks.iter().filter(|(_, (_, since))| *since + delay <= now).map(|(volume, _)| *volume).collect()
    }

    /// Writes one frame: due marks, and as many queued records as fit.
    fn issue(&mut self, cx: &mut Cx<'_>, replicas: &mut BTreeMap<VolumeId, Replica>) {
        let marks = self.take_marks(cx, replicas);
        let room = self.active.as_ref().expect("a segment is open").room;
        let records = self.take_records(marks.len(), room.min(u64::from(cx.config.frame_bytes)), room);
        let slots: Vec<FrameSlot> = records.iter().map(|r| FrameSlot::Record(*r.header())).chain(marks).collect();
        let count = u16::try_from(slots.len()).expect("at most 256");
        let total: u32 = FrameHeader::head_len(count) + slots.iter().map(|s| padded(s.body_len())).sum::<u32>();
        let header = FrameHeader {
            journal: self.id,
            life: self.life,
            generation: self.active.as_ref().expect("a segment is open").generation,
            seq: self.next_seq,
            proven: self.durable_seq,
            slots: count,
            total_len: total,
            slots_sum: 0,
        };
        let mut data = vec![header.encode_head(&slots)];
        let offset = self.place(&records, &slots, total, replicas);
        for record in records {
            push_body(&mut data, record.body());
        }
        if !slots.is_empty() {
            self.content_seq = header.seq;
        }
        self.next_seq += 1;
        self.proven_seq = header.proven;
        self.seal_at = None;
        self.flights.insert(header.seq, Flight { done: false, slots });
        let slot = self.slot_of(header.generation).expect("the open segment is in the ring");
        cx.submit(
            Tag::Frame(header.seq),
            FileId::Segment(slot),
            DiskOpKind::Write { offset, data, durable: !mutated(Mutant::JournalNotDurable) },
        );
    }

    fn take_marks(&mut self, cx: &Cx<'_>, replicas: &mut BTreeMap<VolumeId, Replica>) -> Vec<FrameSlot> {
        let mut slots = Vec::new();
        for volume in self.due_marks(cx.now, cx.config.seal_delay).into_iter().take(MAX_FRAME_RECORDS - 1) {
            let (committed, _) = self.marks.remove(&volume).expect("a due mark is there");
            let Some(replica) = replicas.get_mut(&volume).filter(|r| r.carried < committed) else { continue };
            replica.carried = committed;
            slots.push(FrameSlot::Commit(CommitMark { volume, committed }));
        }
        slots
    }

    fn take_records(&mut self, marks: usize, target: u64, room: u64) -> Vec<Record> {
        let mut records: Vec<Record> = Vec::new();
        let mut bodies = 0;
        while let Some(record) = self.queue.front() {
            let slots = marks + records.len() + 1;
            if slots > MAX_FRAME_RECORDS {
                break;
            }
            let head = FrameHeader::head_len(u16::try_from(slots).expect("at most 256"));
            let with = u64::from(head) + bodies + u64::from(padded(record.header().body_len));
            // A record larger than the target travels alone.
            if with > if records.is_empty() { room } else { target } {
                break;
            }
            bodies += u64::from(padded(record.header().body_len));
            records.push(self.queue.pop_front().expect("there is one in front"));
        }
        records
    }

    /// Reserves the frame's place and tells each copy where its records lie. Gives the frame's offset.
    fn place(
        &mut self,
        records: &[Record],
        slots: &[FrameSlot],
        total: u32,
        replicas: &mut BTreeMap<VolumeId, Replica>,
    ) -> u64 {
        let active = self.active.as_mut().expect("a segment is open");
        assert!(u64::from(total) <= active.room, "a frame lies in one segment");
        let (generation, offset) = (active.generation, active.tail);
        active.tail += u64::from(total);
        active.room -= u64::from(total);
        let segment = self.segments.get_mut(&generation).expect("the open segment is in the ring");
        segment.note(slots);
        let count = u16::try_from(slots.len()).expect("at most 256");
        let mut body_at = offset + u64::from(FrameHeader::head_len(count));
        for (i, record) in (1u64..).zip(records) {
            let header = record.header();
            let header_at = offset + i * FrameHeader::LEN as u64;
            let replica = replicas.get_mut(&header.volume).expect("records of a copy that left are not queued");
            let entry = replica.log.get_mut(&header.lsn).expect("a queued record is in the log");
            entry.at = Some(Location { generation, header_at, body_at });
            body_at += u64::from(padded(header.body_len));
        }
        offset
    }

    /// A frame was written. Gives the volumes that gained durable records.
    pub(crate) fn frame_done(
        &mut self,
        cx: &mut Cx<'_>,
        seq: u64,
        replicas: &mut BTreeMap<VolumeId, Replica>,
    ) -> BTreeSet<VolumeId> {
        if mutated(Mutant::FramesOutOfOrder) && seq <= self.durable_seq {
            return BTreeSet::new();
        }
        self.flights.get_mut(&seq).expect("a frame that ended was in flight").done = true;
        let mut gained = BTreeSet::new();
        let mut touched = BTreeSet::new();
        let counts = |first: u64, flight: &Flight| flight.done || (first < seq && mutated(Mutant::FramesOutOfOrder));
        while self.flights.first_key_value().is_some_and(|(first, flight)| counts(*first, flight)) {
            let (seq, flight) = self.flights.pop_first().expect("found just now");
            assert_eq!(seq, self.durable_seq + 1, "frames become durable in order");
            self.durable_seq = seq;
            for slot in flight.slots {
                touched.insert(settle(slot, replicas, &mut gained));
            }
        }
        for volume in &gained {
            replicas[volume].attest_durable(cx.out);
        }
        if self.flights.is_empty() && self.queue.is_empty() && self.content_seq > self.proven_seq {
            self.seal_at = Some(cx.now + cx.config.seal_delay);
        }
        touched
    }
}

/// One slot of a durable frame. Gives its volume.
fn settle(slot: FrameSlot, replicas: &mut BTreeMap<VolumeId, Replica>, gained: &mut BTreeSet<VolumeId>) -> VolumeId {
    match slot {
        FrameSlot::Record(header) => {
            if let Some(replica) = replicas.get_mut(&header.volume) {
                replica.on_durable(header.lsn, header.committed);
                gained.insert(header.volume);
            }
            header.volume
        }
        FrameSlot::Commit(mark) => {
            if let Some(replica) = replicas.get_mut(&mark.volume) {
                replica.known_committed = replica.known_committed.max(mark.committed);
            }
            mark.volume
        }
    }
}

fn push_body(data: &mut Vec<Bytes>, body: &Bytes) {
    static ZEROS: [u8; SECTOR_SIZE] = [0; SECTOR_SIZE];
    if body.is_empty() {
        return;
    }
    data.push(body.clone());
    let rest = body.len().next_multiple_of(SECTOR_SIZE) - body.len();
    if rest > 0 {
        data.push(Bytes::from_static(&ZEROS).slice(..rest));
    }
}
