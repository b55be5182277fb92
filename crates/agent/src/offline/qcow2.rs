//! Writes a qcow2 image (version 3) in one pass, in ascending order: data is appended as it comes, tables follow their data.
//!
//! ```text
//! cluster 0: header │ L1 │ data and L2 tables as they come … │ refcount table │ refcount blocks
//! ```
//! The header is written last: a file that was not finished is no qcow2 image. Every cluster is used once, so each refcount is 1.

use super::export::Sink;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const CLUSTER: u64 = 1 << CLUSTER_BITS;
const CLUSTER_BITS: u32 = 16;
/// Entries of an L2 table: one cluster of them.
const L2_ENTRIES: u64 = CLUSTER / 8;
/// Refcounts of 16 bits in a cluster.
const REFCOUNTS: u64 = CLUSTER / 2;
/// The cluster is used once, so it may be written in place.
const COPIED: u64 = 1 << 63;
const HEADER_BYTES: u32 = 104;

/// The image being written.
pub(super) struct Qcow2 {
    file: File,
    size: u64,
    /// Clusters of the file so far.
    clusters: u64,
    l1: Vec<u64>,
    l2: Table,
    data: Cluster,
}

/// The L2 table that is being filled.
struct Table {
    number: u64,
    entries: Vec<u64>,
    used: bool,
}

/// The guest's cluster that is being filled.
struct Cluster {
    number: u64,
    bytes: Vec<u8>,
    used: bool,
}

fn index(n: u64) -> usize {
    usize::try_from(n).expect("tables of an image of 64 TiB fit in memory")
}

impl Qcow2 {
    pub(super) fn new(file: File, size: u64) -> Qcow2 {
        let l1 = size.div_ceil(CLUSTER * L2_ENTRIES);
        Qcow2 {
            file,
            size,
            clusters: 1 + (l1 * 8).div_ceil(CLUSTER),
            l1: vec![0; index(l1)],
            l2: Table { number: 0, entries: vec![0; index(L2_ENTRIES)], used: false },
            data: Cluster { number: 0, bytes: vec![0; index(CLUSTER)], used: false },
        }
    }

    /// Appends a cluster; gives its place in the file.
    fn append(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let at = self.clusters * CLUSTER;
        self.file.write_all_at(bytes, at)?;
        self.clusters += 1;
        Ok(at)
    }

    fn flush_data(&mut self) -> io::Result<()> {
        if !std::mem::take(&mut self.data.used) {
            return Ok(());
        }
        let bytes = std::mem::replace(&mut self.data.bytes, vec![0; index(CLUSTER)]);
        let (table, entry) = (self.data.number / L2_ENTRIES, self.data.number % L2_ENTRIES);
        if table != self.l2.number {
            self.flush_l2()?;
            self.l2.number = table;
        }
        let at = self.append(&bytes)?;
        self.l2.entries[index(entry)] = at | COPIED;
        self.l2.used = true;
        Ok(())
    }

    fn flush_l2(&mut self) -> io::Result<()> {
        if !std::mem::take(&mut self.l2.used) {
            return Ok(());
        }
        let entries = std::mem::replace(&mut self.l2.entries, vec![0; index(L2_ENTRIES)]);
        let at = self.append(&big_endian(&entries))?;
        self.l1[index(self.l2.number)] = at | COPIED;
        Ok(())
    }

    /// Writes the refcounts of all clusters, their own included; gives where their table is and how many clusters it has.
    fn write_refcounts(&mut self) -> io::Result<(u64, u64)> {
        let (mut blocks, mut table) = (1, 1);
        loop {
            let wanted = (self.clusters + blocks + table).div_ceil(REFCOUNTS);
            if wanted <= blocks && (blocks * 8).div_ceil(CLUSTER) <= table {
                break;
            }
            blocks = wanted.max(blocks);
            table = (blocks * 8).div_ceil(CLUSTER);
        }
        let (at, first) = (self.clusters, self.clusters + table);
        let total = first + blocks;
        let places: Vec<u64> = (first..total).map(|cluster| cluster * CLUSTER).collect();
        self.file.write_all_at(&big_endian(&places), at * CLUSTER)?;
        for (place, start) in places.iter().zip((0..).step_by(index(REFCOUNTS))) {
            let used = (total - start.min(total)).min(REFCOUNTS);
            let mut counts = [0, 1].repeat(index(used));
            counts.resize(index(CLUSTER), 0);
            self.file.write_all_at(&counts, *place)?;
        }
        self.clusters = total;
        Ok((at * CLUSTER, table))
    }

    fn header(&self, refcounts: (u64, u64)) -> Vec<u8> {
        let narrow = |n: u64| u32::try_from(n).expect("tables of an image of 64 TiB have fewer than 2^32 clusters");
        let l1 = narrow(u64::try_from(self.l1.len()).expect("a length fits in 64 bits"));
        let mut h = Vec::with_capacity(index(CLUSTER));
        h.extend(b"QFI\xfb");
        h.extend(3u32.to_be_bytes());
        h.extend([0; 12]); // no backing file
        h.extend(CLUSTER_BITS.to_be_bytes());
        h.extend(self.size.to_be_bytes());
        h.extend([0; 4]); // not encrypted
        h.extend(l1.to_be_bytes());
        h.extend(CLUSTER.to_be_bytes()); // the L1 table follows the header
        h.extend(refcounts.0.to_be_bytes());
        h.extend(narrow(refcounts.1).to_be_bytes());
        h.extend([0; 12]); // no snapshots
        h.extend([0; 24]); // no features
        h.extend(4u32.to_be_bytes()); // refcounts of 2^4 bits
        h.extend(HEADER_BYTES.to_be_bytes());
        assert_eq!(h.len(), index(u64::from(HEADER_BYTES)), "the header of version 3");
        h.extend([0; 8]); // no extensions
        h
    }
}

impl Sink for Qcow2 {
    fn put(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut rest = data;
        let mut at = offset;
        while !rest.is_empty() {
            let number = at / CLUSTER;
            if number != self.data.number {
                assert!(number > self.data.number, "a copy is walked in ascending order");
                self.flush_data()?;
                self.data.number = number;
            }
            let skip = index(at % CLUSTER);
            let (part, more) = rest.split_at(rest.len().min(index(CLUSTER) - skip));
            self.data.bytes[skip..skip + part.len()].copy_from_slice(part);
            self.data.used |= part.iter().any(|byte| *byte != 0);
            at += u64::try_from(part.len()).expect("at most a cluster");
            rest = more;
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.flush_data()?;
        self.flush_l2()?;
        let refcounts = self.write_refcounts()?;
        self.file.set_len(self.clusters * CLUSTER)?;
        self.file.write_all_at(&big_endian(&self.l1), CLUSTER)?;
        self.file.sync_all()?;
        self.file.write_all_at(&self.header(refcounts), 0)?;
        self.file.sync_all()
    }
}

fn big_endian(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_be_bytes()).collect()
}
