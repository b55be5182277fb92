//! What an endpoint is made of.

use crate::error::TransportError;
use holdfast_types::{ClusterId, MAX_VOLUMES, NodeId, VolumeId};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// Who we are, and how we prove it.
#[derive(Clone)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// Certificate of the cluster's CA.
    pub ca_pem: String,
    /// Certificate of this node, signed by that CA.
    pub cert_pem: String,
    /// Its private key.
    pub key_pem: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key never reaches a log.
        write!(f, "Identity({} of cluster {})", self.node, self.cluster)
    }
}

/// One ordered stream of messages to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Raft and the control plane.
    Control,
    /// Leases and liveness: small, and first of all.
    Beat,
    /// Records and acknowledgements of one volume.
    Volume(VolumeId),
}

impl Lane {
    /// QUIC sends what has the highest priority first.
    pub(crate) fn priority(self) -> i32 {
        match self {
            Lane::Beat => 2,
            Lane::Control => 1,
            Lane::Volume(_) => 0,
        }
    }

    /// Whether the lane bypasses bulk.
    pub(crate) fn is_urgent(self) -> bool {
        self.priority() > 0
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lane::Control => write!(f, "control"),
            Lane::Beat => write!(f, "beat"),
            Lane::Volume(v) => write!(f, "volume {v}"),
        }
    }
}

/// Limits and timings of an endpoint.
#[derive(Clone, Debug)]
pub struct TransportConfig {
    /// UDP address to listen on and to send from.
    pub bind: SocketAddr,
    /// Largest UDP payload to probe for. Packets of one GSO batch must stay below 64 KiB together: above about 6500
    /// bytes the batch does not fit and throughput halves (HOTPATH.md).
    pub mtu_max: u16,
    /// A connection without any packet for this long is lost.
    pub idle_timeout: Duration,
    /// A silent connection sends a packet this often.
    pub keep_alive: Duration,
    /// Every packet is acknowledged in the wake-up that received it. For traffic of a few small packets: there it saves
    /// the wake-up of the acknowledgement's timer, in bulk it would double the packets.
    pub ack_at_once: bool,
    /// A handshake that takes longer is given up.
    pub handshake_timeout: Duration,
    /// Largest message, sent and received. A peer that sends a larger one is disconnected.
    pub max_message_bytes: usize,
    /// Bytes that wait in one outgoing lane before `send` answers `Full`.
    pub queue_bytes: usize,
    /// Bytes of messages that wait for the owner, per class (urgent, bulk), before streams are held back.
    pub receive_bytes: usize,
    /// Lanes that a peer may have open to us.
    pub max_lanes: u32,
    /// Bytes in flight per lane.
    pub stream_window: u32,
    /// Bytes in flight of all lanes of a peer together. As long as fewer lanes are full at once than have room in it, none waits for
    /// another. Beside it each lane may hold one message that has not come to its end or waits for its owner: who has a
    /// certificate of the cluster could fill that.
    pub connection_window: u64,
    /// Handshakes per second of whoever does not come from the address of a peer, all together.
    pub stranger_handshakes_per_second: u32,
    /// Join conversations begun per second, all joining nodes together.
    pub joins_per_second: u32,
}

impl TransportConfig {
    /// The defaults for an address.
    #[must_use]
    pub fn new(bind: SocketAddr) -> TransportConfig {
        TransportConfig {
            bind,
            mtu_max: 6500,
            idle_timeout: Duration::from_secs(3),
            keep_alive: Duration::from_secs(1),
            ack_at_once: false,
            handshake_timeout: Duration::from_secs(3),
            max_message_bytes: 4 << 20,
            queue_bytes: 64 << 20,
            receive_bytes: 64 << 20,
            // A lane for each volume that both may have a copy of, and the two that are no volume's.
            max_lanes: u32::try_from(MAX_VOLUMES).expect("ten thousand") + 2,
            stream_window: 2 << 20,
            connection_window: 2 << 30,
            stranger_handshakes_per_second: 64,
            joins_per_second: 10,
        }
    }

    /// # Errors
    /// A number that can't work.
    pub(crate) fn check(&self) -> Result<(), TransportError> {
        let rules: [(bool, &'static str); 7] = [
            ((1200..=65527).contains(&self.mtu_max), "an MTU of 1200 to 65527 bytes"),
            (self.keep_alive < self.idle_timeout, "keep-alives more often than the idle timeout"),
            (self.idle_timeout <= Duration::from_secs(600), "an idle timeout of at most 10 minutes"),
            (
                self.max_message_bytes > 0 && u32::try_from(self.max_message_bytes).is_ok(),
                "messages of 1 byte to 4 GiB",
            ),
            (
                self.queue_bytes >= self.max_message_bytes && self.receive_bytes >= self.max_message_bytes,
                "queues that hold the largest message",
            ),
            (self.max_lanes >= 2 && self.stream_window >= 4096, "at least 2 lanes with windows of 4096 bytes"),
            (self.connection_window >= 4 * u64::from(self.stream_window), "a window of four lanes for all of them"),
        ];
        match rules.into_iter().find(|(ok, _)| !ok) {
            Some((_, expected)) => Err(TransportError::Config { expected }),
            None => Ok(()),
        }
    }
}
