//! Transmission: requests in, replies out, in any order.
//!
//! Flow: a request's header is checked once, completely, before anything else happens. What fails is answered here (a
//! WRITE's payload is drained first, so that the stream stays in step); what passes becomes a transaction with one or
//! more pieces, each an event. A transaction is answered when its last piece is completed.
//!
//! Pieces exist for clients that never asked for block sizes and send up to [`MAX_REQUEST`]. The price: such a request is not
//! atomic, because each piece is carried out on its own. Requests up to [`MAX_PAYLOAD`] are never cut.
//!
//! Invariants: `bytes` is the sum of what the transactions were charged; a key is completed at most once; after `Stopped`
//! nothing is decoded.
//!
//! Deliberately absent: ordering between requests. The protocol asks for none beyond FLUSH covering what was answered
//! before it, and that is the shell's to keep.

use std::collections::BTreeMap;

use bytes::{Buf, Bytes};

use super::negotiation::{Session, Step};
use super::reply;
use super::types::{CloseReason, Command, Completion, Event, Export, Extent, Request, RequestKey, ServerConfig};
use crate::error::{ErrorCode, NbdError};
use crate::input::Input;
use crate::limits::{MAX_DRAIN, MAX_PAYLOAD, MAX_REQUEST, PREFERRED_BLOCK};
use crate::output::Output;
use crate::wire::{self, cmd, cmd_flag, wide};

#[derive(Debug)]
pub(super) struct Transmission {
    export: Export,
    session: Session,
    decode: Decode,
    intake: Intake,
    transactions: BTreeMap<u64, Transaction>,
    next: u64,
    /// Payload bytes of all transactions.
    bytes: usize,
    /// The part of `bytes` that reads were charged.
    reads: usize,
}

/// What the next bytes of the input are.
#[derive(Debug)]
enum Decode {
    Header,
    /// The rest of a READ or WRITE that is handed out piece by piece.
    Pieces(Cut),
    /// The payload of a WRITE that was refused.
    Drain {
        remaining: u32,
        cookie: u64,
        error: NbdError,
    },
}

#[derive(Clone, Copy, Debug)]
struct Cut {
    transaction: u64,
    offset: u64,
    remaining: u32,
}

#[derive(Clone, Copy, Debug)]
enum Intake {
    Open,
    Refusing,
    Stopped(CloseReason),
}

/// A request as it is on the wire.
#[derive(Clone, Copy, Debug)]
struct Header {
    flags: u16,
    kind: u16,
    cookie: u64,
    offset: u64,
    len: u32,
}

/// A request that passed the checks and is not yet answered.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) cookie: u64,
    pub(super) command: Command,
    pub(super) len: u32,
    pub(super) flags: u16,
    pub(super) pieces: Vec<Piece>,
    pub(super) error: Option<NbdError>,
    /// The extents of a BLOCK_STATUS.
    pub(super) extents: Vec<Extent>,
    open: usize,
    /// Bytes that were not handed out yet.
    unissued: u32,
    charged: usize,
}

#[derive(Debug)]
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) len: u32,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    /// With the shell.
    Open,
    /// Completed, nothing to send: a write, or failed.
    Nothing,
    Data(Vec<Bytes>),
    Zeroes,
}

impl Transmission {
    pub(super) fn new(export: Export, session: Session) -> Self {
        Self {
            export,
            session,
            decode: Decode::Header,
            intake: Intake::Open,
            transactions: BTreeMap::new(),
            next: 0,
            bytes: 0,
            reads: 0,
        }
    }

    /// Whether the socket should be read. A request that was admitted gets its payload, whatever the number in flight:
    /// it would wait for its own slot otherwise.
    pub(super) fn wants_input(&self, unsent: usize, config: &ServerConfig) -> bool {
        match (&self.intake, &self.decode) {
            (Intake::Stopped(_), _) => false,
            (_, Decode::Header) => self.admits(unsent, config),
            (_, Decode::Pieces(_)) => self.has_bytes(unsent, config),
            (_, Decode::Drain { .. }) => true,
        }
    }

    fn has_bytes(&self, unsent: usize, config: &ServerConfig) -> bool {
        self.bytes.saturating_add(unsent) < config.max_bytes
    }

    /// Whether one more request may be taken.
    fn admits(&self, unsent: usize, config: &ServerConfig) -> bool {
        self.transactions.len() < config.max_requests && self.has_bytes(unsent, config)
    }

    /// Bytes of the reads that were taken and not answered.
    pub(super) const fn reads(&self) -> usize {
        self.reads
    }

    pub(super) const fn is_within_request(&self) -> bool {
        matches!(self.decode, Decode::Pieces(_))
    }

    pub(super) fn in_flight(&self) -> usize {
        self.transactions.len()
    }

    /// Takes nothing more. A request that was handed out only in part stays unanswered.
    pub(super) fn stop(&mut self, reason: CloseReason) {
        if matches!(self.intake, Intake::Stopped(_)) {
            return;
        }
        self.intake = Intake::Stopped(reason);
        if let Decode::Pieces(cut) = std::mem::replace(&mut self.decode, Decode::Header) {
            let abandoned = self.transactions.remove(&cut.transaction);
            self.reads -= abandoned.as_ref().map_or(0, Transaction::read_bytes);
            self.bytes -= abandoned.map_or(0, |transaction| transaction.charged);
        }
    }

    /// Answers every further request with ESHUTDOWN.
    pub(super) fn refuse(&mut self) {
        if matches!(self.intake, Intake::Open) {
            self.intake = Intake::Refusing;
        }
    }

    /// The reason to close, once everything that was taken is answered.
    pub(super) fn finished(&self) -> Option<CloseReason> {
        match self.intake {
            Intake::Stopped(reason) if self.transactions.is_empty() => Some(reason),
            _ => None,
        }
    }

    pub(super) fn step(&mut self, input: &mut Input, output: &mut Output, config: &ServerConfig) -> Step {
        if matches!(self.intake, Intake::Stopped(_)) {
            return Step::Blocked;
        }
        let admits = self.admits(output.len(), config);
        match &mut self.decode {
            Decode::Header if !admits => Step::Blocked,
            Decode::Header => match input.array::<{ wire::REQUEST_BYTES }>() {
                Some(header) => self.request(&header, output),
                None => Step::Blocked,
            },
            Decode::Pieces(cut) => {
                let cut = *cut;
                self.piece(cut, input, output, config)
            }
            Decode::Drain { remaining, .. } => {
                *remaining -= input.skip(*remaining);
                if *remaining > 0 { Step::Blocked } else { self.drained(output) }
            }
        }
    }

    fn request(&mut self, header: &[u8], output: &mut Output) -> Step {
        let mut fields = header;
        if fields.get_u32() != wire::REQUEST_MAGIC {
            return Step::Close(CloseReason::Violation("wrong magic of a request"));
        }
        let header = Header {
            flags: fields.get_u16(),
            kind: fields.get_u16(),
            cookie: fields.get_u64(),
            offset: fields.get_u64(),
            len: fields.get_u32(),
        };
        if header.kind == cmd::DISC {
            self.intake = Intake::Stopped(CloseReason::Disconnect);
            return Step::Event(Event::Disconnect);
        }
        if header.kind == cmd::WRITE && header.len > MAX_DRAIN {
            return Step::Close(CloseReason::Violation("a payload is too long to skip"));
        }
        match self.check(&header) {
            Ok(command) => self.admit(command, &header),
            Err(error) => self.reject(&header, error, output),
        }
    }

    /// The whole validation of a request. What passes is safe to carry out as it stands.
    fn check(&self, header: &Header) -> Result<Command, NbdError> {
        let command = command_of(header.kind)?;
        if header.flags & !self.valid_flags(command) != 0 {
            return Err(NbdError::new(ErrorCode::Invalid, "a flag is unknown or not valid for this command"));
        }
        if matches!(self.intake, Intake::Refusing) {
            return Err(NbdError::new(ErrorCode::Shutdown, "the server is shutting down"));
        }
        if command == Command::Flush {
            let reserved = header.offset != 0 || header.len != 0;
            return if reserved { Err(invalid("FLUSH takes no range")) } else { Ok(command) };
        }
        let changes = matches!(command, Command::Write | Command::Trim | Command::WriteZeroes);
        if changes && self.export.read_only {
            return Err(NbdError::new(ErrorCode::Perm, "the export is read-only"));
        }
        if command == Command::BlockStatus && !self.session.allocation {
            return Err(invalid("no metadata context was selected for this export"));
        }
        if header.len == 0 {
            return Err(invalid("the length is zero"));
        }
        self.check_bounds(command, header)?;
        self.check_length(command, header)?;
        Ok(command)
    }

    fn check_bounds(&self, command: Command, header: &Header) -> Result<(), NbdError> {
        let end = header.offset.checked_add(u64::from(header.len));
        if end.is_some_and(|end| end <= self.export.size) {
            return Ok(());
        }
        let code = match command {
            Command::Write | Command::WriteZeroes => ErrorCode::NoSpace,
            _ => ErrorCode::Invalid,
        };
        Err(NbdError::new(code, "the range reaches beyond the end of the export"))
    }

    fn check_length(&self, command: Command, header: &Header) -> Result<(), NbdError> {
        let unfragmented = header.flags & cmd_flag::DF != 0;
        match command {
            Command::Read if unfragmented && header.len > MAX_PAYLOAD => {
                Err(NbdError::new(ErrorCode::Overflow, "too long to read in one chunk"))
            }
            // Only clients with structured replies know EOVERFLOW as "retry with smaller requests".
            Command::Read if self.session.structured && header.len > MAX_REQUEST => {
                Err(NbdError::new(ErrorCode::Overflow, "too long to read"))
            }
            Command::Read | Command::Write if header.len > MAX_REQUEST => Err(invalid("the payload is too long")),
            _ => Ok(()),
        }
    }

    /// FUA is accepted with every command: the protocol demands it, because clients are known to send it.
    fn valid_flags(&self, command: Command) -> u16 {
        cmd_flag::FUA
            | match command {
                Command::Read if self.session.structured => cmd_flag::DF,
                Command::WriteZeroes => cmd_flag::NO_HOLE | cmd_flag::FAST_ZERO,
                Command::BlockStatus => cmd_flag::REQ_ONE,
                _ => 0,
            }
    }

    fn reject(&mut self, header: &Header, error: NbdError, output: &mut Output) -> Step {
        let payload = if header.kind == cmd::WRITE { header.len } else { 0 };
        self.decode = Decode::Drain { remaining: payload, cookie: header.cookie, error };
        if payload == 0 { self.drained(output) } else { Step::Again }
    }

    fn drained(&mut self, output: &mut Output) -> Step {
        if let Decode::Drain { cookie, error, .. } = std::mem::replace(&mut self.decode, Decode::Header) {
            reply::error(output, self.session.structured, cookie, &error);
        }
        Step::Again
    }

    fn admit(&mut self, command: Command, header: &Header) -> Step {
        let id = self.next;
        self.next += 1;
        let moves = matches!(command, Command::Read | Command::Write);
        // A read is charged whole: its pieces are held until the last is there, so they can't wait for each other. A
        // write is charged per piece, as the payload arrives.
        let charged = if command == Command::Read { wide(header.len) } else { 0 };
        self.bytes += charged;
        self.reads += charged;
        let transaction = Transaction {
            cookie: header.cookie,
            command,
            len: header.len,
            flags: header.flags,
            pieces: Vec::with_capacity(1),
            error: None,
            extents: Vec::new(),
            open: 0,
            unissued: header.len,
            charged,
        };
        self.transactions.insert(id, transaction);
        if moves {
            self.decode = Decode::Pieces(Cut { transaction: id, offset: header.offset, remaining: header.len });
            return Step::Again;
        }
        Step::Event(Event::Request(self.issue(id, header.offset, header.len, Bytes::new())))
    }

    fn piece(&mut self, cut: Cut, input: &mut Input, output: &Output, config: &ServerConfig) -> Step {
        let len = piece_length(cut.offset, cut.remaining);
        let writes = self.transaction(cut.transaction).command == Command::Write;
        let data = if writes {
            if !self.has_bytes(output.len(), config) {
                return Step::Blocked;
            }
            let Some(data) = input.take(wide(len)) else { return Step::Blocked };
            self.bytes += data.len();
            self.transaction(cut.transaction).charged += data.len();
            data
        } else {
            Bytes::new()
        };
        let remaining = cut.remaining - len;
        self.decode = if remaining == 0 {
            Decode::Header
        } else {
            Decode::Pieces(Cut { offset: cut.offset + u64::from(len), remaining, ..cut })
        };
        Step::Event(Event::Request(self.issue(cut.transaction, cut.offset, len, data)))
    }

    /// Hands one piece to the shell.
    fn issue(&mut self, id: u64, offset: u64, len: u32, data: Bytes) -> Request {
        let transaction = self.transaction(id);
        let piece = wire::narrow(transaction.pieces.len());
        transaction.pieces.push(Piece { offset, len, content: Content::Open });
        transaction.open += 1;
        transaction.unissued -= len;
        let has = |flag| transaction.flags & flag != 0;
        Request {
            key: RequestKey { transaction: id, piece },
            command: transaction.command,
            offset,
            len,
            data,
            fua: has(cmd_flag::FUA),
            no_hole: has(cmd_flag::NO_HOLE),
            fast_zero: has(cmd_flag::FAST_ZERO),
            req_one: has(cmd_flag::REQ_ONE),
        }
    }

    fn transaction(&mut self, id: u64) -> &mut Transaction {
        self.transactions.get_mut(&id).expect("a transaction stays until its last piece was issued and completed")
    }

    /// Takes the outcome of one piece; answers the client after the last. False when the key waits for nothing.
    pub(super) fn complete(&mut self, key: RequestKey, completion: Completion, output: &mut Output) -> bool {
        let Some(transaction) = self.transactions.get_mut(&key.transaction) else { return false };
        let Some(released) = transaction.complete(key.piece, completion) else { return false };
        self.bytes -= released;
        if transaction.open > 0 || transaction.unissued > 0 {
            return true;
        }
        if let Some(transaction) = self.transactions.remove(&key.transaction) {
            self.bytes -= transaction.charged;
            self.reads -= transaction.read_bytes();
            reply::transaction(output, self.session.structured, transaction);
        }
        true
    }
}

impl Transaction {
    fn read_bytes(&self) -> usize {
        if self.command == Command::Read { self.charged } else { 0 }
    }

    /// Stores the outcome of a piece and says how many bytes are no longer held; none when the piece isn't open.
    fn complete(&mut self, piece: u32, completion: Completion) -> Option<usize> {
        let piece = self.pieces.get_mut(wide(piece)).filter(|piece| matches!(piece.content, Content::Open))?;
        let outcome = match (self.command, completion) {
            (_, Completion::Error(error)) => Err(error),
            (Command::Read, Completion::Data(data)) if total(&data) == Some(wide(piece.len)) => Ok(Content::Data(data)),
            (Command::Read, Completion::Zeroes) => Ok(Content::Zeroes),
            (Command::BlockStatus, Completion::Extents(extents)) => {
                self.extents = extents;
                Ok(Content::Nothing)
            }
            (Command::Read | Command::BlockStatus, _) => Err(mismatch()),
            (_, Completion::Done) => Ok(Content::Nothing),
            (_, _) => Err(mismatch()),
        };
        piece.content = outcome.unwrap_or_else(|error| {
            self.error.get_or_insert(error);
            Content::Nothing
        });
        self.open -= 1;
        let released = if self.command == Command::Write { wide(piece.len) } else { 0 };
        self.charged -= released;
        Some(released)
    }
}

/// A wrong answer must never reach the stream, where it would be taken for another reply.
fn mismatch() -> NbdError {
    NbdError::new(ErrorCode::Io, "internal error: the answer does not fit the request")
}

fn invalid(message: &'static str) -> NbdError {
    NbdError::new(ErrorCode::Invalid, message)
}

fn total(data: &[Bytes]) -> Option<usize> {
    data.iter().try_fold(0_usize, |sum, part| sum.checked_add(part.len()))
}

fn command_of(kind: u16) -> Result<Command, NbdError> {
    match kind {
        cmd::READ => Ok(Command::Read),
        cmd::WRITE => Ok(Command::Write),
        cmd::FLUSH => Ok(Command::Flush),
        cmd::TRIM => Ok(Command::Trim),
        cmd::CACHE => Ok(Command::Cache),
        cmd::WRITE_ZEROES => Ok(Command::WriteZeroes),
        cmd::BLOCK_STATUS => Ok(Command::BlockStatus),
        _ => Err(invalid("unknown command")),
    }
}

/// The length of the next piece: all that is left if it fits, otherwise up to a cut between two blocks.
fn piece_length(offset: u64, remaining: u32) -> u32 {
    if remaining <= MAX_PAYLOAD {
        return remaining;
    }
    let block = u64::from(PREFERRED_BLOCK);
    let beyond = u32::try_from(offset % block).expect("a remainder is smaller than the block");
    MAX_PAYLOAD - beyond
}
