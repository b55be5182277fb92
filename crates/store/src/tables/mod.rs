//! Block table, region table and digest of one copy.
//!
//! Both are derived from the log: a checkpoint fixes their state at an LSN, and replay goes on from there. They are too large for
//! memory (128 GiB at 64 TiB), so `tree` keeps the pages that are in use, and `StoreConfig::table_bytes` bounds them.

mod tree;
mod weave;

pub(crate) use tree::{FrozenPage, Seek, Tree, slot as entry_slot};
pub(crate) use weave::{Weaver, Woven};

use crate::io::FileId;
use holdfast_format::{
    ALLOCATED_ZEROS, LEAF_PARENT_FANOUT, NODE_FANOUT, PAGE_ENTRIES, TableKind, TableSums, table_bytes,
};
use holdfast_types::{Lsn, Mutant, REGION_BLOCKS, VolumeId, VolumeSize, mutated};

const ENTRIES: u64 = PAGE_ENTRIES as u64;

/// Both tables of a copy, and the digest that follows from the block table.
#[derive(Debug)]
pub(crate) struct Tables {
    pub(crate) blocks: Tree,
    pub(crate) regions: Tree,
    pub(crate) digest: u64,
    /// The same sum over the region table.
    region_sum: u64,
}

impl Tables {
    /// As a checkpoint left them.
    pub(crate) const fn opened(blocks: Tree, regions: Tree, sums: TableSums) -> Tables {
        Tables { blocks, regions, digest: sums.blocks, region_sum: sums.regions }
    }

    /// Other trees take the place of those in use, which hold nothing that is on its way or changed.
    pub(crate) fn replace(&mut self, blocks: Option<Tree>, regions: Option<Tree>, sums: TableSums) {
        if let Some(blocks) = blocks {
            self.blocks = blocks;
        }
        if let Some(regions) = regions {
            self.regions = regions;
        }
        (self.digest, self.region_sum) = (sums.blocks, sums.regions);
    }

    pub(crate) const fn tree(&mut self, kind: TableKind) -> &mut Tree {
        match kind {
            TableKind::Blocks => &mut self.blocks,
            TableKind::Regions => &mut self.regions,
        }
    }

    /// Blocks `[start, end)` have new content with these checksums. Their leaves are here.
    pub(crate) fn set_blocks(&mut self, start: u64, end: u64, sum: impl Fn(u64) -> u64) {
        for (from, to) in by_leaf(start, end) {
            self.digest = self.digest.wrapping_add(self.blocks.fill(from, to, |block, _| sum(block)));
        }
    }

    /// Blocks `[start, end)` are holes. Their leaves are here, or all zeros: what is above one of zeros may be forgotten meanwhile,
    /// since nothing is pinned there.
    pub(crate) fn clear_blocks(&mut self, start: u64, end: u64) {
        for (from, to) in by_leaf(start, end) {
            if self.blocks.seek(from / ENTRIES) != Seek::Here {
                continue;
            }
            let delta = self.blocks.fill(from, to, |_, _| 0);
            if !mutated(Mutant::DigestSkipsZeroes) {
                self.digest = self.digest.wrapping_add(delta);
            }
        }
    }

    /// Blocks `[start, end)` are zeros that keep their space. Their leaves are here.
    pub(crate) fn zero_blocks(&mut self, start: u64, end: u64) {
        self.set_blocks(start, end, |_| ALLOCATED_ZEROS);
    }

    /// The regions of blocks `[start, end)` changed at `lsn`. Their leaves are here.
    pub(crate) fn touch_regions(&mut self, start: u64, end: u64, lsn: Lsn) {
        for (from, to) in by_leaf(start / REGION_BLOCKS, end.div_ceil(REGION_BLOCKS)) {
            self.region_sum = self.region_sum.wrapping_add(self.regions.fill(from, to, |_, old| old.max(lsn.0)));
        }
    }

    /// Nothing is left behind `blocks` blocks, of which there is one at least; the region that was cut in two changed at `lsn`.
    /// The last leaves that stay are here.
    pub(crate) fn cut(&mut self, blocks: u64, lsn: Lsn) {
        self.digest = self.digest.wrapping_sub(self.blocks.cut(blocks));
        let regions = blocks.div_ceil(REGION_BLOCKS);
        self.region_sum = self.region_sum.wrapping_sub(self.regions.cut(regions));
        if !blocks.is_multiple_of(REGION_BLOCKS) {
            self.touch_regions(blocks - 1, blocks, lsn);
        }
    }

    /// Both sums.
    pub(crate) const fn sums(&self) -> TableSums {
        TableSums { blocks: self.digest, regions: self.region_sum }
    }

    /// Pages in memory.
    pub(crate) fn len(&self) -> usize {
        self.blocks.len() + self.regions.len()
    }

    /// Pages that wait for a checkpoint, or for the end of one: an upper bound.
    pub(crate) fn held(&self) -> usize {
        self.blocks.held() + self.regions.held()
    }

    /// Pages that the next checkpoint writes.
    pub(crate) fn changed(&self) -> usize {
        self.blocks.changed() + self.regions.changed()
    }

    /// Forgets up to `count` pages; gives how many.
    pub(crate) fn forget(&mut self, count: usize) -> usize {
        let gone = self.blocks.forget(count);
        gone + self.regions.forget(count - gone)
    }
}

/// Pages that so many leaves of a table with `entries` entries take at most, with those above them.
pub(crate) fn pages_for(leaves: usize, entries: u64) -> usize {
    if leaves == 0 {
        return 0;
    }
    let level_1 = entries.div_ceil(ENTRIES * LEAF_PARENT_FANOUT);
    let level_2 = level_1.div_ceil(NODE_FANOUT);
    let at_most = |pages: u64| usize::try_from(pages).map_or(leaves, |pages| pages.min(leaves));
    leaves + at_most(level_1) + at_most(level_2) + 1
}

/// The leaves that entries `[start, end)` lie in; none if that is empty.
pub(crate) const fn leaves(start: u64, end: u64) -> std::ops::Range<u64> {
    if start < end { start / ENTRIES..end.div_ceil(ENTRIES) } else { 0..0 }
}

/// `[start, end)` in parts of one leaf each.
pub(crate) fn by_leaf(start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
    leaves(start, end).map(move |leaf| ((leaf * ENTRIES).max(start), ((leaf + 1) * ENTRIES).min(end)))
}

/// The file of a table, and its length.
pub(crate) const fn table_file(volume: VolumeId, size: VolumeSize, kind: TableKind) -> (FileId, u64) {
    match kind {
        TableKind::Blocks => (FileId::BlockTable(volume), table_bytes(size.blocks().0)),
        TableKind::Regions => (FileId::RegionTable(volume), table_bytes(size.regions())),
    }
}

#[cfg(test)]
mod tests;
