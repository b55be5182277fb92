//! What goes into a node's control plane, and what comes out.

use super::applied::Replicated;
use super::wire::MAX_BUILD_BYTES;
use crate::local::LocalView;
use crate::upkeep::Upkeep;
use bytes::Bytes;
use holdfast_cluster::{
    Command, CopyReport, DetectorConfig, Outcome, RAISE_AFTER, REPLACE_AFTER, Recovery, Refusal, State,
};
use holdfast_consensus::{PersistBatch, RaftConfig};
use holdfast_types::{ClusterId, ClusterVersion, ControlRequest, Incarnation, Life, NodeId, Speaks, VolumeId};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::events::Event;

/// Settings of one node.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// The cluster that this node belongs to: another one's state is refused.
    pub cluster: ClusterId,
    /// This node.
    pub me: NodeId,
    /// This process.
    pub life: Life,
    /// Where other nodes were when this one joined; used until the replicated state says where they are.
    pub peers: BTreeMap<NodeId, String>,
    /// What opened the generation of the control plane to which what is stored belongs; none: it is the first one.
    pub recovery: Option<Recovery>,
    /// Raft's unit of time.
    pub tick: Duration,
    /// How often nodes tell each other that they live.
    pub heartbeat: Duration,
    /// Silence after which a node counts as down.
    pub failure_timeout: Duration,
    /// A copy that is gone for so long is replaced on another node; zero: never.
    pub replace_after: Duration,
    /// What this process speaks.
    pub speaks: Speaks,
    /// Which build this process is, for people.
    pub build: String,
    /// As leader: a primary that is slow hands over to a copy that is not.
    pub move_slow_primary: bool,
    /// Every node speaks a later version for so long before the leader raises the cluster to it.
    pub raise_after: Duration,
    /// Source of Raft's random choices; fresh for each process in production.
    pub seed: u64,
    /// Commands after which the log is replaced by the state.
    pub snapshot_every: u64,
}

impl ControlConfig {
    /// The defaults of the design.
    #[must_use]
    pub fn new(cluster: ClusterId, me: NodeId, life: Life, seed: u64) -> ControlConfig {
        ControlConfig {
            cluster,
            me,
            life,
            peers: BTreeMap::new(),
            recovery: None,
            tick: Duration::from_millis(200),
            heartbeat: Duration::from_millis(200),
            failure_timeout: Duration::from_secs(1),
            replace_after: REPLACE_AFTER,
            speaks: Speaks::THIS,
            build: String::new(),
            move_slow_primary: false,
            raise_after: RAISE_AFTER,
            seed,
            snapshot_every: 1000,
        }
    }

    pub(super) fn validate(&self) {
        assert!(self.me.0 != 0, "a node has an id above 0");
        assert!(self.life.0 != 0, "a life is a random number above 0");
        assert!(self.failure_timeout >= self.heartbeat * 2, "one lost heartbeat is no failure: {self:?}");
        assert!(!self.tick.is_zero() && self.tick <= self.failure_timeout, "several ticks fit in a timeout: {self:?}");
        assert!(self.build.len() <= MAX_BUILD_BYTES, "a build has a short name: {self:?}");
        assert!(self.snapshot_every > 0, "a log that is always replaced by the state is no log");
    }

    pub(super) fn detector(&self) -> DetectorConfig {
        let replace_after = Some(self.replace_after).filter(|d| !d.is_zero());
        let (failure_timeout, raise_after) = (self.failure_timeout, self.raise_after);
        let move_slow_primary = self.move_slow_primary;
        DetectorConfig { failure_timeout, replace_after, raise_after, move_slow_primary, ..DetectorConfig::default() }
    }

    /// A new leader after one to two failure timeouts: about when the failure detector has made up its mind.
    pub(super) fn raft(&self) -> RaftConfig {
        let ticks = self.failure_timeout.as_nanos().div_ceil(self.tick.as_nanos());
        let election_ticks = usize::try_from(ticks).unwrap_or(usize::MAX).clamp(5, 10_000);
        // Five heartbeats per election timeout: a stall of the disk or the network costs one of them.
        let heartbeat_ticks = (election_ticks / 5).max(1);
        RaftConfig { election_ticks, heartbeat_ticks, ..RaftConfig::new(self.me, self.seed) }
    }
}

/// What happens to a node's control plane.
#[derive(Clone, Debug)]
pub enum Input {
    /// The time that `next_timeout` named has come.
    Tick,
    /// Bytes of a `Send` of `from` arrived on the control lane. `from` is the authenticated sender.
    Message {
        /// Who sent it.
        from: NodeId,
        /// What.
        bytes: Bytes,
    },
    /// A lane to that node opened.
    PeerUp(NodeId),
    /// The lane to that node broke: what was sent may be lost.
    PeerDown(NodeId),
    /// The batch, and every older one, is on stable storage.
    Persisted {
        /// Number of the batch.
        batch: u64,
    },
    /// A copy of this node asks for something. It asks again until its view shows the outcome.
    Request(ControlRequest),
    /// The shard made a copy, or found it on its disk.
    CopyCreated {
        /// Of this volume.
        volume: VolumeId,
        /// Its on-disk state.
        incarnation: Incarnation,
    },
    /// The shard removed a copy.
    CopyDeleted {
        /// Of this volume.
        volume: VolumeId,
    },
    /// How this node's copies are now; replaces the last ones.
    Reports(Vec<CopyReport>),
    /// How the file system of this node's copies is.
    Space {
        /// Bytes that are free.
        free_bytes: u64,
        /// The longest file that it takes, if that could be found out.
        longest_file: Option<u64>,
    },
    /// An operator's wish for a copy of a node; may get lost on the way.
    Upkeep {
        /// Who holds the copy.
        node: NodeId,
        /// The wish.
        wish: Upkeep,
    },
    /// Somebody wants this done; answered by `Output::Done`.
    Propose {
        /// Comes back in the answer.
        token: u64,
        /// What.
        command: Command,
    },
    /// This process is to end: what it leads is handed over, see [`super::Control::to_hand_over`].
    HandOver,
    /// This process is to end, and another one to follow: what it leads is to wait for that.
    Restarts {
        /// At most so long, from its last word on.
        within: Duration,
    },
    /// This process is to end: if it leads Raft, another voter is to do so.
    StepDown,
}

/// What a node's control plane asks of its surroundings. To be carried out in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// To a peer's control lane; may be lost.
    Send {
        /// The peer.
        to: NodeId,
        /// For its `Input::Message`.
        bytes: Bytes,
    },
    /// Write, make durable, then feed `Persisted`.
    Persist(PersistBatch),
    /// Store this snapshot in place of the older one, then delete log entries below `first_index`.
    Compact {
        /// The first entry that is still needed.
        first_index: u64,
        /// The snapshot.
        snapshot: Bytes,
    },
    /// The cluster is of this version from now on, or was when this process started. To be noted durably before what follows is carried out.
    Version(ClusterVersion),
    /// What concerns this node's copies changed.
    Local(LocalView),
    /// Every node of the cluster and where it listens, this one included.
    Peers(BTreeMap<NodeId, String>),
    /// For this node's shard.
    Upkeep(Upkeep),
    /// The outcome of a `Propose`.
    Done {
        /// Of the `Propose`.
        token: u64,
        /// What came of it.
        result: Result<Outcome, Failure>,
    },
    /// For the operator.
    Event(Event),
    /// The control plane was recovered and this node goes over to the new regime: set all that is stored of Raft aside, store this in its
    /// place, in one atomic step behind all that was to be written before, then feed `Persisted`.
    Adopt {
        /// Number of the batch.
        batch: u64,
        /// For `ControlConfig::recovery`.
        recovery: Recovery,
    },
    /// The control plane was recovered and this node was given up: to be noted durably. It takes no part any more.
    Superseded(Recovery),
    /// This node was removed from the cluster, and nobody needs it any more.
    Removed,
    /// This node can't go on; the sentence says why.
    Fatal(String),
}

/// Why a proposal has no outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The state machine refused it: nothing happened.
    Refused(Refusal),
    /// Too many proposals wait on this node: nothing happened.
    Busy,
    /// It was carried out or refused while this node was behind; which of them is not known here.
    Unknown,
    /// No leader carried it out in time. It may still happen.
    NoLeader {
        /// How long it waited.
        waited: Duration,
        /// The leader, if there is one that does not answer.
        leader: Option<String>,
        /// Voters that answer, by name.
        answering: Vec<String>,
        /// All voters, by name.
        voters: Vec<String>,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Refused(refusal) => write!(f, "{refusal}"),
            Failure::Busy => write!(f, "too many requests wait for the control plane on this node; try again"),
            Failure::Unknown => write!(
                f,
                "this node was behind while the request was decided, so its outcome is not known here; look at \
                 `holdfast status`"
            ),
            Failure::NoLeader { waited, voters, .. } if voters.is_empty() => write!(
                f,
                "no leader of the control plane was reached within {waited:.1?}: this node has not heard from the \
                 cluster since it joined; check that its peers reach its listen.peer address"
            ),
            Failure::NoLeader { waited, leader, answering, voters } => {
                match leader {
                    Some(leader) => write!(f, "the leader of the control plane, {leader}, did not carry it out")?,
                    None => write!(f, "no leader of the control plane was reached")?,
                }
                let (needed, voters) = (voters.len() / 2 + 1, voters.join(", "));
                let answering = if answering.is_empty() { "none".to_owned() } else { answering.join(", ") };
                write!(
                    f,
                    " within {waited:.1?}: of the voters {voters} only these answer: {answering}; {needed} are needed, \
                     so start the others; the request may still be carried out, look at `holdfast status`"
                )
            }
        }
    }
}

impl std::error::Error for Failure {}

/// The application state of a founding node, for `consensus::Stored::founding`.
///
/// # Panics
/// Never: there is a state.
#[must_use]
pub fn founding_snapshot(state: State) -> Bytes {
    Replicated::founding(state).snapshot().expect("a founding node has a state")
}
