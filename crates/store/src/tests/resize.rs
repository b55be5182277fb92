//! Volumes that become larger and smaller.

use super::harness::{BLOCKS, Harness, small};
use crate::api::Input;
use crate::io::{DiskOpKind, FileId};
use holdfast_format::RecordKind;
use holdfast_types::{BlockRange, Lsn, VolumeId};

const V: VolumeId = VolumeId(3);

fn written(seed: u64) -> Harness {
    let mut h = Harness::new(seed, small());
    h.start();
    h.create(V);
    h.adopt(V, 0);
    for start in (0..BLOCKS).step_by(4) {
        h.append_range(V, RecordKind::Write, BlockRange::new(start, 4));
    }
    settle(&mut h);
    h
}

/// Everything durable, committed, applied and in a checkpoint.
fn settle(h: &mut Harness) {
    for _ in 0..4 {
        h.quiesce();
        let durable = h.models[&V].durable;
        h.commit(V, durable);
    }
    h.quiesce();
    let (p, last) = (h.store.positions(V).expect("open"), Lsn(h.models[&V].last()));
    assert_eq!((p.applied, p.received), (last, last));
    assert_eq!(h.store.digest(V), Some(h.models[&V].digest(last.0)));
}

fn blocks_seen(h: &mut Harness) -> u64 {
    h.ask_extents(V, BlockRange::new(0, 4 * BLOCKS)).iter().map(|(run, _)| run.count.0).sum()
}

/// Whatever is read, scrubbed, or looked at with other tools: nothing of what was cut off.
fn assert_equal(h: &mut Harness) {
    h.read_all(V);
    h.scrub(V);
    let blocks = h.models[&V].blocks();
    assert_eq!(blocks_seen(h), blocks);
    assert!(h.disk.bytes_behind(V, blocks * 4096).all(|b| b == 0), "nothing lies behind the end");
}

#[test]
fn a_smaller_volume_that_grows_again_has_zeros_there() {
    for to in [1, 15, 16, 17, 20, BLOCKS - 1] {
        let mut h = written(to);
        h.resize(V, to);
        settle(&mut h);
        assert_equal(&mut h);
        h.resize(V, BLOCKS);
        settle(&mut h);
        assert_equal(&mut h);
        h.append_range(V, RecordKind::Write, BlockRange::new(BLOCKS - 2, 1));
        settle(&mut h);
        h.crash(true);
        h.start();
        assert_equal(&mut h);
    }
}

/// Reads see the cut with its commit, long before the image has it, and writes behind a new end as well.
#[test]
fn what_is_committed_and_not_applied_is_read_all_the_same() {
    let mut h = written(7);
    let image = |op: &crate::io::DiskOp| op.file == FileId::Image(V) && !matches!(op.kind, DiskOpKind::Read { .. });
    for step in 0..4 {
        match step {
            0 => h.resize(V, 9),
            1 => h.resize(V, BLOCKS),
            2 => h.append_range(V, RecordKind::Write, BlockRange::new(20, 2)),
            _ => h.resize(V, 21),
        }
        h.commit_all_without(V, image);
        assert!(h.store.positions(V).is_some_and(|p| p.applied < p.committed), "the image waits");
        assert_eq!(blocks_seen(&mut h), h.models[&V].blocks());
        h.read(V, BlockRange::new(0, BLOCKS));
        while let Some(i) = h.disk.in_flight.iter().position(|(_, op)| !image(op)) {
            let done = h.disk.complete(i);
            h.input(Input::Done(done));
        }
        assert!(h.reads.is_empty());
    }
    settle(&mut h);
    assert_equal(&mut h);
}

/// The record was never committed, and another primary goes on without it.
#[test]
fn a_cut_of_the_log_takes_the_size_back() {
    for (to, before) in [(8, BLOCKS), (BLOCKS, 8)] {
        let mut h = written(to + 100);
        h.resize(V, before);
        settle(&mut h);
        let last = h.models[&V].last();
        h.resize(V, to);
        h.append(V, 1);
        h.drain_disk();
        h.adopt(V, last);
        h.drain_disk();
        assert_eq!(h.models[&V].blocks(), before);
        h.append_range(V, RecordKind::Write, BlockRange::new(before - 1, 1));
        settle(&mut h);
        assert_equal(&mut h);
        h.crash(true);
        h.start();
        assert_equal(&mut h);
    }
}

/// A checkpoint that needs what is being cut off, and a batch that would write over it.
#[test]
fn nothing_is_applied_behind_a_cut_before_a_checkpoint_holds_it() {
    let mut h = written(11);
    let superblock = |op: &crate::io::DiskOp| matches!(op.file, FileId::Superblock(_));
    h.resize(V, 4);
    h.resize(V, BLOCKS);
    h.append_range(V, RecordKind::Write, BlockRange::new(30, 4));
    h.commit_all_without(V, superblock);
    let p = h.store.positions(V).expect("open");
    assert_eq!(p.applied.0 + 2, p.committed.0, "it stops behind the cut");
    h.crash(true);
    h.start();
    assert_equal(&mut h);
    settle(&mut h);
    assert_equal(&mut h);
}

/// What is cut off gives its space back, in the tables too.
#[test]
fn files_have_the_length_of_the_volume() {
    let mut h = written(12);
    h.resize(V, 6);
    let mut lens = Vec::new();
    for _ in 0..1000 {
        let set = h.disk.in_flight.iter().filter_map(|(_, op)| match op.kind {
            DiskOpKind::SetLen { len } => Some((op.file, len)),
            _ => None,
        });
        lens.extend(set);
        let durable = h.models[&V].durable;
        h.commit(V, durable);
        if !h.complete_one() && !h.tick() {
            break;
        }
    }
    lens.sort_unstable();
    lens.dedup();
    let table = |file| lens.iter().any(|(f, _)| *f == file);
    assert!(lens.contains(&(FileId::Image(V), 6 * 4096)), "{lens:?}");
    assert!(table(FileId::BlockTable(V)) && table(FileId::RegionTable(V)), "{lens:?}");
}
