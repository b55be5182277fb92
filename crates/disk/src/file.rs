//! One open file, and whether it is read and written around the page cache.
//!
//! Segments and superblocks are opened O_DIRECT, images twice (O_DIRECT, and buffered for a range that direct I/O
//! can't address), tables and orphans buffered. A file system without O_DIRECT, or a device with sectors above 512
//! bytes, falls back to buffered I/O with one warning; durable writes still carry RWF_DSYNC, so only speed is lost.

use crate::shortage;
use holdfast_store::io::FileId;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Which of a file's descriptors an operation uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Direct,
    Buffered,
}

/// An open file. At least one descriptor is there.
pub(crate) struct OpenFile {
    direct: Option<Direct>,
    buffered: Option<File>,
}

struct Direct {
    file: File,
    /// Offsets and lengths are multiples of it.
    align: u64,
}

impl OpenFile {
    /// Opens `path`, which must exist.
    pub(crate) fn open(path: &Path, id: FileId) -> io::Result<OpenFile> {
        let (direct, buffered) = match id {
            FileId::Segment(_) | FileId::JournalHead | FileId::Superblock(_) => (true, false),
            FileId::Image(_) | FileId::SideImage(_) => (true, true),
            FileId::BlockTable(_)
            | FileId::RegionTable(_)
            | FileId::SideBlocks(_)
            | FileId::SideRegions(_)
            | FileId::Orphan(..) => (false, true),
        };
        let direct = if direct { open_direct(path, id)? } else { None };
        let buffered = if buffered || direct.is_none() { Some(open(path, 0)?) } else { None };
        if let Some(file) = &buffered {
            forget_cache(file);
        }
        Ok(OpenFile { direct, buffered })
    }

    /// The way for `[offset, offset + len)`.
    pub(crate) fn way(&self, offset: u64, len: u64) -> Way {
        match &self.direct {
            Some(d) if self.buffered.is_none() || (offset | len).is_multiple_of(d.align) => Way::Direct,
            _ => Way::Buffered,
        }
    }

    /// Any descriptor: for fdatasync and punching, which work on the file, not on the way to it.
    pub(crate) fn any(&self) -> Way {
        if self.buffered.is_some() { Way::Buffered } else { Way::Direct }
    }

    pub(crate) fn fd(&self, way: Way) -> RawFd {
        match way {
            Way::Direct => self.direct.as_ref().map(|d| d.file.as_raw_fd()),
            Way::Buffered => self.buffered.as_ref().map(AsRawFd::as_raw_fd),
        }
        .expect("a way is chosen among the descriptors that are open")
    }

    /// Descriptors that are open, direct first; -1 where there is none.
    pub(crate) fn fds(&self) -> [RawFd; 2] {
        [self.direct.as_ref().map_or(-1, |d| d.file.as_raw_fd()), self.buffered.as_ref().map_or(-1, AsRawFd::as_raw_fd)]
    }
}

/// A sync that failed leaves what it dropped in the page cache, clean. A process that starts after that must not take it for
/// what the device has: its tables would pass every check and be gone after the next power cut. What is still to be written
/// back stays.
fn forget_cache(file: &File) {
    // SAFETY: the descriptor is open; advice of any kind changes nothing that the call's memory holds.
    let refused = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    // ESPIPE and the like: a file without a cache.
    if refused != 0 {
        tracing::debug!(errno = refused, "the kernel takes no advice about the cache of a file");
    }
}

fn open(path: &Path, flags: i32) -> io::Result<File> {
    shortage::open(|| File::options().read(true).write(true).custom_flags(flags).open(path))
}

/// `None` where direct I/O with sectors of 512 bytes is not to be had.
fn open_direct(path: &Path, id: FileId) -> io::Result<Option<Direct>> {
    let file = match open(path, libc::O_DIRECT) {
        Ok(file) => file,
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
            warn_buffered(path, "its file system has no O_DIRECT");
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    // Images are addressed in blocks of 4096 bytes, the rest in sectors of 512.
    let coarsest = if matches!(id, FileId::Image(_) | FileId::SideImage(_)) { 4096 } else { 512 };
    match direct_alignment(&file) {
        Some(0) => {
            warn_buffered(path, "its file system has no O_DIRECT");
            Ok(None)
        }
        Some(align) if align > coarsest => {
            warn_buffered(path, "its device needs direct I/O in larger units than our formats use");
            Ok(None)
        }
        Some(align) => Ok(Some(Direct { file, align: u64::from(align.max(512)) })),
        None => Ok(Some(Direct { file, align: 512 })),
    }
}

/// The alignment of offsets that the kernel asks for; `None` where it does not tell (before Linux 6.1).
fn direct_alignment(file: &File) -> Option<u32> {
    let mut stat = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is an empty C string (AT_EMPTY_PATH: the descriptor itself), `stat` outlives the call.
    let result = unsafe {
        libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, stat.as_mut_ptr())
    };
    // SAFETY: zeroed bytes are a valid `statx`, whatever the call did.
    let stat = unsafe { stat.assume_init() };
    (result == 0 && stat.stx_mask & libc::STATX_DIOALIGN != 0).then_some(stat.stx_dio_offset_align)
}

/// Once per process: it is the same for every file of a directory.
fn warn_buffered(path: &Path, why: &str) {
    static WARNED: AtomicBool = AtomicBool::new(false);
    if !WARNED.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            path = %path.display(),
            "expected direct I/O, but {why}: using the page cache with RWF_DSYNC instead, which is as safe and slower; \
             put the data directory on ext4 or xfs"
        );
    }
}
