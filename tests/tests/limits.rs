//! Limits of what a guest may ask for, under verified load; and who may open its socket.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_agent::admin::pb;
use holdfast_cli::workload::{Plan, Workload};
use holdfast_tests::scrape::Scrape;
use holdfast_tests::{PATIENCE, TestCluster, finish, try_tool};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const VOLUME: &str = "vm1";
const SIZE: u64 = 64 << 20;
/// Users that this host has no name for.
const TENANT: &str = "64101";
const NEIGHBOUR: &str = "64102";

fn of_volume(scrape: &Scrape, metric: &str) -> f64 {
    let series = format!("{metric}{{volume=\"{VOLUME}\"}}");
    scrape.get(&series).unwrap_or_else(|| panic!("expected {series} in\n{}", scrape.text))
}

/// Requests that count, and their bytes, as the primary answered them so far.
fn answered(cluster: &TestCluster, primary: usize) -> (f64, f64) {
    let scrape = Scrape::take(cluster.nodes()[primary].metrics().unwrap()).unwrap();
    let sum = |names: &[&str]| names.iter().map(|name| of_volume(&scrape, &format!("holdfast_volume_{name}"))).sum();
    (sum(&["reads_total", "writes_total", "discards_total"]), sum(&["read_bytes_total", "written_bytes_total"]))
}

/// Per second, over a few seconds, with how long that was.
async fn rates(cluster: &TestCluster, primary: usize) -> (f64, f64, f64) {
    let began = Instant::now();
    let (requests, bytes) = answered(cluster, primary);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (requests_now, bytes_now) = answered(cluster, primary);
    let seconds = began.elapsed().as_secs_f64();
    ((requests_now - requests) / seconds, (bytes_now - bytes) / seconds, seconds)
}

#[tokio::test]
async fn guests_get_what_they_were_granted_and_no_more() {
    let cluster = TestCluster::start_observed("").await;
    cluster.volume(VOLUME, SIZE).await;
    let primary = cluster.primary(VOLUME).await;
    let mut plan = Plan::new(cluster.sockets(VOLUME), VOLUME, 0..SIZE, 7);
    plan.depth = 16;
    // A request that waits for its turn is no silence.
    plan.stall = PATIENCE;
    let workload = Workload::start(plan).unwrap();
    cluster.acknowledges(&workload, 200).await;
    let (free, _, _) = rates(&cluster, primary).await;

    // So much less than it took that the limit binds on any machine, while the guest is attached.
    let limit = (free / 4.0).floor().clamp(20.0, 200.0);
    let said =
        cluster.succeeds(0, &["volume", "limit", VOLUME, "--iops", &format!("{limit}"), "--burst", "100ms"]).await;
    assert!(said.contains(&format!("limited to {limit} requests per second")), "{said}");
    // What went before is gone from the picture.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (requests, _, seconds) = rates(&cluster, primary).await;
    // A burst more in all, and what the two scrapes miss of the time: a page may be a tenth of a second old.
    let most = limit * (seconds + 0.1 + 0.2) / seconds + 1.0;
    eprintln!(
        "{free:.0} requests per second without a limit; {requests:.1} with {limit} over {seconds:.2} s, at most {most:.1}"
    );
    assert!(requests <= most, "expected at most {most} per second, found {requests}");
    assert!(requests >= limit * 0.5, "expected the limit of {limit} to be reached, found {requests}");

    // Bytes, and as JSON.
    let bandwidth = 256 * 1024;
    cluster.succeeds(0, &["volume", "limit", VOLUME, "--bandwidth", "256KiB/s", "--burst", "100ms"]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (_, bytes, seconds) = rates(&cluster, primary).await;
    // The largest request of the load overdraws once.
    let most = f64::from(bandwidth) * (seconds + 0.1 + 0.2) / seconds + f64::from(1 << 20) / seconds;
    eprintln!("{bytes:.0} bytes per second with {bandwidth} over {seconds:.2} s, at most {most:.0}");
    assert!(bytes <= most && bytes >= f64::from(bandwidth) * 0.4, "{bytes} of {bandwidth}, at most {most}");
    let shown = cluster.ask(0, &["volume", "show", VOLUME]);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    let expected = serde_json::json!({ "iops": null, "bytes_per_second": bandwidth, "burst_ms": 100 });
    assert_eq!(shown["limits"], expected, "{shown}");
    let scrape = Scrape::take(cluster.nodes()[primary].metrics().unwrap()).unwrap();
    assert!(of_volume(&scrape, "holdfast_volume_limit_bytes_per_second") == f64::from(bandwidth));
    assert!(of_volume(&scrape, "holdfast_volume_limited_requests_total") > 0.0);
    assert!(of_volume(&scrape, "holdfast_volume_limit_wait_seconds_total") > 1.0);

    // A new primary keeps to it, too.
    let to = cluster.nodes()[(primary + 1) % 3].name().to_owned();
    cluster.succeeds(0, &["failover", VOLUME, "--to", &to]).await;
    let primary = cluster.primary(VOLUME).await;
    cluster.acknowledges(&workload, 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (_, bytes, seconds) = rates(&cluster, primary).await;
    assert!(bytes <= most && bytes > 0.0, "{bytes} over {seconds} s, at most {most}");

    // Lifted, the guest is as fast as before.
    cluster.succeeds(0, &["volume", "limit", VOLUME, "--none"]).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (requests, bytes, _) = rates(&cluster, primary).await;
    eprintln!("{requests:.0} requests, {bytes:.0} bytes per second after it was lifted");
    assert!(bytes > 2.0 * f64::from(bandwidth), "{bytes}");
    let shown = cluster.ask(0, &["volume", "show", VOLUME]);
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert!(shown["limits"].is_null(), "{shown}");
    let events = cluster.succeeds(0, &["events", "--volume", VOLUME]).await;
    assert!(events.matches("volume_granted").count() >= 3, "{events}");
    let progress = finish(workload).await;
    assert!(progress.acknowledged > 300, "{progress:?}");
}

#[tokio::test]
async fn limits_that_make_no_sense_are_refused() {
    let cluster = TestCluster::start().await;
    cluster.volume(VOLUME, SIZE).await;
    for (args, why) in [
        (&["volume", "limit", VOLUME][..], "--none"),
        (&["volume", "limit", VOLUME, "--iops", "0"], "--iops"),
        (&["volume", "limit", VOLUME, "--bandwidth", "1KiB/s"], "bandwidth"),
        (&["volume", "limit", VOLUME, "--iops", "5", "--burst", "2h"], "burst"),
        (&["volume", "limit", VOLUME, "--none", "--iops", "5"], "--none"),
        (&["volume", "socket", VOLUME], "--default"),
        (&["volume", "socket", VOLUME, "--mode", "0777"], "0660"),
        (&["volume", "socket", VOLUME, "--owner", "a b"], "user"),
    ] {
        cluster.fails(args, 2, why).await;
    }
    cluster.fails(&["volume", "limit", "vm2", "--iops", "5"], 1, "vm2").await;
    // Given at its creation.
    let create = [
        "volume",
        "create",
        "vm2",
        "--size",
        "64MiB",
        "--iops",
        "500",
        "--socket-owner",
        TENANT,
        "--socket-mode",
        "0600",
    ];
    let said = cluster.succeeds(0, &create).await;
    assert!(said.contains("limited to 500 requests per second; 1.0 s of that may be used at once"), "{said}");
    assert!(said.contains(&format!("socket: owner {TENANT}, group -, mode 0600")), "{said}");
}

/// Everybody may pass through the directories above the sockets: who may open one is the socket's to say.
fn let_pass(cluster: &TestCluster) {
    for node in cluster.nodes() {
        let socket = node.socket(VOLUME);
        for dir in socket.ancestors().skip(1).take(3).filter(|dir| *dir != Path::new("/tmp")) {
            let mode = fs::metadata(dir).unwrap().permissions().mode() | 0o711;
            fs::set_permissions(dir, fs::Permissions::from_mode(mode)).unwrap();
        }
    }
}

/// What a user of this host learns of a volume's export, in a group of the same number or of another one.
fn attaches(cluster: &TestCluster, node: usize, volume: &str, user: &str, group: &str) -> Result<(), String> {
    let (uid, gid, uri) = (format!("--reuid={user}"), format!("--regid={group}"), cluster.uri(node, volume));
    let output = try_tool("setpriv", [uid.as_str(), &gid, "--clear-groups", "nbdinfo", "--size", &uri]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}

async fn until(cluster: &TestCluster, what: &str, is: impl Fn() -> bool) {
    let waits = cluster.wait_for(what, PATIENCE, async |_| if is() { Ok(()) } else { Err("not yet".to_owned()) });
    waits.await.unwrap_or_else(|e| panic!("{e}"));
}

#[tokio::test]
async fn a_tenant_opens_its_own_socket_and_no_other() {
    let cluster = TestCluster::start().await;
    let request = |name: &str, owner: &str| pb::VolumeCreateRequest {
        name: name.to_owned(),
        size_bytes: SIZE,
        primary: "n1".to_owned(),
        socket_owner: owner.to_owned(),
        ..Default::default()
    };
    let_pass(&cluster);
    cluster.create_volume(request(VOLUME, TENANT), PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    cluster.create_volume(request("vm2", NEIGHBOUR), PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    cluster.create_volume(request("vm3", ""), PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    until(&cluster, "the tenant to reach its volume", || attaches(&cluster, 0, VOLUME, TENANT, TENANT).is_ok()).await;
    until(&cluster, "its neighbour, too", || attaches(&cluster, 0, "vm2", NEIGHBOUR, NEIGHBOUR).is_ok()).await;
    let refused = |volume: &str, user: &str, group: &str| {
        let error = attaches(&cluster, 0, volume, user, group).expect_err("it is another's");
        assert!(error.contains("Permission denied"), "{volume} {user}: {error}");
    };
    refused(VOLUME, NEIGHBOUR, NEIGHBOUR);
    refused("vm2", TENANT, TENANT);
    refused("vm3", TENANT, TENANT);
    refused("vm3", NEIGHBOUR, TENANT);
    // Its socket is no way to another's export.
    let socket = cluster.nodes()[0].socket(VOLUME);
    let (uid, gid) = (format!("--reuid={TENANT}"), format!("--regid={TENANT}"));
    let uri = format!("nbd+unix:///vm2?socket={}", socket.display());
    let output = try_tool("setpriv", [uid.as_str(), &gid, "--clear-groups", "nbdinfo", "--size", &uri]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("no export named 'vm2'"), "{said}");

    // It goes to somebody else, by group.
    cluster.succeeds(1, &["volume", "socket", VOLUME, "--group", NEIGHBOUR]).await;
    until(&cluster, "the group to be let in", || attaches(&cluster, 0, VOLUME, "64103", NEIGHBOUR).is_ok()).await;
    refused(VOLUME, TENANT, TENANT);
    // A name that this host does not know closes it to everybody else, and says so: whoever was let in may be whom to keep out.
    cluster.succeeds(1, &["volume", "socket", VOLUME, "--owner", "nobody-of-that-name"]).await;
    let told = cluster.wait_for("an event", PATIENCE, async |cluster| {
        let socket = cluster.nodes()[0].admin().display().to_string();
        let events = cluster.holdfast(["--socket", &socket, "events"]).await.map_err(|e| e.to_string())?;
        if events.contains("nobody-of-that-name\", which there is not") { Ok(()) } else { Err(events) }
    });
    told.await.unwrap_or_else(|e| panic!("{e}"));
    refused(VOLUME, "64103", NEIGHBOUR);
    refused(VOLUME, TENANT, TENANT);
    // As in the beginning: the agent's own.
    cluster.succeeds(1, &["volume", "socket", VOLUME, "--default"]).await;
    until(&cluster, "nobody else to be let in", || attaches(&cluster, 0, VOLUME, "64103", NEIGHBOUR).is_err()).await;
    refused(VOLUME, TENANT, TENANT);
    assert_eq!(attaches(&cluster, 0, VOLUME, "0", "0"), Ok(()));

    // The next primary's node lets the same people in.
    cluster.succeeds(1, &["volume", "socket", "vm2", "--owner", TENANT, "--mode", "0600"]).await;
    cluster.succeeds(1, &["failover", "vm2", "--to", "n2"]).await;
    until(&cluster, "the tenant on the new node", || attaches(&cluster, 1, "vm2", TENANT, TENANT).is_ok()).await;
    let error = attaches(&cluster, 1, "vm2", NEIGHBOUR, NEIGHBOUR).expect_err("it was given away");
    assert!(error.contains("Permission denied"), "{error}");
}

#[tokio::test]
async fn a_guest_without_a_quorum_that_connects_again_and_again_leaves_room_in_the_journal_for_its_neighbour() {
    let mut cluster = TestCluster::start_with("[limits]\njournal_segment = \"4MiB\"\njournal_max = \"32MiB\"").await;
    let names: Vec<String> = cluster.nodes().iter().map(|n| n.name().to_owned()).collect();
    for (name, other) in [("waits", 1), ("goes-on", 2)] {
        let request = pb::VolumeCreateRequest {
            name: name.to_owned(),
            size_bytes: SIZE,
            on: vec![names[0].clone(), names[other].clone()],
            primary: names[0].clone(),
            degraded: "stall".to_owned(),
            ..Default::default()
        };
        cluster.create_volume(request, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    }
    cluster.kill(1);
    let plan = Plan::new(cluster.sockets("goes-on"), "goes-on", 0..SIZE, 7);
    let workload = Workload::start(plan).unwrap();
    cluster.acknowledges(&workload, 10).await;
    // More than the whole journal takes, each connection given up before its write could be answered.
    let uri = cluster.uri(0, "waits");
    for round in 0..12 {
        let write = |n: u32| {
            let command = format!("write -P {} {}M 1M", n + 1, n);
            let mut guest = Command::new("qemu-io");
            guest.args(["-f", "raw", "-c", &command, &uri]).stdout(Stdio::null()).stderr(Stdio::null());
            guest.spawn().unwrap()
        };
        let mut guests: Vec<_> = (0..4).map(|n| write(round * 4 + n)).collect();
        tokio::time::sleep(Duration::from_millis(400)).await;
        for guest in &mut guests {
            guest.kill().unwrap();
            guest.wait().unwrap();
        }
    }
    cluster.acknowledges(&workload, 200).await;
    let status = cluster.status(0).await.unwrap();
    let states: Vec<_> = status.volumes.iter().map(|v| (v.name.as_str(), v.state.as_str())).collect();
    assert!(states.contains(&("waits", "stalled")) && states.contains(&("goes-on", "healthy")), "{states:?}");
    finish(workload).await;
    cluster.launch(1).unwrap();
    cluster.wait_healthy("waits", PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
}
