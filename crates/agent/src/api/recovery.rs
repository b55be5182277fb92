//! Forced recovery: what it would do, and who orders it.

use super::{node_named, refused_as, volume_named};
use crate::admin::pb;
use crate::control::View;
use crate::peer::{Peer, operator};
use crate::random;
use holdfast_cluster::{Command, Operator, Plan, recovery_plan};
use tonic::{Request, Status};

pub(super) fn plan(view: &View<'_>, r: &pb::RecoveryPlanRequest) -> Result<pb::RecoveryPlanResponse, Status> {
    let plan = planned(view, &r.volume, &r.to)?;
    let members = plan.members.iter().map(|m| pb::PlannedMember {
        node: view.name(m.heard.node),
        survives: m.survives,
        state: m.state.clone(),
        epoch: m.heard.epoch.0,
        durable_lsn: m.heard.durable.0,
        committed_lsn: m.heard.committed.0,
        heard_unix_ms: m.heard.at_ms,
    });
    Ok(pb::RecoveryPlanResponse {
        epoch: plan.base.0,
        survivors: plan.survivors.iter().map(|n| view.name(*n)).collect(),
        primary: view.name(plan.primary),
        members: members.collect(),
        committed_lsn: plan.known.committed.0,
        held_lsn: plan.held.0,
        whole: plan.whole,
        since_unix_ms: plan.known.since_ms,
        until_unix_ms: plan.known.until_ms,
        stale: plan.stale,
        alone: plan.alone,
    })
}

/// The command, if the plan is still the one that the operator was shown.
pub(super) fn order(view: &View<'_>, r: &pb::RecoverRequest, by: Operator) -> Result<Command, Status> {
    let plan = planned(view, &r.volume, &r.primary)?;
    let survivors: Vec<String> = plan.survivors.iter().map(|n| view.name(*n)).collect();
    if plan.base.0 != r.epoch || survivors != r.survivors {
        let (epoch, found) = (plan.base, survivors.join(", "));
        return Err(Status::aborted(format!(
            "expected epoch {} of {} and copies that answer on {}, found epoch {epoch} and {found}; look again before deciding",
            r.epoch,
            r.volume,
            r.survivors.join(", ")
        )));
    }
    Ok(plan.command(by, random::unix_ms()))
}

fn planned(view: &View<'_>, volume: &str, to: &str) -> Result<Plan, Status> {
    let volume = volume_named(view, volume)?;
    let to = if to.is_empty() { None } else { Some(node_named(view, to)?) };
    let state = view.control.state().expect("it named the volume");
    let at = (view.now, random::unix_ms());
    recovery_plan(state, view.control.detector(), (volume, to), at).map_err(|r| refused_as(&r))
}

/// Who is at the other end of the admin socket, by the word of the kernel.
pub(super) fn operator_of<T>(request: &Request<T>) -> Operator {
    operator(request.extensions().get::<Peer>().map(|peer| peer.uid))
}
