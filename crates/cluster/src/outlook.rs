//! What will happen to copies by themselves, in the words of `holdfast status`.

use crate::redundancy::Fate;
use crate::state::{Duty, Node, Phase, Volume};
use crate::status::{Look, NodeStatus};
use holdfast_types::NodeId;

impl Look<'_> {
    pub(crate) fn node(&self, n: &Node) -> NodeStatus {
        let wanted = match n.wanted {
            Duty::InService => "in_service",
            Duty::Drained => "drained",
            Duty::Removed => "removed",
        };
        let left: Vec<&Volume> = self.state.volumes().filter(|v| v.counts_on(n.id)).collect();
        let fates: Vec<(&Volume, Fate)> = if !n.is_drained() {
            Vec::new()
        } else {
            left.iter().map(|v| (*v, self.detector.fate(self.state, v, n.id, self.now))).collect()
        };
        NodeStatus {
            name: n.name.clone(),
            id: n.id.0,
            state: match self.detector.restarting(n.id, self.now) {
                Some(_) => "restarting",
                None if self.detector.alive(n.id, self.now) => "alive",
                None => "silent",
            },
            voter: n.voter_wanted,
            witness: n.witness,
            address: n.address.clone(),
            failure_domain: n.failure_domain.clone(),
            wanted,
            copies_left: left.len(),
            held: !fates.is_empty() && fates.iter().all(|(_, fate)| fate.is_held()),
            notes: fates.iter().filter_map(|(v, fate)| self.left(v, n, fate)).collect(),
            free_bytes: self.detector.free_bytes(n.id),
        }
    }

    /// Why a copy is still on a node that is to hold none.
    fn left(&self, v: &Volume, n: &Node, fate: &Fate) -> Option<String> {
        let name = &v.name;
        let what = match (&v.phase, fate) {
            (Phase::Creating { .. }, _) => "its copies are being created".to_owned(),
            (Phase::Open { active, .. }, Fate::Stays) if active.member(n.id).is_some() => {
                format!("the copy on {} goes with the next change of members", n.name)
            }
            (_, fate) => fate.sentence(&n.name, None, |n| self.name(n))?,
        };
        let learner = match fate {
            Fate::Replaced(new, _) => self.progress_of(v, *new),
            _ => String::new(),
        };
        Some(format!("{name}: {what}{learner}"))
    }

    fn progress_of(&self, v: &Volume, learner: NodeId) -> String {
        let note = self.note_of(v, learner);
        note.map_or_else(String::new, |note| format!(" ({note})"))
    }

    /// What becomes of copies that are gone, before it happens.
    pub(crate) fn outlook(&self, v: &Volume) -> Vec<String> {
        let Phase::Open { active, copies, .. } = &v.phase else { return Vec::new() };
        let holders = active.members.iter().map(|m| m.node).chain(copies.learners.keys().copied());
        let told = |node: NodeId| {
            let gone = self.detector.gone_for(v.id, node, self.now);
            let drained = self.state.node(node).is_some_and(Node::is_drained);
            // Of a node that is drained, the node itself tells.
            if gone.is_none() || drained {
                return None;
            }
            self.detector.fate(self.state, v, node, self.now).sentence(&self.name(node), gone, |n| self.name(n))
        };
        holders.filter_map(told).collect()
    }
}
