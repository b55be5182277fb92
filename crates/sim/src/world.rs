//! The world: nodes, network, control plane and guests on one virtual time that jumps from event to event.
//!
//! Flow: an event is taken, its inputs go to the inbox of a node, and a *run* of the node hands everything that has
//! gathered to its shard at once, as the daemon's loop does. What comes out is shown to the checkers first and carried on
//! then. After the storm everything heals, and the cluster must become healthy.

mod carry;
mod damage;
mod guests;
mod settle;
mod storm;
mod wide;

use crate::atlas::Atlas;
use crate::checkers::{Checkers, Violation};
use crate::control_stub::ControlStub;
use crate::disk::{Disk, Snapshot};
use crate::faults::{FaultCounts, FaultKind};
use crate::guest::Client;
use crate::log::{EventLog, MS, Nanos, US};
use crate::net::{LaneNotice, Net, Packet};
use crate::node::{Clock, Node};
use crate::options::{Mutant, Options};
use holdfast_node::shard::{Input, ShardConfig};
use holdfast_types::{ControlRequest, Incarnation, Lsn, NodeId, Rng, VolumeId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use storm::Cure;

/// What is going to happen.
#[derive(Debug)]
pub(crate) enum Event {
    /// A node's loop takes what is in its inbox.
    Run(NodeId, u64),
    /// A node's timer.
    Wake(NodeId, u64),
    Deliver(Packet),
    DiskDone(NodeId, u64, u64),
    LaneUp(LaneNotice),
    /// A node notices that its connection to a peer, of this generation, has ended.
    ConnectionLost(NodeId, NodeId, u64),
    /// A connection of this generation may have been dead for too long.
    ConnectionCheck(NodeId, NodeId, u64),
    Connect(NodeId, NodeId),
    ControlRequest(NodeId, ControlRequest),
    CopyCreated(NodeId, VolumeId, Incarnation),
    ControlView(NodeId, u64, usize),
    ControlWatch,
    Client(usize),
    Fault,
    Cure(Cure),
    Settle,
    Health,
}

#[derive(Debug)]
struct Queued {
    at: Nanos,
    seq: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Queued) -> bool {
        self.seq == other.seq
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Queued) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Queued) -> std::cmp::Ordering {
        (self.at, self.seq).cmp(&(other.at, other.seq))
    }
}

/// What a seed came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Hash of all events: equal for equal seeds.
    pub hash: u64,
    /// Number of events.
    pub events: u64,
    /// How often each kind of fault fired.
    pub faults: FaultCounts,
    /// Changes that were answered to guests.
    pub acked: u64,
    /// Reads that were answered to guests.
    pub reads: u64,
    /// Epochs that were activated.
    pub epochs: u64,
    /// Records that were committed.
    pub records: u64,
    /// Virtual time, in milliseconds.
    pub virtual_ms: u64,
}

/// Generators that don't disturb each other.
#[derive(Debug)]
struct Rngs {
    schedule: Rng,
    faults: Rng,
    control: Rng,
    seeds: Rng,
}

#[derive(Debug, Default)]
struct Counters {
    faults: FaultCounts,
    acked: u64,
    reads: u64,
    epochs: u64,
    next_op: u64,
    next_session: u64,
}

/// The control plane's way to one node.
#[derive(Clone, Copy, Debug, Default)]
struct ControlLink {
    last_at: Nanos,
    told: Option<usize>,
}

/// One world.
#[derive(Debug)]
pub(crate) struct World {
    options: Options,
    now: Nanos,
    seq: u64,
    events: BinaryHeap<Reverse<Queued>>,
    nodes: BTreeMap<NodeId, Node>,
    net: Net,
    control: ControlStub,
    control_links: BTreeMap<NodeId, ControlLink>,
    control_down: bool,
    clients: Vec<Client>,
    checkers: Checkers,
    log: EventLog,
    rngs: Rngs,
    counters: Counters,
    /// Directions that faults hold dead, by fault.
    partitions: BTreeMap<u64, Vec<(NodeId, NodeId)>>,
    /// Which copies are damaged, and may be.
    atlas: Atlas,
    /// Earlier states of disks, that may come back.
    snapshots: BTreeMap<NodeId, Snapshot>,
    /// When the storm ended.
    settling: Option<Nanos>,
    verified: bool,
    /// Mutants: what was once read.
    stale: BTreeMap<(VolumeId, u64), u64>,
}

/// More events than any seed needs: a world that does not come to rest is broken.
const MAX_EVENTS: u64 = 4_000_000;

impl World {
    pub(crate) fn new(seed: u64, options: Options, recording: bool) -> World {
        let mut rng = Rng::new(seed);
        let rngs = Rngs { schedule: rng.fork(), faults: rng.fork(), control: rng.fork(), seeds: rng.fork() };
        let mut clocks = rng.fork();
        let mut disks = rng.fork();
        let mut nodes = BTreeMap::new();
        for id in &options.nodes {
            let clock = Clock::draw(options.drift_ppm, &mut clocks);
            let mut disk = Disk::new(options.disk, disks.fork());
            disk.lies = options.mutant == Some(Mutant::LyingDisks);
            nodes.insert(*id, Node::new(*id, clock, disk));
        }
        let net = Net::new(options.net, rng.fork(), &options.nodes);
        let mut control = ControlStub::new(&options, rng.fork());
        control.careless = options.mutant == Some(Mutant::NoCompareAndSwap);
        let mut guests = rng.fork();
        let mut clients = Vec::new();
        for plan in &options.volumes {
            for _ in 0..plan.clients {
                clients.push(Client::new(plan.id, plan.size, options.requests / plan.clients as u64, guests.fork()));
            }
        }
        let checkers = Checkers::new(&options.volumes);
        let control_links = options.nodes.iter().map(|n| (*n, ControlLink::default())).collect();
        World {
            now: 0,
            seq: 0,
            events: BinaryHeap::new(),
            nodes,
            net,
            control,
            control_links,
            control_down: false,
            clients,
            checkers,
            log: EventLog::new(recording),
            rngs,
            counters: Counters::default(),
            partitions: BTreeMap::new(),
            atlas: Atlas::new(&options.volumes, options.declared, options.may_lag),
            snapshots: BTreeMap::new(),
            settling: None,
            verified: false,
            stale: BTreeMap::new(),
            options,
        }
    }

    /// Runs to the end, or to the first violation.
    pub(crate) fn run(&mut self) -> Result<Outcome, Violation> {
        self.boot();
        while let Some(Reverse(queued)) = self.events.pop() {
            assert!(queued.at >= self.now, "time goes forward");
            self.now = queued.at;
            if let Err(violation) = self.handle(queued.event) {
                let state = if self.log.recording() { self.describe() } else { String::new() };
                self.note("violation", &[], || state);
                return Err(violation);
            }
            if self.verified {
                return Ok(self.outcome());
            }
            if self.log.count() > MAX_EVENTS {
                return Err(Violation::new("livelock", format!("more than {MAX_EVENTS} events: {}", self.describe())));
            }
        }
        Err(Violation::new("liveness", "nothing is left to happen".to_owned()))
    }

    pub(crate) fn into_log(self) -> EventLog {
        self.log
    }

    pub(crate) fn outcome(&mut self) -> Outcome {
        let volumes: Vec<VolumeId> = self.options.volumes.iter().map(|v| v.id).collect();
        let records = volumes.into_iter().map(|v| self.checkers.volume(v).committed.last()).map(|l: Lsn| l.0).sum();
        Outcome {
            hash: self.log.hash(),
            events: self.log.count(),
            faults: self.counters.faults.clone(),
            acked: self.counters.acked,
            reads: self.counters.reads,
            epochs: self.counters.epochs,
            records,
            virtual_ms: self.now / MS,
        }
    }

    fn boot(&mut self) {
        let rates: Vec<u64> = self.nodes.values().map(|n| n.clock.rate()).collect();
        if rates.iter().any(|r| *r != rates[0]) {
            self.fired(FaultKind::ClockDrift);
        }
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        if self.options.mutant == Some(Mutant::SlowClock) {
            let slow = self.options.volumes[0].members[0];
            self.clients.iter_mut().for_each(|c| c.reads = 100);
            for node in self.nodes.values_mut() {
                node.clock = node.clock.with_rate(if node.id == slow { 100_000 } else { 1_000_000 });
            }
        }
        ids.into_iter().for_each(|id| self.start_node(id));
        for (a, b) in self.net.pairs() {
            let at = self.now + self.rngs.schedule.below(50 * MS);
            self.at(at, Event::Connect(a, b));
        }
        for client in 0..self.clients.len() {
            self.at(MS, Event::Client(client));
        }
        self.at(MS, Event::ControlWatch);
        self.at(500 * MS, Event::Fault);
        self.at(self.options.storm, Event::Settle);
    }

    fn handle(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Run(node, life) => return self.run_node(node, life),
            Event::Wake(node, life) => return self.wake(node, life),
            Event::Deliver(packet) => return self.deliver(&packet),
            Event::DiskDone(node, life, ticket) => self.disk_done(node, life, ticket),
            Event::LaneUp(notice) => self.lane_up(&notice),
            Event::ConnectionLost(node, peer, generation) => self.connection_lost(node, peer, generation),
            Event::ConnectionCheck(a, b, generation) => self.connection_check(a, b, generation),
            Event::Connect(a, b) => self.connect(a, b),
            Event::ControlRequest(node, request) => return self.control_request(node, &request),
            Event::CopyCreated(node, volume, incarnation) => {
                self.control.copy_created(node, volume, incarnation);
                self.tell_views();
            }
            Event::ControlView(node, life, version) => self.control_view(node, life, version),
            Event::ControlWatch => self.control_watch(),
            Event::Client(client) => {
                self.step_client(client);
                return self.answer_early();
            }
            Event::Fault => return self.next_fault(),
            Event::Cure(cure) => return self.cure(cure),
            Event::Settle => return self.settle(),
            Event::Health => return self.check_health(),
        }
        Ok(())
    }

    fn at(&mut self, at: Nanos, event: Event) {
        self.seq += 1;
        self.events.push(Reverse(Queued { at: at.max(self.now), seq: self.seq, event }));
    }

    fn node(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).expect("every node has an entry")
    }

    fn fired(&mut self, kind: FaultKind) {
        *self.counters.faults.entry(kind).or_default() += 1;
    }

    fn note(&mut self, kind: &'static str, numbers: &[u64], text: impl FnOnce() -> String) {
        self.log.note(self.now, kind, numbers, text);
    }

    /// Starts a process on whatever its disk holds.
    fn start_node(&mut self, id: NodeId) {
        let seed = self.rngs.seeds.next_u64();
        let now = self.now;
        let (timers, limits, beat) = (self.options.timers, self.options.limits, self.options.beat);
        let store = self.options.store.clone();
        let node = self.node(id);
        if node.alive() {
            return;
        }
        let life = node.next_life();
        node.start(ShardConfig { me: id, life, timers, beat, limits, store, seed }, now);
        self.note("start", &[id.0, life.0], || format!("{id} in life {}", life.0));
        self.schedule_run(id);
        self.control_links.insert(id, ControlLink { last_at: now, told: None });
        self.tell_views();
    }

    /// Gives an input to a node; its loop will take it soon.
    fn give(&mut self, id: NodeId, input: Input) {
        let node = self.node(id);
        if node.alive() {
            node.inbox.push_back(input);
            self.schedule_run(id);
        }
    }

    fn schedule_run(&mut self, id: NodeId) {
        let delay = self.rngs.schedule.below(60 * US) + self.nodes[&id].lag;
        let now = self.now;
        let node = self.node(id);
        if node.responsive() && !node.run_scheduled {
            node.run_scheduled = true;
            let life = node.life;
            self.at(now + delay, Event::Run(id, life));
        }
    }
}
