//! Volumes that nobody uses cost nothing: liveness is between nodes.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_cli::workload::Transfer;
use holdfast_tests::{PATIENCE, TestCluster};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const VOLUMES: usize = 10;
const SIZE: u64 = 64 << 20;
const SETTLE: Duration = Duration::from_secs(5);
const WATCH: Duration = Duration::from_secs(10);
/// Of one core. Idle agents of the dev build take half of it at most, on a loaded machine too.
const MOST: f64 = 0.01;

#[tokio::test]
async fn ten_attached_idle_volumes_cost_less_than_a_hundredth_of_a_core() {
    let cluster = TestCluster::start().await;
    let mut attached = Vec::new();
    for number in 0..VOLUMES {
        let name = format!("idle{number}");
        cluster.volume(&name, SIZE).await;
        attached.push(Transfer::open(&cluster.sockets(&name), &name, PATIENCE).await.unwrap());
    }
    sleep(SETTLE).await;
    let pids: Vec<u32> = cluster.nodes().iter().map(|node| node.pid().unwrap()).collect();
    let (start, before) = (Instant::now(), pids.iter().map(|pid| cpu_time(*pid)).collect::<Vec<_>>());
    sleep(WATCH).await;
    let wall = start.elapsed();
    let share = |(pid, before): (&u32, Duration)| (cpu_time(*pid) - before).as_secs_f64() / wall.as_secs_f64();
    let shares: Vec<f64> = pids.iter().zip(before).map(share).collect();
    println!("of a core: {shares:.4?}");
    assert!(shares.iter().all(|share| *share < MOST), "expected less than {MOST} of a core each, found {shares:.4?}");
    drop(attached);
}

/// User and system time of a process, all threads: fields 14 and 15 of /proc/PID/stat.
fn cpu_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name in brackets may hold spaces.
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // SAFETY: sysconf reads a constant of the system.
    let per_second = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).unwrap();
    Duration::from_millis(ticks * 1000 / per_second)
}
