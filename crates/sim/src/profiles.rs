//! Named mixes of faults: each looks longer at one part of what may go wrong than the mix of everything does.
//!
//! A profile is a row of [`PROFILES`]. Within its kinds each seed still draws its own few.

use crate::faults::{
    CONTROL, DAMAGE, DISKS, ENDINGS, FORCED, FaultKind, Group, LINKS, MEMBERS, NODES, OPERATORS, OUTAGES, PROCESSES,
    REGIMES, SIZES, UPKEEP, VERSIONS, WIDE_DISKS, WIDE_LINKS, WIDE_PROCESSES,
};
use crate::log::MS;
use crate::options::{Options, index};
use holdfast_cluster::Degraded;
use holdfast_types::{Durability, NodeId, Rng, VolumeSize};

/// A named mix.
#[derive(Debug)]
pub struct Profile {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is for.
    pub about: &'static str,
    groups: Option<&'static [Group]>,
    tune: fn(&mut Options),
}

/// All profiles; the first one is the default.
pub static PROFILES: &[Profile] = &[
    Profile { name: "default", about: "a few kinds of all, other ones for each seed", groups: None, tune: as_drawn },
    Profile {
        name: "calm",
        about: "no fault at all: what breaks here breaks without any help",
        groups: Some(&[]),
        tune: calm,
    },
    Profile {
        name: "crashes",
        about: "processes and hosts end, stand still and come back",
        groups: Some(&[PROCESSES, WIDE_PROCESSES]),
        tune: as_drawn,
    },
    Profile {
        name: "disks",
        about: "disks fail, fill up, stall, and forget at a crash",
        groups: Some(&[DISKS, WIDE_DISKS, LOSING, SIZES]),
        tune: as_drawn,
    },
    Profile {
        name: "damage",
        about: "what disks hold is not what was written, and processes find out when they start",
        groups: Some(&[DAMAGE, REVEALING, UPKEEP]),
        tune: as_drawn,
    },
    Profile {
        name: "network",
        about: "connections break, links slow down, directions die",
        groups: Some(&[LINKS, WIDE_LINKS]),
        tune: as_drawn,
    },
    Profile {
        name: "clocks",
        about: "rates at the edge of the bound, short leases, holders that stand still",
        groups: Some(&[LEASES]),
        tune: clocks,
    },
    Profile {
        name: "operators",
        about: "switchovers, forced and cancelled ones, guests that leave, copies that are read and compared, volumes resized",
        groups: Some(&[OPERATORS, UPKEEP, SIZES]),
        tune: as_drawn,
    },
    Profile {
        name: "control",
        about: "the control plane is out of reach while primaries change",
        groups: Some(&[CONTROL, CHANGING]),
        tune: as_drawn,
    },
    Profile {
        name: "membership",
        about: "copies are added, removed and replaced, nodes drained and removed, also while nodes are down, some for long",
        groups: Some(&[
            PROCESSES,
            LINKS,
            CONTROL,
            OPERATORS,
            WIDE_LINKS,
            WIDE_PROCESSES,
            MEMBERS,
            NODES,
            OUTAGES,
            ENDINGS,
        ]),
        tune: membership,
    },
    Profile {
        name: "pair",
        about: "two copies and a witness: one copy goes on alone, or writes wait, until the other one is back; with spare nodes copies move",
        groups: Some(&[PROCESSES, LINKS, CONTROL, OPERATORS, WIDE_LINKS, WIDE_PROCESSES, OUTAGES, ENDINGS]),
        tune: pair,
    },
    Profile {
        name: "forced",
        about: "all copies but one are lost for ever, an operator goes on with that one, and then they come back",
        groups: Some(&[PROCESSES, LINKS, CONTROL, OPERATORS, WIDE_LINKS, WIDE_PROCESSES, FORCED]),
        tune: forced,
    },
    Profile {
        name: "lost-voters",
        about: "a majority of the control plane's voters is lost for ever, an operator goes on with one that is left, and then they come back",
        groups: Some(&[PROCESSES, LINKS, CONTROL, OPERATORS, WIDE_LINKS, WIDE_PROCESSES, REGIMES]),
        tune: lost_voters,
    },
    Profile {
        name: "resync",
        about: "small journals, long outages under load: copies that no log reaches are resynced by regions",
        groups: Some(&[RESYNC]),
        tune: resync,
    },
    Profile {
        name: "slow",
        about: "disks and links that are slow for long, small windows and journals: a copy that lags pins nothing of whoever leads it",
        groups: Some(&[SLOW]),
        tune: slow,
    },
    Profile {
        name: "versions",
        about: "builds of two versions in one cluster: nodes are upgraded one by one, and put back",
        groups: Some(&[PROCESSES, LINKS, CONTROL, OPERATORS, VERSIONS]),
        tune: versions,
    },
    Profile { name: "dense", about: "the default mix, many faults at a time", groups: None, tune: dense },
    Profile { name: "long", about: "the default mix, storms of minutes", groups: None, tune: long },
    Profile {
        name: MIXED,
        about: "half of the seeds have the default profile, the others each one of the rest",
        groups: None,
        tune: as_drawn,
    },
];

/// The profile that is another one for each seed.
const MIXED: &str = "all";

/// Processes and hosts end: what a disk had not synced is lost then.
const LOSING: Group = &[FaultKind::Crash, FaultKind::CrashAll, FaultKind::ProcessCrash];

/// Damage shows when a process starts anew or another copy takes over.
const REVEALING: Group = &[FaultKind::Crash, FaultKind::ProcessCrash, FaultKind::ForcedFailover];

/// Holders of leases that stand still, are late, or are not heard.
const LEASES: Group = &[
    FaultKind::Pause,
    FaultKind::PauseLong,
    FaultKind::PauseBelowLease,
    FaultKind::PauseAboveLease,
    FaultKind::SlowLoop,
    FaultKind::Isolate,
    FaultKind::Mute,
    FaultKind::ForcedFailover,
];

/// Ends of a resync that go away, and disks that are full or rot.
const RESYNC: Group = &[
    FaultKind::LongOutage,
    FaultKind::Crash,
    FaultKind::ProcessCrash,
    FaultKind::Isolate,
    FaultKind::ConnectionLoss,
    FaultKind::ForcedFailover,
    FaultKind::Switchover,
    FaultKind::PauseLong,
    FaultKind::SlowDisk,
    FaultKind::NoSpace,
    FaultKind::RotImage,
    FaultKind::ReadFlip,
    FaultKind::CorruptFrame,
    FaultKind::Resize,
];

/// What is alive and does not keep up.
const SLOW: Group = &[
    FaultKind::SlowDisk,
    FaultKind::GreyDisk,
    FaultKind::StalledDisk,
    FaultKind::SlowLink,
    FaultKind::Clog,
    FaultKind::PauseLong,
    FaultKind::Switchover,
];

/// Primaries change while the control plane is out of reach.
const CHANGING: Group =
    &[FaultKind::Switchover, FaultKind::ForcedFailover, FaultKind::Crash, FaultKind::Isolate, FaultKind::PauseLong];

impl Profile {
    /// The profile of this name.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Profile> {
        PROFILES.iter().find(|p| p.name == name)
    }

    /// The kinds that its storms start; `None` is every kind.
    #[must_use]
    pub fn kinds(&self) -> Option<Vec<FaultKind>> {
        self.groups.map(<[Group]>::concat)
    }

    /// The profile that a seed has if this one was chosen.
    pub(crate) fn of(&'static self, seed: u64) -> &'static Profile {
        if self.name != MIXED {
            return self;
        }
        let rest = PROFILES.len() as u64 - 2;
        let at = if seed.is_multiple_of(2) { 0 } else { 1 + seed / 2 % rest };
        &PROFILES[index(at)]
    }

    /// What a storm of this profile keeps of a seed's mix; all else of the seed is equal in every profile.
    pub(crate) fn keep(&self, mut mix: Vec<(FaultKind, u64)>, seed: u64) -> Vec<(FaultKind, u64)> {
        let Some(kinds) = self.kinds() else { return mix };
        mix.retain(|(kind, _)| kinds.contains(kind));
        if mix.is_empty() && !kinds.is_empty() {
            mix.push((kinds[index(Rng::new(seed).below(kinds.len() as u64))], 1));
        }
        mix
    }

    pub(crate) fn tune(&self, options: &mut Options) {
        (self.tune)(options);
    }
}

fn as_drawn(_: &mut Options) {}

fn calm(options: &mut Options) {
    options.drift_ppm = 0;
}

pub(crate) fn membership(options: &mut Options) {
    options.changes_members = true;
    options.faults.retain(|(kind, _)| !kind.fails_copies());
    let most: u64 = options.faults.iter().map(|f| f.1).sum();
    options.faults.extend(MEMBERS.iter().map(|kind| (*kind, 1 + most / 6)));
    let mut rng = Rng::new(options.requests ^ options.think ^ 0x6e_6f64_6573);
    options.faults.extend(NODES.iter().map(|kind| (*kind, 1 + most / 16)));
    options.faults.extend(ENDINGS.iter().map(|kind| (*kind, 1 + most / 16)));
    options.faults.extend([(FaultKind::NodeUndrain, 1 + most / 4), (FaultKind::LongOutage, 1 + most / 6)]);
    // Where a node is left over, it may be one that never holds anything.
    let idle = |n: &NodeId| options.volumes.iter().all(|v| !v.members.contains(n));
    let spare = options.nodes.iter().copied().rfind(|n| *n != options.control.named[0] && idle(n));
    options.control.witness = spare.filter(|n| rng.chance(400_000) && options.control.votes(*n));
    options.control.replace_after = std::time::Duration::from_millis(rng.range(1_500, 4_000));
    options.volumes.truncate(2);
    options.volumes.iter_mut().for_each(|v| v.durability = holdfast_types::Durability::Sync);
    // A learner is filled from the log, which reaches back to the first record as long as nothing is trimmed. A volume that becomes
    // smaller asks for a checkpoint, so sizes change in other profiles.
    options.requests = options.requests.min(700);
    (options.store.segment_bytes, options.store.max_segments) = (2 << 20, 100);
    options.store.checkpoint_bytes = 1 << 40;
    // A cache that is short of room asks for checkpoints, too.
    options.store.table_bytes = 16 << 20;
    options.store.checkpoint_interval = std::time::Duration::from_hours(1);
    options.may_lag = false;
    options.heal_bound *= 2;
}

/// Two nodes that hold everything, and one that votes: whoever goes away or is cut off leaves one copy.
pub(crate) fn pair(options: &mut Options) {
    let mut rng = Rng::new(options.requests ^ options.think ^ 0x7061_6972);
    let most: u64 = options.faults.iter().map(|f| f.1).sum();
    options.faults.extend([(FaultKind::Crash, 1 + most / 4), (FaultKind::Isolate, 1 + most / 6)]);
    options.faults.extend([(FaultKind::LongOutage, 1 + most / 6), (FaultKind::Triangle, 1 + most / 8)]);
    options.faults.extend(ENDINGS.iter().map(|kind| (*kind, 1 + most / 12)));
    options.nodes = (1..=3).map(NodeId).collect();
    let named_all = options.control.named.len() > 1;
    options.control.named = if named_all { options.nodes.clone() } else { options.nodes[..1].to_vec() };
    (options.control.learner, options.control.witness) = (None, Some(NodeId(3)));
    options.volumes.truncate(2);
    for volume in &mut options.volumes {
        volume.members = vec![NodeId(1), NodeId(2)];
        volume.first_primary = volume.members[index(rng.below(2))];
        (volume.write_quorum, volume.durability) = (2, Durability::Sync);
        volume.degraded = Some(if rng.chance(700_000) { Degraded::Allow } else { Degraded::Stall });
        volume.clients = volume.clients.max(2);
    }
    // At the end every copy that is wanted must count.
    options.changes_members = true;
    options.think = options.think.min(6 * MS);
    options.may_lag = false;
    options.storm = options.storm.max(12 * crate::log::SECOND);
    options.heal_bound *= 2;
    let mut rng = Rng::new(options.requests ^ options.think ^ 0x73_7061_7265);
    if rng.chance(500_000) {
        spare_nodes(options, rng.range(1, 3));
    }
}

/// Copies of a pair move while one of them is gone: what is being replaced, drained or removed meets going alone.
fn spare_nodes(options: &mut Options, count: u64) {
    let mut rng = Rng::new(options.requests ^ options.think ^ 0x6d_6f76_6573);
    let most: u64 = options.faults.iter().map(|f| f.1).sum();
    let moves = [FaultKind::CopyAdd, FaultKind::CopyRemove, FaultKind::CopyReplace];
    options.faults.extend(moves.map(|kind| (kind, 1 + most / 8)));
    options.faults.extend([(FaultKind::NodeDrain, 1 + most / 8), (FaultKind::NodeUndrain, 1 + most / 8)]);
    options.faults.push((FaultKind::NodeRemove, 1 + most / 8));
    let spare = (4..4 + count).map(NodeId);
    if options.control.named.len() > 1 {
        options.control.named.extend(spare.clone());
    }
    options.nodes.extend(spare);
    options.control.replace_after = std::time::Duration::from_millis(rng.range(1_500, 6_000));
}

/// One volume of two or three copies on five nodes, so that a majority of the control plane outlives a majority of the copies.
pub(crate) fn forced(options: &mut Options) {
    (options.loses_majority, options.changes_members) = (true, true);
    options.faults.retain(|(kind, _)| !kind.fails_copies() && *kind != FaultKind::CrashAll);
    let most: u64 = options.faults.iter().map(|f| f.1).sum();
    options.faults.push((FaultKind::MajorityLost, 2 + most / 2));
    options.nodes = (1..=5).map(holdfast_types::NodeId).collect();
    let named_all = options.control.named.len() > 1;
    options.control.named = if named_all { options.nodes.clone() } else { options.nodes[..1].to_vec() };
    options.control.learner = None;
    options.volumes.truncate(1);
    for volume in &mut options.volumes {
        volume.members.truncate(3);
        if !volume.members.contains(&volume.first_primary) {
            volume.first_primary = volume.members[0];
        }
        (volume.write_quorum, volume.durability) = (2, Durability::Sync);
        volume.clients = volume.clients.max(2);
    }
    options.think = options.think.min(6 * MS);
    options.store.max_segments = options.store.max_segments.max(20);
    options.may_lag = false;
    options.storm = options.storm.max(12 * crate::log::SECOND);
    options.heal_bound *= 2;
}

/// Three to five nodes that vote, and volumes of three copies on some of them.
pub(crate) fn lost_voters(options: &mut Options) {
    options.faults.retain(|(kind, _)| !kind.fails_copies() && *kind != FaultKind::CrashAll);
    let most: u64 = options.faults.iter().map(|f| f.1).sum();
    options.faults.retain(|(kind, _)| *kind != FaultKind::VotersLost);
    options.faults.push((FaultKind::VotersLost, 2 + most / 3));
    let count = 3 + (options.requests ^ options.think) % 3;
    options.nodes = (1..=count).map(holdfast_types::NodeId).collect();
    let named_all = options.control.named.len() > 1;
    options.control.named = if named_all { options.nodes.clone() } else { options.nodes[..1].to_vec() };
    options.control.learner = None;
    for volume in &mut options.volumes {
        volume.members.truncate(3);
        volume.members.retain(|m| options.nodes.contains(m));
        if volume.members.len() < 2 {
            volume.members = options.nodes[..3].to_vec();
        }
        if !volume.members.contains(&volume.first_primary) {
            volume.first_primary = volume.members[0];
        }
        volume.write_quorum = 2;
        volume.durability = if volume.durability == Durability::Async { Durability::Sync } else { volume.durability };
    }
    options.may_lag = false;
    options.storm = options.storm.max(20 * crate::log::SECOND);
    options.heal_bound *= 2;
}

fn clocks(options: &mut Options) {
    // The bound between two clocks is 10 000 ppm.
    options.drift_ppm = 5_000;
    options.timers.lease = options.timers.lease.min(std::time::Duration::from_millis(600));
    options.beat = options.beat.min(options.timers.lease / 10);
}

/// Old builds, most of which are upgraded within the storm.
pub(crate) fn versions(options: &mut Options) {
    options.control.mixed = true;
    let most: u64 = options.faults.iter().map(|f| f.1).sum();
    options.faults.retain(|(kind, _)| !VERSIONS.contains(kind));
    options.faults.extend([(FaultKind::Upgrade, 3 + most / 2), (FaultKind::Downgrade, 1 + most / 8)]);
    options.fault_interval = options.fault_interval.min(1_000 * MS);
}

/// Journals that forget in a second or two what was written; volumes of many regions; ends of a resync that go away.
fn resync(options: &mut Options) {
    let mut rng = Rng::new(options.requests ^ options.think ^ 0x7265_7379_6e63);
    options.volumes.truncate(2);
    for volume in &mut options.volumes {
        volume.size = VolumeSize::new(rng.range(2, 60) * (64 << 10) - rng.below(2) * 4096).expect("some regions");
        volume.durability = Durability::Sync;
        volume.clients = volume.clients.max(2);
    }
    options.store.segment_bytes = 192 << 10;
    options.store.max_segments = u32::try_from(rng.range(4, 7)).expect("a few");
    options.store.checkpoint_interval = options.store.checkpoint_interval.min(std::time::Duration::from_secs(1));
    options.store.cache_bytes = 0;
    (options.think, options.requests) = (rng.range(1, 6) * MS, 6_000);
    options.fault_interval = rng.range(300, 2_500) * MS;
    let some: Vec<FaultKind> = RESYNC.iter().copied().filter(|_| rng.chance(600_000)).collect();
    options.faults = some.into_iter().map(|kind| (kind, rng.range(1, 4))).collect();
    options.faults.push((FaultKind::LongOutage, 6));
}

/// Guests write many times what windows and journals hold, and what is slow stays so for seconds.
pub(crate) fn slow(options: &mut Options) {
    let mut rng = Rng::new(options.requests ^ options.think ^ 0x736c_6f77);
    options.volumes.truncate(1);
    for volume in &mut options.volumes {
        volume.durability = Durability::Sync;
        volume.clients = volume.clients.max(2);
    }
    (options.limits.window_bytes, options.limits.catch_up_bytes) = (64 << 10, 32 << 10);
    options.limits.admitted_bytes = 256 << 10;
    (options.store.segment_bytes, options.store.max_segments) = (384 << 10, 6);
    options.store.checkpoint_interval = options.store.checkpoint_interval.min(std::time::Duration::from_secs(1));
    options.store.cache_bytes = 0;
    (options.think, options.requests) = (rng.range(1, 4) * MS, 4_000);
    options.fault_interval = rng.range(300, 1_500) * MS;
    options.faults = SLOW.iter().map(|kind| (*kind, rng.range(1, 4))).collect();
    options.faults.extend([(FaultKind::Clog, 4), (FaultKind::GreyDisk, 4)]);
}

fn dense(options: &mut Options) {
    options.fault_interval = (options.fault_interval / 8).max(30 * MS);
}

fn long(options: &mut Options) {
    options.storm *= 6;
    options.requests *= 4;
}
