//! A log of at most eight records in one word: a record is a byte, its epoch and what it is.

use std::fmt;

/// Records a log can hold: the writes and epoch starts of the largest scope fit.
pub(crate) const CAPACITY: u8 = 8;

/// One record: epoch in the upper half, the write's number in the lower (0: the epoch's start). Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record(u8);

impl Record {
    pub(crate) fn start(epoch: u8) -> Record {
        Record::write(epoch, 0)
    }

    pub(crate) fn write(epoch: u8, id: u8) -> Record {
        assert!((1..16).contains(&epoch) && id < 8, "a record of epoch {epoch} and write {id} fits into a byte");
        Record(epoch << 4 | id)
    }
}

/// A sequence of records, oldest in the lowest byte.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Log(u64);

impl Log {
    /// How many records; also the LSN of the last one.
    pub(crate) fn len(self) -> u8 {
        (64 - self.0.leading_zeros()).div_ceil(8).to_le_bytes()[0]
    }

    /// Whether there is no record.
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn word(self) -> u64 {
        self.0
    }

    pub(crate) fn push(&mut self, record: Record) {
        let len = self.len();
        assert!(len < CAPACITY, "a scope's writes and epochs fit into {CAPACITY} records: {self:?}");
        self.0 |= u64::from(record.0) << (8 * len);
    }

    /// The record at an LSN, if the log reaches there.
    pub(crate) fn at(self, lsn: u8) -> Option<Record> {
        let byte = self.0.to_le_bytes()[usize::from(lsn.checked_sub(1)?)];
        (byte != 0).then_some(Record(byte))
    }

    pub(crate) fn epoch_at(self, lsn: u8) -> Option<u8> {
        self.at(lsn).map(|r| r.0 >> 4)
    }

    /// Epoch of the last record held; 0 if there is none.
    pub(crate) fn last_epoch(self) -> u8 {
        self.epoch_at(self.len()).unwrap_or(0)
    }

    /// The first `len` records.
    pub(crate) fn prefix(self, len: u8) -> Log {
        if len >= CAPACITY { self } else { Log(self.0 & ((1 << (8 * len)) - 1)) }
    }

    pub(crate) fn is_prefix_of(self, other: Log) -> bool {
        other.prefix(self.len()) == self
    }

    /// Set of the writes in it, a bit each.
    pub(crate) fn writes(self) -> u8 {
        let ids = self.0.to_le_bytes().into_iter().filter(|b| *b != 0).map(|b| b & 15);
        ids.filter(|id| *id > 0).fold(0, |set, id| set | 1 << id)
    }

    /// The highest LSN at which this log has the epoch that `other`'s table gives to it; above its end the table gives
    /// `last`. What lies above is cut (T7).
    pub(crate) fn common_point(self, other: Log, last: u8) -> u8 {
        let same = |lsn: &u8| self.epoch_at(*lsn) == Some(other.epoch_at(*lsn).unwrap_or(last));
        (1..=self.len()).rev().find(same).unwrap_or(0)
    }

    /// S14 along the log: epochs never fall.
    pub(crate) fn epochs_rise(self) -> bool {
        (2..=self.len()).all(|lsn| self.epoch_at(lsn) >= self.epoch_at(lsn - 1))
    }

    /// S15: where two logs have the same epoch at an LSN they are equal up to there.
    pub(crate) fn matches(self, other: Log) -> bool {
        if self.is_prefix_of(other) || other.is_prefix_of(self) {
            return true;
        }
        let common = self.len().min(other.len());
        let top = (1..=common).rev().find(|lsn| self.epoch_at(*lsn) == other.epoch_at(*lsn));
        top.is_none_or(|lsn| self.prefix(lsn) == other.prefix(lsn))
    }
}

/// As `1s 1a 2s`: the start of epoch 1, write a in it, the start of epoch 2.
impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.to_le_bytes();
        for (at, byte) in bytes.iter().take(usize::from(self.len())).enumerate() {
            let what = if byte & 15 == 0 { 's' } else { char::from(b'a' - 1 + (byte & 15)) };
            write!(f, "{}{}{what}", if at == 0 { "" } else { " " }, byte >> 4)?;
        }
        if self.is_empty() { f.write_str("-") } else { Ok(()) }
    }
}
