//! Lanes between nodes: QUIC with mutual TLS by certificates of the cluster's own CA.
//!
//! Flow: every node dials every peer and keeps that connection; it sends on its own outgoing connections alone and
//! receives on those that peers dialled. A lane ([`Lane`]) is one long-lived unidirectional stream, opened when
//! [`Endpoint::open`] has asked for it and opened again after each reconnect. [`Endpoint::send`] puts a message into the
//! lane's queue (`outgoing`), a task per lane moves it to the stream; on the other side a task per stream (`incoming`)
//! cuts messages out again and delivers them as [`Event`]s in order.
//!
//! Invariants
//! - Who a peer is comes from its verified certificate, never from what it says.
//! - Messages of one session arrive in order, without a gap, or not at all.
//! - After `IncomingClosed` of a session none of its messages is delivered, whatever packets are still on their way.
//! - Every queue is bounded in bytes: outgoing per lane ([`SendError::Full`]), incoming per class, where a slow owner
//!   pushes back on the streams. Bulk never holds up `Control` and `Beat`: they have streams of higher priority, and a
//!   queue of their own towards the owner.
//! - What costs something before the other end is known is bounded: handshakes (`gate`), joins, and what a connection may send.
//! - No 0-RTT, no session resumption: each connection is a full handshake.
//!
//! Deliberately absent: what messages mean, retransmission across sessions, and any memory of peers on disk.

mod config;
mod dial;
mod endpoint;
mod error;
mod events;
mod gate;
mod header;
mod incoming;
mod join;
mod limiter;
mod outgoing;
pub mod pki;
mod stats;
mod tls;

pub use config::{Identity, Lane, TransportConfig};
pub use endpoint::Endpoint;
pub use error::{JoinError, SendError, TransportError};
pub use events::{Event, Events};
pub use join::{JoinReply, MAX_JOIN_BYTES, join_client};
pub use stats::{PeerStats, TurnedAway};
