//! When the next thing is due, and why.

use holdfast_types::Time;
use std::time::Duration;

/// Something that happens at intervals. After a gap (a suspended host) it happens once, not once per missed turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Every {
    interval: Duration,
    next: Time,
}

impl Every {
    pub(super) fn new(interval: Duration, now: Time) -> Every {
        assert!(!interval.is_zero(), "an interval is above zero");
        Every { interval, next: now + interval }
    }

    /// The same, due at once.
    pub(super) fn from(interval: Duration, now: Time) -> Every {
        Every { next: now, ..Every::new(interval, now) }
    }

    pub(super) fn next(&self) -> Time {
        self.next
    }

    /// Whether it is due; if so, it is due again one interval later.
    pub(super) fn due(&mut self, now: Time) -> bool {
        if now < self.next {
            return false;
        }
        self.next = self.next + self.interval;
        if self.next <= now {
            self.next = now + self.interval;
        }
        true
    }
}
