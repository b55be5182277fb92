//! The sizes of a volume along its log.
//!
//! A resize is a record, so a volume has its size at an LSN, not at a time: a copy that lags has an older one, and a record that
//! is cut takes the size with it that it brought.

use crate::ids::Lsn;
use crate::units::VolumeSize;
use crate::{Mutant, mutated};

/// A size, and where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resized {
    /// From this record on.
    pub lsn: Lsn,
    /// So large.
    pub size: VolumeSize,
    /// By this decision of the control plane, counted per volume; 0: as it was created.
    pub decision: u64,
}

/// The sizes of a copy from one record of its log on, oldest first. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes(Vec<Resized>);

impl Sizes {
    /// A log that begins with this size.
    #[must_use]
    pub fn new(first: Resized) -> Sizes {
        Sizes(vec![first])
    }

    /// The size as record `lsn` leaves it; the oldest that is known for one that is older.
    #[must_use]
    pub fn at(&self, lsn: Lsn) -> Resized {
        let after = self.0.partition_point(|r| r.lsn <= lsn);
        self.0[after.saturating_sub(1)]
    }

    /// The size at the end of the log.
    #[must_use]
    pub fn last(&self) -> Resized {
        *self.0.last().expect("a log begins with a size")
    }

    /// The record at the end of the log brought this size.
    ///
    /// Panics unless it is later than every other one.
    pub fn push(&mut self, next: Resized) {
        assert!(next.lsn > self.last().lsn, "sizes follow the log: {next:?} after {:?}", self.last());
        self.0.push(next);
    }

    /// The log ends at `last` now.
    pub fn cut_after(&mut self, last: Lsn) {
        let kept = self.0.partition_point(|r| r.lsn <= last).max(1);
        if !mutated(Mutant::ResizeNotRolledBack) {
            self.0.truncate(kept);
        }
    }

    /// Nobody asks about records below `lsn` any more.
    pub fn settle(&mut self, lsn: Lsn) {
        let before = self.0.partition_point(|r| r.lsn <= lsn).saturating_sub(1);
        self.0.drain(..before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resized(lsn: u64, blocks: u64) -> Resized {
        Resized { lsn: Lsn(lsn), size: VolumeSize::new(blocks * 4096).expect("a size"), decision: lsn }
    }

    #[test]
    fn a_size_holds_from_its_record_on_and_goes_with_it() {
        let mut sizes = Sizes::new(resized(10, 8));
        sizes.push(resized(12, 4));
        sizes.push(resized(20, 6));
        let at = |sizes: &Sizes, lsn| sizes.at(Lsn(lsn)).size.blocks().0;
        assert_eq!([5, 10, 11, 12, 19, 20, 99].map(|lsn| at(&sizes, lsn)), [8, 8, 8, 4, 4, 6, 6]);
        sizes.settle(Lsn(12));
        assert_eq!((at(&sizes, 12), at(&sizes, 20)), (4, 6));
        sizes.cut_after(Lsn(19));
        assert_eq!(sizes, Sizes::new(resized(12, 4)));
        sizes.cut_after(Lsn(12));
        assert_eq!(sizes.last(), resized(12, 4));
    }
}
