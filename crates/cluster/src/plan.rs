//! What a forced recovery would do now, and what may be lost by it: said before an operator is asked.

use crate::command::{Command, Refusal, RefusalKind};
use crate::detector::{CopyReport, CopyRole, CopyState, Detector};
use crate::recovery::{Known, LastHeard, Operator};
use crate::state::State;
use RefusalKind::{NotFound, Unsafe};
use holdfast_types::{Epoch, Lsn, NodeId, Time, VolumeId};

/// One member of the active configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// What was last heard of it.
    pub heard: LastHeard,
    /// It would go on.
    pub survives: bool,
    /// Why not, or how it is.
    pub state: String,
}

/// A forced recovery that could be ordered now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The volume.
    pub volume: VolumeId,
    /// The active epoch that would be given up.
    pub base: Epoch,
    /// Who would go on.
    pub survivors: Vec<NodeId>,
    /// Who would lead.
    pub primary: NodeId,
    /// Every member.
    pub members: Vec<Planned>,
    /// What is known.
    pub known: Known,
    /// The greatest record that one that would go on holds durably, as last heard.
    pub held: Lsn,
    /// The primary is left and has led until now, so it holds all that was acknowledged.
    pub whole: bool,
}

impl Plan {
    /// What orders it.
    #[must_use]
    pub fn command(&self, by: Operator, at_ms: u64) -> Command {
        Command::ForceRecover {
            volume: self.volume,
            base: self.base,
            survivors: self.survivors.clone(),
            primary: self.primary,
            at_ms,
            by,
            known: self.known.clone(),
        }
    }
}

/// The plan for a volume of which too many members are gone. `to`: who is to lead.
///
/// # Errors
/// Nobody is left, or so many are that nothing needs to be forced.
pub fn recovery_plan(
    state: &State,
    detector: &Detector,
    (volume, to): (VolumeId, Option<NodeId>),
    (now, now_ms): (Time, u64),
) -> Result<Plan, Refusal> {
    let refuse = |kind, message: String| Err(Refusal::new(kind, message));
    let name = state.volumes.get(&volume).map_or_else(|| volume.to_string(), |v| v.name.clone());
    let node_name = |n: NodeId| state.node(n).map_or_else(|| n.to_string(), |node| node.name.clone());
    let Some(view) = state.view(volume).filter(|v| v.active.epoch > Epoch::ZERO) else {
        return refuse(NotFound, format!("volume {name} was never open: there is nothing to recover; delete it"));
    };
    let unix = |at: Time| now_ms.saturating_sub(u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX));
    let members: Vec<Planned> =
        view.active.members.iter().map(|m| planned(detector, m.node, volume, now, &unix)).collect();
    let comes_back = |n: NodeId| {
        let starts = detector.alive(n, now) && detector.report(n, volume).is_none();
        starts || detector.restarting(n, now).is_some()
    };
    if let Some(m) = view.active.members.iter().find(|m| comes_back(m.node)) {
        let who = node_name(m.node);
        return refuse(Unsafe, format!("{who} is just starting, with its copy of {name}; wait for what it says"));
    }
    let survivors: Vec<NodeId> = members.iter().filter(|p| p.survives).map(|p| p.heard.node).collect();
    if survivors.is_empty() {
        let who: Vec<String> = members.iter().map(|p| format!("{} ({})", node_name(p.heard.node), p.state)).collect();
        let found = who.join(", ");
        return refuse(
            Unsafe,
            format!("expected a copy of {name} that answers, found none: {found}; bring one of them back"),
        );
    }
    let enough = survivors.len() >= usize::from(view.active.write_quorum) && view.is_fence(|n| survivors.contains(&n));
    if enough {
        let who: Vec<String> = survivors.iter().map(|n| node_name(*n)).collect();
        let who = who.join(", ");
        let message = format!(
            "{who} answer with copies of {name}, which are enough to go on without losing anything; use `holdfast failover` without --accept-loss"
        );
        return refuse(Unsafe, message);
    }
    let log = |n: &NodeId| detector.report(*n, volume).map(|r| (r.epoch, r.durable));
    let best =
        survivors.iter().copied().max_by_key(|n| (log(n), view.active.primary == Some(*n), std::cmp::Reverse(*n)));
    let primary = to.or(best).expect("there is one at least");
    if !survivors.contains(&primary) {
        let who: Vec<String> = survivors.iter().map(|n| node_name(*n)).collect();
        let (found, who) = (node_name(primary), who.join(", "));
        return refuse(Unsafe, format!("expected a node whose copy of {name} answers ({who}), found {found}"));
    }
    let held =
        survivors.iter().filter_map(|n| detector.report(*n, volume)).map(|r| r.durable).max().unwrap_or_default();
    let committed = members.iter().map(|p| p.heard.committed).max().unwrap_or_default();
    let gone = || members.iter().filter(|p| !p.survives);
    let until_ms = gone().filter_map(|p| p.heard.at_ms).max();
    // A report is as old as a node may be silent before it counts as dead.
    let margin = u64::try_from(detector.config.failure_timeout.as_millis()).unwrap_or(u64::MAX);
    let lost_primary = gone().find(|p| Some(p.heard.node) == view.active.primary);
    let since = lost_primary.filter(|p| p.heard.committed <= held && committed <= held).and_then(|p| p.heard.at_ms);
    let leads = |r: &CopyReport| r.role == CopyRole::Primary && r.state == CopyState::Serving;
    let whole =
        view.active.primary.is_some_and(|p| survivors.contains(&p) && detector.report(p, volume).is_some_and(leads));
    let heard = members.iter().map(|p| p.heard.clone()).collect();
    let since_ms = since.map(|at| at.saturating_sub(margin));
    let known = Known { members: heard, committed, bound: None, since_ms, until_ms };
    Ok(Plan { volume, base: view.active.epoch, survivors, primary, members, known, held, whole })
}

fn planned(detector: &Detector, node: NodeId, volume: VolumeId, now: Time, unix: &dyn Fn(Time) -> u64) -> Planned {
    let report = detector.report(node, volume);
    let heard = LastHeard {
        node,
        at_ms: detector.heard_at(node).map(unix),
        epoch: report.map_or(Epoch::ZERO, |r| r.epoch),
        durable: report.map_or(Lsn::ZERO, |r| r.durable),
        committed: report.map_or(Lsn::ZERO, |r| r.committed),
    };
    let (survives, state) = match report {
        _ if !detector.alive(node, now) => (false, "unreachable".to_owned()),
        None => (false, "no copy there answers".to_owned()),
        Some(CopyReport { state: CopyState::Failed { reason }, .. }) => (false, reason.clone()),
        Some(CopyReport { state: CopyState::Aside { .. }, .. }) => (false, "given up".to_owned()),
        Some(CopyReport { hung: Some(what), .. }) => (false, what.clone()),
        Some(_) => (true, "answers".to_owned()),
    };
    Planned { heard, survives, state }
}
