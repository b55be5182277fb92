//! Copies that no journal reaches any more come back by regions, under verified load, while the agent that fetches them is killed.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_agent::admin::pb;
use holdfast_cli::workload::{Plan, Workload};
use holdfast_tests::terminal::{colours, on_a_terminal};
use holdfast_tests::{PATIENCE, TestCluster, binary, finish, scratch};
use std::time::Duration;

const VOLUME: &str = "left";
const SIZE: u64 = 64 << 20;
/// The smallest journal that the configuration takes, 16 MiB; and so slow that a resync can be met on its way.
const SMALL_JOURNAL: &str =
    "[limits]\njournal_segment = \"4MiB\"\njournal_max = \"16MiB\"\nresync_bandwidth = \"8MiB\"\n";
/// What clients write while a resync goes on: far more than one answer takes, and faster than regions are sent at first.
const HOT: u64 = 16 << 20;
/// A resync of all of it takes some seconds, and the machine may be busy.
const LONG: Duration = Duration::from_secs(240);

async fn writes(cluster: &TestCluster, workload: &Workload, mib: u64) {
    let goal = workload.progress().bytes_written + (mib << 20);
    let written = cluster.wait_for("journals full of writes", LONG, async |_| match workload.progress() {
        p if p.bytes_written > goal => Ok(()),
        p => Err(format!("{} bytes, {:?}", p.bytes_written, p.failure)),
    });
    written.await.unwrap_or_else(|e| panic!("{e}"));
}

/// Fills journals several times over, and ends.
async fn age(cluster: &TestCluster, mib: u64) {
    let workload = Workload::start(Plan::new(cluster.sockets(VOLUME), VOLUME, HOT..SIZE, 1)).unwrap();
    writes(cluster, &workload, mib).await;
    finish(workload).await;
}

fn load(cluster: &TestCluster) -> Workload {
    Workload::start(Plan::new(cluster.sockets(VOLUME), VOLUME, 0..HOT, 2)).unwrap()
}

/// The copy on this node, once it is as it should be.
async fn copy_is(
    cluster: &TestCluster,
    node: &str,
    what: &str,
    is: impl Fn(&pb::Copy) -> bool,
) -> (pb::Volume, pb::Copy) {
    let found = cluster.wait_for(what, LONG, async |cluster| {
        let volume = cluster.volume(VOLUME).await?;
        let copy = volume.copies.iter().find(|c| c.node == node).cloned();
        match copy {
            Some(copy) if is(&copy) => Ok((volume, copy)),
            copy => Err(format!("{copy:?}")),
        }
    });
    found.await.unwrap_or_else(|e| panic!("{e}"))
}

/// Nothing acknowledged was lost, every copy counts, and their images are equal.
async fn prove(cluster: &TestCluster, workload: Workload, copies: usize) {
    finish(workload).await;
    cluster.wait_healthy(VOLUME, LONG).await.unwrap_or_else(|e| panic!("{e}"));
    let all = cluster.wait_in_sync(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(all.copies, copies);
    let primary = cluster.primary(VOLUME).await;
    let verified = cluster.run(primary, &["verify", VOLUME]).await;
    let said = String::from_utf8_lossy(&verified.stdout);
    assert!(verified.status.success(), "{said} {}", String::from_utf8_lossy(&verified.stderr));
}

#[tokio::test]
async fn a_copy_that_was_away_for_too_long_comes_back_by_regions_though_it_is_killed_on_its_way() {
    let mut cluster = TestCluster::start_with(SMALL_JOURNAL).await;
    cluster.volume(VOLUME, SIZE).await;
    let primary = cluster.primary(VOLUME).await;
    let left = (primary + 1) % 3;
    let name = cluster.nodes()[left].name().to_owned();
    cluster.kill(left);
    age(&cluster, 80).await;
    let workload = load(&cluster);
    cluster.launch(left).unwrap();

    let begun = |c: &pb::Copy| c.state == "resyncing" && c.resync.as_ref().is_some_and(|r| r.done_bytes > 4 << 20);
    let (volume, copy) = copy_is(&cluster, &name, "regions to have come", begun).await;
    assert_eq!(volume.state, "degraded");
    assert!(volume.r#unsafe.iter().any(|s| s.contains(&name) && s.contains("MiB fetched")), "{:?}", volume.r#unsafe);
    let resync = copy.resync.unwrap();
    assert!(resync.total_bytes >= resync.done_bytes && !resync.source.is_empty(), "{resync:?}");
    let json = cluster.run(primary, &["status", "--output", "json"]).await;
    assert!(String::from_utf8_lossy(&json.stdout).contains("resyncing"), "{json:?}");
    let refused = cluster.run(primary, &["failover", VOLUME, "--to", &name]).await;
    assert_eq!(refused.status.code(), Some(3), "{}", String::from_utf8_lossy(&refused.stderr));

    workload.phase("kill");
    cluster.kill(left);
    writes(&cluster, &workload, 4).await;
    cluster.launch(left).unwrap();
    // It goes on with what it had fetched.
    let again = |c: &pb::Copy| c.resync.as_ref().is_some_and(|r| r.done_bytes >= resync.done_bytes / 2);
    copy_is(&cluster, &name, "the resync to go on", again).await;
    copy_is(&cluster, &name, "the copy to be back", |c| c.state == "healthy").await;
    writes(&cluster, &workload, 4).await;
    prove(&cluster, workload, 3).await;
    let events = cluster.run(left, &["events", "--volume", VOLUME]).await;
    let events = String::from_utf8_lossy(&events.stdout);
    assert!(events.contains("was resynced to record"), "{events}");
}

#[tokio::test]
async fn a_new_copy_of_an_old_volume_is_filled_by_regions() {
    let mut cluster = TestCluster::start_of(4, &format!("\n{SMALL_JOURNAL}")).await;
    let request = pb::VolumeCreateRequest {
        name: VOLUME.to_owned(),
        size_bytes: SIZE,
        on: ["n1", "n2", "n3"].map(str::to_owned).to_vec(),
        ..Default::default()
    };
    cluster.create_volume(request, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    age(&cluster, 60).await;
    let workload = load(&cluster);

    // Whoever has a terminal behind stderr sees how far it is; programs read stdout as always.
    let (dir, socket) = (scratch(), cluster.nodes()[0].admin().display().to_string());
    let file = dir.path().join("answer.json");
    let (holdfast, answer) = (binary().display(), file.display());
    let line = format!("exec {holdfast} --socket {socket} --output json copy add {VOLUME} n4 >{answer}");
    let watched = tokio::task::spawn_blocking(move || on_a_terminal(&line, "", true, |_| false));
    let begun = |c: &pb::Copy| c.resync.as_ref().is_some_and(|r| r.done_bytes > 4 << 20);
    copy_is(&cluster, "n4", "regions to have come", begun).await;
    cluster.kill(3);
    cluster.launch(3).unwrap();
    copy_is(&cluster, "n4", "the copy to count", |c| c.state == "healthy" && c.role != "learner").await;
    let (status, shown) = watched.await.unwrap();
    assert!(status.success(), "{status}: {shown}");
    for part in ["█", " % ", " MiB of ", "/s, ", " left", "the copy on n4 is ", ", from the one on n"] {
        assert!(shown.contains(part), "expected {part:?} in {shown:?}");
    }
    assert_eq!(colours(&shown), 0, "NO_COLOR: {shown:?}");
    let answer: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!((&answer["done"], &answer["copy_on"]), (&true.into(), &"n4".into()), "{answer}");
    prove(&cluster, workload, 4).await;
}
