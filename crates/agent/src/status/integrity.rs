//! What verifying the copies came to, in the admin API's words.

use crate::admin::pb;
use crate::control::View;
use holdfast_cluster::{BlockCounts, Blocks, CopyVerdict, Integrity, ScrubReport, Verdict};

pub(super) fn integrity(view: &View<'_>, found: Integrity) -> pb::Integrity {
    let differs = found.differs.iter().map(|d| pb::Difference { node: view.name(d.node), lsn: d.lsn.0 });
    pb::Integrity {
        total: Some(counts(found.total)),
        unrepairable: ranges(&found.unrepairable),
        unrepairable_more: found.more,
        scrub: Some(scrub(&found.scrub)),
        verifying: found.verifying.unwrap_or(0),
        verify_runs: found.verify_runs,
        proofs: found.proofs,
        differs: differs.collect(),
        verdict: found.verdict.map(|v| verdict(view, v)),
    }
}

fn counts(c: BlockCounts) -> pb::BlockCounts {
    let BlockCounts { verified, mismatches, repaired, unrepairable } = c;
    pb::BlockCounts { verified, mismatches, repaired, unrepairable }
}

fn ranges(ranges: &[Blocks]) -> Vec<pb::Range> {
    ranges.iter().map(|r| pb::Range { offset: r.offset, length: r.length }).collect()
}

fn scrub(s: &ScrubReport) -> pb::Scrub {
    pb::Scrub {
        position: s.position,
        length: s.length,
        requested: s.requested,
        run: s.run,
        of_run: Some(counts(s.of_run)),
        passes: s.passes,
        started_unix_ms: s.started_ms,
        ended_unix_ms: s.ended_ms,
    }
}

fn verdict(view: &View<'_>, v: Verdict) -> pb::Verdict {
    let first = v.copies.first().and_then(|c| c.digest);
    let copies = v.copies.into_iter().map(|c| copy(view, first, c)).collect();
    pb::Verdict { run: v.run, lsn: v.lsn.0, ended_unix_ms: v.ended_ms, copies }
}

/// `first`: the digest of the primary's copy.
fn copy(view: &View<'_>, first: Option<u64>, c: CopyVerdict) -> pb::CopyVerdict {
    let (outcome, otherwise) = match (first, c.digest) {
        (Some(first), Some(digest)) if first == digest => ("equal", ""),
        (Some(_), Some(_)) => ("different", ""),
        _ => ("not_compared", "the primary's own copy was not held at that record"),
    };
    pb::CopyVerdict {
        node: view.name(c.node),
        outcome: outcome.to_owned(),
        digest: c.digest.map(|d| format!("{d:016x}")).unwrap_or_default(),
        reason: c.missing.unwrap_or_else(|| otherwise.to_owned()),
        ranges: ranges(&c.ranges),
        more: c.more,
    }
}
