//! What the directory is that the operator named, and its locks.

use super::OfflineError;
use crate::error::AgentError;
use crate::paths::Paths;
use holdfast_disk::Overlay;
use holdfast_types::VolumeId;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// A directory to look at. While it lives, no agent starts on it.
#[derive(Debug)]
pub struct Place {
    dir: PathBuf,
    /// The data directory, if that was named.
    pub(super) paths: Option<Paths>,
    pub(super) shard: PathBuf,
    /// The one copy that was named.
    pub(super) only: Option<VolumeId>,
    _lock: Option<File>,
}

impl Place {
    /// Finds out what `dir` is.
    ///
    /// # Errors
    /// It is none of an agent's directories, or an agent runs in it.
    pub fn find(dir: &Path) -> Result<Place, OfflineError> {
        let wrong = |found| OfflineError::Place { dir: dir.to_path_buf(), found };
        // `.` and `copies/7/` have to be told by their whole names.
        let whole = dir.canonicalize().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => wrong("does not exist"),
            io::ErrorKind::PermissionDenied => wrong("may not be entered by this user"),
            _ => wrong("can't be read"),
        })?;
        if !whole.is_dir() {
            return Err(wrong("is no directory"));
        }
        let place = |paths, shard, only, lock| Place { dir: dir.to_path_buf(), paths, shard, only, _lock: lock };
        let paths = Paths::new(&whole);
        for dir in [whole.clone(), whole.join("copies"), whole.join("journal"), paths.shard()] {
            may_read(&dir)?;
        }
        if paths.shard().is_dir() || paths.cluster_dir().is_dir() || paths.control_dir().is_dir() {
            let lock = hold(&paths)?;
            may_read_shard(&paths.shard())?;
            return Ok(place(Some(paths.clone()), paths.shard(), None, lock));
        }
        if Overlay::is_shard(&whole) {
            may_read_shard(&whole)?;
            return Ok(place(None, whole, None, None));
        }
        match Overlay::copy_of(&whole) {
            Some((shard, volume)) => {
                may_read_shard(&shard)?;
                Ok(place(None, shard, Some(volume), None))
            }
            None => Err(wrong("is none of them")),
        }
    }

    /// As it was named.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// What this user may not read is not damaged, and nothing else is said of it.
fn may_read(path: &Path) -> Result<(), OfflineError> {
    match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Err(OfflineError::io("read", path)(e)),
        _ => Ok(()),
    }
}

fn may_read_shard(shard: &Path) -> Result<(), OfflineError> {
    let mut dirs = vec![shard.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        may_read(&dir)?;
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => dirs.push(entry.path()),
                Ok(kind) if kind.is_file() => may_read(&entry.path())?,
                _ => {}
            }
        }
    }
    Ok(())
}

/// The lock of the data directory, which is not made if it is not there.
fn hold(paths: &Paths) -> Result<Option<File>, OfflineError> {
    let path = paths.root().join("lock");
    let file = match File::open(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(OfflineError::io("open", &path))?,
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            Err(OfflineError::InUse(Box::new(AgentError::DataDirInUse { data_dir: paths.root().to_path_buf() })))
        }
        Err(TryLockError::Error(e)) => Err(OfflineError::io("lock", &path)(e)),
    }
}
