//! S3: when a flush is answered, every change that was answered before it was asked for is committed.

use super::{Committed, Violation};
use crate::log::Nanos;

#[derive(Debug, Default)]
pub(crate) struct Flushes {
    /// Writes answered since the last flush that covered them.
    answered: Vec<(Nanos, u64)>,
}

impl Flushes {
    pub(crate) fn answered(&mut self, change: u64, now: Nanos) {
        self.answered.push((now, change));
    }

    /// An answered change is gone, as its durability allows.
    pub(crate) fn forget(&mut self, change: u64) {
        self.answered.retain(|(_, c)| *c != change);
    }

    pub(crate) fn flushed(&mut self, invoked: Nanos, committed: &Committed) -> Result<(), Violation> {
        let covered = self.answered.extract_if(.., |(at, _)| *at < invoked);
        for (_, change) in covered {
            if !committed.holds(change) {
                let text = format!(
                    "a flush was answered, but change {change}, answered before it was asked for, is not committed"
                );
                return Err(Violation::new("S3", text));
            }
        }
        Ok(())
    }
}
