//! At most so many per second: for handshakes, joins, and log lines that a stranger can cause.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

pub(crate) struct Limiter {
    per_second: f64,
    state: Mutex<(f64, Instant)>,
}

impl Limiter {
    pub(crate) fn new(per_second: u32) -> Limiter {
        let per_second = f64::from(per_second);
        Limiter { per_second, state: Mutex::new((per_second, Instant::now())) }
    }

    /// Whether one more is within the limit; it is counted.
    pub(crate) fn allows(&self) -> bool {
        self.spend(|tokens| if tokens >= 1.0 { (true, tokens - 1.0) } else { (false, tokens) })
    }

    /// Whether half of what a second allows is gone.
    pub(crate) fn is_half_spent(&self) -> bool {
        self.spend(|tokens| (tokens < self.per_second / 2.0 + 1.0, tokens))
    }

    fn spend(&self, judge: impl FnOnce(f64) -> (bool, f64)) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let earned = now.duration_since(state.1).as_secs_f64() * self.per_second;
        let (answer, left) = judge((state.0 + earned).min(self.per_second));
        *state = (left, now);
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_cut_at_the_limit() {
        let limiter = Limiter::new(3);
        assert_eq!((0..10).filter(|_| limiter.allows()).count(), 3);
    }
}
