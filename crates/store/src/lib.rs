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
//! | `apply`, `checkpoint`, `resize`, `tables`, `pages`, `runs` | image, tables, digest |
//! | `regions`, `side`, `weave`, `merge` | regions for a copy that no log reaches; what came of them; its proof; the switch to it |
//! | `pace`, `stats` | how fast images keep up, and what that slows; bytes written |
//! | `read` | verified reads; records for lagging copies |
//! | `start`, `recover`, `load` | from a directory to open copies |
//! | `findings` | what was found there, for inspectors |
//!
//! Deliberately absent: files, clocks, threads; epochs as decisions (the caller's), snapshots.

mod api;
mod apply;
mod checkpoint;
mod config;
mod copies;
mod extents;
mod findings;
mod hold;
pub mod io;
mod journal;
mod load;
mod merge;
mod ops;
mod orphans;
mod pace;
mod pages;
mod read;
mod recheck;
mod recover;
mod regions;
mod repair;
mod replica;
mod resize;
mod ring;
mod runs;
mod sectors;
mod settle;
mod side;
mod start;
mod stats;
mod store;
mod superblock;
mod tables;
#[cfg(test)]
mod tests;
mod weave;

pub use api::{Input, LogGone, NotProven, OrphanNews, Output, Space, Switch};
pub use config::StoreConfig;
pub use findings::{Findings, JournalFound, LostFrames, SegmentFound};
pub use stats::Written;
pub use store::Store;
