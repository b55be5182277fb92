//! What a seed decides before anything happens.

use crate::faults::{
    Declared, FaultKind, declare, draw_endings, draw_mix, draw_sizes, draw_upkeep, draw_versions, draw_wide_mix,
    mixes_versions,
};
use crate::log::{MS, Nanos, SECOND, US};
use crate::setup::{Episode, Setup, VolumeShape};
use holdfast_cluster::{Command, Degraded, State};
use holdfast_node::control::ControlConfig;
use holdfast_replication::{Limits, Timers};
use holdfast_store::StoreConfig;
use holdfast_types::{ClusterId, Durability, Life, NodeId, Rng, Speaks, VolumeId, VolumeSize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The simulated cluster.
const CLUSTER: ClusterId = ClusterId(1);

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
    /// A node's copies are told that the control plane gave them the epoch of another claimant, and that what they asked for
    /// is active.
    NoCompareAndSwap,
    /// What a node's Raft log calls durable is not.
    ForgetfulRaft,
    /// One node's clock runs at a tenth of the rate, far beyond the bound.
    SlowClock,
    /// A disk comes back as it was some time ago, under its old identity.
    Amnesia,
    /// Zeroed ranges read as what was there before.
    LostZeroes,
    /// A guest is told of an error although its write was logged.
    FalseErrors,
}

impl Mutant {
    /// Every one.
    #[cfg(feature = "mutants")]
    pub(crate) const ALL: &[Mutant] = &[
        Mutant::LyingDisks,
        Mutant::ForgedAcks,
        Mutant::EarlyAnswers,
        Mutant::StaleReads,
        Mutant::NoCompareAndSwap,
        Mutant::ForgetfulRaft,
        Mutant::SlowClock,
        Mutant::Amnesia,
        Mutant::LostZeroes,
        Mutant::FalseErrors,
    ];

    /// What is broken, in a sentence.
    #[cfg(feature = "mutants")]
    pub(crate) const fn what(self) -> &'static str {
        match self {
            Mutant::ForgetfulRaft => "The log of Raft forgets what it had called durable.",
            Mutant::LyingDisks => "Disks forget writes that they had called durable.",
            Mutant::ForgedAcks => "The network acknowledges appends in the name of their receiver.",
            Mutant::EarlyAnswers => "Guests are answered when they ask.",
            Mutant::StaleReads => "A read is answered with what an earlier one had found there.",
            Mutant::NoCompareAndSwap => {
                "The control plane activates whatever it is asked to, and gives one epoch twice."
            }
            Mutant::SlowClock => "One node's clock runs at a tenth of the rate, far beyond the bound.",
            Mutant::Amnesia => "A disk comes back as it was some time ago, under its old identity.",
            Mutant::LostZeroes => "Zeroed ranges read as what was there before.",
            Mutant::FalseErrors => "A guest is told of an error although its write was logged.",
        }
    }
}

/// A volume of the world.
#[derive(Clone, Debug)]
pub(crate) struct VolumePlan {
    pub(crate) id: VolumeId,
    pub(crate) size: VolumeSize,
    pub(crate) members: Vec<NodeId>,
    pub(crate) write_quorum: u8,
    pub(crate) durability: Durability,
    /// Of two copies: what becomes of writes while one is gone.
    pub(crate) degraded: Option<Degraded>,
    pub(crate) clients: usize,
    pub(crate) first_primary: NodeId,
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

/// The control plane's settings.
#[derive(Clone, Debug)]
pub(crate) struct ControlPlan {
    pub(crate) tick: Duration,
    pub(crate) heartbeat: Duration,
    pub(crate) failure_timeout: Duration,
    pub(crate) snapshot_every: u64,
    /// A copy that is gone for so long is replaced.
    pub(crate) replace_after: Duration,
    /// Nodes that the founding state names; the others join. The first one founds.
    pub(crate) named: Vec<NodeId>,
    /// A node that has no vote in Raft.
    pub(crate) learner: Option<NodeId>,
    /// A node that votes and never holds copies.
    pub(crate) witness: Option<NodeId>,
    /// The cluster begins with builds that speak the first version alone.
    pub(crate) mixed: bool,
    /// A primary that is slow hands over.
    pub(crate) moves_slow: bool,
}

/// What a seed decides.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) nodes: Vec<NodeId>,
    pub(crate) volumes: Vec<VolumePlan>,
    /// The time of faults; then everything heals.
    pub(crate) storm: Nanos,
    /// From then to a healthy cluster, at most.
    pub(crate) heal_bound: Nanos,
    /// Mean time between faults.
    pub(crate) fault_interval: Nanos,
    pub(crate) faults: Vec<(FaultKind, u64)>,
    /// How often a fault of one node is meant for a primary, per million; otherwise any node is as good as another.
    pub(crate) aim_ppm: u32,
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
    pub(crate) control: ControlPlan,
    /// What the run may do beyond the promises.
    pub(crate) declared: Declared,
    pub(crate) mutant: Option<Mutant>,
    /// The one failure that is measured.
    pub(crate) episode: Option<Episode>,
    /// Operators change who holds copies.
    pub(crate) changes_members: bool,
    /// Operators force recoveries.
    pub(crate) loses_majority: bool,
    /// Fault events that happen, if not all do.
    pub(crate) kept_faults: Option<BTreeSet<u64>>,
    /// Another order of events under the same faults; 0 is the seed's own.
    pub(crate) order: u64,
}

/// Largest guest request of the simulator, in bytes; the store's segments are made for it.
pub(crate) const MAX_REQUEST: u64 = 64 << 10;

#[cfg(feature = "mutants")]
impl ControlPlan {
    /// A silent node counts as dead after so many milliseconds.
    pub(crate) fn detect_within(&mut self, ms: u64) {
        self.failure_timeout = Duration::from_millis(ms);
        (self.heartbeat, self.tick) = (self.failure_timeout / 6, self.failure_timeout / 6);
    }
}

/// Every kind with a source of its own, so that a new one changes none of the others.
fn draw_faults(seed: u64, rng: &mut Rng) -> (Declared, Vec<(FaultKind, u64)>) {
    let mut faults = draw_mix(rng);
    let mut wide = Rng::new(seed ^ 0x77_6964_655f_6d69);
    let declared = declare(&mut wide);
    faults.extend(draw_wide_mix(declared, &mut wide));
    faults.extend(draw_upkeep(&mut Rng::new(seed ^ 0x7570_6b65_6570)));
    faults.extend(draw_sizes(&mut Rng::new(seed ^ 0x0073_697a_6573)));
    faults.extend(draw_endings(&mut Rng::new(seed ^ 0x656e_6469_6e67)));
    faults.extend(draw_versions(&mut Rng::new(seed ^ 0x7665_7273_696f_6e73)));
    (declared, faults)
}

impl Options {
    /// The same seed gives the same options.
    pub(crate) fn draw(seed: u64, setup: &Setup) -> Options {
        let mut rng = Rng::new(seed ^ 0x006f_7074_696f_6e73);
        let drawn = rng.range(3, 6);
        let nodes: Vec<NodeId> = (1..=setup.nodes().unwrap_or(drawn)).map(NodeId).collect();
        let drawn = rng.range(1, 3);
        let mut volumes: Vec<VolumePlan> = match setup.volumes() {
            None => (1..=drawn).map(|v| draw_volume(v, &nodes, None, &mut rng)).collect(),
            Some(shapes) => (1..).zip(shapes).map(|(v, s)| draw_volume(v, &nodes, Some(s), &mut rng)).collect(),
        };
        let lease_ms = [300, 600, 1_000, 2_000][index(rng.below(4))];
        let timers = Timers {
            lease: Duration::from_millis(lease_ms),
            commit_delay: Duration::from_millis(rng.range(2, 21)),
            ..Timers::default()
        };
        let limits = draw_limits(seed, &mut rng);
        let small_journal = rng.chance(150_000);
        let (declared, faults) = draw_faults(seed, &mut rng);
        let faults = setup.profile.of(seed).keep(faults, seed);
        // Members that never answer again keep a volume closed whose memories are in doubt, until there is replacement.
        // A chosen cluster keeps the durability that it was chosen for.
        if setup.volumes().is_none() && !faults.iter().any(|(kind, _)| kind.fails_copies()) {
            volumes.iter_mut().for_each(|v: &mut VolumePlan| v.draw_durability(seed));
        }
        let delay_min = rng.range(20, 300) * US;
        let latency_min = rng.range(20, 200) * US;
        let mut control = draw_control(&nodes, &mut rng);
        control.mixed = mixes_versions(&faults);
        control.moves_slow = seed.is_multiple_of(3);
        Options {
            nodes,
            volumes,
            storm: rng.range(6, 25) * SECOND,
            // A primary that lives and tries in vain, as one whose disk went back in time, is left alone for 30 s.
            heal_bound: 45 * SECOND,
            fault_interval: rng.range(100, 2_500) * MS,
            faults: faults.clone(),
            aim_ppm: 0,
            requests: rng.range(400, 1_800),
            depth: index(rng.range(1, 17)),
            think: rng.range(200, 12_000) * US,
            beat: Duration::from_millis((lease_ms / 10).min(100)),
            timers,
            limits,
            store: draw_store(small_journal, &mut rng),
            may_lag: false,
            net: NetPlan {
                delay_min,
                delay_max: delay_min + rng.range(50, 3_000) * US,
                spike_ppm: [0, 1_000, 20_000][index(rng.below(3))],
                idle_timeout: rng.range(200, 1_500) * MS,
            },
            disk: DiskPlan { latency_min, latency_max: latency_min + rng.range(20, 4_000) * US },
            drift_ppm: [0, 100, 5_000][index(rng.below(3))],
            control,
            declared: declared.needed_by(&faults),
            mutant: None,
            episode: None,
            changes_members: false,
            loses_majority: false,
            kept_faults: None,
            order: 0,
        }
    }
}

impl Options {
    /// What a mutant needs in order to be seen.
    pub(crate) fn suit(&mut self, mutant: Mutant) {
        self.volumes.iter_mut().for_each(|v| v.durability = Durability::Sync);
        self.fault_interval = self.fault_interval.min(600 * MS);
        let kinds: &[FaultKind] = match mutant {
            Mutant::LyingDisks => &[FaultKind::CrashAll, FaultKind::Crash],
            Mutant::ForgedAcks => &[FaultKind::SlowDisk, FaultKind::Crash],
            Mutant::NoCompareAndSwap => {
                &[FaultKind::ForcedFailover, FaultKind::Isolate, FaultKind::Partition, FaultKind::PauseLong]
            }
            Mutant::ForgetfulRaft => &[FaultKind::CrashAll, FaultKind::RaftLeaderKilled, FaultKind::ForcedFailover],
            Mutant::SlowClock => &[FaultKind::Isolate],
            Mutant::Amnesia => &[FaultKind::Wipe],
            Mutant::EarlyAnswers | Mutant::StaleReads | Mutant::LostZeroes | Mutant::FalseErrors => &[],
        };
        if mutant == Mutant::SlowClock {
            (self.think, self.requests) = (2 * MS, 20_000);
            let millis = Duration::from_millis;
            let control = &mut self.control;
            (control.failure_timeout, control.heartbeat, control.tick) = (millis(300), millis(50), millis(50));
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

impl VolumePlan {
    /// One in four answers from memories. Apart from the other draws, so that everything else of the seed stays as it is.
    fn draw_durability(&mut self, seed: u64) {
        if Rng::new(seed ^ self.id.0 << 32 ^ 0x666c_7573).chance(250_000) {
            self.durability = Durability::Flush;
        }
    }
}

fn draw_volume(v: u64, nodes: &[NodeId], shape: Option<&VolumeShape>, rng: &mut Rng) -> VolumePlan {
    let mut members = nodes.to_vec();
    let copies = if rng.chance(100_000) { 2 } else { index(rng.range(3, nodes.len() as u64 + 1)) };
    let copies = shape.map_or(copies, |s| s.of().0);
    while members.len() > copies {
        let drop = index(rng.below(members.len() as u64));
        members.remove(drop);
    }
    let first_primary = members[index(rng.below(members.len() as u64))];
    let majority = copies / 2 + 1;
    let quorum = if rng.chance(150_000) { copies } else { majority };
    let quorum = shape.map_or(quorum, |s| s.of().1);
    let sectors = rng.range(4, 97) * 8 + if rng.chance(200_000) { rng.range(1, 8) } else { 0 };
    VolumePlan {
        id: VolumeId(v),
        size: VolumeSize::new(sectors * 512).expect("a few hundred sectors"),
        members,
        write_quorum: u8::try_from(quorum).expect("at most seven copies"),
        durability: Durability::Sync,
        degraded: None,
        clients: index(rng.range(1, 4)),
        first_primary,
    }
}

fn draw_control(nodes: &[NodeId], rng: &mut Rng) -> ControlPlan {
    let failure_timeout = [400, 700, 1_000, 1_500][index(rng.below(4))];
    let named = if rng.chance(500_000) { nodes.to_vec() } else { nodes[..1].to_vec() };
    ControlPlan {
        tick: Duration::from_millis(if failure_timeout < 700 { 50 } else { 100 }),
        heartbeat: Duration::from_millis((failure_timeout / 4).min(200)),
        failure_timeout: Duration::from_millis(failure_timeout),
        snapshot_every: [3, 10, 50, 1_000][index(rng.below(4))],
        // Longer than any run.
        replace_after: Duration::from_hours(1),
        named,
        learner: nodes.last().copied().filter(|_| nodes.len() > 3 && rng.chance(200_000)),
        witness: None,
        mixed: false,
        moves_slow: false,
    }
}

impl ControlPlan {
    pub(crate) fn votes(&self, node: NodeId) -> bool {
        self.learner != Some(node)
    }

    pub(crate) fn add_node(&self, node: NodeId) -> Command {
        Command::AddNode {
            name: node.to_string(),
            address: address(node),
            failure_domain: String::new(),
            voter: self.votes(node),
            witness: self.witness == Some(node),
            fingerprint: "simulated".to_owned(),
            token_id: None,
        }
    }

    /// What the founding node starts from.
    pub(crate) fn founding_state(&self) -> State {
        let mut state = State::new(CLUSTER, "simulated");
        if !self.mixed {
            state.version = Speaks::THIS.newest();
        }
        for node in &self.named {
            state.apply(&self.add_node(*node)).expect("an empty cluster takes any node");
        }
        state
    }

    /// Which cluster it is.
    pub(crate) const fn cluster(&self) -> ClusterId {
        CLUSTER
    }

    /// Settings of one process; until it knows better, a node looks for the founder alone.
    pub(crate) fn config(&self, node: NodeId, (life, speaks): (Life, Speaks), seed: u64) -> ControlConfig {
        let founder = self.named[0];
        ControlConfig {
            peers: [(founder, address(founder))].into(),
            tick: self.tick,
            heartbeat: self.heartbeat,
            failure_timeout: self.failure_timeout,
            snapshot_every: self.snapshot_every,
            replace_after: self.replace_after,
            speaks,
            raise_after: Duration::from_secs(1),
            move_slow_primary: self.moves_slow,
            ..ControlConfig::new(CLUSTER, node, life, seed)
        }
    }
}

/// Where these nodes listen.
pub(crate) fn addresses(nodes: &[NodeId]) -> BTreeMap<NodeId, String> {
    nodes.iter().map(|node| (*node, address(*node))).collect()
}

fn address(node: NodeId) -> String {
    format!("{node}:7400")
}

fn draw_limits(seed: u64, rng: &mut Rng) -> Limits {
    Limits {
        window_bytes: [64 << 10, 1 << 20, 32 << 20][index(rng.below(3))],
        catch_up_bytes: [16 << 10, 256 << 10, 4 << 20][index(rng.below(3))],
        admitted_bytes: [256 << 10, 64 << 20][index(rng.below(2))],
        // A region a time or a whole volume, and from seconds for a volume to no time at all.
        resync_bytes: [64 << 10, 256 << 10, 4 << 20][index(seed % 3)],
        resync_bandwidth: [2 << 20, 64 << 20, 1 << 40][index(seed / 3 % 3)],
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
        shrink_interval: Duration::from_millis(rng.range(50, 20_000)),
        seal_delay: Duration::from_millis(rng.range(2, 30)),
        checkpoint_bytes: [128 << 10, 1 << 20][index(rng.below(2))],
        checkpoint_interval: Duration::from_millis(rng.range(100, 5_000)),
        replay_target: Duration::from_secs(5),
        apply_start_bytes: [0, 256 << 10, 8 << 20][index(rng.below(3))],
        apply_delay: Duration::from_millis([0, 50, 1_000][index(rng.below(3))]),
        apply_in_flight: index(rng.range(1, 20)),
        debt_bytes: [256 << 10, 2 << 20, 64 << 20][index(rng.below(3))],
        queue_bytes: [64 << 10, 1 << 20, 64 << 20][index(rng.below(3))],
        apply_batch_bytes: [64 << 10, 1 << 20][index(rng.below(2))],
        apply_write_bytes: [8 << 10, 1 << 20][index(rng.below(2))],
        table_bytes: [4096, 24 * 4096, 1 << 20][index(rng.below(3))],
        apply_batch_pages: [1, 4, 64][index(rng.below(3))],
        cache_bytes: [0, 64 << 10, 8 << 20][index(rng.below(3))],
        retry_interval: Duration::from_millis(rng.range(20, 300)),
        look_interval: None,
        // Not drawn: the simulated disks stall for as long as the fault says, not as patience does.
        ..StoreConfig::default()
    }
}

/// A small number as an index.
pub(crate) fn index(n: u64) -> usize {
    usize::try_from(n).expect("an index fits in memory")
}
