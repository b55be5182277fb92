//! One node: a process with a clock of its own, an inbox, the code under test, and a disk that outlives the process.

use crate::disk::Disk;
use crate::log::Nanos;
use crate::raft_disk::RaftDisk;
use holdfast_cluster::CopyReport;
use holdfast_node::control::{self, Control, ControlConfig};
use holdfast_node::shard::{Input, Shard, ShardConfig};
use holdfast_types::{Epoch, Life, NodeId, Rng, Speaks, Time, VolumeId};
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

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) life: u64,
    pub(crate) shard: Option<Shard>,
    pub(crate) control: Option<Control>,
    pub(crate) paused: bool,
    /// Since when; cleared when it runs.
    pub(crate) paused_at: Option<Nanos>,
    /// When it ran again after a stop that was longer than the lease.
    pub(crate) resumed: Option<Nanos>,
    pub(crate) clock: Clock,
    pub(crate) disk: Disk,
    pub(crate) raft_disk: RaftDisk,
    pub(crate) inbox: VecDeque<Input>,
    pub(crate) run_scheduled: bool,
    pub(crate) wake_at: Option<Nanos>,
    /// What arrives for the control plane while the process stands still.
    pub(crate) control_inbox: VecDeque<control::Input>,
    pub(crate) control_wake_at: Option<Nanos>,
    /// The log index whose state the checkers last saw.
    pub(crate) applied: Option<u64>,
    /// When the last message between shard and control plane arrives, in each direction.
    pub(crate) to_shard_at: Nanos,
    pub(crate) to_control_at: Nanos,
    pub(crate) reported: Vec<CopyReport>,
    pub(crate) report_scheduled: bool,
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
    /// What its present build speaks.
    pub(crate) speaks: Speaks,
    /// A build that speaks everything ran here.
    pub(crate) was_upgraded: bool,
    /// Its process said that it is too old.
    pub(crate) refused: bool,
}

impl Node {
    pub(crate) fn new(id: NodeId, clock: Clock, disk: Disk, raft_disk: RaftDisk) -> Node {
        Node {
            id,
            life: 0,
            shard: None,
            control: None,
            paused: false,
            paused_at: None,
            resumed: None,
            clock,
            disk,
            raft_disk,
            inbox: VecDeque::new(),
            run_scheduled: false,
            wake_at: None,
            control_inbox: VecDeque::new(),
            control_wake_at: None,
            applied: None,
            to_shard_at: 0,
            to_control_at: 0,
            reported: Vec::new(),
            report_scheduled: false,
            serving: BTreeMap::new(),
            led: BTreeSet::new(),
            wiped: false,
            disk_failed: false,
            frozen_since: None,
            lag: 0,
            speaks: Speaks::THIS,
            was_upgraded: true,
            refused: false,
        }
    }

    pub(crate) fn alive(&self) -> bool {
        self.shard.is_some()
    }

    /// Whether its process answers anybody.
    pub(crate) fn responsive(&self) -> bool {
        self.alive() && !self.paused
    }

    pub(crate) fn start(&mut self, config: ShardConfig, control: ControlConfig, now: Nanos) {
        assert!(self.shard.is_none(), "one life of a process at a time");
        let local = self.clock.reads(now);
        self.shard = Some(Shard::new(config, local));
        let control = ControlConfig { recovery: self.raft_disk.recovery().cloned(), ..control };
        let control = Control::new(control, self.raft_disk.stored(), local);
        self.control = Some(control.expect("what Raft had stored, in whole batches, does not contradict itself"));
        self.inbox.clear();
        self.inbox.push_back(Input::Start);
        self.forget_schedule();
        self.disk_failed = false;
    }

    pub(crate) fn next_life(&mut self) -> Life {
        self.life += 1;
        // Lives of different nodes must differ as well: they are random in production.
        Life(self.life << 16 | self.id.0)
    }

    /// Its process and its clock go on.
    pub(crate) fn resume(&mut self, now: Nanos, lease: Nanos) {
        self.paused = false;
        if self.paused_at.take().is_some_and(|at| now - at > lease) {
            self.resumed = Some(now);
        }
        if let Some(since) = self.frozen_since.take() {
            self.clock.stood_still(now - since);
        }
    }

    pub(crate) fn stop(&mut self) {
        self.frozen_since = None;
        self.shard = None;
        self.control = None;
        (self.paused, self.paused_at, self.resumed) = (false, None, None);
        self.inbox.clear();
        self.serving.clear();
        self.led.clear();
        self.forget_schedule();
    }

    fn forget_schedule(&mut self) {
        (self.run_scheduled, self.wake_at, self.control_wake_at) = (false, None, None);
        (self.applied, self.report_scheduled) = (None, false);
        self.control_inbox.clear();
        self.reported.clear();
    }
}
