//! Checksums: of blocks (bound to their address), of bodies (bound to volume, address and LSN), and the digest.

use bytes::Bytes;
use holdfast_types::{BLOCK_SIZE, BlockIndex, Lsn, VolumeId};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Spreads an address over 64 bits, so that neighbouring seeds share nothing (the finalizer of SplitMix64).
const fn spread(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Checksum of one 4 KiB block at its address (XXH3, 64 bit). Never 0: in the block table 0 means "a hole, all zeros".
///
/// Panics unless `data` is one block.
#[must_use]
pub fn block_checksum(block: BlockIndex, data: &[u8]) -> u64 {
    assert_eq!(data.len(), BLOCK_SIZE, "a block checksum covers one block");
    xxh3_64_with_seed(data, spread(block.0)).max(2)
}

/// What the block table says of a block that was zeroed and keeps its space (WRITE_ZEROES with NO_HOLE). Nothing has this
/// checksum, and as with a hole nothing is read for it.
pub const ALLOCATED_ZEROS: u64 = 1;

/// What one block adds to the digest of a copy. The digest is the wrapping sum over all blocks; a hole adds 0.
///
/// A sum, so that applying a block costs O(1): subtract the old term, add the new one.
#[must_use]
pub const fn digest_term(block: BlockIndex, checksum: u64) -> u64 {
    if checksum == 0 { 0 } else { spread(spread(block.0) ^ checksum) }
}

/// Checksum of a record's body: of the checksums of its blocks, bound to volume, address and LSN, so that a
/// misplaced or stale body is seen (traps 14 and 17). One pass over the data serves journal, wire and block table.
pub(crate) fn body_checksum(volume: VolumeId, lsn: Lsn, start: BlockIndex, block_sums: &[u64]) -> u64 {
    let seed = spread(spread(spread(volume.0) ^ lsn.0) ^ start.0);
    block_sums.iter().fold(seed, |sum, block| spread(sum ^ block))
}

/// Checksum of a body that holds no blocks (a configuration).
pub(crate) fn opaque_checksum(volume: VolumeId, lsn: Lsn, body: &[u8]) -> u64 {
    xxh3_64_with_seed(body, spread(spread(volume.0) ^ lsn.0))
}

/// Checksum of a page of level 1 to 3 of a table, bound to its place. Never 0: that says that there is no page.
pub(crate) fn table_checksum(blocks: bool, level: u8, index: u64, bytes: &[u8]) -> u64 {
    let table = if blocks { 1 } else { 2 };
    xxh3_64_with_seed(bytes, spread(spread(table << 8 | u64::from(level)) ^ index)).max(1)
}

/// Hash of encoded bytes, as the next record's `prev_hash`.
pub(crate) fn chain_hash(header: &[u8]) -> u64 {
    xxh3_64_with_seed(header, 0x0048_6f6c_6466_6173)
}

/// One block of zeros, shared.
#[must_use]
pub fn zero_block() -> Bytes {
    static ZEROS: [u8; BLOCK_SIZE] = [0; BLOCK_SIZE];
    Bytes::from_static(&ZEROS)
}
