//! Copies are added, replaced and removed under verified load, through the command line, while agents are killed.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_cli::workload::{Plan, Workload};
use holdfast_tests::{PATIENCE, TestCluster, finish};

const VOLUME: &str = "v";
const SIZE: u64 = 64 << 20;
/// A new copy is filled from the journals alone: they must still hold the volume's first record.
const LONG_SEGMENTS: &str = "\n[limits]\njournal_segment = \"64MiB\"\njournal_max = \"512MiB\"\n";
const REFUSED: i32 = 3;

fn load(cluster: &TestCluster, seed: u64) -> Workload {
    let mut plan = Plan::new(cluster.sockets(VOLUME), VOLUME, 0..SIZE, seed);
    // The journals hold all of it.
    plan.depth = 1;
    Workload::start(plan).unwrap()
}

/// Ends the load, and shows that nothing was lost and that all copies on exactly these nodes are equal.
async fn prove(cluster: &TestCluster, workload: Workload, on: &[&str]) {
    finish(workload).await;
    cluster.wait_healthy(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    let all = cluster.wait_in_sync(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(all.copies, on.len());
    let volume = (**cluster).volume(VOLUME).await.unwrap();
    let found: Vec<&str> = volume.copies.iter().map(|c| c.node.as_str()).collect();
    assert_eq!(found, on);
}

#[tokio::test]
async fn a_copy_is_replaced_while_the_primary_dies() {
    let mut cluster = TestCluster::start_of(4, LONG_SEGMENTS).await;
    cluster.volume_on(VOLUME, SIZE, &["n1", "n2", "n3"], "n2").await;
    let workload = load(&cluster, 5);
    cluster.acknowledges(&workload, 100).await;

    cluster.succeeds(0, &["copy", "replace", VOLUME, "n3", "n4", "--no-wait"]).await;
    let primary = cluster.primary(VOLUME).await;
    workload.phase("kill");
    cluster.kill(primary);
    cluster.acknowledges(&workload, 100).await;
    cluster.launch(primary).unwrap();
    // The wish stands, and to wish it again changes nothing.
    let said = cluster.succeeds(0, &["copy", "replace", VOLUME, "n3", "n4"]).await;
    assert!(said.contains("n4"), "{said}");
    cluster.acknowledges(&workload, 100).await;
    prove(&cluster, workload, &["n1", "n2", "n4"]).await;
}

#[tokio::test]
async fn copies_come_and_go_and_the_last_good_ones_stay() {
    let mut cluster = TestCluster::start_of(4, LONG_SEGMENTS).await;
    cluster.volume_on(VOLUME, SIZE, &["n1", "n2", "n3"], "n1").await;
    let workload = load(&cluster, 6);
    cluster.acknowledges(&workload, 100).await;

    let said = cluster.succeeds(0, &["copy", "add", VOLUME, "n4"]).await;
    assert!(said.contains("a write needs 3 of 4 copies"), "{said}");
    cluster.acknowledges(&workload, 100).await;

    // The primary's own copy: it hands over first.
    cluster.succeeds(1, &["copy", "remove", VOLUME, "n1", "--yes"]).await;
    cluster.acknowledges(&workload, 100).await;

    // Of the three others one is down: no good one may go, the one that is down may.
    let down = 3;
    cluster.kill(down);
    // At the node that is asked.
    let noticed = cluster.wait_for("the volume to be degraded", PATIENCE, async |cluster| {
        let state = cluster.status(0).await?.volumes.remove(0).state;
        if state == "degraded" { Ok(()) } else { Err(state) }
    });
    noticed.await.unwrap_or_else(|e| panic!("{e}"));
    cluster
        .fails(
            &["copy", "remove", VOLUME, "n2", "--yes"],
            REFUSED,
            "expected 2 good copies of v beside the one on n2, found 1",
        )
        .await;
    cluster.succeeds(0, &["copy", "remove", VOLUME, "n4", "--yes"]).await;
    cluster.fails(&["copy", "remove", VOLUME, "n2", "--yes"], REFUSED, "expected 2 good copies").await;
    cluster.acknowledges(&workload, 100).await;

    // It learns of that when it returns, and deletes its data.
    cluster.launch(down).unwrap();
    let gone = cluster.wait_for("n4 to delete its copy", PATIENCE, async |cluster| {
        let volume = cluster.volume(VOLUME).await?;
        if volume.copies.iter().any(|c| c.node == "n4") { Err(format!("{:?}", volume.copies)) } else { Ok(()) }
    });
    gone.await.unwrap_or_else(|e| panic!("{e}"));
    prove(&cluster, workload, &["n2", "n3"]).await;
}
