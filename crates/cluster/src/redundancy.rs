//! What becomes of copies without anybody asking for each: those on nodes that are drained move away, those that are gone for long
//! are made anew elsewhere (N+1), and both are taken back when their reason has gone.
//!
//! ```text
//!   copy on a node in service ──gone for replace_after──► Due ──MoveCopy──► Replaced ──successor counts──► the copy goes
//!   copy on a drained node ────────────────────────────► Due                   └──KeepCopy: back in sync, or undrained
//!          no node can take it, or too many are missing: Held, and why
//! ```
//! [`Detector::fate`] is what the leader acts on and what `status` shows beforehand. The rules of [`crate::members`] keep the old copy
//! until the new one counts, so a wrong guess costs bandwidth, never a good copy.

use crate::command::Command;
use crate::detector::{CopyReport, CopyState, Detector};
use crate::members::{Copies, Why};
use crate::placement::{Loads, bytes};
use crate::state::{Phase, State, Volume};
use holdfast_types::{Configuration, NodeId, QuorumRule, Time, VolumeId};
use std::collections::BTreeMap;
use std::time::Duration;

/// Copies that may be filled on one node at a time because the leader moves them.
const FILLED_AT_ONCE: usize = 2;
/// A move that the state still does not show after this is proposed again.
const REPEAT: Duration = Duration::from_secs(1);

/// What is to become of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It stays what it is.
    Stays,
    /// It is gone, and is waited for so much longer.
    Waits(Duration),
    /// It is to be replaced on that node now.
    Due(NodeId, Why),
    /// A learner there is to take its place.
    Replaced(NodeId, Why),
    /// It should be replaced, and can't: why.
    Held(Why, String),
}

/// Moves that the leader has proposed, by volume; gone with its leadership.
#[derive(Default)]
pub(crate) struct Moves(BTreeMap<VolumeId, (Command, Time)>);

impl Moves {
    /// Whether to propose it now.
    fn is_new(&mut self, volume: VolumeId, command: &Command, now: Time) -> bool {
        let repeated = self.0.get(&volume).is_some_and(|(known, at)| known == command && now.since(*at) < REPEAT);
        if !repeated {
            self.0.insert(volume, (command.clone(), now));
        }
        !repeated
    }
}

impl Detector {
    /// What is to become of the copy of an open volume on `node` by itself.
    pub(crate) fn fate(&self, state: &State, loads: &Loads, volume: &Volume, node: NodeId, now: Time) -> Fate {
        let Phase::Open { active, copies, .. } = &volume.phase else { return Fate::Stays };
        if !copies.wanted.contains(&node) {
            let successor = copies.successor_of(node);
            return successor.map_or(Fate::Stays, |(new, why)| Fate::Replaced(new, why));
        }
        let why = if state.node(node).is_some_and(crate::Node::is_drained) {
            Why::Drained
        } else {
            let Some(gone) = self.gone_for(volume.id, node, now) else { return Fate::Stays };
            let Some(after) = self.config.replace_after else { return Fate::Stays };
            if gone < after {
                return Fate::Waits(after.saturating_sub(gone));
            }
            Why::Gone
        };
        let held = |what: String| Fate::Held(why, what);
        if why == Why::Gone
            && let Some(missing) = self.too_many_missing(state, now)
        {
            return held(missing);
        }
        if self.another_moves(copies, node) {
            return held("another copy of the volume is replaced first".to_owned());
        }
        if self.blocked_by_all(volume, active, node, now) {
            return held("every copy must hold a write, so no other can become a member while one is gone".to_owned());
        }
        self.spare(state, loads, volume, node, now).map_or_else(held, |new| Fate::Due(new, why))
    }

    /// For how long the copy has been of no use, if it is of none: its node is silent, or it has failed.
    pub(crate) fn gone_for(&self, volume: VolumeId, node: NodeId, now: Time) -> Option<Duration> {
        if self.restarting(node, now).is_some() {
            return None;
        }
        if !self.alive(node, now) {
            return Some(self.silence(node, now));
        }
        self.failed_since(node, volume).map(|since| now.since(since))
    }

    /// More than a third of the nodes is missing: that is no lost host but something that will come back as a whole.
    pub(crate) fn too_many_missing(&self, state: &State, now: Time) -> Option<String> {
        let all = state.nodes().count();
        let missing = state.nodes().filter(|n| !self.alive(n.id, now)).count();
        (missing * 3 > all).then(|| format!("{missing} of {all} nodes do not answer, which is more than a third"))
    }

    /// One copy of a volume moves at a time; a successor that is itself to be replaced is no other one.
    fn another_moves(&self, copies: &Copies, node: NodeId) -> bool {
        copies.successors.keys().any(|new| *new != node)
    }

    /// Where all copies must hold a write, a learner can't become a member beside one that is gone.
    fn blocked_by_all(&self, volume: &Volume, active: &Configuration, node: NodeId, now: Time) -> bool {
        let gone = |n: NodeId| self.gone_for(volume.id, n, now).is_some();
        volume.rule == QuorumRule::All && active.member(node).is_some() && active.members.iter().any(|m| gone(m.node))
    }

    /// Whether a copy that was gone is as good as any other again.
    fn is_back(&self, active: &Configuration, volume: VolumeId, node: NodeId, now: Time) -> bool {
        let lost = |r: &CopyReport| r.lost.iter().any(|l| l.node == node);
        let primary = active.primary.and_then(|p| self.report(p, volume));
        let sound = |r: &CopyReport| matches!(r.state, CopyState::InSync | CopyState::Serving) && r.hung.is_none();
        self.alive(node, now) && self.report(node, volume).is_some_and(sound) && !primary.is_some_and(lost)
    }

    /// What the leader proposes about copies that nobody has asked for one by one.
    pub(crate) fn keep_redundancy(&self, state: &State, moves: &mut Moves, now: Time) -> Vec<Command> {
        moves.0.retain(|id, _| state.volumes.contains_key(id));
        let mut under_way = self.under_way(state, now);
        let loads = Loads::default();
        let mut commands = Vec::new();
        for (id, volume) in &state.volumes {
            let Phase::Open { active, copies, .. } = &volume.phase else { continue };
            let command = self.taken_back(state, volume, now).or_else(|| {
                let due = copies.wanted.iter().find_map(|node| match self.fate(state, &loads, volume, *node, now) {
                    Fate::Due(new, why) => Some((*node, new, why)),
                    _ => None,
                });
                let (old, new, why) = due?;
                let serves = self.serves(active, *id, now);
                under_way.admits(old, new, why, serves).then_some(Command::MoveCopy { volume: *id, old, new, why })
            });
            if let Some(command) = command
                && moves.is_new(*id, &command, now)
            {
                commands.push(command);
            }
        }
        commands
    }

    /// A move whose reason has gone: the node is in service again, or the copy that was gone is back first.
    fn taken_back(&self, state: &State, volume: &Volume, now: Time) -> Option<Command> {
        let Phase::Open { active, pending, copies, .. } = &volume.phase else { return None };
        let promoted =
            |new: &NodeId| pending.as_ref().is_some_and(|p| p.same_primary && p.configuration.member(*new).is_some());
        let void = copies.successors.iter().find(|(new, s)| {
            let in_service = state.node(s.of).is_some_and(crate::Node::takes_copies);
            let back = match s.why {
                Why::Drained => true,
                Why::Gone => self.is_back(active, volume.id, s.of, now),
                Why::Asked => false,
            };
            in_service && back && !promoted(new)
        });
        void.map(|(_, s)| Command::KeepCopy { volume: volume.id, node: s.of })
    }

    fn serves(&self, active: &Configuration, volume: VolumeId, now: Time) -> bool {
        let report = active.primary.filter(|p| self.alive(*p, now)).and_then(|p| self.report(p, volume));
        report.is_some_and(|r| r.state == CopyState::Serving)
    }

    /// Moves that get on. One of a volume that stands still must not hold up all others.
    fn under_way(&self, state: &State, now: Time) -> UnderWay {
        let mut under_way = UnderWay::default();
        for volume in state.volumes() {
            let Phase::Open { active, copies, .. } = &volume.phase else { continue };
            let serves = self.serves(active, volume.id, now);
            for (new, s) in copies.successors.iter().filter(|(new, _)| serves && self.alive(**new, now)) {
                under_way.add(s.of, *new, s.why);
            }
        }
        under_way
    }
}

/// How many moves get on from and to each node.
#[derive(Default)]
struct UnderWay {
    from: BTreeMap<NodeId, usize>,
    to: BTreeMap<NodeId, usize>,
}

impl UnderWay {
    fn add(&mut self, old: NodeId, new: NodeId, why: Why) {
        *self.to.entry(new).or_default() += 1;
        if why == Why::Drained {
            *self.from.entry(old).or_default() += 1;
        }
    }

    /// Copies leave a drained node one by one, and no node is filled with many at a time.
    fn admits(&mut self, old: NodeId, new: NodeId, why: Why, serves: bool) -> bool {
        let count = |of: &BTreeMap<NodeId, usize>, node| of.get(&node).copied().unwrap_or(0);
        let admitted = count(&self.to, new) < FILLED_AT_ONCE && count(&self.from, old) == 0;
        if admitted && serves {
            self.add(old, new, why);
        }
        admitted
    }
}

impl Fate {
    /// For a person: what will happen to the copy on `name`, if that is anything.
    pub(crate) fn sentence(
        &self,
        name: &str,
        silent: Option<Duration>,
        of: impl Fn(NodeId) -> String,
    ) -> Option<String> {
        let gone = silent.map_or_else(String::new, |s| format!(", gone for {} s,", s.as_secs()));
        Some(match self {
            Fate::Stays => return None,
            Fate::Waits(left) => {
                format!(
                    "the copy on {name}{gone} will be replaced on another node in {} s unless it returns",
                    left.as_secs()
                )
            }
            Fate::Due(new, Why::Gone) => format!("the copy on {name}{gone} is to be replaced on {}", of(*new)),
            Fate::Due(new, Why::Drained | Why::Asked) => format!("the copy on {name} is to move to {}", of(*new)),
            Fate::Replaced(new, Why::Gone) => {
                let new = of(*new);
                format!(
                    "the copy on {name}{gone} is being replaced on {new}; it stays if it is in sync again before {new} is"
                )
            }
            Fate::Replaced(new, Why::Asked) => format!("the copy on {name} is being replaced on {}", of(*new)),
            Fate::Replaced(new, Why::Drained) => format!("the copy on {name} is moving to {}", of(*new)),
            Fate::Held(Why::Gone, why) => format!("the copy on {name}{gone} is not replaced: {why}"),
            Fate::Held(Why::Drained | Why::Asked, why) => format!("the copy on {name} stays there for now: {why}"),
        })
    }

    /// Whether nothing moves without a change from outside.
    pub(crate) fn is_held(&self) -> bool {
        matches!(self, Fate::Held(..))
    }
}

/// Sizes for a person.
pub(crate) fn has_room(free: Option<u64>, size: u64) -> Result<(), String> {
    match free.filter(|free| *free < size) {
        Some(free) => Err(format!("has {} free of the {} that a full copy takes", bytes(free), bytes(size))),
        None => Ok(()),
    }
}
