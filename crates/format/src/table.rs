//! The block table and the region table as trees of pages (docs/FORMAT.md, "Tables"): 512 numbers of 64 bits each, little endian.
//!
//! Leaves hold the entries. What a page is to hold stands in its parent, so that a page which the device lost, changed or put
//! elsewhere does not verify. Each page has two places in the file: a checkpoint writes the one that the last checkpoint
//! does not need, so there is nothing in a file that a crash could tear.

use crate::checksum::table_checksum;
use bytes::{Bytes, BytesMut};

/// Numbers of one table page.
pub const PAGE_ENTRIES: usize = 512;
/// Bytes of one table page.
pub const PAGE_BYTES: usize = PAGE_ENTRIES * 8;

/// The page's bytes.
#[must_use]
pub fn encode_page(entries: &[u64; PAGE_ENTRIES]) -> Bytes {
    let mut b = BytesMut::with_capacity(PAGE_BYTES);
    for entry in entries {
        b.extend_from_slice(&entry.to_le_bytes());
    }
    b.freeze()
}

/// Reads a page. `None` for a page of zeros, which takes no memory, and for bytes that are no page.
#[must_use]
pub fn decode_page(bytes: &[u8]) -> Option<Box<[u64; PAGE_ENTRIES]>> {
    if bytes.len() != PAGE_BYTES || bytes.iter().all(|&b| b == 0) {
        return None;
    }
    let mut entries = Box::new([0; PAGE_ENTRIES]);
    for (entry, b) in entries.iter_mut().zip(bytes.chunks_exact(8)) {
        *entry = u64::from_le_bytes(b.try_into().expect("eight bytes"));
    }
    Some(entries)
}

/// Bytes that a page takes in its file: two places.
pub const PAGE_PLACES_BYTES: u64 = 2 * PAGE_BYTES as u64;
/// Leaves below one page of level 1.
pub const LEAF_PARENT_FANOUT: u64 = PAGE_ENTRIES as u64;
/// Pages below one page of level 2 or 3: each has its checksum and its sum there.
pub const NODE_FANOUT: u64 = PAGE_ENTRIES as u64 / 2;
/// The level of the root.
pub const ROOT_LEVEL: u8 = 3;

/// Places that a page of level 1, 2 takes together with everything below it.
const LEVEL_1_SPAN: u64 = 1 + LEAF_PARENT_FANOUT;
const LEVEL_2_SPAN: u64 = 1 + NODE_FANOUT * LEVEL_1_SPAN;

const fn level_1_place(index: u64) -> u64 {
    1 + index / NODE_FANOUT * LEVEL_2_SPAN + 1 + index % NODE_FANOUT * LEVEL_1_SPAN
}

/// Which table a page belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TableKind {
    /// The checksum of each block.
    Blocks,
    /// The last LSN of each region.
    Regions,
}

/// One page of a table. Level 0 holds the entries, level 3 is the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TablePage {
    /// Distance from the leaves.
    pub level: u8,
    /// Its number among the pages of its level.
    pub index: u64,
}

impl TablePage {
    /// The page above all others.
    pub const ROOT: TablePage = TablePage { level: ROOT_LEVEL, index: 0 };

    /// The leaf that holds entry `entry`.
    #[must_use]
    pub const fn leaf_of(entry: u64) -> TablePage {
        TablePage { level: 0, index: entry / PAGE_ENTRIES as u64 }
    }

    /// The page that says what this one holds, and which of its children this one is. `None` for the root.
    #[must_use]
    pub fn parent(self) -> Option<(TablePage, usize)> {
        let fanout = match self.level {
            0 => LEAF_PARENT_FANOUT,
            ROOT_LEVEL => return None,
            _ => NODE_FANOUT,
        };
        let child = usize::try_from(self.index % fanout).expect("a fanout is at most 512");
        Some((TablePage { level: self.level + 1, index: self.index / fanout }, child))
    }

    /// How many children it has. Of a leaf: entries.
    #[must_use]
    pub fn children(self) -> usize {
        let fanout = match self.level {
            0 => PAGE_ENTRIES as u64,
            1 => LEAF_PARENT_FANOUT,
            _ => NODE_FANOUT,
        };
        usize::try_from(fanout).expect("a fanout is at most 512")
    }

    /// One of its children. Panics for a leaf.
    #[must_use]
    pub fn child(self, child: usize) -> TablePage {
        assert!(self.level > 0 && child < self.children(), "{self:?} has a child {child}");
        let (fanout, child) = (self.children(), u64::try_from(child).expect("below 512"));
        let fanout = u64::try_from(fanout).expect("at most 512");
        TablePage { level: self.level - 1, index: self.index * fanout + child }
    }

    /// Where its two places start in the file. A page lies before everything below it, whatever the size of the table.
    #[must_use]
    pub const fn offset(self) -> u64 {
        let i = self.index;
        let place = match self.level {
            0 => level_1_place(i / LEAF_PARENT_FANOUT) + 1 + i % LEAF_PARENT_FANOUT,
            1 => level_1_place(i),
            2 => 1 + i * LEVEL_2_SPAN,
            _ => 0,
        };
        place * PAGE_PLACES_BYTES
    }

    /// What the parent says of a page of level 1 to 3 with these bytes.
    #[must_use]
    pub fn checksum(self, table: TableKind, bytes: &[u8]) -> u64 {
        table_checksum(matches!(table, TableKind::Blocks), self.level, self.index, bytes)
    }
}

/// Bytes of the file of a table with so many entries.
#[must_use]
pub const fn table_bytes(entries: u64) -> u64 {
    let last = if entries == 0 { 0 } else { (entries - 1) / PAGE_ENTRIES as u64 };
    TablePage { level: 0, index: last }.offset() + PAGE_PLACES_BYTES
}

// The largest volume fits exactly below one root.
const _: () = assert!(
    PAGE_ENTRIES as u64 * LEAF_PARENT_FANOUT * NODE_FANOUT * NODE_FANOUT
        == holdfast_types::MAX_VOLUME_BYTES / holdfast_types::BLOCK_SIZE as u64
);

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks the tree as the document says it lies in the file.
    #[test]
    fn pages_lie_in_preorder_and_nowhere_twice() {
        let mut place = 0;
        let mut expect = |page: TablePage| {
            assert_eq!(page.offset(), place * 8192, "{page:?}");
            place += 1;
        };
        expect(TablePage::ROOT);
        for j in 0..2 {
            expect(TablePage { level: 2, index: j });
            for i in j * 256..(j + 1) * 256 {
                expect(TablePage { level: 1, index: i });
                (i * 512..(i + 1) * 512).for_each(|index| expect(TablePage { level: 0, index }));
            }
        }
        let last = TablePage { level: 0, index: (1 << 25) - 1 };
        assert_eq!(table_bytes(1 << 34), last.offset() + 8192);
        assert_eq!((table_bytes(1), table_bytes(512), table_bytes(513)), (4 * 8192, 4 * 8192, 5 * 8192));
        let up = |page: TablePage| page.parent().expect("below the root").0;
        assert_eq!(up(up(up(last))), TablePage::ROOT);
    }

    /// The bytes of a page of level 2, and what the root says of it in either table.
    #[test]
    fn golden_page() {
        let mut entries = [0; PAGE_ENTRIES];
        (entries[0], entries[1], entries[511]) = (0x0102_0304_0506_0708, 9, u64::MAX);
        let mut bytes = encode_page(&entries).to_vec();
        let page = TablePage { level: 2, index: 3 };
        for table in [TableKind::Blocks, TableKind::Regions] {
            let checksum = page.checksum(table, &bytes[..PAGE_BYTES]);
            bytes.extend_from_slice(&checksum.to_le_bytes());
        }
        crate::golden::check("table_page", &bytes);
    }

    #[test]
    fn pages_come_back_and_zeros_take_no_memory() {
        let mut page = [0; PAGE_ENTRIES];
        assert!(decode_page(&encode_page(&page)).is_none());
        page[0] = 1;
        page[511] = u64::MAX;
        let bytes = encode_page(&page);
        assert_eq!((bytes[0], bytes[8 * 511]), (1, 255));
        assert_eq!(decode_page(&bytes).as_deref(), Some(&page));
        assert!(decode_page(&bytes[1..]).is_none());
    }
}
