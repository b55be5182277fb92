//! How long a guest waits: with default timers, for a primary that was killed, and for a planned switchover.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_cli::workload::{Plan, Workload};
use holdfast_tests::{PATIENCE, TestCluster};
use std::time::Duration;
use tokio::time::sleep;

const VOLUME: &str = "pauses";
const SIZE: u64 = 64 << 20;
const TRIES: usize = 5;
const FAILOVER: Duration = Duration::from_secs(3);
const SWITCHOVER: Duration = Duration::from_millis(250);

#[tokio::test]
async fn a_killed_primary_is_replaced_within_three_seconds() {
    let mut cluster = TestCluster::start().await;
    let workload = begin(&cluster).await;
    let mut pauses = Vec::new();
    for number in 0..TRIES {
        let primary = cluster.primary(VOLUME).await;
        sleep(Duration::from_secs(1)).await;
        let phase = format!("kill {number}");
        workload.phase(&phase);
        cluster.kill(primary);
        served_elsewhere(&cluster, &workload, primary, &phase).await;
        cluster.launch(primary).unwrap();
        pauses.push(pause(&workload, &phase));
    }
    end(workload).await;
    let median = median(&mut pauses);
    println!("failover of a killed primary: median {median:?} of {pauses:?}");
    assert!(median <= FAILOVER, "expected a median of at most {FAILOVER:?}, found {pauses:?}");
}

#[tokio::test]
async fn a_switchover_pauses_for_a_moment() {
    let cluster = TestCluster::start().await;
    let workload = begin(&cluster).await;
    let mut pauses = Vec::new();
    for number in 0..TRIES {
        let primary = cluster.primary(VOLUME).await;
        sleep(Duration::from_secs(1)).await;
        let phase = format!("switchover {number}");
        workload.phase(&phase);
        let next = cluster.nodes()[(primary + 1) % 3].name().to_owned();
        cluster.failover(VOLUME, &next, false).await.unwrap_or_else(|e| panic!("{e}"));
        served_elsewhere(&cluster, &workload, primary, &phase).await;
        pauses.push(pause(&workload, &phase));
    }
    end(workload).await;
    let median = median(&mut pauses);
    println!("switchover: median {median:?} of {pauses:?}");
    assert!(median < SWITCHOVER, "expected a median below {SWITCHOVER:?}, found {pauses:?}");
}

async fn begin(cluster: &TestCluster) -> Workload {
    cluster.volume(VOLUME, SIZE).await;
    let mut plan = Plan::new(cluster.sockets(VOLUME), VOLUME, 0..SIZE, 1);
    // A guest writes a little: the pause is measured, not the queue.
    plan.depth = 4;
    Workload::start(plan).unwrap()
}

async fn end(workload: Workload) {
    let progress = workload.finish(PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    assert!(progress.violations.is_empty(), "{:#?}", progress.violations);
}

/// Waits until the load is served by another node, and has got a second of acknowledgements there.
async fn served_elsewhere(cluster: &TestCluster, workload: &Workload, old: usize, phase: &str) {
    let moved = cluster.wait_for("the load to be served by another node", PATIENCE, async |_| {
        let progress = workload.progress();
        let pause = progress.phase(phase).map(|phase| phase.longest_pause);
        if progress.node == old { Err(format!("still on the old one, {pause:?}")) } else { Ok(()) }
    });
    moved.await.unwrap_or_else(|e| panic!("{e}"));
    sleep(Duration::from_secs(1)).await;
}

fn pause(workload: &Workload, phase: &str) -> Duration {
    workload.progress().phase(phase).map(|phase| phase.longest_pause).unwrap()
}

fn median(pauses: &mut [Duration]) -> Duration {
    pauses.sort_unstable();
    pauses[pauses.len() / 2]
}
