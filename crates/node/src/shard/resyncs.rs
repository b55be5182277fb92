//! How many copies of a node are resynced at a time: each takes bandwidth of disk and network from the guests.

use super::{Output, Shard};
use holdfast_types::{Time, VolumeId};

impl Shard {
    /// Gives leave to copies that wait for it, in the order of their volumes, as long as there is room.
    pub(super) fn allow_resyncs(&mut self, now: Time, out: &mut Vec<Output>) {
        let waiting: Vec<VolumeId> = self.replicas().filter(|(_, r)| r.wants_resync()).map(|(v, _)| v).collect();
        let running = self.replicas().filter(|(_, r)| r.resyncs()).count();
        for volume in waiting.into_iter().take(self.config.resyncs.saturating_sub(running)) {
            self.with_replica(volume, now, out, |r, buffer| r.allow_resync(buffer));
        }
    }
}
