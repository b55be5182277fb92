//! What the leader does besides ordering proposals: decisions of the failure detector, and Raft's membership.

use super::voters::{Step, Voters};
use super::{Control, MEMBERSHIP, Output};
use holdfast_cluster::{Command, Duty, Node, State};
use holdfast_consensus as consensus;
use holdfast_consensus::{MembershipChange, RaftStatus};
use holdfast_types::{NodeId, Time};
use std::collections::{BTreeMap, BTreeSet};

impl Control {
    /// The leader's turn; on others it does nothing.
    pub(super) fn lead(&mut self, now: Time, out: &mut Vec<Output>) {
        let status = self.raft.status();
        let Some(state) = self.replicated.state() else { return };
        let mut commands = self.detector.decide(state, self.config.me, status.is_leader, now);
        let mut step = None;
        let raised = if status.is_leader {
            self.detector.raise(state, now)
        } else {
            self.detector.raise_no_more();
            None
        };
        commands.extend(raised);
        if status.is_leader {
            commands.extend(removals(state, &status));
            let gone = self.gone_for_long(state, now);
            step = membership(&Voters { state, status: &status, me: self.config.me, gone });
        }
        for command in commands {
            self.propose(&command, now);
        }
        match step {
            Some(Step::Change(change)) => {
                self.raft(consensus::Input::ChangeMembership { token: MEMBERSHIP, change }, now, out);
            }
            Some(Step::HandOver(to)) => self.raft(consensus::Input::TransferLeadership(to), now, out),
            None => {}
        }
    }

    /// Nodes of which nothing was heard for as long as a copy may be gone.
    fn gone_for_long(&self, state: &State, now: Time) -> BTreeSet<NodeId> {
        let patience = self.config.replace_after;
        let announced = |n: &Node| self.detector.restarting(n.id, now).is_some();
        let silent = |n: &Node| self.detector.silence(n.id, now) >= patience;
        let gone = |n: &Node| !patience.is_zero() && silent(n) && !announced(n);
        state.nodes().filter(|n| gone(n)).map(|n| n.id).collect()
    }
}

/// Nodes that are to leave and have no vote: until then the others might need them to agree on it, afterwards nobody does.
fn removals(state: &State, status: &RaftStatus) -> Vec<Command> {
    let leaves = |(id, n): &(NodeId, &Node)| n.wanted == Duty::Removed && !status.voters.contains(id);
    present(state).filter(leaves).map(|(node, _)| Command::RemoveNode { node }).collect()
}

/// The next step from Raft's membership to the one that the state wants: everybody listens, some vote, nobody else is there.
fn membership(voters: &Voters<'_>) -> Option<Step> {
    let Voters { state, status, me, .. } = voters;
    let in_raft: BTreeSet<NodeId> = status.voters.iter().chain(&status.learners).copied().collect();
    let in_state: BTreeSet<NodeId> = present(state).map(|(id, _)| id).collect();
    if let Some(node) = in_state.difference(&in_raft).next() {
        return Some(Step::Change(MembershipChange::AddLearner(*node)));
    }
    if let Some(step) = voters.step() {
        return Some(step);
    }
    let gone = in_raft.difference(&in_state).copied().find(|node| node != me)?;
    Some(Step::Change(MembershipChange::Remove(gone)))
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
