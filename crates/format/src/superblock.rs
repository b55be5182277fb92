//! The superblock of a copy (docs/FORMAT.md, "Superblock").
//!
//! Four equal copies of 4096 bytes. They are written two by two, so that a crash damages at most two of them, and a copy
//! opens with the highest sequence of which two equal ones are found: one alone may be a write that never ended.

use bytes::{Bytes, BytesMut};
use holdfast_types::{
    BLOCK_SIZE, BlockIndex, BlockRange, Epoch, EpochTable, Incarnation, Lsn, MAX_EPOCH_TABLE, MAX_UNREPAIRABLE,
    MAX_VOLUME_BYTES, RegionIndex, ScrubFound, ScrubKept, VolumeId, VolumeSize,
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
    /// Where the scrub of the image goes on, and what is known of earlier passes.
    pub scrub: ScrubKept,
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
    /// A mark says that nothing of this volume's copy counts: its creation or its deletion never ended.
    Void(VolumeId),
    /// Nothing was ever written: right after the file was made, and a loss at any other time.
    Blank,
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
    const SCRUB: usize = Self::LIST + MAX_EPOCH_TABLE * 16;
    const UNREPAIRABLE: usize = Self::SCRUB + 64;
    const MERGING: usize = 4064;
    const CUT: usize = 4072;
    const MAGIC: u32 = u32::from_le_bytes(*b"HFSB");
    const VOID: u32 = u32::from_le_bytes(*b"HFVD");

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
        put(152, self.scrub.next.0);
        put(Self::MERGING, self.merging.map_or(0, |next| next.0 + 1) | u64::from(self.stale_behind_cut) << 63);
        put(Self::CUT, self.cut.0.0);
        put(Self::CUT + 8, self.cut.1.0);
        for (i, (epoch, start)) in entries.iter().enumerate() {
            put(Self::LIST + i * 16, epoch.0);
            put(Self::LIST + i * 16 + 8, start.0);
        }
        put_scrub(&self.scrub, &mut put);
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
        let scrub = scrub_at(&u64_at)?;
        let unused = [
            Self::LIST + count * 16..Self::SCRUB,
            Self::UNREPAIRABLE + scrub.unrepairable.len() * 16..Self::MERGING,
            Self::CUT + 16..Self::LEN - 4,
        ];
        if unused.into_iter().any(|range| b[range].iter().any(|&x| x != 0)) {
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
            scrub,
            merging: (u64_at(Self::MERGING) & (u64::MAX >> 1)).checked_sub(1).map(RegionIndex),
            stale_behind_cut: u64_at(Self::MERGING) >> 63 == 1,
            committed: Lsn(u64_at(72)),
            journal: u64_at(80),
            born: (u64_at(88), u64_at(96)),
        })
    }

    /// In the place of a copy: nothing of the copy of `volume` counts, its files may go. Absence says no such thing: a file
    /// that was lost looks like one that never was.
    #[must_use]
    pub fn void(volume: VolumeId) -> Bytes {
        let mut b = BytesMut::zeroed(Self::LEN);
        b[..8].copy_from_slice(&(u64::from(Self::VOID) | u64::from(Self::VERSION) << 32).to_le_bytes());
        b[16..24].copy_from_slice(&volume.0.to_le_bytes());
        let crc = crc32fast::hash(&b[..Self::LEN - 4]);
        b[Self::LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        b.freeze()
    }

    /// The volume of a void mark.
    fn voided(copy: &[u8]) -> Option<VolumeId> {
        let volume = VolumeId(u64::from_le_bytes(copy.get(16..24)?.try_into().expect("eight bytes")));
        (copy == Self::void(volume)).then_some(volume)
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
        // A copy that lives has four whole copies, and two while it writes: a mark beside fewer is of a creation or deletion.
        if let Some(volume) = (0..Self::COPIES).find_map(|i| Self::voided(copy(i))) {
            return SuperblockFound::Void(volume);
        }
        // The mark of a creation, over zeros, may be torn.
        if copy(0).iter().chain(copy(1)).all(|&x| x == 0) {
            return SuperblockFound::Blank;
        }
        SuperblockFound::Damaged(copies.iter().flatten().count())
    }
}

fn put_scrub(scrub: &ScrubKept, put: &mut impl FnMut(usize, u64)) {
    let named = &scrub.unrepairable;
    assert!(named.len() <= MAX_UNREPAIRABLE, "more ranges than are remembered");
    let ScrubFound { verified, mismatches, repaired, lost } = scrub.of_run;
    let count = u64::try_from(named.len()).expect("at most 64");
    let fields = [scrub.run, scrub.rate, scrub.ended_ms, verified, mismatches, repaired, lost];
    let fields = fields.into_iter().chain([count | u64::from(scrub.more) << 63]);
    let ranges = named.iter().flat_map(|range| [range.start.0, range.count.0]);
    for (value, at) in fields.chain(ranges).zip((Superblock::SCRUB..).step_by(8)) {
        put(at, value);
    }
}

/// `None` for what `put_scrub` does not write.
fn scrub_at(u64_at: &impl Fn(usize) -> u64) -> Option<ScrubKept> {
    let field = |i: usize| u64_at(Superblock::SCRUB + i * 8);
    let count = usize::try_from(field(7) & (u64::MAX >> 1)).ok().filter(|count| *count <= MAX_UNREPAIRABLE)?;
    let mut unrepairable = Vec::with_capacity(count);
    let mut behind = 0;
    for i in 0..count {
        let at = Superblock::UNREPAIRABLE + i * 16;
        let (start, blocks) = (u64_at(at), u64_at(at + 8));
        let end = start.checked_add(blocks).filter(|end| *end <= MAX_VOLUME_BYTES / BLOCK_SIZE as u64)?;
        if start < behind || blocks == 0 {
            return None;
        }
        behind = end;
        unrepairable.push(BlockRange::new(start, blocks));
    }
    Some(ScrubKept {
        next: BlockIndex(u64_at(152)),
        run: field(0),
        rate: field(1),
        ended_ms: field(2),
        of_run: ScrubFound { verified: field(3), mismatches: field(4), repaired: field(5), lost: field(6) },
        unrepairable,
        more: field(7) >> 63 == 1,
    })
}

const _: () = assert!(Superblock::UNREPAIRABLE + MAX_UNREPAIRABLE * 16 <= Superblock::MERGING);

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
            scrub: ScrubKept { next: BlockIndex(4096), ..ScrubKept::default() },
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

    fn scrubbed(unrepairable: Vec<BlockRange>) -> Superblock {
        let of_run = ScrubFound { verified: 4096, mismatches: 9, repaired: 7, lost: 2 };
        let scrub = ScrubKept {
            next: BlockIndex(4096),
            run: 0xA1,
            rate: 100 << 20,
            of_run,
            ended_ms: 1_796_000_000_000,
            unrepairable,
            more: true,
        };
        Superblock { scrub, ..superblock(12) }
    }

    /// The superblock of `golden/superblock.hex` was written before there was anything of this: its bytes are zeros there.
    #[test]
    fn what_a_scrub_left_comes_back() {
        let all = (0..64).map(|i| BlockRange::new(i * 1000, 1 + i)).collect();
        for sb in [scrubbed(vec![BlockRange::new(17, 2), BlockRange::new(40, 1)]), scrubbed(all)] {
            assert_eq!(Superblock::decode(&sb.encode()), Some(sb));
        }
        let sb = scrubbed(vec![BlockRange::new(17, 2), BlockRange::new(40, 1)]);
        golden::check("superblock_scrub", &sb.encode());
    }

    #[test]
    fn ranges_that_nobody_writes_are_no_superblock() {
        let pairs = [(17, 0), (17, u64::MAX), (u64::MAX, 1), (MAX_VOLUME_BYTES / BLOCK_SIZE as u64, 1)];
        let out_of_order = vec![BlockRange::new(40, 1), BlockRange::new(17, 2)];
        let mut bad = vec![scrubbed(out_of_order).encode().to_vec()];
        for (start, count) in pairs {
            let mut bytes = scrubbed(vec![BlockRange::new(17, 2)]).encode().to_vec();
            bytes[Superblock::UNREPAIRABLE..][..8].copy_from_slice(&u64::to_le_bytes(start));
            bytes[Superblock::UNREPAIRABLE + 8..][..8].copy_from_slice(&u64::to_le_bytes(count));
            bad.push(bytes);
        }
        let mut many = scrubbed(Vec::new()).encode().to_vec();
        many[Superblock::SCRUB + 56] = 65;
        bad.push(many);
        for mut bytes in bad {
            let crc = crc32fast::hash(&bytes[..Superblock::LEN - 4]);
            bytes[Superblock::LEN - 4..].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(Superblock::decode(&bytes), None);
        }
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

    /// `n`: new, `o`: old, `x`: damaged, `z`: zeros, `v`: void. Every combination, against the rule said in other words.
    #[test]
    fn every_combination_of_copies() {
        let (new, old, zeros) = (superblock(8).encode(), superblock(7).encode(), vec![0; 4096]);
        let void = Superblock::void(VolumeId(7));
        let mut damaged = new.to_vec();
        damaged[100] ^= 1;
        let kinds = [('n', &new[..]), ('o', &old[..]), ('x', &damaged[..]), ('z', &zeros[..]), ('v', &void[..])];
        for pick in 0..625usize {
            let chosen: [_; 4] =
                std::array::from_fn(|i| kinds[pick / 5usize.pow(u32::try_from(i).expect("small")) % 5]);
            let count = |k| chosen.iter().filter(|c| c.0 == k).count();
            let opens = count('n') >= 2 || count('o') >= 2;
            let blank = chosen[0].0 == 'z' && chosen[1].0 == 'z';
            match Superblock::judge(&file(chosen.map(|c| c.1))) {
                SuperblockFound::Valid(s, held) => {
                    let expected = if count('n') >= 2 { (8, 'n') } else { (7, 'o') };
                    assert!(count(expected.1) >= 2, "{chosen:?}");
                    assert_eq!(s.sequence, expected.0);
                    assert_eq!(held, chosen.map(|c| c.0 == expected.1));
                }
                SuperblockFound::Void(volume) => assert!(!opens && count('v') > 0 && volume == VolumeId(7)),
                SuperblockFound::Blank => assert!(!opens && count('v') == 0 && blank),
                SuperblockFound::Damaged(valid) => {
                    assert!(!opens && count('v') == 0 && !blank);
                    assert_eq!(valid, count('n') + count('o'));
                }
            }
        }
    }

    #[test]
    fn a_void_mark_with_any_byte_flipped_is_none() {
        let mark = Superblock::void(VolumeId(7));
        golden::check("superblock-void", &mark);
        for i in 0..mark.len() {
            let mut bad = mark.to_vec();
            bad[i] ^= 0x10;
            assert_eq!(Superblock::voided(&bad), None, "byte {i}");
        }
    }

    #[test]
    fn a_short_file_is_no_superblock() {
        assert_eq!(Superblock::judge(&[]), SuperblockFound::Blank);
        assert_eq!(Superblock::judge(&superblock(1).encode()), SuperblockFound::Damaged(1));
    }
}
