//! G1 to G3: a majority of the voters is lost for ever, and comes back.

use super::*;
use holdfast_cluster::Operator;
use holdfast_types::Generation;

const N4: NodeId = NodeId(4);

fn operator() -> Operator {
    Operator { uid: Some(0), user: "root".to_owned(), host: "n3".to_owned() }
}

impl Net {
    fn remains(&self, id: NodeId) -> Remains {
        Remains::of(&self.stored[&id], CLUSTER, Speaks::THIS).unwrap().expect("it has a state")
    }

    fn order(&self, id: NodeId, given_up: &[NodeId]) -> Result<Recovery, RecoveryRefusal> {
        let given_up = given_up.iter().copied().collect();
        let met = self.recoveries.get(&id).map_or(Generation::FIRST, |r| r.generation);
        self.remains(id).order(RecoveryOrder { node: id, given_up: &given_up, met, by: operator(), at_ms: 1 })
    }

    /// The operator's act at a node that does not run.
    fn recover(&mut self, id: NodeId, given_up: &[NodeId]) {
        assert!(!self.controls.contains_key(&id), "its agent is stopped");
        let recovery = self.order(id, given_up).unwrap();
        let stored = self.remains(id).recovered(recovery.clone()).unwrap();
        self.stored.insert(id, stored);
        self.recoveries.insert(id, recovery);
    }

    /// The operator's act at a node that was given up.
    fn rejoin(&mut self, id: NodeId) {
        let recovery = self.seen.get_mut(&id).unwrap().superseded.take().expect("it was told");
        self.stored.insert(id, Stored::default());
        self.recoveries.insert(id, recovery);
    }

    fn generation(&self, id: NodeId) -> Generation {
        self.controls[&id].generation()
    }

    fn has_state_of(&self, id: NodeId, generation: Generation) -> bool {
        self.controls.get(&id).and_then(Control::state).is_some_and(|s| s.generation() == generation)
    }
}

#[test]
fn one_that_is_left_goes_on_and_the_lost_majority_is_not_believed() {
    for seed in 0..10 {
        let mut net = Net::with_volume(seed);
        assert!(net.until(5000, |net| net.view(N1).is_some_and(|v| v.nominee.is_some_and(|n| n.node == N1))));
        net.open(N1);
        assert_eq!(net.propose(N1, node("delta")), Ok(Outcome::Node(N4)));
        net.start(N4);
        assert!(net.until(10_000, |net| net.has_state_of(N4, Generation::FIRST)), "it listens");
        [N1, N2, N3].into_iter().for_each(|n| net.kill(n));
        net.recover(N3, &[N1, N2]);
        let generation = Generation::FIRST.next(2).unwrap();
        net.start(N3);
        assert!(net.until(10_000, |net| net.leader() == Some(N3)), "nobody else has a vote");
        assert_eq!(net.generation(N3), generation);
        // Who was not given up goes over by itself, with whatever it knew.
        assert!(net.until(10_000, |net| net.has_state_of(N4, generation)), "{:?}", net.seen[&N4].events);
        let view = net.view(N3).unwrap().clone();
        assert_eq!(view.recovered, Some(Epoch(1)));
        assert!(view.active.epoch.0 > generation.floor() && view.active.members.len() == 3, "{view:?}");
        // The other two have a majority of their own, and begin by hearing of the later one.
        net.start(N1);
        net.start(N2);
        let ended = |net: &Net| [N1, N2].iter().all(|n| net.seen[n].superseded.is_some());
        assert!(net.until(5000, ended), "both were told");
        assert_eq!(net.leader(), Some(N3));
        let said = |net: &Net, what: &str| net.seen[&N3].events.iter().any(|e| e.message.contains(what));
        let refused = |net: &Net| ["alpha is back", "beta is back"].iter().all(|what| said(net, what));
        assert!(net.until(5000, refused), "{:?}", net.seen[&N3].events);
        // They listen, and then vote again, once they are told to.
        net.rejoin(N1);
        net.start(N1);
        net.rejoin(N2);
        net.start(N2);
        let all = |net: &Net| {
            let voters = net.controls[&N3].raft_status().voters.len();
            [N1, N2, N3, N4].iter().all(|n| net.has_state_of(*n, generation)) && voters == 3
        };
        assert!(net.until(30_000, all), "{:?}", net.controls[&N3].raft_status());
        net.kill(N3);
        assert_eq!(net.propose(N1, volume("later", &[N1])), Ok(Outcome::Volume(VolumeId(generation.floor()))));
    }
}

/// What nobody answers for is not said to be known.
#[test]
fn what_the_log_ends_with_counts_although_nobody_said_that_it_was_committed() {
    let mut net = Net::three(3);
    assert_eq!(net.propose(N1, volume("vm", &[N1])), Ok(Outcome::Volume(V1)));
    net.kill(N1);
    net.kill(N2);
    let before = net.remains(N3);
    assert!(before.log().commit <= before.log().index);
    assert_eq!(before.log().voters, [N1, N2, N3]);
    assert!(before.state().volumes.contains_key(&V1), "it is in the log, whether its commit index covers it or not");
}

#[test]
fn two_recoveries_by_mistake_end_in_one_regime() {
    let mut net = Net::three(5);
    [N1, N2, N3].into_iter().for_each(|n| net.kill(n));
    // Each on one of two survivors, against the word of the runbook.
    net.recover(N2, &[N1, N3]);
    net.recover(N3, &[N1, N2]);
    net.start(N2);
    net.start(N3);
    let ended = |net: &Net| net.seen[&N2].superseded.is_some();
    assert!(net.until(5000, ended), "the greater one wins, and the other one says so");
    let won = net.generation(N3);
    net.rejoin(N2);
    net.start(N2);
    assert!(net.until(20_000, |net| net.has_state_of(N2, won)));
}

#[test]
fn a_recovery_that_was_a_mistake_is_undone_by_another_one() {
    let mut net = Net::three(6);
    net.kill(N3);
    net.recover(N3, &[N1, N2]);
    net.start(N3);
    let ended = |net: &Net| [N1, N2].iter().all(|n| net.seen[n].superseded.is_some());
    assert!(net.until(5000, ended), "they ran, and are told that they were given up");
    let met = net.seen[&N1].superseded.clone().unwrap().generation;
    net.kill(N3);
    let given_up = BTreeSet::from([N2, N3]);
    let order = RecoveryOrder { node: N1, given_up: &given_up, met, by: operator(), at_ms: 2 };
    let recovery = net.remains(N1).order(order).unwrap();
    assert!(recovery.generation > met, "above the one that it was told of");
    let stored = net.remains(N1).recovered(recovery.clone()).unwrap();
    net.stored.insert(N1, stored);
    net.recoveries.insert(N1, recovery);
    net.start(N1);
    net.start(N3);
    assert!(net.until(5000, |net| net.seen[&N3].superseded.is_some()), "now it is the one that was given up");
    assert!(net.until(5000, |net| net.leader() == Some(N1)));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let mut net = Net::three(7);
    [N1, N2, N3].into_iter().for_each(|n| net.kill(n));
    let voters = vec![N1, N2, N3];
    assert_eq!(net.order(N3, &[N1]), Err(RecoveryRefusal::MajorityLeft { left: 2, voters: voters.clone() }));
    let itself = RecoveryRefusal::NotToGiveUp { node: N3, voters: voters.clone() };
    assert_eq!(net.order(N3, &[N1, N2, N3]), Err(itself));
    assert_eq!(net.order(N3, &[N1, N4]), Err(RecoveryRefusal::NotToGiveUp { node: N4, voters }));
    net.recover(N3, &[N1, N2]);
    assert_eq!(net.order(N3, &[N1, N2]), Err(RecoveryRefusal::NotToGiveUp { node: N1, voters: vec![N3] }));
}

/// A note that fits another log is no reason to act on either.
#[test]
fn a_state_of_another_generation_is_not_acted_on() {
    let mut net = Net::three(8);
    net.kill(N3);
    let recovery = net.order(N3, &[N1, N2]).unwrap();
    net.recoveries.insert(N3, recovery);
    net.may_end.insert(N3);
    net.start(N3);
    let why = net.seen[&N3].fatal.clone().expect("it ends");
    assert!(why.contains("generation 1.2") && why.contains("generation 0"), "{why}");
}

/// Whoever was given up hears of that, also where another recovery came after it.
#[test]
fn one_that_was_given_up_by_an_earlier_recovery_ends_as_well() {
    let mut net = Net::with_volume(77);
    assert_eq!(net.propose(N1, node("delta")), Ok(Outcome::Node(N4)));
    net.start(N4);
    [N1, N2, N3].into_iter().for_each(|n| net.kill(n));
    net.recover(N3, &[N1, N2]);
    net.start(N3);
    // By its own log: that is what is left of the cluster afterwards.
    let votes = |net: &Net| net.controls[&N4].raft_status().voters.contains(&N4);
    assert!(net.until(60_000, votes), "{:?}", net.controls[&N4].raft_status());
    net.run(1000);
    let first = net.generation(N3);
    [N3, N4].into_iter().for_each(|n| net.kill(n));
    net.recover(N4, &[N3]);
    net.start(N4);
    assert!(net.until(10_000, |net| net.leader() == Some(N4)));
    assert!(net.generation(N4) > first);
    net.start(N1);
    assert!(net.until(10_000, |net| net.seen[&N1].superseded.is_some()), "{:?}", net.seen[&N1].events);
    assert_eq!(net.seen[&N1].superseded.as_ref().map(|r| r.generation), Some(first), "the one that gave it up");
    let said = |net: &Net| net.seen[&N4].events.iter().any(|e| e.message.contains("alpha is back"));
    assert!(net.until(5000, said), "{:?}", net.seen[&N4].events);
}
