//! The world: nodes, networks and guests on one virtual time that jumps from event to event.
//!
//! Flow: an event is taken, its inputs go to the inbox of a node, and a *run* of the node hands everything that has
//! gathered to its shard at once, as the daemon's loop does. What comes out is shown to the checkers first and carried on
//! then. A node's control plane takes each input as it comes, and has its own timers, network and log; views and requests
//! go between the two as between the two threads of the daemon. After the storm everything heals, and the cluster must become healthy.

mod admin;
mod carry;
mod control;
mod damage;
mod ending;
mod episode;
mod forced;
mod forge;
mod guests;
mod members;
mod nodes;
mod regime;
mod resize;
mod settle;
mod storm;
mod upkeep;
mod versions;
mod wide;

use crate::atlas::Atlas;
use crate::checkers::{Checkers, Most, Violation};
use crate::disk::{Disk, Snapshot};
use crate::faults::{FaultCounts, FaultKind};
use crate::guest::Client;
use crate::log::{EventLog, MS, Nanos, US};
use crate::net::{LaneNotice, Net, Packet, Plane};
use crate::node::{Clock, Node};
use crate::options::{Mutant, Options};
use crate::raft_disk::RaftDisk;
use admin::{Admin, Wish};
use ending::Ending;
pub(crate) use episode::GIVE_UP;
use episode::Measure;
use forge::Forged;
use holdfast_cluster::{Command, Degraded};
use holdfast_consensus::Stored;
use holdfast_node::LocalView;
use holdfast_node::control::{self as control_plane, founding_snapshot};
use holdfast_node::shard::{Input, ShardConfig};
use holdfast_types::{Incarnation, Lsn, NodeId, Rng, Speaks, VolumeId};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
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
    ConnectionLost(Plane, NodeId, NodeId, u64),
    /// A connection of this generation may have been dead for too long.
    ConnectionCheck(Plane, NodeId, NodeId, u64),
    Connect(Plane, NodeId, NodeId),
    /// A timer of a node's control plane.
    ControlWake(NodeId, u64),
    /// A write to a node's Raft log is done.
    RaftWritten(NodeId, u64),
    /// From a node's shard to its control plane.
    ToControl(NodeId, u64, control_plane::Input),
    /// From a node's control plane to its shard.
    ControlView(NodeId, u64, Box<LocalView>),
    /// A node's shard says how its copies are, if that changed.
    Report(NodeId, u64),
    /// The operator goes on with founding the cluster.
    Admin,
    /// The operator looks after disks that were replaced.
    Members,
    /// The operator looks after a volume whose majority is gone.
    Forced,
    /// What was gone for ever comes back.
    Revenants,
    /// The operator does something about voters that are lost for ever.
    Regime(regime::Act),
    /// A process that was told to end gets on with it.
    Ending(Ending),
    Propose(Wish, Box<Command>),
    Client(usize),
    Fault,
    Cure(Cure),
    Settle,
    Health,
    /// The failure of an episode.
    Strike,
    /// A copy that an episode had taken away returns.
    Return(NodeId),
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
    /// Terms in which somebody led the control plane.
    pub terms: u64,
    /// Records that were committed.
    pub records: u64,
    /// The most that any node held for another one.
    pub most: Most,
    /// Virtual time, in milliseconds.
    pub virtual_ms: u64,
}

/// How far a world came before it ended, one way or the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// Fault events of the storm, those that were left out included.
    pub fault_events: u64,
    /// Virtual time, in milliseconds.
    pub virtual_ms: u64,
    /// Events.
    pub events: u64,
}

/// Generators that don't disturb each other.
#[derive(Debug)]
struct Rngs {
    schedule: Rng,
    /// When faults come.
    storm: Rng,
    /// What the present fault does: forked anew for each.
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
    fault_events: u64,
    next_op: u64,
    next_session: u64,
}

/// One world.
pub(crate) struct World {
    options: Options,
    now: Nanos,
    seq: u64,
    events: BinaryHeap<Reverse<Queued>>,
    nodes: BTreeMap<NodeId, Node>,
    net: Net,
    control_net: Net,
    admin: Admin,
    clients: Vec<Client>,
    checkers: Checkers,
    log: EventLog,
    rngs: Rngs,
    counters: Counters,
    /// Directions that faults hold dead, by fault.
    partitions: BTreeMap<u64, Vec<(Plane, NodeId, NodeId)>>,
    /// Which copies are damaged, and may be.
    atlas: Atlas,
    /// Earlier states of disks, that may come back.
    snapshots: BTreeMap<NodeId, Snapshot>,
    /// When the storm ended.
    settling: Option<Nanos>,
    verified: bool,
    measure: Measure,
    /// Copies that were lost with their disks and are to be made anew.
    lost_copies: BTreeMap<(NodeId, VolumeId), Incarnation>,
    /// Mutants: what was once read.
    stale: BTreeMap<(VolumeId, u64), u64>,
    /// Mutants: claims that nodes believe in.
    forged: BTreeMap<(NodeId, VolumeId), Forged>,
    /// Comparisons whose verdicts were looked at.
    verdicts: BTreeSet<(VolumeId, u64)>,
    lost: forced::Lost,
}

/// More events than any seed needs: a world that does not come to rest is broken.
const MAX_EVENTS: u64 = 4_000_000;

impl World {
    pub(crate) fn new(seed: u64, options: Options, recording: bool) -> World {
        let mut rng = Rng::new(seed ^ options.order << 32);
        let storm = Rng::new(seed ^ 0x73_746f_726d);
        let rngs = Rngs { schedule: rng.fork(), storm, faults: rng.fork(), control: rng.fork(), seeds: rng.fork() };
        let mut clocks = rng.fork();
        let mut disks = rng.fork();
        let founding = Stored::founding(options.control.named[0], founding_snapshot(options.control.founding_state()));
        let mut nodes = BTreeMap::new();
        for id in &options.nodes {
            let clock = Clock::draw(options.drift_ppm, &mut clocks);
            let mut disk = Disk::new(options.disk, disks.fork());
            disk.lies = options.mutant == Some(Mutant::LyingDisks);
            let stored = if *id == options.control.named[0] { founding.clone() } else { Stored::default() };
            let mut raft_disk = RaftDisk::new(options.disk, disks.fork(), stored);
            if options.mutant == Some(Mutant::ForgetfulRaft) {
                raft_disk.lie();
            }
            let mut node = Node::new(*id, clock, disk, raft_disk);
            if options.control.mixed {
                (node.speaks, node.was_upgraded) = (Speaks::UNTOLD, false);
            }
            nodes.insert(*id, node);
        }
        let net = Net::new(options.net, rng.fork(), &options.nodes);
        let control_net = Net::new(options.net, rng.fork(), &options.nodes);
        let mut guests = rng.fork();
        let mut clients = Vec::new();
        for plan in &options.volumes {
            for _ in 0..plan.clients {
                clients.push(Client::new(plan.id, plan.size, options.requests / plan.clients as u64, guests.fork()));
            }
        }
        let mut checkers = Checkers::new(&options.volumes);
        if options.loses_majority {
            checkers.expect_losses();
        }
        for plan in &options.volumes {
            match plan.degraded {
                Some(Degraded::Allow) => checkers.allow_alone(plan.id),
                Some(Degraded::Stall) => checkers.must_wait(plan.id),
                None => {}
            }
        }
        World {
            now: 0,
            seq: 0,
            events: BinaryHeap::new(),
            nodes,
            net,
            control_net,
            admin: Admin::default(),
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
            measure: Measure::default(),
            lost_copies: BTreeMap::new(),
            stale: BTreeMap::new(),
            forged: BTreeMap::new(),
            verdicts: BTreeSet::new(),
            lost: forced::Lost::default(),
            options,
        }
    }

    /// Runs to the end, or to the first violation.
    pub(crate) fn run(&mut self) -> Result<Outcome, Violation> {
        self.boot()?;
        while let Some(Reverse(queued)) = self.events.pop() {
            assert!(queued.at >= self.now, "time goes forward");
            self.now = queued.at;
            if let Err(violation) = self.handle(queued.event) {
                let state = if self.log.recording() { self.describe() } else { String::new() };
                self.note("violation", &[], || state);
                return Err(violation);
            }
            if self.verified || self.measure.stall.is_some() {
                return Ok(self.outcome());
            }
            if self.log.count() > MAX_EVENTS {
                return Err(Violation::new("livelock", format!("more than {MAX_EVENTS} events: {}", self.describe())));
            }
        }
        Err(Violation::new("liveness", "nothing is left to happen".to_owned()))
    }

    /// How far it came: fault events so far, and virtual time.
    pub(crate) fn reached(&self) -> Reached {
        Reached { fault_events: self.counters.fault_events, virtual_ms: self.now / MS, events: self.log.count() }
    }

    /// How long an episode took.
    pub(crate) fn stall(&self) -> Option<Nanos> {
        self.measure.stall
    }

    /// How often each kind of fault fired so far.
    pub(crate) fn faults(&self) -> &FaultCounts {
        &self.counters.faults
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
            terms: self.checkers.control.terms(),
            records,
            most: self.checkers.bounds.most(),
            virtual_ms: self.now / MS,
        }
    }

    fn boot(&mut self) -> Result<(), Violation> {
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
        ids.into_iter().try_for_each(|id| self.start_node(id))?;
        for plane in Plane::ALL {
            for (a, b) in self.net.pairs() {
                let at = self.now + self.rngs.schedule.below(50 * MS);
                self.at(at, Event::Connect(plane, a, b));
            }
        }
        for client in 0..self.clients.len() {
            self.at(MS, Event::Client(client));
        }
        self.plan_founding();
        self.plan_episode();
        self.at(500 * MS, Event::Fault);
        self.at(self.options.storm, Event::Settle);
        Ok(())
    }

    fn handle(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Run(node, life) => return self.run_node(node, life),
            Event::Wake(node, life) => return self.wake(node, life),
            Event::Deliver(packet) => return self.deliver(&packet),
            Event::DiskDone(node, life, ticket) => self.disk_done(node, life, ticket),
            Event::LaneUp(notice) => return self.lane_up(&notice),
            Event::ConnectionLost(plane, node, peer, generation) => {
                return self.connection_lost(plane, node, peer, generation);
            }
            Event::ConnectionCheck(plane, a, b, generation) => self.connection_check(plane, a, b, generation),
            Event::Connect(plane, a, b) => return self.connect(plane, a, b),
            Event::ControlWake(node, life) => return self.control_wake(node, life),
            Event::RaftWritten(node, life) => return self.raft_written(node, life),
            Event::ToControl(node, life, input) => return self.shard_said(node, life, input),
            Event::ControlView(node, life, local) => self.control_view(node, life, *local),
            Event::Report(node, life) => self.report_due(node, life),
            Event::Admin => return self.admin_turn(),
            Event::Members => return self.members_turn(),
            Event::Forced => return self.forced_turn(),
            Event::Revenants => return self.revenants(),
            Event::Regime(act) => return self.act(act),
            Event::Ending(ending) => return self.step_ending(ending),
            Event::Propose(wish, command) => return self.propose(wish, *command),
            Event::Client(client) => {
                self.step_client(client);
                return self.answer_early();
            }
            Event::Fault => return self.next_fault(),
            Event::Cure(cure) => return self.cure(cure),
            Event::Settle => return self.settle(),
            Event::Health => return self.check_health(),
            Event::Strike => return self.strike(),
            Event::Return(node) => return self.return_of(node),
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

    fn net(&mut self, plane: Plane) -> &mut Net {
        match plane {
            Plane::Shard => &mut self.net,
            Plane::Control => &mut self.control_net,
        }
    }

    fn fired(&mut self, kind: FaultKind) {
        *self.counters.faults.entry(kind).or_default() += 1;
    }

    fn note(&mut self, kind: &'static str, numbers: &[u64], text: impl FnOnce() -> String) {
        self.log.note(self.now, kind, numbers, text);
    }

    /// Starts a process on whatever its disk holds.
    fn start_node(&mut self, id: NodeId) -> Result<(), Violation> {
        let (seed, raft_seed) = (self.rngs.seeds.next_u64(), self.rngs.seeds.next_u64());
        let now = self.now;
        let (timers, limits, beat) = (self.options.timers, self.options.limits, self.options.beat);
        let store = self.options.store.clone();
        if self.nodes[&id].alive() {
            return Ok(());
        }
        let life = self.node(id).next_life();
        let mut control = self.options.control.config(id, (life, self.nodes[&id].speaks), raft_seed);
        if self.nodes[&id].raft_disk.recovery().is_some() {
            // Before it gave up its log, the node noted whom it knew.
            control.peers = crate::options::addresses(&self.options.nodes);
        }
        self.checkers.control.started(id);
        self.node(id).start(
            ShardConfig { me: id, life, timers, beat, limits, resyncs: 1, store, seed, place: id.to_string() },
            control,
            now,
        );
        self.note("start", &[id.0, life.0], || format!("{id} in life {}", life.0));
        self.schedule_run(id);
        self.feed_control(id, control_plane::Input::Tick)
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
