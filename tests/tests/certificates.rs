//! Certificates of real agents: renewed under load, ended, refused; and keys that others can read.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_cli::workload::{Plan, Workload};
use holdfast_tests::scrape::Scrape;
use holdfast_tests::{PATIENCE, TestCluster, binary, finish};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

const VOLUME: &str = "vm1";
const SIZE: u64 = 32 << 20;
const EXPIRY: &str = "holdfast_certificate_expiry_timestamp_seconds";
/// So long that a start under load fits, so short that a test sees several.
const LIFETIME: Duration = Duration::from_secs(24);

fn short() -> String {
    format!("\n[cluster]\ncertificate_lifetime = \"{}s\"\n", LIFETIME.as_secs())
}

fn expiry(cluster: &TestCluster, at: usize) -> Result<f64, String> {
    let scrape = Scrape::take(cluster.nodes()[at].metrics().unwrap())?;
    scrape.get(EXPIRY).ok_or_else(|| format!("no {EXPIRY}"))
}

fn certificate(cluster: &TestCluster, at: usize) -> String {
    fs::read_to_string(cluster.nodes()[at].data_dir().join("cluster/node.pem")).unwrap()
}

/// Waits until a node's certificate ends later than `than`; when it does.
async fn renewed(cluster: &TestCluster, at: usize, than: f64) -> f64 {
    let what = format!("node {} to have a certificate that ends after {than}", at + 1);
    let waits = cluster.wait_for(&what, PATIENCE, async |cluster| {
        let scrape = Scrape::take(cluster.nodes()[at].metrics().unwrap())?;
        let until = scrape.get(EXPIRY).unwrap_or(0.0);
        if until > than { Ok(()) } else { Err(until.to_string()) }
    });
    waits.await.unwrap_or_else(|e| panic!("{e}"));
    expiry(cluster, at).unwrap()
}

#[tokio::test]
async fn certificates_are_renewed_while_volumes_are_written() {
    let mut cluster = TestCluster::start_observed(&short()).await;
    cluster.volume(VOLUME, SIZE).await;
    let mut plan = Plan::new(cluster.sockets(VOLUME), VOLUME, 0..SIZE, 21);
    plan.depth = 2;
    let workload = Workload::start(plan).unwrap();
    cluster.acknowledges(&workload, 50).await;
    let epoch = (*cluster).volume(VOLUME).await.unwrap().epoch;
    // Longer than any certificate of the beginning holds.
    for at in 0..3 {
        let (first, on_disk) = (expiry(&cluster, at).unwrap(), certificate(&cluster, at));
        let second = renewed(&cluster, at, first).await;
        renewed(&cluster, at, second + LIFETIME.as_secs_f64() / 2.0 - 2.0).await;
        assert_ne!(certificate(&cluster, at), on_disk, "it is kept");
    }
    cluster.acknowledges(&workload, 50).await;
    assert_eq!((*cluster).volume(VOLUME).await.unwrap().epoch, epoch, "nobody noticed");
    assert!(workload.progress().attachments.is_empty(), "{:?}", workload.progress());

    // A node that was away for longer than its certificate holds asks for another one before anybody talks to it.
    let away = (cluster.primary(VOLUME).await + 1) % 3;
    let away = if away == 0 { (cluster.primary(VOLUME).await + 2) % 3 } else { away };
    cluster.kill(away);
    let since = Instant::now();
    while since.elapsed() < LIFETIME + Duration::from_secs(2) {
        cluster.acknowledges(&workload, 5).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    cluster.launch(away).unwrap();
    cluster.wait_healthy(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    let events = cluster.succeeds(away, &["events"]).await;
    assert!(events.contains("certificate_renewed"), "{events}");
    finish(workload).await;
}

#[tokio::test]
async fn without_the_authority_a_failed_renewal_is_told_and_mended_by_it() {
    let mut cluster = TestCluster::start_observed(&short()).await;
    // The founder holds the authority's key.
    cluster.kill(0);
    let told = cluster.wait_for("an event and a warning", PATIENCE, async |cluster| {
        let socket = cluster.nodes()[1].admin().display().to_string();
        let events = cluster.holdfast(["--socket", &socket, "events"]).await.map_err(|e| e.to_string())?;
        let status = cluster.status(1).await?.r#unsafe.join("; ");
        let warned = status.contains("the certificate of n2 ends at");
        let named = events.contains("certificate_not_renewed") && events.contains("found: n1: ");
        if warned && named { Ok(()) } else { Err(format!("{status}\n{events}")) }
    });
    told.await.unwrap_or_else(|e| panic!("{e}"));
    let ends = expiry(&cluster, 1).unwrap();
    cluster.launch(0).unwrap();
    renewed(&cluster, 1, ends).await;
    let gone = cluster.wait_for("the warning to go", PATIENCE, async |cluster| {
        let status = cluster.status(1).await?.r#unsafe.join("; ");
        if status.contains("certificate") { Err(status) } else { Ok(()) }
    });
    gone.await.unwrap_or_else(|e| panic!("{e}"));
}

#[tokio::test]
async fn a_key_that_others_can_read_is_refused() {
    let mut cluster = TestCluster::start_of(1, "").await;
    cluster.kill(0);
    for name in ["node.key", "ca.key"] {
        let key = cluster.nodes()[0].data_dir().join("cluster").join(name);
        for mode in [0o644, 0o640, 0o604, 0o660] {
            fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
            let mut agent = Command::new("timeout");
            agent.arg("30").arg(binary()).args(["agent", "--config"]).arg(cluster.nodes()[0].config());
            let ended = agent.output().unwrap();
            let err = String::from_utf8_lossy(&ended.stderr);
            assert_eq!(ended.status.code(), Some(1), "{name} {mode:o}: {err}");
            assert!(
                err.contains(name) && err.contains("mode 600") && err.contains(&format!("found mode {mode:o}")),
                "{err}"
            );
        }
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    }
    cluster.launch(0).unwrap();
    let up = cluster.wait_for("the agent to run again", PATIENCE, async |cluster| cluster.status(0).await.map(drop));
    up.await.unwrap_or_else(|e| panic!("{e}"));
}
