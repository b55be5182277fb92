//! Directories of format version 1, committed: every later build opens them and finds what was in them.
//!
//! - `v1`: two copies with a journal of several lives and segments, a checkpoint, records that are not in the image yet, a tail that
//!   is not committed, and an orphan.
//! - `v1-resized`: a copy that became smaller, with writes before and after, not all of them in the image.
//! - `v1-fetched`: a copy that fetches regions: what came is in the side area.
//! - `v1-merging`: a copy that has switched to what it fetched, and moves it from the side area into the image.
//!
//! This makes those that are not there; before the first release, a change of the format is a reason to delete them first:
//!
//! ```text
//! cargo test -p holdfast-disk --test golden -- --ignored regenerate
//! ```
#![allow(clippy::unwrap_used, reason = "a helper of a test may panic like a test")]

mod common;

use common::{Real, build};
use holdfast_crash::{BLOCKS, Judgement, Medium, Op, Rig, SimDisk, V1, V2, prepare, small};
use holdfast_disk::Backend;
use holdfast_format::{Superblock, SuperblockFound, block_checksum};
use holdfast_store::io::FileId;
use holdfast_types::{BlockIndex, OpenedCopy};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A directory: what was done to a store, and what of that can be seen in its files.
struct Golden {
    name: &'static str,
    ops: &'static [Op],
    rests: bool,
    shows: fn(&Medium, &OpenedCopy) -> bool,
}

const ALL: [Golden; 4] = [
    Golden {
        name: "v1",
        ops: &[Op::Batch, Op::Cut, Op::Restart, Op::Adopt, Op::Zeroes, Op::Commit, Op::Recycle, Op::Write],
        rests: true,
        shows: |medium, c| {
            let orphan = medium.0.keys().any(|file| matches!(file, FileId::Orphan(..)));
            c.committed < c.last && c.checkpoint < c.committed && orphan
        },
    },
    Golden {
        name: "v1-resized",
        ops: &[Op::Batch, Op::Commit, Op::Resize, Op::Write, Op::Checkpoint, Op::Write, Op::Commit, Op::Write],
        rests: true,
        shows: |_, c| c.size().bytes() < BLOCKS * 4096 - 512 && c.checkpoint < c.committed && c.committed < c.last,
    },
    Golden {
        name: "v1-fetched",
        ops: &[Op::Batch, Op::Commit, Op::Fetch],
        rests: true,
        shows: |medium, _| {
            superblock(&medium.0[&FileId::Superblock(V1)]).merging.is_none()
                && medium.0.contains_key(&FileId::SideImage(V1))
        },
    },
    Golden {
        name: "v1-merging",
        ops: &[Op::Batch, Op::Commit, Op::Fetch, Op::Prove, Op::Switch],
        rests: false,
        shows: |medium, _| superblock(&medium.0[&FileId::Superblock(V1)]).merging.is_some(),
    },
];

fn superblock(file: &[u8]) -> Superblock {
    match Superblock::judge(file) {
        SuperblockFound::Valid(superblock, _) => *superblock,
        other => panic!("expected a superblock, found {other:?}"),
    }
}

impl Golden {
    fn dir(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(self.name)
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// What a store finds in the directory, in words: each copy as it opens, and each block of its image once all is applied.
fn found(dir: &Path, backend: Backend) -> String {
    let mut text = String::new();
    let mut rig = Rig::over(Real::open(dir, backend), &small(), BTreeMap::new(), Judgement::Strict);
    rig.start();
    assert!(rig.started && rig.failed.is_empty(), "{:?}", rig.failed);
    for (v, c) in rig.opened.clone() {
        let unknown = c.unknown_to.map_or(0, |to| to.0);
        writeln!(text, "copy {v} incarnation {} size {} promised {}", c.incarnation, c.size().bytes(), c.promised)
            .unwrap();
        writeln!(text, "  table {:?}", c.table.entries().iter().map(|(e, l)| (e.0, l.0)).collect::<Vec<_>>()).unwrap();
        writeln!(text, "  last {} of {} with {:016x}, unknown {unknown}", c.last, c.last_epoch, c.last_hash).unwrap();
        writeln!(text, "  committed {} checkpoint {} digest {:016x}", c.committed, c.checkpoint, c.digest).unwrap();
        rig.rest_unwatched(Duration::from_secs(2));
        // What lies in the side area is moved, which is noted with the next checkpoint at the latest.
        for step in 0.. {
            let file = std::fs::read(common::path(dir, FileId::Superblock(v))).unwrap();
            if superblock(&file).merging.is_none() {
                break;
            }
            assert!(step < 100, "{v}: the side area is never moved");
            rig.rest_unwatched(Duration::from_secs(120));
        }
        let image = std::fs::read(common::path(dir, FileId::Image(v))).unwrap();
        for (block, data) in (0..BLOCKS).zip(image.chunks_exact(4096)) {
            let sum = if data.iter().all(|b| *b == 0) { 0 } else { block_checksum(BlockIndex(block), data) };
            writeln!(text, "  block {block} {sum:016x}").unwrap();
        }
    }
    text
}

#[test]
fn directories_of_version_1_open_with_what_was_in_them() {
    for (golden, backend) in ALL.iter().flat_map(|g| [Backend::IoUring, Backend::Pread].map(|b| (g, b))) {
        let (dir, name) = (tempfile::tempdir().unwrap(), golden.name);
        copy(&golden.dir().join("data"), dir.path());
        let expected = std::fs::read_to_string(golden.dir().join("expected.txt")).unwrap();
        assert!(expected.starts_with("copy v1 ") && expected.contains("copy v2 "), "{name}: the file names two copies");
        let found = found(dir.path(), backend);
        assert_eq!(found, expected, "{name}: a directory of an earlier build no longer opens as it was");
    }
}

#[test]
#[ignore = "writes crates/disk/golden"]
fn regenerate() {
    for golden in ALL.iter().filter(|g| !g.dir().exists()) {
        let medium = made(golden);
        // What is committed is what the oracle says, before it becomes what every later build must say.
        let data = golden.dir().join("data");
        build(&data, &medium);
        let dir = tempfile::tempdir().unwrap();
        copy(&data, dir.path());
        std::fs::write(golden.dir().join("expected.txt"), found(dir.path(), Backend::IoUring)).unwrap();
    }
}

fn made(golden: &Golden) -> Medium {
    let mut rig = Rig::new(SimDisk::default(), &small(), 7);
    prepare(&mut rig, true);
    for op in golden.ops {
        op.apply(&mut rig);
        // A merge is seen on its way, as soon as the superblock says that it has begun.
        while rig.complete_one()
            && !(*op == Op::Switch && superblock(&rig.device.cut().medium.0[&FileId::Superblock(V1)]).merging.is_some())
        {
        }
    }
    if golden.rests {
        rig.rest(Duration::from_millis(100));
    }
    assert!(rig.wrong.is_empty() && rig.failed.is_empty(), "{}: {:?} {:?}", golden.name, rig.wrong, rig.failed);
    let medium = rig.device.cut().medium;
    let mut again = Rig::over(SimDisk::on(medium.clone()), &small(), rig.volumes.clone(), Judgement::Strict);
    again.start();
    again.check_all();
    assert!(again.wrong.is_empty(), "{}: {:?}", golden.name, again.wrong);
    let c = &again.opened[&V1];
    assert!((golden.shows)(&medium, c), "{}: it holds what it is made for: {c:?}", golden.name);
    assert!(again.opened.contains_key(&V2));
    medium
}
