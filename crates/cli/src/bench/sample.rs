//! What one round measured, and what several rounds say together.

use hdrhistogram::Histogram;
use std::time::Duration;

/// Latencies above count as this one.
const LONGEST_NS: u64 = 600_000_000_000;

/// One round of one target.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Nanoseconds from request to answer.
    pub(crate) latencies: Histogram<u64>,
    pub(crate) bytes: u64,
    pub(crate) elapsed: Duration,
    /// Time on processors, summed over the processes that take part; `None` where they are not all known.
    pub(crate) cpu: Option<Duration>,
    /// Bytes that the agents of this machine wrote to devices meanwhile.
    pub(crate) written: Option<u64>,
    /// Reads that did not return what had been written.
    pub(crate) mismatches: u64,
}

impl Sample {
    pub(crate) fn new() -> Sample {
        let latencies = Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("bounds and digits that the crate takes");
        Sample { latencies, bytes: 0, elapsed: Duration::ZERO, cpu: None, written: None, mismatches: 0 }
    }

    /// An answered request.
    pub(crate) fn note(&mut self, latency: Duration, bytes: u64) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(LONGEST_NS);
        self.latencies.saturating_record(ns.max(1));
        self.bytes += bytes;
    }

    /// Another stream of the same round.
    pub(crate) fn add(&mut self, other: &Sample) {
        self.latencies.add(&other.latencies).expect("equal bounds");
        self.bytes += other.bytes;
        self.elapsed = self.elapsed.max(other.elapsed);
        self.mismatches += other.mismatches;
    }

    pub(crate) fn ops(&self) -> u64 {
        self.latencies.len()
    }

    pub(crate) fn iops(&self) -> f64 {
        per_second(self.ops(), self.elapsed)
    }

    /// Megabytes (10⁶) per second.
    pub(crate) fn mb_per_s(&self) -> f64 {
        per_second(self.bytes, self.elapsed) / 1e6
    }

    /// Microseconds at a quantile.
    pub(crate) fn micros(&self, quantile: f64) -> f64 {
        as_f64(self.latencies.value_at_quantile(quantile)) / 1e3
    }

    /// Microseconds of processor time for each request.
    pub(crate) fn cpu_micros(&self) -> Option<f64> {
        let cpu = self.cpu?;
        (self.ops() > 0).then(|| cpu.as_secs_f64() * 1e6 / as_f64(self.ops()))
    }
}

/// A figure of a sample.
pub(crate) type Figure = fn(&Sample) -> f64;

/// The rounds of one target.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) samples: Vec<Sample>,
}

impl Series {
    pub(crate) fn new(name: impl Into<String>) -> Series {
        Series { name: name.into(), samples: Vec::new() }
    }

    /// The middle of the rounds' figures.
    pub(crate) fn median(&self, figure: Figure) -> f64 {
        median(self.samples.iter().map(figure).collect())
    }

    /// The middle of the rounds' ratios to another target: each pair ran side by side, so what the machine did
    /// meanwhile weighs on both.
    pub(crate) fn ratio(&self, other: &Series, figure: Figure) -> f64 {
        median(self.samples.iter().zip(&other.samples).map(|(a, b)| figure(a) / figure(b)).collect())
    }

    /// Bytes written to devices for each byte asked for, over all rounds.
    pub(crate) fn amplification(&self) -> Option<f64> {
        let written = self.samples.iter().map(|s| s.written).sum::<Option<u64>>()?;
        let asked: u64 = self.samples.iter().map(|s| s.bytes).sum();
        (asked > 0).then(|| as_f64(written) / as_f64(asked))
    }

    pub(crate) fn cpu_micros(&self) -> Option<f64> {
        self.samples.iter().map(Sample::cpu_micros).collect::<Option<Vec<f64>>>().map(median)
    }

    /// All rounds as one.
    pub(crate) fn whole(&self) -> Sample {
        let mut whole = Sample::new();
        for sample in &self.samples {
            whole.add(sample);
        }
        whole
    }
}

/// 0 of none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        n if n.is_multiple_of(2) => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

fn per_second(count: u64, elapsed: Duration) -> f64 {
    if elapsed.is_zero() { 0.0 } else { as_f64(count) / elapsed.as_secs_f64() }
}

/// Counts of a benchmark are far below 2⁵³.
#[expect(clippy::cast_precision_loss, reason = "counts and nanoseconds of a benchmark are far below 2^53")]
pub(crate) fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios() {
        assert_eq!(median(vec![]), 0.0);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        let sample = |us: u64| {
            let mut sample = Sample::new();
            sample.note(Duration::from_micros(us), 4096);
            sample.elapsed = Duration::from_secs(1);
            sample
        };
        let series = |us: &[u64]| Series { name: String::new(), samples: us.iter().copied().map(sample).collect() };
        let (slow, fast) = (series(&[200, 900, 220]), series(&[100, 300, 110]));
        let ratio = slow.ratio(&fast, |s| s.micros(0.5));
        assert!((1.99..2.01).contains(&ratio), "the middle of 2, 3 and 2: {ratio}");
        assert_eq!(slow.whole().ops(), 3);
    }
}
