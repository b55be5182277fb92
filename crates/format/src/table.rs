//! Pages of the block table and the region table (docs/FORMAT.md, "Tables"): 512 numbers of 64 bits, little endian.

use bytes::{Bytes, BytesMut};

/// Numbers of one table page.
pub const PAGE_ENTRIES: usize = 512;
/// Bytes of one table page.
pub const PAGE_BYTES: usize = PAGE_ENTRIES * 8;

/// The page's bytes.
#[must_use]
pub fn encode_page(entries: &[u64; PAGE_ENTRIES]) -> Bytes {
    let mut b = BytesMut::with_capacity(PAGE_BYTES);
    for entry in entries {
        b.extend_from_slice(&entry.to_le_bytes());
    }
    b.freeze()
}

/// Reads a page. `None` for a page of zeros, which takes no memory, and for bytes that are no page.
#[must_use]
pub fn decode_page(bytes: &[u8]) -> Option<Box<[u64; PAGE_ENTRIES]>> {
    if bytes.len() != PAGE_BYTES || bytes.iter().all(|&b| b == 0) {
        return None;
    }
    let mut entries = Box::new([0; PAGE_ENTRIES]);
    for (entry, b) in entries.iter_mut().zip(bytes.chunks_exact(8)) {
        *entry = u64::from_le_bytes(b.try_into().expect("eight bytes"));
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_back_and_zeros_take_no_memory() {
        let mut page = [0; PAGE_ENTRIES];
        assert!(decode_page(&encode_page(&page)).is_none());
        page[0] = 1;
        page[511] = u64::MAX;
        let bytes = encode_page(&page);
        assert_eq!((bytes[0], bytes[8 * 511]), (1, 255));
        assert_eq!(decode_page(&bytes).as_deref(), Some(&page));
        assert!(decode_page(&bytes[1..]).is_none());
    }
}
