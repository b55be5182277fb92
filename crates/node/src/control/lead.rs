//! What the leader does besides ordering proposals: decisions of the failure detector, and Raft's membership.

use super::{Control, MEMBERSHIP, Output};
use holdfast_cluster::{Node, State};
use holdfast_consensus as consensus;
use holdfast_consensus::{MembershipChange, RaftStatus};
use holdfast_types::{NodeId, Time};
use std::collections::{BTreeMap, BTreeSet};

/// A learner this close to the end of the log may become a voter: waiting for it costs no election timeout.
const CAUGHT_UP: u64 = 64;

impl Control {
    /// The leader's turn; on others it does nothing.
    pub(super) fn lead(&mut self, now: Time, out: &mut Vec<Output>) {
        let status = self.raft.status();
        let Some(state) = self.replicated.state() else { return };
        let commands = self.detector.decide(state, self.config.me, status.is_leader, now);
        let change = if status.is_leader { membership(state, &status, self.config.me) } else { None };
        for command in commands {
            self.propose(&command, now);
        }
        match change {
            Some(Step::Change(change)) => {
                self.raft(consensus::Input::ChangeMembership { token: MEMBERSHIP, change }, now, out);
            }
            Some(Step::HandOver(to)) => self.raft(consensus::Input::TransferLeadership(to), now, out),
            None => {}
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Change(MembershipChange),
    /// A leader that is to go hands over first.
    HandOver(NodeId),
}

/// The next step from Raft's membership to the one that the state wants. Refused and repeated while one is under way.
fn membership(state: &State, status: &RaftStatus, me: NodeId) -> Option<Step> {
    let in_raft: BTreeSet<NodeId> = status.voters.iter().chain(&status.learners).copied().collect();
    let in_state: BTreeSet<NodeId> = present(state).map(|(id, _)| id).collect();
    if let Some(node) = in_state.difference(&in_raft).next() {
        return Some(Step::Change(MembershipChange::AddLearner(*node)));
    }
    let caught_up = |node: NodeId| {
        status.progress.iter().any(|p| p.node == node && p.recent_active && p.matched + CAUGHT_UP >= status.last_index)
    };
    let promoted = |(id, node): (NodeId, &Node)| {
        (node.voter_wanted && status.learners.contains(&id) && caught_up(id)).then_some(id)
    };
    if let Some(node) = present(state).find_map(promoted) {
        return Some(Step::Change(MembershipChange::AddVoter(node)));
    }
    let gone = in_raft.difference(&in_state).copied().min_by_key(|node| *node == me)?;
    if gone != me {
        return Some(Step::Change(MembershipChange::Remove(gone)));
    }
    status.progress.iter().find(|p| p.recent_active && status.voters.contains(&p.node)).map(|p| Step::HandOver(p.node))
}

/// The nodes that are not removed.
pub(super) fn present(state: &State) -> impl Iterator<Item = (NodeId, &Node)> {
    state.nodes.iter().filter(|(_, node)| !node.removed).map(|(id, node)| (*id, node))
}

/// Where every node listens.
pub(super) fn addresses(state: &State) -> BTreeMap<NodeId, String> {
    present(state).map(|(id, node)| (id, node.address.clone())).collect()
}

/// A node's name, or its id while the state does not name it.
pub(super) fn name(state: Option<&State>, node: NodeId) -> String {
    state.and_then(|s| s.nodes.get(&node)).map_or_else(|| node.to_string(), |n| n.name.clone())
}
