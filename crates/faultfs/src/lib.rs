//! A file system that passes through to a backing directory and fails on command, so that real agents meet a device that
//! breaks: through their real ring, with O_DIRECT and RWF_DSYNC.
//!
//! Flow: [`FaultFs::mount`] mounts at a directory and starts threads that answer the kernel. Before each operation they
//! ask the [`Rules`]: whatever the first rule that fits says happens (an errno, a delay, a hang, a short or torn write, a
//! flipped bit, a lost sync), everything else is done in the backing directory. Rules come and go while files are open.
//!
//! Every open file has FOPEN_DIRECT_IO: no page of it is cached by the kernel, so each read and write of the agent
//! arrives here, O_DIRECT or not. RWF_DSYNC arrives as a flag of the write, which then counts as a write and a sync.
//!
//! Invariants
//! - A rule that hangs or delays an operation holds up that operation alone: the thread that waits is replaced.
//! - Dropping a [`FaultFs`] ends every wait, unmounts, and answers ENOTCONN to whoever still has files open.
//!
//! Deliberately absent: what is not needed under an agent's data directory (links, extended attributes, mknod); a
//! page cache that loses unsynced data (the power-cut recorder knows more about that); users other than root, since
//! mount(2) is used without a helper.

mod abi;
mod fs;
mod mount;
mod rules;

pub use mount::{FaultFs, Options};
pub use rules::{Counts, Fault, Op, Rule, Rules};
