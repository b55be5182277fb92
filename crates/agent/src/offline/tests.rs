//! A directory that a real store wrote, and everything that can have happened to it since: never a panic, never wrong data.

mod hostile;
mod world;

use super::*;
use world::{V, World};

fn look(world: &World) -> Report {
    check(&Place::find(&world.dir()).expect("a shard"), &mut |_, _| {}).expect("it can be checked")
}

fn options(world: &World, name: &str) -> Options {
    let to = world.scratch().join(name);
    let qcow2 = name.ends_with("qcow2");
    Options { volume: None, to, qcow2, upto: Upto::Durable, skip_bad: false, at_checkpoint: false }
}

fn get(world: &World, options: &Options) -> Result<Exported, OfflineError> {
    let _ = std::fs::remove_file(&options.to);
    export(&Place::find(&world.dir()).expect("a shard"), options, &mut |_, _| {})
}

#[test]
fn a_store_that_was_killed_is_clean_and_its_tail_comes_out() {
    let world = World::make(1);
    let before = world.bytes();
    let report = look(&world);
    assert!(report.clean, "{:?}", report.problems().collect::<Vec<_>>());
    let copy = &report.volumes[0];
    assert_eq!((copy.committed, copy.durable), (Some(world.committed), Some(world.last())));
    assert!(copy.checkpoint < copy.committed && copy.data_blocks > 0, "{copy:?}");
    for (upto, wanted) in [(Upto::Durable, world.last()), (Upto::Committed, world.committed)] {
        let options = Options { upto, ..options(&world, "a.raw") };
        let exported = get(&world, &options).expect("the copy is whole");
        assert_eq!((exported.upto, exported.committed), (wanted, world.committed));
        assert_eq!(std::fs::read(&options.to).expect("written"), world.image(wanted), "{upto:?}");
        assert!(!world.scratch().join("a.raw.partial").exists());
    }
    assert_eq!(world.bytes(), before, "looking changed the directory");
}

#[test]
fn qcow2_says_the_same_as_raw() {
    let world = World::make(2);
    let (raw, qcow2) = (options(&world, "a.raw"), options(&world, "a.qcow2"));
    get(&world, &raw).expect("the copy is whole");
    get(&world, &qcow2).expect("the copy is whole");
    assert_eq!(qcow2_content(&qcow2.to), std::fs::read(&raw.to).expect("written"));
}

/// The guest's view, by the specification of the format: another reading of it than the writer's.
fn qcow2_content(path: &std::path::Path) -> Vec<u8> {
    let file = std::fs::read(path).expect("written");
    let u64_at = |at: usize| u64::from_be_bytes(file[at..at + 8].try_into().expect("eight bytes"));
    let place = |entry: u64| usize::try_from(entry & 0x00ff_ffff_ffff_fe00).expect("small");
    assert_eq!(file[..8], *b"QFI\xfb\0\0\0\x03");
    let size = usize::try_from(u64_at(24)).expect("small");
    let mut content = vec![0; size.next_multiple_of(65536)];
    for (cluster, out) in content.chunks_exact_mut(65536).enumerate() {
        let l2 = place(u64_at(place(u64_at(40)) + cluster / 8192 * 8));
        let data = if l2 == 0 { 0 } else { place(u64_at(l2 + cluster % 8192 * 8)) };
        if data != 0 {
            out.copy_from_slice(&file[data..data + 65536]);
        }
    }
    content.truncate(size);
    content
}

#[test]
fn a_bad_block_is_named_refused_and_skipped() {
    let world = World::make(3);
    let block = world.data_block();
    world.flip(format!("copies/{V}/image.raw"), block * 4096 + 77);
    let report = look(&world);
    assert_eq!(report.volumes[0].bad.listed, [(block, block)]);
    let mut options = options(&world, "a.raw");
    let error = get(&world, &options).expect_err("a bad block").to_string();
    assert!(error.contains(&format!("block {block} ")) && error.contains("--skip-bad"), "{error}");
    assert!(!options.to.exists() && !world.scratch().join("a.raw.partial").exists());
    options.skip_bad = true;
    assert_eq!(get(&world, &options).expect("skipped").bad.listed, [(block, block)]);
    let mut expected = world.image(world.last());
    let at = usize::try_from(block * 4096).expect("small");
    expected[at..at + 4096].fill(0);
    assert_eq!(std::fs::read(&options.to).expect("written"), expected);
}

#[test]
fn copies_of_headers_are_repaired_and_nothing_else() {
    let world = World::make(4);
    world.flip(format!("copies/{V}/superblock"), 2 * 4096 + 50);
    world.flip("journal/head", 3);
    let slot = look(&world).journal.segments[0].file.clone();
    world.flip(&slot, 2048 + 9);
    let whole = World::make(4).bytes();
    let place = Place::find(&world.dir()).expect("a shard");
    let report = look(&world);
    assert_eq!((report.problems().count(), report.repairs().count()), (3, 3), "{report:?}");
    assert_eq!(repair(&place, &report).expect("repaired").len(), 3);
    assert!(look(&world).clean);
    assert_eq!(world.bytes(), whole, "every byte is as it was before the damage");
    // A second time the bytes are not those that were found bad.
    let error = repair(&place, &report).expect_err("they have changed").to_string();
    assert!(error.contains("check again"), "{error}");
}

#[test]
fn an_orphan_is_listed() {
    let world = World::make(5).adopt_and_cut();
    let report = look(&world);
    assert!(report.clean, "{:?}", report.problems().collect::<Vec<_>>());
    let orphan = &report.volumes[0].orphans[0];
    assert_eq!((orphan.epoch, orphan.records, orphan.whole), (2, Some(world.cut()), true));
    world.flip(format!("copies/{V}/orphan-2"), orphan.bytes - 1);
    let report = look(&world);
    assert!(!report.clean && !report.volumes[0].orphans[0].whole);
}

#[test]
fn a_copy_by_its_own_directory() {
    let world = World::make(6);
    let place = Place::find(&world.dir().join(format!("copies/{V}"))).expect("a copy");
    assert!(check(&place, &mut |_, _| {}).expect("it can be checked").clean);
    let held = Place::find(&world.dir()).expect("a shard");
    assert!(check(&held, &mut |_, _| {}).is_ok());
}

/// With zeros for what is listed as bad.
fn without(bad: &Ranges, mut image: Vec<u8>) -> Vec<u8> {
    for (first, last) in &bad.listed {
        let at = |block: u64| usize::try_from(block * 4096).expect("small").min(image.len());
        let range = at(*first)..at(last + 1);
        image[range].fill(0);
    }
    image
}

#[test]
fn a_journal_that_is_refused_costs_its_tail_and_no_more() {
    for damage in ["head", "header", "missing"] {
        let world = World::make(12);
        match damage {
            "head" => [3, 512 + 3].into_iter().for_each(|at| world.flip("journal/head", at)),
            "header" => {
                let segment = look(&world).journal.segments.last().expect("a segment").file.clone();
                [9, 2048 + 9].into_iter().for_each(|at| world.flip(&segment, at));
            }
            _ => std::fs::remove_dir_all(world.dir().join("journal")).expect("it exists"),
        }
        let plain = options(&world, "a.raw");
        let error = get(&world, &plain).expect_err("no journal").to_string();
        assert!(error.contains("--at-checkpoint"), "{damage}: {error}");
        let report = look(&world);
        assert!(report.volumes[0].notes.iter().any(|note| note.contains("--at-checkpoint")), "{damage}: {report:?}");
        let skip = Options { at_checkpoint: true, skip_bad: true, ..plain };
        let exported = get(&world, &skip).expect("tables and image are whole");
        assert_eq!((Some(exported.upto), exported.at_checkpoint), (report.volumes[0].checkpoint, true));
        assert!(exported.data_blocks > 10 && exported.bad.blocks < exported.data_blocks, "{exported:?}");
        let found = std::fs::read(&skip.to).expect("written");
        assert_eq!(found, without(&exported.bad, world.image(exported.upto)), "{damage}");
        // What was applied after the checkpoint is no reason to guess.
        let refused = get(&world, &Options { skip_bad: false, ..skip });
        assert_eq!(refused.is_err(), !exported.bad.is_empty(), "{damage}");
    }
}

#[test]
fn pages_that_nobody_needs_today_are_read_too() {
    use holdfast_format::TablePage;
    let leaf = TablePage { level: 0, index: 0 }.offset();
    for table in ["blocks.tab", "regions.tab"] {
        let world = World::make(13);
        [leaf + 11, leaf + 4096 + 11].into_iter().for_each(|at| world.flip(format!("copies/{V}/{table}"), at));
        let report = look(&world);
        let named = report.problems().any(|(_, p)| p.contains(table) && p.contains("replace it"));
        assert!(named, "{:?}", report.problems().collect::<Vec<_>>());
    }
}

#[test]
fn what_lies_in_a_hole_is_found_and_not_exported() {
    let world = World::make(14);
    let block = world.zero_block();
    world.flip(format!("copies/{V}/image.raw"), block * 4096 + 5);
    let report = look(&world);
    assert_eq!((&report.volumes[0].not_zero.listed[..], report.volumes[0].bad.blocks), (&[(block, block)][..], 0));
    assert!(!report.clean && report.problems().any(|(_, p)| p.contains("are to be zeros")));
    let options = options(&world, "a.raw");
    get(&world, &options).expect("every block is verified");
    assert_eq!(std::fs::read(&options.to).expect("written"), world.image(world.last()));
}

#[test]
fn a_file_that_the_export_did_not_make_stays() {
    let world = World::make(15);
    let options = options(&world, "a.raw");
    let partial = world.scratch().join("a.raw.partial");
    std::fs::write(&partial, "of somebody else").expect("writable");
    let error = get(&world, &options).expect_err("it is in the way");
    assert!(error.is_usage() && error.to_string().contains("a.raw.partial"), "{error}");
    assert_eq!(std::fs::read(&partial).expect("still there"), b"of somebody else");
}
