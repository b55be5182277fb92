//! Who is nominated when.

use super::*;
use crate::{CopyReport, CopyRole, CopyState, Detector, Heartbeat, Integrity, SpaceLeft, placement};
use holdfast_types::{ClusterVersion, Lsn, Speaks, Time};
use std::time::Duration;

const ME: NodeId = NodeId(3);

pub(crate) fn report(role: CopyRole, state: CopyState, epoch: u64, durable: u64) -> CopyReport {
    let (at, zero) = (Lsn(durable), Lsn(0));
    CopyReport {
        slow: Vec::new(),
        volume: VolumeId(1),
        epoch: Epoch(epoch),
        role,
        state,
        received: at,
        durable: at,
        committed: zero,
        applied: zero,
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
        exposure: crate::Exposure::default(),
        clients: 0,
        size: None,
        hung: None,
    }
}

fn failed() -> CopyReport {
    report(CopyRole::Idle, CopyState::Failed { reason: "EIO".into() }, 1, 99)
}

pub(crate) fn serving() -> CopyReport {
    report(CopyRole::Primary, CopyState::Serving, 1, 10)
}

pub(crate) fn in_sync(durable: u64) -> CopyReport {
    report(CopyRole::Secondary, CopyState::InSync, 1, durable)
}

pub(crate) struct Scene {
    pub(crate) state: State,
    pub(crate) detector: Detector,
    pub(crate) now: Time,
    /// What each live node says.
    live: Vec<(u64, Option<CopyReport>)>,
    is_leader: bool,
    /// Every command decided, with its time in ms.
    log: Vec<(u64, Command)>,
    /// Whether the state sees them.
    applies: bool,
}

impl Scene {
    pub(crate) fn new(state: State, live: Vec<(u64, Option<CopyReport>)>) -> Scene {
        let detector = Detector::new(Duration::from_secs(1), Time::ZERO);
        Scene { state, detector, now: Time::ZERO, live, is_leader: true, log: Vec::new(), applies: true }
    }

    pub(crate) fn run(&mut self, ms: u64) -> Vec<Command> {
        let before = self.log.len();
        for _ in 0..ms / 100 {
            self.now = self.now + Duration::from_millis(100);
            for (node, copy) in &self.live {
                let copies = copy.iter().cloned().collect();
                self.detector.heard(
                    Heartbeat { node: NodeId(*node), life: 1, copies, free_bytes: None, longest_file: None },
                    self.now,
                );
            }
            for command in self.detector.decide(&self.state, ME, self.is_leader, self.now) {
                if self.applies {
                    self.state.apply(&command).expect("decisions are carried out");
                }
                self.log.push((self.now.0 / 1_000_000, command));
            }
        }
        self.log[before..].iter().map(|(_, c)| c.clone()).collect()
    }

    pub(crate) fn say(&mut self, node: u64, copy: Option<CopyReport>) {
        self.live.retain(|(n, _)| *n != node);
        self.live.push((node, copy));
    }

    pub(crate) fn silence(&mut self, node: u64) {
        self.live.retain(|(n, _)| *n != node);
    }

    fn healthy() -> Scene {
        let mut scene = Scene::new(open(), vec![(1, Some(serving())), (2, Some(in_sync(9))), (3, Some(in_sync(8)))]);
        assert!(scene.run(10_000).is_empty(), "nothing to do: {:?}", scene.log);
        scene
    }
}

#[test]
fn a_primary_whose_device_hangs_is_succeeded_by_one_that_answers() {
    let hung = |mut report: CopyReport| {
        report.hung = Some("the device has not answered".into());
        report
    };
    let mut scene = Scene::healthy();
    scene.say(1, Some(hung(serving())));
    scene.say(2, Some(in_sync(9)));
    assert_eq!(scene.run(300), [nominate(1, 2, false)], "without waiting for it");
    let mut scene = Scene::healthy();
    scene.say(2, Some(hung(in_sync(9))));
    assert!(scene.run(5_000).is_empty(), "a follower that hangs is masked by the quorum");
    scene.silence(1);
    scene.say(3, Some(in_sync(8)));
    assert!(scene.run(5_000).is_empty(), "one copy alone opens nothing");
    let mut scene = Scene::healthy();
    scene.say(1, Some(hung(serving())));
    scene.say(2, Some(hung(in_sync(9))));
    assert!(
        scene.run(5_000).is_empty(),
        "nobody could hold a write without one of them: nothing is won by another epoch"
    );
}

#[test]
fn a_dead_primary_is_succeeded_by_the_longest_log() {
    let mut scene = Scene::healthy();
    scene.silence(1);
    assert!(scene.run(900).is_empty(), "not before the failure timeout");
    assert_eq!(scene.run(200), [nominate(1, 2, false)]);
    let mut scene = Scene::healthy();
    scene.silence(1);
    scene.say(3, Some(report(CopyRole::Secondary, CopyState::InSync, 2, 3)));
    assert_eq!(scene.run(1500), [nominate(1, 3, false)], "a later epoch beats a longer log");
    let mut scene = Scene::healthy();
    scene.silence(1);
    scene.say(3, Some(in_sync(9)));
    assert_eq!(scene.run(1500), [nominate(1, 2, false)], "ties go to the lowest id");
}

/// Whoever survives shares what a dead node led; a new volume is led by whoever leads least.
#[test]
fn volumes_of_a_dead_primary_are_shared() {
    let mut state = open();
    let one = state.volumes[&VolumeId(1)].clone();
    for id in 2..=6 {
        state.volumes.insert(VolumeId(id), crate::Volume { id: VolumeId(id), name: format!("v{id}"), ..one.clone() });
    }
    state.next_volume = VolumeId(7);
    let mut detector = Detector::new(Duration::from_secs(1), Time::ZERO);
    let copies: Vec<CopyReport> = (1..=6).map(|id| CopyReport { volume: VolumeId(id), ..in_sync(9) }).collect();
    let mut now = Time::ZERO;
    let mut nominees = Vec::new();
    for _ in 0..30 {
        now = now + Duration::from_millis(100);
        for node in [NodeId(2), NodeId(3)] {
            let copies = copies.clone();
            detector.heard(Heartbeat { node, life: 1, copies, free_bytes: None, longest_file: None }, now);
        }
        for command in detector.decide(&state, ME, true, now) {
            state.apply(&command).expect("decisions are carried out");
            let Command::Nominate { node, .. } = command else { panic!("expected a nominee, found {command:?}") };
            nominees.push(node.0);
        }
    }
    assert_eq!(nominees, [2, 3, 2, 3, 2, 3]);
    assert_eq!(placement(&state, 3, |_| true)[0], NodeId(1), "it leads nothing any more");
}

#[test]
fn nobody_succeeds_a_dead_primary_that_alone_knows_what_was_acknowledged() {
    let mut state = open();
    let Some(Phase::Open { active, .. }) = state.volumes.get_mut(&VolumeId(1)).map(|v| &mut v.phase) else {
        unreachable!("the volume is open")
    };
    active.write_quorum = 1;
    let mut scene = Scene::new(state, vec![(1, Some(serving())), (2, Some(in_sync(9))), (3, Some(in_sync(8)))]);
    assert!(scene.run(5000).is_empty());
    scene.silence(1);
    assert!(scene.run(60_000).is_empty(), "durability async: a takeover would lose acknowledged writes (S1)");
}

#[test]
fn only_the_leader_decides_and_a_fresh_one_waits() {
    let mut scene = Scene::healthy();
    scene.silence(1);
    scene.is_leader = false;
    assert!(scene.run(5000).is_empty());
    scene.is_leader = true;
    assert!(scene.run(1000).is_empty(), "a full failure timeout for everybody");
    assert_eq!(scene.run(200), [nominate(1, 2, false)]);
}

#[test]
fn a_failed_primary_is_succeeded_at_once_and_failed_copies_are_no_candidates() {
    let mut scene = Scene::healthy();
    scene.say(1, Some(failed()));
    assert_eq!(scene.run(100), [nominate(1, 2, false)]);
    let mut scene = Scene::healthy();
    scene.say(1, Some(failed()));
    scene.say(2, Some(failed()));
    assert!(scene.run(60_000).is_empty(), "one sound copy is no fence quorum");
}

#[test]
fn a_restarted_primary_has_time_to_claim_by_itself() {
    let idle = || Some(report(CopyRole::Idle, CopyState::Sealed, 1, 10));
    let mut scene = Scene::healthy();
    scene.say(1, idle());
    assert!(scene.run(1900).is_empty());
    scene.say(1, Some(report(CopyRole::Claimant, CopyState::Opening, 1, 10)));
    assert!(scene.run(10_000).is_empty(), "it tries");
    scene.say(1, idle());
    assert!(scene.run(2000).is_empty());
    assert_eq!(scene.run(300).len(), 1, "it does not try");
    let mut scene = Scene::healthy();
    scene.say(1, None);
    assert_eq!(scene.run(2500), [nominate(1, 2, false)], "it knows nothing of the copy");
    let mut scene = Scene::healthy();
    scene.say(1, Some(report(CopyRole::Claimant, CopyState::Opening, 1, 10)));
    assert!(scene.run(29_000).is_empty());
    assert_eq!(scene.run(2000).len(), 1, "it tries without end");
}

#[test]
fn a_primary_that_restarts_is_waited_for_as_long_as_it_asked_and_no_longer() {
    let sealed = || Some(report(CopyRole::Secondary, CopyState::Sealed, 1, 10));
    let mut scene = Scene::healthy();
    scene.detector.restarts(NodeId(1), 9, Duration::from_secs(20), scene.now);
    assert_eq!(scene.detector.restarting(NodeId(1), scene.now), None, "the word of another life");
    scene.detector.restarts(NodeId(1), 1, Duration::from_secs(20), scene.now);
    scene.say(1, sealed());
    assert!(scene.run(5_000).is_empty(), "it lets go of its leases, and is still heard");
    scene.silence(1);
    assert!(scene.run(19_500).is_empty(), "its guests wait where it comes back");
    assert_eq!(scene.run(1_000), [nominate(1, 2, false)], "it does not come back");
    let mut scene = Scene::healthy();
    scene.detector.restarts(NodeId(1), 1, Duration::from_secs(20), scene.now);
    scene.silence(1);
    assert!(scene.run(5_000).is_empty());
    scene.detector.heard(
        Heartbeat { node: NodeId(1), life: 2, copies: Vec::new(), free_bytes: None, longest_file: None },
        scene.now,
    );
    assert_eq!(scene.detector.restarting(NodeId(1), scene.now), None, "the next life has asked for nothing");
    assert_eq!(scene.run(3_000), [nominate(1, 2, false)], "and that one died");
    let mut scene = Scene::healthy();
    scene.detector.restarts(NodeId(1), 1, Duration::from_secs(20), scene.now);
    scene.say(1, Some(failed()));
    assert_eq!(scene.run(200), [nominate(1, 2, false)], "a copy that failed does not come back with its agent");
    let mut scene = Scene::healthy();
    scene.detector.restarts(NodeId(1), 1, Duration::from_hours(9), scene.now);
    scene.silence(1);
    assert!(scene.run(599_000).is_empty());
    assert_eq!(scene.run(2_000), [nominate(1, 2, false)], "nobody is waited for without end");
}

#[test]
fn a_nominee_that_gets_on_is_left_alone_and_one_that_does_not_is_replaced() {
    let mut scene = Scene::healthy();
    scene.silence(1);
    scene.run(1500);
    for n in 0..10 {
        scene.say(2, Some(report(CopyRole::Claimant, CopyState::Opening, 1, 10 + n)));
        assert!(scene.run(2500).is_empty(), "progress {n}");
    }
    assert_eq!(scene.run(1500), [nominate(1, 3, false)], "stuck");
    // Patience doubles while nothing comes of it: 6 s, 12 s, 24 s, then 30 s.
    let start = scene.log.last().unwrap().0;
    scene.run(120_000);
    let gaps: Vec<u64> = std::iter::once(start)
        .chain(scene.log.iter().map(|(at, _)| *at).filter(|at| *at > start))
        .collect::<Vec<_>>()
        .windows(2)
        .map(|w| (w[1] - w[0]) / 1000)
        .collect();
    assert_eq!(gaps, [6, 12, 24, 30, 30]);
    let nodes: Vec<_> = scene.log.iter().rev().take(2).map(|(_, c)| c.clone()).collect();
    assert_ne!(nodes[0], nodes[1], "in turn");
}

#[test]
fn a_nominee_that_dies_is_replaced() {
    let mut state = cluster(5);
    state.apply(&create("disk", &[1, 2, 3, 4, 5])).unwrap();
    (1..=5).for_each(|n| assert!(state.apply(&register(1, n, n)).is_ok()));
    state.apply(&claim(0, 1)).unwrap();
    state.apply(&activate(1)).unwrap();
    let live = (2..=5).map(|n| (n, Some(in_sync(n)))).collect();
    let mut scene = Scene::new(state, live);
    assert_eq!(scene.run(1500), [nominate(1, 5, false)]);
    scene.silence(5);
    assert_eq!(scene.run(1500), [nominate(1, 4, false)]);
    scene.silence(4);
    assert!(scene.run(60_000).is_empty(), "two of five can't fence");
    scene.say(4, Some(in_sync(4)));
    assert!(scene.run(1000).is_empty(), "back in time, still nominated");
}

#[test]
fn an_unopened_volume_gets_a_live_primary() {
    let mut scene = Scene::new(unopened(), vec![(2, None), (3, None)]);
    assert_eq!(scene.run(2000), [nominate(0, 2, false)], "the chosen one is dead");
    let mut scene = Scene::new(unopened(), vec![(1, None), (2, None), (3, None)]);
    assert!(scene.run(2900).is_empty(), "the chosen one has its time");
}

#[test]
fn a_switchover_becomes_a_failover_when_the_primary_dies() {
    let mut scene = Scene::healthy();
    scene.state.apply(&nominate(1, 3, true)).unwrap();
    assert!(scene.run(1000).is_empty());
    scene.silence(1);
    assert_eq!(scene.run(1200), [nominate(1, 2, false)]);
}

#[test]
fn a_switchover_that_gets_stuck_or_loses_its_target_is_withdrawn() {
    let clear = Command::ClearNominee { volume: VolumeId(1), base: Epoch(1) };
    let mut scene = Scene::healthy();
    scene.state.apply(&nominate(1, 3, true)).unwrap();
    assert_eq!(scene.run(4000), std::slice::from_ref(&clear));
    let mut scene = Scene::healthy();
    scene.state.apply(&nominate(1, 2, true)).unwrap();
    scene.silence(2);
    assert_eq!(scene.run(1500), [clear]);
}

#[test]
fn a_proposal_on_its_way_is_not_repeated_at_once() {
    let mut scene = Scene::healthy();
    scene.applies = false;
    scene.silence(1);
    assert_eq!(scene.run(1900).len(), 1);
    assert_eq!(scene.run(1000).len(), 1, "once a second");
}

#[test]
fn copies_spread_over_failure_domains_then_over_nodes() {
    let mut state = State::new(ClusterId(1), "c");
    for (name, domain) in [("a", "r1"), ("b", "r1"), ("c", "r2"), ("d", "r2"), ("e", "r3")] {
        let Command::AddNode { address, fingerprint, .. } = add_node(name) else { unreachable!() };
        let (name, failure_domain) = (name.to_owned(), domain.to_owned());
        let (voter, witness) = (true, false);
        let node = Command::AddNode { name, address, failure_domain, voter, witness, fingerprint, token_id: None };
        state.apply(&node).unwrap();
    }
    let ids = |state: &State, n, alive: fn(NodeId) -> bool| -> Vec<u64> {
        placement(state, n, alive).iter().map(|n| n.0).collect()
    };
    assert_eq!(ids(&state, 3, |_| true), [1, 3, 5]);
    assert_eq!(ids(&state, 4, |_| true), [1, 3, 5, 2]);
    assert_eq!(ids(&state, 3, |n| n != NodeId(5)), [1, 3, 2]);
    assert_eq!(ids(&state, 9, |n| n.0 < 3), [1, 2]);
    state.apply(&create("disk", &[1, 3, 5])).unwrap();
    assert_eq!(ids(&state, 3, |_| true), [2, 4, 5], "fewest copies within a domain");
}

#[test]
fn heartbeats_survive_the_wire() {
    let heartbeat = Heartbeat {
        node: NodeId(1),
        life: u64::MAX,
        copies: vec![failed(), serving()],
        free_bytes: None,
        longest_file: None,
    };
    assert_eq!(Heartbeat::decode(&heartbeat.encode(ClusterVersion::FIRST), Speaks::THIS).unwrap(), heartbeat);
}
