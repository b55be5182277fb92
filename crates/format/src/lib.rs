//! The only place that turns values into bytes.
//!
//! Little endian, versioned, no `usize`. Header and body are checked apart. Every layout stands in docs/FORMAT.md
//! first, has golden files, and a fuzz target. Decoders take hostile bytes: they return an error, never panic, and
//! allocate no more than the bytes they were given allow.

mod checksum;
mod configuration;
mod error;
mod frame;
#[cfg(test)]
mod golden;
mod journal_head;
pub mod message;
mod reader;
mod record;
mod segment;
mod superblock;
mod table;

pub use checksum::{ALLOCATED_ZEROS, block_checksum, digest_term, zero_block};
pub use configuration::{decode_configuration, encode_configuration};
pub use error::DecodeError;
pub use frame::{CommitMark, FrameHeader, FrameSlot, padded};
pub use journal_head::{JournalHead, JournalHeadFound};
pub use record::{Draft, Record, RecordHeader, RecordKind};
pub use segment::{ClosedSegment, SegmentHeader};
pub use superblock::{Superblock, SuperblockFound, TableRoots, TableSums};
pub use table::{
    LEAF_PARENT_FANOUT, NODE_FANOUT, PAGE_BYTES, PAGE_ENTRIES, PAGE_PLACES_BYTES, ROOT_LEVEL, TableKind, TablePage,
    decode_page, encode_page, table_bytes,
};
