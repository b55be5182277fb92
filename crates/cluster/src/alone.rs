//! Two copies, of which one is gone (PROTOCOL.md, A1 to A4).
//!
//! ```text
//!   active e {A, B}, W 2 ──GoAlone(A)──► the same, A is to go on ──Claim or Reconfigure by A──► pending e' {A} ──Activate──► active e' {A}, W 1
//!   ◄──Reconfigure, Activate── B has everything again ◄── B is left out: a learner, under the incarnation that it had
//! ```
//! Whether that may happen at all is chosen when the volume is made. No copy decides it by itself: each of the three steps is agreed by the
//! control group, in which a witness votes, so that of two copies that don't reach each other one goes on at most.
//!
//! Proposed on the word of whoever leads or claims that it does not reach the other copy, never on what the leader of the
//! control group alone does not hear.

use crate::command::{Command, Outcome, Refusal, RefusalKind};
use crate::decide::Look;
use crate::detector::{CopyReport, CopyRole};
use crate::recovery;
use crate::state::{Phase, State, Volume};
use crate::wire;
use RefusalKind::{Invalid, NotFound, Stale, Unsafe};
use holdfast_types::{Epoch, Mutant, NodeId, Nominee, Time, VolumeId, mutated};
use serde::{Deserialize, Serialize};

/// What becomes of writes while one of two copies is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Degraded {
    /// The other one goes on alone: from then on what is acknowledged is on one disk.
    Allow,
    /// They wait: what is acknowledged is on two disks, always.
    Stall,
}

impl Degraded {
    /// As an operator says it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Degraded::Allow => "allow",
            Degraded::Stall => "stall",
        }
    }
}

/// A copy is to go on alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alone {
    /// Which one.
    #[serde(with = "wire::one")]
    pub node: NodeId,
    /// The active epoch that is to end; void in any other.
    #[serde(with = "wire::one")]
    pub base: Epoch,
}

impl State {
    /// A1.
    pub(crate) fn go_alone(&mut self, id: VolumeId, base: Epoch, node: NodeId) -> Result<Outcome, Refusal> {
        let refuse = |kind, message: String| Err(Refusal::new(kind, message));
        let volume = self.volumes.get_mut(&id).ok_or_else(|| Refusal::new(NotFound, format!("there is no {id}")))?;
        let name = volume.name.clone();
        if volume.degraded != Some(Degraded::Allow) && !mutated(Mutant::StallGoesOn) {
            return refuse(Unsafe, format!("{name} is not to go on with one copy alone: it waits for the other one"));
        }
        let Phase::Open { active, nominee, copies, .. } = &mut volume.phase else {
            return refuse(Stale, format!("volume {name} is not open"));
        };
        if active.epoch != base || base == Epoch::ZERO {
            let found = active.epoch;
            return refuse(Stale, format!("expected {name} to be in epoch {base} and once opened, found {found}"));
        }
        let pair = active.members.len() == 2 && active.write_quorum == 2;
        let forced = recovery::forced(&volume.receipts, active).is_some() || volume.recovered.is_some();
        if !pair || forced || active.member(node).is_none() {
            return refuse(
                Invalid,
                format!("{name} has no two copies that must both hold a write, one of them on {node}"),
            );
        }
        // One that is to go serves until others count: it goes when they do. Of two none is made anew where it is.
        if copies.renew.contains(&node) {
            return refuse(
                Unsafe,
                format!("the copy of {name} on {node} is to be made anew and can't be the only one"),
            );
        }
        let alone = Alone { node, base };
        if copies.alone == Some(alone) {
            return Ok(Outcome::Done);
        }
        // What is pending stays, and may still become active: a claim that needs the copy which is gone is replaced by its own claimant.
        copies.alone = Some(alone);
        *nominee = Some(Nominee { node, base, planned: false }).filter(|_| active.primary != Some(node));
        Ok(Outcome::Done)
    }
}

impl Volume {
    /// Copies that were left out, are not wanted, and that nobody is to succeed any more.
    pub(crate) fn drop_left_out(&mut self) {
        let Phase::Open { copies, .. } = &mut self.phase else { return };
        let kept = |n: NodeId| copies.wanted.contains(&n) || copies.successor_of(n).is_some();
        let over: Vec<NodeId> = copies.left_out.keys().copied().filter(|n| !kept(*n)).collect();
        over.into_iter().for_each(|n| copies.drop_learner(n));
    }
}

/// Since when the same copy is out of the other one's reach.
pub(crate) type Missing = Option<(NodeId, NodeId, Time)>;

impl Look<'_> {
    /// A1: whether to propose that one of two copies goes on.
    pub(crate) fn go_alone(&self, missing: &mut Missing) -> Option<Command> {
        let Some((survivor, gone)) = self.pair() else {
            *missing = None;
            return None;
        };
        let known = missing.take().filter(|m| (m.0, m.1) == (survivor, gone));
        let (_, _, since) = *missing.insert(known.unwrap_or((survivor, gone, self.now)));
        let timeout = self.detector.config.failure_timeout;
        // A change of members that is under way may still be completed by others.
        let patience = if self.view.pending.as_ref().is_some_and(|p| p.same_primary) { 8 * timeout } else { timeout };
        let lasts = self.now.since(since) >= patience;
        let silent = patience == timeout && self.detector.silence(gone, self.now) >= 2 * timeout;
        let decided = self.view.alone == Some(survivor);
        (!decided && (lasts || silent)).then_some(Command::GoAlone {
            volume: self.view.volume,
            base: self.view.active.epoch,
            node: survivor,
        })
    }

    /// Whether one of two copies that must both hold a write may go on without the other one.
    pub(crate) fn may_go_alone(&self) -> bool {
        let degraded = self.state.volumes.get(&self.view.volume).and_then(|v| v.degraded);
        let allowed = degraded == Some(Degraded::Allow) || mutated(Mutant::StallGoesOn);
        let active = &self.view.active;
        let pair = active.members.len() == 2 && active.write_quorum == 2 && active.epoch > Epoch::ZERO;
        allowed && pair && self.view.forced.is_none() && self.view.recovered.is_none()
    }

    /// Who could go on alone, and without whom.
    fn pair(&self) -> Option<(NodeId, NodeId)> {
        let view = self.view;
        let [a, b] = view.active.members.as_slice() else { return None };
        if !self.may_go_alone() {
            return None;
        }
        let misses = |m: NodeId, other: NodeId| {
            let (report, others) = (self.report(m)?, self.report(other).filter(|_| !self.dead(other)));
            let acts = matches!(report.role, CopyRole::Primary | CopyRole::Claimant);
            let able = acts && !self.dead(m) && !report.unable() && report.damaged.is_none();
            let gone = report.absent.contains(&other) || others.is_some_and(CopyReport::unable);
            let waited_for = self.detector.restarting(other, self.now).is_some();
            (able && gone && !waited_for).then_some((m, other))
        };
        let pairs = [misses(a.node, b.node), misses(b.node, a.node)];
        let leads = |p: &(NodeId, NodeId)| view.active.primary == Some(p.0);
        pairs.into_iter().flatten().max_by_key(leads)
    }
}
