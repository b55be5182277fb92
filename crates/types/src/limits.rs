//! Limits of the design. A relation that code relies on is asserted at compile time, here.

/// The unit of records, checksums and the image, in bytes.
pub const BLOCK_SIZE: usize = 4096;
/// The smallest unit a guest addresses, in bytes.
pub const SECTOR_SIZE: usize = 512;
/// Blocks of one region, the unit of the region table and of resync.
pub const REGION_BLOCKS: u64 = 16;
/// Bytes of one region.
pub const REGION_SIZE: u64 = REGION_BLOCKS * BLOCK_SIZE as u64;
/// Largest volume, in bytes.
pub const MAX_VOLUME_BYTES: u64 = 64 << 40;
/// Largest guest payload that one record holds whole, in bytes; also the maximum advertised to guests.
pub const MAX_REQUEST_BYTES: u32 = 1 << 20;
/// Largest body of a record, in blocks: an unaligned request of the largest size touches one block more.
pub const MAX_BODY_BLOCKS: u64 = MAX_REQUEST_BYTES as u64 / BLOCK_SIZE as u64 + 1;
/// Longest range of a record, in blocks: an unaligned request of 4 GiB, the most that a guest can ask for. It bounds what one
/// record changes, and with that the memory and the time of a step.
pub const MAX_RANGE_BLOCKS: u64 = (1 << 20) + 1;
/// Largest body of a record, in bytes.
pub const MAX_BODY_BYTES: usize = 257 * BLOCK_SIZE;
/// Records of one journal frame.
pub const MAX_FRAME_RECORDS: usize = 256;
/// Copies of a volume.
pub const MAX_MEMBERS: usize = 7;
/// At each multiple of this LSN every copy knows the digest of its image. Batches end there, so that a hot block is written to the
/// image once for as many records at most.
pub const PROOF_RECORDS: u64 = 8192;
/// Entries of an epoch table; older ones are dropped once the checkpoint has passed them.
pub const MAX_EPOCH_TABLE: usize = 128;
/// Volumes of a cluster. A node may hold a copy of each.
pub const MAX_VOLUMES: usize = 10_000;
/// Longest name of a node or a volume, in bytes.
pub const MAX_NAME_BYTES: usize = 64;

const _: () = assert!(MAX_BODY_BYTES as u64 == MAX_BODY_BLOCKS * BLOCK_SIZE as u64);
const _: () = assert!(MAX_RANGE_BLOCKS >= MAX_BODY_BLOCKS);
const _: () = assert!(BLOCK_SIZE.is_multiple_of(SECTOR_SIZE));
const _: () = assert!(REGION_SIZE == 64 * 1024);
const _: () = assert!(MAX_VOLUME_BYTES.is_multiple_of(REGION_SIZE));
