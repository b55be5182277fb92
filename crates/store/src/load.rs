//! Opening one copy after recovery: superblock made whole, roots of the tables read, then replay.

use crate::io::{DiskOpKind, FileId};
use crate::ops::{CopyTag, Cx};
use crate::replica::{Replica, Stage};
use crate::superblock::Waiter;
use crate::tables::{Tree, table_file};
use holdfast_format::{Superblock, TableKind, TablePage};

const SUPERBLOCK_BYTES: u64 = (Superblock::COPIES * Superblock::LEN) as u64;

impl Replica {
    /// Makes the files of a new copy. The superblock is written when all are there: without it the copy does not exist.
    pub(crate) fn create_files(&mut self, cx: &mut Cx<'_>) {
        let v = self.volume;
        let (blocks, block_len) = table_file(v, self.sb.size, TableKind::Blocks);
        let (regions, region_len) = table_file(v, self.sb.size, TableKind::Regions);
        let files = [
            (FileId::Superblock(v), SUPERBLOCK_BYTES, true),
            (FileId::Image(v), self.sb.size.blocks().bytes(), false),
            (blocks, block_len, false),
            (regions, region_len, false),
        ];
        self.stage = Stage::Creating(4);
        for (file, len, written) in files {
            cx.copy_op(v, CopyTag::Create, file, DiskOpKind::Create { len, written });
        }
    }

    pub(crate) fn file_created(&mut self, cx: &mut Cx<'_>) {
        let Stage::Creating(missing) = self.stage else { unreachable!("files are made at creation only") };
        self.stage = Stage::Creating(missing - 1);
        if missing == 1 {
            self.write_superblock(cx, Waiter::Create);
        }
    }

    /// Starts loading. `good`: which superblock copies are.
    pub(crate) fn load(&mut self, cx: &mut Cx<'_>, good: [bool; 4]) {
        assert_eq!(self.stage, Stage::Loading, "a copy is loaded once");
        self.repair_superblock(cx, good);
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
