//! What a [`Disk`](crate::Disk) is opened with.

use std::path::PathBuf;

/// How operations reach the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Backend {
    /// One ring, registered files and buffers: half the CPU of the alternative.
    #[default]
    IoUring,
    /// A pool of threads with pread and pwrite: for kernels and containers without io_uring.
    Pread,
}

/// What a [`Disk`](crate::Disk) is opened with.
#[derive(Clone, Debug)]
pub struct DiskConfig {
    /// The shard's directory; created if it is missing.
    pub dir: PathBuf,
    /// How operations reach the kernel.
    pub backend: Backend,
    /// Writes that may be in flight at once, each in a slot of pinned memory.
    pub staging_slots: u32,
    /// Size of a slot. A larger write goes out slot by slot, so make a slot hold the largest frame of the hot path.
    pub staging_slot_bytes: u32,
    /// Operations in the kernel at once (ring); what is above waits in a queue in memory.
    pub depth: u32,
    /// Threads of the `Pread` backend.
    pub threads: u32,
    /// Files kept open; idle ones above that are closed.
    pub max_open_files: u32,
    /// Bytes of the file system that images, tables and new files leave free: room for the control log, without which
    /// the node can't start. 0: none.
    pub reserve_bytes: u64,
}

impl DiskConfig {
    /// The defaults for a directory: io_uring, 32 slots of 1.5 MiB, 256 operations in flight, 1024 files,
    /// 64 MiB left free.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> DiskConfig {
        DiskConfig {
            dir: dir.into(),
            backend: Backend::IoUring,
            staging_slots: 32,
            staging_slot_bytes: 3 << 19,
            depth: 256,
            threads: 8,
            max_open_files: 1024,
            reserve_bytes: 64 << 20,
        }
    }
}
