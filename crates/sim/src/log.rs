//! The event log: every event is folded into a hash; text is made only when somebody will read it.

use std::fmt;

/// Virtual time in nanoseconds since the world began.
pub(crate) type Nanos = u64;
/// One millisecond.
pub(crate) const MS: Nanos = 1_000_000;
/// One microsecond.
pub(crate) const US: Nanos = 1_000;
/// One second.
pub(crate) const SECOND: Nanos = 1_000_000_000;

/// What happened, in order.
#[derive(Debug)]
pub(crate) struct EventLog {
    hash: u64,
    count: u64,
    recording: bool,
    lines: Vec<String>,
}

impl EventLog {
    pub(crate) const fn new(recording: bool) -> EventLog {
        EventLog { hash: START, count: 0, recording, lines: Vec::new() }
    }

    /// Folds one event into the hash: its kind and the numbers that tell it from others.
    pub(crate) fn note(&mut self, now: Nanos, kind: &'static str, numbers: &[u64], text: impl FnOnce() -> String) {
        self.count += 1;
        self.fold(now);
        for b in kind.bytes() {
            self.fold(u64::from(b));
        }
        for n in numbers {
            self.fold(*n);
        }
        if self.recording {
            self.lines.push(Line { now, kind, text: text() }.to_string());
        }
    }

    pub(crate) const fn recording(&self) -> bool {
        self.recording
    }

    pub(crate) const fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) const fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines
    }

    const fn fold(&mut self, n: u64) {
        self.hash = fold(self.hash, n);
    }
}

/// A hash of nothing.
pub(crate) const START: u64 = 0xCBF2_9CE4_8422_2325;

/// A hash of one number more.
pub(crate) const fn fold(hash: u64, n: u64) -> u64 {
    (hash ^ n).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(23)
}

struct Line {
    now: Nanos,
    kind: &'static str,
    text: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>3}.{:06} {:<9} {}", self.now / SECOND, self.now % SECOND / US, self.kind, self.text)
    }
}
