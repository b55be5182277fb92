//! A process that is out of file descriptors: its device has not failed.
//! Alone in its binary, because it changes the limit of its process.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::Real;
use holdfast_crash::Device;
use holdfast_disk::Backend;
use holdfast_store::io::{DiskOp, DiskOpKind, DiskReply, FileId, OpId};
use holdfast_types::VolumeId;
use std::os::fd::AsRawFd;
use std::time::Duration;

const IMAGE: FileId = FileId::Image(VolumeId(1));

fn limit(open_files: u64) {
    let max = limits().rlim_max;
    let limit = libc::rlimit { rlim_cur: open_files, rlim_max: max };
    // SAFETY: `limit` is valid for the call, which only reads it.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
}

fn limits() -> libc::rlimit {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for the call and of the type that it fills.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
    limit
}

fn ask(device: &mut Real, id: u64, kind: DiskOpKind) -> DiskReply {
    device.submit(DiskOp { id: OpId(id), file: IMAGE, kind });
    device.next().unwrap().result.unwrap()
}

#[test]
fn a_file_waits_for_descriptors_and_its_device_is_no_failed_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut device = Real::open(dir.path(), Backend::IoUring);
    ask(&mut device, 1, DiskOpKind::Create { len: 1 << 20, written: false });
    ask(&mut device, 2, DiskOpKind::Write { offset: 0, data: vec![vec![7; 4096].into()], durable: true });
    drop(device);

    let mut device = Real::open(dir.path(), Backend::IoUring);
    // No number is free below the limit.
    limit(3);
    device.submit(DiskOp { id: OpId(3), file: IMAGE, kind: DiskOpKind::Read { offset: 0, len: 4096 } });
    std::thread::sleep(Duration::from_millis(300));
    let mut early = Vec::new();
    device.disk.completed(&mut early);
    assert!(early.is_empty(), "it waits: {early:?}");
    assert_eq!(holdfast_disk::limits::raise_open_files().unwrap(), limits().rlim_max);
    let DiskReply::Data(data) = device.next().unwrap().result.unwrap() else { panic!("a read gives data") };
    assert_eq!(data, vec![7; 4096]);

    // With one descriptor alone a file is made and filled once, however long the others are missing.
    let free = std::fs::File::open("/dev/null").unwrap().as_raw_fd();
    limit(u64::try_from(free).unwrap() + 1);
    let before = written();
    let segment = FileId::Segment(1);
    device.submit(DiskOp { id: OpId(4), file: segment, kind: DiskOpKind::Create { len: 4 << 20, written: true } });
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(holdfast_disk::limits::raise_open_files().unwrap(), limits().rlim_max);
    assert_eq!(device.next().unwrap().result, Ok(DiskReply::Done));
    let bytes = written() - before;
    assert!(bytes < 12 << 20, "{bytes} bytes were written for 4 MiB");
}

/// Bytes that this process has had written.
fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap();
    line.parse().unwrap()
}
