//! Named mixes of faults: each looks longer at one part of what may go wrong than the mix of everything does.
//!
//! A profile is a row of [`PROFILES`]. Within its kinds each seed still draws its own few.

use crate::faults::FaultKind;
use crate::log::MS;
use crate::options::{Options, index};
use holdfast_types::Rng;

/// A named mix.
#[derive(Debug)]
pub struct Profile {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// The kinds that its storms start; `None` is every kind.
    pub kinds: Option<&'static [FaultKind]>,
    tune: fn(&mut Options),
}

/// All profiles; the first one is the default.
pub static PROFILES: &[Profile] = &[
    Profile { name: "default", about: "a few kinds of all, other ones for each seed", kinds: None, tune: as_drawn },
    Profile {
        name: "calm",
        about: "no fault at all: what breaks here breaks without any help",
        kinds: Some(&[]),
        tune: calm,
    },
    Profile {
        name: "crashes",
        about: "processes and hosts end, stand still and come back",
        kinds: Some(CRASHES),
        tune: as_drawn,
    },
    Profile {
        name: "disks",
        about: "disks fail, fill up, stall, and forget at a crash",
        kinds: Some(DISKS),
        tune: as_drawn,
    },
    Profile {
        name: "damage",
        about: "what disks hold is not what was written, and processes find out when they start",
        kinds: Some(DAMAGE),
        tune: as_drawn,
    },
    Profile {
        name: "network",
        about: "connections break, links slow down, directions die",
        kinds: Some(NETWORK),
        tune: as_drawn,
    },
    Profile {
        name: "clocks",
        about: "rates at the edge of the bound, short leases, holders that stand still",
        kinds: Some(CLOCKS),
        tune: clocks,
    },
    Profile {
        name: "operators",
        about: "switchovers, forced and cancelled ones, guests that leave",
        kinds: Some(OPERATORS),
        tune: as_drawn,
    },
    Profile {
        name: "control",
        about: "the control plane is out of reach while primaries change",
        kinds: Some(CONTROL),
        tune: as_drawn,
    },
    Profile { name: "dense", about: "the default mix, many faults at a time", kinds: None, tune: dense },
    Profile { name: "long", about: "the default mix, storms of minutes", kinds: None, tune: long },
    Profile {
        name: MIXED,
        about: "half of the seeds have the default profile, the others each one of the rest",
        kinds: None,
        tune: as_drawn,
    },
];

/// The profile that is another one for each seed.
const MIXED: &str = "all";

const CRASHES: &[FaultKind] = &[
    FaultKind::Crash,
    FaultKind::CrashAll,
    FaultKind::CrashInRecovery,
    FaultKind::Pause,
    FaultKind::PauseLong,
    FaultKind::ProcessCrash,
    FaultKind::SlowLoop,
    FaultKind::PauseBelowLease,
    FaultKind::PauseAboveLease,
];

const DISKS: &[FaultKind] = &[
    FaultKind::SlowDisk,
    FaultKind::StalledDisk,
    FaultKind::WriteError,
    FaultKind::ReadError,
    FaultKind::SyncError,
    FaultKind::NoSpace,
    FaultKind::Wipe,
    FaultKind::GreyDisk,
    FaultKind::LongStall,
    FaultKind::ReadOnly,
    FaultKind::Crash,
    FaultKind::CrashAll,
    FaultKind::ProcessCrash,
];

const DAMAGE: &[FaultKind] = &[
    FaultKind::RotJournal,
    FaultKind::RotImage,
    FaultKind::RotBlockTable,
    FaultKind::RotRegionTable,
    FaultKind::RotSuperblock,
    FaultKind::ReadFlip,
    FaultKind::MisdirectedRead,
    FaultKind::PhantomWrite,
    FaultKind::MisdirectedWrite,
    FaultKind::LyingSync,
    FaultKind::SuperblockRollback,
    FaultKind::DiskRollback,
    FaultKind::Crash,
    FaultKind::ProcessCrash,
    FaultKind::ForcedFailover,
];

const NETWORK: &[FaultKind] = &[
    FaultKind::ConnectionLoss,
    FaultKind::Partition,
    FaultKind::OneWay,
    FaultKind::Isolate,
    FaultKind::Mute,
    FaultKind::SlowLink,
    FaultKind::CorruptFrame,
    FaultKind::Clog,
    FaultKind::Swizzle,
    FaultKind::Flap,
    FaultKind::Triangle,
];

const CLOCKS: &[FaultKind] = &[
    FaultKind::Pause,
    FaultKind::PauseLong,
    FaultKind::PauseBelowLease,
    FaultKind::PauseAboveLease,
    FaultKind::SlowLoop,
    FaultKind::Isolate,
    FaultKind::Mute,
    FaultKind::ForcedFailover,
];

const OPERATORS: &[FaultKind] =
    &[FaultKind::Switchover, FaultKind::SwitchoverCancelled, FaultKind::ForcedFailover, FaultKind::Detach];

const CONTROL: &[FaultKind] = &[
    FaultKind::ControlDown,
    FaultKind::RaftLeaderCutOff,
    FaultKind::RaftLeaderKilled,
    FaultKind::RaftLeaderPaused,
    FaultKind::RaftReorder,
    FaultKind::Switchover,
    FaultKind::ForcedFailover,
    FaultKind::Crash,
    FaultKind::Isolate,
    FaultKind::PauseLong,
];

impl Profile {
    /// The profile of this name.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Profile> {
        PROFILES.iter().find(|p| p.name == name)
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
        let Some(kinds) = self.kinds else { return mix };
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

fn clocks(options: &mut Options) {
    // The bound between two clocks is 10 000 ppm.
    options.drift_ppm = 5_000;
    options.timers.lease = options.timers.lease.min(std::time::Duration::from_millis(600));
    options.beat = options.beat.min(options.timers.lease / 10);
}

fn dense(options: &mut Options) {
    options.fault_interval = (options.fault_interval / 8).max(30 * MS);
}

fn long(options: &mut Options) {
    options.storm *= 6;
    options.requests *= 4;
}
