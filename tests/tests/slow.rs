//! Grey failures: a copy that is alive and slow. One of three nodes keeps its data on a file system that delays every write of its journal.
//!
//! Nothing here depends on how fast the machine is: a delay is far above what a write takes, and a write that waited for the slow copy could
//! not be acknowledged more often than the delay allows.
//!
//! Needs root: it mounts.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_cli::harness::Cluster;
use holdfast_cli::workload::{Plan, Workload};
use holdfast_faultfs::{Fault, FaultFs, Op, Options, Rule};
use holdfast_tests::scrape::Scrape;
use holdfast_tests::{PATIENCE, TestCluster, finish};
use std::fs;
use std::path::Path;
use std::time::Duration;
use tokio::time::sleep;

const VOLUME: &str = "grey";
const SIZE: u64 = 32 << 20;
const SICK: usize = 1;
const NAME: &str = "n2";
const DEPTH: u64 = 4;
/// Far above any other write of a test, and below what counts as a device that hangs (3 s).
const DELAY: Duration = Duration::from_millis(1_500);

fn mount(dir: &Path) -> FaultFs {
    let (real, seen) = (dir.join(NAME).join("real"), dir.join(NAME).join("data"));
    fs::create_dir_all(&real).unwrap();
    fs::create_dir_all(&seen).unwrap();
    FaultFs::mount(&real, &seen, Options { sync: false }).unwrap_or_else(|e| panic!("{e}"))
}

fn slow() -> Rule {
    Rule::new("journal", &[Op::Write], Fault::Delay(DELAY))
}

fn load(cluster: &TestCluster, seed: u64) -> Workload {
    let depth = usize::try_from(DEPTH).unwrap();
    Workload::start(Plan { depth, ..Plan::new(cluster.sockets(VOLUME), VOLUME, 0..SIZE, seed) }).unwrap()
}

/// Until the volume's node says that; or does not say it any more, and all copies are well.
async fn said(cluster: &TestCluster, words: &str, is_said: bool) {
    let what = format!("status {} {words:?}", if is_said { "to say" } else { "not to say" });
    let said = cluster.wait_for(&what, PATIENCE, async |cluster| {
        let volume = Cluster::volume(cluster, VOLUME).await?;
        let text = volume.r#unsafe.join("; ");
        // A copy that is slow may be behind as well.
        let well = is_said || volume.state == "healthy";
        if text.contains(words) == is_said && well { Ok(()) } else { Err(format!("{}: {text}", volume.state)) }
    });
    said.await.unwrap_or_else(|e| panic!("{e}"));
}

async fn prove(cluster: TestCluster, fs: FaultFs, workload: Workload) {
    finish(workload).await;
    cluster.wait_healthy(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    cluster.wait_in_sync(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    // Nothing of it hangs in the file system any more when the agents are killed.
    drop(fs);
    drop(cluster);
}

#[tokio::test]
async fn a_slow_copy_holds_up_no_write_and_people_are_told() {
    let (cluster, fs) = TestCluster::start_observed_on("", mount).await;
    cluster.volume_on(VOLUME, SIZE, &["n1", "n2", "n3"], "n1").await;
    let workload = load(&cluster, 31);
    cluster.acknowledges(&workload, 100).await;
    fs.rules().add(slow());
    sleep(DELAY).await;

    let before = workload.progress().acknowledged;
    let window = Duration::from_secs(9);
    sleep(window).await;
    let acknowledged = workload.progress().acknowledged - before;
    // Each write in flight would have waited for a delay.
    let waiting = DEPTH * (1 + u64::try_from(window.as_millis() / DELAY.as_millis()).unwrap());
    assert!(acknowledged > 2 * waiting, "{acknowledged} writes; at the slow copy's pace there are {waiting}");

    said(&cluster, "the copy on n2 is slow", true).await;
    said(&cluster, "writes do not wait for it", true).await;
    let explained = cluster.succeeds(0, &["explain", VOLUME]).await;
    assert!(explained.contains("the copy on n2 is slow"), "{explained}");
    assert!(
        explained.contains("writes are acknowledged by the other copies, as long as 2 of them answer"),
        "{explained}"
    );
    let events = cluster.succeeds(0, &["events"]).await;
    assert!(events.contains("is slow: it takes"), "{events}");
    let scrape = Scrape::take(cluster.nodes()[0].metrics().unwrap()).unwrap();
    assert!(scrape.text.contains("holdfast_copy_slow{volume=\"grey\",node=\"n2\"} 1"), "{}", scrape.text);
    assert!(scrape.text.contains("holdfast_copy_slow{volume=\"grey\",node=\"n3\"} 0"), "{}", scrape.text);

    fs.rules().clear();
    said(&cluster, "is slow", false).await;
    assert!(cluster.succeeds(0, &["events"]).await.contains("is as fast as the others again"));

    // As the primary's it is told, and stays where it is, unless the configuration says otherwise.
    cluster.succeeds(0, &["failover", VOLUME, "--to", NAME]).await;
    fs.rules().add(slow());
    said(&cluster, "it is the primary's, so reads wait for it", true).await;
    sleep(Duration::from_secs(3)).await;
    assert_eq!(cluster.primary(VOLUME).await, SICK);
    fs.rules().clear();
    said(&cluster, "is slow", false).await;
    prove(cluster, fs, workload).await;
}

#[tokio::test]
async fn a_slow_primary_hands_over_where_that_is_wanted() {
    let extra = "\n[failover]\nslow_primary = \"switch\"\n";
    let (cluster, fs) = TestCluster::start_observed_on(extra, mount).await;
    let before = cluster.volume_on(VOLUME, SIZE, &["n1", "n2", "n3"], NAME).await;
    let workload = load(&cluster, 32);
    cluster.acknowledges(&workload, 100).await;
    fs.rules().add(slow());
    let moved = cluster.wait_for("the primary to move", PATIENCE, async |cluster| {
        let volume = Cluster::volume(cluster, VOLUME).await?;
        let moved = volume.primary != NAME && volume.state == "healthy";
        if moved {
            Ok(volume)
        } else {
            Err(format!("{} led by {}: {:?}", volume.state, volume.primary, volume.r#unsafe))
        }
    });
    let after = moved.await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(after.epoch, before.epoch + 1, "one switchover");
    let events = cluster.succeeds(0, &["events"]).await;
    assert!(events.contains("a planned switchover"), "{events}");
    // Its successor finds the slow copy to be slow as well, or so far behind that no log reaches it, and leads on.
    said(&cluster, "the copy on n2 is", true).await;
    cluster.acknowledges(&workload, 100).await;
    let now = Cluster::volume(&cluster, VOLUME).await.unwrap();
    assert_eq!((&now.primary, now.epoch), (&after.primary, after.epoch));
    fs.rules().clear();
    prove(cluster, fs, workload).await;
}
