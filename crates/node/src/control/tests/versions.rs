//! V1 to V4: nodes of two versions in one cluster.

use super::*;

const ONE: ClusterVersion = ClusterVersion::FIRST;
const TWO: ClusterVersion = ClusterVersion::TOLD;
/// Longer than every node has to speak a version before the cluster is raised to it.
const RAISED_BY: u64 = 20_000;

fn old() -> Speaks {
    Speaks::UNTOLD
}

impl Net {
    /// Three nodes that speak the first version alone, with a volume.
    fn old(seed: u64) -> Net {
        let mut net = Net::new(seed);
        net.speaks = [N1, N2, N3].map(|n| (n, old())).into();
        net.kill(N1);
        net.start(N1);
        net.run(3000);
        for (name, id) in [("beta", N2), ("gamma", N3)] {
            assert_eq!(net.propose(N1, node(name)), Ok(Outcome::Node(id)));
            net.start(id);
        }
        let voters = |net: &Net| net.controls[&N1].raft_status().voters.len() == 3;
        assert!(net.until(20_000, voters), "all become voters");
        net
    }

    fn upgrade(&mut self, id: NodeId) {
        self.kill(id);
        self.speaks.remove(&id);
        self.start(id);
    }

    fn version(&self, id: NodeId) -> ClusterVersion {
        self.controls[&id].state().unwrap().version
    }

    fn all_see(&self, version: ClusterVersion) -> bool {
        self.controls.keys().all(|n| self.controls[n].state().is_some() && self.version(*n) == version)
    }

    /// Every node knows every other one to be alive, with the reports that it made.
    fn all_are_heard(&self) -> bool {
        let hears = |a: &NodeId, b: &NodeId| {
            let detector = self.controls[a].detector();
            detector.alive(*b, self.now) && detector.why_unreadable(*b).is_none()
        };
        self.controls.keys().all(|a| self.controls.keys().all(|b| hears(a, b)))
    }
}

#[test]
fn nodes_are_upgraded_one_by_one_and_the_last_one_raises_the_version() {
    for seed in 0..8 {
        let mut net = Net::old(seed);
        let mut order = [N1, N2, N3];
        let shift = usize::try_from(seed % 3).unwrap();
        order.rotate_left(shift);
        for (at, id) in order.into_iter().enumerate() {
            net.upgrade(id);
            net.run(RAISED_BY);
            let volume = volume(&format!("vm{at}"), &[N1, N2, N3]);
            for asked in [N1, N2, N3] {
                // Whoever is asked, and whoever leads: commands are read on both sides.
                let duty =
                    Command::WantNode { node: N3, wanted: if asked == N2 { Duty::Drained } else { Duty::InService } };
                assert_eq!(net.propose(asked, duty), Ok(Outcome::Done));
            }
            assert!(net.propose(order[at], volume).is_ok());
            if at < 2 {
                assert!(net.all_see(ONE), "{} of three speak the next version, seed {seed}", at + 1);
            }
            assert!(net.until(5_000, Net::all_are_heard), "seed {seed}");
        }
        assert!(net.until(RAISED_BY, |net| net.all_see(TWO)), "seed {seed}");
        for id in [N1, N2, N3] {
            assert_eq!(net.seen[&id].version, Some(TWO));
            assert!(
                net.seen[&id].events.iter().any(|e| e.kind == EventKind::Version && e.message.contains("version 2"))
            );
            let (speaks, build) = net.controls[&N1].detector().speaks(id).unwrap();
            assert_eq!((speaks, build.to_owned()), (Speaks::THIS, format!("build of {id}")));
        }
        net.run(5_000);
        assert!(net.all_are_heard(), "they understand each other in the new words");
    }
}

#[test]
fn a_node_may_be_put_back_until_the_version_is_raised_and_never_after_that() {
    let mut net = Net::old(3);
    for id in [N1, N2] {
        net.upgrade(id);
    }
    net.run(5000);
    net.kill(N2);
    net.speaks.insert(N2, old());
    net.start(N2);
    net.run(RAISED_BY);
    assert!(net.all_see(ONE) && net.all_are_heard(), "there is a way back");
    for id in [N2, N3] {
        net.upgrade(id);
    }
    assert!(net.until(RAISED_BY, |net| net.all_see(TWO)));
    for (id, why) in [(N2, "the log"), (N3, "a snapshot")] {
        // Of few commands the log is left, behind the one that raised; of many the state alone.
        for n in 0..if id == N2 { 5 } else { 30 } {
            net.propose(N1, volume(&format!("vm-{id}-{n}"), &[N1, N2, N3])).unwrap();
        }
        net.kill(id);
        net.speaks.insert(id, old());
        net.may_end.insert(id);
        net.start(id);
        assert!(net.until(5000, |net| net.seen[&id].fatal.is_some()), "{why}");
        let fatal = net.seen[&id].fatal.clone().unwrap();
        assert!(fatal.contains("found version 2, and this agent speaks 1 alone"), "{why}: {fatal}");
        assert!(fatal.contains("there is no way back"), "{fatal}");
        net.may_end.clear();
        net.upgrade(id);
        assert!(net.until(10_000, |net| net.all_see(TWO) && net.all_are_heard()), "nothing happened to its log");
    }
}

#[test]
fn a_node_that_does_not_answer_holds_the_version_back_and_status_says_so() {
    let mut net = Net::old(5);
    net.upgrade(N1);
    net.run(5000);
    let held = |net: &Net| {
        let control = &net.controls[&N1];
        control.detector().held_back(control.state().unwrap(), net.now)
    };
    let said = held(&net).expect("two nodes are old");
    assert!(said.contains("beta speaks 1 alone, gamma speaks 1 alone"), "{said}");
    net.upgrade(N2);
    net.upgrade(N3);
    net.run(3000);
    assert_eq!(held(&net), None, "it is about to be raised");
    // It leaves before everybody has spoken it for long enough.
    net.cut.insert(N3);
    net.run(RAISED_BY);
    assert!(held(&net).unwrap().contains("gamma does not answer"));
    assert_eq!(net.version(N1), ONE);
    net.cut.clear();
    assert!(net.until(2 * RAISED_BY, |net| net.all_see(TWO)));
}

#[test]
fn what_needs_a_later_version_is_refused_and_stays_out_of_the_log() {
    let mut net = Net::old(7);
    net.upgrade(N1);
    net.run(3000);
    // Nobody may ask for it but a leader that knows everybody to be ready.
    let stale = Command::RaiseVersion { to: TWO, next_node: NodeId(2) };
    for id in [N1, N2, N3] {
        net.upgrade(id);
    }
    net.run(3000);
    let refused = net.propose(N1, stale);
    assert!(
        matches!(&refused, Err(Failure::Refused(r)) if r.message.contains("a node joined meanwhile")),
        "{refused:?}"
    );
    assert!(net.until(RAISED_BY, |net| net.all_see(TWO)));
    let back = net.propose(N1, Command::RaiseVersion { to: ONE, next_node: NodeId(4) });
    assert!(matches!(&back, Err(Failure::Refused(r)) if r.message.contains("never goes back")), "{back:?}");
}
