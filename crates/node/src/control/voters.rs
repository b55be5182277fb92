//! Who votes in Raft: of the nodes that may, three or five, in as many failure domains as there are.
//!
//! ```text
//!   too few, or a better one is left ──AddVoter──► one too many ──TakeVote: gone, to be drained, in a shared domain──► as many as wanted
//! ```
//! One step at a time, and never one that could leave the voters without a majority that answers. A fourth voter is no better than
//! three: one more must answer, and one may be missing as before. A voter that is gone for long is replaced where another node may
//! vote; where none may, it stays: without it the others would be fewer, and need the same number.

use holdfast_cluster::{Duty, Node, State};
use holdfast_consensus::{MembershipChange, RaftStatus};
use holdfast_types::NodeId;
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// A learner this close to the end of the log may become a voter: waiting for it costs no election timeout.
const CAUGHT_UP: u64 = 64;

/// The next step, as the leader sees it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Change(MembershipChange),
    /// A leader that is to go hands over first.
    HandOver(NodeId),
}

/// What the leader looks at.
pub(super) struct Voters<'a> {
    pub(super) state: &'a State,
    pub(super) status: &'a RaftStatus,
    pub(super) me: NodeId,
    /// Nodes of which nothing was heard for longer than anybody wants to wait.
    pub(super) gone: BTreeSet<NodeId>,
}

/// How many of so many vote.
pub(super) fn target(may_vote: usize) -> usize {
    match may_vote {
        0..=2 => may_vote,
        3 | 4 => 3,
        _ => 5,
    }
}

impl Voters<'_> {
    /// The next step towards the wanted voters. Refused and repeated while one is under way.
    pub(super) fn step(&self) -> Option<Step> {
        let voters = self.voters();
        let target = target(self.candidates().count());
        let stay = voters.iter().filter(|n| self.may_vote(**n)).count();
        // A leader that reigns alone has nobody to hand over to.
        if (stay < target || self.could_be_better(&voters))
            && let Some(best) = self.best_learner(&voters)
        {
            return Some(Step::Change(MembershipChange::AddVoter(best)));
        }
        let worst = voters.iter().copied().max_by_key(|n| self.rank(*n, &voters))?;
        let surplus = !self.may_vote(worst) || voters.len() > target;
        if !surplus {
            return None;
        }
        if worst == self.me {
            return self.hand_over();
        }
        self.can_spare(worst).then_some(Step::Change(MembershipChange::TakeVote(worst)))
    }

    fn voters(&self) -> Vec<NodeId> {
        self.status.voters.clone()
    }

    fn candidates(&self) -> impl Iterator<Item = &Node> {
        self.state.nodes().filter(|n| n.voter_wanted && n.wanted != Duty::Removed)
    }

    fn may_vote(&self, node: NodeId) -> bool {
        self.candidates().any(|n| n.id == node)
    }

    /// A voter that is gone, or shares its failure domain while another one has none.
    fn could_be_better(&self, voters: &[NodeId]) -> bool {
        let may: Vec<NodeId> = voters.iter().copied().filter(|n| self.may_vote(*n)).collect();
        // One at a time: the surplus goes first.
        may.len() <= target(self.candidates().count())
            && self.learner(voters).is_some_and(|new| {
                let gone = may.iter().any(|n| self.gone.contains(n));
                let shares = may.iter().any(|n| self.shared(*n, &may) > 0);
                let adds = !may.iter().any(|n| self.domain(*n) == self.domain(new));
                gone || (shares && adds)
            })
    }

    /// Whoever would be the best further voter.
    fn learner(&self, voters: &[NodeId]) -> Option<NodeId> {
        let learns = |n: &&Node| self.status.learners.contains(&n.id) && self.caught_up(n.id);
        let able = self.candidates().filter(learns).filter(|n| n.wanted == Duty::InService);
        let shared = |n: &Node| voters.iter().filter(|v| self.domain(**v) == self.domain(n.id)).count();
        able.min_by_key(|n| (shared(n), n.id)).map(|n| n.id)
    }

    /// The same; a node that is to be drained is better than too few.
    fn best_learner(&self, voters: &[NodeId]) -> Option<NodeId> {
        let any = || self.candidates().map(|n| n.id).find(|n| self.status.learners.contains(n) && self.caught_up(*n));
        self.learner(voters).or_else(any)
    }

    fn caught_up(&self, node: NodeId) -> bool {
        let status = self.status;
        let close = |p: &holdfast_consensus::PeerProgress| {
            // Raft takes a new one for active before it has said anything: a vote for one that is gone could leave no majority.
            let answers = p.recent_active && p.matched > 0;
            p.node == node && answers && p.matched + CAUGHT_UP >= status.last_index
        };
        status.progress.iter().any(close)
    }

    /// Who goes first has the greatest: whoever may not vote, is gone, is to be drained, has company in its failure domain; of equals
    /// the youngest, and the leader last.
    fn rank(&self, node: NodeId, voters: &[NodeId]) -> (bool, bool, bool, usize, Reverse<bool>, NodeId) {
        let drained = self.state.node(node).is_none_or(Node::is_drained);
        let (may, gone) = (self.may_vote(node), self.gone.contains(&node));
        (!may, gone, drained, self.shared(node, voters), Reverse(node == self.me), node)
    }

    /// Other voters in the same failure domain.
    fn shared(&self, node: NodeId, voters: &[NodeId]) -> usize {
        voters.iter().filter(|v| **v != node && self.domain(**v) == self.domain(node)).count()
    }

    fn domain(&self, node: NodeId) -> Option<&str> {
        self.state.node(node).map(|n| n.failure_domain.as_str())
    }

    fn hand_over(&self) -> Option<Step> {
        let able = |n: NodeId| self.status.voters.contains(&n) && self.may_vote(n);
        self.status.progress.iter().find(|p| p.recent_active && able(p.node)).map(|p| Step::HandOver(p.node))
    }

    /// Whether a majority of the other voters answers: one vote less must not leave the rest without one.
    fn can_spare(&self, voter: NodeId) -> bool {
        let answers = |n: NodeId| n == self.me || self.status.progress.iter().any(|p| p.node == n && p.recent_active);
        let rest: Vec<NodeId> = self.status.voters.iter().copied().filter(|n| *n != voter).collect();
        let live = rest.iter().filter(|n| answers(**n)).count();
        live > rest.len() / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_cluster::Command;
    use holdfast_consensus::PeerProgress;
    use holdfast_types::ClusterId;

    /// Nodes in these failure domains; the first so many vote, node 1 leads, all answer.
    fn cluster(domains: &[&str], voters: u64) -> (State, RaftStatus) {
        let mut state = State::new(ClusterId(1), "test");
        for (n, domain) in (1..).zip(domains) {
            let (name, address, fingerprint) = (format!("n{n}"), format!("n{n}:1"), "ab".to_owned());
            let (failure_domain, voter, witness) = ((*domain).to_owned(), true, false);
            let add = Command::AddNode { name, address, failure_domain, voter, witness, fingerprint, token_id: None };
            state.apply(&add).unwrap();
        }
        let nodes = || (1..).take(domains.len()).map(NodeId);
        let progress = |node| PeerProgress { node, matched: 9, recent_active: true };
        let status = RaftStatus {
            leader: Some(NodeId(1)),
            is_leader: true,
            term: 1,
            commit: 9,
            applied: 9,
            last_index: 9,
            voters: nodes().filter(|n| n.0 <= voters).collect(),
            learners: nodes().filter(|n| n.0 > voters).collect(),
            progress: nodes().skip(1).map(progress).collect(),
            refused: 0,
        };
        (state, status)
    }

    /// The steps from there to rest, and who votes then.
    fn settle(state: &State, status: &mut RaftStatus, gone: &[u64]) -> (Vec<Step>, Vec<u64>) {
        let gone: BTreeSet<NodeId> = gone.iter().copied().map(NodeId).collect();
        status.progress.iter_mut().for_each(|p| p.recent_active = !gone.contains(&p.node));
        let mut steps = Vec::new();
        while let Some(step) = (Voters { state, status, me: NodeId(1), gone: gone.clone() }).step() {
            match step {
                Step::Change(MembershipChange::AddVoter(n)) => {
                    status.learners.retain(|l| *l != n);
                    status.voters.push(n);
                    status.voters.sort_unstable();
                }
                Step::Change(MembershipChange::TakeVote(n)) => {
                    status.voters.retain(|v| *v != n);
                    status.learners.push(n);
                }
                Step::Change(MembershipChange::AddLearner(_) | MembershipChange::Remove(_)) | Step::HandOver(_) => {
                    steps.push(step);
                    break;
                }
            }
            steps.push(step);
            assert!(steps.len() < 10, "no end: {steps:?}");
        }
        (steps, status.voters.iter().map(|n| n.0).collect())
    }

    #[test]
    fn one_two_three_or_five_vote() {
        for (nodes, voters) in [(1, 1), (2, 2), (3, 3), (4, 3), (5, 5), (7, 5)] {
            let domains = vec!["a"; nodes];
            let (state, mut status) = cluster(&domains, 1);
            assert_eq!(settle(&state, &mut status, &[]).1.len(), voters, "{nodes} nodes");
        }
        let (state, mut status) = cluster(&["a"; 4], 4);
        assert_eq!(settle(&state, &mut status, &[]).1, [1, 2, 3], "a fourth one goes");
    }

    #[test]
    fn they_stand_in_different_failure_domains() {
        let (state, mut status) = cluster(&["a", "a", "b", "c"], 3);
        let (steps, voters) = settle(&state, &mut status, &[]);
        assert_eq!(voters, [1, 3, 4]);
        let change = |c| Step::Change(c);
        let expected = [change(MembershipChange::AddVoter(NodeId(4))), change(MembershipChange::TakeVote(NodeId(2)))];
        assert_eq!(steps, expected, "first one more, then one less");
    }

    #[test]
    fn one_that_is_gone_is_replaced_if_there_is_another() {
        let (state, mut status) = cluster(&["a"; 4], 3);
        assert_eq!(settle(&state, &mut status, &[3]).1, [1, 2, 4]);
        assert_eq!(settle(&state, &mut status, &[]).1, [1, 2, 4], "it does not vote again for coming back");
        let (state, mut status) = cluster(&["a"; 3], 3);
        assert_eq!(settle(&state, &mut status, &[3]).1, [1, 2, 3], "two would need both");
    }

    #[test]
    fn one_that_leaves_is_replaced_first_and_a_leader_hands_over() {
        let (mut state, mut status) = cluster(&["a"; 4], 3);
        state.apply(&Command::WantNode { node: NodeId(2), wanted: Duty::Removed }).unwrap();
        assert_eq!(settle(&state, &mut status, &[]).1, [1, 3, 4]);
        let (mut state, mut status) = cluster(&["a"; 3], 3);
        state.apply(&Command::WantNode { node: NodeId(1), wanted: Duty::Removed }).unwrap();
        let (steps, voters) = settle(&state, &mut status, &[]);
        assert_eq!((steps, voters), (vec![Step::HandOver(NodeId(2))], vec![1, 2, 3]));
    }

    #[test]
    fn one_that_was_never_heard_of_gets_no_vote() {
        let (state, mut status) = cluster(&["a"; 3], 1);
        status.last_index = 10;
        let silent = status.progress.iter_mut().find(|p| p.node == NodeId(2)).unwrap();
        (silent.matched, silent.recent_active) = (0, true);
        assert_eq!(settle(&state, &mut status, &[]).1, [1, 3]);
    }

    #[test]
    fn no_vote_is_taken_where_the_rest_would_have_no_majority() {
        let (mut state, mut status) = cluster(&["a"; 3], 3);
        state.apply(&Command::WantNode { node: NodeId(2), wanted: Duty::Removed }).unwrap();
        assert_eq!(settle(&state, &mut status, &[3]).1, [1, 2, 3]);
    }
}
