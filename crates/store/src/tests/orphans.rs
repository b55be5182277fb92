//! What cuts keep aside, and that nothing waits for it.

use super::harness::{Harness, small};
use crate::StoreConfig;
use crate::api::Input;
use crate::io::{DiskOpKind, FileId};
use holdfast_types::{Epoch, VolumeId};

const V: VolumeId = VolumeId(3);

fn with(seed: u64, config: StoreConfig) -> Harness {
    let mut h = Harness::new(seed, config);
    h.start();
    h.create(V);
    h.adopt(V, 0);
    h.quiesce();
    h
}

/// Appends `count` records and cuts all of them; the epoch of the orphan.
fn cut(h: &mut Harness, count: u64) -> Epoch {
    let last = h.models[&V].last();
    h.append(V, count);
    h.drain_disk();
    h.adopt(V, last);
    h.quiesce();
    h.models[&V].epoch
}

fn kept(h: &Harness) -> Vec<Epoch> {
    h.store.orphans(V).into_iter().map(|(epoch, _)| epoch).collect()
}

fn files(h: &Harness) -> Vec<Epoch> {
    let orphan = |file: &FileId| if let FileId::Orphan(V, epoch) = file { Some(*epoch) } else { None };
    h.disk.files.keys().filter_map(orphan).collect()
}

#[test]
fn the_oldest_orphans_make_room() {
    let mut h = with(1, StoreConfig { orphans: 3, ..small() });
    let epochs: Vec<Epoch> = (0..5).map(|_| cut(&mut h, 2)).collect();
    assert_eq!((kept(&h), files(&h)), (epochs[2..].to_vec(), epochs[2..].to_vec()), "the last three of five");
    h.crash(true);
    h.start();
    h.quiesce();
    assert_eq!(kept(&h), epochs[2..], "a start finds them");
    let next = cut(&mut h, 1);
    assert_eq!(kept(&h), [epochs[3], epochs[4], next]);
}

#[test]
fn the_bytes_of_orphans_are_bounded_and_one_that_is_longer_keeps_its_first_records() {
    let config = StoreConfig { orphan_bytes: 64 << 10, ..small() };
    let mut h = with(2, config.clone());
    for _ in 0..8 {
        cut(&mut h, 3);
        let sum: u64 = h.store.orphans(V).iter().map(|(_, bytes)| bytes).sum();
        assert!(sum <= config.orphan_bytes, "{sum} bytes are kept");
    }
    // More records than fit: whole ones from the first on.
    let epoch = cut(&mut h, 40);
    let bytes = h.store.orphans(V).last().map(|(_, bytes)| *bytes);
    let file = h.disk.files[&FileId::Orphan(V, epoch)].medium.len();
    // A file of the test disk has whole sectors.
    assert!(
        file > 0
            && bytes.map(|b| b.next_multiple_of(512)) == u64::try_from(file).ok()
            && bytes <= Some(config.orphan_bytes)
    );
}

/// L8.
#[test]
fn a_cut_does_not_wait_for_room_to_remember_what_it_cuts() {
    let mut h = with(3, small());
    h.append(V, 3);
    h.drain_disk();
    h.disk.full = true;
    h.adopt(V, 0);
    h.drain_disk();
    assert!(h.models[&V].before_adoption.is_none(), "the adoption is answered");
    assert!(kept(&h).is_empty() && files(&h).is_empty(), "and nothing is kept");
    h.disk.full = false;
    h.append(V, 1);
    h.quiesce();
    assert_eq!(h.models[&V].durable, 1);
}

#[test]
fn an_orphan_is_deleted_when_somebody_asks_for_it() {
    let mut h = with(4, small());
    let (first, second) = (cut(&mut h, 1), cut(&mut h, 1));
    h.input(Input::DeleteOrphan { volume: V, epoch: first });
    h.input(Input::DeleteOrphan { volume: V, epoch: first });
    h.input(Input::DeleteOrphan { volume: V, epoch: Epoch(99) });
    let deletions = h.disk.in_flight.iter().filter(|(_, op)| matches!(op.kind, DiskOpKind::Delete)).count();
    assert_eq!(deletions, 1, "asked twice, and for one that there is not");
    h.quiesce();
    assert_eq!((kept(&h), files(&h)), (vec![second], vec![second]));
    h.input(Input::Delete { volume: V });
    h.quiesce();
    assert_eq!(files(&h), [], "a copy takes its orphans with it");
}
