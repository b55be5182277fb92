//! What agents tell Prometheus, under verified load and while nodes die.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_cli::workload::{Plan, Workload};
use holdfast_tests::scrape::{self, Scrape};
use holdfast_tests::{PATIENCE, TestCluster, finish};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

const VOLUME: &str = "vm1";
const SIZE: u64 = 64 << 20;
/// The bound of docs/OPERATIONS.md: series that a node has whatever it holds, of each node of the cluster, of each copy here, and of each
/// copy of a volume that is led here.
const MOST: [usize; 4] = [200, 16, 125, 3];

/// A scrape's series by what they are about, as in [`MOST`]; what names neither node nor volume does not grow with the cluster.
fn by_class(scrape: &Scrape) -> [usize; 4] {
    let mut classes = [0; 4];
    for line in scrape.text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let labels = line.rsplit_once(' ').unwrap().0.split_once('{').map_or("", |(_, labels)| labels);
        let labels = format!(",{labels}");
        let has = |name: &str| labels.contains(&format!(",{name}=\""));
        classes[match (has("volume"), has("node")) {
            (false, false) => 0,
            (false, true) => 1,
            (true, false) => 2,
            (true, true) => 3,
        }] += 1;
    }
    assert_eq!(classes.iter().sum::<usize>(), scrape.len());
    classes
}

/// Nobody's series are more than promised, whatever the size of the cluster: each class is held on its own.
fn is_bounded(scrape: &Scrape, nodes: usize, copies: usize, led: usize) {
    let found = by_class(scrape);
    let most = [1, nodes, copies, led].into_iter().zip(MOST).map(|(count, each)| count * each);
    eprintln!("series: {found:?} with {nodes} nodes, {copies} copies here, {led} copies of volumes led here");
    assert!(found.iter().zip(most).all(|(found, most)| *found <= most), "{found:?}, at most {MOST:?} each");
}

#[test]
fn the_bound_is_the_documented_one() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/OPERATIONS.md");
    let text = std::fs::read_to_string(path).unwrap();
    let [fixed, node, copy, pair] = MOST;
    let formula = format!("{fixed} + {node} × nodes + {copy} × copies here + {pair} × copies of volumes led here");
    assert!(text.contains(&formula), "expected {formula:?} in docs/OPERATIONS.md");
}

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
        is_bounded(scrape, 3, 1, 3);
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
    for exposed in ["holdfast_volume_exposed_bytes", "holdfast_volume_exposed_seconds"] {
        let series = [&at_primary, &at_secondary].map(|scrape| scrape.of(exposed).count());
        assert_eq!(series, [1, 0], "{exposed}: nobody but the primary knows");
    }

    // A secondary dies: its lag grows with what is written.
    cluster.kill(secondary);
    let name = cluster.nodes()[secondary].name().to_owned();
    cluster.acknowledges(&workload, 300).await;
    let lag = |metric: &str| format!("{metric}{{volume=\"{VOLUME}\",node=\"{name}\"}}");
    let lagging = until(&cluster, primary, "the volume to count as degraded, and the copy to lag", |scrape| {
        let degraded = value(scrape, &format!("holdfast_volume_state{{volume=\"{VOLUME}\",state=\"degraded\"}}"));
        let exposed = of_volume(scrape, "holdfast_volume_exposed_seconds");
        degraded == 1.0 && value(scrape, &lag("holdfast_copy_lag_seconds")) > 1.0 && exposed >= 1.0
    })
    .await;
    assert!(of_volume(&lagging, "holdfast_volume_exposed_bytes") > 0.0);
    assert!(value(&lagging, &lag("holdfast_copy_lag_bytes")) > 0.0);
    // People are told the same.
    let text = cluster.succeeds(primary, &["status", VOLUME, "--output", "json"]).await;
    let status: serde_json::Value = serde_json::from_str(&text).unwrap();
    let copies = status["volumes"][0]["copies"].as_array().unwrap();
    let copy = copies.iter().find(|c| c["node"] == name.as_str()).unwrap();
    assert!(copy["lag_seconds"].as_f64() > Some(1.0) && copy["lag_bytes"].as_u64() > Some(0), "{text}");
    let exposed = ["exposed_bytes", "exposed_seconds"].map(|key| status["volumes"][0][key].as_u64());
    assert!(exposed.iter().all(|n| *n > Some(0)), "{text}");
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
    let led = cluster.primary(VOLUME).await;
    until(&cluster, led, "nothing to be exposed any more", |scrape| {
        ["holdfast_volume_exposed_bytes", "holdfast_volume_exposed_seconds"].map(|m| of_volume(scrape, m)) == [0.0; 2]
    })
    .await;

    // More volumes, and everything that has happened: no class has more than its share.
    for name in ["vm2", "vm3", "vm4"] {
        cluster.volume(name, SIZE).await;
    }
    let copies = |scrape: &Scrape| {
        scrape.of("holdfast_volume_primary").map(|(_, led)| usize::from(led > 0.0)).collect::<Vec<_>>()
    };
    for at in 0..3 {
        let scrape = until(&cluster, at, "four copies to be told of", |scrape| copies(scrape).len() == 4).await;
        is_bounded(&scrape, 3, 4, 3 * copies(&scrape).iter().sum::<usize>());
    }
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
    // Guests, operators and scrapers notice nothing.
    let mut plan = Plan::new(cluster.sockets(VOLUME), VOLUME, 0..SIZE, 4);
    plan.depth = 1;
    let workload = Workload::start(plan).unwrap();
    cluster.acknowledges(&workload, 100).await;
    cluster.wait_healthy(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    let (status, body) = scrape::get(target, "/healthz").unwrap();
    assert_eq!((status, body.as_str()), (200, "ok\n"));
    // Most of them were thrown out for others; none is kept for long.
    let mut open = 0;
    for stream in &mut hostile {
        stream.set_nonblocking(true).unwrap();
        let mut rest = [0; 1 << 16];
        open += usize::from(stream.read(&mut rest).is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock));
    }
    assert!(open <= 16, "{open} connections of one address are open");
    finish(workload).await;
}
