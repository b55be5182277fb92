//! The header of a journal segment (docs/FORMAT.md, "Journal segment").
//!
//! It fixes two things for ever. Which older segments are still part of the journal: a segment file that the newest
//! header does not list is free, whatever it holds. And where each of them ends: frames behind that end are never valid
//! again, however well they check (traps 13 and 14).

use bytes::{Bytes, BytesMut};

/// An older segment that is still part of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosedSegment {
    /// Its generation.
    pub generation: u64,
    /// Its last frame. Of an earlier life than the header that says so: everything up to here was on stable storage.
    pub end: u64,
}

/// Header of a journal segment: the first 4096 bytes of the file, as two equal copies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Random id of the journal.
    pub journal: u64,
    /// Counts the uses of segment files; dense, increasing.
    pub generation: u64,
    /// Which start of the store uses it. Every life starts in a fresh segment.
    pub life: u64,
    /// Its first frame.
    pub first_seq: u64,
    /// Length of its file. A shorter file was cut, and acknowledged records with it.
    pub bytes: u64,
    /// Which file it is in. A header that a device put into another file would hide the frames behind its own place.
    pub slot: u32,
    /// Every other segment that is part of the journal, oldest first.
    pub closed: Vec<ClosedSegment>,
}

impl SegmentHeader {
    /// Encoded length in bytes; frames start here.
    pub const LEN: usize = 4096;
    /// Most entries of `closed`.
    pub const MAX_CLOSED: usize = 120;
    /// The version that this code writes and reads.
    pub const VERSION: u16 = 1;

    const COPY: usize = Self::LEN / 2;
    const LIST: usize = 64;
    const MAGIC: u32 = u32::from_le_bytes(*b"HFSG");

    /// The header's bytes.
    ///
    /// Panics if `closed` is too long: the store bounds its segments.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let count = self.closed.len();
        assert!(count <= Self::MAX_CLOSED, "a journal has at most {} segments, found {count}", Self::MAX_CLOSED);
        let mut b = BytesMut::zeroed(Self::LEN);
        let mut put = |at: usize, bytes: &[u8]| b[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &Self::MAGIC.to_le_bytes());
        put(4, &Self::VERSION.to_le_bytes());
        put(6, &u16::try_from(count).expect("at most 120 segments").to_le_bytes());
        put(8, &self.journal.to_le_bytes());
        put(16, &self.generation.to_le_bytes());
        put(24, &self.life.to_le_bytes());
        put(32, &self.first_seq.to_le_bytes());
        put(40, &self.bytes.to_le_bytes());
        put(48, &self.slot.to_le_bytes());
        for (i, closed) in self.closed.iter().enumerate() {
            put(Self::LIST + i * 16, &closed.generation.to_le_bytes());
            put(Self::LIST + i * 16 + 8, &closed.end.to_le_bytes());
        }
        let crc = crc32fast::hash(&b[..Self::COPY - 4]);
        b[Self::COPY - 4..Self::COPY].copy_from_slice(&crc.to_le_bytes());
        b.copy_within(..Self::COPY, Self::COPY);
        b.freeze()
    }

    /// Reads a header from the first 4096 bytes of `bytes`: from either copy. `None` if neither is as written.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<SegmentHeader> {
        let b = bytes.get(..Self::LEN)?;
        Self::decode_copy(&b[..Self::COPY]).or_else(|| Self::decode_copy(&b[Self::COPY..]))
    }

    /// The version that the bytes say they have, if they are a segment's header at all.
    #[must_use]
    pub fn version(bytes: &[u8]) -> Option<u16> {
        (bytes.get(..4)? == Self::MAGIC.to_le_bytes()).then_some(())?;
        Some(u16::from_le_bytes(bytes.get(4..6)?.try_into().expect("two bytes")))
    }

    /// Which of the two copies are as written.
    #[must_use]
    pub fn copies_good(bytes: &[u8]) -> [bool; 2] {
        let copy = |i: usize| bytes.get(i * Self::COPY..(i + 1) * Self::COPY);
        [0, 1].map(|i| copy(i).and_then(Self::decode_copy).is_some())
    }

    fn decode_copy(b: &[u8]) -> Option<SegmentHeader> {
        let u64_at = |at: usize| u64::from_le_bytes(b[at..at + 8].try_into().expect("eight bytes"));
        let crc = u32::from_le_bytes(b[Self::COPY - 4..].try_into().expect("four bytes"));
        let count = usize::from(u16::from_le_bytes([b[6], b[7]]));
        if b[..4] != Self::MAGIC.to_le_bytes() || crc != crc32fast::hash(&b[..Self::COPY - 4]) {
            return None;
        }
        let list_end = Self::LIST + count * 16;
        if b[4..6] != Self::VERSION.to_le_bytes() || count > Self::MAX_CLOSED {
            return None;
        }
        if b[52..Self::LIST].iter().chain(&b[list_end..Self::COPY - 4]).any(|&x| x != 0) {
            return None;
        }
        let entry =
            |i: usize| ClosedSegment { generation: u64_at(Self::LIST + i * 16), end: u64_at(Self::LIST + i * 16 + 8) };
        let closed: Vec<_> = (0..count).map(entry).collect();
        let header = SegmentHeader {
            journal: u64_at(8),
            generation: u64_at(16),
            life: u64_at(24),
            first_seq: u64_at(32),
            bytes: u64_at(40),
            slot: u32::from_le_bytes(b[48..52].try_into().expect("four bytes")),
            closed,
        };
        header.is_consistent().then_some(header)
    }

    fn is_consistent(&self) -> bool {
        let increasing = self.closed.windows(2).all(|w| w[0].generation < w[1].generation);
        increasing && self.closed.last().is_none_or(|c| c.generation < self.generation) && self.first_seq > 0
    }
}

const _: () = assert!(SegmentHeader::LIST + SegmentHeader::MAX_CLOSED * 16 <= SegmentHeader::COPY - 4);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;

    fn header() -> SegmentHeader {
        let closed = vec![ClosedSegment { generation: 4, end: 99 }, ClosedSegment { generation: 8, end: 0x1234 }];
        SegmentHeader {
            journal: 0xFEDC_BA98_7654_3210,
            generation: 9,
            life: 3,
            first_seq: 0x1235,
            bytes: 16 << 20,
            slot: 5,
            closed,
        }
    }

    #[test]
    fn round_trip_and_golden() {
        let bytes = header().encode();
        assert_eq!(SegmentHeader::decode(&bytes), Some(header()));
        golden::check("segment_header", &bytes);
        let full = SegmentHeader {
            generation: 1000,
            closed: (0..120).map(|i| ClosedSegment { generation: i, end: i }).collect(),
            ..header()
        };
        assert_eq!(SegmentHeader::decode(&full.encode()), Some(full));
    }

    #[test]
    fn one_damaged_copy_does_no_harm_and_two_are_seen() {
        let bytes = header().encode();
        for byte in 0..SegmentHeader::COPY {
            let mut bad = bytes.to_vec();
            bad[byte] ^= 0x40;
            assert_eq!(SegmentHeader::decode(&bad), Some(header()));
            bad[SegmentHeader::COPY + byte] ^= 0x40;
            assert_eq!(SegmentHeader::decode(&bad), None);
        }
        assert_eq!(SegmentHeader::decode(&[0; 4096]), None);
        assert_eq!(SegmentHeader::decode(&[]), None);
    }

    #[test]
    fn a_list_that_makes_no_sense_is_refused() {
        let mut h = header();
        h.closed.reverse();
        assert_eq!(SegmentHeader::decode(&h.encode()), None);
        let own = SegmentHeader { closed: vec![ClosedSegment { generation: 9, end: 1 }], ..header() };
        assert_eq!(SegmentHeader::decode(&own.encode()), None);
    }
}
