//! The fault atlas: which copies may be damaged, so that a run stays within what the promises cover.
//!
//! A copy is *hurt* once its log, superblock or image may not be what was written. A volume bears so many hurt copies that
//! fewer than W lost anything (S1), that W whole ones are left to write to, and that R whole ones are left to open with.
//! Single blocks rot more freely: what is asked is one whole copy of each. A run that is declared as one of losses may
//! hurt everything that shows: it must end in honest errors or closed volumes, never in wrong data.

use crate::faults::Declared;
use crate::options::VolumePlan;
use holdfast_types::{NodeId, VolumeId};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
struct Copies {
    members: Vec<NodeId>,
    /// Copies that may be hurt.
    bearable: usize,
    hurt: BTreeSet<NodeId>,
}

/// What may be damaged, and what is.
#[derive(Debug)]
pub(crate) struct Atlas {
    volumes: BTreeMap<VolumeId, Copies>,
    unbound: bool,
}

impl Atlas {
    /// `may_lag`: a copy may be lost without a fault of its own, so that none can be spared.
    pub(crate) fn new(plans: &[VolumePlan], declared: Declared, may_lag: bool) -> Atlas {
        let copies = |plan: &VolumePlan| {
            let (n, w) = (plan.members.len(), usize::from(plan.write_quorum));
            let bearable = if may_lag { 0 } else { (w - 1).min(n - w) };
            Copies { members: plan.members.clone(), bearable, hurt: BTreeSet::new() }
        };
        let volumes = plans.iter().map(|p| (p.id, copies(p))).collect();
        Atlas { volumes, unbound: declared == Declared::Losses }
    }

    /// Whether all copies at a node may be hurt, or are.
    pub(crate) fn may_hurt(&self, node: NodeId) -> bool {
        let bears = |c: &Copies| c.hurt.contains(&node) || c.hurt.len() < c.bearable;
        self.unbound || self.volumes.values().filter(|c| c.members.contains(&node)).all(bears)
    }

    pub(crate) fn hurt(&mut self, node: NodeId) {
        for copies in self.volumes.values_mut().filter(|c| c.members.contains(&node)) {
            copies.hurt.insert(node);
        }
    }

    /// Its copies were made anew.
    pub(crate) fn healed(&mut self, node: NodeId) {
        for copies in self.volumes.values_mut() {
            copies.hurt.remove(&node);
        }
    }

    pub(crate) fn is_hurt(&self, node: NodeId) -> bool {
        self.volumes.values().any(|c| c.hurt.contains(&node))
    }

    /// Whether a block at a node may rot: not if it is the last whole one. `damaged` says which copies of it are already.
    pub(crate) fn may_rot(&self, node: NodeId, volume: VolumeId, damaged: impl Fn(NodeId) -> bool) -> bool {
        let copies = &self.volumes[&volume];
        let whole = |m: &NodeId| *m != node && !copies.hurt.contains(m) && !damaged(*m);
        self.unbound || copies.members.iter().any(whole)
    }

    /// Whether the run must become healthy.
    pub(crate) const fn asks_liveness(&self) -> bool {
        !self.unbound
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_types::{Durability, VolumeSize};

    fn atlas(copies: u64, write_quorum: u8, declared: Declared) -> Atlas {
        let members = (1..=copies).map(NodeId).collect();
        let size = VolumeSize::new(4096).unwrap();
        let plan = VolumePlan {
            id: VolumeId(1),
            size,
            members,
            write_quorum,
            durability: Durability::Sync,
            degraded: None,
            clients: 1,
            first_primary: NodeId(1),
        };
        Atlas::new(&[plan], declared, false)
    }

    #[test]
    fn a_quorum_stays_whole() {
        for (copies, w, bearable) in [(2, 2, 0), (3, 2, 1), (3, 3, 0), (5, 3, 2), (5, 4, 1)] {
            let mut atlas = atlas(copies, w, Declared::Nothing);
            let hurt = (1..=copies).map(NodeId).filter(|n| {
                let may = atlas.may_hurt(*n);
                if may {
                    atlas.hurt(*n);
                }
                may
            });
            assert_eq!(hurt.count(), bearable, "{copies} copies, {w} to write");
        }
    }

    #[test]
    fn the_last_whole_block_is_spared() {
        let mut three = atlas(3, 2, Declared::Nothing);
        assert!(three.may_rot(NodeId(1), VolumeId(1), |n| n == NodeId(2)));
        three.hurt(NodeId(3));
        assert!(!three.may_rot(NodeId(1), VolumeId(1), |n| n == NodeId(2)));
        assert!(atlas(3, 3, Declared::Losses).may_hurt(NodeId(1)));
    }
}
