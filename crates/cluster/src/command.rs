//! What can be asked of the state, and the two ways it can answer.

use crate::alone::Degraded;
use crate::members::Why;
use crate::recovery::{FoundCopy, Known, Operator};
use crate::state::Duty;
use crate::wire;
use holdfast_types::{
    ClusterVersion, Durability, Epoch, GuestLimits, Incarnation, Life, Lsn, Member, NodeId, SocketAccess, Speaks,
    VolumeId,
};
use serde::{Deserialize, Serialize};
use std::fmt;

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
        /// Of two copies: what becomes of writes while one is gone.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        degraded: Option<Degraded>,
        /// How much its guests may ask for.
        #[serde(default, with = "wire::GuestLimitsDef", skip_serializing_if = "GuestLimits::is_none")]
        limits: GuestLimits,
        /// Who may open its socket.
        #[serde(default, with = "wire::SocketAccessDef", skip_serializing_if = "SocketAccess::is_default")]
        socket: SocketAccess,
    },
    /// Guests of the volume may ask for so much from now on.
    LimitVolume {
        /// The volume.
        #[serde(with = "wire::one")]
        volume: VolumeId,
        /// All of them; replaces what was set before.
        #[serde(with = "wire::GuestLimitsDef")]
        limits: GuestLimits,
    },
    /// The volume's socket may be opened by these from now on.
    ShareVolume {
        /// The volume.
        #[serde(with = "wire::one")]
        volume: VolumeId,
        /// Who.
        #[serde(with = "wire::SocketAccessDef")]
        socket: SocketAccess,
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
        /// The size that the volume's log has, in bytes, and by which decision, if that is a later one than is known of: it was agreed
        /// on by those that were lost when the control plane was recovered.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        found: Option<(u64, u64)>,
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
    /// A1: the next epoch of a volume of two copies has one member, as the other copy is out of reach.
    GoAlone {
        /// The volume.
        #[serde(with = "wire::one")]
        volume: VolumeId,
        /// The active epoch.
        #[serde(with = "wire::one")]
        base: Epoch,
        /// Who goes on.
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
    /// V2: every node speaks that version, so it is the cluster's from now on.
    RaiseVersion {
        /// The version.
        #[serde(with = "wire::version")]
        to: ClusterVersion,
        /// The id that the next node to join gets: whoever joined meanwhile was not asked.
        #[serde(with = "wire::one")]
        next_node: NodeId,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<T> {
    version: u32,
    body: T,
}

/// What can be read of an envelope whatever its body has become.
#[derive(Deserialize)]
struct Label {
    version: u32,
}

/// JSON in an envelope that says which version is needed to read it.
pub(crate) fn encode<T: Serialize>(body: &T, version: ClusterVersion) -> Vec<u8> {
    let envelope = Envelope { version: version.0, body };
    serde_json::to_vec(&envelope).expect("plain data in ordered maps always has a JSON form")
}

/// The label is looked at first, so that it is named where the body is of a version to come.
pub(crate) fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8], speaks: Speaks) -> Result<T, DecodeError> {
    let Label { version } = serde_json::from_slice(bytes)?;
    if version < ClusterVersion::FIRST.0 || version > speaks.newest().0 {
        return Err(DecodeError::Version { speaks, found: version });
    }
    let envelope: Envelope<T> = serde_json::from_slice(bytes)?;
    Ok(envelope.body)
}

impl Command {
    /// The least version of a cluster that has this command, with what is in it.
    #[must_use]
    pub fn needs(&self) -> ClusterVersion {
        match self {
            Command::RaiseVersion { .. }
            | Command::GoAlone { .. }
            | Command::LimitVolume { .. }
            | Command::ShareVolume { .. }
            | Command::MoveCopy { why: Why::Asked, .. }
            | Command::ResizeVolume { found: Some(_), .. } => ClusterVersion::TOLD,
            Command::CreateVolume { degraded, limits, socket, .. }
                if degraded.is_some() || !limits.is_none() || !socket.is_default() =>
            {
                ClusterVersion::TOLD
            }
            Command::AddNode { .. }
            | Command::RemoveNode { .. }
            | Command::WantNode { .. }
            | Command::AddToken { .. }
            | Command::CreateVolume { .. }
            | Command::ResizeVolume { .. }
            | Command::RegisterCopy { .. }
            | Command::DeleteVolume { .. }
            | Command::CopyDeleted { .. }
            | Command::Claim { .. }
            | Command::Reconfigure { .. }
            | Command::AddCopy { .. }
            | Command::RemoveCopy { .. }
            | Command::ReplaceCopy { .. }
            | Command::MoveCopy { .. }
            | Command::KeepCopy { .. }
            | Command::Activate { .. }
            | Command::ForceRecover { .. }
            | Command::NoteKept { .. }
            | Command::FoundCopy { .. }
            | Command::Nominate { .. }
            | Command::ClearNominee { .. } => ClusterVersion::FIRST,
        }
    }

    /// The one volume that it may change; `None`: it makes one, may change others, or what is no volume.
    #[must_use]
    pub fn volume(&self) -> Option<VolumeId> {
        match self {
            Command::LimitVolume { volume, .. }
            | Command::ShareVolume { volume, .. }
            | Command::ResizeVolume { volume, .. }
            | Command::RegisterCopy { volume, .. }
            | Command::DeleteVolume { volume }
            | Command::CopyDeleted { volume, .. }
            | Command::Claim { volume, .. }
            | Command::Reconfigure { volume, .. }
            | Command::AddCopy { volume, .. }
            | Command::RemoveCopy { volume, .. }
            | Command::ReplaceCopy { volume, .. }
            | Command::MoveCopy { volume, .. }
            | Command::KeepCopy { volume, .. }
            | Command::GoAlone { volume, .. }
            | Command::Activate { volume, .. }
            | Command::ForceRecover { volume, .. }
            | Command::NoteKept { volume, .. }
            | Command::FoundCopy { volume, .. }
            | Command::Nominate { volume, .. }
            | Command::ClearNominee { volume, .. } => Some(*volume),
            _ => None,
        }
    }

    /// For a proposal.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self, self.needs())
    }

    /// From a committed entry, by an agent that speaks these versions.
    ///
    /// # Errors
    /// No command, or one of a version that is not spoken here. A node that can't read what was agreed must stop.
    pub fn decode(bytes: &[u8], speaks: Speaks) -> Result<Command, DecodeError> {
        if bytes.len() > MAX_COMMAND_BYTES {
            return Err(DecodeError::TooLarge(bytes.len()));
        }
        let command: Command = decode(bytes, speaks)?;
        let needed = command.needs();
        // What an older envelope holds, an older agent reads.
        if needed > speaks.newest() {
            return Err(DecodeError::Version { speaks, found: needed.0 });
        }
        Ok(command)
    }
}

/// Why bytes are no command, snapshot or heartbeat.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not what is expected.
    #[error("not what this version of holdfast reads: {0}")]
    Json(#[from] serde_json::Error),
    /// Of another version.
    #[error("expected one of version {speaks}, found one of version {found}")]
    Version {
        /// What is spoken here.
        speaks: Speaks,
        /// What would have to be.
        found: u32,
    },
    /// An agent of the first version does not know this.
    #[error("it has what version 1 has not")]
    Later,
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
    /// It would break an invariant of the state, or the state breaks one: a defect of this program, to be told loudly.
    Broken,
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
