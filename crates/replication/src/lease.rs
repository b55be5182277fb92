//! Read leases (PROTOCOL.md, traps 5 and 6). Writes never depend on them.
//!
//! The holder counts from the time it *sent* the request and at a rate slowed by the drift bound; the grantor counts from
//! the time it *received* it. So the holder stops trusting a lease before the grantor lets anybody fence.

use crate::api::Timers;
use holdfast_types::{Epoch, Mutant, NodeId, Time, mutated};
use std::collections::BTreeMap;
use std::time::Duration;

/// What members granted to this primary.
#[derive(Clone, Debug, Default)]
pub(crate) struct Grants {
    sent: BTreeMap<NodeId, Time>,
    /// Grants of requests that were sent before do not count.
    since: Time,
}

impl Grants {
    /// `member` granted the request that was sent at `sent`.
    pub(crate) fn granted(&mut self, member: NodeId, sent: Time) {
        if sent < self.since {
            return;
        }
        let entry = self.sent.entry(member).or_insert(sent);
        *entry = sent.max(*entry);
    }

    /// Grants of an epoch that ended; what was asked for before a gap does not count in the next one either.
    pub(crate) fn end(&mut self) {
        self.sent.clear();
    }

    /// Gives every grant up, also those whose answer is still under way: time may have passed unseen.
    pub(crate) fn drop_all(&mut self, now: Time) {
        self.sent.clear();
        self.since = now;
    }

    /// Whether `needed` other members have granted a request since everything was given up. Needs no clock: what they
    /// say is that they had promised no other epoch when the question reached them.
    pub(crate) fn confirmed(&self, needed: usize) -> bool {
        self.sent.len() >= needed
    }

    /// Whether `needed` other members hold back every fence at `now`.
    pub(crate) fn valid(&self, needed: usize, timers: &Timers, now: Time) -> bool {
        let trusted = timers.lease - slowed(timers.lease, timers.drift_ppm);
        self.sent.values().filter(|sent| now < **sent + trusted).count() >= needed
    }
}

/// What this member granted to a primary.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Granted {
    /// To whom; `None` after a restart, when the member may have granted to anybody and forgot it.
    pub(crate) to: Option<NodeId>,
    /// Under which epoch.
    pub(crate) epoch: Epoch,
    /// No fence for another node before.
    pub(crate) until: Time,
}

impl Granted {
    pub(crate) fn new(to: Option<NodeId>, epoch: Epoch, timers: &Timers, now: Time) -> Granted {
        Granted { to, epoch, until: now + timers.lease + slowed(timers.lease, timers.drift_ppm) }
    }

    /// Whether `claimant` must wait: somebody else may still serve reads. A node's own older reign can't: one life of one
    /// process holds the node's directory, and it is the one that claims.
    pub(crate) fn blocks(&self, claimant: NodeId, now: Time) -> bool {
        self.to != Some(claimant) && now < self.until
    }
}

fn slowed(lease: Duration, drift_ppm: u32) -> Duration {
    if mutated(Mutant::NoDriftMargin) { Duration::ZERO } else { lease * drift_ppm / 1_000_000 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Timers = Timers {
        lease: Duration::from_secs(2),
        drift_ppm: 10_000,
        preclaim_retry: Duration::from_millis(50),
        control_retry: Duration::from_millis(500),
        commit_delay: Duration::from_millis(20),
        scrub_period: Duration::ZERO,
        unix_ms_at_zero: 0,
        slow_latency: Duration::ZERO,
    };

    #[test]
    fn the_holder_stops_before_the_grantor() {
        let (sent, received) = (Time(5_000), Time(5_001));
        let mut held = Grants::default();
        held.granted(NodeId(2), sent);
        let granted = Granted::new(Some(NodeId(1)), Epoch(1), &T, received);
        let last_trusted =
            (0..3_000).map(|ms| sent + Duration::from_millis(ms)).take_while(|t| held.valid(1, &T, *t)).last();
        let last_trusted = last_trusted.expect("trusted at first");
        assert!(last_trusted > sent + Duration::from_millis(1_900));
        assert!(granted.blocks(NodeId(2), last_trusted + Duration::from_millis(30)), "30 ms of margin at least");
        assert!(!granted.blocks(NodeId(1), last_trusted), "the grantee itself never waits");
        assert!(!granted.blocks(NodeId(2), received + Duration::from_millis(2_021)));
    }

    #[test]
    fn a_gap_gives_all_up() {
        let mut held = Grants::default();
        held.granted(NodeId(2), Time(0));
        held.drop_all(Time(10));
        assert!(!held.valid(1, &T, Time(11)));
        assert!(held.valid(0, &T, Time(11)), "a single copy needs nobody");
        held.granted(NodeId(2), Time(9));
        assert!(!held.valid(1, &T, Time(11)) && !held.confirmed(1), "asked before the gap, answered after it");
        held.granted(NodeId(2), Time(10));
        assert!(held.valid(1, &T, Time(11)) && held.confirmed(1));
    }
}
