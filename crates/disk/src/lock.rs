//! One agent per directory: an exclusive lock that the kernel drops with the process.

use crate::error::DiskOpenError;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Takes `DIR/lock`; it is held until the returned file is dropped.
pub(crate) fn take(dir: &Path) -> Result<File, DiskOpenError> {
    let path = dir.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| DiskOpenError::Directory { path: path.clone(), source })?;
    hold(dir, path, file)
}

/// The same without making the file: where there is none, no agent ever ran, and nothing is to be written there.
pub(crate) fn take_existing(dir: &Path) -> Result<Option<File>, DiskOpenError> {
    let path = dir.join("lock");
    match File::open(&path) {
        Ok(file) => hold(dir, path, file).map(Some),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DiskOpenError::Directory { path, source }),
    }
}

fn hold(dir: &Path, path: PathBuf, file: File) -> Result<File, DiskOpenError> {
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
