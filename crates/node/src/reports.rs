//! How the copies are, in the control plane's words.

use crate::shard::CopyRow;
use holdfast_cluster::{
    BlockCounts, Blocks, CopyReport, CopyRole, CopyState, CopyVerdict, Difference, Exposure, Integrity, LostCopy,
    ResyncProgress, ScrubReport, SlowCopy, SpaceLeft, Verdict,
};
use holdfast_replication as replication;
use holdfast_replication::{CopyStatus, Found, LogEnd, ResyncStatus, RoleName};
use holdfast_store::Space;
use holdfast_types::{BLOCK_SIZE, BlockRange, Epoch, Incarnation, Lsn, NodeId, Positions, Time};

/// One report for each copy, for `control::Input::Reports`.
#[must_use]
pub fn copy_reports(rows: &[CopyRow]) -> Vec<CopyReport> {
    rows.iter().map(copy_report).collect()
}

fn copy_report(row: &CopyRow) -> CopyReport {
    let positions = row.status.as_ref().map_or(Positions::default(), |s| s.positions);
    let end = row.aside.as_ref().map(|(_, end)| end);
    let positions = end.map_or(positions, |e| Positions {
        applied: e.checkpoint,
        committed: e.committed,
        durable: e.last,
        received: e.last,
    });
    let aside =
        |(incarnation, end): &(Incarnation, LogEnd)| CopyState::Aside { incarnation: *incarnation, whole: end.whole };
    let aside = row.aside.as_ref().map(aside);
    let failed = row.failed.clone().map(|reason| CopyState::Failed { reason }).or(aside);
    CopyReport {
        volume: row.volume,
        epoch: row.status.as_ref().map_or(Epoch::ZERO, |s| s.promised).max(end.map_or(Epoch::ZERO, |e| e.last_epoch)),
        role: row.status.as_ref().map_or(CopyRole::Idle, role),
        state: failed.unwrap_or_else(|| row.status.as_ref().map_or(CopyState::Opening, state)),
        received: positions.received,
        durable: positions.durable,
        committed: positions.committed,
        applied: positions.applied,
        digest: row.status.as_ref().map(|_| row.digest),
        reason: row.failed.clone().or_else(|| row.status.as_ref().and_then(|s| s.waiting.clone())),
        switchover: row.status.as_ref().is_some_and(|s| s.draining),
        lost: row.status.as_ref().map_or_else(Vec::new, |s| s.lost.iter().map(|l| lost(s, l)).collect()),
        learners: row.status.as_ref().map_or_else(Vec::new, |s| s.learners.iter().map(|l| lost(s, l)).collect()),
        absent: row.status.as_ref().map_or_else(Vec::new, |s| s.absent.clone()),
        damaged: row.status.as_ref().and_then(|s| s.unreadable_to).map(unreadable),
        unknown_reign: row.status.as_ref().is_some_and(|s| s.unknown_reign),
        // The shell's to say: it holds the connections.
        clients: 0,
        asked_for: false,
        space: space_left(row.space),
        integrity: row.status.as_ref().map(integrity).unwrap_or_default(),
        size: row.status.as_ref().map(|s| (s.size.size.bytes(), s.size.decision)),
        hung: row.hung.clone(),
        resync: row.status.as_ref().and_then(|s| s.resync.as_ref()).map(progress),
        exposure: row.status.as_ref().map_or_else(Exposure::default, |s| Exposure {
            bytes: s.exposure.bytes,
            seconds: s.exposure.seconds,
            byte_seconds: s.exposure.byte_seconds,
        }),
        slow: row.status.as_ref().map_or_else(Vec::new, |s| s.slow.iter().map(slow).collect()),
        orphans: row.orphans.iter().map(|(epoch, bytes)| (epoch.0, *bytes)).collect(),
    }
}

fn unreadable(to: Lsn) -> String {
    format!("records that were durable there, up to {to} at most, can't be read")
}

fn slow(s: &replication::SlowCopy) -> SlowCopy {
    let micros = |d: std::time::Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
    SlowCopy { node: s.node, latency_us: micros(s.latency), others_us: micros(s.others), link: s.link }
}

fn progress(s: &ResyncStatus) -> ResyncProgress {
    ResyncProgress {
        source: s.source,
        passes: s.passes,
        done_bytes: s.done_bytes,
        total_bytes: s.total_bytes,
        bytes_per_second: s.bytes_per_second,
        eta_seconds: s.eta().map(|eta| eta.as_secs()),
        paused: s.paused.clone(),
    }
}

fn integrity(status: &CopyStatus) -> Integrity {
    let (scrub, verify) = (&status.scrub, &status.verify);
    let size = BLOCK_SIZE as u64;
    Integrity {
        total: counts(scrub.total),
        unrepairable: scrub.unrepairable.iter().map(bytes).collect(),
        more: scrub.more,
        scrub: ScrubReport {
            position: scrub.next.0 * size,
            length: scrub.blocks * size,
            requested: scrub.requested,
            run: scrub.run,
            of_run: counts(scrub.of_run),
            passes: scrub.passes,
            started_ms: scrub.started.map(millis),
            ended_ms: scrub.ended_ms,
        },
        verifying: verify.running,
        verdict: verify.last.as_ref().map(|v| Verdict {
            run: v.run,
            lsn: v.at,
            ended_ms: millis(v.ended),
            copies: v.copies.iter().map(copy_verdict).collect(),
        }),
        verify_runs: verify.runs,
        proofs: verify.proofs,
        differs: verify.differs.iter().map(|(node, lsn)| Difference { node: *node, lsn: *lsn }).collect(),
    }
}

fn counts(found: Found) -> BlockCounts {
    let Found { verified, mismatches, repaired, lost } = found;
    BlockCounts { verified, mismatches, repaired, unrepairable: lost }
}

fn copy_verdict(copy: &replication::CopyVerdict) -> CopyVerdict {
    CopyVerdict {
        node: copy.node,
        digest: copy.digest,
        missing: copy.missing.clone(),
        ranges: copy.ranges.iter().map(bytes).collect(),
        more: copy.more,
    }
}

fn bytes(range: &BlockRange) -> Blocks {
    Blocks { offset: range.start.offset().0, length: range.count.0 * BLOCK_SIZE as u64 }
}

/// On the clock that the shell gives times of.
const fn millis(time: Time) -> u64 {
    time.0 / 1_000_000
}

fn space_left(space: Space) -> SpaceLeft {
    match space {
        Space::Enough => SpaceLeft::Enough,
        Space::Short => SpaceLeft::Short,
        Space::Out => SpaceLeft::Out,
    }
}

fn lost(status: &CopyStatus, (node, reason): &(NodeId, String)) -> LostCopy {
    LostCopy { node: *node, reason: reason.clone(), resyncs: status.resyncing.contains(node) }
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
        RoleName::Secondary if status.resync.is_some() => CopyState::Resyncing,
        RoleName::Secondary if !status.in_epoch => CopyState::Sealed,
        RoleName::Secondary if status.caught_up => CopyState::InSync,
        RoleName::Secondary => CopyState::CatchingUp,
    }
}
