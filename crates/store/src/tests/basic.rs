//! Single behaviours, small and readable.

use super::harness::{Harness, small};
use crate::api::{Input, Space};
use crate::io::{DiskOpKind, FileId};
use holdfast_format::{ALLOCATED_ZEROS, RecordKind};
use holdfast_types::{BlockRange, Lsn, VolumeId};

const V: VolumeId = VolumeId(3);

fn one_volume(seed: u64) -> Harness {
    let mut h = Harness::new(seed, small());
    h.start();
    h.create(V);
    h.adopt(V, 0);
    h.quiesce();
    h
}

fn frames_in_flight(h: &Harness) -> usize {
    let frame = |kind: &DiskOpKind| matches!(kind, DiskOpKind::Write { durable: true, .. });
    h.disk.in_flight.iter().filter(|(_, op)| matches!(op.file, FileId::Segment(_)) && frame(&op.kind)).count()
}

#[test]
fn a_record_leaves_at_once_and_company_shares_a_write() {
    let mut h = one_volume(1);
    let before = h.disk.durable_writes;
    h.append(V, 1);
    assert_eq!(frames_in_flight(&h), 1, "depth 1 waits for nobody");
    for _ in 0..8 {
        h.append(V, 1);
    }
    assert_eq!(frames_in_flight(&h), 2);
    h.drain_disk();
    assert_eq!(h.models[&V].durable, 9);
    assert!(h.disk.durable_writes - before <= 9, "two frames, then all that waited");
}

#[test]
fn a_later_frame_alone_proves_nothing() {
    let mut h = one_volume(2);
    h.append(V, 1);
    h.append(V, 1);
    let last = h.disk.in_flight.len() - 1;
    let done = h.disk.complete(last);
    h.input(Input::Done(done));
    assert_eq!(h.models[&V].durable, 0);
    h.drain_disk();
    assert_eq!(h.models[&V].durable, 2);
}

#[test]
fn a_promise_waits_for_earlier_appends() {
    let mut h = one_volume(3);
    h.append(V, 1);
    let epoch = h.models[&V].epoch.next();
    h.models.get_mut(&V).expect("known").promising = Some(epoch);
    h.input(Input::Promise { volume: V, epoch });
    let on_superblock = h.disk.in_flight.iter().any(|(_, op)| matches!(op.file, FileId::Superblock(_)));
    assert!(!on_superblock, "the promise is written after the drain");
    h.drain_disk();
    assert_eq!((h.models[&V].promised, h.models[&V].durable), (epoch, 1));
}

#[test]
fn what_is_cut_is_kept_aside() {
    let mut h = one_volume(4);
    h.append(V, 3);
    h.drain_disk();
    h.commit(V, 1);
    let cut = h.models[&V].log[1..].to_vec();
    h.adopt(V, 1);
    let epoch = h.models[&V].epoch;
    h.append(V, 1);
    h.quiesce();
    let file = &h.disk.files[&FileId::Orphan(V, epoch)].medium;
    let mut at = 0;
    for record in cut {
        assert_eq!(file[at..at + 128], record.header().encode());
        at += 128;
        assert_eq!(&file[at..at + record.body().len()], &record.body()[..]);
        at += record.body().len();
    }
    assert_eq!(h.models[&V].durable, 2);
    h.crash(true);
    h.start();
    h.read_all(V);
}

#[test]
fn the_image_is_a_plain_file() {
    let mut h = one_volume(5);
    h.append(V, 12);
    h.drain_disk();
    h.commit(V, 12);
    assert_eq!(h.store.positions(V).map(|p| p.committed), Some(Lsn(12)));
    h.quiesce();
    let image = h.disk.files[&FileId::Image(V)].medium.clone();
    let want = h.models[&V].image(12).to_vec();
    for (i, sum) in want.iter().enumerate() {
        let data = &image[i * 4096..][..4096];
        let block = holdfast_types::BlockIndex(u64::try_from(i).expect("small"));
        match *sum {
            0 | ALLOCATED_ZEROS => assert!(data.iter().all(|b| *b == 0)),
            sum => assert_eq!(holdfast_format::block_checksum(block, data), sum),
        }
    }
    assert!(h.checkpoints > 0);
}

#[test]
fn without_commits_a_full_journal_waits_and_goes_on_afterwards() {
    let mut h = one_volume(6);
    for _ in 0..80 {
        h.append(V, 1);
    }
    h.quiesce();
    let stuck = h.models[&V].durable;
    assert!(h.store.is_journal_full() && stuck < 80, "{stuck} of 80 fit");
    assert!(h.store.backlog_bytes() > 0);
    for _ in 0..20 {
        let durable = h.models[&V].durable;
        h.commit(V, durable);
        h.quiesce();
    }
    assert_eq!(h.models[&V].durable, 80);
    assert!(!h.store.is_journal_full());
}

#[test]
fn trim_is_a_preference() {
    let mut h = one_volume(7);
    for _ in 0..100 {
        h.append(V, 1);
        h.quiesce();
        let durable = h.models[&V].durable;
        h.commit(V, durable);
    }
    h.quiesce();
    assert_eq!(h.models[&V].durable, 100);
    h.read_log(V, 1, 100_000);
    h.read_log(V, 95, 1_000_000);
    h.drain_disk();
    assert_eq!(h.log_records, 6, "the oldest is gone though nobody trimmed, the newest are there");
}

#[test]
fn a_deleted_copy_leaves_nothing_and_may_come_again() {
    let mut h = one_volume(8);
    h.append(V, 5);
    h.drain_disk();
    h.commit(V, 5);
    h.append(V, 2);
    h.strict = false;
    h.read(V, BlockRange::new(0, 4));
    h.input(Input::Delete { volume: V });
    h.quiesce();
    assert_eq!(h.deleted, [V]);
    assert!(
        h.disk.files.keys().all(|file| matches!(file, FileId::Segment(_) | FileId::JournalHead)),
        "{:?}",
        h.disk.files.keys()
    );
    h.strict = true;
    h.reads.clear();
    h.opened.clear();
    h.create(V);
    h.adopt(V, 0);
    h.append(V, 1);
    h.quiesce();
    h.crash(true);
    h.start();
    assert_eq!(h.opened[&V].last, Lsn(1), "records of the earlier copy are not the new one's");
}

#[test]
fn an_interrupted_creation_is_cleaned_up() {
    for steps in 0..6 {
        let mut h = Harness::new(20 + steps, small());
        h.start();
        h.drain_disk();
        h.models.insert(V, super::harness::Model::new(5));
        let size = holdfast_types::VolumeSize::new(1 << 20).expect("1 MiB");
        h.strict = false;
        h.input(Input::Create { volume: V, incarnation: holdfast_types::Incarnation(5), size });
        for _ in 0..steps {
            h.complete_one();
        }
        h.crash(true);
        h.start();
        h.drain_disk();
        assert!(h.failures.is_empty(), "{:?}", h.failures);
        let left = h.disk.files.keys().filter(|f| !matches!(f, FileId::Segment(_) | FileId::JournalHead)).count();
        assert_eq!(left, if h.opened.contains_key(&V) { 4 } else { 0 });
    }
}

#[test]
fn no_space_is_no_failure() {
    let mut h = one_volume(9);
    h.append(V, 4);
    h.drain_disk();
    h.disk.full = true;
    h.commit(V, 4);
    for _ in 0..20 {
        h.drain_disk();
        h.tick();
    }
    h.append(V, 1);
    h.drain_disk();
    assert_eq!(h.models[&V].durable, 5, "the journal has its space");
    assert_eq!((h.store.is_short_of_space(), h.store.space(V)), (true, Space::Short), "and the image has none");
    assert_eq!(h.store.positions(V).map(|p| p.applied), Some(Lsn(0)));
    h.read_all(V);
    h.disk.full = false;
    h.quiesce();
    assert_eq!(h.store.positions(V).map(|p| p.applied), Some(Lsn(4)));
    assert_eq!((h.store.is_short_of_space(), h.store.space(V)), (false, Space::Enough));
}

#[test]
fn a_device_that_does_not_answer_is_told_until_it_does() {
    let mut h = one_volume(29);
    h.append(V, 1);
    assert_eq!(h.store.hung(V), None, "a moment ago");
    for _ in 0..200 {
        h.tick();
    }
    assert!(h.now.since(holdfast_types::Time::ZERO) >= h.config.hung_after, "the clock ran while nothing was answered");
    assert!(h.store.hung(V).is_some_and(|file| matches!(file, FileId::Segment(_))), "{:?}", h.store.hung(V));
    assert!(h.store.next_timeout().is_none_or(|at| at > h.now), "nothing wakes the store over and over");
    h.drain_disk();
    assert_eq!(h.models[&V].durable, 1);
    assert_eq!((h.store.hung(V), h.store.is_hung()), (None, false));
}

/// Also between two attempts, when nothing is parked: who looks then must not see a healthy copy.
#[test]
fn a_journal_that_finds_no_space_takes_no_more_writes_and_says_so() {
    let mut h = one_volume(19);
    h.disk.full = true;
    for _ in 0..200 {
        if h.store.is_journal_full() {
            break;
        }
        h.append(V, 1);
        h.drain_disk();
        let durable = h.models[&V].durable;
        h.commit(V, durable);
        h.drain_disk();
    }
    for _ in 0..4 {
        assert_eq!(h.store.space(V), Space::Out, "the image can't be written, so no segment is free again");
        h.tick();
        assert_eq!(h.store.space(V), Space::Out, "it is tried again");
        h.drain_disk();
    }
    h.disk.full = false;
    h.quiesce();
    assert_eq!(h.store.space(V), Space::Enough);
}

/// Before and after they are in the image, and after a start.
#[test]
fn written_zeroes_keep_their_space_and_discarded_blocks_do_not() {
    let mut h = one_volume(23);
    h.append_range(V, RecordKind::Write, BlockRange::new(0, 8));
    h.append_range(V, RecordKind::WriteZeroes, BlockRange::new(2, 4));
    h.append_range(V, RecordKind::Discard, BlockRange::new(5, 2));
    h.append_range(V, RecordKind::WriteZeroes, BlockRange::new(10, 2));
    let expected =
        [((0, 5), false), ((5, 2), true), ((7, 1), false), ((8, 2), true), ((10, 2), false), ((12, 4), true)];
    let expected = expected.map(|((start, count), hole)| (BlockRange::new(start, count), hole));
    h.drain_disk();
    h.commit(V, 4);
    assert_eq!(h.ask_extents(V, BlockRange::new(0, 16)), expected, "not applied yet");
    h.read_all(V);
    h.quiesce();
    assert_eq!(h.store.positions(V).map(|p| p.applied), Some(Lsn(4)));
    assert_eq!(h.ask_extents(V, BlockRange::new(0, 16)), expected, "in the image");
    assert_eq!(h.store.digest(V), Some(h.models[&V].digest(4)));
    h.read_all(V);
    h.quiesce();
    h.crash(false);
    h.start();
    h.quiesce();
    assert_eq!(h.ask_extents(V, BlockRange::new(0, 16)), expected, "after a start");
    h.read_all(V);
    h.quiesce();
}

/// The same (e, n) cut and overwritten by (e', n), over and over, then a crash: the table tells which counts.
#[test]
fn cut_tails_do_not_return() {
    let mut h = one_volume(10);
    for round in 0..12 {
        h.append(V, 3);
        h.drain_disk();
        let committed = h.models[&V].committed;
        h.commit(V, committed + 1);
        h.adopt(V, committed + 1);
        h.quiesce();
        if round % 4 == 3 {
            h.crash(round % 8 == 3);
            h.start();
            let last = h.models[&V].last();
            h.adopt(V, last);
            h.quiesce();
        }
    }
    assert_eq!(h.models[&V].last(), 12);
}

#[test]
fn a_store_that_settles_leaves_the_next_start_nothing_to_replay() {
    let mut h = one_volume(41);
    for _ in 0..20 {
        h.append(V, 1);
    }
    h.drain_disk();
    h.commit(V, 20);
    assert!(h.store.is_settled(), "nobody asked for it");
    h.input(Input::Settle);
    assert!(!h.store.is_settled());
    let before = h.checkpoints;
    // What comes meanwhile is for the next life.
    h.append(V, 1);
    let since = h.now;
    for _ in 0..1_000 {
        if h.store.is_settled() {
            break;
        }
        if !h.complete_one() {
            assert!(h.tick());
        }
    }
    assert!(h.store.is_settled() && h.checkpoints > before);
    let interval = small().checkpoint_interval;
    assert!(h.now.since(since) < interval, "it waits for no interval: {:?} of {interval:?}", h.now.since(since));
    let writes = |h: &Harness| h.disk.files[&FileId::Image(V)].medium.clone();
    let image = writes(&h);
    h.crash(false);
    h.start();
    assert_eq!(writes(&h), image, "the next start writes nothing to the image");
    h.quiesce();
}
