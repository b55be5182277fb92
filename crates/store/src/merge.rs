//! The switch of a copy to the state that its side area completes, and the way of the regions into the image.
//!
//! ```text
//! Switch ─► drained, checkpointed, nothing in flight ─► both sums as expected? ─► one write of the superblock ─► Switched
//!     ─► regions are moved, in order ─► checkpoint, which ends the side area
//! ```
//!
//! Up to the write of the superblock nothing of the copy's old state is changed; from then on image and side area together
//! are its state at the new checkpoint, and a start makes them so again, from the first region on. So a move that was
//! interrupted is repeated, and no record may be applied before all are moved. A block of the side area that can't be
//! verified any more is not moved: the block table knows what it should be, and it is repaired from another copy like
//! any other.

use crate::api::{Output, Switch};
use crate::io::{DiskOpKind, FileId};
use crate::journal::Journal;
use crate::ops::{CopyTag, Cx};
use crate::replica::Replica;
use crate::runs::RunMap;
use bytes::Bytes;
use holdfast_format::message::RegionCut;
use holdfast_format::{TableSums, block_checksum, digest_term};
use holdfast_types::{BLOCK_SIZE, BlockIndex, Lsn, Mutant, REGION_BLOCKS, mutated};
use std::collections::BTreeMap;

const BLOCK: u64 = BLOCK_SIZE as u64;
/// Regions moved at a time.
const STEP: usize = 8;

/// Where a switch leads, once its superblock is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SwitchTo {
    pub(crate) cut: RegionCut,
    /// Frames of the journal before this one are of the log that ends.
    pub(crate) born: (u64, u64),
}

/// Regions on their way into the image.
#[derive(Debug, Default)]
pub(crate) struct Merge {
    /// Regions below are in the image.
    next: u64,
    moving: Option<Moving>,
    done: bool,
}

#[derive(Debug)]
struct Moving {
    regions: Vec<u64>,
    blocks: BTreeMap<u64, Bytes>,
    missing: usize,
    writing: bool,
}

impl Replica {
    /// A switch waits for its turn or is being made durable: nothing is applied and no region is read for others.
    pub(crate) fn is_switching(&self) -> bool {
        let waits = matches!(self.commands.front(), Some(crate::replica::Command::Switch(_)));
        waits || self.adoption.as_ref().is_some_and(|a| a.switch.is_some())
    }

    /// Regions are being moved: nothing is applied.
    pub(crate) fn is_merging(&self) -> bool {
        self.merge.as_ref().is_some_and(|m| !m.done)
    }

    /// All regions are in the image, and the next checkpoint says so.
    pub(crate) fn is_merged(&self) -> bool {
        self.merge.as_ref().is_some_and(|m| m.done)
    }

    /// The file that holds a block's content.
    pub(crate) fn file_of(&self, block: u64) -> FileId {
        let region = block / REGION_BLOCKS;
        let beside = self.merge.as_ref().is_some_and(|m| !m.done && region >= m.next);
        if beside && self.side.regions.get(region) != 0 {
            FileId::SideImage(self.volume)
        } else {
            FileId::Image(self.volume)
        }
    }

    /// Whether nothing is in flight that the switch would pull the ground from, and the image is synced at `applied`: what
    /// the journal would still have to bring is gone with it.
    pub(crate) fn is_ready_to_switch(&mut self, cx: &mut Cx<'_>, cut_after: Lsn, journal: &mut Journal) -> bool {
        let idle = self.batch.is_none()
            && self.checkpointing.is_none()
            && !self.region_reads.holds()
            && self.repairing_blocks.is_empty()
            && !self.side.is_busy()
            && self.drained_for_cut(cut_after, journal);
        if !idle {
            return false;
        }
        if self.checkpoint < self.applied || self.is_merged() {
            self.checkpoint_now = true;
            return false;
        }
        !self.side.is_open() || self.prune_side(cx)
    }

    /// What both tables would sum up to with the side area's regions in place of the image's.
    fn sums_with_side(&self) -> TableSums {
        let mut sums = self.tables.sums();
        let replace = |sum: &mut u64, index: u64, old: u64, new: u64| {
            let term = |value| digest_term(BlockIndex(index), value);
            *sum = sum.wrapping_sub(term(old)).wrapping_add(term(new));
        };
        for (region, lsn) in self.side.from(0) {
            replace(&mut sums.regions, region, self.tables.regions.get(region), lsn.0);
            for block in region * REGION_BLOCKS..(region + 1) * REGION_BLOCKS {
                replace(&mut sums.blocks, block, self.tables.blocks.get(block), self.side.blocks.get(block));
            }
        }
        sums
    }

    pub(crate) fn switch(&mut self, cx: &mut Cx<'_>, switch: Switch, journal: &Journal) {
        let Switch { epoch, table, cut_after, cut } = switch;
        let v = self.volume;
        assert!(
            cut.at >= self.committed && cut.at >= cut_after,
            "{v}: a switch goes forward: {} to {cut:?}",
            self.committed
        );
        assert_eq!(table.epoch_at(cut.at), Some(cut.epoch), "{v}: the table gives record {} its epoch", cut.at);
        let found = self.sums_with_side();
        let why = if !self.side.is_open() {
            Some("its side area is not there".to_owned())
        } else if found == cut.sums || mutated(Mutant::SideNotProven) {
            None
        } else {
            let expected = cut.sums;
            Some(format!(
                "image and side area are not the state at record {}: expected the sums {:016x} and {:016x}, found {:016x} and {:016x}",
                cut.at, expected.blocks, expected.regions, found.blocks, found.regions
            ))
        };
        if let Some(why) = why {
            return cx.out.push(Output::SwitchRefused { volume: v, why });
        }
        let cut = RegionCut { sums: found, ..cut };
        let to = SwitchTo { cut, born: (journal.life, journal.next_seq) };
        self.adopt(cx, epoch, table, cut_after, Some(to));
    }

    /// What the superblock says from now on.
    pub(crate) fn switch_in_superblock(&mut self, to: SwitchTo) {
        let sb = &mut self.sb;
        (sb.checkpoint, sb.checkpoint_epoch, sb.checkpoint_hash) = (to.cut.at, to.cut.epoch, to.cut.hash);
        (sb.sums, sb.next) = (to.cut.sums, None);
        sb.committed = to.cut.at;
        sb.born = to.born;
        sb.merging = true;
    }

    /// The superblock is written: the copy is what image and side area are together.
    pub(crate) fn switched(&mut self, cx: &mut Cx<'_>, epoch: holdfast_types::Epoch, to: SwitchTo) {
        let RegionCut { at, epoch: last_epoch, hash: last_hash, sums } = to.cut;
        self.take_over_side();
        assert_eq!(self.tables.sums(), sums, "{}: the tables are those of the switch", self.volume);
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
        self.unknown_to = None;
        let (volume, digest) = (self.volume, sums.blocks);
        cx.out.push(Output::Switched { volume, epoch, last: at, last_epoch, last_hash, digest });
    }

    /// The side area's entries take the place of those in the tables, and its regions are to be moved.
    pub(crate) fn take_over_side(&mut self) {
        let regions: Vec<(u64, Lsn)> = self.side.from(0).collect();
        for (region, lsn) in regions {
            let first = region * REGION_BLOCKS;
            for block in first..first + REGION_BLOCKS {
                self.tables.set_block(block, self.side.blocks.get(block));
            }
            self.tables.set_region(region, lsn);
        }
        self.side.merges();
        self.merge = Some(Merge::default());
    }

    /// Moves the next regions, if none are on their way.
    pub(crate) fn pump_merge(&mut self, cx: &mut Cx<'_>) {
        while self.is_merging() {
            let merge = self.merge.as_mut().expect("regions are being moved");
            if merge.moving.is_some() {
                return;
            }
            let regions: Vec<u64> = self.side.from(merge.next).take(STEP).map(|(region, _)| region).collect();
            if regions.is_empty() {
                merge.done = true;
                self.checkpoint_now = true;
                return;
            }
            let runs: Vec<(u64, u64)> = regions.iter().flat_map(|region| self.content_runs(*region)).collect();
            let missing = runs.len();
            let moving = Moving { regions, blocks: BTreeMap::new(), missing, writing: false };
            self.merge.as_mut().expect("regions are being moved").moving = Some(moving);
            for (start, end) in runs {
                let len = u32::try_from((end - start) * BLOCK).expect("a region has 64 KiB");
                let kind = DiskOpKind::Read { offset: start * BLOCK, len };
                cx.copy_op(self.volume, CopyTag::MergeRead(start), FileId::SideImage(self.volume), kind);
            }
            if missing == 0 {
                self.move_blocks(cx);
            }
        }
    }

    /// Content of the side area came back.
    pub(crate) fn merge_read(&mut self, cx: &mut Cx<'_>, first: u64, data: &Bytes) {
        let merge = self.merge.as_mut().expect("regions are being moved");
        let moving = merge.moving.as_mut().expect("a read belongs to regions that are being moved");
        moving.missing -= 1;
        for (i, block) in (0..data.len() / BLOCK_SIZE).zip(first..) {
            let content = data.slice(i * BLOCK_SIZE..(i + 1) * BLOCK_SIZE);
            if block_checksum(BlockIndex(block), &content) == self.tables.blocks.get(block) {
                moving.blocks.insert(block, content);
            }
        }
        if moving.missing == 0 {
            self.move_blocks(cx);
        }
    }

    fn move_blocks(&mut self, cx: &mut Cx<'_>) {
        let merge = self.merge.as_mut().expect("regions are being moved");
        let moving = merge.moving.as_mut().expect("regions are being moved");
        let end = self.sb.size.blocks().0;
        let mut ops = Vec::new();
        let blocks = moving.regions.iter().flat_map(|r| r * REGION_BLOCKS..(r + 1) * REGION_BLOCKS);
        for block in blocks.filter(|block| *block < end) {
            let offset = block * BLOCK;
            match self.tables.blocks.get(block) {
                0 => ops.push(DiskOpKind::Punch { offset, len: BLOCK }),
                1 => ops.push(DiskOpKind::Zero { offset, len: BLOCK }),
                _ => ops.extend(moving.blocks.remove(&block).map(|data| DiskOpKind::Write {
                    offset,
                    data: vec![data],
                    durable: false,
                })),
            }
        }
        let ops = joined(ops);
        (moving.missing, moving.writing) = (ops.len(), true);
        if ops.is_empty() {
            self.moved();
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
