//! Opening one copy after recovery: superblock made whole, roots of the tables read, then replay.

use crate::io::{DiskOpKind, FileId};
use crate::ops::{CopyTag, Cx};
use crate::replica::{Making, Replica, Stage};
use crate::superblock::Waiter;
use crate::tables::{Tree, table_file};
use holdfast_format::{Superblock, TableKind, TablePage};

const SUPERBLOCK_BYTES: u64 = (Superblock::COPIES * Superblock::LEN) as u64;

impl Replica {
    /// Makes the copy's files: the superblock alone first. Before there is a second one a mark in it says that nothing counts
    /// yet, by which a start after a crash knows what it finds.
    pub(crate) fn create_files(&mut self, cx: &mut Cx<'_>) {
        self.stage = Stage::Creating(Making::Superblock);
        self.create_file(cx, FileId::Superblock(self.volume), SUPERBLOCK_BYTES, true);
    }

    fn create_file(&self, cx: &mut Cx<'_>, file: FileId, len: u64, written: bool) {
        cx.copy_op(self.volume, CopyTag::Create, file, DiskOpKind::Create { len, written });
    }

    pub(crate) fn file_created(&mut self, cx: &mut Cx<'_>) {
        let Stage::Creating(making) = self.stage else { unreachable!("files are made at creation only") };
        let v = self.volume;
        let next = match making {
            Making::Superblock => {
                // Into the second pair: the first is where the superblock is written first.
                let mark = vec![Superblock::void(v); Superblock::COPIES / 2];
                let kind = DiskOpKind::Write { offset: SUPERBLOCK_BYTES / 2, data: mark, durable: true };
                cx.copy_op(v, CopyTag::Create, FileId::Superblock(v), kind);
                Making::Mark
            }
            Making::Mark => {
                let (blocks, block_len) = table_file(v, self.sb.size, TableKind::Blocks);
                let (regions, region_len) = table_file(v, self.sb.size, TableKind::Regions);
                self.create_file(cx, FileId::Image(v), self.sb.size.blocks().bytes(), false);
                self.create_file(cx, blocks, block_len, false);
                self.create_file(cx, regions, region_len, false);
                Making::Files(3)
            }
            Making::Files(1) => {
                self.write_superblock(cx, Waiter::Create);
                Making::Files(0)
            }
            Making::Files(missing) => Making::Files(missing - 1),
        };
        self.stage = Stage::Creating(next);
    }

    /// Starts loading. `good`: which superblock copies are.
    pub(crate) fn load(&mut self, cx: &mut Cx<'_>, good: [bool; 4]) {
        assert_eq!(self.stage, Stage::Loading, "a copy is loaded once");
        self.repair_superblock(cx, &self.sb.encode(), good);
        for (kind, root) in [(TableKind::Blocks, self.sb.roots.blocks), (TableKind::Regions, self.sb.roots.regions)] {
            if root != 0 {
                self.loading += 1;
                self.read_page(cx, kind, TablePage::ROOT, 0);
            }
        }
        self.maybe_replay();
    }

    /// The root of a table came.
    pub(crate) fn root_read(&mut self, cx: &mut Cx<'_>, kind: TableKind, attempt: u32, places: &[u8]) {
        let (root, sum) = match kind {
            TableKind::Blocks => (self.sb.roots.blocks, self.sb.sums.blocks),
            TableKind::Regions => (self.sb.roots.regions, self.sb.sums.regions),
        };
        let Some(tree) = Tree::open(kind, root, sum, places) else {
            return self.page_is_wrong(cx, kind, TablePage::ROOT, attempt);
        };
        *self.tables.tree(kind) = tree;
        self.loading -= 1;
        self.maybe_replay();
    }

    /// Goes on to replay when the roots are here and the superblock is whole.
    pub(crate) fn maybe_replay(&mut self) {
        if self.stage == Stage::Loading && self.loading == 0 && !self.repairing() {
            self.stage = Stage::Replaying;
        }
    }
}
