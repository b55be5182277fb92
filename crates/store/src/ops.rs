//! Operations on their way: what each one is for, and the ones that wait for space.
//!
//! An operation that finds no space is not over: it is kept whole and given out again, under a new id, when the retry
//! time comes. Whoever waits for it sees only that it takes longer, so nothing else in the store knows about ENOSPC; people
//! are told, by what [`Ops::short`] names.
//!
//! A sync is the exception: one that finds no space has dropped what it was to bring to stable storage, and the next one
//! would succeed without it. It fails its copy. So, the start apart, a file is either written durably and never synced, or
//! written late and brought to stable storage by syncs alone.

use crate::api::Output;
use crate::config::StoreConfig;
use crate::io::{DiskOp, DiskOpKind, FileId, OpId};
use crate::pace::Pace;
use crate::pages::PagesHeld;
use crate::stats::Written;
use holdfast_format::{TableKind, TablePage};
use holdfast_types::{Epoch, Time, VolumeId};
use std::collections::BTreeMap;
use std::time::Duration;

/// What an operation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tag {
    /// A step of the start; the number is the step's own.
    Start(u32),
    /// A zeroed segment file for this slot.
    Slot(u32),
    /// The file of this slot goes away.
    Removal(u32),
    /// Header of the segment that is being opened.
    SegmentHeader,
    /// The head's file is made (false) or names the segment that is being opened (true).
    Head(bool),
    /// Frame with this sequence number.
    Frame(u64),
    /// For one copy.
    Copy(VolumeId, CopyTag),
}

/// What an operation of one copy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CopyTag {
    /// Makes one of its files.
    Create,
    /// Reads a page of a table; how often it was read before.
    Page(TableKind, TablePage, u32),
    /// Writes superblock copies.
    Superblock,
    /// Creates (false) or writes (true) the orphan.
    Orphan(bool),
    /// Removes one.
    OrphanGone(Epoch),
    /// Applies a part of a batch to the image.
    Apply,
    /// A step of a checkpoint.
    Checkpoint,
    /// Gives a file the length that the size takes which came with a switch.
    MergeSize,
    /// Shortens a table behind a checkpoint that cut it.
    Shorten,
    /// Reads a part of the image for this job; first block, and how often it was read before.
    Read(u64, u64, u32),
    /// Writes a repaired block (false), then brings it to stable storage (true).
    Repair(u64, bool),
    /// Reads records for this job; index of the part.
    Log(u64, usize),
    /// Reads a part of a region for another copy; first block, and how often it was read before.
    Region(u64, u32),
    /// A step of the side area.
    Side,
    /// Reads something of it; where it begins.
    SideRead(u64),
    /// Reads some of its checksums; where they begin.
    SideSums(u64),
    /// Writes a part of the tables that image and side area have together.
    Weave,
    /// Reads what is to be moved to the image; where it begins.
    MergeRead(u64),
    /// Writes a part of a region that is moved to the image.
    Merge,
    /// Removes one of its files.
    Delete,
}

impl Tag {
    /// Whether somebody waits for it: a guest, a promise, an acknowledgement. The rest may take its time, and removing a large
    /// file takes what it takes.
    const fn patience(self, config: &StoreConfig) -> Option<Duration> {
        match self {
            Tag::SegmentHeader | Tag::Head(_) | Tag::Frame(_) => Some(config.hung_after),
            Tag::Copy(
                _,
                CopyTag::Superblock | CopyTag::Page(..) | CopyTag::Read(..) | CopyTag::Repair(..) | CopyTag::Log(..),
            ) => Some(config.hung_after),
            Tag::Removal(_) | Tag::Copy(_, CopyTag::Delete | CopyTag::OrphanGone(_)) => None,
            Tag::Start(_) | Tag::Slot(_) | Tag::Copy(..) => Some(config.background_hung_after),
        }
    }

    pub(crate) const fn volume(self) -> Option<VolumeId> {
        match self {
            Tag::Copy(volume, _) => Some(volume),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct Pending {
    tag: Tag,
    file: FileId,
    /// Kept for another attempt; reads need none, and a sync must have none.
    again: Option<DiskOpKind>,
    /// It found no space, and has not ended since.
    short: bool,
    /// When it was given out.
    since: Time,
}

/// An operation that the device has not answered for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hung {
    /// Of one copy, or of the journal.
    pub(crate) volume: Option<VolumeId>,
    pub(crate) file: FileId,
}

/// All operations of a store that have not ended.
#[derive(Debug, Default)]
pub(crate) struct Ops {
    next: u64,
    pending: BTreeMap<OpId, Pending>,
    no_space: Vec<Pending>,
    /// How many of both are short of space.
    short: usize,
    retry_at: Option<Time>,
    /// What the copies hold of another thing that is short: memory for tables.
    pub(crate) pages: PagesHeld,
    pub(crate) written: Written,
    pub(crate) pace: Pace,
}

impl Ops {
    /// Takes an ended operation out. Panics on one that was never given out, or ended before.
    pub(crate) fn end(&mut self, id: OpId) -> (Tag, FileId) {
        let pending = self.pending.remove(&id).expect("the shell ends each operation once");
        self.short -= usize::from(pending.short);
        (pending.tag, pending.file)
    }

    /// The operations that are under way for longer than their patience, and when the next one will be. They are looked
    /// at from the oldest on: ids are given out in the order of time.
    pub(crate) fn hung(&self, config: &StoreConfig, now: Time) -> (Vec<Hung>, Option<Time>) {
        let (mut hung, mut next) = (Vec::new(), None);
        for p in self.pending.values() {
            let Some(patience) = p.tag.patience(config) else { continue };
            let at = p.since + patience;
            if at <= now {
                hung.push(Hung { volume: p.tag.volume(), file: p.file });
                continue;
            }
            next = Some(next.map_or(at, |next: Time| next.min(at)));
            if patience == config.hung_after {
                // No patience is shorter, so none of what came later ends sooner.
                break;
            }
        }
        (hung, next)
    }

    /// Puts an operation aside that found no space. False if it can't be repeated.
    pub(crate) fn park(&mut self, id: OpId, retry_at: Time) -> bool {
        let orphan = |p: &Pending| matches!(p.tag, Tag::Copy(_, CopyTag::Orphan(_)));
        if self.pending.get(&id).is_none_or(|p| p.again.is_none() || orphan(p)) {
            return false;
        }
        let mut pending = self.pending.remove(&id).expect("found just now");
        self.short += usize::from(!std::mem::replace(&mut pending.short, true));
        self.no_space.push(pending);
        self.retry_at.get_or_insert(retry_at);
        true
    }

    pub(crate) const fn retry_at(&self) -> Option<Time> {
        self.retry_at
    }

    /// Whether anything is short of space.
    pub(crate) const fn is_short(&self) -> bool {
        self.short > 0
    }

    /// What found no space and has not ended since, also while it is tried again.
    pub(crate) fn short(&self) -> impl Iterator<Item = Tag> {
        self.pending.values().chain(&self.no_space).filter(|p| p.short).map(|p| p.tag)
    }

    /// Whether a segment can't be created for want of space.
    pub(crate) fn slot_is_short(&self) -> bool {
        self.is_short() && self.short().any(|tag| matches!(tag, Tag::Slot(_)))
    }

    /// Operations of this copy that have not ended.
    pub(crate) fn of_volume(&self, volume: VolumeId) -> usize {
        self.pending.values().chain(&self.no_space).filter(|p| p.tag.volume() == Some(volume)).count()
    }

    /// Forgets the parked operations of a copy: they are not in flight, nobody waits for them any more.
    pub(crate) fn drop_parked(&mut self, volume: VolumeId) {
        let before = self.no_space.len();
        self.no_space.retain(|p| p.tag.volume() != Some(volume));
        self.short -= before - self.no_space.len();
    }
}

/// What every part of the store needs to do its work: operations, outputs, the time, the sizes.
pub(crate) struct Cx<'a> {
    pub(crate) ops: &'a mut Ops,
    pub(crate) out: &'a mut Vec<Output>,
    pub(crate) now: Time,
    pub(crate) config: &'a StoreConfig,
}

impl Cx<'_> {
    /// Gives an operation to the shell.
    pub(crate) fn submit(&mut self, tag: Tag, file: FileId, kind: DiskOpKind) {
        self.give_out(tag, file, kind, false);
    }

    fn give_out(&mut self, tag: Tag, file: FileId, kind: DiskOpKind, short: bool) {
        if !short {
            self.ops.written.count(file, &kind);
        }
        let again =
            (!matches!(kind, DiskOpKind::Read { .. } | DiskOpKind::List | DiskOpKind::Sync)).then(|| kind.clone());
        let id = OpId(self.ops.next);
        self.ops.next += 1;
        self.ops.pending.insert(id, Pending { tag, file, again, short, since: self.now });
        self.out.push(Output::Disk(DiskOp { id, file, kind }));
    }

    pub(crate) fn copy_op(&mut self, volume: VolumeId, tag: CopyTag, file: FileId, kind: DiskOpKind) {
        self.submit(Tag::Copy(volume, tag), file, kind);
    }

    /// Gives out again what found no space, if its time has come.
    pub(crate) fn retry(&mut self) {
        if self.ops.retry_at.is_none_or(|at| self.now < at) {
            return;
        }
        self.ops.retry_at = None;
        for parked in std::mem::take(&mut self.ops.no_space) {
            let kind = parked.again.expect("only operations that can be repeated are parked");
            self.give_out(parked.tag, parked.file, kind, true);
        }
    }
}
