//! What the control plane wants of this node's copies: made, removed, set aside, and who is a member of what.

use super::{Output, Shard, retire};
use crate::local::LocalView;
use holdfast_replication as replication;
use holdfast_replication::Replica;
use holdfast_types::{Mutant, NodeId, Time, VolumeId, VolumeView, mutated};

impl Shard {
    pub(super) fn on_local(&mut self, local: LocalView, now: Time, out: &mut Vec<Output>) {
        let before = std::mem::replace(&mut self.local, local);
        if self.started {
            self.follow_local(&before, now, out);
        }
    }

    /// Makes what is there what the control plane wants. A replica that was told the same `before`, and of which nothing is wanted, is not
    /// told again: what is decided of one volume must not be work for a thousand.
    pub(super) fn follow_local(&mut self, before: &LocalView, now: Time, out: &mut Vec<Output>) {
        for (volume, size) in self.local.create.clone() {
            self.create(volume, size, now, out);
        }
        for volume in self.local.delete.clone() {
            self.delete(volume, now, out);
        }
        for volume in self.local.aside.keys().copied().collect::<Vec<_>>() {
            self.set_aside(volume, now, out);
        }
        for view in self.local.views.clone() {
            let volume = view.volume;
            if mutated(Mutant::BlankDiskKeepsIdentity) && !self.copies.contains_key(&volume) {
                self.create(volume, view.size, now, out);
            }
            let here = self.copies.get(&volume).is_some_and(|c| c.replica.is_some());
            let told = here && view.is_settled() && before.view(volume) == Some(&view);
            if !told {
                self.make_replica(&view, now, out);
                self.replica(volume, replication::Input::View(view), now, out);
            }
            self.follow_lanes(volume, out);
        }
    }

    /// Lanes go to whoever the copy has to do with now.
    pub(super) fn follow_lanes(&mut self, volume: VolumeId, out: &mut Vec<Output>) {
        let Some(copy) = self.copies.get_mut(&volume) else { return };
        let Some(wanted) = copy.replica.as_ref().map(Replica::partners) else { return };
        for peer in copy.lanes.difference(&wanted).copied() {
            out.push(Output::CloseLane { peer, volume });
        }
        for peer in wanted.difference(&copy.lanes).copied() {
            out.push(Output::OpenLane { peer, volume });
        }
        copy.lanes = wanted;
    }

    pub(super) fn make_replica(&mut self, view: &VolumeView, now: Time, out: &mut Vec<Output>) {
        let volume = view.volume;
        let Some(copy) = self.copies.get_mut(&volume) else { return };
        if copy.replica.is_some() || copy.failed.is_some() || self.deleting.contains(&volume) {
            return;
        }
        let registered = self.local.registered.get(&volume);
        if registered != Some(&copy.opened.incarnation) {
            let registered = registered.map_or("none".to_owned(), ToString::to_string);
            copy.failed = Some(format!(
                "the copy here has incarnation {}, the registered one is {registered}: the disk was replaced or restored; \
                 replace the copy",
                copy.opened.incarnation
            ));
            return;
        }
        let (timers, limits) = (self.config.timers, self.config.limits);
        copy.replica =
            Some(Replica::new(self.config.me, self.config.life, view.clone(), &copy.opened, timers, limits, now));
        self.agenda.touch(volume);
        self.follow_lanes(volume, out);
        if self.retiring != retire::Retiring::No {
            self.replica(volume, replication::Input::Retire, now, out);
        }
        let up: Vec<NodeId> = self.up.iter().filter(|(v, _)| *v == volume).map(|(_, p)| *p).collect();
        for peer in up {
            self.replica(volume, replication::Input::PeerUp(peer), now, out);
        }
    }
}
