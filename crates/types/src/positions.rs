//! Where a copy stands in its volume's log.

use crate::Lsn;

/// Positions of a copy: `applied ≤ committed ≤ durable ≤ received`.
///
/// `committed` is what this copy *knows and holds* to be committed; the volume may be further.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// In the image.
    pub applied: Lsn,
    /// Known to be committed and durable here.
    pub committed: Lsn,
    /// In the journal, with everything before it, on stable storage.
    pub durable: Lsn,
    /// In memory, with everything before it.
    pub received: Lsn,
}

impl Positions {
    /// All positions at `lsn`.
    #[must_use]
    pub const fn at(lsn: Lsn) -> Positions {
        Positions { applied: lsn, committed: lsn, durable: lsn, received: lsn }
    }

    /// Panics unless the order of the positions holds: a copy that lost count of itself must stop.
    pub fn validate(&self) {
        assert!(
            self.applied <= self.committed && self.committed <= self.durable && self.durable <= self.received,
            "positions of a copy are ordered applied <= committed <= durable <= received, found {self:?}"
        );
    }
}
