//! When a primary's log had reached which record, and after how many bytes: what a copy's lag is measured with.
//!
//! Bounded: old times are known less finely than new ones, to an eighth of what they are ago.

use holdfast_types::{Lsn, Time};
use std::time::Duration;

/// Marks that are kept; they are a tenth of a second apart at first. An eighth of its age apart a month takes fewer than 300.
const MARKS: usize = 512;
/// How finely an age is known.
const PARTS: u32 = 8;

/// The log's end at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    last: Lsn,
    at: Time,
    /// Bytes that guests wrote until then.
    bytes: u64,
}

/// Of one reign.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct History {
    marks: Vec<Mark>,
}

/// How far a copy is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lag {
    /// Age of the oldest record that it lacks.
    pub(crate) age: Duration,
    /// What guests wrote since the last record that it certainly holds.
    pub(crate) bytes: u64,
}

impl History {
    /// The log ends at `last` now.
    pub(crate) fn mark(&mut self, last: Lsn, at: Time, bytes: u64) {
        match self.marks.last() {
            Some(newest) if newest.last == last => return,
            // Another log, or the numbers of another life of the counters.
            Some(newest) if newest.last > last || newest.bytes > bytes => self.marks.clear(),
            _ => {}
        }
        if self.marks.len() >= MARKS {
            self.thin(at);
        }
        self.marks.push(Mark { last, at, bytes });
    }

    /// Forgets marks whose neighbours are close for their age. The first one stays: it says since when anything is known.
    fn thin(&mut self, now: Time) {
        let mut kept: Vec<Mark> = Vec::with_capacity(MARKS);
        for (at, mark) in self.marks.iter().enumerate() {
            let next = self.marks.get(at + 1);
            let between = kept.last().zip(next).map(|(before, after)| after.at.since(before.at));
            if between.is_none_or(|gap| gap > now.since(mark.at) / PARTS) {
                kept.push(*mark);
            }
        }
        // Months of marks that are as far apart as this allows: the older half of them is as good as gone.
        if kept.len() >= MARKS {
            kept.drain(1..MARKS / 2);
        }
        assert!(kept.len() < MARKS, "there is room for the next one");
        self.marks = kept;
    }

    /// How far a copy is behind that holds everything up to `held`. What was written before this history began is not known: then
    /// it is at least that far.
    pub(crate) fn lag(&self, held: Lsn, now: Time) -> Lag {
        let Some(newest) = self.marks.last() else { return Lag::default() };
        let lacked = self.marks.partition_point(|mark| mark.last <= held);
        let Some(oldest_lacked) = self.marks.get(lacked) else { return Lag::default() };
        let before = self.marks[lacked.saturating_sub(1)].bytes;
        Lag { age: now.since(oldest_lacked.at), bytes: newest.bytes - before }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn lag(history: &History, held: u64, now: u64) -> (u64, u64) {
        let lag = history.lag(Lsn(held), Time(now * SECOND));
        (lag.age.as_secs(), lag.bytes)
    }

    #[test]
    fn lag_is_the_age_of_the_oldest_record_that_is_lacked() {
        let mut history = History::default();
        assert_eq!(lag(&history, 0, 9), (0, 0), "nothing is known yet");
        for (last, at, bytes) in [(10, 1, 100), (10, 2, 100), (20, 3, 200), (30, 5, 300)] {
            history.mark(Lsn(last), Time(at * SECOND), bytes);
        }
        assert_eq!(lag(&history, 30, 9), (0, 0));
        assert_eq!(lag(&history, 31, 9), (0, 0), "it heard of more than was marked");
        assert_eq!(lag(&history, 29, 9), (4, 100));
        assert_eq!(lag(&history, 20, 9), (4, 100));
        assert_eq!(lag(&history, 15, 9), (6, 200));
        assert_eq!(lag(&history, 3, 9), (8, 200), "at least since it is known");
    }

    #[test]
    fn a_shorter_log_is_another_one() {
        let mut history = History::default();
        history.mark(Lsn(10), Time(SECOND), 100);
        history.mark(Lsn(5), Time(2 * SECOND), 100);
        assert_eq!(lag(&history, 5, 3), (0, 0));
    }

    #[test]
    fn it_stays_small_and_covers_long_times() {
        let mut history = History::default();
        for n in 1..=100_000 {
            history.mark(Lsn(n), Time(n * SECOND), n);
        }
        assert!(history.marks.len() <= MARKS);
        for behind in [1, 10, 1_000, 20_000, 80_000] {
            let (age, bytes) = lag(&history, 100_000 - behind, 100_000);
            let least = behind - behind / 4 - 1;
            assert!((least..=behind).contains(&age), "{behind} s behind, found {age} s");
            assert!((behind..=behind + behind / 4 + 1).contains(&bytes), "{behind} bytes behind, found {bytes}");
        }
    }
}
