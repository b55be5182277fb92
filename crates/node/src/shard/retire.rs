//! The end of a process that may take its time: primaries answer what they have admitted and let go, then everything that is committed
//! goes into the images under a checkpoint. A process that is killed on the way leaves what any crash leaves.

use super::{Output, Shard};
use holdfast_replication as replication;
use holdfast_replication::Replica;
use holdfast_store as store;
use holdfast_types::{Time, VolumeId};

/// How far the end is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Retiring {
    #[default]
    No,
    /// Primaries answer what they have admitted.
    Draining,
    /// Nothing leads here any more; the store makes its checkpoints.
    Settling,
}

impl Shard {
    /// No primary is left here, and the next start has little to replay.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.retiring == Retiring::Settling && self.store.is_settled()
    }

    pub(super) fn retire(&mut self, now: Time, out: &mut Vec<Output>) {
        if self.retiring != Retiring::No {
            return;
        }
        self.retiring = Retiring::Draining;
        let volumes: Vec<VolumeId> = self.copies.keys().copied().collect();
        for volume in volumes {
            self.replica(volume, replication::Input::Retire, now, out);
        }
    }

    /// Called after every batch of inputs.
    pub(super) fn step_retire(&mut self, now: Time, out: &mut Vec<Output>) {
        let drained = self.retiring == Retiring::Draining && !self.replicas().any(|(_, r)| Replica::leads(r));
        if drained {
            self.retiring = Retiring::Settling;
            self.store(store::Input::Settle, now, out);
        }
    }
}
