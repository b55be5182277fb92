//! Writing a bad block of the image again, with content that another copy supplied.
//!
//! The block table says what the content must be. So nothing is repaired that was not verified, and the tables and the digest
//! stay as they are. No batch starts while a repair is in flight. What the table calls zeros is made zeros again in the way in
//! which it became so: by a hole, or keeping its space.

use crate::api::Output;
use crate::io::{DiskOpKind, FileId};
use crate::merge::Deferred;
use crate::ops::{CopyTag, Cx};
use crate::pages::Wait;
use crate::read::matches_entry;
use crate::replica::Replica;
use bytes::Bytes;
use holdfast_format::{ALLOCATED_ZEROS, TableKind, TablePage};
use holdfast_types::{BLOCK_SIZE, BlockIndex};

impl Replica {
    pub(crate) fn repair(&mut self, cx: &mut Cx<'_>, block: BlockIndex, data: Bytes) {
        if self.is_switching() || self.is_moving() {
            return self.deferred.push(Deferred::Repair { block, data });
        }
        // One that was cut off meanwhile holds nothing that could be wrong.
        let gone = block.0 >= self.image_size().blocks().0;
        if gone || self.overlay.get(block.0).is_some() || self.is_being_applied(block.0) {
            // Its next content is committed and read from memory until it is in the image.
            self.repaired(cx, block, true);
            return;
        }
        if !self.leaf(cx, TableKind::Blocks, TablePage::leaf_of(block.0).index, Wait::Repair(block, data.clone())) {
            return;
        }
        let sum = self.tables.blocks.get(block.0);
        let right = data.len() == BLOCK_SIZE && matches_entry(block, &data, sum);
        if !right {
            self.repaired(cx, block, false);
            return;
        }
        if self.repairing_blocks.insert(block.0) {
            let (offset, len) = (block.offset().0, BLOCK_SIZE as u64);
            let kind = match sum {
                0 => DiskOpKind::Punch { offset, len },
                ALLOCATED_ZEROS => DiskOpKind::Zero { offset, len },
                _ => DiskOpKind::Write { offset, data: vec![data], durable: false },
            };
            cx.copy_op(self.volume, CopyTag::Repair(block.0, false), FileId::Image(self.volume), kind);
        }
    }

    /// A step of a repair ended. Not one durable write: what that reports may be the failure of earlier writes of the image, and
    /// an attempt after that would hide it from the checkpoint.
    pub(crate) fn repair_done(&mut self, cx: &mut Cx<'_>, block: u64, synced: bool) {
        if !synced {
            let tag = CopyTag::Repair(block, true);
            return cx.copy_op(self.volume, tag, FileId::Image(self.volume), DiskOpKind::Sync);
        }
        self.repairing_blocks.remove(&block);
        self.repaired(cx, BlockIndex(block), true);
    }

    fn repaired(&self, cx: &mut Cx<'_>, block: BlockIndex, right: bool) {
        cx.out.push(Output::Repaired { volume: self.volume, block, right });
    }
}
