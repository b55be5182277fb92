//! What agents tell Prometheus, under verified load and while nodes die.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_cli::workload::{Plan, Workload};
use holdfast_tests::scrape::{self, Scrape};
use holdfast_tests::{PATIENCE, TestCluster, finish};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};

const VOLUME: &str = "vm1";
const SIZE: u64 = 64 << 20;
/// Series that a node has whatever it holds, and those of each copy and holder: docs/OPERATIONS.md promises them.
const MOST_SERIES: usize = 250;
const MOST_SERIES_OF_COPY: usize = 120;

fn address(cluster: &TestCluster, at: usize) -> SocketAddr {
    cluster.nodes()[at].metrics().unwrap()
}

fn take(cluster: &TestCluster, at: usize) -> Scrape {
    Scrape::take(address(cluster, at)).unwrap_or_else(|e| panic!("{e}"))
}

/// Waits until a node's scrape is as it should be.
async fn until(cluster: &TestCluster, at: usize, what: &str, is: impl Fn(&Scrape) -> bool) -> Scrape {
    let mut last = None;
    let done = cluster.wait_for(what, PATIENCE, async |cluster| {
        let scrape = Scrape::take(cluster.nodes()[at].metrics().unwrap())?;
        let holds = is(&scrape);
        let lines: Vec<&str> = scrape.text.lines().filter(|l| l.contains("_up{") || l.contains("_state{")).collect();
        let found = lines.join("\n");
        last = Some(scrape);
        if holds { Ok(()) } else { Err(found) }
    });
    done.await.unwrap_or_else(|e| panic!("{e}"));
    last.unwrap()
}

fn value(scrape: &Scrape, series: &str) -> f64 {
    scrape.get(series).unwrap_or_else(|| panic!("expected {series} in\n{}", scrape.text))
}

fn of_volume(scrape: &Scrape, metric: &str) -> f64 {
    value(scrape, &format!("{metric}{{volume=\"{VOLUME}\"}}"))
}

#[tokio::test]
async fn metrics_tell_what_happens() {
    let mut cluster = TestCluster::start_observed("").await;
    cluster.volume(VOLUME, SIZE).await;
    let mut plan = Plan::new(cluster.sockets(VOLUME), VOLUME, 0..SIZE, 3);
    plan.depth = 4;
    let workload = Workload::start(plan).unwrap();
    cluster.acknowledges(&workload, 300).await;
    let primary = cluster.primary(VOLUME).await;
    let secondary = (primary + 1) % 3;

    let acknowledged = workload.progress().acknowledged;
    let at_primary = take(&cluster, primary);
    let at_secondary = take(&cluster, secondary);
    for scrape in [&at_primary, &at_secondary] {
        let complaints = scrape.lint();
        assert!(complaints.is_empty(), "promtool check metrics:\n{complaints}");
        let most = MOST_SERIES + MOST_SERIES_OF_COPY;
        assert!(scrape.len() <= most, "expected at most {most} series with one volume, found {}", scrape.len());
        assert!(value(scrape, &format!("holdfast_volume_state{{volume=\"{VOLUME}\",state=\"healthy\"}}")) == 1.0);
        assert!(value(scrape, "holdfast_raft_has_leader") == 1.0);
        assert_eq!(scrape.of("holdfast_node_up").filter(|(_, up)| *up == 1.0).count(), 3);
        // To two peers, on two planes.
        assert_eq!(scrape.of("holdfast_connection_rtt_seconds").filter(|(_, rtt)| *rtt > 0.0).count(), 4);
        let used = value(scrape, "holdfast_journal_used_bytes");
        assert!(used > 0.0 && used <= value(scrape, "holdfast_journal_bound_bytes"), "{used}");
        let positions = ["applied", "committed", "durable", "received"]
            .map(|p| of_volume(scrape, &format!("holdfast_copy_{p}_lsn")));
        assert!(positions.is_sorted() && positions[3] > 0.0, "{positions:?}");
        assert!(value(scrape, "holdfast_disk_operation_duration_seconds_count{operation=\"journal_write\"}") > 0.0);
        assert!(value(scrape, "process_resident_memory_bytes") > 0.0);
    }
    // The page may be a tenth of a second old.
    let at_primary = until(&cluster, primary, "acknowledged writes to be counted", |scrape| {
        of_volume(scrape, "holdfast_volume_writes_total") >= acknowledged as f64
    })
    .await;
    let count = of_volume(&at_primary, "holdfast_volume_write_duration_seconds_count");
    assert!(count == of_volume(&at_primary, "holdfast_volume_writes_total"));
    assert!(of_volume(&at_primary, "holdfast_volume_written_bytes_total") >= count * 512.0);
    assert!(of_volume(&at_primary, "holdfast_volume_primary") == 1.0);
    assert!(of_volume(&at_secondary, "holdfast_volume_primary") == 0.0);
    assert!(of_volume(&at_secondary, "holdfast_volume_writes_total") == 0.0);
    assert_eq!(at_primary.of("holdfast_copy_lag_seconds").count(), 2, "of each other holder");

    // A secondary dies: its lag grows with what is written.
    cluster.kill(secondary);
    let name = cluster.nodes()[secondary].name().to_owned();
    cluster.acknowledges(&workload, 300).await;
    let lag = |metric: &str| format!("{metric}{{volume=\"{VOLUME}\",node=\"{name}\"}}");
    let lagging = until(&cluster, primary, "the volume to count as degraded, and the copy to lag", |scrape| {
        let degraded = value(scrape, &format!("holdfast_volume_state{{volume=\"{VOLUME}\",state=\"degraded\"}}"));
        degraded == 1.0 && value(scrape, &lag("holdfast_copy_lag_seconds")) > 1.0
    })
    .await;
    assert!(value(&lagging, &lag("holdfast_copy_lag_bytes")) > 0.0);
    assert!(value(&lagging, &format!("holdfast_node_up{{node=\"{name}\"}}")) == 0.0);
    assert!(of_volume(&lagging, "holdfast_volume_copies_healthy") == 2.0);

    // And the other one: no quorum of anything.
    let third = (primary + 2) % 3;
    assert_eq!(scrape::get(address(&cluster, primary), "/readyz").unwrap().0, 200);
    cluster.kill(third);
    until(&cluster, primary, "the leader to be missed", |scrape| value(scrape, "holdfast_raft_has_leader") == 0.0)
        .await;
    let (status, why) = scrape::get(address(&cluster, primary), "/readyz").unwrap();
    assert!(status == 503 && why.contains("leader"), "{status} {why}");
    assert_eq!(scrape::get(address(&cluster, primary), "/healthz").unwrap(), (200, "ok\n".to_owned()));

    cluster.launch(secondary).unwrap();
    cluster.launch(third).unwrap();
    cluster.acknowledges(&workload, 100).await;
    finish(workload).await;
}

#[tokio::test]
async fn strangers_on_the_port_hold_up_nobody() {
    let cluster = TestCluster::start_observed("").await;
    cluster.volume(VOLUME, SIZE).await;
    let target = address(&cluster, 0);
    let mut hostile: Vec<TcpStream> = Vec::new();
    for n in 0..200 {
        // The backlog may be full: that is one of the bounds.
        let Ok(mut stream) = TcpStream::connect_timeout(&target, std::time::Duration::from_millis(200)) else {
            continue;
        };
        let _ = match n % 4 {
            0 => stream.write_all(b"GET /metrics HTTP/1.1\r\n"),
            1 => stream.write_all(&[0xff; 4096]),
            2 => stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n"),
            _ => Ok(()),
        };
        hostile.push(stream);
    }
    // Guests and operators notice nothing; scrapers wait for their turn.
    let mut plan = Plan::new(cluster.sockets(VOLUME), VOLUME, 0..SIZE, 4);
    plan.depth = 1;
    let workload = Workload::start(plan).unwrap();
    cluster.acknowledges(&workload, 100).await;
    cluster.wait_healthy(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    drop(hostile);
    let (status, body) = scrape::get(target, "/healthz").unwrap();
    assert_eq!((status, body.as_str()), (200, "ok\n"));
    finish(workload).await;
}
