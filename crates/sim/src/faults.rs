//! The kinds of faults, which of them a seed uses, and how often each one fired.

use holdfast_types::Rng;
use std::collections::BTreeMap;
use std::sync::LazyLock;

macro_rules! fault_kinds {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum FaultKind { $($(#[$doc])* $name),* }

        impl FaultKind {
            /// Every kind.
            pub const ALL: &[FaultKind] = &[$(FaultKind::$name),*];

            /// Its name in reports, such as `crash-in-recovery`.
            #[must_use]
            pub fn name(self) -> &'static str {
                NAMES.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name.as_str())
            }
        }

        static NAMES: LazyLock<Vec<(FaultKind, String)>> =
            LazyLock::new(|| vec![$((FaultKind::$name, kebab(stringify!($name)))),*]);
    };
}

fault_kinds! {
    /// A process is killed (with its host: what was not synced may be lost), and comes back.
    Crash,
    /// All of them at once.
    CrashAll,
    /// Killed again while it recovers.
    CrashInRecovery,
    /// Stopped for less than a lease.
    Pause,
    /// Stopped for longer than a lease.
    PauseLong,
    /// A connection breaks and is made again.
    ConnectionLoss,
    /// Nodes in two groups that can't talk to each other.
    Partition,
    /// One direction between two nodes is dead.
    OneWay,
    /// One node hears and is heard by nobody.
    Isolate,
    /// One node hears others and is not heard.
    Mute,
    /// A link delays everything.
    SlowLink,
    /// One bit of a message is flipped on the way.
    CorruptFrame,
    /// Every operation of a disk takes long.
    SlowDisk,
    /// A disk does nothing for a while.
    StalledDisk,
    /// A write fails with EIO.
    WriteError,
    /// A read fails with EIO.
    ReadError,
    /// A sync fails with EIO, and what it should have synced may be lost.
    SyncError,
    /// No space for a while.
    NoSpace,
    /// A node loses all its files.
    Wipe,
    /// At a crash, a write that was not synced was lost.
    LostWrite,
    /// At a crash, a write that was not synced was kept.
    KeptWrite,
    /// At a crash, some sectors of a write were kept.
    TornWrite,
    /// Clocks of the nodes run at different rates.
    ClockDrift,
    /// No two nodes reach each other's control plane for a while: there is no majority.
    ControlDown,
    /// The leader of the control plane is cut off there, while its shard reaches everybody.
    RaftLeaderCutOff,
    /// The leader of the control plane is killed.
    RaftLeaderKilled,
    /// The leader of the control plane stands still.
    RaftLeaderPaused,
    /// Messages of the control plane overtake each other.
    RaftReorder,
    /// A message of the control plane finds a full queue and is dropped.
    RaftMessageLost,
    /// At a crash, Raft had asked for a write that was not done.
    LostPersist,
    /// A node lags so far behind that it gets a snapshot in place of the log.
    SnapshotInstall,
    /// A copy's request to the control plane of its node is dropped.
    ControlLost,
    /// A copy's request to the control plane of its node arrives again, late.
    ControlTwice,
    /// A view is delivered twice.
    ViewTwice,
    /// A copy is told of an epoch as active that no longer is.
    StaleView,
    /// A planned hand-over.
    Switchover,
    /// A planned hand-over that is taken back.
    SwitchoverCancelled,
    /// Another primary is wanted at once although the old one is well.
    ForcedFailover,
    /// A guest closes its connection with requests under way.
    Detach,
}

impl FaultKind {
    /// It ends a copy for good.
    pub(crate) const fn fails_copies(self) -> bool {
        matches!(self, FaultKind::WriteError | FaultKind::ReadError | FaultKind::SyncError | FaultKind::Wipe)
    }
}

/// `CrashInRecovery` as `crash-in-recovery`.
fn kebab(name: &str) -> String {
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !words.is_empty() {
            words.push('-');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

/// How often each kind fired.
pub type FaultCounts = BTreeMap<FaultKind, u64>;

/// Kinds that a fault event may start, as opposed to those that follow from others or from a setting.
pub(crate) const STARTED: &[FaultKind] = &[
    FaultKind::Crash,
    FaultKind::CrashAll,
    FaultKind::CrashInRecovery,
    FaultKind::Pause,
    FaultKind::PauseLong,
    FaultKind::ConnectionLoss,
    FaultKind::Partition,
    FaultKind::OneWay,
    FaultKind::Isolate,
    FaultKind::Mute,
    FaultKind::SlowLink,
    FaultKind::CorruptFrame,
    FaultKind::SlowDisk,
    FaultKind::StalledDisk,
    FaultKind::WriteError,
    FaultKind::ReadError,
    FaultKind::SyncError,
    FaultKind::NoSpace,
    FaultKind::Wipe,
    FaultKind::ControlDown,
    FaultKind::RaftLeaderCutOff,
    FaultKind::RaftLeaderKilled,
    FaultKind::RaftLeaderPaused,
    FaultKind::RaftReorder,
    FaultKind::Switchover,
    FaultKind::SwitchoverCancelled,
    FaultKind::ForcedFailover,
    FaultKind::Detach,
];

/// A seed's own mix: some kinds, each with a weight (swarm testing: a mix of everything hides what a mix of few finds).
pub(crate) fn draw_mix(rng: &mut Rng) -> Vec<(FaultKind, u64)> {
    let share = rng.range(100_000, 700_000);
    let share = u32::try_from(share).expect("below a million");
    let mut mix = Vec::new();
    for kind in STARTED {
        if rng.chance(share) {
            mix.push((*kind, rng.range(1, 10)));
        }
    }
    mix
}

/// One kind of a mix, by weight.
pub(crate) fn pick(mix: &[(FaultKind, u64)], rng: &mut Rng) -> Option<FaultKind> {
    let total: u64 = mix.iter().map(|m| m.1).sum();
    if total == 0 {
        return None;
    }
    let mut at = rng.below(total);
    for (kind, weight) in mix {
        if at < *weight {
            return Some(*kind);
        }
        at -= weight;
    }
    None
}
