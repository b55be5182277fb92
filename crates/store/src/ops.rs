//! Operations on their way: what each one is for, and the ones that wait for space.
//!
//! An operation that finds no space is not over: it is kept whole and given out again, under a new id, when the retry
//! time comes. Whoever waits for it sees only that it takes longer, so nothing else in the store knows about ENOSPC; people
//! are told, by what [`Ops::short`] names.

use crate::api::Output;
use crate::config::StoreConfig;
use crate::io::{DiskOp, DiskOpKind, FileId, OpId};
use crate::pace::Pace;
use crate::stats::Written;
use holdfast_types::{Time, VolumeId};
use std::collections::BTreeMap;

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
    /// Loads a table; true for the block table.
    Load(bool, u64),
    /// Writes superblock copies.
    Superblock,
    /// Creates (false) or writes (true) the orphan.
    Orphan(bool),
    /// Applies a part of a batch to the image.
    Apply,
    /// A step of a checkpoint.
    Checkpoint,
    /// Reads a part of the image for this job; first block, and how often it was read before.
    Read(u64, u64, u32),
    /// Writes a repaired block.
    Repair(u64),
    /// Reads records for this job; index of the part.
    Log(u64, usize),
    /// Removes one of its files.
    Delete,
}

impl Tag {
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
    /// Kept for another attempt; reads need none.
    again: Option<DiskOpKind>,
    /// It found no space, and has not ended since.
    short: bool,
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
    pub(crate) written: Written,
    pub(crate) pace: Pace,
}

impl Ops {
    /// Takes an ended operation out. Panics on one that was never given out, or ended before.
    pub(crate) fn end(&mut self, id: OpId) -> Tag {
        let pending = self.pending.remove(&id).expect("the shell ends each operation once");
        self.short -= usize::from(pending.short);
        pending.tag
    }

    /// Puts an operation aside that found no space. False if it can't be repeated.
    pub(crate) fn park(&mut self, id: OpId, retry_at: Time) -> bool {
        if self.pending.get(&id).is_none_or(|p| p.again.is_none()) {
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
        let again = (!matches!(kind, DiskOpKind::Read { .. } | DiskOpKind::List)).then(|| kind.clone());
        let id = OpId(self.ops.next);
        self.ops.next += 1;
        self.ops.pending.insert(id, Pending { tag, file, again, short });
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
