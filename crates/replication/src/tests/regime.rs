//! Volumes after a recovery of the control plane (G4): who must be asked, and what opens nothing.

use super::cluster::Cluster;
use holdfast_types::NodeId;
use std::time::Duration;

const N1: NodeId = NodeId(1);
const N2: NodeId = NodeId(2);
const N3: NodeId = NodeId(3);
const N4: NodeId = NodeId(4);
/// More than a lease, and a detection.
const LONG: Duration = Duration::from_secs(6);

fn opened(n: u64) -> Cluster {
    let mut c = Cluster::new(n);
    c.nominate(N1, false);
    c.run_for(Duration::from_millis(300));
    c
}

fn acknowledged(c: &mut Cluster, node: NodeId, data: &[u8]) {
    let w = c.write(node, 0, data);
    c.run_for(Duration::from_millis(100));
    assert_eq!(c.reply(w), Some(Vec::new()), "a quorum took it");
}

fn reads(c: &mut Cluster, node: NodeId, data: &[u8]) {
    let r = c.read(node, 0, u64::try_from(data.len()).expect("short"));
    c.run_for(Duration::from_millis(100));
    assert_eq!(c.reply(r).as_deref(), Some(data));
}

#[test]
fn two_of_three_open_it_by_themselves() {
    let mut c = opened(3);
    acknowledged(&mut c, N1, b"kept");
    let known = c.view().clone();
    c.crash(N1);
    c.recover_control(known);
    let epoch = c.active().epoch;
    c.nominate(N2, false);
    c.run_for(LONG);
    assert!(c.active().epoch > epoch, "{:?}", c.status(N2));
    assert_eq!(c.view().recovered, None);
    reads(&mut c, N2, b"kept");
}

/// Of two copies one may have gone on alone, and nobody who is left would know.
#[test]
fn one_of_two_opens_nothing_although_it_would_be_a_fence() {
    let mut c = opened(2);
    acknowledged(&mut c, N1, b"kept");
    let known = c.view().clone();
    assert!(known.active.is_fence(|n| n == N2));
    c.crash(N1);
    c.recover_control(known);
    let epoch = c.active().epoch;
    c.nominate(N2, false);
    c.run_for(LONG);
    assert_eq!(c.active().epoch, epoch, "{:?}", c.status(N2));
    c.restart(N1);
    c.run_for(LONG);
    assert!(c.active().epoch > epoch, "both answer: {:?}", c.status(N2));
    reads(&mut c, N2, b"kept");
}

/// Both copies of two answer. The one that can't read what it held went on alone for a while, which nobody else knows of.
#[test]
fn of_two_copies_one_that_lost_records_may_have_gone_on_alone() {
    let mut c = opened(2);
    acknowledged(&mut c, N1, b"before");
    let known = c.view().clone();
    c.crash(N2);
    let before = c.last(N1);
    c.go_alone(N1);
    c.run_for(LONG);
    assert_eq!(c.members(), [1]);
    acknowledged(&mut c, N1, b"alone");
    c.crash(N1);
    c.lose_behind(N1, before);
    c.recover_control(known);
    c.restart(N1);
    c.restart(N2);
    let epoch = c.active().epoch;
    c.nominate(N2, false);
    c.run_for(LONG);
    assert_eq!(c.active().epoch, epoch, "S1: one whole log of two is no wide fence: {:?}", c.status(N2));
}

/// The control plane knows of three members; a fourth was added, and a write went to those that are not asked.
#[test]
fn a_reign_that_is_not_known_of_opens_nothing_until_an_operator_says_so() {
    let mut c = opened(3);
    acknowledged(&mut c, N1, b"before");
    let known = c.view().clone();
    c.add_learner(N4);
    c.run_for(Duration::from_millis(300));
    assert_eq!(c.members(), [1, 2, 3, 4]);
    c.crash(N3);
    acknowledged(&mut c, N1, b"after");
    c.crash(N1);
    c.crash(N4);
    c.restart(N3);
    c.run_for(Duration::from_millis(300));
    c.recover_control(known);
    let epoch = c.active().epoch;
    c.nominate(N3, false);
    c.run_for(LONG);
    assert_eq!(c.active().epoch, epoch);
    let waiting = c.status(N3).waiting.unwrap_or_default();
    assert!(waiting.contains("knows nothing since it was recovered"), "{waiting}");
    c.force(&[2, 3], N3);
    c.run_for(LONG);
    assert!(c.active().epoch > epoch, "{:?}", c.status(N3));
    reads(&mut c, N3, b"after");
}

/// A forced recovery that is known of was opened unnoticed and went on with others: its one member alone opens nothing.
#[test]
fn a_forced_recovery_that_was_opened_unnoticed_opens_nothing_by_itself() {
    let mut c = opened(3);
    acknowledged(&mut c, N1, b"before");
    c.crash(N2);
    c.crash(N3);
    c.force(&[1], N1);
    let known = c.view().clone();
    c.run_for(LONG);
    assert_eq!(c.members(), [1]);
    c.add_learner(N4);
    c.run_for(LONG);
    assert_eq!(c.members(), [1, 4]);
    c.crash(N1);
    c.crash(N4);
    c.restart(N1);
    c.recover_control(known);
    let epoch = c.active().epoch;
    c.nominate(N1, false);
    c.run_for(LONG);
    assert_eq!(c.active().epoch, epoch, "node 4 may hold more");
    let waiting = c.status(N1).waiting.unwrap_or_default();
    assert!(waiting.contains("knows nothing since it was recovered") && c.status(N1).unknown_reign, "{waiting}");
}
