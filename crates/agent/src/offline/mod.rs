//! A data directory without its daemon: what it holds, whether that is whole, and how to get it out.
//!
//! ```text
//! DIR ─► place (what DIR is, its locks) ─┬─► control (who, names)
//!                                        └─► engine: the store's own recovery over a `disk::Overlay`
//!                                              ├─► check  ─► Report ─► repair
//!                                              └─► export ─► raw, qcow2
//!                                      └─► regime: the control plane's log ─► plan ─► recover, rejoin
//!                            tables, without the journal ──┘ (check: both whole; export: --at-checkpoint)
//! ```
//!
//! Invariants
//! - Nothing in the directory changes, except by `repair`, which writes the copies of headers that can be made from an equal one, and by
//!   `ControlFiles::recover` and `rejoin`, which put another log of the control plane in place of the one that they set aside.
//! - A copy opens here exactly if it opens for the agent: the same code looks at the same bytes.
//! - No block leaves that was not verified by the block table, whose sums the store has verified before.
//! - No agent runs meanwhile: the locks that it would take are held.
//!
//! Deliberately absent: recomputing a checksum over data, cutting a log, anything that another copy must decide.

mod check;
mod control;
mod engine;
mod error;
mod export;
mod headers;
mod orphans;
mod place;
mod qcow2;
mod ranges;
mod regime;
mod repair;
mod report;
mod tables;
#[cfg(test)]
mod tests;

pub use check::check;
pub use error::OfflineError;
pub use export::{Exported, Options, Upto, export};
pub use place::Place;
pub use ranges::Ranges;
pub use regime::{ControlFiles, ControlPlan, OtherLog, OtherVoter, RegimeError, VolumeProspect};
pub use repair::repair;
pub use report::{ControlReport, JournalReport, OrphanReport, Report, SegmentReport, VolumeReport};

/// Panics that are caught and put into a sentence are not printed as well. For a process that does nothing else.
pub fn hush_caught_panics() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !crate::raft_store::panic_is_guarded() {
            report(info);
        }
    }));
}

/// Told how much of how much is done, in blocks.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);
