//! Which record wrote which blocks last: a map from runs of blocks to records.
//!
//! Runs, not blocks: a discard may cover millions of blocks and must not cost memory for each (P13).
//! Invariant: runs don't overlap and are not empty.

use bytes::Bytes;
use holdfast_format::{Record, RecordKind};
use holdfast_types::{BLOCK_SIZE, BlockIndex, Lsn};
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
struct Run {
    end: u64,
    record: Record,
}

/// Non-overlapping runs of blocks, each with the record that wrote it last.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunMap {
    runs: BTreeMap<u64, Run>,
}

/// A part of a record's effect: blocks `[start, end)` become `data`, or zeros.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) data: Option<Bytes>,
}

impl RunMap {
    /// `record` is the last writer of its range from now on.
    pub(crate) fn insert(&mut self, record: &Record) {
        let range = record.header().range;
        if range.is_empty() {
            return;
        }
        self.carve(range.start.0, range.end().0);
        self.runs.insert(range.start.0, Run { end: range.end().0, record: record.clone() });
    }

    /// Forgets the parts of `[start, end)` that were written at or before `upto`.
    pub(crate) fn remove_upto(&mut self, start: u64, end: u64, upto: Lsn) {
        self.split(start);
        self.split(end);
        let gone: Vec<u64> =
            self.runs.range(start..end).filter(|(_, run)| run.record.lsn() <= upto).map(|(s, _)| *s).collect();
        for s in gone {
            self.runs.remove(&s);
        }
    }

    /// The runs that touch `[start, end)`, clipped to it, in order.
    pub(crate) fn overlapping(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64, &Record)> {
        let before = self.runs.range(..start).next_back().filter(|(_, run)| run.end > start);
        before
            .into_iter()
            .chain(self.runs.range(start..end))
            .map(move |(s, run)| ((*s).max(start), run.end.min(end), &run.record))
    }

    /// All runs, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64, &Record)> {
        self.runs.iter().map(|(s, run)| (*s, run.end, &run.record))
    }

    pub(crate) fn get(&self, block: u64) -> Option<&Record> {
        self.overlapping(block, block + 1).next().map(|(_, _, record)| record)
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    fn carve(&mut self, start: u64, end: u64) {
        self.split(start);
        self.split(end);
        let gone: Vec<u64> = self.runs.range(start..end).map(|(s, _)| *s).collect();
        for s in gone {
            self.runs.remove(&s);
        }
    }

    /// Makes `at` a border of runs.
    fn split(&mut self, at: u64) {
        let Some((_, run)) = self.runs.range_mut(..at).next_back().filter(|(_, run)| run.end > at) else { return };
        let right = Run { end: run.end, record: run.record.clone() };
        run.end = at;
        self.runs.insert(at, right);
    }
}

/// What `record` makes of blocks `[start, end)`, in order.
pub(crate) fn pieces(record: &Record, start: u64, end: u64) -> Vec<Piece> {
    let header = record.header();
    assert!(
        header.range.start.0 <= start && start < end && end <= header.range.end().0,
        "a part of the record's range"
    );
    if header.kind == RecordKind::Write {
        let at = |block: u64| usize::try_from(block - header.range.start.0).expect("about 1 MiB") * BLOCK_SIZE;
        return vec![Piece { start, end, data: Some(record.body().slice(at(start)..at(end))) }];
    }
    let edge = |block: u64| record.block(BlockIndex(block)).map(|(data, _)| data);
    let mut found = Vec::new();
    let (mut from, mut to) = (start, end);
    if let Some(data) = edge(start) {
        found.push(Piece { start, end: start + 1, data: Some(data) });
        from += 1;
    }
    let last = (to > from).then(|| edge(end - 1)).flatten();
    to -= u64::from(last.is_some());
    if from < to {
        found.push(Piece { start: from, end: to, data: None });
    }
    if last.is_some() {
        found.push(Piece { start: to, end, data: last });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_format::Draft;
    use holdfast_types::{BlockRange, Epoch, Rng, VolumeId};

    fn record(lsn: u64, kind: RecordKind, range: BlockRange, head: bool, tail: bool) -> Record {
        let blocks = if kind == RecordKind::Write { range.count.0 } else { u64::from(head) + u64::from(tail) };
        let byte = u8::try_from(lsn % 251).expect("below 251");
        Record::seal(Draft {
            volume: VolumeId(1),
            epoch: Epoch(1),
            lsn: Lsn(lsn),
            prev_hash: 0,
            committed: Lsn(0),
            kind,
            head,
            tail,
            range,
            body: Bytes::from(vec![byte; usize::try_from(blocks).expect("small") * BLOCK_SIZE]),
        })
    }

    /// Oracle: an array with the last writer of each block.
    #[test]
    fn equals_an_array_of_last_writers() {
        let mut rng = Rng::new(7);
        let mut map = RunMap::default();
        let mut slow = [0u64; 40];
        for lsn in 1..600 {
            let start = rng.below(38);
            let count = 1 + rng.below(40 - start);
            let (s, e) = (usize::try_from(start).expect("small"), usize::try_from(start + count).expect("small"));
            if rng.chance(300_000) {
                let upto = lsn - rng.below(lsn.min(30));
                map.remove_upto(start, start + count, Lsn(upto));
                slow[s..e].iter_mut().filter(|l| **l <= upto).for_each(|l| *l = 0);
            } else {
                map.insert(&record(lsn, RecordKind::Discard, BlockRange::new(start, count), false, false));
                slow[s..e].fill(lsn);
            }
            for (block, want) in (0..).zip(slow) {
                assert_eq!(map.get(block).map_or(0, |r| r.lsn().0), want, "block {block} after {lsn}");
            }
            let covered: u64 = map.overlapping(5, 33).map(|(s, e, _)| e - s).sum();
            assert_eq!(covered, u64::try_from(slow[5..33].iter().filter(|l| **l != 0).count()).expect("small"));
        }
        assert!(!map.is_empty());
    }

    #[test]
    fn pieces_equal_the_blocks_of_the_record() {
        for (kind, head, tail) in [
            (RecordKind::Write, false, false),
            (RecordKind::Discard, false, false),
            (RecordKind::Discard, true, false),
            (RecordKind::WriteZeroes, false, true),
            (RecordKind::WriteZeroes, true, true),
        ] {
            let record = record(9, kind, BlockRange::new(10, 4), head, tail);
            for (start, end) in (10..14).flat_map(|s| (s + 1..15).map(move |e| (s, e))) {
                let mut at = start;
                for piece in pieces(&record, start, end) {
                    assert_eq!(piece.start, at);
                    for block in piece.start..piece.end {
                        let want = record.block(BlockIndex(block)).map(|(d, _)| d);
                        let skip = usize::try_from(block - piece.start).expect("small") * BLOCK_SIZE;
                        let got = piece.data.as_ref().map(|d| d.slice(skip..skip + BLOCK_SIZE));
                        assert_eq!(got, want, "{kind:?} {block}");
                    }
                    at = piece.end;
                }
                assert_eq!(at, end);
            }
        }
    }
}
