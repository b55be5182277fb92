//! When a member that the volume went on without may count again (trap 32): the first time as soon as it holds everything, later only after it
//! has followed without a break for a time that doubles each time that it is left out again, or goes while it is let in. A link that flaps costs two changes of epoch
//! and a stall each time; a copy that is let in late costs exposure, which is measured.
//!
//! Kept by a primary as long as its copy is open, for a return that fails costs it its reign; whoever takes over begins anew.

use holdfast_types::{NodeId, Time};
use std::collections::BTreeMap;
use std::time::Duration;

/// Second time.
const FIRST: Duration = Duration::from_secs(2);
/// Never longer.
const LONGEST: Duration = Duration::from_mins(1);
/// A copy that was not left out for so long begins anew.
const FORGOTTEN: Duration = Duration::from_mins(10);

#[derive(Clone, Debug, Default)]
pub(crate) struct Returns(BTreeMap<NodeId, (u32, Time)>);

impl Returns {
    /// These were left out just now.
    pub(crate) fn note(&mut self, nodes: impl Iterator<Item = NodeId>, now: Time) {
        for node in nodes {
            let (times, at) = self.0.get(&node).copied().unwrap_or((0, now));
            let times = if now.since(at) > FORGOTTEN { 0 } else { times };
            self.0.insert(node, (times.saturating_add(1), now));
        }
    }

    /// From when on one that has followed since `since` may count, if it has to wait for that at all.
    pub(crate) fn due(&self, node: NodeId, since: Time) -> Option<Time> {
        let (times, _) = self.0.get(&node)?;
        let doublings = times.checked_sub(2)?;
        let wait = FIRST.saturating_mul(2_u32.saturating_pow(doublings)).min(LONGEST);
        Some(since + wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: NodeId = NodeId(2);

    fn at(seconds: u64) -> Time {
        Time(1) + Duration::from_secs(seconds)
    }

    fn left_out(returns: &mut Returns, seconds: u64) {
        returns.note([B].into_iter(), at(seconds));
    }

    #[test]
    fn each_time_it_has_to_follow_for_longer() {
        let mut returns = Returns::default();
        assert_eq!(returns.due(B, at(0)), None, "a learner that was never left out waits for nothing");
        left_out(&mut returns, 10);
        assert_eq!(returns.due(B, at(20)), None, "nor does one the first time");
        for (times, wait) in [(2, 2), (3, 4), (4, 8), (5, 16), (6, 32), (7, 60), (8, 60)] {
            left_out(&mut returns, 10 + times);
            assert_eq!(returns.due(B, at(30)), Some(at(30 + wait)), "{times} times");
        }
        assert_eq!(returns.due(NodeId(3), at(30)), None, "another one is not meant");
        left_out(&mut returns, 2_000);
        assert_eq!(returns.due(B, at(2_010)), None, "that was long ago");
    }
}
