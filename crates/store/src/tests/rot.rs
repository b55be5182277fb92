//! Damage on purpose: nothing is ever shortened or answered wrongly in silence.

use super::harness::{BLOCKS, Harness, Model, small};
use crate::api::Input;
use crate::io::{DiskOp, DiskOpKind, FileId};
use bytes::Bytes;
use holdfast_format::{ALLOCATED_ZEROS, Record, RecordKind, SegmentHeader, TablePage};
use holdfast_types::{BlockIndex, BlockRange, Lsn, Rng, VolumeId};
use std::collections::BTreeMap;

const V1: VolumeId = VolumeId(1);
const V2: VolumeId = VolumeId(2);

/// Two volumes with some frames in the journal; a part is committed. At rest, so everything durable is proven.
fn history(seed: u64) -> Harness {
    let mut h = Harness::new(seed, small());
    h.start();
    for v in [V1, V2] {
        h.create(v);
        h.adopt(v, 0);
    }
    for round in 0..14 {
        let v = if round % 3 == 0 { V2 } else { V1 };
        let count = 1 + h.rng.below(2);
        h.append(v, count);
        if h.rng.chance(600_000) {
            h.drain_disk();
        }
        if round == 5 {
            h.drain_disk();
            let durable = h.models[&V1].durable;
            h.commit(V1, durable);
        }
    }
    h.quiesce();
    h
}

fn segments(h: &Harness) -> Vec<(FileId, usize)> {
    let files = h.disk.files.iter().filter(|(id, _)| matches!(id, FileId::Segment(_)));
    files.map(|(id, file)| (*id, file.medium.len())).collect()
}

#[test]
fn one_rotten_byte_in_the_journal_never_shortens_a_log_in_silence() {
    let (mut shown, mut intact, mut refused) = (0, 0, 0);
    for seed in 1..=3 {
        let base = history(seed);
        let mut rng = Rng::new(seed);
        for (file, len) in segments(&base) {
            let used = base.disk.files[&file].medium.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
            let mut at = usize::try_from(rng.below(40)).expect("small");
            while at < used.min(len) {
                let mut h = Harness::new(seed, small());
                h.strict = false;
                h.models = base.models.clone();
                h.disk.files = base.disk.files.clone();
                h.disk.rot(file, at, 1 << rng.below(8));
                h.start();
                if h.failures.iter().any(|(volume, _)| volume.is_none()) {
                    refused += 1;
                } else {
                    for v in [V1, V2] {
                        let (c, m) = (&h.opened[&v], &base.models[&v]);
                        assert_eq!(c.last_hash, m.hash(c.last.0), "what is there is right");
                        if c.last.0 < m.last() {
                            assert!(
                                c.unknown_to.is_some_and(|to| to.0 >= m.last()),
                                "{file:?} {at}: {v} {c:?} of {}",
                                m.last()
                            );
                            shown += 1;
                        } else {
                            intact += 1;
                        }
                        if c.last.0 >= m.committed {
                            assert_eq!(c.digest, m.digest(c.applied.0));
                        } else {
                            assert!(c.commit_hint.0 >= m.committed, "a loss of committed records is shown: {c:?}");
                        }
                    }
                }
                // Densely where the headers are, sparsely in bodies.
                let dense = at < SegmentHeader::LEN + 8192;
                at += 1 + usize::try_from(rng.below(if dense { 60 } else { 1500 })).expect("small");
            }
        }
    }
    assert!(
        shown > 50 && intact > 50,
        "damage of both kinds is met: shown {shown}, intact {intact}, refused {refused}"
    );
    assert_eq!(refused, 0, "a segment header survives one rotten byte");
}

/// Both copies of a header lie in one physical sector of many devices. The newest segment is named by no other one, so
/// nothing but its own frames tells that it was part of the journal.
#[test]
fn a_segment_whose_header_is_gone_is_never_taken_for_a_spare_one() {
    let base = history(8);
    let mut refused = 0;
    for (file, _) in segments(&base) {
        for wipe in [false, true] {
            let mut h = Harness::new(11, small());
            h.strict = false;
            h.models = base.models.clone();
            h.disk.files = base.disk.files.clone();
            let medium = &mut h.disk.files.get_mut(&file).expect("listed").medium;
            medium[..SegmentHeader::LEN].iter_mut().for_each(|byte| *byte = if wipe { 0 } else { !*byte });
            h.start();
            if matches!(&h.failures[..], [(None, _)]) {
                refused += 1;
                continue;
            }
            for v in [V1, V2] {
                let (c, m) = (&h.opened[&v], &base.models[&v]);
                assert!(c.last.0 >= m.durable, "{file:?}: {v} ends at {} and had {} durable", c.last, m.durable);
            }
        }
    }
    assert!(refused >= 4, "some segments are in use: {refused}");
}

/// A journal in which a record of `V1` above the checkpoint has rotted: the harness, what `V1` was, the record.
fn rotten_record() -> (Harness, Model, Record) {
    let base = history(2);
    let full = base.models[&V1].clone();
    let mut h = Harness::new(5, small());
    h.models = base.models.clone();
    h.disk.files = base.disk.files;
    h.strict = false;
    // The body of a record above the checkpoint: found by its bytes.
    let victim: Record =
        full.log.iter().rev().find(|r| r.body().len() >= 4096 && r.lsn().0 > full.committed).expect("a write").clone();
    let needle = &victim.body()[..64];
    let found: Vec<(FileId, usize)> = segments(&h)
        .into_iter()
        .filter_map(|(file, _)| {
            let at = h.disk.files[&file].medium.windows(64).position(|w| w == needle)?;
            Some((file, at))
        })
        .collect();
    let [(file, at)] = found[..] else { panic!("the body lies in one place: {found:?}") };
    h.disk.rot(file, at + 10, 4);
    (h, full, victim)
}

/// An adoption does not bring back what can't be read. A primary that dies before it has sent that leaves a copy that must
/// still say so after any amount of its neighbours' traffic.
#[test]
fn rot_is_remembered_over_an_adoption() {
    let (mut h, full, victim) = rotten_record();
    h.start();
    let last = victim.lsn().prev();
    let m = h.models.get_mut(&V1).expect("known");
    m.durable = last.0;
    let (epoch, table) = (full.epoch, full.table);
    h.input(Input::Adopt { volume: V1, epoch, table, cut_after: last });
    h.commit(V1, last.0);
    h.quiesce();
    h.input(Input::Trim { volume: V1, upto: last });
    for _ in 0..60 {
        h.append(V2, 2);
        h.quiesce();
        let durable = h.models[&V2].durable;
        h.commit(V2, durable);
        h.quiesce();
        h.input(Input::Trim { volume: V2, upto: Lsn(durable) });
    }
    h.crash(true);
    h.start();
    let c = &h.opened[&V1];
    assert!(c.last == last && c.unknown_to >= Some(victim.lsn()), "{c:?}");
}

/// A copy whose records are unknown stays that way over restarts, until they came again.
#[test]
fn rot_is_remembered_until_it_is_repaired() {
    let (mut h, full, victim) = rotten_record();
    for _ in 0..3 {
        h.start();
        let c = h.opened[&V1].clone();
        assert_eq!(c.last, victim.lsn().prev());
        assert!(c.unknown_to >= Some(victim.lsn()));
        h.drain_disk();
        h.crash(true);
    }
    h.start();
    let m = h.models.get_mut(&V1).expect("known");
    m.durable = victim.lsn().0 - 1;
    let records = full.log[usize::try_from(victim.lsn().0 - 1).expect("small")..].to_vec();
    h.input(Input::Append { volume: V1, records });
    h.quiesce();
    h.crash(true);
    h.start();
    let c = &h.opened[&V1];
    assert_eq!((c.last.0, c.last_hash, c.unknown_to), (full.last(), full.hash(full.last()), None));
}

/// A copy at rest with a flipped bit in the last block that was written; which one, and what it held.
fn rotten_block() -> (Harness, usize, Bytes) {
    let mut h = history(3);
    let durable = h.models[&V1].durable;
    h.commit(V1, durable);
    h.quiesce();
    let image = h.models[&V1].image(durable).to_vec();
    let used = image.iter().rposition(|sum| *sum > ALLOCATED_ZEROS).expect("something was written");
    let good = Bytes::copy_from_slice(&h.disk.files[&FileId::Image(V1)].medium[used * 4096..][..4096]);
    h.disk.rot(FileId::Image(V1), used * 4096 + 17, 1);
    (h, used, good)
}

#[test]
fn a_rotten_block_of_the_image_is_never_returned() {
    let (mut h, used, _) = rotten_block();
    h.strict = false;
    h.read(V1, BlockRange::new(0, BLOCKS));
    h.drain_disk();
    assert_eq!(h.corrupt_reads, 1);
    h.read(V1, BlockRange::new(0, u64::try_from(used).expect("small").max(1)));
    h.drain_disk();
    assert_eq!(h.corrupt_reads, 1, "other blocks are read");
}

#[test]
fn a_rotten_block_is_written_again_with_what_its_checksum_names_only() {
    let (mut h, used, good) = rotten_block();
    let block = BlockIndex(used as u64);
    let mut other = good.to_vec();
    other[9] ^= 1;
    for (data, right) in [(Bytes::from(other), false), (good.slice(..512), false), (good.clone(), true)] {
        h.input(Input::Repair { volume: V1, block, data });
        h.drain_disk();
        assert_eq!(h.repaired.pop(), Some((block.0, right)));
    }
    h.crash(true);
    h.start();
    h.read(V1, BlockRange::new(block.0, 1));
    h.drain_disk();
    assert_eq!(h.corrupt_reads, 0, "the repair is durable");
    h.append(V1, 3);
    let durable = h.models[&V1].last();
    h.drain_disk();
    h.commit(V1, durable);
    h.input(Input::Repair { volume: V1, block, data: good });
    h.quiesce();
    h.read_all(V1);
}

/// A history that ends in the middle of a checkpoint, or after it.
fn with_tables(seed: u64, midway: bool) -> Harness {
    let mut h = history(seed);
    for _ in 0..3 {
        h.append(V1, 3);
        h.drain_disk();
        let durable = h.models[&V1].durable;
        h.commit(V1, durable);
        if midway {
            // Nothing is applied at once.
            while h.store.debt_bytes() > 0 && !h.disk.in_flight.iter().any(|(_, op)| op.file == FileId::Image(V1)) {
                assert!(h.complete_one() || h.tick(), "what is committed is applied");
            }
            let done = h.rng.below(25);
            (0..done).for_each(|_| {
                let _ = h.complete_one() || h.tick();
            });
        } else {
            h.quiesce();
        }
    }
    h.crash(true);
    h
}

#[test]
fn a_page_of_a_table_that_the_device_changed_or_lost_is_never_believed() {
    let (mut refused, mut harmless) = (0, 0);
    for seed in 1..=40 {
        let base = with_tables(seed, seed % 2 == 0);
        let mut rng = Rng::new(seed);
        for file in [FileId::BlockTable(V1), FileId::RegionTable(V1)] {
            let used: Vec<usize> =
                base.disk.files[&file].medium.iter().enumerate().filter(|(_, b)| **b != 0).map(|(at, _)| at).collect();
            for lost in [false, true] {
                let mut h = Harness::new(seed, small());
                h.models = base.models.clone();
                h.disk.files = base.disk.files.clone();
                if used.is_empty() {
                    continue;
                }
                let at = used[usize::try_from(rng.below(used.len() as u64)).expect("small")];
                if lost {
                    // The page is as it was before it was ever written: its blocks would read as holes.
                    let page = at / 4096 * 4096;
                    h.disk.files.get_mut(&file).expect("it is there").medium[page..page + 4096].fill(0);
                } else {
                    h.disk.rot(file, at, 1 << rng.below(8));
                }
                h.strict = false;
                h.start();
                if h.opened.contains_key(&V1) {
                    // Looks at both tables.
                    let last = h.opened[&V1].last.0;
                    h.models.get_mut(&V1).expect("known").truncate(last);
                    h.adopt(V1, last);
                    h.append(V1, 2);
                    h.quiesce();
                    h.read(V1, BlockRange::new(0, BLOCKS));
                    h.commit(V1, last);
                }
                h.quiesce();
                let failed =
                    h.failures.iter().any(|(v, why)| *v == Some(V1) && why.contains("lost or changed a write"));
                if failed {
                    refused += 1;
                    continue;
                }
                // It was the place that does not count: then everything reads as it should.
                harmless += 1;
                h.strict = true;
                h.read_all(V1);
            }
        }
    }
    assert!(refused > 30 && harmless > 30, "both are met: refused {refused}, harmless {harmless}");
}

#[test]
fn two_damaged_superblock_copies_do_no_harm_and_three_are_refused() {
    let base = history(4);
    for damaged in 0..16u32 {
        let mut h = Harness::new(9, small());
        h.models = base.models.clone();
        h.disk.files = base.disk.files.clone();
        h.strict = damaged.count_ones() <= 2;
        for copy in (0..4).filter(|copy| damaged & (1 << copy) != 0) {
            h.disk.rot(FileId::Superblock(V1), copy * 4096 + 50, 0x20);
        }
        h.start();
        assert!(h.opened.contains_key(&V2));
        if !h.strict {
            assert!(
                matches!(&h.failures[..], [(Some(V1), reason)] if reason.contains("superblock")),
                "{:?}",
                h.failures
            );
            h.input(Input::Delete { volume: V1 });
            h.drain_disk();
            assert_eq!(h.deleted, [V1]);
            continue;
        }
        h.drain_disk();
        let file = &h.disk.files[&FileId::Superblock(V1)].medium;
        assert!((1..4).all(|i| file[..4096] == file[i * 4096..][..4096]), "the good copies replaced the damaged ones");
    }
}

#[test]
fn a_lost_journal_is_refused() {
    let base = history(6);
    let start = |keep: &dyn Fn(&FileId) -> bool| {
        let mut h = Harness::new(10, small());
        h.strict = false;
        h.models = base.models.clone();
        h.disk.files = base.disk.files.iter().filter(|(id, _)| keep(id)).map(|(id, f)| (*id, f.clone())).collect();
        h.start();
        h
    };
    let none = start(&|id| !matches!(id, FileId::Segment(_) | FileId::JournalHead));
    assert_eq!(none.failures.iter().map(|f| f.0).collect::<Vec<_>>(), [Some(V1), Some(V2)]);
    assert!(none.started, "a new journal serves new copies");
    let live: BTreeMap<u64, FileId> = base
        .disk
        .files
        .iter()
        .filter_map(|(id, f)| SegmentHeader::decode(&f.medium).map(|head| (head.generation, *id)))
        .collect();
    let (oldest, newest) = (*live.first_key_value().expect("segments").1, *live.last_key_value().expect("segments").1);
    for gone in [oldest, newest, FileId::JournalHead] {
        let one = start(&|id| *id != gone);
        assert!(matches!(&one.failures[..], [(None, reason)] if reason.contains("missing")), "{:?}", one.failures);
    }
    let all = start(&|id| !matches!(id, FileId::Segment(_)));
    assert!(matches!(&all.failures[..], [(None, reason)] if reason.contains("missing")), "{:?}", all.failures);
    let image = start(&|id| *id != FileId::Image(V2));
    assert!(matches!(&image.failures[..], [(Some(V2), _)]), "{:?}", image.failures);
    assert!(image.opened.contains_key(&V1));
}

/// S19, S20: what its records prove would be forgotten, and after a restart it would open as whole without them.
#[test]
fn a_failed_copy_keeps_its_records() {
    let mut h = history(8);
    h.strict = false;
    h.append(V1, 3);
    h.quiesce();
    let held = h.models[&V1].durable;
    h.disk.broken = Some(FileId::Image(V1));
    h.commit(V1, held - 1);
    h.quiesce();
    assert!(matches!(&h.failures[..], [(Some(V1), _)]), "{:?}", h.failures);
    h.disk.broken = None;
    for _ in 0..150 {
        h.append(V2, 1);
        h.quiesce();
        let durable = h.models[&V2].durable;
        h.commit(V2, durable);
        h.quiesce();
    }
    h.crash(true);
    h.start();
    assert_eq!(h.opened[&V1].last.0, held);
}

#[test]
fn a_segment_that_was_cut_or_overwritten_is_refused() {
    let base = history(6);
    for (file, len) in segments(&base) {
        for damage in 0..5 {
            let mut h = Harness::new(11, small());
            h.strict = false;
            h.models = base.models.clone();
            h.disk.files = base.disk.files.clone();
            let medium = &mut h.disk.files.get_mut(&file).expect("it is there").medium;
            let live = SegmentHeader::decode(medium).is_some();
            match damage {
                0 => medium.truncate(0),
                1 => medium.truncate(1000),
                2 => medium.truncate(len / 2),
                3 => medium.truncate(len - 512),
                _ => medium[..9000].fill(0xA5),
            }
            h.start();
            let refused = matches!(&h.failures[..], [(None, _)]);
            assert_eq!(refused, live, "{file:?}, damage {damage}: {:?}", h.failures);
        }
    }
}

/// A superblock from before an adoption would let records of a cut tail count again (trap 13), and forgets a promise (S14).
#[test]
fn an_old_superblock_does_not_open_a_newer_journal() {
    let mut h = history(3);
    let file = FileId::Superblock(V1);
    let old = h.disk.files[&file].clone();
    let committed = h.models[&V1].committed;
    assert!(committed < h.models[&V1].last(), "there is a tail to cut");
    h.adopt(V1, committed);
    h.quiesce();
    h.append(V1, 1);
    h.quiesce();
    h.crash(false);
    let current = h.disk.files.insert(file, old).expect("a copy has a superblock");
    h.strict = false;
    h.start();
    assert!(matches!(&h.failures[..], [(Some(V1), why)] if why.contains("older")), "{:?}", h.failures);
    assert!(h.opened.contains_key(&V2) && !h.opened.contains_key(&V1), "its neighbour opens");
    // The right one is still as good as it was: nothing was given free meanwhile.
    h.crash(false);
    h.disk.files.insert(file, current);
    h.failures.clear();
    h.start();
    assert!(h.opened.contains_key(&V1), "{:?}", h.failures);
    assert_eq!(h.opened[&V1].last.0, h.models[&V1].last());
}

#[test]
fn a_failed_device_stays_failed() {
    // The image: that copy alone, and for good.
    let mut h = history(12);
    h.strict = false;
    h.disk.broken = Some(FileId::Image(V1));
    let durable = h.models[&V1].durable;
    h.append(V1, 1);
    h.commit(V1, durable);
    h.quiesce();
    assert!(matches!(&h.failures[..], [(Some(V1), _)]), "{:?}", h.failures);
    h.disk.broken = None;
    h.append(V2, 1);
    h.read(V1, BlockRange::new(0, 1));
    h.quiesce();
    assert_eq!(h.corrupt_reads, 1);
    assert_eq!(h.models[&V2].durable, h.models[&V2].last(), "its neighbour goes on");
    // The journal: every copy. As long as it is not full of what the failed one needs.
    for slot in 0..16 {
        h.disk.broken = Some(FileId::Segment(slot));
        h.append(V2, 1);
        h.drain_disk();
        if h.failures.len() > 1 {
            break;
        }
    }
    assert!(matches!(&h.failures[..], [_, (None, _)]), "{:?}", h.failures);
    h.disk.broken = None;
    let durable = h.models[&V2].durable;
    h.append(V2, 1);
    h.quiesce();
    assert_eq!(h.models[&V2].durable, durable, "no Durable after the failure");
    assert_eq!(h.store.next_timeout(), None);
    h.input(Input::Commit { volume: V2, upto: Lsn(durable) });
}

/// P8: what a failed write should have brought is missing from the image, whatever a later sync says.
#[test]
fn a_failed_write_of_an_image_fails_its_copy() {
    let mut h = history(14);
    h.strict = false;
    let is_write =
        |op: &DiskOp| op.file == FileId::Image(V1) && !matches!(op.kind, DiskOpKind::Sync | DiskOpKind::Read { .. });
    h.append(V1, 3);
    h.commit_all_without(V1, is_write);
    h.disk.broken = Some(FileId::Image(V1));
    let mut failed = 0;
    while let Some(i) = h.disk.in_flight.iter().position(|(_, op)| is_write(op)) {
        let done = h.disk.complete(i);
        h.input(Input::Done(done));
        failed += 1;
    }
    assert!(failed > 0, "records were being applied");
    h.disk.broken = None;
    h.quiesce();
    assert!(matches!(&h.failures[..], [(Some(V1), _)]), "{:?}", h.failures);
}

/// A copy at rest, all of it under a checkpoint.
fn settled(seed: u64) -> Harness {
    let mut h = Harness::new(seed, small());
    h.start();
    h.create(V1);
    h.adopt(V1, 0);
    h.append_range(V1, RecordKind::Write, BlockRange::new(0, 8));
    h.commit_all_without(V1, |_| false);
    h.input(Input::Settle);
    while !h.store.is_settled() && (h.complete_one() || h.tick()) {}
    h.quiesce();
    assert!(h.store.is_settled() && h.store.positions(V1).is_some_and(|p| p.applied == Lsn(1)));
    h
}

fn both_places(page: TablePage) -> [usize; 2] {
    let at = usize::try_from(page.offset()).expect("small");
    [at + 16, at + 4096 + 16]
}

#[test]
fn a_scrub_writes_pages_again_that_rot_under_the_memory() {
    for file in [FileId::BlockTable(V1), FileId::RegionTable(V1)] {
        for level in 0..4 {
            let mut h = settled(31);
            let page = TablePage { level, index: 0 };
            both_places(page).into_iter().for_each(|at| h.disk.rot(file, at, 4));
            h.scrub(V1);
            h.quiesce();
            assert_eq!(h.mended, [file], "level {level}");
            h.scrub(V1);
            h.quiesce();
            assert_eq!(h.mended, [file], "once is enough: level {level}");
            h.crash(true);
            h.start();
            h.read_all(V1);
            h.scrub(V1);
            assert!(h.failures.is_empty() && h.corrupt_reads == 0, "{:?}", h.failures);
        }
    }
}

#[test]
fn a_scrub_reads_pages_that_nobody_needs() {
    for (file, name) in [(FileId::BlockTable(V1), "block table"), (FileId::RegionTable(V1), "region table")] {
        let mut h = settled(32);
        h.crash(false);
        h.start();
        h.strict = false;
        both_places(TablePage { level: 0, index: 0 }).into_iter().for_each(|at| h.disk.rot(file, at, 4));
        h.quiesce();
        assert!(h.failures.is_empty(), "nobody has looked");
        h.scrub(V1);
        h.quiesce();
        assert!(h.failures.iter().any(|(v, why)| *v == Some(V1) && why.contains(name)), "{:?}", h.failures);
    }
}

/// Two good copies stay throughout: a power cut while two others are mended finds the copy as it was.
#[test]
fn a_power_cut_while_a_superblock_is_mended_costs_nothing() {
    let mut mended = 0;
    for pair in [[0, 1], [2, 3]] {
        for seed in 0..200 {
            let mut h = settled(seed);
            let file = FileId::Superblock(V1);
            pair.iter().for_each(|copy| h.disk.rot(file, copy * 4096 + 40, 1));
            h.begin_scrub(V1);
            let writes = |h: &Harness| {
                let write =
                    |op: &crate::io::DiskOp| op.file == file && matches!(op.kind, crate::io::DiskOpKind::Write { .. });
                h.disk.in_flight.iter().any(|(_, op)| write(op))
            };
            while !writes(&h) && h.complete_one() {}
            mended += u32::from(writes(&h));
            h.crash(true);
            h.start();
            h.quiesce();
            assert!(h.failures.is_empty(), "{pair:?}, seed {seed}: {:?}", h.failures);
        }
    }
    assert!(mended > 100, "the power is cut while copies are written: {mended}");
}

#[test]
fn a_scrub_makes_copies_of_a_superblock_whole() {
    for copies in [vec![0], vec![3], vec![1, 2], vec![0, 1, 2, 3]] {
        let mut h = settled(33);
        let file = FileId::Superblock(V1);
        h.scrub(V1);
        h.quiesce();
        assert!(h.mended.is_empty(), "nothing was wrong");
        copies.iter().for_each(|copy| h.disk.rot(file, copy * 4096 + 40, 1));
        h.scrub(V1);
        h.quiesce();
        assert_eq!(h.mended, [file]);
        let medium = &h.disk.files[&file].medium;
        let found = holdfast_format::Superblock::copies(medium);
        assert!(found.iter().all(|copy| copy.is_some() && *copy == found[0]), "{copies:?}");
        h.crash(true);
        h.start();
        h.read_all(V1);
    }
}
