//! What the ring has no operation for, or none that falls back: zeroing a range that keeps its space, and another length.

use crate::error::from_io;
use crate::file::OpenFile;
use crate::threads::{allocate, retry, signed};
use holdfast_store::io::DiskError;
use std::io;

/// Zeroes `[offset, offset + len)` and allocates it, as far as the file system can: one without fallocate gets a hole,
/// which reads the same.
pub(crate) fn zero(file: &OpenFile, offset: u64, len: u64) -> Result<(), DiskError> {
    let unless_unknown = |result: io::Result<()>| match result {
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
        other => other.map(|()| true),
    };
    let zeroed = unless_unknown(allocate(file, libc::FALLOC_FL_ZERO_RANGE, offset, len)).and_then(|known| {
        if !known {
            allocate(file, libc::FALLOC_FL_PUNCH_HOLE, offset, len)?;
            unless_unknown(allocate(file, 0, offset, len))?;
        }
        Ok(())
    });
    zeroed.map_err(|e| from_io(&e))
}

/// Gives the file another length: what lies behind it is gone, what was not there is a hole.
pub(crate) fn set_len(file: &OpenFile, len: u64) -> Result<(), DiskError> {
    let fd = file.fd(file.any());
    let set = signed(len).and_then(|len| {
        retry(|| {
            // SAFETY: `file` keeps the descriptor open for the whole call.
            let result = unsafe { libc::ftruncate(fd, len) };
            isize::try_from(result).expect("an int fits in isize")
        })
    });
    set.map(|_| ()).map_err(|e| from_io(&e))
}
