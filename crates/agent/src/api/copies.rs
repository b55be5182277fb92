//! What an operator may ask about the copies of a volume, and what would be unsafe now.
//!
//! The state machine refuses what is wrong whatever the copies hold. How they are is known to the failure detector only, so
//! that is looked at here, when the wish is made.

use super::{node_named, takes_length, volume_named};
use crate::admin::pb;
use crate::control::View;
use holdfast_cluster::{Command, CopyState, SpaceLeft};
use holdfast_types::{Durability, NodeId, VolumeId};
use tonic::Status;

pub(super) fn addition(view: &View<'_>, r: &pb::CopyAddRequest) -> Result<Command, Status> {
    let (volume, node) = (volume_named(view, &r.volume)?, node_named(view, &r.node)?);
    takes_copy(view, volume, node)?;
    Ok(Command::AddCopy { volume, node })
}

/// Whether the image can be as long there as it is, or is to become.
fn takes_copy(view: &View<'_>, volume: VolumeId, node: NodeId) -> Result<(), Status> {
    let known = view.control.state().and_then(|s| s.volumes.get(&volume));
    known.map_or(Ok(()), |v| takes_length(view, &[node], v.size.bytes()))
}

pub(super) fn replacement(view: &View<'_>, r: &pb::CopyReplaceRequest) -> Result<Command, Status> {
    let volume = volume_named(view, &r.volume)?;
    let (old, new) = (node_named(view, &r.old)?, node_named(view, &r.new)?);
    takes_copy(view, volume, new)?;
    Ok(Command::ReplaceCopy { volume, old, new })
}

pub(super) fn removal(view: &View<'_>, r: &pb::CopyRemoveRequest) -> Result<Command, Status> {
    let (volume, node) = (volume_named(view, &r.volume)?, node_named(view, &r.node)?);
    let known = view.control.state().and_then(|s| s.view(volume));
    let counts = known.filter(|k| k.active.member(node).is_some());
    let Some(known) = counts else { return Ok(Command::RemoveCopy { volume, node }) };
    let stays = |n: &NodeId| *n != node && !known.leaving.contains(n);
    let rest: Vec<NodeId> = known.active.members.iter().map(|m| m.node).filter(stays).collect();
    if rest.is_empty() {
        // The last one: the state machine has the sentence.
        return Ok(Command::RemoveCopy { volume, node });
    }
    let detector = view.control.detector();
    let fresh = |n: NodeId| detector.report(n, volume).filter(|_| view.alive(n));
    let lost: Vec<NodeId> = known
        .active
        .primary
        .and_then(fresh)
        .filter(|p| p.state == CopyState::Serving)
        .map_or_else(Vec::new, |p| p.lost.iter().map(|l| l.node).collect());
    let good = |n: &NodeId| {
        let sound = fresh(*n).is_some_and(|c| {
            matches!(c.state, CopyState::Serving | CopyState::InSync) && c.space != SpaceLeft::Out && c.hung.is_none()
        });
        sound && !lost.contains(n)
    };
    let (sound, others): (Vec<NodeId>, Vec<NodeId>) = rest.iter().copied().partition(good);
    // One alone is no redundancy, whatever W of one is; asynchronous copies never promised any.
    let least = if known.durability == Durability::Async { 1 } else { 2 };
    let needed = usize::from(known.rule.write_quorum(rest.len())).max(least);
    if sound.len() < needed {
        let others: Vec<String> = others.into_iter().map(|n| view.name(n)).collect();
        let others = if others.is_empty() { String::new() } else { format!(" (not good: {})", others.join(", ")) };
        return Err(Status::failed_precondition(format!(
            "expected {needed} good copies of {} beside the one on {}, found {}{others}; add a copy first, or use `holdfast copy \
             replace`, which removes the old copy once the new one counts",
            r.volume,
            r.node,
            sound.len()
        )));
    }
    Ok(Command::RemoveCopy { volume, node })
}
