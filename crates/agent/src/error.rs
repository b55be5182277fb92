//! Why an agent can't start, found a cluster, join one, or go on.

use crate::config::ConfigError;
use holdfast_types::{Generation, NodeId};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// What went wrong; the text is a sentence for the operator.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file could not be used.
    #[error("could not {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Another agent holds the lock.
    #[error("expected to be the only agent on {}, found another one running; stop it, or use another node.data_dir", data_dir.display())]
    DataDirInUse {
        /// `node.data_dir`.
        data_dir: PathBuf,
    },
    /// `init` or `join` where a cluster is already.
    #[error(
        "expected a data directory without a cluster, found that {} already belongs to cluster {cluster} as node {name}; \
         use another node.data_dir, or run `holdfast agent`", data_dir.display()
    )]
    AlreadyMember {
        /// `node.data_dir`.
        data_dir: PathBuf,
        /// The cluster found.
        cluster: String,
        /// The node's name there.
        name: String,
    },
    /// `agent` where there is no cluster.
    #[error(
        "expected the identity of a cluster's node in {}, found none; run `holdfast init` for the first node, \
         `holdfast join` for every other one", data_dir.display()
    )]
    NotMember {
        /// `node.data_dir`.
        data_dir: PathBuf,
    },
    /// A second signal while the agent was ending.
    #[error(
        "the agent was ending and got a second signal, so it ended at once: requests in flight have no answer and clients send them \
         again, the next start replays the journal"
    )]
    Interrupted,
    /// The name in the configuration is not the one the node joined with.
    #[error(
        "expected node.name to be {joined:?}, the name under which this node joined, found {configured:?}; names do not change"
    )]
    Renamed {
        /// In the certificate.
        joined: String,
        /// In the file.
        configured: String,
    },
    /// A file of the identity can't be understood.
    #[error("expected {what} in {}, found {found}; restore the file from a backup, or join again as a new node", path.display())]
    Damaged {
        /// What should be there.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is there.
        found: String,
    },
    /// A private key that other users can read.
    #[error(
        "expected {} to be readable by its owner alone (mode 600), found mode {mode:o}; if nobody copied it, run \
         `chmod 600` on it", path.display()
    )]
    KeyReadable {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A running agent answers on the admin socket.
    #[error("expected {} to be free, found a running agent answering on it; stop that agent, or set another listen.admin", path.display())]
    SocketInUse {
        /// `listen.admin`.
        path: PathBuf,
    },
    /// Something else lies where the admin socket belongs.
    #[error("expected {} to be a socket or free, found another kind of file; move it away, or set another listen.admin", path.display())]
    NotSocket {
        /// `listen.admin`.
        path: PathBuf,
    },
    /// The token does not have the form of one.
    #[error("expected a join token as `holdfast token create` prints it, found {found}; copy it whole")]
    Token {
        /// What is wrong with it.
        found: &'static str,
    },
    /// The cluster did not take the node.
    #[error("could not join through {address}: {reason}")]
    Join {
        /// The node that was asked.
        address: SocketAddr,
        /// Its answer, or why there was none.
        reason: String,
    },
    /// The network endpoint could not be opened.
    #[error("could not open listen.peer {address}: {reason}")]
    Endpoint {
        /// `listen.peer`.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// A group of the configuration that there is not.
    #[error(
        "{key}: expected a group of this host, found {group:?}, which there is not; make it with `groupadd --system {group}`"
    )]
    Group {
        /// The key.
        key: &'static str,
        /// Its value.
        group: String,
    },
    /// The port of the metrics could not be taken.
    #[error("could not listen on listen.metrics {address}: {reason}; choose another address, or leave the key out")]
    Metrics {
        /// `listen.metrics`.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// Certificates or keys.
    #[error("could not {what}: {reason}")]
    Pki {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        reason: String,
    },
    /// The control plane's log.
    #[error("the control plane's log {} failed ({what}): {reason}; after a failed write this node must not go on", path.display())]
    RaftStore {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        reason: String,
    },
    /// The control plane's log can't be understood.
    #[error(
        "expected the control plane's log in {}, found a file that can't be read ({reason}); its votes are lost, so this \
         node must not go on: join as a new node with an empty node.data_dir", path.display()
    )]
    RaftDamaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The control plane's log is gone.
    #[error(
        "expected the control plane's log in {}, found none though this node belongs to a cluster; mount the disk that \
         holds it, or, if it is lost, join as a new node with an empty node.data_dir", path.display()
    )]
    RaftMissing {
        /// The file.
        path: PathBuf,
    },
    /// The control plane's log belongs to another node or another cluster than the certificate.
    #[error(
        "expected in {} the control plane's log of {expected}, found that of {found}; put back the directories `cluster` and \
         `control` of node.data_dir from one and the same node", path.display()
    )]
    ForeignLog {
        /// The file.
        path: PathBuf,
        /// Who this node is.
        expected: String,
        /// Whose log it is.
        found: String,
    },
    /// The directory belongs to a cluster whose version this agent does not speak.
    #[error("expected {} to name a version of the cluster that this agent speaks, found {found} (written by {by})", path.display())]
    Version {
        /// The note.
        path: PathBuf,
        /// What it says, and what to do.
        found: String,
        /// The build that wrote it.
        by: String,
    },
    /// The variable for tests of mixed clusters.
    #[error(
        "expected HOLDFAST_SPEAKS as OLDEST-NEWEST within {}, found {found:?}; it is for tests: unset it",
        holdfast_types::Speaks::THIS
    )]
    Speaks {
        /// Its value.
        found: String,
    },
    /// What was stored contradicts itself.
    #[error(transparent)]
    Consensus(#[from] holdfast_consensus::ConsensusError),
    /// The control plane can't go on: what was agreed upon can't be carried out here.
    #[error("the control plane stopped: {reason}")]
    Control {
        /// Why.
        reason: String,
    },
    /// This node is one no more.
    #[error(
        "this node was removed from cluster {cluster} and its certificate counts no more; to use the host again, move {} away and \
         `holdfast join` as a new node", data_dir.display()
    )]
    Removed {
        /// The cluster.
        cluster: String,
        /// `node.data_dir`.
        data_dir: PathBuf,
    },
    /// The control plane was recovered without this node.
    #[error(
        "expected the generation {own} of the control plane, in which this node votes, to be the present one, found that it was recovered on \
         node {node} by {by} at {at} as generation {generation}, and that this node was given up then: nothing that it agrees on counts any \
         more; if that is right, run `holdfast control rejoin {}` and start the agent: it keeps its copies and listens to the new regime", data_dir.display()
    )]
    Superseded {
        /// The generation that this node takes part in.
        own: Generation,
        /// The one that governs.
        generation: Generation,
        /// On which node it was recovered.
        node: NodeId,
        /// Who did it, and where.
        by: String,
        /// When.
        at: String,
        /// `node.data_dir`.
        data_dir: PathBuf,
    },
    /// The shard can't go on.
    #[error("the shard stopped: {reason}")]
    Shard {
        /// Why.
        reason: String,
    },
}

impl AgentError {
    pub(crate) fn io(what: &'static str, path: &Path, source: io::Error) -> AgentError {
        AgentError::Io { what, path: path.to_path_buf(), source }
    }

    /// Whether the command was used wrongly (exit status 2), rather than failed.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(self, AgentError::Config(_) | AgentError::Token { .. } | AgentError::Speaks { .. })
    }

    /// Whether it was refused because it would be unsafe (exit status 3).
    #[must_use]
    pub fn is_unsafe(&self) -> bool {
        matches!(self, AgentError::Version { .. })
    }
}
