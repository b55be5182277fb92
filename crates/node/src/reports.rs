//! How the copies are, in the control plane's words.

use crate::shard::CopyRow;
use holdfast_cluster::{CopyReport, CopyRole, CopyState, LostCopy, SpaceLeft};
use holdfast_replication::{CopyStatus, RoleName};
use holdfast_store::Space;
use holdfast_types::{Epoch, NodeId, Positions};

/// One report for each copy, for `control::Input::Reports`.
#[must_use]
pub fn copy_reports(rows: &[CopyRow]) -> Vec<CopyReport> {
    rows.iter().map(copy_report).collect()
}

fn copy_report(row: &CopyRow) -> CopyReport {
    let positions = row.status.as_ref().map_or(Positions::default(), |s| s.positions);
    let failed = row.failed.clone().map(|reason| CopyState::Failed { reason });
    CopyReport {
        volume: row.volume,
        epoch: row.status.as_ref().map_or(Epoch::ZERO, |s| s.promised),
        role: row.status.as_ref().map_or(CopyRole::Idle, role),
        state: failed.unwrap_or_else(|| row.status.as_ref().map_or(CopyState::Opening, state)),
        received: positions.received,
        durable: positions.durable,
        committed: positions.committed,
        applied: positions.applied,
        digest: row.status.as_ref().map(|_| row.digest),
        reason: row.failed.clone().or_else(|| row.status.as_ref().and_then(|s| s.waiting.clone())),
        switchover: row.status.as_ref().is_some_and(|s| s.draining),
        lost: row.status.as_ref().map_or(&[][..], |s| &s.lost).iter().map(lost).collect(),
        // The shell's to say: it holds the connections.
        clients: 0,
        space: space_left(row.space),
        hung: row.hung.clone(),
    }
}

fn space_left(space: Space) -> SpaceLeft {
    match space {
        Space::Enough => SpaceLeft::Enough,
        Space::Short => SpaceLeft::Short,
        Space::Out => SpaceLeft::Out,
    }
}

fn lost((node, reason): &(NodeId, String)) -> LostCopy {
    LostCopy { node: *node, reason: reason.clone() }
}

fn role(status: &CopyStatus) -> CopyRole {
    match status.role {
        RoleName::Primary => CopyRole::Primary,
        RoleName::Secondary => CopyRole::Secondary,
        RoleName::Claimant => CopyRole::Claimant,
        RoleName::Failed => CopyRole::Idle,
    }
}

fn state(status: &CopyStatus) -> CopyState {
    match status.role {
        RoleName::Primary => CopyState::Serving,
        RoleName::Claimant => CopyState::Opening,
        RoleName::Failed => CopyState::Failed { reason: status.waiting.clone().unwrap_or_default() },
        RoleName::Secondary if !status.in_epoch => CopyState::Sealed,
        RoleName::Secondary if status.caught_up => CopyState::InSync,
        RoleName::Secondary => CopyState::CatchingUp,
    }
}
