//! Damage of every kind. The rule: whatever was done to the directory, an export gives a state that the volume had, or says
//! why not; and what `fsck` calls clean is exported whole.

use super::world::{V, World, files};
use super::{get, look, options, without};
use crate::offline::{OfflineError, Options, Place, check};
use holdfast_types::Rng;
use std::fs::{self, File};

/// Judges the directory as it is now.
fn judge(world: &World, what: &str) {
    let report = look(world);
    let refuse = options(world, "a.raw");
    match get(world, &refuse) {
        Ok(exported) => {
            let found = fs::read(&refuse.to).expect("written");
            assert!(exported.upto <= world.last(), "{what}: {exported:?}");
            assert_eq!(found, world.image(exported.upto), "{what}: at record {}", exported.upto);
            assert!(exported.upto >= report.volumes[0].committed.unwrap_or(0), "{what}");
        }
        Err(error) => {
            assert!(!report.clean, "{what}: a clean copy is not exported: {error}");
            assert!(error.to_string().len() > 40, "{what}: {error}");
        }
    }
    let skip = Options { skip_bad: true, ..refuse };
    for options in [Options { at_checkpoint: true, ..skip.clone() }, skip] {
        if let Ok(exported) = get(world, &options) {
            let found = fs::read(&options.to).expect("written");
            let wanted = without(&exported.bad, world.image(exported.upto));
            assert_eq!(found, wanted, "{what}: with zeros for what is bad: {options:?}");
        }
    }
}

#[test]
fn random_flips() {
    let rounds = std::env::var("HOLDFAST_FLIPS").map_or(400, |n| n.parse().expect("HOLDFAST_FLIPS is a number"));
    let mut rng = Rng::new(77);
    let world = World::make(7);
    let all = files(&world.dir());
    let mut damaged = 0;
    for round in 0..rounds {
        let mut undo = Vec::new();
        for _ in 0..1 + rng.below(3) {
            let file = &all[usize::try_from(rng.below(all.len() as u64)).expect("small")];
            let len = fs::metadata(file).expect("it exists").len();
            // Half of them near the start, where the headers are.
            let at = if rng.chance(500_000) { rng.below(len.min(16384)) } else { rng.below(len) };
            world.flip(file, at);
            undo.push((file, at));
        }
        judge(&world, &format!("round {round}: {undo:?}"));
        damaged += u32::from(!look(&world).clean);
        undo.iter().rev().for_each(|(file, at)| world.flip(file, *at));
    }
    assert!(look(&world).clean && damaged > 0, "{damaged} of {rounds} were seen");
}

#[test]
fn files_that_are_cut_emptied_missing_or_garbage() {
    let mut rng = Rng::new(5);
    let world = World::make(8);
    for file in files(&world.dir()) {
        let whole = fs::read(&file).expect("readable");
        let half = whole.len() / 2;
        let garbage: Vec<u8> = (0..whole.len()).map(|_| rng.next_u64().to_le_bytes()[0]).collect();
        for (what, bytes) in
            [("cut", &whole[..half]), ("odd", &whole[..half + 13]), ("emptied", &[]), ("garbage", &garbage)]
        {
            fs::write(&file, bytes).expect("writable");
            judge(&world, &format!("{} {what}", file.display()));
        }
        fs::remove_file(&file).expect("it exists");
        judge(&world, &format!("{} removed", file.display()));
        fs::write(&file, &whole).expect("writable");
    }
    assert!(look(&world).clean);
}

#[test]
fn a_newer_format_is_called_so_and_left_alone() {
    let world = World::make(9);
    let superblock = world.dir().join(format!("copies/{V}/superblock"));
    let mut bytes = fs::read(&superblock).expect("readable");
    (0..4).for_each(|copy| bytes[copy * 4096 + 4] = 2);
    fs::write(&superblock, &bytes).expect("writable");
    let report = look(&world);
    assert!(report.problems().any(|(_, p)| p.contains("format version 2")), "{report:?}");
    assert_eq!(report.repairs().count(), 0);
}

#[test]
fn places_that_are_none() {
    let world = World::make(10);
    let nothing = world.scratch();
    let missing = nothing.join("missing");
    let file = nothing.join("file");
    File::create(&file).expect("writable");
    for (dir, words) in [(&nothing, "none of them"), (&missing, "does not exist"), (&file, "no directory")] {
        let error = Place::find(dir).expect_err("none of an agent's directories");
        assert!(error.is_usage() && error.to_string().contains(words), "{error}");
    }
    // A data directory whose `init` never ended, and one whose shard was wiped.
    fs::create_dir_all(nothing.join("data/cluster")).expect("writable");
    let report =
        check(&Place::find(&nothing.join("data")).expect("a data directory"), &mut |_, _| {}).expect("checked");
    assert!(report.problems().any(|(_, p)| p.contains("cluster.json is missing")), "{report:?}");
    let target = Options { to: world.dir().join("a.raw"), ..options(&world, "a.raw") };
    let error = get(&world, &target).expect_err("inside of what is not to change");
    assert!(matches!(error, OfflineError::Inside { .. }), "{error}");
}

#[test]
fn two_at_once_are_refused_as_an_agent_would_be() {
    let world = World::make(11);
    let lock = File::create(world.dir().join("lock")).expect("writable");
    lock.lock().expect("nobody holds it");
    let error = check(&Place::find(world.dir().as_path()).expect("a shard"), &mut |_, _| {}).expect_err("held");
    assert!(error.is_refused() && error.to_string().contains("stop that agent"), "{error}");
}
