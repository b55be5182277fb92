//! The record: one change of a volume. One header serves wire and journal, so a secondary journals the bytes it received.

use crate::checksum::{ALLOCATED_ZEROS, block_checksum, body_checksum, chain_hash, opaque_checksum};
use bytes::Bytes;
use holdfast_types::{
    BLOCK_SIZE, BlockCount, BlockIndex, BlockRange, Epoch, Lsn, MAX_BODY_BYTES, MAX_RANGE_BLOCKS, MAX_VOLUME_BYTES,
    Mutant, Resized, VolumeId, VolumeSize, mutated,
};
use std::sync::Arc;

/// Bytes of the body of a resize: the number of the decision.
const RESIZE_BODY: usize = 8;

/// What a record does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RecordKind {
    /// Replaces the blocks of `range` by the body.
    Write = 1,
    /// Zeroes `range`, except that its first and/or last block may come from the body (an unaligned request): then
    /// `head` / `tail` is set, and the body holds those one or two blocks. Space is kept.
    WriteZeroes = 2,
    /// As `WriteZeroes`, and the space is given back.
    Discard = 3,
    /// The first record of an epoch. The body is the encoded configuration.
    EpochStart = 4,
    /// The volume has another size. `range` starts at its new end and covers what is cut off, which is discarded; it has no
    /// blocks if nothing is. The body is the number of the decision.
    Resize = 5,
}

/// Header of a record, 128 bytes in journal and wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// The volume whose log this is.
    pub volume: VolumeId,
    /// The reign that wrote it.
    pub epoch: Epoch,
    /// Its position.
    pub lsn: Lsn,
    /// Hash of the header at `lsn - 1`; 0 at LSN 1.
    pub prev_hash: u64,
    /// What the primary knew to be committed when it wrote this.
    pub committed: Lsn,
    /// What it does.
    pub kind: RecordKind,
    /// The body holds the first block of `range` (`WriteZeroes`, `Discard` only).
    pub head: bool,
    /// The body holds the last block of `range` (`WriteZeroes`, `Discard` only).
    pub tail: bool,
    /// The blocks it changes; empty for `EpochStart`. Of any length for `Resize`.
    pub range: BlockRange,
    /// Bytes of the body. A multiple of 4096, but for `EpochStart` and `Resize`.
    pub body_len: u32,
    /// Checksum of the body, bound to volume, address and LSN.
    pub body_checksum: u64,
}

/// A record with its body, immutable and cheap to clone.
#[derive(Clone, Debug)]
pub struct Record {
    header: RecordHeader,
    hash: u64,
    body: Bytes,
    /// Checksum of each 4 KiB block of the body, in order; empty for `EpochStart` and `Resize`.
    block_sums: Arc<[u64]>,
}

/// What a primary decides about a record; `Record::seal` adds what follows from it.
#[derive(Clone, Debug)]
pub struct Draft {
    /// See `RecordHeader`.
    pub volume: VolumeId,
    /// See `RecordHeader`.
    pub epoch: Epoch,
    /// See `RecordHeader`.
    pub lsn: Lsn,
    /// See `RecordHeader`.
    pub prev_hash: u64,
    /// See `RecordHeader`.
    pub committed: Lsn,
    /// See `RecordHeader`.
    pub kind: RecordKind,
    /// See `RecordHeader`.
    pub head: bool,
    /// See `RecordHeader`.
    pub tail: bool,
    /// See `RecordHeader`.
    pub range: BlockRange,
    /// The body, a private copy of the guest's data (trap 19).
    pub body: Bytes,
}

impl Record {
    /// Completes a draft: checksums, header, hash.
    ///
    /// Panics if the body does not fit what the draft says; the caller has validated the request.
    #[must_use]
    pub fn seal(draft: Draft) -> Record {
        let Draft { volume, epoch, lsn, prev_hash, committed, kind, head, tail, range, body } = draft;
        assert!(lsn > Lsn::ZERO && epoch > Epoch::ZERO && committed < lsn, "a record continues a log: {epoch} {lsn}");
        let body_len = u32::try_from(body.len()).expect("a body has at most 1 MiB and a block");
        let mut header = RecordHeader {
            volume,
            epoch,
            lsn,
            prev_hash,
            committed,
            kind,
            head,
            tail,
            range,
            body_len,
            body_checksum: 0,
        };
        assert!(header.is_consistent(), "the primary drafts only records that make sense: {header:?}");
        let block_sums = header.block_sums(&body);
        header.body_checksum = header.checksum_of(&body, &block_sums);
        Record { header, hash: chain_hash(&header.encode()), body, block_sums }
    }

    /// Takes a decoded header and the body found with it. `None` if the body is not the one that was sealed.
    #[must_use]
    pub fn verify(header: RecordHeader, body: Bytes) -> Option<Record> {
        if !header.is_consistent() || body.len() != usize::try_from(header.body_len).ok()? {
            return None;
        }
        let block_sums = header.block_sums(&body);
        if header.checksum_of(&body, &block_sums) != header.body_checksum && !mutated(Mutant::BodyNotVerified) {
            return None;
        }
        Some(Record { header, hash: chain_hash(&header.encode()), body, block_sums })
    }

    /// The header.
    #[must_use]
    pub const fn header(&self) -> &RecordHeader {
        &self.header
    }

    /// Position in the log.
    #[must_use]
    pub const fn lsn(&self) -> Lsn {
        self.header.lsn
    }

    /// The reign that wrote it.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.header.epoch
    }

    /// Hash of the header: the next record's `prev_hash`.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// The body.
    #[must_use]
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// Bytes that the record takes on the wire and, but for padding, in the journal.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        RecordHeader::LEN + self.body.len()
    }

    /// The new content of `block` with its checksum: `Some((data, sum))`, or `None` where it becomes zeros.
    ///
    /// Panics if the record does not change `block`.
    #[must_use]
    pub fn block(&self, block: BlockIndex) -> Option<(Bytes, u64)> {
        let h = &self.header;
        assert!(h.range.contains(block), "block {block:?} is not in {:?}", h.range);
        let last = BlockIndex(h.range.end().0 - 1);
        let slot = match h.kind {
            RecordKind::Write => block.0 - h.range.start.0,
            _ if h.head && block == h.range.start => 0,
            _ if h.tail && block == last => u64::from(h.head),
            _ => return None,
        };
        let slot = usize::try_from(slot).expect("a slot lies in a body of about 1 MiB");
        Some((self.body.slice(slot * BLOCK_SIZE..(slot + 1) * BLOCK_SIZE), self.block_sums[slot]))
    }

    /// The size that the volume has from this record on, if it changes it.
    #[must_use]
    pub fn resized(&self) -> Option<Resized> {
        if self.header.kind != RecordKind::Resize {
            return None;
        }
        let size = VolumeSize::new(BlockCount(self.header.range.start.0).bytes()).expect("a record's range is checked");
        let decision = u64::from_le_bytes(self.body[..].try_into().expect("a body of eight bytes is checked"));
        Some(Resized { lsn: self.header.lsn, size, decision })
    }

    /// The body of a resize by this decision.
    #[must_use]
    pub fn resize_body(decision: u64) -> Bytes {
        Bytes::copy_from_slice(&decision.to_le_bytes())
    }

    /// What the block table says of `block` after this record.
    ///
    /// Panics if the record does not change `block`.
    #[must_use]
    pub fn block_sum(&self, block: BlockIndex) -> u64 {
        let zeros = if self.header.kind == RecordKind::WriteZeroes { ALLOCATED_ZEROS } else { 0 };
        self.block(block).map_or(zeros, |(_, sum)| sum)
    }
}

impl RecordHeader {
    /// Encoded length in bytes.
    pub const LEN: usize = 128;

    const MAGIC: u32 = u32::from_le_bytes(*b"HFRC");
    const VERSION: u16 = 1;

    /// The header's bytes (docs/FORMAT.md, "Record header"); the last four are CRC-32 of the others.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut b = [0; Self::LEN];
        let mut put = |at: usize, bytes: &[u8]| b[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &Self::MAGIC.to_le_bytes());
        put(4, &Self::VERSION.to_le_bytes());
        put(6, &[self.kind as u8, u8::from(self.head) | u8::from(self.tail) << 1]);
        put(8, &self.volume.0.to_le_bytes());
        put(16, &self.epoch.0.to_le_bytes());
        put(24, &self.lsn.0.to_le_bytes());
        put(32, &self.prev_hash.to_le_bytes());
        put(40, &self.committed.0.to_le_bytes());
        put(48, &self.range.start.0.to_le_bytes());
        put(56, &self.range.count.0.to_le_bytes());
        put(64, &self.body_checksum.to_le_bytes());
        put(72, &self.body_len.to_le_bytes());
        let crc = crc32fast::hash(&b[..Self::LEN - 4]);
        b[Self::LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// Reads a header. `None` for bytes that `encode` did not make: wrong length, magic, version, CRC, kind, or fields
    /// that don't fit together.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<RecordHeader> {
        let b: &[u8; Self::LEN] = bytes.try_into().ok()?;
        let u64_at = |at: usize| u64::from_le_bytes(b[at..at + 8].try_into().expect("eight bytes"));
        let u32_at = |at: usize| u32::from_le_bytes(b[at..at + 4].try_into().expect("four bytes"));
        if u32_at(Self::LEN - 4) != crc32fast::hash(&b[..Self::LEN - 4]) || u32_at(0) != Self::MAGIC {
            return None;
        }
        if b[4..6] != Self::VERSION.to_le_bytes() || b[7] > 3 || b[76..Self::LEN - 4].iter().any(|&x| x != 0) {
            return None;
        }
        let kind = match b[6] {
            1 => RecordKind::Write,
            2 => RecordKind::WriteZeroes,
            3 => RecordKind::Discard,
            4 => RecordKind::EpochStart,
            5 => RecordKind::Resize,
            _ => return None,
        };
        let (start, count) = (u64_at(48), u64_at(56));
        if start.checked_add(count).is_none_or(|end| end > MAX_VOLUME_BYTES / BLOCK_SIZE as u64) {
            return None;
        }
        let header = RecordHeader {
            volume: VolumeId(u64_at(8)),
            epoch: Epoch(u64_at(16)),
            lsn: Lsn(u64_at(24)),
            prev_hash: u64_at(32),
            committed: Lsn(u64_at(40)),
            kind,
            head: b[7] & 1 != 0,
            tail: b[7] & 2 != 0,
            range: BlockRange::new(start, count),
            body_len: u32_at(72),
            body_checksum: u64_at(64),
        };
        header.is_consistent().then_some(header)
    }

    /// Whether the fields fit together (a decoder asks this of hostile bytes).
    #[must_use]
    pub fn is_consistent(&self) -> bool {
        let len = self.body_len as usize;
        let blocks = self.range.count.0;
        if (blocks > MAX_RANGE_BLOCKS && self.kind != RecordKind::Resize)
            || len > MAX_BODY_BYTES
            || self.lsn == Lsn::ZERO
            || self.epoch == Epoch::ZERO
            || self.committed >= self.lsn
        {
            return false;
        }
        let edges = u64::from(self.head) + u64::from(self.tail);
        match self.kind {
            RecordKind::Write => blocks > 0 && !self.head && !self.tail && len as u64 == BlockCount(blocks).bytes(),
            RecordKind::WriteZeroes | RecordKind::Discard => {
                blocks > 0 && blocks >= edges && len as u64 == BlockCount(edges).bytes()
            }
            RecordKind::EpochStart => self.range == BlockRange::default() && edges == 0 && len > 0,
            RecordKind::Resize => self.range.start.0 > 0 && edges == 0 && len == RESIZE_BODY,
        }
    }

    /// Whether the record may follow one that leaves the volume with `size`: it lies within it, or cuts off what lies behind
    /// the new end, no more and no less.
    #[must_use]
    pub fn fits(&self, size: VolumeSize) -> bool {
        let (start, end, blocks) = (self.range.start.0, self.range.end().0, size.blocks().0);
        match self.kind {
            RecordKind::Resize if self.range.is_empty() => start >= blocks,
            RecordKind::Resize => end == blocks,
            _ => end <= blocks,
        }
    }

    fn block_of_slot(&self, slot: u64) -> BlockIndex {
        match self.kind {
            RecordKind::Write => BlockIndex(self.range.start.0 + slot),
            _ if slot == 0 && self.head => self.range.start,
            _ => BlockIndex(self.range.end().0 - 1),
        }
    }

    fn block_sums(&self, body: &[u8]) -> Arc<[u64]> {
        if matches!(self.kind, RecordKind::EpochStart | RecordKind::Resize) {
            return Arc::default();
        }
        (0u64..).zip(body.chunks_exact(BLOCK_SIZE)).map(|(i, b)| block_checksum(self.block_of_slot(i), b)).collect()
    }

    fn checksum_of(&self, body: &[u8], block_sums: &[u64]) -> u64 {
        match self.kind {
            RecordKind::EpochStart | RecordKind::Resize => opaque_checksum(self.volume, self.lsn, body),
            _ => body_checksum(self.volume, self.lsn, self.range.start, block_sums),
        }
    }
}
