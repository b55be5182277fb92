//! Reading the whole image of a copy over and over, slowly, so that rot is found while another copy is still good (L9).
//!
//! A pass takes `Timers::scrub_period`; a chunk of it is read when its time has come, so an idle volume costs one read in minutes. A
//! bad block is repaired as for any other read (see `repair.rs`). What the overlay holds is not read from the image: its
//! blocks are written anew anyway. The position is kept by the store, so a restart goes on where the last life stopped.
//!
//! An operator's pass (`Input::Scrub`) starts at the first block and has a rate of its own.

use crate::api::Output;
use crate::replica::Replica;
use bytes::Bytes;
use holdfast_types::{BLOCK_SIZE, BlockIndex, BlockRange, ReadFault, Time};
use std::time::Duration;

/// Blocks read at a time: 1 MiB.
const CHUNK: u64 = (1 << 20) / BLOCK_SIZE as u64;
/// The store keeps the position every so many chunks.
const KEPT_EVERY: u64 = 1024;

/// What a copy's scrub has reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubStatus {
    /// First block that this pass has not read.
    pub next: BlockIndex,
    /// Asked for by an operator.
    pub requested: bool,
    /// Bad blocks that this life found and repaired.
    pub repaired: u64,
    /// Bad blocks that this life found and no copy could supply.
    pub lost: u64,
    /// Passes that ended in this life.
    pub passes: u64,
}

#[derive(Debug)]
pub(crate) struct Scrub {
    pub(crate) status: ScrubStatus,
    /// Pause between two chunks; none: the scrub is off.
    pause: Option<Duration>,
    due: Time,
    reading: Option<(u64, BlockRange)>,
}

impl Scrub {
    pub(crate) fn new(next: BlockIndex, blocks: u64, period: Duration, now: Time) -> Scrub {
        let pause = background(blocks, period);
        let status = ScrubStatus { next: BlockIndex(next.0.min(blocks)), ..ScrubStatus::default() };
        Scrub { status, pause, due: now + pause.unwrap_or_default(), reading: None }
    }

    pub(crate) fn next_timeout(&self) -> Option<Time> {
        self.pause.filter(|_| self.reading.is_none()).map(|_| self.due)
    }

    /// The blocks that the read `tag` of the scrub is for.
    pub(crate) fn range_of(&self, tag: u64) -> Option<BlockRange> {
        self.reading.filter(|(t, _)| *t == tag).map(|(_, range)| range)
    }
}

/// The pause between chunks that makes a pass take `period`; none if that is zero.
fn background(blocks: u64, period: Duration) -> Option<Duration> {
    let chunks = u32::try_from(blocks.div_ceil(CHUNK)).unwrap_or(u32::MAX).max(1);
    (period > Duration::ZERO).then(|| period / chunks)
}

impl Replica {
    /// An operator wants the whole copy read now, at this rate.
    pub(crate) fn on_scrub(&mut self, bytes_per_second: u64, now: Time, out: &mut Vec<Output>) {
        let chunk = CHUNK * BLOCK_SIZE as u64;
        let pause = Duration::from_nanos(chunk.saturating_mul(1_000_000_000) / bytes_per_second.max(1));
        self.scrub.pause = Some(pause);
        self.scrub.due = now;
        (self.scrub.status.next, self.scrub.status.requested) = (BlockIndex(0), true);
        self.step_scrub(now, out);
    }

    pub(crate) fn step_scrub(&mut self, now: Time, out: &mut Vec<Output>) {
        if self.scrub.next_timeout().is_none_or(|due| now < due) {
            return;
        }
        let blocks = self.view.size.blocks().0;
        let start = self.scrub.status.next.0;
        let tag = self.next_tag();
        let range = BlockRange::new(start, CHUNK.min(blocks - start));
        if range.is_empty() {
            self.end_pass(blocks, now, out);
            return;
        }
        self.scrub.reading = Some((tag, range));
        out.push(Output::Read { tag, range });
    }

    fn end_pass(&mut self, blocks: u64, now: Time, out: &mut Vec<Output>) {
        let s = &mut self.scrub.status;
        s.passes += 1;
        s.next = BlockIndex(0);
        if std::mem::take(&mut s.requested) {
            let text = format!(
                "the scrub has read the whole copy; since the agent started {} bad blocks were repaired and {} could not be",
                s.repaired, s.lost
            );
            out.push(Output::Event(text));
        }
        self.scrub.pause = background(blocks, self.timers.scrub_period);
        self.scrub.due = now + self.scrub.pause.unwrap_or_default();
        out.push(Output::Scrubbed(BlockIndex(0)));
    }

    /// A read ended; true if it was the scrub's.
    pub(crate) fn scrub_read(
        &mut self,
        tag: u64,
        result: &Result<Vec<Bytes>, ReadFault>,
        now: Time,
        out: &mut Vec<Output>,
    ) -> bool {
        let Some(range) = self.scrub.range_of(tag) else { return false };
        match result {
            Ok(_) => self.scrubbed_to(range.end(), now, out),
            Err(ReadFault::Corrupt(block)) => self.repair(*block, tag, range, now, out),
            // A failed copy takes no part in anything any more.
            Err(ReadFault::CopyFailed) => (self.scrub.reading, self.scrub.pause) = (None, None),
        }
        true
    }

    /// A bad block that nobody could supply: the scrub goes on behind it.
    pub(crate) fn scrub_lost(&mut self, tag: u64, block: BlockIndex, now: Time, out: &mut Vec<Output>) -> bool {
        let Some(_) = self.scrub.range_of(tag) else { return false };
        self.scrub.status.lost += 1;
        self.scrubbed_to(BlockIndex(block.0 + 1), now, out);
        true
    }

    fn scrubbed_to(&mut self, next: BlockIndex, now: Time, out: &mut Vec<Output>) {
        let before = self.scrub.status.next.0 / (CHUNK * KEPT_EVERY);
        self.scrub.reading = None;
        self.scrub.status.next = next;
        self.scrub.due = now + self.scrub.pause.unwrap_or_default();
        if next.0 / (CHUNK * KEPT_EVERY) > before {
            out.push(Output::Scrubbed(next));
        }
    }
}
