//! Three control planes in one process, on a network with seeded delays and losses.

use super::*;
use crate::upkeep::{Task, Upkeep};
use holdfast_cluster::{CopyReport, CopyRole, CopyState, Duty, Integrity, Outcome, RefusalKind, SpaceLeft};
use holdfast_types::{ClusterId, Durability, Epoch, GuestLimits, Incarnation, Life, Lsn, Rng, SocketAccess, VolumeId};

mod regime;
mod scale;
mod told;
mod versions;

const N1: NodeId = NodeId(1);
const N2: NodeId = NodeId(2);
const N3: NodeId = NodeId(3);
const CLUSTER: ClusterId = ClusterId(7);
const V1: VolumeId = VolumeId(1);

enum Due {
    Message { from: NodeId, to: NodeId, bytes: Bytes },
    Persisted { node: NodeId, batch: u64 },
}

#[derive(Default)]
struct Seen {
    local: LocalView,
    peers: BTreeMap<NodeId, String>,
    upkeep: Vec<Upkeep>,
    done: Vec<(u64, Result<Outcome, Failure>)>,
    events: Vec<Event>,
    removed: bool,
    version: Option<ClusterVersion>,
    /// Why it ended, where that is looked for.
    fatal: Option<String>,
    superseded: Option<Recovery>,
    /// Snapshots that it made of its own state.
    compacted: usize,
}

struct Net {
    now: Time,
    rng: Rng,
    controls: BTreeMap<NodeId, Control>,
    stored: BTreeMap<NodeId, Stored>,
    recoveries: BTreeMap<NodeId, Recovery>,
    seen: BTreeMap<NodeId, Seen>,
    lives: u64,
    due: BTreeMap<(Time, u64), Due>,
    sequence: u64,
    /// When the newest message of a pair arrives: a pair's messages stay in order.
    arrival: BTreeMap<(NodeId, NodeId), Time>,
    cut: BTreeSet<NodeId>,
    loss_per_million: u32,
    /// Handed over so far, whatever became of it.
    bytes: usize,
    /// What nodes speak that do not speak everything.
    speaks: BTreeMap<NodeId, Speaks>,
    /// Nodes that may end with a sentence.
    may_end: BTreeSet<NodeId>,
    snapshot_every: u64,
}

fn node(name: &str) -> Command {
    Command::AddNode {
        name: name.to_owned(),
        address: format!("{name}:7400"),
        failure_domain: name.to_owned(),
        voter: true,
        witness: false,
        fingerprint: "ab".to_owned(),
        token_id: None,
    }
}

fn volume(name: &str, nodes: &[NodeId]) -> Command {
    let write_quorum = u8::try_from(nodes.len() / 2 + 1).unwrap();
    let nodes = nodes.to_vec();
    Command::CreateVolume {
        name: name.to_owned(),
        size: 1 << 30,
        durability: Durability::Sync,
        write_quorum,
        nodes,
        primary: None,
        degraded: None,
        limits: GuestLimits::default(),
        socket: SocketAccess::default(),
    }
}

impl Net {
    /// One founding node.
    fn new(seed: u64) -> Net {
        let mut state = State::new(CLUSTER, "test");
        assert_eq!(state.apply(&node("alpha")), Ok(Outcome::Node(N1)));
        Net::founded(seed, state)
    }

    /// The founding node of a cluster with this state.
    fn founded(seed: u64, state: State) -> Net {
        let mut net = Net {
            now: Time(1_000_000_000),
            rng: Rng::new(seed),
            controls: BTreeMap::new(),
            stored: BTreeMap::from([(N1, Stored::founding(N1, founding_snapshot(state)))]),
            recoveries: BTreeMap::new(),
            seen: BTreeMap::new(),
            lives: 1,
            due: BTreeMap::new(),
            sequence: 0,
            arrival: BTreeMap::new(),
            cut: BTreeSet::new(),
            loss_per_million: 0,
            bytes: 0,
            speaks: BTreeMap::new(),
            may_end: BTreeSet::new(),
            snapshot_every: 20,
        };
        net.start(N1);
        net
    }

    /// Three nodes that all vote.
    fn three(seed: u64) -> Net {
        let mut net = Net::new(seed);
        net.run(3000);
        assert_eq!(net.propose(N1, node("beta")), Ok(Outcome::Node(N2)));
        net.start(N2);
        assert_eq!(net.propose(N1, node("gamma")), Ok(Outcome::Node(N3)));
        net.start(N3);
        let voters = |net: &Net| net.controls[&N1].raft_status().voters.len() == 3;
        assert!(net.until(20_000, voters), "both become voters: {:?}", net.controls[&N1].raft_status());
        net
    }

    fn start(&mut self, id: NodeId) {
        self.lives += 1;
        let peers = BTreeMap::from([(N1, "alpha:7400".to_owned())]);
        let config = ControlConfig {
            peers,
            snapshot_every: self.snapshot_every,
            speaks: self.speaks.get(&id).copied().unwrap_or(Speaks::THIS),
            build: format!("build of {id}"),
            recovery: self.recoveries.get(&id).cloned(),
            ..ControlConfig::new(CLUSTER, id, Life(self.lives), self.rng.next_u64())
        };
        let stored = self.stored.entry(id).or_default().clone();
        let control = Control::new(config, stored, self.now).unwrap();
        self.controls.insert(id, control);
        let seen = self.seen.entry(id).or_default();
        (seen.local, seen.fatal) = (LocalView::default(), None);
        self.input(id, Input::Tick);
        let others: Vec<NodeId> = self.controls.keys().copied().filter(|n| *n != id).collect();
        for other in others {
            self.input(id, Input::PeerUp(other));
            self.input(other, Input::PeerUp(id));
        }
    }

    fn kill(&mut self, id: NodeId) {
        self.controls.remove(&id);
        self.due.retain(|_, due| !matches!(due, Due::Persisted { node, .. } if *node == id));
    }

    fn input(&mut self, id: NodeId, input: Input) {
        let mut out = Vec::new();
        let Some(control) = self.controls.get_mut(&id) else { return };
        control.handle(input, self.now, &mut out);
        for output in out {
            self.output(id, output);
        }
    }

    fn output(&mut self, id: NodeId, output: Output) {
        let seen = self.seen.entry(id).or_default();
        let acts = matches!(output, Output::Local(_) | Output::Compact { .. } | Output::Version(_) | Output::Fatal(_));
        assert!(!acts || seen.fatal.is_none(), "{id} gave up and goes on: {output:?}");
        match output {
            Output::Send { to, bytes } => self.send(id, to, bytes),
            Output::Persist(batch) => {
                self.stored.entry(id).or_default().write(&batch);
                let at = self.now + Duration::from_micros(self.rng.range(100, 5000));
                self.later(at, Due::Persisted { node: id, batch: batch.batch });
            }
            Output::Compact { first_index, snapshot } => {
                seen.compacted += 1;
                self.stored.entry(id).or_default().compact(first_index, snapshot)
            }
            Output::Local(local) => seen.local = local,
            Output::Peers(peers) => seen.peers = peers,
            Output::Upkeep(wish) => seen.upkeep.push(wish),
            Output::Done { token, result } => seen.done.push((token, result)),
            Output::Event(event) => seen.events.push(event),
            Output::Removed => seen.removed = true,
            Output::Adopt { batch, recovery } => {
                self.stored.insert(id, Stored::default());
                self.recoveries.insert(id, recovery);
                self.later(self.now + Duration::from_millis(1), Due::Persisted { node: id, batch });
            }
            Output::Superseded(recovery) => {
                seen.superseded = Some(recovery);
                self.kill(id);
            }
            Output::Version(version) => seen.version = Some(version),
            Output::Fatal(why) if self.may_end.contains(&id) => {
                seen.fatal.get_or_insert(why);
                self.kill(id);
            }
            Output::Fatal(why) => panic!("{id}: {why}"),
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, bytes: Bytes) {
        self.bytes += bytes.len();
        if self.cut.contains(&from) || self.cut.contains(&to) || self.rng.chance(self.loss_per_million) {
            return;
        }
        let earliest = self.now + Duration::from_micros(self.rng.range(50, 3000));
        let at = earliest.max(self.arrival.get(&(from, to)).copied().unwrap_or_default());
        self.arrival.insert((from, to), at);
        self.later(at, Due::Message { from, to, bytes });
    }

    fn later(&mut self, at: Time, due: Due) {
        self.sequence += 1;
        self.due.insert((at, self.sequence), due);
    }

    /// The next thing that happens; the clock jumps to it.
    fn step(&mut self) {
        let timer = self.controls.iter().map(|(id, c)| (c.next_timeout(), *id)).min();
        let next = self.due.keys().next().copied();
        match (next, timer) {
            (Some((at, sequence)), timer) if timer.is_none_or(|(t, _)| at <= t) => {
                self.now = self.now.max(at);
                match self.due.remove(&(at, sequence)).unwrap() {
                    Due::Message { from, to, bytes } => self.input(to, Input::Message { from, bytes }),
                    Due::Persisted { node, batch } => self.input(node, Input::Persisted { batch }),
                }
            }
            (_, Some((at, id))) => {
                self.now = self.now.max(at);
                self.input(id, Input::Tick);
            }
            (None | Some(_), None) => panic!("nothing will ever happen"),
        }
    }

    fn run(&mut self, millis: u64) {
        self.until(millis, |_| false);
    }

    fn until(&mut self, millis: u64, done: impl Fn(&Net) -> bool) -> bool {
        let end = self.now + Duration::from_millis(millis);
        while self.now < end {
            if done(self) {
                return true;
            }
            self.step();
        }
        done(self)
    }

    fn propose(&mut self, id: NodeId, command: Command) -> Result<Outcome, Failure> {
        let token = self.ask(id, command);
        assert!(self.until(15_000, |net| net.answer(id, token).is_some()), "every caller is answered");
        self.answer(id, token).unwrap()
    }

    fn ask(&mut self, id: NodeId, command: Command) -> u64 {
        self.sequence += 1;
        let token = self.sequence;
        self.input(id, Input::Propose { token, command });
        token
    }

    fn answer(&self, id: NodeId, token: u64) -> Option<Result<Outcome, Failure>> {
        let answers: Vec<_> = self.seen[&id].done.iter().filter(|(t, _)| *t == token).collect();
        assert!(answers.len() <= 1, "a caller gets one answer");
        answers.first().map(|(_, result)| result.clone())
    }

    fn leader(&self) -> Option<NodeId> {
        self.controls.iter().find(|(_, c)| c.raft_status().is_leader).map(|(id, _)| *id)
    }

    fn view(&self, id: NodeId) -> Option<&holdfast_types::VolumeView> {
        self.seen[&id].local.views.first()
    }

    /// A volume on all three whose copies exist.
    fn with_volume(seed: u64) -> Net {
        let mut net = Net::three(seed);
        assert_eq!(net.propose(N2, volume("vm", &[N1, N2, N3])), Ok(Outcome::Volume(V1)));
        for id in [N1, N2, N3] {
            assert!(net.until(2000, |net| !net.seen[&id].local.create.is_empty()), "{id} is told to make its copy");
            net.input(id, Input::CopyCreated { volume: V1, incarnation: Incarnation(id.0 + 100) });
            net.input(id, Input::Reports(vec![report(CopyRole::Secondary, CopyState::Sealed)]));
        }
        let nominee = |net: &Net| [N1, N2, N3].iter().all(|n| net.view(*n).is_some_and(|v| v.nominee.is_some()));
        assert!(net.until(5000, nominee), "with all copies registered, there is a nominee");
        net
    }

    /// What the nominee's replica would do.
    fn open(&mut self, id: NodeId) {
        let base = self.view(id).unwrap().active.epoch;
        let life = Life(self.lives);
        self.input(id, Input::Request(ControlRequest::Claim { volume: V1, base, life }));
        let pending = |net: &Net| {
            net.view(id).is_some_and(|v| v.pending.as_ref().is_some_and(|p| p.configuration.primary == Some(id)))
        };
        assert!(self.until(5000, pending), "the claim shows as pending");
        let epoch = self.view(id).unwrap().pending.as_ref().unwrap().configuration.epoch;
        self.input(id, Input::Request(ControlRequest::Activate { volume: V1, epoch }));
        assert!(self.until(5000, |net| net.view(id).unwrap().active.epoch == epoch), "the epoch is active");
        self.input(id, Input::Reports(vec![report(CopyRole::Primary, CopyState::Serving)]));
    }
}

fn report(role: CopyRole, state: CopyState) -> CopyReport {
    CopyReport {
        volume: V1,
        epoch: Epoch(1),
        role,
        state,
        received: Lsn(1),
        durable: Lsn(1),
        committed: Lsn(1),
        applied: Lsn(1),
        digest: None,
        reason: None,
        switchover: false,
        lost: Vec::new(),
        learners: Vec::new(),
        absent: Vec::new(),
        damaged: None,
        unknown_reign: false,
        asked_for: false,
        space: SpaceLeft::Enough,
        integrity: Integrity::default(),
        orphans: Vec::new(),
        resync: None,
        exposure: holdfast_cluster::Exposure::default(),
        slow: Vec::new(),
        clients: 0,
        size: None,
        hung: None,
    }
}

#[test]
fn one_node_leads_itself_and_answers() {
    let mut net = Net::new(1);
    assert!(net.until(5000, |net| net.leader() == Some(N1)));
    assert_eq!(net.propose(N1, volume("vm", &[N1])), Ok(Outcome::Volume(V1)));
    let refused = net.propose(N1, volume("vm", &[N1]));
    assert!(matches!(refused, Err(Failure::Refused(r)) if r.kind == RefusalKind::Exists));
    assert_eq!(net.seen[&N1].peers, BTreeMap::from([(N1, "alpha:7400".to_owned())]));
}

#[test]
fn a_volume_opens_and_survives_the_death_of_its_primary_and_the_leader() {
    for seed in 0..20 {
        let mut net = Net::with_volume(seed);
        let first = net.view(N1).unwrap().nominee.unwrap().node;
        assert_eq!(first, N1);
        net.open(N1);
        let told = |net: &Net| {
            net.seen[&N2].events.iter().any(|e| e.kind == EventKind::Epoch && e.volume.as_deref() == Some("vm"))
        };
        assert!(net.until(2000, told), "every node tells its operator");
        net.run(2000);
        assert_eq!(net.view(N2).unwrap().active.epoch, Epoch(1), "a serving primary is left alone");

        let leader = net.leader().unwrap();
        net.kill(leader);
        if leader != N1 {
            net.kill(N1);
            net.start(leader);
        }
        let started = net.now;
        let other =
            |net: &Net| [N2, N3].iter().any(|n| net.view(*n).is_some_and(|v| v.nominee.is_some_and(|n| n.node != N1)));
        assert!(net.until(8000, other), "another copy is nominated, seed {seed}");
        assert!(net.now.since(started) < Duration::from_secs(6));
        let next = net.view(N2).unwrap().nominee.or(net.view(N3).unwrap().nominee).unwrap().node;
        net.until(1000, |net| net.view(next).unwrap().nominee.is_some());
        net.open(next);
        assert_eq!(net.view(next).unwrap().active.epoch, Epoch(2));
    }
}

/// Until three vote, the loss of one node may be the loss of the majority.
#[test]
fn newcomers_vote_soon_and_the_leader_alone_makes_them_a_snapshot() {
    let mut net = Net::new(12);
    net.controls.clear();
    net.snapshot_every = 10_000;
    net.start(N1);
    net.run(3000);
    for (id, name) in [(N2, "beta"), (N3, "gamma"), (NodeId(4), "delta"), (NodeId(5), "epsilon")] {
        assert_eq!(net.propose(N1, node(name)), Ok(Outcome::Node(id)));
        net.start(id);
    }
    let voters = |net: &Net| net.controls[&N1].raft_status().voters.len() == 5;
    assert!(net.until(1500, voters), "{:?}", net.controls[&N1].raft_status());
    net.run(1000);
    let made: Vec<usize> = net.seen.values().map(|seen| seen.compacted).collect();
    assert!(made[0] >= 1 && made[1..].iter().all(|n| *n == 0), "{made:?}");
}

#[test]
fn proposals_on_every_node_are_answered_once_in_spite_of_losses() {
    for seed in 0..10 {
        let mut net = Net::three(100 + seed);
        net.loss_per_million = 100_000;
        let mut asked = Vec::new();
        for round in 0..12 {
            for id in [N1, N2, N3] {
                let name = format!("v{round}-{id}");
                asked.push((id, net.ask(id, volume(&name, &[N1, N2, N3]))));
                net.run(30);
            }
        }
        net.loss_per_million = 0;
        let all = |net: &Net| asked.iter().all(|(id, token)| net.answer(*id, *token).is_some());
        assert!(net.until(20_000, all));
        net.run(2000);
        let created =
            asked.iter().filter(|(id, token)| matches!(net.answer(*id, *token), Some(Ok(Outcome::Volume(_))))).count();
        let refused: Vec<_> = asked.iter().filter_map(|(id, token)| net.answer(*id, *token)?.err()).collect();
        // A proposal that was in the log twice would have been refused the second time as `Exists`.
        assert!(refused.iter().all(|f| !matches!(f, Failure::Refused(_))), "{refused:?}");
        let states: Vec<_> = net.controls.values().map(|c| c.state().unwrap().encode()).collect();
        assert!(states.windows(2).all(|w| w[0] == w[1]), "all nodes agree");
        let volumes = net.controls[&N1].state().unwrap().volumes.len();
        assert!(volumes >= created && created >= 30, "{created} of {} created, {volumes} exist", asked.len());
    }
}

#[test]
fn a_proposal_outlives_the_leader_that_took_it() {
    for seed in 0..20 {
        let mut net = Net::three(200 + seed);
        let leader = net.leader().unwrap();
        let proposer = [N1, N2, N3].into_iter().find(|n| *n != leader).unwrap();
        let token = net.ask(proposer, volume("vm", &[N1, N2, N3]));
        net.run(seed % 7);
        net.kill(leader);
        assert!(net.until(10_000, |net| net.answer(proposer, token).is_some()));
        assert_eq!(net.answer(proposer, token), Some(Ok(Outcome::Volume(V1))), "seed {seed}");
        net.start(leader);
        let same = |net: &Net| net.controls[&leader].state().is_some_and(|s| s.volumes.len() == 1);
        assert!(net.until(10_000, same), "the old leader learns of it");
    }
}

#[test]
fn without_a_majority_the_caller_is_told_who_answers() {
    let mut net = Net::three(3);
    net.kill(N2);
    net.kill(N3);
    let Err(failure) = net.propose(N1, volume("vm", &[N1])) else { panic!("one of three decides nothing") };
    let text = failure.to_string();
    assert!(text.contains("of the voters alpha, beta, gamma only these answer: alpha; 2 are needed"), "{text}");
    assert!(net.seen[&N1].events.iter().any(|e| e.kind == EventKind::NodeDown));
}

#[test]
fn a_restarted_node_has_its_state_and_a_partitioned_one_catches_up_by_snapshot() {
    let mut net = Net::three(4);
    net.cut.insert(N3);
    let leader_side = |net: &Net| net.leader().is_some_and(|l| l != N3);
    assert!(net.until(5000, leader_side));
    for i in 0..50 {
        assert!(net.propose(N1, volume(&format!("v{i}"), &[N1, N2])).is_ok());
    }
    net.kill(N1);
    net.start(N1);
    net.cut.clear();
    let caught_up = |net: &Net| net.controls.values().all(|c| c.state().is_some_and(|s| s.volumes.len() == 50));
    assert!(net.until(10_000, caught_up));
    let stored = &net.stored[&N1];
    assert!(stored.entries.len() <= 45, "the log is compacted: {} entries", stored.entries.len());
}

#[test]
fn a_copy_that_lost_its_memory_is_said_not_to_count() {
    let mut net = Net::with_volume(5);
    net.input(N2, Input::CopyCreated { volume: V1, incarnation: Incarnation(999) });
    assert!(net.seen[&N2].events.iter().any(|e| e.kind == EventKind::CopyFailed));
    assert_eq!(net.seen[&N2].local.registered[&V1], Incarnation(102));
}

#[test]
fn a_deleted_volume_goes_when_its_last_copy_went() {
    let mut net = Net::with_volume(6);
    assert_eq!(net.propose(N3, Command::DeleteVolume { volume: V1 }), Ok(Outcome::Done));
    for id in [N1, N2, N3] {
        assert!(net.until(2000, |net| net.seen[&id].local.delete == [V1]), "{id} is told");
        assert_eq!(net.view(id), None);
        net.input(id, Input::CopyDeleted { volume: V1 });
    }
    let gone = |net: &Net| net.controls.values().all(|c| c.state().is_some_and(|s| s.volumes.is_empty()));
    assert!(net.until(5000, gone));
}

#[test]
fn a_peer_speaks_for_itself_alone() {
    let mut net = Net::three(7);
    let leader = net.leader().unwrap();
    let before = net.controls[&leader].raft_status().last_index;
    let forged =
        Envelope { node: N1, life: Life(1), id: 1, oldest: 1, command: Bytes::from(volume("x", &[N1]).encode()) };
    let bytes = Message::Forward(forged.encode()).encode();
    net.input(leader, Input::Message { from: NodeId(77), bytes });
    net.input(leader, Input::Message { from: N2, bytes: Bytes::from_static(b"\x01garbage") });
    net.input(leader, Input::Message { from: N2, bytes: Bytes::from_static(b"\x02garbage") });
    assert_eq!(net.controls[&leader].raft_status().last_index, before);
}

#[test]
fn a_newcomer_learns_of_nodes_from_whoever_it_reaches() {
    let mut net = Net::three(11);
    let n4 = NodeId(4);
    assert_eq!(net.propose(N1, node("delta")), Ok(Outcome::Node(n4)));
    let config = ControlConfig {
        peers: BTreeMap::from([(N1, "alpha:7400".to_owned())]),
        ..ControlConfig::new(CLUSTER, n4, Life(99), net.rng.next_u64())
    };
    let control = Control::new(config, Stored::default(), net.now).unwrap();
    net.controls.insert(n4, control);
    net.input(n4, Input::Tick);
    assert_eq!(net.seen[&n4].peers.keys().copied().collect::<Vec<_>>(), [N1], "what it was told when it joined");
    // It reaches N1 alone, which need not be the one that leads and sends it the log.
    net.controls.retain(|id, _| *id == N1 || *id == n4);
    net.input(N1, Input::PeerUp(n4));
    net.input(n4, Input::PeerUp(N1));
    assert!(net.until(1000, |net| net.seen[&n4].peers.len() == 4), "{:?}", net.seen[&n4].peers);
}

#[test]
fn wishes_reach_the_node_that_they_are_for_and_no_other() {
    let mut net = Net::three(12);
    net.run(5000);
    let scrub = Upkeep { volume: VolumeId(1), run: 7, task: Task::Scrub { bytes_per_second: 1 << 20 } };
    let verify = Upkeep { volume: VolumeId(2), run: 8, task: Task::Verify };
    net.loss_per_million = 0;
    net.input(N1, Input::Upkeep { node: N1, wish: verify });
    net.input(N1, Input::Upkeep { node: NodeId(2), wish: scrub });
    net.run(1000);
    assert_eq!(net.seen[&N1].upkeep, [verify]);
    assert_eq!(net.seen[&NodeId(2)].upkeep, [scrub]);
    assert!(net.seen[&NodeId(3)].upkeep.is_empty());
}

#[test]
fn a_node_that_ends_hands_over_to_one_that_follows_and_to_the_next_if_nothing_comes_of_it() {
    let mut net = Net::with_volume(21);
    net.open(N1);
    for id in [N2, N3] {
        net.input(id, Input::Reports(vec![report(CopyRole::Secondary, CopyState::InSync)]));
    }
    net.input(N3, Input::Reports(vec![report(CopyRole::Secondary, CopyState::CatchingUp)]));
    net.run(3000);
    assert_eq!((net.controls[&N1].led(), net.controls[&N2].led()), (1, 0));
    assert_eq!(net.view(N1).unwrap().nominee, None, "nobody was asked");
    net.input(N1, Input::HandOver);
    let nominee = |net: &Net| net.view(N2).and_then(|v| v.nominee);
    assert!(net.until(1000, |net| nominee(net).is_some_and(|n| n.node == N2 && n.planned)), "{:?}", nominee(&net));
    net.input(N3, Input::Reports(vec![report(CopyRole::Secondary, CopyState::InSync)]));
    assert!(
        net.until(10_000, |net| nominee(net).is_some_and(|n| n.node == N3)),
        "N2 does nothing: {:?}",
        nominee(&net)
    );
    assert_eq!(net.controls[&N1].to_hand_over(net.now), 1);
    net.open(N3);
    net.run(500);
    assert_eq!((net.controls[&N1].to_hand_over(net.now), net.controls[&N1].led()), (0, 0));
    net.input(N3, Input::HandOver);
    net.kill(N1);
    net.kill(N2);
    net.run(2000);
    assert_eq!(net.controls[&N3].to_hand_over(net.now), 0, "nobody is left to be waited for");
}

#[test]
fn a_node_that_restarts_keeps_what_it_leads_and_lets_another_lead_raft() {
    let mut net = Net::with_volume(22);
    net.open(N1);
    for id in [N2, N3] {
        net.input(id, Input::Reports(vec![report(CopyRole::Secondary, CopyState::InSync)]));
    }
    net.run(3000);
    net.input(N1, Input::Restarts { within: Duration::from_secs(15) });
    net.run(100);
    let leader = net.leader().unwrap();
    net.input(leader, Input::StepDown);
    assert!(
        net.until(2000, |net| net.leader().is_some_and(|l| l != leader)),
        "another one leads, without an election timeout"
    );
    net.kill(N1);
    net.run(12_000);
    assert_eq!(net.view(N2).unwrap().nominee, None, "it is waited for, whoever leads Raft by now");
    assert!(net.controls[&N2].detector().restarting(N1, net.now).is_some());
    let taken = |net: &Net| net.view(N2).unwrap().nominee.is_some();
    assert!(net.until(8000, taken), "and no longer than it asked for");
}

#[test]
fn another_clusters_log_is_refused() {
    let foreign = State::new(ClusterId(8), "other");
    let stored = Stored::founding(N1, founding_snapshot(foreign));
    let config = ControlConfig::new(CLUSTER, N1, Life(1), 1);
    let mut control = Control::new(config, stored, Time(1)).unwrap();
    let mut out = Vec::new();
    control.handle(Input::Tick, Time(1), &mut out);
    let fatal = out.iter().find_map(|o| if let Output::Fatal(reason) = o { Some(reason) } else { None });
    let reason = fatal.expect("a state of another cluster ends the control plane");
    assert!(reason.contains(&CLUSTER.to_string()) && reason.contains(&ClusterId(8).to_string()), "{reason}");
    assert!(control.state().is_none(), "nothing of it is taken over");
}

#[test]
fn a_leader_that_is_to_leave_hands_over_loses_its_vote_and_is_told() {
    let mut net = Net::three(14);
    net.loss_per_million = 0;
    assert!(net.until(5000, |net| net.controls[&N1].raft_status().voters.len() == 3), "all three vote");
    let leader = net.leader().unwrap();
    let asked = if leader == N1 { N2 } else { N1 };
    let leave = Command::WantNode { node: leader, wanted: Duty::Removed };
    assert_eq!(net.propose(asked, leave), Ok(Outcome::Done));
    let gone = |net: &Net| {
        let control = &net.controls[&asked];
        let status = control.raft_status();
        let in_raft = status.voters.contains(&leader) || status.learners.contains(&leader);
        !in_raft && control.state().unwrap().node(leader).is_none()
    };
    assert!(net.until(20_000, gone), "{:?}", net.controls[&asked].raft_status());
    assert_eq!(net.controls[&asked].raft_status().voters.len(), 2);
    assert!(net.seen[&leader].removed, "it heard of it while the others still talked to it");
    assert!(!net.seen[&asked].removed);
}

#[test]
fn a_vote_is_not_taken_where_the_rest_could_not_agree() {
    let mut net = Net::three(15);
    net.loss_per_million = 0;
    assert!(net.until(5000, |net| net.controls[&N1].raft_status().voters.len() == 3), "all three vote");
    let leader = net.leader().unwrap();
    let others: Vec<NodeId> = [N1, N2, N3].into_iter().filter(|n| *n != leader).collect();
    net.cut.insert(others[0]);
    net.run(5000);
    let leave = Command::WantNode { node: others[1], wanted: Duty::Removed };
    assert_eq!(net.propose(leader, leave), Ok(Outcome::Done));
    net.run(10_000);
    assert_eq!(net.controls[&leader].raft_status().voters.len(), 3, "one of the two others does not answer");
    net.cut.clear();
    assert!(net.until(20_000, |net| net.controls[&leader].raft_status().voters.len() == 2));
}
