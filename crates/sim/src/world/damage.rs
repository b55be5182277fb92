//! Damage to what disks hold, within the atlas.

use super::storm::Cure;
use super::wide::WideCure;
use super::{Event, World};
use crate::checkers::Violation;
use crate::disk::{Disk, Snapshot};
use crate::faults::FaultKind;
use crate::log::{MS, SECOND};
use crate::options::index;
use holdfast_types::{NodeId, Positions, VolumeId};
use std::collections::BTreeSet;

impl World {
    pub(super) fn start_damage(&mut self, kind: FaultKind, node: NodeId) -> Result<(), Violation> {
        let volumes: Vec<VolumeId> =
            self.options.volumes.iter().filter(|v| v.members.contains(&node)).map(|v| v.id).collect();
        if volumes.is_empty() {
            return Ok(());
        }
        let volume = volumes[index(self.rngs.faults.below(volumes.len() as u64))];
        match kind {
            FaultKind::RotImage => self.rot_block(node, volume),
            // Read once more, and right then.
            FaultKind::MisdirectedRead => self.node(node).disk.arm_image(kind),
            FaultKind::ReadFlip if self.rngs.faults.chance(500_000) => self.node(node).disk.arm_image(kind),
            _ if !self.atlas.may_hurt(node) => {}
            // A volume is formed of all its copies; with one hurt before, an operator makes it again. Nothing was promised yet.
            _ if self.atlas.asks_liveness() && volumes.iter().any(|v| self.checkers.control.view(*v).is_none()) => {}
            // A copy does not start on tables that its superblock does not vouch for.
            FaultKind::RotJournal | FaultKind::RotSuperblock | FaultKind::RotBlockTable | FaultKind::RotRegionTable => {
                self.rot(kind, node, volume)
            }
            FaultKind::DiskRollback | FaultKind::SuperblockRollback => {
                let snapshot = self.nodes[&node].disk.snapshot();
                self.snapshots.entry(node).or_insert(snapshot);
                self.cure_after(50 * MS, 3 * SECOND, WideCure::RollBack(kind, node, volume, 8));
            }
            _ => {
                self.note("arm", &[node.0], || format!("{node}: {kind:?}"));
                self.atlas.hurt(node);
                self.node(node).disk.arm(kind);
            }
        }
        Ok(())
    }

    /// What was armed and has fired since.
    pub(super) fn count_damage(&mut self, node: NodeId) {
        for kind in self.node(node).disk.take_fired() {
            self.fired(kind);
            self.note("damage", &[node.0], || format!("{node}: {kind:?}"));
        }
    }

    fn rot(&mut self, kind: FaultKind, node: NodeId, volume: VolumeId) {
        let mut rng = self.rngs.faults.fork();
        if self.node(node).disk.rot(kind, volume, &mut rng, |_| false) {
            self.rotted(kind, node, volume);
            self.atlas.hurt(node);
        }
    }

    fn rotted(&mut self, kind: FaultKind, node: NodeId, volume: VolumeId) {
        self.fired(kind);
        self.note("damage", &[node.0, volume.0], || format!("{node} {volume}: {kind:?}"));
    }

    fn rot_block(&mut self, node: NodeId, volume: VolumeId) {
        let mut rng = self.rngs.faults.fork();
        let blocks = self.nodes[&node].disk.content(holdfast_store::io::FileId::Image(volume)).map_or(0, <[u8]>::len);
        let blocks = blocks.div_ceil(holdfast_types::BLOCK_SIZE) as u64;
        let (nodes, atlas) = (&self.nodes, &self.atlas);
        let behind = &self.behind(volume);
        let damaged = |block: u64| {
            move |n: NodeId| behind.contains(&n) || nodes[&n].disk.damage().covers(volume, block, block + 1)
        };
        let spared: Vec<bool> = (0..blocks).map(|b| !atlas.may_rot(node, volume, damaged(b))).collect();
        let spare = |b: u64| spared.get(index(b)).copied().unwrap_or(true);
        if self.node(node).disk.rot(FaultKind::RotImage, volume, &mut rng, spare) {
            self.rotted(FaultKind::RotImage, node, volume);
        }
    }

    /// What was kept comes back, once the atlas allows it.
    pub(super) fn roll_back(
        &mut self,
        kind: FaultKind,
        node: NodeId,
        volume: VolumeId,
        left: u64,
    ) -> Result<(), Violation> {
        let Some(snapshot) = self.snapshots.remove(&node) else { return Ok(()) };
        if self.settling.is_some() || !self.atlas.may_hurt(node) {
            return Ok(());
        }
        let whole = kind == FaultKind::DiskRollback;
        if !self.nodes[&node].alive() || (whole && !self.others_hold_everything(node)) {
            if left > 0 {
                self.snapshots.insert(node, snapshot);
                self.cure_after(50 * MS, SECOND, WideCure::RollBack(kind, node, volume, left - 1));
            }
            return Ok(());
        }
        self.crash(node)?;
        let at = self.now + self.span(10 * MS, SECOND);
        self.at(at, Event::Cure(Cure::Restart { node, and_crash: false }));
        if whole && self.same_promises(node, &snapshot) {
            self.rotted(kind, node, volume);
            self.atlas.hurt(node);
            self.node(node).disk.roll_back(snapshot);
            let _ = self.node(node).disk.crash(&mut Vec::new());
            let records = self.nodes[&node].disk.records();
            self.checkers.forgot(node);
            self.checkers.durable(node, &records);
        } else if !whole && self.shows_in_journal(node, volume, &snapshot) {
            self.rotted(kind, node, volume);
            self.atlas.hurt(node);
            self.node(node).disk.roll_back_superblock(&snapshot, volume);
        }
        Ok(())
    }

    /// Who can't be relied upon for the newest content of a block: it does not run, or lacks a record that is committed.
    fn behind(&self, volume: VolumeId) -> BTreeSet<NodeId> {
        let all: Vec<_> = self.nodes.keys().map(|n| (*n, self.positions(*n, volume))).collect();
        let committed = all.iter().filter_map(|(_, p)| p.as_ref()).map(|p| p.committed).max();
        let has_all = |p: &Positions| Some(p.durable) >= committed;
        all.iter().filter(|(_, p)| !p.as_ref().is_some_and(has_all)).map(|(n, _)| *n).collect()
    }

    /// Of a copy that runs.
    fn positions(&self, node: NodeId, volume: VolumeId) -> Option<Positions> {
        let rows = self.nodes[&node].shard.as_ref()?.rows();
        rows.into_iter().find(|r| r.volume == volume)?.status.map(|s| s.positions)
    }

    /// A disk that comes back as it was lost records that it had acknowledged, under its old identity (S20), and nothing
    /// remembers what it had acknowledged (trap 16). A quorum masks that only while all other members hold all of it.
    fn others_hold_everything(&self, node: NodeId) -> bool {
        let durable = |n: NodeId, v: VolumeId| self.positions(n, v).map(|p| p.durable);
        self.options.volumes.iter().filter(|v| v.members.contains(&node)).all(|v| {
            let mine = durable(node, v.id);
            let others = v.members.iter().filter(|m| **m != node);
            mine.is_some() && others.into_iter().all(|m| !self.atlas.is_hurt(*m) && durable(*m, v.id) >= mine)
        })
    }

    /// A promise that is forgotten shows nowhere either.
    fn same_promises(&self, node: NodeId, snapshot: &Snapshot) -> bool {
        let now = self.nodes[&node].disk.files();
        self.options.volumes.iter().filter(|v| v.members.contains(&node)).all(|v| {
            let said = |files| Disk::superblock(files, v.id).map(|sb| (sb.promised, sb.table));
            said(now).is_some() && said(now) == said(&snapshot.files)
        })
    }

    /// An old superblock shows if the journal holds records of an epoch that it does not know. If all that it forgot is a
    /// checkpoint, the journal either still leads on from the older one or shows the gap.
    fn shows_in_journal(&self, node: NodeId, volume: VolumeId, snapshot: &Snapshot) -> bool {
        let disk = &self.nodes[&node].disk;
        let (Some(old), Some(new)) =
            (Disk::superblock(&snapshot.files, volume), Disk::superblock(disk.files(), volume))
        else {
            return false;
        };
        let same = (old.promised, &old.table) == (new.promised, &new.table);
        let shows = |(epoch, lsn)| epoch > old.promised || (same && lsn > old.checkpoint);
        old.incarnation == new.incarnation && disk.journal_reaches(volume).is_some_and(shows)
    }
}
