//! The real device behind the trait of `holdfast-crash`, and directories made of what its media hold.
#![allow(dead_code, clippy::unwrap_used, reason = "each test uses a part of this, and may panic")]

use holdfast_crash::{Device, Medium};
use holdfast_disk::{Backend, Disk, DiskConfig};
use holdfast_store::io::{DiskDone, DiskOp, FileId};
use holdfast_types::VolumeId;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The real device, one completion at a time.
pub(crate) struct Real {
    pub(crate) disk: Disk,
    runtime: tokio::runtime::Runtime,
    under_way: usize,
    ended: VecDeque<DiskDone>,
}

impl Real {
    pub(crate) fn open(dir: &Path, backend: Backend) -> Real {
        let config = DiskConfig {
            backend,
            // Smaller than the larger writes, so that they take several calls.
            staging_slots: 4,
            staging_slot_bytes: 8 << 10,
            depth: 16,
            threads: 1,
            max_open_files: 16,
            reserve_bytes: 0,
            ..DiskConfig::new(dir)
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Real { disk: Disk::open(&config).unwrap(), runtime, under_way: 0, ended: VecDeque::new() }
    }
}

impl Device for Real {
    fn submit(&mut self, op: DiskOp) {
        self.under_way += 1;
        self.disk.submit([op]);
    }

    fn next(&mut self) -> Option<DiskDone> {
        if self.under_way == 0 {
            return None;
        }
        let mut out = Vec::new();
        let disk = &mut self.disk;
        self.runtime.block_on(async {
            while self.ended.is_empty() && out.is_empty() {
                disk.completed(&mut out);
                if out.is_empty() {
                    tokio::time::timeout(Duration::from_secs(60), disk.wait()).await.expect("an operation ends");
                }
            }
        });
        self.ended.extend(out);
        self.under_way -= 1;
        self.ended.pop_front()
    }

    fn orphaned(&mut self) {
        unreachable!("nothing here restarts the process over an open device")
    }
}

pub(crate) fn path(dir: &Path, file: FileId) -> PathBuf {
    let copy = |v: VolumeId, name: &str| dir.join("copies").join(v.0.to_string()).join(name);
    match file {
        FileId::Segment(slot) => dir.join("journal").join(format!("segment-{slot}")),
        FileId::JournalHead => dir.join("journal/head"),
        FileId::Superblock(v) => copy(v, "superblock"),
        FileId::Image(v) => copy(v, "image.raw"),
        FileId::BlockTable(v) => copy(v, "blocks.tab"),
        FileId::RegionTable(v) => copy(v, "regions.tab"),
        FileId::SideImage(v) => copy(v, "side.raw"),
        FileId::SideBlocks(v) => copy(v, "side-blocks.tab"),
        FileId::SideRegions(v) => copy(v, "side-regions.tab"),
        FileId::Orphan(v, epoch) => copy(v, &format!("orphan-{}", epoch.0)),
    }
}

/// Writes what a medium holds.
pub(crate) fn build(dir: &Path, medium: &Medium) {
    for (file, content) in &medium.0 {
        let path = path(dir, *file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content.as_slice()).unwrap();
    }
}
