//! A removal takes what it takes, and holds up nothing but itself.
//!
//! Needs root: it mounts.
#![allow(clippy::unwrap_used, reason = "a helper of a test may panic like a test")]

mod common;

use common::Real;
use holdfast_crash::Device;
use holdfast_disk::Backend;
use holdfast_faultfs::{Fault, FaultFs, Op, Options, Rule};
use holdfast_store::io::{DiskOp, DiskOpKind, DiskReply, FileId, OpId};
use holdfast_types::VolumeId;

const GONE: FileId = FileId::Image(VolumeId(1));
const ALSO: FileId = FileId::Image(VolumeId(2));

#[test]
fn nothing_waits_for_a_removal_that_takes_long() {
    let dir = tempfile::tempdir().unwrap();
    let (real, seen) = (dir.path().join("real"), dir.path().join("seen"));
    [&real, &seen].into_iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
    let fs = FaultFs::mount(&real, &seen, Options { sync: false }).unwrap_or_else(|e| panic!("{e}"));
    let mut device = Real::open(&seen, Backend::IoUring);
    let mut next = 0;
    let mut submit = |device: &mut Real, file, kind| {
        next += 1;
        device.submit(DiskOp { id: OpId(next), file, kind });
        OpId(next)
    };
    for file in [GONE, ALSO] {
        submit(&mut device, file, DiskOpKind::Create { len: 1 << 20, written: false });
        assert_eq!(device.next().unwrap().result, Ok(DiskReply::Done));
    }
    fs.rules().add(Rule::new("image.raw", &[Op::Names], Fault::Hang));
    let gone = [GONE, ALSO].map(|file| submit(&mut device, file, DiskOpKind::Delete));
    let others = [
        (FileId::Segment(1), DiskOpKind::Create { len: 1 << 20, written: true }),
        (FileId::Superblock(VolumeId(3)), DiskOpKind::Create { len: 16384, written: true }),
        (FileId::Superblock(VolumeId(3)), DiskOpKind::SetLen { len: 8192 }),
    ];
    for (file, kind) in others {
        let id = submit(&mut device, file, kind);
        let done = device.next().unwrap();
        assert_eq!((done.id, done.result), (id, Ok(DiskReply::Done)), "{file}");
    }
    fs.rules().clear();
    let mut ended = [device.next().unwrap(), device.next().unwrap()].map(|done| (done.id, done.result));
    ended.sort_by_key(|(id, _)| *id);
    assert_eq!(ended, gone.map(|id| (id, Ok(DiskReply::Done))));
    drop(device);
    assert!(!real.join("copies/1").exists(), "its directory is gone with it");
}
