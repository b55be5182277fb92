//! Another size, decided by the control plane and carried out in the log.

use super::cluster::Cluster;
use super::{N1, N2, N3};
use crate::api::{GuestError, GuestOp, RoleName};
use holdfast_format::RecordKind;
use holdfast_types::NodeId;
use std::time::Duration;

const BLOCK: u64 = 4096;
/// As the clusters here begin.
const FIRST: u64 = 256;

fn reigning() -> Cluster {
    let mut c = Cluster::new(3);
    c.nominate(N1, false);
    c.run_for(Duration::from_millis(300));
    c
}

fn resizes(c: &Cluster, node: NodeId) -> usize {
    c.log(node).iter().filter(|(_, kind, _)| *kind == RecordKind::Resize).count()
}

fn blocks(c: &Cluster, node: NodeId) -> u64 {
    c.status(node).size.size.blocks().0
}

#[test]
fn a_volume_grows_and_shrinks_under_its_guests() {
    let mut c = reigning();
    let beyond = c.write(N1, FIRST * BLOCK, b"not yet");
    assert_eq!(c.error(beyond), Some(GuestError::BeyondEnd(GuestOp::Write)));
    c.resize(2 * FIRST);
    let w = c.write(N1, (2 * FIRST - 1) * BLOCK, b"the new end");
    assert_eq!(c.reply(w), Some(Vec::new()));
    c.resize(10);
    for (op, offset, len, data) in [
        (GuestOp::Read, 9 * BLOCK, 2 * BLOCK, b"".as_slice()),
        (GuestOp::Write, 10 * BLOCK, 1, b"x"),
        (GuestOp::Discard, 0, 11 * BLOCK, b""),
        (GuestOp::WriteZeroes, 10 * BLOCK - 1, 2, b""),
    ] {
        let request = c.op(N1, op, offset, len, data);
        assert_eq!(c.error(request), Some(GuestError::BeyondEnd(op)), "{op:?}");
    }
    let last = c.write(N1, 9 * BLOCK, &[7; 4096]);
    assert_eq!(c.reply(last), Some(Vec::new()));
    c.resize(2 * FIRST);
    let r = c.read(N1, (2 * FIRST - 1) * BLOCK, 11);
    assert_eq!(c.reply(r), Some(vec![0; 11]), "what was cut off does not come back");
    c.run_for(Duration::from_millis(100));
    for n in [N1, N2, N3] {
        assert_eq!((resizes(&c, n), blocks(&c, n)), (3, 2 * FIRST));
    }
}

/// Twice the same state of the control plane, a takeover, an older state that arrives late: one record for each decision.
#[test]
fn each_decision_is_carried_out_once() {
    let mut c = reigning();
    c.resize(2 * FIRST);
    c.run_for(Duration::from_millis(100));
    c.recall_size(N1);
    assert_eq!((resizes(&c, N1), blocks(&c, N1)), (1, 2 * FIRST), "the log is beyond that");
    c.crash(N1);
    c.nominate(N2, false);
    c.recall_size(N2);
    c.run_for(Duration::from_millis(2_500));
    assert_eq!(c.status(N2).role, RoleName::Primary);
    c.recall_size(N2);
    c.run_for(Duration::from_millis(100));
    assert_eq!((resizes(&c, N2), blocks(&c, N2)), (1, 2 * FIRST));
}

/// The old primary had given the volume its new size, and nobody heard of it.
#[test]
fn a_size_that_was_never_committed_is_taken_back_and_decided_again_in_its_place() {
    for to in [2 * FIRST, 8] {
        let mut c = reigning();
        let kept = c.write(N1, 0, b"kept");
        assert!(c.reply(kept).is_some());
        c.cut(N1);
        c.resize(to);
        c.hear(N1);
        let tail = c.last(N1);
        assert_eq!((resizes(&c, N1), resizes(&c, N2)), (1, 0));
        assert_eq!(blocks(&c, N1), FIRST, "guests may not use what may be taken back");
        let early = c.write(N1, (to.max(FIRST) - 1) * BLOCK, b"early");
        assert_eq!(c.error(early), Some(GuestError::BeyondEnd(GuestOp::Write)));
        c.nominate(N2, false);
        c.run_for(Duration::from_millis(2_500));
        assert_eq!(c.status(N2).role, RoleName::Primary);
        let w = c.write(N2, (to - 1) * BLOCK, b"end");
        assert!(c.reply(w).is_some());
        c.join(N1);
        c.run_for(Duration::from_millis(500));
        assert!(c.log(N1) == c.log(N2) && c.last(N1) > tail, "the old record {tail} is gone");
        for n in [N1, N2, N3] {
            assert_eq!((resizes(&c, n), blocks(&c, n)), (1, to));
        }
    }
}

/// What a smaller size cuts off is gone, also if nobody led the volume between the two decisions.
#[test]
fn decisions_are_carried_out_one_after_another() {
    let mut c = reigning();
    let w = c.write(N1, 100 * BLOCK, b"behind the cut");
    assert!(c.reply(w).is_some());
    c.run_for(Duration::from_millis(100));
    c.crash(N1);
    c.resize(50);
    c.resize(FIRST);
    c.nominate(N2, false);
    c.run_for(Duration::from_millis(2_500));
    assert_eq!((resizes(&c, N2), blocks(&c, N2)), (2, FIRST));
    let r = c.read(N2, 100 * BLOCK, 14);
    c.run_for(Duration::from_millis(100));
    assert_eq!(c.reply(r), Some(vec![0; 14]));
}

/// A write within a block has read what it merges with when the block is cut off.
#[test]
fn a_write_that_waits_for_its_place_in_the_log_finds_the_size_that_is_there() {
    let mut c = reigning();
    c.hold_store(N1);
    let merge = c.write(N1, 20 * BLOCK + 5, b"merge");
    c.resize(10);
    c.release_store(N1);
    c.run_for(Duration::from_millis(100));
    assert_eq!(c.error(merge), Some(GuestError::BeyondEnd(GuestOp::Write)));
    let w = c.write(N1, 9 * BLOCK, b"still served");
    assert!(c.reply(w).is_some());
}
