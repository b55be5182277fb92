//! A node's disk: files with a volatile layer.
//!
//! A write is visible when its operation completes, and on stable storage when it was durable or a later `Sync` that was
//! issued after its completion has completed. At a crash every other write is, independently, kept, lost or torn at
//! sectors; so is every write in flight. That is early write-back in any order, too: tables are written, not mapped, and each
//! page of a checkpoint meets its own fate. When the process ends alone, nothing is lost and nothing is settled: what was
//! written stays visible, and what was not synced may still be lost with the host later.

mod rot;

pub(crate) use rot::Snapshot;

use crate::faults::FaultKind;
use crate::log::{MS, Nanos};
use crate::options::{DiskPlan, index};
use bytes::Bytes;
use holdfast_format::{FrameHeader, FrameSlot, Record, RecordHeader, padded};
use holdfast_store::io::{DiskDone, DiskError, DiskOp, DiskOpKind, DiskReply, FileId, OpId};
use holdfast_types::{Rng, SECTOR_SIZE};
use rot::{Armed, Astray, Damage};
use std::collections::BTreeMap;

const EIO: i32 = 5;
const EROFS: i32 = 30;

/// A write that a crash may undo. `old` undoes it.
#[derive(Clone, Debug)]
struct Unsynced {
    seq: u64,
    offset: usize,
    new: Bytes,
    old: Vec<u8>,
    /// Laid over older unsynced writes, itself durable.
    durable: bool,
    /// A sync said that it is on stable storage, and no later one will bring it there.
    lied: bool,
}

/// One file.
#[derive(Clone, Debug, Default)]
pub(crate) struct File {
    /// May be longer than the file is for its reader; zeros lie behind its end.
    content: Vec<u8>,
    unsynced: Vec<Unsynced>,
    len: usize,
    /// The length on stable storage, where that is another one, and since which write the present one is.
    unsynced_len: Option<(usize, u64)>,
    /// Blocks were really written when it was made: writes never need space.
    written: bool,
}

impl File {
    fn new(len: usize, written: bool) -> File {
        File { content: vec![0; len], unsynced: Vec::new(), len, unsynced_len: None, written }
    }

    /// A write behind the end makes a file longer.
    fn grow(&mut self, end: usize) {
        if self.content.len() < end {
            self.content.resize(end, 0);
        }
        self.len = self.len.max(end);
    }

    fn set_len(&mut self, seq: u64, len: usize) {
        let stable = self.unsynced_len.map_or(self.len, |(stable, _)| stable);
        self.grow(len);
        let room = self.content.len() - len;
        self.apply(seq, len, vec![0; room].into(), false);
        (self.len, self.unsynced_len) = (len, Some((stable, seq)));
    }

    /// The file ends here, whatever was on its way.
    fn end_at(&mut self, len: usize) {
        self.grow(len);
        self.content[len..].fill(0);
        (self.len, self.unsynced_len) = (len, None);
    }

    /// Power is gone: an end that was not synced is the old one or the new one.
    fn settle_len(&mut self, rng: &mut Rng) {
        let Some((stable, _)) = self.unsynced_len.take() else { return };
        if rng.chance(500_000) {
            self.grow(stable);
            self.len = stable;
        } else {
            self.end_at(self.len);
        }
    }

    fn apply(&mut self, seq: u64, offset: usize, new: Bytes, durable: bool) {
        let end = offset + new.len();
        self.grow(end);
        let overlaps = self.unsynced.iter().any(|u| u.offset < end && offset < u.offset + u.new.len());
        let old = self.content[offset..end].to_vec();
        self.content[offset..end].copy_from_slice(&new);
        if !durable || overlaps {
            self.unsynced.push(Unsynced { seq, offset, new, old, durable, lied: false });
        }
    }

    /// Writes up to `upto` are on stable storage now, but for the newest `forgotten`. Gives those that can't be undone.
    fn sync(&mut self, upto: u64, forgotten: usize) -> Vec<Unsynced> {
        for u in self.unsynced.iter_mut().rev().filter(|u| u.seq <= upto && !u.durable).take(forgotten) {
            u.lied = true;
        }
        let mut synced = Vec::new();
        let mut kept: Vec<Unsynced> = Vec::new();
        for mut u in std::mem::take(&mut self.unsynced) {
            if u.lied || u.seq > upto {
                kept.push(u);
                continue;
            }
            synced.push(u.clone());
            let end = u.offset + u.new.len();
            // Undoing what lies below would undo this one as well.
            if kept.iter().any(|k| k.offset < end && u.offset < k.offset + k.new.len()) {
                u.durable = true;
                kept.push(u);
            }
        }
        self.unsynced = kept;
        self.unsynced_len.take_if(|(_, since)| *since <= upto);
        synced
    }

    /// Undoes everything that is not durable, newest first; returns it oldest first.
    fn undo(&mut self) -> Vec<Unsynced> {
        let entries = std::mem::take(&mut self.unsynced);
        for u in entries.iter().rev() {
            self.content[u.offset..u.offset + u.old.len()].copy_from_slice(&u.old);
        }
        entries
    }

    fn redo(&mut self, offset: usize, new: &[u8], fate: Fate, rng: &mut Rng) {
        let len = self.len;
        self.grow(offset + new.len());
        if self.unsynced_len.is_some() {
            // The zeros behind a new end make no file longer.
            self.len = len;
        }
        match fate {
            Fate::Lost => {}
            Fate::Kept => self.content[offset..offset + new.len()].copy_from_slice(new),
            Fate::Torn => {
                for (i, sector) in new.chunks(SECTOR_SIZE).enumerate() {
                    if rng.chance(500_000) {
                        let at = offset + i * SECTOR_SIZE;
                        self.content[at..at + sector.len()].copy_from_slice(sector);
                    }
                }
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Kept,
    Lost,
    Torn,
}

impl Fate {
    fn draw(rng: &mut Rng) -> Fate {
        match rng.below(3) {
            0 => Fate::Kept,
            1 => Fate::Lost,
            _ => Fate::Torn,
        }
    }

    fn kind(self) -> FaultKind {
        match self {
            Fate::Kept => FaultKind::KeptWrite,
            Fate::Lost => FaultKind::LostWrite,
            Fate::Torn => FaultKind::TornWrite,
        }
    }
}

#[derive(Debug)]
struct InFlight {
    op: DiskOp,
    /// Writes that had completed when it was issued: a `Sync` covers these.
    issued_at: u64,
}

/// One node's disk.
#[derive(Debug)]
pub(crate) struct Disk {
    plan: DiskPlan,
    rng: Rng,
    files: BTreeMap<FileId, File>,
    in_flight: BTreeMap<u64, InFlight>,
    next_ticket: u64,
    /// Counts completed writes.
    seq: u64,
    /// Latencies are this many times longer.
    pub(crate) slowness: u64,
    pub(crate) stalled_until: Nanos,
    pub(crate) no_space: bool,
    /// Every change fails.
    pub(crate) read_only: bool,
    /// The next operation of this sort fails.
    pub(crate) fail_next: Option<FaultKind>,
    remembered: BTreeMap<FileId, File>,
    /// Mutant: what is called durable is not.
    pub(crate) lies: bool,
    damage: Damage,
    armed: Armed,
}

/// What came of an operation.
pub(crate) struct Completed {
    pub(crate) done: DiskDone,
    /// Records that are on stable storage since.
    pub(crate) durable: Vec<RecordHeader>,
    pub(crate) fault: Option<FaultKind>,
}

impl Disk {
    pub(crate) fn new(plan: DiskPlan, rng: Rng) -> Disk {
        Disk {
            plan,
            rng,
            files: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            next_ticket: 0,
            seq: 0,
            slowness: 1,
            stalled_until: 0,
            no_space: false,
            read_only: false,
            fail_next: None,
            remembered: BTreeMap::new(),
            lies: false,
            damage: Damage::default(),
            armed: Armed::default(),
        }
    }

    /// Takes an operation; it is to be completed, by its ticket, at the time returned.
    pub(crate) fn submit(&mut self, op: DiskOp, now: Nanos) -> (u64, Nanos) {
        self.next_ticket += 1;
        let span = self.plan.latency_max - self.plan.latency_min;
        let mut latency = (self.plan.latency_min + self.rng.below(span + 1)) * self.slowness;
        if matches!(op.kind, DiskOpKind::Sync | DiskOpKind::Create { .. }) {
            latency *= 3;
        }
        if self.rng.chance(5_000) {
            latency += self.rng.below(20 * MS);
        }
        self.in_flight.insert(self.next_ticket, InFlight { op, issued_at: self.seq });
        (self.next_ticket, now.max(self.stalled_until) + latency)
    }

    /// Carries an operation out.
    pub(crate) fn complete(&mut self, ticket: u64) -> Option<Completed> {
        let InFlight { op, issued_at } = self.in_flight.remove(&ticket)?;
        let (result, durable, fault) = match self.failure(&op) {
            Some((error, fault)) => (Err(error), self.half_done(&op), Some(fault)),
            None => {
                let (result, durable) = self.carry_out(&op, issued_at);
                (result, durable, None)
            }
        };
        Some(Completed { done: DiskDone { id: op.id, result }, durable, fault })
    }

    /// Power is gone: what was not durable meets its fate. Returns the records that may have survived by luck.
    pub(crate) fn crash(&mut self, fates: &mut Vec<FaultKind>) -> Vec<RecordHeader> {
        let mut lucky = Vec::new();
        self.settle_phantoms();
        self.damage.power_cut();
        let rng = &mut self.rng;
        for (id, file) in &mut self.files {
            for u in file.undo() {
                let fate = if u.durable { Fate::Kept } else { Fate::draw(rng) };
                lucky.extend(records_in(*id, &u.new));
                if !u.durable {
                    fates.push(fate.kind());
                }
                if u.lied && fate != Fate::Kept {
                    self.damage.lost(*id, &u);
                }
                file.redo(u.offset, &u.new, fate, rng);
            }
            file.settle_len(rng);
        }
        for InFlight { op, .. } in std::mem::take(&mut self.in_flight).into_values() {
            let fate = Fate::draw(&mut self.rng);
            fates.push(fate.kind());
            lucky.extend(self.settle(&op, fate));
        }
        self.calm();
        lucky
    }

    /// The process is gone and the host lives: what was written stays in the host's cache, where only a sync or a power
    /// cut decides about it. An operation in flight was carried out or not.
    pub(crate) fn process_crash(&mut self, _fates: &mut Vec<FaultKind>) -> Vec<RecordHeader> {
        self.settle_phantoms();
        for InFlight { op, issued_at } in std::mem::take(&mut self.in_flight).into_values() {
            if !matches!(op.kind, DiskOpKind::Sync) && self.rng.chance(500_000) {
                let volatile = std::mem::replace(&mut self.lies, true);
                let _ = self.carry_out(&op, issued_at);
                self.lies = volatile;
            }
        }
        self.calm();
        Vec::new()
    }

    /// No fault of the moment is left.
    pub(crate) const fn calm(&mut self) {
        (self.fail_next, self.slowness, self.stalled_until) = (None, 1, 0);
        self.read_only = false;
    }

    /// Bytes of the journal's segments.
    pub(crate) fn journal_bytes(&self) -> u64 {
        let segments = self.files.range(FileId::Segment(0)..=FileId::Segment(u32::MAX));
        segments.map(|(_, file)| file.len as u64).sum()
    }

    /// What is under way, by ticket.
    pub(crate) fn under_way(&self) -> Vec<u64> {
        self.in_flight.keys().copied().collect()
    }

    /// All files are gone, or (a mutant) as they were when they were remembered.
    pub(crate) fn wipe(&mut self, roll_back: bool) {
        self.files.clear();
        self.in_flight.clear();
        self.damage = Damage::default();
        if roll_back {
            self.files.clone_from(&self.remembered);
        }
    }

    /// Mutant: keeps what is there now for a later roll-back.
    pub(crate) fn remember(&mut self) {
        if self.remembered.is_empty() {
            self.remembered.clone_from(&self.files);
        }
    }

    /// What a reader of the file sees.
    pub(crate) fn content(&self, file: FileId) -> Option<&[u8]> {
        self.files.get(&file).map(|f| &f.content[..f.len])
    }

    fn failure(&mut self, op: &DiskOp) -> Option<(DiskError, FaultKind)> {
        let kind = match op.kind {
            DiskOpKind::Read { .. } => FaultKind::ReadError,
            DiskOpKind::Write { .. } => FaultKind::WriteError,
            DiskOpKind::Sync => FaultKind::SyncError,
            _ => FaultKind::NoSpace,
        };
        if self.fail_next == Some(kind) {
            self.fail_next = None;
            return Some((DiskError::Io(EIO), kind));
        }
        if self.read_only && !matches!(op.kind, DiskOpKind::Read { .. } | DiskOpKind::List | DiskOpKind::Sync) {
            return Some((DiskError::Io(EROFS), FaultKind::ReadOnly));
        }
        let takes_space = match op.kind {
            DiskOpKind::Create { .. } => true,
            DiskOpKind::Write { .. } | DiskOpKind::Zero { .. } => self.files.get(&op.file).is_some_and(|f| !f.written),
            _ => false,
        };
        (self.no_space && takes_space).then_some((DiskError::NoSpace, FaultKind::NoSpace))
    }

    /// A failed write may have reached the medium in part; a failed sync may have lost what it should have synced.
    fn half_done(&mut self, op: &DiskOp) -> Vec<RecordHeader> {
        match &op.kind {
            _ if self.read_only => {}
            DiskOpKind::Write { .. } => {
                let fate = Fate::draw(&mut self.rng);
                return self.settle(op, fate);
            }
            DiskOpKind::Sync => {
                self.damage.sync_failed(op.file);
                if let Some(file) = self.files.get_mut(&op.file) {
                    for u in file.undo() {
                        let fate = if u.durable { Fate::Kept } else { Fate::draw(&mut self.rng) };
                        if u.lied && fate != Fate::Kept {
                            self.damage.lost(op.file, &u);
                        }
                        file.redo(u.offset, &u.new, fate, &mut self.rng);
                    }
                }
            }
            _ => {}
        }
        Vec::new()
    }

    /// What became of an operation that never completed.
    fn settle(&mut self, op: &DiskOp, fate: Fate) -> Vec<RecordHeader> {
        match &op.kind {
            DiskOpKind::Write { offset, data, .. } => {
                let data = joined(data);
                if let Some(file) = self.files.get_mut(&op.file) {
                    file.redo(index(*offset), &data, fate, &mut self.rng);
                }
                return if fate == Fate::Lost { Vec::new() } else { records_in(op.file, &data) };
            }
            DiskOpKind::Punch { offset, len } | DiskOpKind::Zero { offset, len } => {
                let zeros = vec![0; index(*len)];
                if let Some(file) = self.files.get_mut(&op.file) {
                    let room = file.len.saturating_sub(index(*offset)).min(zeros.len());
                    file.redo(index(*offset), &zeros[..room], fate, &mut self.rng);
                }
            }
            DiskOpKind::SetLen { len } if fate != Fate::Lost => {
                if let Some(file) = self.files.get_mut(&op.file) {
                    file.end_at(index(*len));
                }
            }
            DiskOpKind::Create { len, written } if fate != Fate::Lost => {
                self.files.insert(op.file, File::new(index(*len), *written));
            }
            DiskOpKind::Delete if fate != Fate::Lost => {
                self.files.remove(&op.file);
            }
            _ => {}
        }
        Vec::new()
    }

    fn carry_out(&mut self, op: &DiskOp, issued_at: u64) -> (Result<DiskReply, DiskError>, Vec<RecordHeader>) {
        let none = Vec::new();
        match &op.kind {
            DiskOpKind::List => {
                let files = self.files.iter().map(|(id, f)| (*id, f.len as u64)).collect();
                return (Ok(DiskReply::Files(files)), none);
            }
            DiskOpKind::Create { len, written } => {
                self.files.insert(op.file, File::new(index(*len), *written));
                return (Ok(DiskReply::Done), none);
            }
            DiskOpKind::Delete => {
                self.files.remove(&op.file);
                return (Ok(DiskReply::Done), none);
            }
            _ => {}
        }
        let Some(file) = self.files.get_mut(&op.file) else { return (Err(DiskError::NotFound), none) };
        match &op.kind {
            DiskOpKind::Read { offset, len } => {
                let (from, len) = (index(*offset), index(u64::from(*len)));
                let mut data = vec![0; len];
                let held = file.len.saturating_sub(from).min(len);
                data[..held].copy_from_slice(&file.content[from.min(file.len)..][..held]);
                self.misread(op, &mut data);
                (Ok(DiskReply::Data(data.into())), none)
            }
            DiskOpKind::Write { offset, data, durable } => {
                self.seq += 1;
                let data = joined(data);
                let records = if *durable { records_in(op.file, &data) } else { none };
                self.write(op, index(*offset), data, *durable && !self.lies);
                (Ok(DiskReply::Done), records)
            }
            DiskOpKind::Punch { offset, len } | DiskOpKind::Zero { offset, len } => {
                self.seq += 1;
                let room = file.len.saturating_sub(index(*offset)).min(index(*len));
                file.apply(self.seq, index(*offset), vec![0; room].into(), false);
                self.damage.rewritten(op.file, index(*offset), room);
                (Ok(DiskReply::Done), none)
            }
            DiskOpKind::SetLen { len } => {
                self.seq += 1;
                let room = file.content.len().saturating_sub(index(*len));
                file.set_len(self.seq, index(*len));
                self.damage.rewritten(op.file, index(*len), room);
                (Ok(DiskReply::Done), none)
            }
            DiskOpKind::Sync => {
                if self.lies {
                    return (Ok(DiskReply::Done), none);
                }
                (Ok(DiskReply::Done), self.sync(op, issued_at))
            }
            DiskOpKind::List | DiskOpKind::Create { .. } | DiskOpKind::Delete => unreachable!("handled above"),
        }
    }

    fn write(&mut self, op: &DiskOp, offset: usize, data: Bytes, durable: bool) {
        let astray = self.miswrite(op, offset, &data);
        let (seq, len) = (self.seq, data.len());
        let Some(file) = self.files.get_mut(&op.file) else { return };
        match astray {
            Some(Astray::Lost) => {}
            Some(Astray::To(there)) => file.apply(seq, there, data, durable),
            None => {
                file.apply(seq, offset, data, durable);
                self.damage.rewritten(op.file, offset, len);
            }
        }
    }

    fn sync(&mut self, op: &DiskOp, issued_at: u64) -> Vec<RecordHeader> {
        let forgotten = self.lie_about(op);
        let Some(file) = self.files.get_mut(&op.file) else { return Vec::new() };
        let synced = file.sync(issued_at, forgotten);
        if file.unsynced.is_empty() {
            self.damage.synced(op.file);
        }
        synced.iter().flat_map(|u| records_in(op.file, &u.new)).collect()
    }

    /// Operations that are under way, for a log.
    pub(crate) fn describe(op: &DiskOp) -> String {
        let OpId(id) = op.id;
        match &op.kind {
            DiskOpKind::Write { offset, data, durable } => {
                let len: usize = data.iter().map(Bytes::len).sum();
                format!("op {id} {:?} write {offset}+{len} durable={durable}", op.file)
            }
            kind => format!("op {id} {:?} {kind:?}", op.file),
        }
    }
}

fn joined(data: &[Bytes]) -> Bytes {
    match data {
        [one] => one.clone(),
        many => many.iter().flat_map(|p| p.iter().copied()).collect(),
    }
}

/// Record headers in journal bytes, found by their magic and CRC, wherever they lie: nothing of the journal's own layout
/// is believed.
/// The records of a frame that is about to be written, whole.
pub(crate) fn records_of(op: &DiskOp) -> Vec<Record> {
    let (FileId::Segment(_), DiskOpKind::Write { data, .. }) = (op.file, &op.kind) else { return Vec::new() };
    let frame = joined(data);
    let Some(header) = frame.get(..FrameHeader::LEN).and_then(FrameHeader::decode) else { return Vec::new() };
    let mut at = index(u64::from(FrameHeader::head_len(header.slots)));
    let mut records = Vec::new();
    for slot in header.slots_of(&frame).1.into_iter().flatten() {
        let FrameSlot::Record(header) = slot else { continue };
        let body = frame.slice(at..at + index(u64::from(header.body_len)));
        at += index(u64::from(padded(header.body_len)));
        records.extend(Record::verify(header, body));
    }
    records
}

fn records_in(file: FileId, data: &[u8]) -> Vec<RecordHeader> {
    if !matches!(file, FileId::Segment(_)) {
        return Vec::new();
    }
    data.chunks_exact(RecordHeader::LEN).filter(|c| c.starts_with(b"HFRC")).filter_map(RecordHeader::decode).collect()
}
