//! What the workload has done so far, for whoever watches it.

use super::violations::Violations;
use hdrhistogram::Histogram;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// The longest time without an acknowledged write, in one phase.
#[derive(Clone, Debug, Default)]
pub struct Phase {
    /// As given to [`super::Workload::phase`].
    pub name: String,
    /// Writes acknowledged in it.
    pub acknowledged: u64,
    /// The longest pause that ended in it.
    pub longest_pause: Duration,
    /// When that pause began, since the workload's start.
    pub paused_at: Duration,
}

/// The workload attached to another node, or to another life of the same one.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// When, since the workload's start.
    pub at: Duration,
    /// Which of the plan's sockets.
    pub node: usize,
    /// Operations sent again.
    pub reissued: usize,
    /// Writes whose answer never came and that were not sent again.
    pub abandoned: usize,
}

/// Counters and findings.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Since the start.
    pub elapsed: Duration,
    /// Writes acknowledged, zeroes included.
    pub acknowledged: u64,
    /// Bytes of these.
    pub bytes_written: u64,
    /// Reads checked against the oracle.
    pub reads: u64,
    /// Flushes and discards answered.
    pub others: u64,
    /// Operations answered by a primary after it was left for another one; what it said was checked.
    pub late: u64,
    /// Phases so far, the present one last.
    pub phases: Vec<Phase>,
    /// Attachments after the first.
    pub attachments: Vec<Attachment>,
    /// Which of the plan's sockets serves now.
    pub node: usize,
    /// Half of the writes took no longer.
    pub write_p50: Duration,
    /// 99 of 100 writes took no longer.
    pub write_p99: Duration,
    /// Broken promises.
    pub violations: Violations,
    /// Why the workload ended before it was told to.
    pub failure: Option<String>,
}

impl Progress {
    /// The phase of this name.
    #[must_use]
    pub fn phase(&self, name: &str) -> Option<&Phase> {
        self.phases.iter().find(|phase| phase.name == name)
    }
}

/// Written by the workload's thread, read by others.
#[derive(Clone, Debug)]
pub(super) struct Board(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    started: Instant,
    last: Instant,
    /// Nothing is issued: silence is no pause.
    held: bool,
    progress: Progress,
    latencies: Histogram<u64>,
}

impl Board {
    pub(super) fn new() -> Board {
        let now = Instant::now();
        let latencies =
            Histogram::new_with_bounds(1, 3_600_000_000, 2).expect("one microsecond to one hour is a range");
        let progress =
            Progress { phases: vec![Phase { name: "start".to_owned(), ..Phase::default() }], ..Progress::default() };
        Board(Arc::new(Mutex::new(Inner { started: now, last: now, held: false, progress, latencies })))
    }

    pub(super) fn read(&self) -> Progress {
        let inner = self.inner();
        let quantile = |q| Duration::from_micros(inner.latencies.value_at_quantile(q));
        Progress {
            elapsed: inner.started.elapsed(),
            write_p50: quantile(0.5),
            write_p99: quantile(0.99),
            ..inner.progress.clone()
        }
    }

    pub(super) fn phase(&self, name: &str) {
        self.inner().progress.phases.push(Phase { name: name.to_owned(), ..Phase::default() });
    }

    pub(super) fn hold(&self, held: bool) {
        let mut inner = self.inner();
        inner.held = held;
        inner.last = Instant::now();
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.inner().progress);
    }

    /// A write was acknowledged.
    pub(super) fn acknowledged(&self, invoked: Instant, bytes: u64) {
        let now = Instant::now();
        let mut inner = self.inner();
        let Inner { started, last, held, progress, latencies } = &mut *inner;
        let micros = now.duration_since(invoked).as_micros();
        latencies.saturating_record(u64::try_from(micros).unwrap_or(u64::MAX));
        progress.acknowledged += 1;
        progress.bytes_written += bytes;
        let pause = now.duration_since(*last);
        if let Some(phase) = progress.phases.last_mut() {
            phase.acknowledged += 1;
            if !*held && pause > phase.longest_pause {
                phase.longest_pause = pause;
                phase.paused_at = last.duration_since(*started);
            }
        }
        *last = now;
    }

    pub(super) fn attached(&self, node: usize, reissued: usize, abandoned: usize) {
        let mut inner = self.inner();
        let at = inner.started.elapsed();
        inner.progress.node = node;
        inner.progress.attachments.push(Attachment { at, node, reissued, abandoned });
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
