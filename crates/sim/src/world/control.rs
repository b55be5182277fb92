//! Carrying, for the control plane of each node: what its Raft log, its peers, its shard and the operator (see `admin`)
//! bring goes in, and what comes out goes back to them.

use super::{Event, World};
use crate::checkers::{Activation, Violation};
use crate::faults::FaultKind;
use crate::log::{MS, Nanos, US};
use crate::net::{Lane, Plane};
use crate::options::Mutant;
use crate::raft_disk::RaftWrite;
use holdfast_node::control::{Control, Input, Output};
use holdfast_node::{LocalView, copy_reports};
use holdfast_types::{ControlRequest, Epoch, NodeId, VolumeId};

/// How often a shard tells how its copies are, if that changed.
const REPORT_INTERVAL: Nanos = 100 * MS;

impl World {
    /// Gives one input to a node's control plane, and carries out what follows.
    pub(super) fn feed_control(&mut self, id: NodeId, input: Input) -> Result<(), Violation> {
        let now = self.now;
        let node = self.node(id);
        let Some(control) = node.control.as_mut() else { return Ok(()) };
        if node.paused {
            node.control_inbox.push_back(input);
            return Ok(());
        }
        let mut out = Vec::new();
        control.handle(input, node.clock.reads(now), &mut out);
        // Whoever gave up did not carry out what Raft has handed it, and says so.
        let gave_up = out.iter().any(|o| matches!(o, Output::Fatal(_) | Output::Superseded(_)));
        if !out.is_empty() && !gave_up {
            self.look_at_control(id)?;
        }
        for output in out {
            self.carry_control(id, output)?;
        }
        self.put_forward(id)?;
        self.end_superseded(id)?;
        self.schedule_control_wake(id);
        self.retire_removed()
    }

    pub(super) fn control_wake(&mut self, id: NodeId, life: u64) -> Result<(), Violation> {
        let now = self.now;
        let node = self.node(id);
        if node.life != life || node.control_wake_at != Some(now) {
            return Ok(());
        }
        node.control_wake_at = None;
        if node.responsive() { self.feed_control(id, Input::Tick) } else { Ok(()) }
    }

    /// A process that stood still takes what has gathered.
    pub(super) fn resume_control(&mut self, id: NodeId) -> Result<(), Violation> {
        let gathered: Vec<Input> = self.node(id).control_inbox.drain(..).collect();
        gathered.into_iter().try_for_each(|input| self.feed_control(id, input))?;
        self.feed_control(id, Input::Tick)
    }

    fn schedule_control_wake(&mut self, id: NodeId) {
        let late = self.rngs.schedule.below(200 * US);
        let now = self.now;
        let node = self.node(id);
        let Some(due) = node.control.as_ref().map(Control::next_timeout) else { return };
        if node.control_wake_at.is_some_and(|at| at > now) {
            // Timers only move away: the wake that is scheduled comes first, and looks again.
            return;
        }
        let at = node.clock.true_time(due).max(now + US) + late;
        node.control_wake_at = Some(at);
        let life = node.life;
        self.at(at, Event::ControlWake(id, life));
    }

    /// The checkers see what a node has decided before anything is carried out.
    fn look_at_control(&mut self, id: NodeId) -> Result<(), Violation> {
        let node = self.nodes.get_mut(&id).expect("every node has an entry");
        let Some(control) = node.control.as_ref() else { return Ok(()) };
        let status = control.raft_status();
        let generation = control.generation();
        if status.is_leader {
            self.checkers.control.leads((generation, status.term), id)?;
        }
        let Some(state) = control.state() else { return Ok(()) };
        if node.applied == Some(status.applied) {
            return Ok(());
        }
        node.applied = Some(status.applied);
        let activations = self.checkers.control.applied(id, status.applied, state)?;
        let agreed = state.version;
        self.note("applied", &[id.0, status.applied], || {
            format!("{id}: its state is the one after {}", status.applied)
        });
        self.speaks_what_is_agreed(id, agreed)?;
        self.look_at_members();
        self.look_at_evidence();
        for a in activations {
            self.activated(&a)?;
        }
        for kind in self.checkers.control.take_moves() {
            self.fired(kind);
        }
        Ok(())
    }

    pub(super) fn activated(&mut self, active: &Activation) -> Result<(), Violation> {
        let (volume, epoch, primary) = (active.volume, active.epoch, active.primary);
        self.counters.epochs += 1;
        self.note("active", &[volume.0, epoch.0, primary.0], || format!("{volume} {epoch} with primary {primary}"));
        let now = self.now;
        self.checkers.volume(volume).activated(active, now)
    }

    fn carry_control(&mut self, id: NodeId, output: Output) -> Result<(), Violation> {
        match output {
            Output::Send { to, bytes } => {
                self.note("send", &[id.0, to.0, bytes.len() as u64], || {
                    format!("{id} to {to} control: {} bytes", bytes.len())
                });
                if self.settling.is_none() && self.rngs.control.chance(2_000) {
                    self.fired(FaultKind::RaftMessageLost);
                } else {
                    self.transmit(id, to, Lane::Control, bytes);
                }
            }
            Output::Persist(batch) => {
                if batch.snapshot.is_some() && self.nodes[&id].control.as_ref().is_some_and(|c| c.state().is_some()) {
                    self.fired(FaultKind::SnapshotInstall);
                    self.note("install", &[id.0], || format!("{id} lags behind and gets a snapshot"));
                }
                self.write_raft(id, RaftWrite::Batch(batch));
            }
            Output::Compact { first_index, snapshot } => {
                self.write_raft(id, RaftWrite::Compact { first_index, snapshot });
            }
            Output::Local(local) => {
                self.checkers.control.told(id, &local)?;
                self.tell_view(id, &local);
            }
            Output::Peers(peers) => {
                for peer in peers.into_keys().filter(|p| *p != id) {
                    self.open_lane(id, peer, Lane::Control);
                }
            }
            // Wishes are given to the shards: see `upkeep`.
            Output::Upkeep(wish) => self.note("upkeep", &[id.0], || format!("{id}: {wish:?}")),
            Output::Done { token, result } => self.answered(token, &result),
            Output::Version(version) => {
                self.note("version", &[id.0, u64::from(version.0)], || format!("{id} is told of {version}"))
            }
            Output::Event(event) => {
                self.is_understood(id, &event)?;
                let of = event.volume.map(|v| format!(" {v}:")).unwrap_or_default();
                self.note("control", &[id.0, event.message.len() as u64], || format!("{id}:{of} {}", event.message));
            }
            Output::Adopt { batch, recovery } => {
                self.note("adopt", &[id.0, recovery.generation.0], || {
                    format!("{id} goes over to generation {}", recovery.generation)
                });
                self.node(id).applied = None;
                self.write_raft(id, RaftWrite::Adopt { batch, recovery });
            }
            Output::Superseded(recovery) => self.is_superseded(id, recovery),
            Output::Removed => self.note("removed", &[id.0], || format!("{id} was removed")),
            Output::Fatal(why) => return self.gives_up(id, &why),
        }
        Ok(())
    }

    fn write_raft(&mut self, id: NodeId, write: RaftWrite) {
        let now = self.now;
        let node = self.node(id);
        let (slowness, stalled_until) = (node.disk.slowness, node.disk.stalled_until);
        let at = node.raft_disk.submit(write, now, slowness, stalled_until);
        let life = node.life;
        self.note("persist", &[id.0, at], || format!("{id} writes to its Raft log"));
        self.at(at, Event::RaftWritten(id, life));
    }

    pub(super) fn raft_written(&mut self, id: NodeId, life: u64) -> Result<(), Violation> {
        let node = self.node(id);
        if node.life != life || !node.alive() {
            return Ok(());
        }
        match node.raft_disk.complete() {
            Some(batch) => self.feed_control(id, Input::Persisted { batch }),
            None => Ok(()),
        }
    }

    /// Something of the shard, on its way to the control plane of the same process.
    pub(super) fn shard_says(&mut self, id: NodeId, input: Input) {
        let delay = self.link_delay();
        let now = self.now;
        let node = self.node(id);
        node.to_control_at = (now + delay).max(node.to_control_at + 1);
        let (at, life) = (node.to_control_at, node.life);
        self.at(at, Event::ToControl(id, life, input));
    }

    pub(super) fn shard_said(&mut self, id: NodeId, life: u64, input: Input) -> Result<(), Violation> {
        let node = self.node(id);
        if node.life != life || !node.alive() {
            return Ok(());
        }
        if let (Some(Mutant::NoCompareAndSwap), Input::Request(request)) = (self.options.mutant, &input) {
            self.forge_decision(id, request)?;
        }
        self.feed_control(id, input)
    }

    pub(super) fn ask_control(&mut self, id: NodeId, request: ControlRequest) {
        self.note("ask", &[id.0], || format!("{id}: {request:?}"));
        if self.settling.is_none() && self.rngs.control.chance(30_000) {
            self.fired(FaultKind::ControlLost);
            return;
        }
        if self.rngs.control.chance(30_000) {
            self.fired(FaultKind::ControlTwice);
            let at = self.now + 50 * self.link_delay();
            let life = self.node(id).life;
            self.at(at, Event::ToControl(id, life, Input::Request(request.clone())));
        }
        self.shard_says(id, Input::Request(request));
    }

    /// Between the two threads of a process: short, seldom long.
    fn link_delay(&mut self) -> Nanos {
        if self.rngs.control.chance(20_000) {
            self.rngs.control.range(MS, 100 * MS)
        } else {
            self.rngs.control.range(10 * US, MS)
        }
    }

    pub(super) fn tell_view(&mut self, id: NodeId, local: &LocalView) {
        let mut local = local.clone();
        self.forge_view(id, &mut local);
        let twice = self.rngs.control.chance(50_000);
        if twice {
            self.fired(FaultKind::ViewTwice);
        }
        for _ in 0..=u64::from(twice) {
            let delay = self.link_delay();
            let now = self.now;
            let node = self.node(id);
            node.to_shard_at = (now + delay).max(node.to_shard_at + 1);
            let (at, life) = (node.to_shard_at, node.life);
            self.at(at, Event::ControlView(id, life, Box::new(local.clone())));
        }
    }

    pub(super) fn control_view(&mut self, id: NodeId, life: u64, local: LocalView) {
        if self.node(id).life != life || !self.node(id).alive() {
            return;
        }
        let newest = |v: VolumeId| self.checkers.control.view(v).map_or(Epoch::ZERO, |view| view.active.epoch);
        if local.views.iter().any(|v| v.active.epoch < newest(v.volume)) {
            self.fired(FaultKind::StaleView);
        }
        self.note("view", &[id.0, local.views.len() as u64, local.create.len() as u64], || {
            let epochs = local.views.iter().map(|v| {
                let pending = v.pending.as_ref().map(|p| p.configuration.epoch);
                format!("{} active {} pending {pending:?} nominee {:?}", v.volume, v.active.epoch, v.nominee)
            });
            format!("{id} learns {}; it is to make {:?}", epochs.collect::<Vec<_>>().join(", "), local.create)
        });
        self.give(id, holdfast_node::shard::Input::Local(local));
    }

    /// The shard has changed something: it will say how its copies are.
    pub(super) fn schedule_report(&mut self, id: NodeId, at_once: bool) {
        let now = self.now;
        let node = self.node(id);
        if at_once {
            return self.report(id);
        }
        if !node.report_scheduled {
            node.report_scheduled = true;
            let (at, life) = (now + REPORT_INTERVAL, node.life);
            self.at(at, Event::Report(id, life));
        }
    }

    pub(super) fn report_due(&mut self, id: NodeId, life: u64) {
        let node = self.node(id);
        if node.life == life {
            node.report_scheduled = false;
            if node.responsive() {
                self.report(id);
            }
        }
    }

    fn report(&mut self, id: NodeId) {
        let node = self.node(id);
        let Some(shard) = node.shard.as_ref() else { return };
        let reports = copy_reports(&shard.rows());
        if reports != node.reported {
            node.reported.clone_from(&reports);
            self.shard_says(id, Input::Reports(reports));
        }
    }

    /// Who leads the control plane, as the newest leader sees it.
    pub(super) fn raft_leader(&self) -> Option<NodeId> {
        let status = |id: &NodeId| self.nodes[id].control.as_ref().map(Control::raft_status);
        let leading = self.options.nodes.iter().filter_map(|id| Some((status(id)?, *id)));
        let generation = |id: &NodeId| self.nodes[id].control.as_ref().map(Control::generation);
        leading.filter(|(s, _)| s.is_leader).max_by_key(|(s, id)| (generation(id), s.term)).map(|(_, id)| id)
    }

    /// Why the control plane is not well, if it is not.
    pub(super) fn control_sickness(&self) -> Option<String> {
        let Some(leader) = self.raft_leader() else { return Some("nobody leads the control plane".to_owned()) };
        if let Some(command) = self.admin.unfinished() {
            return Some(format!("{command:?} was never carried out"));
        }
        let may: Vec<NodeId> = self.options.nodes.iter().copied().filter(|n| self.options.control.votes(*n)).collect();
        // Three or five of those that may, or as many as there are.
        let wanted = match may.len() {
            few @ 0..=3 => few,
            4 => 3,
            _ => 5,
        };
        let agreed = self.nodes[&leader].control.as_ref().map(Control::raft_status)?.voters;
        if agreed.len() != wanted || !agreed.iter().all(|n| may.contains(n)) {
            return Some(format!("{agreed:?} vote, expected {wanted} of {may:?}"));
        }
        self.options.nodes.iter().find_map(|id| {
            let status = self.nodes[id].control.as_ref().map(Control::raft_status)?;
            let well = status.leader == Some(leader) && status.voters == agreed;
            (!well).then(|| format!("{id} does not follow {leader} among the voters {agreed:?}: {status:?}"))
        })
    }

    /// Every direction of the control plane's network between these nodes and all others.
    pub(super) fn control_directions(&self, of: &[NodeId]) -> Vec<(Plane, NodeId, NodeId)> {
        let nodes = &self.options.nodes;
        let pairs = nodes.iter().flat_map(|a| nodes.iter().map(|b| (*a, *b))).filter(|(a, b)| a != b);
        let touched = pairs.filter(|(a, b)| of.contains(a) || of.contains(b));
        touched.map(|(a, b)| (Plane::Control, a, b)).collect()
    }
}
