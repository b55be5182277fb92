//! What programs were told to begin and not yet told to end, kept in files: an agent that ends without a word leaves machines behind, and its
//! next life must know of them.

use crate::error::AgentError;
use crate::paths::{create_dir, write_durable};
use holdfast_types::{Epoch, VolumeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

const SUFFIX: &str = ".json";

/// The programs were told that a volume is served here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mark {
    volume: u64,
    epoch: u64,
}

impl Mark {
    /// Of a file that can't be read: something was begun, nobody knows of which volume.
    const UNREADABLE: Mark = Mark { volume: 0, epoch: 0 };

    pub(crate) fn new(volume: VolumeId, epoch: Epoch) -> Mark {
        Mark { volume: volume.0, epoch: epoch.0 }
    }

    pub(crate) fn volume(self) -> VolumeId {
        VolumeId(self.volume)
    }

    pub(crate) fn epoch(self) -> Epoch {
        Epoch(self.epoch)
    }
}

/// A file for each volume, named as the volume is.
#[derive(Debug)]
pub(super) struct Marks {
    dir: PathBuf,
    known: Mutex<BTreeMap<String, Mark>>,
}

impl Marks {
    /// What earlier lives left behind.
    ///
    /// # Errors
    /// The directory can be neither read nor made.
    pub(super) fn open(dir: &Path) -> Result<Marks, AgentError> {
        create_dir(dir)?;
        let failed = |e| AgentError::io("read the directory", dir, e);
        let mut known = BTreeMap::new();
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(SUFFIX));
            let Some(name) = name else { continue };
            let mark = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            if mark.is_none() {
                tracing::warn!(path = %path.display(), "what hooks were told can't be read: they are told that the volume is not served here");
            }
            known.insert(name.to_owned(), mark.unwrap_or(Mark::UNREADABLE));
        }
        Ok(Marks { dir: dir.to_path_buf(), known: Mutex::new(known) })
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Mark>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of these volumes.
    pub(super) fn those(&self, wanted: impl Fn(&str) -> bool) -> Vec<(String, Mark)> {
        let known = self.known();
        known.iter().filter(|(volume, _)| wanted(volume)).map(|(volume, mark)| (volume.clone(), *mark)).collect()
    }

    pub(super) fn get(&self, volume: &str) -> Option<Mark> {
        self.known().get(volume).copied()
    }

    /// Before anything is begun. Waits for the disk.
    ///
    /// # Errors
    /// The file can't be written.
    pub(super) fn begin(&self, volume: &str, mark: Mark) -> Result<(), AgentError> {
        let bytes = serde_json::to_vec(&mark).expect("numbers are always JSON");
        write_durable(&self.file(volume), &bytes, 0o600)?;
        self.known().insert(volume.to_owned(), mark);
        Ok(())
    }

    /// Once everything has ended. A file that is back after a power cut ends it once more.
    ///
    /// # Errors
    /// The file can't be removed.
    pub(super) fn end(&self, volume: &str) -> Result<(), AgentError> {
        let path = self.file(volume);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(AgentError::io("remove", &path, e)),
            _ => {}
        }
        self.known().remove(volume);
        Ok(())
    }

    fn file(&self, volume: &str) -> PathBuf {
        self.dir.join(format!("{volume}{SUFFIX}"))
    }
}
