//! Forced recoveries (F2 to F4): who is asked, what is waited for, what is said.

use super::cluster::Cluster;
use holdfast_types::{Lsn, NodeId};
use std::time::Duration;

const N1: NodeId = NodeId(1);
const N3: NodeId = NodeId(3);
/// More than a lease, and a detection.
const LONG: Duration = Duration::from_secs(6);

fn opened(n: u64) -> Cluster {
    let mut c = Cluster::new(n);
    c.nominate(N1, false);
    c.run_for(Duration::from_millis(300));
    c
}

/// Acknowledged writes.
fn written(c: &mut Cluster, count: u64) {
    let writes: Vec<u64> = (0..count).map(|i| c.write(N1, i % 32 * 4096, &[7; 64])).collect();
    c.run_for(Duration::from_millis(100));
    assert!(writes.iter().all(|w| c.reply(*w).is_some()), "a quorum took them");
}

#[test]
fn every_survivor_is_fenced_since_no_quorum_of_them_stands_for_anything() {
    let mut c = opened(7);
    written(&mut c, 5);
    // W = 4 of 7: node 7 is the only one of the last three that takes what follows.
    [5, 6].into_iter().for_each(|n| c.cut(NodeId(n)));
    written(&mut c, 10);
    (1..=4).for_each(|n| c.crash(NodeId(n)));
    [5, 6].into_iter().for_each(|n| c.join(NodeId(n)));
    c.cut(NodeId(7));
    c.force(&[5, 6, 7], NodeId(5));
    let epoch = c.active().epoch;
    c.run_for(LONG);
    assert_eq!((c.active().epoch, c.kept), (epoch, None), "two of three are W, and may lack what the third one holds");
    let longest = c.last(NodeId(7));
    assert!(longest > c.last(NodeId(5)));
    c.join(NodeId(7));
    c.run_for(LONG);
    assert!(c.active().epoch > epoch, "{:?}", c.status(NodeId(5)));
    assert_eq!(c.kept.map(|k| (k.0, k.2)), Some((longest, false)));
    assert_eq!(c.log(NodeId(5)), c.log(NodeId(7)), "the shorter log was brought to the longer one");
    let w = c.write(NodeId(5), 0, b"on");
    c.run_for(Duration::from_millis(100));
    assert_eq!(c.reply(w), Some(Vec::new()));
}

#[test]
fn a_primary_that_is_left_and_led_until_then_has_everything() {
    let mut c = opened(3);
    written(&mut c, 5);
    c.crash(NodeId(2));
    c.crash(N3);
    let w = c.write(N1, 0, b"stalls");
    c.run_for(Duration::from_millis(300));
    assert_eq!(c.reply(w), None);
    let last = c.last(N1);
    c.force(&[1], N1);
    c.run_for(LONG);
    assert_eq!(c.kept.map(|k| (k.0, k.2)), Some((last, true)));
    let mut c = opened(3);
    written(&mut c, 5);
    (1..=3).for_each(|n| c.crash(NodeId(n)));
    c.restart(N1);
    c.join(N1);
    c.force(&[1], N1);
    c.run_for(LONG);
    assert_eq!(c.kept.map(|k| k.2), Some(false), "a restarted one does not know its volatile tail");
}

#[test]
fn the_leases_of_who_is_gone_are_waited_out() {
    let mut c = opened(3);
    written(&mut c, 5);
    c.crash(N1);
    c.crash(NodeId(2));
    // Its own grant has run out long since.
    c.run_for(LONG);
    let epoch = c.active().epoch.next();
    c.force(&[3], N3);
    c.run_for(Duration::from_millis(300));
    assert_eq!(c.active().epoch, epoch, "node 2 may have granted one a moment ago");
    assert!(c.status(N3).waiting.is_some_and(|why| why.contains("leases")));
    c.run_for(LONG);
    assert!(c.active().epoch > epoch && c.kept.is_some_and(|k| k.0 > Lsn::ZERO));
}
