//! Which nodes get the copies of a new volume, and which one gets a copy in place of another.

use crate::detector::Detector;
use crate::redundancy::has_room;
use crate::state::{Phase, State, Volume};
use holdfast_types::{NodeId, Time};
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

/// Chooses `copies` of the nodes in service that `alive` accepts: failure domains that hold no copy of it yet first, then the
/// nodes with the fewest copies, then the lowest id. The first one is to lead: of the chosen the one that leads the fewest volumes.
/// Fewer if there are not as many; the caller says so.
#[must_use]
pub fn placement(state: &State, copies: usize, alive: impl Fn(NodeId) -> bool) -> Vec<NodeId> {
    let load = load(state);
    let mut candidates: Vec<_> = state.nodes().filter(|n| n.takes_copies() && alive(n.id)).collect();
    let mut chosen = Vec::new();
    let mut domains: BTreeMap<&str, usize> = BTreeMap::new();
    while chosen.len() < copies {
        let rank = |i: &usize| {
            let node = candidates[*i];
            let together = domains.get(node.failure_domain.as_str()).copied().unwrap_or(0);
            (together, load.get(&node.id).copied().unwrap_or(0), node.id)
        };
        let Some(best) = (0..candidates.len()).min_by_key(rank) else { break };
        let node = candidates.remove(best);
        *domains.entry(node.failure_domain.as_str()).or_default() += 1;
        chosen.push(node.id);
    }
    let leads = leads(state.volumes());
    let least = (0..chosen.len()).min_by_key(|at| leads.get(&chosen[*at]).copied().unwrap_or(0));
    if let Some(least) = least {
        chosen.swap(0, least);
    }
    chosen
}

/// How many volumes each node leads, or is to lead.
pub(crate) fn leads<'a>(volumes: impl Iterator<Item = &'a Volume>) -> BTreeMap<NodeId, usize> {
    let mut leads: BTreeMap<NodeId, usize> = BTreeMap::new();
    for leader in volumes.filter_map(Volume::leader) {
        *leads.entry(leader).or_default() += 1;
    }
    leads
}

impl Detector {
    /// The node for a copy in place of the one on `old`: in service, answering, without a copy of the volume, with room for all of
    /// it and a file system that takes so long a file, as far as it has told. Of those a failure domain without another copy first, then the fewest copies, then the most room.
    ///
    /// # Errors
    /// There is none; why, for a person.
    pub(crate) fn spare(
        &self,
        state: &State,
        loads: &Loads,
        volume: &Volume,
        old: NodeId,
        now: Time,
    ) -> Result<NodeId, String> {
        let holders: BTreeSet<NodeId> = volume.holders().into_iter().collect();
        let stays: BTreeSet<NodeId> = match &volume.phase {
            Phase::Open { copies, .. } => copies.wanted.iter().copied().filter(|n| *n != old).collect(),
            Phase::Creating { .. } | Phase::Deleting { .. } => holders.clone(),
        };
        let domain = |n: &NodeId| state.node(*n).map(|n| n.failure_domain.as_str());
        let taken: Vec<&str> = stays.iter().filter_map(domain).collect();
        let free = |n: NodeId| self.free_bytes(n);
        let works = |n: NodeId| self.alive(n, now) && !self.has_failed(n);
        let able = state.nodes().filter(|n| n.takes_copies() && !holders.contains(&n.id) && works(n.id));
        let size = volume.size.bytes();
        let takes = |n: NodeId| self.takes_length(n, size).and_then(|()| has_room(free(n), size));
        let (roomy, full): (Vec<_>, Vec<_>) = able.partition(|n| takes(n.id).is_ok());
        let load = loads.of(state);
        let rank = |n: &&&crate::Node| {
            let together = taken.iter().filter(|d| **d == n.failure_domain).count();
            let copies = load.get(&n.id).copied().unwrap_or(0);
            (together, copies, std::cmp::Reverse(free(n.id).unwrap_or(0)), n.id)
        };
        if let Some(best) = roomy.iter().min_by_key(rank) {
            return Ok(best.id);
        }
        let why = full.iter().filter_map(|n| Some(format!("{} {}", n.name, takes(n.id).err()?)));
        let why: Vec<String> = why.collect();
        Err(if why.is_empty() {
            "no other node answers that is in service and has no copy of it; add a node, or bring one back".to_owned()
        } else {
            format!("no other node has room for it: {}", why.join(", "))
        })
    }
}

/// Copies on each node of a state: counted when somebody asks, and once for all volumes of a node that has gone.
#[derive(Default)]
pub(crate) struct Loads(OnceCell<BTreeMap<NodeId, usize>>);

impl Loads {
    fn of(&self, state: &State) -> &BTreeMap<NodeId, usize> {
        self.0.get_or_init(|| load(state))
    }
}

/// Copies on each node.
fn load(state: &State) -> BTreeMap<NodeId, usize> {
    let mut load: BTreeMap<NodeId, usize> = BTreeMap::new();
    for holder in state.volumes().flat_map(Volume::holders) {
        *load.entry(holder).or_default() += 1;
    }
    load
}

/// A number of bytes in the largest unit that leaves a whole part.
pub(crate) fn bytes(n: u64) -> String {
    let units = [(1_u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = units.into_iter().find(|(size, _)| n >= *size);
    unit.map_or_else(|| format!("{n} bytes"), |(size, name)| format!("{} {name}", n / size))
}
