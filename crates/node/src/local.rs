//! What the control plane tells the shard that holds this node's copies.

use holdfast_types::{ClusterVersion, Epoch, GuestLimits, Incarnation, SocketAccess, VolumeId, VolumeSize, VolumeView};
use std::collections::BTreeMap;

/// The part of the control plane's state that concerns this node's copies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalView {
    /// Volumes of which this node is a member.
    pub views: Vec<VolumeView>,
    /// Copies that this node is to make and has not registered yet.
    pub create: Vec<(VolumeId, VolumeSize)>,
    /// Volumes whose copy here is to be removed.
    pub delete: Vec<VolumeId>,
    /// Which on-disk state of each copy counts.
    pub registered: BTreeMap<VolumeId, Incarnation>,
    /// Copies here that a forced recovery gave up.
    pub aside: BTreeMap<VolumeId, Aside>,
    /// The cluster's: what is written to the disk must be understood by an agent of that version, which may be put back.
    pub version: ClusterVersion,
    /// What the guests of each volume in `views` are granted, where that is not what is usual.
    pub grants: BTreeMap<VolumeId, Grant>,
}

// Lists are sorted by volume.
impl LocalView {
    /// The view of this volume, if this node is a member of it.
    #[must_use]
    pub fn view(&self, volume: VolumeId) -> Option<&VolumeView> {
        self.views.binary_search_by_key(&volume, |v| v.volume).ok().map(|at| &self.views[at])
    }

    /// Whether it says anything about this volume.
    pub(crate) fn names(&self, volume: VolumeId) -> bool {
        self.view(volume).is_some()
            || self.create.binary_search_by_key(&volume, |c| c.0).is_ok()
            || self.delete.binary_search(&volume).is_ok()
            || self.registered.contains_key(&volume)
            || self.aside.contains_key(&volume)
    }
}

/// What an operator grants the guests of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// How much they may ask for.
    pub limits: GuestLimits,
    /// Who may open its socket.
    pub socket: SocketAccess,
}

/// A copy that counts no more and is kept as evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aside {
    /// Its on-disk state.
    pub incarnation: Incarnation,
    /// The epoch that gave it up.
    pub epoch: Epoch,
    /// The control plane knows what it holds, so what was never committed may become an orphan.
    pub found: bool,
}
