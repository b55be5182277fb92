//! Why a disk can't be opened, and what an errno means to the store.

use holdfast_store::io::DiskError;
use std::io;
use std::path::PathBuf;

/// Why [`Disk::open`](crate::Disk::open) failed.
#[derive(Debug, thiserror::Error)]
pub enum DiskOpenError {
    /// A number of the configuration makes no sense.
    #[error("the disk's configuration needs {expected}, found {found}; correct `[limits]` in the configuration file")]
    Config {
        /// What is needed.
        expected: &'static str,
        /// What was given.
        found: u64,
    },
    /// Another process holds the directory.
    #[error(
        "expected to be the only agent in {}, but another process holds the lock {}; stop that agent first \
         (`fuser {}` names it)",
        .dir.display(), .lock.display(), .lock.display()
    )]
    Locked {
        /// The shard's directory.
        dir: PathBuf,
        /// The lock file.
        lock: PathBuf,
    },
    /// A directory or the lock file can't be created or opened.
    #[error("cannot prepare {}: {source}; check that the path exists, is writable and has space", .path.display())]
    Directory {
        /// What was touched.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel, or its policy, has no usable io_uring.
    #[error(
        "io_uring is not usable here: {feature} is missing ({source}); use Linux 6.0 or newer, allow io_uring \
         (`sysctl kernel.io_uring_disabled=0`, and the container's seccomp profile), or set `[limits] disk_backend = \
         \"pread\"`, which costs twice the CPU per write"
    )]
    RingUnavailable {
        /// Which part.
        feature: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Memory, threads or an eventfd could not be had.
    #[error("cannot get {what}: {source}; the host or the agent's limits (ulimit, cgroup) are too tight")]
    Resources {
        /// What was asked for.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What an errno means to the store.
pub(crate) fn from_errno(errno: i32) -> DiskError {
    match errno {
        libc::ENOSPC | libc::EDQUOT => DiskError::NoSpace,
        libc::ENOENT => DiskError::NotFound,
        other => DiskError::Io(other),
    }
}

/// The same for the standard library's error; one without errno counts as EIO.
pub(crate) fn from_io(error: &io::Error) -> DiskError {
    from_errno(error.raw_os_error().unwrap_or(libc::EIO))
}
