//! A scrub comes by: what a copy has in memory, or several times in a file, is compared with its files, too.
//!
//! Otherwise rot in a page of a table shows when the page is read next, in months perhaps, and rot in copies of a superblock when
//! two of them are gone. A page that is not in memory is read and verified, as for whoever needs it: then the copy fails if it is bad.
//! One that is in memory is compared with the place that holds it, and written again with a checkpoint if it is not there. Copies of
//! the superblock are written anew.
//!
//! Only what is at rest is compared, and what a change may have overtaken is left to the next pass. No table is looked at while
//! there is a side area: what it wove lies in the places that a checkpoint takes.

use crate::api::Output;
use crate::io::{DiskOpKind, FileId};
use crate::ops::{CopyTag, Cx};
use crate::pages::Wait;
use crate::replica::Replica;
use crate::tables::Seek;
use bytes::Bytes;
use holdfast_format::{PAGE_ENTRIES, PAGE_PLACES_BYTES, Superblock, TableKind, TablePage};
use holdfast_types::{BlockRange, REGION_BLOCKS};

const ENTRIES: u64 = PAGE_ENTRIES as u64;

impl Replica {
    /// A scrub is about to read these blocks: the leaves that begin there, those of their parents of which they are the first child,
    /// and at the beginning of the volume the superblock.
    pub(crate) fn recheck(&mut self, cx: &mut Cx<'_>, range: BlockRange) {
        assert!(!range.is_empty(), "{}: a scrub reads something", self.volume);
        let (start, end) = (range.start.0, range.end().0);
        if start == 0 {
            self.recheck_superblock(cx);
        }
        let regions = (start / REGION_BLOCKS, end.div_ceil(REGION_BLOCKS));
        for (kind, (from, to)) in [(TableKind::Blocks, (start, end)), (TableKind::Regions, regions)] {
            for leaf in from.div_ceil(ENTRIES)..to.div_ceil(ENTRIES) {
                let mut page = TablePage { level: 0, index: leaf };
                self.recheck_page(cx, kind, page);
                while let Some((parent, 0)) = page.parent() {
                    self.recheck_page(cx, kind, parent);
                    page = parent;
                }
            }
        }
    }

    fn recheck_page(&mut self, cx: &mut Cx<'_>, kind: TableKind, page: TablePage) {
        match self.tables.tree(kind).seek_page(page) {
            // What is read is verified.
            Seek::Load(_) | Seek::Coming(_) => drop(self.page(cx, kind, page, Wait::Recheck(kind, page))),
            Seek::Here if self.tables_rest() && self.tables.tree(kind).rests(page) => {
                let len = u32::try_from(PAGE_PLACES_BYTES).expect("8192");
                let op = DiskOpKind::Read { offset: page.offset(), len };
                cx.copy_op(self.volume, CopyTag::Recheck(kind, page, self.sb.sequence), self.table_of(kind), op);
            }
            Seek::Here | Seek::Zeros => {}
        }
    }

    const fn table_of(&self, kind: TableKind) -> FileId {
        match kind {
            TableKind::Blocks => FileId::BlockTable(self.volume),
            TableKind::Regions => FileId::RegionTable(self.volume),
        }
    }

    /// No checkpoint and no side area does anything with the places of pages.
    fn tables_rest(&self) -> bool {
        self.checkpointing.is_none() && self.side.is_absent() && !self.is_merging()
    }

    /// Both places of a page that is in memory were read. `sequence`: of the superblock at that time; a checkpoint raises it.
    pub(crate) fn rechecked(
        &mut self,
        cx: &mut Cx<'_>,
        (kind, page): (TableKind, TablePage),
        sequence: u64,
        places: &[u8],
    ) {
        let rests = self.tables_rest() && sequence == self.sb.sequence && self.tables.tree(kind).rests(page);
        if !rests || self.tables.tree(kind).stands_in(page, places) {
            return;
        }
        self.tables.tree(kind).write_again(page);
        (self.tables_rotten, self.checkpoint_now) = (true, true);
        cx.out.push(Output::Mended { volume: self.volume, file: self.table_of(kind) });
    }

    fn recheck_superblock(&self, cx: &mut Cx<'_>) {
        if !self.writer.rests() {
            return;
        }
        let len = u32::try_from(Superblock::COPIES * Superblock::LEN).expect("16 KiB");
        let (tag, file) = (CopyTag::RecheckSuperblock(self.sb.sequence), FileId::Superblock(self.volume));
        cx.copy_op(self.volume, tag, file, DiskOpKind::Read { offset: 0, len });
    }

    /// All copies of the superblock were read, as they were when its sequence was this.
    pub(crate) fn superblock_rechecked(&mut self, cx: &mut Cx<'_>, sequence: u64, file: &[u8]) {
        let good = Superblock::copies(file).map(|copy| copy.is_some_and(|c| c.sequence == sequence));
        if good == [true; 4] || sequence != self.sb.sequence || !self.writer.rests() {
            return;
        }
        match good.iter().position(|good| *good) {
            // As they are: what was noted since is in memory alone, and two copies of one sequence must be equal.
            Some(at) => {
                let bytes = Bytes::copy_from_slice(&file[at * Superblock::LEN..(at + 1) * Superblock::LEN]);
                self.repair_superblock(cx, &bytes, good);
            }
            None => self.write_superblock(cx, crate::superblock::Waiter::Hint),
        }
        cx.out.push(Output::Mended { volume: self.volume, file: FileId::Superblock(self.volume) });
    }
}
