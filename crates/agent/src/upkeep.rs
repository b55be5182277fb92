//! Wishes for copies: which nodes are told what.

use crate::admin::pb;
use crate::api::{no_volume, node_named, volume_named};
use crate::control::View;
use crate::random;
use holdfast_node::{Task, Upkeep};
use holdfast_types::NodeId;
use tonic::Status;

/// Of a scrub whose rate nobody chose.
const RATE: u64 = 100 << 20;

/// Who is told what.
pub(crate) type Wishes = Vec<(NodeId, Upkeep)>;

pub(crate) fn scrub(view: &View<'_>, r: &pb::ScrubRequest) -> Result<(Wishes, pb::ScrubResponse), Status> {
    let volume = volume_named(view, &r.volume)?;
    let holders = view.control.state().and_then(|s| s.volumes.get(&volume)).map(holdfast_cluster::Volume::holders);
    let mut nodes = holders.ok_or_else(|| no_volume(&r.volume))?;
    if !r.node.is_empty() {
        let node = node_named(view, &r.node)?;
        if !nodes.contains(&node) {
            return Err(Status::failed_precondition(format!("{} holds no copy of {}", r.node, r.volume)));
        }
        nodes = vec![node];
    }
    let silent: Vec<String> = nodes.iter().filter(|n| !view.alive(**n)).map(|n| view.name(*n)).collect();
    if silent.len() == nodes.len() {
        return Err(Status::unavailable(format!(
            "expected a node with a copy of {} that answers, found none: start the agent on {}",
            r.volume,
            silent.join(", ")
        )));
    }
    nodes.retain(|n| view.alive(*n));
    let run = if r.run == 0 { random::id().max(1) } else { r.run };
    let bytes_per_second = if r.bytes_per_second == 0 { RATE } else { r.bytes_per_second };
    let wish = Upkeep { volume, run, task: Task::Scrub { bytes_per_second } };
    let names = nodes.iter().map(|n| view.name(*n)).collect();
    Ok((nodes.into_iter().map(|n| (n, wish)).collect(), pb::ScrubResponse { run, nodes: names }))
}

pub(crate) fn verify(view: &View<'_>, r: &pb::VerifyRequest) -> Result<(Wishes, pb::VerifyResponse), Status> {
    let volume = volume_named(view, &r.volume)?;
    let known = view.control.state().and_then(|s| s.view(volume));
    let Some(primary) = known.and_then(|k| k.active.primary).filter(|p| view.alive(*p)) else {
        return Err(Status::unavailable(format!(
            "expected a primary of {} that answers, found none: copies are compared by it; see `holdfast status {}`",
            r.volume, r.volume
        )));
    };
    let run = if r.run == 0 { random::id().max(1) } else { r.run };
    let wish = Upkeep { volume, run, task: Task::Verify };
    Ok((vec![(primary, wish)], pb::VerifyResponse { run, node: view.name(primary) }))
}
