//! Mounting, the threads that answer the kernel, and the end.

use crate::abi::{MAX_WRITE, Request};
use crate::fs::Fs;
use crate::rules::Rules;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Threads that listen. Whoever waits in an operation is replaced.
const LISTENERS: usize = 4;
/// A request is a write and its headers at most.
const REQUEST: usize = MAX_WRITE as usize + 4096;

/// How the file system behaves.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Syncs reach the backing device. Without, they only count: an agent that is killed loses nothing that way, a host
    /// that crashes would.
    pub sync: bool,
}

/// A mounted file system; dropping it unmounts.
#[derive(Debug)]
pub struct FaultFs {
    mount_point: PathBuf,
    rules: Arc<Rules>,
}

impl FaultFs {
    /// Mounts at `mount_point`, an existing directory, what is in `backing`.
    ///
    /// # Errors
    /// A sentence: there is no /dev/fuse, or this user may not mount.
    pub fn mount(backing: &Path, mount_point: &Path, options: Options) -> Result<FaultFs, String> {
        let device = File::options().read(true).write(true).open("/dev/fuse").map_err(|e| {
            format!("expected to open /dev/fuse, found: {e}; load the kernel's module fuse and run as root")
        })?;
        // Without the mode the kernel takes the root for no directory.
        let data =
            format!("fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other", device.as_raw_fd());
        let c = |bytes: &[u8]| CString::new(bytes).map_err(|_| "a path holds a zero byte".to_owned());
        let (target, data) = (c(mount_point.as_os_str().as_bytes())?, c(data.as_bytes())?);
        let flags = libc::MS_NOSUID | libc::MS_NODEV;
        // SAFETY: all four are C strings that outlive the call.
        let result = unsafe {
            libc::mount(c"faultfs".as_ptr(), target.as_ptr(), c"fuse.faultfs".as_ptr(), flags, data.as_ptr().cast())
        };
        if result != 0 {
            let e = io::Error::last_os_error();
            return Err(format!("expected to mount at {}, found: {e}; run as root", mount_point.display()));
        }
        let rules = Arc::new(Rules::default());
        let fs = FaultFs { mount_point: mount_point.to_path_buf(), rules: Arc::clone(&rules) };
        let session = Arc::new(Session { device, fs: Fs::new(backing.to_path_buf(), rules, options.sync) });
        for _ in 0..LISTENERS {
            session.listen().map_err(|e| format!("expected to start a thread, found: {e}"))?;
        }
        Ok(fs)
    }

    /// What is to go wrong.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Where it is mounted.
    #[must_use]
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }
}

impl Drop for FaultFs {
    fn drop(&mut self) {
        self.rules.clear();
        let Ok(target) = CString::new(self.mount_point.as_os_str().as_bytes()) else { return };
        // The first aborts what is under way and may find the mount busy; the second takes the name away in any case.
        for flags in [libc::MNT_FORCE, libc::MNT_DETACH] {
            // SAFETY: `target` is a C string.
            unsafe { libc::umount2(target.as_ptr(), flags) };
        }
    }
}

struct Session {
    device: File,
    fs: Fs,
}

impl Session {
    fn listen(self: &Arc<Session>) -> io::Result<()> {
        let session = Arc::clone(self);
        std::thread::Builder::new().name("faultfs".to_owned()).spawn(move || session.run()).map(|_| ())
    }

    /// Answers until the file system is unmounted, or another listener took this one's place.
    fn run(self: &Arc<Session>) {
        let mut buffer = vec![0; REQUEST];
        let replaced = std::cell::Cell::new(false);
        let before_wait = || {
            if !replaced.replace(true) && self.listen().is_err() {
                replaced.set(false);
            }
        };
        while !replaced.get() {
            let len = match (&self.device).read(&mut buffer) {
                Ok(0) => return,
                Ok(len) => len,
                // The request was interrupted before it was read.
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EINTR | libc::EAGAIN)) => continue,
                // Unmounted, or aborted.
                Err(_) => return,
            };
            let Some(request) = Request::parse(&buffer[..len]) else { return };
            let unique = request.unique;
            if let Some(answer) = self.fs.handle(&request, &before_wait) {
                self.answer(unique, answer);
            }
        }
    }

    fn answer(&self, unique: u64, answer: Result<crate::abi::Writer, i32>) {
        let (error, body) = match answer {
            Ok(body) => (0, body.0),
            Err(errno) => (-errno, Vec::new()),
        };
        let len = u32::try_from(16 + body.len()).expect("an answer is at most a read and its header");
        let mut head = Vec::with_capacity(16);
        head.extend(len.to_ne_bytes());
        head.extend(error.to_ne_bytes());
        head.extend(unique.to_ne_bytes());
        // It fails for a request that was aborted meanwhile, and nobody waits then.
        let _ = (&self.device).write_vectored(&[IoSlice::new(&head), IoSlice::new(&body)]);
    }
}
