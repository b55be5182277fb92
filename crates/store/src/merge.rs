//! The switch of a copy to the state that its side area completes, and the way of the regions into the image.
//!
//! ```text
//! Switch ─► proved (`weave.rs`), drained, checkpointed, nothing in flight ─► one write of the superblock, with the new roots ─► Switched
//!     ─► regions are moved, in order, between batches ─► the checkpoint after the last one ends the side area
//! ```
//!
//! Up to the write of the superblock nothing of the copy's old state is changed. From then on the tables say what each block is, and
//! the block is in the image or in the side area: whoever reads takes the one that matches. So records are applied meanwhile, and
//! the journal does not wait for the moves. What is moved is compared with the block table, too: a block that was written since, or that
//! rotted in the side area, does not match and stays where it is. A move that was interrupted is repeated, from the last checkpoint's region on.

use crate::api::{Output, Switch};
use crate::io::{DiskOpKind, FileId};
use crate::journal::Journal;
use crate::ops::{CopyTag, Cx};
use crate::pages::Wait;
use crate::replica::{Command, Replica, Stage};
use crate::runs::RunMap;
use crate::side::{CHUNK, State, entries, runs};
use crate::superblock::Waiter;
use crate::tables::{entry_slot, table_file};
use crate::weave::Proven;
use bytes::Bytes;
use holdfast_format::message::{NotHeld, RegionCut};
use holdfast_format::{ALLOCATED_ZEROS, PAGE_ENTRIES, TableKind, block_checksum};
use holdfast_types::{BLOCK_SIZE, BlockIndex, BlockRange, Epoch, REGION_BLOCKS, RegionIndex, Resized, Sizes};
use std::collections::{BTreeMap, VecDeque};

const BLOCK: u64 = BLOCK_SIZE as u64;
/// Regions moved at a time.
const STEP: usize = 8;
/// Regions below one leaf of the block table.
const LEAF_REGIONS: u64 = PAGE_ENTRIES as u64 / REGION_BLOCKS;

/// Where a switch leads, once its superblock is written.
#[derive(Debug)]
pub(crate) struct SwitchTo {
    pub(crate) proven: Box<Proven>,
    /// Frames of the journal before this one are of the log that ends.
    pub(crate) born: (u64, u64),
}

/// Regions on their way into the image.
#[derive(Debug, Default)]
pub(crate) struct Merge {
    /// Regions below are in the image.
    next: u64,
    /// Entries of regions below were read.
    read_to: u64,
    /// Regions that the side area holds, from `next` on.
    waiting: VecDeque<u64>,
    reading: bool,
    moving: Option<Moving>,
    /// The last thing that happened was a move: it is a batch's turn.
    moved: bool,
    /// Bytes moved since a checkpoint noted how far it is.
    unnoted: u64,
    pub(crate) done: bool,
    sizing: Sizing,
}

/// The files' way to the lengths that the size takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sizing {
    #[default]
    Waiting,
    /// The image ends at the cut for a moment: what lay behind it is zeros then.
    Cutting,
    /// So many files are missing.
    Lengths(usize),
    /// The image is synced, so that it is cut only once.
    Syncing,
    /// The superblock says so.
    Noting,
    Done,
}

#[derive(Debug)]
struct Moving {
    regions: Vec<u64>,
    /// What the block table says of their blocks.
    sums: BTreeMap<u64, u64>,
    found: BTreeMap<u64, Bytes>,
    missing: usize,
    writing: bool,
}

/// What came while the copy could not take it.
#[derive(Debug)]
pub(crate) enum Deferred {
    Read { tag: u64, range: BlockRange, whole: bool },
    Extents { tag: u64, range: BlockRange },
    Repair { block: BlockIndex, data: Bytes },
}

impl Merge {
    /// Goes on at a region, as the superblock says.
    pub(crate) fn at(region: RegionIndex) -> Merge {
        Merge { next: region.0, read_to: region.0, ..Merge::default() }
    }

    /// What a checkpoint that begins now may note: where a later life goes on.
    pub(crate) fn noted(&mut self) -> Option<RegionIndex> {
        self.unnoted = 0;
        (!self.done).then_some(RegionIndex(self.next))
    }
}

impl Replica {
    /// A switch waits for its turn or is being made durable: nothing is read or applied.
    pub(crate) fn is_switching(&self) -> bool {
        matches!(self.commands.front(), Some(Command::Switch(_))) || self.switches_now() || self.is_sized_first()
    }

    /// The files are not as long yet as the size takes that came with a switch.
    fn is_sized_first(&self) -> bool {
        self.merge.as_ref().is_some_and(|m| m.sizing != Sizing::Done)
    }

    /// Its superblock is being written, and `sb` is that of the state to come.
    pub(crate) fn switches_now(&self) -> bool {
        self.adoption.as_ref().is_some_and(|a| a.switch.is_some())
    }

    /// Blocks of the image are being written by a move.
    pub(crate) fn is_moving(&self) -> bool {
        self.merge.as_ref().is_some_and(|m| m.moving.is_some())
    }

    /// Whether regions are to be moved to the image, or were and no checkpoint says so yet.
    pub(crate) const fn is_merging(&self) -> bool {
        self.merge.is_some()
    }

    /// Whether a checkpoint is of use though nothing was applied: regions were moved.
    pub(crate) fn has_moved(&self, much: u64) -> bool {
        self.merge.as_ref().is_some_and(|m| m.done || m.unnoted >= much)
    }

    /// Which file is read at this attempt for a block that did not match at the ones before, and how many there are.
    pub(crate) fn file_at(&mut self, attempt: u32) -> FileId {
        if self.is_merging() && attempt % 2 == 1 {
            self.side_reads += 1;
            FileId::SideImage(self.volume)
        } else {
            FileId::Image(self.volume)
        }
    }

    /// Attempts after the first one: each file is read twice.
    pub(crate) const fn more_attempts(&self) -> u32 {
        if self.is_merging() { 3 } else { 1 }
    }

    // ---- the switch

    /// Whether nothing is in flight that the switch would pull the ground from.
    pub(crate) fn is_ready_to_switch(&mut self, switch: &Switch, journal: &mut Journal) -> bool {
        let proven = matches!(&self.side.state, State::Proven(p) if p.cut == switch.cut);
        let idle = self.batch.is_none()
            && self.checkpointing.is_none()
            && !self.cut_is_fresh()
            && !self.region_reads.holds()
            && self.repairing_blocks.is_empty()
            && self.reads.no_images()
            && self.waits.is_empty();
        // What is not proved is refused at once.
        !proven || (idle && self.drained_for_cut(switch.cut_after, journal))
    }

    pub(crate) fn switch(&mut self, cx: &mut Cx<'_>, switch: Switch, journal: &Journal) {
        let Switch { epoch, table, cut_after, cut } = switch;
        let v = self.volume;
        let proven = match std::mem::take(&mut self.side.state) {
            State::Proven(proven) if proven.cut == cut && self.applied == self.checkpoint => proven,
            state => {
                self.side.state = state;
                return cx.out.push(Output::SwitchRefused { volume: v });
            }
        };
        let goes_forward = cut.at >= self.committed && cut.at >= cut_after;
        assert!(goes_forward, "{v}: a switch goes forward: {} to {cut:?}", self.committed);
        assert_eq!(table.epoch_at(cut.at), Some(cut.epoch), "{v}: the table gives record {} its epoch", cut.at);
        self.side.state = State::Merging;
        let to = SwitchTo { proven, born: (journal.life, journal.next_seq) };
        self.adopt(cx, epoch, table, cut_after, Some(to));
    }

    /// What the superblock says from now on.
    pub(crate) fn switch_in_superblock(&mut self) {
        let to = self.adoption.as_ref().and_then(|a| a.switch.as_ref()).expect("a switch is under way");
        let RegionCut { at, epoch, hash, size, resized, cut, .. } = to.proven.cut;
        let sb = &mut self.sb;
        (sb.checkpoint, sb.checkpoint_epoch, sb.checkpoint_hash) = (at, epoch, hash);
        (sb.sums, sb.roots) = (to.proven.sums, to.proven.roots);
        (sb.size, sb.resized, sb.cut) = (size, resized, cut);
        sb.committed = at;
        sb.born = to.born;
        (sb.merging, sb.stale_behind_cut) = (Some(RegionIndex(0)), to.proven.missed);
    }

    /// The superblock is written: the copy is what image and side area are together.
    pub(crate) fn switched(&mut self, cx: &mut Cx<'_>, epoch: Epoch, to: SwitchTo) {
        let Proven { cut, sums, blocks, regions, .. } = *to.proven;
        let RegionCut { at, epoch: last_epoch, hash: last_hash, .. } = cut;
        self.tables.replace(blocks, regions, sums);
        // What came from the side area was noted by nobody.
        self.region_reads.forget_changes();
        self.sizes = Sizes::new(Resized { lsn: at, size: cut.size, decision: cut.resized });
        self.cut_off = cut.cut;
        (self.received, self.received_epoch, self.received_hash) = (at, last_epoch, last_hash);
        (self.durable, self.committed, self.applied, self.checkpoint) = (at, at, at, at);
        self.known_committed = self.known_committed.max(at);
        self.carried = self.carried.max(at);
        self.commit_hint = self.commit_hint.max(at);
        self.trim = self.trim.max(at);
        self.cached_upto = at;
        self.log.clear();
        self.overlay = RunMap::default();
        (self.backlog, self.applied_bytes, self.first_applied) = (0, 0, None);
        (self.debt, self.debt_since) = (0, None);
        self.unknown_to = None;
        self.merge = Some(Merge::default());
        if let Some(hold) = self.hold.take() {
            cx.out.push(Output::LetGo { volume: self.volume, at: hold.at(), why: NotHeld::Passed });
        }
        let (volume, digest) = (self.volume, sums.blocks);
        cx.out.push(Output::Switched { volume, epoch, last: at, last_epoch, last_hash, digest });
    }

    // ---- sizes

    /// Gives the files the lengths that the size takes, before anything is read, applied or moved. After a start again: which lengths
    /// a crash left nobody knows, and what lies behind the checkpoint's size is replayed.
    pub(crate) fn pump_merge_size(&mut self, cx: &mut Cx<'_>) {
        if self.switches_now() || self.merge.as_ref().is_none_or(|m| m.sizing != Sizing::Waiting) {
            return;
        }
        if self.sb.stale_behind_cut {
            let len = self.sb.cut.1.0.next_multiple_of(REGION_BLOCKS) * BLOCK;
            self.merge.as_mut().expect("regions are to be moved").sizing = Sizing::Cutting;
            cx.copy_op(self.volume, CopyTag::MergeSize, FileId::Image(self.volume), DiskOpKind::SetLen { len });
        } else {
            self.set_lengths(cx);
        }
    }

    fn set_lengths(&mut self, cx: &mut Cx<'_>) {
        let (v, size) = (self.volume, self.sb.size);
        // Its checksums are of no use any more.
        let needed = |file: &FileId| !matches!(file, FileId::SideBlocks(_));
        let mut files: Vec<(FileId, u64)> = self.side_lengths().filter(|(file, _)| needed(file)).collect();
        files.push((FileId::Image(v), size.blocks().bytes()));
        files.extend([TableKind::Blocks, TableKind::Regions].map(|kind| table_file(v, size, kind)));
        self.merge.as_mut().expect("regions are to be moved").sizing = Sizing::Lengths(files.len());
        for (file, len) in files {
            cx.copy_op(v, CopyTag::MergeSize, file, DiskOpKind::SetLen { len });
        }
    }

    /// A step of it ended.
    pub(crate) fn merge_sized(&mut self, cx: &mut Cx<'_>) {
        let cuts = self.sb.stale_behind_cut;
        let merge = self.merge.as_mut().expect("nothing is moved before all files have their lengths");
        match merge.sizing {
            Sizing::Cutting => self.set_lengths(cx),
            Sizing::Lengths(1) if cuts => {
                merge.sizing = Sizing::Syncing;
                cx.copy_op(self.volume, CopyTag::MergeSize, FileId::Image(self.volume), DiskOpKind::Sync);
            }
            Sizing::Lengths(1) => merge.sizing = Sizing::Done,
            Sizing::Lengths(missing) => merge.sizing = Sizing::Lengths(missing - 1),
            Sizing::Syncing => {
                merge.sizing = Sizing::Noting;
                self.sb.stale_behind_cut = false;
                self.write_superblock(cx, Waiter::Sized);
            }
            Sizing::Noting => merge.sizing = Sizing::Done,
            Sizing::Waiting | Sizing::Done => unreachable!("no file gets another length: {merge:?}"),
        }
    }

    // ---- moving

    /// Moves the next regions, if nothing else writes the image.
    pub(crate) fn pump_merge(&mut self, cx: &mut Cx<'_>) {
        let still = self.batch.is_none() && self.repairing_blocks.is_empty();
        let quiet = still && !self.switches_now() && !self.is_sized_first();
        let end = self.side_size().regions();
        let Some(merge) = self.merge.as_mut() else { return };
        if self.stage != Stage::Open || !quiet || !cx.config.moves_regions || merge.busy() {
            return;
        }
        if !merge.waiting.is_empty() {
            return self.begin_move(cx);
        }
        if merge.read_to == end {
            (merge.next, merge.done) = (end, true);
            self.checkpoint_now = true;
            return;
        }
        let at = merge.read_to;
        merge.reading = true;
        merge.read_to += CHUNK.min(end - at);
        let _ = self.read_side_regions(cx, at, CopyTag::MergeRead(at));
    }

    /// It is a batch's turn before the next move.
    pub(crate) fn yields_to_batch(&mut self) -> bool {
        self.merge.as_mut().is_some_and(|m| std::mem::take(&mut m.moved))
    }

    /// The next regions are to be moved, as soon as it is known what they are.
    fn begin_move(&mut self, cx: &mut Cx<'_>) {
        let merge = self.merge.as_mut().expect("regions are being moved");
        let first = *merge.waiting.front().expect("a region waits");
        let leaf = first / LEAF_REGIONS;
        let regions: Vec<u64> =
            merge.waiting.iter().copied().take_while(|r| r / LEAF_REGIONS == leaf).take(STEP).collect();
        merge.waiting.drain(..regions.len());
        let (sums, found) = (BTreeMap::new(), BTreeMap::new());
        merge.moving = Some(Moving { regions, sums, found, missing: 0, writing: false });
        self.read_for_move(cx);
    }

    /// Reads what the side area has of them. Until they are moved no batch changes their blocks.
    pub(crate) fn read_for_move(&mut self, cx: &mut Cx<'_>) {
        let Some(first) = self.merge.as_ref().and_then(|m| m.moving.as_ref()).map(|m| m.regions[0]) else { return };
        let leaf = first / LEAF_REGIONS;
        if !self.leaf(cx, TableKind::Blocks, leaf, Wait::Move) {
            return;
        }
        // The volume may have become smaller since the switch.
        let (entries, end) = (self.tables.blocks.entries(leaf), self.image_size().blocks().0);
        let merge = self.merge.as_mut().expect("regions are being moved");
        let moving = merge.moving.as_mut().expect("regions are being moved");
        let blocks = moving.regions.iter().flat_map(|r| r * REGION_BLOCKS..((r + 1) * REGION_BLOCKS).min(end));
        moving.sums = blocks.map(|b| (b, entries.as_ref().map_or(0, |e| e[entry_slot(b)]))).collect();
        let content = moving.sums.iter().filter(|(_, sum)| **sum > ALLOCATED_ZEROS).map(|(block, _)| *block);
        let runs = runs(content);
        moving.missing = runs.len();
        for (start, end) in &runs {
            let len = u32::try_from((end - start) * BLOCK).expect("a few regions");
            let kind = DiskOpKind::Read { offset: start * BLOCK, len };
            cx.copy_op(self.volume, CopyTag::MergeRead(*start), FileId::SideImage(self.volume), kind);
        }
        if runs.is_empty() {
            self.move_blocks(cx);
        }
    }

    /// Entries or content of the side area came back.
    pub(crate) fn merge_read(&mut self, cx: &mut Cx<'_>, first: u64, data: &Bytes) {
        let merge = self.merge.as_mut().expect("regions are being moved");
        if std::mem::take(&mut merge.reading) {
            merge.waiting.extend((first..).zip(entries(data)).filter(|(_, lsn)| *lsn > 0).map(|(region, _)| region));
            return;
        }
        let moving = merge.moving.as_mut().expect("a read belongs to regions that are being moved");
        moving.missing -= 1;
        for (i, block) in (0..data.len() / BLOCK_SIZE).zip(first..) {
            let content = data.slice(i * BLOCK_SIZE..(i + 1) * BLOCK_SIZE);
            if moving.sums.get(&block) == Some(&block_checksum(BlockIndex(block), &content)) {
                moving.found.insert(block, content);
            }
        }
        if moving.missing == 0 {
            self.move_blocks(cx);
        }
    }

    fn move_blocks(&mut self, cx: &mut Cx<'_>) {
        let merge = self.merge.as_mut().expect("regions are being moved");
        let moving = merge.moving.as_mut().expect("regions are being moved");
        let mut ops = Vec::new();
        for (block, sum) in std::mem::take(&mut moving.sums) {
            let offset = block * BLOCK;
            match sum {
                0 => ops.push(DiskOpKind::Punch { offset, len: BLOCK }),
                ALLOCATED_ZEROS => ops.push(DiskOpKind::Zero { offset, len: BLOCK }),
                _ => ops.extend(moving.found.remove(&block).map(|data| DiskOpKind::Write {
                    offset,
                    data: vec![data],
                    durable: false,
                })),
            }
        }
        let ops = joined(ops);
        (moving.missing, moving.writing) = (ops.len(), true);
        if ops.is_empty() {
            return self.moved();
        }
        for kind in ops {
            cx.copy_op(self.volume, CopyTag::Merge, FileId::Image(self.volume), kind);
        }
    }

    /// A part of the image was written.
    pub(crate) fn merge_done(&mut self) {
        let merge = self.merge.as_mut().expect("regions are being moved");
        let moving = merge.moving.as_mut().expect("a write belongs to regions that are being moved");
        assert!(moving.writing, "blocks are written after they were read");
        moving.missing -= 1;
        if moving.missing == 0 {
            self.moved();
        }
    }

    fn moved(&mut self) {
        let merge = self.merge.as_mut().expect("regions are being moved");
        let moving = merge.moving.take().expect("regions were moved");
        merge.next = moving.regions.last().map_or(merge.next, |last| last + 1);
        merge.moved = true;
        merge.unnoted += u64::try_from(moving.regions.len()).expect("a few") * REGION_BLOCKS * BLOCK;
    }

    /// A checkpoint says that all regions are in the image.
    pub(crate) fn end_merge(&mut self) {
        if self.merge.as_ref().is_some_and(|m| m.done) && self.sb.merging.is_none() {
            self.merge = None;
        }
    }

    /// The side area goes when nobody reads it any more.
    pub(crate) fn pump_merged(&mut self, cx: &mut Cx<'_>) {
        if matches!(self.side.state, State::Merging)
            && self.merge.is_none()
            && self.side_reads == 0
            && !self.switches_now()
        {
            self.remove_side(cx);
        }
    }

    /// Takes what came while it could not be taken.
    pub(crate) fn pump_deferred(&mut self, cx: &mut Cx<'_>) {
        if self.deferred.is_empty() || self.is_switching() {
            return;
        }
        for deferred in std::mem::take(&mut self.deferred) {
            match deferred {
                Deferred::Read { tag, range, whole } => self.read(cx, tag, range, whole),
                Deferred::Extents { tag, range } => self.extents(cx, tag, range),
                Deferred::Repair { block, data } => self.repair(cx, block, data),
            }
        }
    }
}

impl Merge {
    const fn busy(&self) -> bool {
        self.moving.is_some() || self.reading || self.done
    }
}

/// Neighbouring operations of one kind as one.
fn joined(ops: Vec<DiskOpKind>) -> Vec<DiskOpKind> {
    let mut all: Vec<DiskOpKind> = Vec::new();
    for op in ops {
        match (all.last_mut(), op) {
            (Some(DiskOpKind::Punch { offset, len }), DiskOpKind::Punch { offset: next, len: more })
            | (Some(DiskOpKind::Zero { offset, len }), DiskOpKind::Zero { offset: next, len: more })
                if *offset + *len == next =>
            {
                *len += more;
            }
            (Some(DiskOpKind::Write { offset, data, .. }), DiskOpKind::Write { offset: next, data: more, .. })
                if *offset + BLOCK * data.len() as u64 == next =>
            {
                data.extend(more);
            }
            (_, op) => all.push(op),
        }
    }
    all
}
