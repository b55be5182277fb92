//! Operators who look after their copies, and whether what they are told is true.

use super::World;
use crate::checkers::Violation;
use crate::faults::FaultKind;
use crate::options::index;
use holdfast_node::shard::{CopyRow, Input};
use holdfast_node::{Task, Upkeep};
use holdfast_replication::Verdict;
use holdfast_types::{NodeId, VolumeId};

impl World {
    pub(super) fn start_upkeep(&mut self, kind: FaultKind, node: NodeId) {
        let plan = self.options.volumes[index(self.rngs.faults.below(self.options.volumes.len() as u64))].clone();
        let (run, rate) = (self.rngs.faults.next_u64().max(1), self.rngs.faults.range(1 << 20, 1 << 30));
        let primary = self.checkers.control.view(plan.id).and_then(|v| v.active.primary);
        let (task, to) = match kind {
            FaultKind::Scrub => {
                (Task::Scrub { bytes_per_second: rate }, Some(node).filter(|n| plan.members.contains(n)))
            }
            _ => (Task::Verify, primary),
        };
        let Some(to) = to.filter(|n| self.nodes[n].responsive()) else { return };
        self.fired(kind);
        self.note("upkeep", &[to.0, plan.id.0], || format!("{to} {}: {task:?}", plan.id));
        self.give(to, Input::Upkeep(Upkeep { volume: plan.id, run, task }));
    }

    /// Every digest that a verdict names is that of the committed log at that record: then copies are called equal if and only if
    /// they are. And what is found in passing is no false alarm.
    pub(super) fn check_upkeep(&mut self, row: &CopyRow) -> Result<(), Violation> {
        let Some(status) = &row.status else { return Ok(()) };
        if let Some(verdict) = status.verify.last.as_ref().filter(|v| self.verdicts.insert((row.volume, v.run))) {
            self.check_verdict(row.volume, verdict)?;
        }
        let sound = |n: &NodeId| !self.may_differ(*n, row.volume);
        let members = &self.options.volumes.iter().find(|p| p.id == row.volume).expect("a planned volume").members;
        match status.verify.differs.first().filter(|_| members.iter().all(sound)) {
            Some((node, lsn)) => {
                let text = format!("the copy of {} at {node} is called different at record {lsn}", row.volume);
                Err(Violation::new("S5", text))
            }
            None => Ok(()),
        }
    }

    fn check_verdict(&mut self, volume: VolumeId, verdict: &Verdict) -> Result<(), Violation> {
        self.note("verdict", &[volume.0, verdict.at.0], || format!("{volume}: {verdict:?}"));
        let differ = |c: &&holdfast_replication::CopyVerdict| {
            c.digest.is_some() && c.digest != verdict.copies.first().and_then(|first| first.digest)
        };
        let first = verdict.copies.first().and_then(|c| c.digest);
        let silent = |c: &&holdfast_replication::CopyVerdict| c.ranges.is_empty() && !c.more && first.is_some();
        if let Some(copy) = verdict.copies.iter().filter(differ).find(silent) {
            let text = format!("the copy of {volume} at {} differs and no region is named: {verdict:?}", copy.node);
            return Err(Violation::new("verify", text));
        }
        for copy in &verdict.copies {
            let Some(digest) = copy.digest.filter(|_| !self.may_differ(copy.node, volume)) else { continue };
            self.checkers.volume(volume).committed.image_at(copy.node, true, verdict.at, digest)?;
        }
        Ok(())
    }

    fn may_differ(&self, node: NodeId, volume: VolumeId) -> bool {
        self.nodes[&node].disk.damage().digest_may_differ(volume)
    }
}
