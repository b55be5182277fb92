//! The head of a journal (docs/FORMAT.md, "Journal head"): which generation was opened last.
//!
//! A segment that is gone, or whose header can't be read, would otherwise look like one that never was, and with it the
//! newest acknowledged records.

use bytes::{Bytes, BytesMut};

/// What the file `head` of a journal says, in two copies, each in a sector of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalHead {
    /// Random id of the journal.
    pub journal: u64,
    /// The segment of this generation has a durable header, and no frame of a later one was written.
    pub generation: u64,
}

/// What was found where a head should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalHeadFound {
    /// The newest of the copies that can be read.
    Valid(JournalHead),
    /// The file was made, and no segment was opened yet.
    Empty,
    /// No copy can be read.
    Damaged,
}

impl JournalHead {
    /// Bytes of the file.
    pub const LEN: usize = 2 * Self::COPY;

    /// One sector: a device writes it whole or not at all.
    const COPY: usize = 512;
    const MAGIC: u32 = u32::from_le_bytes(*b"HFJH");
    const VERSION: u32 = 1;
    const USED: usize = 28;

    /// The bytes of both copies.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut b = BytesMut::zeroed(Self::LEN);
        b[..4].copy_from_slice(&Self::MAGIC.to_le_bytes());
        b[4..8].copy_from_slice(&Self::VERSION.to_le_bytes());
        b[8..16].copy_from_slice(&self.journal.to_le_bytes());
        b[16..24].copy_from_slice(&self.generation.to_le_bytes());
        let crc = crc32fast::hash(&b[..24]);
        b[24..Self::USED].copy_from_slice(&crc.to_le_bytes());
        b.copy_within(..Self::COPY, Self::COPY);
        b.freeze()
    }

    /// Reads the file.
    #[must_use]
    pub fn judge(bytes: &[u8]) -> JournalHeadFound {
        let copies = bytes.chunks_exact(Self::COPY).take(2).filter_map(Self::decode_copy);
        match copies.max_by_key(|head| head.generation) {
            Some(head) => JournalHeadFound::Valid(head),
            None if bytes.iter().all(|b| *b == 0) => JournalHeadFound::Empty,
            None => JournalHeadFound::Damaged,
        }
    }

    /// Which of the two copies are as written.
    #[must_use]
    pub fn copies_good(bytes: &[u8]) -> [bool; 2] {
        let copy = |i: usize| bytes.get(i * Self::COPY..(i + 1) * Self::COPY);
        [0, 1].map(|i| copy(i).and_then(Self::decode_copy).is_some())
    }

    fn decode_copy(b: &[u8]) -> Option<JournalHead> {
        let u64_at = |at: usize| u64::from_le_bytes(b[at..at + 8].try_into().expect("eight bytes"));
        let sound = u64_at(0) == u64::from(Self::MAGIC) | u64::from(Self::VERSION) << 32
            && b[24..Self::USED] == crc32fast::hash(&b[..24]).to_le_bytes()
            && b[Self::USED..].iter().all(|x| *x == 0);
        sound.then(|| JournalHead { journal: u64_at(8), generation: u64_at(16) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;

    #[test]
    fn either_copy_will_do_and_two_damaged_ones_are_seen() {
        let head = JournalHead { journal: 0xFEDC_BA98_7654_3210, generation: 9 };
        let bytes = head.encode();
        golden::check("journal_head", &bytes);
        assert_eq!(JournalHead::judge(&bytes), JournalHeadFound::Valid(head));
        for i in 0..512 {
            let mut bad = bytes.to_vec();
            bad[i] ^= 4;
            assert_eq!(JournalHead::judge(&bad), JournalHeadFound::Valid(head));
            bad[512 + i] ^= 4;
            assert_eq!(JournalHead::judge(&bad), JournalHeadFound::Damaged);
        }
        let older = JournalHead { generation: 8, ..head }.encode();
        let torn = [&bytes[..512], &older[512..]].concat();
        assert_eq!(JournalHead::judge(&torn), JournalHeadFound::Valid(head));
        assert_eq!(JournalHead::judge(&[0; 1024]), JournalHeadFound::Empty);
        assert_eq!(JournalHead::judge(&[]), JournalHeadFound::Empty);
    }
}
