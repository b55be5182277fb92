//! Agents are killed and stopped under verified load, in random order, again and again.
//!
//! HOLDFAST_SOAK_ROUNDS  how many faults (5: each once)
//! HOLDFAST_SOAK_SEED    the order and the load (drawn, and printed)

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_cli::workload::{Plan, Transfer, Workload};
use holdfast_tests::{PATIENCE, TestCluster, number_from_env};
use holdfast_types::Rng;
use std::time::{Duration, SystemTime};
use tokio::time::sleep;

const VOLUME: &str = "chaos";
const SIZE: u64 = 64 << 20;
/// Beyond the lease (2 s) and the failure timeout (1 s) together.
const LONGER_THAN_THE_LEASE: Duration = Duration::from_secs(4);
/// Load between two faults.
const CALM: Duration = Duration::from_millis(1500);

#[derive(Clone, Copy, Debug)]
enum Fault {
    KillPrimary,
    KillSecondary,
    KillRaftLeader,
    KillAll,
    StopPrimary,
}

const FAULTS: [Fault; 5] =
    [Fault::KillPrimary, Fault::KillSecondary, Fault::KillRaftLeader, Fault::KillAll, Fault::StopPrimary];

struct Chaos {
    cluster: TestCluster,
    workload: Workload,
    rng: Rng,
    deck: Vec<Fault>,
}

#[tokio::test]
async fn every_acknowledged_write_survives() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = number_from_env("HOLDFAST_SOAK_SEED", now.as_secs());
    let rounds = number_from_env("HOLDFAST_SOAK_ROUNDS", 5);
    println!("{rounds} rounds, HOLDFAST_SOAK_SEED={seed}");
    let cluster = TestCluster::start().await;
    cluster.volume(VOLUME, SIZE).await;
    let workload = Workload::start(Plan::new(cluster.sockets(VOLUME), VOLUME, 0..SIZE, seed)).unwrap();
    let mut chaos = Chaos { cluster, workload, rng: Rng::new(seed), deck: Vec::new() };
    for round in 1..=rounds {
        chaos.round(round).await;
    }
    chaos.prove().await;
}

impl Chaos {
    async fn round(&mut self, round: u64) {
        sleep(CALM).await;
        sleep(Duration::from_millis(self.rng.below(200))).await;
        let fault = self.draw();
        let name = format!("{round} {fault:?}");
        self.workload.phase(&name);
        self.inflict(fault).await;
        let before = self.workload.progress().acknowledged;
        self.acknowledged_more_than(before).await;
        self.cluster.wait_healthy(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
        self.check();
        let progress = self.workload.progress();
        let phase = progress.phase(&name).cloned().unwrap_or_default();
        println!(
            "{name}: longest pause {:?}, {} writes acknowledged so far",
            phase.longest_pause, progress.acknowledged
        );
    }

    /// Each fault once, shuffled, then all over again.
    fn draw(&mut self) -> Fault {
        if self.deck.is_empty() {
            self.deck = FAULTS.to_vec();
        }
        let at = usize::try_from(self.rng.below(self.deck.len() as u64)).unwrap();
        self.deck.swap_remove(at)
    }

    async fn inflict(&mut self, fault: Fault) {
        let primary = self.cluster.primary(VOLUME).await;
        match fault {
            Fault::KillPrimary => self.kill_for_a_while(&[primary]).await,
            Fault::KillSecondary => self.kill_for_a_while(&[(primary + 1) % 3]).await,
            Fault::KillRaftLeader => {
                let leader = self.leader().await;
                self.kill_for_a_while(&[leader]).await;
            }
            Fault::KillAll => self.kill_for_a_while(&[0, 1, 2]).await,
            Fault::StopPrimary => self.stop(primary).await,
        }
    }

    async fn kill_for_a_while(&mut self, nodes: &[usize]) {
        for at in nodes {
            self.cluster.kill(*at);
        }
        // Sometimes it is back before anybody has noticed.
        sleep(Duration::from_millis(self.rng.below(3000))).await;
        for at in nodes {
            self.cluster.launch(*at).unwrap();
        }
    }

    /// The workload keeps the old connection and asks it once more: see `Plan`. It must get no answer, to nothing at all, and
    /// who comes anew is told where to go.
    async fn stop(&mut self, primary: usize) {
        self.cluster.stop(primary);
        let workload = &self.workload;
        let moved = self.cluster.wait_for("the load to leave the stopped primary", PATIENCE, async |_| {
            if workload.progress().node == primary { Err("it is still there".to_owned()) } else { Ok(()) }
        });
        moved.await.unwrap_or_else(|e| panic!("{e}"));
        sleep(LONGER_THAN_THE_LEASE).await;
        let before = self.workload.progress().late;
        self.cluster.go_on(primary);
        sleep(Duration::from_secs(1)).await;
        let late = self.workload.progress().late - before;
        assert_eq!(late, 0, "answers of a deposed primary");
        self.names_its_successor(primary).await;
    }

    async fn names_its_successor(&self, deposed: usize) {
        let sockets = &self.cluster.sockets(VOLUME)[deposed..=deposed];
        let refused = Transfer::open(sockets, VOLUME, Duration::from_millis(500)).await;
        let said = refused.err().map(|e| e.to_string()).unwrap_or_default();
        let successor = self.cluster.nodes()[self.workload.progress().node].name();
        assert!(said.contains(&format!("node {successor}: attach there")), "expected {successor} to be named: {said}");
    }

    async fn leader(&self) -> usize {
        let found = self.cluster.wait_for("a leader of the control plane", PATIENCE, async |cluster| {
            let leader = cluster.status(0).await?.leader;
            cluster.index_of(&leader).ok_or_else(|| format!("the leader {leader:?}"))
        });
        found.await.unwrap_or_else(|e| panic!("{e}"))
    }

    async fn acknowledged_more_than(&self, before: u64) {
        let workload = &self.workload;
        let more = self.cluster.wait_for("another acknowledged write", PATIENCE, async |_| {
            let progress = workload.progress();
            if progress.acknowledged > before { Ok(()) } else { Err(format!("{:?}", progress.failure)) }
        });
        more.await.unwrap_or_else(|e| panic!("{e}"));
    }

    fn check(&self) {
        let progress = self.workload.progress();
        assert!(progress.failure.is_none(), "{:?}", progress.failure);
        assert!(progress.violations.is_empty(), "{:#?}", progress.violations);
    }

    async fn prove(self) {
        self.workload.hold(PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
        let in_sync = self.cluster.wait_in_sync(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
        let progress = self.workload.finish(PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
        assert!(progress.violations.is_empty(), "{:#?}", progress.violations);
        println!(
            "{} writes acknowledged, none lost; {} reads checked; {} copies with digest {} at LSN {}; {} late answers, all true",
            progress.acknowledged, progress.reads, in_sync.copies, in_sync.digest, in_sync.lsn, progress.late
        );
    }
}
