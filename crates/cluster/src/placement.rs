//! Which nodes get the copies of a new volume.

use crate::state::State;
use holdfast_types::NodeId;
use std::collections::BTreeMap;

/// Chooses `copies` of the nodes that `alive` accepts: failure domains that hold no copy of it yet first, then the
/// nodes with the fewest copies, then the lowest id. Fewer if there are not as many; the caller says so.
#[must_use]
pub fn placement(state: &State, copies: usize, alive: impl Fn(NodeId) -> bool) -> Vec<NodeId> {
    let mut load: BTreeMap<NodeId, usize> = BTreeMap::new();
    for holder in state.volumes().flat_map(crate::Volume::holders) {
        *load.entry(holder).or_default() += 1;
    }
    let mut candidates: Vec<_> = state.nodes().filter(|n| alive(n.id)).collect();
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
    chosen
}
