//! A real guest under QEMU: its agent is restarted and killed, its host dies; it sees pauses, and whatever it reported is there.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_agent::admin::pb;
use holdfast_tests::guest::{self, Cache, Guest};
use holdfast_tests::{PATIENCE, TestCluster};

const VOLUME: &str = "guest";
const SIZE: u64 = 64 << 20;
/// The agent's next life is waited for however slowly this machine starts it; `failure_timeout` stands for a supervisor that restarts a
/// killed agent within it.
const PATIENT: &str = "\n[cluster]\nrestart_window = \"60s\"\nfailure_timeout = \"20s\"\n";
/// Between two faults.
const SOME: u64 = 40;

async fn volume(cluster: &TestCluster) -> usize {
    let request = pb::VolumeCreateRequest { name: VOLUME.to_owned(), size_bytes: SIZE, ..Default::default() };
    cluster.create_volume(request, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    let primary = cluster.primary(VOLUME).await;
    guest::format(&cluster.uri(primary, VOLUME), SIZE);
    primary
}

fn boot(cluster: &TestCluster, at: usize, cache: Cache) -> Guest {
    Guest::boot(&cluster.nodes()[at].socket(VOLUME), VOLUME, SIZE, cache)
}

#[tokio::test]
async fn an_agent_that_restarts_or_is_killed_is_a_pause_for_its_guest() {
    let mut cluster = TestCluster::start_with(PATIENT).await;
    let primary = volume(&cluster).await;
    let mut guest = boot(&cluster, primary, Cache::None);
    guest.reaches(SOME).await;
    let before = (*cluster).volume(VOLUME).await.unwrap();
    assert!(cluster.run(primary, &["node", "restart"]).await.status.success());
    let status = cluster.ended(primary, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(status.code(), Some(0), "{}", cluster.log_tails());
    cluster.launch(primary).unwrap();
    let next = guest.reports().last + SOME;
    guest.reaches(next).await;
    cluster.kill(primary);
    cluster.launch(primary).unwrap();
    let next = guest.reports().last + SOME;
    guest.reaches(next).await;
    let after = (*cluster).volume(VOLUME).await.unwrap();
    assert_eq!(
        (&after.primary, after.epoch),
        (&before.primary, before.epoch + 2),
        "no failover, two next epochs of its own"
    );
    let reports = guest.shut_down().await;
    let found = guest::look(&cluster.uri(primary, VOLUME));
    guest::judge(reports.last, &found).unwrap_or_else(|wrong| panic!("{wrong:#?}"));
    println!("{} records reported, {} found", reports.last, found.records);
}

/// The host of a guest dies with everything on it; the guest starts on the new primary. What it had reported, and what is there.
async fn host_dies(cache: Cache) -> (u64, guest::Found) {
    let mut cluster = TestCluster::start().await;
    let primary = volume(&cluster).await;
    let mut guest = boot(&cluster, primary, cache);
    guest.reaches(SOME).await;
    cluster.kill(primary);
    let reported = guest.die().last;
    let what = "another node to lead";
    let moved = cluster.wait_for(what, PATIENCE, async |cluster| {
        let volume = cluster.volume(VOLUME).await?;
        let next = cluster.index_of(&volume.primary).filter(|at| *at != primary);
        next.filter(|_| volume.state == "degraded").ok_or_else(|| format!("{} is {}", volume.primary, volume.state))
    });
    let next = moved.await.unwrap_or_else(|e| panic!("{e}"));
    let mut again = boot(&cluster, next, Cache::None);
    let boots = again.booted().await;
    again.reaches(boots + 1).await;
    let reports = again.shut_down().await;
    assert!(reports.last > boots, "{reports:?}");
    let found = guest::look(&cluster.uri(next, VOLUME));
    // What the second boot wrote is there whatever the first one lost.
    assert!(guest::judge(reports.last, &found).is_ok(), "{found:?} after {reports:?}");
    cluster.launch(primary).unwrap();
    cluster.wait_healthy(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    (reported, guest::Found { records: boots, ..found })
}

#[tokio::test]
async fn what_a_guest_reported_survives_the_death_of_its_host() {
    let (reported, found) = host_dies(Cache::None).await;
    guest::judge(reported, &found).unwrap_or_else(|wrong| panic!("{wrong:#?}"));
    println!("{reported} records reported, {} found on the new primary", found.records);
}

/// The control: a host that acknowledges on its own is caught by the same judgement.
#[tokio::test]
async fn an_early_acknowledgement_is_caught() {
    let (reported, found) = host_dies(Cache::OfTheHost).await;
    let wrong = guest::judge(reported, &found).expect_err("everything was acknowledged by the dead host alone");
    assert!(wrong.iter().any(|w| w.contains("were reported and are not there")), "{wrong:?}");
    println!("{reported} records reported, {} found: {wrong:?}", found.records);
}
