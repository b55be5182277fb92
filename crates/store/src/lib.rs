//! One shard's storage: a journal shared by the shard's volumes, and per volume an image with its tables.
//!
//! Purpose: keep what it said it keeps. `Input` in, `Output` out; disk I/O is an output too (`io`).
//!
//! ```text
//! Append ─► journal ─► Durable      Commit ─► overlay ─► image + tables ─► checkpoint ─► journal space free again
//! ```
//!
//! | module | role |
//! | --- | --- |
//! | `store` | takes inputs, runs the parts, fails copies |
//! | `journal`, `ring` | group commit; segments and their reuse |
//! | `replica`, `superblock` | one copy: positions, commands, what it must remember |
//! | `apply`, `checkpoint`, `tables`, `runs` | image, tables, digest |
//! | `regions`, `side`, `merge` | regions for a copy that no log reaches; what came of them; the switch to it |
//! | `read` | verified reads; records for lagging copies |
//! | `start`, `recover`, `load` | from a directory to open copies |
//!
//! Deliberately absent: files, clocks, threads; epochs as decisions (the caller's), snapshots.

mod api;
mod apply;
mod checkpoint;
mod config;
mod extents;
pub mod io;
mod journal;
mod load;
mod merge;
mod ops;
mod read;
mod recover;
mod regions;
mod repair;
mod replica;
mod ring;
mod runs;
mod side;
mod start;
mod store;
mod superblock;
mod tables;
#[cfg(test)]
mod tests;

pub use api::{Input, LogGone, Output, Space, Switch};
pub use config::StoreConfig;
pub use store::Store;
