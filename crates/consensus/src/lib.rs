//! Sans-IO wrapper around the raft crate: the only place that names its types.
//!
//! Raft orders the commands of the control plane: few per hour, never guest data. The caller owns the disk, the
//! network and the clock; it feeds [`Input`] and carries out [`Output`] *in the order emitted*.
//!
//! Flow
//! ```text
//!   Tick, Message, Propose, Persisted ... --> Raft::handle --> Persist, Send, Apply, Restore, Compacted ...
//!                  ^                                              |
//!                  +------------- Persisted{batch} <--------------+
//! ```
//! The first `handle` after `new` hands out the stored state as `Restore`, then what is known to be committed as
//! `Apply`; so a state machine is always built by `Restore` and `Apply`, never read back by other means.
//!
//! Rules for the caller
//! - A [`PersistBatch`] is written atomically and made durable before `Persisted{batch}` is fed back; batches, and
//!   `Compacted`, are written in the order emitted. `Persisted` covers every older batch too.
//! - Messages of a pair of nodes travel on one ordered stream (loss and repetition are fine, reordering is not).
//! - `SnapshotWanted` is answered with `Compact` at that index: a newcomer is brought in by a snapshot that names it, and until the
//!   leader has one nothing is sent to it. Nobody else needs one, and to make one of a large state takes its time.
//! - A node whose disk was replaced gets a new [`NodeId`](holdfast_types::NodeId) (trap 23): Raft can't tell
//!   amnesia from a new node.
//!
//! Invariants
//! - A message that promises something leaves after what it promises is durable. Stricter than the raft crate: a
//!   leader's messages wait, too, for the vote that made it leader (in a group of one voter nothing else waits).
//! - Each committed entry is handed out once, in order, without gaps; `Restore` skips forward only.
//! - A node campaigns only when its whole log is durable: the raft crate asserts that.
//! - Election timeouts come from the seed alone: the raft crate draws from a thread-local generator at each change
//!   of role, and what it drew is overwritten before it can matter.
//! - Bytes from a peer are checked before raft sees them, because raft answers broken preconditions with a panic.
//!   What fails is counted in [`RaftStatus::refused`] and dropped.
//!
//! Deliberately absent: forwarding proposals (the caller sees the leader), joint configurations (one node at a
//! time suffices for a control plane), keeping log entries behind a snapshot (the state is small).

mod api;
mod error;
#[cfg(any(test, feature = "fuzz"))]
mod fuzz;
mod guard;
mod node;
mod remains;
mod store;

#[cfg(test)]
mod tests;

pub use api::{
    Input, MembershipChange, Output, PeerProgress, PersistBatch, RaftConfig, RaftStatus, Stored, StoredEntry,
};
pub use error::ConsensusError;
#[cfg(any(test, feature = "fuzz"))]
pub use fuzz::fuzz_member;
pub use node::Raft;
pub use remains::Remains;
