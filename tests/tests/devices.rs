//! Devices that break under real agents and verified load: what is promised when a disk errs, fills up, turns read-only,
//! hangs, slows down or vanishes (P8, P9), and that the cluster is healthy again after the repair.
//!
//! One of three nodes keeps its data on a file system that fails on command. For each fault: people are told of the node, the
//! file and what to do; the node's other volumes go on where they can; another copy leads if that one led; no acknowledged
//! write is lost and no wrong byte is read; after the repair the volumes become healthy.
//!
//! Needs root: it mounts.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_cli::harness::Cluster;
use holdfast_cli::workload::{Plan, Workload};
use holdfast_faultfs::{Fault, FaultFs, Op, Options, Rule};
use holdfast_tests::{PATIENCE, TestCluster, tool, try_tool};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::time::sleep;

const SIZE: u64 = 32 << 20;
/// The node with the bad device; it does not found the cluster, and so rarely leads the control plane.
const SICK: usize = 1;
const NAME: &str = "n2";
/// Volumes under load. Faults of a single copy hit the first.
const VOLUMES: [&str; 2] = ["first", "second"];
/// How long a volume may take to open that perhaps never does.
const OPENS: Duration = Duration::from_secs(20);
const CALM: Duration = Duration::from_millis(700);

/// What is to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The copy takes no part until its agent is started again.
    Failed,
    /// It takes no part until the device answers.
    Hung,
    /// The agent ends with a sentence.
    Gone,
    /// It is masked: nothing but slower or repaired.
    Masked,
}

struct Case {
    name: &'static str,
    rules: Vec<Rule>,
    /// The bad node leads the volumes when it happens.
    leads: bool,
    end: End,
    /// The second volume has the same fate.
    both: bool,
}

fn case(name: &'static str, leads: bool, end: End, both: bool, rules: Vec<Rule>) -> Case {
    Case { name, rules, leads, end, both }
}

/// The image of the first volume only.
const IMAGE: &str = "copies/1/image.raw";

fn errno(path: &str, ops: &[Op], number: i32) -> Rule {
    Rule::new(path, ops, Fault::Errno(number))
}

struct Sick {
    /// Goes first: nothing hangs in it any more when the agents are killed.
    fs: FaultFs,
    cluster: TestCluster,
    loads: Vec<Workload>,
}

impl Sick {
    async fn start() -> Sick {
        let mount = |dir: &Path| {
            let (real, seen) = (dir.join(NAME).join("real"), dir.join(NAME).join("data"));
            fs::create_dir_all(&real).unwrap();
            fs::create_dir_all(&seen).unwrap();
            FaultFs::mount(&real, &seen, Options { sync: false }).unwrap_or_else(|e| panic!("{e}"))
        };
        let (cluster, fs) = TestCluster::start_on("", mount).await;
        let loads = load(&cluster, SIZE).await;
        Sick { fs, cluster, loads }
    }

    async fn run(&mut self, case: &Case) {
        lead(&self.cluster, case.leads).await;
        sleep(CALM).await;
        let hits = self.fs.rules().counts().hits();
        self.loads.iter().for_each(|load| load.phase(case.name));
        let start = Instant::now();
        for rule in &case.rules {
            self.fs.rules().add(rule.clone());
        }
        let told = if case.end == End::Masked { self.masked().await } else { self.noticed(case).await };
        self.mend(case, hits, start.elapsed(), &told).await;
    }

    /// Guests go on in spite of the fault, which was met since there had been `before` hits. Then it goes, and all become healthy.
    async fn mend(&mut self, case: &Case, before: u64, noticed: Duration, told: &str) {
        goes_on(&self.loads).await;
        check(&self.loads);
        let hits = self.fs.rules().counts().hits() - before;
        assert!(hits > 0, "{}: no operation was hit", case.name);
        self.fs.rules().clear();
        if matches!(case.end, End::Failed | End::Gone) {
            // The repair: the device is sound again, the agent starts again.
            self.cluster.kill(SICK);
            self.cluster.launch(SICK).unwrap();
        }
        for volume in VOLUMES {
            self.cluster.wait_healthy(volume, PATIENCE).await.unwrap_or_else(|e| panic!("{}: {e}", case.name));
        }
        check(&self.loads);
        let pause = pause(&self.loads, case.name);
        println!("{}: {hits} hits, told after {noticed:?}, longest pause {pause:?}: {told}", case.name);
    }

    /// The device errs while the agent starts, and is sound again for the next start. Nothing else is asked of the other volume's copy
    /// than that it is as sound as before, where the fault is not its own.
    async fn start_with(&mut self, case: &Case) {
        lead(&self.cluster, false).await;
        let hits = self.fs.rules().counts().hits();
        self.loads.iter().for_each(|load| load.phase(case.name));
        self.cluster.kill(SICK);
        let start = Instant::now();
        for rule in &case.rules {
            self.fs.rules().add(rule.clone());
        }
        self.cluster.launch(SICK).unwrap();
        // What is told before is of the agent's life before. Of a fault that passes all is to be met.
        let passes: Option<u64> = case.rules.iter().map(|rule| rule.times).sum();
        let least = hits + passes.unwrap_or(1);
        until(&format!("{}: an operation that it hits", case.name), async || {
            let found = self.fs.rules().counts();
            if found.hits() >= least { Ok(()) } else { Err(found.to_string()) }
        })
        .await;
        let affected = if case.both { &VOLUMES[..] } else { &VOLUMES[..1] };
        let failed = if case.end == End::Failed { affected } else { &[] };
        let mut told = String::new();
        for volume in VOLUMES {
            told += &until(&format!("{}: {volume}", case.name), async || {
                let found = Cluster::volume(&self.cluster, volume).await?;
                let said = found.r#unsafe.join("; ");
                let copy = found.copies.iter().find(|c| c.node == NAME);
                let state = copy.map(|c| c.state.clone()).unwrap_or_default();
                let as_expected = if failed.contains(&volume) {
                    state == "failed"
                        && ["has failed", NAME, "errno 5", "device", "restart"].iter().all(|word| said.contains(word))
                } else {
                    found.state == "healthy"
                };
                if as_expected { Ok(said) } else { Err(format!("{}, {state} on {NAME}: {said}", found.state)) }
            })
            .await;
        }
        self.mend(case, hits, start.elapsed(), &told).await;
    }

    /// Reads and writes go on for a while, with every copy.
    async fn masked(&self) -> String {
        for _ in 0..3 {
            goes_on(&self.loads).await;
            sleep(CALM).await;
        }
        "masked".to_owned()
    }

    /// Waits until people are told, and somebody else leads; returns what they are told.
    async fn noticed(&self, case: &Case) -> String {
        let dir = self.cluster.nodes()[SICK].data_dir().join("shard-0").display().to_string();
        let affected = if case.both { &VOLUMES[..] } else { &VOLUMES[..1] };
        let mut told = String::new();
        for volume in affected {
            told = until(case.name, async || {
                let found = Cluster::volume(&self.cluster, volume).await?;
                let said = found.r#unsafe.join("; ");
                let words: &[&str] = match case.end {
                    End::Failed => &["has failed", NAME, "check the device", "restart", &dir],
                    End::Hung => &["hangs", NAME, "check that device", &dir],
                    _ => &[NAME, "is silent"],
                };
                let state = found.copies.iter().find(|c| c.node == NAME).map(|c| c.state.clone()).unwrap_or_default();
                let wanted = match case.end {
                    End::Failed => "failed",
                    End::Hung => "hung",
                    _ => "unreachable",
                };
                let moved = found.primary != NAME && found.state == "degraded";
                if words.iter().all(|w| said.contains(w)) && state == wanted && moved {
                    Ok(said)
                } else {
                    Err(format!("{volume} {}, led by {}, {state} on {NAME}: {said}", found.state, found.primary))
                }
            })
            .await;
        }
        if case.end == End::Gone {
            let log = fs::read_to_string(self.cluster.nodes()[SICK].log()).unwrap();
            let last = log.lines().last().unwrap_or_default();
            assert!(last.starts_with("holdfast: ") && !last.contains("panicked"), "{}: {last}", case.name);
            return last.to_owned();
        }
        if !case.both {
            let second = Cluster::volume(&self.cluster, VOLUMES[1]).await.unwrap();
            assert_eq!(second.state, "healthy", "{}: the node's other volume is not concerned: {second:?}", case.name);
        }
        told
    }

    async fn prove(self) {
        prove(&self.cluster, self.loads).await;
    }
}

/// Volumes under load.
async fn load(cluster: &TestCluster, size: u64) -> Vec<Workload> {
    let mut loads = Vec::new();
    for (seed, name) in (1..).zip(VOLUMES) {
        cluster.volume(name, size).await;
        let plan = Plan { depth: 4, ..Plan::new(cluster.sockets(name), name, 0..size, seed) };
        loads.push(Workload::start(plan).unwrap());
    }
    loads
}

/// Makes the bad node lead all volumes, or none.
async fn lead(cluster: &TestCluster, leads: bool) {
    for volume in VOLUMES {
        let primary = cluster.primary(volume).await;
        if (primary == SICK) == leads {
            continue;
        }
        let to = if leads { NAME } else { cluster.nodes()[0].name() };
        cluster.failover(volume, to, false).await.unwrap_or_else(|e| panic!("{e}"));
        until("a switchover", async || {
            let found = Cluster::volume(cluster, volume).await?;
            let there = found.primary == to && found.state == "healthy";
            if there { Ok(()) } else { Err(format!("{} led by {}", found.state, found.primary)) }
        })
        .await;
    }
}

/// Looks until it is as it should be. Unlike the cluster's own waits, this one takes an agent's end for a possible outcome.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        let found = match look().await {
            Ok(value) => return value,
            Err(found) => found,
        };
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}; found last: {found}");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn goes_on(loads: &[Workload]) {
    for load in loads {
        let before = load.progress().acknowledged;
        until("another acknowledged write", async || {
            let progress = load.progress();
            if progress.acknowledged > before + 3 { Ok(()) } else { Err(format!("{:?}", progress.failure)) }
        })
        .await;
    }
}

fn check(loads: &[Workload]) {
    for load in loads {
        let progress = load.progress();
        assert!(progress.failure.is_none(), "{:?}", progress.failure);
        assert!(progress.violations.is_empty(), "{:#?}", progress.violations);
    }
}

fn pause(loads: &[Workload], phase: &str) -> Duration {
    let pauses = loads.iter().filter_map(|load| load.progress().phase(phase).map(|p| p.longest_pause));
    pauses.max().unwrap_or_default()
}

async fn prove(cluster: &TestCluster, loads: Vec<Workload>) {
    for (name, load) in VOLUMES.into_iter().zip(loads) {
        load.hold(PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
        let in_sync = cluster.wait_in_sync(name, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
        let progress = load.finish(PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
        assert!(progress.violations.is_empty(), "{:#?}", progress.violations);
        assert!(progress.acknowledged > 0 && progress.reads > 0, "{progress:?}");
        println!("{name}: {} writes, {} reads, {} copies equal", progress.acknowledged, progress.reads, in_sync.copies);
    }
}

async fn run(cases: &[Case]) {
    let mut sick = Sick::start().await;
    for case in cases {
        sick.run(case).await;
    }
    sick.prove().await;
}

#[tokio::test]
async fn errors() {
    let eio = libc::EIO;
    run(&[
        case("EIO on the journal of a primary", true, End::Failed, true, vec![errno("journal", &[Op::Write], eio)]),
        case("EIO on the journal of a secondary", false, End::Failed, true, vec![errno("journal", &[Op::Write], eio)]),
        case("EIO reading one image of a primary", true, End::Failed, false, vec![errno(IMAGE, &[Op::Read], eio)]),
        case("EIO writing one image of a secondary", false, End::Failed, false, vec![errno(IMAGE, &[Op::Write], eio)]),
        case(
            "one failed sync of a primary's journal",
            true,
            End::Failed,
            true,
            vec![errno("journal", &[Op::Sync], eio).once()],
        ),
        case("failed syncs of one image", true, End::Failed, false, vec![errno(IMAGE, &[Op::Sync], eio)]),
    ])
    .await;
}

#[tokio::test]
async fn other_ends() {
    let torn = Rule::new("journal", &[Op::Write], Fault::Torn);
    let flip = Rule { times: Some(20), ..Rule::new(IMAGE, &[Op::Read], Fault::Flip) };
    run(&[
        case("torn writes to a primary's journal", true, End::Failed, true, vec![torn]),
        case("flipped bits in reads of an image", true, End::Masked, true, vec![flip]),
        case("a read-only file system", true, End::Failed, true, vec![errno("shard-0", &Op::CHANGES, libc::EROFS)]),
        case("a vanished device", true, End::Gone, true, vec![errno("", &[], libc::ENODEV)]),
        // Nothing is agreed upon meanwhile, so its control plane's log is not written and its agent lives on.
        case("a vanished device of a secondary", false, End::Failed, true, vec![errno("", &[], libc::ENOTCONN)]),
    ])
    .await;
}

#[tokio::test]
async fn devices_that_do_not_answer() {
    let slow = Rule::new("shard-0", &Op::DATA, Fault::Delay(Duration::from_millis(100)));
    run(&[
        case("a hung device of a primary", true, End::Hung, true, vec![Rule::new("", &Op::DATA, Fault::Hang)]),
        case("a hung device of a secondary", false, End::Hung, true, vec![Rule::new("", &Op::DATA, Fault::Hang)]),
        case("a hung image of a primary", true, End::Hung, false, vec![Rule::new(IMAGE, &[Op::Read], Fault::Hang)]),
        case(
            "hung writes to an image of a primary",
            true,
            End::Failed,
            false,
            vec![Rule::new(IMAGE, &[Op::Write], Fault::Hang)],
        ),
        case("a slow device of a secondary", false, End::Masked, true, vec![slow.clone()]),
        case("a slow device of a primary", true, End::Masked, true, vec![slow]),
    ])
    .await;
}

/// What a device does while an agent starts: it stays, says what it can't read, and takes part with the rest.
#[tokio::test]
async fn errors_while_an_agent_starts() {
    let eio = libc::EIO;
    let read = |path: &str| vec![errno(path, &[Op::Read], eio)];
    let few = |rule: Rule| vec![Rule { times: Some(5), ..rule }];
    let mut sick = Sick::start().await;
    for case in [
        case("EIO reading a journal's segments", false, End::Failed, true, read("journal/segment")),
        case("EIO reading the journal's head", false, End::Failed, true, read("journal/head")),
        case("EIO writing the journal", false, End::Failed, true, vec![errno("journal", &[Op::Write], eio)]),
        case("EIO reading one superblock", false, End::Failed, false, read("copies/1/superblock")),
        case(
            "too few descriptors for a while",
            false,
            End::Masked,
            true,
            few(errno("journal", &[Op::Open], libc::EMFILE)),
        ),
        case(
            "a slow device",
            false,
            End::Masked,
            true,
            few(Rule::new("shard-0", &Op::DATA, Fault::Delay(Duration::from_millis(200)))),
        ),
    ] {
        sick.start_with(&case).await;
    }
    sick.prove().await;
}

/// A small ext4 on a loop device.
struct Small {
    device: String,
    mount_point: PathBuf,
}

impl Small {
    fn mount(dir: &Path) -> Small {
        let (image, mount_point) = (dir.join("small.img"), dir.join(NAME).join("data"));
        fs::create_dir_all(&mount_point).unwrap();
        fs::File::create(&image).unwrap().set_len(4 << 30).unwrap();
        tool("mkfs.ext4", ["-q", "-F", &image.display().to_string()]);
        let device = tool("losetup", ["--find", "--show", &image.display().to_string()]).trim().to_owned();
        let small = Small { device, mount_point };
        small.again();
        small
    }

    fn again(&self) {
        let mount_point = self.mount_point.display().to_string();
        tool("mount", ["-t", "ext4", "-o", "errors=remount-ro", &self.device, &mount_point]);
    }

    /// Takes all space that is left; gives the ballast's path.
    fn fill(&self) -> PathBuf {
        let ballast = self.mount_point.join("ballast");
        let path = ballast.display().to_string();
        let free = tool("stat", ["-f", "-c", "%a %S", &path.replace("/ballast", "")]);
        let mut numbers = free.split_whitespace().map(|n| n.parse::<u64>().unwrap());
        let bytes = numbers.next().unwrap() * numbers.next().unwrap();
        // What the agent takes meanwhile is not there any more: then a little less.
        let fits = (0..20).any(|less| {
            let size = bytes.saturating_sub(less << 20).to_string();
            try_tool("fallocate", ["--length", &size, &path]).status.success()
        });
        assert!(fits, "a file of about {bytes} bytes fits");
        ballast
    }

    /// What an error of the device makes of a file system that is mounted with errors=remount-ro.
    fn turn_read_only(&self) {
        let name = self.device.rsplit('/').next().unwrap();
        fs::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), "a test").unwrap();
    }

    fn repair(&self) {
        tool("umount", [&self.mount_point]);
        // Status 1: errors were corrected.
        let check = try_tool("e2fsck", ["-p", "-f", &self.device]);
        assert!(check.status.code().is_some_and(|code| code <= 1), "{check:?}");
        self.again();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = try_tool("umount", ["--lazy", &self.mount_point.display().to_string()]);
        let _ = try_tool("losetup", ["--detach", &self.device]);
    }
}

/// What a copy's node can't hold is refused by whichever node is asked, before anything is made or resized.
#[tokio::test]
async fn a_length_that_no_file_can_have_is_refused() {
    let (cluster, _small) = TestCluster::start_on("", Small::mount).await;
    cluster.volume("v", 64 << 20).await;
    let why = format!("{NAME} has a file system whose files have at most 17592186040320 bytes");
    cluster.fails(&["volume", "create", "w", "--size", "17TiB", "--on", "n1,n2,n3"], 1, &why).await;
    cluster.fails(&["volume", "create", "w", "--size", "17TiB"], 1, &why).await;
    cluster.fails(&["volume", "resize", "v", "--size", "17TiB"], 1, &why).await;
    assert_eq!(cluster.volume_names().await, ["v"]);
    let healthy = cluster.wait_healthy("v", PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(healthy.size, 64 << 20);
}

/// The real thing: ENOSPC and a read-only remount of ext4.
#[tokio::test]
async fn a_small_file_system_fills_up_and_turns_read_only() {
    // Images with room for all that is written meanwhile always need more space; and the journals of the sound nodes keep what is
    // missing until the file system is repaired.
    let (mut cluster, small) = TestCluster::start_on("", Small::mount).await;
    let loads = load(&cluster, 512 << 20).await;
    let process = cluster.nodes()[SICK].pid();
    for leads in [false, true] {
        lead(&cluster, leads).await;
        sleep(CALM).await;
        let start = Instant::now();
        let ballast = small.fill();
        let told = until("a full device", async || {
            let found = Cluster::volume(&cluster, VOLUMES[0]).await?;
            let said = found.r#unsafe.join("; ");
            let told = said.contains("is full") && said.contains(NAME) && said.contains("free space");
            if told && found.state != "healthy" { Ok(said) } else { Err(format!("{}: {said}", found.state)) }
        })
        .await;
        println!("full, leads {leads}: told after {:?}: {told}", start.elapsed());
        if !leads {
            goes_on(&loads).await;
        }
        check(&loads);
        // Its control plane's log has no space either, and waits; the others agree without it.
        let sound = (0..3).find(|node| *node != SICK).unwrap();
        for iops in ["900000", "910000", "920000"] {
            cluster.succeeds(sound, &["volume", "limit", VOLUMES[0], "--iops", iops]).await;
        }
        fs::remove_file(ballast).unwrap();
        for volume in VOLUMES {
            cluster.wait_healthy(volume, PATIENCE).await.unwrap_or_else(|e| panic!("full: {e}"));
        }
        goes_on(&loads).await;
        check(&loads);
        assert_eq!(cluster.nodes()[SICK].pid(), process, "the agent lives through it");
    }
    lead(&cluster, true).await;
    sleep(CALM).await;
    let start = Instant::now();
    small.turn_read_only();
    until("a read-only file system", async || {
        let found = Cluster::volume(&cluster, VOLUMES[0]).await?;
        let state = found.copies.iter().find(|c| c.node == NAME).map(|c| c.state.clone()).unwrap_or_default();
        // The agent itself ends when the control plane's log can't be written.
        let gone = state == "failed" || state == "unreachable";
        if gone && found.primary != NAME { Ok(()) } else { Err(format!("{state}, led by {}", found.primary)) }
    })
    .await;
    println!("read-only: told after {:?}", start.elapsed());
    goes_on(&loads).await;
    cluster.kill(SICK);
    small.repair();
    cluster.launch(SICK).unwrap();
    for volume in VOLUMES {
        cluster.wait_healthy(volume, PATIENCE).await.unwrap_or_else(|e| panic!("read-only: {e}"));
    }
    check(&loads);
    prove(&cluster, loads).await;
    cluster.kill(SICK);
    drop(small);
}

/// A test that can't fail proves nothing. All three devices call writes durable and forget them, which is what a daemon
/// looks like that acknowledges early or takes an error for success; then the power goes. The oracle must find
/// acknowledged writes that are lost, or the volume must stay closed for the same reason.
#[tokio::test]
async fn writes_that_were_never_written_are_found_missing() {
    let mount = |dir: &Path| {
        ["n1", "n2", "n3"].map(|name| {
            let (real, seen) = (dir.join(name).join("real"), dir.join(name).join("data"));
            fs::create_dir_all(&real).unwrap();
            fs::create_dir_all(&seen).unwrap();
            FaultFs::mount(&real, &seen, Options { sync: false }).unwrap_or_else(|e| panic!("{e}"))
        })
    };
    let (mut cluster, devices) = TestCluster::start_on("", mount).await;
    let loads = load(&cluster, SIZE).await;
    sleep(CALM).await;
    goes_on(&loads).await;
    check(&loads);
    for device in &devices {
        device.rules().add(Rule::new("journal", &[Op::Write], Fault::Lost));
    }
    goes_on(&loads).await;
    for load in &loads {
        // Everything that was answered until now is to be there.
        load.hold(PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    }
    (0..3).for_each(|at| cluster.kill(at));
    devices.iter().for_each(|device| device.rules().clear());
    (0..3).for_each(|at| cluster.launch(at).unwrap());
    let mut found = 0;
    for load in loads {
        match load.finish(OPENS).await {
            Ok(progress) => {
                assert!(progress.violations.lost() > 0, "lost writes are found: {:?}", progress.violations);
                println!("found {} lost writes", progress.violations.lost());
                found += progress.violations.lost();
            }
            Err(e) => println!("closed: {e}"),
        }
    }
    assert!(found > 0, "at least one volume opened, and the oracle saw what was missing");
    (0..3).for_each(|at| cluster.kill(at));
    drop(devices);
}
