//! Rot in the files of real agents: found by a scrub, repaired, named; and copies that are compared while clients write.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_cli::workload::{Plan, Workload};
use holdfast_tests::{PATIENCE, TestCluster, tool, try_tool};
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

const SIZE: u64 = 16 << 20;
const BLOCK: u64 = 4096;
/// Bytes at the start of the volume that hold data.
const WRITTEN: u64 = 4 << 20;

fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text:?} {}", String::from_utf8_lossy(&output.stderr)))
}

/// The one image below a directory: the file that has the volume's length.
fn image(dir: &Path) -> PathBuf {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let (path, meta) = (entry.path(), entry.metadata().unwrap());
            if meta.is_dir() {
                dirs.push(path);
            } else if path.to_string_lossy().contains("image") && meta.len() >= SIZE {
                found.push(path);
            }
        }
    }
    let [one] = &found[..] else { panic!("expected one image of {SIZE} bytes, found {found:?}") };
    one.clone()
}

/// Flips a bit of a block.
fn rot(image: &Path, block: u64) {
    let file = OpenOptions::new().read(true).write(true).open(image).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, block * BLOCK + 77).unwrap();
    file.write_all_at(&[byte[0] ^ 4], block * BLOCK + 77).unwrap();
    file.sync_all().unwrap();
}

/// Everything that was written is in the images: copies are compared at the end of the log, which all have to reach for it.
fn at_rest(cluster: &TestCluster, node: usize) {
    let verified = cluster.ask(node, &["verify", "v"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}

async fn written() -> (TestCluster, usize) {
    let cluster = TestCluster::start().await;
    cluster.volume("v", SIZE).await;
    let primary = cluster.primary("v").await;
    tool(
        "qemu-io",
        ["-f", "raw", "-c", &format!("write -P 0x5a 0 {WRITTEN}"), "-c", "flush", &cluster.uri(primary, "v")],
    );
    at_rest(&cluster, primary);
    (cluster, primary)
}

#[tokio::test]
async fn rot_is_found_repaired_and_told_and_copies_are_equal() {
    let (cluster, primary) = written().await;
    let other = (primary + 1) % 3;
    let name = cluster.nodes()[other].name().to_owned();
    for block in [3, 700] {
        rot(&image(&cluster.nodes()[other].data_dir()), block);
    }
    // In a hole: no read would ever see it.
    rot(&image(&cluster.nodes()[other].data_dir()), 2000);
    let scrubbed = cluster.ask(primary, &["scrub", "v", "--node", &name, "--rate", "1GiB/s"]);
    assert!(scrubbed.status.success(), "{}", String::from_utf8_lossy(&scrubbed.stderr));
    let found = json(&scrubbed);
    let blocks = &found["copies"][0]["blocks"];
    assert_eq!(found["copies"].as_array().unwrap().len(), 1, "{found}");
    assert_eq!(
        (&blocks["verified"], &blocks["mismatches"], &blocks["repaired"], &blocks["unrepairable"]),
        (&Value::from(SIZE / BLOCK), &Value::from(3), &Value::from(3), &Value::from(0)),
        "{found}"
    );
    let events = String::from_utf8(cluster.ask(other, &["events", "--volume", "v"]).stdout).unwrap();
    for text in ["block 3 of the image", "block 700 of the image", "block 2000 of the image was not the zeros"] {
        assert!(events.contains(text), "{text:?} in {events}");
    }
    let status = json(&cluster.ask(primary, &["volume", "show", "v"]));
    let copies = status["copies"].as_array().unwrap();
    let copy = copies.iter().find(|c| c["node"] == name.as_str()).unwrap();
    assert_eq!(copy["integrity"]["blocks"]["repaired"], 3, "{status}");
    assert!(copy["integrity"]["scrub"]["ended_unix_ms"].is_u64(), "{status}");
    let verified = cluster.ask(other, &["verify", "v"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    assert_eq!(
        (&json(&verified)["equal"], json(&verified)["copies"].as_array().unwrap().len()),
        (&Value::from(true), 3)
    );
}

#[tokio::test]
async fn a_block_that_every_copy_lost_fails_alone_and_is_named() {
    let (mut cluster, _) = written().await;
    // Longer than until the next checkpoint: what a start replays it writes again, and heals it.
    tokio::time::sleep(Duration::from_secs(8)).await;
    for node in 0..3 {
        cluster.kill(node);
        rot(&image(&cluster.nodes()[node].data_dir()), 5);
    }
    for node in 0..3 {
        cluster.launch(node).unwrap();
    }
    let primary = cluster.primary("v").await;
    let scrubbed = cluster.ask(primary, &["scrub", "v", "--rate", "1GiB/s"]);
    assert_eq!(scrubbed.status.code(), Some(1), "{scrubbed:?}");
    let found = json(&scrubbed);
    for copy in found["copies"].as_array().unwrap() {
        assert_eq!(
            copy["unrepairable_ranges"][0],
            serde_json::json!({ "offset": 5 * BLOCK, "length": BLOCK }),
            "{found}"
        );
    }
    let uri = cluster.uri(primary, "v");
    let bad = try_tool("qemu-io", ["-f", "raw", "-c", "read 20k 4k", &uri]);
    let text = String::from_utf8_lossy(&bad.stdout).into_owned() + &String::from_utf8_lossy(&bad.stderr);
    assert!(text.contains("Input/output error"), "{text}");
    let good = tool("qemu-io", ["-f", "raw", "-c", "read -P 0x5a 0 20k", "-c", "read -P 0x5a 24k 1M", &uri]);
    assert!(!good.contains("failed") && !good.contains("error"), "{good}");
    let verified = cluster.ask(primary, &["verify", "v"]);
    assert!(verified.status.success(), "the tables are equal: {}", String::from_utf8_lossy(&verified.stderr));
}

#[tokio::test]
async fn copies_are_compared_while_a_client_writes_and_a_missing_one_is_not_called_equal() {
    let (mut cluster, primary) = written().await;
    let workload = Workload::start(Plan::new(cluster.sockets("v"), "v", WRITTEN..SIZE, 1)).unwrap();
    for _ in 0..3 {
        let verified = cluster.ask(primary, &["verify", "v"]);
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    }
    let progress = workload.finish(PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    assert!(progress.violations.is_empty(), "{:#?}", progress.violations);
    let other = (primary + 1) % 3;
    cluster.kill(other);
    let verified = cluster.ask(primary, &["verify", "v"]);
    assert_eq!(verified.status.code(), Some(1), "{verified:?}");
    let found = json(&verified);
    let copy = found["copies"].as_array().unwrap().iter().find(|c| c["outcome"] != "equal").unwrap();
    assert_eq!(
        (copy["node"].as_str().unwrap(), &copy["outcome"]),
        (cluster.nodes()[other].name(), &Value::from("not_compared"))
    );
}
