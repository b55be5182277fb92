//! How much the guests of one volume may ask for: two token buckets, requests and bytes, that are paid together.
//!
//! A bucket is kept as the time at which it will be full again (the "generic cell rate algorithm"): one number, no refill, nothing
//! to do while nobody asks. A request may go as soon as no bucket is overdrawn, and is then paid in full, so that one that is
//! larger than a bucket goes, too, and those after it wait for what it took.
//!
//! Invariant: of a volume that was limited all along, in any span of time the requests that went cost at most `rate × (span +
//! burst)`, and one request.
//!
//! Deliberately absent: who waits and in which order (the shell has the connections), and clocks.

use holdfast_types::{GuestLimits, Time};
use std::time::Duration;

const SECOND_NS: u128 = 1_000_000_000;

/// What one request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// 1, or 0 for what follows of a request that went already.
    pub requests: u64,
    /// Moved by it.
    pub bytes: u64,
}

/// The allowance of one volume.
#[derive(Clone, Debug, Default)]
pub struct Quota {
    limits: GuestLimits,
    requests: Bucket,
    bytes: Bucket,
}

/// Full at `full_at`; empty one burst before it.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    full_at: Time,
}

impl Bucket {
    fn ready_at(self, burst: Duration) -> Time {
        Time(self.full_at.0.saturating_sub(nanos(burst)))
    }

    fn take(&mut self, units: u64, rate: u64, now: Time) {
        let cost = (u128::from(units) * SECOND_NS).div_ceil(u128::from(rate));
        let cost = u64::try_from(cost).unwrap_or(u64::MAX);
        self.full_at = Time(self.full_at.max(now).0.saturating_add(cost));
    }

    /// What was taken stays taken, in units; at most all that the new bucket holds.
    fn change(&mut self, old: u64, new: u64, burst: Duration, now: Time) {
        let missing = u128::from(nanos(self.full_at.since(now)));
        let missing = if old == 0 || new == 0 { 0 } else { missing * u128::from(old) / u128::from(new) };
        let missing = u64::try_from(missing).unwrap_or(u64::MAX).min(nanos(burst));
        self.full_at = Time(now.0.saturating_add(missing));
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Quota {
    /// The limits that hold.
    #[must_use]
    pub const fn limits(&self) -> GuestLimits {
        self.limits
    }

    const fn burst(&self) -> Duration {
        Duration::from_millis(self.limits.burst_ms)
    }

    /// Other limits from now on. Nobody has to wait for having used what was granted before.
    pub fn set(&mut self, limits: GuestLimits, now: Time) {
        if limits == self.limits {
            return;
        }
        assert_eq!(limits.check(), Ok(()), "the control plane checks limits before it agrees to them");
        let burst = Duration::from_millis(limits.burst_ms);
        self.requests.change(self.limits.iops, limits.iops, burst, now);
        self.bytes.change(self.limits.bandwidth, limits.bandwidth, burst, now);
        self.limits = limits;
        assert!(self.ready_at() <= now, "a change makes nobody wait");
    }

    /// From when on one request may go; the past if it may go now.
    #[must_use]
    pub fn ready_at(&self) -> Time {
        let of = |bucket: Bucket, rate: u64| if rate == 0 { Time::ZERO } else { bucket.ready_at(self.burst()) };
        of(self.requests, self.limits.iops).max(of(self.bytes, self.limits.bandwidth))
    }

    /// One request goes.
    ///
    /// # Panics
    /// It is not time yet: the caller asks [`Quota::ready_at`] first.
    pub fn take(&mut self, cost: Cost, now: Time) {
        assert!(self.ready_at() <= now, "a request goes when it may: {:?} at {now:?}", self.ready_at());
        if self.limits.iops != 0 {
            self.requests.take(cost.requests, self.limits.iops, now);
        }
        if self.limits.bandwidth != 0 {
            self.bytes.take(cost.bytes, self.limits.bandwidth, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Time = Time(1_000_000_000_000);

    fn quota(iops: u64, bandwidth: u64, burst_ms: u64) -> Quota {
        let mut quota = Quota::default();
        quota.set(GuestLimits { iops, bandwidth, burst_ms }, START);
        quota
    }

    /// A guest that always wants more, from `now` on until `end`: when each request went.
    fn greedy(quota: &mut Quota, cost: Cost, mut now: Time, end: Time) -> Vec<Time> {
        let mut went = Vec::new();
        loop {
            now = now.max(quota.ready_at());
            if now >= end {
                return went;
            }
            quota.take(cost, now);
            went.push(now);
        }
    }

    #[test]
    fn what_is_not_limited_goes_at_once() {
        let mut quota = Quota::default();
        for _ in 0..1000 {
            assert!(quota.ready_at() <= START);
            quota.take(Cost { requests: 1, bytes: 1 << 20 }, START);
        }
        assert!(quota.ready_at() <= START);
    }

    #[test]
    fn a_burst_goes_at_once_and_the_rest_evenly() {
        let mut quota = quota(100, 0, 500);
        let went = greedy(&mut quota, Cost { requests: 1, bytes: 4096 }, START, START + Duration::from_secs(10));
        // 50 are saved up, one overdraws, and then there is one each 10 ms.
        assert_eq!(went.iter().filter(|at| **at == START).count(), 51);
        assert_eq!(went.len(), 51 + 999);
        assert!(went[51..].windows(2).all(|w| w[1].since(w[0]) == Duration::from_millis(10)), "evenly");
        // After a pause there is one burst, not more.
        let later = START + Duration::from_secs(3600);
        let went = greedy(&mut quota, Cost { requests: 1, bytes: 0 }, later, later + Duration::from_nanos(1));
        assert_eq!(went.len(), 51);
    }

    #[test]
    fn a_request_larger_than_the_bucket_goes_and_is_paid_for() {
        let mut quota = quota(0, 1 << 20, 10);
        let large = Cost { requests: 1, bytes: 8 << 20 };
        let went = greedy(&mut quota, large, START, START + Duration::from_secs(81));
        assert_eq!(went.len(), 11, "one each 8 s: {went:?}");
    }

    #[test]
    fn both_limits_hold_at_once() {
        let mut quota = quota(1000, 1 << 20, 10);
        let small = greedy(&mut quota, Cost { requests: 1, bytes: 512 }, START, START + Duration::from_secs(10));
        assert!((10_000..=10_012).contains(&small.len()), "IOPS bind: {}", small.len());
        let later = START + Duration::from_secs(100);
        let large = greedy(&mut quota, Cost { requests: 1, bytes: 64 << 10 }, later, later + Duration::from_secs(10));
        assert!((160..=162).contains(&large.len()), "bandwidth binds: {}", large.len());
    }

    #[test]
    fn a_change_keeps_what_was_taken_and_makes_nobody_wait() {
        let mut quota = quota(10, 0, 10_000);
        for _ in 0..101 {
            quota.take(Cost { requests: 1, bytes: 0 }, START);
        }
        assert!(quota.ready_at() > START);
        // 101 were taken of the 100; the new bucket has 10, and they are gone.
        quota.set(GuestLimits { iops: 10, bandwidth: 0, burst_ms: 1000 }, START);
        let went = greedy(&mut quota, Cost { requests: 1, bytes: 0 }, START, START + Duration::from_secs(2));
        assert_eq!(went.len(), 20, "{went:?}");
        quota.set(GuestLimits::default(), START);
        assert!(quota.ready_at() <= START);
        quota.set(GuestLimits { iops: 5, bandwidth: 0, burst_ms: 1000 }, START);
        let went = greedy(&mut quota, Cost { requests: 1, bytes: 0 }, START, START + Duration::from_nanos(1));
        assert_eq!(went.len(), 6, "what was not limited has a full bucket");
    }

    proptest! {
        /// Oracle: every span between two requests that went, for any guest.
        #[test]
        fn no_span_has_more_than_its_share(
            (iops, pages, burst_ms) in (0_u64..2000, 0_u64..5000, 10_u64..3000),
            asked in proptest::collection::vec((0_u64..50_000_000, 0_u64..2, 0_u64..3_000_000), 1..120),
        ) {
            let mut quota = quota(iops, pages * 4096, burst_ms);
            let mut now = START;
            let mut went: Vec<(Time, Cost)> = Vec::new();
            for (pause, requests, bytes) in asked {
                now = (now + Duration::from_nanos(pause)).max(quota.ready_at());
                let cost = Cost { requests, bytes };
                quota.take(cost, now);
                went.push((now, cost));
            }
            let within = |rate: u64, units: fn(&Cost) -> u64| {
                let spans = (0..went.len()).flat_map(|a| (a..went.len()).map(move |b| (a, b)));
                spans.filter(|_| rate > 0).all(|(a, b)| {
                    let span = went[b].0.since(went[a].0).as_nanos() + u128::from(burst_ms) * 1_000_000;
                    let sum: u128 = went[a..b].iter().map(|(_, c)| u128::from(units(c))).sum();
                    sum * SECOND_NS <= u128::from(rate) * span
                })
            };
            prop_assert!(within(iops, |c| c.requests));
            prop_assert!(within(pages * 4096, |c| c.bytes));
        }

        /// And nobody waits longer than its own share takes: the rate is reached, not only kept.
        #[test]
        fn the_rate_is_reached((iops, burst_ms) in (1_u64..50_000, 10_u64..1000)) {
            let mut quota = quota(iops, 0, burst_ms);
            let went = greedy(&mut quota, Cost { requests: 1, bytes: 1 }, START, START + Duration::from_secs(2));
            let least = iops * 2 * 999 / 1000;
            prop_assert!(went.len() as u64 >= least, "{} of {least}", went.len());
        }
    }
}
