//! What hooks are told of this node's roles, and when.

use crate::control::{Arrivals, ControlLoop, name_of};
use crate::hooks::RoleChange;
use crate::random;
use holdfast_cluster::{CopyReport, CopyRole, CopyState};
use holdfast_types::{Epoch, VolumeId};
use std::time::Duration;

/// How long a node that is no member any more waits for what ends its machines: nobody does it later.
const LAST_HOOKS: Duration = Duration::from_secs(90);

impl ControlLoop {
    /// The shard serves a volume, or does so no more.
    pub(crate) fn role_changed(&mut self, volume: VolumeId, primary: bool, epoch: Epoch) {
        // If another node leads when the next life begins, that tells it.
        if self.stays && !primary {
            return;
        }
        // There is no state while this node takes part in a recovered control plane and has not heard of its state yet.
        let state = self.parts.control.state();
        let begun = || self.hooks.begun().into_iter().find(|(_, mark)| mark.volume() == volume).map(|(name, _)| name);
        let named = state.and_then(|state| state.volumes.get(&volume)).map(|v| v.name.clone());
        // One that is deleted has no role that anybody needs to know who was not told of it before.
        let Some(name) = named.or_else(begun) else { return };
        if let Some(state) = state {
            self.hooks.keep(|known| state.volumes.contains_key(&known));
        }
        self.tell_role(name, volume, primary, epoch);
    }

    /// A volume that is served without a break may be so in a new epoch, for other members. What the shard says comes in order: an end of
    /// its role was told before.
    pub(crate) fn roles_go_on(&mut self, reports: &[CopyReport]) {
        let Some(state) = self.parts.control.state() else { return };
        for report in reports.iter().filter(|r| r.role == CopyRole::Primary && r.state == CopyState::Serving) {
            let volume = state.volumes.get(&report.volume).map(|v| v.name.as_str());
            // A view is large, and seldom needed.
            let Some(volume) = volume.filter(|volume| self.hooks.is_older(volume, report.epoch)) else { continue };
            let active = state.view(report.volume).map(|view| view.active);
            if active.is_some_and(|active| active.epoch == report.epoch && active.primary == Some(self.parts.me)) {
                self.hooks.renews(volume, report.epoch);
            }
        }
    }

    fn tell_role(&mut self, volume: String, id: VolumeId, primary: bool, epoch: Epoch) {
        let socket = self.parts.nbd_dir.join(format!("{volume}.sock"));
        let node = name_of(&self.parts.control, self.parts.me);
        self.hooks.changed(RoleChange { volume, id, node, epoch, primary, socket, number: 0 });
    }

    /// An earlier life of the agent may have ended without a word, and machines of this host gone on. They may go on if the epoch in which
    /// they were begun is the active one still: whoever claims the next one has seen what it succeeds, so that another primary can't have
    /// come and gone unseen. Otherwise another one may have, and they are to end.
    pub(crate) fn end_left_behind(&mut self) {
        for (name, mark, goes_on) in self.hooks.left_behind() {
            let Some(state) = self.parts.control.state() else { return };
            let (gone, view) = (!state.volumes.contains_key(&mark.volume()), state.view(mark.volume()));
            let active = view.map(|view| view.active);
            let epoch = active.as_ref().map_or(Epoch::ZERO, |active| active.epoch);
            let elsewhere = active.is_some_and(|active| active.primary != Some(self.parts.me));
            // What the control plane says just after a start may be older than what was begun.
            if epoch == mark.epoch() && !gone && !elsewhere {
                self.hooks.goes_on(name);
            } else if gone || (epoch > mark.epoch() && (elsewhere || !goes_on)) {
                self.tell_role(name, mark.volume(), false, epoch.max(mark.epoch()));
            }
        }
    }

    /// This node is no member any more, and has no next life that could tell it.
    pub(crate) async fn end_roles(&mut self, from: &mut Arrivals) {
        for (name, mark) in self.hooks.begun() {
            self.tell_role(name, mark.volume(), false, mark.epoch());
        }
        let until = random::now() + LAST_HOOKS;
        while !self.hooks.busy().is_empty() && random::now() < until {
            tokio::select! {
                ask = from.asks.recv() => if let Some(ask) = ask { self.on_ask(ask).await },
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
    }
}
