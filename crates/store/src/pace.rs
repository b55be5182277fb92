//! How fast the images take what is committed, and what follows from it: when writes are slowed, when a checkpoint is due.
//!
//! ```text
//! debt (committed, not in an image)    0 ──────── soft ───────────────────── mark ────── limit
//! records go to the journal            at once     rate × (mark − debt) / (debt − soft)   rate / 4    not at all
//! ```
//!
//! At the soft mark the bound is infinite; half way from there to the mark it is the rate at which images take records. So
//! guests that write faster than that slow down little by little until both rates are equal. Above the mark, which falls
//! when images become slower, the debt shrinks while guests go on. The limit, `debt_bytes`, bounds memory and nothing else.
//! What is not committed is no debt: no image could take it, and its volume alone waits for it.
//!
//! While guests write, a batch goes to its image one write at a time: a device makes a frame of the journal durable only when it has
//! done with the image's writes before it, so many of them in flight make guests wait
//! (docs/decisions/2026-12-01-one-write-beside-guests.md). More are in flight as the debt grows, all when guests are slowed.
//!
//! The mark, and the bytes after which a checkpoint is due, are what could be replayed within half of `replay_target` at the
//! measured rate: together they are what a start replays.

use crate::config::StoreConfig;
use holdfast_types::Time;
use std::time::Duration;

/// Bytes per second, until something was measured.
const UNMEASURED: u64 = 64 << 20;
/// Busy time after which older measurements count half.
const MEMORY: u64 = 10_000_000;
/// A bound that follows from a rate is never below: a device that answers late once is not a slow one.
const LEAST: u64 = 256 << 10;
/// Time that one frame of a slowed journal stands for.
const GRAIN: u64 = 20;
/// A journal that took no record for so long has nobody who waits for it.
const QUIET: Duration = Duration::from_millis(20);

/// The pace of a shard.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Of all batches: too little where few writes were in flight for the sake of guests.
    any: Meter,
    /// Of the time in which as many were in flight as may be.
    full: Meter,
    running: bool,
    is_full: bool,
    /// Microseconds in which as many might be in flight as may be.
    full_for: u64,
    seen: Time,
    debt: u64,
    /// The journal takes no records before this, while the debt is above the soft mark.
    ready_at: Time,
    /// When the last records were issued to it.
    issued_at: Option<Time>,
    /// The journal waits for what images take.
    pressed: bool,
}

/// Bytes applied, and the microseconds in which anything was being applied.
#[derive(Debug, Default)]
struct Meter {
    bytes: u64,
    busy: u64,
}

impl Meter {
    fn runs(&mut self, micros: u64) {
        self.busy += micros;
        if self.busy > MEMORY {
            (self.bytes, self.busy) = (self.bytes / 2, self.busy / 2);
        }
    }

    /// Bytes of records that images take in a second. A few milliseconds say little.
    fn rate(&self) -> Option<u64> {
        (self.busy >= 20_000).then(|| (self.bytes.saturating_mul(1_000_000) / self.busy).max(1))
    }
}

/// When a batch began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Began {
    at: Time,
    full_for: u64,
}

impl Pace {
    pub(crate) const fn begins(&self, now: Time) -> Began {
        Began { at: now, full_for: self.full_for }
    }

    /// A batch of this many bytes of records is in an image. What of it was written with as many writes in flight as may be follows from
    /// the time: less than that, as it went slower before.
    pub(crate) fn applied(&mut self, bytes: u64, began: Began, now: Time) {
        self.any.bytes += bytes;
        let full = (self.full_for - began.full_for).saturating_add(if self.is_full {
            micros(now.since(self.seen))
        } else {
            0
        });
        let all = micros(now.since(began.at));
        self.full.bytes += bytes.saturating_mul(full.min(all)).checked_div(all).unwrap_or(0);
    }

    /// What is so after each input: the debt of all copies, whether any batch is under way, whether the journal waits for images.
    pub(crate) fn note(&mut self, now: Time, debt: u64, running: bool, pressed: bool) {
        let passed = micros(now.since(self.seen));
        if self.running {
            self.any.runs(passed);
        }
        if self.running && self.is_full {
            self.full.runs(passed);
        }
        self.full_for += if self.is_full { passed } else { 0 };
        (self.seen, self.debt, self.running, self.pressed) = (now, debt, running, pressed);
    }

    /// Bytes of records that images take in a second.
    pub(crate) fn rate(&self) -> u64 {
        self.any.rate().max(self.full.rate()).unwrap_or(UNMEASURED)
    }

    fn within(&self, time: Duration) -> u64 {
        (u128::from(self.rate()) * time.as_micros() / 1_000_000).try_into().unwrap_or(u64::MAX)
    }

    /// Debt is brought below it.
    pub(crate) fn mark(&self, config: &StoreConfig) -> u64 {
        self.within(config.replay_target / 2).max(LEAST).min(config.debt_bytes)
    }

    fn soft(&self, config: &StoreConfig) -> u64 {
        self.mark(config) / 2
    }

    /// Images don't wait for more to be written with.
    pub(crate) fn hurries(&self, config: &StoreConfig) -> bool {
        self.debt >= self.start(config)
    }

    fn start(&self, config: &StoreConfig) -> u64 {
        config.apply_start_bytes.min(self.soft(config) / 2)
    }

    /// How many writes of a batch are in flight.
    pub(crate) fn width(&mut self, now: Time, config: &StoreConfig) -> usize {
        let width = self.wanted_width(now, config);
        self.is_full = width == config.apply_in_flight;
        width
    }

    fn wanted_width(&self, now: Time, config: &StoreConfig) -> usize {
        let quiet = self.issued_at.is_none_or(|at| now >= at + QUIET);
        if quiet || self.pressed {
            return config.apply_in_flight;
        }
        let (start, soft) = (self.start(config), self.soft(config));
        let over = self.debt.clamp(start, soft) - start;
        let more = (config.apply_in_flight - config.apply_beside) as u64 * over / (soft - start).max(1);
        config.apply_beside + usize::try_from(more).expect("less than are allowed")
    }

    /// Bytes that may be in images and above their checkpoints.
    pub(crate) fn replayable(&self, config: &StoreConfig) -> u64 {
        self.within(config.replay_target / 2).max(LEAST)
    }

    /// Records wait.
    pub(crate) fn holds(&self, config: &StoreConfig) -> bool {
        self.stands(config) || (self.slows(config) && self.seen < self.ready_at)
    }

    /// Guests are slowed down to what the images take.
    pub(crate) fn slows(&self, config: &StoreConfig) -> bool {
        self.debt > self.soft(config)
    }

    /// Records wait until the images have taken more, and for nothing else.
    pub(crate) fn stands(&self, config: &StoreConfig) -> bool {
        self.debt >= config.debt_bytes
    }

    /// When records go on though nothing else happens.
    pub(crate) fn ready_at(&self, config: &StoreConfig) -> Option<Time> {
        (self.holds(config) && !self.stands(config)).then_some(self.ready_at)
    }

    /// Bytes per second that the journal may take; `None`: as many as come.
    fn allowed(&self, config: &StoreConfig) -> Option<u64> {
        let (soft, mark) = (self.soft(config), self.mark(config));
        let over = self.debt.checked_sub(soft).filter(|over| *over > 0)?;
        let left = u128::from(mark.saturating_sub(self.debt));
        let allowed = u128::from(self.rate()) * left / u128::from(over);
        Some(u64::try_from(allowed).unwrap_or(u64::MAX).max(self.rate() / 4).max(1))
    }

    /// The most that a frame takes now.
    pub(crate) fn frame_bytes(&self, config: &StoreConfig) -> u32 {
        let grain = |rate: u64| u32::try_from(rate / (1000 / GRAIN)).unwrap_or(u32::MAX).max(16 << 10);
        self.allowed(config).map_or(config.frame_bytes, |rate| config.frame_bytes.min(grain(rate)))
    }

    /// So many bytes of records were issued.
    pub(crate) fn issued(&mut self, bytes: u64, config: &StoreConfig) {
        self.issued_at = Some(self.seen);
        let Some(rate) = self.allowed(config) else { return };
        // Never for long: the debt may be gone by then.
        let wait = Duration::from_micros(bytes.saturating_mul(1_000_000) / rate).min(Duration::from_secs(1));
        self.ready_at = self.ready_at.max(self.seen) + wait;
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(1);

    /// Guests write, and so many bytes of records are in an image after each millisecond.
    fn goes_on(pace: &mut Pace, from: Time, ticks: u32, bytes: u64, debt: u64) -> (Time, usize) {
        let config = StoreConfig::default();
        let (mut now, mut width) = (from, 0);
        for _ in 0..ticks {
            pace.note(now, debt, true, false);
            pace.issued(4096, &config);
            width = pace.width(now, &config);
            let began = pace.begins(now);
            now = now + TICK;
            pace.applied(bytes, began, now);
            pace.note(now, debt, true, false);
        }
        (now, width)
    }

    /// A device that takes 1 ms for a write, and sixteen at once: one write at a time, for the sake of guests, says little about it.
    #[test]
    fn images_are_not_taken_for_slow_because_guests_went_first() {
        let mut pace = Pace::default();
        let (now, width) = goes_on(&mut pace, Time(1), 2_000, 4 << 10, 1 << 10);
        let gentle = pace.rate();
        assert!(width == 1 && gentle < 5 << 20, "{width} at once, {gentle} B/s");
        let config = StoreConfig::default();
        let soft = pace.soft(&config);
        let (now, _) = goes_on(&mut pace, now, 30, 64 << 10, 2 * soft);
        let (full, soft_then) = (pace.rate(), pace.soft(&config));
        assert!(full > 50 << 20, "{full} B/s");
        assert!(soft_then > 10 * soft, "guests are slowed at {soft_then} bytes, not at {soft}");
        // A device that became slow is found out by what it does when it does its best.
        let (_, width) = goes_on(&mut pace, now, 20_000, 64, config.debt_bytes);
        assert!(width == config.apply_in_flight && pace.rate() < full / 100, "{} B/s", pace.rate());
    }
}
