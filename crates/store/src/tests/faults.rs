//! What a device may do to the store that is neither a crash nor a flipped bit.

use super::harness::{Harness, small};
use crate::api::Input;
use crate::io::{DiskOpKind, FileId};
use holdfast_format::{FrameHeader, RecordKind, SegmentHeader};
use holdfast_types::{BlockIndex, BlockRange, Lsn, VolumeId};

const V1: VolumeId = VolumeId(1);
const V2: VolumeId = VolumeId(2);

pub(super) fn two_volumes(seed: u64) -> Harness {
    let mut h = Harness::new(seed, small());
    h.start();
    for v in [V1, V2] {
        h.create(v);
        h.adopt(v, 0);
    }
    h.quiesce();
    h
}

/// Where the frames of the segment that holds the newest ones start.
fn frames(h: &Harness) -> (FileId, Vec<(usize, FrameHeader)>) {
    let segments = h.disk.files.iter().filter(|(id, _)| matches!(id, FileId::Segment(_)));
    let found = segments.map(|(id, file)| {
        let at = (4096..file.medium.len()).step_by(512);
        (*id, at.filter_map(|at| Some((at, FrameHeader::decode(&file.medium[at..])?))).collect::<Vec<_>>())
    });
    found.max_by_key(|(_, frames)| frames.last().map_or(0, |(_, header)| header.seq)).expect("there are segments")
}

/// A device that puts a frame a sector further on, or back, hides the frame beside it, and with it the proof that both were
/// durable.
#[test]
fn a_frame_in_the_wrong_place_is_never_taken_for_a_torn_tail() {
    for forward in [true, false] {
        let mut base = two_volumes(31);
        for _ in 0..5 {
            base.append_range(V1, RecordKind::Write, BlockRange::new(0, 2));
            base.quiesce();
        }
        let (file, found) = frames(&base);
        let records: Vec<_> = found.iter().filter(|(_, header)| header.slots > 0).collect();
        assert_eq!(records.len(), 5, "a frame for each record");
        for (at, header) in records {
            let len = usize::try_from(header.total_len).expect("small");
            let mut h = Harness::new(32, small());
            h.strict = false;
            h.models = base.models.clone();
            h.disk.files = base.disk.files.clone();
            let medium = &mut h.disk.files.get_mut(&file).expect("it is there").medium;
            let frame = medium[*at..at + len].to_vec();
            let next = medium[at + len..at + len + 512].to_vec();
            medium[*at..at + len].fill(0);
            if forward {
                medium[at + 512..at + 512 + len].copy_from_slice(&frame);
                // The next frame was written later, to its own place.
                medium[at + len..at + len + 512].copy_from_slice(&next);
            } else {
                medium[at - 512..at - 512 + len].copy_from_slice(&frame);
            }
            h.start();
            let (c, m) = (&h.opened[&V1], &base.models[&V1]);
            assert_eq!(c.last_hash, m.hash(c.last.0), "what is there is right");
            let told = c.unknown_to.is_some_and(|to| to.0 >= m.durable);
            assert!(c.last.0 >= m.durable || told, "frame {}, forward {forward}: {c:?} of {}", header.seq, m.durable);
        }
    }
}

/// A sync that fails has thrown away what it was to bring to stable storage; the next one knows nothing of it.
#[test]
fn a_sync_that_finds_no_space_fails_the_copy_and_is_not_repeated() {
    let mut h = two_volumes(33);
    h.append(V1, 4);
    h.drain_disk();
    h.commit(V1, 4);
    h.disk.full_at_sync = true;
    h.strict = false;
    let syncs = |h: &Harness| h.disk.in_flight.iter().filter(|(_, op)| matches!(op.kind, DiskOpKind::Sync)).count();
    while syncs(&h) == 0 {
        assert!(h.complete_one() || h.tick(), "a checkpoint comes");
    }
    h.quiesce();
    assert!(matches!(&h.failures[..], [(Some(V1), why)] if why.contains("no space")), "{:?}", h.failures);
    h.disk.full_at_sync = false;
    h.quiesce();
    assert_eq!(syncs(&h), 0);
    assert!(h.store.positions(V1).is_none() && h.store.positions(V2).is_some(), "its neighbour goes on");
}

/// The same for a block of the image that is written again: a durable write reports what earlier ones could not write back,
/// and a second attempt would find nothing to report.
#[test]
fn a_repair_that_finds_no_space_at_its_sync_is_not_repeated() {
    let mut h = two_volumes(34);
    h.append_range(V1, RecordKind::Write, BlockRange::new(0, 1));
    h.drain_disk();
    h.commit(V1, 1);
    h.quiesce();
    let good = bytes::Bytes::copy_from_slice(&h.disk.files[&FileId::Image(V1)].medium[..4096]);
    h.disk.rot(FileId::Image(V1), 7, 1);
    h.disk.full_at_sync = true;
    h.strict = false;
    h.input(Input::Repair { volume: V1, block: BlockIndex(0), data: good });
    h.quiesce();
    assert!(h.repaired.is_empty(), "nothing is called repaired that may not be there tomorrow");
    assert!(matches!(&h.failures[..], [(Some(V1), _)]), "{:?}", h.failures);
}

/// A copy counts until its superblock says that it does not: if power fails before, it opens again, and must be whole or say
/// what it lacks.
#[test]
fn a_copy_that_is_being_deleted_keeps_its_records_until_it_is_marked() {
    let mut h = two_volumes(35);
    h.append(V1, 3);
    h.drain_disk();
    let held = h.models[&V1].durable;
    h.strict = false;
    h.input(Input::Delete { volume: V1 });
    // The first mark takes long; meanwhile the neighbour fills the journal again and again.
    for _ in 0..60 {
        h.append(V2, 2);
        h.commit_all_without(V2, |op| op.file == FileId::Superblock(V1));
    }
    assert!(h.deleted.is_empty() && h.disk.files.contains_key(&FileId::Superblock(V1)));
    h.disk.in_flight.retain(|(_, op)| op.file != FileId::Superblock(V1));
    h.crash(true);
    h.start();
    assert_eq!(h.opened[&V1].last, Lsn(held), "nothing of it was given free");
}

/// A journal of several segments, all of them needed by nobody but a copy that lags.
fn retained(seed: u64) -> Harness {
    let mut h = two_volumes(seed);
    for _ in 0..12 {
        h.append_range(V1, RecordKind::Write, BlockRange::new(0, 4));
        h.quiesce();
        let durable = h.models[&V1].durable;
        h.commit(V1, durable);
        h.quiesce();
    }
    h
}

/// Where a frame with records starts that is not in the newest segment.
fn old_frame(h: &Harness) -> (FileId, u64) {
    let newest = frames(h).0;
    let segments = h.disk.files.iter().filter(|(id, _)| matches!(id, FileId::Segment(_)) && **id != newest);
    let found = segments.flat_map(|(id, file)| {
        let full = |at: &usize| FrameHeader::decode(&file.medium[*at..]).is_some_and(|frame| frame.slots > 0);
        (4096..file.medium.len()).step_by(512).filter(full).map(move |at| (*id, at as u64))
    });
    found.min_by_key(|(_, at)| *at).expect("there are older segments with frames")
}

/// A sector that can't be read costs what lies in it, at run time and at a start; everybody else goes on.
#[test]
fn an_unreadable_sector_of_an_old_segment_costs_no_copy() {
    let mut h = retained(41);
    h.strict = false;
    let whole = h.log_records;
    let (file, at) = old_frame(&h);
    h.disk.unreadable = Some((file, at..at + 512));
    // Records that are in memory need no reading.
    h.crash(true);
    h.start();
    h.quiesce();
    assert!(h.failures.is_empty(), "{:?}", h.failures);
    assert!(h.opened.contains_key(&V1) && h.opened.contains_key(&V2));
    let first = h.opened[&V1].first.0;
    for from in first..=h.models[&V1].durable {
        h.read_log(V1, from, 1);
        h.quiesce();
    }
    assert!(h.log_records > whole, "the others come");
    assert!(h.failures.is_empty(), "{:?}", h.failures);
    h.append(V1, 1);
    h.quiesce();
    assert_eq!(h.models[&V1].durable, h.models[&V1].last(), "and the copy goes on");
    h.disk.unreadable = None;
    h.crash(true);
    h.strict = true;
    h.start();
    h.quiesce();
    h.read_all(V1);
}

/// A sector of the newest segment: that of its first frame, of its last one, behind all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hole {
    First,
    Last,
    Behind,
}

/// Where the journal ends, nobody can tell what can't be read from what was never there: an agent refuses it, and who brings out what
/// is left of a dead disk gets what is whole before it, and is told.
#[test]
fn an_unreadable_sector_of_the_newest_segment_is_read_around_by_those_alone_who_ask_for_that() {
    for place in [Hole::First, Hole::Last, Hole::Behind] {
        let mut h = retained(47);
        h.strict = false;
        let durable = h.models[&V1].durable;
        let (file, frames) = frames(&h);
        let content = frames.iter().filter(|(_, frame)| frame.slots > 0).map(|(at, _)| *at);
        let at = match place {
            Hole::First => content.min(),
            Hole::Last => content.max(),
            Hole::Behind => Some(h.disk.files[&file].medium.len() - 512),
        };
        let at = at.expect("it has frames") as u64;
        h.disk.unreadable = Some((file, at..at + 512));
        h.crash(true);
        h.start();
        h.quiesce();
        assert!(h.failures.iter().any(|(_, why)| why.contains("the journal can't be read")), "{:?}", h.failures);
        h.failures.clear();
        h.config.reads_around_gaps = true;
        h.crash(true);
        h.start();
        h.quiesce();
        assert!(h.failures.is_empty(), "{:?}", h.failures);
        let (last, unknown) = (h.opened[&V1].last.0, h.opened[&V1].unknown_to);
        assert!(last <= durable && last > 0, "{place:?}: {last} of {durable}");
        match place {
            Hole::First => assert!(
                last == durable || unknown.is_some(),
                "what is whole behind it is there, or shows what is missing"
            ),
            Hole::Last => assert_eq!(unknown, None, "nothing shows that there was more: the gap alone is told"),
            Hole::Behind => assert_eq!((last, unknown), (durable, None), "all is there"),
        }
        let FileId::Segment(slot) = file else { unreachable!("frames are in segments") };
        assert_eq!(h.store.findings().gap.as_ref().map(|(slot, _)| *slot), Some(slot));
    }
}

#[test]
fn a_record_that_becomes_unreadable_is_told_and_costs_no_copy() {
    let mut h = retained(42);
    h.crash(true);
    h.start();
    h.quiesce();
    let (first, last) = (h.opened[&V1].first.0, h.models[&V1].durable);
    h.strict = false;
    let mut lost = Vec::new();
    for from in first..=last {
        let at = h.disk.in_flight.len();
        h.read_log(V1, from, 1);
        // The read of this record, if it is not in memory.
        let Some((_, op)) = h.disk.in_flight.get(at) else { continue };
        let DiskOpKind::Read { offset, .. } = op.kind else { continue };
        h.disk.unreadable = Some((op.file, offset..offset + 512));
        h.quiesce();
        h.disk.unreadable = None;
        lost.push((V1, from, from));
    }
    assert!(!lost.is_empty(), "some records are read from the device");
    assert_eq!(h.lost, lost);
    assert!(h.failures.is_empty(), "{:?}", h.failures);
    h.append(V1, 1);
    h.quiesce();
    assert_eq!(h.models[&V1].durable, h.models[&V1].last());
}

/// The header of the newest segment, and its file.
fn newest(h: &Harness) -> (SegmentHeader, FileId) {
    let segments = h.disk.files.iter().filter(|(file, _)| matches!(file, FileId::Segment(_)));
    let headers = segments.filter_map(|(file, f)| Some((SegmentHeader::decode(&f.medium[..4096])?, *file)));
    headers.max_by_key(|(header, _)| header.generation).expect("a journal has segments")
}

/// What is there several times can be read several times: a bad sector costs the copy of it that it is in.
#[test]
fn a_bad_sector_of_a_superblock_or_of_the_journals_head_costs_nothing() {
    for (file, bad) in [
        (FileId::Superblock(V1), 0..512),
        (FileId::Superblock(V1), 4096..12288),
        (FileId::JournalHead, 0..512),
        (FileId::JournalHead, 512..1024),
    ] {
        let mut h = retained(43);
        h.disk.unreadable = Some((file, bad.clone()));
        h.crash(true);
        h.start();
        h.quiesce();
        assert!(h.failures.is_empty(), "{file:?} {bad:?}: {:?}", h.failures);
        assert!(h.opened.contains_key(&V1) && h.opened.contains_key(&V2));
        h.disk.unreadable = None;
        h.read_all(V1);
    }
    for (file, whose) in [(FileId::Superblock(V1), Some(V1)), (FileId::JournalHead, None)] {
        let mut h = retained(44);
        h.strict = false;
        h.disk.unreadable = Some((file, 0..16384));
        h.crash(true);
        h.start();
        h.quiesce();
        assert!(h.failures.iter().any(|(of, why)| *of == whose && why.contains("can't be read")), "{:?}", h.failures);
    }
}

/// A segment that holds nothing of the journal is of no importance.
#[test]
fn a_spare_segment_that_cannot_be_read_fails_nobody() {
    let mut h = retained(45);
    h.crash(true);
    h.start();
    h.quiesce();
    let (newest, _) = newest(&h);
    let used: Vec<u64> = newest.closed.iter().map(|c| c.generation).chain([newest.generation]).collect();
    let is_spare = |(file, content): &(&FileId, &super::disk::File)| {
        let header = SegmentHeader::decode(&content.medium[..4096]);
        matches!(file, FileId::Segment(_)) && header.is_none_or(|header| !used.contains(&header.generation))
    };
    let (&spare, _) = h.disk.files.iter().find(is_spare).expect("a segment is kept ready");
    h.disk.unreadable = Some((spare, 0..4096));
    h.crash(true);
    h.start();
    h.quiesce();
    assert!(h.failures.is_empty(), "{:?}", h.failures);
    let FileId::Segment(slot) = spare else { unreachable!("a spare one is a segment") };
    let unreadable: Vec<u32> = h.store.findings().unreadable.keys().copied().collect();
    assert_eq!(unreadable, [slot], "whoever inspects the directory is told");
    h.append(V1, 30);
    h.quiesce();
    assert_eq!(h.models[&V1].durable, h.models[&V1].last());
    h.disk.unreadable = None;
    h.crash(true);
    h.start();
    h.quiesce();
    h.read_all(V1);
}

/// An empty head is that of a journal that never held anything, or it lost what it said.
#[test]
fn an_empty_head_beside_records_is_damage() {
    for also in [false, true] {
        let mut h = retained(46);
        h.strict = false;
        h.disk.files.get_mut(&FileId::JournalHead).unwrap().zero();
        if also {
            let (_, file) = newest(&h);
            h.disk.files.get_mut(&file).unwrap().zero();
        }
        h.crash(true);
        h.start();
        h.quiesce();
        assert!(h.failures.iter().any(|(of, why)| of.is_none() && why.contains("head is empty")), "{:?}", h.failures);
    }
}
