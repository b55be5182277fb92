//! After the storm: everything heals, and the cluster must become healthy within a bounded time.

use super::storm::Cure;
use super::{Event, World};
use crate::checkers::Violation;
use crate::faults::FaultKind;
use crate::log::{MS, SECOND};
use crate::net::Plane;
use holdfast_types::{Lsn, NodeId, Speaks, VolumeId};

/// Requests of a client that remain for the time after the storm.
const LEFT: u64 = 20;

impl World {
    pub(super) fn settle(&mut self) -> Result<(), Violation> {
        self.settling = Some(self.now);
        self.note("settle", &[], || "everything heals".to_owned());
        self.end_of_losses()?;
        self.end_of_lost_voters();
        let keys: Vec<u64> = self.partitions.keys().copied().collect();
        for key in keys {
            self.cure(Cure::Partition(key))?;
        }
        self.net.corrupt_next = None;
        for id in self.options.nodes.clone() {
            for peer in self.options.nodes.clone() {
                Plane::ALL.iter().for_each(|plane| self.net(*plane).set_slow(id, peer, 0));
                self.control_net.set_disordered(id, peer, false);
                self.unclog(id, peer);
            }
            self.heal_node(id)?;
        }
        self.clients.iter_mut().for_each(|c| c.left = c.left.min(LEFT));
        self.at(self.now + 100 * MS, Event::Health);
        Ok(())
    }

    fn heal_node(&mut self, id: NodeId) -> Result<(), Violation> {
        let now = self.now;
        self.calm_disk(id);
        self.node(id).disk.disarm();
        let node = self.node(id);
        node.disk.no_space = false;
        node.lag = 0;
        if node.paused {
            self.cure(Cure::Resume(id))?;
        }
        let old = self.nodes[&id].speaks != Speaks::THIS;
        if self.nodes[&id].alive() && (self.nodes[&id].disk_failed || old) {
            self.crash(id)?;
        }
        self.install(id, Speaks::THIS);
        if !self.nodes[&id].alive() {
            self.at(now + 10 * MS, Event::Cure(Cure::Restart { node: id, and_crash: false }));
        }
        Ok(())
    }

    pub(super) fn check_health(&mut self) -> Result<(), Violation> {
        let since = self.settling.expect("health is asked for after the storm");
        let idle = self.clients.iter().all(crate::guest::Client::is_idle);
        let sick = self.sickness();
        if let (true, None) = (idle, &sick) {
            return self.verify();
        }
        let bound = self.options.heal_bound;
        let sealed = self.options.volumes.iter().any(|v| self.is_sealed(v.id));
        if self.now - since > bound && sealed {
            // Who counted is not known any more: as declared, only a person can say.
            self.fired(FaultKind::SealedByRecovery);
            self.verified = true;
            return Ok(());
        }
        if self.now - since > bound && !self.atlas.asks_liveness() {
            // Closed for good, or waiting for what is lost: as declared.
            self.verified = true;
            return Ok(());
        }
        if self.now - since > bound {
            let why = sick.unwrap_or_else(|| "guests still wait for answers".to_owned());
            let text = format!("{} s after everything healed: {why}; {}", bound / SECOND, self.describe());
            return Err(Violation::new("liveness", text));
        }
        self.at(self.now + 100 * MS, Event::Health);
        Ok(())
    }

    /// First every sector is read through the primaries, then the images are compared with the committed log.
    fn verify(&mut self) -> Result<(), Violation> {
        let mut reading = false;
        for plan in self.options.volumes.clone() {
            let size = self.checkers.volume(plan.id).committed.size().size;
            let client = self.clients.iter_mut().find(|c| c.volume == plan.id).expect("every volume has a client");
            if client.verifying.is_none() {
                client.size = size;
                client.verifying = Some(0);
                reading = true;
            }
        }
        if reading {
            self.at(self.now + 20 * MS, Event::Health);
            return Ok(());
        }
        for plan in self.options.volumes.clone() {
            self.checkers.volume(plan.id).committed.settle_deferred()?;
            self.judge_receipts(plan.id)?;
        }
        for id in self.options.nodes.clone() {
            if !self.atlas.is_hurt(id) && !self.options.may_lag {
                self.look_at_images(id, true)?;
            }
        }
        self.verified = true;
        Ok(())
    }

    /// Why the cluster is not healthy, if it is not.
    fn sickness(&mut self) -> Option<String> {
        let volumes: Vec<VolumeId> = self.options.volumes.iter().map(|v| v.id).collect();
        let sick = volumes.into_iter().find_map(|v| {
            self.volume_sickness(v)
                .or_else(|| self.members_sickness(v))
                .or_else(|| self.drain_sickness(v))
                .or_else(|| self.size_sickness(v))
                .or_else(|| self.receipts_sickness(v))
        });
        sick.or_else(|| self.control_sickness()).or_else(|| self.version_sickness())
    }

    fn volume_sickness(&mut self, id: VolumeId) -> Option<String> {
        let last = self.checkers.volume(id).committed.last();
        let Some(view) = self.checkers.control.view(id) else { return Some(format!("{id} was never formed")) };
        let Some(primary) = view.active.primary else { return Some(format!("{id} was never opened")) };
        if self.nodes[&primary].serving.get(&id) != Some(&view.active.epoch) {
            return Some(format!("{primary} does not serve {id} in {}", view.active.epoch));
        }
        let members: Vec<NodeId> =
            view.active.members.iter().map(|m| m.node).filter(|n| !self.nodes[n].wiped).collect();
        let sick: Vec<String> = members.iter().filter_map(|n| self.copy_sickness(id, *n, last)).collect();
        let needed = usize::from(view.active.write_quorum);
        // What a copy lacks, the journal of a hurt one may have held alone.
        let may_lag = self.options.may_lag || members.iter().any(|n| self.atlas.is_hurt(*n));
        let enough = if may_lag { members.len() - sick.len() >= needed } else { sick.is_empty() };
        (!enough).then(|| sick.join(", "))
    }

    fn copy_sickness(&self, id: VolumeId, node: NodeId, last: Lsn) -> Option<String> {
        let rows = self.nodes[&node].shard.as_ref().map(|s| s.rows()).unwrap_or_default();
        let Some(row) = rows.into_iter().find(|r| r.volume == id) else {
            return Some(format!("{node} has no copy of {id}"));
        };
        let Some(status) = row.status else {
            return Some(format!("the copy of {id} at {node} takes no part: {:?}", row.failed));
        };
        if self.nodes[&node].shard.as_ref().is_some_and(|s| s.storage().is_merging(id)) {
            return Some(format!("the copy of {id} at {node} moves regions to its image"));
        }
        let p = status.positions;
        let even = [p.applied, p.committed, p.durable, p.received].iter().all(|lsn| *lsn == last);
        (!status.in_epoch || !even).then(|| format!("the copy of {id} at {node} is at {p:?} of {last}: {status:?}"))
    }

    /// The state of everything in a line, for a violation's text.
    pub(super) fn describe(&self) -> String {
        let mut parts = Vec::new();
        for plan in &self.options.volumes {
            parts.push(format!("{:?}", self.checkers.control.view(plan.id)));
        }
        for node in self.nodes.values() {
            let rows = node.shard.as_ref().map(|s| s.rows()).unwrap_or_default();
            parts.push(format!(
                "{} life {} wiped {} serving {:?}: {rows:?}, {:?}",
                node.id,
                node.life,
                node.wiped,
                node.serving,
                node.control.as_ref().map(|c| c.raft_status())
            ));
        }
        let waiting: usize = self.clients.iter().filter_map(|c| c.session.as_ref()).map(|s| s.pending.len()).sum();
        parts.push(format!("{waiting} requests wait"));
        parts.join(" | ")
    }
}
