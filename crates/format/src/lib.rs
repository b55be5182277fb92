//! The only place that turns values into bytes.
//!
//! Little endian, versioned, no `usize`. Header and body are checked apart. Every layout stands in docs/FORMAT.md
//! first, has golden files, and a fuzz target. Decoders take hostile bytes: they return an error, never panic, and
//! allocate no more than the bytes they were given allow.

mod checksum;
pub mod message;
mod record;

pub use checksum::{block_checksum, digest_term, zero_block};
pub use record::{Draft, Record, RecordHeader, RecordKind};
