//! Resyncs by regions: what replica and store say to each other about them, and how many copies of a node are resynced at a time: each takes
//! bandwidth of disk and network from the guests.

use super::{Output, Shard};
use holdfast_replication as replication;
use holdfast_replication::{NotProven, Replica};
use holdfast_store as store;
use holdfast_types::{Time, VolumeId};
use std::collections::BTreeSet;

/// Copies that wait for leave, and those that use it; of one to which nothing happened that is as it was.
#[derive(Debug, Default)]
pub(super) struct Resyncs {
    waiting: BTreeSet<VolumeId>,
    running: BTreeSet<VolumeId>,
}

impl Resyncs {
    /// The copy has no replica any more.
    pub(super) fn forget(&mut self, volume: VolumeId) {
        self.waiting.remove(&volume);
        self.running.remove(&volume);
    }
}

impl Shard {
    /// Gives leave to copies that wait for it, in the order of their volumes, as long as there is room. Whoever can't go on takes none.
    ///
    /// `maintained`: the copies to which something happened.
    pub(super) fn allow_resyncs(&mut self, maintained: &BTreeSet<VolumeId>, now: Time, out: &mut Vec<Output>) {
        for volume in maintained.union(self.agenda.touched()) {
            let replica = self.copies.get(volume).and_then(|c| c.replica.as_ref());
            let Resyncs { waiting, running } = &mut self.resyncs;
            for (set, is_one) in [
                (waiting, replica.is_some_and(Replica::wants_resync)),
                (running, replica.is_some_and(Replica::resyncs)),
            ] {
                if is_one {
                    set.insert(*volume)
                } else {
                    set.remove(volume)
                };
            }
        }
        let Resyncs { waiting, running } = &self.resyncs;
        let room = self.config.resyncs.saturating_sub(running.len());
        for volume in waiting.iter().copied().take(room).collect::<Vec<_>>() {
            self.with_replica(volume, now, out, |r, buffer| r.allow_resync(now, buffer));
        }
    }

    /// What a replica wants of its store.
    pub(super) fn resync_asks(
        &mut self,
        volume: VolumeId,
        output: replication::Output,
        now: Time,
        out: &mut Vec<Output>,
    ) {
        use replication::Output as R;
        use store::Input as S;
        let input = match output {
            R::ReadRegions { tag, query, max_bytes } => S::ReadRegions { volume, tag, query, max_bytes },
            R::LetGoRegions => S::LetGoRegions { volume },
            R::OpenSide(size) => S::OpenSide { volume, size },
            R::HeldInSide { from, max } => S::HeldInSide { volume, from, max },
            R::WriteSide(regions) => S::WriteSide { volume, regions },
            R::ProveSide(cut) => S::ProveSide { volume, cut },
            R::Switch { epoch, table, cut_after, cut } => {
                S::Switch { volume, switch: store::Switch { epoch, table, cut_after, cut } }
            }
            R::DropSide => S::DropSide { volume },
            other => unreachable!("carried before: {other:?}"),
        };
        self.store(input, now, out);
    }

    /// What the store answers.
    pub(super) fn resync_says(&mut self, output: store::Output, now: Time, out: &mut Vec<Output>) {
        use replication::Input as R;
        use store::Output as S;
        let (volume, input) = match output {
            S::RegionsRead { volume, tag, result } => (volume, R::RegionsRead { tag, result }),
            S::SideOpened { volume, count, top } => (volume, R::SideOpened { count, top }),
            S::SideHeld { volume, held, end } => (volume, R::SideHeld { held, end }),
            S::SideWritten { volume, bad } => (volume, R::SideWritten { bad }),
            S::SideProven { volume, result } => {
                let result = result.map_err(|why| match why {
                    store::NotProven::Disturbed => NotProven::Disturbed,
                    store::NotProven::Different(why) => NotProven::Different(why),
                });
                (volume, R::SideProven(result))
            }
            S::Switched { volume, epoch, last, last_epoch, last_hash, digest } => {
                if let Some(copy) = self.copies.get_mut(&volume) {
                    (copy.applied, copy.digest) = (last, digest);
                }
                (volume, R::Switched { epoch, last, last_epoch, last_hash, digest })
            }
            S::SwitchRefused { volume } => (volume, R::SwitchRefused),
            other => unreachable!("carried before: {other:?}"),
        };
        self.replica(volume, input, now, out);
    }
}
