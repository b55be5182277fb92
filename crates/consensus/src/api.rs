//! What goes in and what comes out: plain data, no raft type.

use bytes::Bytes;
use holdfast_types::NodeId;

/// One stored log entry: its index and its opaque bytes.
pub type StoredEntry = (u64, Bytes);

/// Settings of one node.
#[derive(Clone, Debug)]
pub struct RaftConfig {
    /// This node. Never 0.
    pub id: NodeId,
    /// Ticks without a leader after which an election starts, at the earliest; at the latest after twice as many.
    pub election_ticks: usize,
    /// Ticks between heartbeats of a leader; fewer than `election_ticks`.
    pub heartbeat_ticks: usize,
    /// Source of every random choice. In production a fresh random number per process, so that ids of reads are
    /// not repeated by a later life; in a simulation the seed.
    pub seed: u64,
    /// Append messages on their way to one peer.
    pub max_inflight: usize,
}

impl RaftConfig {
    /// Sensible settings for a tick of 100 ms.
    #[must_use]
    pub const fn new(id: NodeId, seed: u64) -> RaftConfig {
        RaftConfig { id, election_ticks: 10, heartbeat_ticks: 2, seed, max_inflight: 64 }
    }
}

/// What stable storage holds; empty for a new node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Term, vote and commit index.
    pub hard_state: Option<Bytes>,
    /// The newest snapshot: metadata and the application's state.
    pub snapshot: Option<Bytes>,
    /// Log entries, ascending. Entries that the snapshot covers are ignored.
    pub entries: Vec<StoredEntry>,
}

/// A change of the voting group, one node at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembershipChange {
    /// Receives the log, has no vote. The first step of every node.
    AddLearner(NodeId),
    /// Gives a vote to a node that is a learner.
    AddVoter(NodeId),
    /// Takes the vote of a node, which goes on to receive the log. A leader hands over first.
    TakeVote(NodeId),
    /// Takes a node out. A leader does not remove itself: transfer leadership first.
    Remove(NodeId),
}

/// What happens to a node.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time passed.
    Tick,
    /// Bytes of a `Send` of `from` arrived. `from` is the authenticated sender.
    Message {
        /// Who sent it.
        from: NodeId,
        /// What.
        bytes: Bytes,
    },
    /// Order this command. Answered by `Apply` on success, by `Dropped` if it was refused at once, by nothing if
    /// leadership is lost in between: the proposer looks at the applied state.
    Propose {
        /// Comes back in `Dropped`.
        token: u64,
        /// The command, not empty.
        data: Bytes,
    },
    /// Change the group; refused while another change is not yet applied, and if there is nothing to change.
    ChangeMembership {
        /// Comes back in `Dropped`.
        token: u64,
        /// The change.
        change: MembershipChange,
    },
    /// The batch, and every older one, is on stable storage.
    Persisted {
        /// Number of the batch.
        batch: u64,
    },
    /// Answered by `ReadReady` when everything that was committed before this call is applied here, or by `Dropped`.
    ReadIndex {
        /// Comes back in the answer.
        token: u64,
    },
    /// Hand leadership to that voter. Ignored unless leader.
    TransferLeadership(NodeId),
    /// Replace the log up to `upto` by the application's state there.
    Compact {
        /// An applied index; one that an older snapshot covers is ignored.
        upto: u64,
        /// The application's state after `upto`.
        state: Bytes,
    },
    /// Messages to that node were lost: start over from what it acknowledged.
    Unreachable(NodeId),
    /// Start an election now. Ignored by a node without a vote.
    Campaign,
}

/// What a node asks of its surroundings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Write, make durable, then feed `Persisted`.
    Persist(PersistBatch),
    /// Send to a peer; may be lost.
    Send {
        /// The peer.
        to: NodeId,
        /// For its `Input::Message`.
        bytes: Bytes,
    },
    /// The next committed command. Indexes rise, with gaps where Raft's own entries lie.
    Apply {
        /// Its index.
        index: u64,
        /// The command as proposed.
        data: Bytes,
    },
    /// The group changed.
    MembershipApplied {
        /// Index of the change.
        index: u64,
        /// Who votes now, ascending.
        voters: Vec<NodeId>,
        /// Who listens now, ascending.
        learners: Vec<NodeId>,
    },
    /// A newcomer waits for a snapshot that names it; answer with `Compact` (see the crate's rules).
    SnapshotWanted {
        /// What is applied.
        index: u64,
    },
    /// Replace the application's state.
    Restore {
        /// The index it is the state after.
        index: u64,
        /// The state given to `Compact` or `Stored::founding`.
        state: Bytes,
    },
    /// Refused, nothing happened: no leader, another leader, or (if `leader` is this node) not possible now.
    Dropped {
        /// Of the refused input.
        token: u64,
        /// Who might accept it.
        leader: Option<NodeId>,
    },
    /// What is applied by now answers a linearizable read.
    ReadReady {
        /// Of the `ReadIndex`.
        token: u64,
        /// The index that had to be applied; it is.
        index: u64,
    },
    /// Leader, own role or term changed.
    RoleChanged {
        /// The leader, if known.
        leader: Option<NodeId>,
        /// Whether it is this node.
        is_leader: bool,
        /// The term.
        term: u64,
    },
    /// Store this snapshot in place of the older one, then delete entries below `first_index`. Nothing waits for it.
    Compacted {
        /// The first entry that is still needed.
        first_index: u64,
        /// For `Stored::snapshot`.
        snapshot: Bytes,
    },
}

/// What must reach stable storage in one atomic step, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PersistBatch {
    /// Its number, for `Persisted`.
    pub batch: u64,
    /// Replaces the stored one.
    pub hard_state: Option<Bytes>,
    /// Replaces the stored one; then `truncate_from` covers every entry.
    pub snapshot: Option<Bytes>,
    /// Delete stored entries of this index and above, before `entries` are added.
    pub truncate_from: Option<u64>,
    /// Append.
    pub entries: Vec<StoredEntry>,
}

impl PersistBatch {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hard_state.is_none() && self.snapshot.is_none() && self.truncate_from.is_none() && self.entries.is_empty()
    }
}

impl Stored {
    /// Does to this what stable storage does with a batch. For storage in memory, and as the definition of a batch.
    pub fn write(&mut self, batch: &PersistBatch) {
        if let Some(hard_state) = &batch.hard_state {
            self.hard_state = Some(hard_state.clone());
        }
        if let Some(snapshot) = &batch.snapshot {
            self.snapshot = Some(snapshot.clone());
        }
        if let Some(from) = batch.truncate_from {
            self.entries.retain(|(index, _)| *index < from);
        }
        self.entries.extend(batch.entries.iter().cloned());
    }

    /// Does to this what stable storage does with `Output::Compacted`.
    pub fn compact(&mut self, first_index: u64, snapshot: Bytes) {
        self.snapshot = Some(snapshot);
        self.entries.retain(|(index, _)| *index >= first_index);
    }
}

/// A node as it sees itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftStatus {
    /// The leader, if known.
    pub leader: Option<NodeId>,
    /// Whether it is this node.
    pub is_leader: bool,
    /// Current term.
    pub term: u64,
    /// Highest index known to be committed.
    pub commit: u64,
    /// Highest index handed out.
    pub applied: u64,
    /// End of the log.
    pub last_index: u64,
    /// Who votes, ascending.
    pub voters: Vec<NodeId>,
    /// Who listens, ascending.
    pub learners: Vec<NodeId>,
    /// The other nodes as the leader knows them, ascending; empty on others.
    pub progress: Vec<PeerProgress>,
    /// Messages from peers that were refused as malformed or impossible.
    pub refused: u64,
}

/// What a leader knows about a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerProgress {
    /// The peer.
    pub node: NodeId,
    /// It holds the log up to here.
    pub matched: u64,
    /// Heard of within about an election timeout.
    pub recent_active: bool,
}
