//! What an operator may want of a node, and what would be unsafe now.

use super::node_named;
use crate::admin::pb;
use crate::control::View;
use crate::found::FOUNDER;
use holdfast_cluster::{Command, Duty};
use holdfast_types::NodeId;
use tonic::Status;

pub(super) fn drain(view: &View<'_>, name: &str) -> Result<Command, Status> {
    let node = node_named(view, name)?;
    let leaves = view.control.state().and_then(|s| s.node(node)).is_some_and(|n| n.wanted == Duty::Removed);
    if leaves {
        return Err(Status::failed_precondition(format!(
            "{name} is to leave the cluster and holds no copy that counts; `holdfast node undrain {name}` takes that back"
        )));
    }
    Ok(Command::WantNode { node, wanted: Duty::Drained })
}

pub(super) fn undrain(view: &View<'_>, name: &str) -> Result<Command, Status> {
    Ok(Command::WantNode { node: node_named(view, name)?, wanted: Duty::InService })
}

/// `None`: the node has been removed already.
pub(super) fn removal(view: &View<'_>, r: &pb::NodeRemoveRequest) -> Result<Option<Command>, Status> {
    let state = view.control.state();
    let named =
        |removed: bool| state.is_some_and(|s| s.nodes.values().any(|n| n.name == r.node && n.removed == removed));
    if named(true) && !named(false) {
        return Ok(None);
    }
    let node = node_named(view, &r.node)?;
    if node == view.me {
        return Err(Status::failed_precondition(format!(
            "expected to be asked on a node that stays, found {0} itself; use --socket of another node",
            r.node
        )));
    }
    if node == FOUNDER && !r.force {
        return Err(Status::failed_precondition(format!(
            "{0} holds the key of the cluster's CA, and no node can join without it; copy data_dir/cluster/ca.key of {0} to the same \
             place on a node that stays (mode 0600), restart the agent there, let new nodes join through it, and then ask with --force",
            r.node
        )));
    }
    voters_stay(view, node, &r.node)?;
    Ok(Some(Command::WantNode { node, wanted: Duty::Removed }))
}

/// A majority of the voters that remain answers; otherwise the control plane would stop with the removal.
fn voters_stay(view: &View<'_>, node: NodeId, name: &str) -> Result<(), Status> {
    let voters = view.control.raft_status().voters;
    if !voters.contains(&node) {
        return Ok(());
    }
    let rest: Vec<NodeId> = voters.into_iter().filter(|v| *v != node).collect();
    let silent: Vec<String> = rest.iter().filter(|v| !view.alive(**v)).map(|v| view.name(*v)).collect();
    let answering = rest.len() - silent.len();
    if answering > rest.len() / 2 {
        return Ok(());
    }
    Err(Status::failed_precondition(format!(
        "expected a majority of the {} voters beside {name} to answer, found {answering} (silent: {}); bring them back, or remove them \
         first",
        rest.len(),
        silent.join(", ")
    )))
}
