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

use crate::copies::Copies;
use crate::io::{DiskOpKind, FileId};
use crate::ops::{Cx, Tag};
use crate::replica::{Location, Replica, len_of};
use crate::ring::{Active, Failed, Opening, Purpose, Segment, Switch};
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
    /// Records wait for room that only a release gives.
    pub(crate) starved: bool,
    /// What is due waits for a file that is being made, and for no time.
    awaits_spare: bool,
    /// Segments with records that were not committed when the open one was opened.
    pub(crate) uncommitted: usize,
    /// Something may have become superfluous since the journal was last looked over.
    pub(crate) unrest: bool,
    /// When what was spare all the time is given back.
    pub(crate) shrink_at: Option<Time>,
    /// Fewest spares since then.
    pub(crate) least_spares: usize,
    /// Files to give back, and the one that is being removed.
    pub(crate) surplus: usize,
    /// Files above the bound.
    pub(crate) beyond: usize,
    pub(crate) removing: Option<u32>,
    queue: VecDeque<Record>,
    queue_bytes: u64,
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

/// What a frame may take.
#[derive(Debug)]
struct Pick {
    marks: bool,
    /// Records up to here of each volume; `None`: all.
    upto: Option<BTreeMap<VolumeId, Lsn>>,
}

impl Pick {
    const fn all() -> Pick {
        Pick { marks: true, upto: None }
    }
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
            awaits_spare: false,
            uncommitted: 0,
            unrest: true,
            shrink_at: None,
            least_spares: 0,
            surplus: 0,
            beyond: 0,
            removing: None,
            queue: VecDeque::new(),
            queue_bytes: 0,
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
        self.queue_bytes += len_of(&record);
        self.queue.push_back(record);
    }

    /// Asks for a commit mark, if no record carries the position soon.
    pub(crate) fn want_mark(&mut self, volume: VolumeId, committed: Lsn, now: Time) {
        if !mutated(Mutant::NoCommitMarks) {
            self.marks.entry(volume).or_insert((committed, now)).0 = committed;
        }
    }

    /// Bytes of records that were not issued yet.
    pub(crate) const fn queue_bytes(&self) -> u64 {
        self.queue_bytes
    }

    /// No record can be written before something else has ended.
    pub(crate) fn is_stuck(&self) -> bool {
        !self.queue.is_empty() && self.flights.is_empty()
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
        self.queue_bytes = self.queue.iter().map(len_of).sum();
    }

    /// Drops what waits for this volume.
    pub(crate) fn drop_queued(&mut self, volume: VolumeId) {
        self.queue.retain(|record| record.header().volume != volume);
        self.queue_bytes = self.queue.iter().map(len_of).sum();
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
        self.unrest = true;
    }

    /// No longer keeps segments for this volume.
    pub(crate) fn forget(&mut self, volume: VolumeId) {
        for segment in self.segments.values_mut() {
            segment.records.remove(&volume);
            segment.marks.remove(&volume);
        }
        self.unrest = true;
    }

    /// When the journal wants to be called though nothing happens.
    pub(crate) fn next_timeout(&self, cx_seal: std::time::Duration) -> Option<Time> {
        let blocked = self.starved || self.awaits_spare;
        if self.active.is_none() || self.opening.is_some() || blocked || !self.flights.is_empty() {
            return None;
        }
        let marks = self.marks.values().map(|(_, since)| *since + cx_seal).min();
        self.seal_at.into_iter().chain(marks).chain(self.shrink_at).min()
    }

    /// Issues frames as long as there is something to write and room in flight.
    pub(crate) fn pump(&mut self, cx: &mut Cx<'_>, replicas: &mut Copies, failed: &Failed) {
        self.keep_spares(cx);
        self.shrink(cx, replicas, failed);
        self.end_reserve(cx, replicas, failed);
        self.awaits_spare = false;
        while self.flights.values().filter(|f| !f.done).count() < cx.config.frames_in_flight {
            let held = cx.ops.pace.holds(cx.config);
            let pick = if held { Pick { marks: true, upto: Some(self.urgent(replicas)) } } else { Pick::all() };
            if !self.wants_frame(&pick, cx.now, cx.config.seal_delay) {
                self.starved &= held && !self.queue.is_empty();
                break;
            }
            if self.opening.is_some() {
                break;
            }
            if self.has_room(&pick, cx) {
                self.starved = false;
                self.issue(&pick, cx, replicas);
                continue;
            }
            let switch = if self.is_reserved() {
                Switch::Full
            } else {
                self.switch_segment(cx, replicas, failed, Purpose::Records)
            };
            self.starved = switch == Switch::Full;
            self.awaits_spare = switch == Switch::Later;
            if !self.starved || !self.use_reserve(cx, replicas, failed) {
                break;
            }
        }
    }

    /// A full journal: writes what must not wait. True if a frame was issued.
    fn use_reserve(&mut self, cx: &mut Cx<'_>, replicas: &mut Copies, failed: &Failed) -> bool {
        let pick = Pick { marks: true, upto: Some(self.urgent(replicas)) };
        if !self.wants_frame(&pick, cx.now, cx.config.seal_delay) {
            return false;
        }
        if self.has_room(&pick, cx) {
            self.issue(&pick, cx, replicas);
            return true;
        }
        // Marks are no reason: a superblock does the same (`Replica::pump`).
        if self.first(&pick).is_some() {
            self.switch_segment(cx, replicas, failed, Purpose::Reserve);
        }
        false
    }

    fn is_reserved(&self) -> bool {
        self.active.as_ref().is_some_and(|a| a.reserved)
    }

    /// Queued records that end the state which fills a journal, and those before them: starts of epochs, and what a fence or
    /// a cut has to drain.
    fn urgent(&self, replicas: &Copies) -> BTreeMap<VolumeId, Lsn> {
        let mut upto = BTreeMap::new();
        for record in &self.queue {
            let h = record.header();
            let starts = |r: &Replica| r.sb.table.entries().last() == Some(&(h.epoch, h.lsn));
            if replicas.get(&h.volume).is_some_and(|r| starts(r) || r.waits_to_drain()) {
                upto.insert(h.volume, h.lsn);
            }
        }
        upto
    }

    fn has_room(&self, pick: &Pick, cx: &Cx<'_>) -> bool {
        let open = |a: &&Active| !a.reserved || pick.upto.is_some();
        self.active.as_ref().filter(open).is_some_and(|a| a.room >= self.least_frame(pick, cx))
    }

    /// The first queued record that `pick` takes.
    fn first(&self, pick: &Pick) -> Option<usize> {
        match &pick.upto {
            None => (!self.queue.is_empty()).then_some(0),
            Some(upto) => self.queue.iter().position(|r| upto.get(&r.header().volume).is_some_and(|l| r.lsn() <= *l)),
        }
    }

    fn wants_frame(&self, pick: &Pick, now: Time, delay: std::time::Duration) -> bool {
        let due = |at: Time| at <= now;
        let idle = pick.marks && self.flights.is_empty();
        self.first(pick).is_some()
            || (idle && self.seal_at.is_some_and(due))
            || (idle && self.marks.values().any(|(_, since)| due(*since + delay)))
    }

    /// Bytes of the smallest frame that can be next.
    fn least_frame(&self, pick: &Pick, cx: &Cx<'_>) -> u64 {
        let due = if pick.marks { self.due_marks(cx.now, cx.config.seal_delay).len() } else { 0 };
        let first = self.first(pick);
        let slots = u16::try_from(due.min(MAX_FRAME_RECORDS - 1) + usize::from(first.is_some())).expect("at most 256");
        let body = first.map_or(0, |index| padded(self.queue[index].header().body_len));
        u64::from(FrameHeader::head_len(slots)) + u64::from(body)
    }

    fn due_marks(&self, now: Time, delay: std::time::Duration) -> Vec<VolumeId> {
        self.marks.iter().filter(|(_, (_, since))| *since + delay <= now).map(|(volume, _)| *volume).collect()
    }

    /// Writes one frame: due marks, and as many queued records as fit.
    fn issue(&mut self, pick: &Pick, cx: &mut Cx<'_>, replicas: &mut Copies) {
        let marks = if pick.marks { self.take_marks(cx, replicas) } else { Vec::new() };
        let room = self.active.as_ref().expect("a segment is open").room;
        let target = u64::from(cx.ops.pace.frame_bytes(cx.config));
        let records = self.take_records(pick, marks.len(), room.min(target), room);
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
        cx.ops.pace.issued(u64::from(total), cx.config);
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

    fn take_marks(&mut self, cx: &Cx<'_>, replicas: &mut Copies) -> Vec<FrameSlot> {
        let mut slots = Vec::new();
        for volume in self.due_marks(cx.now, cx.config.seal_delay).into_iter().take(MAX_FRAME_RECORDS - 1) {
            let (committed, _) = self.marks.remove(&volume).expect("a due mark is there");
            let Some(replica) = replicas.get_mut(&volume).filter(|r| r.carried < committed) else { continue };
            replica.carried = committed;
            slots.push(FrameSlot::Commit(CommitMark { volume, committed }));
        }
        slots
    }

    fn take_records(&mut self, pick: &Pick, marks: usize, target: u64, room: u64) -> Vec<Record> {
        let mut records: Vec<Record> = Vec::new();
        let mut bodies = 0;
        while let Some(index) = self.first(pick) {
            let record = &self.queue[index];
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
            let record = self.queue.remove(index).expect("found just now");
            self.queue_bytes -= len_of(&record);
            records.push(record);
        }
        records
    }

    /// Reserves the frame's place and tells each copy where its records lie. Gives the frame's offset.
    fn place(&mut self, records: &[Record], slots: &[FrameSlot], total: u32, replicas: &mut Copies) -> u64 {
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
    pub(crate) fn frame_done(&mut self, cx: &mut Cx<'_>, seq: u64, replicas: &mut Copies) -> BTreeSet<VolumeId> {
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
fn settle(slot: FrameSlot, replicas: &mut Copies, gained: &mut BTreeSet<VolumeId>) -> VolumeId {
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
