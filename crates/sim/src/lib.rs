//! Deterministic simulator of whole clusters, and its checkers.
//!
//! A seed decides everything: the cluster's shape, its sizes and timers, the mix of faults, every latency. The code under
//! test is what the daemon runs (`holdfast_node::shard`); disks, network, clocks, control plane and guests are simulated,
//! in one thread, on a virtual time that jumps. Checkers watch from outside, one per property of docs/PROTOCOL.md.
//! The same seed gives the same events, down to the hash.

mod atlas;
mod checkers;
mod control_stub;
mod disk;
mod faults;
mod guest;
mod log;
mod net;
mod node;
mod options;
mod runner;
mod world;

pub use checkers::Violation;
pub use faults::{FaultCounts, FaultKind};
pub use options::Mutant;
pub use runner::{Failure, Replay, Summary, replay, replay_mutant, run, run_seed, silent_faults};
pub use world::Outcome;

#[cfg(test)]
mod tests;
