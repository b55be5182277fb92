//! A majority of a volume's copies is lost for ever: an operator goes on with the copy that is left, the receipt says what that
//! cost, record by record, and what comes back later counts for nothing. And what a deposed primary alone had written is kept.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_agent::admin::pb;
use holdfast_tests::{Blocks, PATIENCE, TestCluster, try_tool};
use serde_json::Value;
use std::fs;
use std::ops::Range;
use std::process::Output;

const VOLUME: &str = "v";
const SIZE: u64 = 8 << 20;
const BLOCK: u64 = 4096;
/// The record of the first write: the one before is the start of the first epoch.
const FIRST: u64 = 2;
const UNSAFE: i32 = 3;

/// Never 0, which is what nobody wrote.
fn pattern(block: u64) -> u8 {
    u8::try_from(block % 251 + 1).unwrap()
}

fn attach(cluster: &TestCluster, node: usize) -> Blocks {
    let socket = cluster.nodes()[node].socket(VOLUME);
    Blocks::attach(&socket, VOLUME, PATIENCE).unwrap_or_else(|e| panic!("{}: {e}", socket.display()))
}

/// One acknowledged write for each of these blocks, one after another: one record each.
fn write(cluster: &TestCluster, node: usize, blocks: Range<u64>) {
    let mut volume = attach(cluster, node);
    for block in blocks {
        let written = volume.write(block * BLOCK, &[pattern(block); 4096]);
        written.unwrap_or_else(|e| panic!("block {block}: {e}"));
    }
}

/// What the volume holds.
fn content(cluster: &TestCluster, node: usize) -> Vec<u8> {
    let mut volume = attach(cluster, node);
    let parts = (0..SIZE >> 20).map(|mib| volume.read(mib << 20, 1 << 20).unwrap());
    parts.collect::<Vec<_>>().concat()
}

/// Which of these blocks hold what was written there; the others are as before the first write.
fn held(content: &[u8], blocks: Range<u64>) -> Vec<u64> {
    let at = |block: u64| &content[usize::try_from(block * BLOCK).unwrap()..][..usize::try_from(BLOCK).unwrap()];
    let is = |block: u64, byte: u8| at(block).iter().all(|b| *b == byte);
    blocks
        .filter(|block| {
            let written = is(*block, pattern(*block));
            assert!(written || is(*block, 0), "block {block} is neither what was written nor what was there before");
            written
        })
        .collect()
}

fn json(output: &Output) -> Value {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {out}"))
}

async fn asked(cluster: &TestCluster, node: usize, args: &[&str]) -> Value {
    json(&cluster.run(node, &[&["--output", "json"], args].concat()).await)
}

async fn volume_is(cluster: &TestCluster, node: usize, what: &str, is: impl Fn(&pb::Volume) -> bool) -> pb::Volume {
    let found = cluster.wait_for(what, PATIENCE, async |cluster| {
        let volume = cluster.status(node).await?.volumes.into_iter().find(|v| v.name == VOLUME);
        volume.filter(|v| is(v)).ok_or_else(|| "it is not so".to_owned())
    });
    found.await.unwrap_or_else(|e| panic!("{e}"))
}

fn copy<'a>(volume: &'a pb::Volume, node: &str) -> &'a pb::Copy {
    volume.copies.iter().find(|c| c.node == node).unwrap_or_else(|| panic!("{node} in {:?}", volume.copies))
}

async fn create(cluster: &TestCluster) {
    let volume = cluster.volume_on(VOLUME, SIZE, &["n1", "n2", "n3"], "n1").await;
    assert_eq!((volume.primary.as_str(), volume.epoch), ("n1", 1), "the records below are counted from there");
}

#[tokio::test]
async fn the_last_copy_goes_on_and_the_receipt_says_what_that_cost() {
    let mut cluster = TestCluster::start_of(5, "").await;
    create(&cluster).await;
    write(&cluster, 0, 0..100);
    cluster.wait_in_sync(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));

    // What n3 does not have is acknowledged all the same; then the two that have it are gone.
    cluster.kill(2);
    write(&cluster, 0, 100..200);
    cluster.kill(0);
    cluster.kill(1);
    cluster.launch(2).unwrap();
    let (lost, kept_aside) = (cluster.nodes()[0].data_dir(), cluster.nodes()[1].data_dir());
    let elsewhere = kept_aside.with_extension("elsewhere");
    fs::remove_dir_all(lost).unwrap();
    fs::rename(&kept_aside, &elsewhere).unwrap();
    // A node that has just died counts as one that answers for a failure timeout.
    let gone = |v: &pb::Volume| ["n1", "n2"].iter().all(|n| copy(v, n).state == "unreachable");
    let left = |v: &pb::Volume| copy(v, "n3").durable_lsn.is_some() && copy(v, "n3").state != "unreachable";
    let stalled = |v: &pb::Volume| v.state == "stalled" && gone(v) && left(v);
    volume_is(&cluster, 3, "the volume to have stalled, with one copy that answers", stalled).await;

    // Nothing happens without the word for it, nor without somebody who can be asked.
    let force = ["failover", VOLUME, "--force", "--accept-loss"];
    let refused = cluster.run(3, &["failover", VOLUME, "--accept-loss"]).await;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let refused = cluster.run(3, &force).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(UNSAFE), "{said}");
    for expected in ["n1", "n2", "unreachable", "make sure that its host is off", "--yes"] {
        assert!(said.contains(expected), "expected {expected:?} in {said}");
    }
    assert_eq!(volume_is(&cluster, 3, "the volume", |_| true).await.epoch, 1, "nothing was done");

    let answer = asked(&cluster, 3, &[&force[..], &["--yes"]].concat()).await;
    let receipt = &answer["receipt"];
    assert_eq!(answer["new_primary"], "n3");
    assert_eq!(
        (&receipt["survivors"], &receipt["given_up"]),
        (&serde_json::json!(["n3"]), &serde_json::json!(["n1", "n2"]))
    );
    assert!(receipt["uid"].is_u64() && receipt["host"].is_string(), "{receipt}");
    let kept = receipt["kept_lsn"].as_u64().unwrap();
    assert_eq!(kept, FIRST + 99, "{receipt}");
    assert_eq!(receipt["lost_from"], kept + 1);
    assert!(["possible", "certain"].contains(&receipt["loss"].as_str().unwrap()), "{receipt}");
    assert_eq!(receipt["complete"], false);

    // Block for block what the receipt says.
    let blocks_kept = 0..kept - FIRST + 1;
    assert_eq!(held(&content(&cluster, 2), 0..200), blocks_kept.clone().collect::<Vec<_>>());
    write(&cluster, 2, 300..310);

    // One of the two comes back with all that it had: it counts for nothing, and completes the receipt.
    fs::rename(&elsewhere, &kept_aside).unwrap();
    cluster.launch(1).unwrap();
    let complete = |v: &pb::Volume| v.receipts.last().is_some_and(|r| r.complete);
    let volume = volume_is(&cluster, 3, "the receipt to be complete", complete).await;
    let receipt = volume.receipts.last().unwrap();
    assert_eq!((receipt.kept_lsn, receipt.lost_from, receipt.lost_to), (Some(kept), Some(kept + 1), Some(FIRST + 199)));
    assert_eq!(receipt.found.first().map(|f| (f.node.as_str(), f.last_lsn)), Some(("n2", FIRST + 199)));
    assert_eq!((copy(&volume, "n2").role.as_str(), copy(&volume, "n2").state.as_str()), ("aside", "aside"));
    assert_eq!((volume.primary.as_str(), volume.quorum), ("n3", 1));
    let events = cluster.run(3, &["events", "--volume", VOLUME]).await;
    let events = String::from_utf8_lossy(&events.stdout).into_owned();
    assert!(events.contains("forced_recovery") && events.contains("loss_receipt"), "{events}");

    // Made anew, with one more elsewhere, the volume is what it was, without what was lost.
    for args in [["copy", "add", VOLUME, "n2"], ["copy", "add", VOLUME, "n4"]] {
        let output = cluster.run(3, &args).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let volume = volume_is(&cluster, 3, "three copies", |v| v.state == "healthy" && v.quorum == 2).await;
    assert!(
        volume.copies.iter().any(|c| c.node == "n1" && c.role == "aside"),
        "what is gone stays given up: {volume:?}"
    );
    let verified = cluster.run(2, &["verify", VOLUME]).await;
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    let now = content(&cluster, 2);
    assert_eq!(held(&now, 0..200), blocks_kept.collect::<Vec<_>>());
    assert_eq!(held(&now, 300..310).len(), 10);
}

#[tokio::test]
async fn what_a_deposed_primary_alone_had_written_is_kept_and_can_be_got_out() {
    let mut cluster = TestCluster::start().await;
    create(&cluster).await;
    write(&cluster, 0, 0..5);
    cluster.wait_in_sync(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    let scratch = holdfast_tests::scratch();

    // Nobody takes it any more: it is in n1's journal alone, and nobody is told that it is done.
    cluster.kill(1);
    cluster.kill(2);
    let mut client = attach(&cluster, 0);
    let lonely = std::thread::spawn(move || client.write(7 * BLOCK, &[77; 4096]));
    let journaled = cluster.wait_for("the write to be in n1's journal", PATIENCE, async |cluster| {
        let volume = cluster.status(0).await?.volumes.remove(0);
        let durable = copy(&volume, "n1").durable_lsn;
        if durable == Some(FIRST + 5) { Ok(()) } else { Err(format!("{durable:?}")) }
    });
    journaled.await.unwrap_or_else(|e| panic!("{e}"));
    cluster.kill(0);
    assert!(lonely.join().unwrap().is_err(), "it was acknowledged by one copy of three");
    cluster.launch(1).unwrap();
    cluster.launch(2).unwrap();
    let taken_over = |v: &pb::Volume| v.epoch > 1 && v.state == "degraded";
    let volume = volume_is(&cluster, 1, "another primary", taken_over).await;
    let primary = cluster.index_of(&volume.primary).unwrap();
    write(&cluster, primary, 8..9);

    cluster.launch(0).unwrap();
    cluster.wait_healthy(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    let listed = cluster.wait_for("the orphan to be told of", PATIENCE, async |cluster| {
        let output = cluster.nodes()[0].admin().display().to_string();
        let listed = try_tool(
            holdfast_tests::binary().to_str().unwrap(),
            ["--socket", &output, "--output", "json", "orphan", "list"],
        );
        match json(&listed) {
            Value::Array(rows) if rows.len() == 1 => Ok(rows[0].clone()),
            other => Err(other.to_string()),
        }
    });
    let orphan = listed.await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((&orphan["volume"], &orphan["node"], &orphan["records"]), (&VOLUME.into(), &"n1".into(), &1.into()));
    assert_eq!(
        (&orphan["first_lsn"], &orphan["first_epoch"], &orphan["whole"]),
        (&(FIRST + 5).into(), &1.into(), &true.into())
    );
    assert!(orphan["cut_unix_ms"].as_u64() > Some(0), "{orphan}");
    let id = orphan["id"].as_str().unwrap().to_owned();

    // Every node knows of it, and its own alone what is in it.
    let elsewhere = asked(&cluster, 1, &["orphan", "list", VOLUME, "--node", "n1"]).await;
    assert_eq!((&elsewhere[0]["id"], &elsewhere[0]["records"]), (&orphan["id"], &Value::Null));
    let refused = cluster.run(1, &["orphan", "show", &id]).await;
    assert_eq!(refused.status.code(), Some(UNSAFE), "{}", String::from_utf8_lossy(&refused.stderr));
    let shown = asked(&cluster, 0, &["orphan", "show", &id]).await;
    assert_eq!(shown["ranges"], serde_json::json!([{ "offset": 7 * BLOCK, "length": BLOCK }]));

    let file = scratch.path().join("orphan.raw");
    let to = file.display().to_string();
    let written = asked(&cluster, 0, &["orphan", "export", &id, "--to", &to]).await;
    assert_eq!((&written["records"], &written["bytes"]), (&1.into(), &BLOCK.into()));
    let raw = fs::read(&file).unwrap();
    let (before, data) = raw.split_at(usize::try_from(7 * BLOCK).unwrap());
    assert!(
        before.iter().all(|b| *b == 0) && data.len() == 4096 && data.iter().all(|b| *b == 77),
        "{} bytes",
        raw.len()
    );
    let listing = fs::read_to_string(format!("{to}.records")).unwrap();
    assert!(listing.contains(&format!("{} 1 write {} {BLOCK}", FIRST + 5, 7 * BLOCK)), "{listing}");
    let again = cluster.run(0, &["orphan", "export", &id, "--to", &to]).await;
    assert_eq!(again.status.code(), Some(1), "a file that is there is not written over");
    let image = content(&cluster, primary);
    assert_eq!(held(&image, 0..9), [0, 1, 2, 3, 4, 8], "what was never acknowledged is not in the volume");

    // From any node; and a restart finds what is left.
    asked(&cluster, 1, &["orphan", "delete", &id, "--yes"]).await;
    let gone = cluster.wait_for("the orphan to be gone", PATIENCE, async |cluster| {
        let copies = cluster.nodes()[0].data_dir().join("shard-0/copies");
        let orphans =
            fs::read_dir(copies).unwrap().flatten().flat_map(|dir| fs::read_dir(dir.path()).unwrap().flatten());
        let left: Vec<_> =
            orphans.map(|f| f.file_name()).filter(|n| n.to_string_lossy().starts_with("orphan-")).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    gone.await.unwrap_or_else(|e| panic!("{e}"));
}
