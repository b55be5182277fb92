//! What a device may do to the store that is neither a crash nor a flipped bit.

use super::harness::{Harness, small};
use crate::api::Input;
use crate::io::{DiskOpKind, FileId};
use holdfast_format::{FrameHeader, RecordKind};
use holdfast_types::{BlockIndex, BlockRange, Lsn, VolumeId};

const V1: VolumeId = VolumeId(1);
const V2: VolumeId = VolumeId(2);

fn two_volumes(seed: u64) -> Harness {
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

/// A copy counts until its superblock is gone: if power fails before, it opens again, and must be whole or say what it lacks.
#[test]
fn a_copy_that_is_being_deleted_keeps_its_records_until_its_superblock_is_gone() {
    let mut h = two_volumes(35);
    h.append(V1, 3);
    h.drain_disk();
    let held = h.models[&V1].durable;
    h.strict = false;
    h.input(Input::Delete { volume: V1 });
    // The removal takes long; meanwhile the neighbour fills the journal again and again.
    for _ in 0..60 {
        h.append(V2, 2);
        h.commit_all_without(V2, |op| matches!(op.kind, DiskOpKind::Delete));
    }
    assert!(h.deleted.is_empty() && h.disk.files.contains_key(&FileId::Superblock(V1)));
    h.disk.in_flight.retain(|(_, op)| !matches!(op.kind, DiskOpKind::Delete));
    h.crash(true);
    h.start();
    assert_eq!(h.opened[&V1].last, Lsn(held), "nothing of it was given free");
}
