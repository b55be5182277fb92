//! The control plane's state machine: nodes, volumes, configurations, failover decisions.
//!
//! ```text
//!   Command --(Raft)--> State::apply --> Outcome | Refusal        the same on every node
//!   Heartbeat --------> Detector::heard
//!   State + Detector -> decide --> Commands to propose            on the Raft leader
//!   State + Detector -> status, placement                         anywhere
//! ```
//! [`State`] is replicated: it changes by [`State::apply`] alone, which reads no clock and no randomness.
//! [`Detector`] is local: what one node has heard and when, by its own clock. Nothing of it is agreed upon; it only
//! causes proposals, and a wrong suspicion costs a failover, never data (the compare-and-swap and the fence decide).
//!
//! Invariants (asserted after every command by [`State::validate`])
//! - S14: epochs of a volume rise; each is given to one primary.
//! - S20: a member counts under its registered incarnation; registering another one is refused.
//! - S21: a successor of the active configuration is chosen by compare-and-swap on its epoch. A claim changes who
//!   leads, never who counts; only the primary itself changes that, by one member at a time.
//! - Ids of nodes and volumes are never used twice.
//!
//! Commands and snapshots are JSON in a versioned envelope: a few per hour, and an operator can read them. Unknown
//! fields are errors: a node that does not understand a command must not skip a part of it. So nothing is ordered that a
//! member could not read (`versions`). Heartbeats cause proposals only: what is unknown in them is passed over.
//!
//! Deliberately absent: changes of a volume's W, guest data, wall-clock time
//! (the leader checks a token's expiry before it proposes), and who of the members hears whom: a primary that only
//! the leader can't hear is replaced, too.

mod alone;
mod apply;
mod command;
mod decide;
mod detector;
mod integrity;
mod members;
mod outlook;
mod placement;
mod plan;
mod recovery;
mod redundancy;
mod regime;
mod state;
mod status;
mod versions;
mod wire;

#[cfg(test)]
mod tests;

pub use alone::{Alone, Degraded};
pub use command::{Command, DecodeError, Outcome, Refusal, RefusalKind};
pub use detector::{
    Changes, CopyReport, CopyRole, CopyState, Detector, DetectorConfig, Exposure, Heartbeat, LostCopy, RAISE_AFTER,
    REPLACE_AFTER, ResyncProgress, SlowCopy, SpaceLeft,
};
pub use integrity::{BlockCounts, Blocks, CopyVerdict, Difference, Integrity, ScrubReport, Verdict};
pub use members::{Copies, Successor, Why};
pub use placement::placement;
pub use plan::{Plan, Planned, recovery_plan};
pub use recovery::{FoundCopy, Kept, Known, LastHeard, Loss, Operator, Receipt};
pub use regime::{Prospect, Recovery};
pub use state::{Duty, Node, Phase, State, Token, Volume};
pub use status::{ClusterStatus, CopyStatus, NodeStatus, VolumeState, VolumeStatus, status, volume_status};
