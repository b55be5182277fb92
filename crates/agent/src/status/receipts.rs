//! Loss receipts in the admin API's words.

use crate::admin::pb;
use crate::control::View;
use holdfast_cluster::{Loss, Receipt};
use holdfast_types::{Durability, Lsn, VolumeId};

/// Those of a volume, oldest first.
pub(super) fn receipts(view: &View<'_>, volume: VolumeId) -> Vec<pb::Receipt> {
    let known = view.control.state().and_then(|s| s.volumes.get(&volume));
    known.map_or_else(Vec::new, |v| v.receipts.iter().map(|r| receipt(view, r, v.durability)).collect())
}

fn receipt(view: &View<'_>, r: &Receipt, durability: Durability) -> pb::Receipt {
    let (loss, from, committed, to) = parts(r.loss(durability));
    let found = r.found.iter().map(|(node, f)| pb::FoundCopy {
        node: view.name(*node),
        last_epoch: f.last_epoch.0,
        last_lsn: f.last.0,
        committed_lsn: f.committed.0,
    });
    pb::Receipt {
        number: r.number,
        unix_ms: r.at_ms,
        uid: r.by.uid,
        user: r.by.user.clone(),
        host: r.by.host.clone(),
        old_epoch: r.before.epoch.0,
        epoch: r.epoch.0,
        survivors: r.survivors.iter().map(|m| view.name(m.node)).collect(),
        given_up: r.given_up().map(|m| view.name(m.node)).collect(),
        kept_lsn: r.kept.filter(|_| r.opened).map(|k| k.last.0),
        loss: loss.to_owned(),
        lost_from: from.map(|l| l.0),
        lost_committed_to: committed.map(|l| l.0),
        lost_to: to.map(|l| l.0),
        since_unix_ms: r.known.since_ms,
        until_unix_ms: r.known.until_ms,
        complete: r.is_complete(durability),
        sentence: r.sentence(durability),
        found: found.collect(),
    }
}

/// The word, the first record, the last one that was committed, the last one that may have been acknowledged.
fn parts(loss: Loss) -> (&'static str, Option<Lsn>, Option<Lsn>, Option<Lsn>) {
    match loss {
        Loss::Open => ("open", None, None, None),
        Loss::Nothing => ("nothing", None, None, None),
        Loss::Possible { from } => ("possible", Some(from), None, None),
        Loss::Bounded { from, to } => ("bounded", Some(from), None, Some(to)),
        Loss::Certain { from, committed, to } => ("certain", Some(from), Some(committed), to),
    }
}
