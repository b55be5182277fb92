//! The journal frame: one group commit, written in one go (docs/FORMAT.md, "Journal frame").
//!
//! A frame is a *head* (frame header and one 128-byte slot per record or commit mark, padded to a sector) and then the
//! bodies of its records in slot order, each padded to a sector. The header's own CRC guards the header, `slots_sum`
//! all slots together: a torn frame may show slots of an earlier frame at the same place that are valid one by one.
//! `slots_sum` is no CRC: each slot ends in its own CRC-32, and the CRC-32 of such a text is the same for every text.

use crate::RecordHeader;
use crate::checksum::chain_hash;
use bytes::{Bytes, BytesMut};
use holdfast_types::{Lsn, MAX_BODY_BYTES, MAX_FRAME_RECORDS, SECTOR_SIZE, VolumeId};

/// Header of a frame, 128 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Random id of the journal: a guest can't forge a frame inside its data without knowing it.
    pub journal: u64,
    /// Which start of the store wrote it.
    pub life: u64,
    /// Which use of the segment file it belongs to (trap 14).
    pub generation: u64,
    /// Position of the frame; dense within a life.
    pub seq: u64,
    /// Every frame of this life up to here was on stable storage when this one was issued (trap 11).
    pub proven: u64,
    /// Slots in the head.
    pub slots: u16,
    /// Bytes of the frame, with all padding.
    pub total_len: u32,
    /// XXH3 of the encoded slots.
    pub slots_sum: u64,
}

/// "Records of `volume` up to `committed` are committed", without a record. At most what was durable here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitMark {
    /// The volume.
    pub volume: VolumeId,
    /// Up to here.
    pub committed: Lsn,
}

/// One entry of a frame's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameSlot {
    /// A record; its body follows the head.
    Record(RecordHeader),
    /// A commit mark; no body.
    Commit(CommitMark),
}

/// Largest frame that holds more than one record is bounded by the writer; this bounds every frame.
const MAX_FRAME_BYTES: u32 = 4 << 20;
const SECTOR: u32 = 512;
const SLOT: u32 = 128;
const _: () = assert!(SECTOR as usize == SECTOR_SIZE && SLOT as usize == FrameHeader::LEN);
const _: () = assert!(MAX_FRAME_BYTES as usize > MAX_BODY_BYTES + RecordHeader::LEN * (MAX_FRAME_RECORDS + 1));

/// `len` rounded up to whole sectors.
#[must_use]
pub const fn padded(len: u32) -> u32 {
    len.checked_next_multiple_of(SECTOR).expect("lengths within a frame are far below 4 GiB")
}

impl FrameHeader {
    /// Encoded length in bytes.
    pub const LEN: usize = 128;
    /// No frame is longer.
    pub const MAX_BYTES: u32 = MAX_FRAME_BYTES;

    const MAGIC: u32 = u32::from_le_bytes(*b"HFFR");
    const VERSION: u16 = 1;

    /// Bytes of a head with so many slots, padded.
    #[must_use]
    pub const fn head_len(slots: u16) -> u32 {
        padded((1 + slots as u32) * SLOT)
    }

    /// The head's bytes: `self` and `slots`, padded. `self.slots` and `self.slots_sum` are set here.
    ///
    /// Panics if there are too many slots.
    #[must_use]
    pub fn encode_head(mut self, slots: &[FrameSlot]) -> Bytes {
        assert!(
            slots.len() <= MAX_FRAME_RECORDS,
            "a frame has at most {MAX_FRAME_RECORDS} slots, found {}",
            slots.len()
        );
        self.slots = u16::try_from(slots.len()).expect("at most 256 slots");
        let head = usize::try_from(Self::head_len(self.slots)).expect("a head fits in memory");
        assert!(head <= usize::try_from(self.total_len).expect("a frame fits in memory"), "a frame holds its head");
        let mut b = BytesMut::zeroed(head);
        for (i, slot) in slots.iter().enumerate() {
            let at = (i + 1) * Self::LEN;
            b[at..at + Self::LEN].copy_from_slice(&slot.encode());
        }
        self.slots_sum = chain_hash(&b[Self::LEN..(slots.len() + 1) * Self::LEN]);
        b[..Self::LEN].copy_from_slice(&self.encode());
        b.freeze()
    }

    /// The header's bytes; the last four are CRC-32 of the others.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut b = [0; Self::LEN];
        let mut put = |at: usize, bytes: &[u8]| b[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &Self::MAGIC.to_le_bytes());
        put(4, &Self::VERSION.to_le_bytes());
        put(6, &self.slots.to_le_bytes());
        put(8, &self.journal.to_le_bytes());
        put(16, &self.life.to_le_bytes());
        put(24, &self.generation.to_le_bytes());
        put(32, &self.seq.to_le_bytes());
        put(40, &self.proven.to_le_bytes());
        put(48, &self.total_len.to_le_bytes());
        put(56, &self.slots_sum.to_le_bytes());
        let crc = crc32fast::hash(&b[..Self::LEN - 4]);
        b[Self::LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// Reads a header from the first 128 bytes of `bytes`. `None` for bytes that `encode` did not make.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<FrameHeader> {
        let b: &[u8; Self::LEN] = bytes.get(..Self::LEN)?.try_into().ok()?;
        let u64_at = |at: usize| u64::from_le_bytes(b[at..at + 8].try_into().expect("eight bytes"));
        let u32_at = |at: usize| u32::from_le_bytes(b[at..at + 4].try_into().expect("four bytes"));
        // Magic first: recovery asks this of every sector of a damaged segment.
        if u32_at(0) != Self::MAGIC || u32_at(Self::LEN - 4) != crc32fast::hash(&b[..Self::LEN - 4]) {
            return None;
        }
        if b[4..6] != Self::VERSION.to_le_bytes() || b[52..56].iter().chain(&b[64..Self::LEN - 4]).any(|&x| x != 0) {
            return None;
        }
        let header = FrameHeader {
            journal: u64_at(8),
            life: u64_at(16),
            generation: u64_at(24),
            seq: u64_at(32),
            proven: u64_at(40),
            slots: u16::from_le_bytes([b[6], b[7]]),
            total_len: u32_at(48),
            slots_sum: u64_at(56),
        };
        header.is_consistent().then_some(header)
    }

    fn is_consistent(&self) -> bool {
        usize::from(self.slots) <= MAX_FRAME_RECORDS
            && self.proven < self.seq
            && self.total_len <= Self::MAX_BYTES
            && self.total_len.is_multiple_of(SECTOR)
            && self.total_len >= Self::head_len(self.slots)
    }

    /// Reads the slots of a frame whose bytes start with this header. The flag says whether all of them together are as
    /// written; if not, slots that are valid one by one are still given, as evidence.
    #[must_use]
    pub fn slots_of(&self, frame: &[u8]) -> (bool, Vec<Option<FrameSlot>>) {
        let end = (usize::from(self.slots) + 1) * Self::LEN;
        let Some(area) = frame.get(Self::LEN..end) else {
            return (false, vec![None; usize::from(self.slots)]);
        };
        let slots: Vec<_> = area.chunks_exact(Self::LEN).map(FrameSlot::decode).collect();
        let whole = chain_hash(area) == self.slots_sum && slots.iter().all(Option::is_some);
        (whole, slots)
    }
}

impl FrameSlot {
    const MARK_MAGIC: u32 = u32::from_le_bytes(*b"HFCM");
    const MARK_VERSION: u16 = 1;

    /// The slot's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; FrameHeader::LEN] {
        match self {
            FrameSlot::Record(header) => header.encode(),
            FrameSlot::Commit(mark) => {
                let mut b = [0; FrameHeader::LEN];
                b[0..4].copy_from_slice(&Self::MARK_MAGIC.to_le_bytes());
                b[4..6].copy_from_slice(&Self::MARK_VERSION.to_le_bytes());
                b[8..16].copy_from_slice(&mark.volume.0.to_le_bytes());
                b[16..24].copy_from_slice(&mark.committed.0.to_le_bytes());
                let crc = crc32fast::hash(&b[..FrameHeader::LEN - 4]);
                b[FrameHeader::LEN - 4..].copy_from_slice(&crc.to_le_bytes());
                b
            }
        }
    }

    /// Reads a slot. `None` for bytes that `encode` did not make.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<FrameSlot> {
        if let Some(header) = RecordHeader::decode(bytes) {
            return Some(FrameSlot::Record(header));
        }
        let b: &[u8; FrameHeader::LEN] = bytes.try_into().ok()?;
        let u64_at = |at: usize| u64::from_le_bytes(b[at..at + 8].try_into().expect("eight bytes"));
        let crc = u32::from_le_bytes(b[FrameHeader::LEN - 4..].try_into().expect("four bytes"));
        let sound = b[0..4] == Self::MARK_MAGIC.to_le_bytes()
            && b[4..6] == Self::MARK_VERSION.to_le_bytes()
            && b[6..8] == [0, 0]
            && b[24..FrameHeader::LEN - 4].iter().all(|&x| x == 0)
            && crc == crc32fast::hash(&b[..FrameHeader::LEN - 4]);
        sound.then(|| FrameSlot::Commit(CommitMark { volume: VolumeId(u64_at(8)), committed: Lsn(u64_at(16)) }))
    }

    /// Bytes of the body that belongs to the slot, without padding.
    #[must_use]
    pub const fn body_len(&self) -> u32 {
        match self {
            FrameSlot::Record(header) => header.body_len,
            FrameSlot::Commit(_) => 0,
        }
    }
}

const _: () = assert!(FrameHeader::LEN == RecordHeader::LEN);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;
    use crate::{Draft, Record, RecordKind};
    use holdfast_types::{BlockRange, Epoch};

    fn header() -> FrameHeader {
        FrameHeader {
            journal: 0x1122_3344_5566_7788,
            life: 3,
            generation: 9,
            seq: 1000,
            proven: 998,
            slots: 0,
            total_len: 512 + 512,
            slots_sum: 0,
        }
    }

    fn slots() -> Vec<FrameSlot> {
        let record = Record::seal(Draft {
            volume: VolumeId(7),
            epoch: Epoch(2),
            lsn: Lsn(41),
            prev_hash: 0xABCD,
            committed: Lsn(39),
            kind: RecordKind::EpochStart,
            head: false,
            tail: false,
            range: BlockRange::default(),
            body: Bytes::from_static(b"configuration"),
        });
        vec![
            FrameSlot::Record(*record.header()),
            FrameSlot::Commit(CommitMark { volume: VolumeId(8), committed: Lsn(5) }),
        ]
    }

    #[test]
    fn round_trip() {
        let head = header().encode_head(&slots());
        assert_eq!(head.len(), 512);
        let decoded = FrameHeader::decode(&head).expect("a valid header");
        assert_eq!((decoded.seq, decoded.proven, decoded.slots), (1000, 998, 2));
        let (whole, found) = decoded.slots_of(&head);
        assert!(whole);
        assert_eq!(found, slots().into_iter().map(Some).collect::<Vec<_>>());
    }

    #[test]
    fn golden_frame_head() {
        golden::check("frame_head", &header().encode_head(&slots()));
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let head = header().encode_head(&slots());
        for bit in 0..3 * FrameHeader::LEN * 8 {
            let mut bad = head.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            let seen = FrameHeader::decode(&bad).is_none_or(|h| !h.slots_of(&bad).0);
            assert!(seen, "bit {bit} of the head was flipped and nothing noticed");
        }
    }

    #[test]
    fn valid_slots_of_another_frame_are_not_this_frames() {
        // A torn head: header sector new, slots of an older frame at the same place.
        let new = header().encode_head(&slots());
        let mut old_slots = slots();
        old_slots[1] = FrameSlot::Commit(CommitMark { volume: VolumeId(8), committed: Lsn(4) });
        let mut torn = header().encode_head(&old_slots).to_vec();
        torn[..FrameHeader::LEN].copy_from_slice(&new[..FrameHeader::LEN]);
        let decoded = FrameHeader::decode(&torn).expect("a valid header");
        let (whole, found) = decoded.slots_of(&torn);
        assert!(!whole && found.iter().all(Option::is_some));
    }

    #[test]
    fn hostile_lengths_are_refused() {
        for (slots, total) in [(300, 4096 * 10), (200, 512), (1, 700), (1, FrameHeader::MAX_BYTES + 512)] {
            let h = FrameHeader { slots, total_len: total, ..header() };
            assert_eq!(FrameHeader::decode(&h.encode()), None, "{slots} slots in {total} bytes");
        }
        assert_eq!(FrameHeader::decode(&FrameHeader { proven: 1000, ..header() }.encode()), None);
        assert_eq!(FrameHeader::decode(&[]), None);
    }
}
