//! A directory of format version 1, committed: every later build opens it and finds what was in it.
//!
//! It holds two copies with a journal of several lives and segments, a checkpoint, records that are not in the image yet, a tail that
//! is not committed, and an orphan. Before the first release a change of the format makes it anew:
//!
//! ```text
//! cargo test -p holdfast-disk --test golden -- --ignored regenerate
//! ```
#![allow(clippy::unwrap_used, reason = "a helper of a test may panic like a test")]

mod common;

use common::{Real, build};
use holdfast_crash::{BLOCKS, Judgement, Op, Rig, SimDisk, V1, V2, prepare, small};
use holdfast_disk::Backend;
use holdfast_format::block_checksum;
use holdfast_store::io::FileId;
use holdfast_types::BlockIndex;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/v1")
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
        let image = std::fs::read(common::path(dir, FileId::Image(v))).unwrap();
        for (block, data) in (0..BLOCKS).zip(image.chunks_exact(4096)) {
            let sum = if data.iter().all(|b| *b == 0) { 0 } else { block_checksum(BlockIndex(block), data) };
            writeln!(text, "  block {block} {sum:016x}").unwrap();
        }
    }
    text
}

#[test]
fn a_directory_of_version_1_opens_with_what_was_in_it() {
    for backend in [Backend::IoUring, Backend::Pread] {
        let dir = tempfile::tempdir().unwrap();
        copy(&golden().join("data"), dir.path());
        let expected = std::fs::read_to_string(golden().join("expected.txt")).unwrap();
        assert!(expected.starts_with("copy v1 ") && expected.contains("copy v2 "), "the file names two copies");
        assert_eq!(found(dir.path(), backend), expected, "a directory of an earlier build no longer opens as it was");
    }
}

#[test]
#[ignore = "writes crates/disk/golden"]
fn regenerate() {
    let mut rig = Rig::new(SimDisk::default(), &small(), 7);
    prepare(&mut rig, true);
    for op in [Op::Batch, Op::Cut, Op::Restart, Op::Adopt, Op::Zeroes, Op::Commit, Op::Recycle, Op::Write] {
        op.apply(&mut rig);
        rig.drain();
    }
    rig.rest(Duration::from_millis(100));
    assert!(rig.wrong.is_empty() && rig.failed.is_empty(), "{:?} {:?}", rig.wrong, rig.failed);
    let medium = rig.device.cut().medium;
    // What is committed is what the oracle says, before it becomes what every later build must say.
    let mut again = Rig::over(SimDisk::on(medium.clone()), &small(), rig.volumes.clone(), Judgement::Strict);
    again.start();
    again.check_all();
    assert!(again.wrong.is_empty(), "{:?}", again.wrong);
    let (c, orphan) = (&again.opened[&V1], medium.0.keys().any(|file| matches!(file, FileId::Orphan(..))));
    assert!(c.committed < c.last && c.checkpoint < c.committed && orphan, "it holds something of everything: {c:?}");
    assert!(again.opened.contains_key(&V2));
    let data = golden().join("data");
    let _ = std::fs::remove_dir_all(&data);
    build(&data, &medium);
    let dir = tempfile::tempdir().unwrap();
    copy(&data, dir.path());
    std::fs::write(golden().join("expected.txt"), found(dir.path(), Backend::IoUring)).unwrap();
}
