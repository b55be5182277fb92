//! How copies come to be and go, and what a start makes of what it finds of one.

use super::faults::two_volumes;
use super::harness::{Harness, Model, small};
use crate::api::Input;
use crate::io::FileId;
use holdfast_types::{Incarnation, VolumeId, VolumeSize};

const V1: VolumeId = VolumeId(1);
const V2: VolumeId = VolumeId(2);

/// Two volumes with checkpoints, and records above them.
fn two_in_use(seed: u64) -> Harness {
    let mut h = two_volumes(seed);
    for v in [V1, V2] {
        for _ in 0..4 {
            h.append(v, 3);
            h.quiesce();
            let durable = h.models[&v].durable;
            h.commit(v, durable);
            h.quiesce();
        }
        h.append(v, 2);
        h.quiesce();
    }
    h
}

fn files_of(h: &Harness, v: VolumeId) -> usize {
    let of = |f: &&FileId| match f {
        FileId::Superblock(w) | FileId::Image(w) | FileId::BlockTable(w) | FileId::RegionTable(w) => *w == v,
        FileId::SideImage(w) | FileId::SideBlocks(w) | FileId::SideRegions(w) | FileId::Orphan(w, _) => *w == v,
        FileId::Segment(_) | FileId::JournalHead => false,
    };
    h.disk.files.keys().filter(of).count()
}

#[test]
fn an_interrupted_creation_is_cleaned_up() {
    let mut seen = [false; 2];
    for case in 0..160 {
        let mut h = Harness::new(20 + case, small());
        h.start();
        h.drain_disk();
        h.models.insert(V1, Model::new(5));
        let size = VolumeSize::new(1 << 20).expect("1 MiB");
        h.strict = false;
        h.input(Input::Create { volume: V1, incarnation: Incarnation(5), size });
        for _ in 0..case % 9 {
            h.complete_one();
        }
        h.crash(case % 2 == 0);
        h.start();
        h.drain_disk();
        assert!(h.started && h.failures.is_empty(), "case {case}: {:?}", h.failures);
        let here = h.opened.contains_key(&V1);
        assert_eq!(files_of(&h, V1), if here { 4 } else { 0 }, "case {case}");
        seen[usize::from(here)] = true;
    }
    assert_eq!(seen, [true; 2], "some creations had ended, some had not");
}

/// A deletion that was ordered and did not end leaves a copy that opens, or none; the other one is never touched.
#[test]
fn an_interrupted_deletion_goes_on_or_never_began() {
    let mut seen = [false; 2];
    for case in 0..120 {
        let mut h = two_in_use(500 + case);
        h.input(Input::Delete { volume: V1 });
        for _ in 0..case % 12 {
            h.complete_one();
        }
        h.crash(case % 2 == 0);
        h.start();
        h.drain_disk();
        assert!(h.failures.is_empty() && h.opened.contains_key(&V2), "case {case}: {:?}", h.failures);
        let here = h.opened.contains_key(&V1);
        assert_eq!(files_of(&h, V1), if here { 4 } else { 0 }, "case {case}");
        seen[usize::from(here)] = true;
    }
    assert_eq!(seen, [true; 2], "some deletions had begun, some had not");
}

/// A superblock that was lost is no proof that there was a copy, and none that there was none.
#[test]
fn a_copy_that_lost_its_superblock_keeps_its_files() {
    for lost in ["missing", "empty", "empty, short", "one copy"] {
        let mut h = two_in_use(7);
        h.crash(true);
        let file = h.disk.files.get_mut(&FileId::Superblock(V1)).expect("the copy has one");
        match lost {
            "missing" => drop(h.disk.files.remove(&FileId::Superblock(V1))),
            "empty" => file.medium.fill(0),
            "empty, short" => file.medium = vec![0; 512],
            _ => file.medium.truncate(4096),
        }
        let (files, image) = (files_of(&h, V1), h.disk.files[&FileId::Image(V1)].medium.clone());
        h.strict = false;
        h.start();
        h.quiesce();
        assert!(h.opened.contains_key(&V2));
        assert!(matches!(&h.failures[..], [(Some(V1), why)] if why.contains("superblock")), "{lost}: {:?}", h.failures);
        assert_eq!(files_of(&h, V1), files, "{lost}: nothing was removed");
        assert!(h.disk.files[&FileId::Image(V1)].medium == image, "{lost}: nothing was changed");
        h.input(Input::Delete { volume: V1 });
        h.quiesce();
        assert_eq!((&h.deleted[..], files_of(&h, V1)), (&[V1][..], 0), "{lost}: it goes when it is told to");
    }
}

#[test]
fn a_leftover_that_stays_keeps_nobody_waiting() {
    let mut h = two_in_use(9);
    h.input(Input::Delete { volume: V1 });
    while h.disk.files.contains_key(&FileId::Image(V1)) {
        assert!(h.complete_one(), "the deletion goes on");
    }
    h.crash(true);
    if !h.disk.files.contains_key(&FileId::BlockTable(V1)) {
        let any = h.disk.files[&FileId::BlockTable(V2)].clone();
        h.disk.files.insert(FileId::BlockTable(V1), any);
    }
    h.disk.broken = Some(FileId::BlockTable(V1));
    h.strict = false;
    h.start();
    h.quiesce();
    assert!(h.started && h.opened.contains_key(&V2), "the others serve");
    assert!(matches!(&h.failures[..], [(Some(V1), _)]), "and somebody is told: {:?}", h.failures);
}

/// L8: what a full disk keeps from opening must not keep others from it, nor volumes from being deleted.
#[test]
fn a_copy_that_waits_for_space_keeps_nobody_waiting() {
    let mut h = two_in_use(11);
    let last = h.models[&V1].durable;
    h.disk.full = true;
    h.commit(V1, last);
    h.quiesce_for(50);
    h.crash(true);
    h.input(Input::Start);
    h.quiesce_for(50);
    assert!(h.opening.contains(&V1) && h.opened.contains_key(&V2), "{:?} {:?}", h.opening, h.opened.keys());
    assert_eq!(h.store.space(V1), crate::Space::Short);
    h.input(Input::Delete { volume: V2 });
    h.quiesce_for(50);
    assert_eq!(h.deleted, [V2]);
    h.disk.full = false;
    h.quiesce();
    assert!(h.opened.contains_key(&V1), "it opens when there is room");
    h.read_all(V1);
    h.drain_disk();
}
