//! Which request comes next on one connection, and what a read must return.

use super::plan::{Pattern, Plan};
use bytes::{Bytes, BytesMut};
use holdfast_nbd::ClientRequest;
use holdfast_types::Rng;
use std::ops::Range;

/// Bytes that writes are cut from, so that no write has to be filled.
const POOL: usize = 4 << 20;
const BLOCK: usize = 4096;

/// One connection's requests. With `verify`, each connection has blocks of its own, so that it knows what they hold.
pub(crate) struct Source {
    pattern: Pattern,
    block: u32,
    fua: bool,
    flush_every: u64,
    /// In blocks of the plan's size.
    range: Range<u64>,
    next: u64,
    writes: u64,
    rng: Rng,
    pool: Bytes,
    /// `verify`: how often each block was written, and whether a request for it is under way.
    blocks: Vec<(u32, bool)>,
    stamp: u64,
}

/// A request, and what is needed to judge its answer.
pub(crate) struct Issued {
    pub(crate) request: ClientRequest,
    /// Counts as an operation of so many bytes; a flush counts as none.
    pub(crate) bytes: Option<u64>,
    /// `verify`: of this block.
    pub(crate) block: Option<u64>,
}

impl Source {
    /// The source of connection `at` of `count` to one volume.
    pub(crate) fn new(plan: &Plan, at: u64, count: u64, stamp: u64) -> Source {
        let blocks = plan.blocks();
        let share = |n: u64| blocks * n / count;
        // Sequential streams and verified blocks are each connection's own; all else is shared.
        let own = plan.pattern.is_sequential() || plan.pattern == Pattern::Verify;
        let range = if own { share(at)..share(at + 1) } else { 0..blocks };
        let mut rng = Rng::new(plan.seed.wrapping_add(at));
        let mut pool = vec![0; POOL + plan_block(plan)];
        for word in pool.chunks_exact_mut(8) {
            word.copy_from_slice(&rng.next_u64().to_le_bytes());
        }
        let verified = if plan.pattern == Pattern::Verify { range.end - range.start } else { 0 };
        Source {
            pattern: plan.pattern,
            block: plan.block,
            fua: plan.fua,
            flush_every: plan.flush_every,
            next: range.start,
            range,
            writes: 0,
            rng,
            pool: pool.into(),
            blocks: vec![(0, false); usize::try_from(verified).expect("a region's blocks fit into memory")],
            stamp,
        }
    }

    /// Whether it has anything to ask for.
    pub(crate) fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    pub(crate) fn next(&mut self) -> Issued {
        if self.flush_every > 0 && self.writes >= self.flush_every {
            self.writes = 0;
            return Issued { request: ClientRequest::Flush, bytes: None, block: None };
        }
        let block = self.pick();
        let write = match self.pattern {
            Pattern::Randwrite | Pattern::Write => true,
            Pattern::Randread | Pattern::Read => false,
            Pattern::Mixed => self.rng.chance(500_000),
            // What was never written has nothing to be compared with.
            Pattern::Verify => self.blocks[self.slot(block)].0 == 0 || self.rng.chance(500_000),
        };
        let offset = block * u64::from(self.block);
        let verified = (self.pattern == Pattern::Verify).then_some(block);
        let request = if write {
            self.writes += 1;
            let data = if verified.is_some() { self.stamped(block) } else { self.cut() };
            ClientRequest::Write { offset, data, fua: self.fua }
        } else {
            ClientRequest::Read { offset, len: self.block }
        };
        Issued { request, bytes: Some(u64::from(self.block)), block: verified }
    }

    fn pick(&mut self) -> u64 {
        let len = self.range.end - self.range.start;
        if self.pattern.is_sequential() {
            let block = self.next;
            self.next = if block + 1 < self.range.end { block + 1 } else { self.range.start };
            return block;
        }
        loop {
            let block = self.range.start + self.rng.below(len);
            if self.pattern != Pattern::Verify {
                return block;
            }
            let slot = self.slot(block);
            // Two requests for one block at a time have no order that could be judged.
            if !std::mem::replace(&mut self.blocks[slot].1, true) {
                return block;
            }
        }
    }

    fn slot(&self, block: u64) -> usize {
        usize::try_from(block - self.range.start).expect("a block of this source")
    }

    fn cut(&mut self) -> Bytes {
        let at = usize::try_from(self.rng.below((POOL / BLOCK) as u64)).expect("within the pool") * BLOCK;
        self.pool.slice(at..at + usize::try_from(self.block).expect("at most 1 MiB"))
    }

    fn stamped(&mut self, block: u64) -> Bytes {
        let slot = self.slot(block);
        self.blocks[slot].0 += 1;
        expected(self.stamp, block, self.blocks[slot].0, self.block)
    }

    /// An answer for a block of `verify`; false if a read returned something else than what was written last.
    pub(crate) fn judge(&mut self, block: u64, read: Option<&[u8]>) -> bool {
        let slot = self.slot(block);
        self.blocks[slot].1 = false;
        let generation = self.blocks[slot].0;
        read.is_none_or(|data| data == expected(self.stamp, block, generation, self.block))
    }
}

fn plan_block(plan: &Plan) -> usize {
    usize::try_from(plan.block).expect("at most 1 MiB")
}

/// What a block holds after its write number `generation`: every 4 KiB says which they are.
fn expected(stamp: u64, block: u64, generation: u32, len: u32) -> Bytes {
    let len = usize::try_from(len).expect("at most 1 MiB");
    let mut data = BytesMut::with_capacity(len);
    for piece in 0_u64..(len / BLOCK) as u64 {
        let mut rng = Rng::new(stamp ^ block.rotate_left(20) ^ (u64::from(generation) << 44) ^ piece);
        for _ in 0..BLOCK / 8 {
            data.extend_from_slice(&rng.next_u64().to_le_bytes());
        }
    }
    data.freeze()
}
