//! Parts of a plain array of numbers in a file, by whole sectors: what is written is read before, so that no sector is ever written in
//! pieces.

use crate::io::DiskOpKind;
use crate::side::{entries, runs};
use bytes::Bytes;
use holdfast_types::SECTOR_SIZE;
use std::collections::{BTreeMap, BTreeSet};

const BYTES: u64 = SECTOR_SIZE as u64;
/// Numbers of a sector.
const NUMBERS: u64 = BYTES / 8;

/// The sectors that hold some of the numbers.
#[derive(Debug, Default)]
pub(crate) struct Sectors(BTreeMap<u64, Vec<u64>>);

impl Sectors {
    /// The reads that bring the sectors of these numbers, which ascend.
    pub(crate) fn reads(numbers: impl Iterator<Item = u64>) -> Vec<DiskOpKind> {
        let mut sectors: Vec<u64> = numbers.map(|n| n / NUMBERS).collect();
        sectors.dedup();
        let read = |(start, end): (u64, u64)| DiskOpKind::Read {
            offset: start * BYTES,
            len: u32::try_from((end - start) * BYTES).expect("an answer has few regions"),
        };
        runs(sectors.into_iter()).into_iter().map(read).collect()
    }

    /// What such a read at this offset brought.
    pub(crate) fn take(&mut self, offset: u64, data: &Bytes) {
        let sectors = (offset / BYTES..).zip(data.chunks(SECTOR_SIZE));
        self.0.extend(sectors.map(|(sector, bytes)| (sector, entries(bytes).collect())));
    }

    fn sector(&mut self, number: u64) -> (&mut Vec<u64>, usize) {
        let sector = self.0.get_mut(&(number / NUMBERS)).expect("it was read");
        (sector, usize::try_from(number % NUMBERS).expect("below 64"))
    }

    pub(crate) fn get(&mut self, number: u64) -> u64 {
        let (sector, at) = self.sector(number);
        sector[at]
    }

    pub(crate) fn set(&mut self, number: u64, value: u64) {
        let (sector, at) = self.sector(number);
        sector[at] = value;
    }

    /// The writes that bring the sectors of these numbers to the file.
    pub(crate) fn writes(&self, numbers: impl Iterator<Item = u64>, durable: bool) -> Vec<DiskOpKind> {
        let sectors: BTreeSet<u64> = numbers.map(|n| n / NUMBERS).collect();
        let bytes = |sector: u64| self.0[&sector].iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
        let write = |(start, end): (u64, u64)| DiskOpKind::Write {
            offset: start * BYTES,
            data: vec![(start..end).flat_map(bytes).collect::<Vec<u8>>().into()],
            durable,
        };
        runs(sectors.into_iter()).into_iter().map(write).collect()
    }
}
