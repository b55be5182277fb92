//! What the control plane tells the shard that holds this node's copies.

use holdfast_types::{Epoch, Incarnation, VolumeId, VolumeSize, VolumeView};
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
