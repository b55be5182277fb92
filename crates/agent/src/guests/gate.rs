//! Which of a volume's clients may hand over a request now, where its guests are limited.
//!
//! One request of each connection waits here, in the order in which they came; what its client sends meanwhile stays in the
//! socket, so that waiting costs no memory. The first in the queue has a timer, the others are woken when their turn comes.

use holdfast_node::{Cost, Quota};
use holdfast_types::{GuestLimits, SessionId, Time};
use std::collections::VecDeque;

/// The allowance of a volume, and who waits for it.
#[derive(Debug, Default)]
pub(super) struct Gate {
    quota: Quota,
    queue: VecDeque<SessionId>,
}

/// When a request may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Now,
    /// It is the first in the queue.
    At(Time),
    /// Others are before it; it will be called.
    Behind,
}

impl Gate {
    pub(super) const fn limits(&self) -> GuestLimits {
        self.quota.limits()
    }

    /// Other limits from now on. Who is to be called because of that.
    pub(super) fn set(&mut self, limits: GuestLimits, now: Time) -> Vec<SessionId> {
        self.quota.set(limits, now);
        if limits.is_none() {
            return std::mem::take(&mut self.queue).into();
        }
        self.queue.front().copied().into_iter().collect()
    }

    /// Whether a request of `session` may go now. It waits otherwise, until it may or [`Gate::leaves`] is called.
    pub(super) fn asks(&mut self, session: SessionId, now: Time) -> Turn {
        if self.limits().is_none() {
            return Turn::Now;
        }
        let first = self.queue.front().copied();
        if first.is_none() || first == Some(session) {
            let at = self.quota.ready_at();
            if at <= now {
                return Turn::Now;
            }
            self.waits(session);
            return Turn::At(at);
        }
        self.waits(session);
        Turn::Behind
    }

    fn waits(&mut self, session: SessionId) {
        if !self.queue.contains(&session) {
            self.queue.push_back(session);
        }
    }

    /// The request of `session` that may go now goes. Who is to be called next.
    pub(super) fn takes(&mut self, session: SessionId, cost: Cost, now: Time) -> Option<SessionId> {
        if self.limits().is_none() {
            return None;
        }
        self.quota.take(cost, now);
        self.leaves(session)
    }

    /// `session` waits no more. Who is to be called instead.
    pub(super) fn leaves(&mut self, session: SessionId) -> Option<SessionId> {
        let first = self.queue.front().copied();
        self.queue.retain(|waiting| *waiting != session);
        self.queue.front().copied().filter(|_| first == Some(session))
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Nobody is served any more.
    pub(super) fn clear(&mut self) {
        self.queue.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const ONE: Cost = Cost { requests: 1, bytes: 512 };
    const START: Time = Time(5_000_000_000);
    const LIMITS: GuestLimits = GuestLimits { iops: 10, bandwidth: 0, burst_ms: 100 };

    #[test]
    fn who_comes_first_goes_first_and_the_next_is_called() {
        let mut gate = Gate::default();
        let (a, b, c) = (SessionId(1), SessionId(2), SessionId(3));
        assert_eq!((gate.asks(a, START), gate.takes(a, ONE, START)), (Turn::Now, None), "no limits, no queue");
        assert_eq!(gate.set(LIMITS, START), []);
        for _ in 0..2 {
            assert_eq!((gate.asks(a, START), gate.takes(a, ONE, START)), (Turn::Now, None));
        }
        let at = START + Duration::from_millis(100);
        assert_eq!(
            (gate.asks(b, START), gate.asks(a, START), gate.asks(c, START)),
            (Turn::At(at), Turn::Behind, Turn::Behind)
        );
        assert_eq!(gate.asks(b, START), Turn::At(at), "asking again changes nothing");
        assert_eq!(gate.asks(a, at), Turn::Behind, "it is not its turn, although the time has come");
        assert_eq!((gate.asks(b, at), gate.takes(b, ONE, at)), (Turn::Now, Some(a)));
        assert_eq!(gate.leaves(c), None, "nobody is called because the last one goes");
        assert_eq!(gate.asks(b, at), Turn::Behind, "at the end again");
        assert_eq!(gate.leaves(a), Some(b));
        assert_eq!(gate.set(GuestLimits { iops: 20, ..LIMITS }, at), [b], "its time may have changed");
        assert_eq!(gate.set(GuestLimits::default(), at), [b]);
        assert_eq!((gate.asks(c, at), gate.leaves(b)), (Turn::Now, None));
    }
}
