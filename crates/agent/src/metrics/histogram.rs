//! Durations counted into fixed buckets: plain integers, for one owner.

use std::time::Duration;

/// Upper bounds in nanoseconds, from half of what a fast device needs to what a guest calls a hung disk. Changing one breaks
/// what people have stored and drawn.
pub(crate) const BOUNDS: [u64; 17] = [
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// How often something took how long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Histogram {
    /// By bucket, not cumulative; the last one has no upper bound.
    counts: [u64; BOUNDS.len() + 1],
    sum_ns: u64,
}

impl Histogram {
    pub(crate) fn record(&mut self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| *bound < ns);
        self.counts[bucket] += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }

    /// How many were recorded up to each bound, and in the end all of them.
    pub(crate) fn cumulative(&self) -> [u64; BOUNDS.len() + 1] {
        let mut sum = 0;
        self.counts.map(|count| {
            sum += count;
            sum
        })
    }

    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// By bucket, not cumulative; the last one has no upper bound.
    pub(crate) const fn counts(&self) -> &[u64] {
        &self.counts
    }

    pub(crate) const fn sum_ns(&self) -> u64 {
        self.sum_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_lies_in_the_first_bucket_that_is_not_below_it() {
        let mut histogram = Histogram::default();
        for ns in [0, 50_000, 50_001, 10_000_000_000, 10_000_000_001, u64::MAX] {
            histogram.record(Duration::from_nanos(ns));
        }
        let cumulative = histogram.cumulative();
        assert_eq!(cumulative[..3], [2, 3, 3]);
        assert_eq!(cumulative[BOUNDS.len() - 1..], [4, 6]);
        assert_eq!((histogram.count(), histogram.sum_ns()), (6, u64::MAX));
        assert!(BOUNDS.is_sorted());
    }
}
