//! The `holdfast` binary as a library, so that the tests of whole clusters use the same harness and the same verified
//! workload as `holdfast demo`.
//!
//! ```text
//! args ──> run ──┬─ commands ──> the agent's admin socket ──> output
//!                ├─ daemon   ──> holdfast-agent
//!                ├─ offline  ──> holdfast-agent, the disk of a stopped one
//!                ├─ simulate ──> holdfast-sim
//!                └─ demo ─────> harness (processes) + workload (verified load over NBD)
//! ```

mod args;
mod bench;
mod commands;
mod daemon;
mod demo;
mod error;
mod explain;
pub mod harness;
mod manual;
mod offline;
mod output;
mod progress;
mod redact;
mod run;
mod simulate;
mod terminal;
mod top;
mod units;
pub mod workload;

pub use bench::processes;
pub use error::{CliError, Exit};
pub use run::main;
