//! Opening one copy after recovery: superblock made whole, tables loaded, then replay.

use crate::io::{DiskOpKind, FileId};
use crate::ops::{CopyTag, Cx};
use crate::replica::{Replica, Stage};
use crate::superblock::Waiter;
use crate::tables::table_file;
use bytes::Bytes;
use holdfast_format::Superblock;

/// Bytes of a table read at a time.
const CHUNK: u64 = 1 << 20;
const SUPERBLOCK_BYTES: u64 = (Superblock::COPIES * Superblock::LEN) as u64;

impl Replica {
    /// Makes the files of a new copy. The superblock is written when all are there: without it the copy does not exist.
    pub(crate) fn create_files(&mut self, cx: &mut Cx<'_>) {
        let v = self.volume;
        let (blocks, block_len) = table_file(v, self.sb.size, true);
        let (regions, region_len) = table_file(v, self.sb.size, false);
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
        self.loading = 2;
        self.load_chunk(cx, true, 0);
        self.load_chunk(cx, false, 0);
    }

    fn load_chunk(&self, cx: &mut Cx<'_>, blocks: bool, offset: u64) {
        let (file, len) = table_file(self.volume, self.sb.size, blocks);
        let len = u32::try_from((len - offset).min(CHUNK)).expect("at most a chunk");
        cx.copy_op(self.volume, CopyTag::Load(blocks, offset), file, DiskOpKind::Read { offset, len });
    }

    pub(crate) fn chunk_loaded(&mut self, cx: &mut Cx<'_>, blocks: bool, offset: u64, data: &Bytes) {
        let table = if blocks { &mut self.tables.blocks } else { &mut self.tables.regions };
        table.load(offset, data);
        let (_, len) = table_file(self.volume, self.sb.size, blocks);
        let next = offset + u64::try_from(data.len()).expect("at most a chunk");
        if next < len {
            return self.load_chunk(cx, blocks, next);
        }
        self.loading -= 1;
        self.maybe_replay();
    }

    /// Goes on to replay when everything is loaded and the superblock is whole.
    pub(crate) fn maybe_replay(&mut self) {
        if self.stage == Stage::Loading && self.loading == 0 && !self.repairing() {
            self.tables.digest = self.tables.sum();
            self.stage = Stage::Replaying;
        }
    }
}
