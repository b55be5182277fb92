//! The journal's size: what it grows to, what a full one still takes, and how it shrinks.

use super::harness::{Harness, small};
use crate::api::Input;
use crate::config::StoreConfig;
use crate::io::FileId;
use holdfast_format::RecordKind;
use holdfast_types::{BlockRange, Lsn, VolumeId};

const V: VolumeId = VolumeId(3);
const OTHER: VolumeId = VolumeId(4);

fn segments(h: &Harness) -> usize {
    h.disk.files.keys().filter(|file| matches!(file, FileId::Segment(_))).count()
}

fn most() -> usize {
    usize::try_from(small().max_segments).expect("small")
}

/// Writes and commits `count` records one at a time, and watches the number of segment files.
fn write_on(h: &mut Harness, v: VolumeId, count: usize) {
    for _ in 0..count {
        h.append(v, 1);
        h.quiesce();
        let durable = h.models[&v].durable;
        h.commit(v, durable);
        h.quiesce();
        assert!(segments(h) <= most(), "{} segments, {} are allowed", segments(h), most());
    }
}

/// Nobody trims: another copy lags, and its records are kept until the room is needed.
#[test]
fn what_a_lagging_copy_needs_does_not_grow_the_journal_beyond_its_bound() {
    let mut h = Harness::new(31, small());
    h.start();
    h.create(V);
    h.adopt(V, 0);
    h.quiesce();
    write_on(&mut h, V, 600);
    assert_eq!(h.models[&V].durable, 600);
    h.crash(true);
    h.input(Input::Start);
    h.quiesce();
    assert!(segments(&h) <= most() + 1, "{} segments after a start", segments(&h));
}

/// One copy writes without a quorum, a little each time that its neighbour fills a segment: few bytes, and soon in every segment.
#[test]
fn who_waits_for_a_quorum_leaves_segments_to_its_neighbour() {
    let mut h = Harness::new(37, StoreConfig { max_segments: 10, ..small() });
    h.start();
    for v in [V, OTHER] {
        h.create(v);
        h.adopt(v, 0);
    }
    h.quiesce();
    let mut waits = 0;
    for _ in 0..60 {
        if !h.store.outstays(V) {
            h.append(V, 1);
            waits += 1;
        }
        assert!(!h.store.outstays(OTHER), "what is committed is in nobody's way");
        for _ in 0..10 {
            h.append(OTHER, 1);
            h.quiesce();
            assert_eq!(h.models[&OTHER].durable, h.models[&OTHER].last(), "the neighbour goes on");
            let durable = h.models[&OTHER].durable;
            h.commit(OTHER, durable);
            h.quiesce();
        }
    }
    assert!(h.store.outstays(V) && (5..30).contains(&waits), "{waits} were taken");
    let durable = h.models[&V].durable;
    h.commit(V, durable);
    h.quiesce();
    assert!(!h.store.outstays(V), "its quorum is back");
}

/// Uncommitted records fill the journal: writes wait. A fence drains what was appended, a cut drops what it may, and the start
/// of the next epoch is durable all the same; then everything goes on.
#[test]
fn a_full_journal_takes_fences_cuts_and_starts_of_epochs() {
    for fence in [true, false] {
        let mut h = Harness::new(32, small());
        h.start();
        for v in [V, OTHER] {
            h.create(v);
            h.adopt(v, 0);
        }
        h.quiesce();
        for _ in 0..40 {
            h.append(V, 1);
            h.append(OTHER, 1);
            h.drain_disk();
        }
        h.quiesce();
        let (durable, last) = (h.models[&V].durable, h.models[&V].last());
        assert!(h.store.is_journal_full() && durable < last, "{durable} of {last} fit");
        if fence {
            let epoch = h.models[&V].epoch.next();
            h.models.get_mut(&V).expect("known").promising = Some(epoch);
            h.input(Input::Promise { volume: V, epoch });
            h.quiesce();
            assert_eq!((h.models[&V].promised, h.models[&V].durable), (epoch, last), "drained, then promised");
        }
        let cut = h.models[&V].durable - 1;
        h.adopt(V, cut);
        h.append_range(V, RecordKind::EpochStart, BlockRange::default());
        h.quiesce();
        assert_eq!(h.models[&V].durable, cut + 1, "the start of the epoch is durable");
        assert!(h.store.is_journal_full(), "and writes of the other volume still wait");
        assert!(h.models[&OTHER].durable < h.models[&OTHER].last());
        h.read_all(V);
        for _ in 0..20 {
            for v in [V, OTHER] {
                let durable = h.models[&v].durable;
                h.commit(v, durable);
            }
            h.quiesce();
        }
        assert_eq!(h.models[&OTHER].durable, h.models[&OTHER].last());
        assert!(segments(&h) <= most(), "what the reserve added went away: {} segments", segments(&h));
    }
}

/// What a copy that failed may hold alone stays; what lies below its checkpoint does not hold its neighbours up.
#[test]
fn a_copy_that_failed_keeps_no_more_of_the_journal_than_it_may_hold_alone() {
    let mut h = Harness::new(33, small());
    h.start();
    for v in [V, OTHER] {
        h.create(v);
        h.adopt(v, 0);
    }
    h.quiesce();
    write_on(&mut h, OTHER, 5);
    h.append(OTHER, 2);
    h.quiesce();
    let kept = h.models[&OTHER].durable;
    h.strict = false;
    h.disk.broken = Some(FileId::Image(OTHER));
    h.commit(OTHER, kept);
    h.quiesce();
    assert_eq!(h.failures.len(), 1, "{:?}", h.failures);
    h.disk.broken = None;
    write_on(&mut h, V, 200);
    assert_eq!(h.models[&V].durable, 200, "its neighbour goes on");
    h.crash(true);
    h.input(Input::Start);
    h.quiesce();
    assert_eq!(h.opened[&OTHER].last.0, kept, "and nothing that it acknowledged was forgotten");
}

/// While there is room, a copy that failed also keeps what others may ask for when it is back.
#[test]
fn a_copy_that_failed_keeps_what_others_may_ask_for_while_there_is_room() {
    let mut h = Harness::new(36, small());
    h.start();
    for v in [V, OTHER] {
        h.create(v);
        h.adopt(v, 0);
    }
    h.quiesce();
    for _ in 0..8 {
        write_on(&mut h, OTHER, 1);
        let durable = h.models[&V].durable;
        h.input(Input::Trim { volume: V, upto: Lsn(durable) });
        write_on(&mut h, V, 1);
    }
    let kept = h.models[&OTHER].durable;
    h.strict = false;
    h.disk.broken = Some(FileId::Image(OTHER));
    h.append(OTHER, 1);
    h.quiesce();
    h.commit(OTHER, kept + 1);
    h.quiesce();
    assert_eq!(h.failures.len(), 1, "{:?}", h.failures);
    h.disk.broken = None;
    for _ in 0..8 {
        write_on(&mut h, V, 1);
        let durable = h.models[&V].durable;
        h.input(Input::Trim { volume: V, upto: Lsn(durable) });
    }
    h.quiesce();
    h.crash(true);
    h.input(Input::Start);
    h.quiesce();
    assert!(h.opened[&OTHER].applied.0 >= 8, "a checkpoint covers most of it: {:?}", h.opened[&OTHER]);
    let before = h.log_records;
    h.read_log(OTHER, 1, usize::MAX);
    h.drain_disk();
    assert!(h.log_records > before, "its first records are still there");
}

/// A start takes a segment, also when there is no room. Lives that write nothing add nothing.
#[test]
fn lives_with_a_full_journal_do_not_grow_it_for_ever() {
    let mut h = Harness::new(34, small());
    h.start();
    h.create(V);
    h.adopt(V, 0);
    h.quiesce();
    for _ in 0..60 {
        h.append(V, 1);
        h.drain_disk();
    }
    h.quiesce();
    assert!(h.store.is_journal_full());
    for _ in 0..300 {
        h.crash(true);
        h.input(Input::Start);
        h.quiesce();
    }
    assert!(segments(&h) <= most() + 1, "{} segments", segments(&h));
}

/// What was needed once is given back later, while it is written to and while it is not.
#[test]
fn the_journal_shrinks_when_less_is_needed() {
    for busy in [false, true] {
        let mut h = Harness::new(35, small());
        h.start();
        h.create(V);
        h.adopt(V, 0);
        h.quiesce();
        write_on(&mut h, V, 100);
        assert_eq!(segments(&h), most(), "nobody trims");
        for _ in 0..if busy { 100 } else { 1 } {
            let durable = h.models[&V].durable;
            h.input(Input::Trim { volume: V, upto: Lsn(durable) });
            if busy {
                h.append(V, 1);
            }
            h.quiesce();
            let durable = h.models[&V].durable;
            h.commit(V, durable);
            h.quiesce();
        }
        assert!(segments(&h) <= 5, "busy {busy}: {} segments are left", segments(&h));
        let last = h.models[&V].last();
        h.append(V, 3);
        h.quiesce();
        h.crash(true);
        h.input(Input::Start);
        h.quiesce();
        assert_eq!(h.opened[&V].last.0, last + 3);
        h.read_all(V);
    }
}
