//! Many volumes on few nodes: what an idle one takes, what heartbeats carry, and how soon all volumes of a dead node are served again.
//!
//! `scripts/scale` runs it with a thousand idle volumes and two hundred busy ones.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_agent::admin::pb;
use holdfast_cli::workload::{Plan, Transfer, Workload};
use holdfast_tests::{PATIENCE, TestCluster, finish, number_from_env, tool};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const SIZE: u64 = 64 << 20;
/// Of each busy volume.
const REGION: u64 = 1 << 20;
/// What each busy volume is granted: many guests that each do a little.
const IOPS: &str = "10";
const SETTLE: Duration = Duration::from_secs(20);
const WATCH: Duration = Duration::from_secs(5);
/// Longer than any failover may take, on a machine that does other things as well.
const LONG: Duration = Duration::from_secs(120);
/// The most that an idle volume with an attached guest may take of each agent's memory; what is stated is printed.
const MOST_IDLE_KIB: u64 = 192;

/// Bytes a second that an idle volume may add to what a node sends: the lease of who leads it, 32 bytes to two members twice a second, and what
/// carries it. Nothing else is told of it.
const MOST_SENT: f64 = 150.0;

#[tokio::test]
async fn many_volumes_are_served_and_return_together() {
    let idle = number_from_env("HOLDFAST_SCALE_IDLE", 100);
    let busy = number_from_env("HOLDFAST_SCALE_BUSY", 40);
    let mut cluster = TestCluster::start_observed("").await;
    sleep(WATCH).await;
    let before = memory(&cluster);
    let quiet = sent(&cluster).await;

    let begun = Instant::now();
    let mut attached = Vec::new();
    for number in 0..idle {
        let name = format!("idle{number}");
        create(&cluster, &name, "").await;
        attached.push(Transfer::open(&cluster.sockets(&name), &name, PATIENCE).await.unwrap());
    }
    let made = begun.elapsed();
    // Checkpoints and the first scrubs have ended.
    sleep(SETTLE).await;
    let after = memory(&cluster);
    let with_idle = sent(&cluster).await;
    let each: Vec<u64> = before.iter().zip(&after).map(|(b, a)| a.saturating_sub(*b) / idle.max(1)).collect();
    println!(
        "scale: {idle} idle volumes made and attached in {:.1} s, KiB of memory each: {each:?}",
        made.as_secs_f64()
    );
    println!("scale: bytes a second that each node sends: {quiet:.0?} without volumes, {with_idle:.0?} with");
    for (quiet, with_idle) in quiet.iter().zip(&with_idle) {
        let most = quiet + MOST_SENT * idle as f64;
        assert!(
            *with_idle < most,
            "expected {idle} idle volumes to send less than {most} bytes a second, found {with_idle}"
        );
    }
    assert!(each.iter().all(|kib| *kib <= MOST_IDLE_KIB), "an idle volume takes {each:?} KiB of each agent");

    let mut loads = Vec::new();
    for number in 0..busy {
        let name = format!("busy{number}");
        create(&cluster, &name, "n1").await;
        let _ = cluster.succeeds(0, &["volume", "limit", &name, "--iops", IOPS]).await;
        let plan = Plan { depth: 1, patience: LONG, ..Plan::new(cluster.sockets(&name), &name, 0..REGION, number) };
        loads.push(Workload::start(plan).unwrap());
    }
    for load in &loads {
        cluster.acknowledges(load, 5).await;
    }
    cluster.kill(0);
    let died = Instant::now();
    // Answers of the dead node may still lie in the clients' sockets.
    sleep(Duration::from_millis(300)).await;
    let acknowledged: Vec<u64> = loads.iter().map(|l| l.progress().acknowledged).collect();
    let mut served: Vec<Option<Duration>> = vec![None; loads.len()];
    while served.iter().any(Option::is_none) {
        for ((load, before), at) in loads.iter().zip(&acknowledged).zip(&mut served) {
            let progress = load.progress();
            assert!(progress.failure.is_none(), "{:?}", progress.failure);
            if at.is_none() && progress.acknowledged > *before {
                *at = Some(died.elapsed());
            }
        }
        let waiting = served.iter().filter(|at| at.is_none()).count();
        assert!(died.elapsed() < LONG, "{waiting} volumes are not served {LONG:?} after their primary's death");
        sleep(Duration::from_millis(20)).await;
    }
    let mut seconds: Vec<f64> = served.into_iter().flatten().map(|at| at.as_secs_f64()).collect();
    seconds.sort_by(f64::total_cmp);
    if let (Some(first), Some(last)) = (seconds.first(), seconds.last()) {
        let middle = seconds[seconds.len() / 2];
        println!(
            "scale: {busy} volumes of a dead primary served again after {first:.1} to {last:.1} s, half of them {middle:.1} s"
        );
    }
    for (load, number) in loads.into_iter().zip(0..) {
        let name: String = format!("busy{number}");
        let _ = cluster.succeeds(1, &["volume", "limit", &name, "--none"]).await;
        finish(load).await;
    }
    drop(attached);
    cluster.launch(0).unwrap();
    for name in (0..busy).map(|n| format!("busy{n}")).chain((0..idle).map(|n| format!("idle{n}"))) {
        cluster.wait_healthy(&name, LONG).await.unwrap_or_else(|e| panic!("{e}"));
    }
}

async fn create(cluster: &TestCluster, name: &str, primary: &str) {
    let request = pb::VolumeCreateRequest {
        name: name.to_owned(),
        size_bytes: SIZE,
        primary: primary.to_owned(),
        ..Default::default()
    };
    cluster.create_volume(request, LONG).await.unwrap_or_else(|e| panic!("{e}"));
}

/// Resident memory of each agent in KiB.
fn memory(cluster: &TestCluster) -> Vec<u64> {
    let of = |pid: u32| -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("every process has memory");
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    cluster.nodes().iter().map(|node| of(node.pid().unwrap())).collect()
}

/// Bytes a second that each agent sends to the others while nothing is written.
async fn sent(cluster: &TestCluster) -> Vec<f64> {
    let (begun, before) = (Instant::now(), counters(cluster));
    sleep(WATCH).await;
    let seconds = begun.elapsed().as_secs_f64();
    let rate = |(before, after): (&f64, &f64)| (after - before) / seconds;
    before.iter().zip(&counters(cluster)).map(rate).collect()
}

fn counters(cluster: &TestCluster) -> Vec<f64> {
    let of = |at: std::net::SocketAddr| -> f64 {
        let page = tool("curl", ["-sS", &format!("http://{at}/metrics")]);
        let lines = page.lines().filter(|line| line.starts_with("holdfast_connection_sent_bytes_total"));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    cluster.nodes().iter().map(|node| of(node.metrics().unwrap())).collect()
}
