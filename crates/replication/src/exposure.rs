//! The exposure meter: bytes × seconds during which what was acknowledged had fewer copies than promised.
//!
//! Held by the primary, because it alone knows which copy lacks what. Exposed is every byte that is committed and that a copy which is to
//! stay has not acknowledged to be durable, once, however many copies lack it; never more than the volume has. The amount changes with
//! commits and acknowledgements alone, so between two looks it was what it was at the first one, and the sum is exact on this node's
//! clock.
//!
//! Not exact, and never too small for records of this reign: the index of positions and bytes is thinned out in its older half when it is
//! full. Not known here, and not counted: what a copy that has not reported in this reign lacked before it.

use holdfast_types::{Lsn, Time};
use std::collections::VecDeque;
use std::time::Duration;

/// Positions that are remembered for each volume.
const MARKS: usize = 4096;
/// A copy that lags for less long is no news.
const NEWS: Duration = Duration::from_secs(1);
/// While something is exposed it is looked at so often.
const LOOK: Duration = Duration::from_secs(1);
const NANOS: u128 = 1_000_000_000;

/// How much is exposed, for status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExposureStatus {
    /// Bytes with too few copies now.
    pub bytes: u64,
    /// For so many seconds.
    pub seconds: u64,
    /// Bytes × seconds, in this life of the process; never decreases.
    pub byte_seconds: u64,
}

/// What people are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    Begun { bytes: u64 },
    Ended { byte_seconds: u64, seconds: u64, most: u64 },
}

/// Bytes up to each record of a reign.
#[derive(Debug)]
pub(crate) struct Written {
    /// Ascending: up to and with this record, so many bytes of the reign.
    marks: VecDeque<(Lsn, u64)>,
    bytes: u64,
}

impl Written {
    /// A reign whose first record is the next one after `before`.
    pub(crate) fn new(before: Lsn) -> Written {
        Written { marks: VecDeque::from([(before, 0)]), bytes: 0 }
    }

    pub(crate) fn push(&mut self, lsn: Lsn, bytes: u64) {
        assert!(self.marks.back().is_none_or(|last| last.0 < lsn), "records are appended in order");
        self.bytes = self.bytes.saturating_add(bytes);
        self.marks.push_back((lsn, self.bytes));
        if self.marks.len() > MARKS {
            self.thin();
        }
        assert!(self.marks.len() <= MARKS, "what is remembered is bounded (P13)");
    }

    /// Bytes of the records above `held`, up to `committed`.
    pub(crate) fn between(&self, held: Lsn, committed: Lsn) -> u64 {
        if committed <= held {
            return 0;
        }
        // Where a position is not remembered: held counts for less, committed for more.
        let below = self.marks.partition_point(|m| m.0 <= held).checked_sub(1).map_or(0, |at| self.marks[at].1);
        let above = self.marks.partition_point(|m| m.0 < committed);
        self.marks.get(above).map_or(self.bytes, |m| m.1).saturating_sub(below)
    }

    /// Nobody lacks anything up to here.
    pub(crate) fn forget(&mut self, held: Lsn) {
        while self.marks.len() > 1 && self.marks[1].0 <= held {
            self.marks.pop_front();
        }
    }

    /// Every second one of the older half goes.
    fn thin(&mut self) {
        let half = self.marks.len() / 2;
        let mut at = 0;
        self.marks.retain(|_| {
            at += 1;
            at > half || at % 2 == 1
        });
    }
}

/// Of one copy, over all its reigns in this life of the process.
#[derive(Debug, Default)]
pub(crate) struct Exposure {
    bytes: u64,
    /// Byte-nanoseconds.
    total: u128,
    looked: Option<Time>,
    span: Option<Span>,
}

/// While something is exposed.
#[derive(Debug)]
struct Span {
    since: Time,
    total_before: u128,
    most: u64,
    told: bool,
}

impl Exposure {
    /// `bytes` are exposed from now on.
    pub(crate) fn look(&mut self, bytes: u64, now: Time) -> Option<News> {
        let before = self.total;
        let passed = self.looked.map_or(Duration::ZERO, |at| now.since(at));
        self.total = self.total.saturating_add(u128::from(self.bytes).saturating_mul(passed.as_nanos()));
        self.looked = Some(self.looked.map_or(now, |at| at.max(now)));
        assert!(self.total >= before, "a counter never decreases");
        self.bytes = bytes;
        if bytes == 0 {
            let span = self.span.take()?;
            let byte_seconds = seconds_of(self.total - span.total_before);
            let ended = News::Ended { byte_seconds, seconds: now.since(span.since).as_secs(), most: span.most };
            return span.told.then_some(ended);
        }
        let total_before = self.total;
        let span = self.span.get_or_insert(Span { since: now, total_before, most: bytes, told: false });
        span.most = span.most.max(bytes);
        let news = !span.told && now.since(span.since) >= NEWS;
        span.told |= news;
        news.then_some(News::Begun { bytes })
    }

    /// When it is to be looked at though nothing happens.
    pub(crate) fn next_timeout(&self) -> Option<Time> {
        self.looked.filter(|_| self.span.is_some()).map(|at| at + LOOK)
    }

    /// As of the last look.
    pub(crate) fn status(&self) -> ExposureStatus {
        let since = self.span.as_ref().zip(self.looked);
        ExposureStatus {
            bytes: self.bytes,
            seconds: since.map_or(0, |(span, looked)| looked.since(span.since).as_secs()),
            byte_seconds: seconds_of(self.total),
        }
    }
}

fn seconds_of(byte_nanos: u128) -> u64 {
    u64::try_from(byte_nanos / NANOS).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
