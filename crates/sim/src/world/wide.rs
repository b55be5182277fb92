//! Faults beyond the first ones: clogged, swizzled and flapping links, grey and read-only disks, processes that end without
//! their host, late loops, pauses at the edge of a lease, and (in declared runs) clocks that no promise covers.

use super::storm::Cure;
use super::{Event, World};
use crate::checkers::Violation;
use crate::disk::Disk;
use crate::faults::FaultKind;
use crate::log::{MS, Nanos, SECOND, US};
use crate::net::Plane;
use holdfast_types::{NodeId, VolumeId};

/// The end of a fault.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WideCure {
    Clog(NodeId, NodeId),
    /// Breaks once more, so many times.
    Flap(NodeId, NodeId, u64),
    /// The disk is as it was; what was slow or stalled ends soon.
    Disk(NodeId),
    /// The file system is mounted anew, which takes a new process.
    Remount(NodeId),
    Loop(NodeId),
    /// An earlier state of a disk, or of a superblock on it, may come back; so many tries are left.
    RollBack(FaultKind, NodeId, VolumeId, u64),
}

impl World {
    pub(super) fn start_wide_fault(&mut self, kind: FaultKind, node: NodeId) -> Result<(), Violation> {
        match kind {
            FaultKind::Clog | FaultKind::Swizzle | FaultKind::Flap | FaultKind::Triangle => self.start_link(kind, node),
            FaultKind::GreyDisk | FaultKind::LongStall | FaultKind::ReadOnly => self.start_disk(kind, node),
            FaultKind::ProcessCrash => return self.process_crash(node),
            FaultKind::SlowLoop => {
                self.fired(kind);
                self.node(node).lag = self.span(5 * MS, 300 * MS);
                self.cure_after(50 * MS, 3 * SECOND, WideCure::Loop(node));
            }
            FaultKind::PauseBelowLease => {
                let time = self.lease() - self.span(100 * US, 20 * MS);
                self.pause_for(kind, node, time);
            }
            FaultKind::PauseAboveLease => {
                let time = self.lease() + self.span(100 * US, 20 * MS);
                self.pause_for(kind, node, time);
            }
            _ => self.start_clock(kind, node),
        }
        Ok(())
    }

    pub(super) fn cure_after(&mut self, from: Nanos, to: Nanos, cure: WideCure) {
        let at = self.now + self.span(from, to);
        self.at(at, Event::Cure(Cure::Wide(cure)));
    }

    fn start_link(&mut self, kind: FaultKind, node: NodeId) {
        let peer = self.other_node(node);
        match kind {
            FaultKind::Clog => {
                self.fired(kind);
                let bytes_per_ms = self.span(40, 8_000);
                Plane::ALL.iter().for_each(|plane| self.net(*plane).clog(node, peer, bytes_per_ms));
                self.note("clog", &[node.0, peer.0, bytes_per_ms], || format!("{node} to {peer}: {bytes_per_ms} B/ms"));
                self.cure_after(100 * MS, 5 * SECOND, WideCure::Clog(node, peer));
            }
            FaultKind::Swizzle => {
                self.fired(kind);
                for from in self.options.nodes.clone() {
                    for to in self.options.nodes.clone() {
                        if from != to && self.rngs.faults.chance(400_000) {
                            self.hold_dead(kind, World::on_both_planes(&[(from, to)]));
                        }
                    }
                }
            }
            FaultKind::Flap => {
                self.fired(kind);
                let times = self.rngs.faults.range(3, 12);
                self.flap(node, peer, times);
            }
            // Of two nodes nobody else is left who hears both.
            _ if self.options.nodes.len() < 3 => {}
            _ => {
                self.fired(kind);
                self.hold_dead(kind, World::on_both_planes(&[(node, peer), (peer, node)]));
            }
        }
    }

    fn flap(&mut self, node: NodeId, peer: NodeId, left: u64) {
        let at_once = self.rngs.faults.chance(500_000);
        Plane::ALL.iter().for_each(|plane| self.break_connection(*plane, node, peer, at_once));
        if left > 0 && self.settling.is_none() {
            self.cure_after(20 * MS, 500 * MS, WideCure::Flap(node, peer, left - 1));
        }
    }

    fn start_disk(&mut self, kind: FaultKind, node: NodeId) {
        let now = self.now;
        match kind {
            FaultKind::GreyDisk => {
                self.fired(kind);
                self.node(node).disk.slowness = 100;
                self.cure_after(SECOND, 8 * SECOND, WideCure::Disk(node));
            }
            FaultKind::LongStall => {
                self.fired(kind);
                self.node(node).disk.stalled_until = now + 30 * SECOND;
            }
            _ => {
                // Counted when a change meets it. The process that met it has failed for good (P8), so a quorum stays.
                let failed = self.nodes.values().filter(|n| n.disk_failed || n.wiped || n.disk.read_only).count();
                if 2 * (failed + 1) > self.nodes.len() {
                    return;
                }
                self.node(node).disk.read_only = true;
                self.cure_after(50 * MS, 3 * SECOND, WideCure::Remount(node));
            }
        }
        self.note("diskfault", &[node.0], || format!("{node}: {kind:?}"));
    }

    fn process_crash(&mut self, node: NodeId) -> Result<(), Violation> {
        if !self.nodes[&node].alive() {
            return Ok(());
        }
        self.fired(FaultKind::ProcessCrash);
        self.end_process(node, Disk::process_crash)?;
        let at = self.now + self.span(10 * MS, 3 * SECOND);
        self.at(at, Event::Cure(Cure::Restart { node, and_crash: false }));
        Ok(())
    }

    fn start_clock(&mut self, kind: FaultKind, node: NodeId) {
        if !self.nodes[&node].responsive() {
            return;
        }
        self.fired(kind);
        let lease = self.lease();
        let time = self.span(lease / 4, 4 * lease);
        self.note("clock", &[node.0, time], || format!("{node}: {kind:?} of {} ms", time / MS));
        if kind == FaultKind::ClockJump {
            self.node(node).clock.jump(time);
            self.schedule_wake(node);
            return;
        }
        // It can't notice how long it stood still: no `paused_at`.
        self.node(node).paused = true;
        self.node(node).frozen_since = Some(self.now);
        let at = self.now + time;
        self.at(at, Event::Cure(Cure::Resume(node)));
        for plane in Plane::ALL {
            for peer in self.options.nodes.clone().into_iter().filter(|p| *p != node) {
                self.check_later(plane, node, peer);
            }
        }
    }

    pub(super) fn wide_cure(&mut self, cure: WideCure) -> Result<(), Violation> {
        match cure {
            WideCure::Clog(from, to) => self.unclog(from, to),
            WideCure::Flap(node, peer, left) => self.flap(node, peer, left),
            WideCure::Disk(node) => self.calm_disk(node),
            WideCure::Remount(node) => {
                self.node(node).disk.read_only = false;
                if self.nodes[&node].disk_failed && self.nodes[&node].alive() {
                    self.crash(node)?;
                    let at = self.now + 200 * MS;
                    self.at(at, Event::Cure(Cure::Restart { node, and_crash: false }));
                }
            }
            WideCure::RollBack(kind, node, volume, left) => return self.roll_back(kind, node, volume, left),
            WideCure::Loop(node) => self.node(node).lag = 0,
        }
        Ok(())
    }

    /// A link passes everything again. What is queued for long is given up with the connection, as nodes would do.
    pub(super) fn unclog(&mut self, from: NodeId, to: NodeId) {
        let now = self.now;
        for plane in Plane::ALL.into_iter().filter(|_| from != to) {
            if self.net(plane).unclog(from, to, now) > SECOND {
                self.break_connection(plane, from, to, true);
            }
        }
    }

    /// A disk is well; what was slow or stalled on it ends soon.
    pub(super) fn calm_disk(&mut self, id: NodeId) {
        let now = self.now;
        let node = self.node(id);
        node.disk.calm();
        let life = node.life;
        for ticket in node.disk.under_way() {
            let at = now + self.rngs.schedule.below(5 * MS);
            self.at(at, Event::DiskDone(id, life, ticket));
        }
        for _ in 0..self.node(id).raft_disk.hurry() {
            let at = now + self.rngs.schedule.below(5 * MS);
            self.at(at, Event::RaftWritten(id, life));
        }
    }
}
