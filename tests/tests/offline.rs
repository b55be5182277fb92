//! `fsck` and `export` on the disks of agents that were killed: what they say and bring out, against what the cluster serves.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_cli::workload::{Plan, Transfer, Workload};
use holdfast_tests::{PATIENCE, TestCluster, binary, scratch, tool, try_tool};
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

const SIZE: u64 = 64 << 20;
const OK: i32 = 0;
const DAMAGED: i32 = 1;
const USAGE: i32 = 2;
const REFUSED: i32 = 3;

/// Runs the binary, which must end with this status and, if that is not 0, one sentence. Gives stdout and stderr.
fn holdfast(status: i32, args: &[&str]) -> (String, String) {
    let output: Output =
        Command::new("timeout").arg("120").arg(binary()).args(args).output().expect("timeout is there");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(status), "{args:?}\nstdout: {out}\nstderr: {err}");
    assert!(!err.contains("panicked"), "{args:?}: {err}");
    let sentence = status == OK || err.lines().last().is_some_and(|line| line.starts_with("holdfast: "));
    assert!(sentence, "{args:?}: expected a sentence, found {err:?}");
    (out.into_owned(), err.into_owned())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("our paths are ASCII")
}

fn fsck(status: i32, dir: &Path) -> Value {
    let (out, _) = holdfast(status, &["fsck", text(dir), "--output", "json"]);
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}"))
}

fn export(status: i32, dir: &Path, to: &Path, more: &[&str]) -> (String, String) {
    let _ = fs::remove_file(to);
    holdfast(status, &[&["export", text(dir), "--to", text(to)], more].concat())
}

async fn load(cluster: &TestCluster, seconds: u64) {
    let workload = Workload::start(Plan::new(cluster.sockets("v"), "v", 0..SIZE / 2, 11)).unwrap();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let progress = workload.finish(PATIENCE).await.unwrap();
    assert!(progress.violations.is_empty() && progress.acknowledged > 100, "{progress:?}");
}

/// A tree of files with their holes.
fn copy(from: &Path, to: &Path) {
    tool("cp", ["-a", "--sparse=always", text(from), text(to)]);
}

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

/// A block of the image whose medium holds data.
fn data_block(image: &Path) -> u64 {
    let bytes = fs::read(image).unwrap();
    let found = bytes.chunks(4096).position(|block| block.iter().any(|b| *b != 0));
    u64::try_from(found.expect("the image holds data")).unwrap()
}

#[tokio::test]
async fn a_killed_primary_holds_what_the_cluster_serves() {
    let mut cluster = TestCluster::start().await;
    cluster.volume("v", SIZE).await;
    load(&cluster, 3).await;
    cluster.wait_in_sync("v", PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    // What lies above the checkpoint is written again from the journal at each start, whatever the image holds: damage of the
    // image shows once a checkpoint has passed, at the latest after five seconds and its own time.
    tokio::time::sleep(Duration::from_secs(9)).await;
    let primary = cluster.primary("v").await;
    let dir = cluster.nodes()[primary].data_dir();
    let (_, err) = holdfast(REFUSED, &["fsck", text(&dir)]);
    assert!(err.contains("another one running"), "{err}");
    let (_, err) = holdfast(REFUSED, &["fsck", text(&dir.join("shard-0"))]);
    assert!(err.contains("stop that agent"), "{err}");

    cluster.kill(primary);
    let report = fsck(OK, &dir);
    let volume = &report["volumes"][0];
    assert_eq!((volume["name"].as_str(), volume["opens"].as_bool()), (Some("v"), Some(true)), "{report}");
    assert!(volume["data_blocks"].as_u64() > Some(100), "{report}");
    assert_eq!(volume["checkpoint"], volume["durable"], "the idle volume was checkpointed: {report}");

    let files = scratch();
    let (raw, qcow2) = (files.path().join("a.raw"), files.path().join("a.qcow2"));
    let (out, _) = export(OK, &dir, &raw, &["--volume", "v"]);
    assert!(out.contains("every block verified") && out.contains("may hold more"), "{out}");
    export(OK, &dir, &qcow2, &["--upto", "durable"]);
    tool("qemu-img", ["check", text(&qcow2)]);
    tool("qemu-img", ["compare", "-f", "raw", "-F", "qcow2", text(&raw), text(&qcow2)]);
    // What the survivors serve is the measure.
    let next = Transfer::open(&cluster.sockets("v"), "v", PATIENCE).await.unwrap();
    let at = next.node();
    next.close();
    assert_ne!(at, primary);
    tool("qemu-img", ["compare", "-f", "raw", "-F", "raw", text(&raw), &cluster.uri(at, "v")]);
    tool("qemu-img", ["compare", "-f", "qcow2", "-F", "raw", text(&qcow2), &cluster.uri(at, "v")]);

    refusals(&dir, files.path());
    damage(&dir, files.path());
    // Nothing of that changed the directory: the agent comes back with it.
    cluster.launch(primary).unwrap();
    cluster.wait_in_sync("v", PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
}

fn refusals(dir: &Path, files: &Path) {
    let raw = files.join("a.raw");
    let (_, err) = holdfast(USAGE, &["export", text(dir), "--to", text(&raw)]);
    assert!(err.contains("exists"), "{err}");
    let (_, err) = export(USAGE, dir, &files.join("b.raw"), &["--volume", "w"]);
    assert!(err.contains("there are v (v1)"), "{err}");
    let (_, err) = export(USAGE, dir, &files.join("b.vmdk"), &[]);
    assert!(err.contains("qcow2"), "{err}");
    let (_, err) = export(USAGE, dir, &dir.join("b.raw"), &[]);
    assert!(err.contains("outside"), "{err}");
    let (_, err) = holdfast(USAGE, &["fsck", text(files)]);
    assert!(err.contains("node.data_dir"), "{err}");
    let (_, err) = holdfast(USAGE, &["fsck", "/nonexistent"]);
    assert!(err.contains("does not exist"), "{err}");
}

/// A flipped byte is named, refused and skipped; a bad copy of a header is repaired; on a copy of the directory.
fn damage(dir: &Path, files: &Path) {
    let there = files.join("disk");
    copy(dir, &there);
    let image = there.join("shard-0/copies/1/image.raw");
    let block = data_block(&image);
    flip(&image, block * 4096 + 100);
    let report = fsck(DAMAGED, &there);
    assert_eq!(report["volumes"][0]["bad"]["listed"], serde_json::json!([[block, block]]), "{report}");
    let target = files.join("bad.raw");
    let (_, err) = export(DAMAGED, &there, &target, &[]);
    assert!(err.contains(&format!("block {block} ")) && !target.exists(), "{err}");
    let (_, err) = export(DAMAGED, &there, &target, &["--skip-bad"]);
    assert!(err.contains("not complete") && err.contains(&block.to_string()), "{err}");
    let differs =
        try_tool("qemu-img", ["compare", "-f", "raw", "-F", "raw", text(&files.join("a.raw")), text(&target)]);
    assert_eq!(differs.status.code(), Some(1), "{differs:?}");
    // Bytes that are wrong are no reason to write others.
    holdfast(DAMAGED, &["fsck", text(&there), "--repair", "--yes"]);
    flip(&image, block * 4096 + 100);

    flip(&there.join("shard-0/copies/1/superblock"), 4096 + 60);
    fsck(DAMAGED, &there);
    let (_, err) = holdfast(REFUSED, &["fsck", text(&there), "--repair"]);
    assert!(err.contains("--yes"), "{err}");
    let (out, _) = holdfast(OK, &["fsck", text(&there), "--repair", "--yes"]);
    assert!(out.contains("done: write copy 2 of 4") && out.contains("clean"), "{out}");
    fsck(OK, &there);

    let raft = there.join("control/raft.redb");
    let whole = fs::read(&raft).unwrap();
    fs::write(&raft, &whole[..whole.len() / 2]).unwrap();
    let report = fsck(DAMAGED, &there);
    assert!(report["problems"][0]["problem"].as_str().unwrap().contains("control plane's log"), "{report}");
    // Without names a volume has its number.
    export(OK, &there, &target, &["--volume", "1"]);
    tool("qemu-img", ["compare", "-f", "raw", "-F", "raw", text(&files.join("a.raw")), text(&target)]);
}

/// Any moment will do: agents die under load, and their disks open as they lie there.
#[tokio::test]
async fn killed_in_the_middle_of_writes() {
    let mut cluster = TestCluster::start().await;
    cluster.volume("v", SIZE).await;
    let workload = Workload::start(Plan::new(cluster.sockets("v"), "v", 0..SIZE, 5)).unwrap();
    let files = scratch();
    for round in 0..4usize {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let at = round % 3;
        cluster.kill(at);
        let dir: PathBuf = cluster.nodes()[at].data_dir();
        let report = fsck(OK, &dir);
        let copy = &report["volumes"][0];
        let number = |name: &str| copy[name].as_u64().unwrap_or_else(|| panic!("{name} in {report}"));
        assert!(number("checkpoint") <= number("committed") && number("committed") <= number("durable"), "{report}");
        for upto in ["committed", "durable"] {
            export(OK, &dir, &files.path().join("a.qcow2"), &["--upto", upto]);
            tool("qemu-img", ["check", text(&files.path().join("a.qcow2"))]);
        }
        cluster.launch(at).unwrap();
        let name = cluster.nodes()[at].name().to_owned();
        cluster.wait_copy_healthy("v", &name, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    }
    let progress = workload.finish(PATIENCE).await.unwrap();
    assert!(progress.violations.is_empty(), "{progress:?}");
}
