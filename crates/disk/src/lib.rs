//! Executes the [`DiskOp`](holdfast_store::io::DiskOp)s of one shard directory, with io_uring, or with a pool of
//! threads that call pread and pwrite where io_uring is missing.
//!
//! Flow: [`Disk::submit`] puts every operation behind the gate of its file (`gate`). The gate opens files, keeps
//! `Create` and `Delete` apart from everything else on the same file, and holds a `Sync` back until the writes before
//! it are done; what may start goes to the engine (`ring` or `threads`), what needs path names (`List`, opening,
//! `Create`, `Delete`) to a small pool of threads of its own (`lifecycle`), so that zeroing a segment delays nothing.
//! Whatever ends signals one eventfd, on which [`Disk::wait`] sleeps.
//!
//! Invariants
//! - The caller's thread never waits for the device, except in `Disk::open` and when a `Disk` is dropped.
//! - An operation in flight owns its memory: staging slots and read buffers are freed after the kernel is done with
//!   them, also when the `Disk` is dropped.
//! - Each operation is answered exactly once, by [`Disk::completed`].
//! - The copies leave a reserve of the file system's space to the control log (`reserve`): what would take from it is
//!   answered with `NoSpace`, as if the file system were full.
//! - One process works in a directory: an exclusive lock on `DIR/lock`.
//!
//! Deliberately absent: retries of failed operations (a failed device latches, P8, and the store decides; only opening
//! waits while the process is out of descriptors, which is no failure of the device), ordering
//! of overlapping writes (the store never has two in flight), and any knowledge of what the bytes mean.

mod buffer;
mod config;
mod disk;
mod error;
mod file;
mod gate;
mod layout;
mod lifecycle;
pub mod limits;
mod lock;
mod observe;
mod overlay;
mod patches;
mod pool;
pub mod raw;
mod reserve;
mod ring;
mod shortage;
mod threads;
mod wake;
mod zero;

pub use config::{Backend, DiskConfig};
pub use disk::Disk;
pub use error::DiskOpenError;
pub use observe::{Call, Observer};
pub use overlay::Overlay;
