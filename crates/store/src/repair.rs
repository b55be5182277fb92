//! Writing a bad block of the image again, with content that another copy supplied.
//!
//! The block table says what the content must be. So nothing is repaired that was not verified, and the tables and the digest
//! stay as they are. No batch starts while a repair is in flight.

use crate::api::Output;
use crate::io::DiskOpKind;
use crate::ops::{CopyTag, Cx};
use crate::replica::Replica;
use bytes::Bytes;
use holdfast_format::block_checksum;
use holdfast_types::{BLOCK_SIZE, BlockIndex};

impl Replica {
    pub(crate) fn repair(&mut self, cx: &mut Cx<'_>, block: BlockIndex, data: Bytes) {
        assert!(block.0 < self.sb.size.blocks().0, "{}: {block:?} lies in the volume", self.volume);
        if self.overlay.get(block.0).is_some() || self.is_being_applied(block.0) {
            // Its next content is committed and read from memory until it is in the image.
            self.repaired(cx, block, true);
            return;
        }
        let right = data.len() == BLOCK_SIZE && block_checksum(block, &data) == self.tables.blocks.get(block.0);
        if !right {
            self.repaired(cx, block, false);
            return;
        }
        if self.is_switching() {
            // Its content is about to be another one, or its place.
            self.repaired(cx, block, false);
        } else if self.repairing_blocks.insert(block.0) {
            let kind = DiskOpKind::Write { offset: block.offset().0, data: vec![data], durable: true };
            cx.copy_op(self.volume, CopyTag::Repair(block.0), self.file_of(block.0), kind);
        }
    }

    pub(crate) fn repair_done(&mut self, cx: &mut Cx<'_>, block: u64) {
        self.repairing_blocks.remove(&block);
        self.repaired(cx, BlockIndex(block), true);
    }

    fn repaired(&self, cx: &mut Cx<'_>, block: BlockIndex, right: bool) {
        cx.out.push(Output::Repaired { volume: self.volume, block, right });
    }
}
