//! Block table, region table and digest of one copy, in memory; dirty pages go to disk at a checkpoint.
//!
//! Both are derived: a checkpoint fixes an LSN, and replay from there rebuilds every later entry, whatever state of the
//! page the device kept. Pages of zeros take no memory, so that a sparse volume costs what it holds.

use crate::io::FileId;
use bytes::Bytes;
use holdfast_format::{ALLOCATED_ZEROS, PAGE_BYTES, PAGE_ENTRIES, TableSums, decode_page, digest_term, encode_page};
use holdfast_types::{BlockIndex, Lsn, Mutant, REGION_BLOCKS, VolumeId, VolumeSize, mutated};
use std::collections::{BTreeMap, BTreeSet};

const ENTRIES: u64 = PAGE_ENTRIES as u64;

/// A sparse array of numbers that remembers which pages changed.
#[derive(Debug, Default)]
pub(crate) struct SparseTable {
    pages: BTreeMap<u64, Box<[u64; PAGE_ENTRIES]>>,
    dirty: BTreeSet<u64>,
}

fn slot(index: u64) -> usize {
    usize::try_from(index % ENTRIES).expect("below 512")
}

impl SparseTable {
    pub(crate) fn get(&self, index: u64) -> u64 {
        self.pages.get(&(index / ENTRIES)).map_or(0, |page| page[slot(index)])
    }

    /// Sets an entry; gives the old one.
    pub(crate) fn set(&mut self, index: u64, value: u64) -> u64 {
        let number = index / ENTRIES;
        if value == 0 && !self.pages.contains_key(&number) {
            return 0;
        }
        let page = self.pages.entry(number).or_insert_with(|| Box::new([0; PAGE_ENTRIES]));
        let old = std::mem::replace(&mut page[slot(index)], value);
        if old != value {
            self.dirty.insert(number);
        }
        old
    }

    /// Zeroes `[start, end)`; gives each entry that was not zero to `each`. Costs nothing for absent pages.
    pub(crate) fn clear(&mut self, start: u64, end: u64, mut each: impl FnMut(u64, u64)) {
        for (&number, page) in self.pages.range_mut(start / ENTRIES..end.div_ceil(ENTRIES)) {
            let first = number * ENTRIES;
            for index in first.max(start)..(first + ENTRIES).min(end) {
                let old = std::mem::take(&mut page[slot(index)]);
                if old != 0 {
                    self.dirty.insert(number);
                    each(index, old);
                }
            }
        }
    }

    /// The entries that are not zero.
    pub(crate) fn nonzero(&self) -> impl Iterator<Item = (u64, u64)> {
        self.pages
            .iter()
            .flat_map(|(number, page)| (number * ENTRIES..).zip(page.iter().copied()).filter(|(_, value)| *value != 0))
    }

    /// The entries that are not zero, from `start` on.
    pub(crate) fn from(&self, start: u64) -> impl Iterator<Item = (u64, u64)> {
        let pages = self.pages.range(start / ENTRIES..);
        let entries = pages.flat_map(|(number, page)| (number * ENTRIES..).zip(page.iter().copied()));
        entries.filter(move |(index, value)| *value != 0 && *index >= start)
    }

    /// Takes a part of the file, read from `offset` on.
    pub(crate) fn load(&mut self, offset: u64, data: &[u8]) {
        for (i, bytes) in (offset / PAGE_BYTES as u64..).zip(data.chunks(PAGE_BYTES)) {
            if let Some(page) = decode_page(bytes) {
                self.pages.insert(i, page);
            }
        }
    }

    /// The changed pages with their numbers, as they are now; they count as unchanged afterwards.
    pub(crate) fn take_dirty(&mut self) -> Vec<(u64, Bytes)> {
        let zeros = [0; PAGE_ENTRIES];
        let dirty = std::mem::take(&mut self.dirty);
        dirty.into_iter().map(|n| (n, encode_page(self.pages.get(&n).map_or(&zeros, |page| page)))).collect()
    }
}

/// Both tables of a copy, and the digest that follows from the block table.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub(crate) blocks: SparseTable,
    pub(crate) regions: SparseTable,
    pub(crate) digest: u64,
    /// The same sum over the region table.
    region_sum: u64,
}

impl Tables {
    /// A block has new content.
    pub(crate) fn set_block(&mut self, block: u64, sum: u64) {
        let old = self.blocks.set(block, sum);
        let terms = digest_term(BlockIndex(block), sum).wrapping_sub(digest_term(BlockIndex(block), old));
        self.digest = self.digest.wrapping_add(terms);
    }

    /// Blocks `[start, end)` are zeros.
    pub(crate) fn clear_blocks(&mut self, start: u64, end: u64) {
        let digest = &mut self.digest;
        let term =
            |block, old| if mutated(Mutant::DigestSkipsZeroes) { 0 } else { digest_term(BlockIndex(block), old) };
        self.blocks.clear(start, end, |block, old| *digest = digest.wrapping_sub(term(block, old)));
    }

    /// Blocks `[start, end)` are zeros that keep their space.
    pub(crate) fn zero_blocks(&mut self, start: u64, end: u64) {
        (start..end).for_each(|block| self.set_block(block, ALLOCATED_ZEROS));
    }

    /// The regions of blocks `[start, end)` changed at `lsn`.
    pub(crate) fn touch_regions(&mut self, start: u64, end: u64, lsn: Lsn) {
        for region in start / REGION_BLOCKS..end.div_ceil(REGION_BLOCKS) {
            let old = self.regions.get(region);
            if old < lsn.0 {
                self.set_region(region, lsn);
            }
        }
    }

    /// A region has the content that it had at `lsn`.
    pub(crate) fn set_region(&mut self, region: u64, lsn: Lsn) {
        let old = self.regions.set(region, lsn.0);
        let terms = digest_term(BlockIndex(region), lsn.0).wrapping_sub(digest_term(BlockIndex(region), old));
        self.region_sum = self.region_sum.wrapping_add(terms);
    }

    /// Both sums as they are kept.
    pub(crate) const fn sums(&self) -> TableSums {
        TableSums { blocks: self.digest, regions: self.region_sum }
    }

    /// Both sums from scratch.
    pub(crate) fn slow_sums(&self) -> TableSums {
        TableSums { blocks: sum(&self.blocks), regions: sum(&self.regions) }
    }

    /// Both tables were read: from here on their sums are kept.
    pub(crate) fn loaded(&mut self) {
        let sums = self.slow_sums();
        (self.digest, self.region_sum) = (sums.blocks, sums.regions);
    }
}

fn sum(table: &SparseTable) -> u64 {
    table.nonzero().fold(0, |sum, (index, value)| sum.wrapping_add(digest_term(BlockIndex(index), value)))
}

/// Names a table's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    Blocks,
    Regions,
    /// Of the side area.
    SideBlocks,
    SideRegions,
}

impl Table {
    pub(crate) const fn file(self, volume: VolumeId) -> FileId {
        match self {
            Table::Blocks => FileId::BlockTable(volume),
            Table::Regions => FileId::RegionTable(volume),
            Table::SideBlocks => FileId::SideBlocks(volume),
            Table::SideRegions => FileId::SideRegions(volume),
        }
    }

    /// Bytes of the file: whole pages.
    pub(crate) const fn len(self, size: VolumeSize) -> u64 {
        let entries = match self {
            Table::Blocks | Table::SideBlocks => size.blocks().0,
            Table::Regions | Table::SideRegions => size.regions(),
        };
        entries.div_ceil(ENTRIES) * PAGE_BYTES as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_types::Rng;

    #[test]
    fn digest_and_pages_equal_the_slow_sum() {
        let mut rng = Rng::new(3);
        let mut tables = Tables::default();
        let mut disk: BTreeMap<u64, Bytes> = BTreeMap::new();
        for round in 0..400 {
            let start = rng.below(3000);
            if rng.chance(300_000) {
                tables.clear_blocks(start, start + rng.below(1500));
            } else {
                tables.set_block(start, rng.next_u64() | 1);
            }
            tables.touch_regions(start, start + 1, Lsn(rng.below(1000)));
            assert_eq!(tables.sums(), tables.slow_sums());
            if round % 17 == 0 {
                disk.extend(tables.blocks.take_dirty());
            }
        }
        disk.extend(tables.blocks.take_dirty());
        let mut loaded = SparseTable::default();
        disk.iter().for_each(|(n, page)| loaded.load(n * PAGE_BYTES as u64, page));
        assert!(loaded.nonzero().eq(tables.blocks.nonzero()));
    }
}
