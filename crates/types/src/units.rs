//! Blocks, bytes and sizes.

use crate::limits::{BLOCK_SIZE, MAX_VOLUME_BYTES, REGION_BLOCKS, SECTOR_SIZE};
use std::fmt;

/// Byte position within a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteOffset(pub u64);

/// Index of a 4 KiB block within a volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BlockIndex(pub u64);

/// Number of 4 KiB blocks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BlockCount(pub u64);

/// Index of a 64 KiB region within a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RegionIndex(pub u64);

impl fmt::Debug for BlockIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b{}", self.0)
    }
}

impl fmt::Debug for BlockCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}b", self.0)
    }
}

impl BlockIndex {
    /// Where the block starts.
    #[must_use]
    pub const fn offset(self) -> ByteOffset {
        ByteOffset(self.0.checked_mul(BLOCK_SIZE as u64).expect("a volume is smaller than 2^64 bytes"))
    }

    /// The region that holds the block.
    #[must_use]
    pub const fn region(self) -> RegionIndex {
        RegionIndex(self.0 / REGION_BLOCKS)
    }
}

impl BlockCount {
    /// The same in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0.checked_mul(BLOCK_SIZE as u64).expect("a volume is smaller than 2^64 bytes")
    }
}

/// A run of blocks: `[start, start + count)`. May be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BlockRange {
    /// First block.
    pub start: BlockIndex,
    /// How many.
    pub count: BlockCount,
}

impl BlockRange {
    /// `[start, start + count)`; panics where the end would not fit in 64 bits.
    #[must_use]
    pub const fn new(start: u64, count: u64) -> BlockRange {
        assert!(start.checked_add(count).is_some(), "the end of a block range fits in 64 bits");
        BlockRange { start: BlockIndex(start), count: BlockCount(count) }
    }

    /// The blocks that `[offset, offset + len)` touches.
    #[must_use]
    pub const fn covering(offset: ByteOffset, len: u64) -> BlockRange {
        let block = BLOCK_SIZE as u64;
        let end = offset.0.checked_add(len).expect("the end of a byte range fits in 64 bits");
        let first = offset.0 / block;
        BlockRange::new(first, if len == 0 { 0 } else { end.div_ceil(block) - first })
    }

    /// One past the last block.
    #[must_use]
    pub const fn end(self) -> BlockIndex {
        BlockIndex(self.start.0 + self.count.0)
    }

    /// Whether the range has no block.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.count.0 == 0
    }

    /// Whether the two share a block.
    #[must_use]
    pub const fn overlaps(self, other: BlockRange) -> bool {
        !self.is_empty() && !other.is_empty() && self.start.0 < other.end().0 && other.start.0 < self.end().0
    }

    /// Whether `block` lies in the range.
    #[must_use]
    pub const fn contains(self, block: BlockIndex) -> bool {
        self.start.0 <= block.0 && block.0 < self.end().0
    }

    /// The blocks, in order.
    pub fn iter(self) -> impl Iterator<Item = BlockIndex> {
        (self.start.0..self.end().0).map(BlockIndex)
    }
}

/// Size of a volume in bytes: a multiple of 512, at least one sector, at most 64 TiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeSize(u64);

/// Why a number is no volume size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeSizeError {
    /// Zero bytes.
    Zero,
    /// Not a multiple of 512; carries the number found.
    Unaligned(u64),
    /// Above 64 TiB; carries the number found.
    TooLarge(u64),
}

impl fmt::Display for VolumeSizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VolumeSizeError::Zero => write!(f, "a volume needs at least 512 bytes, found 0"),
            VolumeSizeError::Unaligned(n) => {
                write!(
                    f,
                    "a volume's size is a multiple of 512 bytes, found {n}; round it to {}",
                    n.div_ceil(512) * 512
                )
            }
            VolumeSizeError::TooLarge(n) => {
                write!(f, "a volume has at most {MAX_VOLUME_BYTES} bytes (64 TiB), found {n}")
            }
        }
    }
}

impl std::error::Error for VolumeSizeError {}

impl VolumeSize {
    /// Checks a number of bytes.
    ///
    /// # Errors
    /// Zero, not a multiple of 512, or above 64 TiB.
    pub const fn new(bytes: u64) -> Result<VolumeSize, VolumeSizeError> {
        match bytes {
            0 => Err(VolumeSizeError::Zero),
            n if n > MAX_VOLUME_BYTES => Err(VolumeSizeError::TooLarge(n)),
            n if !n.is_multiple_of(SECTOR_SIZE as u64) => Err(VolumeSizeError::Unaligned(n)),
            n => Ok(VolumeSize(n)),
        }
    }

    /// Bytes the guest sees.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Blocks of the image; the last one may reach past the guest's end.
    #[must_use]
    pub const fn blocks(self) -> BlockCount {
        BlockCount(self.0.div_ceil(BLOCK_SIZE as u64))
    }

    /// Regions of the image; the last one may be partial.
    #[must_use]
    pub const fn regions(self) -> u64 {
        self.blocks().0.div_ceil(REGION_BLOCKS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covering_rounds_outwards() {
        assert_eq!(BlockRange::covering(ByteOffset(0), 0), BlockRange::new(0, 0));
        assert_eq!(BlockRange::covering(ByteOffset(1), 1), BlockRange::new(0, 1));
        assert_eq!(BlockRange::covering(ByteOffset(4095), 2), BlockRange::new(0, 2));
        assert_eq!(BlockRange::covering(ByteOffset(4096), 8192), BlockRange::new(1, 2));
    }

    #[test]
    fn overlap_is_symmetric_and_empty_ranges_touch_nothing() {
        let a = BlockRange::new(2, 3);
        assert!(a.overlaps(BlockRange::new(4, 1)) && BlockRange::new(4, 1).overlaps(a));
        assert!(!a.overlaps(BlockRange::new(5, 1)));
        assert!(!a.overlaps(BlockRange::new(3, 0)));
    }

    #[test]
    fn sizes_are_checked() {
        assert_eq!(VolumeSize::new(0), Err(VolumeSizeError::Zero));
        assert_eq!(VolumeSize::new(513), Err(VolumeSizeError::Unaligned(513)));
        assert!(VolumeSize::new(MAX_VOLUME_BYTES).is_ok());
        assert!(VolumeSize::new(MAX_VOLUME_BYTES + 512).is_err());
        assert_eq!(VolumeSize::new(512).map(|s| s.blocks()), Ok(BlockCount(1)));
    }
}
