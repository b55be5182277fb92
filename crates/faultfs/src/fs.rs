//! The operations: each asks the rules, then does its work in the backing directory.

use crate::abi::{self, Request, Writer};
use crate::rules::{Fault, Op, Rules};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const ROOT: u64 = 1;

/// An errno, or an answer.
type Answer = Result<Writer, i32>;

/// An open file or directory.
struct Handle {
    file: File,
    /// Below the mount point, when it was opened.
    path: PathBuf,
    /// Of a directory: what it held when it was opened.
    entries: Vec<(u64, u32, std::ffi::OsString)>,
}

/// Which inode numbers the kernel knows.
struct Names {
    paths: BTreeMap<u64, PathBuf>,
    numbers: BTreeMap<PathBuf, u64>,
    lookups: BTreeMap<u64, u64>,
    next: u64,
}

pub(crate) struct Fs {
    backing: PathBuf,
    pub(crate) rules: Arc<Rules>,
    /// Syncs reach the backing device.
    sync: bool,
    names: Mutex<Names>,
    handles: Mutex<(u64, BTreeMap<u64, Arc<Handle>>)>,
}

/// Called before an operation waits: somebody else must listen meanwhile.
pub(crate) type BeforeWait<'a> = &'a dyn Fn();

impl Fs {
    pub(crate) fn new(backing: PathBuf, rules: Arc<Rules>, sync: bool) -> Fs {
        let names = Names {
            paths: BTreeMap::from([(ROOT, PathBuf::new())]),
            numbers: BTreeMap::from([(PathBuf::new(), ROOT)]),
            lookups: BTreeMap::new(),
            next: ROOT + 1,
        };
        Fs { backing, rules, sync, names: Mutex::new(names), handles: Mutex::new((0, BTreeMap::new())) }
    }

    /// `None`: the kernel wants no answer.
    pub(crate) fn handle(&self, request: &Request<'_>, before_wait: BeforeWait<'_>) -> Option<Answer> {
        let Request { opcode, node, mut body, .. } = *request;
        if opcode == abi::FORGET || opcode == abi::BATCH_FORGET {
            self.forget(opcode, node, &mut body);
            return None;
        }
        if opcode == abi::INTERRUPT {
            // What hangs, hangs: a device does not listen.
            return None;
        }
        let call = Call { fs: self, before_wait };
        Some(call.dispatch(opcode, node, &mut body).unwrap_or(Err(libc::EINVAL)))
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, node: u64) -> Result<PathBuf, i32> {
        self.names().paths.get(&node).cloned().ok_or(libc::ESTALE)
    }

    fn child(&self, node: u64, name: &OsStr) -> Result<PathBuf, i32> {
        Ok(self.path(node)?.join(name))
    }

    fn forget(&self, opcode: u32, node: u64, body: &mut abi::Reader<'_>) {
        let mut names = self.names();
        if opcode == abi::FORGET {
            return names.forget(node, body.u64().unwrap_or(0));
        }
        let count = body.u32().unwrap_or(0);
        let _ = body.skip(4);
        for _ in 0..count {
            let (Some(node), Some(lookups)) = (body.u64(), body.u64()) else { return };
            names.forget(node, lookups);
        }
    }

    fn handle_of(&self, number: u64) -> Result<Arc<Handle>, i32> {
        let handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        handles.1.get(&number).cloned().ok_or(libc::EBADF)
    }

    fn keep(&self, handle: Handle) -> u64 {
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        handles.0 += 1;
        let number = handles.0;
        handles.1.insert(number, Arc::new(handle));
        number
    }

    fn release(&self, number: u64) {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&number);
    }
}

impl Names {
    fn number(&mut self, path: &Path) -> u64 {
        if let Some(known) = self.numbers.get(path) {
            return *known;
        }
        let number = self.next;
        self.next += 1;
        self.paths.insert(number, path.to_path_buf());
        self.numbers.insert(path.to_path_buf(), number);
        number
    }

    fn forget(&mut self, node: u64, lookups: u64) {
        let Some(left) = self.lookups.get_mut(&node) else { return };
        *left = left.saturating_sub(lookups);
        if *left == 0 && node != ROOT {
            self.lookups.remove(&node);
            if let Some(path) = self.paths.remove(&node)
                && self.numbers.get(&path) == Some(&node)
            {
                self.numbers.remove(&path);
            }
        }
    }

    /// What comes under this name later is another file.
    fn gone(&mut self, path: &Path) {
        self.numbers.remove(path);
    }

    fn renamed(&mut self, from: &Path, to: &Path) {
        self.gone(to);
        for (number, path) in &mut self.paths {
            if let Ok(rest) = path.strip_prefix(from).map(Path::to_path_buf) {
                self.numbers.remove(path);
                *path = if rest.as_os_str().is_empty() { to.to_path_buf() } else { to.join(rest) };
                self.numbers.insert(path.clone(), *number);
            }
        }
    }
}

/// What a rule leaves to be done.
enum Deal {
    Whole,
    Half,
    Torn,
    Lost,
    Flip,
}

struct Call<'a> {
    fs: &'a Fs,
    before_wait: BeforeWait<'a>,
}

impl Call<'_> {
    fn dispatch(&self, opcode: u32, node: u64, body: &mut abi::Reader<'_>) -> Option<Answer> {
        Some(match opcode {
            abi::INIT => {
                body.skip(12)?;
                Ok(Writer::init(body.u32()?))
            }
            abi::LOOKUP => self.lookup(node, body.name()?),
            abi::GETATTR => {
                let flags = body.u32()?;
                body.skip(4)?;
                let handle = body.u64()?;
                self.attributes(node, (flags & abi::GETATTR_FH != 0).then_some(handle))
            }
            abi::SETATTR => self.set_attributes(node, body)?,
            abi::MKDIR => {
                let mode = body.u32()?;
                body.skip(4)?;
                self.make_dir(node, body.name()?, mode)
            }
            abi::UNLINK => self.remove(node, body.name()?, |path| fs::remove_file(path)),
            abi::RMDIR => self.remove(node, body.name()?, |path| fs::remove_dir(path)),
            abi::RENAME | abi::RENAME2 => {
                let to = body.u64()?;
                if opcode == abi::RENAME2 && body.u64()? != 0 {
                    return Some(Err(libc::EINVAL));
                }
                self.rename(node, body.name()?, to, body.name()?)
            }
            abi::OPEN => self.open(node, body.u32()?),
            abi::CREATE => {
                let (flags, mode) = (body.u32()?, body.u32()?);
                body.skip(8)?;
                self.create(node, body.name()?, flags, mode)
            }
            abi::READ => self.read(body.u64()?, body.u64()?, body.u32()?),
            abi::WRITE => self.write(body)?,
            abi::FSYNC | abi::FSYNCDIR => self.sync(body.u64()?),
            abi::FALLOCATE => self.allocate(body.u64()?, body.u64()?, body.u64()?, body.u32()?),
            abi::STATFS => self.statfs(),
            abi::OPENDIR => self.open_dir(node),
            abi::READDIR => self.read_dir(body.u64()?, body.u64()?, body.u32()?),
            abi::RELEASE | abi::RELEASEDIR => {
                self.fs.release(body.u64()?);
                Ok(Writer::default())
            }
            abi::FLUSH | abi::DESTROY => Ok(Writer::default()),
            _ => Err(libc::ENOSYS),
        })
    }

    /// Asks the rules; waits, if they say so.
    fn ask(&self, op: Op, path: &Path) -> Result<Deal, i32> {
        let text = path.to_string_lossy();
        let Some((id, fault)) = self.fs.rules.judge(op, &text) else { return Ok(Deal::Whole) };
        let wait = |limit: Option<Duration>| {
            (self.before_wait)();
            self.fs.rules.wait(id, limit);
        };
        match fault {
            Fault::Errno(errno) => return Err(errno),
            Fault::Delay(time) => wait(Some(time)),
            Fault::Hang => wait(None),
            Fault::Short => return Ok(Deal::Half),
            Fault::Torn => return Ok(Deal::Torn),
            Fault::Lost => return Ok(Deal::Lost),
            Fault::Flip => return Ok(Deal::Flip),
        }
        Ok(Deal::Whole)
    }

    fn real(&self, path: &Path) -> PathBuf {
        self.fs.backing.join(path)
    }

    fn lookup(&self, node: u64, name: &OsStr) -> Answer {
        let path = self.fs.child(node, name)?;
        self.ask(Op::Look, &path)?;
        let meta = fs::symlink_metadata(self.real(&path)).map_err(errno)?;
        Ok(self.known(&path, &meta))
    }

    /// The kernel learns of an inode.
    fn known(&self, path: &Path, meta: &Metadata) -> Writer {
        let mut names = self.fs.names();
        let number = names.number(path);
        *names.lookups.entry(number).or_default() += 1;
        Writer::default().u64(number).zeros(32).attributes(number, meta)
    }

    fn attributes(&self, node: u64, handle: Option<u64>) -> Answer {
        let path = self.fs.path(node)?;
        self.ask(Op::Look, &path)?;
        let meta = match handle.map(|number| self.fs.handle_of(number)) {
            Some(handle) => handle?.file.metadata(),
            None => fs::symlink_metadata(self.real(&path)),
        };
        Ok(Writer::default().zeros(16).attributes(node, &meta.map_err(errno)?))
    }

    fn set_attributes(&self, node: u64, body: &mut abi::Reader<'_>) -> Option<Answer> {
        let valid = body.u32()?;
        body.skip(4)?;
        let (handle, size) = (body.u64()?, body.u64()?);
        // lock owner, times
        body.skip(8 + 24 + 12)?;
        let mode = body.u32()?;
        Some(self.change(node, valid, handle, size, mode))
    }

    fn change(&self, node: u64, valid: u32, handle: u64, size: u64, mode: u32) -> Answer {
        let path = self.fs.path(node)?;
        self.ask(Op::Resize, &path)?;
        if valid & abi::FATTR_SIZE != 0 {
            if valid & abi::FATTR_FH != 0 {
                self.fs.handle_of(handle)?.file.set_len(size).map_err(errno)?;
            } else {
                let file = File::options().write(true).open(self.real(&path)).map_err(errno)?;
                file.set_len(size).map_err(errno)?;
            }
        }
        if valid & abi::FATTR_MODE != 0 {
            fs::set_permissions(self.real(&path), fs::Permissions::from_mode(mode & 0o7777)).map_err(errno)?;
        }
        let meta = match self.fs.handle_of(handle) {
            Ok(open) if valid & abi::FATTR_FH != 0 => open.file.metadata(),
            _ => fs::symlink_metadata(self.real(&path)),
        };
        Ok(Writer::default().zeros(16).attributes(node, &meta.map_err(errno)?))
    }

    fn make_dir(&self, node: u64, name: &OsStr, mode: u32) -> Answer {
        let path = self.fs.child(node, name)?;
        self.ask(Op::Names, &path)?;
        fs::DirBuilder::new().mode(mode & 0o7777).create(self.real(&path)).map_err(errno)?;
        Ok(self.known(&path, &fs::symlink_metadata(self.real(&path)).map_err(errno)?))
    }

    fn remove(&self, node: u64, name: &OsStr, remove: impl Fn(&Path) -> io::Result<()>) -> Answer {
        let path = self.fs.child(node, name)?;
        self.ask(Op::Names, &path)?;
        remove(&self.real(&path)).map_err(errno)?;
        self.fs.names().gone(&path);
        Ok(Writer::default())
    }

    fn rename(&self, node: u64, name: &OsStr, to_node: u64, to_name: &OsStr) -> Answer {
        let (from, to) = (self.fs.child(node, name)?, self.fs.child(to_node, to_name)?);
        self.ask(Op::Names, &to)?;
        fs::rename(self.real(&from), self.real(&to)).map_err(errno)?;
        self.fs.names().renamed(&from, &to);
        Ok(Writer::default())
    }

    /// The backing file is opened for both where possible: what the kernel may do with it is the kernel's to check.
    fn open(&self, node: u64, flags: u32) -> Answer {
        let path = self.fs.path(node)?;
        self.ask(Op::Open, &path)?;
        let reads_only = flags & libc::O_ACCMODE.cast_unsigned() == libc::O_RDONLY.cast_unsigned();
        let file = File::options().read(true).write(!reads_only).open(self.real(&path)).map_err(errno)?;
        Ok(self.opened(file, path))
    }

    fn opened(&self, file: File, path: PathBuf) -> Writer {
        let number = self.fs.keep(Handle { file, path, entries: Vec::new() });
        Writer::default().u64(number).u32(abi::FOPEN_DIRECT_IO).u32(0)
    }

    fn create(&self, node: u64, name: &OsStr, flags: u32, mode: u32) -> Answer {
        let path = self.fs.child(node, name)?;
        self.ask(Op::Names, &path)?;
        let exclusive = flags & libc::O_EXCL.cast_unsigned() != 0;
        let mut options = File::options();
        options.read(true).write(true).create(true).create_new(exclusive).mode(mode & 0o7777);
        let file = options.truncate(false).open(self.real(&path)).map_err(errno)?;
        let mut answer = self.known(&path, &file.metadata().map_err(errno)?);
        answer.0.extend(self.opened(file, path).0);
        Ok(answer)
    }

    fn read(&self, handle: u64, offset: u64, size: u32) -> Answer {
        let handle = self.fs.handle_of(handle)?;
        let deal = self.ask(Op::Read, &handle.path)?;
        let mut len = usize::try_from(size).expect("usize has 32 bits at least");
        if matches!(deal, Deal::Half) {
            len = half(len);
        }
        let mut data = vec![0; len];
        let mut done = 0;
        while done < len {
            match handle.file.read_at(&mut data[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(e) => return Err(errno(e)),
            }
        }
        data.truncate(done);
        if matches!(deal, Deal::Flip) && done > 0 {
            data[done / 2] ^= 1;
        }
        Ok(Writer(data))
    }

    fn write(&self, body: &mut abi::Reader<'_>) -> Option<Answer> {
        let (handle, offset, size) = (body.u64()?, body.u64()?, body.u32()?);
        body.skip(12)?;
        let flags = body.u32()?;
        body.skip(4)?;
        let data = body.bytes(usize::try_from(size).ok()?)?;
        Some(self.put(handle, offset, data, flags & libc::O_DSYNC.cast_unsigned() != 0))
    }

    fn put(&self, handle: u64, offset: u64, data: &[u8], durable: bool) -> Answer {
        let open = self.fs.handle_of(handle)?;
        let (taken, torn) = match self.ask(Op::Write, &open.path)? {
            Deal::Whole | Deal::Flip => (data.len(), false),
            Deal::Half => (half(data.len()), false),
            Deal::Torn => (half(data.len()), true),
            Deal::Lost => (0, false),
        };
        open.file.write_all_at(&data[..taken], offset).map_err(errno)?;
        if torn {
            return Err(libc::EIO);
        }
        if durable {
            self.sync(handle)?;
        }
        // Nothing is taken of what is lost alone.
        let told = if taken == 0 { data.len() } else { taken };
        Ok(Writer::default().u32(u32::try_from(told).expect("a write is at most 1 MiB")).u32(0))
    }

    fn sync(&self, handle: u64) -> Answer {
        let handle = self.fs.handle_of(handle)?;
        if !matches!(self.ask(Op::Sync, &handle.path)?, Deal::Lost) && self.fs.sync {
            handle.file.sync_data().map_err(errno)?;
        }
        Ok(Writer::default())
    }

    fn allocate(&self, handle: u64, offset: u64, len: u64, mode: u32) -> Answer {
        let handle = self.fs.handle_of(handle)?;
        self.ask(Op::Allocate, &handle.path)?;
        let signed = |value: u64| i64::try_from(value).map_err(|_| libc::EINVAL);
        let mode = i32::try_from(mode).map_err(|_| libc::EINVAL)?;
        // SAFETY: the handle keeps the descriptor open for the whole call.
        let result = unsafe { libc::fallocate(handle.file.as_raw_fd(), mode, signed(offset)?, signed(len)?) };
        if result == 0 { Ok(Writer::default()) } else { Err(errno(io::Error::last_os_error())) }
    }

    fn statfs(&self) -> Answer {
        self.ask(Op::Look, Path::new(""))?;
        let path = std::ffi::CString::new(self.fs.backing.as_os_str().as_bytes()).map_err(|_| libc::EINVAL)?;
        let mut found = MaybeUninit::<libc::statvfs>::zeroed();
        // SAFETY: `path` is a C string, `found` outlives the call.
        let result = unsafe { libc::statvfs(path.as_ptr(), found.as_mut_ptr()) };
        if result != 0 {
            return Err(errno(io::Error::last_os_error()));
        }
        // SAFETY: zeroed bytes are a valid `statvfs`, and the call filled them.
        let s = unsafe { found.assume_init() };
        let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let counts = [s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree];
        let body = counts.into_iter().fold(Writer::default(), Writer::u64);
        Ok(body.u32(small(s.f_bsize)).u32(255).u32(small(s.f_frsize)).zeros(28))
    }

    fn open_dir(&self, node: u64) -> Answer {
        let path = self.fs.path(node)?;
        self.ask(Op::Open, &path)?;
        let real = self.real(&path);
        let mut entries = Vec::new();
        for entry in fs::read_dir(&real).map_err(errno)? {
            let entry = entry.map_err(errno)?;
            let meta = entry.metadata().map_err(errno)?;
            entries.push((meta.ino(), (meta.mode() >> 12) & 15, entry.file_name()));
        }
        let file = File::open(&real).map_err(errno)?;
        let number = self.fs.keep(Handle { file, path, entries });
        Ok(Writer::default().u64(number).u32(0).u32(0))
    }

    fn read_dir(&self, handle: u64, offset: u64, size: u32) -> Answer {
        let handle = self.fs.handle_of(handle)?;
        self.ask(Op::Look, &handle.path)?;
        let (room, from) = (usize::try_from(size), usize::try_from(offset));
        let (room, from) = (room.map_err(|_| libc::EINVAL)?, from.map_err(|_| libc::EINVAL)?);
        let mut body = Writer::default();
        for (at, (number, kind, name)) in handle.entries.iter().enumerate().skip(from) {
            if !body.entry(room, *number, at as u64 + 1, *kind, name) {
                break;
            }
        }
        Ok(body)
    }
}

/// About half, in sectors: a device does not do less than one.
fn half(len: usize) -> usize {
    if len >= 1024 { len / 2 / 512 * 512 } else { len }
}

#[allow(clippy::needless_pass_by_value, reason = "it ends a chain of map_err")]
fn errno(error: io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}
