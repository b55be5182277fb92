//! The client: every connection on one thread, `depth` requests in flight on each, woken by poll(2).
//!
//! One thread, because what is measured shares its processors with the client. At depth 1 a request costs the client three
//! system calls (send, poll, receive).

use super::plan::Plan;
use super::sample::Sample;
use super::source::Source;
use super::uri::{Export, Place};
use bytes::{Buf, Bytes, BytesMut};
use holdfast_nbd::{Client, ClientConfig, ClientEvent, ClientRequest, Cookie, ReplyData};
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Without any answer for so long, a measurement ends with an error.
const SILENCE: Duration = Duration::from_secs(60);
/// Pieces sent at once.
const VECTORS: usize = 64;

/// Why there is no figure.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Nbd(String),
    #[error("expected an answer within {SILENCE:?}, found none for {0} requests; look at `holdfast status`")]
    Silent(usize),
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    fn connect(place: &Place) -> io::Result<Stream> {
        match place {
            Place::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_nonblocking(true)?;
                Ok(Stream::Unix(stream))
            }
            Place::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                Ok(Stream::Tcp(stream))
            }
        }
    }

    fn fd(&self) -> RawFd {
        match self {
            Stream::Unix(s) => s.as_raw_fd(),
            Stream::Tcp(s) => s.as_raw_fd(),
        }
    }

    /// Appends what has arrived, as far as `buffer` has room.
    fn read(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        let spare = buffer.spare_capacity_mut();
        // SAFETY: the pointer and the length are of one part of the buffer, which nobody else uses meanwhile.
        let read = unsafe { libc::read(self.fd(), spare.as_mut_ptr().cast(), spare.len()) };
        let Ok(read) = usize::try_from(read) else { return Err(io::Error::last_os_error()) };
        // SAFETY: the kernel has initialised so many bytes behind the buffer's end.
        unsafe { buffer.set_len(buffer.len() + read) };
        Ok(read)
    }

    fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Stream::Unix(s) => s.write_vectored(pieces),
            Stream::Tcp(s) => s.write_vectored(pieces),
        }
    }
}

struct Flight {
    at: Instant,
    bytes: Option<u64>,
    block: Option<u64>,
}

/// A connection whose export is known.
struct Attached {
    stream: Stream,
    client: Client,
    unsent: VecDeque<Bytes>,
    size: u64,
}

struct Connection {
    attached: Attached,
    flights: BTreeMap<Cookie, Flight>,
    source: Source,
}

/// Open connections to the volumes of a plan.
pub(crate) struct Load {
    connections: Vec<Connection>,
    depth: usize,
}

impl Load {
    /// The plan is made to fit the smallest export: how large they are is known only now.
    ///
    /// # Errors
    /// An export that can't be attached, or that is smaller than the region that was asked for.
    pub(crate) fn open(exports: &[Export], plan: &mut Plan) -> Result<Load, LoadError> {
        let mut attached = Vec::new();
        let count = plan.connections as u64;
        for (volume, export) in (0_u64..).zip(exports) {
            for at in 0..count {
                attached.push((Attached::to(export)?, volume, at));
            }
            let (Attached { size, .. }, ..) = attached.last().expect("there is one connection at least");
            let name = if export.name.is_empty() { "the export" } else { &export.name };
            plan.fit(name, *size).map_err(|e| LoadError::Nbd(e.to_string()))?;
        }
        let connect = |(attached, volume, at): (Attached, u64, u64)| {
            Connection::new(attached, Source::new(plan, at, count, plan.seed ^ volume.rotate_left(32)))
        };
        Ok(Load { connections: attached.into_iter().map(connect).collect(), depth: plan.depth })
    }

    /// Processes at the other end of Unix sockets.
    pub(crate) fn servers(&self) -> Vec<u32> {
        self.connections.iter().filter_map(|c| peer(&c.attached.stream)).collect()
    }

    /// Requests for `duration`; those that were sent in it are waited for and counted.
    ///
    /// # Errors
    /// A connection broke, a request failed, or nothing was answered for long.
    pub(crate) fn run(&mut self, duration: Duration) -> Result<Sample, LoadError> {
        let mut sample = Sample::new();
        let start = Instant::now();
        let end = start + duration;
        let mut polls: Vec<libc::pollfd> = self
            .connections
            .iter()
            .map(|c| libc::pollfd { fd: c.attached.stream.fd(), events: 0, revents: 0 })
            .collect();
        loop {
            let now = Instant::now();
            let mut waiting = 0;
            for (connection, poll) in self.connections.iter_mut().zip(&mut polls) {
                if now < end {
                    connection.fill(self.depth, now)?;
                }
                connection.attached.send()?;
                waiting += connection.flights.len();
                poll.events = libc::POLLIN | if connection.attached.unsent.is_empty() { 0 } else { libc::POLLOUT };
            }
            if waiting == 0 {
                break;
            }
            wait(&mut polls, waiting)?;
            for (connection, poll) in self.connections.iter_mut().zip(&polls) {
                if poll.revents & !libc::POLLOUT != 0 {
                    connection.receive(&mut sample)?;
                }
            }
        }
        sample.elapsed = start.elapsed();
        Ok(sample)
    }

    /// Writes the whole region of every volume once, and flushes. `done` hears of the bytes written.
    ///
    /// # Errors
    /// As [`Load::run`].
    pub(crate) fn fill(&mut self, plan: &Plan, done: &mut dyn FnMut(u64)) -> Result<(), LoadError> {
        const PIECE: u64 = 512 << 10;
        let pattern = Bytes::from((0..PIECE).map(|i| ((i * 131) >> 3).to_le_bytes()[0] | 1).collect::<Vec<u8>>());
        let mut sample = Sample::new();
        let each = plan.connections;
        for connection in self.connections.iter_mut().step_by(each) {
            let mut at = 0;
            while at < plan.region || !connection.flights.is_empty() {
                while at < plan.region && connection.flights.len() < 16 {
                    let len = PIECE.min(plan.region - at);
                    let data = pattern.slice(..usize::try_from(len).expect("512 KiB at most"));
                    let request = ClientRequest::Write { offset: at, data, fua: false };
                    connection.issue(request, Some(len), None, Instant::now())?;
                    at += len;
                }
                connection.turn(&mut sample)?;
                done(std::mem::take(&mut sample.bytes));
            }
            connection.issue(ClientRequest::Flush, None, None, Instant::now())?;
            while !connection.flights.is_empty() {
                connection.turn(&mut sample)?;
            }
        }
        Ok(())
    }
}

fn wait(polls: &mut [libc::pollfd], waiting: usize) -> Result<(), LoadError> {
    let count = libc::nfds_t::try_from(polls.len()).expect("far fewer connections than that");
    let millis = i32::try_from(SILENCE.as_millis()).expect("a minute");
    // SAFETY: the pointer and the count are of one slice, which lives through the call.
    match unsafe { libc::poll(polls.as_mut_ptr(), count, millis) } {
        0 => Err(LoadError::Silent(waiting)),
        n if n > 0 => Ok(()),
        _ => {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error.into()) }
        }
    }
}

impl Attached {
    fn to(export: &Export) -> Result<Attached, LoadError> {
        let shown = || format!("cannot attach to {:?} at {:?}", export.name, export.place);
        let stream = Stream::connect(&export.place).map_err(|e| LoadError::Nbd(format!("{}: {e}", shown())))?;
        let client = Client::new(ClientConfig { structured: false, ..ClientConfig::new(&export.name) });
        let mut attached = Attached { stream, client, unsent: VecDeque::new(), size: 0 };
        loop {
            if let Some(event) = attached.client.next_event() {
                match event {
                    ClientEvent::Ready(info) => attached.size = info.size,
                    ClientEvent::Failed(error) => return Err(LoadError::Nbd(format!("{}: {error}", shown()))),
                    ClientEvent::Reply { .. } => {
                        return Err(LoadError::Nbd(format!("{}: a reply to nothing", shown())));
                    }
                }
                return Ok(attached);
            }
            attached.send()?;
            attached.poll(0)?;
            attached.take_in()?;
        }
    }

    fn poll(&self, waiting: usize) -> Result<(), LoadError> {
        let events = libc::POLLIN | if self.unsent.is_empty() { 0 } else { libc::POLLOUT };
        wait(&mut [libc::pollfd { fd: self.stream.fd(), events, revents: 0 }], waiting)
    }

    fn send(&mut self) -> Result<(), LoadError> {
        self.unsent.extend(self.client.take_output());
        while !self.unsent.is_empty() {
            let pieces: Vec<IoSlice<'_>> = self.unsent.iter().take(VECTORS).map(|b| IoSlice::new(b)).collect();
            match self.stream.write(&pieces) {
                Ok(written) => self.sent(written),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn sent(&mut self, mut written: usize) {
        while let Some(first) = self.unsent.front_mut() {
            let part = written.min(first.len());
            first.advance(part);
            written -= part;
            if !first.is_empty() {
                return;
            }
            self.unsent.pop_front();
        }
    }

    /// Some bytes of the socket, if there are any.
    fn take_in(&mut self) -> Result<(), LoadError> {
        match self.stream.read(self.client.room()) {
            Ok(0) => Err(LoadError::Nbd("the server closed the connection".to_owned())),
            Ok(_) => Ok(()),
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

impl Connection {
    fn new(attached: Attached, source: Source) -> Connection {
        Connection { attached, flights: BTreeMap::new(), source }
    }

    fn fill(&mut self, depth: usize, now: Instant) -> Result<(), LoadError> {
        if self.source.is_empty() {
            return Ok(());
        }
        while self.flights.len() < depth {
            let issued = self.source.next();
            self.issue(issued.request, issued.bytes, issued.block, now)?;
        }
        Ok(())
    }

    fn issue(
        &mut self,
        request: ClientRequest,
        bytes: Option<u64>,
        block: Option<u64>,
        at: Instant,
    ) -> Result<(), LoadError> {
        let cookie = self.attached.client.request(request).map_err(|e| LoadError::Nbd(e.to_string()))?;
        self.flights.insert(cookie, Flight { at, bytes, block });
        Ok(())
    }

    /// Sends, waits, receives.
    fn turn(&mut self, sample: &mut Sample) -> Result<(), LoadError> {
        self.attached.send()?;
        self.attached.poll(self.flights.len())?;
        self.receive(sample)
    }

    fn receive(&mut self, sample: &mut Sample) -> Result<(), LoadError> {
        self.attached.take_in()?;
        let now = Instant::now();
        while let Some(event) = self.attached.client.next_event() {
            match event {
                ClientEvent::Reply { cookie, result: Ok(data) } => {
                    let flight = self.flights.remove(&cookie).expect("the client answers what was asked");
                    if let Some(bytes) = flight.bytes {
                        sample.note(now - flight.at, bytes);
                    }
                    if let Some(block) = flight.block {
                        let read = if let ReplyData::Data(read) = &data { Some(&read[..]) } else { None };
                        sample.mismatches += u64::from(!self.source.judge(block, read));
                    }
                }
                ClientEvent::Reply { result: Err(error), .. } => {
                    return Err(LoadError::Nbd(format!("a request failed: {error}")));
                }
                ClientEvent::Failed(error) => return Err(LoadError::Nbd(error.to_string())),
                ClientEvent::Ready(_) => {}
            }
        }
        Ok(())
    }
}

/// The process at the other end of a Unix socket.
fn peer(stream: &Stream) -> Option<u32> {
    let Stream::Unix(stream) = stream else { return None };
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = libc::socklen_t::try_from(size_of::<libc::ucred>()).expect("twelve bytes");
    // SAFETY: pointer and length are of one value of the type that SO_PEERCRED fills.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            std::ptr::from_mut(&mut credentials).cast(),
            &raw mut len,
        )
    };
    (result == 0).then(|| u32::try_from(credentials.pid).ok()).flatten()
}
