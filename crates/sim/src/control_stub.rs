//! A control plane in one place: linearizable, with a simple failure detector. It stands in for the Raft group, so that the
//! data plane's behaviour is searched without the price of consensus.
//!
//! Nodes learn its decisions late, twice, or (while they can't reach a majority) not at all; never in another order within
//! one life. A restarted node may first be told what was true before.

use crate::log::{Nanos, SECOND};
use crate::options::{Options, VolumePlan};
use holdfast_node::LocalView;
use holdfast_types::{
    Configuration, ControlRequest, Durability, Epoch, Incarnation, Life, Member, NodeId, Nominee, Pending, Rng,
    VolumeId, VolumeView,
};
use std::collections::BTreeMap;

/// One volume in the control plane.
#[derive(Clone, Debug)]
struct Volume {
    plan: VolumePlan,
    registered: BTreeMap<NodeId, Incarnation>,
    view: Option<VolumeView>,
    max_epoch: Epoch,
}

/// What the detector remembers of a volume.
#[derive(Clone, Debug, Default)]
struct Watch {
    suspected_since: Option<Nanos>,
    nominated_at: Nanos,
}

/// Everything decided.
#[derive(Clone, Debug, Default)]
struct State {
    volumes: BTreeMap<VolumeId, Volume>,
}

/// What a request changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Claimed { volume: VolumeId, epoch: Epoch, node: NodeId, life: Life },
    Activated { volume: VolumeId, epoch: Epoch, node: NodeId },
    Refused,
}

#[derive(Debug)]
pub(crate) struct ControlStub {
    /// Every state so far: nodes are told of some past one.
    history: Vec<State>,
    watches: BTreeMap<VolumeId, Watch>,
    repeated_claims_count: bool,
    /// Mutant: no compare-and-swap.
    pub(crate) careless: bool,
    rng: Rng,
}

impl ControlStub {
    pub(crate) fn new(options: &Options, rng: Rng) -> ControlStub {
        let volume = |plan: &VolumePlan| Volume {
            plan: plan.clone(),
            registered: BTreeMap::new(),
            view: None,
            max_epoch: Epoch::ZERO,
        };
        let volumes = options.volumes.iter().map(|p| (p.id, volume(p))).collect();
        let watches = options.volumes.iter().map(|p| (p.id, Watch::default())).collect();
        ControlStub {
            history: vec![State { volumes }],
            watches,
            repeated_claims_count: options.repeated_claims_count,
            careless: false,
            rng,
        }
    }

    /// Number of the newest state.
    pub(crate) fn version(&self) -> usize {
        self.history.len() - 1
    }

    pub(crate) fn view(&self, volume: VolumeId) -> Option<&VolumeView> {
        self.now().volumes[&volume].view.as_ref()
    }

    /// What state number `version` says to a node.
    pub(crate) fn local(&self, node: NodeId, version: usize) -> LocalView {
        let mut local = LocalView::default();
        for (id, volume) in &self.history[version].volumes {
            if !volume.plan.members.contains(&node) {
                continue;
            }
            match volume.registered.get(&node) {
                Some(incarnation) => {
                    local.registered.insert(*id, *incarnation);
                }
                None => local.create.push((*id, volume.plan.size)),
            }
            local.views.extend(volume.view.clone());
        }
        local
    }

    /// A node made its copy.
    pub(crate) fn copy_created(&mut self, node: NodeId, id: VolumeId, incarnation: Incarnation) {
        let first = self.rng.next_u64();
        self.change(|state| {
            let volume = state.volumes.get_mut(&id).expect("only planned volumes are made");
            volume.registered.entry(node).or_insert(incarnation);
            if volume.view.is_none() && volume.registered.len() == volume.plan.members.len() {
                volume.view = Some(opening_view(volume, first));
            }
        });
    }

    pub(crate) fn request(&mut self, node: NodeId, request: &ControlRequest) -> Decision {
        match *request {
            ControlRequest::Claim { volume, base, life } => self.claim(node, volume, base, life),
            ControlRequest::Activate { volume, epoch } => self.activate(node, volume, epoch),
        }
    }

    fn claim(&mut self, node: NodeId, id: VolumeId, base: Epoch, life: Life) -> Decision {
        let (careless, repeat) = (self.careless, self.repeated_claims_count);
        let Some(view) = self.view(id) else { return Decision::Refused };
        let wanted = match view.nominee.filter(|n| n.base == view.active.epoch) {
            Some(n) => n.node == node,
            None => view.active.primary == Some(node),
        };
        let repeated = view.pending.as_ref().is_some_and(|p| p.life == life && p.base == base);
        if view.active.epoch != base || !wanted || (repeated && !repeat) {
            return Decision::Refused;
        }
        let reuse = careless && view.pending.is_some();
        let mut epoch = Epoch::ZERO;
        self.change(|state| {
            let volume = state.volumes.get_mut(&id).expect("it has a view");
            if !reuse {
                volume.max_epoch = volume.max_epoch.next();
            }
            epoch = volume.max_epoch;
            let view = volume.view.as_mut().expect("checked above");
            let configuration = Configuration { epoch, primary: Some(node), ..view.active.clone() };
            view.pending = Some(Pending { configuration, base, life });
        });
        Decision::Claimed { volume: id, epoch, node, life }
    }

    fn activate(&mut self, node: NodeId, id: VolumeId, epoch: Epoch) -> Decision {
        let careless = self.careless;
        let Some(view) = self.view(id) else { return Decision::Refused };
        let pending =
            view.pending.clone().filter(|p| p.configuration.epoch == epoch && p.configuration.primary == Some(node));
        let configuration = match pending {
            Some(p) => p.configuration,
            None if careless => Configuration { epoch, primary: Some(node), ..view.active.clone() },
            None => return Decision::Refused,
        };
        self.change(|state| {
            let view = state.volumes.get_mut(&id).and_then(|v| v.view.as_mut()).expect("checked above");
            view.active = configuration;
            view.pending = None;
            view.nominee = None;
        });
        Decision::Activated { volume: id, epoch, node }
    }

    /// Wants another primary. `planned`: the old one is asked to let go first.
    pub(crate) fn nominate(&mut self, id: VolumeId, node: NodeId, planned: bool, now: Nanos) {
        self.change(|state| {
            if let Some(view) = state.volumes.get_mut(&id).and_then(|v| v.view.as_mut()) {
                view.nominee = Some(Nominee { node, base: view.active.epoch, planned });
            }
        });
        let watch = self.watches.get_mut(&id).expect("every volume is watched");
        (watch.nominated_at, watch.suspected_since) = (now, None);
    }

    /// Takes a wish back, unless there was no reign yet.
    pub(crate) fn withdraw(&mut self, id: VolumeId) {
        self.change(|state| {
            if let Some(view) = state.volumes.get_mut(&id).and_then(|v| v.view.as_mut()) {
                view.nominee = view.nominee.filter(|_| view.active.epoch == Epoch::ZERO);
            }
        });
    }

    /// The detector: `well` says which nodes could lead, `serves` whether a volume is open. Returns who was nominated.
    pub(crate) fn watch(
        &mut self,
        detect: Nanos,
        now: Nanos,
        well: impl Fn(VolumeId, NodeId) -> bool,
        serves: impl Fn(VolumeId, NodeId) -> bool,
    ) -> Vec<(VolumeId, NodeId)> {
        let ids: Vec<VolumeId> = self.now().volumes.keys().copied().collect();
        let mut nominated = Vec::new();
        for id in ids {
            let Some(view) = self.view(id) else { continue };
            let nominee = view.nominee.filter(|n| n.base == view.active.epoch).map(|n| n.node);
            let Some(leader) = nominee.or(view.active.primary) else { continue };
            let members: Vec<NodeId> = view.active.members.iter().map(|m| m.node).collect();
            let watch = self.watches.get_mut(&id).expect("every volume is watched");
            let fine = well(id, leader) && nominee.is_none_or(|n| serves(id, n)) && serves(id, leader);
            if fine {
                watch.suspected_since = None;
                continue;
            }
            let since = *watch.suspected_since.get_or_insert(now);
            // A leader that is there and does not get on is given more time than one that is gone.
            let patience = if well(id, leader) { 4 * SECOND } else { detect };
            if now - since < patience || now - watch.nominated_at < SECOND {
                continue;
            }
            let able: Vec<NodeId> = members.into_iter().filter(|m| *m != leader && well(id, *m)).collect();
            if !able.is_empty() {
                let node = able[crate::options::index(self.rng.below(able.len() as u64))];
                self.nominate(id, node, false, now);
                nominated.push((id, node));
            }
        }
        nominated
    }

    fn now(&self) -> &State {
        self.history.last().expect("there is a first state")
    }

    fn change(&mut self, f: impl FnOnce(&mut State)) {
        let mut state = self.now().clone();
        f(&mut state);
        self.history.push(state);
    }
}

fn opening_view(volume: &Volume, random: u64) -> VolumeView {
    let members: Vec<Member> = volume.registered.iter().map(|(n, i)| Member { node: *n, incarnation: *i }).collect();
    let first = members[crate::options::index(random % members.len() as u64)].node;
    VolumeView {
        volume: volume.plan.id,
        size: volume.plan.size,
        durability: Durability::Sync,
        active: Configuration { epoch: Epoch::ZERO, primary: None, members, write_quorum: volume.plan.write_quorum },
        pending: None,
        nominee: Some(Nominee { node: first, base: Epoch::ZERO, planned: false }),
    }
}
