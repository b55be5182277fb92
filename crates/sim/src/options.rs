//! What a seed decides before anything happens.

use crate::faults::{Declared, FaultKind, declare, draw_mix, draw_wide_mix};
use crate::log::{MS, Nanos, SECOND, US};
use holdfast_replication::{Limits, Timers};
use holdfast_store::StoreConfig;
use holdfast_types::{NodeId, Rng, VolumeId, VolumeSize};
use std::time::Duration;

/// A world that misbehaves beyond what the promises cover, to prove that the checkers can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Disks forget writes that they had called durable.
    LyingDisks,
    /// The network acknowledges appends in the name of their receiver.
    ForgedAcks,
    /// Guests are answered when they ask.
    EarlyAnswers,
    /// A read is answered with what an earlier one had found there.
    StaleReads,
    /// The control plane activates whatever it is asked to, and gives one epoch to two claimants.
    NoCompareAndSwap,
    /// One node's clock runs at a tenth of the rate, far beyond the bound.
    SlowClock,
    /// A disk comes back as it was some time ago, under its old identity.
    Amnesia,
    /// Zeroed ranges read as what was there before.
    LostZeroes,
    /// A guest is told of an error although its write was logged.
    FalseErrors,
}

/// A volume of the world.
#[derive(Clone, Debug)]
pub(crate) struct VolumePlan {
    pub(crate) id: VolumeId,
    pub(crate) size: VolumeSize,
    pub(crate) members: Vec<NodeId>,
    pub(crate) write_quorum: u8,
    pub(crate) clients: usize,
}

/// Delays of messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NetPlan {
    pub(crate) delay_min: Nanos,
    pub(crate) delay_max: Nanos,
    /// Chance of a message to be delayed much longer, per million.
    pub(crate) spike_ppm: u32,
    /// A dead connection is noticed after this much at the latest.
    pub(crate) idle_timeout: Nanos,
}

/// Latencies of disk operations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DiskPlan {
    pub(crate) latency_min: Nanos,
    pub(crate) latency_max: Nanos,
}

/// What a seed decides.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) nodes: Vec<NodeId>,
    pub(crate) volumes: Vec<VolumePlan>,
    /// The time of faults; then everything heals.
    pub(crate) storm: Nanos,
    /// Mean time between faults.
    pub(crate) fault_interval: Nanos,
    pub(crate) faults: Vec<(FaultKind, u64)>,
    /// Guests' requests per volume; afterwards they are idle.
    pub(crate) requests: u64,
    pub(crate) depth: usize,
    /// Mean pause of a client between requests.
    pub(crate) think: Nanos,
    pub(crate) timers: Timers,
    pub(crate) limits: Limits,
    pub(crate) beat: Duration,
    pub(crate) store: StoreConfig,
    /// A copy that was away may need what the journals no longer hold, because they are small or could not grow: until there
    /// is resync by regions it is then lost without a fault of its own.
    pub(crate) may_lag: bool,
    pub(crate) net: NetPlan,
    pub(crate) disk: DiskPlan,
    /// Clock rates differ from the true one by at most this, parts per million.
    pub(crate) drift_ppm: u64,
    /// When the control plane calls a node dead.
    pub(crate) detect: Nanos,
    /// The control plane gives a repeated claim a new epoch.
    pub(crate) repeated_claims_count: bool,
    /// What the run may do beyond the promises.
    pub(crate) declared: Declared,
    pub(crate) mutant: Option<Mutant>,
}

/// Largest guest request of the simulator, in bytes; the store's segments are made for it.
pub(crate) const MAX_REQUEST: u64 = 64 << 10;

impl Options {
    /// The same seed gives the same options.
    pub(crate) fn draw(seed: u64) -> Options {
        let mut rng = Rng::new(seed ^ 0x006f_7074_696f_6e73);
        let nodes: Vec<NodeId> = (1..=rng.range(3, 6)).map(NodeId).collect();
        let volumes = (1..=rng.range(1, 3)).map(|v| draw_volume(v, &nodes, &mut rng)).collect();
        let lease_ms = [300, 600, 1_000, 2_000][index(rng.below(4))];
        let timers = Timers {
            lease: Duration::from_millis(lease_ms),
            commit_delay: Duration::from_millis(rng.range(2, 21)),
            ..Timers::default()
        };
        let limits = Limits {
            window_bytes: [64 << 10, 1 << 20, 32 << 20][index(rng.below(3))],
            catch_up_bytes: [16 << 10, 256 << 10, 4 << 20][index(rng.below(3))],
            admitted_bytes: [256 << 10, 64 << 20][index(rng.below(2))],
        };
        let small_journal = rng.chance(150_000);
        let mut faults = draw_mix(&mut rng);
        let mut wide = Rng::new(seed ^ 0x77_6964_655f_6d69);
        let declared = declare(&mut wide);
        faults.extend(draw_wide_mix(declared, &mut wide));
        let delay_min = rng.range(20, 300) * US;
        let latency_min = rng.range(20, 200) * US;
        Options {
            nodes,
            volumes,
            storm: rng.range(6, 25) * SECOND,
            fault_interval: rng.range(100, 2_500) * MS,
            faults: faults.clone(),
            requests: rng.range(400, 1_800),
            depth: index(rng.range(1, 17)),
            think: rng.range(200, 12_000) * US,
            beat: Duration::from_millis((lease_ms / 10).min(100)),
            timers,
            limits,
            store: draw_store(small_journal, &mut rng),
            may_lag: small_journal || faults.iter().any(|f| f.0 == FaultKind::NoSpace),
            net: NetPlan {
                delay_min,
                delay_max: delay_min + rng.range(50, 3_000) * US,
                spike_ppm: [0, 1_000, 20_000][index(rng.below(3))],
                idle_timeout: rng.range(200, 1_500) * MS,
            },
            disk: DiskPlan { latency_min, latency_max: latency_min + rng.range(20, 4_000) * US },
            drift_ppm: [0, 100, 5_000][index(rng.below(3))],
            detect: rng.range(300, 1_200) * MS,
            repeated_claims_count: rng.chance(300_000),
            declared,
            mutant: None,
        }
    }
}

impl Options {
    /// What a mutant needs in order to be seen.
    pub(crate) fn suit(&mut self, mutant: Mutant) {
        self.fault_interval = self.fault_interval.min(600 * MS);
        let kinds: &[FaultKind] = match mutant {
            Mutant::LyingDisks => &[FaultKind::CrashAll, FaultKind::Crash],
            Mutant::ForgedAcks => &[FaultKind::SlowDisk, FaultKind::Crash],
            Mutant::NoCompareAndSwap => {
                &[FaultKind::ForcedFailover, FaultKind::Isolate, FaultKind::Partition, FaultKind::PauseLong]
            }
            Mutant::SlowClock => &[FaultKind::Isolate],
            Mutant::Amnesia => &[FaultKind::Wipe],
            Mutant::EarlyAnswers | Mutant::StaleReads | Mutant::LostZeroes | Mutant::FalseErrors => &[],
        };
        if mutant == Mutant::SlowClock {
            (self.detect, self.think, self.requests) = (300 * MS, 2 * MS, 20_000);
            self.fault_interval = 2 * SECOND;
            (self.timers.lease, self.beat) = (Duration::from_millis(300), Duration::from_millis(5));
        }
        if mutant == Mutant::Amnesia {
            self.may_lag = false;
        }
        self.declared = Declared::Nothing;
        if !kinds.is_empty() {
            self.faults = kinds.iter().map(|k| (*k, 1)).collect();
        }
    }
}

fn draw_volume(v: u64, nodes: &[NodeId], rng: &mut Rng) -> VolumePlan {
    let mut members = nodes.to_vec();
    let copies = if rng.chance(100_000) { 2 } else { index(rng.range(3, nodes.len() as u64 + 1)) };
    while members.len() > copies {
        let drop = index(rng.below(members.len() as u64));
        members.remove(drop);
    }
    let majority = copies / 2 + 1;
    let quorum = if rng.chance(150_000) { copies } else { majority };
    let sectors = rng.range(4, 97) * 8 + if rng.chance(200_000) { rng.range(1, 8) } else { 0 };
    VolumePlan {
        id: VolumeId(v),
        size: VolumeSize::new(sectors * 512).expect("a few hundred sectors"),
        members,
        write_quorum: u8::try_from(quorum).expect("at most seven copies"),
        clients: index(rng.range(1, 4)),
    }
}

fn draw_store(small: bool, rng: &mut Rng) -> StoreConfig {
    StoreConfig {
        segment_bytes: [384 << 10, 512 << 10, 1 << 20][index(rng.below(3))],
        min_segments: 3,
        max_segments: if small { 6 } else { 60 },
        frames_in_flight: index(rng.range(1, 4)),
        frame_bytes: [16 << 10, 64 << 10][index(rng.below(2))],
        max_body_bytes: index(MAX_REQUEST) + 4096,
        seal_delay: Duration::from_millis(rng.range(2, 30)),
        checkpoint_bytes: [128 << 10, 1 << 20][index(rng.below(2))],
        checkpoint_interval: Duration::from_millis(rng.range(100, 5_000)),
        apply_batch_bytes: [64 << 10, 1 << 20][index(rng.below(2))],
        apply_write_bytes: [8 << 10, 1 << 20][index(rng.below(2))],
        cache_bytes: [0, 64 << 10, 8 << 20][index(rng.below(3))],
        retry_interval: Duration::from_millis(rng.range(20, 300)),
    }
}

/// A small number as an index.
pub(crate) fn index(n: u64) -> usize {
    usize::try_from(n).expect("an index fits in memory")
}
