//! A volume that becomes larger or smaller, at its place in the log.
//!
//! A resize is a batch of its own, so that what a batch knows of the volume's end holds for all of it. From the commit on, reads
//! find zeros in what is cut off, as behind a discard; the overlay says so. When the batch is written, the image has its
//! new length and the tables say nothing of what lies behind it, so that a volume that grows again has zeros there, never old bytes.
//!
//! After a cut a checkpoint comes before the next batch. Until it holds, the last one still needs the pages that were cut off, and
//! a page that comes to be in their place must not overwrite them. Then the tables' files are shortened, too; a crash in
//! between leaves them longer than they need to be, until the next cut.

use crate::io::{DiskOpKind, FileId};
use crate::ops::{CopyTag, Cx};
use crate::replica::Replica;
use crate::tables::table_file;
use holdfast_format::{Record, RecordKind, TableKind};
use holdfast_types::{BlockIndex, Lsn, Mutant, mutated};

impl Replica {
    /// The batch under way gives the volume another size.
    pub(crate) fn is_resizing(&self) -> bool {
        self.batch.as_ref().is_some_and(|batch| batch.resize.is_some())
    }

    /// No checkpoint holds the last cut yet, or the tables are being shortened after it.
    pub(crate) fn cut_is_fresh(&self) -> bool {
        self.cut_off.0 > self.checkpoint || self.shortening > 0
    }

    /// The next batch can't start before a checkpoint ends: one that holds a cut, or, if it is to be a cut, the one under way.
    pub(crate) fn waits_for_checkpoint(&self) -> bool {
        let next = || self.unapplied(self.applied.next()).header().kind == RecordKind::Resize;
        self.cut_is_fresh() || (self.checkpointing.is_some() && self.applied < self.committed && next())
    }

    /// What gives the files their new lengths. Those of the tables shrink only behind a checkpoint.
    pub(crate) fn length_ops(&self, record: &Record) -> Vec<(FileId, DiskOpKind)> {
        let size = record.resized().expect("a batch of a resize").size;
        let cuts = !record.header().range.is_empty();
        if cuts && mutated(Mutant::ShrinkKeepsBytes) {
            return Vec::new();
        }
        let mut files = vec![(FileId::Image(self.volume), size.blocks().bytes())];
        if !cuts {
            files.extend([TableKind::Blocks, TableKind::Regions].map(|kind| table_file(self.volume, size, kind)));
            // A block that does not match is looked for there, wherever it lies.
            files.extend(self.is_merging().then_some((FileId::SideImage(self.volume), size.blocks().bytes())));
        }
        files.into_iter().map(|(file, len)| (file, DiskOpKind::SetLen { len })).collect()
    }

    /// The files have their new lengths, and the last leaves of the tables are here.
    pub(crate) fn resize_tables(&mut self, record: &Record) {
        let range = record.header().range;
        if range.is_empty() {
            return;
        }
        self.overlay.remove_upto(range.start.0, range.end().0, record.lsn());
        if mutated(Mutant::ShrinkKeepsBytes) {
            return;
        }
        self.tables.cut(range.start.0, record.lsn());
        let (before, first) = self.cut_off;
        let first = if before == Lsn::ZERO { range.start.0 } else { first.0.min(range.start.0) };
        self.cut_off = (record.lsn(), BlockIndex(first));
        self.checkpoint_now = true;
    }

    /// A checkpoint holds a cut: nothing needs the pages behind it any more.
    pub(crate) fn shorten_tables(&mut self, cx: &mut Cx<'_>) {
        let (volume, size) = (self.volume, self.image_size());
        for kind in [TableKind::Blocks, TableKind::Regions] {
            let (file, len) = table_file(volume, size, kind);
            self.shortening += 1;
            cx.copy_op(volume, CopyTag::Shorten, file, DiskOpKind::SetLen { len });
        }
    }
}
