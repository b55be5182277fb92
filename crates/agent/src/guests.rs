//! Guests' connections: one Unix socket per volume, NBD on it, one task per connection.
//!
//! Everything here runs on the shard's thread: a request crosses no thread on its way to the replica and back. The shard
//! keeps the [`Registry`]; tasks look up there whether their volume is served, and hand requests over through a channel.
//!
//! Invariants: a connection exists only while its volume is served; when serving ends, connections are closed without
//! answering what is in flight (its fate is the next epoch's to decide), and the client sends it again elsewhere. After the
//! loop stood still nothing is said to a guest, not even what was decided before, until the shard knows that it reigns.
//!
//! Deliberately absent: access rights beyond the socket file's mode.

use crate::metrics::GuestCounters;
use crate::random;
use bytes::{Buf, Bytes};
use holdfast_nbd as nbd;
use holdfast_replication::{GuestError, GuestOp, Request, RequestKey};
use holdfast_types::{ByteOffset, RequestId, SessionId, Time, VolumeId};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore, mpsc};

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
    accepts: bool,
    /// Nothing may be said to guests now.
    mute: bool,
    resumed: Rc<Notify>,
    sessions: BTreeMap<SessionId, mpsc::UnboundedSender<ToGuest>>,
    counters: GuestCounters,
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
    std::fs::create_dir_all(dir)?;
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
    let listener = listen(&socket)?;
    let task = tokio::task::spawn_local(accept(listener, Rc::clone(shared), volume));
    let export = Export {
        name: name.to_owned(),
        size,
        serving: false,
        refusal: format!("{name} is not open yet"),
        accepts: true,
        mute: false,
        resumed: Rc::new(Notify::new()),
        sessions: BTreeMap::new(),
        counters: GuestCounters::default(),
        socket,
        listener: task,
    };
    shared.borrow_mut().exports.insert(volume, export);
    Ok(())
}

fn listen(socket: &Path) -> io::Result<UnixListener> {
    if socket.exists() {
        if std::os::unix::net::UnixStream::connect(socket).is_ok() {
            let text = format!("another process answers on {}; stop it, or choose another nbd_dir", socket.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
        }
        std::fs::remove_file(socket)?;
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
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

    /// What the clients of a volume did so far.
    pub(crate) fn counters(&self, volume: VolumeId) -> Option<&GuestCounters> {
        self.exports.get(&volume).map(|e| &e.counters)
    }

    fn counts(&mut self, volume: VolumeId, count: impl FnOnce(&mut GuestCounters)) {
        if let Some(export) = self.exports.get_mut(&volume) {
            count(&mut export.counters);
        }
    }

    /// Guests may attach, or are disconnected.
    pub(crate) fn set_serving(&mut self, volume: VolumeId, serving: bool, refusal: &str) {
        let Some(export) = self.exports.get_mut(&volume) else { return };
        export.serving = serving;
        export.refusal = refusal.to_owned();
        if !serving {
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
            return Err(unknown(format!("this socket serves {} alone, found a request for {name}", export.name)));
        }
        if !export.serving {
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
    /// A read that waits until other replies were sent, and its length.
    parked: Option<(nbd::Request, usize)>,
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
            if let Some(export) = self.shared.borrow_mut().exports.get_mut(&volume) {
                export.sessions.remove(&session);
            }
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
        if let Some((request, len)) = self.parked.take() {
            self.take_read(request, len);
        }
        let mut asked = false;
        while self.may_take() {
            let before = self.connection.reply_bytes();
            let Some(event) = self.connection.next_event() else { break };
            let nbd::Event::Request(request) = event else {
                self.on_event(event);
                continue;
            };
            if !std::mem::replace(&mut asked, true) && has_hung_up(reader.as_ref()) {
                return Taken::HungUp;
            }
            // A read is charged whole with its first piece; the other pieces follow it whatever happens.
            let more = self.connection.reply_bytes().saturating_sub(before);
            if request.command == nbd::Command::Read && more > 0 {
                self.take_read(request, more);
            } else {
                self.on_request(request);
            }
        }
        Taken::All
    }

    /// Hands a read of `len` bytes over, or puts it aside until there is room for its reply.
    fn take_read(&mut self, request: nbd::Request, len: usize) {
        let held = self.held().saturating_sub(len);
        let affords = {
            let mut registry = self.shared.borrow_mut();
            registry.account(self.accounted, held);
            self.accounted = held;
            registry.affords(held, len)
        };
        if affords {
            self.on_request(request);
            self.account();
        } else {
            self.parked = Some((request, len));
        }
    }

    /// Bytes of replies that this connection holds or has asked for.
    fn held(&self) -> usize {
        self.connection.reply_bytes() + self.unsent.iter().map(Bytes::len).sum::<usize>()
    }

    /// Tells the registry. What is parked was not asked for.
    fn account(&mut self) {
        let held = self.held().saturating_sub(self.parked.as_ref().map_or(0, |(_, len)| *len));
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

/// Writes to a guest of `volume` what was decided, as soon as it may be said. After a gap the shard's loop has its turn
/// first, and answers wait until it knows whether this node still reigns.
async fn say(
    shared: &Shared,
    volume: Option<VolumeId>,
    writer: &mut OwnedWriteHalf,
    slices: &[IoSlice<'_>],
) -> io::Result<usize> {
    poll_fn(|cx| {
        if let Some(volume) = volume {
            let registry = shared.borrow();
            if registry.stands_still() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if registry.is_mute(volume) {
                // `resumed` wakes this task.
                return Poll::Pending;
            }
        }
        Pin::new(&mut *writer).poll_write_vectored(cx, slices)
    })
    .await
}

/// Whether the client has given the connection up. What it sent before can still be read, but it may have sent it again over
/// another connection since: taken now, it would undo what was answered there (S12). A client that has not hung up by now
/// sends again later than this, and finds these requests taken.
fn has_hung_up(stream: &UnixStream) -> bool {
    let mut asked = libc::pollfd { fd: stream.as_raw_fd(), events: 0, revents: 0 };
    // SAFETY: one pollfd that lives through the call; its descriptor is open as long as `stream`.
    let found = unsafe { libc::poll(&raw mut asked, 1, 0) };
    found == 1 && asked.revents & libc::POLLHUP != 0
}

/// Drops what was written from the front.
fn advance(unsent: &mut VecDeque<Bytes>, mut written: usize) {
    while written > 0 {
        let front = unsent.front_mut().expect("no more is written than was offered");
        let taken = written.min(front.len());
        front.advance(taken);
        written -= taken;
        if front.is_empty() {
            unsent.pop_front();
        }
    }
}
