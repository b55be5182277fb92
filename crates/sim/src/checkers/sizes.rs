//! Sizes: what an operator asked for, what of it is in the committed log, and which errors it explains.
//!
//! What a smaller size cuts off is a change that makes zeros, as a discard would: it may take effect from the moment that it is
//! asked for, in any epoch, and has taken effect once its record is committed. So the register of sectors judges it.

use super::{OpKind, Violation, VolumeChecks};
use crate::log::Nanos;
use holdfast_types::{Epoch, NodeId, SECTOR_SIZE, VolumeId, VolumeSize, VolumeView};
use std::collections::BTreeMap;

/// Wishes by the number of the decision that each of them would be: the size, and the change that it makes. Of several one wins.
#[derive(Debug, Default)]
pub(crate) struct Wishes(BTreeMap<u64, Vec<(VolumeSize, u64)>>);

impl VolumeChecks {
    /// An operator asks for a size. `change` is a number for what is cut off, `end` the last sector that there ever was.
    pub(crate) fn wished(&mut self, decision: u64, size: VolumeSize, change: u64, end: u64, now: Nanos) {
        let first = size.bytes() / SECTOR_SIZE as u64;
        // No epoch ends it: whoever is primary carries it out.
        let epoch = Epoch(u64::MAX - 1);
        self.register.invoked(change, OpKind::Zero, first, end.saturating_sub(first), epoch, now);
        self.sizes.0.entry(decision).or_default().push((size, change));
    }

    /// What is committed by now has happened.
    pub(crate) fn sizes_settle(&mut self, volume: VolumeId, now: Nanos) -> Result<(), Violation> {
        for resized in self.committed.take_resized() {
            let asked = self.sizes.0.get(&resized.decision).into_iter().flatten();
            let Some((_, change)) = asked.copied().find(|(size, _)| *size == resized.size) else {
                let text = format!("{volume} was resized by {resized:?}, which nobody had asked for");
                return Err(Violation::new("resize", text));
            };
            self.register.answered(change, now);
        }
        Ok(())
    }

    /// A guest may be told that the volume ends before its request does if some size explains it: one that was committed since
    /// its primary's epoch began, or one that is decided and not committed.
    pub(crate) fn end_is_covered(
        &self,
        (node, volume): (NodeId, VolumeId),
        epoch: Epoch,
        end: u64,
        view: Option<&VolumeView>,
    ) -> Result<(), Violation> {
        let done = self.committed.size().decision;
        let decided = view.into_iter().flat_map(|v| &v.resizes).filter(|(n, _)| *n > done).map(|(_, s)| s.bytes());
        let asked = self.sizes.0.range(done + 1..).flat_map(|(_, wishes)| wishes).map(|(size, _)| size.bytes());
        let smallest = decided.chain(asked).chain([self.committed.smallest_since(epoch)]).min();
        if smallest.is_some_and(|bytes| end * SECTOR_SIZE as u64 > bytes) {
            return Ok(());
        }
        let text =
            format!("{node} says that {volume} ends before sector {end}, and it has {smallest:?} bytes at least");
        Err(Violation::new("resize", text))
    }
}
