//! A shard's directory, read and never written: what the store writes goes to a file of its own, and is seen by what it
//! reads afterwards. So the recovery that an agent would run can be run on a dead node's disk, and changes nothing there.
//!
//! Operations are carried out at once, by the caller's thread: the tools that use this have nothing else to do.
//!
//! Invariants
//! - No file below the directory is opened for writing, created, renamed or removed.
//! - Memory holds where what was written lies, not the bytes: those are in an unlinked file below the system's temporary
//!   directory.
//! - Where the device can't read a block of an image, the block is answered as zeros, block by block, and remembered: whoever
//!   reads verifies it by its checksum, and so one bad sector does not cost the copy. Everything else that can't be read is an
//!   error, as for the agent.

use crate::error::{DiskOpenError, from_io};
use crate::layout::{self, UNFINISHED};
use crate::lock;
use crate::patches::{Patches, Source};
use bytes::Bytes;
use holdfast_store::io::{DiskDone, DiskError, DiskOp, DiskOpKind, DiskReply, FileId};
use holdfast_types::{BLOCK_SIZE, BlockIndex, VolumeId};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Files that are kept open.
const MAX_OPEN: usize = 64;
/// Blocks that could not be read and are remembered by number; above that only that there are more.
const MAX_UNREADABLE: usize = 1 << 16;

/// The directory of a shard with a memory of its own for what is written.
#[derive(Debug)]
pub struct Overlay {
    dir: PathBuf,
    files: BTreeMap<FileId, Layered>,
    open: BTreeMap<FileId, File>,
    spill: File,
    spilled: u64,
    spill_error: Option<io::Error>,
    unreadable: BTreeSet<(VolumeId, BlockIndex)>,
    strays: Vec<PathBuf>,
    unfinished: Vec<PathBuf>,
    _lock: Option<File>,
}

#[derive(Debug, Default)]
struct Layered {
    /// There is such a file in the directory, and it was not made anew here.
    below: bool,
    len: u64,
    patches: Patches,
}

impl Overlay {
    /// Looks at a shard's directory, which is left as it is. If it has a lock file, its lock is held until this is dropped.
    ///
    /// # Errors
    /// An agent runs in it, it can't be read, or there is no temporary file to be had.
    pub fn open(dir: &Path) -> Result<Overlay, DiskOpenError> {
        let lock = lock::take_existing(dir)?;
        Overlay::look_at(dir, lock)
    }

    fn look_at(dir: &Path, lock: Option<File>) -> Result<Overlay, DiskOpenError> {
        let spill = spill_file().map_err(|source| DiskOpenError::Directory { path: std::env::temp_dir(), source })?;
        let mut overlay = Overlay {
            dir: dir.to_path_buf(),
            files: BTreeMap::new(),
            open: BTreeMap::new(),
            spill,
            spilled: 0,
            spill_error: None,
            unreadable: BTreeSet::new(),
            strays: Vec::new(),
            unfinished: Vec::new(),
            _lock: lock,
        };
        overlay.look().map_err(|(path, source)| DiskOpenError::Directory { path, source })?;
        Ok(overlay)
    }

    /// Where a file lies.
    #[must_use]
    pub fn path(&self, file: FileId) -> PathBuf {
        layout::path(&self.dir, file)
    }

    /// The volume whose directory this is, if the path can be one of a copy's: `SHARD/copies/ID`.
    #[must_use]
    pub fn copy_of(path: &Path) -> Option<(PathBuf, VolumeId)> {
        let volume = path.file_name()?.to_str().and_then(layout::parse_volume)?;
        let copies = path.parent()?;
        let shard = copies.parent()?;
        (layout::copies(shard) == copies).then(|| (shard.to_path_buf(), volume))
    }

    /// Whether a directory looks like a shard's.
    #[must_use]
    pub fn is_shard(dir: &Path) -> bool {
        layout::journal(dir).is_dir() || layout::copies(dir).is_dir()
    }

    /// The volumes of which there are files.
    pub fn volumes(&self) -> impl Iterator<Item = VolumeId> {
        let all: BTreeSet<VolumeId> = self.files.keys().filter_map(|file| layout::volume(*file)).collect();
        all.into_iter()
    }

    /// The same directory without what was written over it, under the same lock.
    ///
    /// # Errors
    /// As for `open`.
    pub fn open_again(&self) -> Result<Overlay, DiskOpenError> {
        Overlay::look_at(&self.dir, None)
    }

    /// The files with their lengths, what was made and removed here included.
    pub fn files(&self) -> impl Iterator<Item = (FileId, u64)> {
        self.files.iter().map(|(id, file)| (*id, file.len))
    }

    /// Files and directories that are none of the agent's.
    #[must_use]
    pub fn strays(&self) -> &[PathBuf] {
        &self.strays
    }

    /// Files whose creation never ended; the agent removes them when it starts.
    #[must_use]
    pub fn unfinished(&self) -> &[PathBuf] {
        &self.unfinished
    }

    /// Blocks of images that the device could not read.
    #[must_use]
    pub fn unreadable(&self) -> &BTreeSet<(VolumeId, BlockIndex)> {
        &self.unreadable
    }

    /// Why what was written could not be kept. Everything after that is worthless.
    #[must_use]
    pub fn spill_error(&self) -> Option<&io::Error> {
        self.spill_error.as_ref()
    }

    /// Carries out one operation.
    pub fn execute(&mut self, op: &DiskOp) -> DiskDone {
        DiskDone { id: op.id, result: self.result(op.file, &op.kind) }
    }

    /// Reads from a file as the store would see it; zeros past its end.
    ///
    /// # Errors
    /// There is no such file, or the device can't read it.
    pub fn read(&mut self, file: FileId, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        let layered = self.files.get(&file).ok_or(DiskError::NotFound)?;
        let below = if layered.below { Some(opened(&mut self.open, &self.dir, file)?) } else { None };
        let end = offset + u64::try_from(len).expect("a read fits in memory");
        let mut bytes = vec![0; len];
        let mut lost = Vec::new();
        for (from, to, source) in layered.patches.pieces(offset, end) {
            let at = |position: u64| usize::try_from(position - offset).expect("within the read");
            let part = &mut bytes[at(from)..at(to)];
            match source {
                Source::Zeros => {}
                Source::Spill(place) => self.spill.read_exact_at(part, place).map_err(|e| from_io(&e))?,
                Source::Below => {
                    let Some(below) = below else { continue };
                    match (read_some(below, part, from), file) {
                        (Err(_), FileId::Image(volume)) => {
                            lost.extend(read_blocks(below, part, from).map(|b| (volume, b)))
                        }
                        (result, _) => result.map_err(|e| from_io(&e))?,
                    }
                }
            }
        }
        let room = MAX_UNREADABLE.saturating_sub(self.unreadable.len());
        self.unreadable.extend(lost.into_iter().take(room));
        Ok(bytes.into())
    }

    /// The first part of `range` that may hold something but zeros in the directory's file, if there is any: what was written over
    /// the file is not looked at.
    #[must_use]
    pub fn filled(&mut self, file: FileId, range: Range<u64>) -> Option<Range<u64>> {
        if !self.files.get(&file).is_some_and(|layered| layered.below) {
            return None;
        }
        // What can't be opened is an error for whoever reads it.
        let Ok(below) = opened(&mut self.open, &self.dir, file) else { return Some(range) };
        match seek(below, range.start, libc::SEEK_DATA) {
            Ok(from) if from < range.end => {
                let end = seek(below, from, libc::SEEK_HOLE).map_or(range.end, |end| end.min(range.end));
                Some(from..end)
            }
            Ok(_) => None,
            Err(e) if e.raw_os_error() == Some(libc::ENXIO) => None,
            // A file system that does not know.
            Err(_) => Some(range),
        }
    }

    fn result(&mut self, file: FileId, kind: &DiskOpKind) -> Result<DiskReply, DiskError> {
        match kind {
            DiskOpKind::List => Ok(DiskReply::Files(self.files().collect())),
            DiskOpKind::Read { offset, len } => {
                let len = usize::try_from(*len).expect("a read fits in memory");
                self.read(file, *offset, len).map(DiskReply::Data)
            }
            DiskOpKind::Create { len, .. } => {
                self.files.insert(file, Layered { len: *len, ..Layered::default() });
                Ok(DiskReply::Done)
            }
            DiskOpKind::Delete => {
                self.files.remove(&file);
                Ok(DiskReply::Done)
            }
            DiskOpKind::Write { offset, data, .. } => self.write(file, *offset, data),
            DiskOpKind::Punch { offset, len } | DiskOpKind::Zero { offset, len } => {
                let layered = self.files.get_mut(&file).ok_or(DiskError::NotFound)?;
                layered.patches.put(*offset, offset + len, Source::Zeros);
                layered.len = layered.len.max(offset + len);
                Ok(DiskReply::Done)
            }
            DiskOpKind::SetLen { len } => {
                let layered = self.files.get_mut(&file).ok_or(DiskError::NotFound)?;
                // What lies behind reads as zeros, also once the file is longer again.
                layered.patches.put(*len, u64::MAX, Source::Zeros);
                layered.len = *len;
                Ok(DiskReply::Done)
            }
            DiskOpKind::Sync => self.files.get(&file).map(|_| DiskReply::Done).ok_or(DiskError::NotFound),
        }
    }

    fn write(&mut self, file: FileId, offset: u64, data: &[Bytes]) -> Result<DiskReply, DiskError> {
        let layered = self.files.get_mut(&file).ok_or(DiskError::NotFound)?;
        let mut at = offset;
        for piece in data {
            let len = u64::try_from(piece.len()).expect("a piece fits in memory");
            if let Err(error) = self.spill.write_all_at(piece, self.spilled) {
                // Not `NoSpace`: the store would wait for space on another disk than the one that is full.
                self.spill_error = Some(error);
                return Err(DiskError::Io(libc::EIO));
            }
            layered.patches.put(at, at + len, Source::Spill(self.spilled));
            self.spilled += len;
            at += len;
        }
        layered.len = layered.len.max(at);
        Ok(DiskReply::Done)
    }

    // ---- looking around

    fn look(&mut self) -> Result<(), (PathBuf, io::Error)> {
        for path in entries(&layout::journal(&self.dir))? {
            let id = name(&path).and_then(layout::parse_journal_file);
            self.take(path, id)?;
        }
        for copy in entries(&layout::copies(&self.dir))? {
            match name(&copy).and_then(layout::parse_volume).filter(|_| copy.is_dir()) {
                Some(volume) => {
                    for path in entries(&copy)? {
                        let id = name(&path).and_then(|n| layout::parse_copy_file(volume, n));
                        self.take(path, id)?;
                    }
                }
                None => self.strays.push(copy),
            }
        }
        Ok(())
    }

    fn take(&mut self, path: PathBuf, id: Option<FileId>) -> Result<(), (PathBuf, io::Error)> {
        let Some(id) = id.filter(|_| path.is_file()) else {
            let half = name(&path).is_some_and(|n| n.ends_with(UNFINISHED));
            if half {
                self.unfinished.push(path)
            } else {
                self.strays.push(path)
            }
            return Ok(());
        };
        let len = fs::metadata(&path).map_err(|e| (path, e))?.len();
        self.files.insert(id, Layered { below: true, len, patches: Patches::default() });
        Ok(())
    }
}

fn opened<'a>(open: &'a mut BTreeMap<FileId, File>, dir: &Path, file: FileId) -> Result<&'a File, DiskError> {
    if !open.contains_key(&file) {
        if open.len() >= MAX_OPEN {
            open.clear();
        }
        open.insert(file, File::open(layout::path(dir, file)).map_err(|e| from_io(&e))?);
    }
    Ok(&open[&file])
}

/// Where what `whence` names begins, from `offset` on.
fn seek(file: &File, offset: u64, whence: i32) -> io::Result<u64> {
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open; the call changes its position, which nobody uses.
    let found = unsafe { libc::lseek(file.as_raw_fd(), offset, whence) };
    u64::try_from(found).map_err(|_| io::Error::last_os_error())
}

fn name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// Sorted, so that two looks at one directory say the same.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, (PathBuf, io::Error)> {
    let failed = |e| (dir.to_path_buf(), e);
    let found = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut paths = found.map(|entry| Ok(entry.map_err(failed)?.path())).collect::<Result<Vec<_>, _>>()?;
    paths.sort_unstable();
    Ok(paths)
}

/// What of `part` lies in the file; the rest stays as it is.
fn read_some(file: &File, part: &mut [u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < part.len() {
        let at = offset + u64::try_from(done).expect("a read fits in memory");
        match file.read_at(&mut part[done..], at) {
            Ok(0) => return Ok(()),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// The same block by block. Gives the blocks that can't be read, which are zeros.
fn read_blocks<'a>(file: &'a File, part: &'a mut [u8], offset: u64) -> impl Iterator<Item = BlockIndex> + 'a {
    let block = u64::try_from(BLOCK_SIZE).expect("4096");
    let places = (offset..).step_by(BLOCK_SIZE);
    part.chunks_mut(BLOCK_SIZE).zip(places).filter_map(move |(chunk, at)| {
        read_some(file, chunk, at).is_err().then(|| {
            chunk.fill(0);
            BlockIndex(at / block)
        })
    })
}

/// A file without a name: it goes when it is closed, also if this process is killed.
fn spill_file() -> io::Result<File> {
    for attempt in 0..100u32 {
        let path = std::env::temp_dir().join(format!("holdfast-overlay-{}-{attempt}", std::process::id()));
        match File::options().read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            opened => {
                let file = opened?;
                fs::remove_file(&path)?;
                return Ok(file);
            }
        }
    }
    Err(io::Error::other("a hundred files of that name are there already"))
}
