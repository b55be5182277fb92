//! The public face, and the state that its tasks share.

use crate::config::{Identity, Lane, TransportConfig};
use crate::dial::Dialler;
use crate::error::{SendError, TransportError};
use crate::events::{self, Event, EventSender, Events};
use crate::gate::Gate;
use crate::incoming::{self, Current};
use crate::join;
use crate::limiter::Limiter;
use crate::outgoing::OutLane;
use crate::stats::{PeerStats, TurnedAway};
use crate::tls;
use bytes::Bytes;
use holdfast_types::{ClusterId, NodeId};
use quinn::Connection;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, watch};

/// Kernel buffers of the socket: a burst of bulk must not be dropped before we get the processor.
const SOCKET_BUFFER: usize = 4 << 20;
/// Closes a connection to a node that is not known: it was removed, or will be known in a moment.
pub(crate) const UNKNOWN: u32 = 1;
/// Closes a connection to a node that was removed from the cluster.
pub(crate) const REMOVED: u32 = 2;
/// Log lines per second that strangers can cause.
const REFUSALS_PER_SECOND: u32 = 5;

/// One UDP port, its connections and lanes. Belongs to one tokio runtime; dropping it closes everything.
pub struct Endpoint {
    shared: Arc<Shared>,
}

/// What the tasks of an endpoint share.
pub(crate) struct Shared {
    pub(crate) node: NodeId,
    pub(crate) cluster: ClusterId,
    pub(crate) config: TransportConfig,
    /// Tells this endpoint from its predecessors at the same address.
    pub(crate) life: u64,
    pub(crate) events: EventSender,
    pub(crate) quinn: quinn::Endpoint,
    // Locked to be copied, or to be replaced by a renewed one.
    client: Mutex<quinn::ClientConfig>,
    pub(crate) joins: Semaphore,
    pub(crate) join_rate: Limiter,
    refusals: Limiter,
    pub(crate) gate: Gate,
    /// Connections and join conversations that were turned away.
    turned_away: AtomicU64,
    /// Of them, handshakes that did not come to their end.
    abandoned: AtomicU64,
    /// Of those, handshakes that were too many: of members, of others.
    too_many: [AtomicU64; 2],
    sessions: AtomicU64,
    // Locked for a few map operations at a time, never across an await.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    peers: BTreeMap<NodeId, Peer>,
    /// Newest incoming connection of each peer.
    connections: BTreeMap<NodeId, Connection>,
    /// The connection to each peer that we dialled and that was welcomed: what we send goes there.
    dialled: BTreeMap<NodeId, Connection>,
    /// Newest incoming stream of each lane, also after its end: at most twice `max_lanes` per peer.
    incoming: BTreeMap<(NodeId, Lane), Current>,
    /// From where each peer came last: behind a translation of addresses that is not where it listens.
    came_from: BTreeMap<NodeId, SocketAddr>,
    /// Nodes whose certificate counts no more.
    removed: BTreeSet<NodeId>,
    closed: bool,
}

/// A peer that was named once. Its dialler lives as long as the endpoint; without an address it sleeps.
struct Peer {
    address: watch::Sender<Option<SocketAddr>>,
    lanes: BTreeMap<Lane, Arc<OutLane>>,
    changed: Arc<Notify>,
}

impl Endpoint {
    /// Listens, and starts to accept peers once [`Endpoint::set_peers`] has named them.
    ///
    /// # Errors
    /// See [`TransportError`].
    #[expect(clippy::unused_async, reason = "it needs a tokio runtime, which a caller in an async function has")]
    pub async fn bind(config: TransportConfig, identity: &Identity) -> Result<(Endpoint, Events), TransportError> {
        config.check()?;
        let tls = tls::build(identity, &config)?;
        let address = config.bind;
        let quinn =
            listen(address, tls.endpoint, tls.server).map_err(|source| TransportError::Bind { address, source })?;
        let (sender, events) = events::channel(config.receive_bytes);
        let shared = Arc::new(Shared {
            node: identity.node,
            cluster: identity.cluster,
            life: random_u64(),
            events: sender,
            quinn,
            client: Mutex::new(tls.client),
            joins: Semaphore::new(join::MAX_JOINS),
            join_rate: Limiter::new(config.joins_per_second),
            refusals: Limiter::new(REFUSALS_PER_SECOND),
            gate: Gate::new(config.stranger_handshakes_per_second),
            turned_away: AtomicU64::new(0),
            abandoned: AtomicU64::new(0),
            too_many: Default::default(),
            sessions: AtomicU64::new(1),
            state: Mutex::default(),
            config,
        });
        tokio::spawn(incoming::accept_loop(Arc::clone(&shared)));
        Ok((Endpoint { shared }, events))
    }

    /// The address that peers dial; tells the port when `bind` left it open.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.shared.quinn.local_addr()
    }

    /// Proves itself with a renewed certificate of the same key from now on. Connections that are there stay.
    ///
    /// # Errors
    /// The certificate is not one of this node that holds now; nothing was changed.
    pub fn set_identity(&self, identity: &Identity) -> Result<(), TransportError> {
        let tls = tls::build(identity, &self.shared.config)?;
        tls::check_issued(identity)?;
        self.shared.quinn.set_server_config(Some(tls.server));
        *self.shared.client.lock().unwrap_or_else(PoisonError::into_inner) = tls.client;
        Ok(())
    }

    /// Nodes that were removed from the cluster for ever: they are told so when they dial.
    pub fn set_removed(&self, removed: BTreeSet<NodeId>) {
        self.shared.lock().removed = removed;
    }

    /// The peers and where they are: these are dialled and accepted, all others closed and refused.
    pub fn set_peers(&self, peers: &BTreeMap<NodeId, SocketAddr>) {
        let mut state = self.shared.lock();
        for (&peer, &address) in peers {
            if peer != self.shared.node {
                self.shared.peer(&mut state, peer).set(Some(address));
            }
        }
        for (peer, entry) in &state.peers {
            if !peers.contains_key(peer) {
                entry.set(None);
            }
        }
        let State { connections, removed, came_from, .. } = &mut *state;
        came_from.retain(|peer, _| peers.contains_key(peer));
        connections.retain(|peer, connection| {
            let known = peers.contains_key(peer);
            if !known {
                connection.close(farewell(removed.contains(peer)).into(), b"this node was removed from the cluster");
            }
            known
        });
    }

    /// Wants a lane to `peer`: opened as soon as there is a connection, and again after each reconnect.
    pub fn open(&self, peer: NodeId, lane: Lane) {
        if peer == self.shared.node {
            return;
        }
        let mut state = self.shared.lock();
        let entry = self.shared.peer(&mut state, peer);
        entry.lanes.entry(lane).or_insert_with(OutLane::new);
        entry.changed.notify_one();
    }

    /// Wants the lane no more. A `LaneDown` follows if it was up.
    pub fn close(&self, peer: NodeId, lane: Lane) {
        let mut state = self.shared.lock();
        if let Some(entry) = state.peers.get_mut(&peer) {
            entry.lanes.remove(&lane);
            entry.changed.notify_one();
        }
    }

    /// Puts a message, the concatenation of its pieces, into the lane's queue. Never blocks.
    ///
    /// # Errors
    /// `Down` unless `session` is that of the last `LaneUp`; `Full` if the queue holds its limit; `TooLarge`.
    pub fn send(&self, peer: NodeId, lane: Lane, session: u64, message: Vec<Bytes>) -> Result<(), SendError> {
        let len: usize = message.iter().map(Bytes::len).sum();
        if len > self.shared.config.max_message_bytes {
            return Err(SendError::TooLarge);
        }
        let state = self.shared.lock();
        let entry = state.peers.get(&peer).and_then(|p| p.lanes.get(&lane)).ok_or(SendError::Down)?;
        entry.push(session, len, message, self.shared.config.queue_bytes)
    }

    /// Whom this endpoint has turned away.
    #[must_use]
    pub fn turned_away(&self) -> TurnedAway {
        let [members, strangers] = [0, 1].map(|of| self.shared.too_many[of].load(Ordering::Relaxed));
        let [all, abandoned] = [&self.shared.turned_away, &self.shared.abandoned].map(|n| n.load(Ordering::Relaxed));
        TurnedAway { all, members, strangers, abandoned }
    }

    /// How the connections do that this endpoint dialled, by peer. Counters are of the present connection of each.
    #[must_use]
    pub fn peer_stats(&self) -> Vec<(NodeId, PeerStats)> {
        let state = self.shared.lock();
        state.dialled.iter().map(|(peer, connection)| (*peer, PeerStats::of(connection))).collect()
    }

    /// Closes every connection and waits until peers have been told and the port is free (or a second has passed).
    pub async fn shutdown(self) {
        let quinn = self.shared.quinn.clone();
        let shared = Arc::downgrade(&self.shared);
        drop(self);
        let freed = async {
            quinn.wait_idle().await;
            drop(quinn);
            // The tasks end on their own now; with the last of them quinn lets go of the socket.
            while shared.strong_count() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        // Whoever has not heard of it by then finds out by its idle timeout.
        let _ = tokio::time::timeout(Duration::from_secs(1), freed).await;
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        // Diallers see their address channel closed and end; readers and writers end with the connections.
        state.peers.clear();
        state.connections.clear();
        state.dialled.clear();
        drop(state);
        self.shared.events.close();
        self.shared.quinn.close(0u32.into(), b"the agent is stopping");
    }
}

impl Peer {
    fn set(&self, address: Option<SocketAddr>) {
        self.address.send_if_modified(|current| {
            let changes = *current != address;
            *current = address;
            changes
        });
    }
}

impl State {
    fn knows(&self, peer: NodeId) -> bool {
        self.peers.get(&peer).is_some_and(|p| p.address.borrow().is_some())
    }

    /// Makes room for one more lane of `peer`: forgets the ended stream that is oldest if there are `limit`.
    fn prune_lanes(&mut self, peer: NodeId, limit: usize) {
        let of_peer = || self.incoming.iter().filter(|((p, _), _)| *p == peer);
        if of_peer().count() < limit {
            return;
        }
        let oldest = of_peer().filter(|(_, c)| c.has_ended()).min_by_key(|(_, c)| c.session()).map(|(&key, _)| key);
        if let Some(key) = oldest {
            self.incoming.remove(&key);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, so the state is whole even if the mutex says otherwise.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entry of `peer`, made with its dialler if it is new.
    fn peer<'a>(self: &Arc<Self>, state: &'a mut State, peer: NodeId) -> &'a mut Peer {
        state.peers.entry(peer).or_insert_with(|| {
            let (address, receiver) = watch::channel(None);
            let changed = Arc::new(Notify::new());
            let dialler = Dialler { shared: Arc::clone(self), peer, address: receiver, changed: Arc::clone(&changed) };
            tokio::spawn(dialler.run());
            Peer { address, lanes: BTreeMap::new(), changed }
        })
    }

    /// How this node proves itself when it dials.
    pub(crate) fn client(&self) -> quinn::ClientConfig {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn next_session(&self) -> u64 {
        self.sessions.fetch_add(1, Ordering::Relaxed)
    }

    /// Lanes that should be open to `peer`.
    pub(crate) fn wanted(&self, peer: NodeId) -> BTreeMap<Lane, Arc<OutLane>> {
        self.lock().peers.get(&peer).map(|p| p.lanes.clone()).unwrap_or_default()
    }

    /// Whether `peer` may send to us.
    pub(crate) fn is_known(&self, peer: NodeId) -> bool {
        self.lock().knows(peer)
    }

    /// Whether `peer` was removed from the cluster.
    pub(crate) fn was_removed(&self, peer: NodeId) -> bool {
        self.lock().removed.contains(&peer)
    }

    /// Makes `connection` the one that `peer` sends on; closes it if `peer` was removed meanwhile.
    pub(crate) fn replace_connection(&self, peer: NodeId, connection: &Connection) {
        let mut state = self.lock();
        if state.closed || !state.knows(peer) {
            let code = farewell(state.removed.contains(&peer));
            connection.close(code.into(), b"this node was removed from the cluster");
        } else {
            state.came_from.insert(peer, connection.remote_address());
            if let Some(older) = state.connections.insert(peer, connection.clone()) {
                older.close(0u32.into(), b"replaced by a newer connection");
            }
        }
    }

    pub(crate) fn forget_connection(&self, peer: NodeId, connection: &Connection) {
        let mut state = self.lock();
        if state.connections.get(&peer).is_some_and(|c| c.stable_id() == connection.stable_id()) {
            state.connections.remove(&peer);
        }
    }

    /// What the dialler of `peer` sends on; `None`: nothing now.
    pub(crate) fn set_dialled(&self, peer: NodeId, connection: Option<&Connection>) {
        let mut state = self.lock();
        match connection.filter(|_| !state.closed) {
            Some(connection) => drop(state.dialled.insert(peer, connection.clone())),
            None => drop(state.dialled.remove(&peer)),
        }
    }

    /// Makes `newer` the reader of the lane and returns the one before, or refuses it with the newest session.
    pub(crate) fn replace_lane(&self, peer: NodeId, lane: Lane, newer: Current) -> Result<Option<Current>, u64> {
        let mut state = self.lock();
        match state.incoming.get(&(peer, lane)) {
            Some(current) if !current.yields_to(&newer) => Err(current.session()),
            Some(_) => Ok(state.incoming.insert((peer, lane), newer)),
            None => {
                state
                    .prune_lanes(peer, usize::try_from(self.config.max_lanes).expect("usize has 32 bits at least") * 2);
                Ok(state.incoming.insert((peer, lane), newer))
            }
        }
    }

    /// Whether a peer listens there, or came from there last. Nobody has proven to be it.
    pub(crate) fn is_of_peer(&self, remote: SocketAddr) -> bool {
        let state = self.lock();
        let listens = state.peers.values().filter_map(|peer| *peer.address.borrow());
        listens.chain(state.came_from.values().copied()).any(|address| is_same(address, remote))
    }

    /// Refused a handshake from there, because there are too many.
    pub(crate) fn too_many(&self, remote: SocketAddr, member: bool) {
        self.too_many[usize::from(!member)].fetch_add(1, Ordering::Relaxed);
        self.refused(&format_args!("{remote}: too many handshakes at once, or in a second"));
    }

    /// Whoever it was ended a handshake, or did not go on with it.
    pub(crate) fn abandoned(&self, what: &fmt::Arguments<'_>) {
        self.abandoned.fetch_add(1, Ordering::Relaxed);
        self.refused(what);
    }

    /// Logs that somebody was refused, a few times per second at most: strangers can cause it.
    pub(crate) fn refused(&self, what: &fmt::Arguments<'_>) {
        self.turned_away.fetch_add(1, Ordering::Relaxed);
        if self.refusals.allows() {
            tracing::warn!("refused {what}");
            self.events.offer(Event::Refused { what: what.to_string() });
        }
    }
}

/// A socket of both families sees addresses of the older one in the form of the newer.
fn is_same(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && a.ip().to_canonical() == b.ip().to_canonical()
}

/// The code of a connection that is closed because its peer is none.
fn farewell(removed: bool) -> u32 {
    if removed { REMOVED } else { UNKNOWN }
}

fn listen(
    address: SocketAddr,
    config: quinn::EndpointConfig,
    server: quinn::ServerConfig,
) -> std::io::Result<quinn::Endpoint> {
    let socket = UdpSocket::bind(address)?;
    {
        let view = quinn::udp::UdpSocketState::new((&socket).into())?;
        let grown = view
            .set_recv_buffer_size((&socket).into(), SOCKET_BUFFER)
            .and_then(|()| view.set_send_buffer_size((&socket).into(), SOCKET_BUFFER));
        if let Err(error) = grown {
            tracing::info!(%error, "the socket keeps the kernel's default buffers; raise net.core.rmem_max for bulk transfers");
        }
    }
    quinn::Endpoint::new(config, Some(server), socket, Arc::new(quinn::TokioRuntime))
}

fn random_u64() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    // The standard library's keys come from the operating system; 64 bits tell lives apart, they guard no secret.
    RandomState::new().hash_one(std::process::id())
}
