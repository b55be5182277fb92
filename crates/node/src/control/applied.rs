//! The replicated state as this node has it: the cluster's state machine, and which proposals went into it.
//!
//! A proposal can be in the log twice: its proposer repeats it when the leader changes. Only the first one is applied.
//! For each node the state remembers its present life and which of that life's ids it has seen; ids that the proposer
//! no longer waits for are forgotten. Everything here is a function of the log alone, so all nodes agree.

use super::wire::Envelope;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use holdfast_cluster::{Command, DecodeError, Outcome, Refusal, State};
use holdfast_types::{ClusterId, ClusterVersion, Generation, Life, NodeId, Speaks, VolumeId};
use std::collections::{BTreeMap, BTreeSet};

const SNAPSHOT_VERSION: u8 = 1;
/// Ids of one node remembered above its floor. A proposer has at most a few hundred open; the rest is a margin.
const MAX_SEEN: usize = 4096;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Proposer {
    life: Life,
    /// Every id below counts as seen.
    floor: u64,
    seen: BTreeSet<u64>,
}

/// What applying an envelope did.
pub(super) enum Applied {
    /// The command was carried out, or refused; and the one volume that it may have changed.
    Done(Result<Outcome, Refusal>, Option<VolumeId>),
    /// An earlier entry was the same proposal.
    Repeated,
}

/// Why the state can't go on: this agent is older than what the others wrote, or the bytes are damaged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ApplyError {
    #[error(
        "expected a command that this version knows at index {index} of the control plane's log, found {found}; upgrade this agent"
    )]
    Command { index: u64, found: String },
    #[error(
        "expected a snapshot of the control plane's state that this version knows, found {found}; upgrade this agent"
    )]
    Snapshot { found: String },
    #[error("expected a cluster of a version that this agent speaks, found {found}")]
    Version { found: String },
    #[error(
        "expected the state of cluster {expected}, to which this node's identity belongs, found the state of cluster {found}; \
         put back the directories `cluster` and `control` of data_dir from one and the same node, or join as a new node with \
         an empty data_dir"
    )]
    Cluster { expected: ClusterId, found: ClusterId },
    #[error(
        "expected a state of generation {expected} of the control plane, found one of generation {found}; put back the directory `control` \
         of data_dir as it was, or join as a new node with an empty data_dir"
    )]
    Generation { expected: Generation, found: Generation },
}

#[derive(Clone, Debug, Default)]
pub(super) struct Replicated {
    /// `None`: this node has not received anything yet.
    state: Option<State>,
    proposers: BTreeMap<NodeId, Proposer>,
}

impl Replicated {
    pub(super) fn state(&self) -> Option<&State> {
        self.state.as_ref()
    }

    /// By an agent that speaks these versions. One that does not speak what the cluster is raised to carries nothing out any more.
    pub(super) fn apply(&mut self, index: u64, data: Bytes, speaks: Speaks) -> Result<(Envelope, Applied), ApplyError> {
        let unknown = |found: String| ApplyError::Command { index, found };
        let envelope = Envelope::decode(data).ok_or_else(|| unknown("an envelope of another version".to_owned()))?;
        let command = Command::decode(&envelope.command, speaks)
            .map_err(|e| too_old(speaks, &e).unwrap_or_else(|| unknown(e.to_string())))?;
        if let Command::RaiseVersion { to, .. } = &command
            && let Some(found) = speaks.refusal(*to)
        {
            return Err(ApplyError::Version { found });
        }
        let state = self.state.as_mut().ok_or_else(|| unknown("a command before any state".to_owned()))?;
        if !self.proposers.entry(envelope.node).or_default().admit(&envelope) {
            return Ok((envelope, Applied::Repeated));
        }
        let result = state.apply(&command);
        let volume = match result {
            Ok(Outcome::Volume(made)) => Some(made),
            _ => command.volume(),
        };
        Ok((envelope, Applied::Done(result, volume)))
    }

    /// Whether the proposal is part of the state.
    pub(super) fn saw(&self, node: NodeId, life: Life, id: u64) -> bool {
        self.proposers.get(&node).is_some_and(|p| p.life == life && (id < p.floor || p.seen.contains(&id)))
    }

    pub(super) fn snapshot(&self) -> Option<Bytes> {
        let state = self.state.as_ref()?.encode();
        let mut out = BytesMut::with_capacity(64 + state.len());
        out.put_u8(SNAPSHOT_VERSION);
        out.put_u64_le(length(self.proposers.len()));
        for (node, proposer) in &self.proposers {
            for field in [node.0, proposer.life.0, proposer.floor, length(proposer.seen.len())] {
                out.put_u64_le(field);
            }
            proposer.seen.iter().for_each(|id| out.put_u64_le(*id));
        }
        out.put_slice(&state);
        Some(out.freeze())
    }

    /// `cluster` is the one whose state this must be, for an agent that speaks these versions.
    pub(super) fn restore(snapshot: Bytes, cluster: ClusterId, speaks: Speaks) -> Result<Replicated, ApplyError> {
        let unknown = |found: &str| ApplyError::Snapshot { found: found.to_owned() };
        let mut rest = snapshot;
        let version = rest.try_get_u8().map_err(|_| unknown("nothing"))?;
        if version != SNAPSHOT_VERSION {
            return Err(unknown(&format!("version {version}")));
        }
        let proposers = proposers(&mut rest).ok_or_else(|| unknown("a list of proposers that ends early"))?;
        let state =
            State::decode(&rest, speaks).map_err(|e| too_old(speaks, &e).unwrap_or_else(|| unknown(&e.to_string())))?;
        if state.cluster != cluster {
            return Err(ApplyError::Cluster { expected: cluster, found: state.cluster });
        }
        Ok(Replicated { state: Some(state), proposers })
    }

    /// A recovery of the control plane puts another state in place of this one.
    pub(super) fn replace(&mut self, state: State) {
        self.state = Some(state);
    }

    /// A state nobody has proposed anything to yet.
    pub(super) fn founding(state: State) -> Replicated {
        Replicated { state: Some(state), proposers: BTreeMap::new() }
    }
}

/// What can't be read because it is of another version, in the words of versions.
fn too_old(speaks: Speaks, error: &DecodeError) -> Option<ApplyError> {
    let DecodeError::Version { found, .. } = error else { return None };
    let found = speaks.refusal(ClusterVersion(*found))?;
    Some(ApplyError::Version { found })
}

impl Proposer {
    /// Whether this proposal is new; from now on it is not.
    fn admit(&mut self, envelope: &Envelope) -> bool {
        if self.life != envelope.life {
            *self = Proposer { life: envelope.life, floor: 0, seen: BTreeSet::new() };
        }
        self.floor = self.floor.max(envelope.oldest);
        if self.seen.len() >= MAX_SEEN {
            let lowest = *self.seen.first().expect("a full set has a first id");
            self.floor = self.floor.max(lowest + 1);
        }
        let floor = self.floor;
        self.seen.retain(|id| *id >= floor);
        envelope.id >= floor && self.seen.insert(envelope.id)
    }
}

fn proposers(from: &mut Bytes) -> Option<BTreeMap<NodeId, Proposer>> {
    let mut proposers = BTreeMap::new();
    for _ in 0..from.try_get_u64_le().ok()? {
        let node = NodeId(from.try_get_u64_le().ok()?);
        let (life, floor) = (Life(from.try_get_u64_le().ok()?), from.try_get_u64_le().ok()?);
        let count = from.try_get_u64_le().ok()?;
        let seen = (0..count).map(|_| from.try_get_u64_le().ok()).collect::<Option<BTreeSet<u64>>>()?;
        proposers.insert(node, Proposer { life, floor, seen });
    }
    Some(proposers)
}

fn length(n: usize) -> u64 {
    u64::try_from(n).expect("a length fits in 64 bits")
}
