//! What the alert rules are for, done to real agents: each rule fires in a real Prometheus because of its real cause.
//!
//! Expressions are the shipped ones. How long a condition must last before somebody is told is two seconds here, and tested as it is
//! shipped in `ops/alerts.test.yml`.
//!
//! Needs root: it mounts, makes networks, and holds a thread of an agent.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_cli::harness::{Build, Cluster};
use holdfast_cli::workload::{Plan, Workload};
use holdfast_faultfs::{Fault, FaultFs, Op, Options, Rule};
use holdfast_format::Superblock;
use holdfast_tests::netns::Lan;
use holdfast_tests::prometheus::{Prometheus, Rules, Setup, ops};
use holdfast_tests::scrape::Scrape;
use holdfast_tests::{PATIENCE, TestCluster, binary, finish, scratch, tool, try_tool};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::time::sleep;

const VOLUME: &str = "vm1";
/// With two copies, of which one may go on alone.
const PAIR: &str = "vm2";
/// With two copies that wait for each other.
const WAITS: &str = "vm3";
/// With one copy, on the node whose device is bad.
const SOLO: &str = "vm4";
const SIZE: u64 = 32 << 20;
/// To be made on a node that is dead, and on it alone.
const NOWHERE: &str = "vm5";
/// To be made there and elsewhere.
const HALF_MADE: &str = "vm6";
/// Of two volumes with as many records one has a copy of the other.
const SWAPPED: &str = "vm7";
const TWIN: &str = "vm8";
/// The node with the bad device.
const SICK: usize = 1;
const NAME: &str = "n2";

#[test]
fn every_rule_has_its_cause_here() {
    let rules = fs::read_to_string(ops("alerts.yml")).unwrap();
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 20, "{alerts:?}");
    let here = include_str!("causes.rs");
    let without: Vec<&&str> =
        alerts.iter().filter(|alert| here.matches(&format!("\"{alert}\"")).count() != 1).collect();
    assert!(without.is_empty(), "each is caused once; these are not: {without:?}");
}

const SOON: Setup = Setup { rules: Rules::AtOnce, seconds: 1, namespace: None };

fn start(cluster: &TestCluster, dir: &Path, setup: Setup) -> Prometheus {
    let targets: Vec<SocketAddr> = cluster.nodes().iter().map(|node| node.metrics().unwrap()).collect();
    Prometheus::start(dir, &targets, setup)
}

/// An alert, and the volume that it must be about.
type Expected<'a> = (&'a str, &'a str);

/// In place of a volume: the alert is about a node or the cluster.
const NONE: &str = "";

/// Waits until all of these fire.
async fn told(cluster: &TestCluster, prometheus: &Prometheus, cause: &str, expected: &[Expected<'_>]) {
    let (what, begun) = (format!("{expected:?} after {cause}"), Instant::now());
    let waits = cluster.wait_for(&what, 2 * PATIENCE, async |_| {
        let firing = prometheus.firing()?;
        let fires = |(name, volume): &Expected<'_>| firing.contains(&((*name).to_owned(), (*volume).to_owned()));
        let silent: Vec<&Expected<'_>> = expected.iter().filter(|alert| !fires(alert)).collect();
        if silent.is_empty() { Ok(()) } else { Err(format!("{silent:?} not among {firing:?}")) }
    });
    waits.await.unwrap_or_else(|e| panic!("{e}"));
    eprintln!("{what}: within {:?}", begun.elapsed());
}

/// Scraped anew, as they are now.
async fn scraped(cluster: &TestCluster, prometheus: &Prometheus) {
    let waits = cluster.wait_for("three agents to be scraped", PATIENCE, async |_| match prometheus.targets_up()? {
        3 => Ok(()),
        up => Err(format!("{up} up")),
    });
    waits.await.unwrap_or_else(|e| panic!("{e}"));
    // Twice more: what counts is seen as it was before the next cause.
    sleep(Duration::from_millis(2500)).await;
}

async fn healthy(cluster: &TestCluster, volume: &str) {
    cluster.wait_healthy(volume, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
}

fn write(cluster: &TestCluster, at: usize, volume: &str, what: &str) {
    tool("qemu-io", ["-f", "raw", "-c", &format!("write {what}"), "-c", "flush", &cluster.uri(at, volume)]);
}

/// Flips a bit of the sixth block of the first volume's copy.
fn rot(cluster: &TestCluster, node: usize) {
    flip(&cluster.nodes()[node].data_dir().join("shard-0/copies/1/image.raw"), 5 * 4096 + 77);
}

fn flip(file: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    file.sync_all().unwrap();
}

/// Somebody stands on the brake of one thread, and of no other.
struct HeldThread {
    _release: mpsc::Sender<()>,
}

impl HeldThread {
    fn hold(pid: u32, name: &str) -> HeldThread {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| task.unwrap().path());
        let named = |task: &std::path::PathBuf| fs::read_to_string(task.join("comm")).unwrap().trim() == name;
        let task = tasks.into_iter().find(named).unwrap_or_else(|| panic!("{pid} has no thread {name}"));
        let thread: libc::pid_t = task.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let (release, released) = mpsc::channel::<()>();
        let (holds, held) = mpsc::channel();
        // Whoever traces must be one thread; when it ends, the traced one goes on.
        std::thread::spawn(move || {
            let nothing = std::ptr::null_mut::<libc::c_void>();
            // SAFETY: neither request reads or writes memory of this process.
            let seized = unsafe {
                libc::ptrace(libc::PTRACE_SEIZE, thread, nothing, nothing) == 0
                    && libc::ptrace(libc::PTRACE_INTERRUPT, thread, nothing, nothing) == 0
            };
            holds.send(seized.then_some(()).ok_or_else(std::io::Error::last_os_error)).unwrap();
            // Nobody sends: it ends when the other end is dropped.
            let _ = released.recv();
        });
        held.recv().unwrap().unwrap_or_else(|e| panic!("expected to hold thread {name} of {pid}, found: {e}"));
        HeldThread { _release: release }
    }
}

/// As many as stay open: for a moment there are more, as those of volumes that were just deleted.
async fn descriptors(pid: u32) -> u64 {
    let mut fewest = u64::MAX;
    for _ in 0..20 {
        fewest = fewest.min(fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64);
        sleep(Duration::from_millis(100)).await;
    }
    fewest
}

fn limit_files(pid: u32, limit: u64) {
    tool("prlimit", ["--pid".to_owned(), pid.to_string(), format!("--nofile={limit}:")]);
}

/// Another leader of the control plane, as the one there is stands still.
async fn elect(cluster: &mut TestCluster) {
    let leads = async |cluster: &Cluster, not: Option<usize>| {
        let asked = usize::from(not == Some(0));
        let leader = cluster.status(asked).await?.leader;
        cluster.index_of(&leader).filter(|at| Some(*at) != not).ok_or_else(|| format!("{leader:?}"))
    };
    let old = cluster.wait_for("a leader", PATIENCE, async |cluster| leads(cluster, None).await);
    let old = old.await.unwrap_or_else(|e| panic!("{e}"));
    cluster.stop(old);
    let new = cluster.wait_for("another leader", PATIENCE, async |cluster| leads(cluster, Some(old)).await);
    new.await.unwrap_or_else(|e| panic!("{e}"));
    cluster.go_on(old);
}

/// A build that says of itself that it is of another version.
fn of_another_version(dir: &Path) -> Build {
    let (version, other) = (env!("CARGO_PKG_VERSION").as_bytes(), "9.9.9");
    assert_eq!(version.len(), other.len(), "the words of a program have their places");
    let mut program = fs::read(binary()).unwrap();
    let mut at = 0;
    while let Some(found) = program[at..].windows(version.len()).position(|word| word == version) {
        at += found;
        program[at..at + version.len()].copy_from_slice(other.as_bytes());
    }
    let path = dir.join("holdfast");
    fs::copy(binary(), &path).unwrap();
    fs::write(&path, program).unwrap();
    Build { binary: path, env: Vec::new() }
}

#[tokio::test]
async fn hosts_that_die_and_agents_that_misbehave() {
    let mut cluster = TestCluster::start_observed("\n[cluster]\ncertificate_lifetime = \"24h\"\n").await;
    cluster.volume(VOLUME, 16 << 20).await;
    for (name, degraded) in [(PAIR, "allow"), (WAITS, "stall")] {
        let create = ["volume", "create", name, "--size", "16MiB", "--on", "n1,n2", "--degraded", degraded];
        cluster.succeeds(0, &create).await;
    }
    write(&cluster, cluster.primary(VOLUME).await, VOLUME, "-P 0x5a 0 4M");
    cluster.succeeds(0, &["verify", VOLUME]).await;
    let dir = scratch();
    let prometheus = start(&cluster, dir.path(), SOON);
    scraped(&cluster, &prometheus).await;
    a_copy_of_something_else(&mut cluster, &prometheus).await;
    let certificates = [("HoldfastCertificateNotRenewed", NONE), ("HoldfastCertificateEnds", NONE)];
    told(&cluster, &prometheus, "certificates of a day", &certificates).await;

    let pid = cluster.nodes()[0].pid().unwrap();
    limit_files(pid, descriptors(pid).await * 10 / 9);
    told(&cluster, &prometheus, "too few file descriptors", &[("HoldfastFilesExhausted", NONE)]).await;
    limit_files(pid, 1024);
    a_thread_that_stands_still(&cluster).await;

    for _ in 0..7 {
        elect(&mut cluster).await;
        scraped(&cluster, &prometheus).await;
    }
    told(&cluster, &prometheus, "seven elections", &[("HoldfastLeaderChanges", NONE)]).await;
    healthy(&cluster, VOLUME).await;

    let from = cluster.primary(VOLUME).await;
    for turn in 1..=6 {
        let to = cluster.nodes()[(from + turn) % 3].name().to_owned();
        cluster.succeeds(0, &["failover", VOLUME, "--to", &to]).await;
        healthy(&cluster, VOLUME).await;
    }
    told(&cluster, &prometheus, "six switchovers", &[("HoldfastEpochFlapping", VOLUME)]).await;

    a_block_that_every_copy_lost(&mut cluster, &prometheus).await;
    agents_that_start_and_end(&mut cluster, &prometheus, dir.path()).await;
    assert!(prometheus.broken_rules().unwrap().is_empty());
}

/// An agent waits two seconds for its threads before it answers without them: whoever waits less is told that it is down.
async fn a_thread_that_stands_still(cluster: &TestCluster) {
    let dir = scratch();
    let prometheus = start(cluster, dir.path(), Setup { seconds: 4, ..SOON });
    scraped(cluster, &prometheus).await;
    let held = HeldThread::hold(cluster.nodes()[2].pid().unwrap(), "shard-0");
    told(cluster, &prometheus, "a thread that stands still", &[("HoldfastThreadStuck", NONE)]).await;
    drop(held);
    healthy(cluster, VOLUME).await;
}

/// What a device changes, loses or forgets is found by checksums first. So a copy gets the whole content of another volume's, with all
/// checksums: as a defect of an agent could leave it behind.
async fn a_copy_of_something_else(cluster: &mut TestCluster, prometheus: &Prometheus) {
    let mut copies = Vec::new();
    for (name, pattern) in [(SWAPPED, "0x61"), (TWIN, "0x62")] {
        cluster.volume_on(name, 8 << 20, &["n1", "n2", "n3"], "n1").await;
        // As many records each.
        write(cluster, 0, name, &format!("-P {pattern} 0 1M"));
        cluster.wait_in_sync(name, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
        let id = (**cluster).volume(name).await.unwrap().id;
        copies.push(cluster.nodes()[2].data_dir().join(format!("shard-0/copies/{id}")));
    }
    let [swapped, twin] = &copies[..] else { unreachable!("there are two") };
    // Its end is a checkpoint: nothing is left to be replayed over it.
    cluster.terminate(2);
    cluster.ended(2, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    for file in ["image.raw", "blocks.tab", "regions.tab"] {
        fs::copy(twin.join(file), swapped.join(file)).unwrap();
    }
    let newest = |copy: &Path| {
        let bytes = fs::read(copy.join("superblock")).unwrap();
        bytes.chunks_exact(Superblock::LEN).filter_map(Superblock::decode).max_by_key(|s| s.sequence).unwrap()
    };
    let (old, other) = (newest(swapped), newest(twin));
    assert_eq!(old.checkpoint, other.checkpoint);
    assert_ne!(old.sums.blocks, other.sums.blocks);
    let new = Superblock { sums: other.sums, roots: other.roots, ..old };
    fs::write(swapped.join("superblock"), new.encode().repeat(Superblock::COPIES)).unwrap();
    cluster.launch(2).unwrap();
    scraped(cluster, prometheus).await;
    let verified = cluster.ask(0, &["verify", SWAPPED]);
    assert_eq!(verified.status.code(), Some(1), "{verified:?}");
    told(cluster, prometheus, "a copy of something else", &[("HoldfastCopiesDiffer", SWAPPED)]).await;
    for name in [SWAPPED, TWIN] {
        cluster.succeeds(0, &["volume", "delete", name, "--yes"]).await;
    }
}

async fn a_block_that_every_copy_lost(cluster: &mut TestCluster, prometheus: &Prometheus) {
    // Longer than until the next checkpoint: what a start replays it writes again, and heals it.
    sleep(Duration::from_secs(8)).await;
    for node in 0..3 {
        cluster.kill(node);
        rot(cluster, node);
    }
    (0..3).for_each(|node| cluster.launch(node).unwrap());
    scraped(cluster, prometheus).await;
    let primary = cluster.primary(VOLUME).await;
    let scrubbed = cluster.ask(primary, &["scrub", VOLUME, "--rate", "1GiB/s"]);
    assert_eq!(scrubbed.status.code(), Some(1), "{scrubbed:?}");
    let read = try_tool("qemu-io", ["-f", "raw", "-c", "read 20k 4k", &cluster.uri(primary, VOLUME)]);
    let said = String::from_utf8_lossy(&read.stdout).into_owned() + &String::from_utf8_lossy(&read.stderr);
    assert!(said.contains("Input/output error"), "{said}");
    let rotten = [("HoldfastBitRot", VOLUME), ("HoldfastBlocksUnrepairable", VOLUME), ("HoldfastGuestErrors", VOLUME)];
    told(cluster, prometheus, "a block that every copy lost", &rotten).await;
}

async fn agents_that_start_and_end(cluster: &mut TestCluster, prometheus: &Prometheus, dir: &Path) {
    cluster.install(SICK, of_another_version(dir));
    for _ in 0..2 {
        cluster.kill(SICK);
        cluster.launch(SICK).unwrap();
        scraped(cluster, prometheus).await;
    }
    let starts = [("HoldfastRestarts", NONE), ("HoldfastVersionsDiffer", NONE)];
    told(cluster, prometheus, "three starts of an agent, of another version now", &starts).await;
    healthy(cluster, PAIR).await;
    healthy(cluster, WAITS).await;
    if cluster.primary(WAITS).await != 0 {
        cluster.succeeds(0, &["failover", WAITS, "--to", "n1"]).await;
    }

    cluster.kill(SICK);
    let serves = cluster.wait_for("another primary", PATIENCE, async |cluster| {
        let volume = cluster.volume(VOLUME).await?;
        let serves = volume.primary != NAME && volume.state == "degraded";
        if serves { Ok(volume.primary) } else { Err(format!("{} {}", volume.primary, volume.state)) }
    });
    let primary = serves.await.unwrap_or_else(|e| panic!("{e}"));
    write(cluster, cluster.index_of(&primary).unwrap(), VOLUME, "-P 0x5b 0 4M");
    let gone = [
        ("HoldfastAgentDown", NONE),
        ("HoldfastNodeUnreachable", NONE),
        ("HoldfastVolumeDegraded", VOLUME),
        ("HoldfastVolumeSingleCopy", PAIR),
        ("HoldfastVolumeStalled", WAITS),
        ("HoldfastCopyBehind", VOLUME),
    ];
    told(cluster, prometheus, "the death of a node", &gone).await;
    volumes_that_wait_for_a_dead_node(cluster, prometheus).await;

    cluster.kill(2);
    told(cluster, prometheus, "the death of the majority", &[("HoldfastNoLeader", NONE)]).await;
}

/// The one is told of by the leader alone, as no node of it lives, the other one by the node that has made its copy.
async fn volumes_that_wait_for_a_dead_node(cluster: &TestCluster, prometheus: &Prometheus) {
    let tell = |volume: &str| {
        let series = format!("holdfast_volume_state{{volume=\"{volume}\",state=\"opening\"}}");
        let opening = [0, 2].map(|node| Scrape::take(cluster.nodes()[node].metrics().unwrap()).unwrap().get(&series));
        opening.into_iter().flatten().filter(|opening| *opening == 1.0).count()
    };
    let create = |volume: &'static str, on: &'static str, more: &[&'static str]| {
        [&["volume", "create", volume, "--size", "16MiB", "--on", on, "--no-wait"], more].concat()
    };
    cluster.succeeds(0, &create(NOWHERE, NAME, &[])).await;
    told(cluster, prometheus, "a volume of a dead node", &[("HoldfastVolumeNotOpen", NOWHERE)]).await;
    assert_eq!(tell(NOWHERE), 1, "by the leader");
    cluster.succeeds(0, &create(HALF_MADE, "n2,n3", &["--degraded", "stall"])).await;
    let waits = cluster.wait_for("n3 to tell of its volume", PATIENCE, async |_| match tell(HALF_MADE) {
        1 => Ok(()),
        tell => Err(format!("{tell} tell of it")),
    });
    waits.await.unwrap_or_else(|e| panic!("{e}"));
}

fn mount(dir: &Path) -> FaultFs {
    let (real, seen) = (dir.join(NAME).join("real"), dir.join(NAME).join("data"));
    fs::create_dir_all(&real).unwrap();
    fs::create_dir_all(&seen).unwrap();
    FaultFs::mount(&real, &seen, Options { sync: false }).unwrap_or_else(|e| panic!("{e}"))
}

#[tokio::test]
async fn devices_that_are_bad() {
    let small = "\n[limits]\njournal_segment = \"4MiB\"\njournal_max = \"16MiB\"\n";
    let (mut cluster, device) = TestCluster::start_observed_on(small, mount).await;
    cluster.volume_on(VOLUME, SIZE, &["n1", NAME, "n3"], "n1").await;
    cluster.volume_on(SOLO, SIZE, &[NAME], NAME).await;
    let dir = scratch();
    let prometheus = start(&cluster, dir.path(), SOON);
    scraped(&cluster, &prometheus).await;
    let load = Workload::start(Plan { depth: 4, ..Plan::new(cluster.sockets(VOLUME), VOLUME, 0..SIZE, 5) }).unwrap();
    cluster.acknowledges(&load, 50).await;

    let journal = |fault| Rule::new("journal", &[Op::Write], fault);
    let image = |fault| Rule::new("copies/1/image.raw", &[Op::Write, Op::Allocate], fault);
    // Far above any other write, and below what counts as a device that hangs (3 s).
    device.rules().add(journal(Fault::Delay(Duration::from_millis(1500))));
    // So few that the copy still follows: one that has to catch up is not called slow.
    cluster.succeeds(0, &["volume", "limit", VOLUME, "--iops", "20"]).await;
    let slow = [("HoldfastDiskSlow", NONE), ("HoldfastCopySlow", VOLUME)];
    told(&cluster, &prometheus, "a device that takes 1.5 s for each write", &slow).await;
    cluster.succeeds(0, &["volume", "limit", VOLUME, "--none"]).await;
    sound(&cluster, &device).await;
    device.rules().add(image(Fault::Delay(Duration::from_secs(6))));
    told(
        &cluster,
        &prometheus,
        "an image that takes records more slowly than they come",
        &[("HoldfastJournalFull", NONE)],
    )
    .await;
    sound(&cluster, &device).await;
    device.rules().add(image(Fault::Errno(libc::ENOSPC)));
    told(&cluster, &prometheus, "a device without space", &[("HoldfastDiskFull", NONE)]).await;
    sound(&cluster, &device).await;
    device.rules().add(journal(Fault::Hang));
    told(&cluster, &prometheus, "a device that does not answer", &[("HoldfastDiskHung", NONE)]).await;
    sound(&cluster, &device).await;
    finish(load).await;
    healthy(&cluster, VOLUME).await;

    a_journal_that_rots(&mut cluster, &prometheus).await;
    device.rules().add(journal(Fault::Errno(libc::EIO)));
    let failed = [("HoldfastDiskErrors", NONE), ("HoldfastCopyFailed", VOLUME), ("HoldfastVolumeFailed", SOLO)];
    write(&cluster, 0, VOLUME, "-P 9 0 64k");
    told(&cluster, &prometheus, "a device that fails", &failed).await;
    assert!(prometheus.broken_rules().unwrap().is_empty());
    cluster.kill(SICK);
    drop(device);
}

async fn sound(cluster: &TestCluster, device: &FaultFs) {
    device.rules().clear();
    healthy(cluster, VOLUME).await;
}

/// A record that others follow is bad when the agent starts.
async fn a_journal_that_rots(cluster: &mut TestCluster, prometheus: &Prometheus) {
    let lost = |cluster: &TestCluster| {
        let scrape = Scrape::take(cluster.nodes()[SICK].metrics().unwrap()).unwrap();
        scrape.get("holdfast_journal_lost_records_total").unwrap()
    };
    // A quorum of the others may have acknowledged it alone, and what a checkpoint has just passed is not missed: then once more.
    for pattern in 0x71..=0x7f_u8 {
        for at in ["1M", "2M", "3M"] {
            write(cluster, 0, VOLUME, &format!("-P {pattern} {at} 64k"));
        }
        cluster.kill(SICK);
        let dir = cluster.nodes()[SICK].data_dir().join("shard-0/journal");
        let found = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).find_map(|file| {
            let bytes = fs::read(&file).unwrap();
            let block = bytes.chunks_exact(4096).position(|block| block.iter().all(|byte| *byte == pattern))?;
            Some((file, block))
        });
        if let Some((file, block)) = found {
            flip(&file, block as u64 * 4096 + 5);
        }
        cluster.launch(SICK).unwrap();
        scraped(cluster, prometheus).await;
        healthy(cluster, VOLUME).await;
        if lost(cluster) > 0.0 {
            break;
        }
    }
    told(cluster, prometheus, "a bad record in the journal", &[("HoldfastJournalRot", NONE)]).await;
}

#[tokio::test]
async fn a_link_that_loses_packets() {
    let lan = Lan::new(3);
    let cluster = TestCluster::start_in_with(&lan, "metrics = \"0.0.0.0:7480\"\n").await;
    cluster.volume(VOLUME, SIZE).await;
    let dir = scratch();
    let targets: Vec<SocketAddr> = lan.hosts().iter().map(|host| SocketAddr::new(host.address, 7480)).collect();
    let setup = Setup { namespace: Some(&lan.hosts()[0].namespace), ..SOON };
    let prometheus = Prometheus::start(dir.path(), &targets, setup);
    scraped(&cluster, &prometheus).await;
    lan.lose_packets(1, 10);
    let load = Workload::start(Plan::new(cluster.sockets(VOLUME), VOLUME, 0..SIZE, 6)).unwrap();
    told(&cluster, &prometheus, "a host that loses a tenth of what it sends", &[("HoldfastPacketLoss", NONE)]).await;
    lan.heal();
    finish(load).await;
    drop((prometheus, cluster));
}
