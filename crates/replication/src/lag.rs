//! Whether a copy keeps up with what is committed. A few records on their way are no lag: people would be told of one again and
//! again under any load.

use holdfast_types::{Lsn, Time};
use std::time::Duration;

/// What was committed so long ago a copy that keeps up holds.
const KEEPS_UP: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct Lag {
    keeps_up: bool,
    /// What was committed then; the copy lacked some of it.
    mark: Option<(Lsn, Time)>,
}

impl Lag {
    /// Called after every batch of inputs.
    pub(crate) fn note(&mut self, durable: Lsn, committed: Lsn, now: Time) {
        if let Some((lsn, at)) = self.mark {
            let in_time = now.since(at) <= KEEPS_UP;
            if durable < lsn {
                self.keeps_up &= in_time;
                return;
            }
            self.keeps_up = in_time;
        }
        self.keeps_up |= durable >= committed;
        self.mark = (durable < committed).then_some((committed, now));
    }

    pub(crate) const fn keeps_up(&self) -> bool {
        self.keeps_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time(1) + Duration::from_millis(ms)
    }

    #[test]
    fn records_on_their_way_are_no_lag_and_those_that_stay_away_are_one() {
        let mut lag = Lag::default();
        lag.note(Lsn(5), Lsn(9), at(0));
        assert!(!lag.keeps_up(), "nobody knows yet");
        lag.note(Lsn(9), Lsn(9), at(10));
        assert!(lag.keeps_up());
        // Always a little behind, never by much.
        for ms in 0..3_000 {
            lag.note(Lsn(10 + ms), Lsn(12 + ms), at(20 + ms));
            assert!(lag.keeps_up(), "{ms}");
        }
        lag.note(Lsn(3_009), Lsn(9_000), at(4_000));
        lag.note(Lsn(3_100), Lsn(9_000), at(5_100));
        assert!(!lag.keeps_up());
        lag.note(Lsn(9_000), Lsn(20_000), at(9_000));
        assert!(!lag.keeps_up(), "it holds what was committed five seconds ago");
        lag.note(Lsn(20_000), Lsn(20_100), at(9_500));
        assert!(lag.keeps_up());
    }
}
