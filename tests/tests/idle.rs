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
/// An agent's threads wake up so often per second: heartbeats between nodes and keep-alives of connections, five of each, their
/// answers, and Raft's. Processor time would measure what else the machine does.
const MOST: f64 = 120.0;
/// Ten volumes may add so many of them, and a thousand not more: volumes' own timers are minutes apart, and a node that leads any of them
/// beats each other node twice a second and is answered, which is for all of them at once.
const MOST_FOR_VOLUMES: f64 = 30.0;

#[tokio::test]
async fn ten_attached_idle_volumes_wake_nobody() {
    let cluster = TestCluster::start().await;
    let (none, _) = watch(&cluster).await;
    let mut attached = Vec::new();
    for number in 0..VOLUMES {
        let name = format!("idle{number}");
        cluster.volume(&name, SIZE).await;
        attached.push(Transfer::open(&cluster.sockets(&name), &name, PATIENCE).await.unwrap());
    }
    let (ten, shares) = watch(&cluster).await;
    println!("wakes per second, no volume: {none:.1?}, ten: {ten:.1?}; of a core: {shares:.4?}");
    for (none, ten) in none.iter().zip(&ten) {
        assert!(*ten < MOST, "expected less than {MOST} wakes per second of each agent, found {ten}");
        assert!(
            *ten < none + MOST_FOR_VOLUMES,
            "expected idle volumes to wake nobody, found {ten} wakes, {none} without them"
        );
    }
    drop(attached);
}

/// How often threads of each agent go to sleep of their own accord per second, and its share of a core.
async fn watch(cluster: &TestCluster) -> (Vec<f64>, Vec<f64>) {
    sleep(SETTLE).await;
    let look = || {
        let pids = cluster.nodes().iter().map(|node| node.pid().unwrap());
        pids.map(|pid| (wakes(pid), cpu_time(pid))).collect::<Vec<_>>()
    };
    let (start, before) = (Instant::now(), look());
    sleep(WATCH).await;
    let seconds = start.elapsed().as_secs_f64();
    let per_second = |((wakes, time), before): (&(u64, Duration), &(u64, Duration))| {
        ((wakes - before.0) as f64 / seconds, (*time - before.1).as_secs_f64() / seconds)
    };
    look().iter().zip(&before).map(per_second).unzip()
}

fn wakes(pid: u32) -> u64 {
    let of = |task: std::io::Result<std::fs::DirEntry>| -> u64 {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.expect("every thread counts them").trim().parse().unwrap()
    };
    std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(of).sum()
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
