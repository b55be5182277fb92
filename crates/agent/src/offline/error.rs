//! Why an offline tool could not do its work. What is wrong with the data is no error but a finding.

use crate::error::AgentError;
use holdfast_disk::DiskOpenError;
use std::io;
use std::path::{Path, PathBuf};

/// A sentence for the operator.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OfflineError {
    /// The directory is none of an agent's.
    #[error(
        "expected an agent's data directory (node.data_dir), its shard-0 or one copy's directory shard-0/copies/ID, found that {} \
         {found}; name the directory in which `cluster`, `control` and `shard-0` lie", dir.display()
    )]
    Place {
        /// What was named.
        dir: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// An agent runs.
    #[error("{0}")]
    InUse(#[source] Box<AgentError>),
    /// The shard's directory.
    #[error(transparent)]
    Disk(#[from] DiskOpenError),
    /// There is no room for what the recovery writes.
    #[error(
        "could not keep what the recovery writes in a temporary file below {}: {source}; set TMPDIR to a directory with as much \
         space as the journal is long", dir.display()
    )]
    Spill {
        /// Where.
        dir: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The recovery neither ends nor fails.
    #[error("expected the recovery of {} to end, found that it waits; this is a defect of holdfast, please report it", dir.display())]
    Stuck {
        /// The shard's directory.
        dir: PathBuf,
    },
    /// No such volume.
    #[error("expected --volume to name a copy in this directory, found {wanted}; there are {known}")]
    UnknownVolume {
        /// What was asked for.
        wanted: String,
        /// What there is.
        known: String,
    },
    /// The copy does not open.
    #[error("{volume} can't be exported from here: {reason}{way}")]
    Unusable {
        /// Which.
        volume: String,
        /// What the store says.
        reason: String,
        /// What else could be tried, or nothing.
        way: &'static str,
    },
    /// Something in the copy can't be verified.
    #[error(
        "expected every block of {volume} to match its checksum, found {found}; nothing was written. Export another copy, or, if \
         there is none, add --skip-bad: it puts zeros there and lists where"
    )]
    Unverified {
        /// Which.
        volume: String,
        /// What and where.
        found: String,
    },
    /// Records that were durable are gone.
    #[error(
        "expected the whole log of {volume}, found that records after {last}, up to {unknown_to} at most, were durable here and can't be \
         read any more: they may have been acknowledged. Nothing was written. Export another copy, or, if there is none, add \
         --skip-bad: it exports the state at record {last}"
    )]
    LostRecords {
        /// Which.
        volume: String,
        /// The last one that can be read.
        last: u64,
        /// As far as there may have been some.
        unknown_to: u64,
    },
    /// The target is there already.
    #[error("expected {} to be free, found that it exists; name another file, or remove it", path.display())]
    Exists {
        /// The target.
        path: PathBuf,
    },
    /// The target lies where nothing may change.
    #[error("expected a target outside of the directory that is exported from, found {}; name a file on another disk", path.display())]
    Inside {
        /// The target.
        path: PathBuf,
    },
    /// A file could not be used.
    #[error("could not {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl OfflineError {
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OfflineError {
        let path = path.to_path_buf();
        move |source| OfflineError::Io { what, path, source }
    }

    /// The command makes no sense as written.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            OfflineError::Place { .. }
                | OfflineError::UnknownVolume { .. }
                | OfflineError::Exists { .. }
                | OfflineError::Inside { .. }
        )
    }

    /// It would be unsafe now.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self, OfflineError::InUse(_) | OfflineError::Disk(DiskOpenError::Locked { .. }))
    }
}
