//! Faults, and their ends.

use super::admin::Wish;
use super::wide::WideCure;
use super::{Event, World};
use crate::checkers::Violation;
use crate::disk::Disk;
use crate::faults::{FaultKind, pick};
use crate::log::{MS, Nanos, SECOND};
use crate::net::Plane;
use crate::options::{Mutant, index};
use holdfast_cluster::Command;
use holdfast_format::RecordHeader;
use holdfast_store::io::FileId;
use holdfast_types::{Epoch, NodeId, VolumeId};

/// The end of a fault.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cure {
    Restart { node: NodeId, and_crash: bool },
    CrashAgain(NodeId, u64),
    Resume(NodeId),
    Partition(u64),
    Link(NodeId, NodeId),
    Disk(NodeId),
    Space(NodeId),
    Order(NodeId, NodeId),
    Withdraw(VolumeId, Epoch),
    Wide(WideCure),
}

impl World {
    pub(super) fn next_fault(&mut self) -> Result<(), Violation> {
        if self.settling.is_some() {
            return Ok(());
        }
        if self.options.mutant == Some(Mutant::Amnesia) {
            self.nodes.values_mut().for_each(|n| n.disk.remember());
        }
        let pause = self.rngs.storm.below(2 * self.options.fault_interval) + 1;
        let next = self.now + pause;
        self.at(next, Event::Fault);
        // Each one draws from a generator of its own, so that leaving one out changes no other.
        self.rngs.faults = self.rngs.storm.fork();
        let number = self.counters.fault_events;
        self.counters.fault_events += 1;
        if self.options.kept_faults.as_ref().is_some_and(|kept| !kept.contains(&number)) {
            return Ok(());
        }
        match pick(&self.options.faults, &mut self.rngs.faults) {
            Some(kind) => {
                self.note("storm", &[number], || format!("fault {number}: {kind:?}"));
                self.start_fault(kind)
            }
            None => Ok(()),
        }
    }

    fn start_fault(&mut self, kind: FaultKind) -> Result<(), Violation> {
        let node = self.any_node();
        if kind.is_damage() {
            return self.start_damage(kind, node);
        }
        if kind.changes_members() {
            return self.change_members(kind, node);
        }
        if kind.changes_nodes() {
            return self.change_nodes(kind, node);
        }
        if kind.is_wide() {
            return self.start_wide_fault(kind, node);
        }
        match kind {
            FaultKind::Crash
            | FaultKind::LongOutage
            | FaultKind::CrashAll
            | FaultKind::CrashInRecovery
            | FaultKind::Wipe => self.start_crash(kind, node),
            FaultKind::RaftLeaderKilled | FaultKind::RaftLeaderPaused => self.hit_raft_leader(kind),
            FaultKind::Pause | FaultKind::PauseLong => {
                self.pause(kind, node);
                Ok(())
            }
            FaultKind::ConnectionLoss
            | FaultKind::Partition
            | FaultKind::OneWay
            | FaultKind::Isolate
            | FaultKind::Mute
            | FaultKind::SlowLink
            | FaultKind::CorruptFrame
            | FaultKind::ControlDown
            | FaultKind::RaftLeaderCutOff
            | FaultKind::RaftReorder => {
                self.start_net_fault(kind, node);
                Ok(())
            }
            FaultKind::SlowDisk
            | FaultKind::StalledDisk
            | FaultKind::WriteError
            | FaultKind::ReadError
            | FaultKind::SyncError
            | FaultKind::NoSpace => {
                self.start_disk_fault(kind, node);
                Ok(())
            }
            FaultKind::OrderlyEnd | FaultKind::OrderlyRestart => self.start_ending(kind, node),
            FaultKind::Upgrade | FaultKind::Downgrade => self.change_build(kind, node),
            FaultKind::Resize => self.start_resize(),
            FaultKind::MajorityLost => self.lose_majority(),
            FaultKind::VotersLost => self.lose_voters(),
            FaultKind::Detach => {
                self.detach_somebody();
                Ok(())
            }
            FaultKind::Scrub | FaultKind::Verify => {
                self.start_upkeep(kind, node);
                Ok(())
            }
            _ => self.start_failover(kind),
        }
    }

    fn hit_raft_leader(&mut self, kind: FaultKind) -> Result<(), Violation> {
        let Some(leader) = self.raft_leader() else { return Ok(()) };
        if kind == FaultKind::RaftLeaderKilled {
            return self.start_crash(kind, leader);
        }
        self.pause(kind, leader);
        Ok(())
    }

    fn any_node(&mut self) -> NodeId {
        let aimed = self.options.aim_ppm > 0 && self.rngs.faults.chance(self.options.aim_ppm);
        if let Some(primary) = self.nodes.values().find(|n| aimed && !n.serving.is_empty()) {
            return primary.id;
        }
        let at = self.rngs.faults.below(self.options.nodes.len() as u64);
        self.options.nodes[index(at)]
    }

    pub(super) fn other_node(&mut self, node: NodeId) -> NodeId {
        let others: Vec<NodeId> = self.options.nodes.iter().copied().filter(|n| *n != node).collect();
        others[index(self.rngs.faults.below(others.len() as u64))]
    }

    /// Log-uniform: faults are short more often than long.
    pub(super) fn span(&mut self, from: Nanos, to: Nanos) -> Nanos {
        let top = self.rngs.faults.range(from, to + 1);
        self.rngs.faults.range(from, top + 1)
    }

    fn start_crash(&mut self, kind: FaultKind, node: NodeId) -> Result<(), Violation> {
        let victims = match kind {
            FaultKind::CrashAll => self.options.nodes.clone(),
            FaultKind::Wipe if !self.may_wipe(node) => return Ok(()),
            _ => vec![node],
        };
        let crashed: Vec<NodeId> = victims.into_iter().filter(|n| self.nodes[n].alive()).collect();
        if crashed.is_empty() {
            return Ok(());
        }
        self.fired(kind);
        for node in crashed {
            self.crash(node)?;
            if kind == FaultKind::Wipe {
                self.wipe(node);
            }
            let again = kind == FaultKind::CrashInRecovery;
            let away = match kind {
                FaultKind::LongOutage => self.span(3 * SECOND, 10 * SECOND),
                _ => self.span(5 * MS, if again { 200 * MS } else { 5 * SECOND }),
            };
            let at = self.now + away;
            self.at(at, Event::Cure(Cure::Restart { node, and_crash: again }));
        }
        Ok(())
    }

    /// One copy may be lost for ever, if its volumes can do without it.
    fn may_wipe(&self, node: NodeId) -> bool {
        let bearable = self.options.volumes.iter().filter(|v| v.members.contains(&node)).all(|v| {
            let (n, w) = (v.members.len(), usize::from(v.write_quorum));
            n > w && n - 1 > n - w && self.checkers.control.view(v.id).is_some()
        });
        let formed = self.options.volumes.iter().all(|v| self.checkers.control.view(v.id).is_some());
        let one = bearable && !self.options.may_lag && self.nodes.values().all(|n| !n.wiped);
        self.atlas.may_hurt(node) && if self.atlas.asks_liveness() { one } else { formed }
    }

    /// The shard's disk is lost. The Raft log lies on another one: a voter that lost it must come back as another node.
    pub(super) fn wipe(&mut self, node: NodeId) {
        self.note("wipe", &[node.0], || format!("{node} loses its disk"));
        let roll_back = self.options.mutant == Some(Mutant::Amnesia);
        self.node(node).disk.wipe(roll_back);
        self.node(node).wiped = true;
        self.atlas.hurt(node);
        self.checkers.wiped(node);
    }

    /// A process ends with its host: the disk's volatile layer meets its fate.
    pub(super) fn crash(&mut self, id: NodeId) -> Result<(), Violation> {
        self.end_process(id, Disk::crash)
    }

    /// A process ends; `fate` says what that does to its disk.
    pub(super) fn end_process(
        &mut self,
        id: NodeId,
        fate: fn(&mut Disk, &mut Vec<FaultKind>) -> Vec<RecordHeader>,
    ) -> Result<(), Violation> {
        self.note("crash", &[id.0], || format!("{id}"));
        self.look_at_images(id, false)?;
        self.checkers.ended(id, self.now);
        let mut fates = Vec::new();
        let node = self.node(id);
        node.stop();
        let lucky = fate(&mut node.disk, &mut fates);
        self.checkers.durable(id, &lucky);
        if self.node(id).raft_disk.crash() > 0 {
            fates.push(FaultKind::LostPersist);
        }
        fates.into_iter().for_each(|kind| self.fired(kind));
        self.end_sessions(id, None);
        let at_once = self.rngs.schedule.chance(500_000);
        for plane in Plane::ALL {
            self.net(plane).forget(id);
            for peer in self.options.nodes.clone().into_iter().filter(|p| *p != id) {
                self.break_connection(plane, id, peer, at_once);
            }
        }
        Ok(())
    }

    /// S16 on the bytes of every image of a node.
    pub(super) fn look_at_images(&mut self, id: NodeId, quiet: bool) -> Result<(), Violation> {
        if self.lost.given_up.contains_key(&id) {
            return Ok(());
        }
        for plan in &self.options.volumes {
            // A copy that counts no more is what it was when it was dropped.
            let view = self.checkers.control.view(plan.id);
            if quiet && view.is_some_and(|v| v.holder(id).is_none()) {
                continue;
            }
            let Some(image) = self.nodes[&id].disk.content(FileId::Image(plan.id)) else { continue };
            let hurt = plan.members.iter().any(|n| self.atlas.is_hurt(*n) && !self.nodes[n].wiped);
            let damage = self.nodes[&id].disk.damage();
            let spared = |block: u64| damage.covers(plan.id, block, block + 1);
            let checks = self.checkers.volume(plan.id);
            if quiet && !hurt {
                checks.image_equals(id, plan.id, image, spared)?;
            } else {
                checks.image_bytes(id, plan.id, image, spared)?;
            }
        }
        Ok(())
    }

    fn pause(&mut self, kind: FaultKind, id: NodeId) {
        let lease = self.lease();
        let time = if kind == FaultKind::Pause { self.span(MS, lease / 2) } else { lease + self.span(MS, 3 * SECOND) };
        self.pause_for(kind, id, time);
    }

    pub(super) fn lease(&self) -> Nanos {
        u64::try_from(self.options.timers.lease.as_nanos()).expect("a lease is seconds")
    }

    pub(super) fn pause_for(&mut self, kind: FaultKind, id: NodeId, time: Nanos) {
        if !self.nodes[&id].responsive() {
            return;
        }
        self.fired(kind);
        let now = self.now;
        let node = self.node(id);
        (node.paused, node.paused_at) = (true, Some(now));
        self.note("pause", &[id.0, time], || format!("{id} for {} ms", time / MS));
        let at = self.now + time;
        self.at(at, Event::Cure(Cure::Resume(id)));
        for plane in Plane::ALL {
            for peer in self.options.nodes.clone().into_iter().filter(|p| *p != id) {
                self.check_later(plane, id, peer);
            }
        }
    }

    pub(super) fn check_later(&mut self, plane: Plane, a: NodeId, b: NodeId) {
        let at = self.now + self.net(plane).notice_delay(false);
        let generation = self.net(plane).generation(a, b);
        self.at(at, Event::ConnectionCheck(plane, a, b, generation));
    }

    fn start_net_fault(&mut self, kind: FaultKind, node: NodeId) {
        let peer = self.other_node(node);
        let others: Vec<NodeId> = self.options.nodes.iter().copied().filter(|n| *n != node).collect();
        let both = World::on_both_planes;
        let directions = match kind {
            FaultKind::ConnectionLoss => {
                let plane = Plane::ALL[index(self.rngs.faults.below(2))];
                if self.net(plane).is_up(node, peer) {
                    self.fired(kind);
                    self.break_connection(plane, node, peer, false);
                }
                return;
            }
            FaultKind::CorruptFrame => {
                self.net.corrupt_next = Some(node);
                return;
            }
            FaultKind::SlowLink => {
                self.fired(kind);
                let extra = self.span(MS, 300 * MS);
                Plane::ALL.iter().for_each(|plane| self.net(*plane).set_slow(node, peer, extra));
                let at = self.now + self.span(100 * MS, 4 * SECOND);
                self.at(at, Event::Cure(Cure::Link(node, peer)));
                return;
            }
            FaultKind::RaftReorder => {
                self.control_net.set_disordered(node, peer, true);
                let at = self.now + self.span(100 * MS, 4 * SECOND);
                return self.at(at, Event::Cure(Cure::Order(node, peer)));
            }
            FaultKind::ControlDown => self.control_directions(&self.options.nodes),
            FaultKind::RaftLeaderCutOff => {
                let leader: Vec<NodeId> = self.raft_leader().into_iter().collect();
                self.control_directions(&leader)
            }
            FaultKind::OneWay => both(&[(node, peer)]),
            FaultKind::Mute => both(&others.into_iter().map(|n| (node, n)).collect::<Vec<_>>()),
            FaultKind::Isolate => both(&others.into_iter().flat_map(|n| [(node, n), (n, node)]).collect::<Vec<_>>()),
            _ => both(&self.split()),
        };
        if directions.is_empty() {
            return;
        }
        self.fired(kind);
        self.hold_dead(kind, directions);
    }

    /// What is dead on both planes if these directions are.
    pub(super) fn on_both_planes(pairs: &[(NodeId, NodeId)]) -> Vec<(Plane, NodeId, NodeId)> {
        Plane::ALL.iter().flat_map(|plane| pairs.iter().map(|(a, b)| (*plane, *a, *b))).collect()
    }

    /// Directions are dead for a while.
    pub(super) fn hold_dead(&mut self, kind: FaultKind, directions: Vec<(Plane, NodeId, NodeId)>) {
        // Every cure is an event, so the next key is another one.
        let key = self.seq;
        for (plane, from, to) in &directions {
            self.net(*plane).kill_direction(*from, *to);
            self.check_later(*plane, *from, *to);
        }
        self.note("partition", &[key], || format!("{kind:?}: {directions:?}"));
        self.partitions.insert(key, directions);
        let at = self.now + self.span(20 * MS, 6 * SECOND);
        self.at(at, Event::Cure(Cure::Partition(key)));
    }

    /// Every direction between two random groups.
    fn split(&mut self) -> Vec<(NodeId, NodeId)> {
        let sides = self.rngs.faults.next_u64();
        let side = |n: NodeId| sides >> (n.0 % 64) & 1;
        let nodes = &self.options.nodes;
        nodes.iter().flat_map(|a| nodes.iter().map(|b| (*a, *b))).filter(|(a, b)| side(*a) != side(*b)).collect()
    }

    fn start_disk_fault(&mut self, kind: FaultKind, id: NodeId) {
        let errors = matches!(kind, FaultKind::WriteError | FaultKind::ReadError | FaultKind::SyncError);
        let failed = self.nodes.values().filter(|n| n.disk_failed || n.wiped || n.disk.fail_next.is_some()).count();
        if errors && 2 * (failed + 1) > self.nodes.len() {
            return;
        }
        let (now, time) = (self.now, self.span(50 * MS, 3 * SECOND));
        self.note("diskfault", &[id.0], || format!("{id}: {kind:?}"));
        let slowness = self.rngs.faults.range(5, 100);
        let disk = &mut self.node(id).disk;
        match kind {
            FaultKind::SlowDisk => disk.slowness = slowness,
            FaultKind::StalledDisk => disk.stalled_until = now + time,
            FaultKind::NoSpace => disk.no_space = true,
            _ => disk.fail_next = Some(kind),
        }
        let cure = match kind {
            FaultKind::SlowDisk => Cure::Disk(id),
            FaultKind::NoSpace => Cure::Space(id),
            FaultKind::StalledDisk => return self.fired(kind),
            // A node whose disk has failed stays out until its process is started anew.
            _ => Cure::Disk(id),
        };
        if kind == FaultKind::SlowDisk {
            self.fired(kind);
        }
        self.at(now + time, Event::Cure(cure));
    }

    /// An operator wants another primary.
    fn start_failover(&mut self, kind: FaultKind) -> Result<(), Violation> {
        let plan = self.options.volumes[index(self.rngs.faults.below(self.options.volumes.len() as u64))].clone();
        let Some(view) = self.checkers.control.view(plan.id) else { return Ok(()) };
        let (base, primary, busy) = (view.active.epoch, view.active.primary, view.nominee.is_some());
        let members = view.active.members.iter().map(|m| m.node);
        let able: Vec<NodeId> = members.filter(|m| Some(*m) != primary && !self.nodes[m].wiped).collect();
        if busy || primary.is_none() || able.is_empty() {
            return Ok(());
        }
        let node = able[index(self.rngs.faults.below(able.len() as u64))];
        let (volume, planned) = (plan.id, kind != FaultKind::ForcedFailover);
        self.propose(Wish::Nominate { kind, volume, base }, Command::Nominate { volume, node, base, planned })
    }

    pub(super) fn cure(&mut self, cure: Cure) -> Result<(), Violation> {
        let now = self.now;
        match cure {
            // Whoever was removed is let in by nobody.
            Cure::Restart { node, .. } if self.is_gone(node) || !self.options.nodes.contains(&node) => {}
            Cure::Restart { node, and_crash } => {
                self.start_node(node)?;
                if and_crash && self.settling.is_none() {
                    let at = now + self.rngs.faults.below(30 * MS);
                    let life = self.node(node).life;
                    self.at(at, Event::Cure(Cure::CrashAgain(node, life)));
                }
            }
            Cure::CrashAgain(node, life) => {
                if self.nodes[&node].life == life && self.nodes[&node].alive() && self.settling.is_none() {
                    self.crash(node)?;
                    self.at(now + 300 * MS, Event::Cure(Cure::Restart { node, and_crash: false }));
                }
            }
            Cure::Resume(node) => {
                let lease = self.lease();
                self.node(node).resume(now, lease);
                self.schedule_run(node);
                return self.resume_control(node);
            }
            Cure::Partition(key) => {
                for (plane, from, to) in self.partitions.remove(&key).unwrap_or_default() {
                    let sent = self.net(plane).revive_direction(from, to, now);
                    sent.into_iter().for_each(|(packet, at)| self.at(at, Event::Deliver(packet)));
                }
            }
            Cure::Link(from, to) => Plane::ALL.iter().for_each(|plane| self.net(*plane).set_slow(from, to, 0)),
            Cure::Order(from, to) => self.control_net.set_disordered(from, to, false),
            Cure::Disk(node) => {
                self.node(node).disk.slowness = 1;
                self.node(node).disk.fail_next = None;
                if self.nodes[&node].disk_failed && self.nodes[&node].alive() {
                    self.crash(node)?;
                    self.at(now + 200 * MS, Event::Cure(Cure::Restart { node, and_crash: false }));
                }
            }
            Cure::Space(node) => self.node(node).disk.no_space = false,
            Cure::Wide(cure) => return self.wide_cure(cure),
            Cure::Withdraw(volume, base) => {
                return self.propose(Wish::Withdraw, Command::ClearNominee { volume, base });
            }
        }
        Ok(())
    }
}
