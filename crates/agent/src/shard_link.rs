//! What the control thread and the shard thread tell each other.
//!
//! Both directions are bounded. The control thread never waits for the shard: a view that does not fit is kept, and
//! replaced by the next one, because only the newest view counts.

use crate::metrics::ShardSample;
use holdfast_cluster::CopyReport;
use holdfast_node::{LocalView, Upkeep};
use holdfast_transport::Identity;
use holdfast_types::{ControlRequest, Epoch, Incarnation, NodeId, VolumeId};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use tokio::sync::{mpsc, oneshot};

/// Messages waiting in either direction.
pub(crate) const LINK_CAPACITY: usize = 1024;

/// To the shard.
#[derive(Debug)]
pub(crate) enum ToShard {
    /// The newest state of this node's copies, and the names of their volumes.
    View {
        /// The state.
        view: LocalView,
        /// Name of each volume in it: the name of its socket and its export.
        names: BTreeMap<VolumeId, String>,
    },
    /// Where the shards of all nodes listen, this one included.
    Peers(BTreeMap<NodeId, ShardPeer>),
    /// An operator's wish for a copy here.
    Upkeep(Upkeep),
    /// This node's certificate was renewed.
    Identity(Box<Identity>),
    /// Let go of the volumes once everything in flight is answered, and make checkpoints. Answered with `Retired`.
    Retire,
    /// How the shard is, for a scrape or the watchdog.
    Measure(oneshot::Sender<ShardSample>),
    /// End the thread.
    Shutdown,
}

/// A node, as another node's shard needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShardPeer {
    /// Its name: for the message that names the primary.
    pub(crate) name: String,
    /// The shard's endpoint: one port above the control plane's.
    pub(crate) address: SocketAddr,
}

/// From the shard.
#[derive(Clone, Debug)]
pub(crate) enum FromShard {
    /// A copy asks the control plane for something.
    Request(ControlRequest),
    /// A copy was made, or found on the disk at the start.
    CopyCreated {
        /// Of this volume.
        volume: VolumeId,
        /// Its on-disk state.
        incarnation: Incarnation,
    },
    /// A copy was removed.
    CopyDeleted {
        /// Of this volume.
        volume: VolumeId,
    },
    /// Guests of a volume may attach here, or are disconnected.
    Serving {
        /// The volume.
        volume: VolumeId,
        /// Which.
        serving: bool,
        /// The epoch that is active as far as the shard knows.
        epoch: Epoch,
    },
    /// How the copies are now; replaces the last ones.
    Reports(Vec<CopyReport>),
    /// Something for the operator.
    Event {
        /// The volume it is about.
        volume: Option<VolumeId>,
        /// One sentence.
        message: String,
    },
    /// Somebody at the port of the shard was refused, and why.
    PeerRefused(String),
    /// Nothing is led here any more, and checkpoints cover what was committed.
    Retired,
    /// The shard can't go on; the agent ends with this sentence.
    Fatal(String),
}

/// The control thread's end.
#[derive(Debug)]
pub(crate) struct ShardHandle {
    /// To the shard.
    pub(crate) to: mpsc::Sender<ToShard>,
    /// From the shard.
    pub(crate) from: mpsc::Receiver<FromShard>,
}

/// The shard thread's end.
#[derive(Debug)]
pub(crate) struct ShardPort {
    /// From the control thread.
    pub(crate) from_control: mpsc::Receiver<ToShard>,
    /// To the control thread.
    pub(crate) to_control: mpsc::Sender<FromShard>,
}

/// Two ends of one link.
#[must_use]
pub(crate) fn link() -> (ShardHandle, ShardPort) {
    let (to, from_control) = mpsc::channel(LINK_CAPACITY);
    let (to_control, from) = mpsc::channel(LINK_CAPACITY);
    (ShardHandle { to, from }, ShardPort { from_control, to_control })
}
