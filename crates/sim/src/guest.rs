//! Guests: clients that attach to whoever serves, and ask for everything at once.

use crate::checkers::{OpKind, sector_content};
use crate::log::Nanos;
use crate::options::{MAX_REQUEST, index};
use bytes::{Bytes, BytesMut};
use holdfast_replication::{GuestOp, Request, RequestKey};
use holdfast_types::{ByteOffset, Epoch, NodeId, RequestId, Rng, SECTOR_SIZE, SessionId, VolumeId, VolumeSize};
use std::collections::BTreeMap;

/// A request that was not answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub(crate) id: u64,
    pub(crate) kind: OpKind,
    pub(crate) first: u64,
    pub(crate) count: u64,
    pub(crate) invoked: Nanos,
    pub(crate) fua: bool,
}

/// A connection to a primary.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) node: NodeId,
    pub(crate) epoch: Epoch,
    pub(crate) pending: BTreeMap<RequestId, Pending>,
}

/// One client of one volume.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) volume: VolumeId,
    pub(crate) size: VolumeSize,
    pub(crate) session: Option<Session>,
    /// Sessions that the guest has closed and whose node does not know yet.
    pub(crate) closing: Vec<Session>,
    pub(crate) left: u64,
    /// At the end: reads every sector once, from this one on.
    pub(crate) verifying: Option<u64>,
    /// Percent of its requests that are reads: who writes soon waits for a quorum, and sees no stale primary then.
    pub(crate) reads: u64,
    rng: Rng,
}

/// What a client wants next.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) op: GuestOp,
    pub(crate) kind: OpKind,
    pub(crate) first: u64,
    pub(crate) count: u64,
    pub(crate) fua: bool,
}

impl Client {
    pub(crate) fn new(volume: VolumeId, size: VolumeSize, requests: u64, mut rng: Rng) -> Client {
        let reads = if rng.chance(300_000) { 98 } else { 40 };
        Client { reads, volume, size, session: None, closing: Vec::new(), left: requests, verifying: None, rng }
    }

    pub(crate) fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// Whether there is anything left to ask for.
    pub(crate) fn wants(&self) -> bool {
        match self.verifying {
            Some(next) => next < self.size.bytes() / SECTOR_SIZE as u64,
            None => self.left > 0,
        }
    }

    /// Nothing is asked for and nothing waits for an answer.
    pub(crate) fn is_idle(&self) -> bool {
        !self.wants() && self.session.as_ref().is_none_or(|s| s.pending.is_empty())
    }

    /// Draws a request.
    pub(crate) fn wish(&mut self) -> Wish {
        let sectors = self.size.bytes() / SECTOR_SIZE as u64;
        if let Some(first) = self.verifying {
            let count = (MAX_REQUEST / SECTOR_SIZE as u64).min(sectors - first);
            self.verifying = Some(first + count);
            return Wish { op: GuestOp::Read, kind: OpKind::Read, first, count, fua: false };
        }
        let (op, kind) = match self.rng.below(100) {
            _ if self.rng.below(100) < self.reads => (GuestOp::Read, OpKind::Read),
            0..75 => (GuestOp::Write, OpKind::Write),
            75..82 => (GuestOp::Flush, OpKind::Flush),
            82..91 => (GuestOp::WriteZeroes, OpKind::Zero),
            _ => (GuestOp::Discard, OpKind::Zero),
        };
        if kind == OpKind::Flush {
            return Wish { op, kind, first: 0, count: 0, fua: false };
        }
        let (first, count) = self.range(sectors);
        Wish { op, kind, first, count, fua: kind == OpKind::Write && first.is_multiple_of(5) }
    }

    /// Half of the requests meet in a small place, so that they overlap.
    fn range(&mut self, sectors: u64) -> (u64, u64) {
        let rng = &mut self.rng;
        let room = if rng.chance(500_000) { sectors.min(32) } else { sectors };
        let (first, count) = match rng.below(10) {
            0..4 => (rng.below(room) / 8 * 8, 8),
            4..6 => (rng.below(room), rng.range(1, 8)),
            6..8 => (rng.below(room) / 8 * 8, 8 * rng.range(1, 5)),
            8 => (rng.below(room), rng.range(1, 40)),
            _ => (rng.below(room), rng.range(1, MAX_REQUEST / SECTOR_SIZE as u64 + 1)),
        };
        (first, count.min(sectors - first))
    }
}

/// The request that a wish becomes; `id` is in every sector that it writes.
pub(crate) fn request(wish: &Wish, id: u64, key: RequestKey) -> Request {
    let offset = ByteOffset(wish.first * SECTOR_SIZE as u64);
    let len = wish.count * SECTOR_SIZE as u64;
    let data = if wish.op == GuestOp::Write { content(id, wish.first, wish.count) } else { Bytes::new() };
    Request { key, op: wish.op, offset, len, fua: wish.fua, data }
}

fn content(id: u64, first: u64, count: u64) -> Bytes {
    let mut data = BytesMut::with_capacity(index(count) * SECTOR_SIZE);
    (first..first + count).for_each(|sector| data.extend_from_slice(&sector_content(id, sector)));
    data.freeze()
}
