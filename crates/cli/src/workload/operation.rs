//! One operation of the workload, and how the next is drawn.

use super::oracle::{Change, Oracle, index};
use bytes::Bytes;
use holdfast_nbd::ClientRequest;
use holdfast_types::{Rng, SECTOR_SIZE};
use std::ops::Range;
use tokio::time::Instant;

const SECTOR_BYTES: u64 = SECTOR_SIZE as u64;
/// Sectors of a block of 4 KiB.
const BLOCK: u64 = 8;
/// Sectors of the largest request: 128 KiB.
pub(super) const LARGEST: u64 = 256;
/// One part of the region gets half of the traffic, so that sectors are overwritten often.
const HOT_SHARE: u64 = 16;
/// Draws until an operation finds sectors that nothing in flight occupies.
const DRAWS: u32 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write { fua: bool },
    WriteZeroes { fua: bool },
    Trim,
    Flush,
}

impl Kind {
    /// How it changes sectors.
    pub(super) fn change(self) -> Option<Change> {
        match self {
            Kind::Read | Kind::Flush => None,
            Kind::Write { .. } => Some(Change::Data),
            Kind::WriteZeroes { .. } => Some(Change::Zeroes),
            Kind::Trim => Some(Change::Discard),
        }
    }
}

/// Kept until it is answered: it is sent again, unchanged, if its connection breaks.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub(super) kind: Kind,
    pub(super) sectors: Range<u64>,
    pub(super) request: u64,
    /// Of a write.
    pub(super) data: Bytes,
    /// Of a read.
    pub(super) floors: Vec<u32>,
    pub(super) invoked: Instant,
}

impl Operation {
    /// Tells the oracle, and gives a write its content.
    pub(super) fn new(kind: Kind, sectors: Range<u64>, request: u64, oracle: &mut Oracle) -> Operation {
        let mut data = Bytes::new();
        match kind.change() {
            Some(Change::Data) => data = oracle.issue_data(sectors.clone(), request).into(),
            Some(Change::Zeroes | Change::Discard) => oracle.issue_zeroes(sectors.clone()),
            None => {}
        }
        Operation { kind, sectors, request, data, floors: Vec::new(), invoked: Instant::now() }
    }

    /// What goes to the server now.
    pub(super) fn invoke(&mut self, oracle: &mut Oracle) -> ClientRequest {
        if self.kind == Kind::Read {
            self.floors = oracle.floors(self.sectors.clone());
        }
        request_for(self.kind, &self.sectors, self.data.clone())
    }

    /// Whether it keeps others away from these sectors: changes do; reads only if they are not atomic.
    pub(super) fn occupies(&self, sectors: &Range<u64>, atomic_reads: bool) -> bool {
        let exclusive = self.kind.change().is_some() || (self.kind == Kind::Read && !atomic_reads);
        exclusive && self.sectors.start < sectors.end && sectors.start < self.sectors.end
    }
}

/// The request for a range of sectors.
pub(super) fn request_for(kind: Kind, sectors: &Range<u64>, data: Bytes) -> ClientRequest {
    let offset = sectors.start * SECTOR_BYTES;
    let len = u32::try_from((sectors.end - sectors.start) * SECTOR_BYTES).expect("requests stay below 4 GiB");
    match kind {
        Kind::Read => ClientRequest::Read { offset, len },
        Kind::Write { fua } => ClientRequest::Write { offset, data, fua },
        Kind::WriteZeroes { fua } => ClientRequest::WriteZeroes { offset, len, fua, no_hole: false },
        Kind::Trim => ClientRequest::Trim { offset, len, fua: false },
        Kind::Flush => ClientRequest::Flush,
    }
}

/// Draws operations: mostly 4 KiB, some unaligned, some large; writes, reads, zeroes, discards, flushes.
#[derive(Debug)]
pub(super) struct Mix {
    rng: Rng,
    region: Range<u64>,
    atomic_reads: bool,
}

impl Mix {
    pub(super) fn new(rng: Rng, region: Range<u64>, atomic_reads: bool) -> Mix {
        assert!(
            index(region.end - region.start) >= 4 * index(LARGEST),
            "the region holds a few of the largest requests"
        );
        Mix { rng, region, atomic_reads }
    }

    /// The next operation. `busy` tells whether something in flight occupies these sectors.
    pub(super) fn next(&mut self, busy: impl Fn(&Range<u64>) -> bool) -> (Kind, Range<u64>) {
        let fua = self.rng.below(10) == 0;
        let kind = match self.rng.below(100) {
            0..58 => Kind::Write { fua },
            58..90 => Kind::Read,
            90..93 => Kind::Trim,
            93..96 => Kind::WriteZeroes { fua },
            _ => Kind::Flush,
        };
        for _ in 0..DRAWS {
            let sectors = self.sectors();
            let free = kind == Kind::Flush || (kind == Kind::Read && self.atomic_reads);
            if free || !busy(&sectors) {
                return (kind, sectors);
            }
        }
        (Kind::Flush, self.sectors())
    }

    fn sectors(&mut self) -> Range<u64> {
        let (length, alignment) = match self.rng.below(100) {
            0..70 => (BLOCK, BLOCK),
            70..85 => (self.rng.range(1, 2 * BLOCK + 1), 1),
            85..95 => (self.rng.range(2 * BLOCK, LARGEST / 2), 1),
            _ => (LARGEST, 1),
        };
        let total = self.region.end - self.region.start;
        let span = if self.rng.below(2) == 0 { (total / HOT_SHARE).max(2 * LARGEST) } else { total };
        let start = self.region.start + self.rng.below(span - length + 1);
        let start = (start / alignment * alignment).max(self.region.start);
        start..start + length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_draw_lies_in_the_region() {
        let mut mix = Mix::new(Rng::new(1), 1000..9000, true);
        for _ in 0..100_000 {
            let (_, sectors) = mix.next(|_| false);
            assert!(sectors.start >= 1000 && sectors.end <= 9000 && !sectors.is_empty(), "{sectors:?}");
        }
    }

    #[test]
    fn changes_avoid_what_is_busy() {
        let mut mix = Mix::new(Rng::new(1), 0..8192, true);
        for _ in 0..10_000 {
            let (kind, _) = mix.next(|_| true);
            assert!(kind.change().is_none());
        }
    }
}
