//! A device in memory that knows at each moment what is not on stable storage.
//!
//! An operation takes effect when it completes. A write that is not durable is *late*: it is seen by reads, and by a power cut
//! only perhaps. A sync makes certain what had completed when it was given out. A sync that fails has dropped what it was to
//! bring: reads see it still, and no later sync brings it to stable storage.

use crate::cache::Cache;
use crate::medium::{Cut, Effect, Medium, to_u64, to_usize};
use crate::rig::Device;
use bytes::Bytes;
use holdfast_store::io::{DiskDone, DiskError, DiskOp, DiskOpKind, DiskReply, FileId};
use holdfast_types::VolumeId;
use std::collections::VecDeque;

/// In which order operations complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// As they were given out.
    Fifo,
    /// The newest first.
    Lifo,
}

/// Which operations a fault meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultClass {
    /// Reads.
    Read,
    /// Writes that are not durable.
    Late,
    /// Durable writes.
    Durable,
    /// Syncs.
    Sync,
    /// New files: open, fallocate, write, sync, rename.
    Create,
    /// Removals.
    Delete,
    /// Holes.
    Punch,
    /// Zeros that keep their space.
    Zero,
    /// Other lengths.
    SetLen,
    /// The list of files.
    List,
}

/// The operations that fail.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Of which class.
    pub class: FaultClass,
    /// The first one, counted from 0.
    pub nth: u64,
    /// And every one after it.
    pub for_ever: bool,
    /// With what.
    pub error: DiskError,
    /// How many eighths of what was to be written are there nevertheless.
    pub eighths: usize,
}

/// Where a write lands that the device puts in the wrong place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Astray {
    /// Nowhere.
    Lost,
    /// So many bytes further on.
    Further(u64),
    /// So many bytes back.
    Back(u64),
    /// At the same place of another file of the same kind.
    Sibling,
}

impl Astray {
    /// Some of each.
    pub const ALL: [Astray; 6] = [
        Astray::Lost,
        Astray::Further(512),
        Astray::Further(4096),
        Astray::Back(512),
        Astray::Back(4096),
        Astray::Sibling,
    ];

    fn place(self, file: FileId, offset: u64) -> Option<(FileId, u64)> {
        let other = |v: VolumeId| VolumeId(3 - v.0.min(2));
        let sibling = match file {
            FileId::Segment(slot) => FileId::Segment((slot + 1) % 3),
            FileId::Superblock(v) => FileId::Superblock(other(v)),
            FileId::Image(v) => FileId::Image(other(v)),
            FileId::BlockTable(v) => FileId::BlockTable(other(v)),
            FileId::RegionTable(v) => FileId::RegionTable(other(v)),
            FileId::SideImage(v) => FileId::SideImage(other(v)),
            FileId::SideBlocks(v) => FileId::SideBlocks(other(v)),
            FileId::SideRegions(v) => FileId::SideRegions(other(v)),
            FileId::JournalHead | FileId::Orphan(..) => return None,
        };
        match self {
            Astray::Lost => None,
            Astray::Further(by) => Some((file, offset + by)),
            Astray::Back(by) => offset.checked_sub(by).map(|offset| (file, offset)),
            Astray::Sibling => Some((sibling, offset)),
        }
    }
}

/// The device.
#[derive(Clone, Debug, Default)]
pub struct SimDisk {
    cache: Cache,
    flying: VecDeque<(u64, DiskOp)>,
    /// What fails.
    pub fault: Option<Fault>,
    /// How many operations of the fault's class have come.
    pub met: u64,
    /// Of which file the first was that failed.
    pub struck: Option<FileId>,
    lifo: bool,
    /// A write that completes without effect, or elsewhere: its number, counted from 0.
    pub astray: Option<(u64, Astray)>,
    /// Writes that have completed.
    pub writes: u64,
}

impl FaultClass {
    /// All of them.
    pub const ALL: [FaultClass; 10] = [
        FaultClass::Read,
        FaultClass::Late,
        FaultClass::Durable,
        FaultClass::Sync,
        FaultClass::Create,
        FaultClass::Delete,
        FaultClass::Punch,
        FaultClass::Zero,
        FaultClass::SetLen,
        FaultClass::List,
    ];

    const fn of(kind: &DiskOpKind) -> FaultClass {
        match kind {
            DiskOpKind::Read { .. } => FaultClass::Read,
            DiskOpKind::Write { durable: false, .. } => FaultClass::Late,
            DiskOpKind::Write { durable: true, .. } => FaultClass::Durable,
            DiskOpKind::Sync => FaultClass::Sync,
            DiskOpKind::Create { .. } => FaultClass::Create,
            DiskOpKind::Delete => FaultClass::Delete,
            DiskOpKind::Punch { .. } => FaultClass::Punch,
            DiskOpKind::Zero { .. } => FaultClass::Zero,
            DiskOpKind::SetLen { .. } => FaultClass::SetLen,
            DiskOpKind::List => FaultClass::List,
        }
    }
}

impl SimDisk {
    /// A device that holds this, all of it for certain.
    #[must_use]
    pub fn on(medium: Medium) -> SimDisk {
        SimDisk { cache: Cache::on(medium), ..SimDisk::default() }
    }

    /// In which order operations complete from now on.
    pub const fn schedule(&mut self, schedule: Schedule) {
        self.lifo = matches!(schedule, Schedule::Lifo);
    }

    /// What reads see.
    #[must_use]
    pub const fn visible(&self) -> &Medium {
        self.cache.visible()
    }

    /// What is known if power fails now.
    #[must_use]
    pub fn cut(&self) -> Cut {
        self.cache.cut(self.flying.iter().filter_map(|(_, op)| Some((op.file, Effect::of(&op.kind)?))))
    }

    fn fails(&mut self, op: &DiskOp) -> Option<DiskError> {
        let fault = self.fault?;
        if FaultClass::of(&op.kind) != fault.class {
            return None;
        }
        let n = self.met;
        self.met += 1;
        let fails = n == fault.nth || (fault.for_ever && n > fault.nth);
        if fails {
            self.struck.get_or_insert(op.file);
        }
        fails.then_some(fault.error)
    }

    /// What a failed operation leaves.
    fn half(&mut self, issued: u64, op: &DiskOp) {
        let eighths = self.fault.expect("something failed").eighths;
        match &op.kind {
            DiskOpKind::Sync => self.cache.sync(op.file, issued, true),
            DiskOpKind::Write { offset, data, .. } => {
                let data = crate::medium::join(data);
                let len = data.len() * eighths / 8 / 512 * 512;
                if len > 0 {
                    self.cache.happen(op.file, Effect::Write(*offset, data.slice(..len)), false);
                }
            }
            _ => {}
        }
    }

    fn write(&mut self, op: &DiskOp, effect: Effect, durable: bool) -> Result<DiskReply, DiskError> {
        if !self.cache.visible().0.contains_key(&op.file) {
            return Err(DiskError::NotFound);
        }
        let n = self.writes;
        self.writes += 1;
        match (self.astray, effect) {
            (Some((nth, to)), Effect::Write(offset, data)) if nth == n => {
                // A file ends where it ends: nothing lands behind it.
                let end = |file| self.cache.visible().0.get(&file).map_or(0, |content| to_u64(content.len()));
                let place = to.place(op.file, offset).filter(|(file, at)| at + to_u64(data.len()) <= end(*file));
                if let Some((file, offset)) = place {
                    self.cache.happen(file, Effect::Write(offset, data), durable);
                }
            }
            (_, effect) => self.cache.happen(op.file, effect, durable),
        }
        Ok(DiskReply::Done)
    }

    fn execute(&mut self, issued: u64, op: &DiskOp) -> Result<DiskReply, DiskError> {
        if let Some(error) = self.fails(op) {
            self.half(issued, op);
            return Err(error);
        }
        match &op.kind {
            DiskOpKind::List => {
                let files = self.cache.visible().0.iter().map(|(id, content)| (*id, to_u64(content.len())));
                return Ok(DiskReply::Files(files.collect()));
            }
            DiskOpKind::Read { offset, len } => {
                let content = self.cache.visible().0.get(&op.file).ok_or(DiskError::NotFound)?;
                let (from, len) = (to_usize(*offset).min(content.len()), usize::try_from(*len).expect("it fits"));
                let mut data = content[from..content.len().min(from + len)].to_vec();
                data.resize(len, 0);
                return Ok(DiskReply::Data(Bytes::from(data)));
            }
            DiskOpKind::Sync => {
                if !self.cache.visible().0.contains_key(&op.file) {
                    return Err(DiskError::NotFound);
                }
                self.cache.sync(op.file, issued, false);
            }
            DiskOpKind::Create { .. } | DiskOpKind::Delete => {
                self.cache.happen(op.file, Effect::of(&op.kind).expect("a change"), true);
            }
            DiskOpKind::Write { durable, .. } => {
                return self.write(op, Effect::of(&op.kind).expect("a change"), *durable);
            }
            DiskOpKind::Punch { .. } | DiskOpKind::Zero { .. } | DiskOpKind::SetLen { .. } => {
                return self.write(op, Effect::of(&op.kind).expect("a change"), false);
            }
        }
        Ok(DiskReply::Done)
    }

    fn check(&self, op: &DiskOp) {
        let range = |op: &DiskOp| match Effect::of(&op.kind) {
            Some(Effect::Write(offset, data)) => Some((offset, offset + to_u64(data.len()))),
            Some(Effect::Zero(offset, len)) => Some((offset, offset + len)),
            // Whatever lies behind the new end, also what is written there.
            Some(Effect::SetLen(len)) => Some((len, u64::MAX)),
            _ => None,
        };
        let Some((start, end)) = range(op) else { return };
        let direct = matches!(op.file, FileId::Segment(_) | FileId::Superblock(_) | FileId::JournalHead);
        assert!(!direct || (start.is_multiple_of(512) && end.is_multiple_of(512)), "direct I/O writes whole sectors");
        for (_, other) in self.flying.iter().filter(|(_, other)| other.file == op.file) {
            let apart = range(other).is_none_or(|(s, e)| end <= s || e <= start);
            assert!(apart, "two writes overlap in flight: {op:?} {other:?}");
        }
    }
}

impl Device for SimDisk {
    fn submit(&mut self, op: DiskOp) {
        self.check(&op);
        self.flying.push_back((self.cache.clock(), op));
    }

    fn next(&mut self) -> Option<DiskDone> {
        let (issued, op) = if self.lifo { self.flying.pop_back() } else { self.flying.pop_front() }?;
        let result = self.execute(issued, &op);
        Some(DiskDone { id: op.id, result })
    }

    /// What was given out happens, nothing becomes certain by it.
    fn orphaned(&mut self) {
        for (_, op) in std::mem::take(&mut self.flying) {
            if let Some(effect) = Effect::of(&op.kind) {
                self.cache.happen(op.file, effect, false);
            }
        }
        self.cache.forget_dropped();
    }

    fn harms(&self) -> bool {
        self.struck.is_some() || self.astray.is_some_and(|(nth, _)| self.writes > nth)
    }
}
