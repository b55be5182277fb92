//! Copies are compared, in passing and on demand.

use super::cluster::Cluster;
use super::{N1, N2, N3};
use crate::verify::Verdict;
use holdfast_types::{BlockRange, NodeId};
use std::time::Duration;

fn written() -> Cluster {
    let mut c = Cluster::new(3);
    c.nominate(N1, false);
    for block in 0..200 {
        let w = c.write(N1, block * 4096, &[b'a'; 4096]);
        assert!(c.reply(w).is_some());
    }
    c.run_for(Duration::from_millis(100));
    c
}

fn verdict(c: &Cluster, node: NodeId) -> Verdict {
    c.status(node).verify.last.expect("a comparison has ended")
}

#[test]
fn equal_copies_are_called_equal() {
    let mut c = written();
    c.verify(N1, 5);
    let v = verdict(&c, N1);
    assert!(v.is_equal(), "{v:?}");
    assert_eq!((v.run, v.at, v.copies.len()), (5, c.last(N1), 3));
    assert_eq!(v.copies[0].node, N1);
    c.verify(N1, 5);
    assert_eq!(c.status(N1).verify.runs, 1, "the same wish again");
}

#[test]
fn the_regions_that_differ_are_named() {
    let mut c = written();
    for block in [3, 17, 18, 33, 199] {
        c.falsify(N3, block);
    }
    c.verify(N1, 5);
    let v = verdict(&c, N1);
    assert!(!v.is_equal());
    let of = |n: NodeId| v.copies.iter().find(|c| c.node == n).expect("a member").clone();
    assert_eq!((of(N2).digest, of(N2).ranges), (of(N1).digest, vec![]));
    assert_ne!(of(N3).digest, of(N1).digest);
    assert_eq!(of(N3).ranges, [BlockRange::new(0, 48), BlockRange::new(192, 16)], "in whole regions of 64 KiB");
    assert!(!of(N3).more && of(N3).missing.is_none());
    assert_eq!(c.status(N1).verify.differs, [(N3, v.at)], "and the status goes on saying so");
}

#[test]
fn writes_go_on_and_are_applied_afterwards() {
    let mut c = written();
    c.hold_store(N3);
    c.verify(N1, 5);
    assert_eq!(c.status(N1).verify.running, Some(5));
    let at = c.last(N1);
    for block in 0..20 {
        let w = c.write(N1, block * 4096, &[b'b'; 4096]);
        assert!(c.reply(w).is_some(), "answered while copies are held");
    }
    assert_eq!(c.status(N1).positions.applied, at);
    c.release_store(N3);
    c.run_for(Duration::from_millis(100));
    let v = verdict(&c, N1);
    assert!(v.is_equal() && v.at == at, "{v:?}");
    for n in [N1, N2, N3] {
        assert_eq!(c.status(n).positions.applied, c.last(N1), "{n}");
    }
}

#[test]
fn a_copy_that_does_not_come_is_never_called_equal() {
    let mut c = written();
    c.cut(N2);
    c.hold_store(N3);
    c.verify(N1, 5);
    c.run_for(Duration::from_secs(11));
    let v = verdict(&c, N1);
    assert!(!v.is_equal());
    let missing = |n: NodeId| v.copies.iter().find(|c| c.node == n).and_then(|c| c.missing.clone()).unwrap_or_default();
    assert!(missing(N2).contains("does not follow"), "{v:?}");
    assert!(missing(N3).contains("did not reach"), "{v:?}");
    c.release_store(N3);
    c.run_for(Duration::from_secs(1));
    assert_eq!(c.status(N3).positions.applied, c.last(N1), "nobody holds any more");
}

#[test]
fn a_change_of_the_primary_ends_a_comparison() {
    let mut c = written();
    c.hold_store(N3);
    c.verify(N1, 5);
    c.nominate(N2, true);
    c.run_for(Duration::from_secs(1));
    let v = verdict(&c, N1);
    assert!(!v.is_equal() && v.copies.iter().any(|c| c.missing.is_some()), "{v:?}");
    c.release_store(N3);
    c.run_for(Duration::from_secs(3));
    let w = c.write(N2, 0, &[b'c'; 4096]);
    assert!(c.reply(w).is_some());
    c.run_for(Duration::from_secs(1));
    for n in [N1, N2, N3] {
        assert_eq!(c.status(n).positions.applied, c.last(N2), "{n}");
    }
}

#[test]
fn a_copy_that_hears_nothing_more_applies_again() {
    let mut c = written();
    c.hold_store(N2);
    c.verify(N1, 5);
    c.cut(N1);
    c.cut(N3);
    c.release_store(N2);
    c.run_for(Duration::from_secs(40));
    for n in [N1, N2, N3] {
        assert_eq!(c.status(n).positions.applied, c.committed(n), "{n}");
    }
}

#[test]
fn copies_that_differ_are_noticed_by_themselves() {
    let mut c = written();
    c.run_for(Duration::from_secs(2));
    assert!(c.status(N1).verify.proofs >= 2, "both members told what their images are");
    assert_eq!(c.status(N1).verify.differs, []);
    c.falsify(N2, 5);
    let w = c.write(N1, 0, &[b'b'; 4096]);
    assert!(c.reply(w).is_some());
    c.run_for(Duration::from_secs(2));
    assert_eq!(c.status(N1).verify.differs, [(N2, c.last(N1))]);
    let before = c.status(N1).verify.proofs;
    c.run_for(Duration::from_secs(60));
    assert_eq!(c.status(N1).verify.proofs, before, "an idle volume costs nothing");
}
