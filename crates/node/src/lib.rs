//! One node's pure core: carries the outputs of one pure crate to the inputs of another. The daemon and the simulator run
//! the same code.

pub mod control;
mod local;
mod reports;
pub mod shard;
mod upkeep;

pub use local::LocalView;
pub use reports::copy_reports;
pub use upkeep::{Task, Upkeep};
