//! Three copies, an ideal network and an ideal store: each test is a scenario in which the protocol's rule is visible. The
//! adversary lives in `holdfast-sim`.

mod cluster;
mod durability;
mod forced;
mod members;
mod regime;
mod repair;
mod resize;
mod resync;
mod verify;

use crate::api::{GuestOp, RoleName};
use bytes::Bytes;
use cluster::Cluster;
use holdfast_format::message::{Message, TailReport};
use holdfast_format::{Draft, Record, RecordKind};
use holdfast_types::{BlockRange, Epoch, EpochTable, Incarnation, Lsn, NodeId, VolumeId};
use std::time::Duration;

const N1: NodeId = NodeId(1);
const N2: NodeId = NodeId(2);
const N3: NodeId = NodeId(3);

#[test]
fn a_nominated_copy_opens_and_serves() {
    let mut c = Cluster::new(3);
    c.nominate(N1, false);
    assert_eq!(c.status(N1).role, RoleName::Primary);
    let w = c.write(N1, 8192, b"hello");
    assert_eq!(c.reply(w), Some(Vec::new()), "answered when a quorum holds it");
    let r = c.read(N1, 8190, 9);
    assert_eq!(c.reply(r).as_deref(), Some(b"\0\0hello\0\0".as_slice()), "a sub-block write keeps its neighbours");
    c.run_for(Duration::from_millis(50));
    for n in [N1, N2, N3] {
        assert_eq!(c.committed(n), c.last(n), "every copy learns the commit of an idle volume");
        assert_eq!(c.log(n), c.log(N1));
    }
}

#[test]
fn one_copy_alone_answers_nothing() {
    let mut c = Cluster::new(3);
    c.nominate(N1, false);
    c.cut(N2);
    c.cut(N3);
    let w = c.write(N1, 0, b"x");
    c.run_for(Duration::from_millis(500));
    assert_eq!(c.reply(w), None, "no quorum, no answer (S1)");
    c.join(N2);
    c.run_for(Duration::from_millis(100));
    assert_eq!(c.reply(w), Some(Vec::new()), "on return of a quorum it goes on by itself (L6)");
}

#[test]
fn reads_stop_with_the_lease_and_come_back_with_it() {
    let mut c = Cluster::new(3);
    c.nominate(N1, false);
    c.cut(N2);
    c.cut(N3);
    c.run_for(Duration::from_secs(3));
    let r = c.read(N1, 0, 512);
    c.run_for(Duration::from_millis(100));
    assert_eq!(c.reply(r), None, "no lease, no read (S13)");
    c.join(N3);
    c.run_for(Duration::from_millis(500));
    assert!(c.reply(r).is_some());
}

#[test]
fn takeover_waits_for_the_lease_and_keeps_what_was_answered() {
    let mut c = Cluster::new(3);
    c.nominate(N1, false);
    let writes: Vec<_> =
        (0..10).map(|i| c.write(N1, i * 4096, &[b'a' + u8::try_from(i).expect("small"); 100])).collect();
    assert!(writes.iter().all(|w| c.reply(*w).is_some()));
    c.crash(N1);
    c.nominate(N2, false);
    assert_ne!(c.status(N2).role, RoleName::Primary, "a lease may still be held by the old primary");
    c.run_for(Duration::from_millis(2_300));
    assert_eq!(c.status(N2).role, RoleName::Primary);
    let r = c.read(N2, 9 * 4096, 100);
    c.run_for(Duration::from_millis(100));
    assert_eq!(c.reply(r), Some(vec![b'j'; 100]));
}

#[test]
fn an_unanswered_tail_of_a_deposed_primary_is_cut() {
    let mut c = Cluster::new(3);
    c.nominate(N1, false);
    c.run_for(Duration::from_millis(300));
    c.cut(N1);
    let lost = c.write(N1, 0, b"nobody heard this");
    let tail = c.last(N1);
    c.nominate(N2, false);
    c.run_for(Duration::from_millis(2_300));
    assert_eq!(c.status(N2).role, RoleName::Primary);
    let kept = c.write(N2, 4096, b"heard");
    assert!(c.reply(kept).is_some());
    c.join(N1);
    c.run_for(Duration::from_millis(500));
    assert_eq!(c.reply(lost), None);
    assert_eq!(c.status(N1).role, RoleName::Secondary);
    assert_eq!(c.log(N1), c.log(N2), "the diverging record {tail} is gone (S8)");
    let r = c.read(N2, 0, 5);
    assert_eq!(c.reply(r), Some(vec![0; 5]));
}

#[test]
fn a_claimant_fetches_a_longer_log_before_it_opens() {
    let mut c = Cluster::new(3);
    c.nominate(N1, false);
    c.cut(N3);
    for i in 0..5 {
        let w = c.write(N1, i * 4096, b"only on two");
        assert!(c.reply(w).is_some());
    }
    c.crash(N1);
    c.join(N3);
    c.nominate(N3, false);
    c.run_for(Duration::from_millis(2_500));
    assert_eq!(c.status(N3).role, RoleName::Primary, "{:?}", c.status(N3));
    let r = c.read(N3, 4 * 4096, 11);
    assert_eq!(c.reply(r), Some(b"only on two".to_vec()), "S1");
}

/// Node 2 has claimed, chosen the longer log of node 1, and waits for its records; then node 1 is gone for good. Nobody else is there.
fn source_gone(copies: u64) -> Cluster {
    let mut c = Cluster::new(copies);
    c.nominate(N1, false);
    let kept = c.write(N1, 0, b"kept");
    assert!(c.reply(kept).is_some());
    c.run_for(Duration::from_millis(300));
    (2..=copies).for_each(|n| c.cut(NodeId(n)));
    c.write(N1, 4096, b"nobody heard this");
    c.crash(N1);
    (2..=copies).for_each(|n| c.join(NodeId(n)));
    c.hold_store(N2);
    c.nominate(N2, false);
    c.run_for(Duration::from_millis(2_500));
    (3..=copies).for_each(|n| c.cut(NodeId(n)));
    c.restart(N1);
    c.join(N1);
    c.hold_store(N1);
    c.release_store(N2);
    let waiting = c.status(N2).waiting.unwrap_or_default();
    assert!(waiting.contains("fetching records") && waiting.ends_with("from n1"), "{waiting}");
    c.crash(N1);
    c
}

#[test]
fn a_claimant_whose_source_is_gone_goes_on_with_whoever_is_there() {
    let mut c = source_gone(3);
    c.run_for(Duration::from_secs(3));
    assert_eq!((c.status(N2).role, c.status(N2).absent), (RoleName::Claimant, vec![N1, N3]));
    c.join(N3);
    c.run_for(Duration::from_secs(3));
    assert_eq!(c.status(N2).role, RoleName::Primary, "{:?}", c.status(N2));
    let r = c.read(N2, 0, 4);
    assert_eq!(c.reply(r).as_deref(), Some(b"kept".as_slice()));
    // Whose tail was chosen before cuts it, as after any other takeover.
    c.release_store(N1);
    c.restart(N1);
    c.join(N1);
    c.run_for(Duration::from_secs(3));
    assert_eq!(c.log(N1), c.log(N2));
}

#[test]
fn of_two_copies_one_whose_source_is_gone_says_so_and_goes_on_alone() {
    let mut c = source_gone(2);
    c.run_for(Duration::from_secs(3));
    assert_eq!((c.status(N2).role, c.status(N2).absent), (RoleName::Claimant, vec![N1]), "it was there, and is not");
    c.go_alone(N2);
    c.run_for(Duration::from_secs(3));
    assert_eq!((c.status(N2).role, c.members()), (RoleName::Primary, vec![2]), "{:?}", c.status(N2));
}

#[test]
fn one_that_is_to_go_on_alone_does_not_wait_for_a_source_that_is_gone() {
    let mut c = source_gone(2);
    c.hold_store(N2);
    c.go_alone(N2);
    c.run_for(Duration::from_secs(1));
    c.release_store(N1);
    c.restart(N1);
    c.join(N1);
    c.run_for(Duration::from_secs(3));
    assert!(c.status(N2).absent.is_empty(), "the other one has answered first, with a longer log");
    c.hold_store(N1);
    c.release_store(N2);
    assert_eq!(c.status(N2).role, RoleName::Claimant, "it waits for records");
    c.crash(N1);
    c.run_for(Duration::from_secs(3));
    assert_eq!((c.status(N2).role, c.members()), (RoleName::Primary, vec![2]), "{:?}", c.status(N2));
}

#[test]
fn a_switchover_drains_and_needs_no_lease_to_end() {
    let mut c = Cluster::new(3);
    c.nominate(N1, false);
    let w = c.write(N1, 0, b"before");
    assert!(c.reply(w).is_some());
    c.run_for(Duration::from_millis(300));
    let before = c.now();
    c.nominate(N3, true);
    c.run_for(Duration::from_millis(20));
    assert_eq!(c.status(N3).role, RoleName::Primary);
    assert_eq!(c.status(N1).role, RoleName::Secondary);
    assert!(c.now() - before < Duration::from_millis(100));
    let r = c.read(N3, 0, 6);
    c.run_for(Duration::from_millis(20));
    assert_eq!(c.reply(r), Some(b"before".to_vec()));
}

/// Its guests would wait for a copy that is not there, or has to fetch first.
#[test]
fn a_primary_serves_on_until_its_successor_follows() {
    let mut c = Cluster::new(3);
    c.nominate(N1, false);
    c.run_for(Duration::from_millis(300));
    c.cut(N3);
    c.nominate(N3, true);
    c.run_for(Duration::from_millis(300));
    let w = c.write(N1, 0, b"meanwhile");
    c.run_for(Duration::from_millis(50));
    assert!(c.reply(w).is_some(), "{:?}", c.status(N1));
    c.join(N3);
    c.run_for(Duration::from_millis(500));
    assert_eq!(c.status(N3).role, RoleName::Primary, "{:?}", c.status(N3));
    let r = c.read(N3, 0, 9);
    c.run_for(Duration::from_millis(20));
    assert_eq!(c.reply(r), Some(b"meanwhile".to_vec()));
}

#[test]
fn a_primary_whose_device_fails_hands_over_at_once() {
    let mut c = Cluster::new(3);
    c.nominate(N1, false);
    let w = c.write(N1, 0, b"kept");
    assert!(c.reply(w).is_some());
    c.fail_store(N1);
    assert_eq!(c.status(N1).role, RoleName::Failed);
    c.nominate(N2, false);
    c.run_for(Duration::from_millis(300));
    assert_eq!(c.status(N2).role, RoleName::Primary, "nobody waits for a lease that was given up");
    let r = c.read(N2, 0, 4);
    c.run_for(Duration::from_millis(300));
    assert_eq!(c.reply(r), Some(b"kept".to_vec()));
}

/// Trap 31, with the control plane's log on the same device.
#[test]
fn a_primary_whose_device_hangs_lets_go_when_its_successor_asks() {
    let mut c = Cluster::new(3);
    c.nominate(N1, false);
    let w = c.write(N1, 0, b"kept");
    assert!(c.reply(w).is_some());
    c.hang(N1, true);
    assert_eq!(c.status(N1).role, RoleName::Primary, "nobody may be able to replace it");
    c.nominate(N2, false);
    c.run_for(Duration::from_millis(500));
    assert_eq!(c.status(N2).role, RoleName::Primary);
    assert_ne!(c.status(N1).role, RoleName::Primary, "its guests are free to go");
    let r = c.read(N2, 0, 4);
    c.run_for(Duration::from_millis(300));
    assert_eq!(c.reply(r), Some(b"kept".to_vec()));
    c.hang(N1, false);
    c.run_for(Duration::from_millis(500));
    assert_eq!(c.log(N1), c.log(N2), "it comes back as a follower");
}

#[test]
fn a_restarted_primary_claims_a_new_epoch() {
    let mut c = Cluster::new(3);
    c.nominate(N1, false);
    let w = c.write(N1, 0, b"kept");
    assert!(c.reply(w).is_some());
    let old = c.active().epoch;
    c.crash(N1);
    c.restart(N1);
    c.run_for(Duration::from_millis(2_500));
    assert_eq!(c.status(N1).role, RoleName::Primary);
    assert!(c.active().epoch > old, "N0: an epoch belongs to one life");
    let starts = c.log(N1).iter().filter(|(_, k, _)| *k == RecordKind::EpochStart).count();
    assert_eq!(starts, 2);
    let r = c.read(N1, 0, 4);
    c.run_for(Duration::from_millis(300));
    assert_eq!(c.reply(r), Some(b"kept".to_vec()));
}

#[test]
fn a_wiped_copy_under_its_old_name_does_not_count() {
    let mut c = Cluster::new(3);
    c.nominate(N1, false);
    c.cut(N3);
    let w = c.write(N1, 0, b"on n1 and n2");
    assert!(c.reply(w).is_some());
    c.crash(N1);
    c.wipe(N2);
    c.join(N3);
    c.nominate(N3, false);
    c.run_for(Duration::from_secs(5));
    assert_ne!(c.status(N3).role, RoleName::Primary, "S20: the wiped copy must not complete a fence quorum");
    c.restart(N1);
    c.run_for(Duration::from_secs(3));
    assert_eq!(c.status(N3).role, RoleName::Primary, "with the copy that holds the write the volume opens (S19)");
    let r = c.read(N3, 0, 12);
    c.run_for(Duration::from_millis(300));
    assert_eq!(c.reply(r), Some(b"on n1 and n2".to_vec()));
}

/// T3: R whole logs, not R answers. What a copy can't read of its own may be what was acknowledged.
#[test]
fn a_copy_that_lost_records_does_not_complete_a_fence() {
    let mut c = Cluster::new(3);
    c.nominate(N1, false);
    c.cut(N3);
    let before = c.last(N2);
    let w = c.write(N1, 0, b"on n1 and n2");
    assert!(c.reply(w).is_some());
    c.crash(N1);
    c.crash(N2);
    c.lose_behind(N2, before);
    c.restart(N2);
    c.join(N3);
    c.nominate(N3, false);
    c.run_for(Duration::from_secs(5));
    assert_ne!(c.status(N3).role, RoleName::Primary, "S1: two answer, and one of them can't say what it held");
    c.restart(N1);
    c.run_for(Duration::from_secs(3));
    assert_eq!(c.status(N3).role, RoleName::Primary, "{:?}", c.status(N3));
    let r = c.read(N3, 0, 12);
    c.run_for(Duration::from_millis(300));
    assert_eq!(c.reply(r), Some(b"on n1 and n2".to_vec()));
}

/// Trap 5: a member that has granted a lease and forgot it.
#[test]
fn restarted_members_wait_for_what_they_may_have_granted() {
    let mut c = Cluster::new(3);
    c.nominate(N1, false);
    c.run_for(Duration::from_millis(300));
    c.cut(N1);
    for n in [N2, N3] {
        c.crash(n);
        c.restart(n);
    }
    c.nominate(N2, false);
    c.run_for(Duration::from_secs(1));
    let r = c.read(N1, 0, 4);
    assert!(c.reply(r).is_some(), "the old primary serves reads by its lease");
    assert_ne!(c.status(N2).role, RoleName::Primary, "S13");
    c.run_for(Duration::from_secs(2));
    assert_eq!(c.status(N2).role, RoleName::Primary, "{:?}", c.status(N2));
}

/// Trap 5: the member counts from when it was asked, and that may have been long ago.
#[test]
fn a_lease_counts_from_when_it_was_asked_for() {
    let mut c = Cluster::new(3);
    c.nominate(N1, false);
    c.run_for(Duration::from_millis(300));
    c.hold_grants(true);
    c.run_for(Duration::from_millis(250));
    c.cut_beats(true);
    c.run_for(Duration::from_millis(1_500));
    c.hold_grants(false);
    c.run_for(Duration::from_millis(700));
    let r = c.read(N1, 0, 4);
    c.run_for(Duration::from_millis(100));
    assert_eq!(c.reply(r), None, "S13: the members may have promised another epoch by now");
    c.cut_beats(false);
    c.run_for(Duration::from_millis(300));
    assert!(c.reply(r).is_some());
}

/// L6: a member refuses a primary whose successor never came.
#[test]
fn a_primary_that_was_overtaken_in_vain_claims_anew() {
    let mut c = Cluster::new(3);
    c.nominate(N1, false);
    c.run_for(Duration::from_millis(300));
    let before = c.active().epoch;
    c.cut(N1);
    c.hold_control(true);
    c.nominate(N2, false);
    c.run_for(Duration::from_millis(2_500));
    c.decide_one();
    c.run_for(Duration::from_millis(300));
    assert!(c.status(N3).promised > before, "it has promised the claimant's epoch: {:?}", c.status(N3));
    c.crash(N2);
    c.drop_requests();
    c.hold_control(false);
    c.nominate(N1, false);
    c.join(N1);
    assert_eq!((c.active().epoch, c.status(N1).role), (before, RoleName::Primary), "nothing was opened");
    let refused = c.write(N1, 0, b"refused");
    c.run_for(Duration::from_secs(5));
    assert!(c.active().epoch > before, "{:?}", c.status(N1));
    let w = c.write(N1, 4096, b"x");
    assert_eq!((c.reply(refused), c.reply(w)), (None, Some(Vec::new())), "its client sends it again, and is answered");
}

#[test]
fn a_lagging_copy_catches_up_from_the_log() {
    let mut c = Cluster::new(3);
    c.nominate(N1, false);
    c.cut(N2);
    for i in 0..300 {
        let w = c.write(N1, (i % 7) * 4096, &[u8::try_from(i % 251).expect("small"); 4096]);
        assert!(c.reply(w).is_some());
    }
    c.join(N2);
    c.run_for(Duration::from_millis(300));
    assert_eq!(c.log(N2), c.log(N1));
    assert_eq!(c.committed(N2), c.last(N1));
}

#[test]
fn overlapping_sub_block_writes_keep_each_other() {
    let mut c = Cluster::new(3);
    c.nominate(N1, false);
    c.hold_store(N1);
    let writes: Vec<_> =
        (0..8u64).map(|i| c.write(N1, i * 512, &[b'0' + u8::try_from(i).expect("small"); 512])).collect();
    let whole = c.op(N1, GuestOp::Discard, 100, 200, b"");
    c.release_store(N1);
    c.run_for(Duration::from_millis(200));
    assert!(writes.iter().all(|w| c.reply(*w).is_some()) && c.reply(whole).is_some());
    let r = c.read(N1, 0, 4096);
    let data = c.reply(r).expect("answered");
    for (i, sector) in data.chunks(512).enumerate().skip(1) {
        assert!(sector.iter().all(|b| usize::from(*b) == usize::from(b'0') + i), "sector {i} was lost to a neighbour");
    }
    assert_eq!((&data[..100], &data[100..300], &data[300..512]), (&[b'0'; 100][..], &[0; 200][..], &[b'0'; 212][..]));
}

#[test]
fn a_claim_that_was_overtaken_opens_nothing() {
    let mut c = Cluster::new(3);
    c.nominate(N1, false);
    c.cut(N1);
    c.hold_control(true);
    c.nominate(N2, false);
    c.run_for(Duration::from_millis(2_500));
    assert_ne!(c.status(N2).role, RoleName::Primary);
    c.forge_claim(N3);
    c.hold_control(false);
    c.run_for(Duration::from_millis(1_500));
    let primaries: Vec<NodeId> = [N2, N3].into_iter().filter(|n| c.status(*n).role == RoleName::Primary).collect();
    assert!(primaries.len() <= 1, "S11, S21");
    assert!(c.active().epoch > Epoch(1) || primaries.is_empty());
    assert!(c.last(N2) >= Lsn(1));
}

#[test]
fn after_a_gap_nothing_is_answered_until_a_quorum_has_confirmed_the_reign() {
    let mut c = Cluster::new(3);
    c.nominate(N1, false);
    c.run_for(Duration::from_millis(300));
    c.hold_store(N2);
    c.hold_store(N3);
    let held_by_a_quorum = c.write(N1, 0, b"acknowledged by nobody yet");
    c.gap(N1);
    c.cut_beats(true);
    c.release_store(N2);
    c.release_store(N3);
    let flush = c.op(N1, GuestOp::Flush, 0, 0, b"");
    let read = c.read(N1, 0, 5);
    c.run_for(Duration::from_millis(100));
    assert_eq!(c.committed(N1), c.last(N1), "the quorum holds it");
    assert_eq!([held_by_a_quorum, flush, read].map(|request| c.reply(request)), [None, None, None]);
    c.cut_beats(false);
    c.run_for(Duration::from_millis(300));
    assert_eq!(c.reply(held_by_a_quorum), Some(Vec::new()), "it still reigns");
    assert_eq!(c.reply(flush), Some(Vec::new()));
    assert_eq!(c.reply(read), Some(b"ackno".to_vec()));
}

#[test]
fn a_primary_deposed_in_a_gap_answers_nothing() {
    let mut c = Cluster::new(3);
    c.nominate(N1, false);
    c.run_for(Duration::from_millis(300));
    c.hold_store(N2);
    c.hold_store(N3);
    let write = c.write(N1, 0, b"its acknowledgements wait in the stopped primary's queue");
    c.freeze(N1, true);
    c.release_store(N2);
    c.release_store(N3);
    let read = c.read(N1, 0, 5);
    c.nominate(N2, false);
    c.run_for(Duration::from_millis(2_500));
    assert_eq!(c.status(N2).role, RoleName::Primary);
    c.gap(N1);
    c.freeze(N1, false);
    c.run_for(Duration::from_millis(500));
    assert_eq!([write, read].map(|request| c.reply(request)), [None, None]);
    assert_eq!(c.status(N1).role, RoleName::Secondary);
    let read = c.read(N2, 0, 3);
    c.run_for(Duration::from_millis(100));
    assert_eq!(c.reply(read), Some(b"its".to_vec()), "its fate was the next epoch's to decide");
}

/// Two of two: one copy alone is enough to fence (R is 1), never to open. Each life of it claims; if each appended the first
/// record of its epoch, the epoch table would outgrow the superblock, and the copy could never be opened again.
#[test]
fn claims_that_nobody_can_activate_leave_no_trace_in_the_log() {
    let mut c = Cluster::new(2);
    c.nominate(N1, false);
    let w = c.write(N1, 0, b"kept");
    assert!(c.reply(w).is_some());
    c.run_for(Duration::from_millis(100));
    let last = c.last(N1);
    c.crash(N2);
    for _ in 0..140 {
        c.crash(N1);
        c.restart(N1);
        c.run_for(Duration::from_millis(2_100));
    }
    assert_eq!(c.status(N1).role, RoleName::Claimant);
    assert_eq!(c.last(N1), last);
    c.restart(N2);
    c.run_for(Duration::from_millis(2_500));
    assert_eq!(c.status(N1).role, RoleName::Primary, "{:?}", c.status(N1));
    let r = c.read(N1, 0, 4);
    c.run_for(Duration::from_millis(300));
    assert_eq!(c.reply(r), Some(b"kept".to_vec()));
}

/// Old entries of an epoch table have to go some day. What is dropped must not be what a member that missed the last few is
/// found by.
#[test]
fn a_copy_that_missed_some_failovers_after_many_comes_back_by_the_log() {
    let mut c = Cluster::new(3);
    c.nominate(N1, false);
    for round in 0..66 {
        if round == 60 {
            c.cut(N3);
        }
        let next = if round % 2 == 0 { N2 } else { N1 };
        c.nominate(next, true);
        c.run_for(Duration::from_millis(50));
        assert_eq!(c.status(next).role, RoleName::Primary);
    }
    c.join(N3);
    c.run_for(Duration::from_millis(500));
    assert_eq!(c.log(N3), c.log(N1), "{:?}", c.status(N3));
}

#[test]
fn a_node_that_is_no_member_has_no_say() {
    let mut c = Cluster::new(3);
    let stranger = NodeId(9);
    c.nominate(N1, false);
    c.run_for(Duration::from_millis(300));
    c.crash(N1);
    c.cut(N3);
    c.nominate(N2, false);
    c.run_for(Duration::from_millis(2_300));
    let base = c.active().epoch;
    c.forge(stranger, N2, Message::PreClaimReply { base, yes: true });
    let report = TailReport {
        incarnation: Incarnation(900),
        last_epoch: base,
        last: Lsn(1_000),
        last_hash: 1,
        table: EpochTable::default(),
        committed: Lsn(1_000),
        applied: Lsn(0),
        first: Lsn(1),
        unknown_to: None,
        forgot: Epoch::ZERO,
    };
    c.forge(stranger, N2, Message::Tail { epoch: base.next(), report });
    c.join(N3);
    c.run_for(Duration::from_millis(500));
    assert_eq!(c.status(N2).role, RoleName::Primary, "{:?}", c.status(N2));
}

/// The store stops the whole process at a record that is not its volume's: no peer may bring it there.
#[test]
fn a_record_of_another_volume_or_behind_the_end_goes_nowhere() {
    let mut c = Cluster::new(3);
    c.nominate(N1, false);
    c.run_for(Duration::from_millis(300));
    let (epoch, before) = (c.active().epoch, c.log(N2));
    let (last, _, prev_hash) = *before.last().expect("the epoch's first record");
    for (volume, start) in [(VolumeId(8), 0), (VolumeId(7), 256)] {
        let record = Record::seal(Draft {
            volume,
            epoch,
            lsn: last.next(),
            prev_hash,
            committed: last,
            kind: RecordKind::Discard,
            head: false,
            tail: false,
            range: BlockRange::new(start, 1),
            body: Bytes::new(),
        });
        c.forge(N1, N2, Message::Append { epoch, committed: last, records: vec![record] });
        assert_eq!(c.log(N2), before);
    }
}

#[test]
fn a_primary_that_retires_answers_what_it_has_admitted_and_leads_no_more() {
    let mut c = Cluster::new(3);
    c.nominate(N1, false);
    c.run_for(Duration::from_millis(300));
    c.hold_store(N1);
    c.cut(N3);
    let held = c.write(N1, 0, b"admitted before");
    assert_eq!(c.reply(held), None, "one copy is no quorum");
    c.retire(N1);
    let late = c.write(N1, 4096, b"came after");
    assert_eq!(c.status(N1).role, RoleName::Primary, "it drains first");
    c.release_store(N1);
    c.run_for(Duration::from_millis(100));
    assert_eq!(c.reply(held), Some(Vec::new()));
    assert_eq!(c.reply(late), None, "nothing is answered that was not begun: its client sends it again");
    c.run_for(Duration::from_secs(5));
    assert_eq!(c.status(N1).role, RoleName::Secondary, "though the control plane still calls it primary");
    assert_eq!(c.active().primary, Some(N1));
    c.crash(N1);
    c.restart(N1);
    c.join(N3);
    c.run_for(Duration::from_millis(500));
    assert_eq!(c.status(N1).role, RoleName::Primary, "its next life waits for no lease");
    let r = c.read(N1, 0, 15);
    c.run_for(Duration::from_millis(100));
    assert_eq!(c.reply(r).as_deref(), Some(b"admitted before".as_slice()));
}

#[test]
fn a_guest_that_connects_again_and_again_holds_no_more_than_its_share_without_a_quorum() {
    const BLOCK: usize = 4096;
    let mut c = Cluster::new(3);
    c.nominate(N1, false);
    c.run_for(Duration::from_millis(300));
    c.cut(N2);
    c.cut(N3);
    for block in 0..4 {
        c.write(N1, block * BLOCK as u64, &[7; BLOCK]);
    }
    let is_bounded = |c: &Cluster| !c.accepts(N1, 4 * BLOCK) && c.accepts(N1, 4 * BLOCK + 1);
    assert!(is_bounded(&c), "four blocks are under way");
    c.close_session(N1);
    assert!(is_bounded(&c), "nobody waits for them any more, and the journal holds them still");
    c.join(N2);
    c.join(N3);
    c.run_for(Duration::from_millis(500));
    assert!(c.accepts(N1, 1), "they are committed");
}
