//! Guests' requests at an active primary.
//!
//! A write that covers whole blocks gets its LSN at once. A sub-block write locks its range, waits until what overlaps its
//! edge blocks is committed, reads those blocks, merges, and only then gets its LSN; whatever overlaps a locked range
//! queues behind it. So records speak in whole blocks and replay is idempotent (trap 18). A read waits until no
//! uncommitted record overlaps it (S4, S9), is fetched, and is answered only if the lease is valid *after* the fetch
//! (trap 5).

use crate::api::{GuestError, GuestOp, Output, Request, RequestKey};
use crate::log::Log;
use crate::replica::{Replica, Role};
use bytes::{Bytes, BytesMut};
use holdfast_format::{Draft, Record, RecordKind};
use holdfast_types::{
    Answerable, BLOCK_SIZE, BlockIndex, BlockRange, ByteOffset, Lsn, Mutant, Quorum, ReadFault, SessionId, Time,
    mutated,
};
use std::collections::{BTreeMap, VecDeque};

/// An appended write that is not committed here yet.
#[derive(Clone, Copy, Debug)]
struct Written {
    lsn: Lsn,
    range: BlockRange,
    /// Whom to answer; `None` once answered.
    key: Option<RequestKey>,
    /// Answered only when a quorum holds it durably.
    fua: bool,
    /// What it counts among the admitted bytes; 0 once answered. A connection that closes takes nothing off: the record stays in the
    /// journal and in memory until it is committed, and whoever connects again and again would fill both.
    bytes: usize,
}

/// A flush that waits until what was answered before it is durable on a quorum (S3).
#[derive(Clone, Copy, Debug)]
struct Flushing {
    key: RequestKey,
    after: Lsn,
}

/// A sub-block request that holds its range.
#[derive(Clone, Debug)]
struct Merge {
    request: Request,
    range: BlockRange,
    /// Edge blocks whose old content is needed, and the content once read.
    edges: Vec<(BlockIndex, Option<Bytes>)>,
    /// Starts reading when this is committed here.
    after: Lsn,
    reading: bool,
}

#[derive(Clone, Debug)]
struct Reading {
    key: RequestKey,
    offset: ByteOffset,
    len: u64,
    range: BlockRange,
    /// May be fetched when this is committed here.
    after: Lsn,
}

/// Everything guests wait for.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    written: VecDeque<Written>,
    flushes: VecDeque<Flushing>,
    /// Highest LSN of an answered write.
    answered: Lsn,
    merges: BTreeMap<u64, Merge>,
    /// Which merge and which edge a read is for.
    edge_reads: BTreeMap<u64, (u64, usize)>,
    /// Wait for a commit before they are fetched.
    waiting: Vec<Reading>,
    fetching: BTreeMap<u64, Reading>,
    /// Were fetched while there was no lease.
    unleased: Vec<Reading>,
    /// In order of arrival; overlap a locked range or each other.
    blocked: VecDeque<Request>,
    admitted_bytes: usize,
    /// While it is not known whether this primary still reigns: what it would answer. Bounded by what connections may
    /// have in flight; reads are not among it, they wait for the lease.
    withheld: Option<Vec<Output>>,
}

impl Guests {
    /// Bytes of requests that were admitted and not answered, and of records of those that nobody waits for any more.
    pub(crate) fn admitted_bytes(&self) -> usize {
        self.admitted_bytes
    }

    /// Nothing that has or will get an LSN is unanswered, and no read is under way.
    pub(crate) fn is_idle(&self) -> bool {
        let unanswered = self.written.iter().any(|w| w.key.is_some()) || !self.flushes.is_empty();
        !unanswered && self.withheld.is_none() && self.merges.is_empty() && self.fetching.is_empty()
    }

    /// From now on answers are withheld.
    pub(crate) fn doubt(&mut self) {
        self.withheld.get_or_insert_default();
    }

    /// This primary still reigns: what was withheld is said.
    pub(crate) fn believe(&mut self, out: &mut Vec<Output>) {
        out.extend(self.withheld.take().into_iter().flatten());
    }

    pub(crate) fn is_in_doubt(&self) -> bool {
        self.withheld.is_some()
    }

    /// The only way to a guest.
    fn reply(&mut self, key: RequestKey, result: Result<Vec<Bytes>, GuestError>, out: &mut Vec<Output>) {
        self.withheld.as_mut().unwrap_or(out).push(Output::Reply { key, result });
    }

    /// N5: what may be answered is, in LSN order; a write with FUA, and a flush, when a quorum holds it durably. Takes the
    /// proofs that only the tracker makes.
    pub(crate) fn answer_writes(&mut self, upto: Answerable<Lsn>, durable: Quorum<Lsn>, out: &mut Vec<Output>) {
        let out = self.withheld.as_mut().unwrap_or(out);
        for w in self.written.iter_mut().take_while(|w| w.lsn <= upto.get()) {
            if w.fua && w.lsn > durable.get() {
                continue;
            }
            if let Some(key) = w.key.take() {
                self.answered = w.lsn.max(self.answered);
                self.admitted_bytes -= std::mem::take(&mut w.bytes);
                out.push(Output::Reply { key, result: Ok(Vec::new()) });
            }
        }
        while let Some(flush) = self.flushes.pop_front_if(|f| f.after <= durable.get()) {
            out.push(Output::Reply { key: flush.key, result: Ok(Vec::new()) });
        }
    }

    /// Forgets what a closed connection wanted and has no LSN yet (S12). What has an LSN runs on, unanswered.
    pub(crate) fn session_closed(&mut self, session: SessionId) {
        for w in &mut self.written {
            if w.key.is_some_and(|k| k.session == session) {
                w.key = None;
            }
        }
        self.flushes.retain(|f| f.key.session != session);
        let mut freed = 0;
        if !mutated(Mutant::ClosedSessionLingers) {
            self.blocked.retain(|r| keep(r.key, session, cost(r), &mut freed));
            self.merges.retain(|_, m| keep(m.request.key, session, cost(&m.request), &mut freed));
        }
        for list in [&mut self.waiting, &mut self.unleased] {
            list.retain(|r| keep(r.key, session, read_cost(r), &mut freed));
        }
        self.fetching.retain(|_, r| keep(r.key, session, read_cost(r), &mut freed));
        if let Some(withheld) = &mut self.withheld {
            withheld.retain(|o| !matches!(o, Output::Reply { key, .. } if key.session == session));
        }
        self.admitted_bytes -= freed;
    }

    /// The blocks that a read under way is for.
    fn range_of(&self, tag: u64) -> Option<BlockRange> {
        if let Some(read) = self.fetching.get(&tag) {
            return Some(read.range);
        }
        let (id, slot) = self.edge_reads.get(&tag)?;
        let (block, _) = self.merges.get(id)?.edges.get(*slot)?;
        Some(BlockRange::new(block.0, 1))
    }

    /// The last uncommitted record that overlaps `range`.
    fn last_overlap(&self, range: BlockRange) -> Lsn {
        self.written.iter().rev().find(|w| w.range.overlaps(range)).map_or(Lsn::ZERO, |w| w.lsn)
    }

    fn is_locked(&self, range: BlockRange) -> bool {
        self.merges.values().any(|m| m.range.overlaps(range)) && !mutated(Mutant::NoRangeLock)
    }
}

fn keep(key: RequestKey, closed: SessionId, bytes: usize, freed: &mut usize) -> bool {
    if key.session == closed {
        *freed += bytes;
    }
    key.session != closed
}

fn cost(request: &Request) -> usize {
    request.data.len().max(BLOCK_SIZE)
}

fn read_cost(read: &Reading) -> usize {
    usize::try_from(read.len).unwrap_or(BLOCK_SIZE).max(BLOCK_SIZE)
}

fn covering(request: &Request) -> BlockRange {
    BlockRange::covering(request.offset, request.len)
}

/// Blocks that a request changes only in part.
fn edges(request: &Request) -> Vec<BlockIndex> {
    let block = BLOCK_SIZE as u64;
    let range = covering(request);
    let end = request.offset.0 + request.len;
    let mut edges = Vec::new();
    if !request.offset.0.is_multiple_of(block) {
        edges.push(range.start);
    }
    let last = BlockIndex(range.end().0 - 1);
    if !end.is_multiple_of(block) && edges.first() != Some(&last) {
        edges.push(last);
    }
    edges
}

impl Replica {
    /// N1.
    pub(crate) fn on_request(&mut self, request: Request, now: Time, out: &mut Vec<Output>) {
        let Role::Reign(r) = &mut self.role else { return };
        if !r.serves() {
            return;
        }
        if request.op == GuestOp::Flush {
            // Where every answered write is committed already, the answer itself was the flush (S3).
            r.guests.flushes.push_back(Flushing { key: request.key, after: r.guests.answered });
            self.advance(now, out);
            return;
        }
        assert!(request.len > 0, "the shell checks requests: {request:?}");
        if is_beyond(&self.log, request.offset, request.len) {
            r.guests.reply(request.key, Err(GuestError::BeyondEnd(request.op)), out);
            return;
        }
        if request.op == GuestOp::Read {
            let range = covering(&request);
            let read = Reading {
                key: request.key,
                offset: request.offset,
                len: request.len,
                range,
                after: r.guests.last_overlap(range),
            };
            r.guests.admitted_bytes += read_cost(&read);
            if r.draining {
                r.guests.waiting.push(read);
            } else {
                self.fetch(read, out);
            }
            return;
        }
        r.guests.admitted_bytes += cost(&request);
        r.guests.blocked.push_back(request);
        self.unblock(now, out);
    }

    /// Admits queued changes in order of arrival; one that overlaps a locked range, or an earlier queued one, stays.
    fn unblock(&mut self, now: Time, out: &mut Vec<Output>) {
        let Role::Reign(r) = &mut self.role else { return };
        if r.draining || r.is_pausing() {
            return;
        }
        let queue = std::mem::take(&mut r.guests.blocked);
        let mut kept: VecDeque<Request> = VecDeque::new();
        for request in queue {
            let Role::Reign(r) = &mut self.role else { return };
            let range = covering(&request);
            if r.guests.is_locked(range) || kept.iter().any(|k| covering(k).overlaps(range)) {
                kept.push_back(request);
            } else {
                self.start(request, now, out);
            }
        }
        if let Role::Reign(r) = &mut self.role {
            r.guests.blocked = kept;
        }
    }

    fn start(&mut self, request: Request, now: Time, out: &mut Vec<Output>) {
        let edges = edges(&request);
        if edges.is_empty() {
            self.write(&request, &[], out);
            return;
        }
        let id = self.next_tag();
        let Role::Reign(r) = &mut self.role else { return };
        let after = edges.iter().map(|b| r.guests.last_overlap(BlockRange::new(b.0, 1))).max().unwrap_or(Lsn::ZERO);
        let range = covering(&request);
        let edges = edges.into_iter().map(|b| (b, None)).collect();
        r.guests.merges.insert(id, Merge { request, range, edges, after, reading: false });
        self.step_merge(id, now, out);
    }

    fn step_merge(&mut self, id: u64, now: Time, out: &mut Vec<Output>) {
        let committed = self.log.positions.committed;
        let first_tag = self.next_tag;
        let Role::Reign(r) = &mut self.role else { return };
        let Some(merge) = r.guests.merges.get_mut(&id) else { return };
        if !merge.reading && (merge.after <= committed || mutated(Mutant::MergeDoesNotWait)) {
            merge.reading = true;
            for (slot, (block, _)) in merge.edges.iter().enumerate() {
                self.next_tag += 1;
                r.guests.edge_reads.insert(self.next_tag, (id, slot));
                out.push(Output::Read { tag: self.next_tag, range: BlockRange::new(block.0, 1) });
            }
            assert!(self.next_tag > first_tag, "a merge has an edge");
            return;
        }
        // Between two epochs nothing gets an LSN (M1); it goes on in the next one.
        let complete = merge.edges.iter().all(|(_, content)| content.is_some());
        if complete && !r.is_pausing() {
            let merge = r.guests.merges.remove(&id).expect("it was just found");
            let edges: Vec<(BlockIndex, Bytes)> = merge.edges.into_iter().filter_map(|(b, c)| Some((b, c?))).collect();
            self.write(&merge.request, &edges, out);
            self.unblock(now, out);
        }
    }

    /// N2: seals and appends.
    fn write(&mut self, request: &Request, edges: &[(BlockIndex, Bytes)], out: &mut Vec<Output>) {
        let range = covering(request);
        // The volume may have become smaller since it was asked: what comes behind that in the log is behind it here.
        if let Role::Reign(r) = &mut self.role
            && is_beyond(&self.log, request.offset, request.len)
        {
            r.guests.admitted_bytes -= cost(request);
            r.guests.reply(request.key, Err(GuestError::BeyondEnd(request.op)), out);
            return self.step_drain(out);
        }
        let (kind, head, tail, body) = match request.op {
            GuestOp::Write => (RecordKind::Write, false, false, merged_write(request, range, edges)),
            GuestOp::WriteZeroes | GuestOp::Discard => {
                let kind = if request.op == GuestOp::Discard { RecordKind::Discard } else { RecordKind::WriteZeroes };
                let head = edges.iter().any(|(b, _)| *b == range.start);
                (kind, head, edges.len() > usize::from(head), merged_zeroes(request, edges))
            }
            GuestOp::Read | GuestOp::Flush => unreachable!("only changes are logged"),
        };
        let epoch = match &self.role {
            Role::Reign(r) => r.epoch(),
            _ => unreachable!("only a reign writes"),
        };
        let record = Record::seal(Draft {
            volume: self.view.volume,
            epoch,
            lsn: self.log.last().next(),
            prev_hash: self.log.last_hash(),
            committed: self.log.positions.committed,
            kind,
            head,
            tail,
            range,
            body,
        });
        let written =
            Written { lsn: record.lsn(), range, key: Some(request.key), fua: request.fua, bytes: cost(request) };
        if let Role::Reign(r) = &mut self.role {
            r.guests.written.push_back(written);
        }
        self.append(record, out);
    }

    fn fetch(&mut self, read: Reading, out: &mut Vec<Output>) {
        let committed = self.log.positions.committed;
        let tag = self.next_tag();
        let Role::Reign(r) = &mut self.role else { return };
        let too_early = mutated(Mutant::ReadDoesNotWait) || mutated(Mutant::ReadsSeeUncommitted);
        if read.after > committed && !too_early {
            r.guests.waiting.push(read);
        } else {
            out.push(Output::Read { tag, range: read.range });
            r.guests.fetching.insert(tag, read);
        }
    }

    pub(crate) fn on_read_done(
        &mut self,
        tag: u64,
        result: Result<Vec<Bytes>, ReadFault>,
        now: Time,
        out: &mut Vec<Output>,
    ) {
        match result {
            Ok(pieces) => self.read_ended(tag, Some(pieces), now, out),
            // The copy is told of its end in the same breath, and its guests are disconnected. The next primary has the content:
            // an error here would be one that the guest's file system believes.
            Err(ReadFault::CopyFailed) => {}
            Err(ReadFault::Corrupt(block) | ReadFault::NotZero(block)) => {
                let Role::Reign(r) = &self.role else { return };
                if let Some(range) = r.guests.range_of(tag) {
                    self.repair(block, tag, range, now, out);
                }
            }
        }
    }

    /// Nobody has the content of a block that a read needs.
    pub(crate) fn read_failed(&mut self, tag: u64, now: Time, out: &mut Vec<Output>) {
        self.read_ended(tag, None, now, out);
    }

    fn read_ended(&mut self, tag: u64, data: Option<Vec<Bytes>>, now: Time, out: &mut Vec<Output>) {
        let timers = self.timers;
        let Role::Reign(r) = &mut self.role else { return };
        if let Some((id, slot)) = r.guests.edge_reads.remove(&tag) {
            self.edge_read(id, slot, data, now, out);
            return;
        }
        let Some(read) = r.guests.fetching.remove(&tag) else { return };
        let leased = mutated(Mutant::NoLeaseCheck) || (r.active && r.grants.valid(r.grants_needed(), &timers, now));
        if !leased {
            r.guests.unleased.push(read);
            return;
        }
        r.guests.admitted_bytes -= read_cost(&read);
        let result = match data {
            _ if is_beyond(&self.log, read.offset, read.len) => Err(GuestError::BeyondEnd(GuestOp::Read)),
            Some(pieces) => Ok(trim_pieces(pieces, read.offset, read.len)),
            None => Err(GuestError::Corrupt),
        };
        r.guests.reply(read.key, result, out);
        self.step_drain(out);
    }

    fn edge_read(&mut self, id: u64, slot: usize, data: Option<Vec<Bytes>>, now: Time, out: &mut Vec<Output>) {
        let Role::Reign(r) = &mut self.role else { return };
        let Some(merge) = r.guests.merges.get_mut(&id) else {
            // Its connection closed; whoever queued behind the range may go on.
            self.unblock(now, out);
            return;
        };
        let Some(pieces) = data else {
            let merge = r.guests.merges.remove(&id).expect("it was just found");
            r.guests.admitted_bytes -= cost(&merge.request);
            r.guests.reply(merge.request.key, Err(GuestError::Corrupt), out);
            self.unblock(now, out);
            return;
        };
        merge.edges[slot].1 = Some(concat(&pieces));
        self.step_merge(id, now, out);
    }

    /// More is committed here: what waited for it goes on.
    pub(crate) fn guests_committed(&mut self, now: Time, out: &mut Vec<Output>) {
        let committed = self.log.positions.committed;
        let Role::Reign(r) = &mut self.role else { return };
        while r.guests.written.front().is_some_and(|w| w.lsn <= committed && w.key.is_none()) {
            let gone = r.guests.written.pop_front().expect("looked at just now");
            r.guests.admitted_bytes -= gone.bytes;
        }
        if !r.draining {
            let waiting = std::mem::take(&mut r.guests.waiting);
            for read in waiting {
                self.fetch(read, out);
            }
        }
        let Role::Reign(r) = &self.role else { return };
        let ready: Vec<u64> =
            r.guests.merges.iter().filter(|(_, m)| !m.reading && m.after <= committed).map(|(id, _)| *id).collect();
        for id in ready {
            self.step_merge(id, now, out);
        }
    }

    /// The lease may be valid again: fetches anew what could not be answered without it.
    pub(crate) fn retry_unleased(&mut self, now: Time, out: &mut Vec<Output>) {
        let timers = self.timers;
        let Role::Reign(r) = &mut self.role else { return };
        if r.guests.unleased.is_empty() || r.draining || !r.active || !r.grants.valid(r.grants_needed(), &timers, now) {
            return;
        }
        for read in std::mem::take(&mut r.guests.unleased) {
            self.fetch(read, out);
        }
    }

    /// What waited for the next epoch goes on in it.
    pub(crate) fn guests_go_on(&mut self, now: Time, out: &mut Vec<Output>) {
        let Role::Reign(r) = &self.role else { return };
        let merges: Vec<u64> = r.guests.merges.keys().copied().collect();
        for id in merges {
            self.step_merge(id, now, out);
        }
        self.unblock(now, out);
    }

    pub(crate) fn session_closed(&mut self, session: SessionId, now: Time, out: &mut Vec<Output>) {
        if let Role::Reign(r) = &mut self.role {
            r.guests.session_closed(session);
            self.unblock(now, out);
            self.step_drain(out);
        }
    }

    /// A switchover was cancelled before the lease was released: what queued meanwhile goes on.
    pub(crate) fn resume(&mut self, now: Time, out: &mut Vec<Output>) {
        if let Role::Reign(r) = &mut self.role {
            r.draining = false;
            self.unblock(now, out);
            self.guests_committed(now, out);
        }
    }
}

/// Whether a range reaches behind the volume: behind its end at the log's end, or behind one that could still be cut.
fn is_beyond(log: &Log, offset: ByteOffset, len: u64) -> bool {
    let bytes = log.size().bytes().min(log.sizes.last().size.bytes());
    offset.0.checked_add(len).is_none_or(|end| end > bytes)
}

/// The new content of every block that a write touches.
fn merged_write(request: &Request, range: BlockRange, edges: &[(BlockIndex, Bytes)]) -> Bytes {
    assert_eq!(request.data.len() as u64, request.len, "the shell hands over all of a write's data");
    if edges.is_empty() {
        return request.data.clone();
    }
    let start = range.start.offset().0;
    let mut body = BytesMut::zeroed(index(range.count.bytes()));
    for (block, content) in edges {
        let at = index(block.offset().0 - start);
        if !mutated(Mutant::EdgesNotMerged) {
            body[at..at + BLOCK_SIZE].copy_from_slice(content);
        }
    }
    let at = index(request.offset.0 - start);
    body[at..at + request.data.len()].copy_from_slice(&request.data);
    body.freeze()
}

/// The edge blocks of a zeroed range, with the part inside the range zeroed.
fn merged_zeroes(request: &Request, edges: &[(BlockIndex, Bytes)]) -> Bytes {
    let mut body = BytesMut::with_capacity(edges.len() * BLOCK_SIZE);
    let end = request.offset.0 + request.len;
    for (block, content) in edges {
        let (from, to) = (block.offset().0, block.offset().0 + BLOCK_SIZE as u64);
        let at = body.len();
        body.extend_from_slice(content);
        let (zero_from, zero_to) = (request.offset.0.clamp(from, to) - from, end.clamp(from, to) - from);
        let (zero_from, zero_to) =
            if mutated(Mutant::ZeroesWholeBlocks) { (0, to - from) } else { (zero_from, zero_to) };
        body[at + index(zero_from)..at + index(zero_to)].fill(0);
    }
    body.freeze()
}

fn index(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a request's bytes fit in memory")
}

/// The pieces in one; a single one is not copied.
pub(crate) fn concat(pieces: &[Bytes]) -> Bytes {
    match pieces {
        [one] => one.clone(),
        pieces => pieces.concat().into(),
    }
}

/// Cuts pieces that cover whole blocks down to the bytes that were asked for.
fn trim_pieces(pieces: Vec<Bytes>, offset: ByteOffset, len: u64) -> Vec<Bytes> {
    let mut skip = if mutated(Mutant::ReadsFromBlockStart) { 0 } else { index(offset.0 % BLOCK_SIZE as u64) };
    let mut left = index(len);
    let mut trimmed = Vec::with_capacity(pieces.len());
    for mut piece in pieces {
        let drop = skip.min(piece.len());
        skip -= drop;
        let _ = piece.split_to(drop);
        piece.truncate(left);
        left -= piece.len();
        if !piece.is_empty() {
            trimmed.push(piece);
        }
    }
    assert_eq!(left, 0, "the store returns the whole range");
    trimmed
}
