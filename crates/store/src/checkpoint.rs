//! The checkpoint: after it the journal is not needed up to `lsn`, because image and tables are synced at a state that
//! is at least that.
//!
//! ```text
//! note lsn = applied, sums ─► superblock: begun ─► write dirty table pages ─► sync image and tables
//!     ─► superblock: done ─► Checkpointed
//! ```
//!
//! Batches go on meanwhile. Image and tables may then be newer than `lsn`, wholly or in part; that does no harm, since
//! replay from `lsn` rewrites every block and every entry that changed later.

use crate::api::Output;
use crate::io::{DiskOpKind, FileId};
use crate::ops::{CopyTag, Cx};
use crate::replica::Replica;
use crate::superblock::Waiter;
use bytes::Bytes;
use holdfast_format::{PAGE_BYTES, TableSums};
use holdfast_types::{Epoch, Lsn, Mutant, Time, mutated};

#[derive(Debug)]
pub(crate) struct Checkpoint {
    lsn: Lsn,
    epoch: Epoch,
    hash: u64,
    sums: TableSums,
    /// Dirty pages as they were at `lsn`, until the superblock says that they may be written.
    pages: Vec<(FileId, u64, Vec<Bytes>)>,
    step: Step,
    missing: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Begin,
    Pages,
    Syncs,
    Superblock,
}

impl Replica {
    /// When a checkpoint is due though nothing else happens.
    pub(crate) fn checkpoint_due(&self, cx_interval: std::time::Duration) -> Option<Time> {
        let waiting = self.checkpointing.is_none() && self.applied > self.checkpoint;
        self.first_applied.filter(|_| waiting).map(|since| since + cx_interval)
    }

    pub(crate) fn pump_checkpoint(&mut self, cx: &mut Cx<'_>) {
        let nothing_new = self.applied == self.checkpoint && !self.is_merged();
        // While a switch is made durable, `sb` is already that of the state to come.
        let busy = self.checkpointing.is_some() || self.adoption.as_ref().is_some_and(|a| a.switch.is_some());
        if busy || nothing_new || self.is_merging() || self.unproven.is_some() {
            return;
        }
        let late = self.checkpoint_due(cx.config.checkpoint_interval).is_some_and(|at| at <= cx.now);
        if !(late || self.checkpoint_now || self.applied_bytes >= cx.config.checkpoint_bytes) {
            return;
        }
        self.checkpoint_now = false;
        self.applied_bytes = 0;
        self.first_applied = None;
        let (epoch, hash) = self.identity(self.applied);
        let max = cx.config.apply_write_bytes;
        let mut pages = Vec::new();
        for (file, dirty) in [
            (FileId::BlockTable(self.volume), self.tables.blocks.take_dirty()),
            (FileId::RegionTable(self.volume), self.tables.regions.take_dirty()),
        ] {
            let dirty = if mutated(Mutant::TableNotWritten) { Vec::new() } else { dirty };
            pages.extend(joined(dirty, max).into_iter().map(|(offset, data)| (file, offset, data)));
        }
        let (lsn, sums) = (self.applied, self.tables.sums());
        self.sb.next = Some((lsn, sums));
        self.checkpointing = Some(Checkpoint { lsn, epoch, hash, sums, pages, step: Step::Begin, missing: 0 });
        self.write_superblock(cx, Waiter::Begun);
    }

    /// The superblock says that a checkpoint has begun: from here on pages may be of its LSN.
    pub(crate) fn write_pages(&mut self, cx: &mut Cx<'_>) {
        let checkpoint = self.checkpointing.as_mut().expect("a checkpoint is under way");
        checkpoint.step = Step::Pages;
        let pages = std::mem::take(&mut checkpoint.pages);
        checkpoint.missing = pages.len();
        if pages.is_empty() {
            self.sync_for_checkpoint(cx);
        }
        for (file, offset, data) in pages {
            cx.copy_op(self.volume, CopyTag::Checkpoint, file, DiskOpKind::Write { offset, data, durable: false });
        }
    }

    /// One operation of the checkpoint ended.
    pub(crate) fn checkpoint_done(&mut self, cx: &mut Cx<'_>) {
        let checkpoint = self.checkpointing.as_mut().expect("a step of a checkpoint belongs to one");
        checkpoint.missing -= 1;
        if checkpoint.missing > 0 {
            return;
        }
        match checkpoint.step {
            Step::Pages => self.sync_for_checkpoint(cx),
            Step::Syncs => {
                checkpoint.step = Step::Superblock;
                let (lsn, epoch, hash) = (checkpoint.lsn, checkpoint.epoch, checkpoint.hash);
                let sums = checkpoint.sums;
                assert!(lsn >= self.sb.checkpoint && lsn <= self.applied, "checkpoints go forward");
                self.sb.checkpoint = lsn;
                self.sb.checkpoint_epoch = epoch;
                self.sb.checkpoint_hash = hash;
                (self.sb.sums, self.sb.next) = (sums, None);
                self.sb.merging = false;
                self.write_superblock(cx, Waiter::Checkpoint(lsn));
            }
            Step::Begin | Step::Superblock => unreachable!("the superblock answers by its waiter"),
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
        self.checkpoint = upto;
        if self.merge.take().is_some() {
            self.remove_side(cx);
        }
        cx.out.push(Output::Checkpointed { volume: self.volume, upto });
    }
}

/// Neighbouring pages as one write of at most `max` bytes: (offset, pages).
fn joined(pages: Vec<(u64, Bytes)>, max: usize) -> Vec<(u64, Vec<Bytes>)> {
    let mut writes: Vec<(u64, Vec<Bytes>)> = Vec::new();
    let mut next = None;
    for (number, page) in pages {
        match writes.last_mut() {
            Some((_, run)) if next == Some(number) && (run.len() + 1) * PAGE_BYTES <= max => run.push(page),
            _ => writes.push((number * PAGE_BYTES as u64, vec![page])),
        }
        next = Some(number + 1);
    }
    writes
}
