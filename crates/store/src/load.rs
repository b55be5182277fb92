//! Opening one copy after recovery: superblock made whole, tables loaded, then replay.

use crate::io::{DiskOpKind, FileId};
use crate::ops::{CopyTag, Cx};
use crate::replica::{Replica, Stage};
use crate::superblock::Waiter;
use crate::tables::Table;
use bytes::Bytes;
use holdfast_format::Superblock;

/// Bytes of a table read at a time.
const CHUNK: u64 = 1 << 20;
const SUPERBLOCK_BYTES: u64 = (Superblock::COPIES * Superblock::LEN) as u64;

impl Replica {
    /// Makes the files of a new copy. The superblock is written when all are there: without it the copy does not exist.
    pub(crate) fn create_files(&mut self, cx: &mut Cx<'_>) {
        let v = self.volume;
        let table = |table: Table| (table.file(v), table.len(self.sb.size), false);
        let files = [
            (FileId::Superblock(v), SUPERBLOCK_BYTES, true),
            (FileId::Image(v), self.sb.size.blocks().bytes(), false),
            table(Table::Blocks),
            table(Table::Regions),
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
        let mut tables = vec![Table::Blocks, Table::Regions];
        if self.sb.merging {
            tables.extend([Table::SideBlocks, Table::SideRegions]);
        }
        self.loading = u32::try_from(tables.len()).expect("four tables");
        tables.into_iter().for_each(|table| self.load_chunk(cx, table, 0));
    }

    pub(crate) fn load_chunk(&self, cx: &mut Cx<'_>, table: Table, offset: u64) {
        let len = u32::try_from((table.len(self.sb.size) - offset).min(CHUNK)).expect("at most a chunk");
        let kind = DiskOpKind::Read { offset, len };
        cx.copy_op(self.volume, CopyTag::Load(table, offset), table.file(self.volume), kind);
    }

    pub(crate) fn chunk_loaded(&mut self, cx: &mut Cx<'_>, table: Table, offset: u64, data: &Bytes) {
        let loaded = match table {
            Table::Blocks => &mut self.tables.blocks,
            Table::Regions => &mut self.tables.regions,
            Table::SideBlocks => &mut self.side.blocks,
            Table::SideRegions => &mut self.side.regions,
        };
        loaded.load(offset, data);
        let next = offset + u64::try_from(data.len()).expect("at most a chunk");
        if next < table.len(self.sb.size) {
            self.load_chunk(cx, table, next);
        } else if self.stage == Stage::Loading {
            self.loading -= 1;
            self.maybe_replay();
        } else {
            self.side_loaded(cx);
        }
    }

    /// Compares the tables with what the superblock says of them, at the one LSN of which it says it (trap 17).
    ///
    /// Pages are written by checkpoints alone. So what was read is the state of the last one, or, if another had begun, a
    /// mixture of both, which replay makes whole: it sets every entry that differs between them. A page that the device
    /// lost, changed or put elsewhere stays wrong, and nothing else would show it: a hole that is none reads as zeros.
    pub(crate) fn prove_tables(&mut self) {
        let Some((at, expected)) = self.unproven.filter(|(at, _)| *at == self.applied) else { return };
        self.unproven = None;
        let found = self.tables.sums();
        if found != expected {
            self.broken = Some(format!(
                "its tables are not what the checkpoint at record {at} wrote: expected the sums {:016x} and {:016x}, found {:016x} \
                 and {:016x}: the device lost or changed a write; replace the copy",
                expected.blocks, expected.regions, found.blocks, found.regions
            ));
        }
    }

    /// Goes on to replay when everything is loaded and the superblock is whole.
    pub(crate) fn maybe_replay(&mut self) {
        if self.stage == Stage::Loading && self.loading == 0 && !self.repairing() {
            self.tables.loaded();
            if self.sb.merging {
                self.take_over_side();
            }
            self.unproven = Some(self.sb.next.unwrap_or((self.sb.checkpoint, self.sb.sums)));
            self.prove_tables();
            self.stage = Stage::Replaying;
        }
    }
}
