//! The client's half of the transmission: replies in any order, simple or in chunks.
//!
//! Flow: a reply's header names a request in flight; what may follow is known from that request, so a length that
//! does not fit is a violation before a byte of it is stored. Chunks of a READ are collected until the one marked done;
//! a READ answered in one data chunk costs no copy.

use std::collections::BTreeMap;

use bytes::{Buf, Bytes, BytesMut};

use super::{ClientError, ClientEvent, Cookie, ExportInfo, MAX_IN_FLIGHT, ReplyData, RequestError, Step};
use crate::error::{ErrorCode, NbdError};
use crate::input::Input;
use crate::limits::{MAX_REQUEST, MAX_STRING};
use crate::server::Extent;
use crate::wire::{self, chunk, cmd, wide};

/// Longest payload of a chunk without data: a text and its frame, with slack for fields of later versions.
const MAX_SMALL_CHUNK: u32 = 8192;
const _: () = assert!(MAX_SMALL_CHUNK as usize > MAX_STRING + 14);
/// The protocol's bound: 2^20 extents.
const MAX_STATUS_CHUNK: u32 = 4 + 8 * (1 << 20);

#[derive(Debug)]
pub(super) struct Transmission {
    info: ExportInfo,
    pending: BTreeMap<u64, Pending>,
    next: u64,
}

#[derive(Debug)]
struct Pending {
    kind: u16,
    offset: u64,
    len: u32,
    /// Content chunks so far: offset within the request, length, bytes (none for a hole).
    chunks: Vec<(u32, u32, Option<Bytes>)>,
    covered: u64,
    extents: Vec<Extent>,
    error: Option<NbdError>,
}

#[derive(Clone, Copy)]
struct Chunk {
    flags: u16,
    kind: u16,
    cookie: u64,
    length: u32,
}

type Violation = &'static str;

impl Transmission {
    pub(super) fn new(info: ExportInfo) -> Self {
        Self { info, pending: BTreeMap::new(), next: 1 }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn register(&mut self, kind: u16, offset: u64, len: u32) -> Result<u64, RequestError> {
        if self.pending.len() >= MAX_IN_FLIGHT {
            return Err(RequestError::TooMany);
        }
        if kind == cmd::BLOCK_STATUS && !self.info.block_status {
            return Err(RequestError::NotNegotiated);
        }
        let cookie = self.next;
        self.next += 1;
        let pending = Pending { kind, offset, len, chunks: Vec::new(), covered: 0, extents: Vec::new(), error: None };
        self.pending.insert(cookie, pending);
        Ok(cookie)
    }

    pub(super) fn step(&mut self, input: &mut Input) -> Step {
        let Some(magic) = input.peek::<4>().map(u32::from_be_bytes) else { return Step::Blocked };
        let result = match magic {
            wire::SIMPLE_REPLY_MAGIC => self.simple(input),
            wire::STRUCTURED_REPLY_MAGIC if self.info.structured => self.chunk(input),
            _ => Err("wrong magic of a reply"),
        };
        result.unwrap_or_else(|what| Step::Fail(ClientError::Violation(what)))
    }

    fn simple(&mut self, input: &mut Input) -> Result<Step, Violation> {
        let Some(header) = input.peek::<{ wire::SIMPLE_REPLY_BYTES }>() else { return Ok(Step::Blocked) };
        let mut fields = &header[4..];
        let (error, cookie) = (fields.get_u32(), fields.get_u64());
        let pending = self.pending.get(&cookie).ok_or("a reply to no request in flight")?;
        if self.info.structured && matches!(pending.kind, cmd::READ | cmd::BLOCK_STATUS) {
            return Err("a simple reply where a structured one is due");
        }
        if !pending.chunks.is_empty() || pending.error.is_some() {
            return Err("a simple reply in the middle of a structured one");
        }
        let payload = if pending.kind == cmd::READ && error == 0 { wide(pending.len) } else { 0 };
        let Some(mut reply) = input.take(wire::SIMPLE_REPLY_BYTES + payload) else { return Ok(Step::Blocked) };
        reply.advance(wire::SIMPLE_REPLY_BYTES);
        let result = match (error, pending.kind) {
            (0, cmd::READ) => Ok(ReplyData::Data(reply)),
            (0, _) => Ok(ReplyData::Done),
            _ => Err(NbdError::from(ErrorCode::from_value(error))),
        };
        self.pending.remove(&cookie);
        Ok(Step::Event(ClientEvent::Reply { cookie: Cookie(cookie), result }))
    }

    fn chunk(&mut self, input: &mut Input) -> Result<Step, Violation> {
        let Some(header) = input.peek::<{ wire::CHUNK_HEADER_BYTES }>() else { return Ok(Step::Blocked) };
        let mut fields = &header[4..];
        let chunk = Chunk {
            flags: fields.get_u16(),
            kind: fields.get_u16(),
            cookie: fields.get_u64(),
            length: fields.get_u32(),
        };
        let pending = self.pending.get_mut(&chunk.cookie).ok_or("a chunk for no request in flight")?;
        if chunk.length > pending.longest(chunk.kind)? {
            return Err("a chunk is longer than its request allows");
        }
        let Some(mut payload) = input.take(wire::CHUNK_HEADER_BYTES + wide(chunk.length)) else {
            return Ok(Step::Blocked);
        };
        payload.advance(wire::CHUNK_HEADER_BYTES);
        pending.add(chunk.kind, payload)?;
        let done = chunk.flags & chunk::FLAG_DONE != 0;
        if !done && chunk.kind == chunk::NONE {
            return Err("an empty chunk that does not end its reply");
        }
        if !done {
            return Ok(Step::Again);
        }
        let result = self.pending.remove(&chunk.cookie).ok_or("a chunk for no request in flight")?.finish()?;
        Ok(Step::Event(ClientEvent::Reply { cookie: Cookie(chunk.cookie), result }))
    }
}

impl Pending {
    /// The longest payload that a chunk of this kind may have in reply to this request.
    fn longest(&self, kind: u16) -> Result<u32, Violation> {
        match kind {
            chunk::NONE => Ok(0),
            chunk::OFFSET_DATA if self.kind == cmd::READ => Ok(8 + self.len),
            chunk::OFFSET_HOLE if self.kind == cmd::READ => Ok(12),
            chunk::BLOCK_STATUS if self.kind == cmd::BLOCK_STATUS => Ok(MAX_STATUS_CHUNK),
            _ if kind & chunk::ERROR_BIT != 0 => Ok(MAX_SMALL_CHUNK),
            _ => Err("a chunk of a kind that its request does not allow"),
        }
    }

    fn add(&mut self, kind: u16, mut payload: Bytes) -> Result<(), Violation> {
        const SHORT: Violation = "a chunk is too short";
        match kind {
            chunk::NONE => Ok(()),
            chunk::OFFSET_DATA => {
                let offset = payload.try_get_u64().map_err(|_| SHORT)?;
                let len = u32::try_from(payload.len()).map_err(|_| SHORT)?;
                self.content(offset, len, Some(payload))
            }
            chunk::OFFSET_HOLE => {
                let offset = payload.try_get_u64().map_err(|_| SHORT)?;
                let len = payload.try_get_u32().map_err(|_| SHORT)?;
                self.content(offset, len, None)
            }
            chunk::BLOCK_STATUS => self.status(payload),
            _ => self.failure(payload),
        }
    }

    /// Rejecting an overlap on arrival bounds the chunks: each covers a byte of its own.
    fn content(&mut self, offset: u64, len: u32, data: Option<Bytes>) -> Result<(), Violation> {
        let start = offset.checked_sub(self.offset).and_then(|start| u32::try_from(start).ok());
        let Some(start) = start.filter(|start| start.checked_add(len).is_some_and(|end| end <= self.len)) else {
            return Err("a chunk outside its request");
        };
        self.covered += u64::from(len);
        if len == 0 || self.covered > u64::from(self.len) {
            return Err("chunks are empty or overlap");
        }
        self.chunks.push((start, len, data));
        Ok(())
    }

    fn status(&mut self, mut payload: Bytes) -> Result<(), Violation> {
        if payload.len() < 12 || !(payload.len() - 4).is_multiple_of(8) || !self.extents.is_empty() {
            return Err("a malformed block status");
        }
        payload.advance(4);
        while let (Ok(len), Ok(flags)) = (payload.try_get_u32(), payload.try_get_u32()) {
            if len == 0 {
                return Err("an extent of no length");
            }
            self.extents.push(Extent::from_flags(len, flags));
        }
        Ok(())
    }

    fn failure(&mut self, mut payload: Bytes) -> Result<(), Violation> {
        const MALFORMED: Violation = "a malformed error";
        let code = payload.try_get_u32().map_err(|_| MALFORMED)?;
        let length = usize::from(payload.try_get_u16().map_err(|_| MALFORMED)?);
        let message = payload.get(..length).ok_or(MALFORMED)?;
        let message = String::from_utf8_lossy(message).into_owned();
        self.error.get_or_insert(NbdError::new(ErrorCode::from_value(code), message));
        Ok(())
    }

    fn finish(self) -> Result<Result<ReplyData, NbdError>, Violation> {
        if let Some(error) = self.error {
            return Ok(Err(error));
        }
        match self.kind {
            cmd::READ => self.assemble().map(|data| Ok(ReplyData::Data(data))),
            cmd::BLOCK_STATUS if self.extents.is_empty() => Err("a block status without extents"),
            cmd::BLOCK_STATUS => Ok(Ok(ReplyData::Extents(self.extents))),
            _ => Ok(Ok(ReplyData::Done)),
        }
    }

    fn assemble(mut self) -> Result<Bytes, Violation> {
        assert!(self.len <= MAX_REQUEST);
        self.chunks.sort_unstable_by_key(|(start, _, _)| *start);
        let mut expected = 0;
        for (start, len, _) in &self.chunks {
            if *start != expected {
                return Err("chunks overlap or leave a gap");
            }
            expected += len;
        }
        if expected != self.len {
            return Err("chunks don't cover the request");
        }
        if let [(_, _, Some(_))] = self.chunks.as_slice() {
            return self.chunks.pop().and_then(|(_, _, data)| data).ok_or("no data");
        }
        let mut whole = BytesMut::with_capacity(wide(self.len));
        for (_, len, data) in self.chunks {
            match data {
                Some(data) => whole.extend_from_slice(&data),
                None => whole.resize(whole.len() + wide(len), 0),
            }
        }
        Ok(whole.freeze())
    }
}
