//! Builds of two versions in one cluster: a node's process ends and comes back as a build that speaks more, or as the older one again.
//!
//! A world of two versions begins with old builds alone, and ends with new ones alone: then the cluster must be of the new version. An old
//! build where the cluster was raised refuses with a sentence; here the operator starts the new one again.

use super::storm::Cure;
use super::{Event, World};
use crate::checkers::Violation;
use crate::faults::FaultKind;
use crate::log::{MS, SECOND};
use holdfast_node::control::{Event as Happened, EventKind};
use holdfast_types::{ClusterVersion, NodeId, Speaks};

impl World {
    pub(super) fn change_build(&mut self, kind: FaultKind, id: NodeId) -> Result<(), Violation> {
        let speaks = if kind == FaultKind::Upgrade { Speaks::THIS } else { Speaks::UNTOLD };
        if !self.nodes[&id].alive() || self.nodes[&id].speaks == speaks {
            return Ok(());
        }
        self.fired(kind);
        self.note("build", &[id.0, u64::from(speaks.newest().0)], || {
            format!("{id} becomes a build that speaks {speaks}")
        });
        self.crash(id)?;
        self.install(id, speaks);
        let at = self.now + self.span(5 * MS, 2 * SECOND);
        self.at(at, Event::Cure(Cure::Restart { node: id, and_crash: false }));
        Ok(())
    }

    pub(super) fn install(&mut self, id: NodeId, speaks: Speaks) {
        let node = self.node(id);
        node.speaks = speaks;
        node.was_upgraded |= speaks == Speaks::THIS;
    }

    /// V1: nobody takes part in a cluster of a version that it does not speak.
    pub(super) fn speaks_what_is_agreed(&self, id: NodeId, agreed: ClusterVersion) -> Result<(), Violation> {
        let speaks = self.nodes[&id].speaks;
        if speaks.contains(agreed) {
            return Ok(());
        }
        let text = format!("{id} speaks {speaks} and goes on in a cluster of version {agreed}");
        Err(Violation::new("V1", text))
    }

    /// V3: what a node says of itself is read by everybody who speaks what the cluster speaks. One that was put back at the moment when
    /// the cluster was raised reads nothing until it hears of that, and ends (V1).
    pub(super) fn is_understood(&self, id: NodeId, event: &Happened) -> Result<(), Violation> {
        let states = self.nodes.values().filter_map(|n| n.control.as_ref()?.state());
        let speaks = states.map(|s| s.version).max().is_none_or(|agreed| self.nodes[&id].speaks.contains(agreed));
        if speaks && event.kind == EventKind::Version && event.message.contains("can't be read") {
            return Err(Violation::new("V3", format!("{id}: {}", event.message)));
        }
        if event.kind == EventKind::Defect {
            return Err(Violation::new("invariants", format!("{id}: {}", event.message)));
        }
        Ok(())
    }

    /// A node can't go on: an old build in the place of a new one, where the cluster was raised meanwhile. Every other reason is a defect.
    pub(super) fn gives_up(&mut self, id: NodeId, why: &str) -> Result<(), Violation> {
        let node = &self.nodes[&id];
        let put_back = node.was_upgraded && node.speaks != Speaks::THIS;
        if !put_back || !why.contains("there is no way back") {
            return Err(Violation::new("gave up", format!("the control plane of {id} can't go on: {why}")));
        }
        self.node(id).refused = true;
        Ok(())
    }

    /// Whoever refused to go on is started as the new build.
    pub(super) fn put_forward(&mut self, id: NodeId) -> Result<(), Violation> {
        if !std::mem::take(&mut self.node(id).refused) {
            return Ok(());
        }
        self.fired(FaultKind::DowngradeRefused);
        self.note("refused", &[id.0], || format!("{id} is too old for the cluster"));
        self.crash(id)?;
        self.install(id, Speaks::THIS);
        let at = self.now + 10 * MS;
        self.at(at, Event::Cure(Cure::Restart { node: id, and_crash: false }));
        Ok(())
    }

    /// Why the cluster is not of the version that everybody speaks.
    pub(super) fn version_sickness(&self) -> Option<String> {
        let (active, newest) = (self.checkers.control.version()?, Speaks::THIS.newest());
        (active != newest)
            .then(|| format!("every node speaks version {newest}, and the cluster is of version {active}"))
    }
}
