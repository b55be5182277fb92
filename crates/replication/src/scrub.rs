//! Reading the whole image of a copy over and over, slowly, so that rot is found while another copy is still good (L9).
//!
//! A pass takes `Timers::scrub_period`; a chunk of it is read when its time has come, so an idle volume costs one read in minutes. A
//! bad block is repaired as for any other read (see `repair.rs`). What is to be zeros is read, too, although no other read looks
//! there: whoever reads the image with other tools would find what lies in it. What the overlay holds is not read from the image: its
//! blocks are written anew anyway.
//!
//! An operator's pass (`Input::Scrub`) starts at the first block and has a rate of its own.
//!
//! What a life has found outlives it ([`ScrubKept`]): the position, an operator's pass, what no copy could supply. The store
//! writes it when it is news, once an hour, at the orderly end, and with whatever else it writes; so a life that ends without
//! warning costs an hour of the pass, and no finding that is older than a second.

use crate::api::Output;
use crate::replica::Replica;
use bytes::Bytes;
pub use holdfast_types::ScrubFound as Found;
use holdfast_types::{BLOCK_SIZE, BlockIndex, BlockRange, MAX_UNREPAIRABLE, ReadFault, ScrubKept, Time};
use std::time::Duration;

/// Blocks read at a time: 1 MiB.
const CHUNK: u64 = (1 << 20) / BLOCK_SIZE as u64;
/// The store writes the position every so many chunks,
const KEPT_EVERY: u64 = 1024;
/// and when it has not for so long: a month's pass over a small volume reads a chunk in hours.
const KEPT_FOR: Duration = Duration::from_hours(1);
/// What no copy could supply is written sooner, and still not block by block.
const NEWS_AFTER: Duration = Duration::from_secs(1);

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
    /// What that pass has found, in all lives that it took.
    pub of_run: Found,
    /// Found in this life, by guests' reads as well.
    pub total: Found,
    /// Passes that ended in this life.
    pub passes: u64,
    /// When the present pass began, if that was in this life.
    pub started: Option<Time>,
    /// When the last pass ended, in milliseconds since 1970; it may have been in an earlier life.
    pub ended_ms: Option<u64>,
    /// Blocks that no copy could supply when they were last read, in an earlier life perhaps.
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
    /// Bytes per second of an operator's pass.
    rate: u64,
    /// When the store was last asked to write what is kept.
    kept_at: Time,
    /// What no copy could supply has changed since.
    news: bool,
    /// This pass found more of it than is named.
    more_of_pass: bool,
}

impl Scrub {
    pub(crate) fn new(kept: &ScrubKept, blocks: u64, period: Duration, now: Time) -> Scrub {
        let requested = kept.rate > 0;
        let pause = if requested { Some(at_rate(kept.rate)) } else { background(blocks, period) };
        let status = ScrubStatus {
            next: BlockIndex(kept.next.0.min(blocks)),
            blocks,
            requested,
            run: kept.run,
            of_run: kept.of_run,
            ended_ms: (kept.ended_ms > 0).then_some(kept.ended_ms),
            unrepairable: kept.unrepairable.clone(),
            more: kept.more,
            ..ScrubStatus::default()
        };
        let due = now + pause.unwrap_or_default();
        Scrub { status, pause, due, reading: None, rate: kept.rate, kept_at: now, news: false, more_of_pass: kept.more }
    }

    fn kept(&self) -> ScrubKept {
        let s = &self.status;
        assert!(s.unrepairable.len() <= MAX_UNREPAIRABLE, "a bounded list");
        ScrubKept {
            next: s.next,
            run: s.run,
            rate: if s.requested { self.rate } else { 0 },
            of_run: s.of_run,
            ended_ms: s.ended_ms.unwrap_or(0),
            unrepairable: s.unrepairable.clone(),
            more: s.more,
        }
    }

    pub(crate) fn next_timeout(&self) -> Option<Time> {
        let chunk = self.pause.filter(|_| self.reading.is_none()).map(|_| self.due);
        let news = self.news.then(|| self.kept_at + NEWS_AFTER);
        chunk.into_iter().chain(news).min()
    }

    /// From now on the next chunk comes at most this much later.
    fn set_pause(&mut self, pause: Option<Duration>, now: Time) {
        let next = now + pause.unwrap_or_default();
        self.due = if self.pause.is_some() { self.due.min(next) } else { next };
        self.pause = pause;
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
        let ranges = &mut self.status.unrepairable;
        if ranges.iter().any(|range| range.contains(block)) {
            return;
        }
        self.news = true;
        let at = ranges.partition_point(|r| r.start < block);
        if let Some(before) = at.checked_sub(1).and_then(|i| ranges.get_mut(i)).filter(|r| r.end() == block) {
            before.count.0 += 1;
        } else if let Some(after) = ranges.get_mut(at).filter(|r| r.start.0 == block.0 + 1) {
            *after = BlockRange::new(block.0, after.count.0 + 1);
        } else if ranges.len() < MAX_UNREPAIRABLE {
            ranges.insert(at, BlockRange::new(block.0, 1));
        } else {
            (self.status.more, self.more_of_pass) = (true, true);
        }
    }

    /// These blocks are good now.
    fn forget_lost(&mut self, good: BlockRange) {
        if !self.status.unrepairable.iter().any(|lost| lost.overlaps(good)) {
            return;
        }
        self.news = true;
        let ranges = std::mem::take(&mut self.status.unrepairable);
        let cut = |r: BlockRange| {
            let (start, end) = (r.start.0, r.end().0);
            let (from, to) = (good.start.0.clamp(start, end), good.end().0.clamp(start, end));
            if from >= to { [(start, end), (end, end)] } else { [(start, from), (to, end)] }
        };
        let left = ranges.into_iter().flat_map(cut).filter(|(start, end)| start < end);
        self.status.unrepairable = left.map(|(start, end)| BlockRange::new(start, end - start)).collect();
        if self.status.unrepairable.len() > MAX_UNREPAIRABLE {
            // One was cut in two, and the last one is not named any more.
            self.status.unrepairable.truncate(MAX_UNREPAIRABLE);
            (self.status.more, self.more_of_pass) = (true, true);
        }
    }

    /// The blocks that the read `tag` of the scrub is for.
    pub(crate) fn range_of(&self, tag: u64) -> Option<BlockRange> {
        self.reading.filter(|(t, _)| *t == tag).map(|(_, range)| range)
    }
}

/// The pause between chunks that makes so many bytes a second.
fn at_rate(bytes_per_second: u64) -> Duration {
    let chunk = CHUNK * BLOCK_SIZE as u64;
    Duration::from_nanos(chunk.saturating_mul(1_000_000_000) / bytes_per_second.max(1))
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
        self.scrub.rate = bytes_per_second.max(1);
        self.scrub.pause = Some(at_rate(self.scrub.rate));
        self.scrub.due = now;
        let s = &mut self.scrub.status;
        (s.next, s.requested, s.run, s.of_run, s.started) = (BlockIndex(0), true, run, Found::default(), Some(now));
        // A read that is under way belongs to the pass before.
        self.scrub.reading = None;
        self.keep_scrub(true, now, out);
        self.step_scrub(now, out);
    }

    /// A volume that has become larger is to be read in the same time as before. An operator's pass has its rate.
    pub(crate) fn pace_scrub(&mut self, now: Time) {
        let blocks = self.log.size().blocks().0;
        let before = std::mem::replace(&mut self.scrub.status.blocks, blocks);
        if blocks == before {
            return;
        }
        if blocks < before {
            // Nobody misses what was cut off.
            self.scrub.forget_lost(BlockRange::new(blocks, before - blocks));
        }
        if !self.scrub.status.requested {
            self.scrub.set_pause(background(blocks, self.timers.scrub_period), now);
        }
    }

    /// Gives the store what is to outlive this life.
    fn keep_scrub(&mut self, at_once: bool, now: Time, out: &mut Vec<Output>) {
        let waited = now.since(self.scrub.kept_at);
        let at_once = at_once || waited >= KEPT_FOR || (self.scrub.news && waited >= NEWS_AFTER);
        if at_once {
            (self.scrub.kept_at, self.scrub.news) = (now, false);
        }
        out.push(Output::Scrubbed { kept: self.scrub.kept(), at_once });
    }

    pub(crate) fn step_scrub(&mut self, now: Time, out: &mut Vec<Output>) {
        if self.scrub.news && now.since(self.scrub.kept_at) >= NEWS_AFTER {
            self.keep_scrub(true, now, out);
        }
        if self.scrub.pause.is_none() || self.scrub.reading.is_some() || now < self.scrub.due {
            return;
        }
        self.pace_scrub(now);
        let blocks = self.scrub.status.blocks;
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
        let ended_ms = self.timers.unix_ms_at_zero + now.0 / 1_000_000;
        let s = &mut self.scrub.status;
        s.passes += 1;
        s.next = BlockIndex(0);
        s.ended_ms = Some(ended_ms);
        s.more = std::mem::take(&mut self.scrub.more_of_pass);
        if std::mem::take(&mut s.requested) {
            let Found { verified, repaired, lost, .. } = s.of_run;
            out.push(Output::Event(format!(
                "the scrub has read the whole copy: {verified} blocks, {repaired} repaired, {lost} that no copy could supply"
            )));
        }
        self.scrub.pause = background(blocks, self.timers.scrub_period);
        self.scrub.due = now + self.scrub.pause.unwrap_or_default();
        self.keep_scrub(true, now, out);
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
        self.keep_scrub(next.0 / (CHUNK * KEPT_EVERY) > before, now, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrub() -> Scrub {
        Scrub::new(&ScrubKept::default(), 1 << 20, Duration::ZERO, Time::ZERO)
    }

    fn named(scrub: &Scrub) -> Vec<(u64, u64)> {
        scrub.kept().unrepairable.iter().map(|r| (r.start.0, r.end().0)).collect()
    }

    #[test]
    fn neighbours_are_one_range_in_whatever_order_they_come() {
        let mut s = scrub();
        [7, 5, 6, 9, 6].into_iter().for_each(|block| s.lost(BlockIndex(block)));
        assert_eq!(named(&s), [(5, 7), (7, 8), (9, 10)]);
        s.forget_lost(BlockRange::new(6, 1));
        assert_eq!(named(&s), [(5, 6), (7, 8), (9, 10)]);
        assert_eq!(s.status.total.lost, 5, "one that is found again counts again");
    }

    #[test]
    fn the_list_is_bounded_whatever_is_found_and_mended() {
        let mut s = scrub();
        let most = u64::try_from(MAX_UNREPAIRABLE).expect("64");
        (0..most).for_each(|i| (0..3).for_each(|j| s.lost(BlockIndex(i * 10 + j))));
        assert_eq!((named(&s).len(), s.status.more), (MAX_UNREPAIRABLE, false));
        s.forget_lost(BlockRange::new(1, 1));
        assert_eq!((named(&s).len(), s.status.more), (MAX_UNREPAIRABLE, true), "a hole in one makes two of it");
        let mut s = scrub();
        (0..=most).for_each(|i| s.lost(BlockIndex(i * 10)));
        assert!(s.status.more && named(&s).len() == MAX_UNREPAIRABLE);
    }
}
