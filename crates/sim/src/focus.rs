//! Mixes that look at one part of the protocol for long. Mutants that the mix of everything let live led to each of them.

use crate::faults::{Declared, FaultKind};
use crate::log::{MS, SECOND};
use crate::options::{Options, index};
use crate::profiles::Profile;
use crate::setup::Setup;
use holdfast_types::{Durability, NodeId, Rng, VolumeSize};
use std::time::Duration;

/// Changes what a seed has drawn.
pub(crate) type Focus = fn(&mut Options, &mut Rng);

/// Each of them, the mix of everything first.
const ALL: [Focus; 5] = [everything, takeovers, leases, guests, disks];

/// The world of a seed: seeds take the mixes in turn.
pub(crate) fn focused(seed: u64) -> Options {
    aimed(seed, ALL[index(seed % ALL.len() as u64)])
}

/// The world of a seed for mistakes that only a takeover shows.
pub(crate) fn of_takeovers(seed: u64) -> Options {
    aimed(seed, takeovers)
}

/// The world of a seed for mistakes that only somebody who still serves by a lease shows.
pub(crate) fn of_leases(seed: u64) -> Options {
    aimed(seed, leases)
}

/// The world of a seed for mistakes that only somebody shows who is refused and goes on.
pub(crate) fn of_refusals(seed: u64) -> Options {
    aimed(seed, refusals)
}

/// The world of a seed for mistakes that only a disk shows that lost everything, and comes back under its old name.
pub(crate) fn of_wiped(seed: u64) -> Options {
    aimed(seed, |options, rng| {
        takeovers(options, rng);
        three_copies(options, rng);
        options.faults.push((FaultKind::Wipe, 12));
        options.aim_ppm = 0;
    })
}

/// The world of a seed for mistakes that only disks show that fail, fill up or lose what was not synced.
pub(crate) fn of_disks(seed: u64) -> Options {
    aimed(seed, disks)
}

fn aimed(seed: u64, mix: Focus) -> Options {
    let mut options = Setup::default().options(seed);
    // The mixes are made for volumes that answer from disks, in worlds that keep to the promises.
    options.declared = Declared::Nothing;
    options.volumes.iter_mut().for_each(|v| v.durability = Durability::Sync);
    let mut rng = Rng::new(seed ^ 0x0066_6f63_7573);
    mix(&mut options, &mut rng);
    options
}

/// The world of a seed for mistakes that only a change of members shows: copies come and go all the time, one volume, primaries
/// that end, stand still or are cut off in the middle.
pub(crate) fn of_members(seed: u64) -> Options {
    let profile = Profile::find("membership").expect("there is one");
    let mut options = Setup { profile, ..Setup::default() }.options(seed);
    options.declared = Declared::Nothing;
    let mut rng = Rng::new(seed ^ 0x006d_656d_6265);
    options.volumes.truncate(1);
    options.faults = vec![
        (FaultKind::CopyAdd, 6),
        (FaultKind::CopyRemove, 5),
        (FaultKind::CopyReplace, 6),
        (FaultKind::NodeDrain, 2),
        (FaultKind::NodeUndrain, 2),
        (FaultKind::ForcedFailover, 4),
        (FaultKind::Crash, 3),
        (FaultKind::CrashInRecovery, 1),
        (FaultKind::PauseLong, 2),
        (FaultKind::Isolate, 3),
        (FaultKind::OneWay, 2),
        (FaultKind::Mute, 2),
        (FaultKind::SlowLink, 2),
        (FaultKind::SlowDisk, 1),
    ];
    options.aim_ppm = 600_000;
    options.fault_interval = rng.range(100, 600) * MS;
    options.control.detect_within(300);
    (options.timers.lease, options.beat) = (Duration::from_millis(300), Duration::from_millis(30));
    options.volumes[0].clients = 3;
    (options.think, options.requests, options.depth) = (4 * MS, 1_500, 8);
    options
}

/// The world of a seed for mistakes about members that answer and can't read all that they held: three copies, one of whose journals rots
/// again and again; all of them end at once, and come back in any order. Disks take so long, and guests write so rarely, that often one
/// copy lacks the last record that was acknowledged and nothing else, and that nobody has been told of its commit.
pub(crate) fn of_unread(seed: u64) -> Options {
    aimed(seed, unread)
}

fn unread(options: &mut Options, rng: &mut Rng) {
    three_copies(options, rng);
    options.volumes[0].clients = 1;
    options.faults = vec![(FaultKind::RotJournal, 12), (FaultKind::CrashAll, 4), (FaultKind::LongOutage, 1)];
    (options.fault_interval, options.storm) = (rng.range(250, 500) * MS, 30 * SECOND);
    (options.timers.lease, options.beat) = (Duration::from_millis(300), Duration::from_millis(30));
    options.timers.commit_delay = Duration::from_secs(1);
    (options.disk.latency_min, options.disk.latency_max) = (MS, rng.range(20, 60) * MS);
    (options.think, options.requests, options.depth) = (20 * MS, 3_000, 1);
    // Every record is replayed, so that rot shows.
    options.store.max_segments = 100;
    (options.store.checkpoint_bytes, options.store.checkpoint_interval) = (1 << 40, Duration::from_hours(1));
}

/// The world of a seed for mistakes that only a forced recovery shows.
pub(crate) fn of_forced(seed: u64) -> Options {
    let profile = Profile::find("forced").expect("there is one");
    let mut options = Setup { profile, ..Setup::default() }.options(seed);
    options.declared = Declared::Nothing;
    options.faults.retain(|(kind, _)| !kind.changes_members());
    options.faults.push((FaultKind::MajorityLost, 20));
    options.fault_interval = options.fault_interval.clamp(200 * MS, 800 * MS);
    (options.think, options.requests) = (4 * MS, 3_000);
    options
}

/// The world of a seed for mistakes that only the loss of a majority of the voters shows.
pub(crate) fn of_lost_voters(seed: u64) -> Options {
    let profile = Profile::find("lost-voters").expect("there is one");
    let mut options = Setup { profile, ..Setup::default() }.options(seed);
    options.declared = Declared::Nothing;
    options.faults.push((FaultKind::VotersLost, 20));
    options.fault_interval = options.fault_interval.clamp(300 * MS, 1_200 * MS);
    options.control.detect_within(300);
    (options.think, options.requests) = (4 * MS, 3_000);
    options
}

/// The world of a seed for mistakes that only two copies show, one of which is gone.
pub(crate) fn of_pairs(seed: u64) -> Options {
    let profile = Profile::find("pair").expect("there is one");
    let mut options = Setup { profile, ..Setup::default() }.options(seed);
    options.declared = Declared::Nothing;
    options.aim_ppm = 300_000;
    options.fault_interval = options.fault_interval.clamp(400 * MS, 1_500 * MS);
    options.control.detect_within(300);
    (options.timers.lease, options.beat) = (Duration::from_millis(300), Duration::from_millis(30));
    (options.think, options.requests) = (4 * MS, 3_000);
    options
}

fn everything(_: &mut Options, _: &mut Rng) {}

/// The world of a seed for mistakes that only builds of two versions show.
pub(crate) fn of_versions(seed: u64) -> Options {
    let profile = Profile::find("versions").expect("there is one");
    let mut options = Setup { profile, ..Setup::default() }.options(seed);
    options.declared = Declared::Nothing;
    options
}

/// The world of a seed for mistakes that only a copy shows that is slow.
pub(crate) fn of_slow(seed: u64) -> Options {
    let profile = Profile::find("slow").expect("there is one");
    let mut options = Setup { profile, ..Setup::default() }.options(seed);
    options.declared = Declared::Nothing;
    options
}

/// The world of a seed for mistakes that only a resync by regions shows.
pub(crate) fn of_resync(seed: u64) -> Options {
    let profile = Profile::find("resync").expect("there is one");
    let mut options = Setup { profile, ..Setup::default() }.options(seed);
    options.declared = Declared::Nothing;
    options
}

/// The world of a seed for mistakes about sizes: takeovers, crashes and late news while a volume becomes larger and smaller.
pub(crate) fn of_sizes(seed: u64) -> Options {
    let mut options = Setup::default().options(seed);
    options.declared = Declared::Nothing;
    options.volumes.iter_mut().for_each(|v| v.durability = Durability::Sync);
    let mut rng = Rng::new(seed ^ 0x7369_7a65);
    takeovers(&mut options, &mut rng);
    options.faults.extend([(FaultKind::Resize, 20), (FaultKind::StaleView, 4), (FaultKind::CrashAll, 1)]);
    (options.think, options.requests) = (4 * MS, 3_000);
    options
}

/// Primaries end while guests write all the time and messages overtake each other between members; claimants end while they
/// claim. Only what the last messages brought tells the logs apart: whatever is older, commit positions protect.
fn takeovers(options: &mut Options, rng: &mut Rng) {
    options.volumes.truncate(1);
    options.faults = vec![
        (FaultKind::ForcedFailover, 6),
        (FaultKind::Crash, 5),
        (FaultKind::CrashInRecovery, 1),
        (FaultKind::PauseLong, 2),
        (FaultKind::SlowDisk, 1),
        (FaultKind::StalledDisk, 1),
        (FaultKind::SlowLink, 2),
        (FaultKind::OneWay, 2),
        (FaultKind::Isolate, 2),
        (FaultKind::Mute, 2),
    ];
    options.aim_ppm = 600_000;
    options.fault_interval = rng.range(150, 900) * MS;
    // What was on its way to a member arrives after the member has promised another epoch.
    options.net.idle_timeout = 2 * SECOND;
    options.control.detect_within(300);
    (options.timers.lease, options.beat) = (Duration::from_millis(300), Duration::from_millis(30));
    (options.net.delay_max, options.net.spike_ppm) = (options.net.delay_min + rng.range(1, 8) * MS, 20_000);
    options.volumes[0].clients = 3;
    (options.think, options.requests, options.depth) = (2 * MS, 6_000, 12);
}

/// Primaries are cut off and read from, while others want to take over; grants are long, their way is slow.
fn leases(options: &mut Options, rng: &mut Rng) {
    options.volumes.truncate(1);
    options.faults = vec![
        (FaultKind::Isolate, 4),
        (FaultKind::Partition, 2),
        (FaultKind::OneWay, 2),
        (FaultKind::Mute, 2),
        (FaultKind::PauseLong, 2),
        (FaultKind::SlowLink, 3),
        (FaultKind::Crash, 2),
    ];
    options.aim_ppm = 600_000;
    options.fault_interval = rng.range(200, 1_500) * MS;
    options.control.detect_within(300);
    options.drift_ppm = 5_000;
    let lease = [500, 2_000, 2_000, 10_000][index(rng.below(4))];
    (options.timers.lease, options.beat) = (Duration::from_millis(lease), Duration::from_millis(lease.min(1_000) / 10));
    options.net.idle_timeout = (lease + 1_000) * MS;
    (options.think, options.requests) = (3 * MS, 6_000);
    if lease > 2_000 {
        options.storm = 40 * SECOND;
    }
}

/// Primaries let go, or come back deposed, while members hear them that no longer grant anything, and whoever took over reaches them late.
fn refusals(options: &mut Options, rng: &mut Rng) {
    leases(options, rng);
    three_copies(options, rng);
    options.faults = vec![
        (FaultKind::PauseLong, 5),
        (FaultKind::Isolate, 2),
        (FaultKind::Triangle, 4),
        (FaultKind::Switchover, 3),
        (FaultKind::SlowLink, 4),
    ];
    (options.fault_interval, options.storm) = (rng.range(150, 900) * MS, 20 * SECOND);
    (options.timers.lease, options.beat) = (Duration::from_millis(300), Duration::from_millis(20));
    options.net.idle_timeout = 3 * SECOND;
    (options.think, options.requests) = (MS, 10_000);
}

/// One volume on three nodes, and no others.
fn three_copies(options: &mut Options, rng: &mut Rng) {
    options.nodes = (1..=3).map(NodeId).collect();
    let named = if options.control.named.len() > 1 { 3 } else { 1 };
    options.control.named = options.nodes[..named].to_vec();
    (options.control.learner, options.control.mixed) = (None, false);
    options.control.detect_within(300);
    options.volumes.truncate(1);
    let volume = &mut options.volumes[0];
    (volume.members, volume.write_quorum) = (options.nodes.clone(), 2);
    volume.first_primary = options.nodes[index(rng.below(3))];
}

/// Guests meet in one small place, ask for much at a time, and leave.
fn guests(options: &mut Options, rng: &mut Rng) {
    options.volumes.truncate(1);
    options.volumes[0].size = VolumeSize::new(rng.range(8, 64) * 512).expect("a few sectors");
    options.volumes[0].clients = 3;
    options.faults = vec![(FaultKind::Detach, 8), (FaultKind::SlowDisk, 1), (FaultKind::Switchover, 1)];
    options.fault_interval = rng.range(20, 200) * MS;
    (options.think, options.requests, options.depth) = (MS, 3_000, 16);
}

/// Small journals, and disks that fail, fill up, stall and lose what was not synced.
fn disks(options: &mut Options, rng: &mut Rng) {
    options.volumes.truncate(2);
    for volume in &mut options.volumes {
        // A quorum of all shows a copy that only pretends; of more copies than that another one often makes up for it.
        volume.members.truncate(index(rng.range(2, 4)));
        volume.write_quorum = 2;
        volume.first_primary = volume.members[0];
    }
    options.faults = vec![
        (FaultKind::Crash, 4),
        (FaultKind::CrashAll, 2),
        (FaultKind::CrashInRecovery, 1),
        (FaultKind::WriteError, 2),
        (FaultKind::SyncError, 2),
        (FaultKind::ReadError, 1),
        (FaultKind::SlowDisk, 2),
        (FaultKind::StalledDisk, 1),
    ];
    options.fault_interval = rng.range(100, 700) * MS;
    let small = rng.chance(500_000);
    options.store.max_segments = if small { 6 } else { 60 };
    if small {
        options.faults.push((FaultKind::NoSpace, 2));
    }
    options.store.frames_in_flight = 3;
    options.store.checkpoint_interval = Duration::from_millis(rng.range(50, 1_000));
    (options.think, options.requests, options.depth) = (2 * MS, 3_000, 12);
}
