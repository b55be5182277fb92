//! What this node has told the others of its copies: from version 2 on they hear of changes alone, so that heartbeats grow with the
//! nodes and not with the volumes.
//!
//! A peer that comes up is told all, and how many changes there were; then each change by its number. A heartbeat without news
//! carries that number as well, so that whoever missed one asks for all.

use holdfast_cluster::{Changes, CopyReport, Heartbeat};
use holdfast_types::VolumeId;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub(super) struct Told {
    /// Changes so far.
    pub(super) number: u64,
    copies: BTreeMap<VolumeId, CopyReport>,
    space: (Option<u64>, Option<u64>),
}

impl Told {
    /// All that counts as told. Not what is so now: a peer could not tell that from the last change, and what has changed back by
    /// the next heartbeat would be news to nobody.
    pub(super) fn all(&mut self, own: &Heartbeat) -> Heartbeat {
        if self.number == 0 {
            // Nobody was told anything, so the peers that hear of a first change by its number alone ask.
            let _ = self.news(own);
        }
        let (free_bytes, longest_file) = self.space;
        let copies = self.copies.values().cloned().collect();
        Heartbeat { node: own.node, life: own.life, copies, free_bytes, longest_file }
    }

    /// What is news in `all`, which counts as told from then on. `None`: nothing.
    pub(super) fn news(&mut self, all: &Heartbeat) -> Option<Changes> {
        let space = (all.free_bytes, all.longest_file);
        let other = |copy: &&CopyReport| self.copies.get(&copy.volume) != Some(*copy);
        let copies: Vec<CopyReport> = all.copies.iter().filter(other).cloned().collect();
        let there: BTreeSet<VolumeId> = all.copies.iter().map(|c| c.volume).collect();
        let gone: Vec<VolumeId> = self.copies.keys().copied().filter(|v| !there.contains(v)).collect();
        if copies.is_empty() && gone.is_empty() && space == self.space {
            return None;
        }
        self.number += 1;
        self.space = space;
        gone.iter().for_each(|volume| drop(self.copies.remove(volume)));
        self.copies.extend(copies.iter().map(|copy| (copy.volume, copy.clone())));
        let Heartbeat { node, life, free_bytes, longest_file, .. } = *all;
        let of = Heartbeat { node, life, copies, free_bytes, longest_file };
        Some(Changes { of, number: self.number, gone })
    }
}
