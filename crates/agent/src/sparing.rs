//! What strangers can cause is told only so often, and the rest is counted: neither a log nor the list of events is theirs to fill.

use holdfast_types::Time;
use std::time::Duration;

/// So many at once, and one more each time a while has passed.
#[derive(Clone, Debug)]
pub(crate) struct Sparing {
    burst: u32,
    apart: Duration,
    left: u32,
    /// Since then it is counted what may be told more.
    since: Time,
    untold: u64,
}

impl Sparing {
    pub(crate) const fn new(burst: u32, apart: Duration) -> Sparing {
        Sparing { burst, apart, left: burst, since: Time::ZERO, untold: 0 }
    }

    /// `None`: one more that is only counted. Otherwise it is told, with how many were not told before it.
    pub(crate) fn tell(&mut self, now: Time) -> Option<u64> {
        while self.left < self.burst && self.since + self.apart <= now {
            self.left += 1;
            self.since = self.since + self.apart;
        }
        if self.left == 0 {
            self.untold += 1;
            return None;
        }
        if self.left == self.burst {
            self.since = now;
        }
        self.left -= 1;
        Some(std::mem::take(&mut self.untold))
    }
}

/// The end of a sentence: how many went untold before it.
pub(crate) fn others(untold: u64) -> String {
    if untold == 0 { String::new() } else { format!(" ({untold} others were refused before)") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_flood_is_told_now_and_then_and_counted_whole() {
        let mut sparing = Sparing::new(3, 10 * SECOND);
        // A hundred a second, for a minute and a half.
        let told: Vec<(u64, u64)> = (0..9000)
            .filter_map(|n| Some((n, sparing.tell(Time::ZERO + Duration::from_millis(60_000 + 10 * n))?)))
            .collect();
        let expected: Vec<(u64, u64)> =
            [(0, 0), (1, 0), (2, 0), (1000, 997)].into_iter().chain((2..9).map(|n| (1000 * n, 999))).collect();
        assert_eq!(told, expected);
        // After a silence there is as much room as in the beginning, and what went untold is said.
        let later = Time::ZERO + 10_000 * SECOND;
        let told: Vec<_> = (0..5).map(|_| sparing.tell(later)).collect();
        assert_eq!(told, [Some(999), Some(0), Some(0), None, None]);
    }

    #[test]
    fn one_at_a_time_is_always_told() {
        let mut sparing = Sparing::new(1, 10 * SECOND);
        assert!((1..50).all(|n| sparing.tell(Time::ZERO + 10 * n * SECOND) == Some(0)));
    }
}
