//! Deterministic simulator of whole clusters, and its checkers.
//!
//! A seed decides everything: the cluster's shape, its sizes and timers, the mix of faults, every latency. The code under
//! test is what the daemon runs (`holdfast_node::shard` and `holdfast_node::control`, Raft included); disks, network, clocks
//! and guests are simulated, in one thread, on a virtual time that jumps. Checkers watch from outside, one per property of docs/PROTOCOL.md.
//! The same seed gives the same events, down to the hash.

mod atlas;
mod checkers;
mod cuts;
mod disk;
mod faults;
#[cfg(feature = "mutants")]
mod focus;
mod follow;
mod guest;
mod log;
#[cfg(feature = "mutants")]
mod mutants;
mod net;
mod node;
mod options;
mod profiles;
mod raft_disk;
mod runner;
mod setup;
mod shrink;
mod world;
mod year;

pub use checkers::{Most, Violation};
pub use cuts::{BadCuts, Cuts};
pub use faults::{FaultCounts, FaultKind};
pub use follow::Follow;
#[cfg(feature = "mutants")]
pub use mutants::{Case, Catch, FALSE_ALARM};
pub use options::Mutant;
pub use profiles::{PROFILES, Profile};
pub use runner::{Failure, Replay, Summary, play, replay, replay_mutant, run, run_seed, take_panics};
pub use setup::{BadTiming, BadTopology, Episode, Setup, Timing, Topology, VolumeShape, most_nodes};
pub use shrink::{Shrunk, shrink};
pub use world::{Outcome, Reached};
pub use year::{Episodes, Year, YearPlan, year};

#[cfg(test)]
mod tests;
