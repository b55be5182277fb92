//! Reading the whole image of a copy over and over, slowly, so that rot is found while another copy is still good (L9).
//!
//! A pass takes `Timers::scrub_period`; a chunk of it is read when its time has come, so an idle volume costs one read in minutes. A
//! bad block is repaired as for any other read (see `repair.rs`). What is to be zeros is read, too, although no other read looks
//! there: whoever reads the image with other tools would find what lies in it. What the overlay holds is not read from the image: its
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

/// Ranges of blocks that no copy could supply, that are named.
const MAX_NAMED: usize = 64;

/// What verifying found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Blocks that were read from the image and verified, whatever came of it.
    pub verified: u64,
    /// Blocks that were not what they are to be.
    pub mismatches: u64,
    /// Those that were repaired.
    pub repaired: u64,
    /// Those that no copy could supply; one that is found again counts again.
    pub lost: u64,
}

/// What a copy's scrub has reached, and what was found in this life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubStatus {
    /// First block that this pass has not read.
    pub next: BlockIndex,
    /// Blocks of the image.
    pub blocks: u64,
    /// The present pass was asked for by an operator.
    pub requested: bool,
    /// By whose wish the last pass of an operator was made, or is being made; 0: there was none.
    pub run: u64,
    /// What that pass has found.
    pub of_run: Found,
    /// Found in this life, by guests' reads as well.
    pub total: Found,
    /// Passes that ended in this life.
    pub passes: u64,
    /// When the present pass began, if that was in this life.
    pub started: Option<Time>,
    /// When the last pass ended.
    pub ended: Option<Time>,
    /// Blocks that no copy could supply when they were last read.
    pub unrepairable: Vec<BlockRange>,
    /// There are more of them than are named.
    pub more: bool,
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
        let status = ScrubStatus { next: BlockIndex(next.0.min(blocks)), blocks, ..ScrubStatus::default() };
        Scrub { status, pause, due: now + pause.unwrap_or_default(), reading: None }
    }

    pub(crate) fn next_timeout(&self) -> Option<Time> {
        self.pause.filter(|_| self.reading.is_none()).map(|_| self.due)
    }

    /// The status of a copy that has so many blocks by now.
    pub(crate) fn status_of(&self, blocks: u64) -> ScrubStatus {
        ScrubStatus { next: BlockIndex(self.status.next.0.min(blocks)), blocks, ..self.status.clone() }
    }

    pub(crate) fn count(&mut self, change: impl Fn(&mut Found)) {
        change(&mut self.status.total);
        if self.status.requested {
            change(&mut self.status.of_run);
        }
    }

    pub(crate) fn repaired(&mut self, block: BlockIndex) {
        self.count(|found| found.repaired += 1);
        self.forget_lost(BlockRange::new(block.0, 1));
    }

    /// Nobody has the content of a block.
    pub(crate) fn lost(&mut self, block: BlockIndex) {
        self.count(|found| found.lost += 1);
        self.forget_lost(BlockRange::new(block.0, 1));
        let ranges = &mut self.status.unrepairable;
        let at = ranges.partition_point(|r| r.start < block);
        if let Some(before) = at.checked_sub(1).and_then(|i| ranges.get_mut(i)).filter(|r| r.end() == block) {
            before.count.0 += 1;
        } else if ranges.len() < MAX_NAMED {
            ranges.insert(at, BlockRange::new(block.0, 1));
        } else {
            self.status.more = true;
        }
    }

    /// These blocks are good now.
    fn forget_lost(&mut self, good: BlockRange) {
        let ranges = std::mem::take(&mut self.status.unrepairable);
        let cut = |r: BlockRange| {
            let (start, end) = (r.start.0, r.end().0);
            let (from, to) = (good.start.0.clamp(start, end), good.end().0.clamp(start, end));
            if from >= to { [(start, end), (end, end)] } else { [(start, from), (to, end)] }
        };
        let left = ranges.into_iter().flat_map(cut).filter(|(start, end)| start < end);
        self.status.unrepairable = left.map(|(start, end)| BlockRange::new(start, end - start)).collect();
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
    pub(crate) fn on_scrub(&mut self, run: u64, bytes_per_second: u64, now: Time, out: &mut Vec<Output>) {
        if self.scrub.status.run == run {
            return;
        }
        let chunk = CHUNK * BLOCK_SIZE as u64;
        let pause = Duration::from_nanos(chunk.saturating_mul(1_000_000_000) / bytes_per_second.max(1));
        self.scrub.pause = Some(pause);
        self.scrub.due = now;
        let s = &mut self.scrub.status;
        (s.next, s.requested, s.run, s.of_run, s.started) = (BlockIndex(0), true, run, Found::default(), Some(now));
        // A read that is under way belongs to the pass before.
        self.scrub.reading = None;
        self.step_scrub(now, out);
    }

    pub(crate) fn step_scrub(&mut self, now: Time, out: &mut Vec<Output>) {
        if self.scrub.next_timeout().is_none_or(|due| now < due) {
            return;
        }
        let blocks = self.log.size().blocks().0;
        let before = std::mem::replace(&mut self.scrub.status.blocks, blocks);
        if blocks < before {
            // Nobody misses what was cut off.
            self.scrub.forget_lost(BlockRange::new(blocks, before - blocks));
        }
        let start = self.scrub.status.next.0;
        let tag = self.next_tag();
        let range = BlockRange::new(start, CHUNK.min(blocks.saturating_sub(start)));
        if range.is_empty() {
            self.end_pass(blocks, now, out);
            return;
        }
        if start == 0 {
            self.scrub.status.started = Some(now);
        }
        self.scrub.reading = Some((tag, range));
        out.push(Output::Scrub { tag, range });
    }

    fn end_pass(&mut self, blocks: u64, now: Time, out: &mut Vec<Output>) {
        let s = &mut self.scrub.status;
        s.passes += 1;
        s.next = BlockIndex(0);
        s.ended = Some(now);
        if std::mem::take(&mut s.requested) {
            let Found { verified, repaired, lost, .. } = s.of_run;
            out.push(Output::Event(format!(
                "the scrub has read the whole copy: {verified} blocks, {repaired} repaired, {lost} that no copy could supply"
            )));
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
            Ok(_) => {
                self.scrub.count(|found| found.verified += range.count.0);
                self.scrub.forget_lost(range);
                self.scrubbed_to(range.end(), now, out);
            }
            Err(ReadFault::Corrupt(block)) => self.repair(*block, tag, range, now, out),
            Err(ReadFault::NotZero(block)) => self.repair_zeros(*block, tag, range, now, out),
            // A failed copy takes no part in anything any more.
            Err(ReadFault::CopyFailed) => (self.scrub.reading, self.scrub.pause) = (None, None),
        }
        true
    }

    /// A bad block that nobody could supply: the scrub goes on behind it.
    pub(crate) fn scrub_lost(&mut self, tag: u64, block: BlockIndex, now: Time, out: &mut Vec<Output>) -> bool {
        let Some(range) = self.scrub.range_of(tag) else { return false };
        // Reads find the first bad block of their range: those before it were good.
        self.scrub.count(|found| found.verified += block.0 + 1 - range.start.0);
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
