//! Proving that image and side area are together the state of another copy, before it counts.
//!
//! ```text
//! entries of the side area, in order ─► both tables with them, beside those in use (`tables::Weaver`) ─► sync
//!     ─► sums over both as expected? ─► Proven: the roots are ready for the superblock
//! ```
//!
//! A region of the side area that is no newer than the image's counts for nothing. Memory: the pages that the two weavers are at,
//! and a part of the entries.
//!
//! Nothing leads to what was written before a superblock names it, so it can be given up at any time. It is, when a record is to be
//! applied: what was made belongs to the image as it was.

use crate::api::{NotProven, Output};
use crate::io::{DiskOpKind, FileId};
use crate::ops::{CopyTag, Cx};
use crate::replica::Replica;
use crate::side::{CHUNK, ENTRY, State, entries, runs};
use crate::tables::{Tree, Weaver, Woven, table_file};
use bytes::Bytes;
use holdfast_format::message::RegionCut;
use holdfast_format::{PAGE_PLACES_BYTES, TableKind, TablePage, TableRoots, TableSums};
use holdfast_types::{Lsn, Mutant, REGION_BLOCKS, VolumeSize, mutated};
use std::collections::VecDeque;

/// Regions whose checksums are read at once.
const SUMS: u64 = 128;
/// Pages being written at a time.
const WRITES: usize = 64;
/// Bytes of the checksums of a region's blocks.
const REGION_SUMS: u64 = REGION_BLOCKS * ENTRY;

/// Tables on their way to the state that is to be.
#[derive(Debug)]
pub(crate) struct Weaving {
    cut: RegionCut,
    /// The image lacks the last cut.
    missed: bool,
    blocks: Weaver,
    regions: Weaver,
    /// Entries of regions before this one were read.
    read_to: u64,
    /// Regions that the side area holds, with their LSN.
    waiting: VecDeque<(u64, u64)>,
    /// Checksums of the blocks of the first ones of these.
    sums: VecDeque<u64>,
    /// A read is under way: of this.
    reading: Option<Reading>,
    /// Pages and syncs.
    writing: usize,
    /// These are the new lengths of the tables' files.
    lengthening: bool,
    done: Vec<(TableKind, Woven)>,
    made: Option<Box<Proven>>,
    synced: bool,
    /// To be given up.
    disturbed: bool,
}

#[derive(Clone, Copy, Debug)]
enum Reading {
    Regions,
    Sums,
    /// How often it was read before.
    Page(TableKind, TablePage, u32),
}

/// Tables that are ready for a superblock.
#[derive(Debug)]
pub(crate) struct Proven {
    pub(crate) cut: RegionCut,
    /// What the image file holds behind the last cut is to go.
    pub(crate) missed: bool,
    pub(crate) sums: TableSums,
    pub(crate) roots: TableRoots,
    /// Those that differ from the tables in use.
    pub(crate) blocks: Option<Tree>,
    pub(crate) regions: Option<Tree>,
}

impl Replica {
    pub(crate) fn prove_side(&mut self, cx: &mut Cx<'_>, cut: RegionCut) {
        if !matches!(self.side.state, State::Open | State::Proven(_)) {
            return;
        }
        // The pages on disk have to be those of the image as it is.
        let still = self.batch.is_none() && self.checkpointing.is_none() && !self.cut_is_fresh();
        if self.applied > self.checkpoint || !still {
            self.checkpoint_now |= self.applied > self.checkpoint;
            return self.not_proven(cx, NotProven::Disturbed);
        }
        // What the image holds behind a cut that it lacks is gone; the source names everything that came there since.
        let missed = cut.cut.0 > self.applied && self.applied > Lsn::ZERO;
        let first = missed.then(|| cut.cut.1.0.div_ceil(REGION_BLOCKS).max(1));
        assert_eq!(self.tables.changed(), 0, "{}: a checkpoint leaves no changed page", self.volume);
        let roots = self.sb.roots;
        self.side.state = State::Weaving(Box::new(Weaving {
            cut,
            missed,
            blocks: Weaver::new(TableKind::Blocks, roots.blocks, first.map(|region| region * REGION_BLOCKS)),
            regions: Weaver::new(TableKind::Regions, roots.regions, first),
            read_to: 0,
            waiting: VecDeque::new(),
            sums: VecDeque::new(),
            reading: None,
            writing: 0,
            lengthening: cut.size > self.sb.size,
            done: Vec::new(),
            made: None,
            synced: false,
            disturbed: false,
        }));
        if cut.size > self.sb.size {
            self.lengthen_tables(cx, cut.size);
        } else {
            self.weave_on(cx);
        }
    }

    /// Pages behind the ends of the tables' files get their places. Files that are longer than the tables need harm nobody.
    fn lengthen_tables(&mut self, cx: &mut Cx<'_>, size: VolumeSize) {
        let v = self.volume;
        let State::Weaving(weaving) = &mut self.side.state else { unreachable!("something is woven") };
        for kind in [TableKind::Blocks, TableKind::Regions] {
            let (file, len) = table_file(v, size, kind);
            weaving.writing += 1;
            cx.copy_op(v, CopyTag::Weave, file, DiskOpKind::SetLen { len });
        }
    }

    /// Whether something is to be applied that has to wait until nothing is woven any more.
    pub(crate) fn disturb_weaving(&mut self) -> bool {
        match &mut self.side.state {
            State::Weaving(weaving) => {
                weaving.disturbed = true;
                true
            }
            State::Proven(_) => {
                self.side.state = State::Open;
                false
            }
            _ => false,
        }
    }

    pub(crate) const fn is_weaving(&self) -> bool {
        matches!(self.side.state, State::Weaving(_))
    }

    /// Goes on until something has to be read or written first.
    fn weave_on(&mut self, cx: &mut Cx<'_>) {
        let (v, end) = (self.volume, self.side_size().regions());
        loop {
            let given_up = self.side_is_leaving();
            let State::Weaving(weaving) = &mut self.side.state else { return };
            weaving.write_pages(cx, v);
            if weaving.reading.is_some() || weaving.writing >= WRITES || (weaving.lengthening && weaving.writing > 0) {
                return;
            }
            weaving.lengthening = false;
            if weaving.disturbed || given_up {
                if weaving.writing == 0 {
                    self.not_proven(cx, NotProven::Disturbed);
                }
                return;
            }
            if !weaving.waiting.is_empty() {
                if let Some(reading) = weaving.weave() {
                    return self.weave_needs(cx, reading);
                }
            } else if weaving.read_to < end {
                return self.weave_needs(cx, Reading::Regions);
            } else if let Some(reading) = weaving.go_to_edges() {
                return self.weave_needs(cx, reading);
            } else if weaving.made.is_none() {
                weaving.finish(self.sb.roots, self.sb.sums);
            } else if weaving.writing > 0 {
                return;
            } else if !weaving.synced {
                weaving.synced = true;
                for file in [FileId::BlockTable(v), FileId::RegionTable(v)] {
                    weaving.writing += 1;
                    cx.copy_op(v, CopyTag::Weave, file, DiskOpKind::Sync);
                }
            } else {
                return self.woven(cx);
            }
        }
    }

    fn weave_needs(&mut self, cx: &mut Cx<'_>, reading: Reading) {
        let (v, regions) = (self.volume, self.side_size().regions());
        let State::Weaving(weaving) = &mut self.side.state else { unreachable!("something is woven") };
        weaving.reading = Some(reading);
        let tag = CopyTag::SideRead(0);
        match reading {
            Reading::Regions => {
                let at = weaving.read_to;
                weaving.read_to += CHUNK.min(regions - at);
                let _ = self.read_side_regions(cx, at, CopyTag::SideRead(at));
            }
            Reading::Sums => {
                let first = weaving.waiting.iter().map(|(region, _)| *region).take(usize::try_from(SUMS).expect("128"));
                let (start, end) = runs(first)[0];
                let len = u32::try_from((end - start) * REGION_SUMS).expect("16 KiB at most");
                let kind = DiskOpKind::Read { offset: start * REGION_SUMS, len };
                cx.copy_op(v, tag, FileId::SideBlocks(v), kind);
            }
            Reading::Page(kind, page, _) => {
                let file = match kind {
                    TableKind::Blocks => FileId::BlockTable(v),
                    TableKind::Regions => FileId::RegionTable(v),
                };
                let len = u32::try_from(PAGE_PLACES_BYTES).expect("8192");
                cx.copy_op(v, tag, file, DiskOpKind::Read { offset: page.offset(), len });
            }
        }
    }

    /// What had to be read is here.
    pub(crate) fn weave_read(&mut self, cx: &mut Cx<'_>, data: &Bytes) {
        let State::Weaving(weaving) = &mut self.side.state else { unreachable!("something is woven") };
        match weaving.reading.take().expect("something was to be read") {
            Reading::Regions => {
                let first = weaving.read_to - u64::try_from(data.len()).expect("256 KiB at most") / ENTRY;
                let found = (first..).zip(entries(data)).filter(|(_, lsn)| *lsn > 0);
                weaving.waiting.extend(found);
            }
            Reading::Sums => weaving.sums.extend(entries(data)),
            Reading::Page(kind, page, attempt) => {
                let weaver = weaving.weaver(kind);
                if !weaver.loaded(page, data) {
                    if attempt == 0 {
                        return self.weave_needs(cx, Reading::Page(kind, page, 1));
                    }
                    return self.page_is_wrong(cx, kind, page, attempt);
                }
            }
        }
        self.weave_on(cx);
    }

    /// A page was written, or a table synced.
    pub(crate) fn weave_written(&mut self, cx: &mut Cx<'_>) {
        let State::Weaving(weaving) = &mut self.side.state else { unreachable!("something is woven") };
        weaving.writing -= 1;
        self.weave_on(cx);
    }

    fn woven(&mut self, cx: &mut Cx<'_>) {
        let State::Weaving(weaving) = &mut self.side.state else { unreachable!("something is woven") };
        let proven = weaving.made.take().expect("the tables are made");
        let (found, expected) = (proven.sums, proven.cut.sums);
        if found != expected && !mutated(Mutant::SideNotProven) {
            let why = format!(
                "image and side area are not the state at record {}: expected the sums {:016x} and {:016x}, found {:016x} and {:016x}",
                proven.cut.at, expected.blocks, expected.regions, found.blocks, found.regions
            );
            return self.not_proven(cx, NotProven::Different(why));
        }
        self.side.state = State::Proven(proven);
        cx.out.push(Output::SideProven { volume: self.volume, result: Ok(()) });
    }
}

impl Weaving {
    const fn weaver(&mut self, kind: TableKind) -> &mut Weaver {
        match kind {
            TableKind::Blocks => &mut self.blocks,
            TableKind::Regions => &mut self.regions,
        }
    }

    fn write_pages(&mut self, cx: &mut Cx<'_>, v: holdfast_types::VolumeId) {
        for (kind, (offset, page)) in std::mem::take(&mut self.done) {
            let file = match kind {
                TableKind::Blocks => FileId::BlockTable(v),
                TableKind::Regions => FileId::RegionTable(v),
            };
            self.writing += 1;
            cx.copy_op(v, CopyTag::Weave, file, DiskOpKind::Write { offset, data: vec![page], durable: false });
        }
    }

    /// What has to be read before all that was cut off is passed.
    fn go_to_edges(&mut self) -> Option<Reading> {
        [TableKind::Blocks, TableKind::Regions].into_iter().find_map(|kind| {
            let mut done = Vec::new();
            let page = self.weaver(kind).go_to_edge(&mut done);
            self.done.extend(done.into_iter().map(|page| (kind, page)));
            page.map(|page| Reading::Page(kind, page, 0))
        })
    }

    fn go_to(&mut self, kind: TableKind, entry: u64) -> Option<Reading> {
        let mut done = Vec::new();
        let page = self.weaver(kind).go_to(entry, &mut done);
        self.done.extend(done.into_iter().map(|page| (kind, page)));
        page.map(|page| Reading::Page(kind, page, 0))
    }

    /// The first region that waits comes into the tables. Gives what has to be read first, if anything.
    fn weave(&mut self) -> Option<Reading> {
        let (region, lsn) = *self.waiting.front().expect("a region waits");
        if self.sums.is_empty() {
            return Some(Reading::Sums);
        }
        if let Some(reading) = self.go_to(TableKind::Regions, region) {
            return Some(reading);
        }
        let first = region * REGION_BLOCKS;
        let newer = lsn > self.regions.get(region);
        if newer && let Some(reading) = self.go_to(TableKind::Blocks, first) {
            return Some(reading);
        }
        for block in first..first + REGION_BLOCKS {
            let sum = self.sums.pop_front().expect("checksums of whole regions are read");
            if newer {
                self.blocks.set(block, sum);
            }
        }
        if newer {
            self.regions.set(region, lsn);
        }
        self.waiting.pop_front();
        None
    }

    fn finish(&mut self, roots: TableRoots, sums: TableSums) {
        let mut finished = |kind: TableKind| {
            let mut done = Vec::new();
            let made = self.weaver(kind).finish(&mut done);
            self.done.extend(done.into_iter().map(|page| (kind, page)));
            made
        };
        let (mut sums, mut roots) = (sums, roots);
        let mut take = |kind, root: &mut u64, sum: &mut u64| {
            let (tree, new_root, new_sum) = finished(kind)?;
            (*root, *sum) = (new_root, new_sum);
            Some(tree)
        };
        let blocks = take(TableKind::Blocks, &mut roots.blocks, &mut sums.blocks);
        let regions = take(TableKind::Regions, &mut roots.regions, &mut sums.regions);
        self.made = Some(Box::new(Proven { cut: self.cut, missed: self.missed, sums, roots, blocks, regions }));
    }
}
