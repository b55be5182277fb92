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

/// A device that answers others so much later than it got something has forgotten that alone.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);
/// Bytes of a new segment that any device zeroes in a millisecond.
const ZEROED_IN_A_MS: u64 = 64 << 10;

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
    /// Compares a page in memory with its places; sequence of the superblock then.
    Recheck(TableKind, TablePage, u64),
    /// Writes superblock copies.
    Superblock,
    /// Reads all of them; their sequence then.
    RecheckSuperblock(u64),
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
    /// Makes its superblock say that nothing of it counts.
    Void,
    /// Removes one of its files.
    Delete,
}

impl Tag {
    /// How long it may take before the device counts as hung: what a guest, a promise or an acknowledgement waits for, and the rest,
    /// which may take its time. Removing a large file takes what it takes.
    const fn patience(self, config: &StoreConfig) -> Option<Duration> {
        match self {
            Tag::SegmentHeader | Tag::Head(_) | Tag::Frame(_) => Some(config.hung_after),
            Tag::Copy(
                _,
                CopyTag::Superblock | CopyTag::Page(..) | CopyTag::Read(..) | CopyTag::Repair(..) | CopyTag::Log(..),
            ) => Some(config.hung_after),
            Tag::Removal(_) | Tag::Copy(_, CopyTag::Void | CopyTag::Delete | CopyTag::OrphanGone(_)) => None,
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
    /// When it was first found to be hung while guests were held back.
    pressed_since: Option<Time>,
}

impl Pending {
    /// Its patience while guests are held back until images have taken more or a segment was made, if it brings that about. A sync may take
    /// its time, and so may a new length of a large file.
    fn pressed(&self, config: &StoreConfig) -> Option<Duration> {
        let kind = self.again.as_ref()?;
        match (self.tag, kind) {
            (Tag::Slot(_), _) => {
                let zeroing = Duration::from_millis(config.segment_bytes / ZEROED_IN_A_MS);
                Some(config.pressed_hung_after.saturating_add(zeroing))
            }
            (Tag::Copy(_, CopyTag::Apply), DiskOpKind::Write { .. } | DiskOpKind::Punch { .. }) => {
                Some(config.pressed_hung_after)
            }
            _ => None,
        }
    }

    /// When its copy, if it is of one, has held up all others for too long. That it hung was to be seen meanwhile: a process that was
    /// paused has only not heard of what ended.
    fn given_up_at(&self, config: &StoreConfig) -> Option<Time> {
        let more = config.background_hung_after.saturating_sub(config.pressed_hung_after);
        self.tag.volume().and(self.pressed_since).map(|since| since + more)
    }
}

/// An operation that the device has not answered for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hung {
    /// Of one copy, or of the journal.
    pub(crate) volume: Option<VolumeId>,
    pub(crate) file: FileId,
    /// How long that is.
    pub(crate) patience: Duration,
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
    /// When the device answered last.
    answered: Option<Time>,
}

impl Ops {
    /// Takes an ended operation out. Panics on one that was never given out, or ended before.
    pub(crate) fn end(&mut self, id: OpId, now: Time) -> (Tag, FileId) {
        self.answered = Some(now);
        let pending = self.pending.remove(&id).expect("the shell ends each operation once");
        self.short -= usize::from(pending.short);
        (pending.tag, pending.file)
    }

    /// The operations that are under way for longer than their patience, and when the next one will be. They are looked
    /// at from the oldest on: ids are given out in the order of time.
    ///
    /// `pressed`: since when guests are held back until work in the background has done more.
    pub(crate) fn hung(&mut self, config: &StoreConfig, now: Time, pressed: Option<Time>) -> (Vec<Hung>, Option<Time>) {
        let (mut hung, mut next) = (Vec::new(), None);
        for p in self.pending.values_mut() {
            let Some(patience) = p.tag.patience(config) else { continue };
            let always = (p.since + patience, patience);
            let sooner =
                pressed.zip(p.pressed(config)).map(|(since, patience)| (p.since.max(since) + patience, patience));
            let (at, after) = sooner.map_or(always, |sooner| always.min(sooner));
            p.pressed_since = sooner.filter(|(at, _)| *at <= now).map(|_| p.pressed_since.unwrap_or(now));
            if at <= now {
                hung.push(Hung { volume: p.tag.volume(), file: p.file, patience: after });
                let given_up = p.given_up_at(config).filter(|at| *at > now);
                next = next.into_iter().chain(given_up).min();
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

    /// Copies whose images have not answered for so long, while guests of others were held back, that they are to be given up, as
    /// far as the device has answered something else a while after it got that; and the file.
    pub(crate) fn given_up(&self, config: &StoreConfig, now: Time) -> BTreeMap<VolumeId, FileId> {
        let alone = |p: &Pending| self.answered.is_some_and(|at| at > p.since + ANSWERS_WITHIN);
        let due = |p: &&Pending| alone(p) && p.given_up_at(config).is_some_and(|at| at <= now);
        self.pending.values().filter(due).filter_map(|p| Some((p.tag.volume()?, p.file))).collect()
    }

    /// Puts an operation aside that found no space. False if it can't be repeated.
    pub(crate) fn park(&mut self, id: OpId, retry_at: Time) -> bool {
        // A cut must not wait for room to keep what it cuts, nor a deletion to say that it is one (L8).
        let goes_on = |p: &Pending| matches!(p.tag, Tag::Copy(_, CopyTag::Orphan(_) | CopyTag::Void));
        if self.pending.get(&id).is_none_or(|p| p.again.is_none() || goes_on(p)) {
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
        self.ops.pending.insert(id, Pending { tag, file, again, short, since: self.now, pressed_since: None });
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
