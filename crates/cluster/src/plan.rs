//! What a forced recovery would do now, and what may be lost by it: said before an operator is asked.

use crate::command::{Command, Refusal, RefusalKind};
use crate::detector::{CopyReport, CopyRole, CopyState, Detector};
use crate::integrity::Integrity;
use crate::recovery::{Known, LastHeard, Operator};
use crate::state::{Phase, State};
use RefusalKind::{NotFound, Unsafe};
use holdfast_types::{Configuration, Epoch, Lsn, NodeId, Time, VolumeId, VolumeView};

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
    /// No member is left: who would go on was left out before, and lacks what was acknowledged since.
    pub stale: bool,
    /// The primary that would be given up acknowledges without anybody else: it must have ended.
    pub alone: bool,
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
    let left_out = left_out(state, volume);
    let unix = |at: Time| now_ms.saturating_sub(u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX));
    let primary = view.active.primary.filter(|p| detector.alive(*p, now)).and_then(|p| detector.report(p, volume));
    let look = Look { detector, volume, now, unix: &unix, primary };
    let mut members: Vec<Planned> = view.active.members.iter().map(|m| look.planned(m.node)).collect();
    if let Some(m) = view.active.members.iter().find(|m| look.comes_back(m.node)) {
        let who = node_name(m.node);
        return refuse(
            Unsafe,
            format!(
                "{who} is just starting, with its copy of {name}; wait for what it says, or stop the agent there if it says nothing"
            ),
        );
    }
    // Copies that the volume went on without are better than none, and nothing else.
    let stale = !members.iter().any(|p| p.survives) && !left_out.is_empty();
    if stale {
        members.extend(left_out.iter().map(|(node, epoch)| look.left_out(*node, *epoch)));
    }
    let survivors: Vec<NodeId> = members.iter().filter(|p| p.survives).map(|p| p.heard.node).collect();
    if survivors.is_empty() {
        let who: Vec<String> = members.iter().map(|p| format!("{} ({})", node_name(p.heard.node), p.state)).collect();
        let found = who.join(", ");
        return refuse(
            Unsafe,
            format!("expected a copy of {name} that answers and is sound, found none: {found}; bring one of them back"),
        );
    }
    if are_enough(&view, detector, &survivors) {
        let who: Vec<String> = survivors.iter().map(|n| node_name(*n)).collect();
        let who = who.join(", ");
        let message = format!(
            "{who} answer with copies of {name}, which are enough to go on without losing anything; use `holdfast failover` without --accept-loss"
        );
        return refuse(Unsafe, message);
    }
    let log = |n: &NodeId| detector.report(*n, volume).map(|r| (r.epoch, r.durable));
    let rotten = |n: &NodeId| detector.report(*n, volume).is_some_and(|r| rot(&r.integrity).is_some());
    let best = survivors
        .iter()
        .copied()
        .max_by_key(|n| (!rotten(n), log(n), view.active.primary == Some(*n), std::cmp::Reverse(*n)));
    let primary = to.or(best).expect("there is one at least");
    if !survivors.contains(&primary) {
        let who: Vec<String> = survivors.iter().map(|n| node_name(*n)).collect();
        let (found, who) = (node_name(primary), who.join(", "));
        return refuse(Unsafe, format!("expected a node whose copy of {name} answers ({who}), found {found}"));
    }
    let held =
        survivors.iter().filter_map(|n| detector.report(*n, volume)).map(|r| r.durable).max().unwrap_or_default();
    let known = known(&view.active, &members, held, detector);
    let leads = |r: &CopyReport| r.role == CopyRole::Primary && r.state == CopyState::Serving;
    let whole =
        view.active.primary.is_some_and(|p| survivors.contains(&p) && detector.report(p, volume).is_some_and(leads));
    let alone = view.active.write_quorum == 1 && view.active.primary.is_some_and(|p| !survivors.contains(&p));
    Ok(Plan { volume, base: view.active.epoch, survivors, primary, members, known, held, whole, stale, alone })
}

/// Whether the volume opens with these copies, and nothing is lost.
fn are_enough(view: &VolumeView, detector: &Detector, survivors: &[NodeId]) -> bool {
    let unknown = |n: &NodeId| detector.report(*n, view.volume).is_some_and(|r| r.unknown_reign);
    survivors.len() >= usize::from(view.active.write_quorum)
        && view.is_fence(|n| survivors.contains(&n))
        && !survivors.iter().any(unknown)
}

/// Copies that the volume went on without, and since which epoch.
fn left_out(state: &State, volume: VolumeId) -> Vec<(NodeId, Epoch)> {
    match state.volumes.get(&volume).map(|v| &v.phase) {
        Some(Phase::Open { copies, .. }) => copies.left_out.iter().map(|(n, e)| (*n, *e)).collect(),
        _ => Vec::new(),
    }
}

/// What is known of what may be lost. `held`: up to where the survivors' logs reach.
fn known(active: &Configuration, members: &[Planned], held: Lsn, detector: &Detector) -> Known {
    let committed = members.iter().map(|p| p.heard.committed).max().unwrap_or_default();
    let gone = || members.iter().filter(|p| !p.survives);
    let until_ms = gone().filter_map(|p| p.heard.at_ms).max();
    // A report is as old as a node may be silent before it counts as dead.
    let margin = u64::try_from(detector.config.failure_timeout.as_millis()).unwrap_or(u64::MAX);
    let lost_primary = gone().find(|p| Some(p.heard.node) == active.primary);
    let since = lost_primary.filter(|p| p.heard.committed <= held && committed <= held).and_then(|p| p.heard.at_ms);
    let since_ms = since.map(|at| at.saturating_sub(margin));
    let heard = members.iter().map(|p| p.heard.clone()).collect();
    Known { members: heard, committed, bound: None, since_ms, until_ms }
}

/// What was heard of the copies of one volume.
struct Look<'a> {
    detector: &'a Detector,
    volume: VolumeId,
    now: Time,
    unix: &'a dyn Fn(Time) -> u64,
    /// The primary's word, if it answers.
    primary: Option<&'a CopyReport>,
}

impl Look<'_> {
    /// It will say soon how its copy is.
    fn comes_back(&self, node: NodeId) -> bool {
        let starts = self.detector.alive(node, self.now);
        let starts = starts && self.detector.report(node, self.volume).is_none_or(opens);
        starts || self.detector.restarting(node, self.now).is_some()
    }

    /// A copy that was left out holds what it held then, and perhaps a part of what followed.
    fn left_out(&self, node: NodeId, epoch: Epoch) -> Planned {
        let planned = self.planned(node);
        let state = format!("{}, left out after {epoch}", planned.state);
        Planned { state, ..planned }
    }

    fn planned(&self, node: NodeId) -> Planned {
        let (detector, now) = (self.detector, self.now);
        let report = detector.report(node, self.volume);
        let took_back = |l: &&crate::LostCopy| l.node == node && !l.resyncs;
        let took_back = self.primary.and_then(|p| p.lost.iter().find(took_back));
        let heard = self.heard(node, report);
        let (survives, state) = match report {
            _ if !detector.alive(node, now) => (false, "unreachable".to_owned()),
            None => (false, "no copy there answers".to_owned()),
            Some(CopyReport { state: CopyState::Failed { reason }, .. }) => (false, reason.clone()),
            Some(CopyReport { state: CopyState::Aside { .. }, .. }) => (false, "given up".to_owned()),
            Some(CopyReport { hung: Some(what), .. }) => (false, what.clone()),
            Some(r) if opens(r) => (false, "just starting".to_owned()),
            // Its log does not stand for what it once acknowledged: it can neither lead nor be counted on (T3).
            Some(CopyReport { damaged: Some(what), .. }) => (false, format!("damaged: {what}")),
            Some(_) if let Some(lost) = took_back => (false, format!("damaged: {}", lost.reason)),
            Some(r) => {
                (true, rot(&r.integrity).map_or_else(|| "answers".to_owned(), |what| format!("answers, but {what}")))
            }
        };
        Planned { heard, survives, state }
    }

    fn heard(&self, node: NodeId, report: Option<&CopyReport>) -> LastHeard {
        LastHeard {
            node,
            at_ms: self.detector.heard_at(node).map(self.unix),
            epoch: report.map_or(Epoch::ZERO, |r| r.epoch),
            durable: report.map_or(Lsn::ZERO, |r| r.durable),
            committed: report.map_or(Lsn::ZERO, |r| r.committed),
        }
    }
}

/// Whether a copy is being opened after a start of its agent: nobody knows yet what it holds, or whether it is whole.
fn opens(report: &CopyReport) -> bool {
    report.role == CopyRole::Idle && report.state == CopyState::Opening && report.hung.is_none()
}

/// Blocks that no copy could supply: the log is whole, and reads of them fail.
fn rot(found: &Integrity) -> Option<String> {
    let bytes: u64 = found.unrepairable.iter().map(|r| r.length).sum();
    let least = if found.more { "at least " } else { "" };
    (bytes > 0).then(|| format!("{least}{bytes} bytes of it are rotten"))
}
