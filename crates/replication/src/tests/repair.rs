//! Bad blocks are fetched from another copy.

use super::cluster::Cluster;
use super::{N1, N2, N3};
use crate::api::{GuestError, GuestOp};
use holdfast_types::BlockRange;
use std::time::Duration;

fn written() -> Cluster {
    let mut c = Cluster::new(3);
    c.nominate(N1, false);
    for block in 0..4 {
        let w = c.write(N1, block * 4096, &[b'a'; 4096]);
        assert!(c.reply(w).is_some());
    }
    c.run_for(Duration::from_millis(100));
    c
}

#[test]
fn a_read_of_bad_blocks_is_repaired_and_answered() {
    let mut c = written();
    c.rot(N1, 1);
    c.rot(N1, 2);
    c.rot(N2, 2);
    let r = c.read(N1, 0, 4 * 4096);
    assert_eq!(c.reply(r), Some(vec![b'a'; 4 * 4096]), "one block from either of the others, one from the third copy");
    assert!(!c.is_rotten(N1, 1) && !c.is_rotten(N1, 2));
    assert!(c.is_rotten(N2, 2), "nobody read it there");
}

#[test]
fn a_write_of_a_part_of_a_bad_block_keeps_the_rest() {
    let mut c = written();
    c.rot(N1, 3);
    let w = c.write(N1, 3 * 4096 + 512, b"new");
    assert!(c.reply(w).is_some());
    let r = c.read(N1, 3 * 4096 + 510, 7);
    assert_eq!(c.reply(r), Some(b"aanewaa".to_vec()));
}

#[test]
fn a_copy_that_lags_is_asked_again() {
    let mut c = written();
    c.cut(N3);
    c.hold_store(N2);
    let w = c.write(N1, 0, &[b'b'; 4096]);
    c.release_store(N2);
    assert!(c.reply(w).is_some());
    // N2 holds the record and does not know yet that it is committed: what it reads is the older content.
    c.rot(N1, 0);
    let r = c.read(N1, 0, 4096);
    assert_eq!(c.reply(r), None);
    c.run_for(Duration::from_millis(200));
    assert_eq!(c.reply(r), Some(vec![b'b'; 4096]));
}

/// A member whose copy has failed, or whose device hangs, has an agent that is up: it must not be waited for without end.
#[test]
fn a_member_that_has_failed_or_hangs_is_passed_over() {
    let mut c = written();
    c.fail_store(N2);
    c.rot(N1, 1);
    let r = c.read(N1, 4096, 4096);
    c.run_for(Duration::from_millis(200));
    assert_eq!(c.reply(r), Some(vec![b'a'; 4096]));
    let mut c = written();
    c.hold_store(N2);
    c.rot(N1, 1);
    let r = c.read(N1, 4096, 4096);
    c.run_for(Duration::from_millis(3000));
    assert_eq!(c.reply(r), Some(vec![b'a'; 4096]));
}

#[test]
fn a_block_that_nobody_can_verify_is_an_error_for_that_request_alone() {
    let mut c = written();
    [N1, N2, N3].into_iter().for_each(|n| c.rot(n, 2));
    let (bad, good) = (c.read(N1, 2 * 4096, 4096), c.read(N1, 0, 2 * 4096));
    let over = c.op(N1, GuestOp::Write, 2 * 4096 + 1, 1, b"x");
    assert_eq!(c.reply(good), Some(vec![b'a'; 2 * 4096]));
    c.run_for(Duration::from_secs(2));
    assert_eq!(c.error(bad), Some(GuestError::Corrupt), "never zeros, never a guess (S18)");
    assert_eq!(c.error(over), Some(GuestError::Corrupt), "a part of it can't be kept");
    let again = c.read(N1, 3 * 4096, 4096);
    assert_eq!(c.reply(again), Some(vec![b'a'; 4096]));
}

#[test]
fn a_read_that_the_end_of_the_copy_ends_is_no_error_of_the_data() {
    let mut c = written();
    c.hold_store(N1);
    let r = c.read(N1, 0, 4096);
    let over = c.op(N1, GuestOp::Write, 4097, 1, b"x");
    c.fail_store_reading(N1);
    assert_eq!(
        [c.error(r), c.error(over)],
        [None, None],
        "their connection ends, and the next primary has the content"
    );
    c.nominate(N2, false);
    let again = c.read(N2, 0, 4096);
    c.run_for(Duration::from_millis(300));
    assert_eq!(c.reply(again), Some(vec![b'a'; 4096]));
}

#[test]
fn a_reader_that_lost_every_peer_is_answered_in_the_end() {
    let mut c = written();
    c.rot(N1, 0);
    c.hold_store(N2);
    c.hold_store(N3);
    let r = c.read(N1, 0, 4096);
    c.run_for(Duration::from_millis(100));
    assert_eq!(c.reply(r), None);
    c.cut(N2);
    c.cut(N3);
    c.run_for(Duration::from_millis(1500));
    assert_eq!(c.error(r), Some(GuestError::Corrupt));
}

#[test]
fn a_scrub_finds_and_repairs_what_nobody_reads() {
    let mut c = written();
    c.rot(N2, 1);
    c.rot(N2, 3);
    c.rot(N1, 3);
    c.rot(N3, 3);
    c.scrub(N2);
    c.run_for(Duration::from_secs(3));
    assert!(!c.is_rotten(N2, 1));
    assert!(c.is_rotten(N2, 3), "no copy can verify it");
    let s = c.status(N2).scrub;
    assert_eq!((s.total.repaired, s.total.lost, s.passes, s.requested, s.next.0), (1, 1, 1, false, 0));
    assert_eq!((s.of_run, s.of_run.verified), (s.total, s.blocks), "each block once");
    assert_eq!(s.unrepairable, [BlockRange::new(3, 1)]);
    assert_eq!(c.status(N1).scrub.passes, 0, "the others were not asked");
}

#[test]
fn the_background_scrub_needs_nobody_and_takes_its_time() {
    let mut c = written();
    c.rot(N3, 2);
    c.run_for(Duration::from_secs(10));
    assert!(c.is_rotten(N3, 2), "a pass takes a month");
    c.skip(Duration::from_hours(24 * 31));
    c.run_for(Duration::from_millis(200));
    assert!(!c.is_rotten(N3, 2));
    c.skip(Duration::from_hours(24 * 31));
    c.run_for(Duration::from_millis(200));
    assert_eq!(c.status(N3).scrub.passes, 1);
}

/// Blocks that a chunk of a scrub has.
const CHUNK: u64 = 256;
const MONTH: Duration = Duration::from_hours(24 * 30);

#[test]
fn a_volume_that_grew_is_read_in_the_same_time() {
    let mut c = Cluster::new(3);
    c.nominate(N1, false);
    c.run_for(Duration::from_millis(100));
    c.resize(1000 * CHUNK);
    c.run_for(Duration::from_millis(100));
    assert_eq!(c.status(N2).scrub.next.0, 0);
    for chunks in 1..=3 {
        c.skip(MONTH / 1000);
        c.run_for(Duration::from_millis(200));
        let next = c.status(N2).scrub.next.0;
        assert_eq!(next, chunks * CHUNK, "a thousandth of a month is a thousandth of the volume");
    }
    // A chunk in three hours is more than a month for all, and what an operator chose.
    c.scrub_at(N2, 9, CHUNK * 4096 / (3 * 3600));
    c.run_for(Duration::from_millis(100));
    c.resize(2000 * CHUNK);
    c.run_for(Duration::from_millis(100));
    c.skip(Duration::from_hours(1));
    c.run_for(Duration::from_millis(200));
    let s = c.status(N2).scrub;
    assert_eq!((s.requested, s.next.0, s.blocks), (true, CHUNK, 2000 * CHUNK));
}

#[test]
fn a_pass_goes_on_where_the_last_life_was() {
    let mut c = Cluster::new(3);
    c.nominate(N1, false);
    c.resize(4 * CHUNK);
    c.run_for(Duration::from_millis(100));
    let hour = |c: &mut Cluster| {
        c.skip(Duration::from_mins(61));
        c.run_for(Duration::from_millis(300));
    };
    c.scrub_at(N2, 7, CHUNK * 4096 / 3600);
    hour(&mut c);
    hour(&mut c);
    let before = c.status(N2).scrub;
    assert_eq!((before.next.0, before.of_run.verified), (3 * CHUNK, 3 * CHUNK));
    c.crash(N2);
    c.restart(N2);
    let after = c.status(N2).scrub;
    assert_eq!((after.requested, after.run, after.next, after.of_run), (true, 7, before.next, before.of_run));
    // The same wish again, by whoever waits for it.
    c.scrub_at(N2, 7, 100 << 20);
    assert_eq!(c.status(N2).scrub.next, before.next, "it is no new one");
    hour(&mut c);
    hour(&mut c);
    let ended = c.status(N2).scrub;
    assert_eq!((ended.requested, ended.of_run.verified, ended.passes), (false, 4 * CHUNK, 1));
    assert!(ended.ended_ms.is_some());
    c.crash(N2);
    c.restart(N2);
    let s = c.status(N2).scrub;
    assert_eq!((s.requested, s.run, s.ended_ms, s.of_run), (false, 7, ended.ended_ms, ended.of_run));
    // The background's position is kept, too, though a chunk of a small volume takes days.
    c.skip(MONTH / 4);
    c.run_for(Duration::from_millis(300));
    assert_eq!(c.status(N2).scrub.next.0, CHUNK);
    c.crash(N2);
    c.restart(N2);
    assert_eq!(c.status(N2).scrub.next.0, CHUNK);
}

#[test]
fn what_no_copy_has_is_known_in_the_next_life_and_forgotten_once_it_is_good() {
    let mut c = written();
    [N1, N2, N3].into_iter().for_each(|n| c.rot(n, 2));
    let bad = c.read(N1, 2 * 4096, 4096);
    c.run_for(Duration::from_secs(3));
    assert_eq!(c.error(bad), Some(GuestError::Corrupt));
    c.crash(N1);
    c.restart(N1);
    assert_eq!(c.status(N1).scrub.unrepairable, [BlockRange::new(2, 1)]);
    c.heal(N1, 2);
    c.scrub_at(N1, 8, 100 << 20);
    c.run_for(Duration::from_millis(300));
    assert_eq!(c.status(N1).scrub.unrepairable, []);
    c.crash(N1);
    c.restart(N1);
    assert_eq!(c.status(N1).scrub.unrepairable, []);
}
