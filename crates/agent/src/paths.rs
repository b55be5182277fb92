//! Where an agent keeps its files, and how it writes those that must survive a power cut.
//!
//! ```text
//! data_dir/lock                      held by the running agent
//! data_dir/cluster/ca.pem            certificate of the cluster's authority
//! data_dir/cluster/ca.key            its key, on the founding node alone
//! data_dir/cluster/node.pem node.key this node's certificate and key
//! data_dir/cluster/join.csr          the request for that certificate: a repeated join is the same node
//! data_dir/cluster/cluster.json      who this node is; written last: with it, the node belongs to a cluster
//! data_dir/cluster/version.json      the version of the cluster, if it is above the first
//! data_dir/cluster/removed           this node was removed from its cluster: it does not start again
//! data_dir/cluster/superseded        this node was given up when the control plane was recovered: it does not start until it rejoins
//! data_dir/control/raft.redb         the control plane's log
//! data_dir/control/raft.redb.generation-N  that of an earlier generation, set aside when the control plane was recovered
//! data_dir/shard-0/                  journal and copies
//! data_dir/audit.log                 who asked for what on the admin socket; older ones: audit.log.1 to .4
//! ```

use crate::error::AgentError;
use holdfast_types::{BLOCK_SIZE, MAX_VOLUME_BYTES};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The files of one agent.
#[derive(Clone, Debug)]
pub struct Paths {
    root: PathBuf,
}

impl Paths {
    /// The files below `data_dir`.
    #[must_use]
    pub fn new(data_dir: &Path) -> Paths {
        Paths { root: data_dir.to_path_buf() }
    }

    /// `data_dir` itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn cluster_dir(&self) -> PathBuf {
        self.root.join("cluster")
    }

    pub(crate) fn ca_pem(&self) -> PathBuf {
        self.cluster_dir().join("ca.pem")
    }

    pub(crate) fn ca_key(&self) -> PathBuf {
        self.cluster_dir().join("ca.key")
    }

    pub(crate) fn node_pem(&self) -> PathBuf {
        self.cluster_dir().join("node.pem")
    }

    pub(crate) fn node_key(&self) -> PathBuf {
        self.cluster_dir().join("node.key")
    }

    /// Of a join that has not been answered yet.
    pub(crate) fn join_csr(&self) -> PathBuf {
        self.cluster_dir().join("join.csr")
    }

    pub(crate) fn identity(&self) -> PathBuf {
        self.cluster_dir().join("cluster.json")
    }

    /// Of the cluster; what older agents look at before anything else.
    pub(crate) fn version(&self) -> PathBuf {
        self.cluster_dir().join("version.json")
    }

    pub(crate) fn removed(&self) -> PathBuf {
        self.cluster_dir().join("removed")
    }

    pub(crate) fn superseded(&self) -> PathBuf {
        self.cluster_dir().join("superseded")
    }

    /// Who asked for what on the admin socket.
    pub(crate) fn audit(&self) -> PathBuf {
        self.root.join("audit.log")
    }

    pub(crate) fn control_dir(&self) -> PathBuf {
        self.root.join("control")
    }

    /// What hooks were told to begin.
    pub(crate) fn hooks(&self) -> PathBuf {
        self.root.join("hooks")
    }

    pub(crate) fn raft(&self) -> PathBuf {
        self.control_dir().join("raft.redb")
    }

    /// Journal and copies of the shard.
    #[must_use]
    pub fn shard(&self) -> PathBuf {
        self.root.join("shard-0")
    }

    /// Makes the directories, and takes the lock that one agent at a time may hold.
    pub(crate) fn lock(&self) -> Result<File, AgentError> {
        for dir in [self.root.clone(), self.cluster_dir(), self.control_dir()] {
            create_dir(&dir)?;
        }
        let path = self.root.join("lock");
        let open = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let file = open.map_err(|e| AgentError::io("open the lock file", &path, e))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(fs::TryLockError::WouldBlock) => Err(AgentError::DataDirInUse { data_dir: self.root.clone() }),
            Err(fs::TryLockError::Error(e)) => Err(AgentError::io("lock", &path, e)),
        }
    }
}

/// Makes a directory that only this user enters, if it is missing. Its name is durable when this returns: what is synced in it
/// later would be of no use without.
pub(crate) fn create_dir(path: &Path) -> Result<(), AgentError> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match fs::DirBuilder::new().mode(0o700).create(path).and_then(|()| File::open(parent)?.sync_all()) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(|e| AgentError::io("create the directory", path, e)),
    }
}

/// Writes a file whole or not at all, on stable storage when this returns.
pub(crate) fn write_durable(path: &Path, bytes: &[u8], mode: u32) -> Result<(), AgentError> {
    let parent = path.parent().expect("files of an agent lie in a directory");
    let draft = path.with_extension("draft");
    let write = || -> io::Result<()> {
        let _ = fs::remove_file(&draft);
        let mut file = OpenOptions::new().create_new(true).write(true).mode(mode).open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        File::open(parent)?.sync_all()
    };
    write().map_err(|e| AgentError::io("write", path, e))
}

/// What is left for this user on the file system of `path`, if the system says.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).ok()?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `name` ends with a zero byte, `found` has room for what the call fills in.
    let answer = unsafe { libc::statvfs(name.as_ptr(), found.as_mut_ptr()) };
    if answer != 0 {
        return None;
    }
    // SAFETY: the call succeeded, so it has filled `found` in.
    let found = unsafe { found.assume_init() };
    found.f_bavail.checked_mul(found.f_frsize)
}

/// The longest file that the file system of `dir` takes, at most that of the largest volume, if that can be found out.
pub(crate) fn longest_file(dir: &Path) -> Option<u64> {
    let path = dir.join("length-probe");
    let found = File::create(&path).ok().and_then(|file| longest_length(|len| file.set_len(len)));
    // A leftover takes no space, and the next probe replaces it.
    let _ = fs::remove_file(&path);
    found
}

/// Searches for the greatest length that `set_len` takes. `None` if it fails for another reason than the length.
fn longest_length(set_len: impl Fn(u64) -> io::Result<()>) -> Option<u64> {
    let takes = |blocks: u64| match set_len(blocks * BLOCK_SIZE as u64) {
        Ok(()) => Some(true),
        Err(e) if e.raw_os_error() == Some(libc::EFBIG) => Some(false),
        Err(_) => None,
    };
    let (mut fits, mut fails) = (0, MAX_VOLUME_BYTES / BLOCK_SIZE as u64 + 1);
    if takes(fails - 1)? {
        return Some(MAX_VOLUME_BYTES);
    }
    while fails - fits > 1 {
        let middle = fits.midpoint(fails);
        if takes(middle)? { fits = middle } else { fails = middle }
    }
    Some(fits * BLOCK_SIZE as u64)
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, AgentError> {
    fs::read(path).map_err(|e| AgentError::io("read", path, e))
}

/// Reads a private key, and refuses one that others may read: it may have been copied already.
pub(crate) fn read_private(path: &Path) -> Result<Vec<u8>, AgentError> {
    let meta = fs::metadata(path).map_err(|e| AgentError::io("read", path, e))?;
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(AgentError::KeyReadable { path: path.to_path_buf(), mode });
    }
    read(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(longest: u64) -> Option<u64> {
        longest_length(|len| if len <= longest { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EFBIG)) })
    }

    #[test]
    fn the_longest_file_is_found_to_the_block() {
        let ext4 = (16 << 40) - 4096;
        assert_eq!(found(ext4), Some(ext4));
        assert_eq!(found(ext4 + 4095), Some(ext4), "an image consists of blocks");
        assert_eq!(found(u64::MAX), Some(MAX_VOLUME_BYTES), "more is never asked for");
        assert_eq!(found(4096), Some(4096));
        assert_eq!(
            longest_length(|_| Err(io::Error::from_raw_os_error(libc::EIO))),
            None,
            "that says nothing of lengths"
        );
        let dir = tempfile::tempdir().expect("a directory");
        assert!(longest_file(dir.path()).is_some_and(|longest| longest >= 1 << 30));
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 0);
    }
}
