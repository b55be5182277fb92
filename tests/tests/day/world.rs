//! The cluster of a day: four hosts, volumes under verified load, and what is done to them.
//!
//! A step is an operation and a fault that comes while it is under way. Then everything that is broken is mended, and the cluster has to become
//! healthy by itself. An operation that a fault prevented is no defect; one that was used wrongly is.

use crate::kinds::{FAULTS, Fault, OPERATIONS, Operation};
use holdfast_agent::admin::pb;
use holdfast_cli::harness::Cluster;
use holdfast_cli::workload::{Plan, Progress, Workload};
use holdfast_tests::netns::{Drops, Lan};
use holdfast_tests::{TestCluster, finish};
use holdfast_types::Rng;
use std::collections::BTreeMap;
use std::fs;
use std::process::Output;
use std::time::{Duration, Instant};
use tokio::time::sleep;

const NODES: usize = 4;
/// What the load works on, and what volumes may grow by.
const LOADED: u64 = 16 << 20;
const SPARE: u64 = 16 << 20;
/// Beyond the failure timeout (1 s) and the lease (2 s) together.
const OUTAGE: Duration = Duration::from_millis(4_500);
/// Volumes that come and go, beside the two that stay.
const PASSING: usize = 2;
/// Until the cluster is healthy again: a copy is made anew, a drained node given back, on a machine that also builds.
const HEALS: Duration = Duration::from_mins(3);
/// The command makes no sense as written.
const MISUSED: i32 = 2;
const REFUSED: i32 = 3;

pub(crate) struct Day {
    /// In this order they are dropped.
    loads: BTreeMap<String, Workload>,
    cluster: TestCluster,
    lan: Lan,
    rng: Rng,
    began: Instant,
    operations: Vec<Operation>,
    faults: Vec<Fault>,
    fired: BTreeMap<&'static str, u64>,
    /// What the binary refused, and what a fault prevented.
    refused: u64,
    prevented: u64,
    created: u64,
    acknowledged: u64,
    reads: u64,
}

impl Day {
    pub(crate) async fn begin(seed: u64) -> Day {
        let lan = Lan::new(u8::try_from(NODES).unwrap());
        let cluster = TestCluster::start_in(&lan).await;
        let mut day = Day {
            loads: BTreeMap::new(),
            cluster,
            lan,
            rng: Rng::new(seed),
            began: Instant::now(),
            operations: Vec::new(),
            faults: Vec::new(),
            fired: BTreeMap::new(),
            refused: 0,
            prevented: 0,
            created: 0,
            acknowledged: 0,
            reads: 0,
        };
        for name in ["stays-1", "stays-2"] {
            day.cluster.volume(name, LOADED + SPARE).await;
            day.load(name);
        }
        day.began = Instant::now();
        day
    }

    pub(crate) fn lasted(&self) -> Duration {
        self.began.elapsed()
    }

    /// One operation, one fault, and the time until all is well.
    pub(crate) async fn step(&mut self) {
        let operation = draw(&mut self.operations, &OPERATIONS, &mut self.rng);
        let fault = draw(&mut self.faults, &FAULTS, &mut self.rng);
        let victim = self.any(NODES);
        let at = self.began.elapsed();
        let Some(order) = self.order(operation, victim).await else { return };
        let name = format!("{} with {}", operation.name(), fault.name());
        self.loads.values().for_each(|load| load.phase(&name));
        let done = self.carry_out(operation, order, (fault, victim)).await;
        if done {
            self.count(operation.name());
        }
        self.heals(&name).await;
        println!("{:>5.1} s {name} at n{}: {}", at.as_secs_f64(), victim + 1, if done { "done" } else { "prevented" });
    }

    /// What the operation asks of which node; `None` where there is nothing to do it to.
    async fn order(&mut self, operation: Operation, victim: usize) -> Option<Order> {
        let names: Vec<String> = self.loads.keys().cloned().collect();
        let volume = names[self.any(names.len())].clone();
        // Whoever is about to be stopped is not asked.
        let asked = (victim + 1 + self.any(NODES - 1)) % NODES;
        let found = Cluster::volume(&self.cluster, &volume).await.unwrap_or_else(|e| panic!("{volume}: {e}"));
        let status = self.cluster.status(asked).await.unwrap_or_else(|e| panic!("{e}"));
        let holders: Vec<String> =
            found.copies.iter().filter(|c| c.state != "deleting").map(|c| c.node.clone()).collect();
        let serves = |n: &&pb::Node| n.wanted == "in_service";
        let free: Vec<String> =
            status.nodes.iter().filter(serves).map(|n| n.name.clone()).filter(|n| !holders.contains(n)).collect();
        let drained: Vec<String> =
            status.nodes.iter().filter(|n| n.wanted == "drained").map(|n| n.name.clone()).collect();
        let holder = holders[self.any(holders.len())].clone();
        let secondary = holders.iter().find(|n| **n != found.primary).cloned();
        let spare = |day: &mut Day| (!free.is_empty()).then(|| free[day.any(free.len())].clone());
        let words: Vec<String> = match operation {
            Operation::Create if names.len() < 2 + PASSING => {
                self.created += 1;
                let name = format!("passes-{}", self.created);
                return Some(Order {
                    asked,
                    words: vec![
                        "volume".into(),
                        "create".into(),
                        name.clone(),
                        "--size".into(),
                        (LOADED + SPARE).to_string(),
                    ],
                    about: name,
                });
            }
            Operation::Delete => {
                let name = names.iter().find(|n| n.starts_with("passes"))?;
                return Some(Order {
                    asked,
                    words: to_words(&["volume", "delete", name, "--yes"]),
                    about: name.clone(),
                });
            }
            Operation::Grow => {
                to_words(&["volume", "resize", &volume, "--size", &(found.size + (4 << 20)).to_string()])
            }
            Operation::Shrink if found.size > LOADED + SPARE => {
                to_words(&["volume", "resize", &volume, "--size", &(LOADED + SPARE).to_string(), "--shrink", "--yes"])
            }
            Operation::CopyAdd if holders.len() < NODES => to_words(&["copy", "add", &volume, &spare(self)?]),
            Operation::CopyRemove if holders.len() > 2 => to_words(&["copy", "remove", &volume, &holder, "--yes"]),
            Operation::CopyReplace => to_words(&["copy", "replace", &volume, &holder, &spare(self)?]),
            Operation::Drain if drained.is_empty() => {
                to_words(&["node", "drain", self.cluster.nodes()[victim].name(), "--no-wait"])
            }
            Operation::Undrain => to_words(&["node", "undrain", drained.first()?]),
            Operation::Switchover => to_words(&["failover", &volume, "--to", &secondary?]),
            Operation::Failover => to_words(&["failover", &volume, "--to", &secondary?, "--force"]),
            Operation::Scrub => to_words(&["scrub", &volume]),
            Operation::Verify => to_words(&["verify", &volume]),
            Operation::Restart => to_words(&["node", "restart"]),
            Operation::Terminate => Vec::new(),
            Operation::Create | Operation::Shrink | Operation::CopyAdd | Operation::CopyRemove | Operation::Drain => {
                return None;
            }
        };
        Some(Order { asked, words, about: volume })
    }

    /// Whether the operation was carried out.
    async fn carry_out(&mut self, operation: Operation, order: Order, (fault, victim): (Fault, usize)) -> bool {
        match operation {
            Operation::Restart | Operation::Terminate => {
                let ended = self.end_agent(operation, &order, victim).await;
                self.inflict(fault, victim).await;
                return ended;
            }
            Operation::Delete => self.unload(&order.about).await,
            _ => {}
        }
        let words: Vec<&str> = order.words.iter().map(String::as_str).collect();
        let mut command = self.cluster.command(order.asked, &words);
        let runs = tokio::task::spawn_blocking(move || command.output());
        sleep(Duration::from_millis(self.rng.below(800))).await;
        // Whoever wipes a disk has every copy that was on it made anew: a volume must be known before that.
        let later = matches!((operation, fault), (Operation::Create, Fault::Wipe));
        if !later {
            self.inflict(fault, victim).await;
        }
        let output = runs.await.unwrap().unwrap();
        let done = self.judge(&order, &output);
        match operation {
            Operation::Create => self.adopt(&order.about, done).await,
            Operation::Delete if !done => self.delete_again(&order.about).await,
            _ => {}
        }
        if later {
            self.inflict(fault, victim).await;
        }
        done
    }

    /// A command that a fault prevented may fail, and is told so; one that was refused as nonsense is a defect of this test or of the binary.
    fn judge(&mut self, order: &Order, output: &Output) -> bool {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let code = output.status.code();
        assert!(code.is_some() && code != Some(MISUSED), "{:?}: {code:?} {said}", order.words);
        assert!(!said.contains("panicked"), "{:?}: {said}", order.words);
        match code {
            Some(0) => return true,
            Some(REFUSED) => self.refused += 1,
            _ => self.prevented += 1,
        }
        println!("        {}: {}", order.words.join(" "), said.lines().last().unwrap_or_default());
        false
    }

    /// The agent ends in order, and starts again.
    async fn end_agent(&mut self, operation: Operation, order: &Order, victim: usize) -> bool {
        if operation == Operation::Restart {
            let words: Vec<&str> = order.words.iter().map(String::as_str).collect();
            let output = self.cluster.run(victim, &words).await;
            if !self.judge(order, &output) {
                return false;
            }
        } else {
            self.cluster.terminate(victim);
        }
        let status = self.cluster.ended(victim, HEALS).await.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(status.code(), Some(0), "{}", self.cluster.log_tails());
        self.cluster.launch(victim).unwrap();
        true
    }

    async fn inflict(&mut self, fault: Fault, victim: usize) {
        let others: Vec<usize> = (0..NODES).filter(|at| *at != victim).collect();
        match fault {
            Fault::Nothing => sleep(Duration::from_millis(500)).await,
            Fault::Kill => self.kill_for_a_while(&[victim]).await,
            Fault::KillPrimary => {
                let primary = self.loads.values().next().map_or(victim, |load| load.progress().node);
                self.kill_for_a_while(&[primary]).await;
            }
            Fault::KillAll => self.kill_for_a_while(&[0, 1, 2, 3]).await,
            Fault::Stop => {
                self.cluster.stop(victim);
                sleep(OUTAGE).await;
                self.cluster.go_on(victim);
            }
            Fault::Cut => {
                self.lan.cable(victim, false);
                sleep(OUTAGE).await;
                self.lan.heal();
            }
            Fault::Deaf | Fault::Mute => {
                let drops = if fault == Fault::Deaf { Drops::Incoming } else { Drops::Outgoing };
                self.lan.drop_packets(victim, drops, &others);
                sleep(OUTAGE).await;
                self.lan.heal();
            }
            Fault::Wipe => return self.wipe(victim).await,
        }
        self.count(fault.name());
    }

    async fn kill_for_a_while(&mut self, nodes: &[usize]) {
        nodes.iter().for_each(|at| self.cluster.kill(*at));
        // Sometimes it is back before anybody has noticed.
        sleep(Duration::from_millis(self.rng.below(3_000))).await;
        nodes.iter().for_each(|at| self.cluster.launch(*at).unwrap());
    }

    /// The node loses all its copies, where every volume bears that; the operator has them made anew.
    async fn wipe(&mut self, victim: usize) {
        self.heals("before a disk is wiped").await;
        let name = self.cluster.nodes()[victim].name().to_owned();
        let mut lost = Vec::new();
        for volume in self.loads.keys() {
            let found = Cluster::volume(&self.cluster, volume).await.unwrap_or_else(|e| panic!("{volume}: {e}"));
            let counts = |c: &&pb::Copy| c.state == "healthy";
            if found.copies.iter().any(|c| c.node == name) {
                if found.copies.iter().filter(counts).count() < 3 {
                    return;
                }
                lost.push(volume.clone());
            }
        }
        self.cluster.kill(victim);
        fs::remove_dir_all(self.cluster.nodes()[victim].data_dir().join("shard-0")).unwrap();
        self.cluster.launch(victim).unwrap();
        for volume in lost {
            let anew = self.cluster.wait_for("copies to be made anew", HEALS, async |_| {
                let output =
                    self.cluster.run((victim + 1) % NODES, &["copy", "replace", &volume, &name, &name, "--yes"]).await;
                if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
            });
            anew.await.unwrap_or_else(|e| panic!("{volume}: {e}"));
        }
        self.count(Fault::Wipe.name());
    }

    fn load(&mut self, name: &str) {
        let seed = self.rng.next_u64();
        let plan = Plan { depth: 4, ..Plan::new(self.cluster.sockets(name), name, 0..LOADED, seed) };
        // The longest outage, and a takeover by whoever is left.
        let plan = Plan { patience: HEALS, ..plan };
        self.loads.insert(name.to_owned(), Workload::start(plan).unwrap());
    }

    async fn unload(&mut self, name: &str) {
        let load = self.loads.remove(name).expect("what is deleted was loaded");
        let progress = finish(load).await;
        self.add_up(&progress);
    }

    fn add_up(&mut self, progress: &Progress) {
        self.acknowledged += progress.acknowledged;
        self.reads += progress.reads;
    }

    /// A volume whose creation was agreed on gets its load, whatever the command could tell of it.
    async fn adopt(&mut self, name: &str, done: bool) {
        let exists = || async { Cluster::volume(&self.cluster, name).await.is_ok() };
        // A proposal on its way when the command ended is carried out or gone by then.
        let until = Instant::now() + Duration::from_secs(12);
        while !done && !exists().await && Instant::now() < until {
            sleep(Duration::from_millis(200)).await;
        }
        if exists().await {
            self.cluster.wait_healthy(name, HEALS).await.unwrap_or_else(|e| panic!("{name}: {e}"));
            self.load(name);
        }
    }

    /// What is not loaded any more must go.
    async fn delete_again(&mut self, name: &str) {
        let gone = self.cluster.wait_for("the volume to be gone", HEALS, async |cluster| {
            let output = self.cluster.run(0, &["volume", "delete", name, "--yes"]).await;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let left = Cluster::volume(cluster, name).await.is_ok();
            if output.status.success() || !left { Ok(()) } else { Err(said) }
        });
        gone.await.unwrap_or_else(|e| panic!("{name}: {e}"));
    }

    /// Every node answers, every volume is healthy, every load goes on; nothing is lost and nothing wrong.
    async fn heals(&mut self, what: &str) {
        let names: Vec<String> = self.loads.keys().cloned().collect();
        let up = self.cluster.wait_for("every node to see all nodes up", HEALS, async |cluster| {
            for at in 0..NODES {
                let status = cluster.status(at).await?;
                if let Some(node) = status.nodes.iter().find(|n| n.state != "up") {
                    return Err(format!("{} sees {} {}", cluster.nodes()[at].name(), node.name, node.state));
                }
            }
            Ok(())
        });
        up.await.unwrap_or_else(|e| panic!("{what}: {e}"));
        for name in names {
            self.cluster.wait_healthy(&name, HEALS).await.unwrap_or_else(|e| panic!("{what}: {e}"));
            let load = &self.loads[&name];
            let before = load.progress().acknowledged;
            let goes_on = self.cluster.wait_for("the load to go on", HEALS, async |_| {
                let progress = load.progress();
                if progress.acknowledged > before { Ok(()) } else { Err(format!("{:?}", progress.failure)) }
            });
            goes_on.await.unwrap_or_else(|e| panic!("{what}: {name}: {e}"));
            let progress = load.progress();
            assert!(progress.violations.is_empty() && progress.failure.is_none(), "{what}: {name}: {progress:#?}");
        }
    }

    /// The evening: nobody is drained, everything is read back and compared. How often each kind was there.
    pub(crate) async fn end(mut self) -> BTreeMap<&'static str, u64> {
        let lasted = self.lasted();
        for at in 0..NODES {
            let name = self.cluster.nodes()[at].name().to_owned();
            self.cluster.succeeds(0, &["node", "undrain", &name]).await;
        }
        self.heals("the evening").await;
        let names: Vec<String> = self.loads.keys().cloned().collect();
        for name in &names {
            let load = self.loads.remove(name).unwrap();
            let progress = finish(load).await;
            self.add_up(&progress);
            self.cluster.wait_healthy(name, HEALS).await.unwrap_or_else(|e| panic!("{name}: {e}"));
            self.cluster.wait_in_sync(name, HEALS).await.unwrap_or_else(|e| panic!("{name}: {e}"));
            self.cluster.succeeds(0, &["verify", name]).await;
        }
        for node in self.cluster.nodes() {
            let log = fs::read_to_string(node.log()).unwrap();
            assert!(!log.contains("panicked"), "{}", self.cluster.log_tails());
        }
        let counts: Vec<String> = self.fired.iter().map(|(kind, count)| format!("{kind}={count}")).collect();
        let (seconds, refused, prevented) = (lasted.as_secs(), self.refused, self.prevented);
        let (acknowledged, reads) = (self.acknowledged, self.reads);
        println!(
            "day: seconds={seconds} acknowledged={acknowledged} reads={reads} lost=0 corrupt=0 refused={refused} prevented={prevented} {}",
            counts.join(" ")
        );
        self.fired
    }

    fn any(&mut self, of: usize) -> usize {
        usize::try_from(self.rng.below(of as u64)).unwrap()
    }

    fn count(&mut self, kind: &'static str) {
        *self.fired.entry(kind).or_default() += 1;
    }
}

/// What is said to which node.
struct Order {
    asked: usize,
    words: Vec<String>,
    /// The volume.
    about: String,
}

fn to_words(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

/// Each once, shuffled, then all over again.
fn draw<T: Copy>(deck: &mut Vec<T>, all: &[T], rng: &mut Rng) -> T {
    if deck.is_empty() {
        deck.extend_from_slice(all);
    }
    let at = usize::try_from(rng.below(deck.len() as u64)).unwrap();
    deck.swap_remove(at)
}
