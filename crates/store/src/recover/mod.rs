//! Recovery: what the directory says, from bytes to copies. No I/O here; `start.rs` brings the bytes.
//!
//! `scan` finds frames in one segment; `table` judges one finding; `resolve` walks all segments with it and says which
//! frames are the journal, where it ends, and what is rot; `logs` makes of that the log of each volume.

pub(crate) mod logs;
pub(crate) mod resolve;
pub(crate) mod scan;
pub(crate) mod table;
