//! The tables of a copy as its last checkpoint left them, read from the files alone: no journal, no replay, no store.
//!
//! Every page is verified by what stands above it, up to the roots in the superblock (docs/FORMAT.md, "Tables"). So what is said of
//! a block is what the checkpoint knew, or that the page can't be read; the content of a block is compared with that. What was
//! applied after the checkpoint does not match, and is called bad: without the journal nobody knows whether it may stay.

use super::OfflineError;
use super::engine::{Piece, READ_BLOCKS};
use bytes::Bytes;
use holdfast_disk::Overlay;
use holdfast_format::{
    ALLOCATED_ZEROS, PAGE_BYTES, PAGE_ENTRIES, PAGE_PLACES_BYTES, Superblock, TableKind, TablePage, block_checksum,
    decode_page, digest_term,
};
use holdfast_store::io::FileId;
use holdfast_types::{BLOCK_SIZE, BlockIndex, BlockRange};

const BLOCK: u64 = BLOCK_SIZE as u64;

/// A copy at its checkpoint.
pub(super) struct AtCheckpoint<'a> {
    pub(super) disk: &'a mut Overlay,
    pub(super) sb: &'a Superblock,
}

/// A part of a table, in order.
pub(super) enum Part<'a> {
    /// These entries are 0.
    Zeros(u64, u64),
    /// From this entry on.
    Entries(u64, &'a [u64; PAGE_ENTRIES]),
    /// The page that leads to these entries is in neither of its places.
    Bad(TablePage, u64, u64),
}

type Each<'a> = &'a mut dyn FnMut(&mut Overlay, Part<'_>) -> Result<(), OfflineError>;

impl AtCheckpoint<'_> {
    /// All of one table.
    pub(super) fn table(&mut self, kind: TableKind, each: Each<'_>) -> Result<(), OfflineError> {
        let sb = self.sb;
        let (file, root, entries) = match kind {
            TableKind::Blocks => (FileId::BlockTable(sb.volume), sb.roots.blocks, sb.size.blocks().0),
            TableKind::Regions => (FileId::RegionTable(sb.volume), sb.roots.regions, sb.size.regions()),
        };
        Walk { disk: self.disk, file, kind, entries }.page(TablePage::ROOT, root, each)
    }

    /// Every block, verified, as `Engine::walk` gives them.
    pub(super) fn blocks(
        &mut self,
        each: &mut dyn FnMut(Piece) -> Result<(), OfflineError>,
    ) -> Result<(), OfflineError> {
        let (sb, end) = (self.sb, self.sb.size.blocks().0);
        self.table(TableKind::Blocks, &mut |disk, part| match part {
            Part::Zeros(from, to) => each(Piece::Hole(BlockRange::new(from, to - from))),
            Part::Bad(_, from, to) => (from..to).try_for_each(|block| each(Piece::Bad(block))),
            Part::Entries(first, sums) => {
                let len = usize::try_from((end - first).min(sums.len() as u64)).expect("at most 512");
                leaf(disk, sb, first, &sums[..len], each)
            }
        })
    }
}

/// The blocks of one leaf, in runs of those that have content and those that are zeros.
fn leaf(
    disk: &mut Overlay,
    sb: &Superblock,
    first: u64,
    sums: &[u64],
    each: &mut dyn FnMut(Piece) -> Result<(), OfflineError>,
) -> Result<(), OfflineError> {
    let holds = |sum: &u64| *sum > ALLOCATED_ZEROS;
    let mut at = first;
    for run in sums.chunk_by(|a, b| holds(a) == holds(b)) {
        if !holds(&run[0]) {
            let count = u64::try_from(run.len()).expect("at most 512");
            each(Piece::Hole(BlockRange::new(at, count)))?;
            at += count;
            continue;
        }
        for part in run.chunks(usize::try_from(READ_BLOCKS).expect("256")) {
            let data = disk.read(FileId::Image(sb.volume), at * BLOCK, part.len() * BLOCK_SIZE).unwrap_or_default();
            for (i, sum) in part.iter().enumerate() {
                let here =
                    data.get(i * BLOCK_SIZE..(i + 1) * BLOCK_SIZE).map_or_else(Bytes::new, |b| data.slice_ref(b));
                match content(disk, sb, at, *sum, here) {
                    Some(content) => each(Piece::Data(BlockRange::new(at, 1), vec![content]))?,
                    None => each(Piece::Bad(at))?,
                }
                at += 1;
            }
        }
    }
    Ok(())
}

/// The content that the table says: from the image, or from the side area while regions of that are a part of the copy.
fn content(disk: &mut Overlay, sb: &Superblock, block: u64, sum: u64, here: Bytes) -> Option<Bytes> {
    let right = |data: &Bytes| data.len() == BLOCK_SIZE && block_checksum(BlockIndex(block), data) == sum;
    if right(&here) {
        return Some(here);
    }
    sb.merging?;
    disk.read(FileId::SideImage(sb.volume), block * BLOCK, BLOCK_SIZE).ok().filter(right)
}

struct Walk<'a> {
    disk: &'a mut Overlay,
    file: FileId,
    kind: TableKind,
    entries: u64,
}

impl Walk<'_> {
    /// A page and everything below it; `said`: what the page above says of it.
    fn page(&mut self, page: TablePage, said: u64, each: Each<'_>) -> Result<(), OfflineError> {
        let below = entries_below(page);
        let (from, to) = (page.index * below, ((page.index + 1) * below).min(self.entries));
        if from >= to {
            return Ok(());
        }
        if said == 0 {
            return each(self.disk, Part::Zeros(from, to));
        }
        let Some(entries) = self.read(page, said) else { return each(self.disk, Part::Bad(page, from, to)) };
        if page.level == 0 {
            return each(self.disk, Part::Entries(from, &entries));
        }
        for child in 0..page.children() {
            let said = if page.level == 1 { entries[child] } else { entries[2 * child] };
            self.page(page.child(child), said, each)?;
        }
        Ok(())
    }

    /// What is in the one of its two places that holds what is said.
    fn read(&mut self, page: TablePage, said: u64) -> Option<Box<[u64; PAGE_ENTRIES]>> {
        let len = usize::try_from(PAGE_PLACES_BYTES).expect("8192");
        let places = self.disk.read(self.file, page.offset(), len).ok()?;
        places.chunks_exact(PAGE_BYTES).find_map(|bytes| {
            let entries = decode_page(bytes)?;
            let found = if page.level == 0 { sum(page, &entries) } else { page.checksum(self.kind, bytes) };
            (found == said).then_some(entries)
        })
    }
}

/// What a leaf adds to the sum over the table.
fn sum(leaf: TablePage, entries: &[u64; PAGE_ENTRIES]) -> u64 {
    let first = leaf.index * PAGE_ENTRIES as u64;
    let terms = (first..).zip(entries).map(|(index, value)| digest_term(BlockIndex(index), *value));
    terms.fold(0, u64::wrapping_add)
}

/// Entries of the table below a page.
fn entries_below(page: TablePage) -> u64 {
    let levels = (0..=page.level).map(|level| TablePage { level, index: 0 }.children());
    levels.fold(1, |product, children| product * u64::try_from(children).expect("at most 512"))
}
