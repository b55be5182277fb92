//! What a store wrote, by what it was written for: the measure of write amplification.

use crate::io::{DiskOpKind, FileId};
use bytes::Bytes;

/// Bytes since the store was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Content of the records that were appended: what guests, or the primary, handed over.
    pub guest: u64,
    /// Frames, segment headers, the journal's head.
    pub journal: u64,
    /// Images.
    pub image: u64,
    /// Block and region tables.
    pub tables: u64,
    /// Superblocks.
    pub superblocks: u64,
    /// What was cut and kept aside.
    pub orphans: u64,
    /// The side area of a resync; not part of `total`: nothing was appended for it.
    pub side: u64,
    /// Zeros of new segment files; not part of `total`: the journal grows, it is not written again.
    pub prepared: u64,
}

impl Written {
    /// Everything that was written because something was appended.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.journal + self.image + self.tables + self.superblocks + self.orphans
    }

    /// An operation is given out.
    pub(crate) fn count(&mut self, file: FileId, kind: &DiskOpKind) {
        let bytes = match kind {
            DiskOpKind::Write { data, .. } => data.iter().map(Bytes::len).sum::<usize>() as u64,
            DiskOpKind::Create { len, written: true } if matches!(file, FileId::Segment(_)) => {
                self.prepared += len;
                return;
            }
            _ => return,
        };
        *match file {
            FileId::Segment(_) | FileId::JournalHead => &mut self.journal,
            FileId::Superblock(_) => &mut self.superblocks,
            FileId::Image(_) => &mut self.image,
            FileId::BlockTable(_) | FileId::RegionTable(_) => &mut self.tables,
            FileId::Orphan(..) => &mut self.orphans,
            FileId::SideImage(_) | FileId::SideBlocks(_) | FileId::SideRegions(_) => &mut self.side,
        } += bytes;
    }
}
