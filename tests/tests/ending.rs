//! An agent is told to end, and does so in order: it hands its volumes over, or is waited for.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_cli::workload::{Plan, Workload};
use holdfast_tests::{PATIENCE, TestCluster, finish};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const VOLUME: &str = "ends";
const SIZE: u64 = 64 << 20;
/// Far above what draining takes, far below what the others wait.
const STAY: &str = "\n[cluster]\nrestart_window = \"60s\"\n";

async fn load(cluster: &TestCluster, seed: u64) -> Workload {
    cluster.volume(VOLUME, SIZE).await;
    let workload = Workload::start(Plan::new(cluster.sockets(VOLUME), VOLUME, 0..SIZE, seed)).unwrap();
    cluster.acknowledges(&workload, 300).await;
    workload
}

/// Nothing acknowledged is missing, and the copies are equal.
async fn prove(cluster: &TestCluster, workload: Workload) {
    finish(workload).await;
    cluster.wait_healthy(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    cluster.wait_in_sync(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
}

fn log(cluster: &TestCluster, at: usize) -> String {
    std::fs::read_to_string(cluster.nodes()[at].log()).unwrap()
}

#[tokio::test]
async fn sigterm_hands_the_volumes_over() {
    let mut cluster = TestCluster::start().await;
    let workload = load(&cluster, 1).await;
    let primary = cluster.primary(VOLUME).await;
    let before = (*cluster).volume(VOLUME).await.unwrap();
    workload.phase("handed over");
    cluster.terminate(primary);
    let status = cluster.ended(primary, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(status.code(), Some(0), "{}", cluster.log_tails());
    let said = log(&cluster, primary);
    assert!(said.contains("is released at record") && said.contains("the agent has ended"), "{}", cluster.log_tails());
    // What is about a volume says where it was: in the words of the thread that did it, and as an event.
    let place = format!("volume=\"{VOLUME}\" epoch={} lsn=", before.epoch);
    let released: Vec<&str> = said.lines().filter(|line| line.contains("is released at record")).collect();
    assert!(released.len() == 2 && released.iter().all(|line| line.contains(&place)), "{released:#?}");
    assert!(!cluster.nodes()[primary].admin().exists(), "it took its admin socket away");
    let after = (*cluster).volume(VOLUME).await.unwrap();
    assert_ne!(after.primary, before.primary, "another node leads when the process has ended");
    assert_eq!(after.epoch, before.epoch + 1, "one planned switchover, no failover after it");
    cluster.acknowledges(&workload, 300).await;
    cluster.launch(primary).unwrap();
    cluster.wait_healthy(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    prove(&cluster, workload).await;
}

#[tokio::test]
async fn a_restart_keeps_the_primary_where_it_is() {
    let mut cluster = TestCluster::start_with(STAY).await;
    let workload = load(&cluster, 2).await;
    let primary = cluster.primary(VOLUME).await;
    let name = cluster.nodes()[primary].name().to_owned();
    let before = (*cluster).volume(VOLUME).await.unwrap();
    let told = cluster.run(primary, &["--output", "json", "node", "restart"]).await;
    let answer: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap_or_else(|e| panic!("{e}: {told:?}"));
    assert_eq!(
        (&answer["node"], &answer["primaries"], &answer["within_seconds"]),
        (&name.clone().into(), &1.into(), &60.into())
    );
    let status = cluster.ended(primary, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(status.code(), Some(0), "{}", cluster.log_tails());
    let other = (primary + 1) % 3;
    let found = cluster.status(other).await.unwrap();
    let node = found.nodes.iter().find(|n| n.name == name).unwrap();
    assert_eq!(node.state, "restarting", "{found:#?}");
    // Longer than the failure timeout (1 s) and the lease (2 s) together.
    sleep(Duration::from_secs(5)).await;
    let waiting = (*cluster).volume(VOLUME).await.unwrap();
    assert_eq!(
        (&waiting.primary, waiting.epoch, waiting.pending_epoch),
        (&before.primary, before.epoch, 0),
        "{waiting:#?}"
    );
    assert!(waiting.r#unsafe.iter().any(|why| why.contains("restarts")), "{waiting:#?}");
    cluster.launch(primary).unwrap();
    cluster.acknowledges(&workload, 300).await;
    let after = (*cluster).volume(VOLUME).await.unwrap();
    assert_eq!((&after.primary, after.epoch), (&before.primary, before.epoch + 1), "its own next epoch (N0)");
    prove(&cluster, workload).await;
}

#[tokio::test]
async fn an_agent_that_does_not_come_back_is_succeeded() {
    let extra = "\n[cluster]\nrestart_window = \"3s\"\n";
    let mut cluster = TestCluster::start_with(extra).await;
    let workload = load(&cluster, 3).await;
    let primary = cluster.primary(VOLUME).await;
    assert!(cluster.run(primary, &["node", "restart"]).await.status.success());
    cluster.ended(primary, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    cluster.acknowledges(&workload, 300).await;
    assert_ne!(workload.progress().node, primary);
    cluster.launch(primary).unwrap();
    prove(&cluster, workload).await;
}

/// Without a quorum nothing can be answered and nobody can take over: the end comes all the same, and a second signal brings it at once.
#[tokio::test]
async fn the_end_is_bounded_and_a_second_signal_brings_it_at_once() {
    let mut cluster = TestCluster::start().await;
    let workload = load(&cluster, 4).await;
    let primary = cluster.primary(VOLUME).await;
    let others = [(primary + 1) % 3, (primary + 2) % 3];
    others.iter().for_each(|at| cluster.stop(*at));
    sleep(Duration::from_secs(2)).await;
    let began = Instant::now();
    cluster.terminate(primary);
    while !log(&cluster, primary).contains("the agent ends") {
        assert!(began.elapsed() < PATIENCE, "{}", cluster.log_tails());
        sleep(Duration::from_millis(20)).await;
    }
    cluster.terminate(primary);
    let status = cluster.ended(primary, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(status.code(), Some(1), "it did not do what it was told first");
    let said = log(&cluster, primary);
    assert!(said.contains("second signal"), "{}", cluster.log_tails());
    cluster.launch(primary).unwrap();
    sleep(Duration::from_secs(3)).await;
    cluster.terminate(primary);
    let status = cluster.ended(primary, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(status.code(), Some(0), "the time was up: {}", cluster.log_tails());
    others.iter().for_each(|at| cluster.go_on(*at));
    cluster.launch(primary).unwrap();
    cluster.acknowledges(&workload, 300).await;
    prove(&cluster, workload).await;
}
