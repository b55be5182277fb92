//! What `flush` and `async` change: when a write is answered, and whom a takeover must hear.

use super::cluster::Cluster;
use super::{N1, N2, N3};
use crate::api::{GuestOp, RoleName};
use holdfast_types::Durability;
use std::time::Duration;

fn hold_all(c: &mut Cluster) {
    [N1, N2, N3].into_iter().for_each(|n| c.hold_store(n));
}

#[test]
fn in_flush_mode_memories_answer_writes_and_disks_answer_flushes() {
    let mut c = Cluster::with(3, Durability::Flush);
    c.nominate(N1, false);
    hold_all(&mut c);
    let flush = c.op(N1, GuestOp::Flush, 0, 0, b"");
    assert!(c.reply(flush).is_some(), "nothing was answered yet that a flush would have to wait for");
    let w = c.write(N1, 0, &[1; 4096]);
    assert!(c.reply(w).is_some(), "two of three hold it in memory");
    c.fua = true;
    let fua = c.write(N1, 4096, &[2; 4096]);
    let flush = c.op(N1, GuestOp::Flush, 0, 0, b"");
    let r = c.read(N1, 0, 4096);
    c.release_store(N1);
    c.run_for(Duration::from_millis(50));
    assert_eq!((c.reply(fua), c.reply(flush)), (None, None), "on one disk is on no quorum's (S3)");
    assert_eq!(c.reply(r), None, "what could still be lost is not shown (S9)");
    c.release_store(N2);
    c.run_for(Duration::from_millis(50));
    assert!(c.reply(fua).is_some() && c.reply(flush).is_some());
    assert_eq!(c.reply(r), Some(vec![1; 4096]));
}

#[test]
fn in_flush_mode_one_copy_alone_answers_nothing() {
    let mut c = Cluster::with(3, Durability::Flush);
    c.nominate(N1, false);
    c.cut(N2);
    c.cut(N3);
    let w = c.write(N1, 0, b"x");
    c.run_for(Duration::from_millis(500));
    assert_eq!(c.reply(w), None);
}

/// A write in the memories of N1 and N2; N1 crashes and comes back without it.
fn only_n2_remembers() -> (Cluster, u64) {
    let mut c = Cluster::with(3, Durability::Flush);
    c.nominate(N1, false);
    c.cut(N3);
    hold_all(&mut c);
    let w = c.write(N1, 0, &[7; 4096]);
    assert!(c.reply(w).is_some());
    c.crash(N1);
    c.cut(N2);
    c.release_store(N1);
    c.release_store(N3);
    c.restart(N1);
    c.join(N3);
    (c, w)
}

#[test]
fn a_restarted_memory_does_not_stand_for_a_write_quorum() {
    let (mut c, _) = only_n2_remembers();
    for node in [N3, N1] {
        c.nominate(node, false);
        c.run_for(Duration::from_secs(5));
        let status = c.status(node);
        assert_ne!(status.role, RoleName::Primary, "N1 forgot the write and N3 never had it");
        assert!(status.waiting.expect("it says why").contains("forgot"));
    }
    c.release_store(N2);
    c.join(N2);
    c.run_for(Duration::from_secs(3));
    assert_eq!(c.status(N1).role, RoleName::Primary, "{:?}", c.status(N1));
    let r = c.read(N1, 0, 4096);
    c.run_for(Duration::from_millis(300));
    assert_eq!(c.reply(r), Some(vec![7; 4096]), "the loss of one memory loses no answered write");
}

#[test]
fn after_a_power_cut_of_a_quorum_what_was_flushed_opens() {
    let mut c = Cluster::with(3, Durability::Flush);
    c.nominate(N1, false);
    let w = c.write(N1, 0, &[3; 4096]);
    let flush = c.op(N1, GuestOp::Flush, 0, 0, b"");
    assert!(c.reply(w).is_some() && c.reply(flush).is_some());
    [N1, N2, N3].into_iter().for_each(|n| c.crash(n));
    c.restart(N2);
    c.restart(N3);
    c.nominate(N2, false);
    c.run_for(Duration::from_secs(5));
    assert_eq!(c.status(N2).role, RoleName::Primary, "two memories are lost, and two disks meet every flush (L5)");
    let r = c.read(N2, 0, 4096);
    c.run_for(Duration::from_millis(300));
    assert_eq!(c.reply(r), Some(vec![3; 4096]));
}

#[test]
fn a_member_that_caught_up_again_remembers_again() {
    let mut c = Cluster::with(3, Durability::Flush);
    c.nominate(N1, false);
    c.crash(N2);
    c.restart(N2);
    c.run_for(Duration::from_millis(500));
    let w = c.write(N1, 0, &[4; 4096]);
    assert!(c.reply(w).is_some());
    c.crash(N1);
    c.cut(N3);
    c.join(N3);
    c.nominate(N2, false);
    c.run_for(Duration::from_secs(4));
    assert_eq!(c.status(N2).role, RoleName::Primary, "{:?}", c.status(N2));
}

#[test]
fn in_async_mode_the_primary_alone_answers_and_the_others_follow() {
    let mut c = Cluster::with(3, Durability::Async);
    c.nominate(N1, false);
    c.cut(N2);
    c.cut(N3);
    c.run_for(Duration::from_secs(3));
    let w = c.write(N1, 0, &[5; 4096]);
    let r = c.read(N1, 0, 4096);
    c.run_for(Duration::from_millis(50));
    assert!(c.reply(w).is_some());
    assert_eq!(c.reply(r), Some(vec![5; 4096]), "nobody can take over without it, so it needs no lease");
    c.join(N2);
    c.join(N3);
    c.run_for(Duration::from_millis(500));
    for n in [N2, N3] {
        assert_eq!(c.log(n), c.log(N1));
        assert_eq!(c.committed(n), c.last(N1));
    }
}

#[test]
fn in_async_mode_nobody_takes_over_without_the_primary() {
    let mut c = Cluster::with(3, Durability::Async);
    c.nominate(N1, false);
    c.cut(N2);
    c.cut(N3);
    let w = c.write(N1, 0, &[6; 4096]);
    assert!(c.reply(w).is_some());
    c.crash(N1);
    c.join(N2);
    c.join(N3);
    c.nominate(N2, false);
    c.run_for(Duration::from_secs(10));
    let status = c.status(N2);
    assert_ne!(status.role, RoleName::Primary, "both others lack the answered write (S1)");
    assert!(status.waiting.expect("it says why").contains("alone knows"));
    c.restart(N1);
    c.run_for(Duration::from_secs(3));
    assert_eq!(c.status(N2).role, RoleName::Primary, "with the primary's answer it may, and fetches what it lacks");
    let r = c.read(N2, 0, 4096);
    c.run_for(Duration::from_millis(300));
    assert_eq!(c.reply(r), Some(vec![6; 4096]));
}
