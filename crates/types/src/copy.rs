//! What a store says of one copy, in the words that replication reads.

use crate::config::EpochTable;
use crate::ids::{Epoch, Incarnation, Lsn};
use crate::sizes::Sizes;
use crate::units::{BlockIndex, BlockRange, VolumeSize};

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
    /// Where the scrub goes on, and what is known of earlier passes.
    pub scrub: ScrubKept,
}

/// Ranges of blocks that no copy could supply, that are named and remembered.
pub const MAX_UNREPAIRABLE: usize = 64;

/// What verifying found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubFound {
    /// Blocks that were read from the image and verified, whatever came of it.
    pub verified: u64,
    /// Blocks that were not what they are to be.
    pub mismatches: u64,
    /// Those that were repaired.
    pub repaired: u64,
    /// Those that no copy could supply; one that is found again counts again.
    pub lost: u64,
}

/// What a copy remembers of its scrub over restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubKept {
    /// First block that the present pass has not read.
    pub next: BlockIndex,
    /// By whose wish the last pass of an operator was made, or is being made; 0: there was none.
    pub run: u64,
    /// Bytes per second of that pass; 0: it has ended.
    pub rate: u64,
    /// What that pass has found.
    pub of_run: ScrubFound,
    /// When the last pass ended, in milliseconds since 1970; 0: none has.
    pub ended_ms: u64,
    /// Blocks that no copy could supply when they were last read: at most [`MAX_UNREPAIRABLE`] ranges, in order, none empty.
    pub unrepairable: Vec<BlockRange>,
    /// There are more of them than are named.
    pub more: bool,
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
