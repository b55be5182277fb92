//! Guests' connections: one Unix socket per volume, NBD on it, one task per connection.
//!
//! Everything here runs on the shard's thread: a request crosses no thread on its way to the replica and back. The shard
//! keeps the [`Registry`]; tasks look up there whether their volume is served, and hand requests over through a channel.
//!
//! Invariants: a connection exists only while its volume is served; when serving ends, connections are closed without
//! answering what is in flight (its fate is the next epoch's to decide), and the client sends it again elsewhere. After the
//! loop stood still nothing is said to a guest, not even what was decided before, until the shard knows that it reigns.
//!
//! What guests are granted, how much (`gate`) and to whom (`socket`), is the control plane's to say, and may change at any time.

use crate::metrics::GuestCounters;
use crate::random;
use bytes::Bytes;
use gate::{Gate, Turn};
use holdfast_nbd as nbd;
use holdfast_node::{Cost, Grant};
use holdfast_replication::{GuestError, GuestOp, Request, RequestKey};
use holdfast_types::{ByteOffset, RequestId, SessionId, SocketAccess, Time, VolumeId};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use stream::{Parked, advance, come, cost, has_hung_up, say};
use tokio::io::AsyncReadExt;
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore, mpsc, watch};

mod gate;
mod socket;
mod stream;
#[cfg(test)]
mod tests;

/// From a connection to the shard.
#[derive(Debug)]
pub(crate) enum FromGuest {
    /// A request of a served volume.
    Request {
        /// The volume.
        volume: VolumeId,
        /// What.
        request: Request,
    },
    /// Which parts of a range are allocated.
    Extents {
        /// The volume.
        volume: VolumeId,
        /// For the answer.
        key: RequestKey,
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// A client is attached to a volume.
    Attached,
    /// The connection ended.
    Closed {
        /// The volume.
        volume: VolumeId,
        /// Which connection.
        session: SessionId,
    },
    /// Something for people.
    Trouble {
        /// The volume.
        volume: VolumeId,
        /// One sentence.
        text: String,
    },
}

/// From the shard to a connection.
#[derive(Debug)]
pub(crate) enum ToGuest {
    /// The answer to a request.
    Reply {
        /// Which request.
        request: RequestId,
        /// Its outcome.
        result: Result<Vec<Bytes>, GuestError>,
    },
    /// The answer to `Extents`: length in bytes, and whether the range is a hole.
    Extents {
        /// Which request.
        request: RequestId,
        /// Consecutive ranges.
        extents: Vec<(u64, bool)>,
    },
    /// A request that waited for its turn may have it.
    Turn,
    /// Served here no more.
    Disconnect,
}

/// A volume as its guests see it.
#[derive(Debug)]
struct Export {
    name: String,
    size: u64,
    serving: bool,
    /// Why it is not served, or who serves it.
    refusal: String,
    /// When somebody was told that last.
    refused_at: Option<Time>,
    accepts: bool,
    /// Nothing may be said to guests now.
    mute: bool,
    resumed: Rc<Notify>,
    sessions: BTreeMap<SessionId, mpsc::UnboundedSender<ToGuest>>,
    counters: GuestCounters,
    gate: Gate,
    /// Who may open the socket.
    access: watch::Sender<SocketAccess>,
    socket: PathBuf,
    listener: tokio::task::JoinHandle<()>,
}

/// What the shard and its connections share; on one thread.
#[derive(Debug)]
pub(crate) struct Registry {
    dir: PathBuf,
    exports: BTreeMap<VolumeId, Export>,
    /// From then on the shard's loop stands still, and what was decided before may be wrong.
    stands_still_at: Time,
    next_session: u64,
    to_shard: mpsc::UnboundedSender<FromGuest>,
    max_requests: usize,
    /// Bytes of replies that all connections hold, or have asked for.
    reply_bytes: usize,
    reply_budget: usize,
    /// Some of them were sent.
    sent: Rc<Notify>,
}

/// Shared on the shard's thread.
pub(crate) type Shared = Rc<RefCell<Registry>>;

/// The registry of a shard, and where its connections' requests arrive. The channel is bounded by what each connection may
/// have in flight.
pub(crate) fn registry(dir: &Path, max_requests: usize) -> io::Result<(Shared, mpsc::UnboundedReceiver<FromGuest>)> {
    if !dir.exists() {
        std::fs::create_dir_all(dir)?;
        // Clients pass through; which sockets there are is nobody's business, and each says who may open it.
        std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
    }
    let (to_shard, from_guests) = mpsc::unbounded_channel();
    let registry = Registry {
        dir: dir.to_owned(),
        exports: BTreeMap::new(),
        stands_still_at: Time(u64::MAX),
        next_session: 0,
        to_shard,
        max_requests,
        reply_bytes: 0,
        reply_budget: REPLY_BUDGET,
        sent: Rc::new(Notify::new()),
    };
    Ok((Rc::new(RefCell::new(registry)), from_guests))
}

/// Connections of one volume at once. Each may hold some MiB and a file descriptor, and descriptors that clients have taken are
/// missing for the files of every copy.
const MAX_CONNECTIONS: usize = 64;

/// Bytes of replies that a connection may leave unread, or have asked for, and still be asked for more. One request can go
/// beyond it.
const UNREAD_BYTES: usize = 4 << 20;
/// The same for all connections together. Beyond it a read is taken only from a connection that holds nothing, and only if
/// it is no longer than what clients are asked to keep to: a client that never reads its replies holds up itself alone.
const REPLY_BUDGET: usize = 256 << 20;

/// Opens a volume's socket; connections are refused until it is served.
pub(crate) fn export(shared: &Shared, volume: VolumeId, name: &str, size: u64) -> io::Result<()> {
    if shared.borrow().exports.contains_key(&volume) {
        return Ok(());
    }
    let socket = shared.borrow().dir.join(format!("{name}.sock"));
    let listener = socket::bind(&socket)?;
    let file = socket::file(&socket)?;
    let (access, wanted) = watch::channel(SocketAccess::default());
    tokio::task::spawn_local(keep_access(file, wanted, shared.borrow().to_shard.clone(), volume));
    let task = tokio::task::spawn_local(accept(listener, Rc::clone(shared), volume));
    let export = Export {
        name: name.to_owned(),
        size,
        serving: false,
        refusal: format!("{name} is not open yet"),
        refused_at: None,
        accepts: true,
        mute: false,
        resumed: Rc::new(Notify::new()),
        sessions: BTreeMap::new(),
        counters: GuestCounters::default(),
        gate: Gate::default(),
        access,
        socket,
        listener: task,
    };
    shared.borrow_mut().exports.insert(volume, export);
    Ok(())
}

/// Opens a socket's file to whom it is to be open, now and after each change, as long as the volume has a socket. What can't be
/// done leaves it closed.
async fn keep_access(
    file: std::fs::File,
    mut wanted: watch::Receiver<SocketAccess>,
    to_shard: mpsc::UnboundedSender<FromGuest>,
    volume: VolumeId,
) {
    let file = Arc::new(file);
    loop {
        let access = wanted.borrow_and_update().clone();
        let (socket, asked) = (Arc::clone(&file), access.clone());
        let done = tokio::task::spawn_blocking(move || socket::open_to(&socket, &asked)).await;
        if let Ok(Err(why)) = done {
            let text = format!("its socket could not be given {access}: {why}");
            // The shard has ended first: then nobody is left to be told.
            let _ = to_shard.send(FromGuest::Trouble { volume, text });
        }
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

impl Registry {
    /// Closes a volume's socket and its connections.
    pub(crate) fn withdraw(&mut self, volume: VolumeId) {
        self.set_serving(volume, false, "it was deleted");
        if let Some(export) = self.exports.remove(&volume) {
            export.listener.abort();
            // Nobody else binds this path while the agent holds its directory.
            let _ = std::fs::remove_file(&export.socket);
        }
    }

    /// The volumes that have a socket.
    pub(crate) fn volumes(&self) -> Vec<VolumeId> {
        self.exports.keys().copied().collect()
    }

    /// How many clients are attached to a volume.
    pub(crate) fn clients(&self, volume: VolumeId) -> u32 {
        let attached = self.exports.get(&volume).map_or(0, |e| e.sessions.len());
        u32::try_from(attached).unwrap_or(u32::MAX)
    }

    /// Whether somebody asked for a volume within the last `within` and was refused.
    pub(crate) fn was_asked_for(&self, volume: VolumeId, within: Duration, now: Time) -> bool {
        let export = self.exports.get(&volume).filter(|e| !e.serving);
        export.and_then(|e| e.refused_at).is_some_and(|at| now.since(at) < within)
    }

    /// What the clients of a volume did so far.
    pub(crate) fn counters(&self, volume: VolumeId) -> Option<&GuestCounters> {
        self.exports.get(&volume).map(|e| &e.counters)
    }

    fn counts(&mut self, volume: VolumeId, count: impl FnOnce(&mut GuestCounters)) {
        if let Some(export) = self.exports.get_mut(&volume) {
            count(&mut export.counters);
        }
    }

    /// What the operator grants the guests of a volume from now on.
    pub(crate) fn set_grant(&mut self, volume: VolumeId, grant: &Grant) {
        let Some(export) = self.exports.get_mut(&volume) else { return };
        let called = if export.gate.limits() == grant.limits {
            Vec::new()
        } else {
            export.gate.set(grant.limits, random::now())
        };
        export.access.send_if_modified(|access| {
            let changes = *access != grant.socket;
            access.clone_from(&grant.socket);
            changes
        });
        called.into_iter().for_each(|session| self.send(volume, session, ToGuest::Turn));
    }

    /// When a request of a connection may be taken.
    fn turn(&mut self, volume: VolumeId, session: SessionId) -> Turn {
        self.exports.get_mut(&volume).map_or(Turn::Now, |e| e.gate.asks(session, random::now()))
    }

    /// A request is taken, after it waited since then.
    fn takes(&mut self, volume: VolumeId, session: SessionId, cost: Cost, since: Option<Time>) {
        let Some(export) = self.exports.get_mut(&volume) else { return };
        let now = random::now();
        if let Some(since) = since {
            export.counters.waited(now.since(since));
        }
        if let Some(next) = export.gate.takes(session, cost, now) {
            self.send(volume, next, ToGuest::Turn);
        }
    }

    /// A connection has ended.
    fn leave(&mut self, volume: VolumeId, session: SessionId) {
        let Some(export) = self.exports.get_mut(&volume) else { return };
        export.sessions.remove(&session);
        if let Some(next) = export.gate.leaves(session) {
            self.send(volume, next, ToGuest::Turn);
        }
    }

    /// Guests may attach, or are disconnected.
    pub(crate) fn set_serving(&mut self, volume: VolumeId, serving: bool, refusal: &str) {
        let Some(export) = self.exports.get_mut(&volume) else { return };
        export.serving = serving;
        export.refusal = refusal.to_owned();
        if !serving {
            export.gate.clear();
            for (_, guest) in std::mem::take(&mut export.sessions) {
                // A task that has ended needs no message.
                let _ = guest.send(ToGuest::Disconnect);
            }
        }
    }

    /// What a refused client is told.
    pub(crate) fn set_refusal(&mut self, volume: VolumeId, refusal: String) {
        if let Some(export) = self.exports.get_mut(&volume) {
            export.refusal = refusal;
        }
    }

    /// Bytes that connections from now on are told; the protocol has no way to tell those that are there.
    pub(crate) fn set_size(&mut self, volume: VolumeId, size: u64) {
        if let Some(export) = self.exports.get_mut(&volume) {
            export.size = size;
        }
    }

    /// Whether connections of `volume` may read more from their sockets.
    pub(crate) fn set_accepts(&mut self, volume: VolumeId, accepts: bool) {
        let Some(export) = self.exports.get_mut(&volume) else { return };
        if accepts && !export.accepts {
            export.resumed.notify_waiters();
        }
        export.accepts = accepts;
    }

    /// Whether connections of `volume` must keep to themselves what they have not sent yet.
    pub(crate) fn set_mute(&mut self, volume: VolumeId, mute: bool) {
        let Some(export) = self.exports.get_mut(&volume) else { return };
        if export.mute && !mute {
            export.resumed.notify_waiters();
        }
        export.mute = mute;
    }

    /// The shard's loop runs; from `at` on it counts as standing still until this is called again.
    pub(crate) fn loop_runs_until(&mut self, at: Time) {
        self.stands_still_at = at;
    }

    /// The loop must have its turn first: it finds out whether this node still serves.
    fn stands_still(&self) -> bool {
        random::now() >= self.stands_still_at
    }

    fn is_mute(&self, volume: VolumeId) -> bool {
        self.exports.get(&volume).is_some_and(|e| e.mute)
    }

    /// A connection holds `now` bytes of replies, and held `before`.
    fn account(&mut self, before: usize, now: usize) {
        self.reply_bytes = self.reply_bytes - before + now;
        if now < before {
            self.sent.notify_waiters();
        }
    }

    /// Whether a connection that holds `held` bytes of replies may ask for `more`.
    const fn affords(&self, held: usize, more: usize) -> bool {
        let modest = held == 0 && more <= nbd::limits::MAX_PAYLOAD as usize;
        modest || self.reply_bytes + more <= self.reply_budget
    }

    /// Hands a message to one connection; one that has ended gets none.
    pub(crate) fn send(&self, volume: VolumeId, session: SessionId, message: ToGuest) {
        if let Some(guest) = self.exports.get(&volume).and_then(|e| e.sessions.get(&session)) {
            let _ = guest.send(message);
        }
    }

    fn accepts(&self, volume: VolumeId) -> bool {
        self.exports.get(&volume).is_some_and(|e| e.accepts)
    }

    fn open(
        &mut self,
        volume: VolumeId,
        name: &str,
        guest: &mpsc::UnboundedSender<ToGuest>,
    ) -> Result<(nbd::Export, Rc<Notify>, SessionId), nbd::Refusal> {
        let unknown = |text: String| nbd::Refusal::new(nbd::RefusalKind::Unknown, text);
        let Some(export) = self.exports.get_mut(&volume) else {
            return Err(unknown("the volume was deleted".to_owned()));
        };
        if !name.is_empty() && name != export.name {
            export.counters.strangers += 1;
            return Err(unknown(format!("this socket serves {} alone, found a request for {name}", export.name)));
        }
        if !export.serving {
            export.refused_at = Some(random::now());
            return Err(nbd::Refusal::new(nbd::RefusalKind::Policy, export.refusal.clone()));
        }
        self.next_session += 1;
        let session = SessionId(self.next_session);
        export.sessions.insert(session, guest.clone());
        let mut granted = nbd::Export::new(export.size);
        granted.name = Some(export.name.clone());
        Ok((granted, Rc::clone(&export.resumed), session))
    }

    fn name(&self, volume: VolumeId) -> Vec<String> {
        self.exports.get(&volume).map(|e| e.name.clone()).into_iter().collect()
    }
}

async fn accept(listener: UnixListener, shared: Shared, volume: VolumeId) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // More clients than that wait in the socket's backlog.
        let place = Arc::clone(&places).acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let guest = Guest::new(Rc::clone(&shared), volume);
                tokio::task::spawn_local(async move {
                    guest.run(stream).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file descriptors: the clients that have one go on, and the next accept may succeed.
                tracing::warn!(volume = %volume, %error, "a guest's connection could not be accepted");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

/// How taking a client's requests ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    All,
    /// The client is gone.
    HungUp,
}

/// A request that the shard has.
struct Asked {
    key: nbd::RequestKey,
    /// What it is, and how long; `None`: a question about extents.
    what: Option<(GuestOp, u64)>,
    at: Time,
}

/// One connection.
struct Guest {
    shared: Shared,
    volume: VolumeId,
    connection: nbd::Connection,
    session: Option<SessionId>,
    /// The volume is served here no more.
    dismissed: bool,
    resumed: Rc<Notify>,
    /// The requests that the shard knows by number.
    keys: BTreeMap<RequestId, Asked>,
    next_request: u64,
    /// Taken off the socket, unsent.
    unsent: VecDeque<Bytes>,
    /// What the registry knows of this connection's replies, in bytes.
    accounted: usize,
    /// A request that waits for its turn, or until other replies were sent.
    parked: Option<Parked>,
    /// Its turn comes then.
    turn_at: Option<Time>,
    sent: Rc<Notify>,
    to_me: mpsc::UnboundedSender<ToGuest>,
    to_shard: mpsc::UnboundedSender<FromGuest>,
    inbox: mpsc::UnboundedReceiver<ToGuest>,
}

impl Guest {
    fn new(shared: Shared, volume: VolumeId) -> Guest {
        let (to_me, inbox) = mpsc::unbounded_channel();
        let (to_shard, max_requests, sent) = {
            let registry = shared.borrow();
            (registry.to_shard.clone(), registry.max_requests, Rc::clone(&registry.sent))
        };
        let config = nbd::ServerConfig { max_requests, ..nbd::ServerConfig::default() };
        Guest {
            shared,
            volume,
            connection: nbd::Connection::new(config),
            session: None,
            dismissed: false,
            resumed: Rc::new(Notify::new()),
            keys: BTreeMap::new(),
            next_request: 0,
            unsent: VecDeque::new(),
            accounted: 0,
            parked: None,
            turn_at: None,
            sent,
            to_me,
            to_shard,
            inbox,
        }
    }

    async fn run(mut self, stream: UnixStream) {
        let ended = self.serve(stream).await;
        let unanswered = self.keys.len() as u64;
        {
            let mut registry = self.shared.borrow_mut();
            registry.account(self.accounted, 0);
            registry.counts(self.volume, |c| c.in_flight -= unanswered);
        }
        if let Some(session) = self.session {
            let volume = self.volume;
            self.shared.borrow_mut().leave(volume, session);
            // The shard has ended first: then nobody is left to be told.
            let _ = self.to_shard.send(FromGuest::Closed { volume, session });
        }
        match (ended, self.connection.close_reason()) {
            (Err(error), _) => tracing::debug!(volume = %self.volume, %error, "a guest's connection broke"),
            (_, Some(reason @ nbd::CloseReason::Violation(_))) => {
                tracing::warn!(volume = %self.volume, %reason, "a guest was disconnected")
            }
            (_, reason) => tracing::debug!(volume = %self.volume, ?reason, "a guest's connection ended"),
        }
    }

    async fn serve(&mut self, stream: UnixStream) -> io::Result<()> {
        let (mut reader, mut writer) = stream.into_split();
        loop {
            if self.take_events(&reader) == Taken::HungUp {
                return Ok(());
            }
            if self.unsent.is_empty() {
                self.unsent.extend(self.connection.take_output());
            }
            self.account();
            if self.unsent.is_empty() && self.connection.is_closed() {
                return Ok(());
            }
            let attached = self.session.is_some();
            let accepts = !attached || self.shared.borrow().accepts(self.volume);
            let reads = accepts && self.may_take() && self.connection.wants_input();
            let (resumed, sent, waits) = (Rc::clone(&self.resumed), Rc::clone(&self.sent), self.parked.is_some());
            let slices: Vec<IoSlice<'_>> = self.unsent.iter().take(64).map(|b| IoSlice::new(b)).collect();
            tokio::select! {
                biased;
                message = self.inbox.recv() => if let Some(message) = message { self.on_message(message) },
                written = say(&self.shared, attached.then_some(self.volume), &mut writer, &slices), if !slices.is_empty() => {
                    let written = written?;
                    drop(slices);
                    advance(&mut self.unsent, written);
                }
                read = reader.read_buf(self.connection.room()), if reads => {
                    if read? == 0 {
                        return Ok(());
                    }
                }
                () = resumed.notified() => {}
                () = sent.notified(), if waits => {}
                () = come(self.turn_at), if self.turn_at.is_some() => {}
            }
            while let Ok(message) = self.inbox.try_recv() {
                self.on_message(message);
            }
            if self.dismissed {
                // What was decided before and is not sent is never said: it may be a deposed primary's.
                return Ok(());
            }
        }
    }

    /// Takes what the client asks, as far as its unread replies and everybody's leave room.
    fn take_events(&mut self, reader: &OwnedReadHalf) -> Taken {
        self.turn_at = None;
        let mut looked = false;
        while let Some(mut next) = self.next_request() {
            if !next.paid && !self.has_turn(&mut next) {
                self.parked = Some(next);
                break;
            }
            // Also what waited: its client may have gone meanwhile.
            if !std::mem::replace(&mut looked, true) && has_hung_up(reader.as_ref()) {
                return Taken::HungUp;
            }
            self.pay(&mut next);
            if next.reply > 0 && !self.has_room(next.reply) {
                self.parked = Some(next);
                break;
            }
            self.on_request(next.request);
            if next.reply > 0 {
                self.account();
            }
        }
        Taken::All
    }

    /// What waits, or else what the client asks next.
    fn next_request(&mut self) -> Option<Parked> {
        if let Some(parked) = self.parked.take() {
            return Some(parked);
        }
        while self.may_take() {
            let before = self.connection.reply_bytes();
            match self.connection.next_event()? {
                nbd::Event::Request(request) => {
                    let more = self.connection.reply_bytes().saturating_sub(before);
                    let reply = if request.command == nbd::Command::Read { more } else { 0 };
                    return Some(Parked { request, reply, paid: false, since: None });
                }
                event => self.on_event(event),
            }
        }
        None
    }

    /// Whether the volume's limits let the request go; otherwise it has a place in the queue.
    fn has_turn(&mut self, next: &mut Parked) -> bool {
        let (Some(session), Some(_)) = (self.session, cost(&next.request)) else { return true };
        match self.shared.borrow_mut().turn(self.volume, session) {
            Turn::Now => return true,
            Turn::At(at) => self.turn_at = Some(at),
            Turn::Behind => {}
        }
        next.since.get_or_insert_with(random::now);
        false
    }

    fn pay(&mut self, next: &mut Parked) {
        if let (Some(session), Some(cost), false) = (self.session, cost(&next.request), next.paid) {
            self.shared.borrow_mut().takes(self.volume, session, cost, next.since);
        }
        next.paid = true;
    }

    /// Whether a reply of `len` bytes may be asked for now.
    fn has_room(&mut self, len: usize) -> bool {
        let held = self.held().saturating_sub(len);
        let mut registry = self.shared.borrow_mut();
        registry.account(self.accounted, held);
        self.accounted = held;
        registry.affords(held, len)
    }

    /// Bytes of replies that this connection holds or has asked for.
    fn held(&self) -> usize {
        self.connection.reply_bytes() + self.unsent.iter().map(Bytes::len).sum::<usize>()
    }

    /// Tells the registry. What is parked was not asked for.
    fn account(&mut self) {
        let held = self.held().saturating_sub(self.parked.as_ref().map_or(0, |p| p.reply));
        self.shared.borrow_mut().account(self.accounted, held);
        self.accounted = held;
    }

    fn may_take(&self) -> bool {
        self.parked.is_none() && (self.connection.is_within_request() || self.held() < UNREAD_BYTES)
    }

    fn on_event(&mut self, event: nbd::Event) {
        match event {
            nbd::Event::Open { name, purpose } => {
                let opened = self.shared.borrow_mut().open(self.volume, &name, &self.to_me);
                let answer = opened.map(|(export, resumed, session)| {
                    if purpose == nbd::OpenPurpose::Inspect {
                        if let Some(e) = self.shared.borrow_mut().exports.get_mut(&self.volume) {
                            e.sessions.remove(&session);
                        }
                    } else {
                        (self.resumed, self.session) = (resumed, Some(session));
                        let _ = self.to_shard.send(FromGuest::Attached);
                    }
                    export
                });
                self.connection.answer_open(answer);
            }
            nbd::Event::List => {
                let names = self.shared.borrow().name(self.volume);
                self.connection.answer_list(Ok(names));
            }
            nbd::Event::Request(request) => self.on_request(request),
            nbd::Event::Disconnect => {}
        }
    }

    fn on_request(&mut self, request: nbd::Request) {
        let Some(session) = self.session else { return };
        let op = match request.command {
            nbd::Command::Read => GuestOp::Read,
            nbd::Command::Write => GuestOp::Write,
            nbd::Command::Flush => GuestOp::Flush,
            nbd::Command::Trim => GuestOp::Discard,
            nbd::Command::WriteZeroes if request.no_hole => GuestOp::WriteZeroes,
            nbd::Command::WriteZeroes => GuestOp::Discard,
            nbd::Command::Cache => {
                self.connection.complete(request.key, nbd::Completion::Done);
                return;
            }
            nbd::Command::BlockStatus => {
                let key = self.number(session, request.key, None);
                let (offset, len) = (request.offset, u64::from(request.len));
                let _ = self.to_shard.send(FromGuest::Extents { volume: self.volume, key, offset, len });
                return;
            }
        };
        let (offset, len) = (ByteOffset(request.offset), u64::from(request.len));
        let key = self.number(session, request.key, Some((op, len)));
        let request = Request { key, op, offset, len, fua: request.fua, data: request.data };
        let _ = self.to_shard.send(FromGuest::Request { volume: self.volume, request });
    }

    fn number(&mut self, session: SessionId, key: nbd::RequestKey, what: Option<(GuestOp, u64)>) -> RequestKey {
        self.next_request += 1;
        let request = RequestId(self.next_request);
        self.keys.insert(request, Asked { key, what, at: random::now() });
        self.shared.borrow_mut().counts(self.volume, |c| c.in_flight += 1);
        RequestKey { session, request }
    }

    /// The client's name of a request that is answered now.
    fn answered(&mut self, request: RequestId, well: bool) -> Option<nbd::RequestKey> {
        let Asked { key, what, at } = self.keys.remove(&request)?;
        self.shared.borrow_mut().counts(self.volume, |c| {
            c.in_flight -= 1;
            if let Some((op, bytes)) = what {
                c.answered(op, bytes, random::now().since(at), well);
            }
        });
        Some(key)
    }

    fn on_message(&mut self, message: ToGuest) {
        match message {
            // What waits is looked at again.
            ToGuest::Turn => {}
            ToGuest::Disconnect => {
                self.dismissed = true;
                self.connection.close();
            }
            ToGuest::Reply { request, result } => {
                let Some(key) = self.answered(request, result.is_ok()) else { return };
                let completion = match result {
                    Ok(data) if data.is_empty() => nbd::Completion::Done,
                    Ok(data) => nbd::Completion::Data(data),
                    Err(GuestError::BeyondEnd(op)) => nbd::Completion::Error(nbd::NbdError::new(
                        match op {
                            GuestOp::Write | GuestOp::WriteZeroes => nbd::ErrorCode::NoSpace,
                            GuestOp::Read | GuestOp::Discard | GuestOp::Flush => nbd::ErrorCode::Invalid,
                        },
                        "the volume ends before that: it has become smaller",
                    )),
                    Err(GuestError::Corrupt) => nbd::Completion::Error(nbd::NbdError::new(
                        nbd::ErrorCode::Io,
                        "a block of the volume does not match its checksum; see `holdfast events`",
                    )),
                };
                self.connection.complete(key, completion);
            }
            ToGuest::Extents { request, extents } => {
                let Some(key) = self.answered(request, true) else { return };
                let extents = extents.into_iter().filter_map(|(len, hole)| {
                    let len = u32::try_from(len).ok()?;
                    Some(if hole { nbd::Extent::hole(len) } else { nbd::Extent::data(len) })
                });
                self.connection.complete(key, nbd::Completion::Extents(extents.collect()));
            }
        }
    }
}
