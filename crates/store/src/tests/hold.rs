//! Holding the image at a record, and verifying all of it.

use super::harness::{BLOCKS, Harness, small};
use crate::api::Input;
use crate::io::FileId;
use holdfast_format::RecordKind;
use holdfast_format::message::{NotHeld, SumNode};
use holdfast_types::{BLOCK_SIZE, BlockIndex, BlockRange, Lsn, ReadFault, VolumeId};

const V: VolumeId = VolumeId(3);

fn one_volume(seed: u64) -> Harness {
    let mut h = Harness::new(seed, small());
    h.start();
    h.create(V);
    h.adopt(V, 0);
    h.quiesce();
    h
}

fn write_all(h: &mut Harness, count: u64) {
    h.append(V, count);
    h.quiesce();
    let durable = h.models[&V].durable;
    h.commit(V, durable);
    h.quiesce();
}

#[test]
fn a_held_image_stands_at_exactly_that_record_and_reads_see_later_ones() {
    for seed in 0..20 {
        let mut h = one_volume(seed);
        write_all(&mut h, 3);
        h.input(Input::Hold { volume: V, at: Lsn(7) });
        assert!(h.held.is_empty(), "it is not there yet");
        write_all(&mut h, 9);
        let digest = h.models[&V].digest(7);
        assert_eq!(h.held, [(Lsn(7), Ok(digest))]);
        assert_eq!(h.store.digest(V), Some(digest));
        h.read_all(V);
        h.input(Input::Sums { volume: V, node: SumNode { level: 1, index: 0 } });
        assert_eq!(h.sums.len() as u64, BLOCKS.div_ceil(16));
        assert_eq!(h.sums.iter().fold(0, |all: u64, sum| all.wrapping_add(*sum)), digest, "the tree adds up");
        h.input(Input::Sums { volume: V, node: SumNode { level: 2, index: 0 } });
        assert_eq!(h.sums, [digest]);
        h.input(Input::GoOn { volume: V });
        h.quiesce();
        assert_eq!(h.store.digest(V), Some(h.models[&V].digest(12)));
        h.input(Input::Sums { volume: V, node: SumNode { level: 1, index: 0 } });
        assert!(h.sums.is_empty(), "of no record in particular");
    }
}

#[test]
fn what_has_passed_can_not_be_held() {
    let mut h = one_volume(1);
    write_all(&mut h, 3);
    h.input(Input::Hold { volume: V, at: Lsn(2) });
    assert_eq!(h.held, [(Lsn(2), Err(NotHeld::Passed))]);
    write_all(&mut h, 3);
    assert_eq!(h.store.positions(V).expect("it is open").applied, Lsn(6));
}

#[test]
fn a_full_journal_ends_a_hold() {
    let mut h = one_volume(2);
    write_all(&mut h, 3);
    h.input(Input::Hold { volume: V, at: Lsn(3) });
    for _ in 0..400 {
        write_all(&mut h, 4);
        if h.held.len() > 1 {
            assert_eq!(h.held[1], (Lsn(3), Err(NotHeld::Pressed)));
            h.read_all(V);
            return;
        }
    }
    panic!("the journal never fills up: {:?}", h.store.positions(V));
}

#[test]
fn a_scrub_sees_what_lies_in_holes_and_makes_zeros_of_it() {
    for kind in [RecordKind::Discard, RecordKind::WriteZeroes] {
        let mut h = one_volume(4);
        h.append_range(V, RecordKind::Write, BlockRange::new(0, 4));
        h.append_range(V, kind, BlockRange::new(2, 2));
        h.quiesce();
        h.commit(V, 2);
        h.quiesce();
        h.scrub(V);
        assert_eq!(h.corrupt_reads, 0);
        h.disk.rot(FileId::Image(V), 3 * BLOCK_SIZE + 77, 4);
        h.read_all(V);
        assert_eq!(h.corrupt_reads, 0, "what nobody reads through the table harms nobody who reads by it");
        h.strict = false;
        h.scrub(V);
        assert_eq!(h.faults, [ReadFault::NotZero(BlockIndex(3))]);
        let zeros = holdfast_format::zero_block();
        h.input(Input::Repair { volume: V, block: BlockIndex(3), data: zeros });
        h.quiesce();
        assert_eq!(h.repaired, [(3, true)]);
        h.scrub(V);
        assert_eq!(h.corrupt_reads, 1, "it is zeros again");
    }
}
