//! Which version the cluster is of, who speaks which, and when the version is raised (docs/PROTOCOL.md, V1 to V4).
//!
//! ```text
//!   agents tell what they speak ──► Detector, on every node
//!   the leader sees all nodes speak more, for a while ──► RaiseVersion ──► State::version ──► used from there on
//! ```
//! The version is agreed upon, so that no node uses what another one can't read; what each speaks is not: it causes proposals only. A
//! node that was replaced by an older build meanwhile stops at the command that raises, with a sentence, and does no harm.
//!
//! Deliberately absent: lowering. What was written under a version may need it.

use crate::command::{Command, Outcome, Refusal, RefusalKind};
use crate::detector::{Detector, Heard};
use crate::state::State;
use RefusalKind::{Invalid, Stale, Unsafe};
use holdfast_types::{ClusterVersion, Mutant, NodeId, Speaks, Time, mutated};

/// Longest name of a build that is kept.
const BUILD_BYTES: usize = 64;

impl State {
    /// Whether every member can read this command. Asked before it gets into the log, and again when it is applied.
    ///
    /// # Errors
    /// A refusal that names the version.
    pub fn may_order(&self, command: &Command) -> Result<(), Refusal> {
        let (needed, active) = (command.needs(), self.version);
        // The leader proposes this one only when every node can read it.
        if needed <= active || matches!(command, Command::RaiseVersion { .. }) {
            return Ok(());
        }
        let message = format!(
            "expected a cluster of version {needed}, which this needs, found version {active}: not every node speaks {needed} yet; \
             `holdfast status` says which"
        );
        Err(Refusal::new(Unsafe, message))
    }

    pub(crate) fn raise_version(&mut self, to: ClusterVersion, next_node: NodeId) -> Result<Outcome, Refusal> {
        let active = self.version;
        if to == active {
            return Ok(Outcome::Done);
        }
        if to < active {
            return Err(Refusal::new(
                Invalid,
                format!("the cluster is of version {active}, and never goes back to {to}"),
            ));
        }
        if next_node != self.next_node {
            let message =
                format!("a node joined meanwhile and was not asked whether it speaks version {to}; ask again");
            return Err(Refusal::new(Stale, message));
        }
        self.version = to;
        Ok(Outcome::Done)
    }
}

impl Detector {
    /// That life of the node tells what it speaks.
    pub fn tells(&mut self, node: NodeId, life: u64, speaks: Speaks, build: &str, now: Time) {
        let cut = build.char_indices().take_while(|(at, c)| at + c.len_utf8() <= BUILD_BYTES).map(|(_, c)| c);
        let build = cut.filter(|c| !c.is_control()).collect();
        match self.heard.get_mut(&node).filter(|h| h.life == life) {
            Some(heard) => heard.speaks = Some((speaks, build)),
            None => {
                let mut heard = Heard::first(now, life);
                heard.speaks = Some((speaks, build));
                self.heard.insert(node, heard);
            }
        }
    }

    /// A heartbeat of the node could not be read. Whether that is news.
    pub fn unreadable(&mut self, node: NodeId, why: String) -> bool {
        self.unreadable.insert(node, why).is_none()
    }

    /// Why the last heartbeat of the node could not be read.
    #[must_use]
    pub fn why_unreadable(&self, node: NodeId) -> Option<&str> {
        self.unreadable.get(&node).map(String::as_str)
    }

    /// What the node speaks, and which build it is; `None`: it has not told, as agents did that speak the first version alone.
    #[must_use]
    pub fn speaks(&self, node: NodeId) -> Option<(Speaks, &str)> {
        self.heard.get(&node)?.speaks.as_ref().map(|(speaks, build)| (*speaks, build.as_str()))
    }

    /// V2: for the leader. The command, once every node has spoken a later version for long enough.
    pub fn raise(&mut self, state: &State, now: Time) -> Option<Command> {
        let to = self.target(state, now).filter(|to| *to > state.version);
        let since = match (self.raisable, to) {
            (Some((before, since)), Some(to)) if before == to => since,
            (_, to) => {
                self.raisable = to.map(|to| (to, now));
                now
            }
        };
        let to = to.filter(|_| now.since(since) >= self.config.raise_after)?;
        Some(Command::RaiseVersion { to, next_node: state.next_node })
    }

    /// This node does not lead: whoever does counts anew.
    pub fn raise_no_more(&mut self) {
        self.raisable = None;
    }

    /// The newest version that every node speaks, as far as is known: all of them answer and have told.
    fn target(&self, state: &State, now: Time) -> Option<ClusterVersion> {
        let told = |node: NodeId| self.speaks(node).map(|(speaks, _)| speaks).filter(|_| self.alive(node, now));
        let heard: Vec<Speaks> = state.nodes().filter_map(|n| told(n.id)).collect();
        if heard.len() < state.nodes().count() && !mutated(Mutant::RaisedTooEarly) {
            return None;
        }
        let to = heard.iter().map(|s| s.newest()).min()?;
        heard.iter().all(|s| s.contains(to)).then_some(to)
    }

    /// Why the cluster stays at its version although some node speaks a later one; `None`: none does, or it is about to be raised.
    #[must_use]
    pub fn held_back(&self, state: &State, now: Time) -> Option<String> {
        let newest = state.nodes().filter_map(|n| self.speaks(n.id)).map(|(s, _)| s.newest()).max()?;
        if newest <= state.version {
            return None;
        }
        let held: Vec<String> = state
            .nodes()
            .filter_map(|n| match self.speaks(n.id) {
                _ if !self.alive(n.id, now) => Some(format!("{} does not answer", n.name)),
                Some((speaks, _)) if speaks.contains(newest) => None,
                Some((speaks, _)) => Some(format!("{} speaks {speaks}", n.name)),
                None => Some(format!("{} speaks {}", n.name, Speaks::UNTOLD)),
            })
            .collect();
        (!held.is_empty()).then(|| {
            format!("the cluster is raised to version {newest} once every node speaks it; not yet: {}", held.join(", "))
        })
    }
}
