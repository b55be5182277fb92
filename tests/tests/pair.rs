//! Two copies and a witness, with real agents: one copy goes on alone or writes wait, as it was chosen; a copy that was left out never serves
//! what the other one went on from.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_agent::admin::pb;
use holdfast_cli::workload::{Plan, Workload};
use holdfast_tests::{Blocks, PATIENCE, TestCluster, finish};
use std::fs;
use std::time::{Duration, Instant};
use tokio::time::sleep;

const VOLUME: &str = "two";
const SIZE: u64 = 32 << 20;
const USAGE: i32 = 2;
/// Longer than it takes to find a node silent, to wait for its lease and to go on without it.
const LONG: Duration = Duration::from_secs(8);

async fn create(cluster: &TestCluster, degraded: &str) {
    let args =
        ["volume", "create", VOLUME, "--size", "32MiB", "--copies", "2", "--primary", "n1", "--degraded", degraded];
    cluster.succeeds(0, &args).await;
    cluster.wait_healthy(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
}

fn load(cluster: &TestCluster, seed: u64) -> Workload {
    let mut plan = Plan::new(cluster.sockets(VOLUME), VOLUME, 0..SIZE, seed);
    plan.depth = 4;
    Workload::start(plan).unwrap()
}

/// Nothing acknowledged is missing, and both copies are equal.
async fn prove(cluster: &TestCluster, workload: Workload) {
    finish(workload).await;
    cluster.wait_healthy(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    let all = cluster.wait_in_sync(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(all.copies, 2);
}

async fn volume_is(cluster: &TestCluster, what: &str, is: impl Fn(&pb::Volume) -> bool) -> pb::Volume {
    let found = cluster.wait_for(what, PATIENCE, async |cluster| {
        let volume = cluster.volume(VOLUME).await?;
        if is(&volume) {
            Ok(volume)
        } else {
            Err(format!("{} in epoch {}: {:?}", volume.state, volume.epoch, volume.r#unsafe))
        }
    });
    found.await.unwrap_or_else(|e| panic!("{e}\n{}", cluster.log_tails()))
}

fn says(volume: &pb::Volume, what: &str) -> bool {
    volume.r#unsafe.iter().any(|sentence| sentence.contains(what))
}

#[tokio::test]
async fn two_copies_need_a_choice() {
    let cluster = TestCluster::start_pair("").await;
    let volume = ["volume", "create", VOLUME, "--size", "32MiB"];
    for more in [&["--copies", "2"][..], &["--on", "n1,n2"], &[]] {
        let args = [&volume[..], more].concat();
        for part in
            ["expected --degraded stall or --degraded allow", "writes wait while one copy is gone", "lost with it"]
        {
            cluster.fails(&args, USAGE, part).await;
        }
    }
    let asynchronous = [&volume[..], &["--copies", "2", "--durability", "async", "--degraded", "allow"]].concat();
    cluster.fails(&asynchronous, USAGE, "leave it out").await;
    create(&cluster, "stall").await;
    let shown = cluster.succeeds(1, &["volume", "show", VOLUME]).await;
    assert!(shown.contains("a write needs 2 of 2 copies") && shown.contains("--degraded stall"), "{shown}");
}

#[tokio::test]
async fn a_primary_goes_on_alone_and_ends_that_by_itself() {
    let mut cluster = TestCluster::start_pair("").await;
    create(&cluster, "allow").await;
    let workload = load(&cluster, 21);
    cluster.acknowledges(&workload, 100).await;
    cluster.kill(1);
    let single = volume_is(&cluster, "n1 to go on alone", |v| v.single_copy && v.state == "degraded").await;
    assert_eq!((single.primary.as_str(), single.quorum), ("n1", 1), "{single:#?}");
    assert!(says(&single, "SINGLE COPY: n1 goes on alone") && says(&single, "bring n2 back"), "{single:#?}");
    cluster.acknowledges(&workload, 100).await;
    let exposed = volume_is(&cluster, "the exposure to be counted", |v| v.exposed_bytes.is_some_and(|b| b > 0)).await;
    assert!(exposed.exposed_seconds.is_some(), "{exposed:#?}");
    let explained = cluster.succeeds(0, &["explain", VOLUME]).await;
    assert!(explained.contains("goes on alone") && explained.contains("on one copy alone"), "{explained}");

    cluster.launch(1).unwrap();
    let both = cluster.wait_healthy(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((both.single_copy, both.quorum, both.primary.as_str()), (false, 2, "n1"), "{both:#?}");
    let events = cluster.succeeds(0, &["events", "--volume", VOLUME]).await;
    for said in ["is to go on alone", "goes on alone from epoch", "holds every write again and counts"] {
        assert!(events.contains(said), "{said}: {events}");
    }
    cluster.acknowledges(&workload, 100).await;
    prove(&cluster, workload).await;
}

#[tokio::test]
async fn a_survivor_takes_over_alone_and_the_old_primary_only_follows() {
    let mut cluster = TestCluster::start_pair("").await;
    create(&cluster, "allow").await;
    let workload = load(&cluster, 22);
    cluster.acknowledges(&workload, 100).await;
    cluster.kill(0);
    cluster.acknowledges(&workload, 100).await;
    let single = volume_is(&cluster, "n2 to go on alone", |v| v.single_copy && v.primary == "n2").await;
    assert_eq!(single.quorum, 1, "{single:#?}");
    cluster.launch(0).unwrap();
    let both = cluster.wait_healthy(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((both.single_copy, both.primary.as_str()), (false, "n2"), "{both:#?}");
    prove(&cluster, workload).await;
}

#[tokio::test]
async fn the_stale_copy_waits_when_it_comes_back_first() {
    let mut cluster = TestCluster::start_pair("").await;
    create(&cluster, "allow").await;
    let workload = load(&cluster, 23);
    cluster.acknowledges(&workload, 100).await;
    cluster.kill(1);
    volume_is(&cluster, "n1 to go on alone", |v| v.single_copy && v.state == "degraded").await;
    cluster.acknowledges(&workload, 100).await;
    cluster.kill(0);
    let acknowledged = workload.progress().acknowledged;
    cluster.launch(1).unwrap();
    // It has a majority of the voters with it, and everything else that a takeover needs.
    let waits = |v: &pb::Volume| v.state == "stalled" && says(v, "the copy on n2 answers, lacks them, and waits");
    volume_is(&cluster, "n2 to wait for n1", waits).await;
    sleep(LONG).await;
    let waiting = volume_is(&cluster, "n2 to wait still", waits).await;
    assert_eq!(waiting.primary, "n1", "nobody took over: {waiting:#?}");
    assert!(says(&waiting, "holdfast failover two --force --accept-loss"), "{waiting:#?}");
    assert!(
        Blocks::attach(&cluster.nodes()[1].socket(VOLUME), VOLUME, Duration::from_secs(5)).is_err(),
        "n2 serves nothing"
    );
    assert_eq!(workload.progress().acknowledged, acknowledged);

    cluster.launch(0).unwrap();
    cluster.acknowledges(&workload, 100).await;
    prove(&cluster, workload).await;
}

#[tokio::test]
async fn writes_wait_for_the_other_copy_where_that_was_chosen() {
    let mut cluster = TestCluster::start_pair("").await;
    create(&cluster, "stall").await;
    let workload = load(&cluster, 24);
    for gone in [1, 0] {
        cluster.acknowledges(&workload, 100).await;
        cluster.kill(gone);
        volume_is(&cluster, "writes to wait", |v| v.state == "stalled" && says(v, "--degraded stall")).await;
        let acknowledged = workload.progress().acknowledged;
        sleep(LONG).await;
        assert_eq!(workload.progress().acknowledged, acknowledged, "nothing is acknowledged by one copy");
        cluster.launch(gone).unwrap();
        cluster.acknowledges(&workload, 100).await;
        cluster.wait_healthy(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    }
    prove(&cluster, workload).await;
}

/// One write for each of these blocks.
fn write(cluster: &TestCluster, node: usize, blocks: std::ops::Range<u64>) {
    let mut volume = Blocks::attach(&cluster.nodes()[node].socket(VOLUME), VOLUME, PATIENCE).unwrap();
    for block in blocks {
        volume.write(block * 4096, &[7; 4096]).unwrap_or_else(|e| panic!("block {block}: {e}"));
    }
}

#[tokio::test]
async fn an_operator_goes_on_with_the_stale_copy_and_is_told_what_that_loses() {
    let mut cluster = TestCluster::start_pair("").await;
    create(&cluster, "allow").await;
    write(&cluster, 0, 0..20);
    cluster.wait_in_sync(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    cluster.kill(1);
    volume_is(&cluster, "n1 to go on alone", |v| v.single_copy && v.state == "degraded").await;
    write(&cluster, 0, 20..30);
    // What is committed is heard of with the next heartbeat.
    sleep(Duration::from_secs(1)).await;
    cluster.kill(0);
    fs::remove_dir_all(cluster.nodes()[0].data_dir()).unwrap();
    cluster.launch(1).unwrap();
    volume_is(&cluster, "n2 to wait for n1", |v| says(v, "the copy on n2 answers, lacks them, and waits")).await;
    // Until the dead counts as dead it may be about to say something; and n2 must first have heard what was agreed without it.
    let until = Instant::now() + PATIENCE;
    let said = loop {
        let said = cluster.run(1, &["failover", VOLUME, "--force", "--accept-loss", "--yes"]).await;
        let told = String::from_utf8_lossy(&said.stderr).into_owned();
        let too_early = told.contains("n1 is just starting") || told.contains("look again");
        if !too_early || Instant::now() > until {
            break said;
        }
        sleep(Duration::from_millis(200)).await;
    };
    let (out, told) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert!(said.status.success(), "{out}{told}");
    assert!(told.contains("No copy that counts is left. n2 was left out"), "{told}");
    assert!(told.contains("n1 was primary and needs nobody to acknowledge"), "{told}");
    assert!(out.contains("n2 is primary"), "{out}");
    let after = volume_is(&cluster, "n2 to serve", |v| v.primary == "n2" && v.receipts.len() == 1).await;
    assert!(matches!(after.receipts[0].loss.as_str(), "certain" | "possible"), "{after:#?}");
    let mut volume = Blocks::attach(&cluster.nodes()[1].socket(VOLUME), VOLUME, PATIENCE).unwrap();
    assert_eq!(volume.read(0, 20 * 4096).unwrap(), vec![7; 20 * 4096], "what both held is there");
    assert_eq!(
        volume.read(20 * 4096, 10 * 4096).unwrap(),
        vec![0; 10 * 4096],
        "what one alone held is lost, and said so"
    );
}
