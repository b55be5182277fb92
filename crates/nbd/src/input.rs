//! Received bytes, in one growable buffer that payloads are cut from without a copy.
//!
//! Flow: the decoder asks for a number of bytes; if they are not there, the buffer remembers how many are wanted
//! and makes room for exactly these in one piece, so that the shell's next reads land where the payload will be cut.
//!
//! Price: what had already been received of a payload when its header was decoded (at most [`READ_AHEAD`]) moves once
//! when the room is made. A payload cut from a read-ahead of several requests keeps that read-ahead alive.
//!
//! Invariant: the buffer holds at most `max(wanted, READ_AHEAD)` bytes through [`Input::receive`].

use bytes::{Buf, Bytes, BytesMut};

use crate::limits::READ_AHEAD;

/// Below this much room a new read-ahead is allocated; above it the rest of the old one is used up first.
const LOW_ROOM: usize = READ_AHEAD / 4;

#[derive(Debug, Default)]
pub(crate) struct Input {
    buffer: BytesMut,
    wanted: usize,
}

impl Input {
    /// The buffer with room for what the decoder waits for, for a shell that reads into it directly.
    pub(crate) fn room(&mut self) -> &mut BytesMut {
        let missing = self.wanted.saturating_sub(self.buffer.len());
        let spare = self.buffer.capacity() - self.buffer.len();
        if spare < missing.max(LOW_ROOM) {
            // A large payload gets a buffer of its own: reading beyond it would only make the next one move.
            self.buffer.reserve(if missing >= READ_AHEAD { missing } else { READ_AHEAD });
        }
        &mut self.buffer
    }

    /// Takes as many of `bytes` as the limit allows and says how many.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> usize {
        let limit = self.wanted.max(READ_AHEAD);
        let taken = bytes.len().min(limit.saturating_sub(self.buffer.len()));
        self.room().extend_from_slice(&bytes[..taken]);
        taken
    }

    pub(crate) fn is_full(&self) -> bool {
        self.buffer.len() >= self.wanted.max(READ_AHEAD)
    }

    pub(crate) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// The next `N` bytes, consumed; a fixed header is cheaper to copy than to cut.
    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let Some(array) = self.buffer.first_chunk::<N>().copied() else {
            self.wanted = N;
            return None;
        };
        self.buffer.advance(N);
        self.wanted = 0;
        Some(array)
    }

    /// The next `N` bytes without consuming them.
    pub(crate) fn peek<const N: usize>(&mut self) -> Option<[u8; N]> {
        let found = self.buffer.first_chunk::<N>().copied();
        self.wanted = if found.is_some() { 0 } else { N };
        found
    }

    /// The next `length` bytes, cut from the buffer without a copy.
    pub(crate) fn take(&mut self, length: usize) -> Option<Bytes> {
        if self.buffer.len() < length {
            self.wanted = length;
            return None;
        }
        self.wanted = 0;
        Some(self.buffer.split_to(length).freeze())
    }

    /// Drops up to `length` bytes and says how many.
    pub(crate) fn skip(&mut self, length: u32) -> u32 {
        self.wanted = 0;
        let available = u32::try_from(self.buffer.len()).unwrap_or(u32::MAX);
        let skipped = length.min(available);
        self.buffer.advance(crate::wire::wide(skipped));
        skipped
    }

    /// Drops everything, memory included.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}
