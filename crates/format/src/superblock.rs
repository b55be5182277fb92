//! The superblock of a copy (docs/FORMAT.md, "Superblock").
//!
//! Four equal copies of 4096 bytes. They are written two by two, so that a crash damages at most two of them, and a copy
//! opens with the highest sequence of which two equal ones are found: one alone may be a write that never ended.

use bytes::{Bytes, BytesMut};
use holdfast_types::{
    BlockIndex, Epoch, EpochTable, Incarnation, Lsn, MAX_EPOCH_TABLE, RegionIndex, VolumeId, VolumeSize,
};

/// Sums over the tables of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TableSums {
    /// The digest: sum over the block table.
    pub blocks: u64,
    /// The same over the region table.
    pub regions: u64,
}

/// Checksums of the roots of a copy's tables, by which every page is verified when it is read; 0 for an empty table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TableRoots {
    /// Of the block table.
    pub blocks: u64,
    /// Of the region table.
    pub regions: u64,
}

/// What a copy must remember besides its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Counts the writes of this superblock.
    pub sequence: u64,
    /// The volume.
    pub volume: VolumeId,
    /// Which on-disk state this is (S20).
    pub incarnation: Incarnation,
    /// The volume's size at `checkpoint`.
    pub size: VolumeSize,
    /// The decision of the control plane that made it so; 0: it was created so.
    pub resized: u64,
    /// The last record up to `checkpoint` that made the volume smaller, and the first block that this one or an earlier one
    /// cut off: there the region table knows of no change before that record. 0, 0 if there was none.
    pub cut: (Lsn, BlockIndex),
    /// Highest promised epoch (S14).
    pub promised: Epoch,
    /// Which epoch wrote which part of the log (trap 13).
    pub table: EpochTable,
    /// The synced image holds everything up to here.
    pub checkpoint: Lsn,
    /// Epoch of the record at `checkpoint`; 0 at LSN 0.
    pub checkpoint_epoch: Epoch,
    /// Hash of the record at `checkpoint`; 0 at LSN 0. The journal's chain starts here.
    pub checkpoint_hash: u64,
    /// Sums of the tables at `checkpoint`.
    pub sums: TableSums,
    /// The roots of the tables at `checkpoint`.
    pub roots: TableRoots,
    /// Where the scrub of the image goes on.
    pub scrubbed: BlockIndex,
    /// The side area is part of this copy: what the image does not hold of the blocks from this region on is there. Regions before
    /// it have been moved to the image.
    pub merging: Option<RegionIndex>,
    /// With `merging`: the image file still holds what lies behind `cut`, which is zeros now, and nothing has been moved.
    pub stale_behind_cut: bool,
    /// Known to be committed.
    pub committed: Lsn,
    /// The journal that holds the log.
    pub journal: u64,
    /// Frames before `(life, seq)` belong to an earlier copy of this volume on this node.
    pub born: (u64, u64),
}

/// What the four copies of a superblock say together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SuperblockFound {
    /// The state to open with, and which of the four copies hold it.
    Valid(Box<Superblock>, [bool; 4]),
    /// The first write never ended: the copy was never reported as created.
    NeverCreated,
    /// No two copies agree; how many are valid alone.
    Damaged(usize),
}

impl Superblock {
    /// Bytes of one copy.
    pub const LEN: usize = 4096;
    /// Copies in the file.
    pub const COPIES: usize = 4;
    /// The version that this code writes and reads.
    pub const VERSION: u16 = 1;

    const LIST: usize = 160;
    const MERGING: usize = 4064;
    const CUT: usize = 4072;
    const MAGIC: u32 = u32::from_le_bytes(*b"HFSB");

    /// The bytes of one copy; the last four are CRC-32 of the others.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let entries = self.table.entries();
        let mut b = BytesMut::zeroed(Self::LEN);
        let mut put = |at: usize, value: u64| b[at..at + 8].copy_from_slice(&value.to_le_bytes());
        put(0, u64::from(Self::MAGIC) | u64::from(Self::VERSION) << 32);
        put(8, self.sequence);
        put(16, self.volume.0);
        put(24, self.incarnation.0);
        put(32, self.size.bytes());
        put(40, self.promised.0);
        put(48, self.checkpoint.0);
        put(56, self.checkpoint_epoch.0);
        put(64, self.checkpoint_hash);
        put(72, self.committed.0);
        put(80, self.journal);
        put(88, self.born.0);
        put(96, self.born.1);
        put(104, u64::try_from(entries.len()).expect("an epoch table has at most 128 entries"));
        put(112, self.sums.blocks);
        put(120, self.sums.regions);
        put(128, self.roots.blocks);
        put(136, self.roots.regions);
        put(144, self.resized);
        put(152, self.scrubbed.0);
        put(Self::MERGING, self.merging.map_or(0, |next| next.0 + 1) | u64::from(self.stale_behind_cut) << 63);
        put(Self::CUT, self.cut.0.0);
        put(Self::CUT + 8, self.cut.1.0);
        for (i, (epoch, start)) in entries.iter().enumerate() {
            put(Self::LIST + i * 16, epoch.0);
            put(Self::LIST + i * 16 + 8, start.0);
        }
        let crc = crc32fast::hash(&b[..Self::LEN - 4]);
        b[Self::LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        b.freeze()
    }

    /// Reads one copy. `None` for bytes that `encode` did not make.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Superblock> {
        let b: &[u8; Self::LEN] = bytes.try_into().ok()?;
        let u64_at = |at: usize| u64::from_le_bytes(b[at..at + 8].try_into().expect("eight bytes"));
        let crc = u32::from_le_bytes(b[Self::LEN - 4..].try_into().expect("four bytes"));
        if u64_at(0) != u64::from(Self::MAGIC) | u64::from(Self::VERSION) << 32 {
            return None;
        }
        let count = usize::try_from(u64_at(104)).ok()?;
        if crc != crc32fast::hash(&b[..Self::LEN - 4]) || count > MAX_EPOCH_TABLE {
            return None;
        }
        if b[Self::LIST + count * 16..Self::MERGING].iter().chain(&b[Self::CUT + 16..Self::LEN - 4]).any(|&x| x != 0) {
            return None;
        }
        let entry = |i: usize| (Epoch(u64_at(Self::LIST + i * 16)), Lsn(u64_at(Self::LIST + i * 16 + 8)));
        Some(Superblock {
            sequence: u64_at(8),
            volume: VolumeId(u64_at(16)),
            incarnation: Incarnation(u64_at(24)),
            size: VolumeSize::new(u64_at(32)).ok()?,
            resized: u64_at(144),
            cut: (Lsn(u64_at(Self::CUT)), BlockIndex(u64_at(Self::CUT + 8))),
            promised: Epoch(u64_at(40)),
            table: EpochTable::new((0..count).map(entry).collect()).ok()?,
            checkpoint: Lsn(u64_at(48)),
            checkpoint_epoch: Epoch(u64_at(56)),
            checkpoint_hash: u64_at(64),
            sums: TableSums { blocks: u64_at(112), regions: u64_at(120) },
            roots: TableRoots { blocks: u64_at(128), regions: u64_at(136) },
            scrubbed: BlockIndex(u64_at(152)),
            merging: (u64_at(Self::MERGING) & (u64::MAX >> 1)).checked_sub(1).map(RegionIndex),
            stale_behind_cut: u64_at(Self::MERGING) >> 63 == 1,
            committed: Lsn(u64_at(72)),
            journal: u64_at(80),
            born: (u64_at(88), u64_at(96)),
        })
    }

    /// Each of the four copies by itself: what it says, if it is as written.
    #[must_use]
    pub fn copies(file: &[u8]) -> [Option<Superblock>; 4] {
        std::array::from_fn(|i| file.get(i * Self::LEN..(i + 1) * Self::LEN).and_then(Self::decode))
    }

    /// The version that a copy says it has, if it is a superblock at all.
    #[must_use]
    pub fn version(copy: &[u8]) -> Option<u32> {
        (copy.get(..4)? == Self::MAGIC.to_le_bytes()).then_some(())?;
        Some(u32::from_le_bytes(copy.get(4..8)?.try_into().expect("four bytes")))
    }

    /// Judges a whole superblock file (trap 22).
    #[must_use]
    pub fn judge(file: &[u8]) -> SuperblockFound {
        let copy = |i: usize| file.get(i * Self::LEN..(i + 1) * Self::LEN).unwrap_or(&[]);
        let copies = Self::copies(file);
        let holders = |s: &Superblock| copies.each_ref().map(|c| c.as_ref() == Some(s));
        let best = copies
            .iter()
            .flatten()
            .filter(|s| holders(s).iter().filter(|held| **held).count() >= 2)
            .max_by_key(|s| s.sequence);
        if let Some(best) = best {
            return SuperblockFound::Valid(Box::new(best.clone()), holders(best));
        }
        // A copy is reported as created after the second pair was written.
        if copy(2).iter().chain(copy(3)).all(|&x| x == 0) {
            return SuperblockFound::NeverCreated;
        }
        SuperblockFound::Damaged(copies.iter().flatten().count())
    }
}

const _: () = assert!(Superblock::LIST + MAX_EPOCH_TABLE * 16 <= Superblock::MERGING);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;

    fn superblock(sequence: u64) -> Superblock {
        Superblock {
            sequence,
            volume: VolumeId(7),
            incarnation: Incarnation(0xAA55),
            size: VolumeSize::new(10 << 30).expect("10 GiB"),
            resized: 3,
            cut: (Lsn(640), BlockIndex(1 << 18)),
            promised: Epoch(6),
            table: EpochTable::new(vec![(Epoch(1), Lsn(1)), (Epoch(5), Lsn(900))]).expect("a table"),
            checkpoint: Lsn(1000),
            checkpoint_epoch: Epoch(5),
            checkpoint_hash: 0x0102_0304_0506_0708,
            sums: TableSums { blocks: 0xB10C, regions: 0x4E67 },
            roots: TableRoots { blocks: 0xB007, regions: 0x4E07 },
            scrubbed: BlockIndex(4096),
            merging: Some(RegionIndex(41)),
            stale_behind_cut: true,
            committed: Lsn(1010),
            journal: 0x1122_3344_5566_7788,
            born: (2, 77),
        }
    }

    fn file(copies: [&[u8]; 4]) -> Vec<u8> {
        copies.concat()
    }

    #[test]
    fn round_trip_and_golden() {
        let bytes = superblock(12).encode();
        assert_eq!(Superblock::decode(&bytes), Some(superblock(12)));
        golden::check("superblock", &bytes);
    }

    #[test]
    fn every_flipped_byte_is_seen() {
        let bytes = superblock(12).encode();
        for i in 0..bytes.len() {
            let mut bad = bytes.to_vec();
            bad[i] ^= 0x10;
            assert_eq!(Superblock::decode(&bad), None, "byte {i}");
        }
    }

    /// `n`: new, `o`: old, `x`: damaged, `z`: zeros. Every combination, against the rule said in other words.
    #[test]
    fn every_combination_of_copies() {
        let (new, old, zeros) = (superblock(8).encode(), superblock(7).encode(), vec![0; 4096]);
        let mut damaged = new.to_vec();
        damaged[100] ^= 1;
        let kinds = [('n', &new[..]), ('o', &old[..]), ('x', &damaged[..]), ('z', &zeros[..])];
        for pick in 0..256usize {
            let chosen: [_; 4] =
                std::array::from_fn(|i| kinds[pick / 4usize.pow(u32::try_from(i).expect("small")) % 4]);
            let count = |k| chosen.iter().filter(|c| c.0 == k).count();
            let found = Superblock::judge(&file(chosen.map(|c| c.1)));
            match found {
                SuperblockFound::Valid(s, held) => {
                    let expected = if count('n') >= 2 { (8, 'n') } else { (7, 'o') };
                    assert!(count(expected.1) >= 2, "{chosen:?}");
                    assert_eq!(s.sequence, expected.0);
                    assert_eq!(held, chosen.map(|c| c.0 == expected.1));
                }
                SuperblockFound::NeverCreated => {
                    assert!(count('n') < 2 && count('o') < 2 && chosen[2].0 == 'z' && chosen[3].0 == 'z');
                }
                SuperblockFound::Damaged(valid) => {
                    assert!(count('n') < 2 && count('o') < 2 && (chosen[2].0 != 'z' || chosen[3].0 != 'z'));
                    assert_eq!(valid, count('n') + count('o'));
                }
            }
        }
    }

    #[test]
    fn a_short_file_is_no_superblock() {
        assert_eq!(Superblock::judge(&[]), SuperblockFound::NeverCreated);
        assert_eq!(Superblock::judge(&superblock(1).encode()), SuperblockFound::NeverCreated);
    }
}
