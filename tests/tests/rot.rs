//! Random bytes of a copy's files change, on nodes that run and on nodes that are stopped, while a client writes and verifies:
//! what a reader gets is never wrong, and the copy is repaired or refused with a sentence.
//!
//! Running: bytes of the image, in any block; a scrub finds and repairs them. Stopped: bytes of any file of the copy or of the
//! journal. A copy that is refused then is an operator's matter: here its files are put back as they were.
//!
//! `HOLDFAST_ROT_ROUNDS` and `HOLDFAST_ROT_SEED` make it longer and different; `scripts/rot-agents` does, and keeps count.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_cli::harness::Cluster;
use holdfast_cli::workload::{Plan, Workload};
use holdfast_tests::{PATIENCE, TestCluster, number_from_env, tool};
use holdfast_types::Rng;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};
use tokio::time::sleep;

const SIZE: u64 = 8 << 20;
const SECTOR: u64 = 512;
/// Rounds on running nodes for one on a stopped node.
const RUNNING: u64 = 20;

#[derive(Debug, Default)]
struct Tally {
    rounds: u64,
    bytes: u64,
    repaired: u64,
    healthy: u64,
    refused: u64,
}

/// Files below a directory that hold something.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let meta = entry.metadata().unwrap();
        if meta.is_dir() {
            found.extend(files(&entry.path()));
        } else if meta.len() > 0 {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

/// Memory that direct I/O takes.
#[repr(align(4096))]
struct Aligned([u8; 4096]);

/// Changes one byte. Past the page cache where a file's length allows it: a page that is written there while an agent writes the file
/// directly is an error of the kernel, for whoever syncs the file next.
fn rot(file: &Path, rng: &mut Rng) {
    let len = fs::metadata(file).unwrap().len();
    let flags = if len.is_multiple_of(SECTOR) { libc::O_DIRECT } else { 0 };
    let open = OpenOptions::new().read(true).write(true).custom_flags(flags).open(file).unwrap();
    let at = rng.below(len);
    let start = at / SECTOR * SECTOR;
    let mut memory = Aligned([0; 4096]);
    let sector = &mut memory.0[..usize::try_from(SECTOR.min(len - start)).unwrap()];
    open.read_exact_at(sector, start).unwrap();
    sector[usize::try_from(at - start).unwrap()] ^= u8::try_from(rng.range(1, 255)).unwrap();
    open.write_all_at(sector, start).unwrap();
}

fn scrub(cluster: &TestCluster, node: usize) -> Output {
    cluster.ask(node, &["scrub", "v", "--node", cluster.nodes()[node].name(), "--rate", "4GiB/s"])
}

fn shard(cluster: &TestCluster, node: usize) -> PathBuf {
    cluster.nodes()[node].data_dir().join("shard-0")
}

/// Blocks rot under a node that runs; its scrub brings all of them back.
fn running(cluster: &TestCluster, rng: &mut Rng, tally: &mut Tally) {
    let node = usize::try_from(rng.below(3)).unwrap();
    let image = files(&shard(cluster, node)).into_iter().find(|f| f.ends_with("image.raw")).unwrap();
    for _ in 0..rng.range(1, 4) {
        rot(&image, rng);
        tally.bytes += 1;
    }
    let scrubbed = scrub(cluster, node);
    let text = String::from_utf8_lossy(&scrubbed.stdout);
    assert!(scrubbed.status.success(), "{text} {}", String::from_utf8_lossy(&scrubbed.stderr));
    let found: serde_json::Value = serde_json::from_str(&text).unwrap();
    let blocks = &found["copies"][0]["blocks"];
    assert_eq!((&blocks["unrepairable"], &blocks["repaired"]), (&0.into(), &blocks["mismatches"]), "{found}");
    // A client may have written the block again first.
    tally.repaired += blocks["repaired"].as_u64().unwrap();
    tally.rounds += 1;
}

/// Any file of a stopped node. The client waits until it is known what became of the copy: were its old files put back after it
/// had acknowledged something, a quorum could be one copy short.
async fn stopped(cluster: &mut TestCluster, load: &Workload, rng: &mut Rng, tally: &mut Tally) {
    let node = usize::try_from(rng.below(3)).unwrap();
    cluster.kill(node);
    let (dir, kept) = (shard(cluster, node), cluster.nodes()[node].data_dir().join("kept"));
    let copy = |from: &Path, to: &Path| {
        tool("cp", ["-a", "--sparse=always", &from.display().to_string(), &to.display().to_string()])
    };
    copy(&dir, &kept);
    let all = files(&dir);
    for _ in 0..rng.range(1, 4) {
        rot(&all[usize::try_from(rng.below(all.len() as u64)).unwrap()], rng);
        tally.bytes += 1;
    }
    load.hold(PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    // It may end at once, with a sentence.
    let started = cluster.launch(node);
    let name = cluster.nodes()[node].name().to_owned();
    let begun = Instant::now();
    let refused = loop {
        let found = Cluster::volume(cluster, "v").await;
        let copy = found.as_ref().ok().and_then(|v| v.copies.iter().find(|c| c.node == name).cloned());
        if found.as_ref().is_ok_and(|v| v.state == "healthy") {
            // A page of a table is read when it is needed first: the scrub needs all of them.
            if scrub(cluster, node).status.success() {
                break false;
            }
            sleep(Duration::from_millis(200)).await;
            continue;
        }
        if started.is_err() || copy.as_ref().is_some_and(|c| c.state == "failed") {
            let said = found.map(|v| v.r#unsafe.join("; ")).unwrap_or_default();
            let log = fs::read_to_string(cluster.nodes()[node].log()).unwrap();
            assert!(!log.contains("panicked"), "{log}");
            let advice = ["replace", "restart", "restore"].iter().any(|word| said.contains(word));
            assert!(started.is_err() || advice, "people are told what to do: {said:?}");
            break true;
        }
        assert!(begun.elapsed() < PATIENCE, "neither healthy nor refused: {found:?}");
        sleep(Duration::from_millis(50)).await;
    };
    if refused {
        tally.refused += 1;
        cluster.kill(node);
        fs::remove_dir_all(&dir).unwrap();
        copy(&kept, &dir);
        cluster.launch(node).unwrap();
        cluster.wait_healthy("v", PATIENCE).await.unwrap_or_else(|e| panic!("with its own files: {e}"));
    } else {
        tally.healthy += 1;
    }
    fs::remove_dir_all(&kept).unwrap();
    load.resume();
    tally.rounds += 1;
}

#[tokio::test]
async fn nothing_wrong_is_read_whatever_byte_rots() {
    let rounds = number_from_env("HOLDFAST_ROT_ROUNDS", 80);
    let mut rng = Rng::new(number_from_env("HOLDFAST_ROT_SEED", 1));
    let mut cluster = TestCluster::start_with("[limits]\njournal_segment = \"4MiB\"\njournal_max = \"256MiB\"").await;
    cluster.volume("v", SIZE).await;
    let plan = Plan { depth: 2, ..Plan::new(cluster.sockets("v"), "v", 0..SIZE, 7) };
    let load = Workload::start(plan).unwrap();
    let mut tally = Tally::default();
    while tally.rounds < rounds {
        if tally.rounds % RUNNING == RUNNING - 1 {
            stopped(&mut cluster, &load, &mut rng, &mut tally).await;
        } else {
            running(&cluster, &mut rng, &mut tally);
        }
        let progress = load.progress();
        assert!(progress.failure.is_none(), "{:?}", progress.failure);
        assert!(progress.violations.is_empty(), "{:#?}", progress.violations);
    }
    load.hold(PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    cluster.wait_in_sync("v", PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    let verified = cluster.ask(0, &["verify", "v"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let progress = load.finish(PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    assert!(progress.violations.is_empty(), "{:#?}", progress.violations);
    let Tally { rounds, bytes, repaired, healthy, refused } = tally;
    assert!(repaired > 0 && healthy > 0, "{rounds} rounds that found nothing prove nothing");
    println!(
        "rot-agents: rounds={rounds} bytes={bytes} repaired={repaired} healthy={healthy} refused={refused} writes={} reads={}",
        progress.acknowledged, progress.reads
    );
}
