//! What replicas want is carried on, and what the store says in order, however much of it follows from what it said before.

use super::{Output, Shard};
use holdfast_replication as replication;
use holdfast_replication::Replica;
use holdfast_store as store;
use holdfast_types::{Time, VolumeId};

impl Shard {
    pub(super) fn store(&mut self, input: store::Input, now: Time, out: &mut Vec<Output>) {
        let mut buffer = Vec::new();
        self.store.handle(input, now, &mut buffer);
        self.store_out.extend(buffer);
        // What the store says in answer to what follows from its outputs comes after them, and not on top of them on the stack.
        if std::mem::replace(&mut self.carrying, true) {
            return;
        }
        while let Some(output) = self.store_out.pop_front() {
            self.on_store(output, now, out);
        }
        self.carrying = false;
    }

    pub(super) fn with_replica(
        &mut self,
        volume: VolumeId,
        now: Time,
        out: &mut Vec<Output>,
        act: impl FnOnce(&mut Replica, &mut Vec<replication::Output>),
    ) {
        let Some(replica) = self.copies.get_mut(&volume).and_then(|c| c.replica.as_mut()) else { return };
        self.agenda.touch(volume);
        let mut buffer = Vec::new();
        act(replica, &mut buffer);
        self.carry(volume, &mut buffer, now, out);
    }
}
