//! What was written over a file: ranges of bytes, each zeros or a place in the spill file.

use std::collections::BTreeMap;

/// Where the bytes of a range are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// As in the file below.
    Below,
    /// Nowhere: they are zeros.
    Zeros,
    /// In the spill file, from here on.
    Spill(u64),
}

impl Source {
    const fn skip(self, bytes: u64) -> Source {
        match self {
            Source::Spill(at) => Source::Spill(at + bytes),
            other => other,
        }
    }
}

/// Ranges that do not overlap: start → end, source. What is in none is `Below`.
#[derive(Debug, Default)]
pub(crate) struct Patches(BTreeMap<u64, (u64, Source)>);

impl Patches {
    /// `[start, end)` comes from `source` from now on.
    pub(crate) fn put(&mut self, start: u64, end: u64, source: Source) {
        if start >= end {
            return;
        }
        self.cut(start);
        self.cut(end);
        let hidden: Vec<u64> = self.0.range(start..end).map(|(at, _)| *at).collect();
        for at in hidden {
            self.0.remove(&at);
        }
        self.0.insert(start, (end, source));
    }

    /// No range crosses `at` afterwards.
    fn cut(&mut self, at: u64) {
        let Some((start, (end, source))) = self.0.range(..at).next_back().map(|(s, r)| (*s, *r)) else { return };
        if end > at {
            self.0.insert(start, (at, source));
            self.0.insert(at, (end, source.skip(at - start)));
        }
    }

    /// The pieces of `[start, end)` in order, without a gap.
    pub(crate) fn pieces(&self, start: u64, end: u64) -> Vec<(u64, u64, Source)> {
        let mut pieces = Vec::new();
        let mut at = start;
        let first = self.0.range(..=start).next_back().map_or(start, |(s, _)| *s);
        for (from, (to, source)) in self.0.range(first..end).filter(|(_, (to, _))| *to > start) {
            let (s, e) = ((*from).max(start), (*to).min(end));
            if at < s {
                pieces.push((at, s, Source::Below));
            }
            pieces.push((s, e, source.skip(s - from)));
            at = e;
        }
        if at < end {
            pieces.push((at, end, Source::Below));
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_types::Rng;

    #[test]
    fn ranges_equal_single_bytes() {
        const LEN: u64 = 60;
        for seed in 0..200 {
            let mut rng = Rng::new(seed);
            let mut patches = Patches::default();
            let mut slow = vec![Source::Below; 60];
            for round in 0..40 {
                let start = rng.below(LEN);
                let end = start + rng.below(LEN - start + 1);
                let source = if rng.chance(300_000) { Source::Zeros } else { Source::Spill(1000 * round) };
                patches.put(start, end, source);
                for (i, byte) in (0..LEN).zip(&mut slow).filter(|(i, _)| (start..end).contains(i)) {
                    *byte = source.skip(i - start);
                }
                let from = rng.below(LEN);
                let to = from + rng.below(LEN - from + 1);
                let found: Vec<Source> = patches
                    .pieces(from, to)
                    .into_iter()
                    .flat_map(|(s, e, source)| (0..e - s).map(move |i| source.skip(i)))
                    .collect();
                let expected: Vec<Source> =
                    (0..LEN).zip(&slow).filter(|(i, _)| (from..to).contains(i)).map(|(_, s)| *s).collect();
                assert_eq!(found, expected, "seed {seed}, {from}..{to}");
            }
        }
    }
}
