//! One node: a process with a clock of its own, an inbox, the code under test, and a disk that outlives the process.

use crate::disk::Disk;
use crate::log::Nanos;
use holdfast_node::shard::{Input, Shard, ShardConfig};
use holdfast_types::{Epoch, Life, NodeId, Rng, Time, VolumeId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A clock that runs at its own rate and started at its own time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    offset: u64,
    /// Nanoseconds that it counts in a million true ones.
    rate: u64,
    /// What it did not count while it stood still.
    missed: u64,
}

impl Clock {
    pub(crate) fn draw(drift_ppm: u64, rng: &mut Rng) -> Clock {
        let rate = 1_000_000 - drift_ppm + rng.below(2 * drift_ppm + 1);
        Clock { offset: rng.range(1 << 40, 1 << 50), rate, missed: 0 }
    }

    pub(crate) const fn with_rate(self, rate: u64) -> Clock {
        Clock { rate, ..self }
    }

    pub(crate) const fn rate(self) -> u64 {
        self.rate
    }

    /// It shows `by` nanoseconds more than it did.
    pub(crate) const fn jump(&mut self, by: u64) {
        self.offset += by;
    }

    /// It stood still, for so long by its own rate.
    pub(crate) fn stood_still(&mut self, time: Nanos) {
        self.missed += time * self.rate / 1_000_000;
    }

    /// What it shows.
    pub(crate) fn reads(self, now: Nanos) -> Time {
        let counted = u128::from(now) * u128::from(self.rate) / 1_000_000;
        Time(self.offset + u64::try_from(counted).expect("a world lasts minutes") - self.missed)
    }

    /// When it will show `time`, rounded up.
    pub(crate) fn true_time(self, time: Time) -> Nanos {
        let counted = u128::from((time.0 + self.missed).saturating_sub(self.offset));
        let real = (counted * 1_000_000).div_ceil(u128::from(self.rate));
        u64::try_from(real).unwrap_or(u64::MAX)
    }
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) life: u64,
    pub(crate) shard: Option<Shard>,
    pub(crate) paused: bool,
    pub(crate) clock: Clock,
    pub(crate) disk: Disk,
    pub(crate) inbox: VecDeque<Input>,
    pub(crate) run_scheduled: bool,
    pub(crate) wake_at: Option<Nanos>,
    /// Volumes served here, with the epoch in which they are.
    pub(crate) serving: BTreeMap<VolumeId, Epoch>,
    /// Volumes that were served here in this life.
    pub(crate) led: BTreeSet<VolumeId>,
    /// The disk lost its files: no copy here counts any more.
    pub(crate) wiped: bool,
    /// The disk gave an error in this life.
    pub(crate) disk_failed: bool,
    /// Its clock stands still since then.
    pub(crate) frozen_since: Option<Nanos>,
    /// Each turn of the loop is so late.
    pub(crate) lag: Nanos,
}

impl Node {
    pub(crate) fn new(id: NodeId, clock: Clock, disk: Disk) -> Node {
        Node {
            id,
            life: 0,
            shard: None,
            paused: false,
            clock,
            disk,
            inbox: VecDeque::new(),
            run_scheduled: false,
            wake_at: None,
            serving: BTreeMap::new(),
            led: BTreeSet::new(),
            wiped: false,
            disk_failed: false,
            frozen_since: None,
            lag: 0,
        }
    }

    pub(crate) fn alive(&self) -> bool {
        self.shard.is_some()
    }

    /// Whether its process answers anybody.
    pub(crate) fn responsive(&self) -> bool {
        self.alive() && !self.paused
    }

    pub(crate) fn start(&mut self, config: ShardConfig, now: Nanos) {
        assert!(self.shard.is_none(), "one life of a process at a time");
        self.shard = Some(Shard::new(config, self.clock.reads(now)));
        self.inbox.clear();
        self.inbox.push_back(Input::Start);
        (self.run_scheduled, self.wake_at) = (false, None);
        self.disk_failed = false;
    }

    pub(crate) fn next_life(&mut self) -> Life {
        self.life += 1;
        // Lives of different nodes must differ as well: they are random in production.
        Life(self.life << 16 | self.id.0)
    }

    /// Its process and its clock go on.
    pub(crate) fn resume(&mut self, now: Nanos) {
        self.paused = false;
        if let Some(since) = self.frozen_since.take() {
            self.clock.stood_still(now - since);
        }
    }

    pub(crate) fn stop(&mut self) {
        self.frozen_since = None;
        self.shard = None;
        self.paused = false;
        self.inbox.clear();
        self.serving.clear();
        self.led.clear();
        (self.run_scheduled, self.wake_at) = (false, None);
    }
}
