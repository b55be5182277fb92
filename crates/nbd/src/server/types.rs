//! What crosses the border between the connection and its shell.

use bytes::Bytes;

use crate::error::NbdError;
use crate::wire::{STATE_HOLE, STATE_ZERO, rep};

/// Limits of one connection. The defaults suit a VM's disk.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Requests taken but not yet answered, at most.
    pub max_requests: usize,
    /// Payload bytes of requests taken and of replies not yet handed over, at most. The request that reaches the limit is
    /// still taken whole, so the true bound is this plus [`crate::limits::MAX_REQUEST`].
    pub max_bytes: usize,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self { max_requests: 256, max_bytes: 16 << 20 }
    }
}

/// What the shell must do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Answer with [`crate::Connection::answer_open`]; nothing else is read until then.
    Open {
        /// The export as the client named it; empty means the default export.
        name: String,
        /// Why the client asks.
        purpose: OpenPurpose,
    },
    /// Answer with [`crate::Connection::answer_list`]; nothing else is read until then.
    List,
    /// Carry out and answer with [`crate::Connection::complete`], in any order.
    Request(Request),
    /// The client is leaving in an orderly way. Requests in flight are still to be completed.
    Disconnect,
}

/// Why a client asks for an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenPurpose {
    /// To learn about it (INFO); no transmission follows.
    Inspect,
    /// To use it (GO); a refusal's text reaches the client.
    Use,
    /// To use it (EXPORT_NAME); a refusal can only close the connection.
    UseByName,
}

/// An export that a client may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// Size in bytes.
    pub size: u64,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether several connections see each other's flushed writes. True for a volume with one primary.
    pub multi_conn: bool,
    /// The canonical name, if it differs from what the client asked for.
    pub name: Option<String>,
    /// A text for humans.
    pub description: Option<String>,
}

impl Export {
    /// A writable export for any number of connections.
    pub fn new(size: u64) -> Self {
        Self { size, read_only: false, multi_conn: true, name: None, description: None }
    }
}

/// Why an export or a list is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the client's program sees.
    pub kind: RefusalKind,
    /// What the client's operator sees, for instance the name of the primary.
    pub message: String,
}

impl Refusal {
    /// A refusal with a text.
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// The kinds of refusal that the protocol knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// There is no such export here.
    Unknown,
    /// The export exists and this server won't serve it.
    Policy,
    /// The server is shutting down.
    Shutdown,
}

impl RefusalKind {
    pub(super) fn reply(self) -> u32 {
        match self {
            Self::Unknown => rep::ERR_UNKNOWN,
            Self::Policy => rep::ERR_POLICY,
            Self::Shutdown => rep::ERR_SHUTDOWN,
        }
    }
}

/// Names one request event. A large READ or WRITE arrives as several events with keys of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestKey {
    pub(super) transaction: u64,
    pub(super) piece: u32,
}

impl RequestKey {
    /// Whether it is the first, or only, event of its request.
    #[must_use]
    pub const fn is_first(&self) -> bool {
        self.piece == 0
    }
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Command {
    /// Answer with [`Completion::Data`] or [`Completion::Zeroes`].
    Read,
    /// Write `data`.
    Write,
    /// Make every write that was answered durable.
    Flush,
    /// The range is no longer needed.
    Trim,
    /// The range must read as zeroes.
    WriteZeroes,
    /// Answer with [`Completion::Extents`].
    BlockStatus,
    /// A hint that the range will be read; may be answered at once.
    Cache,
}

/// A validated request: within the export, flags known, writes only on writable exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// For the answer.
    pub key: RequestKey,
    /// What to do.
    pub command: Command,
    /// First byte; any alignment.
    pub offset: u64,
    /// Bytes; zero only for FLUSH. At most [`crate::limits::MAX_PAYLOAD`] for READ and WRITE, up to 4 GiB otherwise.
    pub len: u32,
    /// The payload of a WRITE, `len` bytes; otherwise empty.
    pub data: Bytes,
    /// Answer only when the effect is on stable storage.
    pub fua: bool,
    /// WRITE_ZEROES must leave the range allocated.
    pub no_hole: bool,
    /// WRITE_ZEROES must fail with [`crate::ErrorCode::NotSupported`] if it isn't faster than a write.
    pub fast_zero: bool,
    /// BLOCK_STATUS wants one extent only; more are cut off.
    pub req_one: bool,
}

/// The outcome of a request. One that doesn't fit its command is answered as EIO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion {
    /// Done, nothing to return.
    Done,
    /// The bytes of a READ, exactly as many as asked for.
    Data(Vec<Bytes>),
    /// The range of a READ is all zeroes; cheaper than sending them where the client allows it.
    Zeroes,
    /// The extents of a BLOCK_STATUS, consecutive from the offset asked for. They may cover less than asked, and the last may
    /// reach beyond.
    Extents(Vec<Extent>),
    /// Failed.
    Error(NbdError),
}

/// A range with one allocation state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes, not zero.
    pub len: u32,
    /// Not allocated.
    pub hole: bool,
    /// Reads as zeroes.
    pub zero: bool,
}

impl Extent {
    /// An allocated extent.
    pub fn data(len: u32) -> Self {
        Self { len, hole: false, zero: false }
    }

    /// A hole that reads as zeroes.
    pub fn hole(len: u32) -> Self {
        Self { len, hole: true, zero: true }
    }

    pub(crate) fn flags(self) -> u32 {
        (if self.hole { STATE_HOLE } else { 0 }) | (if self.zero { STATE_ZERO } else { 0 })
    }

    pub(crate) fn from_flags(len: u32, flags: u32) -> Self {
        Self { len, hole: flags & STATE_HOLE != 0, zero: flags & STATE_ZERO != 0 }
    }
}

/// How a connection winds down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownMode {
    /// Take nothing more, answer what was taken, then close. A client that reconnects (QEMU with `reconnect-delay`) sends
    /// the unanswered requests again, so its guest sees a pause and no error. The mode for upgrades and failovers.
    Reconnect,
    /// Answer every further request with ESHUTDOWN. Most clients pass that on as an I/O error, so this is the mode for a
    /// volume that is not coming back.
    Refuse,
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// NBD_CMD_DISC.
    #[error("the client disconnected")]
    Disconnect,
    /// NBD_OPT_ABORT.
    #[error("the client aborted the negotiation")]
    Abort,
    /// EXPORT_NAME for an export that is not served; the protocol leaves no other answer.
    #[error("the export was refused to a client that can't receive a message")]
    Refused,
    /// The shell asked for it.
    #[error("the server closed the connection")]
    Server,
    /// The client broke the protocol.
    #[error("the client broke the protocol: {0}")]
    Violation(&'static str),
}
