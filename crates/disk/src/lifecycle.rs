//! What needs path names: listing, opening, creating and deleting files. Runs on threads of its own.
//!
//! A file is created under a temporary name, filled, synced, and only then renamed, so that a crash leaves either the
//! old file or the new one, never half of one. Leftovers of such a crash are removed when the directory is opened.

use crate::error::from_io;
use crate::file::OpenFile;
use crate::gate::Tag;
use crate::layout::{self, UNFINISHED};
use crate::shortage;
use holdfast_store::io::{DiskError, FileId, OpId};
use std::fs::{self, DirEntry, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Zeros are written in pieces of this size.
const ZERO_CHUNK: usize = 1 << 20;

/// What a thread brings back.
pub(crate) enum Outcome {
    Listed(OpId, Result<Vec<(FileId, u64)>, DiskError>),
    Opened(FileId, Result<OpenFile, DiskError>),
    /// The file is already open.
    Created(FileId, OpId, Result<OpenFile, DiskError>),
    Deleted(FileId, OpId, Result<(), DiskError>),
    Zeroed(Tag, Result<(), DiskError>),
}

/// The shard's directory.
pub(crate) struct Directory {
    dir: PathBuf,
    /// Held while a copy's directory is made or removed: removing the last file of a copy must not take the
    /// directory away from under the first file of its successor. Not while a file is removed, which takes what it takes.
    names: Mutex<()>,
}

impl Directory {
    /// Makes the skeleton and removes what a crash left unfinished.
    pub(crate) fn prepare(dir: &Path) -> Result<Arc<Directory>, (PathBuf, io::Error)> {
        let directory = Directory { dir: dir.to_path_buf(), names: Mutex::new(()) };
        for sub in [layout::journal(dir), layout::copies(dir)] {
            fs::create_dir_all(&sub).map_err(|e| (sub.clone(), e))?;
        }
        sync_dir(dir).map_err(|e| (dir.to_path_buf(), e))?;
        directory.remove_unfinished().map_err(|e| (dir.to_path_buf(), e))?;
        Ok(Arc::new(directory))
    }

    fn remove_unfinished(&self) -> io::Result<()> {
        let mut dirs = vec![layout::journal(&self.dir)];
        for entry in entries(&layout::copies(&self.dir))? {
            if entry.file_type()?.is_dir() {
                dirs.push(entry.path());
            }
        }
        for entry in dirs.iter().map(|d| entries(d)).collect::<io::Result<Vec<_>>>()?.into_iter().flatten() {
            if entry.file_name().as_encoded_bytes().ends_with(UNFINISHED.as_bytes()) {
                tracing::info!(path = %entry.path().display(), "removing a file whose creation a crash interrupted");
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    pub(crate) fn open(&self, file: FileId) -> Result<OpenFile, DiskError> {
        OpenFile::open(&layout::path(&self.dir, file), file).map_err(|e| from_io(&e))
    }

    pub(crate) fn list(&self) -> Result<Vec<(FileId, u64)>, DiskError> {
        self.try_list().map_err(|e| from_io(&e))
    }

    fn try_list(&self) -> io::Result<Vec<(FileId, u64)>> {
        let mut files = Vec::new();
        for entry in entries(&layout::journal(&self.dir))? {
            take(&entry, entry.file_name().to_str().and_then(layout::parse_journal_file), &mut files)?;
        }
        for copy in entries(&layout::copies(&self.dir))? {
            let volume = copy.file_name().to_str().and_then(layout::parse_volume);
            let Some(volume) = volume.filter(|_| copy.file_type().is_ok_and(|t| t.is_dir())) else {
                warn_unknown(&copy.path());
                continue;
            };
            for entry in entries(&copy.path())? {
                let id = entry.file_name().to_str().and_then(|n| layout::parse_copy_file(volume, n));
                take(&entry, id, &mut files)?;
            }
        }
        files.sort_unstable();
        Ok(files)
    }

    pub(crate) fn create(&self, file: FileId, len: u64, written: bool) -> Result<OpenFile, DiskError> {
        let path = layout::path(&self.dir, file);
        let mut unfinished = path.clone().into_os_string();
        unfinished.push(UNFINISHED);
        let unfinished = PathBuf::from(unfinished);
        self.try_create(file, &path, &unfinished, len, written).map_err(|e| {
            // Gives the space back; what is left after a second failure goes at the next start.
            let _ = fs::remove_file(&unfinished);
            from_io(&e)
        })
    }

    fn try_create(&self, id: FileId, path: &Path, unfinished: &Path, len: u64, written: bool) -> io::Result<OpenFile> {
        let parent = layout::parent(&self.dir, id);
        let open = || shortage::open(|| File::options().create(true).truncate(true).write(true).open(unfinished));
        let file = if layout::volume(id).is_some() {
            let _names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            fs::create_dir_all(&parent)?;
            sync_dir(&layout::copies(&self.dir))?;
            open()?
        } else {
            open()?
        };
        file.set_len(len)?;
        if written {
            write_zeros(unfinished, &file, len)?;
        }
        file.sync_all()?;
        fs::rename(unfinished, path)?;
        sync_name(&parent)?;
        OpenFile::open(path, id)
    }

    /// One at a time: the directory of a copy goes with its last file.
    ///
    /// `open`: the cached descriptors, closed here because the last close gives the blocks back, which takes a while.
    pub(crate) fn delete(&self, file: FileId, open: Option<Arc<OpenFile>>) -> Result<(), DiskError> {
        let result = self.try_delete(file).map_err(|e| from_io(&e));
        drop(open);
        result
    }

    fn try_delete(&self, file: FileId) -> io::Result<()> {
        let parent = layout::parent(&self.dir, file);
        match fs::remove_file(layout::path(&self.dir, file)) {
            Ok(()) => sync_name(&parent)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                // A crash may have come between the removal and its sync.
                if !parent.exists() {
                    return Ok(());
                }
                sync_name(&parent)?;
            }
            Err(e) => return Err(e),
        }
        let _names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if layout::volume(file).is_some() && fs::remove_dir(&parent).is_ok() {
            sync_name(&layout::copies(&self.dir))?;
        }
        Ok(())
    }
}

/// Adds a file of ours to the list.
fn take(entry: &DirEntry, id: Option<FileId>, files: &mut Vec<(FileId, u64)>) -> io::Result<()> {
    let Some(id) = id else {
        if !entry.file_name().as_encoded_bytes().ends_with(UNFINISHED.as_bytes()) {
            warn_unknown(&entry.path());
        }
        return Ok(());
    };
    match entry.metadata() {
        Ok(meta) if meta.is_file() => files.push((id, meta.len())),
        Ok(_) => warn_unknown(&entry.path()),
        // Deleted meanwhile.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    Ok(())
}

fn warn_unknown(path: &Path) {
    tracing::warn!(path = %path.display(), "found a file that is none of ours in the data directory and left it alone; move it away");
}

fn entries(dir: &Path) -> io::Result<Vec<DirEntry>> {
    match shortage::open(|| fs::read_dir(dir)) {
        Ok(entries) => entries.collect(),
        // A copy's directory that was removed meanwhile.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// Around the page cache where possible: a segment's zeros must not push out what guests read.
fn write_zeros(path: &Path, buffered: &File, len: u64) -> io::Result<()> {
    let direct = File::options().write(true).custom_flags(libc::O_DIRECT).open(path).ok();
    let zeros = crate::buffer::AlignedBuf::zeroed(ZERO_CHUNK);
    let mut offset = 0;
    while offset < len {
        let count = usize::try_from((len - offset).min(ZERO_CHUNK as u64)).expect("a chunk fits in memory");
        let chunk = &zeros.as_ref()[..count];
        let aligned = count.is_multiple_of(crate::buffer::ALIGN);
        match direct.as_ref().filter(|_| aligned) {
            Some(direct) => match direct.write_all_at(chunk, offset) {
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => buffered.write_all_at(chunk, offset)?,
                other => other?,
            },
            None => buffered.write_all_at(chunk, offset)?,
        }
        offset += count as u64;
    }
    Ok(())
}

/// After a name changed: a failed sync is never repeated, so a lack of space is a failure of the device here.
fn sync_name(dir: &Path) -> io::Result<()> {
    sync_dir(dir).map_err(|e| match e.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => io::Error::from_raw_os_error(libc::EIO),
        _ => e,
    })
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    shortage::open(|| File::open(dir))?.sync_all()
}
