//! What goes into a store and what comes out.

use crate::io::{DiskDone, DiskOp, FileId};
use bytes::Bytes;
use holdfast_format::Record;
use holdfast_format::message::{NotHeld, Region, RegionCut, RegionQuery, RegionsFound, SumNode};
use holdfast_types::{
    BlockIndex, BlockRange, Durable, Epoch, EpochTable, Incarnation, Lsn, OpenedCopy, ReadFault, RegionIndex,
    ScrubKept, VolumeId, VolumeSize,
};
use std::collections::BTreeSet;

/// What became of an orphan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrphanNews {
    /// Records were cut and are kept.
    Kept {
        /// The first record that was cut.
        first: Lsn,
        /// The last one.
        last: Lsn,
        /// Bytes that are kept.
        bytes: u64,
        /// Records, the last ones, that are not kept since they go beyond the bound.
        left_out: u64,
    },
    /// Records were cut, and the file system has no room to keep them.
    NoRoom,
    /// It is gone: the bound made room for newer ones, or somebody asked for it.
    Gone,
}

/// Into the store. Commands for one volume take effect in the order given.
#[derive(Debug)]
pub enum Input {
    /// First of all: recover what the directory holds, or prepare an empty one.
    Start,
    /// An operation ended.
    Done(DiskDone),
    /// The time that `next_timeout` named has come.
    Tick,
    /// Makes an empty copy. Answered with `Opened` once it is durable.
    Create {
        /// The volume.
        volume: VolumeId,
        /// Random id of the new on-disk state.
        incarnation: Incarnation,
        /// Its size.
        size: VolumeSize,
    },
    /// Removes a copy and gives its space back. Answered with `Deleted`.
    Delete {
        /// The volume.
        volume: VolumeId,
    },
    /// Journals consecutive records that continue the copy's log. Answered with `Durable`, cumulative.
    Append {
        /// The volume.
        volume: VolumeId,
        /// The records.
        records: Vec<Record>,
    },
    /// Drains earlier appends, then persists the promise. Answered with `Promised`.
    Promise {
        /// The volume.
        volume: VolumeId,
        /// Above every earlier promise.
        epoch: Epoch,
    },
    /// Drains earlier appends, cuts the log after `cut_after` (keeping what was cut as an orphan), persists the table and
    /// the promise. Answered with `Adopted`.
    Adopt {
        /// The volume.
        volume: VolumeId,
        /// The last entry of `table`; at least the promised epoch.
        epoch: Epoch,
        /// Which epoch wrote which part of the log, from now on.
        table: EpochTable,
        /// At least `committed`, at most the last LSN.
        cut_after: Lsn,
    },
    /// Removes an orphan of a copy, if there is one. Answered with `Orphan`.
    DeleteOrphan {
        /// The volume.
        volume: VolumeId,
        /// The epoch at whose adoption it was cut.
        epoch: Epoch,
    },
    /// Records up to here are committed: they may be applied to the image and read. At most the durable LSN.
    Commit {
        /// The volume.
        volume: VolumeId,
        /// Up to here; a value below an earlier one changes nothing.
        upto: Lsn,
    },
    /// `Applied` is to say the digest at exactly this LSN, if the image is not there or beyond yet.
    DigestAt {
        /// The volume.
        volume: VolumeId,
        /// Where a batch ends.
        at: Lsn,
    },
    /// No copy needs records up to here any more: a preference, overruled when the journal is full.
    Trim {
        /// The volume.
        volume: VolumeId,
        /// Up to here.
        upto: Lsn,
    },
    /// Reads committed content, verified. Answered with `ReadDone`.
    Read {
        /// The volume.
        volume: VolumeId,
        /// Copied to the answer.
        tag: u64,
        /// Inside the volume's blocks.
        range: BlockRange,
    },
    /// Asks which blocks are holes. Answered with `Extents`.
    Extents {
        /// The volume.
        volume: VolumeId,
        /// Copied to the answer.
        tag: u64,
        /// What is asked about.
        range: BlockRange,
    },
    /// Reads a part of the image and verifies all of it, holes too. Answered with `ReadDone`.
    Scrub {
        /// The volume.
        volume: VolumeId,
        /// Copied to the answer.
        tag: u64,
        /// Inside the volume's blocks.
        range: BlockRange,
    },
    /// Applies up to `at` and no further. Answered with `Held` when the image is there, or with `LetGo`.
    Hold {
        /// The volume.
        volume: VolumeId,
        /// Not applied yet, or just then.
        at: Lsn,
    },
    /// Ends a hold, if there is one.
    GoOn {
        /// The volume.
        volume: VolumeId,
    },
    /// The sums of the children of a node of the digest tree. Answered with `Sums`.
    Sums {
        /// The volume.
        volume: VolumeId,
        /// Which node.
        node: SumNode,
    },
    /// The scrub has come so far; kept over restarts.
    Scrubbed {
        /// The volume.
        volume: VolumeId,
        /// What is to be kept.
        kept: ScrubKept,
        /// Now; otherwise with whatever is written next, and at the orderly end.
        at_once: bool,
    },
    /// Writes `data` to the image if it matches the block's checksum. Answered with `Repaired`.
    Repair {
        /// The volume.
        volume: VolumeId,
        /// The block; inside the volume.
        block: BlockIndex,
        /// 4 KiB that another copy holds there.
        data: Bytes,
    },
    /// Reads records from `from` on, as many as fit in `max_bytes` (at least one). Answered with `LogRead`.
    ReadLog {
        /// The volume.
        volume: VolumeId,
        /// Copied to the answer.
        tag: u64,
        /// First record wanted; at most the durable LSN.
        from: Lsn,
        /// Bound on the sum of `Record::len_bytes`.
        max_bytes: usize,
    },
    /// Reads regions for another copy, all at one LSN, as many as fit in `max_bytes` (at least one) and can be found at once. Answered
    /// with `RegionsRead`. If it is known that few regions in all are wanted, nothing is applied until the rest of them was asked for,
    /// or `LetGoRegions`.
    ReadRegions {
        /// The volume.
        volume: VolumeId,
        /// Copied to the answer.
        tag: u64,
        /// Which ones.
        query: RegionQuery,
        /// Bound on their content.
        max_bytes: usize,
    },
    /// Nobody asks for more of the regions that the image is kept still for.
    LetGoRegions {
        /// The volume.
        volume: VolumeId,
    },
    /// Makes the side area ready. Answered with `SideOpened`.
    OpenSide {
        /// The volume.
        volume: VolumeId,
        /// Its size where the regions come from. What is held of a volume of another size goes.
        size: VolumeSize,
    },
    /// What the open side area holds. Answered with `SideHeld`.
    HeldInSide {
        /// The volume.
        volume: VolumeId,
        /// From this region on.
        from: RegionIndex,
        /// At most so many regions.
        max: usize,
    },
    /// Brings regions into the open side area, those that are newer than what it holds. Answered with `SideWritten`.
    WriteSide {
        /// The volume.
        volume: VolumeId,
        /// Verified, in order.
        regions: Vec<Region>,
    },
    /// Makes the tables that image and side area have together, and compares. Answered with `SideProven`.
    ProveSide {
        /// The volume.
        volume: VolumeId,
        /// The state that they should be.
        cut: RegionCut,
    },
    /// Makes the state that was proven the copy's, with a log that begins there. Takes its turn among
    /// appends, promises and adoptions. Answered with `Switched` or `SwitchRefused`.
    Switch {
        /// The volume.
        volume: VolumeId,
        /// Where to.
        switch: Switch,
    },
    /// The process is about to end: every copy applies what is committed now and makes a checkpoint, so that the next start has little to
    /// replay. `Store::is_settled` says when that is done.
    Settle,
    /// The side area is not needed any more. Not answered. A copy that appends records does so by itself.
    DropSide {
        /// The volume.
        volume: VolumeId,
    },
}

/// Where a switch leads.
#[derive(Clone, Debug)]
pub struct Switch {
    /// The last entry of `table`; at least the promised epoch.
    pub epoch: Epoch,
    /// Which epoch wrote which part of the log, from now on.
    pub table: EpochTable,
    /// What of the old log is above was never committed and is kept as an orphan; at least `committed`.
    pub cut_after: Lsn,
    /// The new state, as it was proven; at or above everything that is committed here.
    pub cut: RegionCut,
}

/// Why image and side area are not known to be the state that they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotProven {
    /// The image went on meanwhile: ask again.
    Disturbed,
    /// They are another one.
    Different(String),
}

/// Out of the store.
#[derive(Debug)]
pub enum Output {
    /// To the shell.
    Disk(DiskOp),
    /// Recovery of the journal ended, and copies may be made and deleted. `Opened` or `Failed` was given for every copy that was
    /// found, or will be for these: they have something to apply again first, and may have to wait for space.
    Started {
        /// Copies that are still being opened.
        opening: BTreeSet<VolumeId>,
    },
    /// A copy is there.
    Opened {
        /// The volume.
        volume: VolumeId,
        /// What it holds.
        copy: OpenedCopy,
    },
    /// Records that were durable here can't be read from the journal. At a start what others have of them comes again; later they
    /// are in the image, and a copy that lags fetches regions instead.
    RecordsLost {
        /// The volume.
        volume: VolumeId,
        /// The first of them.
        first: Lsn,
        /// The last, at most.
        last: Lsn,
    },
    /// A copy is gone.
    Deleted {
        /// The volume.
        volume: VolumeId,
    },
    /// On stable storage, with everything before it.
    Durable {
        /// The volume.
        volume: VolumeId,
        /// Up to here.
        upto: Durable<Lsn>,
    },
    /// The promise is on stable storage and no append of an older epoch is in flight.
    Promised {
        /// The volume.
        volume: VolumeId,
        /// What was promised.
        epoch: Epoch,
    },
    /// The table is on stable storage; the log ends at `last` (all of it durable).
    Adopted {
        /// The volume.
        volume: VolumeId,
        /// The adopted epoch.
        epoch: Epoch,
        /// End of the log after the cut.
        last: Lsn,
        /// Hash of the record at `last`.
        last_hash: u64,
    },
    /// Something became of an orphan, which people should know.
    Orphan {
        /// The volume.
        volume: VolumeId,
        /// The epoch at whose adoption it was cut.
        epoch: Epoch,
        /// What.
        news: OrphanNews,
    },
    /// The image holds everything up to here.
    Applied {
        /// The volume.
        volume: VolumeId,
        /// Up to here.
        upto: Lsn,
        /// Digest of the copy at this LSN.
        digest: u64,
    },
    /// Everything up to here is in a synced image: the journal is not needed for it by this copy.
    Checkpointed {
        /// The volume.
        volume: VolumeId,
        /// Up to here.
        upto: Lsn,
    },
    /// Answer to `Read`.
    ReadDone {
        /// The volume.
        volume: VolumeId,
        /// Copied from the question.
        tag: u64,
        /// One piece per run of blocks, in order, together the whole range.
        result: Result<Vec<Bytes>, ReadFault>,
    },
    /// Answer to `Extents`.
    Extents {
        /// The volume.
        volume: VolumeId,
        /// Copied from the question.
        tag: u64,
        /// Runs of blocks that are holes (true) or have their space (false), from the start of the range on; they may cover
        /// less than the whole range. Empty if there is no such copy.
        extents: Vec<(BlockRange, bool)>,
    },
    /// Answer to `Repair`.
    Repaired {
        /// The volume.
        volume: VolumeId,
        /// The block.
        block: BlockIndex,
        /// The image holds what it should there, or will: a committed change of the block is on its way.
        right: bool,
    },
    /// A file was not what had been written, which a scrub found, and is written again from memory or from an equal copy.
    Mended {
        /// The volume.
        volume: VolumeId,
        /// Which file.
        file: FileId,
    },
    /// Answer to `Hold`: everything up to `at` and nothing later is in the image, until `GoOn` or `LetGo`.
    Held {
        /// The volume.
        volume: VolumeId,
        /// Copied from the question.
        at: Lsn,
        /// Digest of the image there.
        digest: u64,
    },
    /// The hold has ended by itself, or could not begin.
    LetGo {
        /// The volume.
        volume: VolumeId,
        /// Copied from the question.
        at: Lsn,
        /// Why.
        why: NotHeld,
    },
    /// Answer to `Sums`.
    Sums {
        /// The volume.
        volume: VolumeId,
        /// Copied from the question.
        node: SumNode,
        /// One for each child that lies in the volume; none if the copy does not hold its image at a record.
        sums: Vec<u64>,
    },
    /// Answer to `ReadLog`.
    LogRead {
        /// The volume.
        volume: VolumeId,
        /// Copied from the question.
        tag: u64,
        /// Consecutive records from the one asked for; or the journal no longer holds it.
        result: Result<Vec<Record>, LogGone>,
    },
    /// Answer to `ReadRegions`.
    RegionsRead {
        /// The volume.
        volume: VolumeId,
        /// Copied from the question.
        tag: u64,
        /// The regions, or the block that can't be verified.
        result: Result<Box<RegionsFound>, ReadFault>,
    },
    /// The side area is ready.
    SideOpened {
        /// The volume.
        volume: VolumeId,
        /// Regions that it holds.
        count: u64,
        /// The highest LSN among them.
        top: Lsn,
    },
    /// Answer to `HeldInSide`.
    SideHeld {
        /// The volume.
        volume: VolumeId,
        /// Regions with their LSN.
        held: Vec<(RegionIndex, Lsn)>,
        /// Regions below were looked at.
        end: RegionIndex,
    },
    /// The regions are in the side area, durably.
    SideWritten {
        /// The volume.
        volume: VolumeId,
        /// So many are not: they did not come back as they were written.
        bad: u64,
    },
    /// Answer to `ProveSide`.
    SideProven {
        /// The volume.
        volume: VolumeId,
        /// Whether a switch may follow, until something is written or applied.
        result: Result<(), NotProven>,
    },
    /// The copy is the state that it was switched to; its log ends there, and the epoch is adopted.
    Switched {
        /// The volume.
        volume: VolumeId,
        /// The adopted epoch.
        epoch: Epoch,
        /// End and beginning of the log.
        last: Lsn,
        /// Epoch of the record there.
        last_epoch: Epoch,
        /// Its hash.
        last_hash: u64,
        /// Digest of the copy there.
        digest: u64,
    },
    /// The state is not proven any more; the copy stays as it is.
    SwitchRefused {
        /// The volume.
        volume: VolumeId,
    },
    /// The copy (or with `None`: the shard's journal and with it every copy) has failed for good in this life (P8).
    Failed {
        /// Which.
        volume: Option<VolumeId>,
        /// For the operator: what was expected, what was found, what to do.
        reason: String,
    },
}

/// Whether a copy has the space that it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// It has.
    Enough,
    /// Something waits for space; writes still go on, for as long as journal and memory take them.
    Short,
    /// Writes wait for space.
    Out,
}

/// The journal no longer holds the record asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogGone {
    /// The oldest one that it holds.
    pub first: Lsn,
}
