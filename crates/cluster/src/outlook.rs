//! What will happen to copies by themselves, in the words of `holdfast status`.

use crate::alone::Degraded;
use crate::detector::CopyState;
use crate::redundancy::Fate;
use crate::state::{Duty, Node, Phase, Volume};
use crate::status::{Look, NodeStatus, VolumeState, is_single};
use holdfast_types::{Configuration, NodeId, Speaks};

impl Look<'_> {
    pub(crate) fn node(&self, n: &Node) -> NodeStatus {
        let wanted = match n.wanted {
            Duty::InService => "in_service",
            Duty::Drained => "drained",
            Duty::Removed => "removed",
        };
        let left: Vec<&Volume> = self.state.volumes().filter(|v| v.needs(n.id)).collect();
        let fates: Vec<(&Volume, Fate)> = if !n.is_drained() {
            Vec::new()
        } else {
            left.iter().map(|v| (*v, self.detector.fate(self.state, &self.loads, v, n.id, self.now))).collect()
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
            speaks: self.detector.life(n.id).map(|_| {
                let speaks = self.detector.speaks(n.id).map_or(Speaks::UNTOLD, |(speaks, _)| speaks);
                (speaks.oldest().0, speaks.newest().0)
            }),
            build: self.detector.speaks(n.id).map(|(_, build)| build.to_owned()),
            unreadable: self.detector.why_unreadable(n.id).map(str::to_owned),
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

    /// A guest that waits on a host that does not lead its volume any more: nobody but an operator knows whether it is to go on there.
    pub(crate) fn stranded(&self, v: &Volume, active: &Configuration) -> Option<String> {
        let primary = active.primary?;
        let leads = self.fresh(v, primary).filter(|r| r.state == CopyState::Serving)?;
        let asks = |n: &NodeId| *n != primary && self.fresh(v, *n).is_some_and(|r| r.asked_for);
        let node = active.members.iter().map(|m| m.node).find(asks).filter(|_| leads.clients == 0)?;
        let (waits, serves, name) = (self.name(node), self.name(primary), &v.name);
        Some(format!(
            "a client on {waits} asks for the volume and is refused, as {serves} leads it and nobody is attached there: start the VM on {serves}, or bring \
             the volume back to {waits}: `holdfast failover {name} --to {waits}`"
        ))
    }

    /// Of a volume of two copies: what one that is gone means for it.
    pub(crate) fn of_two(&self, v: &Volume, state: VolumeState) -> Vec<String> {
        let Phase::Open { active, copies, .. } = &v.phase else { return Vec::new() };
        if is_single(v) {
            return copies.left_out.keys().map(|out| self.single(v, active.members[0].node, *out)).collect();
        }
        let pair = active.members.len() == 2 && active.write_quorum == 2;
        if !pair || state != VolumeState::Stalled {
            return Vec::new();
        }
        let away = |n: &NodeId| self.fresh(v, *n).is_none_or(|r| r.unable() || !r.absent.is_empty());
        let gone: Vec<String> = active.members.iter().map(|m| m.node).filter(away).map(|n| self.name(n)).collect();
        let (gone, name) = (gone.join(" or "), &v.name);
        let gone = if gone.is_empty() { "one of them".to_owned() } else { gone };
        vec![match (v.degraded, copies.alone) {
            (Some(Degraded::Allow), Some(alone)) => {
                format!(
                    "the copy on {} is to go on alone (--degraded allow): agreed, and opening",
                    self.name(alone.node)
                )
            }
            (Some(Degraded::Allow), None) => format!(
                "one of its two copies goes on alone (--degraded allow) once it has said that it does not reach the other one and a majority of the voters has agreed; {gone} is missed"
            ),
            (Some(Degraded::Stall) | None, _) => format!(
                "both copies must hold a write (--degraded stall): writes wait until {gone} is back, or another copy is in its place: `holdfast copy replace {name} {gone} NODE`"
            ),
        }]
    }

    /// One copy goes on alone, or nobody does because that one is gone.
    fn single(&self, v: &Volume, alone: NodeId, out: NodeId) -> String {
        let (name, left, stays) = (&v.name, self.name(out), self.name(alone));
        let answers = |n| self.fresh(v, n).is_some_and(|r| !r.unable());
        if !answers(alone) {
            let other = if answers(out) { "answers, lacks them, and waits" } else { "does not answer, either" };
            return format!(
                "{stays} went on alone (--degraded allow) and holds writes that no other copy has; the copy on {left} {other}. Bring {stays} back; if it \
                 is gone for ever, `holdfast failover {name} --force --accept-loss` goes on with {left} and says what that loses"
            );
        }
        let what = if answers(out) {
            format!("the copy on {left} is catching up and counts again by itself once it holds everything")
        } else {
            format!(
                "bring {left} back, then its copy catches up and counts again by itself; if it is gone for good: `holdfast copy replace {name} {left} NODE`"
            )
        };
        format!("SINGLE COPY: {stays} goes on alone (--degraded allow), every write is on its disk only; {what}")
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
            self.detector
                .fate(self.state, &self.loads, v, node, self.now)
                .sentence(&self.name(node), gone, |n| self.name(n))
        };
        holders.filter_map(told).collect()
    }
}
