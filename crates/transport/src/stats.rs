//! How a connection does, as numbers for people.

use std::time::Duration;

/// What one connection sent, received and lost since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerStats {
    /// Round trip, smoothed.
    pub rtt: Duration,
    /// UDP payload that went out.
    pub sent_bytes: u64,
    /// UDP payload that came in.
    pub received_bytes: u64,
    /// Packets that went out.
    pub sent_packets: u64,
    /// Packets that count as lost.
    pub lost_packets: u64,
    /// Bytes that may be in flight.
    pub congestion_window: u64,
    /// Times that the window was cut.
    pub congestion_events: u64,
}

impl PeerStats {
    pub(crate) fn of(connection: &quinn::Connection) -> PeerStats {
        let stats = connection.stats();
        PeerStats {
            rtt: connection.rtt(),
            sent_bytes: stats.udp_tx.bytes,
            received_bytes: stats.udp_rx.bytes,
            sent_packets: stats.path.sent_packets,
            lost_packets: stats.path.lost_packets,
            congestion_window: stats.path.cwnd,
            congestion_events: stats.path.congestion_events,
        }
    }
}

/// Whom an endpoint has turned away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TurnedAway {
    /// Connections and join conversations: handshakes that failed, took too long or were too many, and whoever proved to be nobody that
    /// the endpoint talks to.
    pub all: u64,
    /// Of those, handshakes from the address of a member that were too many.
    pub members: u64,
    /// Of those, handshakes from elsewhere that were too many.
    pub strangers: u64,
    /// Of `all`, handshakes that the other side gave up, or did not go on with in time: nothing is known of who it was.
    pub abandoned: u64,
}
