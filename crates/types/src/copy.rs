//! What a store says of one copy, in the words that replication reads.

use crate::config::EpochTable;
use crate::ids::{Epoch, Incarnation, Lsn};
use crate::sizes::Sizes;
use crate::units::{BlockIndex, VolumeSize};

/// What a copy holds when it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenedCopy {
    /// Which on-disk state this is.
    pub incarnation: Incarnation,
    /// The volume's sizes, from the checkpoint to the log's end.
    pub sizes: Sizes,
    /// Highest promised epoch.
    pub promised: Epoch,
    /// Which epoch wrote which part of the log.
    pub table: EpochTable,
    /// End of the valid contiguous log; all of it is durable.
    pub last: Lsn,
    /// Epoch of the record at `last`; 0 if the log is empty.
    pub last_epoch: Epoch,
    /// Hash of the record at `last`; 0 if the log is empty.
    pub last_hash: u64,
    /// Highest LSN known to be committed, at most `last`. Not below the checkpoint.
    pub committed: Lsn,
    /// The highest commit position that any record, checkpoint or superblock mentions; above `last` only if the copy lost
    /// what it once held.
    pub commit_hint: Lsn,
    /// In the image.
    pub applied: Lsn,
    /// Digest of the image at `applied`.
    pub digest: u64,
    /// In a synced image.
    pub checkpoint: Lsn,
    /// Oldest record the journal still holds; `last + 1` if none.
    pub first: Lsn,
    /// Records above `last`, up to here, were once durable here and can't be read now (rot).
    pub unknown_to: Option<Lsn>,
    /// Where the scrub goes on.
    pub scrubbed: BlockIndex,
}

impl OpenedCopy {
    /// The volume's size, as far as it is committed.
    #[must_use]
    pub fn size(&self) -> VolumeSize {
        self.sizes.at(self.committed).size
    }
}

/// Why a read of a copy failed. Only this read fails; the copy goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFault {
    /// The block does not match its checksum, twice.
    Corrupt(BlockIndex),
    /// The block is to be zeros and its image is not, twice.
    NotZero(BlockIndex),
    /// The copy has failed.
    CopyFailed,
}
