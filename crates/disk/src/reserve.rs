//! Space that the copies leave to others on their file system: above all to the control log, without which a node can't
//! even start.
//!
//! What would take space is refused with `NoSpace` while less than the reserve is free. Frames and superblocks are not
//! asked: they overwrite what their files hold already. Writes of an image count whole, whether they overwrite or not.
//!
//! The file system is asked once per [`STEP`] bytes or [`FRESH`], and each time while it is full. What is in flight may
//! reach into the reserve, by less than a few such steps.

use holdfast_store::io::FileId;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Bytes that are granted without asking again.
const STEP: u64 = 8 << 20;
/// How long an answer counts: others take space, too.
const FRESH: Duration = Duration::from_millis(250);

/// Watches the free space of one file system.
pub(crate) struct Reserve {
    dir: File,
    bytes: u64,
    granted: u64,
    asked: Option<Instant>,
}

impl Reserve {
    /// Leaves `bytes` free on the file system of `dir`.
    pub(crate) const fn new(dir: File, bytes: u64) -> Reserve {
        Reserve { dir, bytes, granted: 0, asked: None }
    }

    /// Whether writing to `file` takes new space.
    pub(crate) const fn concerns(file: FileId) -> bool {
        match file {
            FileId::Segment(_) | FileId::JournalHead | FileId::Superblock(_) => false,
            FileId::Image(_) | FileId::BlockTable(_) | FileId::RegionTable(_) | FileId::Orphan(..) => true,
            FileId::SideImage(_) | FileId::SideBlocks(_) | FileId::SideRegions(_) => true,
        }
    }

    /// Whether `len` bytes more may be taken.
    pub(crate) fn grants(&mut self, len: u64) -> bool {
        if self.bytes == 0 {
            return true;
        }
        if len > self.granted || self.asked.is_none_or(|at| at.elapsed() >= FRESH) {
            let above = self.free().saturating_sub(self.bytes);
            if above == 0 || len > above {
                self.granted = 0;
                return false;
            }
            (self.granted, self.asked) = (above.min(STEP.max(len)), Some(Instant::now()));
        }
        self.granted -= len;
        true
    }

    /// Bytes that the file system has left. One that does not tell is taken to have enough: it says ENOSPC itself.
    fn free(&self) -> u64 {
        let mut found = MaybeUninit::<libc::statvfs>::zeroed();
        // SAFETY: the descriptor is open as long as `self.dir`, and `found` outlives the call.
        let result = unsafe { libc::fstatvfs(self.dir.as_raw_fd(), found.as_mut_ptr()) };
        // SAFETY: zeroed bytes are a valid `statvfs`, whatever the call did.
        let found = unsafe { found.assume_init() };
        if result == 0 { found.f_bavail.saturating_mul(found.f_frsize) } else { u64::MAX }
    }
}
