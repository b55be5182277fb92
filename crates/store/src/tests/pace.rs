//! Rates, in virtual time: a disk with a speed, guests that write as fast as they are answered.

use super::harness::{BLOCKS, Harness, small};
use crate::StoreConfig;
use crate::api::Input;
use crate::io::{DiskOp, DiskOpKind, FileId, OpId};
use bytes::Bytes;
use holdfast_format::RecordKind;
use holdfast_types::{BLOCK_SIZE, BlockRange, Rng, Time, VolumeId};
use std::collections::BTreeMap;
use std::time::Duration;

const V: VolumeId = VolumeId(3);
const BLOCK: u64 = BLOCK_SIZE as u64;

/// A disk that writes images at `image` bytes per second, one after the other, and the journal at once.
struct Timed {
    h: Harness,
    image: u64,
    journal: Duration,
    image_free: Time,
    ends: BTreeMap<OpId, Time>,
    rng: Rng,
    /// Most that was committed and in no image, and most that was in memory.
    most_debt: u64,
    most_backlog: u64,
    /// Most writes to the image that were in flight.
    most_writes: usize,
    blocks: u64,
    last_tick: Option<Time>,
    idle: u32,
}

fn bytes_of(op: &DiskOp) -> u64 {
    match &op.kind {
        DiskOpKind::Write { data, .. } => data.iter().map(Bytes::len).sum::<usize>() as u64,
        DiskOpKind::Read { len, .. } => u64::from(*len),
        _ => 0,
    }
}

fn config() -> StoreConfig {
    StoreConfig {
        segment_bytes: 1 << 20,
        min_segments: 3,
        max_segments: 60,
        checkpoint_bytes: 4 << 20,
        checkpoint_interval: Duration::from_secs(5),
        apply_batch_bytes: 2 << 20,
        apply_start_bytes: 2 << 20,
        apply_delay: Duration::from_millis(500),
        debt_bytes: 8 << 20,
        ..small()
    }
}

impl Timed {
    fn new(seed: u64, image: u64, config: StoreConfig) -> Timed {
        let mut h = Harness::new(seed, config);
        h.start();
        h.create(V);
        h.adopt(V, 0);
        h.quiesce();
        let image_free = h.now;
        Timed {
            h,
            image,
            journal: Duration::from_micros(100),
            image_free,
            ends: BTreeMap::new(),
            rng: Rng::new(seed),
            most_debt: 0,
            most_backlog: 0,
            most_writes: 0,
            blocks: 1,
            last_tick: None,
            idle: 0,
        }
    }

    fn set_ends(&mut self) {
        for (_, op) in &self.h.disk.in_flight {
            if self.ends.contains_key(&op.id) {
                continue;
            }
            let mut end = self.h.now + self.journal;
            if matches!(op.file, FileId::Image(_)) {
                let took = Duration::from_nanos(bytes_of(op) * 1_000_000_000 / self.image);
                self.image_free = self.image_free.max(self.h.now) + took;
                end = self.image_free;
            }
            self.ends.insert(op.id, end);
        }
    }

    /// The next thing that happens, if it happens before `until`.
    fn step(&mut self, until: Time) -> bool {
        self.set_ends();
        let ops = self.h.disk.in_flight.iter().enumerate().map(|(i, (_, op))| (self.ends[&op.id], i));
        let op = ops.min();
        let tick = self.h.store.next_timeout();
        let at = op.map(|(at, _)| at).into_iter().chain(tick).min().unwrap_or(until);
        if at >= until {
            self.h.now = until;
            return false;
        }
        self.h.now = self.h.now.max(at);
        match op {
            Some((at, i)) if tick.is_none_or(|t| at <= t) => {
                let done = self.h.disk.complete(i);
                self.ends.remove(&done.id);
                self.h.input(Input::Done(done));
            }
            _ => {
                self.h.input(Input::Tick);
                self.idle = if tick == self.last_tick { self.idle + 1 } else { 0 };
                self.last_tick = tick;
                assert!(self.idle < 20, "a timer that changes nothing: {}", self.h.store.journal_state());
            }
        }
        let to_image =
            |(_, op): &&(_, DiskOp)| matches!((op.file, &op.kind), (FileId::Image(_), DiskOpKind::Write { .. }));
        self.most_writes = self.most_writes.max(self.h.disk.in_flight.iter().filter(to_image).count());
        self.most_backlog = self.most_backlog.max(self.h.store.backlog_bytes());
        self.most_debt = self.most_debt.max(self.h.store.debt_bytes());
        true
    }

    /// Guests keep `depth` writes of `blocks` blocks in flight until `until`, as long as they are admitted.
    fn write(&mut self, depth: u64, until: Time) {
        let mut appended = self.h.models[&V].last();
        loop {
            while self.h.store.admits() && self.h.models[&V].last() - self.h.models[&V].durable < depth {
                let start = self.rng.below(BLOCKS - self.blocks + 1);
                self.h.append_range(V, RecordKind::Write, BlockRange::new(start, self.blocks));
                appended += 1;
                assert_eq!(self.h.models[&V].last(), appended);
            }
            if !self.step(until) {
                return;
            }
            let m = &self.h.models[&V];
            if m.durable > m.committed {
                let durable = m.durable;
                self.h.commit(V, durable);
            }
        }
    }

    /// Nobody writes for a while.
    fn step_until(&mut self, time: Duration) {
        let until = self.h.now + time;
        while self.step(until) {}
    }

    fn write_for(&mut self, depth: u64, time: Duration) -> u64 {
        let before = self.h.models[&V].durable;
        let until = self.h.now + time;
        self.write(depth, until);
        (self.h.models[&V].durable - before) * self.blocks * BLOCK
    }
}

/// Oracle: the device's own speed. Whatever the guest does, what is written in the long run is what the image takes, and what
/// waits in memory stays below the mark. On the way there the rate falls little by little.
#[test]
fn guests_slow_down_smoothly_when_the_image_cannot_keep_up() {
    // Every block is new to a batch, so that nothing is saved by writing the last one only.
    let slow = StoreConfig { apply_batch_bytes: 96 << 10, apply_start_bytes: 0, debt_bytes: 64 << 20, ..config() };
    let mut t = Timed::new(41, 4 << 20, slow);
    t.blocks = 4;
    t.journal = Duration::from_millis(2);
    let slice = Duration::from_millis(100);
    let rates: Vec<u64> = (0..60).map(|_| t.write_for(8, slice) * 10).collect();
    let mark = t.h.store.debt_mark();
    assert!(t.most_debt <= mark + (1 << 20), "{} bytes waited, the mark is {mark}", t.most_debt);
    assert!(t.most_backlog <= t.most_debt + (512 << 10), "{} bytes in memory", t.most_backlog);
    let taken = t.h.store.apply_rate();
    let settled: u64 = rates[30..].iter().sum::<u64>() / 30;
    assert!(
        settled > taken * 8 / 10 && settled < taken * 12 / 10,
        "{settled} B/s settled, images take {taken}: {rates:?}"
    );
    assert!(rates[0] > 4 * settled, "at first as fast as the journal: {rates:?}");
    // Smoothly: no slice is without writes, and none falls to a small fraction of the one before.
    let cliffs = rates.windows(2).filter(|w| w[1] * 8 < w[0]).count();
    assert!(rates.iter().all(|r| *r > settled / 6) && cliffs == 0, "no cliff: {rates:?}");
}

/// A start after a crash at any time replays for less than the configured time, on a slow image as well.
#[test]
fn a_start_replays_for_less_than_the_configured_time() {
    for (seed, image) in [(51, 300 << 10), (52, 1 << 20), (53, 3 << 20)] {
        let target = Duration::from_secs(5);
        let config = StoreConfig {
            replay_target: target,
            debt_bytes: 64 << 20,
            checkpoint_bytes: 64 << 20,
            checkpoint_interval: Duration::from_secs(60),
            ..config()
        };
        let mut t = Timed::new(seed, image, config);
        t.blocks = 8;
        t.journal = Duration::from_millis(2);
        let mut longest = Duration::ZERO;
        for round in 0..2 {
            t.write_for(8, Duration::from_millis(6_000 + 900 * round));
            t.h.crash(true);
            t.ends.clear();
            t.image_free = t.h.now;
            let began = t.h.now;
            t.h.input(Input::Start);
            while !t.h.started {
                let soon = t.h.now + Duration::from_secs(100);
                assert!(t.step(soon), "the start ends");
            }
            longest = longest.max(t.h.now.since(began));
            let last = t.h.models[&V].last();
            t.h.adopt(V, last);
        }
        assert!(longest < target, "{longest:?} at {image} B/s");
        assert!(t.h.models[&V].last() > 100);
    }
}

/// A checkpoint whose syncs take long holds nobody up.
#[test]
fn writes_go_on_during_a_checkpoint() {
    let mut t = Timed::new(61, 50 << 20, StoreConfig { checkpoint_bytes: 1 << 20, ..config() });
    let mut held: Option<OpId> = None;
    for _ in 0..2_000 {
        t.write_for(1, Duration::from_millis(1));
        held = t.h.disk.in_flight.iter().find(|(_, op)| matches!(op.kind, DiskOpKind::Sync)).map(|(_, op)| op.id);
        if held.is_some() {
            break;
        }
    }
    let held = held.expect("a checkpoint syncs the image");
    let far = t.h.now + Duration::from_secs(3600);
    t.ends.insert(held, far);
    let before = t.h.models[&V].durable;
    t.write_for(1, Duration::from_millis(100));
    assert!(t.h.models[&V].durable > before + 500, "as many as before: {}", t.h.models[&V].durable - before);
    assert!(t.h.disk.in_flight.iter().any(|(_, op)| op.id == held), "and the checkpoint has not ended");
}

fn amplification(name: &str, blocks: u64, depth: u64, config: StoreConfig) -> f64 {
    let mut t = Timed::new(71, 400 << 20, config);
    t.blocks = blocks;
    let mut bytes = 0;
    while bytes < 32 << 20 {
        bytes += t.write_for(depth, Duration::from_millis(100));
    }
    t.h.quiesce();
    let w = t.h.store.written();
    assert_eq!(w.guest, t.h.models[&V].last() * blocks * BLOCK);
    let ratio = w.total() as f64 / w.guest as f64;
    println!("{name}: {ratio:.3} bytes written per byte: {w:?}");
    ratio
}

/// As in production, on a scale of one to sixteen: a hot set of 192 KiB stands for 3 MiB. Figures are in
/// docs/decisions/2026-11-29-write-amplification.md.
#[test]
fn few_bytes_are_written_for_each_byte_of_a_guest() {
    let scaled = || StoreConfig { checkpoint_bytes: 4 << 20, debt_bytes: 8 << 20, frame_bytes: 1 << 20, ..config() };
    let hot = amplification("4 KiB random, hot set, depth 32", 1, 32, scaled());
    let alone = amplification("4 KiB random, hot set, depth 1", 1, 1, scaled());
    assert!(hot <= 1.2 && alone <= 1.3, "{hot} {alone}");
    // Every block is written once per batch, as a sequential stream does.
    let once = StoreConfig { apply_batch_bytes: 1, apply_start_bytes: 0, checkpoint_bytes: 8 << 20, ..scaled() };
    let large = amplification("large, each block once", 8, 32, once);
    assert!(large <= 2.1, "{large}");
}

/// Batches may be small for more reasons than their bytes: what one leaves behind has waited as long, and goes at once.
#[test]
fn what_a_small_batch_leaves_waits_no_longer() {
    let delay = Duration::from_secs(1);
    let small_batches =
        StoreConfig { apply_batch_bytes: 1, apply_start_bytes: 64 << 20, apply_delay: delay, ..config() };
    let mut t = Timed::new(81, 50 << 20, small_batches);
    while t.h.models[&V].durable < 20 {
        t.write_for(8, Duration::from_micros(200));
    }
    let end = t.h.now + delay + delay / 2;
    while t.step(end) {}
    let (committed, applied) = t.h.store.positions(V).map(|p| (p.committed, p.applied)).unwrap();
    assert_eq!(applied, committed);
}

/// A device makes a frame of the journal durable only when it has done with the image's writes before it.
#[test]
fn guests_have_few_writes_of_an_image_beside_them_as_long_as_it_keeps_up() {
    let eight = StoreConfig { apply_in_flight: 8, apply_beside: 2, ..config() };
    let mut t = Timed::new(61, 400 << 20, eight.clone());
    t.write_for(1, Duration::from_secs(3));
    assert!(t.h.store.apply_rate() > 0 && t.most_writes == 2, "{} at once beside guests", t.most_writes);
    // Nobody waits for the journal any more, and the rest of the debt is due half a second later.
    (t.most_writes, t.blocks) = (0, 1);
    t.step_until(Duration::from_secs(2));
    assert!(t.h.store.debt_bytes() == 0 && t.most_writes == 8, "{} at once without guests", t.most_writes);

    let mut slow = Timed::new(62, 1 << 20, eight);
    slow.blocks = 4;
    slow.write_for(8, Duration::from_secs(8));
    assert_eq!(slow.most_writes, 8, "an image that does not keep up gets all that it may have");
}
