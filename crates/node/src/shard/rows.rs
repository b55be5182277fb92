//! The copies at a glance.

use super::Shard;
use holdfast_replication::{CopyStatus, LogEnd, Replica};
use holdfast_store::Space;
use holdfast_types::{Epoch, Incarnation, VolumeId};
use std::collections::BTreeSet;

/// One copy at a glance, for heartbeats and status.
#[derive(Clone, Debug)]
pub struct CopyRow {
    /// The volume.
    pub volume: VolumeId,
    /// Role and positions; `None` while it has none (not opened, or not the registered copy).
    pub status: Option<CopyStatus>,
    /// Digest of the image at `status.positions.applied`.
    pub digest: u64,
    /// Why the copy takes no part, if it does not.
    pub failed: Option<String>,
    /// Whether its file system has room for it.
    pub space: Space,
    /// What the device has not answered for too long.
    pub hung: Option<String>,
    /// Given up by a forced recovery: its on-disk state, and where its log ended.
    pub aside: Option<(Incarnation, LogEnd)>,
    /// Its orphans: at the adoption of which epoch they were cut, and their bytes.
    pub orphans: Vec<(Epoch, u64)>,
}

impl CopyRow {
    /// A copy that can't say anything.
    fn mute(volume: VolumeId, failed: Option<String>, space: Space) -> CopyRow {
        CopyRow { volume, status: None, digest: 0, failed, space, hung: None, aside: None, orphans: Vec::new() }
    }
}

impl Shard {
    /// The copies at a glance, by volume. Volumes whose copy is missing have a row that says so.
    #[must_use]
    pub fn rows(&self) -> Vec<CopyRow> {
        let mut rows: Vec<CopyRow> = Vec::new();
        for (volume, copy) in &self.copies {
            let failed = self.shard_failed.clone().or_else(|| copy.failed.clone());
            let status = copy.replica.as_ref().map(Replica::status);
            let hung = if failed.is_some() { None } else { self.hung(*volume) };
            rows.push(CopyRow {
                volume: *volume,
                status,
                digest: copy.digest,
                failed,
                space: self.space(*volume),
                hung,
                aside: copy.aside.clone().map(|end| (copy.opened.incarnation, end)),
                orphans: self.store.orphans(*volume),
            });
        }
        rows.extend(self.broken.iter().map(|(volume, why)| CopyRow::mute(*volume, Some(why.clone()), Space::Enough)));
        rows.extend(
            self.opening.iter().map(|volume| CopyRow::mute(*volume, self.shard_failed.clone(), self.space(*volume))),
        );
        // Whoever shows it says which volume: here it has no name.
        let unknown = |v: &VolumeId| !self.copies.contains_key(v) && !self.is_found(*v);
        if self.started {
            let why = "this node should hold a copy and has none: its disk was wiped or replaced; replace the copy";
            let wiped = self.local.views.iter().map(|v| v.volume).filter(unknown);
            rows.extend(wiped.map(|v| CopyRow::mute(v, Some(why.to_owned()), Space::Enough)));
        } else if let Some(why) = &self.shard_failed {
            // What is wanted is not done either, and whoever waits for it hears why.
            let create = self.local.create.iter().map(|(v, _)| *v);
            let wanted =
                self.local.views.iter().map(|v| v.volume).chain(create).chain(self.local.delete.iter().copied());
            let wanted: BTreeSet<VolumeId> = wanted.filter(unknown).collect();
            rows.extend(wanted.into_iter().map(|v| CopyRow::mute(v, Some(why.clone()), Space::Enough)));
        }
        rows
    }
}
