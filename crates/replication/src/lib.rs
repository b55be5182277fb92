//! One volume's replication protocol, seen from one of its copies (docs/PROTOCOL.md).
//!
//! Purpose: a write is answered when a write quorum holds it; after any failure the next primary's log holds every
//! answered write; at most one primary per epoch can get anything answered.
//!
//! Flow: the shell calls [`Replica::handle`] with one input and the time, and carries out what was pushed into the
//! caller's buffer. Every copy is a *member* (`member.rs`: promise, adopt, append, grant a lease). One may be a
//! *candidate* or *claimant* (`claim.rs`: pre-claim, claim, fence, choose, fetch), and then *reigns* (`reign.rs`: bring
//! members to the log, count the quorum, activate, commit), serving guests (`guest.rs`: admission, sub-block writes,
//! reads under a lease). Beside all that a copy repairs single blocks (`repair.rs`), reads itself through (`scrub.rs`), and is compared
//! with the others, in passing (`proof.rs`) and on demand (`verify.rs`). With the same primary, members come and go one at a
//! time (`reconfigure.rs`). Another size is a record like a write (`resize.rs`).
//! A member that no log reaches fetches regions (`resync.rs`) from another one (`source.rs`).
//!
//! Invariants, asserted where they could break: positions are ordered; promised epochs never fall (S14); a record follows
//! its predecessor's hash (S15); nothing at or below the committed position is ever cut (S16); a guest's write is answered
//! only against a `Quorum` proof, a primary's record acknowledged only against a `Durable` proof.
//!
//! Deliberately absent: I/O, clocks, threads.

mod api;
mod claim;
mod courtesy;
mod exposure;
mod guest;
mod lag;
mod lease;
mod log;
mod member;
mod notices;
mod pace;
mod proof;
mod reconfigure;
mod reign;
mod repair;
mod replica;
mod resize;
mod resync;
mod returns;
mod scrub;
mod source;
mod tracker;
mod verify;

#[cfg(test)]
mod tests;

pub use api::{CopyStatus, GuestError, GuestOp, Input, Limits, LogEnd, Output, Request, RequestKey, RoleName, Timers};
pub use exposure::ExposureStatus;
pub use pace::SlowCopy;
pub use replica::Replica;
pub use resync::{NotProven, ResyncStatus};
pub use scrub::{Found, ScrubStatus};
pub use verify::{CopyVerdict, Verdict, VerifyStatus};
