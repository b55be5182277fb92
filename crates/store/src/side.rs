//! The side area: regions that came from another copy, kept apart from the image until they are complete (docs/FORMAT.md).
//!
//! ```text
//! Absent ──open──► Creating ──► Open ◄──► Writing, Looking, Weaving (`weave.rs`) ──► Proven ──switch──► Merging (`merge.rs`)
//!    ▲          Leftover ──open──► Sizing ──► Scanning ──► Open                                                        │
//!    └────────── Dropping ◄── drop, records appended, or all is in the image ◄──────────────────────────────┘
//! ```
//!
//! Its tables are plain arrays, 8 bytes for each block and each region of the volume, and sparse. They are read and written where
//! they are needed, so that the memory it takes does not depend on the size of the volume. Nothing vouches for them: what they
//! come to is proved as a whole, before it counts.
//!
//! Writing regions: entries of older versions are zeroed durably ─► content and checksums ─► sync ─► read back ─► entries.
//! So an entry is on disk only while what it stands for is durable. A region whose content does not come back as it was
//! written is not noted, and asked for again.
//!
//! Invariant: nothing here touches the image, the tables or the journal of the copy.

use crate::api::{NotProven, Output};
use crate::io::{DiskOpKind, FileId};
use crate::merge::Merge;
use crate::ops::{CopyTag, Cx};
use crate::replica::Replica;
use crate::sectors::Sectors;
use crate::weave::{Proven, Weaving};
use bytes::Bytes;
use holdfast_format::message::Region;
use holdfast_format::{ALLOCATED_ZEROS, block_checksum};
use holdfast_types::{
    BLOCK_SIZE, BlockIndex, Lsn, Mutant, REGION_BLOCKS, RegionIndex, SECTOR_SIZE, VolumeSize, mutated,
};
use std::collections::BTreeSet;

const BLOCK: u64 = BLOCK_SIZE as u64;
/// Bytes of an entry of a table.
pub(crate) const ENTRY: u64 = 8;
/// Entries that are read at once when all are looked at.
pub(crate) const CHUNK: u64 = 1 << 15;
/// Chunks that one question looks at when they are empty.
const CHUNKS: u64 = 64;

/// The side area of a copy.
#[derive(Debug, Default)]
pub(crate) struct Side {
    pub(crate) state: State,
    /// Regions that it holds, and the highest LSN among them, once it is open.
    count: u64,
    top: Lsn,
    /// Its files are as long as a volume of this size takes.
    size: Option<VolumeSize>,
    /// The size for which it is to be opened.
    wanted: Option<VolumeSize>,
    /// Somebody waits for it to be open.
    open_asked: bool,
    /// It is to be removed as soon as nothing of it is being read or written.
    drop_asked: bool,
}

#[derive(Debug, Default)]
pub(crate) enum State {
    #[default]
    Absent,
    /// Its files are there, all or some of them, and nobody has looked at them.
    Leftover {
        whole: bool,
    },
    /// So many files are missing; the first one alone.
    Creating(u32),
    /// Files get the lengths that are wanted now, then they are synced: what an earlier process was told is durable is, but not what it was
    /// still being told.
    Sizing(u32),
    /// Entries from this region on are to be counted.
    Scanning(u64),
    Open,
    Writing(Box<Writing>),
    /// Collects what it holds.
    Looking(Looking),
    /// The tables are being made that image and side area have together.
    Weaving(Box<Weaving>),
    /// They are, and they are those that were expected.
    Proven(Box<Proven>),
    /// Part of the copy: its regions are being moved to the image.
    Merging,
    /// So many files are there; the entries go first.
    Dropping(u32),
}

#[derive(Debug)]
pub(crate) struct Writing {
    regions: Vec<Region>,
    /// The entries of these, with others, as they are to be on disk; and the checksums of their blocks.
    notes: Sectors,
    sums: Sectors,
    /// Did not come back as they were written.
    bad: BTreeSet<RegionIndex>,
    step: Step,
    missing: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Held,
    Forget,
    Content,
    Sync,
    ReadBack,
    Note,
}

/// A question about what it holds.
#[derive(Debug)]
pub(crate) struct Looking {
    at: u64,
    end: u64,
    max: usize,
    held: Vec<(RegionIndex, Lsn)>,
}

impl Side {
    /// There are no files of it.
    pub(crate) const fn is_absent(&self) -> bool {
        matches!(self.state, State::Absent)
    }

    /// Whether anything of it is being read or written.
    pub(crate) const fn is_busy(&self) -> bool {
        !matches!(self.state, State::Absent | State::Leftover { .. } | State::Open | State::Proven(_) | State::Merging)
    }

    /// The copy goes on without it.
    pub(crate) const fn is_of_no_use(&mut self) {
        self.open_asked = false;
        self.drop_asked = !matches!(self.state, State::Absent | State::Merging | State::Dropping(_));
    }
}

/// Entries of a part of a table of the side area.
pub(crate) fn entries(data: &[u8]) -> impl Iterator<Item = u64> {
    data.chunks_exact(8).map(|e| u64::from_le_bytes(e.try_into().expect("eight bytes")))
}

impl Replica {
    const fn side_files(&self) -> [FileId; 3] {
        let v = self.volume;
        [FileId::SideRegions(v), FileId::SideImage(v), FileId::SideBlocks(v)]
    }

    /// So many files of the side area were found, of so many.
    pub(crate) fn found_side(&mut self, found: usize, all: usize) {
        if let Some(next) = self.sb.merging {
            self.side.state = State::Merging;
            self.side.size = Some(self.sb.size);
            self.merge = Some(Merge::at(next));
        } else if found > 0 {
            self.side.state = State::Leftover { whole: found == all };
        }
    }

    /// The size of the volume that the side area is for.
    pub(crate) fn side_size(&self) -> VolumeSize {
        self.side.size.unwrap_or(self.sb.size)
    }

    /// Makes the side area ready for a volume of this size, with what an earlier life left in it.
    pub(crate) fn open_side(&mut self, cx: &mut Cx<'_>, size: VolumeSize) {
        self.side.open_asked = true;
        self.side.wanted = Some(size);
        self.pump_side(cx);
    }

    pub(crate) fn drop_side(&mut self, cx: &mut Cx<'_>) {
        self.side.is_of_no_use();
        self.pump_side(cx);
    }

    /// What was asked for and had to wait.
    pub(crate) fn pump_side(&mut self, cx: &mut Cx<'_>) {
        if self.side.is_busy() || self.is_switching() {
            return;
        }
        if self.side.drop_asked {
            self.side.drop_asked = false;
            if !matches!(self.side.state, State::Absent | State::Merging) {
                return self.remove_side(cx);
            }
        }
        if !self.side.open_asked {
            return;
        }
        match self.side.state {
            State::Absent => {
                self.side.size = self.side.wanted;
                self.side.state = State::Creating(3);
                self.create_side(cx, self.side_files()[0]);
            }
            State::Leftover { whole: false } => self.remove_side(cx),
            State::Leftover { whole: true } => {
                self.side.size = self.side.wanted;
                self.size_side(cx);
            }
            // First all of it has to be in the image.
            State::Merging => {}
            // What it holds is of a volume of another size.
            _ if self.side.size != self.side.wanted => self.remove_side(cx),
            _ => {
                self.side.open_asked = false;
                self.side.state = State::Open;
                let (count, top) = (self.side.count, self.side.top);
                cx.out.push(Output::SideOpened { volume: self.volume, count, top });
            }
        }
    }

    /// How long a file of the side area is.
    fn side_len(&self, file: FileId) -> u64 {
        let size = self.side_size();
        let len = match file {
            FileId::SideImage(_) => size.blocks().bytes(),
            FileId::SideBlocks(_) => size.regions() * REGION_BLOCKS * ENTRY,
            _ => size.regions() * ENTRY,
        };
        len.next_multiple_of(SECTOR_SIZE as u64)
    }

    /// The lengths of all its files.
    pub(crate) fn side_lengths(&self) -> impl Iterator<Item = (FileId, u64)> {
        self.side_files().map(|file| (file, self.side_len(file))).into_iter()
    }

    fn size_side(&mut self, cx: &mut Cx<'_>) {
        self.side.state = State::Sizing(6);
        for (file, len) in self.side_lengths() {
            cx.copy_op(self.volume, CopyTag::Side, file, DiskOpKind::SetLen { len });
        }
    }

    fn create_side(&self, cx: &mut Cx<'_>, file: FileId) {
        let len = self.side_len(file);
        cx.copy_op(self.volume, CopyTag::Side, file, DiskOpKind::Create { len, written: false });
    }

    /// Reads the next entries of regions, from `at` on. Gives how many.
    pub(crate) fn read_side_regions(&self, cx: &mut Cx<'_>, at: u64, tag: CopyTag) -> u64 {
        let count = CHUNK.min(self.side_size().regions() - at);
        let len = u32::try_from(count * ENTRY).expect("256 KiB at most");
        cx.copy_op(self.volume, tag, FileId::SideRegions(self.volume), DiskOpKind::Read { offset: at * ENTRY, len });
        count
    }

    fn scan_side(&mut self, cx: &mut Cx<'_>, at: u64) {
        if at == 0 {
            (self.side.count, self.side.top) = (0, Lsn::ZERO);
        }
        let count = self.read_side_regions(cx, at, CopyTag::SideRead(at));
        self.side.state = State::Scanning(at + count);
    }

    /// What is held of the regions from `from` on: at most `max`, and the end of what was looked at.
    pub(crate) fn held_in_side(&mut self, cx: &mut Cx<'_>, from: RegionIndex, max: usize) {
        if !matches!(self.side.state, State::Open | State::Proven(_)) {
            return;
        }
        let count = self.read_side_regions(cx, from.0, CopyTag::SideRead(from.0));
        self.side.state =
            State::Looking(Looking { at: from.0 + count, end: from.0 + CHUNKS * CHUNK, max, held: Vec::new() });
    }

    pub(crate) fn write_side(&mut self, cx: &mut Cx<'_>, regions: Vec<Region>) {
        if !matches!(self.side.state, State::Open | State::Proven(_)) {
            return;
        }
        let v = self.volume;
        let notes = Sectors::reads(regions.iter().map(|r| r.index.0));
        let sums = Sectors::reads(regions.iter().map(|r| r.index.0 * REGION_BLOCKS));
        let writing = Writing {
            bad: BTreeSet::new(),
            step: Step::Held,
            missing: notes.len() + sums.len(),
            notes: Sectors::default(),
            sums: Sectors::default(),
            regions,
        };
        for kind in notes {
            let DiskOpKind::Read { offset, .. } = kind else { unreachable!("reads") };
            cx.copy_op(v, CopyTag::SideRead(offset), FileId::SideRegions(v), kind);
        }
        for kind in sums {
            let DiskOpKind::Read { offset, .. } = kind else { unreachable!("reads") };
            cx.copy_op(v, CopyTag::SideSums(offset), FileId::SideBlocks(v), kind);
        }
        self.side.state = State::Writing(Box::new(writing));
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
            let mut ops: Vec<(FileId, DiskOpKind)> = Vec::new();
            match writing.step {
                Step::Held => {
                    writing.step = Step::Forget;
                    let Writing { notes, regions, .. } = &mut **writing;
                    regions.retain(|r| r.lsn.0 > notes.get(r.index.0) || mutated(Mutant::OlderRegionWins));
                    let noted: Vec<u64> = regions.iter().map(|r| r.index.0).filter(|r| notes.get(*r) > 0).collect();
                    self.side.count -= u64::try_from(noted.len()).expect("a count of regions");
                    noted.iter().for_each(|region| notes.set(*region, 0));
                    let writes = notes.writes(noted.into_iter(), true);
                    ops.extend(writes.into_iter().map(|kind| (FileId::SideRegions(v), kind)));
                }
                Step::Forget => {
                    writing.step = Step::Content;
                    let Writing { sums, regions, .. } = &mut **writing;
                    for (block, sum, _) in regions.iter().flat_map(Region::blocks) {
                        sums.set(block.0, sum);
                    }
                    ops = content_ops(v, regions);
                    let writes = sums.writes(regions.iter().map(|r| r.index.0 * REGION_BLOCKS), false);
                    ops.extend(writes.into_iter().map(|kind| (FileId::SideBlocks(v), kind)));
                }
                Step::Content => {
                    writing.step = Step::Sync;
                    ops.push((FileId::SideImage(v), DiskOpKind::Sync));
                    ops.push((FileId::SideBlocks(v), DiskOpKind::Sync));
                }
                Step::Sync => {
                    writing.step = Step::ReadBack;
                    for (start, end) in writing.regions.iter().flat_map(runs_of) {
                        let len = u32::try_from((end - start) * BLOCK).expect("a region has 64 KiB");
                        ops.push((FileId::SideImage(v), DiskOpKind::Read { offset: start * BLOCK, len }));
                    }
                }
                Step::ReadBack => {
                    writing.step = Step::Note;
                    let Writing { regions, bad, notes, .. } = &mut **writing;
                    regions.retain(|r| !bad.contains(&r.index));
                    self.side.count += u64::try_from(regions.len()).expect("a count of regions");
                    self.side.top = regions.iter().map(|r| r.lsn).fold(self.side.top, Lsn::max);
                    regions.iter().for_each(|r| notes.set(r.index.0, r.lsn.0));
                    let writes = notes.writes(regions.iter().map(|r| r.index.0), true);
                    ops.extend(writes.into_iter().map(|kind| (FileId::SideRegions(v), kind)));
                }
                Step::Note => {
                    let bad = u64::try_from(writing.bad.len()).expect("a count of regions");
                    self.side.state = State::Open;
                    cx.out.push(Output::SideWritten { volume: v, bad });
                    return self.pump_side(cx);
                }
            }
            writing.missing = ops.len();
            for (file, kind) in ops {
                let tag = match kind {
                    DiskOpKind::Read { offset, .. } => CopyTag::SideRead(offset / BLOCK),
                    _ => CopyTag::Side,
                };
                cx.copy_op(v, tag, file, kind);
            }
        }
    }

    /// Something of the side area was read.
    pub(crate) fn side_read(&mut self, cx: &mut Cx<'_>, first: u64, data: &Bytes) {
        match &mut self.side.state {
            State::Writing(writing) => {
                writing.read(first, data);
                self.side_done(cx);
            }
            State::Scanning(at) => {
                let at = *at;
                for lsn in entries(data).filter(|lsn| *lsn > 0) {
                    self.side.count += 1;
                    self.side.top = self.side.top.max(Lsn(lsn));
                }
                if at < self.side_size().regions() && !self.side.drop_asked {
                    return self.scan_side(cx, at);
                }
                self.side.state = State::Open;
                self.pump_side(cx);
            }
            State::Looking(_) => self.looked(cx, first, data),
            State::Weaving(_) => self.weave_read(cx, data),
            state => unreachable!("nothing of a side area is being read: {state:?}"),
        }
    }

    /// Checksums that the next write of regions leaves as they are came, with those that it changes.
    pub(crate) fn side_sums(&mut self, cx: &mut Cx<'_>, offset: u64, data: &Bytes) {
        let State::Writing(writing) = &mut self.side.state else { unreachable!("regions are being written") };
        writing.sums.take(offset, data);
        self.side_done(cx);
    }

    fn looked(&mut self, cx: &mut Cx<'_>, first: u64, data: &Bytes) {
        let regions = self.side_size().regions();
        let State::Looking(looking) = &mut self.side.state else { unreachable!("somebody asked") };
        let mut end = None;
        for (region, lsn) in (first..).zip(entries(data)).filter(|(_, lsn)| *lsn > 0) {
            if looking.held.len() == looking.max {
                end = Some(region);
                break;
            }
            looking.held.push((RegionIndex(region), Lsn(lsn)));
        }
        let all = looking.at >= regions;
        if end.is_none() && !all && looking.at < looking.end && !self.side.drop_asked {
            let at = looking.at;
            looking.at += CHUNK.min(regions - at);
            let _ = self.read_side_regions(cx, at, CopyTag::SideRead(at));
            return;
        }
        let end = RegionIndex(end.unwrap_or(looking.at));
        let held = std::mem::take(&mut looking.held);
        self.side.state = State::Open;
        cx.out.push(Output::SideHeld { volume: self.volume, held, end });
        self.pump_side(cx);
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
                    0 => {
                        self.side.state = State::Open;
                        (self.side.count, self.side.top) = (0, Lsn::ZERO);
                        self.pump_side(cx);
                    }
                    2 => self.side_files()[1..].iter().for_each(|file| self.create_side(cx, *file)),
                    _ => {}
                }
            }
            State::Sizing(missing) => {
                *missing -= 1;
                match *missing {
                    0 => self.scan_side(cx, 0),
                    3 => self.side_files().into_iter().for_each(|file| {
                        cx.copy_op(self.volume, CopyTag::Side, file, DiskOpKind::Sync);
                    }),
                    _ => {}
                }
            }
            State::Dropping(missing) => {
                *missing -= 1;
                match *missing {
                    0 => {
                        self.side =
                            Side { open_asked: self.side.open_asked, wanted: self.side.wanted, ..Side::default() };
                        self.pump_side(cx);
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

    pub(crate) fn remove_side(&mut self, cx: &mut Cx<'_>) {
        self.side.state = State::Dropping(3);
        self.delete_side(cx, self.side_files()[0]);
    }

    /// Whether the side area is to go, so that it is worth no more work.
    pub(crate) const fn side_is_leaving(&self) -> bool {
        self.side.drop_asked
    }

    /// What is proved no longer holds, or won't be: somebody may ask again.
    pub(crate) fn not_proven(&mut self, cx: &mut Cx<'_>, why: NotProven) {
        self.side.state = State::Open;
        cx.out.push(Output::SideProven { volume: self.volume, result: Err(why) });
        self.pump_side(cx);
    }
}

impl Writing {
    /// What it held before, or content that came back from the medium.
    fn read(&mut self, first: u64, data: &Bytes) {
        if self.step == Step::Held {
            return self.notes.take(first, data);
        }
        let index = RegionIndex(first / REGION_BLOCKS);
        let found = self.regions.binary_search_by_key(&index, |r| r.index).expect("what was written is read back");
        let sums = self.regions[found].blocks().skip_while(|(block, _, _)| block.0 < first).map(|(_, sum, _)| sum);
        let blocks = (first..).zip(data.chunks_exact(BLOCK_SIZE));
        if blocks.zip(sums).any(|((block, content), sum)| block_checksum(BlockIndex(block), content) != sum) {
            self.bad.insert(index);
        }
    }
}

/// Runs of consecutive numbers, `[start, end)`, of ascending ones.
pub(crate) fn runs(numbers: impl Iterator<Item = u64>) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, end)) if *end == number => *end += 1,
            _ => runs.push((number, number + 1)),
        }
    }
    runs
}

/// The runs of blocks with content, `[start, end)`.
fn runs_of(region: &Region) -> Vec<(u64, u64)> {
    runs(region.blocks().filter(|(_, sum, _)| *sum > ALLOCATED_ZEROS).map(|(block, _, _)| block.0))
}

/// The content of regions.
fn content_ops(v: holdfast_types::VolumeId, regions: &[Region]) -> Vec<(FileId, DiskOpKind)> {
    let mut ops = Vec::new();
    for region in regions {
        let mut at = 0;
        for (start, end) in runs_of(region) {
            let len = usize::try_from((end - start) * BLOCK).expect("a region has 64 KiB");
            let data = vec![region.data.slice(at..at + len)];
            at += len;
            ops.push((FileId::SideImage(v), DiskOpKind::Write { offset: start * BLOCK, data, durable: false }));
        }
    }
    ops
}
