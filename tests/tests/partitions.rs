//! Three agents, each in a network namespace with an address of its own: cables are pulled and packets dropped, in both directions and in
//! one, under verified load. Nothing acknowledged is lost, nothing wrong is read, and everything heals by itself.
//!
//! HOLDFAST_FLAP_SECONDS  how long the links flap (60)
//! HOLDFAST_FLAP_SEED     which ones (drawn, and printed)

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_cli::workload::{Plan, Workload};
use holdfast_tests::netns::{Drops, Lan};
use holdfast_tests::{PATIENCE, TestCluster, finish, number_from_env};
use holdfast_types::Rng;
use std::time::{Duration, SystemTime};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep};

const VOLUME: &str = "parted";
const SIZE: u64 = 64 << 20;
/// Beyond the failure timeout (1 s) and the lease (2 s) together.
const OUTAGE: Duration = Duration::from_secs(5);

/// Networks have the names of their process: one test after another.
static TURN: Mutex<()> = Mutex::const_new(());

/// In this order they are dropped.
struct Parted {
    workload: Workload,
    cluster: TestCluster,
    lan: Lan,
    turn: MutexGuard<'static, ()>,
}

impl Parted {
    async fn start(seed: u64) -> Parted {
        let turn = TURN.lock().await;
        let lan = Lan::new(3);
        let cluster = TestCluster::start_in(&lan).await;
        cluster.volume(VOLUME, SIZE).await;
        let workload = Workload::start(Plan::new(cluster.sockets(VOLUME), VOLUME, 0..SIZE, seed)).unwrap();
        cluster.acknowledges(&workload, 200).await;
        Parted { workload, cluster, lan, turn }
    }

    fn others(at: usize) -> [usize; 2] {
        [(at + 1) % 3, (at + 2) % 3]
    }

    async fn raft_leader(&self) -> usize {
        let found = self.cluster.wait_for("a leader of the control plane", PATIENCE, async |cluster| {
            let status = cluster.status(0).await?;
            cluster.index_of(&status.leader).ok_or_else(|| "none".to_owned())
        });
        found.await.unwrap_or_else(|e| panic!("{e}"))
    }

    /// The cut stays for longer than a failover takes. Whoever is not cut off goes on meanwhile.
    async fn outage(&self, what: &str, goes_on: bool) {
        self.workload.phase(what);
        sleep(OUTAGE).await;
        if goes_on {
            self.cluster.acknowledges(&self.workload, 100).await;
        }
        self.heals(what).await;
    }

    /// Without anybody's help.
    async fn heals(&self, what: &str) {
        self.lan.heal();
        let since = Instant::now();
        self.cluster.acknowledges(&self.workload, 100).await;
        self.cluster.wait_healthy(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        let progress = self.workload.progress();
        assert!(progress.violations.is_empty() && progress.failure.is_none(), "{what}: {progress:#?}");
        let pause = progress.phase(what).map(|phase| phase.longest_pause).unwrap_or_default();
        println!("{what}: longest pause {pause:.1?}, healthy {:.1?} after it was healed", since.elapsed());
    }

    async fn prove(self) {
        let Parted { workload, cluster, lan, turn } = self;
        let progress = finish(workload).await;
        cluster.wait_healthy(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
        cluster.wait_in_sync(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
        println!("{} writes acknowledged, {} reads checked", progress.acknowledged, progress.reads);
        drop(cluster);
        drop(lan);
        drop(turn);
    }
}

#[tokio::test]
async fn whoever_is_cut_off_the_others_go_on_and_it_comes_back_by_itself() {
    let p = Parted::start(11).await;
    let primary = p.cluster.primary(VOLUME).await;
    p.lan.cable(primary, false);
    p.outage("the primary with its client", true).await;
    let primary = p.cluster.primary(VOLUME).await;
    p.lan.cable((primary + 1) % 3, false);
    p.outage("a secondary", true).await;
    let leader = p.raft_leader().await;
    p.lan.cable(leader, false);
    p.outage("the leader of Raft", true).await;
    let primary = p.cluster.primary(VOLUME).await;
    p.lan.drop_packets(primary, Drops::All, &Parted::others(primary));
    p.outage("two against the primary, packets dropped", true).await;
    let primary = p.cluster.primary(VOLUME).await;
    let [a, b] = Parted::others(primary);
    p.lan.drop_packets(a, Drops::All, &[b]);
    p.outage("two secondaries that do not hear each other", true).await;
    p.prove().await;
}

/// What it knows of the cluster may be over: it says nothing for certain that nobody has confirmed.
#[tokio::test]
async fn a_primary_that_is_cut_off_does_not_say_that_it_leads_already() {
    let p = Parted::start(14).await;
    let primary = p.cluster.primary(VOLUME).await;
    let name = p.cluster.nodes()[primary].name().to_owned();
    let failover = ["failover", VOLUME, "--to", &name, "--no-wait"];
    let said = p.cluster.succeeds(primary, &failover).await;
    assert!(said.contains("is primary already"), "{said}");
    p.lan.cable(primary, false);
    let begun = Instant::now();
    // At once it believes to lead still, later it serves nothing.
    for wait in [Duration::ZERO, OUTAGE] {
        sleep(wait).await;
        let output = p.cluster.run(primary, &failover).await;
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        println!("{:.1?} after it was cut off, status {:?}: {said}", begun.elapsed(), output.status.code());
        assert!(!output.status.success(), "{said}");
    }
    p.heals("the primary, which is asked for itself").await;
    p.prove().await;
}

#[tokio::test]
async fn a_direction_that_is_dead_is_survived() {
    let p = Parted::start(12).await;
    let primary = p.cluster.primary(VOLUME).await;
    p.lan.drop_packets(primary, Drops::Outgoing, &Parted::others(primary));
    p.outage("a primary that hears and is not heard", true).await;
    let primary = p.cluster.primary(VOLUME).await;
    p.lan.drop_packets(primary, Drops::Incoming, &Parted::others(primary));
    p.outage("a primary that is heard and hears nobody", true).await;
    let primary = p.cluster.primary(VOLUME).await;
    p.lan.drop_packets(primary, Drops::Outgoing, &[(primary + 1) % 3]);
    p.outage("a primary that one secondary does not hear", true).await;
    let leader = p.raft_leader().await;
    p.lan.drop_packets(leader, Drops::Outgoing, &Parted::others(leader));
    p.outage("a leader of Raft that is not heard", true).await;
    for at in 0..3 {
        p.lan.cable(at, false);
    }
    p.outage("nobody hears anybody", false).await;
    p.prove().await;
}

#[tokio::test]
async fn links_that_flap_lose_nothing() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = number_from_env("HOLDFAST_FLAP_SEED", now.as_secs());
    let seconds = number_from_env("HOLDFAST_FLAP_SECONDS", 60);
    println!("{seconds} s of flapping, HOLDFAST_FLAP_SEED={seed}");
    let mut rng = Rng::new(seed);
    let p = Parted::start(seed).await;
    p.workload.phase("flapping");
    let since = Instant::now();
    let mut flaps = 0;
    while since.elapsed() < Duration::from_secs(seconds) {
        let at = usize::try_from(rng.below(3)).unwrap();
        if rng.chance(500_000) {
            p.lan.cable(at, false);
        } else {
            let drops = [Drops::Incoming, Drops::Outgoing, Drops::All][usize::try_from(rng.below(3)).unwrap()];
            p.lan.drop_packets(at, drops, &Parted::others(at));
        }
        sleep(Duration::from_millis(rng.range(50, 2_500))).await;
        p.lan.heal();
        sleep(Duration::from_millis(rng.range(50, 1_500))).await;
        flaps += 1;
    }
    println!("{flaps} flaps");
    p.heals("flapping").await;
    p.prove().await;
}
