//! What can be asked of the state, and the two ways it can answer.

use crate::members::Why;
use crate::recovery::{FoundCopy, Known, Operator};
use crate::state::Duty;
use crate::wire;
use holdfast_types::{Durability, Epoch, Incarnation, Life, Lsn, Member, NodeId, VolumeId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Version of the envelope around commands and snapshots.
pub(crate) const VERSION: u32 = 1;
/// Largest command; Raft's own limit is the same.
const MAX_COMMAND_BYTES: usize = 1 << 20;

/// A change of the control plane, ordered by Raft.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Command {
    /// Admits a node and gives it an id.
    AddNode {
        /// Unique among the nodes present.
        name: String,
        /// Where its peers reach it.
        address: String,
        /// What fails together with it: a rack, a power feed.
        failure_domain: String,
        /// Whether it is to vote in Raft.
        voter: bool,
        /// It never holds copies.
        #[serde(default, skip_serializing_if = "wire::is_false")]
        witness: bool,
        /// Of its certificate.
        fingerprint: String,
        /// The join token it used up; none for the founder.
        token_id: Option<u64>,
    },
    /// Takes a node that holds no copy out for ever.
    RemoveNode {
        /// The node.
        #[serde(with = "wire::one")]
        node: NodeId,
    },
    /// What the node is to be for. `Removed` is carried out by the leader: `RemoveNode`, once Raft has no vote of it.
    WantNode {
        /// The node.
        #[serde(with = "wire::one")]
        node: NodeId,
        /// What for.
        wanted: Duty,
    },
    /// Makes a join token usable. The secret itself is nowhere stored.
    AddToken {
        /// Chosen by the proposer.
        id: u64,
        /// Hash of the secret, in hexadecimal.
        hash: String,
        /// Seconds since 1970; checked by the leader that admits a node.
        expires: u64,
    },
    /// Makes a volume. It opens when every chosen node has registered its copy.
    CreateVolume {
        /// Unique among the volumes present.
        name: String,
        /// In bytes.
        size: u64,
        /// When a write is acknowledged.
        #[serde(with = "wire::DurabilityDef")]
        durability: Durability,
        /// W.
        write_quorum: u8,
        /// Who holds copies; order is preference for the first primary.
        #[serde(with = "wire::list")]
        nodes: Vec<NodeId>,
        /// Who leads first; by default the first of `nodes`.
        #[serde(with = "wire::opt")]
        primary: Option<NodeId>,
    },
    /// The volume is to have another size.
    ResizeVolume {
        /// The volume.
        #[serde(with = "wire::one")]
        volume: VolumeId,
        /// Number of the last decision about its size that the asker knows of; 0: none. A wish that comes late must not undo what
        /// was decided meanwhile.
        after: u64,
        /// In bytes, whole blocks.
        size: u64,
        /// A smaller one is meant: what lies behind it is discarded.
        shrink: bool,
    },
    /// A chosen node has created its copy.
    RegisterCopy {
        /// The volume.
        #[serde(with = "wire::one")]
        volume: VolumeId,
        /// The node.
        #[serde(with = "wire::one")]
        node: NodeId,
        /// The on-disk state that counts from now on (S20).
        #[serde(with = "wire::one")]
        incarnation: Incarnation,
    },
    /// First step: nobody may use the volume any more, its nodes delete their copies.
    DeleteVolume {
        /// The volume.
        #[serde(with = "wire::one")]
        volume: VolumeId,
    },
    /// Second step: a copy is gone; with the last one the volume is.
    CopyDeleted {
        /// The volume.
        #[serde(with = "wire::one")]
        volume: VolumeId,
        /// The node.
        #[serde(with = "wire::one")]
        node: NodeId,
    },
    /// T1.
    Claim {
        /// The volume.
        #[serde(with = "wire::one")]
        volume: VolumeId,
        /// The active epoch to succeed.
        #[serde(with = "wire::one")]
        base: Epoch,
        /// The claimant, a member.
        #[serde(with = "wire::one")]
        node: NodeId,
        /// The claimant's process.
        #[serde(with = "wire::one")]
        life: Life,
    },
    /// M1.
    Reconfigure {
        /// The volume.
        #[serde(with = "wire::one")]
        volume: VolumeId,
        /// The active epoch to succeed.
        #[serde(with = "wire::one")]
        base: Epoch,
        /// Its primary, which stays.
        #[serde(with = "wire::one")]
        node: NodeId,
        /// The primary's process.
        #[serde(with = "wire::one")]
        life: Life,
        /// Of the next epoch.
        #[serde(with = "wire::members")]
        members: Vec<Member>,
    },
    /// The volume is to have a copy on this node, too.
    AddCopy {
        /// The volume.
        #[serde(with = "wire::one")]
        volume: VolumeId,
        /// Where.
        #[serde(with = "wire::one")]
        node: NodeId,
    },
    /// The volume is to have no copy on this node.
    RemoveCopy {
        /// The volume.
        #[serde(with = "wire::one")]
        volume: VolumeId,
        /// Where.
        #[serde(with = "wire::one")]
        node: NodeId,
    },
    /// The volume is to have a copy on one node in place of another; the same node twice: a new copy in place of the old one.
    ReplaceCopy {
        /// The volume.
        #[serde(with = "wire::one")]
        volume: VolumeId,
        /// Where it is.
        #[serde(with = "wire::one")]
        old: NodeId,
        /// Where it is to be.
        #[serde(with = "wire::one")]
        new: NodeId,
    },
    /// As `ReplaceCopy`, decided by the leader: it is noted what for, so that it can be taken back.
    MoveCopy {
        /// The volume.
        #[serde(with = "wire::one")]
        volume: VolumeId,
        /// Where it is.
        #[serde(with = "wire::one")]
        old: NodeId,
        /// Where it is to be.
        #[serde(with = "wire::one")]
        new: NodeId,
        /// Because of what.
        why: Why,
    },
    /// A `MoveCopy` is taken back, unless the new copy counts already.
    KeepCopy {
        /// The volume.
        #[serde(with = "wire::one")]
        volume: VolumeId,
        /// Where the copy was to go, and stays.
        #[serde(with = "wire::one")]
        node: NodeId,
    },
    /// T8.
    Activate {
        /// The volume.
        #[serde(with = "wire::one")]
        volume: VolumeId,
        /// The claimed epoch.
        #[serde(with = "wire::one")]
        epoch: Epoch,
    },
    /// F1: the volume goes on with the members that are left, although others may hold what was acknowledged.
    ForceRecover {
        /// The volume.
        #[serde(with = "wire::one")]
        volume: VolumeId,
        /// The active epoch that is given up.
        #[serde(with = "wire::one")]
        base: Epoch,
        /// Members that are left.
        #[serde(with = "wire::list")]
        survivors: Vec<NodeId>,
        /// Who leads, one of them.
        #[serde(with = "wire::one")]
        primary: NodeId,
        /// Milliseconds since 1970.
        at_ms: u64,
        /// Who ordered it.
        by: Operator,
        /// What was known of the members.
        known: Known,
    },
    /// F4: what a forced recovery goes on with.
    NoteKept {
        /// The volume.
        #[serde(with = "wire::one")]
        volume: VolumeId,
        /// The claimed epoch.
        #[serde(with = "wire::one")]
        epoch: Epoch,
        /// The last record before it.
        #[serde(with = "wire::one")]
        last: Lsn,
        /// What the members that are left knew to be committed.
        #[serde(with = "wire::one")]
        known: Lsn,
        /// The claimant led the epoch that was given up until then: nothing above `last` was acknowledged.
        whole: bool,
    },
    /// F5: a copy that was given up is there.
    FoundCopy {
        /// The volume.
        #[serde(with = "wire::one")]
        volume: VolumeId,
        /// Its node.
        #[serde(with = "wire::one")]
        node: NodeId,
        /// Its on-disk state.
        #[serde(with = "wire::one")]
        incarnation: Incarnation,
        /// What it holds.
        found: FoundCopy,
    },
    /// The wish that `node` become primary.
    Nominate {
        /// The volume.
        #[serde(with = "wire::one")]
        volume: VolumeId,
        /// A member.
        #[serde(with = "wire::one")]
        node: NodeId,
        /// The active epoch that is to end.
        #[serde(with = "wire::one")]
        base: Epoch,
        /// A switchover: wait for the primary to release.
        planned: bool,
    },
    /// The wish is withdrawn.
    ClearNominee {
        /// The volume.
        #[serde(with = "wire::one")]
        volume: VolumeId,
        /// The active epoch.
        #[serde(with = "wire::one")]
        base: Epoch,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<T> {
    version: u32,
    body: T,
}

/// JSON in a versioned envelope.
pub(crate) fn encode<T: Serialize>(body: &T) -> Vec<u8> {
    serde_json::to_vec(&Envelope { version: VERSION, body }).expect("plain data in ordered maps always has a JSON form")
}

pub(crate) fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, DecodeError> {
    let envelope: Envelope<T> = serde_json::from_slice(bytes)?;
    if envelope.version == VERSION { Ok(envelope.body) } else { Err(DecodeError::Version(envelope.version)) }
}

impl Command {
    /// For a proposal.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// From a committed entry.
    ///
    /// # Errors
    /// No command, or one of another version. A node that can't read what was agreed must stop.
    pub fn decode(bytes: &[u8]) -> Result<Command, DecodeError> {
        if bytes.len() > MAX_COMMAND_BYTES {
            return Err(DecodeError::TooLarge(bytes.len()));
        }
        decode(bytes)
    }
}

/// Why bytes are no command, snapshot or heartbeat.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not what is expected.
    #[error("not what this version of holdfast reads: {0}")]
    Json(#[from] serde_json::Error),
    /// Of another version.
    #[error("expected version {VERSION}, found version {0}; upgrade this node")]
    Version(u32),
    /// Above the limit.
    #[error("{0} bytes are more than any command has")]
    TooLarge(usize),
    /// Readable, but contradicts itself.
    #[error("the snapshot contradicts itself: {0}")]
    Contradiction(String),
}

/// What a command brought about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, or already so.
    Done,
    /// The id of the new node.
    Node(NodeId),
    /// The id of the new volume.
    Volume(VolumeId),
    /// The epoch claimed or activated.
    Epoch(Epoch),
}

/// Kinds of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The request makes no sense.
    Invalid,
    /// It names something that is not there.
    NotFound,
    /// The name is taken.
    Exists,
    /// Compare-and-swap failed: the world has moved on.
    Stale,
    /// It would endanger data.
    Unsafe,
}

/// Nothing changed, and why: expected, found, what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub kind: RefusalKind,
    /// For the operator: one sentence.
    pub message: String,
}

impl Refusal {
    pub(crate) fn new(kind: RefusalKind, message: impl Into<String>) -> Refusal {
        Refusal { kind, message: message.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}
