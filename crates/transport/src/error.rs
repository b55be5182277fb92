//! What can go wrong, for a person to read.

use std::error::Error;
use std::io;
use std::net::SocketAddr;

/// Why an endpoint can't start.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// A number of the configuration makes no sense.
    #[error("the transport's configuration needs {expected}; correct `[limits]` in the configuration file")]
    Config {
        /// What is needed.
        expected: &'static str,
    },
    /// A certificate or key can't be used.
    #[error(
        "cannot use {what}: {source}; restore the file from `data_dir/cluster`, or remove this node and join again"
    )]
    Identity {
        /// Which part.
        what: &'static str,
        /// What is wrong with it.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The certificate names another node or cluster.
    #[error("this node's certificate is for {found}, expected {expected}; use the certificate that was issued at join")]
    WrongName {
        /// The name that the configuration implies.
        expected: String,
        /// The name in the certificate.
        found: String,
    },
    /// The address can't be had.
    #[error("cannot listen on UDP {address}: {source}; check `[listen] peer` and that no other agent uses the port")]
    Bind {
        /// Which address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The lane's queue is full: the peer or the network is slow. Try later.
    #[error("the lane's queue is full")]
    Full,
    /// The session is over, or has not begun.
    #[error("the lane's session is over")]
    Down,
    /// Larger than `max_message_bytes`: it could never be delivered.
    #[error("the message is larger than the limit")]
    TooLarge,
}

/// Why a join conversation failed.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The fingerprint is no SHA-256 in hexadecimal.
    #[error(
        "the token's CA fingerprint is not 64 hexadecimal digits; copy the whole token from `holdfast token create`"
    )]
    Fingerprint,
    /// The request is too long.
    #[error("a join request has at most {max} bytes, found {found}")]
    TooLarge {
        /// The limit.
        max: usize,
        /// What was given.
        found: usize,
    },
    /// No UDP socket.
    #[error("cannot open a UDP socket: {0}")]
    Socket(io::Error),
    /// TLS could not be set up, or the address is not usable.
    #[error("cannot prepare the connection to {address}: {source}")]
    Setup {
        /// Whom to.
        address: SocketAddr,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Nobody answered, or not the one we expected.
    #[error(
        "cannot join through {address}: {source}; expected an agent of the cluster whose CA the token names; check the \
         address, that UDP passes the firewall, and that the token is of this cluster"
    )]
    Connect {
        /// Whom to.
        address: SocketAddr,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// It took too long.
    #[error(
        "{address} did not answer the join request within {seconds} s; check that its agent is running and try again"
    )]
    Timeout {
        /// Whom to.
        address: SocketAddr,
        /// How long we waited.
        seconds: u64,
    },
}
