//! What peers send: checks who dials, then one task per stream that turns bytes into messages.
//!
//! A newer connection of a peer replaces the older one, and a newer stream of a lane the older one: the newer task stops
//! the older, waits until it has delivered its last event (`IncomingClosed`), and only then announces itself. Of two
//! streams of one life of the peer the older is known by its session and refused, however late it arrives (trap 10).

use crate::config::Lane;
use crate::endpoint::{REMOVED, Shared, UNKNOWN};
use crate::events::{Event, Gone};
use crate::gate::Entry;
use crate::header::{self, Header};
use crate::join;
use crate::tls;
use bytes::{Buf, Bytes, BytesMut};
use holdfast_types::NodeId;
use quinn::{Connection, ConnectionError, RecvStream, TransportErrorCode, VarInt};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, watch};

/// A stream that has not said which lane it is by then is dropped.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Memory reserved for a message before its bytes are there.
const FIRST_RESERVE: usize = 64 << 10;

type Cause = Box<dyn Error + Send + Sync>;

/// Which reader serves a lane now.
pub(crate) struct Current {
    life: u64,
    session: u64,
    stop: watch::Sender<bool>,
    /// Closed once the reader has delivered its last event.
    done: watch::Receiver<()>,
}

pub(crate) async fn accept_loop(shared: Arc<Shared>) {
    while let Some(incoming) = shared.quinn.accept().await {
        let remote = incoming.remote_address();
        let member = shared.is_of_peer(remote);
        match shared.gate.ask(member, incoming.may_retry() && !incoming.remote_address_validated()) {
            Entry::Begin(permit) => drop(tokio::spawn(accept(Arc::clone(&shared), incoming, permit))),
            // Cannot fail: `may_retry` was asked.
            Entry::Prove => drop(incoming.retry()),
            Entry::Refuse => {
                incoming.refuse();
                shared.too_many(remote, member);
            }
        }
    }
}

async fn accept(shared: Arc<Shared>, incoming: quinn::Incoming, permit: OwnedSemaphorePermit) {
    let remote = incoming.remote_address();
    let handshake = async { incoming.accept()?.await };
    let connection = match tokio::time::timeout(shared.config.handshake_timeout, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            match Failed::of(&error) {
                Failed::Here => shared.refused(&format_args!(
                    "{remote}: the handshake failed: {error}; expected a certificate of this cluster's CA"
                )),
                Failed::There => shared.refused(&format_args!(
                    "{remote}: the handshake failed there: {error}; it expected another certificate than this node's: is it of another cluster?"
                )),
                Failed::Apart => shared.refused(&format_args!("{remote}: the handshake failed: {error}")),
                Failed::Abandoned => shared.abandoned(&format_args!(
                    "{remote}: it gave up in the middle of the handshake: {error}; a look for open ports, or an agent that was ended"
                )),
            }
            return;
        }
        Err(_) => {
            shared.abandoned(&format_args!("{remote}: the handshake took too long"));
            return;
        }
    };
    if tls::alpn_of(&connection).as_deref() == Some(tls::ALPN_JOIN) {
        drop(permit);
        return join::serve(&shared, &connection).await;
    }
    match admit(&shared, &connection) {
        Ok(peer) => {
            drop(permit);
            tls::trust(&connection, &shared.config);
            receive(shared, connection, peer).await;
        }
        Err((code, reason)) => {
            connection.close(code.into(), reason.as_bytes());
            shared.refused(&format_args!("{remote}: {reason}"));
        }
    }
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failed {
    /// This node does not take what the other one showed.
    Here,
    /// The other one does not take what this node showed.
    There,
    /// Neither has looked at the other's certificate.
    Apart,
    /// The other one went away: what it would have shown is not known.
    Abandoned,
}

impl Failed {
    fn of(error: &ConnectionError) -> Failed {
        match error {
            ConnectionError::TransportError(e) if is_tls(e.code) => Failed::Here,
            ConnectionError::ConnectionClosed(close) if is_tls(close.error_code) => Failed::There,
            ConnectionError::ConnectionClosed(_)
            | ConnectionError::ApplicationClosed(_)
            | ConnectionError::Reset
            | ConnectionError::TimedOut => Failed::Abandoned,
            ConnectionError::TransportError(_)
            | ConnectionError::VersionMismatch
            | ConnectionError::LocallyClosed
            | ConnectionError::CidsExhausted => Failed::Apart,
        }
    }
}

/// Whether it is an alert of TLS (RFC 9001, 4.8).
fn is_tls(code: TransportErrorCode) -> bool {
    (0x100..0x200).contains(&u64::from(code))
}

/// Who this is, if it may send to us; otherwise the code to close with, and why.
fn admit(shared: &Shared, connection: &Connection) -> Result<NodeId, (u32, String)> {
    let refuse = |reason: String| Err((UNKNOWN, reason));
    let Some((cluster, peer)) = tls::peer_of(connection) else {
        return refuse(
            "expected a node's certificate, found none; join the cluster first (`holdfast join`)".to_owned(),
        );
    };
    if cluster != shared.cluster {
        return refuse(format!("expected a node of cluster {}, found {peer} of cluster {cluster}", shared.cluster));
    }
    if peer == shared.node {
        return refuse(format!("found a second {peer}: two agents use the same certificate; stop one of them"));
    }
    if shared.was_removed(peer) {
        return Err((REMOVED, format!("{peer} was removed from the cluster; it may join again as a new node")));
    }
    if !shared.is_known(peer) {
        return refuse(format!("{peer} is not among the nodes that {} knows; it was not added yet", shared.node));
    }
    Ok(peer)
}

async fn receive(shared: Arc<Shared>, connection: Connection, peer: NodeId) {
    shared.replace_connection(peer, &connection);
    if let Err(error) = welcome(&connection).await {
        tracing::debug!(%peer, error, "the peer left before it was welcomed");
    }
    while let Ok(stream) = connection.accept_uni().await {
        let reader = Reader { shared: Arc::clone(&shared), connection: connection.clone(), peer };
        tokio::spawn(reader.run(stream));
    }
    shared.forget_connection(peer, &connection);
}

async fn welcome(connection: &Connection) -> Result<(), Cause> {
    let mut stream = connection.open_uni().await?;
    stream.write_all(&header::WELCOME).await?;
    stream.finish()?;
    Ok(())
}

struct Reader {
    shared: Arc<Shared>,
    connection: Connection,
    peer: NodeId,
}

impl Reader {
    async fn run(self, stream: RecvStream) {
        let mut frames = Frames::new(stream);
        let header = match tokio::time::timeout(HEADER_TIMEOUT, frames.header()).await {
            Ok(Ok(header)) if header.cluster == self.shared.cluster => header,
            Ok(Ok(header)) => return self.hang_up(&format!("the lane is of cluster {}", header.cluster)),
            Ok(Err(error)) if self.connection.close_reason().is_none() => return self.hang_up(&error.to_string()),
            Ok(Err(_)) => return,
            Err(_) => return self.hang_up("the stream did not say in time which lane it is"),
        };
        let (stop, stopped) = watch::channel(false);
        let (finished, done) = watch::channel(());
        let current = Current { life: header.life, session: header.session, stop, done };
        match self.shared.replace_lane(self.peer, header.lane, current) {
            Ok(Some(mut older)) => {
                older.stop.send_replace(true);
                // Ends when the older reader drops its sender, after its last event.
                while older.done.changed().await.is_ok() {}
            }
            Ok(None) => {}
            Err(newest) => {
                tracing::warn!(
                    peer = %self.peer, lane = %header.lane, session = header.session, newest,
                    "refused a stream that is older than the one in use: a late packet of a lost connection"
                );
                return;
            }
        }
        // `Err`: the owner is gone, and with it everybody who could miss an event.
        let _ = self.session(header.lane, &mut frames, stopped).await;
        // The entry in the map stays: it remembers which session was the newest.
        drop(finished);
    }

    async fn session(&self, lane: Lane, frames: &mut Frames, mut stopped: watch::Receiver<bool>) -> Result<(), Gone> {
        if *stopped.borrow() {
            return Ok(());
        }
        let (peer, session) = (self.peer, self.shared.next_session());
        let (events, urgent) = (&self.shared.events, lane.is_urgent());
        events.send(urgent, Event::Incoming { peer, lane, session }).await?;
        let result = tokio::select! {
            biased;
            _ = stopped.wait_for(|&stop| stop) => Ok(()),
            result = self.deliver(lane, session, frames) => result,
        };
        // Whatever the stream still holds is nobody's now.
        let _ = frames.stream.stop(VarInt::from_u32(0));
        result?;
        events.send(urgent, Event::IncomingClosed { peer, lane, session }).await
    }

    async fn deliver(&self, lane: Lane, session: u64, frames: &mut Frames) -> Result<(), Gone> {
        loop {
            match frames.next(self.shared.config.max_message_bytes).await {
                Ok(Some(bytes)) => {
                    let event = Event::Message { peer: self.peer, lane, session, bytes };
                    self.shared.events.send(lane.is_urgent(), event).await?;
                }
                Ok(None) => return Ok(()),
                Err(error) => {
                    if self.connection.close_reason().is_none() {
                        self.hang_up(&format!("lane {lane}: {error}"));
                    }
                    return Ok(());
                }
            }
        }
    }

    /// The peer breaks the rules: nothing more from this connection.
    fn hang_up(&self, reason: &str) {
        tracing::warn!(peer = %self.peer, reason, "disconnecting a peer that breaks the lane protocol; are both agents of one version?");
        self.connection.close(2u32.into(), reason.as_bytes());
    }
}

/// Cuts a stream into messages.
struct Frames {
    stream: RecvStream,
    chunk: Bytes,
}

impl Frames {
    fn new(stream: RecvStream) -> Frames {
        Frames { stream, chunk: Bytes::new() }
    }

    async fn header(&mut self) -> Result<Header, Cause> {
        let mut bytes = [0; header::LEN];
        if !self.fill(&mut bytes).await? {
            return Err("the stream ended within its header".into());
        }
        Ok(Header::decode(&bytes)?)
    }

    /// The next message; `None` at the stream's end.
    async fn next(&mut self, max: usize) -> Result<Option<Bytes>, Cause> {
        let mut len = [0; 4];
        if !self.fill(&mut len).await? {
            return Ok(None);
        }
        let len = usize::try_from(u32::from_le_bytes(len)).expect("usize has 32 bits at least");
        if len > max {
            return Err(format!("a message of {len} bytes, expected at most {max}").into());
        }
        // Always copied into memory of its own: a slice would keep a whole receive buffer alive.
        let mut message = BytesMut::with_capacity(len.min(FIRST_RESERVE));
        while message.len() < len {
            if self.chunk.is_empty() && !self.more().await? {
                // The sender closed the lane in the middle of a message: it was never sent whole.
                return Ok(None);
            }
            let take = self.chunk.len().min(len - message.len());
            if message.capacity() < len {
                message.reserve(len - message.len());
            }
            message.extend_from_slice(&self.chunk[..take]);
            self.chunk.advance(take);
        }
        Ok(Some(message.freeze()))
    }

    /// `false` if the stream ends first.
    async fn fill(&mut self, target: &mut [u8]) -> Result<bool, Cause> {
        let mut filled = 0;
        while filled < target.len() {
            if self.chunk.is_empty() && !self.more().await? {
                return Ok(false);
            }
            let take = self.chunk.len().min(target.len() - filled);
            self.chunk.copy_to_slice(&mut target[filled..filled + take]);
            filled += take;
        }
        Ok(true)
    }

    async fn more(&mut self) -> Result<bool, quinn::ReadError> {
        match self.stream.read_chunk(usize::MAX, true).await? {
            Some(chunk) => {
                self.chunk = chunk.bytes;
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

impl Current {
    /// Whether `newer` may take over: of one life only a later session may.
    pub(crate) fn yields_to(&self, newer: &Current) -> bool {
        self.life != newer.life || self.session < newer.session
    }

    /// Whether the reader has delivered its last event.
    pub(crate) fn has_ended(&self) -> bool {
        self.done.has_changed().is_err()
    }

    pub(crate) fn session(&self) -> u64 {
        self.session
    }
}
