//! One agent per directory: an exclusive lock that the kernel drops with the process.

use crate::error::DiskOpenError;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Takes `DIR/lock`; it is held until the returned file is dropped.
pub(crate) fn take(dir: &Path) -> Result<File, DiskOpenError> {
    let path = dir.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| DiskOpenError::Directory { path: path.clone(), source })?;
    // SAFETY: the descriptor is open for the whole call and flock touches no memory of ours.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(file);
    }
    let source = io::Error::last_os_error();
    if source.raw_os_error() == Some(libc::EWOULDBLOCK) {
        return Err(DiskOpenError::Locked { dir: dir.to_path_buf(), lock: path });
    }
    Err(DiskOpenError::Directory { path, source })
}
