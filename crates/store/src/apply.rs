//! Bringing committed records into the image, in batches.
//!
//! Records wait in memory for others to be applied with, for a moment or until there are enough of them: a block that is
//! written over and over is then written to the image once (docs/decisions/2026-11-29-write-amplification.md).
//!
//! A batch takes the records from `applied + 1` on, keeps for each block the last write only, joins neighbours, and
//! writes. One batch at a time per copy, so no block is ever in flight twice. Meanwhile the leaves of the tables that it changes
//! are brought into memory, and stay. Tables, digest and `applied` change together when the whole batch is written, hence
//! the digest always belongs to exactly `applied`. Until then reads of these blocks are served from the overlay, which the
//! batch's own end clears.
//!
//! A batch takes no more records when it changes many leaves, and does not start before the shard has room for them. What one
//! record needs is bounded by `MAX_RANGE_BLOCKS`.

use crate::api::Output;
use crate::config::StoreConfig;
use crate::hold::Hold;
use crate::io::{DiskOpKind, FileId};
use crate::ops::{CopyTag, Cx};
use crate::pace::Began;
use crate::pages::Wait;
use crate::replica::{Replica, Stage, len_of};
use crate::runs::{RunMap, pieces};
use crate::tables::{Seek, leaves, pages_for};
use bytes::Bytes;
use holdfast_format::{Record, RecordKind, TableKind, TablePage};
use holdfast_types::{BLOCK_SIZE, BlockIndex, Lsn, Mutant, PROOF_RECORDS, REGION_BLOCKS, Time, mutated};
use std::collections::BTreeMap;

/// Records being applied.
#[derive(Debug)]
pub(crate) struct Batch {
    /// `applied` once it is written.
    upto: Lsn,
    runs: RunMap,
    /// Leaves of the tables that it changes; true: also where all is zeros.
    leaves: BTreeMap<(TableKind, u64), bool>,
    /// The ones that are here to stay until it is written.
    pinned: Vec<(TableKind, u64)>,
    /// It is this record alone, which gives the volume another size.
    pub(crate) resize: Option<Record>,
    /// Pages of the tables that it may need, with those above the leaves.
    pub(crate) reserved: usize,
    /// Writes and leaves.
    missing: usize,
    bytes: u64,
    in_flight: usize,
    began: Option<Began>,
    /// Writes that are not under way yet.
    todo: std::vec::IntoIter<(FileId, DiskOpKind)>,
}

const BLOCK: u64 = BLOCK_SIZE as u64;
/// What a zeroed block counts against the size of a batch, in bytes.
const ZEROED_BLOCK: u64 = 64;

impl Replica {
    /// Starts the next batch if none is under way. Batches without blocks end at once, hence the loop.
    pub(crate) fn pump_apply(&mut self, cx: &mut Cx<'_>, hurry: bool) {
        if self.is_held_up() {
            return;
        }
        // A block is never in flight twice: what is being repaired must not be overtaken by its next change.
        while self.batch.is_none() && self.repairing_blocks.is_empty() && self.broken.is_none() && !self.cut_is_fresh()
        {
            let bound = self.appliable();
            if self.applied >= bound {
                // A hold came while it waited for room: who waits behind it must not wait for the hold.
                if std::mem::take(&mut self.pages_wanted) > 0 {
                    cx.ops.pages.gives_up(self.volume);
                }
                return;
            }
            // What was made of the tables belongs to the image as it is.
            if self.disturb_weaving() {
                return;
            }
            self.digests_at.retain(|at| *at > self.applied);
            let bound = self.digests_at.first().map_or(bound, |at| bound.min(*at));
            // Not collected anew each time that there is no room yet.
            let wanted = self.pages_wanted;
            if wanted > 0 && !cx.ops.pages.has_room(self.volume, wanted, cx.config.table_pages()) {
                return;
            }
            let since = *self.debt_since.get_or_insert(cx.now);
            // Somebody waits for a digest; or it was due before, and has room now, which wakes it once only.
            let awaited = self.hold.is_some() || !self.digests_at.is_empty() || wanted > 0;
            if !(hurry || awaited || cx.now >= since + cx.config.apply_delay) {
                return;
            }
            if self.waits_for_checkpoint() {
                return;
            }
            let mut batch = self.collect(bound, cx.config);
            if !self.finds_room(cx, batch.reserved) {
                return;
            }
            // What it leaves has waited as long.
            self.debt_since = (batch.upto < bound).then_some(since);
            let leaves = std::mem::take(&mut batch.leaves);
            let resize = batch.resize.as_ref().map(|record| self.length_ops(record));
            let ops = resize.unwrap_or_else(|| self.image_ops(&batch.runs, cx.config.apply_write_bytes));
            if mutated(Mutant::OverlayClearedEarly) {
                batch.runs.iter().for_each(|(start, end, _)| self.overlay.remove_upto(start, end, batch.upto));
            }
            // One more than there is, so that it does not end before everything was asked for.
            let missing = ops.len() + leaves.len() + 1;
            let began = Some(cx.ops.pace.begins(cx.now));
            self.batch = Some(Batch { missing, todo: ops.into_iter(), began, ..batch });
            self.count_pages(cx);
            for ((kind, leaf), create) in leaves {
                self.leaf_for_batch(cx, kind, leaf, create);
            }
            self.write_more(cx);
            self.apply_done(cx);
        }
    }

    /// Up to where the image will be when the batch under way is written; 0 if there is none.
    pub(crate) fn applying_upto(&self) -> Lsn {
        self.batch.as_ref().map_or(Lsn::ZERO, |b| b.upto)
    }

    /// Whether the shard has room for so many pages of tables now. If not, copies make checkpoints, and this one comes again.
    fn finds_room(&mut self, cx: &mut Cx<'_>, pages: usize) -> bool {
        if pages == 0 {
            // It waits behind nobody: nothing would tell it when its turn comes, and its time would be over again and again.
            if std::mem::take(&mut self.pages_wanted) > 0 {
                cx.ops.pages.gives_up(self.volume);
            }
            return true;
        }
        let room = cx.ops.pages.admit(self.volume, pages, cx.config.table_pages());
        self.pages_wanted = if room { 0 } else { pages };
        room
    }

    /// A leaf that the batch changes is here, or all zeros, or on its way.
    pub(crate) fn leaf_for_batch(&mut self, cx: &mut Cx<'_>, kind: TableKind, leaf: u64, create: bool) {
        if !self.leaf(cx, kind, leaf, Wait::Apply(kind, leaf, create)) {
            return;
        }
        let tree = self.tables.tree(kind);
        let here = tree.seek(leaf) == Seek::Here;
        if create && !here {
            tree.create(leaf);
        }
        if create || here {
            tree.pin(leaf);
            self.batch.as_mut().expect("a batch asked for the leaf").pinned.push((kind, leaf));
        }
        self.apply_done(cx);
    }

    /// Whether nothing may be applied until an operation has ended that stands for something else.
    fn is_held_up(&self) -> bool {
        self.is_switching() || self.is_moving() || self.region_reads.holds()
    }

    /// Up to where the image may be brought now.
    fn appliable(&self) -> Lsn {
        let known = if mutated(Mutant::AppliesUnknownCommit) { self.committed } else { self.known_committed };
        let bound = if mutated(Mutant::AppliesUncommitted) { self.durable } else { self.committed.min(known) };
        self.hold.as_ref().map_or(Lsn(u64::MAX), Hold::at).min(bound)
    }

    /// When the next batch is due though nothing else happens.
    pub(crate) fn apply_due(&self, delay: std::time::Duration) -> Option<Time> {
        // Room for pages is no matter of time: who gives it pumps everybody. Nor is the end of a checkpoint.
        let waits =
            self.batch.is_none() && self.repairing_blocks.is_empty() && self.broken.is_none() && self.pages_wanted == 0;
        let waits = waits && !self.is_held_up() && !self.is_weaving();
        let due = waits && self.applied < self.appliable() && !self.waits_for_checkpoint();
        self.debt_since.filter(|_| due).map(|since| since + delay)
    }

    /// Gives out what of the batch may be in flight now.
    fn write_more(&mut self, cx: &mut Cx<'_>) {
        let width = cx.ops.pace.width(cx.now, cx.config);
        let Some(batch) = self.batch.as_mut() else { return };
        while batch.in_flight < width
            && let Some((file, kind)) = batch.todo.next()
        {
            batch.in_flight += 1;
            cx.copy_op(self.volume, CopyTag::Apply, file, kind);
        }
    }

    /// The batch under way writes this block.
    pub(crate) fn is_being_applied(&self, block: u64) -> bool {
        self.batch.as_ref().is_some_and(|b| b.runs.get(block).is_some())
    }

    fn image_ops(&self, runs: &RunMap, max_write: usize) -> Vec<(FileId, DiskOpKind)> {
        image_ops(runs, max_write).into_iter().map(|kind| (FileId::Image(self.volume), kind)).collect()
    }

    fn collect(&self, bound: Lsn, config: &StoreConfig) -> Batch {
        let mut batch = Batch {
            upto: self.applied,
            runs: RunMap::default(),
            leaves: BTreeMap::new(),
            pinned: Vec::new(),
            resize: None,
            reserved: 0,
            missing: 0,
            bytes: 0,
            in_flight: 0,
            began: None,
            todo: Vec::new().into_iter(),
        };
        let mut zeroed = 0;
        while batch.upto < bound
            && batch.bytes + zeroed < config.apply_batch_bytes
            && batch.leaves.len() < config.apply_batch_pages
            && !ends_at(&batch)
        {
            let record = self.unapplied(batch.upto.next());
            let resizes = record.header().kind == RecordKind::Resize;
            if resizes && batch.upto > self.applied {
                break;
            }
            batch.upto = batch.upto.next();
            batch.bytes += len_of(record);
            if record.header().kind == RecordKind::WriteZeroes {
                // Small as it is, it changes an entry of the table for each block, in one go.
                zeroed += record.header().range.count.0 * ZEROED_BLOCK;
            }
            batch.runs.insert(record);
            if resizes {
                batch.resize = Some(record.clone());
                batch.note_edge(record);
                break;
            }
            batch.note_leaves(record);
        }
        let of = |kind| batch.leaves.range((kind, 0)..=(kind, u64::MAX)).count();
        let (blocks, regions) = (of(TableKind::Blocks), of(TableKind::Regions));
        let size = self.image_size();
        let pages = pages_for(blocks, size.blocks().0) + pages_for(regions, size.regions());
        // They will be held until a checkpoint has written them.
        batch.reserved = 2 * pages;
        batch
    }

    pub(crate) fn unapplied(&self, lsn: Lsn) -> &Record {
        let entry = self.log.get(&lsn).expect("records above the checkpoint are in the log");
        entry.record.as_ref().expect("records above applied are in memory")
    }

    /// One write of the batch ended.
    pub(crate) fn write_done(&mut self, cx: &mut Cx<'_>) {
        self.batch.as_mut().expect("a write belongs to a batch").in_flight -= 1;
        self.write_more(cx);
        self.apply_done(cx);
    }

    /// One write of the batch ended, or one leaf is here.
    fn apply_done(&mut self, cx: &mut Cx<'_>) {
        let batch = self.batch.as_mut().expect("what a batch waits for belongs to one");
        batch.missing -= 1;
        if batch.missing == 0 {
            self.batch_written(cx);
        }
    }

    fn batch_written(&mut self, cx: &mut Cx<'_>) {
        let batch = self.batch.take().expect("the batch that was written");
        if let Some(record) = &batch.resize {
            self.resize_tables(record);
            self.region_reads.forget_changes();
        }
        for (start, end, record) in batch.runs.iter().filter(|_| batch.resize.is_none()) {
            self.tables.touch_regions(start, end, record.lsn());
            self.region_reads.note_changed(start, end, record.lsn());
            let header = record.header();
            if header.kind == RecordKind::Write {
                self.set_sums(record, start, end);
            } else {
                match header.kind {
                    RecordKind::WriteZeroes => self.tables.zero_blocks(start, end),
                    _ => self.tables.clear_blocks(start, end),
                }
                let last = header.range.end().0 - 1;
                for (edge, held) in [(header.range.start.0, header.head), (last, header.tail)] {
                    if held && (start..end).contains(&edge) {
                        self.set_sums(record, edge, edge + 1);
                    }
                }
            }
            let upto = if mutated(Mutant::OverlayForgetsNewer) { Lsn(u64::MAX) } else { batch.upto };
            self.overlay.remove_upto(start, end, upto);
        }
        for (kind, leaf) in batch.pinned {
            self.tables.tree(kind).unpin(leaf);
        }
        self.applied = batch.upto;
        self.backlog -= batch.bytes;
        self.debt -= batch.bytes;
        cx.ops.pace.applied(batch.bytes, batch.began.expect("a batch that was written had begun"), cx.now);
        self.applied_bytes += batch.bytes;
        self.first_applied.get_or_insert(cx.now);
        self.count_pages(cx);
        if self.stage == Stage::Open {
            let (volume, upto, digest) = (self.volume, self.applied, self.tables.digest);
            cx.out.push(Output::Applied { volume, upto, digest });
        }
    }

    fn set_sums(&mut self, record: &Record, start: u64, end: u64) {
        self.tables.set_blocks(start, end, |block| record.block_sum(BlockIndex(block)));
    }
}

impl Batch {
    /// The last leaves that stay: the ways to them are all that a cut changes.
    fn note_edge(&mut self, record: &Record) {
        let range = record.header().range;
        if !range.is_empty() {
            let last = range.start.0 - 1;
            self.leaves.insert((TableKind::Blocks, TablePage::leaf_of(last).index), true);
            self.leaves.insert((TableKind::Regions, TablePage::leaf_of(last / REGION_BLOCKS).index), true);
        }
    }

    /// The leaves that a record changes.
    fn note_leaves(&mut self, record: &Record) {
        let header = record.header();
        let (start, end) = (header.range.start.0, header.range.end().0);
        if start == end {
            return;
        }
        // A discard changes only what is not zero yet, except for its edges.
        let create = header.kind != RecordKind::Discard;
        for leaf in leaves(start, end) {
            *self.leaves.entry((TableKind::Blocks, leaf)).or_default() |= create;
        }
        for (edge, held) in [(start, header.head), (end - 1, header.tail)] {
            if held {
                self.leaves.insert((TableKind::Blocks, TablePage::leaf_of(edge).index), true);
            }
        }
        for leaf in leaves(start / REGION_BLOCKS, end.div_ceil(REGION_BLOCKS)) {
            self.leaves.insert((TableKind::Regions, leaf), true);
        }
    }
}

/// Every copy's batches end at these records, wherever else they end: so there are records at which all copies knew their digest.
fn ends_at(batch: &Batch) -> bool {
    batch.bytes > 0 && batch.upto.0.is_multiple_of(PROOF_RECORDS)
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
