//! Regions of an image on the wire (docs/FORMAT.md, "Regions"): what a copy asks for that no log reaches, and what it gets.

use super::Message;
use super::codec::MESSAGE;
use crate::reader::{Reader, put_count, put_crc, put_u64s, u64_of};
use crate::{ALLOCATED_ZEROS, DecodeError, TableSums, block_checksum};
use bytes::Bytes;
use holdfast_types::{BLOCK_SIZE, BlockIndex, Epoch, Lsn, REGION_BLOCKS, RegionIndex, VolumeSize};

/// Blocks of a region.
const BLOCKS: usize = 16;
const _: () = assert!(BLOCKS as u64 == REGION_BLOCKS);
const REGION_HEAD: usize = 16 + 8 * BLOCKS;
const HELD_ENTRY: usize = 16;
pub(super) const FETCH_REGIONS: u8 = 24;
pub(super) const REGIONS: u8 = 25;
pub(super) const NO_REGIONS: u8 = 26;

/// Which regions are wanted: those in `from..end` that changed after `after`, or after the LSN in `held`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RegionQuery {
    /// First region of the window.
    pub from: RegionIndex,
    /// The first one behind it.
    pub end: RegionIndex,
    /// Content up to this LSN is held of every region of the window that `held` does not name.
    pub after: Lsn,
    /// Content of these is held as it was at the LSN given; by region, strictly increasing.
    pub held: Vec<(RegionIndex, Lsn)>,
}

/// The state of a copy that an answer belongs to: everything in it is exactly as record `at` left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionCut {
    /// In the image up to here.
    pub at: Lsn,
    /// Epoch of that record.
    pub epoch: Epoch,
    /// Its hash.
    pub hash: u64,
    /// Sums over both tables there.
    pub sums: TableSums,
    /// The volume's size there.
    pub size: VolumeSize,
    /// The decision that made it so; 0: the volume was created so.
    pub resized: u64,
    /// The last record up to there that made the volume smaller, and the first block that this one or an earlier one cut off
    /// (`Superblock::cut`).
    pub cut: (Lsn, BlockIndex),
}

/// A region's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Which.
    pub index: RegionIndex,
    /// The record that changed it last.
    pub lsn: Lsn,
    /// Checksums of its blocks, as in the block table.
    pub sums: [u64; BLOCKS],
    /// The blocks that are no zeros, in order.
    pub data: Bytes,
}

/// Regions of a copy at one LSN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionsFound {
    /// Which LSN.
    pub cut: RegionCut,
    /// By region.
    pub regions: Vec<Region>,
    /// The window goes on here.
    pub next: Option<RegionIndex>,
    /// Regions of the whole volume that changed after the LSN asked for, if that is known; else 0.
    pub total: u64,
}

/// Why no regions come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRegions {
    /// Another copy is being served.
    Busy,
    /// The copy asked does not follow this epoch's log itself.
    Behind,
    /// A block can't be verified and no copy that answers has it: this one.
    Damaged(BlockIndex),
}

impl Region {
    /// Bytes on the wire besides its content.
    pub const HEAD: usize = REGION_HEAD;

    /// The blocks with their checksums: content, or nothing for zeros.
    pub fn blocks(&self) -> impl Iterator<Item = (BlockIndex, u64, Option<Bytes>)> {
        let first = self.index.0 * REGION_BLOCKS;
        let mut at = 0;
        (first..).zip(self.sums).map(move |(block, sum)| {
            let data = (sum > ALLOCATED_ZEROS).then(|| {
                at += BLOCK_SIZE;
                self.data.slice(at - BLOCK_SIZE..at)
            });
            (BlockIndex(block), sum, data)
        })
    }

    /// Bytes on the wire.
    #[must_use]
    pub const fn len_bytes(&self) -> usize {
        REGION_HEAD + self.data.len()
    }

    fn encode_head(&self, out: &mut Vec<u8>) {
        put_u64s(out, &[self.index.0, self.lsn.0]);
        put_u64s(out, &self.sums);
    }

    /// Cuts the region's blocks from `bodies` and verifies each.
    fn read(head: &[u8], bodies: &mut Bytes) -> Result<Region, DecodeError> {
        let at = |i: usize| u64_of(&head[8 * i..]);
        let (index, lsn) = (RegionIndex(at(0)), Lsn(at(1)));
        let sums: [u64; BLOCKS] = std::array::from_fn(|i| at(2 + i));
        let len = BLOCK_SIZE * sums.iter().filter(|s| **s > ALLOCATED_ZEROS).count();
        let found = bodies.len();
        if len > found {
            return Err(DecodeError::Truncated { what: "region", needed: len as u64, found: found as u64 });
        }
        if index.0.checked_mul(REGION_BLOCKS * BLOCK_SIZE as u64).is_none() || lsn == Lsn::ZERO {
            return Err(DecodeError::Field { what: "region", field: "its index or its LSN" });
        }
        let region = Region { index, lsn, sums, data: bodies.split_to(len) };
        let wrong = |(block, sum, data): (BlockIndex, u64, Option<Bytes>)| {
            data.is_some_and(|data| block_checksum(block, &data) != sum)
        };
        if region.blocks().any(wrong) {
            return Err(DecodeError::Checksum { what: "region" });
        }
        Ok(region)
    }
}

/// The bytes of a message of this file; `None` for any other.
pub(super) fn encode(message: &Message) -> Option<Vec<Bytes>> {
    let begin = |kind: u8, entries: usize, regions: usize, fields: &[u64]| {
        let mut head = Vec::new();
        MESSAGE.write(&mut head);
        head.extend([kind, 0]);
        put_count(&mut head, entries);
        put_count(&mut head, regions);
        put_u64s(&mut head, fields);
        head
    };
    let (mut head, regions): (Vec<u8>, &[Region]) = match message {
        Message::FetchRegions { epoch, request, query } => {
            let q = query;
            let fields = [epoch.0, *request, q.from.0, q.end.0, q.after.0];
            let mut head = begin(FETCH_REGIONS, q.held.len(), 0, &fields);
            q.held.iter().for_each(|(region, lsn)| put_u64s(&mut head, &[region.0, lsn.0]));
            (head, &[])
        }
        Message::Regions { epoch, request, cut, next, total, last, regions } => {
            let (is_next, at_next) = next.map_or((0, 0), |r| (1, r.0));
            let c = cut;
            let state = [c.at.0, c.epoch.0, c.hash, c.sums.blocks, c.sums.regions];
            let sizes = [c.size.bytes(), c.resized, c.cut.0.0, c.cut.1.0];
            let rest = [is_next, at_next, *total, u64::from(*last)];
            let fields = [&[epoch.0, *request][..], &state, &sizes, &rest].concat();
            let mut head = begin(REGIONS, 0, regions.len(), &fields);
            regions.iter().for_each(|r| r.encode_head(&mut head));
            (head, regions)
        }
        Message::NoRegions { epoch, request, why } => {
            let (code, block) = match why {
                NoRegions::Busy => (1, 0),
                NoRegions::Behind => (2, 0),
                NoRegions::Damaged(block) => (3, block.0),
            };
            (begin(NO_REGIONS, 0, 0, &[epoch.0, *request, code, block]), &[])
        }
        _ => return None,
    };
    put_crc(&mut head);
    let bodies = regions.iter().map(|r| r.data.clone()).filter(|d| !d.is_empty());
    Some(std::iter::once(Bytes::from(head)).chain(bodies).collect())
}

/// Reads a message of this file behind its counts.
pub(super) fn decode(
    kind: u8,
    mut r: Reader<'_>,
    entries: u32,
    count: u32,
    bytes: &Bytes,
) -> Result<Message, DecodeError> {
    let lists = (entries == 0 || kind == FETCH_REGIONS) && (count == 0 || kind == REGIONS);
    if !lists {
        return Err(r.field("a list that this kind has not"));
    }
    let (epoch, request) = (Epoch(r.u64()?), r.u64()?);
    match kind {
        FETCH_REGIONS => {
            let query = read_query(&mut r, entries)?;
            Ok(Message::FetchRegions { epoch, request, query })
        }
        REGIONS => read_regions(r, epoch, request, count, bytes),
        _ => {
            let why = match (r.u64()?, r.u64()?) {
                (1, 0) => NoRegions::Busy,
                (2, 0) => NoRegions::Behind,
                (3, block) => NoRegions::Damaged(BlockIndex(block)),
                _ => return Err(r.field("the reason")),
            };
            r.crc()?;
            r.end()?;
            Ok(Message::NoRegions { epoch, request, why })
        }
    }
}

fn read_query(r: &mut Reader<'_>, entries: u32) -> Result<RegionQuery, DecodeError> {
    let (from, end, after) = (RegionIndex(r.u64()?), RegionIndex(r.u64()?), Lsn(r.u64()?));
    let entry = |e: &[u8]| (RegionIndex(u64_of(e)), Lsn(u64_of(&e[8..])));
    let held: Vec<_> = r.entries(entries, HELD_ENTRY)?.map(entry).collect();
    r.crc()?;
    r.end()?;
    let increasing = held.windows(2).all(|w| w[0].0 < w[1].0);
    let within = held.iter().all(|(region, lsn)| from <= *region && *region < end && *lsn > Lsn::ZERO);
    if increasing && within && from <= end {
        Ok(RegionQuery { from, end, after, held })
    } else {
        Err(r.field("the regions that are held"))
    }
}

fn read_regions(
    mut r: Reader<'_>,
    epoch: Epoch,
    request: u64,
    count: u32,
    bytes: &Bytes,
) -> Result<Message, DecodeError> {
    // Fields of a struct literal are evaluated in the order in which they are written: that of the layout.
    let cut = RegionCut {
        at: Lsn(r.u64()?),
        epoch: Epoch(r.u64()?),
        hash: r.u64()?,
        sums: TableSums { blocks: r.u64()?, regions: r.u64()? },
        size: VolumeSize::new(r.u64()?).map_err(|_| r.field("the size"))?,
        resized: r.u64()?,
        cut: (Lsn(r.u64()?), BlockIndex(r.u64()?)),
    };
    if cut.cut.0 > cut.at {
        return Err(r.field("the last cut"));
    }
    let next = match (r.flag("the presence of a next region")?, r.u64()?) {
        (true, region) => Some(RegionIndex(region)),
        (false, 0) => None,
        (false, _) => return Err(r.field("the next region")),
    };
    let (total, last) = (r.u64()?, r.flag("the end of the answer")?);
    let heads = r.entries(count, REGION_HEAD)?;
    r.crc()?;
    let mut bodies = bytes.slice(r.position()..);
    let mut regions: Vec<Region> = Vec::with_capacity(heads.len());
    for head in heads {
        let region = Region::read(head, &mut bodies)?;
        if regions.last().is_some_and(|before| before.index >= region.index) {
            return Err(r.field("the order of the regions"));
        }
        regions.push(region);
    }
    match bodies.len() {
        0 => Ok(Message::Regions { epoch, request, cut, next, total, last, regions }),
        extra => Err(DecodeError::Trailing { what: MESSAGE.what, extra: extra as u64 }),
    }
}
