//! One shard's storage: a journal shared by the shard's volumes, and per volume an image with its tables.

mod api;
pub mod io;

pub use api::{Input, LogGone, OpenedCopy, Output, ReadError};
