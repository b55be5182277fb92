//! The side area: regions that came from another copy, kept apart from the image until they are complete (docs/FORMAT.md).
//!
//! ```text
//! Absent ──open──► Creating ──► Open ◄──► Writing      Leftover ──open──► Loading ──► Open
//!    ▲                                                     (files of an earlier life)
//!    └────────── Dropping ◄── drop, records appended, or moved to the image (`merge.rs`)
//! ```
//!
//! Writing regions: entries of older versions are zeroed durably ─► content and checksums ─► sync ─► read back ─► entries.
//! So an entry is on disk only while what it stands for is durable. A region whose content does not come back as it was
//! written is not noted, and asked for again.
//!
//! Invariant: nothing here touches the image, the tables or the journal of the copy.

use crate::api::Output;
use crate::io::{DiskOpKind, FileId};
use crate::ops::{CopyTag, Cx};
use crate::replica::Replica;
use crate::tables::{SparseTable, Table};
use bytes::Bytes;
use holdfast_format::message::Region;
use holdfast_format::{ALLOCATED_ZEROS, PAGE_BYTES, block_checksum};
use holdfast_types::{BLOCK_SIZE, BlockIndex, Lsn, Mutant, REGION_BLOCKS, RegionIndex, mutated};
use std::collections::BTreeSet;

const BLOCK: u64 = BLOCK_SIZE as u64;

/// The side area of a copy.
#[derive(Debug, Default)]
pub(crate) struct Side {
    state: State,
    pub(crate) blocks: SparseTable,
    /// Region → LSN that changed it last; 0: not there.
    pub(crate) regions: SparseTable,
    /// Asked for while the files of an earlier one were being removed.
    open_again: bool,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Absent,
    /// Its files are there, all or some of them, and nobody has looked at them.
    Leftover {
        whole: bool,
    },
    /// So many files are missing; the first one alone.
    Creating(u32),
    Loading(u32),
    Open,
    Writing(Box<Writing>),
    /// Entries that lost against the image are being zeroed.
    Pruning(usize),
    /// Part of the copy: its regions are being moved to the image.
    Merging,
    /// So many files are there; the entries go first.
    Dropping(u32),
}

#[derive(Debug)]
struct Writing {
    regions: Vec<Region>,
    /// Did not come back as they were written.
    bad: BTreeSet<RegionIndex>,
    step: Step,
    missing: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Forget,
    Content,
    Sync,
    ReadBack,
    Note,
}

impl Side {
    /// Files of an earlier life are there, all or some of them.
    pub(crate) fn found(&mut self, whole: bool) {
        self.state = State::Leftover { whole };
    }

    /// Its regions are part of the copy from now on.
    pub(crate) fn merges(&mut self) {
        self.state = State::Merging;
    }

    pub(crate) const fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// Its files are being read or written.
    pub(crate) const fn is_busy(&self) -> bool {
        matches!(self.state, State::Creating(_) | State::Loading(_) | State::Writing(_) | State::Pruning(_))
    }

    /// Regions from `from` on, with their LSNs.
    pub(crate) fn from(&self, from: u64) -> impl Iterator<Item = (u64, Lsn)> {
        self.regions.from(from).map(|(region, lsn)| (region, Lsn(lsn)))
    }
}

impl Replica {
    const fn side_files(&self) -> [FileId; 3] {
        let v = self.volume;
        [FileId::SideRegions(v), FileId::SideImage(v), FileId::SideBlocks(v)]
    }

    /// Makes the side area ready, with what an earlier life left in it.
    pub(crate) fn open_side(&mut self, cx: &mut Cx<'_>) {
        if self.drop_side {
            self.side.open_again = true;
            return;
        }
        match self.side.state {
            State::Absent => {
                self.side.state = State::Creating(3);
                self.create_side(cx, self.side_files()[0]);
            }
            State::Leftover { whole: false } => {
                self.side.open_again = true;
                self.remove_side(cx);
            }
            State::Leftover { whole: true } => {
                self.side.state = State::Loading(2);
                self.load_chunk(cx, Table::SideBlocks, 0);
                self.load_chunk(cx, Table::SideRegions, 0);
            }
            State::Open => self.side_opened(cx),
            State::Merging | State::Dropping(_) => self.side.open_again = true,
            // The answer to an earlier question is on its way.
            State::Creating(_) | State::Loading(_) | State::Writing(_) | State::Pruning(_) => {}
        }
    }

    fn create_side(&self, cx: &mut Cx<'_>, file: FileId) {
        let len = match file {
            FileId::SideImage(_) => self.sb.size.blocks().bytes(),
            FileId::SideBlocks(_) => Table::SideBlocks.len(self.sb.size),
            _ => Table::SideRegions.len(self.sb.size),
        };
        cx.copy_op(self.volume, CopyTag::Side, file, DiskOpKind::Create { len, written: false });
    }

    fn side_opened(&mut self, cx: &mut Cx<'_>) {
        self.side.state = State::Open;
        let count = u64::try_from(self.side.from(0).count()).expect("a count of regions");
        let top = self.side.from(0).map(|(_, lsn)| lsn).max().unwrap_or_default();
        cx.out.push(Output::SideOpened { volume: self.volume, count, top });
    }

    /// A table of the side area has been read.
    pub(crate) fn side_loaded(&mut self, cx: &mut Cx<'_>) {
        let State::Loading(missing) = self.side.state else { unreachable!("a side area is loaded when it is opened") };
        self.side.state = State::Loading(missing - 1);
        if missing == 1 {
            self.side_opened(cx);
        }
    }

    /// What is held of the regions from `from` on that is newer than the image: at most `max`, and the end of what was
    /// looked at.
    pub(crate) fn held_in_side(&self, cx: &mut Cx<'_>, from: RegionIndex, max: usize) {
        let newer = |(region, lsn): &(u64, Lsn)| lsn.0 > self.tables.regions.get(*region);
        let mut held = self.side.from(from.0).filter(newer).map(|(region, lsn)| (RegionIndex(region), lsn));
        let some: Vec<_> = held.by_ref().take(max).collect();
        let end = held.next().map_or(RegionIndex(self.sb.size.regions()), |(region, _)| region);
        cx.out.push(Output::SideHeld { volume: self.volume, held: some, end });
    }

    pub(crate) fn write_side(&mut self, cx: &mut Cx<'_>, regions: Vec<Region>) {
        if !self.side.is_open() {
            return;
        }
        let newer = |r: &Region| {
            let held = self.side.regions.get(r.index.0).max(self.tables.regions.get(r.index.0));
            r.lsn.0 > held || mutated(Mutant::OlderRegionWins)
        };
        let regions: Vec<Region> = regions.into_iter().filter(newer).collect();
        for r in &regions {
            self.side.regions.set(r.index.0, 0);
        }
        self.side.state =
            State::Writing(Box::new(Writing { regions, bad: BTreeSet::new(), step: Step::Forget, missing: 0 }));
        self.write_side_regions(cx);
        self.side_step(cx);
    }

    /// Goes on with writing when all operations of a step have ended.
    fn side_step(&mut self, cx: &mut Cx<'_>) {
        loop {
            let State::Writing(writing) = &mut self.side.state else { return };
            if writing.missing > 0 {
                return;
            }
            let v = self.volume;
            match writing.step {
                Step::Forget => {
                    writing.step = Step::Content;
                    let ops = content_ops(&writing.regions);
                    writing.missing += ops.len();
                    ops.into_iter().for_each(|op| cx.copy_op(v, CopyTag::Side, FileId::SideImage(v), op));
                    let sums = writing.regions.iter().flat_map(|r| r.blocks().map(|(block, sum, _)| (block.0, sum)));
                    let sums: Vec<(u64, u64)> = sums.collect();
                    for (block, sum) in sums {
                        self.side.blocks.set(block, sum);
                    }
                    let pages = self.side.blocks.take_dirty();
                    self.write_side_pages(cx, FileId::SideBlocks(v), pages, false);
                }
                Step::Content => {
                    writing.step = Step::Sync;
                    writing.missing += 2;
                    cx.copy_op(v, CopyTag::Side, FileId::SideImage(v), DiskOpKind::Sync);
                    cx.copy_op(v, CopyTag::Side, FileId::SideBlocks(v), DiskOpKind::Sync);
                }
                Step::Sync => {
                    writing.step = Step::ReadBack;
                    let runs: Vec<(u64, u64)> = writing.regions.iter().flat_map(runs_of).collect();
                    writing.missing += runs.len();
                    for (start, end) in runs {
                        let len = u32::try_from((end - start) * BLOCK).expect("a region has 64 KiB");
                        let kind = DiskOpKind::Read { offset: start * BLOCK, len };
                        cx.copy_op(v, CopyTag::SideRead(start), FileId::SideImage(v), kind);
                    }
                }
                Step::ReadBack => {
                    writing.step = Step::Note;
                    for r in writing.regions.iter().filter(|r| !writing.bad.contains(&r.index)) {
                        self.side.regions.set(r.index.0, r.lsn.0);
                    }
                    self.write_side_regions(cx);
                }
                Step::Note => {
                    let bad = u64::try_from(writing.bad.len()).expect("a count of regions");
                    self.side.state = State::Open;
                    cx.out.push(Output::SideWritten { volume: v, bad });
                }
            }
        }
    }

    /// Brings changed entries to disk, durably.
    fn write_side_regions(&mut self, cx: &mut Cx<'_>) {
        let pages = self.side.regions.take_dirty();
        self.write_side_pages(cx, FileId::SideRegions(self.volume), pages, true);
    }

    fn write_side_pages(&mut self, cx: &mut Cx<'_>, file: FileId, pages: Vec<(u64, Bytes)>, durable: bool) {
        if let State::Writing(writing) = &mut self.side.state {
            writing.missing += pages.len();
        }
        for (number, page) in pages {
            let kind = DiskOpKind::Write { offset: number * PAGE_BYTES as u64, data: vec![page], durable };
            cx.copy_op(self.volume, CopyTag::Side, file, kind);
        }
    }

    /// Content came back from the medium.
    pub(crate) fn side_read_back(&mut self, cx: &mut Cx<'_>, first: u64, data: &Bytes) {
        // A switch of the copy's state drops nothing that is being written, so that only a copy that left comes here late.
        let State::Writing(writing) = &mut self.side.state else { return };
        for (block, content) in (first..).zip(data.chunks_exact(BLOCK_SIZE)) {
            if block_checksum(BlockIndex(block), content) != self.side.blocks.get(block) {
                writing.bad.insert(RegionIndex(block / REGION_BLOCKS));
            }
        }
        self.side_done(cx);
    }

    /// An operation on the side area's files ended.
    pub(crate) fn side_done(&mut self, cx: &mut Cx<'_>) {
        match &mut self.side.state {
            State::Writing(writing) => {
                writing.missing -= 1;
                self.side_step(cx);
            }
            State::Creating(missing) => {
                *missing -= 1;
                match *missing {
                    0 => self.side_opened(cx),
                    2 => self.side_files()[1..].iter().for_each(|file| self.create_side(cx, *file)),
                    _ => {}
                }
            }
            State::Pruning(1) => self.side.state = State::Open,
            State::Pruning(missing) => *missing -= 1,
            State::Dropping(missing) => {
                *missing -= 1;
                match *missing {
                    0 => {
                        let open_again = self.side.open_again;
                        self.side = Side::default();
                        if open_again {
                            self.open_side(cx);
                        }
                    }
                    2 => self.side_files()[1..].iter().for_each(|file| self.delete_side(cx, *file)),
                    _ => {}
                }
            }
            state => unreachable!("no operation of a side area is under way: {state:?}"),
        }
    }

    fn delete_side(&self, cx: &mut Cx<'_>, file: FileId) {
        cx.copy_op(self.volume, CopyTag::Side, file, DiskOpKind::Delete);
    }

    /// Removes the side area if that is asked for. What is being written is finished first.
    pub(crate) fn pump_side(&mut self, cx: &mut Cx<'_>) {
        if !self.drop_side {
            return;
        }
        match self.side.state {
            State::Open | State::Leftover { .. } if !self.is_switching() => {
                self.drop_side = false;
                self.remove_side(cx);
            }
            State::Absent => {
                self.drop_side = false;
                if std::mem::take(&mut self.side.open_again) {
                    self.open_side(cx);
                }
            }
            State::Merging | State::Dropping(_) => self.drop_side = false,
            _ => {}
        }
    }

    pub(crate) fn remove_side(&mut self, cx: &mut Cx<'_>) {
        self.side.state = State::Dropping(3);
        self.delete_side(cx, self.side_files()[0]);
    }

    /// Zeroes the entries that are no newer than what the image holds. True if there are none.
    pub(crate) fn prune_side(&mut self, cx: &mut Cx<'_>) -> bool {
        let image = &self.tables.regions;
        let lost = self.side.from(0).filter(|(region, lsn)| lsn.0 <= image.get(*region));
        let lost: Vec<u64> = lost.map(|(region, _)| region).collect();
        if lost.is_empty() {
            return true;
        }
        for region in lost {
            self.side.regions.set(region, 0);
        }
        let pages = self.side.regions.take_dirty();
        self.side.state = State::Pruning(pages.len());
        self.write_side_pages(cx, FileId::SideRegions(self.volume), pages, true);
        false
    }
}

/// The runs of blocks with content, `[start, end)`.
fn runs_of(region: &Region) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (block, sum, _) in region.blocks() {
        match runs.last_mut() {
            _ if sum <= ALLOCATED_ZEROS => {}
            Some((_, end)) if *end == block.0 => *end += 1,
            _ => runs.push((block.0, block.0 + 1)),
        }
    }
    runs
}

fn content_ops(regions: &[Region]) -> Vec<DiskOpKind> {
    let mut ops = Vec::new();
    for region in regions {
        let mut at = 0;
        for (start, end) in runs_of(region) {
            let len = usize::try_from((end - start) * BLOCK).expect("a region has 64 KiB");
            let data = vec![region.data.slice(at..at + len)];
            at += len;
            ops.push(DiskOpKind::Write { offset: start * BLOCK, data, durable: false });
        }
    }
    ops
}
