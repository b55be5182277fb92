//! When copies are in sync: the same digest at the same position, not a flag.

use super::{Cluster, HarnessError};
use holdfast_agent::admin::pb;
use std::time::Duration;

/// What all copies have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InSync {
    /// Up to where each is durable and applied.
    pub lsn: u64,
    /// Of each.
    pub digest: String,
    /// How many.
    pub copies: usize,
}

impl Cluster {
    /// Waits until every copy of a volume that nobody writes to has the same durable LSN, applied LSN and digest.
    ///
    /// # Errors
    /// Not in time; if two copies differ at the same LSN, the sentence says so.
    pub async fn wait_in_sync(&self, volume: &str, limit: Duration) -> Result<InSync, HarnessError> {
        let what = format!("all copies of {volume} to have the same digest at the same LSN");
        self.wait_for(&what, limit, async |cluster| in_sync(&cluster.volume(volume).await?)).await
    }

    /// Waits until a node's copy is healthy again.
    ///
    /// # Errors
    /// Not in time.
    pub async fn wait_copy_healthy(&self, volume: &str, node: &str, limit: Duration) -> Result<(), HarnessError> {
        self.wait_for(&format!("the copy of {volume} on {node} to be healthy"), limit, async |cluster| {
            let volume = cluster.volume(volume).await?;
            let healthy = volume.copies.iter().any(|copy| copy.node == node && copy.state == "healthy");
            if healthy { Ok(()) } else { Err(describe(&volume)) }
        })
        .await
    }
}

fn in_sync(volume: &pb::Volume) -> Result<InSync, String> {
    let wanted = usize::try_from(volume.copies_wanted).unwrap_or(usize::MAX);
    let Some(first) = volume.copies.first() else { return Err("no copies".to_owned()) };
    let (Some(durable), Some(applied)) = (first.durable_lsn, first.applied_lsn) else { return Err(describe(volume)) };
    let agrees = |copy: &pb::Copy| {
        copy.state == "healthy"
            && copy.durable_lsn == Some(durable)
            && copy.applied_lsn == Some(applied)
            && copy.digest == first.digest
    };
    if volume.copies.len() < wanted
        || durable != applied
        || first.digest.is_empty()
        || !volume.copies.iter().all(agrees)
    {
        return Err(describe(volume));
    }
    Ok(InSync { lsn: durable, digest: first.digest.clone(), copies: volume.copies.len() })
}

/// A volume in one line.
pub(super) fn describe(volume: &pb::Volume) -> String {
    let lsn = |lsn: Option<u64>| lsn.map_or_else(|| "?".to_owned(), |lsn| lsn.to_string());
    let copies: Vec<String> = volume
        .copies
        .iter()
        .map(|c| {
            format!(
                "{} {} durable {} applied {} digest {:?}",
                c.node,
                c.state,
                lsn(c.durable_lsn),
                lsn(c.applied_lsn),
                c.digest
            )
        })
        .collect();
    let differ = volume.copies.iter().any(|a| {
        volume.copies.iter().any(|b| {
            a.applied_lsn.is_some()
                && a.applied_lsn == b.applied_lsn
                && !a.digest.is_empty()
                && !b.digest.is_empty()
                && a.digest != b.digest
        })
    });
    let verdict = if differ { "; DIFFERENT DIGESTS AT THE SAME LSN" } else { "" };
    format!("{} in epoch {} ({}), {}{verdict}", volume.state, volume.epoch, volume.reason, copies.join(", "))
}
