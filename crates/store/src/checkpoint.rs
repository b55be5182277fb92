//! The checkpoint: after it the journal is not needed up to `lsn`, because image and tables are synced at a state that
//! is at least that.
//!
//! ```text
//! note lsn = applied, freeze the tables ─► write their changed pages, each into the place that the last checkpoint does not
//!     need ─► sync image and tables ─► superblock with the new roots ─► Checkpointed
//! ```
//!
//! Batches go on meanwhile. The image may then be newer than `lsn`, wholly or in part; that does no harm, since replay from
//! `lsn` rewrites every block that changed later. The tables are of exactly `lsn`: what a checkpoint that never ended wrote lies in
//! places that no root leads to.

use crate::api::Output;
use crate::io::{DiskOpKind, FileId};
use crate::merge::Merge;
use crate::ops::{CopyTag, Cx};
use crate::replica::{Replica, Stage};
use crate::superblock::Waiter;
use crate::tables::FrozenPage;
use holdfast_format::{TableRoots, TableSums};
use holdfast_types::{BlockIndex, Epoch, Lsn, Mutant, RegionIndex, Resized, Time, mutated};

/// Pages of tables being written at a time.
const PAGE_WRITES: usize = 64;

#[derive(Debug)]
pub(crate) struct Checkpoint {
    lsn: Lsn,
    epoch: Epoch,
    hash: u64,
    sums: TableSums,
    roots: TableRoots,
    size: Resized,
    cut: (Lsn, BlockIndex),
    /// Pages of the tables as they were at `lsn`, that are still to be written.
    pages: Vec<(FileId, FrozenPage)>,
    /// How far regions are moved, if there are any to be.
    merging: Option<Option<RegionIndex>>,
    step: Step,
    missing: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Pages,
    Syncs,
    Superblock,
}

impl Replica {
    /// When a checkpoint is due though nothing else happens.
    pub(crate) fn checkpoint_due(&self, cx_interval: std::time::Duration) -> Option<Time> {
        // One that has to wait for a resize comes with its end: a time that has passed would be asked for again and again.
        let waiting = self.checkpointing.is_none() && self.applied > self.checkpoint && !self.is_resizing();
        self.first_applied.filter(|_| waiting).map(|since| since + cx_interval)
    }

    pub(crate) fn pump_checkpoint(&mut self, cx: &mut Cx<'_>) {
        let nothing_new =
            self.applied == self.checkpoint && !self.has_moved(cx.config.checkpoint_bytes) && !self.tables_rotten;
        // Pages that a checkpoint is about to write must not be cut off under it.
        let busy = self.switches_now() || self.is_weaving() || self.is_resizing();
        if self.checkpointing.is_some() || nothing_new || busy {
            return;
        }
        // During replay nobody is told, and it is done only to make room.
        if self.stage != Stage::Open && !self.checkpoint_now {
            return;
        }
        let late = self.checkpoint_due(cx.config.checkpoint_interval).is_some_and(|at| at <= cx.now);
        let moved = self.has_moved(cx.config.checkpoint_bytes);
        if !(late || moved || self.checkpoint_now || self.applied_bytes >= cx.config.checkpoint_bytes) {
            return;
        }
        (self.checkpoint_now, self.tables_rotten) = (false, false);
        self.applied_bytes = 0;
        self.first_applied = None;
        let (epoch, hash) = self.identity(self.applied);
        let (blocks, mut block_pages) = self.tables.blocks.freeze();
        let (regions, region_pages) = self.tables.regions.freeze();
        if mutated(Mutant::TableNotWritten) {
            block_pages.clear();
        }
        let v = self.volume;
        let block_pages = block_pages.into_iter().map(|page| (FileId::BlockTable(v), page));
        let region_pages = region_pages.into_iter().map(|page| (FileId::RegionTable(v), page));
        let pages = block_pages.chain(region_pages).collect();
        let (lsn, sums, roots) = (self.applied, self.tables.sums(), TableRoots { blocks, regions });
        let merging = self.merge.as_mut().map(Merge::noted);
        let (size, cut, step) = (self.sizes.at(lsn), self.cut_off, Step::Pages);
        self.checkpointing =
            Some(Checkpoint { lsn, epoch, hash, sums, roots, size, cut, pages, merging, step, missing: 0 });
        self.write_pages(cx);
    }

    /// Gives out the next pages, or goes on when all are written. A page is encoded when its turn comes, so that a checkpoint takes
    /// little memory beside the tables.
    fn write_pages(&mut self, cx: &mut Cx<'_>) {
        let volume = self.volume;
        let checkpoint = self.checkpointing.as_mut().expect("a checkpoint is under way");
        while checkpoint.missing < PAGE_WRITES
            && let Some((file, page)) = checkpoint.pages.pop()
        {
            let kind = DiskOpKind::Write { offset: page.offset(), data: vec![page.bytes()], durable: false };
            checkpoint.missing += 1;
            cx.copy_op(volume, CopyTag::Checkpoint, file, kind);
        }
        if checkpoint.missing == 0 {
            self.sync_for_checkpoint(cx);
        }
    }

    /// One operation of the checkpoint ended.
    pub(crate) fn checkpoint_done(&mut self, cx: &mut Cx<'_>) {
        let checkpoint = self.checkpointing.as_mut().expect("a step of a checkpoint belongs to one");
        checkpoint.missing -= 1;
        match checkpoint.step {
            Step::Pages => self.write_pages(cx),
            Step::Syncs if checkpoint.missing > 0 => {}
            Step::Syncs => {
                checkpoint.step = Step::Superblock;
                let (lsn, epoch, hash) = (checkpoint.lsn, checkpoint.epoch, checkpoint.hash);
                let (sums, roots) = (checkpoint.sums, checkpoint.roots);
                let (size, cut) = (checkpoint.size, checkpoint.cut);
                assert!(lsn >= self.sb.checkpoint && lsn <= self.applied, "checkpoints go forward");
                self.sb.checkpoint = lsn;
                self.sb.checkpoint_epoch = epoch;
                self.sb.checkpoint_hash = hash;
                (self.sb.sums, self.sb.roots) = (sums, roots);
                if let Some(merging) = checkpoint.merging {
                    self.sb.merging = merging;
                }
                (self.sb.size, self.sb.resized, self.sb.cut) = (size.size, size.decision, cut);
                self.write_superblock(cx, Waiter::Checkpoint(lsn));
            }
            Step::Superblock => unreachable!("the superblock answers by its waiter"),
        }
    }

    fn sync_for_checkpoint(&mut self, cx: &mut Cx<'_>) {
        let v = self.volume;
        let skipped = |file: &FileId| match file {
            FileId::Image(_) => mutated(Mutant::ImageNotSynced),
            FileId::BlockTable(_) => mutated(Mutant::TableNotSynced),
            _ => false,
        };
        let files = [FileId::Image(v), FileId::BlockTable(v), FileId::RegionTable(v)];
        let files: Vec<FileId> = files.into_iter().filter(|file| !skipped(file)).collect();
        let checkpoint = self.checkpointing.as_mut().expect("a checkpoint is under way");
        checkpoint.step = Step::Syncs;
        checkpoint.missing = files.len();
        for file in files {
            cx.copy_op(v, CopyTag::Checkpoint, file, DiskOpKind::Sync);
        }
    }

    /// The superblock with the checkpoint is on disk.
    pub(crate) fn checkpointed(&mut self, cx: &mut Cx<'_>, upto: Lsn) {
        let checkpoint = self.checkpointing.take().expect("a checkpoint is under way");
        assert_eq!(checkpoint.lsn, upto, "one checkpoint at a time");
        let cut_now = self.cut_off.0 > self.checkpoint && self.cut_off.0 <= upto;
        self.checkpoint = upto;
        self.sizes.settle(upto);
        self.tables.blocks.thaw();
        self.tables.regions.thaw();
        self.end_merge();
        if cut_now {
            self.shorten_tables(cx);
        }
        if self.stage == Stage::Open {
            cx.out.push(Output::Checkpointed { volume: self.volume, upto });
        }
    }
}
