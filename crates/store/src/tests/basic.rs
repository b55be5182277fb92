//! Single behaviours, small and readable.

use super::harness::{Harness, small};
use crate::StoreConfig;
use crate::api::{Input, Space};
use crate::io::{DiskOpKind, FileId};
use holdfast_format::{ALLOCATED_ZEROS, RecordKind};
use holdfast_types::{BlockIndex, BlockRange, Lsn, ScrubFound, ScrubKept, VolumeId};
use std::time::Duration;

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
    h.append_range(V, RecordKind::Write, BlockRange::new(0, 1));
    assert_eq!(frames_in_flight(&h), 1, "depth 1 waits for nobody");
    for _ in 0..8 {
        h.append_range(V, RecordKind::Write, BlockRange::new(0, 1));
    }
    assert_eq!(frames_in_flight(&h), 2);
    for done in 1..3 {
        let frame = h.disk.in_flight.iter().position(|(_, op)| matches!(op.file, FileId::Segment(_))).expect("a frame");
        let ended = h.disk.complete(frame);
        h.input(Input::Done(ended));
        assert_eq!(
            (h.models[&V].durable, frames_in_flight(&h)),
            (done, 3 - usize::try_from(done).expect("small")),
            "all that waited shares the next frame"
        );
    }
    h.drain_disk();
    assert_eq!(h.models[&V].durable, 9);
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

/// A device that hangs while the next segment is made answers nothing that a guest asked for, as nothing is asked: its guests stand
/// still all the same, and people are told far sooner than of slow work in the background.
#[test]
fn a_device_that_hangs_while_the_journal_waits_for_a_segment_is_told() {
    let mut h = one_volume(31);
    let makes = |op: &crate::io::DiskOp| matches!(op.kind, DiskOpKind::Create { .. });
    for _ in 0..40 {
        h.append(V, 2);
        h.drain_disk_but(makes);
    }
    assert!(h.models[&V].durable < h.models[&V].last(), "what was appended does not fit what there is");
    assert!(h.disk.in_flight.iter().all(|(_, op)| makes(op)), "{:?}", h.disk.in_flight);
    let (start, patience) = (h.now, h.config.pressed_hung_after);
    while h.store.hung(V).is_none() && h.tick() {}
    assert!(matches!(h.store.hung(V), Some(FileId::Segment(_))), "{:?}", h.store.hung(V));
    let took = h.now.since(start);
    assert!(took > patience / 2 && took <= patience + patience / 2, "after {took:?}");
    h.commit_all_without(V, |_| false);
    assert_eq!((h.store.hung(V), h.store.is_hung()), (None, false));
    assert_eq!(h.models[&V].durable, h.models[&V].last());
}

/// Guests are slowed down, and in the end stand still, because an image takes nothing more.
#[test]
fn an_image_that_hangs_while_guests_are_held_back_is_told() {
    let mut h = Harness::new(37, StoreConfig { debt_bytes: 256 << 10, ..small() });
    h.start();
    h.create(V);
    h.adopt(V, 0);
    h.quiesce();
    let hangs = |op: &crate::io::DiskOp| op.file == FileId::Image(V);
    let mut start = None;
    for _ in 0..200 {
        h.append(V, 1);
        h.drain_disk_but(hangs);
        let durable = h.models[&V].durable;
        h.commit(V, durable);
        h.drain_disk_but(hangs);
        if !h.store.admits() {
            start.get_or_insert(h.now);
        }
        if h.store.hung(V).is_some() || !h.tick() {
            break;
        }
    }
    while h.store.hung(V).is_none() && h.tick() {
        h.drain_disk_but(hangs);
    }
    assert_eq!(h.store.hung_for(V), Some((FileId::Image(V), h.config.pressed_hung_after)));
    assert!(h.now.since(start.expect("guests are held back")) <= h.config.pressed_hung_after);
    h.commit_all_without(V, |_| false);
    assert_eq!((h.store.hung(V), h.store.is_hung()), (None, false));
}

/// Commits record after record, so much time apart, while `held` is not answered, until guests are held back.
fn write_until_held_back(h: &mut Harness, apart: Duration, held: impl Fn(&crate::io::DiskOp) -> bool) {
    while h.store.admits() {
        h.now = h.now + apart;
        h.append(V, 1);
        h.drain_disk_but(&held);
        let durable = h.models[&V].durable;
        h.commit(V, durable);
        h.drain_disk_but(&held);
        h.tick();
    }
}

/// What one image lacks holds up all copies of the journal, so one that hangs for good is given up for its neighbours, and only then.
#[test]
fn an_image_that_hangs_for_long_is_given_up_for_its_neighbours() {
    const OTHER: VolumeId = VolumeId(4);
    for neighbour in [true, false] {
        let mut h = Harness::new(38, StoreConfig { debt_bytes: 256 << 10, ..small() });
        h.start();
        h.strict = false;
        let volumes = if neighbour { &[V, OTHER][..] } else { &[V] };
        for v in volumes {
            h.create(*v);
            h.adopt(*v, 0);
        }
        h.quiesce();
        let hangs = |op: &crate::io::DiskOp| op.file == FileId::Image(V);
        // The rest of the device answers meanwhile.
        write_until_held_back(&mut h, Duration::from_millis(400), hangs);
        if neighbour {
            h.append(OTHER, 20);
        }
        let start = h.now;
        for _ in 0..1000 {
            h.drain_disk_but(hangs);
            if !h.failures.is_empty() || !h.tick() {
                break;
            }
        }
        if !neighbour {
            assert!(h.failures.is_empty() && h.store.hung(V).is_some(), "{:?}", h.failures);
            h.commit_all_without(V, |_| false);
            assert_eq!(h.models[&V].durable, h.models[&V].last(), "it is there again");
            continue;
        }
        assert!(matches!(&h.failures[..], [(Some(V), why)] if why.contains("other copies wait")), "{:?}", h.failures);
        let took = h.now.since(start);
        assert!(took > h.config.background_hung_after / 2 && took <= h.config.background_hung_after, "after {took:?}");
        for _ in 0..100 {
            h.drain_disk_but(hangs);
            let durable = h.models[&OTHER].durable;
            h.commit(OTHER, durable);
            h.tick();
        }
        assert_eq!(h.models[&OTHER].durable, h.models[&OTHER].last(), "the neighbour goes on");
        h.drain_disk();
        h.quiesce();
    }
}

/// A process that was paused while guests were held back has heard of nothing that ended meanwhile. That says nothing of the device.
#[test]
fn a_pause_of_the_process_costs_no_copy() {
    const OTHER: VolumeId = VolumeId(4);
    let mut h = Harness::new(39, StoreConfig { debt_bytes: 256 << 10, ..small() });
    h.start();
    for v in [V, OTHER] {
        h.create(v);
        h.adopt(v, 0);
    }
    h.quiesce();
    let writes = |op: &crate::io::DiskOp| op.file == FileId::Image(V);
    write_until_held_back(&mut h, Duration::ZERO, writes);
    assert!(h.disk.in_flight.len() > 1, "{:?}", h.disk.in_flight);
    h.now = h.now + 10 * h.config.background_hung_after;
    for _ in 0..3 {
        h.input(Input::Tick);
    }
    assert!(h.store.hung(V).is_some());
    h.commit_all_without(V, |_| false);
    assert_eq!((&h.failures[..], h.store.is_hung()), (&[][..], false));
    assert_eq!(h.models[&V].durable, h.models[&V].last());
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

/// S16: what the next life does not know to be committed may be cut, and the image is never undone.
#[test]
fn nothing_is_applied_before_the_disk_knows_that_it_is_committed() {
    let mut h = one_volume(44);
    h.append(V, 3);
    h.drain_disk();
    h.commit_all_without(V, |op| matches!(op.file, FileId::Segment(_) | FileId::Superblock(_)));
    let p = h.store.positions(V).expect("open");
    assert_eq!((p.committed, p.applied), (Lsn(3), Lsn::ZERO), "{p:?}");
    h.quiesce();
    assert_eq!(h.store.positions(V).expect("open").applied, Lsn(3));
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

#[test]
fn what_is_known_of_the_scrub_survives_an_orderly_end_and_what_was_written_at_once_any_end() {
    for (at_once, settles, kept) in [(false, false, false), (false, true, true), (true, false, true)] {
        let mut h = one_volume(42);
        let scrub = ScrubKept {
            next: BlockIndex(17),
            run: 5,
            rate: 1 << 20,
            of_run: ScrubFound { verified: 17, ..ScrubFound::default() },
            ended_ms: 9,
            unrepairable: vec![BlockRange::new(3, 2)],
            more: true,
        };
        h.quiesce();
        h.input(Input::Scrubbed { volume: V, kept: scrub.clone(), at_once });
        if settles {
            h.input(Input::Settle);
            assert!(!h.store.is_settled(), "the superblock is on its way");
        }
        h.drain_disk();
        assert!(h.store.is_settled());
        h.crash(true);
        h.start();
        assert_eq!(h.opened[&V].scrub, if kept { scrub } else { ScrubKept::default() });
    }
}
