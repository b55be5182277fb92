//! A process or host that is short of descriptors or memory.

use std::io;
use std::time::{Duration, Instant};

/// How long a file waits to be opened.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// Opens something. A shortage says nothing about the device: to fail every copy on it would turn a host that is short of
/// descriptors for a moment into a lost one. So it is waited for, and looks like a device that hangs meanwhile.
///
/// Only for what has no effect when it fails: a sync, above all, is never repeated (trap 15).
pub(crate) fn open<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let start = Instant::now();
    let mut told = false;
    loop {
        match attempt() {
            Err(error) if is_shortage(&error) && start.elapsed() < PATIENCE => {
                if !told {
                    tracing::warn!(%error, "a file of the data directory waits to be opened; raise the agent's limits (LimitNOFILE, MemoryMax)");
                    told = true;
                }
                std::thread::sleep(PAUSE);
            }
            other => return other,
        }
    }
}

fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}
