//! One store's copy fetches regions from another store's; the fetching one loses its process or its power anywhere.

use super::harness::{BLOCKS, Harness, Model, small};
use crate::api::{Input, NotProven, Output, Switch};
use holdfast_format::message::{Region, RegionCut, RegionQuery, RegionsFound};
use holdfast_types::{BlockRange, Epoch, Lsn, REGION_BLOCKS, RegionIndex, Rng, VolumeId, VolumeSize};

const V: VolumeId = VolumeId(1);
const REGIONS: u64 = BLOCKS.div_ceil(REGION_BLOCKS);

fn source(seed: u64, records: u64) -> Harness {
    let mut a = Harness::new(seed, small());
    a.start();
    a.create(V);
    a.adopt(V, 0);
    a.drain_disk();
    write(&mut a, records);
    a
}

/// Appends in small pieces, commits, and waits until all of it is in the image.
fn write(a: &mut Harness, records: u64) {
    for _ in 0..records {
        a.append(V, 1);
        commit(a);
    }
    a.quiesce();
}

/// Waits until the last record is durable, and commits it. A full journal takes a checkpoint first.
fn commit(h: &mut Harness) {
    let last = h.models[&V].last();
    while h.store.positions(V).expect("it is open").durable < Lsn(last) {
        assert!(h.complete_one() || h.tick(), "record {last} becomes durable");
    }
    h.commit(V, last);
}

/// A copy that holds what `a` holds, up to now.
fn target(seed: u64, a: &Harness) -> Harness {
    let mut b = blank(seed);
    follow(&mut b, a);
    b
}

fn blank(seed: u64) -> Harness {
    let mut b = Harness::new(seed, small());
    b.start();
    b.create(V);
    b.adopt(V, 0);
    b.drain_disk();
    b
}

fn resize(a: &mut Harness, to: u64) {
    a.resize(V, to);
    commit(a);
    a.quiesce();
}

/// Appends and commits what `a` has more than `b`.
fn follow(b: &mut Harness, a: &Harness) {
    let from = usize::try_from(b.models[&V].last()).expect("small");
    for record in a.models[&V].log[from..].iter().cloned() {
        b.models.get_mut(&V).expect("known").push(record.clone());
        b.input(Input::Append { volume: V, records: vec![record] });
        commit(b);
    }
    b.quiesce();
}

fn ask(a: &mut Harness, query: RegionQuery, max_bytes: usize) -> RegionsFound {
    a.input(Input::ReadRegions { volume: V, tag: 1, query, max_bytes });
    a.drain_disk();
    match a.resync.pop() {
        Some(Output::RegionsRead { result: Ok(found), .. }) => *found,
        other => panic!("expected regions, found {other:?}"),
    }
}

/// As volumes are created here.
fn first_size() -> VolumeSize {
    VolumeSize::new(BLOCKS * 4096 - 512).expect("a size")
}

fn open_side(b: &mut Harness) {
    open_side_for(b, first_size());
}

fn open_side_for(b: &mut Harness, size: VolumeSize) {
    b.input(Input::OpenSide { volume: V, size });
    b.drain_disk();
    assert!(matches!(b.resync.pop(), Some(Output::SideOpened { .. })));
}

fn held(b: &mut Harness, size: VolumeSize) -> Vec<(RegionIndex, Lsn)> {
    b.input(Input::HeldInSide { volume: V, from: RegionIndex(0), max: 100 });
    b.drain_disk();
    match b.resync.pop() {
        Some(Output::SideHeld { held, end, .. }) => {
            assert_eq!(end, RegionIndex(size.regions()));
            held
        }
        other => panic!("expected what is held, found {other:?}"),
    }
}

fn query(after: u64, held: Vec<(RegionIndex, Lsn)>) -> RegionQuery {
    RegionQuery { from: RegionIndex(0), end: RegionIndex(REGIONS), after: Lsn(after), held }
}

/// Whether image and side area are the state that they should be.
fn prove(b: &mut Harness, cut: RegionCut) -> Result<(), NotProven> {
    loop {
        b.input(Input::ProveSide { volume: V, cut });
        b.quiesce();
        match b.resync.pop() {
            Some(Output::SideProven { result: Err(NotProven::Disturbed), .. }) => {}
            Some(Output::SideProven { result, .. }) => return result,
            other => panic!("expected a proof, found {other:?}"),
        }
    }
}

fn switch(b: &mut Harness, epoch: Epoch, cut: RegionCut) {
    let m = &b.models[&V];
    let (table, cut_after) = (m.table.clone(), Lsn(m.last()));
    b.input(Input::Switch { volume: V, switch: Switch { epoch, table, cut_after, cut } });
}

/// Some operations end, then perhaps all is over. True if it is, and a new process has started.
fn may_crash(b: &mut Harness, rng: &mut Rng) -> bool {
    if rng.chance(500_000) {
        return false;
    }
    for _ in 0..rng.below(30) {
        b.complete_one();
    }
    b.crash(rng.chance(600_000));
    b.resync.clear();
    b.start();
    true
}

/// Everything the side area lacks, region by region, through crashes.
fn fetch(a: &mut Harness, b: &mut Harness, after: u64, size: VolumeSize, rng: &mut Rng) -> RegionCut {
    let digest = b.models[&V].digest(after);
    loop {
        let found = ask(a, query(after, held(b, size)), 1);
        if found.regions.is_empty() {
            assert_eq!(found.next, None);
            return found.cut;
        }
        assert_eq!(found.regions.len(), 1, "one region is more than a byte");
        b.input(Input::WriteSide { volume: V, regions: found.regions });
        if may_crash(b, rng) {
            assert_eq!(b.opened[&V].applied, Lsn(after), "the old state stays until the switch");
            assert_eq!(b.opened[&V].digest, digest);
            open_side_for(b, size);
        } else {
            b.drain_disk();
            assert!(matches!(b.resync.pop(), Some(Output::SideWritten { bad: 0, .. })));
        }
    }
}

/// Image and side area become the copy, or don't yet, whatever happens in between. Gives what it is then.
fn switch_through_crashes(
    a: &Harness,
    b: &mut Harness,
    (after, cut): (u64, RegionCut),
    rng: &mut Rng,
    seed: u64,
) -> Model {
    let old = b.models[&V].clone();
    let new = Model { incarnation: old.incarnation, ..a.models[&V].clone() };
    assert_eq!(cut.at, Lsn(new.last()));
    loop {
        assert_eq!(prove(b, cut), Ok(()), "seed {seed}");
        switch(b, old.epoch, cut);
        b.strict = false;
        b.models.insert(V, new.clone());
        if !may_crash(b, rng) {
            while !b.resync.iter().any(|o| matches!(o, Output::Switched { .. })) {
                assert!(b.complete_one() || b.tick(), "seed {seed}: the switch ends: {:?}", b.resync);
            }
            break;
        }
        let opened = b.opened[&V].clone();
        if opened.last == cut.at {
            assert_eq!(opened.digest, new.digest(cut.at.0), "seed {seed}");
            break;
        }
        assert_eq!((opened.last, opened.digest), (Lsn(after), old.digest(after)), "seed {seed}: all or nothing");
        b.models.insert(V, old.clone());
        open_side_for(b, cut.size);
    }
    new
}

#[test]
fn a_copy_becomes_what_another_one_is_through_crashes_at_any_moment() {
    for seed in 0..150 {
        let mut rng = Rng::new(seed);
        let before = 1 + rng.below(20);
        let mut a = source(seed, before);
        let mut b = target(seed ^ 0xB, &a);
        let after = b.models[&V].last();
        write(&mut a, 1 + rng.below(30));
        open_side(&mut b);
        let mut cut = fetch(&mut a, &mut b, after, first_size(), &mut rng);
        if rng.chance(500_000) {
            // Another pass: what was fetched is fetched anew where it changed.
            write(&mut a, 1 + rng.below(10));
            cut = fetch(&mut a, &mut b, after, first_size(), &mut rng);
        }
        let new = switch_through_crashes(&a, &mut b, (after, cut), &mut rng, seed);
        b.strict = true;
        if rng.chance(500_000) {
            b.read_all(V);
        }
        if may_crash(&mut b, &mut rng) {
            assert_eq!(b.opened[&V].last, cut.at, "seed {seed}: what was switched stays");
        }
        b.quiesce();
        b.read_all(V);
        assert_eq!(b.store.digest(V), Some(new.digest(cut.at.0)));
        assert!(!b.store.is_merging(V));
        write(&mut a, 5);
        follow(&mut b, &a);
        b.read_all(V);
        assert_eq!(b.store.digest(V), a.store.digest(V));
        b.drain_disk();
        let side = b.disk.files.keys().filter(|f| format!("{f:?}").starts_with("Side")).count();
        assert_eq!(side, 0, "seed {seed}: the side area is gone");
        b.crash(true);
        b.start();
        b.read_all(V);
    }
}

#[test]
fn a_side_area_that_is_not_the_whole_difference_is_refused() {
    let mut a = source(1, 10);
    let mut b = target(2, &a);
    let after = b.models[&V].last();
    write(&mut a, 20);
    open_side(&mut b);
    let found = ask(&mut a, query(after, Vec::new()), 1 << 20);
    assert!(found.regions.len() > 1 && found.total > 1);
    b.input(Input::WriteSide { volume: V, regions: found.regions[1..].to_vec() });
    b.drain_disk();
    b.resync.clear();
    assert!(matches!(prove(&mut b, found.cut), Err(NotProven::Different(_))));
    let epoch = b.models[&V].epoch;
    switch(&mut b, epoch, found.cut);
    b.quiesce();
    assert!(matches!(b.resync.pop(), Some(Output::SwitchRefused { .. })));
    b.read_all(V);
    assert_eq!(b.store.digest(V), Some(b.models[&V].digest(after)), "the copy is what it was");
    follow(&mut b, &a);
    assert_eq!(b.store.digest(V), a.store.digest(V), "and goes on by the log");
}

#[test]
fn the_newer_of_two_versions_of_a_region_stays() {
    let mut a = source(3, 10);
    let mut b = target(4, &a);
    let after = b.models[&V].last();
    write(&mut a, 10);
    let older: Vec<Region> = ask(&mut a, query(after, Vec::new()), 1 << 20).regions;
    write(&mut a, 30);
    let newer = ask(&mut a, query(after, Vec::new()), 1 << 20);
    open_side(&mut b);
    for regions in [newer.regions.clone(), older] {
        b.input(Input::WriteSide { volume: V, regions });
        b.drain_disk();
        b.resync.clear();
    }
    let versions: Vec<_> = newer.regions.iter().map(|r| (r.index, r.lsn)).collect();
    assert_eq!(held(&mut b, first_size()), versions);
}

/// The second pass is told by what was noted in the first one; each region with the LSN that the region table has.
#[test]
fn what_is_noted_of_a_pass_is_what_the_tables_say() {
    for seed in 0..40 {
        let mut a = source(seed, 5);
        let mut b = target(seed ^ 0xC, &a);
        let after = b.models[&V].last();
        open_side(&mut b);
        let first = ask(&mut a, query(after, Vec::new()), 1 << 20).cut;
        // Several records of one batch in one region, in any order of their blocks.
        for _ in 0..12 {
            a.append(V, 1);
        }
        commit(&mut a);
        a.quiesce();
        let found = ask(&mut a, query(first.at.0, Vec::new()), 1 << 20);
        assert_eq!(found.total, u64::try_from(found.regions.len()).expect("small"), "it was noted");
        b.input(Input::WriteSide { volume: V, regions: found.regions });
        b.drain_disk();
        b.resync.clear();
        assert_eq!(prove(&mut b, found.cut), Ok(()), "seed {seed}");
    }
}

/// What only looks at a copy finds all of it, though regions are still to be moved to its image, and moves none.
/// Appends and commits, and does not wait for the image.
fn write_on(a: &mut Harness, records: u64) {
    for _ in 0..records {
        a.append(V, 1);
        commit(a);
    }
    a.drain_disk();
}

/// Answers of one region each to what changed after a record, with writes between them: the records that they belong to.
fn pass_under_writes(a: &mut Harness, after: u64, mut meanwhile: impl FnMut(&mut Harness)) -> Vec<Lsn> {
    let mut asked = query(after, Vec::new());
    let mut at = Vec::new();
    loop {
        let found = ask(a, asked.clone(), 1);
        at.push(found.cut.at);
        match found.next {
            Some(next) => asked.from = next,
            None => return at,
        }
        meanwhile(a);
        while a.tick() {
            a.drain_disk();
        }
    }
}

#[test]
fn the_answers_of_a_short_pass_belong_to_one_record_though_writes_go_on() {
    let mut a = source(5, 30);
    let first = Lsn(a.models[&V].last());
    let whole = pass_under_writes(&mut a, 0, |a| write_on(a, 3));
    assert!(whole.len() > 1 && whole[0] == first, "{whole:?}");
    assert!(whole.windows(2).all(|w| w[0] < w[1]), "a pass over all of the volume keeps nothing waiting: {whole:?}");

    // All regions have changed since, and are few.
    let after = whole[0].0;
    write(&mut a, 40);
    let short = pass_under_writes(&mut a, after, |a| write_on(a, 3));
    assert!(short.len() > 1, "{short:?}");
    assert!(short.iter().all(|at| *at == short[0]), "{short:?}");
    a.quiesce();
    let last = a.models[&V].last();
    assert_eq!(a.store.positions(V).expect("it is open").applied, Lsn(last), "nothing waits for a pass that is over");

    // Whoever asked does not go on, and the owner says so.
    write(&mut a, 40);
    let left = pass_under_writes(&mut a, short[0].0, |a| {
        write_on(a, 3);
        a.input(Input::LetGoRegions { volume: V });
    });
    assert!(left.len() > 1 && left.windows(2).all(|w| w[0] < w[1]), "{left:?}");
}

#[test]
fn a_copy_is_read_whole_while_its_regions_are_beside_the_image() {
    for seed in 0..20 {
        let mut a = source(seed, 8);
        let mut b = target(seed ^ 0xD, &a);
        let after = b.models[&V].last();
        write(&mut a, 20);
        open_side(&mut b);
        let found = ask(&mut a, query(after, Vec::new()), 1 << 20);
        b.input(Input::WriteSide { volume: V, regions: found.regions });
        b.drain_disk();
        b.resync.clear();
        assert_eq!(prove(&mut b, found.cut), Ok(()));
        let old = b.models[&V].clone();
        switch(&mut b, old.epoch, found.cut);
        b.strict = false;
        b.models.insert(V, Model { incarnation: old.incarnation, ..a.models[&V].clone() });
        while !b.resync.iter().any(|o| matches!(o, Output::Switched { .. })) {
            assert!(b.complete_one() || b.tick(), "seed {seed}: the switch ends");
        }
        b.config.moves_regions = false;
        b.crash(false);
        b.start();
        b.strict = true;
        b.quiesce();
        assert!(b.store.is_merging(V), "seed {seed}: nothing is moved");
        b.read_all(V);
        assert_eq!(b.store.digest(V), Some(b.models[&V].digest(found.cut.at.0)));
        b.config.moves_regions = true;
        b.crash(true);
        b.start();
        b.quiesce();
        assert!(!b.store.is_merging(V), "seed {seed}: all is moved");
        b.read_all(V);
    }
}

/// The size comes with the regions, to a new copy and to an older one, whatever sizes the volume had meanwhile.
#[test]
fn a_copy_takes_the_size_that_the_volume_has_where_its_regions_come_from() {
    for seed in 0..120 {
        let mut rng = Rng::new(seed);
        let mut a = source(seed, 6);
        let mut b = if rng.chance(500_000) {
            resize(&mut a, 1 + rng.below(BLOCKS));
            write(&mut a, 5);
            blank(seed ^ 0xE)
        } else {
            resize(&mut a, 1 + rng.below(BLOCKS));
            target(seed ^ 0xE, &a)
        };
        let after = b.models[&V].last();
        for _ in 0..rng.below(4) {
            resize(&mut a, 1 + rng.below(BLOCKS));
            write(&mut a, rng.below(5));
        }
        if rng.chance(500_000) {
            resize(&mut a, BLOCKS);
            write(&mut a, rng.below(10));
        }
        if rng.chance(500_000) {
            // It does not know yet how large the volume is.
            open_side_for(&mut b, VolumeSize::new(3 * 4096).expect("a size"));
        }
        let size = ask(&mut a, query(after, Vec::new()), 1).cut.size;
        assert_eq!(size.blocks().0, a.models[&V].blocks());
        open_side_for(&mut b, size);
        let cut = fetch(&mut a, &mut b, after, size, &mut rng);
        let new = switch_through_crashes(&a, &mut b, (after, cut), &mut rng, seed);
        b.strict = true;
        may_crash(&mut b, &mut rng);
        if rng.chance(500_000) {
            // The next change of the size comes while regions are being moved.
            a.resize(V, 1 + rng.below(BLOCKS));
            commit(&mut a);
            a.quiesce();
            follow(&mut b, &a);
        } else {
            b.quiesce();
            assert_eq!(b.store.digest(V), Some(new.digest(cut.at.0)));
        }
        write(&mut a, 5);
        follow(&mut b, &a);
        b.read_all(V);
        b.scrub(V);
        assert_eq!(b.store.digest(V), a.store.digest(V), "seed {seed}");
        let blocks = b.models[&V].blocks();
        let seen: u64 = b.ask_extents(V, BlockRange::new(0, 4 * BLOCKS)).iter().map(|(run, _)| run.count.0).sum();
        assert_eq!(seen, blocks, "seed {seed}");
        assert!(
            b.disk.bytes_behind(V, blocks * 4096).all(|byte| byte == 0),
            "seed {seed}: nothing lies behind the end"
        );
        b.crash(true);
        b.start();
        b.read_all(V);
    }
}
