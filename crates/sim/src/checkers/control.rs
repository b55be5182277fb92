//! The control plane from outside: one Raft leader per term, equal states at equal indexes, S14 and S21 on what nodes know
//! and on what their copies are told.
//!
//! Nothing here relies on the asserts of the state machine: what a volume's configuration was before is remembered here.

use super::Violation;
use holdfast_cluster::State;
use holdfast_node::LocalView;
use holdfast_types::{Configuration, Epoch, NodeId, Pending, VolumeId, VolumeView};
use std::collections::{BTreeMap, BTreeSet};

/// An epoch became active.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Activation {
    pub(crate) volume: VolumeId,
    pub(crate) epoch: Epoch,
    pub(crate) primary: NodeId,
}

/// What was ever decided about one volume.
#[derive(Debug, Default)]
struct History {
    claims: BTreeMap<Epoch, Pending>,
    active: BTreeMap<Epoch, Configuration>,
}

#[derive(Debug, Default)]
pub(crate) struct Control {
    leaders: BTreeMap<u64, NodeId>,
    /// Digest of the state after each index that some node stood at.
    states: BTreeMap<u64, u64>,
    histories: BTreeMap<VolumeId, History>,
    newest: u64,
    views: BTreeMap<VolumeId, VolumeView>,
    /// Active and highest epoch that the present life of a node was told of.
    told: BTreeMap<(NodeId, VolumeId), (Epoch, Epoch)>,
}

impl Control {
    /// A volume as whoever has applied most knows it.
    pub(crate) fn view(&self, volume: VolumeId) -> Option<&VolumeView> {
        self.views.get(&volume)
    }

    /// A node takes itself for the leader.
    pub(crate) fn leads(&mut self, term: u64, node: NodeId) -> Result<(), Violation> {
        let first = *self.leaders.entry(term).or_insert(node);
        if first == node {
            return Ok(());
        }
        Err(Violation::new("one leader", format!("{first} and {node} both lead the control plane in term {term}")))
    }

    /// A node has applied the log up to `index`: which epochs became active that nobody knew of.
    pub(crate) fn applied(&mut self, node: NodeId, index: u64, state: &State) -> Result<Vec<Activation>, Violation> {
        let digest = digest(&state.encode());
        let first = *self.states.entry(index).or_insert(digest);
        if first != digest {
            let text = format!("the state of {node} at index {index} is another one than its peers have there");
            return Err(Violation::new("equal states", text));
        }
        let mut activations = Vec::new();
        for view in state.volumes.keys().filter_map(|v| state.view(*v)) {
            let history = self.histories.entry(view.volume).or_default();
            if let Some(primary) = history.look(&view)? {
                activations.push(Activation { volume: view.volume, epoch: view.active.epoch, primary });
            }
            if index >= self.newest {
                self.views.insert(view.volume, view);
            }
        }
        self.newest = self.newest.max(index);
        Ok(activations)
    }

    /// A process started: it may be told what was true before.
    pub(crate) fn started(&mut self, node: NodeId) {
        self.told.retain(|(n, _), _| *n != node);
    }

    /// A node's copies are told something.
    pub(crate) fn told(&mut self, node: NodeId, local: &LocalView) -> Result<(), Violation> {
        for view in &local.views {
            let active = view.active.epoch;
            let highest = view.pending.as_ref().map_or(active, |p| p.configuration.epoch);
            let before = self.told.insert((node, view.volume), (active, highest)).unwrap_or_default();
            if active < before.0 || highest < before.1 {
                let text = format!(
                    "the copy of {} at {node} is told of {active} and {highest} after {} and {}",
                    view.volume, before.0, before.1
                );
                return Err(Violation::new("S14", text));
            }
        }
        Ok(())
    }
}

impl History {
    /// Compares one view with all that was seen; the primary, if its active epoch is new.
    fn look(&mut self, view: &VolumeView) -> Result<Option<NodeId>, Violation> {
        let id = view.volume;
        if let Some(pending) = &view.pending {
            let claim = self.claims.entry(pending.configuration.epoch).or_insert_with(|| pending.clone());
            if claim != pending {
                return Err(Violation::new(
                    "S14",
                    format!("{id}: one epoch for two claims: {claim:?} and {pending:?}"),
                ));
            }
        }
        let active = &view.active;
        if let Some(known) = self.active.get(&active.epoch) {
            if known != active {
                let text = format!("{id}: one epoch with two configurations: {known:?} and {active:?}");
                return Err(Violation::new("S21", text));
            }
            return Ok(None);
        }
        let last = self.active.last_key_value().map(|(_, c)| c.clone());
        self.active.insert(active.epoch, active.clone());
        let Some(last) = last else { return self.founded(view) };
        if active.epoch < last.epoch {
            let text = format!("{id}: {} was never active when {} became so", active.epoch, last.epoch);
            return Err(Violation::new("S14", text));
        }
        self.succeeds(id, &last, active)
    }

    fn founded(&self, view: &VolumeView) -> Result<Option<NodeId>, Violation> {
        let (epoch, primary) = (view.active.epoch, view.active.primary);
        if epoch == Epoch::ZERO && primary.is_none() {
            return Ok(None);
        }
        Err(Violation::new("S21", format!("{}: its first configuration is that of {epoch}", view.volume)))
    }

    /// Compare-and-swap: the successor was claimed on exactly this base, by one of its members, and what decides in it
    /// meets what was fenced in the base.
    fn succeeds(&self, id: VolumeId, last: &Configuration, next: &Configuration) -> Result<Option<NodeId>, Violation> {
        let wrong = |what: String| Violation::new("S21", format!("{id}: {} after {}: {what}", next.epoch, last.epoch));
        let Some(claim) = self.claims.get(&next.epoch) else {
            return Err(wrong("active, and nobody ever knew of a claim".to_owned()));
        };
        if claim.base != last.epoch || claim.configuration != *next {
            return Err(wrong(format!("what became active is not what was claimed: {claim:?}, {next:?}")));
        }
        let Some(primary) = next.primary.filter(|p| last.member(*p).is_some()) else {
            return Err(wrong(format!("its primary {:?} was no member", next.primary)));
        };
        let all: BTreeSet<NodeId> = last.members.iter().chain(&next.members).map(|m| m.node).collect();
        let fence = last.members.len() + 1 - usize::from(last.write_quorum);
        if fence + usize::from(next.write_quorum) <= all.len() {
            return Err(wrong(format!("a write quorum may miss who was fenced: {last:?}, {next:?}")));
        }
        Ok(Some(primary))
    }
}

fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01B3))
}
