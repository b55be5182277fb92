//! The eventfd through which the kernel and the pool's threads tell the owner that something has ended.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// A counter that makes its descriptor readable when it is above 0.
pub(crate) struct Wake(File);

impl Wake {
    pub(crate) fn new() -> io::Result<Wake> {
        // SAFETY: eventfd takes no pointer; a result of 0 or more is a new descriptor that nobody else owns.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: see above, `fd` is open and ours alone.
        Ok(Wake(File::from(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Makes the descriptor readable.
    pub(crate) fn signal(&self) {
        // The only failure is a counter about to overflow, and then the descriptor is readable already.
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }

    /// Makes the descriptor unreadable until the next signal.
    pub(crate) fn clear(&self) {
        // Fails only when the counter is 0, which is what we want.
        let _ = (&self.0).read(&mut [0u8; 8]);
    }
}

impl AsRawFd for Wake {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
