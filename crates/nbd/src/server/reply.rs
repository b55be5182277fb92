//! Replies of the transmission phase, simple or structured.
//!
//! With structured replies, READ, BLOCK_STATUS and every error are structured (errors then carry a text); other
//! successes stay simple, which the protocol allows and costs four bytes less.

use bytes::{BufMut, Bytes};

use super::ALLOCATION_CONTEXT;
use super::transmission::{Content, Piece, Transaction};
use super::types::{Command, Extent};
use crate::error::{ErrorCode, NbdError, bounded};
use crate::limits::{MAX_EXTENTS, READ_AHEAD};
use crate::output::Output;
use crate::wire::{self, chunk, cmd_flag, narrow, wide};

static ZEROES: [u8; READ_AHEAD] = [0; READ_AHEAD];

/// Answers a request whose pieces are all completed.
pub(super) fn transaction(output: &mut Output, structured: bool, transaction: Transaction) {
    let cookie = transaction.cookie;
    if let Some(failure) = &transaction.error {
        return error(output, structured, cookie, failure);
    }
    match transaction.command {
        Command::Read if structured => structured_read(output, cookie, transaction.pieces),
        Command::Read => simple_read(output, cookie, transaction.pieces),
        Command::BlockStatus => block_status(output, &transaction),
        _ => simple(output, cookie, 0),
    }
}

/// Answers a request that failed.
pub(super) fn error(output: &mut Output, structured: bool, cookie: u64, error: &NbdError) {
    if !structured {
        return simple(output, cookie, error.code.value());
    }
    let message = bounded(&error.message);
    let length = u16::try_from(message.len()).expect("a bounded text has at most 4096 bytes");
    chunk_header(output, chunk::FLAG_DONE, chunk::ERROR, cookie, 6 + u32::from(length));
    let head = output.head();
    head.put_u32(error.code.value());
    head.put_u16(length);
    head.put_slice(message.as_bytes());
}

fn simple(output: &mut Output, cookie: u64, error: u32) {
    let head = output.head();
    head.put_u32(wire::SIMPLE_REPLY_MAGIC);
    head.put_u32(error);
    head.put_u64(cookie);
}

fn chunk_header(output: &mut Output, flags: u16, kind: u16, cookie: u64, length: u32) {
    let head = output.head();
    head.put_u32(wire::STRUCTURED_REPLY_MAGIC);
    head.put_u16(flags);
    head.put_u16(kind);
    head.put_u64(cookie);
    head.put_u32(length);
}

fn simple_read(output: &mut Output, cookie: u64, pieces: Vec<Piece>) {
    simple(output, cookie, 0);
    for piece in pieces {
        match piece.content {
            Content::Data(data) => data.into_iter().for_each(|part| output.data(part)),
            Content::Zeroes => zeroes(output, piece.len),
            Content::Open | Content::Nothing => unreachable!("a successful read has content in every piece"),
        }
    }
}

fn structured_read(output: &mut Output, cookie: u64, pieces: Vec<Piece>) {
    let last = pieces.len().saturating_sub(1);
    for (index, piece) in pieces.into_iter().enumerate() {
        // All data is at hand, so no error can follow the last chunk and it may close the reply.
        let flags = if index == last { chunk::FLAG_DONE } else { 0 };
        match piece.content {
            Content::Data(data) => {
                chunk_header(output, flags, chunk::OFFSET_DATA, cookie, 8 + piece.len);
                output.head().put_u64(piece.offset);
                data.into_iter().for_each(|part| output.data(part));
            }
            Content::Zeroes => {
                chunk_header(output, flags, chunk::OFFSET_HOLE, cookie, 12);
                output.head().put_u64(piece.offset);
                output.head().put_u32(piece.len);
            }
            Content::Open | Content::Nothing => unreachable!("a successful read has content in every piece"),
        }
    }
}

fn zeroes(output: &mut Output, length: u32) {
    let mut left = wide(length);
    while left > 0 {
        let part = left.min(ZEROES.len());
        output.data(Bytes::from_static(&ZEROES[..part]));
        left -= part;
    }
}

fn block_status(output: &mut Output, transaction: &Transaction) {
    let one = transaction.flags & cmd_flag::REQ_ONE != 0;
    let extents = fitting(&transaction.extents, transaction.len, one);
    if extents.is_empty() {
        let failure = NbdError::new(ErrorCode::Io, "internal error: no extent was found");
        return error(output, true, transaction.cookie, &failure);
    }
    let length = 4 + 8 * narrow(extents.len());
    chunk_header(output, chunk::FLAG_DONE, chunk::BLOCK_STATUS, transaction.cookie, length);
    let head = output.head();
    head.put_u32(ALLOCATION_CONTEXT);
    for extent in extents {
        head.put_u32(extent.len);
        head.put_u32(extent.flags());
    }
}

/// The extents in the form the protocol demands: none empty, neighbours with one state merged, none that begins beyond the
/// range asked for, at most one that is not longer than the range if the client wants one.
fn fitting(extents: &[Extent], asked: u32, one: bool) -> Vec<Extent> {
    let mut result: Vec<Extent> = Vec::new();
    let mut covered: u64 = 0;
    for extent in extents.iter().filter(|extent| extent.len > 0) {
        if covered >= u64::from(asked) {
            break;
        }
        covered += u64::from(extent.len);
        let full = result.len() == if one { 1 } else { MAX_EXTENTS };
        match result.last_mut() {
            Some(last) if last.flags() == extent.flags() && last.len.checked_add(extent.len).is_some() => {
                last.len += extent.len;
            }
            _ if full => break,
            _ => result.push(*extent),
        }
    }
    if one && let Some(first) = result.first_mut() {
        first.len = first.len.min(asked);
    }
    result
}
