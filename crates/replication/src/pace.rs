//! Which copies make writes durable much later than the others do: alive, and slow.
//!
//! ```text
//!   sent ──(durable there)──► a sample       every second: mean of the samples, or the age of the oldest one that is still awaited
//!   above the bound and 5 × the median of the others for 10 s ──► slow ──(below half of that for 10 s)──► not slow
//! ```
//! A slow copy sets nobody's pace: the write quorum counts whoever is first, and what is sent to it is bounded by its window. So nothing here
//! changes what is done; people are told, and the control plane, which may move a primary that is the slow one.
//!
//! Where all others are slow and this copy is not, the way from here to them is: the primary is named instead of them.
//!
//! Deliberately absent: copies that are still catching up after they came back, which are slow for another reason; volumes that nobody
//! writes to, which stay as they were judged last.

use holdfast_types::{Lsn, NodeId, Time};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// One judgement.
const WINDOW: Duration = Duration::from_secs(1);
/// So many windows in a row change what a copy is called.
const STREAK: u32 = 10;
/// A copy is slow against the others if it takes that many times as long.
const FACTOR: u32 = 5;
/// Samples under way of this copy's own; more are not measured.
const MAX_OWN: usize = 1024;

/// A copy that is slow, as its primary measured it when it became so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowCopy {
    /// Who holds it.
    pub node: NodeId,
    /// From sending a record to the word that it is durable.
    pub latency: Duration,
    /// The median of the other copies.
    pub others: Duration,
    /// It is the primary, and its disk is as fast as any: its way to all the others is slow.
    pub link: bool,
}

/// What is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Slow(SlowCopy),
    Recovered(NodeId),
}

#[derive(Debug, Default)]
struct Pace {
    took: Duration,
    samples: u32,
    /// Windows in a row that speak against what the copy is called.
    streak: u32,
    slow: Option<SlowCopy>,
}

/// One window of one copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Slow(SlowCopy),
    Fine,
    Neither,
}

/// The copies of one reign.
#[derive(Debug)]
pub(crate) struct Paces {
    of: BTreeMap<NodeId, Pace>,
    judge_at: Time,
    /// What this copy's own store was given: last record, and when.
    own: VecDeque<(Lsn, Time)>,
}

impl Paces {
    pub(crate) fn new(now: Time) -> Paces {
        Paces { of: BTreeMap::new(), judge_at: now + WINDOW, own: VecDeque::new() }
    }

    /// A record that was sent or given to `node` is durable there.
    pub(crate) fn sample(&mut self, node: NodeId, took: Duration) {
        let pace = self.of.entry(node).or_default();
        pace.took = pace.took.saturating_add(took);
        pace.samples += 1;
    }

    /// Records up to there go to this copy's own store.
    pub(crate) fn given(&mut self, last: Lsn, now: Time) {
        if self.own.len() < MAX_OWN {
            self.own.push_back((last, now));
        }
    }

    /// This copy holds everything up to there on stable storage.
    pub(crate) fn own_durable(&mut self, me: NodeId, durable: Lsn, now: Time) {
        while let Some((_, at)) = self.own.front().copied().filter(|(lsn, _)| *lsn <= durable) {
            self.own.pop_front();
            self.sample(me, now.since(at));
        }
    }

    /// Since when this copy's own store has not answered.
    pub(crate) fn own_waits(&self, now: Time) -> Option<Duration> {
        self.own.front().map(|(_, at)| now.since(*at))
    }

    pub(crate) fn is_due(&self, now: Time) -> bool {
        now >= self.judge_at
    }

    /// Ends a window. `waits`: the members, and how long the oldest record sent to each has not been answered.
    pub(crate) fn judge(
        &mut self,
        me: NodeId,
        waits: &[(NodeId, Option<Duration>)],
        bound: Duration,
        now: Time,
    ) -> Vec<Change> {
        self.judge_at = now + WINDOW;
        self.of.retain(|node, _| waits.iter().any(|(n, _)| n == node));
        let mut latencies = BTreeMap::new();
        for (node, waits) in waits {
            let pace = self.of.entry(*node).or_default();
            let mean = pace.took.checked_div(pace.samples);
            (pace.took, pace.samples) = (Duration::ZERO, 0);
            latencies.extend(mean.max(*waits).map(|latency| (*node, latency)));
        }
        let mut changes = Vec::new();
        for (node, verdict) in verdicts(me, &latencies, bound) {
            let pace = self.of.get_mut(&node).expect("only members are judged");
            changes.extend(pace.note(node, verdict));
        }
        changes
    }

    /// The copies that are slow.
    pub(crate) fn slow(&self) -> Vec<SlowCopy> {
        self.of.values().filter_map(|p| p.slow).collect()
    }
}

impl Pace {
    fn note(&mut self, node: NodeId, verdict: Verdict) -> Option<Change> {
        match (self.slow, verdict) {
            (None, Verdict::Slow(slow)) => {
                self.streak += 1;
                if self.streak < STREAK {
                    return None;
                }
                (self.slow, self.streak) = (Some(slow), 0);
                Some(Change::Slow(slow))
            }
            (Some(_), Verdict::Fine) => {
                self.streak += 1;
                if self.streak < STREAK {
                    return None;
                }
                (self.slow, self.streak) = (None, 0);
                Some(Change::Recovered(node))
            }
            (None, Verdict::Fine) | (Some(_), Verdict::Slow(_)) => {
                self.streak = 0;
                None
            }
            (_, Verdict::Neither) => None,
        }
    }
}

/// What one window says of each copy that was heard of in it.
fn verdicts(me: NodeId, latencies: &BTreeMap<NodeId, Duration>, bound: Duration) -> BTreeMap<NodeId, Verdict> {
    let mut verdicts: BTreeMap<NodeId, Verdict> =
        latencies.keys().map(|node| (*node, verdict(*node, latencies, bound))).collect();
    let others: Vec<NodeId> = latencies.keys().copied().filter(|n| *n != me).collect();
    let own = latencies.get(&me).copied();
    let slow = |n: &NodeId| matches!(verdicts[n], Verdict::Slow(_));
    if let Some(own) = own.filter(|_| others.len() >= 2 && others.iter().all(slow) && !slow(&me)) {
        let least = others.iter().map(|n| latencies[n]).min().expect("there are two at least");
        let link = SlowCopy { node: me, latency: least, others: own, link: true };
        verdicts.extend(others.iter().map(|n| (*n, Verdict::Neither)));
        verdicts.insert(me, Verdict::Slow(link));
    }
    verdicts
}

fn verdict(node: NodeId, latencies: &BTreeMap<NodeId, Duration>, bound: Duration) -> Verdict {
    let mut others: Vec<Duration> = latencies.iter().filter(|(n, _)| **n != node).map(|(_, l)| *l).collect();
    others.sort_unstable();
    let Some(median) = others.get(others.len().saturating_sub(1) / 2).copied() else { return Verdict::Neither };
    let latency = latencies[&node];
    let limit = bound.max(median.saturating_mul(FACTOR));
    if latency > limit {
        Verdict::Slow(SlowCopy { node, latency, others: median, link: false })
    } else if latency.saturating_mul(2) <= limit {
        Verdict::Fine
    } else {
        Verdict::Neither
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_millis(50);
    const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

    struct Scene {
        paces: Paces,
        now: Time,
    }

    impl Scene {
        fn new() -> Scene {
            Scene { paces: Paces::new(Time(1)), now: Time(1) }
        }

        /// So many seconds in which each copy takes so many milliseconds; none: nothing is sent to it.
        fn run(&mut self, seconds: u64, ms: [Option<u64>; 3]) -> Vec<Change> {
            let mut changes = Vec::new();
            for _ in 0..seconds {
                for (node, ms) in NODES.iter().zip(ms) {
                    for _ in 0..5 {
                        ms.into_iter().for_each(|ms| self.paces.sample(*node, Duration::from_millis(ms)));
                    }
                }
                self.now = self.now + WINDOW;
                assert!(self.paces.is_due(self.now));
                changes.extend(self.paces.judge(NodeId(1), &NODES.map(|n| (n, None)), BOUND, self.now));
            }
            changes
        }

        fn slow(&self) -> Vec<u64> {
            self.paces.slow().iter().map(|s| s.node.0).collect()
        }
    }

    #[test]
    fn slow_for_long_is_slow_and_fast_for_long_is_not() {
        let mut s = Scene::new();
        assert_eq!(s.run(9, [Some(1), Some(200), Some(2)]), []);
        assert_eq!(s.run(1, [Some(1), Some(2), Some(2)]), [], "one good second begins anew");
        assert_eq!(s.run(9, [Some(1), Some(200), Some(2)]), []);
        let changes = s.run(1, [Some(1), Some(200), Some(2)]);
        let ms = Duration::from_millis;
        assert_eq!(changes, [Change::Slow(SlowCopy { node: NodeId(2), latency: ms(200), others: ms(1), link: false })]);
        assert_eq!(s.run(9, [Some(1), Some(2), Some(2)]), []);
        assert_eq!(s.run(5, [Some(1), Some(40), Some(2)]), [], "between the two bounds nothing changes");
        assert_eq!(s.run(1, [Some(1), Some(2), Some(2)]), [Change::Recovered(NodeId(2))]);
    }

    #[test]
    fn a_cluster_that_is_slow_as_a_whole_has_no_slow_copy() {
        let mut s = Scene::new();
        assert_eq!(s.run(30, [Some(300), Some(320), Some(290)]), []);
        assert_eq!(
            s.run(30, [Some(100), Some(300), Some(100)]),
            [],
            "three times as long as the others is no grey failure"
        );
        assert_eq!(s.run(30, [None, Some(300), None]), [], "with nobody to compare with");
    }

    #[test]
    fn an_idle_volume_stays_as_it_was_judged() {
        let mut s = Scene::new();
        s.run(10, [Some(1), Some(200), Some(2)]);
        assert_eq!(s.run(100, [None, None, None]), []);
        assert_eq!(s.slow(), [2]);
    }

    #[test]
    fn a_copy_that_says_nothing_at_all_is_slow_by_the_age_of_what_it_owes() {
        let mut s = Scene::new();
        for _ in 0..10 {
            NODES[..2].iter().for_each(|n| s.paces.sample(*n, Duration::from_millis(1)));
            s.now = s.now + WINDOW;
            let waits = [(NODES[0], None), (NODES[1], None), (NODES[2], Some(Duration::from_secs(3)))];
            s.paces.judge(NODES[0], &waits, BOUND, s.now);
        }
        assert_eq!(s.slow(), [3]);
    }

    #[test]
    fn the_primary_is_named_for_its_disk_and_for_its_way_to_all_others() {
        let mut s = Scene::new();
        s.run(10, [Some(200), Some(2), Some(3)]);
        assert!(matches!(s.paces.slow()[..], [SlowCopy { node: NodeId(1), link: false, .. }]));
        let mut s = Scene::new();
        s.run(10, [Some(1), Some(200), Some(210)]);
        assert!(matches!(s.paces.slow()[..], [SlowCopy { node: NodeId(1), link: true, .. }]), "{:?}", s.paces.slow());
    }
}
