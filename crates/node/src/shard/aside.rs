//! Copies that a forced recovery gave up (PROTOCOL.md, F5), and what is told of orphans.
//!
//! Such a copy takes no part any more. First its node tells the control plane where its log ends; then, and not before, what was never
//! committed of it becomes an orphan, under a promise of the epoch that gave it up: whatever it is told later, it acknowledges
//! nothing older, and the journal, which it shares with copies that count, is not held by it for ever.

use super::{Output, Shard};
use holdfast_replication::LogEnd;
use holdfast_store as store;
use holdfast_store::OrphanNews;
use holdfast_store::io::FileId;
use holdfast_types::{Epoch, OpenedCopy, Time, VolumeId};

/// Entries of the epoch table that are kept.
const TABLE: usize = 64;

impl Shard {
    /// Whatever the copy did ends now, without a word to its guests.
    pub(super) fn end_replica(&mut self, volume: VolumeId, out: &mut Vec<Output>) -> Option<LogEnd> {
        let copy = self.copies.get_mut(&volume)?;
        let replica = copy.replica.take();
        self.agenda.forget(volume);
        self.resyncs.forget(volume);
        for peer in std::mem::take(&mut copy.lanes) {
            out.push(Output::CloseLane { peer, volume });
        }
        let replica = replica?;
        if replica.is_serving() {
            out.push(Output::Serving { volume, serving: false });
        }
        Some(replica.log_end())
    }

    /// Makes a copy evidence, as far as the control plane is with that.
    pub(super) fn set_aside(&mut self, volume: VolumeId, now: Time, out: &mut Vec<Output>) {
        let Some(aside) = self.local.aside.get(&volume).copied() else { return };
        let Some(copy) = self.copies.get(&volume) else { return };
        if copy.opened.incarnation != aside.incarnation || self.deleting.contains(&volume) {
            // Another state than the one that was given up tells nothing.
            return;
        }
        if copy.aside.is_none() {
            let ended = self.end_replica(volume, out);
            let copy = self.copies.get_mut(&volume).expect("found above");
            copy.aside = Some(ended.unwrap_or_else(|| end_of(&copy.opened)));
        }
        let copy = self.copies.get_mut(&volume).expect("found above");
        let end = copy.aside.clone().expect("it was set above");
        // One that was to take another state knows where its log ends when it is opened anew.
        if !aside.found || copy.sealed || copy.failed.is_some() || end.switching {
            return;
        }
        copy.sealed = true;
        // No primary tells it any more what may go, and nobody catches up from it.
        self.store(store::Input::Trim { volume, upto: end.last }, now, out);
        if end.promised < aside.epoch {
            let mut table = end.table.continued(end.committed, aside.epoch);
            table.forget(end.checkpoint, TABLE);
            self.store(store::Input::Adopt { volume, epoch: aside.epoch, table, cut_after: end.committed }, now, out);
        }
    }
}

fn end_of(opened: &OpenedCopy) -> LogEnd {
    LogEnd {
        last_epoch: opened.last_epoch,
        last: opened.last,
        committed: opened.committed,
        checkpoint: opened.checkpoint,
        promised: opened.promised,
        table: opened.table.clone(),
        whole: opened.unknown_to.is_none() && opened.commit_hint <= opened.last,
        switching: false,
    }
}

pub(super) fn mended_event(volume: VolumeId, file: FileId) -> Output {
    let text = format!("{file} was not what had been written to it, which the scrub found; it is written again");
    Output::Event { volume: Some(volume), text }
}

pub(super) fn orphan_event(volume: VolumeId, epoch: Epoch, news: OrphanNews) -> Output {
    let text = match news {
        OrphanNews::Kept { first, last, bytes, left_out: 0 } => format!(
            "records {first} to {last}, never committed, were cut when epoch {epoch} was adopted and are kept as an orphan of {bytes} bytes"
        ),
        OrphanNews::Kept { first, last, bytes, left_out } => format!(
            "records {first} to {last}, never committed, were cut when epoch {epoch} was adopted; all but the last {left_out}, which go beyond the \
             bound, are kept as an orphan of {bytes} bytes"
        ),
        OrphanNews::NoRoom => format!(
            "records that were never committed were cut when epoch {epoch} was adopted and are not kept: the file system is full"
        ),
        OrphanNews::Gone => format!("the orphan that was cut when epoch {epoch} was adopted is gone"),
    };
    Output::Event { volume: Some(volume), text }
}
