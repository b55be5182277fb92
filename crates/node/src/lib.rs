//! One node's pure core: carries the outputs of one pure crate to the inputs of another. The daemon and the simulator run
//! the same code.

pub mod control;
mod local;
mod quota;
mod reports;
pub mod shard;
mod upkeep;

pub use local::{Grant, LocalView};
pub use quota::{Cost, Quota};
pub use reports::copy_reports;
pub use upkeep::{Task, Upkeep};
