//! Bringing committed records into the image, in batches.
//!
//! Records wait in memory for others to be applied with, for a moment or until there are enough of them: a block that is
//! written over and over is then written to the image once (docs/decisions/2026-11-29-write-amplification.md).
//!
//! A batch takes the records from `applied + 1` on, keeps for each block the last write only, joins neighbours, and
//! writes. One batch at a time per copy, so no block is ever in flight twice. Tables, digest and `applied` change together
//! when the whole batch is written, hence the digest always belongs to exactly `applied`. Until then reads of these
//! blocks are served from the overlay, which the batch's own end clears.

use crate::api::Output;
use crate::io::{DiskOpKind, FileId};
use crate::ops::{CopyTag, Cx};
use crate::replica::{Replica, Stage};
use crate::runs::{RunMap, pieces};
use bytes::Bytes;
use holdfast_format::{Record, RecordKind};
use holdfast_types::{BLOCK_SIZE, BlockIndex, Lsn, Mutant, Time, mutated};

/// Records being applied.
#[derive(Debug)]
pub(crate) struct Batch {
    /// `applied` once it is written.
    upto: Lsn,
    runs: RunMap,
    missing: usize,
    bytes: u64,
    /// Writes that are not under way yet.
    todo: std::vec::IntoIter<DiskOpKind>,
}

const BLOCK: u64 = BLOCK_SIZE as u64;
/// What a zeroed block counts against the size of a batch, in bytes.
const ZEROED_BLOCK: u64 = 64;

impl Replica {
    /// Starts the next batch if none is under way. Batches without blocks end at once, hence the loop.
    pub(crate) fn pump_apply(&mut self, cx: &mut Cx<'_>, hurry: bool) {
        // A block is never in flight twice: what is being repaired must not be overtaken by its next change.
        while self.batch.is_none() && self.repairing_blocks.is_empty() && self.broken.is_none() {
            let bound = self.appliable();
            if self.applied >= bound {
                return;
            }
            let since = *self.debt_since.get_or_insert(cx.now);
            if !hurry && cx.now < since + cx.config.apply_delay {
                return;
            }
            self.debt_since = None;
            let batch = self.collect(bound, cx.config.apply_batch_bytes);
            let kinds = image_ops(&batch.runs, cx.config.apply_write_bytes);
            if mutated(Mutant::OverlayClearedEarly) {
                batch.runs.iter().for_each(|(start, end, _)| self.overlay.remove_upto(start, end, batch.upto));
            }
            self.batch = Some(Batch { missing: kinds.len(), todo: kinds.into_iter(), ..batch });
            for _ in 0..cx.config.apply_in_flight {
                self.write_next(cx);
            }
            if self.batch.as_ref().is_some_and(|b| b.missing == 0) {
                self.batch_written(cx);
            }
        }
    }

    /// Up to where the image may be brought now.
    fn appliable(&self) -> Lsn {
        let known = if mutated(Mutant::AppliesUnknownCommit) { self.committed } else { self.known_committed };
        let bound = if mutated(Mutant::AppliesUncommitted) { self.durable } else { self.committed.min(known) };
        self.unproven.map_or(Lsn(u64::MAX), |u| u.0).min(bound)
    }

    /// When the next batch is due though nothing else happens.
    pub(crate) fn apply_due(&self, delay: std::time::Duration) -> Option<Time> {
        let waits = self.batch.is_none() && self.repairing_blocks.is_empty() && self.broken.is_none();
        self.debt_since.filter(|_| waits && self.applied < self.appliable()).map(|since| since + delay)
    }

    fn write_next(&mut self, cx: &mut Cx<'_>) {
        let Some(kind) = self.batch.as_mut().and_then(|batch| batch.todo.next()) else { return };
        cx.copy_op(self.volume, CopyTag::Apply, FileId::Image(self.volume), kind);
    }

    /// The batch under way writes this block.
    pub(crate) fn is_being_applied(&self, block: u64) -> bool {
        self.batch.as_ref().is_some_and(|b| b.runs.get(block).is_some())
    }

    fn collect(&self, bound: Lsn, max_bytes: u64) -> Batch {
        let mut batch =
            Batch { upto: self.applied, runs: RunMap::default(), missing: 0, bytes: 0, todo: Vec::new().into_iter() };
        let mut zeroed = 0;
        while batch.upto < bound && batch.bytes + zeroed < max_bytes {
            batch.upto = batch.upto.next();
            let record = self.unapplied(batch.upto);
            batch.bytes += u64::try_from(record.len_bytes()).expect("about 1 MiB");
            if record.header().kind == RecordKind::WriteZeroes {
                // Small as it is, it changes an entry of the table for each block, in one go.
                zeroed += record.header().range.count.0 * ZEROED_BLOCK;
            }
            batch.runs.insert(record);
        }
        batch
    }

    fn unapplied(&self, lsn: Lsn) -> &Record {
        let entry = self.log.get(&lsn).expect("records above the checkpoint are in the log");
        entry.record.as_ref().expect("records above applied are in memory")
    }

    /// One write of the batch ended.
    pub(crate) fn apply_done(&mut self, cx: &mut Cx<'_>) {
        let batch = self.batch.as_mut().expect("a write of a batch belongs to one");
        batch.missing -= 1;
        let done = batch.missing == 0;
        self.write_next(cx);
        if done {
            self.batch_written(cx);
        }
    }

    fn batch_written(&mut self, cx: &mut Cx<'_>) {
        let batch = self.batch.take().expect("the batch that was written");
        for (start, end, record) in batch.runs.iter() {
            self.tables.touch_regions(start, end, record.lsn());
            let header = record.header();
            if header.kind == RecordKind::Write {
                self.set_sums(record, start, end);
            } else {
                match header.kind {
                    RecordKind::WriteZeroes => self.tables.zero_blocks(start, end),
                    _ => self.tables.clear_blocks(start, end),
                }
                let last = header.range.end().0 - 1;
                for edge in [header.range.start.0, last] {
                    if (start..end).contains(&edge) {
                        self.set_sums(record, edge, edge + 1);
                    }
                }
            }
            let upto = if mutated(Mutant::OverlayForgetsNewer) { Lsn(u64::MAX) } else { batch.upto };
            self.overlay.remove_upto(start, end, upto);
        }
        self.applied = batch.upto;
        self.prove_tables();
        self.backlog -= batch.bytes;
        self.debt -= batch.bytes;
        cx.ops.pace.applied(batch.bytes);
        self.applied_bytes += batch.bytes;
        self.first_applied.get_or_insert(cx.now);
        if self.stage == Stage::Open {
            let (volume, upto, digest) = (self.volume, self.applied, self.tables.digest);
            cx.out.push(Output::Applied { volume, upto, digest });
        }
    }

    fn set_sums(&mut self, record: &Record, start: u64, end: u64) {
        for block in start..end {
            self.tables.set_block(block, record.block_sum(BlockIndex(block)));
        }
    }
}

/// The writes and punches that bring `runs` into an image, neighbours joined up to `max_write` bytes.
fn image_ops(runs: &RunMap, max_write: usize) -> Vec<DiskOpKind> {
    let mut kinds = Vec::new();
    let mut write: Vec<Bytes> = Vec::new();
    let (mut from, mut to) = (0, 0);
    let flush = |write: &mut Vec<Bytes>, from: u64, kinds: &mut Vec<DiskOpKind>| {
        if !write.is_empty() {
            kinds.push(DiskOpKind::Write { offset: from * BLOCK, data: std::mem::take(write), durable: false });
        }
    };
    let parts = |(start, end, record): (u64, u64, &Record)| {
        let kind = record.header().kind;
        pieces(record, start, end).into_iter().map(move |piece| (kind, piece))
    };
    for (kind, piece) in runs.iter().flat_map(parts) {
        let Some(data) = piece.data else {
            let (offset, len) = (piece.start * BLOCK, (piece.end - piece.start) * BLOCK);
            if !mutated(Mutant::ZeroesNotPunched) {
                kinds.push(match kind {
                    RecordKind::WriteZeroes => DiskOpKind::Zero { offset, len },
                    _ => DiskOpKind::Punch { offset, len },
                });
            }
            continue;
        };
        let size: usize = write.iter().map(Bytes::len).sum();
        if piece.start != to || size + data.len() > max_write {
            flush(&mut write, from, &mut kinds);
            from = piece.start;
        }
        to = piece.end;
        write.push(data);
    }
    flush(&mut write, from, &mut kinds);
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_format::Draft;
    use holdfast_types::{BlockRange, Epoch, VolumeId};

    fn write(lsn: u64, start: u64, count: u64) -> Record {
        let body = Bytes::from(vec![1; usize::try_from(count).expect("small") * BLOCK_SIZE]);
        let range = BlockRange::new(start, count);
        let (volume, epoch, lsn) = (VolumeId(1), Epoch(1), Lsn(lsn));
        let kind = RecordKind::Write;
        let (head, tail, prev_hash, committed) = (false, false, 0, Lsn(0));
        Record::seal(Draft { volume, epoch, lsn, prev_hash, committed, kind, head, tail, range, body })
    }

    #[test]
    fn neighbours_are_joined_up_to_the_bound() {
        let mut runs = RunMap::default();
        for (lsn, start, count) in [(1, 0, 2), (2, 2, 2), (3, 4, 1), (4, 9, 1), (5, 1, 1)] {
            runs.insert(&write(lsn, start, count));
        }
        let ops: Vec<_> = image_ops(&runs, 4 * BLOCK_SIZE)
            .into_iter()
            .map(|kind| match kind {
                DiskOpKind::Write { offset, data, durable } => {
                    (offset / BLOCK, data.iter().map(Bytes::len).sum::<usize>() / BLOCK_SIZE, durable)
                }
                other => panic!("only writes: {other:?}"),
            })
            .collect();
        assert_eq!(ops, [(0, 4, false), (4, 1, false), (9, 1, false)]);
    }
}
