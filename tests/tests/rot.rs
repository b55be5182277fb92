//! Random bytes of any file of a copy or of the journal change, on a node that runs and then, stopped, on the same one, while a client
//! writes and verifies: what a reader gets is never wrong, and the copy is whole in the end, or refused with a sentence. One that is
//! refused is thrown away and made anew, as an operator would.
//!
//! A node's rounds come in pairs, since what rots in a file that its agent has in memory shows at its next start: two copies that are
//! bad at a time are more than three can bear.
//!
//! `HOLDFAST_ROT_ROUNDS` and `HOLDFAST_ROT_SEED` make it longer and different; `scripts/rot-agents` does, and keeps count.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_cli::harness::Cluster;
use holdfast_cli::workload::{Plan, Workload};
use holdfast_tests::{PATIENCE, TestCluster, number_from_env};
use holdfast_types::Rng;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};
use tokio::time::sleep;

const SIZE: u64 = 8 << 20;
const SECTOR: u64 = 512;
#[derive(Debug, Default)]
struct Tally {
    rounds: u64,
    bytes: u64,
    repaired: u64,
    whole: u64,
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

/// Up to four bytes; every other one in the image, which is the largest part of a copy and rarely the one that is drawn.
fn rot_some(cluster: &TestCluster, node: usize, rng: &mut Rng, tally: &mut Tally) -> Vec<PathBuf> {
    let all = files(&shard(cluster, node));
    let image = all.iter().find(|f| f.ends_with("image.raw")).unwrap();
    let mut hit = Vec::new();
    for _ in 0..rng.range(1, 4) {
        let any = &all[usize::try_from(rng.below(all.len() as u64)).unwrap()];
        let file = if rng.chance(500_000) { image } else { any };
        rot(file, rng);
        hit.push(file.strip_prefix(shard(cluster, node)).unwrap().to_owned());
        tally.bytes += 1;
    }
    hit
}

/// Waits until the copy is whole, with everything read that a scrub reads, or refused. Gives whether it is whole.
async fn is_whole(cluster: &mut TestCluster, node: usize, hit: &[PathBuf], tally: &mut Tally) -> bool {
    let name = cluster.nodes()[node].name().to_owned();
    let begun = Instant::now();
    loop {
        let log = fs::read_to_string(cluster.nodes()[node].log()).unwrap();
        assert!(!log.contains("panicked"), "{hit:?}: {log}");
        if cluster.ended(node, Duration::ZERO).await.is_ok() {
            let last = log.lines().last().unwrap_or_default();
            assert!(
                last.contains("expected") || last.contains("replace") || last.contains("restore"),
                "{hit:?}: {last}"
            );
            return false;
        }
        let found = Cluster::volume(cluster, "v").await;
        let copy = found.as_ref().ok().and_then(|v| v.copies.iter().find(|c| c.node == name).cloned());
        if copy.is_some_and(|c| c.state == "failed") {
            let said = found.map(|v| v.r#unsafe.join("; ")).unwrap_or_default();
            let advice = ["replace", "restart", "restore"].iter().any(|word| said.contains(word));
            assert!(advice, "{hit:?}: people are told what to do: {said:?}");
            return false;
        }
        if found.as_ref().is_ok_and(|v| v.state == "healthy") {
            let scrubbed = scrub(cluster, node);
            if scrubbed.status.success() {
                let found: serde_json::Value = serde_json::from_slice(&scrubbed.stdout).unwrap();
                let blocks = &found["copies"][0]["blocks"];
                let expected = (&serde_json::Value::from(0), &blocks["mismatches"]);
                assert_eq!((&blocks["unrepairable"], &blocks["repaired"]), expected, "{hit:?}: {found}");
                // A client may have written a block again first.
                tally.repaired += blocks["repaired"].as_u64().unwrap();
                return true;
            }
        }
        assert!(begun.elapsed() < PATIENCE, "{hit:?}: neither whole nor refused: {found:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// The copy is thrown away and made anew: in its place, or on an empty disk where the journal under it was refused.
async fn replace(cluster: &mut TestCluster, node: usize) {
    let name = cluster.nodes()[node].name().to_owned();
    let said = Cluster::volume(cluster, "v").await.map(|v| v.r#unsafe.join("; ")).unwrap_or_default();
    if said.contains("restart the agent") || !cluster.nodes()[node].is_running() {
        cluster.kill(node);
        fs::remove_dir_all(shard(cluster, node)).unwrap();
        cluster.launch(node).unwrap();
    }
    let (other, begun) = ((node + 1) % 3, Instant::now());
    loop {
        // A node that has just started may not have been heard of.
        let ordered = cluster.run(other, &["copy", "replace", "v", &name, &name, "--yes"]).await;
        if ordered.status.success() {
            break;
        }
        let said = String::from_utf8_lossy(&ordered.stderr);
        assert!(begun.elapsed() < PATIENCE, "the copy on {name} is not replaced: {said}");
        sleep(Duration::from_millis(200)).await;
    }
    cluster.wait_healthy("v", PATIENCE).await.unwrap_or_else(|e| panic!("after its replacement: {e}"));
}

/// Bytes change under a node, and are found: while it runs, or at its next start.
async fn round(cluster: &mut TestCluster, node: usize, runs: bool, rng: &mut Rng, tally: &mut Tally) {
    if !runs {
        cluster.kill(node);
    }
    let hit = rot_some(cluster, node, rng, tally);
    if !runs {
        cluster.launch(node).unwrap();
    }
    if is_whole(cluster, node, &hit, tally).await {
        tally.whole += 1;
    } else {
        tally.refused += 1;
        replace(cluster, node).await;
    }
    tally.rounds += 1;
}

#[tokio::test]
async fn nothing_wrong_is_read_whatever_byte_rots() {
    let rounds = number_from_env("HOLDFAST_ROT_ROUNDS", 20);
    let mut rng = Rng::new(number_from_env("HOLDFAST_ROT_SEED", 1));
    let mut cluster = TestCluster::start_with("[limits]\njournal_segment = \"4MiB\"\njournal_max = \"256MiB\"").await;
    cluster.volume("v", SIZE).await;
    let plan = Plan { depth: 2, ..Plan::new(cluster.sockets("v"), "v", 0..SIZE, 7) };
    let load = Workload::start(plan).unwrap();
    let mut tally = Tally::default();
    while tally.rounds < rounds {
        let node = usize::try_from(rng.below(3)).unwrap();
        for runs in [true, false] {
            round(&mut cluster, node, runs, &mut rng, &mut tally).await;
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
    let Tally { rounds, bytes, repaired, whole, refused } = tally;
    assert!(repaired > 0 && whole > 0, "{rounds} rounds that found nothing prove nothing");
    println!(
        "rot-agents: rounds={rounds} bytes={bytes} repaired={repaired} whole={whole} refused={refused} writes={} reads={}",
        progress.acknowledged, progress.reads
    );
}
