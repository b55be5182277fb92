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
    /// The same, and it stays away for so long that small journals forget what it lacks.
    LongOutage,
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
    /// A link passes only so many bytes per millisecond; the rest queues.
    Clog,
    /// Some directions stop at once and come back in a random order.
    Swizzle,
    /// A connection breaks again and again.
    Flap,
    /// Two nodes don't hear each other, and everybody else hears both.
    Triangle,
    /// Every operation of a disk takes a hundred times as long.
    GreyDisk,
    /// A disk does nothing for half a minute.
    LongStall,
    /// Every change fails with EROFS until the file system is mounted anew.
    ReadOnly,
    /// A process ends alone (out of memory): what it wrote stays in the host's cache, synced or not.
    ProcessCrash,
    /// Every turn of a node's loop comes late.
    SlowLoop,
    /// Stopped for a little less than a lease.
    PauseBelowLease,
    /// Stopped for a little more than a lease.
    PauseAboveLease,
    /// A bit of the journal flips at rest.
    RotJournal,
    /// A bit of an image flips at rest.
    RotImage,
    /// A bit of a block table flips at rest.
    RotBlockTable,
    /// A bit of a region table flips at rest.
    RotRegionTable,
    /// A bit of one of the four superblocks of a copy flips at rest.
    RotSuperblock,
    /// A bit flips on the way from the medium, once.
    ReadFlip,
    /// A read of an image brings what lies elsewhere, once.
    MisdirectedRead,
    /// A write that was reported done, durable even, never reached the medium.
    PhantomWrite,
    /// A write goes elsewhere.
    MisdirectedWrite,
    /// A sync forgets the last few writes.
    LyingSync,
    /// A copy's superblock comes back as it was.
    SuperblockRollback,
    /// A whole disk comes back as it was (the host is restored from an old image).
    DiskRollback,
    /// An operator wants one copy more.
    CopyAdd,
    /// An operator wants one copy less.
    CopyRemove,
    /// An operator wants a copy on another node in place of one, or anew where it is.
    CopyReplace,
    /// A disk is wiped, and the operator has its copies made anew.
    DiskReplaced,
    /// An operator wants a node to hold nothing.
    NodeDrain,
    /// An operator takes that back, or ends it.
    NodeUndrain,
    /// An operator takes a node out for ever.
    NodeRemove,
    /// The leader has a copy made anew elsewhere that is gone for long.
    CopyReplacedByItself,
    /// It takes that back.
    CopyKept,
    /// A process is told to end and hands over what it leads, as on SIGTERM; it comes back.
    OrderlyEnd,
    /// A process is told to end and asks the others to wait for its next life.
    OrderlyRestart,
    /// One of two copies goes on alone.
    WentAlone,
    /// The copy that was left out counts again.
    BothAgain,
    /// A clock jumps ahead, which no clock that counts the time since boot does: declared runs only.
    ClockJump,
    /// A node stands still and its clock with it (a guest of a hypervisor that is paused): declared runs only.
    ClockStop,
    /// An operator has a copy read and verified.
    Scrub,
    /// An operator has the copies compared.
    Verify,
    /// An operator wants a volume of another size.
    Resize,
    /// A node's process ends and comes back as a build that speaks the next version.
    Upgrade,
    /// It comes back as the older build.
    Downgrade,
    /// An older build refuses to take part, because the cluster was raised meanwhile.
    DowngradeRefused,
    /// All copies of a volume but one are gone, for ever as far as anybody knows, and an operator goes on with the one that is left; much later
    /// they come back.
    MajorityLost,
    /// A majority of the control plane's voters is gone, for ever as far as anybody knows, and an operator goes on with one that is left;
    /// later they come back.
    VotersLost,
    /// A voter that was given up is back, is told so, and ends.
    GivenUpReturned,
    /// A volume waits for an operator: of a reign of it the recovered control plane knows nothing.
    SealedByRecovery,
}

impl FaultKind {
    /// It may end or damage a copy for good.
    pub(crate) fn fails_copies(self) -> bool {
        use FaultKind::{ReadError, ReadOnly, SyncError, Wipe, WriteError};
        self.is_damage() || matches!(self, WriteError | ReadError | SyncError | ReadOnly | Wipe)
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

/// Kinds that belong together.
pub(crate) type Group = &'static [FaultKind];

/// Kinds that a fault event may start, as opposed to those that follow from others or from a setting. A seed draws them one
/// by one in this order: another order makes another run of it.
const STARTED: &[Group] = &[PROCESSES, LINKS, DISKS, CONTROL, OPERATORS];

/// Kinds of `world/wide.rs`, in any run; the order counts here, too.
const WIDE: &[Group] = &[WIDE_LINKS, WIDE_DISKS, WIDE_PROCESSES];

/// Processes and hosts.
pub(crate) const PROCESSES: &[FaultKind] =
    &[FaultKind::Crash, FaultKind::CrashAll, FaultKind::CrashInRecovery, FaultKind::Pause, FaultKind::PauseLong];

/// Connections and links.
pub(crate) const LINKS: &[FaultKind] = &[
    FaultKind::ConnectionLoss,
    FaultKind::Partition,
    FaultKind::OneWay,
    FaultKind::Isolate,
    FaultKind::Mute,
    FaultKind::SlowLink,
    FaultKind::CorruptFrame,
];

/// Disks that answer slowly, with errors, or not at all.
pub(crate) const DISKS: &[FaultKind] = &[
    FaultKind::SlowDisk,
    FaultKind::StalledDisk,
    FaultKind::WriteError,
    FaultKind::ReadError,
    FaultKind::SyncError,
    FaultKind::NoSpace,
    FaultKind::Wipe,
];

/// The control plane.
pub(crate) const CONTROL: &[FaultKind] = &[
    FaultKind::ControlDown,
    FaultKind::RaftLeaderCutOff,
    FaultKind::RaftLeaderKilled,
    FaultKind::RaftLeaderPaused,
    FaultKind::RaftReorder,
];

/// What operators and guests do.
pub(crate) const OPERATORS: &[FaultKind] =
    &[FaultKind::Switchover, FaultKind::SwitchoverCancelled, FaultKind::ForcedFailover, FaultKind::Detach];

/// Links, further.
pub(crate) const WIDE_LINKS: &[FaultKind] =
    &[FaultKind::Clog, FaultKind::Swizzle, FaultKind::Flap, FaultKind::Triangle];

/// Disks, further.
pub(crate) const WIDE_DISKS: &[FaultKind] = &[FaultKind::GreyDisk, FaultKind::LongStall, FaultKind::ReadOnly];

/// Processes, further.
pub(crate) const WIDE_PROCESSES: &[FaultKind] =
    &[FaultKind::ProcessCrash, FaultKind::SlowLoop, FaultKind::PauseBelowLease, FaultKind::PauseAboveLease];

/// Kinds of `world/damage.rs`, in any run.
pub(crate) const DAMAGE: &[FaultKind] = &[
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
];

/// What operators do to see that all is well. Drawn apart from all else.
pub(crate) const UPKEEP: &[FaultKind] = &[FaultKind::Scrub, FaultKind::Verify];

/// A node stays away for so long that small journals forget what its copies lack.
pub(crate) const OUTAGES: &[FaultKind] = &[FaultKind::LongOutage];

/// Processes that end in order: kinds of `world/ending.rs`. Drawn apart from all else.
pub(crate) const ENDINGS: &[FaultKind] = &[FaultKind::OrderlyEnd, FaultKind::OrderlyRestart];

/// Kinds of `world/members.rs`: who holds copies changes. In runs of their own.
pub(crate) const MEMBERS: &[FaultKind] =
    &[FaultKind::CopyAdd, FaultKind::CopyRemove, FaultKind::CopyReplace, FaultKind::DiskReplaced];

/// Nodes come into and out of service: in the same runs.
pub(crate) const NODES: &[FaultKind] = &[FaultKind::NodeDrain, FaultKind::NodeUndrain, FaultKind::NodeRemove];

/// Kinds of `world/forced.rs`. In runs of their own.
pub(crate) const FORCED: &[FaultKind] = &[FaultKind::MajorityLost];

/// Kinds of `world/regime.rs`. In runs of their own.
pub(crate) const REGIMES: &[FaultKind] = &[FaultKind::VotersLost];

/// Volumes become larger and smaller. Drawn apart from all else.
pub(crate) const SIZES: &[FaultKind] = &[FaultKind::Resize];

/// Kinds of `world/versions.rs`: builds of two versions in one cluster. Drawn apart from all else.
pub(crate) const VERSIONS: &[FaultKind] = &[FaultKind::Upgrade, FaultKind::Downgrade];

/// Beyond what the read lease is made for.
const CLOCKS: &[FaultKind] = &[FaultKind::ClockJump, FaultKind::ClockStop];

/// What a run may do beyond the promises, and what it must still keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Declared {
    /// Within the promises: every checker is on, liveness is asked for.
    Nothing,
    /// Clocks go wrong: a superseded primary may serve stale reads (S13). Nothing else may suffer, writes least of all.
    Clocks,
    /// All copies may be damaged, as long as the damage shows. What counts is that no wrong data is given out: reads may fail,
    /// and volumes may stay closed (S19).
    Losses,
}

impl Declared {
    /// The same, unless none of these kinds makes use of it.
    pub(crate) fn needed_by(self, mix: &[(FaultKind, u64)]) -> Declared {
        let any = |of: fn(FaultKind) -> bool| mix.iter().any(|(kind, _)| of(*kind));
        let needed = match self {
            Declared::Nothing => false,
            Declared::Clocks => any(|kind| CLOCKS.contains(&kind)),
            Declared::Losses => any(FaultKind::fails_copies),
        };
        if needed { self } else { Declared::Nothing }
    }
}

/// Every kind that a fault event may start in a run that is declared as nothing.
#[cfg(test)]
pub(crate) fn started() -> impl Iterator<Item = FaultKind> {
    STARTED.iter().chain(WIDE).chain(&[DAMAGE, UPKEEP, OUTAGES, SIZES, ENDINGS, VERSIONS]).copied().flatten().copied()
}

impl FaultKind {
    /// What the cluster does about other kinds, now and then: counted, and not to be had on request.
    pub(crate) const fn is_answer(self) -> bool {
        use FaultKind::{
            BothAgain, CopyKept, CopyReplacedByItself, DowngradeRefused, GivenUpReturned, SealedByRecovery, WentAlone,
        };
        matches!(
            self,
            CopyReplacedByItself
                | CopyKept
                | WentAlone
                | BothAgain
                | DowngradeRefused
                | GivenUpReturned
                | SealedByRecovery
        )
    }

    /// Whether it is one of `world/damage.rs`.
    pub(crate) fn is_damage(self) -> bool {
        DAMAGE.contains(&self)
    }

    /// Whether it is one of `world/members.rs`.
    pub(crate) fn changes_members(self) -> bool {
        MEMBERS.contains(&self)
    }

    /// Whether it is one of `world/nodes.rs`.
    pub(crate) fn changes_nodes(self) -> bool {
        NODES.contains(&self)
    }

    /// Whether it is one of `world/wide.rs`.
    pub(crate) fn is_wide(self) -> bool {
        WIDE.iter().chain(&[CLOCKS]).any(|group| group.contains(&self))
    }
}

/// Few runs are declared: most of the search belongs to what is promised.
pub(crate) fn declare(rng: &mut Rng) -> Declared {
    match rng.below(100) {
        0..4 => Declared::Clocks,
        4..8 => Declared::Losses,
        _ => Declared::Nothing,
    }
}

/// The part of the mix that came later. Drawn on its own, so that a new kind changes no other decision of a seed.
pub(crate) fn draw_wide_mix(declared: Declared, rng: &mut Rng) -> Vec<(FaultKind, u64)> {
    let share = u32::try_from(rng.range(100_000, 600_000)).expect("below a million");
    let mut mix = draw(WIDE.iter().chain(&[DAMAGE]), share, 8, rng);
    if declared == Declared::Clocks {
        mix.extend(CLOCKS.iter().map(|kind| (*kind, rng.range(20, 60))));
    }
    mix
}

/// One in three seeds has operators that look after their copies.
pub(crate) fn draw_upkeep(rng: &mut Rng) -> Vec<(FaultKind, u64)> {
    if rng.chance(330_000) { draw([UPKEEP, OUTAGES].iter(), 700_000, 6, rng) } else { Vec::new() }
}

/// One in three seeds has volumes whose size changes.
pub(crate) fn draw_sizes(rng: &mut Rng) -> Vec<(FaultKind, u64)> {
    if rng.chance(330_000) { draw([SIZES].iter(), 1_000_000, 8, rng) } else { Vec::new() }
}

/// One in three seeds has processes that end in order.
pub(crate) fn draw_endings(rng: &mut Rng) -> Vec<(FaultKind, u64)> {
    if rng.chance(330_000) { draw([ENDINGS].iter(), 700_000, 8, rng) } else { Vec::new() }
}

/// One in four seeds begins with old builds, which are upgraded more often than put back.
pub(crate) fn draw_versions(rng: &mut Rng) -> Vec<(FaultKind, u64)> {
    if !rng.chance(250_000) {
        return Vec::new();
    }
    let downgrade = rng.chance(600_000).then(|| (FaultKind::Downgrade, rng.range(1, 4)));
    [(FaultKind::Upgrade, rng.range(2, 9))].into_iter().chain(downgrade).collect()
}

/// Whether these faults are of a cluster that begins with old builds.
pub(crate) fn mixes_versions(mix: &[(FaultKind, u64)]) -> bool {
    mix.iter().any(|(kind, _)| VERSIONS.contains(kind))
}

/// A seed's own mix: some kinds, each with a weight (swarm testing: a mix of everything hides what a mix of few finds).
pub(crate) fn draw_mix(rng: &mut Rng) -> Vec<(FaultKind, u64)> {
    let share = u32::try_from(rng.range(100_000, 700_000)).expect("below a million");
    draw(STARTED.iter(), share, 10, rng)
}

/// Each kind with a chance of `share` in a million, and then with a weight below `most`.
fn draw<'a>(groups: impl Iterator<Item = &'a Group>, share: u32, most: u64, rng: &mut Rng) -> Vec<(FaultKind, u64)> {
    let mut mix = Vec::new();
    for kind in groups.copied().flatten() {
        if rng.chance(share) {
            mix.push((*kind, rng.range(1, most)));
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
