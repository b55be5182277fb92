//! What a copy knows of its own log.

use holdfast_format::Record;
use holdfast_format::message::TailReport;
use holdfast_types::{
    Epoch, EpochTable, Incarnation, Lsn, Mutant, OpenedCopy, Positions, Resized, Sizes, VolumeSize, mutated,
};
use std::collections::VecDeque;

/// A copy's log: positions, promise, table, and enough hashes to continue the chain.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    pub(crate) incarnation: Incarnation,
    pub(crate) promised: Epoch,
    /// The epoch whose table this copy has adopted durably in this life; acknowledgements speak for it alone.
    pub(crate) adopted: Epoch,
    pub(crate) table: EpochTable,
    pub(crate) positions: Positions,
    /// Of the image at `positions.applied`.
    pub(crate) digest: u64,
    /// From what is committed on, at least.
    pub(crate) sizes: Sizes,
    pub(crate) checkpoint: Lsn,
    pub(crate) first: Lsn,
    pub(crate) unknown_to: Option<Lsn>,
    /// What was promised when the copy was opened: what it can't read may have been acknowledged under this epoch, not a
    /// later one.
    promised_before: Epoch,
    commit_hint: Lsn,
    /// The epoch that an earlier life followed when it ended, 0 if none: what it held in memory alone is gone.
    forgot: Epoch,
    /// From here on what was forgotten is held again.
    recalls_at: Option<Lsn>,
    /// Epoch and hash of the record at `received`.
    last_epoch: Epoch,
    last_hash: u64,
    /// The same for records that are received and not durable, oldest first: a tail report names the durable end.
    volatile: VecDeque<(Lsn, Epoch, u64)>,
    durable_end: (Epoch, u64),
}

impl Log {
    pub(crate) fn new(opened: &OpenedCopy) -> Log {
        let positions = Positions {
            applied: opened.applied,
            committed: opened.committed,
            durable: opened.last,
            received: opened.last,
        };
        positions.validate();
        Log {
            incarnation: opened.incarnation,
            promised: opened.promised,
            adopted: Epoch::ZERO,
            table: opened.table.clone(),
            positions,
            digest: opened.digest,
            sizes: opened.sizes.clone(),
            checkpoint: opened.checkpoint,
            first: opened.first,
            // What this copy itself once knew to be committed and no longer holds is lost as surely as what has rotted.
            unknown_to: opened.unknown_to.max((opened.commit_hint > opened.last).then_some(opened.commit_hint)),
            promised_before: opened.promised,
            commit_hint: opened.commit_hint,
            // A higher promise was persisted after the appends of the adopted epoch had drained: then nothing was volatile.
            forgot: opened.table.entries().last().map(|e| e.0).filter(|e| *e == opened.promised).unwrap_or(Epoch::ZERO),
            recalls_at: None,
            last_epoch: opened.last_epoch,
            last_hash: opened.last_hash,
            volatile: VecDeque::new(),
            durable_end: (opened.last_epoch, opened.last_hash),
        }
    }

    pub(crate) fn last(&self) -> Lsn {
        self.positions.received
    }

    /// The volume's size as far as it is committed.
    pub(crate) fn size(&self) -> VolumeSize {
        self.sizes.at(self.positions.committed).size
    }

    /// Epoch of the last record; 0 without one.
    pub(crate) fn last_epoch(&self) -> Epoch {
        self.last_epoch
    }

    pub(crate) fn last_hash(&self) -> u64 {
        self.last_hash
    }

    /// Takes a record that follows the last one. `Err` says how it does not fit: the logs differ where they must not (S15).
    pub(crate) fn push(&mut self, record: &Record) -> Result<(), String> {
        let h = record.header();
        if h.lsn != self.last().next() || h.prev_hash != self.last_hash || self.table.epoch_at(h.lsn) != Some(h.epoch) {
            return Err(format!(
                "log matching is broken: record {} of {} with previous hash {:016x} does not follow record {} with hash {:016x} \
                 under the epoch table {:?}; keep this copy's directory for analysis and replace the copy",
                h.lsn,
                h.epoch,
                h.prev_hash,
                self.last(),
                self.last_hash,
                self.table
            ));
        }
        if !h.fits(self.sizes.last().size) {
            return Err(format!(
                "record {} of {} does not lie in the volume, which has {} bytes there: {:?}; keep this copy's directory for analysis and \
                 replace the copy",
                h.lsn,
                h.epoch,
                self.sizes.last().size.bytes(),
                h.range
            ));
        }
        if let Some(resized) = record.resized() {
            self.sizes.push(resized);
        }
        self.positions.received = h.lsn;
        (self.last_epoch, self.last_hash) = (h.epoch, record.hash());
        self.volatile.push_back((h.lsn, h.epoch, record.hash()));
        self.positions.validate();
        Ok(())
    }

    /// The store proved that records up to `durable` are on stable storage.
    pub(crate) fn note_durable(&mut self, durable: Lsn) {
        while let Some(&(lsn, epoch, hash)) = self.volatile.front().filter(|v| v.0 <= durable) {
            self.durable_end = (epoch, hash);
            self.positions.durable = lsn;
            self.volatile.pop_front();
        }
        // What had rotted was supplied by a primary and is durable again. Where the damage reached is a guess upwards; the
        // start of an epoch that came later decides as well: whoever wrote it chose the log below without this copy.
        if let Some(unknown) = self.unknown_to {
            let later = |(epoch, _): &&(Epoch, Lsn)| *epoch == self.adopted && *epoch > self.promised_before;
            let start = self.table.entries().last().filter(later).map(|(_, start)| *start);
            let decided = start.map_or(unknown, |start| start.min(unknown));
            self.unknown_to = Some(unknown).filter(|_| decided > self.positions.durable);
        }
        if self.recalls_at.is_some_and(|at| at <= self.positions.durable) {
            (self.forgot, self.recalls_at) = (Epoch::ZERO, None);
        }
        self.positions.validate();
    }

    /// The primary of the adopted epoch, from which all that was forgotten had come, had `last` then.
    pub(crate) fn recall_at(&mut self, last: Lsn) {
        if self.forgot > Epoch::ZERO {
            self.recalls_at = Some(last);
            self.note_durable(self.positions.durable);
        }
    }

    /// The highest position known to be committed, held or not.
    pub(crate) fn commit_hint(&self) -> Lsn {
        self.commit_hint.max(self.positions.committed)
    }

    /// Records up to `lsn` are committed. Returns the new position if this copy holds more of them than it knew.
    pub(crate) fn note_committed(&mut self, lsn: Lsn) -> Option<Lsn> {
        self.commit_hint = self.commit_hint.max(lsn);
        let committed = lsn.min(self.positions.durable);
        if committed <= self.positions.committed {
            return None;
        }
        self.positions.committed = committed;
        self.sizes.settle(committed);
        self.positions.validate();
        Some(committed)
    }

    pub(crate) fn note_applied(&mut self, lsn: Lsn, digest: u64) {
        if lsn >= self.positions.applied {
            (self.positions.applied, self.digest) = (lsn, digest);
        }
        self.positions.validate();
    }

    /// What stays of this log under `table`: the highest LSN up to which every record is the one that the table's log
    /// holds. Records of the table's last epoch never conflict with it, however far the sender's log reached then.
    pub(crate) fn cut_under(&self, table: &EpochTable) -> Option<Lsn> {
        let kept = self.table.common_point(self.last(), table, Lsn(u64::MAX));
        let kept = if mutated(Mutant::CutsOneTooMany) { kept.map(Lsn::prev) } else { kept };
        if mutated(Mutant::AdoptsWithoutCut) { Some(self.last()) } else { kept }
    }

    /// The store cut the log to `last` and adopted `table`.
    pub(crate) fn note_adopted(&mut self, epoch: Epoch, table: EpochTable, last: Lsn, last_hash: u64) {
        assert!(
            last >= self.positions.committed,
            "a committed record is never cut (S16): {last} below {:?}",
            self.positions
        );
        assert!(self.volatile.is_empty(), "a log is adopted after older appends drained: {:?}", self.positions);
        let last_epoch =
            self.table.epoch_at(last).unwrap_or(if last == Lsn::ZERO { Epoch::ZERO } else { self.last_epoch });
        // A fence of a higher epoch may have come while the store adopted: its promise stands, and as acknowledgements need
        // both to be equal, none is given for the adopted epoch.
        self.promised = self.promised.max(epoch);
        if self.adopted != epoch
            && let Some((_, start)) = table.entries().last()
        {
            // Whatever was heard before this epoch was adopted is of a log that it continues, so of records below its start; but after
            // a forced recovery it may be of a log that was given up, and says nothing of the records that follow.
            self.commit_hint = self.commit_hint.min(start.prev().max(self.positions.committed));
        }
        self.adopted = epoch;
        self.table = table;
        self.sizes.cut_after(last);
        self.positions.received = last;
        self.positions.durable = last;
        (self.last_epoch, self.last_hash) = (last_epoch, last_hash);
        self.durable_end = (last_epoch, last_hash);
        self.positions.validate();
    }

    /// Records up to here may have been durable here, can't be read, and are not decided about by the epochs of `table`.
    pub(crate) fn undecided_under(&self, table: &EpochTable) -> Option<Lsn> {
        let unknown = self.unknown_to?;
        let later = table.entries().last().filter(|(epoch, _)| *epoch > self.promised_before);
        Some(later.map_or(unknown, |(_, start)| unknown.min(*start)))
    }

    /// The store made another state the copy's: everything up to `last`, which is committed, and no record.
    pub(crate) fn note_switched(&mut self, epoch: Epoch, table: EpochTable, size: Resized, end: (Epoch, u64)) {
        let (p, last) = (self.positions, size.lsn);
        assert!(
            last >= p.committed || mutated(Mutant::SwitchesBackwards),
            "a switch never takes back what is committed (S16): {last} below {p:?}"
        );
        assert!(self.volatile.is_empty(), "a copy is switched after older appends drained: {p:?}");
        self.promised = self.promised.max(epoch);
        (self.adopted, self.table) = (epoch, table);
        self.sizes = Sizes::new(size);
        self.positions = Positions::at(last);
        (self.checkpoint, self.first) = (last, last.next());
        (self.last_epoch, self.last_hash) = end;
        self.durable_end = end;
        self.commit_hint = self.commit_hint.max(last);
        self.unknown_to = None;
        self.note_durable(last);
    }

    /// What this copy tells a claimant (T2d). Only after a drain.
    pub(crate) fn tail(&self) -> TailReport {
        assert!(
            self.volatile.is_empty(),
            "a tail is reported after older appends drained (trap 9): {:?}",
            self.positions
        );
        let newest = self.table.entries().last().filter(|_| mutated(Mutant::LastEpochFromTable)).map(|e| e.0);
        TailReport {
            incarnation: self.incarnation,
            last_epoch: newest.unwrap_or(self.durable_end.0),
            last: self.positions.durable,
            last_hash: self.durable_end.1,
            table: self.table.clone(),
            committed: self.commit_hint.max(self.positions.committed),
            applied: self.positions.applied,
            first: self.first,
            unknown_to: self.unknown_to,
            forgot: self.forgot,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use holdfast_format::{Draft, RecordKind};
    use holdfast_types::{BlockRange, Resized, VolumeId};

    /// A copy that ends at record 4, with damage above, after it adopted epoch 2 and has its first record.
    fn adopted(promised: Epoch) -> Log {
        let before = EpochTable::new(vec![(Epoch(1), Lsn(1))]).expect("a table");
        let after = before.continued(Lsn(4), Epoch(2));
        let (last, last_epoch, last_hash, zero) = (Lsn(4), Epoch(1), 44, Lsn::ZERO);
        let mut log = Log::new(&OpenedCopy {
            incarnation: Incarnation(1),
            sizes: Sizes::new(Resized { lsn: zero, size: VolumeSize::new(1 << 20).expect("a size"), decision: 0 }),
            promised,
            table: before,
            last,
            last_epoch,
            last_hash,
            committed: zero,
            commit_hint: zero,
            applied: zero,
            digest: 0,
            checkpoint: zero,
            first: Lsn(1),
            unknown_to: Some(Lsn(300)),
            scrub: holdfast_types::ScrubKept::default(),
        });
        log.note_adopted(Epoch(2), after, last, last_hash);
        log.note_durable(last);
        assert_eq!(log.tail().unknown_to, Some(Lsn(300)), "the epoch's start is not here yet");
        let record = Record::seal(Draft {
            volume: VolumeId(1),
            epoch: Epoch(2),
            lsn: last.next(),
            prev_hash: last_hash,
            committed: zero,
            kind: RecordKind::Discard,
            head: false,
            tail: false,
            range: BlockRange::new(0, 1),
            body: Bytes::new(),
        });
        log.push(&record).expect("it follows");
        log.note_durable(last.next());
        log
    }

    /// The end of what has rotted is guessed upwards, by whole frames: a volume that is hardly written would not get there.
    #[test]
    fn a_damaged_copy_is_whole_again_at_the_start_of_a_later_epoch() {
        assert_eq!(adopted(Epoch(1)).tail().unknown_to, None);
    }

    /// What it can't read may be records of that very epoch which it had acknowledged.
    #[test]
    fn the_start_of_the_epoch_of_the_damage_makes_nothing_whole() {
        assert_eq!(adopted(Epoch(2)).tail().unknown_to, Some(Lsn(300)));
    }

    /// After a forced recovery that may be said of records of another log.
    #[test]
    fn what_was_heard_to_be_committed_above_the_start_of_an_epoch_says_nothing_in_it() {
        let before = EpochTable::new(vec![(Epoch(1), Lsn(1))]).expect("a table");
        let mut log = adopted(Epoch(1));
        log.note_committed(Lsn(9));
        assert_eq!(log.tail().committed, Lsn(9), "of the adopted epoch it is true");
        let table = before.continued(Lsn(4), Epoch(2)).continued(Lsn(5), Epoch(3));
        let hash = log.last_hash();
        log.note_adopted(Epoch(3), table, Lsn(5), hash);
        assert_eq!((log.tail().committed, log.commit_hint()), (Lsn(5), Lsn(5)), "record 6 will be another one");
    }
}
