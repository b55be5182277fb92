//! What the sectors of a test write hold: each names itself, so that a misplaced, stale or foreign one is recognised.
//!
//! ```text
//! 0 magic · 8 run · 16 sector · 24 generation · 32 request · 40 checksum · 48 filler derived from all of these
//! ```

use holdfast_types::{Rng, SECTOR_SIZE};
use xxhash_rust::xxh3::xxh3_64_with_seed;

const MAGIC: u64 = u64::from_le_bytes(*b"HFTEST\x01\n");
const CHECKSUM_AT: usize = 40;
const FILLER_AT: usize = 48;

const _: () = assert!(SECTOR_SIZE.is_multiple_of(8) && FILLER_AT < SECTOR_SIZE);

/// Who wrote a sector, which one, and for the how-manieth time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) run: u64,
    pub(super) sector: u64,
    pub(super) generation: u32,
    pub(super) request: u64,
}

/// What a sector turned out to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Zeroes,
    Stamp(Stamp),
    /// Neither, and why.
    Damaged(&'static str),
}

/// Fills one sector.
pub(super) fn fill(stamp: Stamp, out: &mut [u8]) {
    assert_eq!(out.len(), SECTOR_SIZE, "a stamp fills exactly one sector");
    let words = [MAGIC, stamp.run, stamp.sector, u64::from(stamp.generation), stamp.request];
    for (slot, word) in out.chunks_exact_mut(8).zip(words) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    let mut rng = Rng::new(stamp.run ^ stamp.sector.rotate_left(32) ^ u64::from(stamp.generation));
    for slot in out[FILLER_AT..].chunks_exact_mut(8) {
        slot.copy_from_slice(&rng.next_u64().to_le_bytes());
    }
    let checksum = checksum(out);
    out[CHECKSUM_AT..FILLER_AT].copy_from_slice(&checksum.to_le_bytes());
}

/// Recognises one sector.
pub(super) fn recognise(bytes: &[u8]) -> Found {
    assert_eq!(bytes.len(), SECTOR_SIZE, "one sector at a time");
    if bytes.iter().all(|byte| *byte == 0) {
        return Found::Zeroes;
    }
    if word(bytes, 0) != MAGIC {
        return Found::Damaged("bytes that no test write ever held");
    }
    if word(bytes, CHECKSUM_AT) != checksum(bytes) {
        return Found::Damaged("a test sector whose checksum is wrong");
    }
    let Ok(generation) = u32::try_from(word(bytes, 24)) else {
        return Found::Damaged("a test sector of an impossible generation");
    };
    Found::Stamp(Stamp { run: word(bytes, 8), sector: word(bytes, 16), generation, request: word(bytes, 32) })
}

fn checksum(bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(&bytes[FILLER_AT..], xxh3_64_with_seed(&bytes[..CHECKSUM_AT], MAGIC))
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("the offsets of the layout lie within a sector"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { run: 7, sector: 11, generation: 13, request: 17 };

    #[test]
    fn a_sector_names_itself() {
        let mut sector = [0; SECTOR_SIZE];
        assert_eq!(recognise(&sector), Found::Zeroes);
        fill(STAMP, &mut sector);
        assert_eq!(recognise(&sector), Found::Stamp(STAMP));
    }

    #[test]
    fn every_flipped_byte_is_seen() {
        let mut sector = [0; SECTOR_SIZE];
        fill(STAMP, &mut sector);
        for at in 0..SECTOR_SIZE {
            sector[at] ^= 0x10;
            assert!(matches!(recognise(&sector), Found::Damaged(_)), "byte {at}");
            sector[at] ^= 0x10;
        }
    }
}
