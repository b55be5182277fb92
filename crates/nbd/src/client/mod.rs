//! An NBD client, sans-IO: handshake by GO, then pipelined requests with cookies.
//!
//! ```text
//! Handshake ──(GO granted)──> Transmission ──(disconnect)──> Closed
//!     └──(refused, violation)──────┴────(violation)────────────^
//! ```
//!
//! Flow of a shell: write [`Client::take_output`], read into [`Client::room`] (or hand bytes to [`Client::receive`]), take
//! events until there is none, issue requests after [`ClientEvent::Ready`].
//!
//! Invariants: a reply is accepted only for a request in flight and only in the form that request allows, so a hostile
//! server can make the client neither panic nor hold more than what it asked for.
//!
//! Deliberately absent: reconnecting, splitting of large requests, TLS, old servers without GO.

mod handshake;
mod transmission;

use bytes::{BufMut, Bytes, BytesMut};

use self::handshake::Handshake;
use self::transmission::Transmission;
use crate::error::NbdError;
use crate::input::Input;
use crate::output::Output;
use crate::server::Extent;
use crate::wire::{self, cmd, cmd_flag, export_flag};

/// What to ask the server for.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The export's name.
    pub export: String,
    /// Negotiate structured replies: errors come with texts, holes are not transferred.
    pub structured: bool,
    /// Negotiate `base:allocation`; needs `structured`.
    pub block_status: bool,
}

impl ClientConfig {
    /// Structured replies, no block status.
    pub fn new(export: impl Into<String>) -> Self {
        Self { export: export.into(), structured: true, block_status: false }
    }
}

/// What the server said about the export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// Size in bytes.
    pub size: u64,
    /// The transmission flags as sent.
    pub flags: u16,
    /// Structured replies were negotiated.
    pub structured: bool,
    /// `base:allocation` was negotiated.
    pub block_status: bool,
    /// Minimum block, preferred block and maximum payload, if the server told.
    pub block_sizes: Option<(u32, u32, u32)>,
}

impl ExportInfo {
    /// Whether the export refuses writes.
    pub fn read_only(&self) -> bool {
        self.flags & export_flag::READ_ONLY != 0
    }

    /// Whether several connections may share the export.
    pub fn multi_conn(&self) -> bool {
        self.flags & export_flag::CAN_MULTI_CONN != 0
    }
}

/// Names a request in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cookie(pub u64);

/// A request of the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientRequest {
    /// Read a range.
    Read {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u32,
    },
    /// Write `data`.
    Write {
        /// First byte.
        offset: u64,
        /// The payload; sent without a copy.
        data: Bytes,
        /// Answer when durable.
        fua: bool,
    },
    /// Make answered writes durable.
    Flush,
    /// Discard a range.
    Trim {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u32,
        /// Answer when durable.
        fua: bool,
    },
    /// Zero a range.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u32,
        /// Answer when durable.
        fua: bool,
        /// Keep the range allocated.
        no_hole: bool,
    },
    /// Prefetch a range.
    Cache {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u32,
    },
    /// Ask for the allocation of a range.
    BlockStatus {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u32,
        /// One extent only.
        req_one: bool,
    },
}

/// The successful outcome of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyData {
    /// Nothing to return.
    Done,
    /// The bytes read, exactly as many as asked for.
    Data(Bytes),
    /// The extents of a block status.
    Extents(Vec<Extent>),
}

/// What the client found in its input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// Requests may be issued from now on.
    Ready(ExportInfo),
    /// The connection is of no more use; requests in flight get no answer.
    Failed(ClientError),
    /// A request is answered.
    Reply {
        /// As returned by [`Client::request`].
        cookie: Cookie,
        /// The outcome.
        result: Result<ReplyData, NbdError>,
    },
}

/// Why a connection is of no more use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The server refused the export.
    #[error("the server refused the export (error {code:#x}): {message}")]
    Refused {
        /// The NBD_REP_ERR value.
        code: u32,
        /// The server's text, for humans.
        message: String,
    },
    /// The server broke the protocol.
    #[error("the server broke the protocol: {0}")]
    Violation(&'static str),
}

/// Why a request was not issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Before [`ClientEvent::Ready`] or after the end.
    #[error("the connection is not in the transmission phase")]
    NotReady,
    /// The payload is longer than 32 MiB or empty.
    #[error("the length is zero or beyond what NBD servers take")]
    Length,
    /// BLOCK_STATUS without its negotiation.
    #[error("block status was not negotiated")]
    NotNegotiated,
    /// [`MAX_IN_FLIGHT`] requests are unanswered.
    #[error("too many requests are unanswered")]
    TooMany,
}

/// Requests of one client without an answer, at most.
pub const MAX_IN_FLIGHT: usize = 4096;

/// What a step of either phase led to.
enum Step {
    Again,
    Blocked,
    Event(ClientEvent),
    Enter(ExportInfo),
    Fail(ClientError),
}

/// One connection to a server. See the module's documentation for how to drive it.
#[derive(Debug)]
pub struct Client {
    input: Input,
    output: Output,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Handshake(Handshake),
    Transmission(Transmission),
    Closed,
}

impl Client {
    /// A client of a connection that was just made; the server speaks first.
    pub fn new(config: ClientConfig) -> Self {
        Self { input: Input::default(), output: Output::default(), phase: Phase::Handshake(Handshake::new(config)) }
    }

    /// The receive buffer, with room for what is expected next.
    pub fn room(&mut self) -> &mut BytesMut {
        self.input.room()
    }

    /// Copies received bytes in, as many as the limits allow, and returns how many; offer the rest after taking events.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        if matches!(self.phase, Phase::Closed) { bytes.len() } else { self.input.receive(bytes) }
    }

    /// What to write to the socket, in order.
    pub fn take_output(&mut self) -> Vec<Bytes> {
        self.output.take()
    }

    /// Bytes that [`Client::take_output`] would give.
    pub fn output_len(&self) -> usize {
        self.output.len()
    }

    /// Requests without an answer.
    pub fn in_flight(&self) -> usize {
        match &self.phase {
            Phase::Transmission(transmission) => transmission.in_flight(),
            _ => 0,
        }
    }

    /// Bytes of memory held for received data that is not yet part of an event.
    pub fn input_capacity(&self) -> usize {
        self.input.capacity()
    }

    /// Whether the connection is of no more use.
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// The next thing that happened, if the input holds one.
    pub fn next_event(&mut self) -> Option<ClientEvent> {
        loop {
            let step = match &mut self.phase {
                Phase::Handshake(handshake) => handshake.step(&mut self.input, &mut self.output),
                Phase::Transmission(transmission) => transmission.step(&mut self.input),
                Phase::Closed => return None,
            };
            match step {
                Step::Again => {}
                Step::Blocked => return None,
                Step::Event(event) => return Some(event),
                Step::Enter(info) => {
                    self.phase = Phase::Transmission(Transmission::new(info));
                    return Some(ClientEvent::Ready(info));
                }
                Step::Fail(error) => {
                    self.phase = Phase::Closed;
                    self.input.clear();
                    return Some(ClientEvent::Failed(error));
                }
            }
        }
    }

    /// Issues a request; the answer comes as [`ClientEvent::Reply`] with the returned cookie.
    pub fn request(&mut self, request: ClientRequest) -> Result<Cookie, RequestError> {
        let Phase::Transmission(transmission) = &mut self.phase else { return Err(RequestError::NotReady) };
        let (kind, flags, offset, len) = encode(&request)?;
        let cookie = transmission.register(kind, offset, len)?;
        put_request(&mut self.output, flags, kind, cookie, offset, len);
        if let ClientRequest::Write { data, .. } = request {
            self.output.data(data);
        }
        Ok(Cookie(cookie))
    }

    /// Says goodbye: a soft disconnect. Take the output once more, then close the socket.
    pub fn disconnect(&mut self) {
        if matches!(self.phase, Phase::Transmission(_)) {
            put_request(&mut self.output, 0, cmd::DISC, 0, 0, 0);
        }
        self.phase = Phase::Closed;
        self.input.clear();
    }
}

fn put_request(output: &mut Output, flags: u16, kind: u16, cookie: u64, offset: u64, len: u32) {
    let head = output.head();
    head.put_u32(wire::REQUEST_MAGIC);
    head.put_u16(flags);
    head.put_u16(kind);
    head.put_u64(cookie);
    head.put_u64(offset);
    head.put_u32(len);
}

fn encode(request: &ClientRequest) -> Result<(u16, u16, u64, u32), RequestError> {
    let fua_flag = |fua: bool| if fua { cmd_flag::FUA } else { 0 };
    let (kind, flags, offset, len) = match request {
        ClientRequest::Read { offset, len } => (cmd::READ, 0, *offset, *len),
        ClientRequest::Write { offset, data, fua } => {
            let len = u32::try_from(data.len()).map_err(|_| RequestError::Length)?;
            (cmd::WRITE, fua_flag(*fua), *offset, len)
        }
        ClientRequest::Flush => return Ok((cmd::FLUSH, 0, 0, 0)),
        ClientRequest::Trim { offset, len, fua } => (cmd::TRIM, fua_flag(*fua), *offset, *len),
        ClientRequest::WriteZeroes { offset, len, fua, no_hole } => {
            let no_hole = if *no_hole { cmd_flag::NO_HOLE } else { 0 };
            (cmd::WRITE_ZEROES, fua_flag(*fua) | no_hole, *offset, *len)
        }
        ClientRequest::Cache { offset, len } => (cmd::CACHE, 0, *offset, *len),
        ClientRequest::BlockStatus { offset, len, req_one } => {
            (cmd::BLOCK_STATUS, if *req_one { cmd_flag::REQ_ONE } else { 0 }, *offset, *len)
        }
    };
    let moves = matches!(kind, cmd::READ | cmd::WRITE);
    if len == 0 || (moves && len > crate::limits::MAX_REQUEST) {
        return Err(RequestError::Length);
    }
    Ok((kind, flags, offset, len))
}
