//! Three real copies, lanes and stores that are served in a random order, and a control plane that is one compare-and-swap.
//! What they do is written down as steps of the model.
//!
//! What a member answers to a claimant (its tail, records) may arrive after the member's next promise. It is written down
//! before that promise: the claimant does nothing else meanwhile, and in the model a member answers as long as its promise is
//! the claimant's.
//!
//! Two things are simpler than in a whole cluster. Of several acknowledgements on their way in one lane only the last is
//! kept: they are cumulative. A claimant's own cut is made as soon as it has chosen, as in the model.

use bytes::Bytes;
use holdfast_format::message::Message;
use holdfast_format::{Record, RecordKind};
use holdfast_model::Step;
use holdfast_replication::{GuestOp, Input, Limits, Output, Replica, Request, RequestKey, RoleName, Timers};
use holdfast_types::*;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

const NODES: u8 = 3;
const EPOCHS: u64 = 4;
const WRITES: u64 = 3;
const ACTIONS: u64 = 300;

struct Node {
    replica: Replica,
    life: u64,
    log: Vec<Record>,
    promised: Epoch,
    table: EpochTable,
    committed: Lsn,
    /// Commands of the store that are not carried out yet.
    store: VecDeque<Output>,
    views: VecDeque<VolumeView>,
    /// Nothing in memory that a restart would lose.
    idle: bool,
}

/// What made a copy append.
#[derive(Clone, Copy, PartialEq)]
enum Cause {
    Append(Epoch),
    Fetch(Epoch, u8),
    Own,
}

pub(crate) struct World {
    rng: Rng,
    now: Time,
    nodes: Vec<Node>,
    lanes: BTreeMap<(u8, u8), VecDeque<Message>>,
    control: VecDeque<(u8, ControlRequest)>,
    view: VolumeView,
    max_epoch: Epoch,
    writes: u64,
    /// Which record each write became.
    written: BTreeMap<u64, (Epoch, Lsn)>,
    crashes: u64,
    chosen: BTreeSet<Epoch>,
    requested: BTreeSet<Epoch>,
    released: BTreeSet<Epoch>,
    reported: BTreeSet<(Epoch, u8)>,
    counted: BTreeMap<(Epoch, u8), Lsn>,
    trace: Option<Vec<Step>>,
}

fn id(node: u8) -> NodeId {
    NodeId(u64::from(node) + 1)
}

fn index(node: NodeId) -> u8 {
    u8::try_from(node.0 - 1).expect("three nodes")
}

fn small(epoch: Epoch) -> u8 {
    u8::try_from(epoch.0).expect("few epochs")
}

impl World {
    /// The steps of one run, from the moment when node 0 leads epoch 1 and all copies hold its start.
    pub(crate) fn run(seed: u64) -> Vec<Step> {
        let mut world = World::new(seed);
        world.nominate(0, false);
        while world.serve_any() {}
        assert_eq!(world.view.active.epoch, Epoch(1), "the first reign opens without trouble");
        assert!(world.nodes.iter().all(|n| n.log.len() == 1), "every copy holds its start");
        world.trace = Some(Vec::new());
        for _ in 0..ACTIONS {
            world.act();
        }
        world.trace.expect("it was begun")
    }

    fn new(seed: u64) -> World {
        let members = (0..NODES).map(|n| Member { node: id(n), incarnation: Incarnation(7) }).collect();
        let active = Configuration { epoch: Epoch::ZERO, primary: None, members, write_quorum: 2 };
        let size = VolumeSize::new(1 << 20).expect("a valid size");
        let (volume, durability) = (VolumeId(1), Durability::Sync);
        let view = VolumeView::settled(volume, size, durability, active);
        let now = Time(1_000_000_000);
        let node = |n: u8| {
            let blank = Node::opened(&[], Epoch::ZERO, &EpochTable::default(), Lsn::ZERO);
            Node {
                replica: Node::replica(n, 1, &view, &blank, now),
                life: 1,
                log: Vec::new(),
                promised: Epoch::ZERO,
                table: EpochTable::default(),
                committed: Lsn::ZERO,
                store: VecDeque::new(),
                views: VecDeque::new(),
                idle: true,
            }
        };
        let pairs = (0..NODES).flat_map(|a| (0..NODES).filter(move |b| *b != a).map(move |b| (a, b)));
        let mut world = World {
            rng: Rng::new(seed),
            now,
            nodes: (0..NODES).map(node).collect(),
            lanes: pairs.clone().map(|pair| (pair, VecDeque::new())).collect(),
            control: VecDeque::new(),
            view,
            max_epoch: Epoch::ZERO,
            writes: 0,
            written: BTreeMap::new(),
            crashes: 0,
            chosen: BTreeSet::new(),
            requested: BTreeSet::new(),
            released: BTreeSet::new(),
            reported: BTreeSet::new(),
            counted: (0..NODES).map(|n| ((Epoch(1), n), Lsn(1))).collect(),
            trace: None,
        };
        for (a, b) in pairs {
            world.input(a, Input::PeerUp(id(b)));
        }
        world
    }

    fn act(&mut self) {
        match self.rng.below(24) {
            0 => self.nominate_somebody(),
            1 => self.crash_somebody(),
            2 | 3 => self.write(),
            4 => self.pass(Duration::from_millis(400)),
            _ => {
                if !self.serve_any() {
                    self.pass(Duration::from_millis(100));
                }
            }
        }
    }

    fn note(&mut self, step: Step) {
        if let Some(trace) = &mut self.trace {
            trace.push(step);
        }
    }

    fn node(&mut self, n: u8) -> &mut Node {
        &mut self.nodes[usize::from(n)]
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        for n in 0..NODES {
            self.input(n, Input::Tick);
        }
    }

    fn nominate_somebody(&mut self) {
        let node = u8::try_from(self.rng.below(u64::from(NODES))).expect("three nodes");
        let planned = self.rng.below(2) == 0;
        if self.max_epoch < Epoch(EPOCHS) {
            self.nominate(node, planned);
        }
    }

    fn nominate(&mut self, node: u8, planned: bool) {
        self.view.nominee = Some(Nominee { node: id(node), base: self.view.active.epoch, planned });
        self.publish();
    }

    fn publish(&mut self) {
        let view = self.view.clone();
        self.nodes.iter_mut().for_each(|n| n.views.push_back(view.clone()));
    }

    fn write(&mut self) {
        let serving = (0..NODES).find(|n| self.nodes[usize::from(*n)].replica.is_serving());
        let Some(n) = serving.filter(|_| self.writes < WRITES) else { return };
        self.writes += 1;
        let key = RequestKey { session: SessionId(1), request: RequestId(self.writes) };
        let data = Bytes::from(vec![u8::try_from(self.writes).expect("few writes"); 4096]);
        let (op, offset) = (GuestOp::Write, ByteOffset(0));
        self.input(n, Input::Request(Request { key, op, offset, len: 4096, fua: false, data }));
    }

    /// One message, command, decision or view, of those that wait.
    fn serve_any(&mut self) -> bool {
        let mut waiting: Vec<(u8, u8)> =
            self.lanes.iter().filter(|(_, lane)| !lane.is_empty()).map(|(pair, _)| *pair).collect();
        // A node with itself: its store; with nobody: its view; nobody with itself: the control plane.
        for n in 0..NODES {
            let node = &self.nodes[usize::from(n)];
            waiting.extend((!node.store.is_empty()).then_some((n, n)));
            waiting.extend((!node.views.is_empty()).then_some((n, NODES)));
        }
        waiting.extend((!self.control.is_empty()).then_some((NODES, NODES)));
        if waiting.is_empty() {
            return false;
        }
        let at = usize::try_from(self.rng.below(waiting.len() as u64)).expect("a small number");
        match waiting[at] {
            (NODES, _) => self.decide(),
            (n, NODES) => {
                let view = self.node(n).views.pop_front().expect("a view waits");
                self.begins(n, &view);
                self.input(n, Input::View(view));
            }
            (n, m) if n == m => self.carry_out(n),
            lane => self.deliver(lane),
        }
        true
    }

    fn deliver(&mut self, (from, to): (u8, u8)) {
        let lane = self.lanes.get_mut(&(from, to)).expect("a lane for each pair");
        let message = lane.pop_front().expect("a message waits");
        match &message {
            Message::Tail { epoch, .. } => self.report(from, to, *epoch),
            Message::AppendAck { epoch, durable, .. } => {
                let (epoch, durable) = (*epoch, *durable);
                let before = self.counted.get(&(epoch, from)).copied().unwrap_or(Lsn::ZERO);
                if durable > before && self.leads(to, epoch) {
                    self.counted.insert((epoch, from), durable);
                    self.note(Step::Acknowledge { member: from, epoch: small(epoch) });
                }
            }
            _ => {}
        }
        self.input(to, Input::Message { from: id(from), message });
    }

    /// Whether the life that runs on `n` has claimed `epoch` and promised nothing more.
    fn leads(&self, n: u8, epoch: Epoch) -> bool {
        let node = &self.nodes[usize::from(n)];
        let (view, status) = (node.replica.view(), node.replica.status());
        let pending = view.pending.as_ref().is_some_and(|p| {
            p.configuration.epoch == epoch && p.configuration.primary == Some(id(n)) && p.life == Life(node.life)
        });
        let active =
            view.active.epoch == epoch && view.active.primary == Some(id(n)) && status.role == RoleName::Primary;
        status.promised == epoch && status.role != RoleName::Secondary && (pending || active)
    }

    /// A claim of this life above every promise is taken up as soon as it is seen.
    fn begins(&mut self, n: u8, view: &VolumeView) {
        let node = self.node(n);
        let stale = view.active.epoch < node.replica.view().active.epoch;
        let (life, promised) = (Life(node.life), node.replica.status().promised);
        let Some(pending) = view.pending.as_ref().filter(|p| p.life == life && p.base == view.active.epoch) else {
            return;
        };
        let Configuration { epoch, primary, .. } = pending.configuration;
        if primary == Some(id(n)) && epoch > promised && !stale {
            self.note(Step::Begin { epoch: small(epoch) });
        }
    }

    fn report(&mut self, from: u8, to: u8, epoch: Epoch) {
        let counts = self.leads(to, epoch) && !self.chosen.contains(&epoch);
        if counts && self.reported.insert((epoch, from)) {
            self.note_answer(from, epoch, Step::Report { member: from, epoch: small(epoch) });
        }
    }

    fn note_answer(&mut self, from: u8, epoch: Epoch, step: Step) {
        let Some(trace) = &mut self.trace else { return };
        let epoch = small(epoch);
        let next = |s: &Step| matches!(*s, Step::Promise { member, epoch: e } if member == from && e > epoch);
        let at = trace.iter().position(next).unwrap_or(trace.len());
        trace.insert(at, step);
    }

    fn decide(&mut self) {
        let (n, request) = self.control.pop_front().expect("a request waits");
        match request {
            ControlRequest::Claim { base, life, .. } => {
                let known = life == Life(self.node(n).life);
                if base != self.view.active.epoch || self.max_epoch == Epoch(EPOCHS) || !known {
                    return;
                }
                self.max_epoch = self.max_epoch.next();
                let (epoch, primary) = (self.max_epoch, Some(id(n)));
                let configuration = Configuration { epoch, primary, ..self.view.active.clone() };
                self.view.pending = Some(Pending { configuration, base, life, same_primary: false });
                self.note(Step::Claim { node: n, members: 7 });
            }
            ControlRequest::Activate { epoch, .. } => {
                let Some(pending) = self.view.pending.take_if(|p| p.configuration.epoch == epoch) else { return };
                self.view.active = pending.configuration;
                self.view.nominee = None;
                self.note(Step::Activate { epoch: small(epoch) });
            }
            ControlRequest::Reconfigure { .. } | ControlRequest::NoteKept { .. } => {
                unreachable!("nobody changes the members of this world")
            }
        }
        self.publish();
    }

    /// The next command of a node's store; all appends that wait are one write.
    fn carry_out(&mut self, n: u8) {
        match self.node(n).store.pop_front().expect("a command waits") {
            Output::Append(mut records) => {
                while let Some(Output::Append(more)) =
                    self.node(n).store.pop_front_if(|o| matches!(o, Output::Append(_)))
                {
                    records.extend(more);
                }
                let last = records.last().expect("nobody appends nothing").lsn();
                self.node(n).log.extend(records);
                self.note(Step::Flush { node: n });
                self.input(n, Input::Durable(Durable::attest(last)));
            }
            Output::Promise(epoch) => {
                self.node(n).promised = epoch;
                self.note(Step::Promise { member: n, epoch: small(epoch) });
                self.report(n, n, epoch);
                self.input(n, Input::Promised(epoch));
            }
            Output::Adopt { epoch, table, cut_after } => {
                self.note(Step::Adopt { member: n, epoch: small(epoch) });
                self.adopt(n, epoch, table, cut_after);
            }
            other => panic!("no command of a store: {other:?}"),
        }
    }

    fn adopt(&mut self, n: u8, epoch: Epoch, table: EpochTable, cut_after: Lsn) {
        let node = self.node(n);
        node.log.retain(|r| r.lsn() <= cut_after);
        (node.promised, node.table, node.idle) = (node.promised.max(epoch), table, false);
        let last = node.log.last();
        let (last, last_hash) = (last.map_or(Lsn::ZERO, Record::lsn), last.map_or(0, Record::hash));
        self.input(n, Input::Adopted { epoch, last, last_hash });
    }

    fn input(&mut self, n: u8, input: Input) {
        let cause = match &input {
            Input::Message { message: Message::Append { epoch, .. }, .. } => Cause::Append(*epoch),
            Input::Message { from, message: Message::LogPart { epoch, .. } } => Cause::Fetch(*epoch, index(*from)),
            _ => Cause::Own,
        };
        let (now, mut out) = (self.now, Vec::new());
        let replica = &mut self.node(n).replica;
        replica.handle(input, now, &mut out);
        replica.maintain(now, &mut out);
        for output in out {
            self.carry(n, cause, output);
        }
    }

    fn carry(&mut self, n: u8, cause: Cause, output: Output) {
        match output {
            Output::Send { to, message } => self.send(n, index(to), message),
            Output::Control(request) => {
                if let ControlRequest::Activate { epoch, .. } = request
                    && self.requested.insert(epoch)
                {
                    self.note(Step::Request { epoch: small(epoch) });
                }
                self.control.push_back((n, request));
            }
            Output::Append(records) => {
                records.iter().for_each(|record| self.appended(n, cause, record));
                self.node(n).store.push_back(Output::Append(records));
            }
            Output::Adopt { epoch, table, cut_after } if self.leads(n, epoch) => {
                assert!(self.node(n).store.is_empty(), "a claimant has promised, so its store has drained");
                self.chosen.insert(epoch);
                self.adopt(n, epoch, table, cut_after);
            }
            Output::Promise(_) | Output::Adopt { .. } => self.node(n).store.push_back(output),
            Output::Commit(lsn) => {
                self.node(n).committed = lsn;
                self.input(n, Input::Applied(lsn, 0));
            }
            Output::ReadLog { tag, from, .. } => {
                let records = self.node(n).log.iter().filter(|r| r.lsn() >= from).cloned().collect();
                self.input(n, Input::LogRead { tag, records: Some(records) });
            }
            Output::Reply { key, result } => {
                result.expect("nothing is corrupt here");
                let (epoch, lsn) = self.written[&key.request.0];
                let lsn = u8::try_from(lsn.0).expect("few records");
                self.note(Step::Answer { epoch: small(epoch), lsn });
            }
            Output::Fail(why) => panic!("{} failed: {why}", id(n)),
            _ => {}
        }
    }

    fn appended(&mut self, n: u8, cause: Cause, record: &Record) {
        let is_start = record.header().kind == RecordKind::EpochStart;
        match cause {
            Cause::Append(epoch) => self.note(Step::Append { member: n, epoch: small(epoch) }),
            // The epoch's start follows the last record that was fetched, in the same step.
            Cause::Fetch(epoch, source) if record.epoch() < epoch => {
                self.note_answer(source, epoch, Step::Fetch { epoch: small(epoch) });
            }
            Cause::Fetch(..) | Cause::Own if is_start => self.node(n).idle = false,
            Cause::Fetch(..) => panic!("records of a new epoch are not fetched: {record:?}"),
            Cause::Own => {
                let (data, _) = record.block(BlockIndex(0)).expect("a write of one block");
                self.written.insert(u64::from(data[0]), (record.epoch(), record.lsn()));
                self.note(Step::Write { epoch: small(record.epoch()) });
            }
        }
    }

    fn send(&mut self, from: u8, to: u8, message: Message) {
        if let Message::Release { epoch, .. } = &message
            && self.released.insert(*epoch)
        {
            self.note(Step::Release { epoch: small(*epoch) });
        }
        let lane = self.lanes.get_mut(&(from, to)).expect("a lane for each pair");
        if let Message::AppendAck { epoch, .. } = &message {
            lane.retain(|m| !matches!(m, Message::AppendAck { epoch: older, .. } if older == epoch));
        }
        lane.push_back(message);
    }

    fn crash_somebody(&mut self) {
        let n = u8::try_from(self.rng.below(u64::from(NODES))).expect("three nodes");
        if self.crashes == 3 || self.node(n).idle {
            return;
        }
        self.crashes += 1;
        self.note(Step::Crash { node: n, landed: 0 });
        for other in (0..NODES).filter(|o| *o != n) {
            for pair in [(n, other), (other, n)] {
                self.lanes.get_mut(&pair).expect("a lane for each pair").clear();
            }
            self.input(other, Input::PeerDown(id(n)));
        }
        let (view, now) = (self.view.clone(), self.now);
        let node = self.node(n);
        (node.life, node.idle) = (node.life + 1, true);
        node.store.clear();
        node.views.clear();
        let opened = Node::opened(&node.log, node.promised, &node.table, node.committed);
        node.replica = Node::replica(n, node.life, &view, &opened, now);
        for other in (0..NODES).filter(|o| *o != n) {
            self.input(n, Input::PeerUp(id(other)));
            self.input(other, Input::PeerUp(id(n)));
        }
        self.node(n).views.push_back(view);
    }
}

impl Node {
    fn replica(n: u8, life: u64, view: &VolumeView, opened: &OpenedCopy, now: Time) -> Replica {
        Replica::new(id(n), Life(life), view.clone(), opened, Timers::default(), Limits::default(), now)
    }

    fn opened(log: &[Record], promised: Epoch, table: &EpochTable, committed: Lsn) -> OpenedCopy {
        let last = log.last();
        OpenedCopy {
            incarnation: Incarnation(7),
            sizes: Sizes::new(Resized {
                lsn: Lsn(0),
                size: VolumeSize::new(1 << 20).expect("a valid size"),
                decision: 0,
            }),
            promised,
            table: table.clone(),
            last: last.map_or(Lsn::ZERO, Record::lsn),
            last_epoch: last.map_or(Epoch::ZERO, Record::epoch),
            last_hash: last.map_or(0, Record::hash),
            committed,
            commit_hint: committed,
            applied: committed,
            digest: 0,
            checkpoint: Lsn::ZERO,
            first: Lsn(1),
            unknown_to: None,
            scrub: ScrubKept::default(),
        }
    }
}
