//! Simulated network, disks and applications, with the checkers.

use crate::{Input, MembershipChange, Output, Raft, RaftConfig, Stored};
use bytes::Bytes;
use holdfast_types::{NodeId, Rng};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const TICK_MS: u64 = 10;
/// Messages of a pair that are repeated when its connection comes back.
const REPEATED: usize = 4;

#[derive(Clone)]
pub(super) enum DiskOp {
    Batch(crate::PersistBatch),
    Compacted { first_index: u64, snapshot: Bytes },
}

enum Event {
    Tick(u64),
    Deliver { from: u64, to: u64, bytes: Bytes },
    Disk { node: u64, life: u64 },
}

pub(super) struct SimNode {
    pub(super) raft: Option<Raft>,
    pub(super) disk: Stored,
    life: u64,
    writing: VecDeque<DiskOp>,
    disk_free_at: u64,
    /// The application: commands with their indexes.
    pub(super) state: Vec<(u64, Bytes)>,
    pub(super) installed: u64,
}

pub(super) struct Net {
    pub(super) nodes: BTreeMap<u64, SimNode>,
    pub(super) now: u64,
    pub(super) rng: Rng,
    pub(super) cut: BTreeSet<(u64, u64)>,
    pub(super) hash: u64,
    /// Everything that any node ever applied.
    pub(super) known: Vec<(u64, Bytes)>,
    pub(super) dropped: Vec<u64>,
    pub(super) reads_done: usize,
    seed: u64,
    events: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    arrival: BTreeMap<(u64, u64), u64>,
    recent: BTreeMap<(u64, u64), VecDeque<Bytes>>,
    leaders: BTreeMap<u64, u64>,
    /// Length of `known` when the read was asked.
    reads: BTreeMap<u64, usize>,
    token: u64,
}

pub(super) fn encode_state(state: &[(u64, Bytes)]) -> Bytes {
    let mut bytes = Vec::new();
    for (index, data) in state {
        bytes.extend(index.to_le_bytes());
        bytes.extend(u64::try_from(data.len()).unwrap().to_le_bytes());
        bytes.extend(data.iter());
    }
    bytes.into()
}

fn decode_state(mut bytes: &[u8]) -> Vec<(u64, Bytes)> {
    let mut state = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(16) {
        let index = u64::from_le_bytes(head[..8].try_into().unwrap());
        let len = usize::try_from(u64::from_le_bytes(head[8..].try_into().unwrap())).unwrap();
        state.push((index, Bytes::copy_from_slice(&rest[..len])));
        bytes = &rest[len..];
    }
    state
}

impl Net {
    /// `n` nodes, of which the first has founded the group.
    pub(super) fn new(seed: u64, n: u64) -> Net {
        let mut net = Net {
            nodes: BTreeMap::new(),
            now: 0,
            rng: Rng::new(seed),
            cut: BTreeSet::new(),
            hash: 0xcbf2_9ce4_8422_2325,
            known: Vec::new(),
            dropped: Vec::new(),
            reads_done: 0,
            seed,
            events: BTreeMap::new(),
            sequence: 0,
            arrival: BTreeMap::new(),
            recent: BTreeMap::new(),
            leaders: BTreeMap::new(),
            reads: BTreeMap::new(),
            token: 0,
        };
        for id in 1..=n {
            let disk = if id == 1 { Stored::founding(NodeId(1), Bytes::new()) } else { Stored::default() };
            let node = SimNode {
                raft: None,
                disk,
                life: 0,
                writing: VecDeque::new(),
                disk_free_at: 0,
                state: Vec::new(),
                installed: 0,
            };
            net.nodes.insert(id, node);
            net.start(id);
            net.schedule(id, Event::Tick(id));
        }
        net
    }

    fn schedule(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now + delay, self.sequence), event);
    }

    pub(super) fn start(&mut self, id: u64) {
        let seed = self.seed.wrapping_mul(31).wrapping_add(id * 1000 + self.nodes[&id].life);
        let node = self.nodes.get_mut(&id).unwrap();
        if node.raft.is_none() {
            node.state.clear();
            node.raft = Some(Raft::new(RaftConfig::new(NodeId(id), seed), node.disk.clone()).unwrap());
        }
    }

    /// Everything not yet durable is gone.
    pub(super) fn crash(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.raft = None;
        node.life += 1;
        node.writing.clear();
        node.disk_free_at = 0;
    }

    pub(super) fn heal(&mut self) {
        for (a, b) in std::mem::take(&mut self.cut) {
            self.reconnect(a, b);
        }
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.start(id);
        }
    }

    pub(super) fn reconnect(&mut self, a: u64, b: u64) {
        self.cut.remove(&(a, b));
        for bytes in self.recent.get(&(a, b)).cloned().unwrap_or_default() {
            self.transmit(a, b, bytes);
        }
        self.input(a, Input::Unreachable(NodeId(b)));
    }

    fn transmit(&mut self, from: u64, to: u64, bytes: Bytes) {
        let delay = self.rng.range(1, 8);
        let at = (self.now + delay).max(*self.arrival.get(&(from, to)).unwrap_or(&0));
        self.arrival.insert((from, to), at);
        self.schedule(at - self.now, Event::Deliver { from, to, bytes });
    }

    pub(super) fn run(&mut self, ms: u64) {
        let end = self.now + ms;
        while let Some(((at, _), event)) = self.events.pop_first() {
            if at > end {
                self.events.insert((at, 0), event);
                break;
            }
            self.now = at;
            self.event(event);
        }
        self.now = end;
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Tick(id) => {
                self.schedule(TICK_MS, Event::Tick(id));
                self.input(id, Input::Tick);
            }
            Event::Deliver { from, to, bytes } => {
                if !self.cut.contains(&(from, to)) {
                    self.input(to, Input::Message { from: NodeId(from), bytes });
                }
            }
            Event::Disk { node, life } => self.disk_done(node, life),
        }
    }

    fn disk_done(&mut self, id: u64, life: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        if node.life != life {
            return;
        }
        match node.writing.pop_front().unwrap() {
            DiskOp::Batch(batch) => {
                node.disk.write(&batch);
                self.input(id, Input::Persisted { batch: batch.batch });
            }
            DiskOp::Compacted { first_index, snapshot } => node.disk.compact(first_index, snapshot),
        }
    }

    pub(super) fn input(&mut self, id: u64, input: Input) {
        // A forged sender is answered, and is nobody.
        let Some(mut raft) = self.nodes.get_mut(&id).and_then(|n| n.raft.take()) else { return };
        let mut out = Vec::new();
        raft.handle(input, &mut out);
        self.nodes.get_mut(&id).unwrap().raft = Some(raft);
        for output in out {
            self.note(id, &output);
            self.output(id, output);
        }
    }

    fn note(&mut self, id: u64, output: &Output) {
        for byte in format!("{} {id} {output:?}", self.now).bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn output(&mut self, id: u64, output: Output) {
        match output {
            Output::Persist(batch) => self.write(id, DiskOp::Batch(batch)),
            Output::Compacted { first_index, snapshot } => self.write(id, DiskOp::Compacted { first_index, snapshot }),
            Output::Send { to, bytes } => {
                let pair = (id, to.get());
                let recent = self.recent.entry(pair).or_default();
                recent.push_back(bytes.clone());
                if recent.len() > REPEATED {
                    recent.pop_front();
                }
                self.transmit(pair.0, pair.1, bytes);
            }
            Output::Apply { index, data } => {
                let state = &mut self.nodes.get_mut(&id).unwrap().state;
                assert!(state.last().is_none_or(|(last, _)| *last < index), "n{id} applied {index} twice");
                state.push((index, data));
                self.check_prefix(id);
            }
            Output::Restore { index, state } => {
                let node = self.nodes.get_mut(&id).unwrap();
                node.state = decode_state(&state);
                node.installed = index;
                self.check_prefix(id);
            }
            Output::MembershipApplied { .. } => {}
            Output::SnapshotWanted { index } => {
                let state = encode_state(&self.nodes[&id].state);
                self.input(id, Input::Compact { upto: index, state });
            }
            Output::Dropped { token, .. } => {
                self.reads.remove(&token);
                self.dropped.push(token);
            }
            Output::ReadReady { token, .. } => {
                let asked_at = self.reads.remove(&token).expect("a read is answered once");
                assert!(self.nodes[&id].state.len() >= asked_at, "a read on n{id} missed what was applied before it");
                self.reads_done += 1;
            }
            Output::RoleChanged { is_leader, term, .. } => {
                if is_leader {
                    let leader = *self.leaders.entry(term).or_insert(id);
                    assert_eq!(leader, id, "one leader in term {term}");
                }
            }
        }
    }

    fn write(&mut self, id: u64, op: DiskOp) {
        let delay = self.rng.range(1, 12);
        let now = self.now;
        let node = self.nodes.get_mut(&id).unwrap();
        node.writing.push_back(op);
        node.disk_free_at = node.disk_free_at.max(now) + delay;
        let (at, life) = (node.disk_free_at - now, node.life);
        self.schedule(at, Event::Disk { node: id, life });
    }

    /// Applied sequences are prefixes of each other, for ever.
    fn check_prefix(&mut self, id: u64) {
        let state = &self.nodes[&id].state;
        let common = state.len().min(self.known.len());
        // Comparing the end is enough for an Apply; a Restore changes all of it.
        assert_eq!(state[..common], self.known[..common], "n{id} applied something else");
        self.known.extend_from_slice(&state[common..]);
    }

    pub(super) fn leader(&self) -> Option<u64> {
        let leading = |n: &SimNode| n.raft.as_ref().map(Raft::status).filter(|s| s.is_leader).map(|s| s.term);
        self.nodes.iter().filter_map(|(id, n)| leading(n).map(|term| (term, *id))).max().map(|(_, id)| id)
    }

    pub(super) fn status(&self, id: u64) -> crate::RaftStatus {
        self.nodes[&id].raft.as_ref().unwrap().status()
    }

    pub(super) fn propose(&mut self, id: u64) -> u64 {
        self.token += 1;
        let data = Bytes::from(format!("command {}", self.token));
        self.input(id, Input::Propose { token: self.token, data });
        self.token
    }

    pub(super) fn read(&mut self, id: u64) {
        if self.nodes[&id].raft.is_some() {
            self.token += 1;
            self.reads.insert(self.token, self.known.len());
            self.input(id, Input::ReadIndex { token: self.token });
        }
    }

    pub(super) fn change(&mut self, id: u64, change: MembershipChange) {
        self.token += 1;
        self.input(id, Input::ChangeMembership { token: self.token, change });
    }

    pub(super) fn compact(&mut self, id: u64) {
        let node = &self.nodes[&id];
        if let Some(raft) = &node.raft {
            let (upto, state) = (raft.status().applied, encode_state(&node.state));
            self.input(id, Input::Compact { upto, state });
        }
    }

    /// One step towards everybody voting, as the agent does it.
    pub(super) fn grow(&mut self, n: u64) {
        let Some(leader) = self.leader() else { return };
        let status = self.status(leader);
        for id in (1..=n).map(NodeId) {
            let caught_up = |p: &&crate::PeerProgress| p.node == id && p.matched + 5 > status.commit;
            if status.voters.contains(&id) {
                continue;
            }
            if !status.learners.contains(&id) {
                self.change(leader, MembershipChange::AddLearner(id));
            } else if status.progress.iter().find(caught_up).is_some() {
                self.change(leader, MembershipChange::AddVoter(id));
            }
            return;
        }
    }

    pub(super) fn grown(seed: u64, n: u64) -> Net {
        let mut net = Net::new(seed, n);
        for _ in 0..200 {
            net.run(20);
            net.grow(n);
            let all = (1..=n).all(|id| net.status(id).voters.len() == usize::try_from(n).unwrap());
            if all {
                return net;
            }
        }
        panic!("seed {seed}: the group did not grow to {n}: {:?}", net.status(1));
    }

    /// After the storm: everybody is back and the group works.
    pub(super) fn must_work(&mut self) {
        self.heal();
        self.run(3000);
        let leader = self.leader().unwrap_or_else(|| panic!("seed {}: no leader after healing", self.seed));
        let token = self.propose(leader);
        self.run(2000);
        let wanted = Bytes::from(format!("command {token}"));
        for (id, node) in &self.nodes {
            assert_eq!(node.state, self.known, "seed {}: n{id} lacks what was applied elsewhere", self.seed);
            assert!(node.state.iter().any(|(_, data)| *data == wanted), "seed {}: n{id} lacks {wanted:?}", self.seed);
        }
    }
}
