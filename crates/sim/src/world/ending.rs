//! A process that is told to end, and does so in order, as the daemon does on SIGTERM: what it leads is handed over or waits for its next
//! life, what is in flight is answered, images get a checkpoint, a leader of Raft steps down. Each step has a limit, behind which the process
//! ends all the same. Its host lives on, so nothing that was written is lost.

use super::storm::Cure;
use super::{Event, World};
use crate::checkers::Violation;
use crate::disk::Disk;
use crate::faults::FaultKind;
use crate::log::{MS, Nanos, SECOND};
use holdfast_node::control;
use holdfast_node::shard;
use holdfast_types::NodeId;
use std::time::Duration;

/// How often it is looked whether a step is done.
const LOOK: Nanos = 10 * MS;

/// Where a process is on its way to its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending {
    node: NodeId,
    life: u64,
    kind: FaultKind,
    step: Step,
    /// The step is given up then.
    until: Nanos,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Others take what it leads.
    HandsOver,
    /// It answers what is in flight and makes checkpoints.
    Drains,
    /// Another voter leads Raft.
    StepsDown,
}

impl World {
    /// The fault.
    pub(super) fn start_ending(&mut self, kind: FaultKind, node: NodeId) -> Result<(), Violation> {
        if !self.nodes[&node].responsive() {
            return Ok(());
        }
        self.fired(kind);
        let life = self.nodes[&node].life;
        self.note("ending", &[node.0, life], || format!("{node}: {kind:?}"));
        let (step, limit) = if kind == FaultKind::OrderlyEnd {
            self.feed_control(node, control::Input::HandOver)?;
            (Step::HandsOver, self.span(100 * MS, 5 * SECOND))
        } else {
            let within = Duration::from_nanos(self.span(SECOND, 10 * SECOND));
            self.feed_control(node, control::Input::Restarts { within })?;
            self.give(node, shard::Input::Retire);
            (Step::Drains, self.span(100 * MS, 5 * SECOND))
        };
        let ending = Ending { node, life, kind, step, until: self.now + limit };
        self.at(self.now + LOOK, Event::Ending(ending));
        Ok(())
    }

    /// Looks whether the step is done, and goes on to the next one.
    pub(super) fn step_ending(&mut self, ending: Ending) -> Result<(), Violation> {
        let Ending { node, life, .. } = ending;
        let now = self.now;
        let process = &self.nodes[&node];
        if process.life != life || !process.alive() {
            // Something else ended it first.
            return Ok(());
        }
        let local = process.clock.reads(now);
        let (control, shard) = (process.control.as_ref(), process.shard.as_ref());
        let leads_raft = || control.is_some_and(|c| c.raft_status().is_leader && c.raft_status().voters.len() > 1);
        let done = match ending.step {
            Step::HandsOver => control.is_none_or(|c| c.to_hand_over(local) == 0),
            Step::Drains => shard.is_none_or(|s| s.is_retired()),
            Step::StepsDown => !leads_raft(),
        };
        // One that stands still does nothing, and is not found to be late either.
        let waits = process.paused || (!done && now < ending.until);
        if waits {
            self.at(now + LOOK, Event::Ending(ending));
            return Ok(());
        }
        let (step, limit) = match ending.step {
            Step::HandsOver => {
                self.give(node, shard::Input::Retire);
                (Step::Drains, 2 * SECOND)
            }
            Step::Drains => {
                self.feed_control(node, control::Input::StepDown)?;
                (Step::StepsDown, 500 * MS)
            }
            Step::StepsDown => return self.end_in_order(ending),
        };
        self.at(now + LOOK, Event::Ending(Ending { step, until: now + limit, ..ending }));
        Ok(())
    }

    fn end_in_order(&mut self, ending: Ending) -> Result<(), Violation> {
        let node = ending.node;
        self.end_process(node, Disk::process_crash)?;
        // A supervisor starts it at once; a host that goes away stays away for longer.
        let most = if ending.kind == FaultKind::OrderlyRestart { 2 * SECOND } else { 6 * SECOND };
        let at = self.now + self.span(10 * MS, most);
        self.at(at, Event::Cure(Cure::Restart { node, and_crash: false }));
        Ok(())
    }
}
