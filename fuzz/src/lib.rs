//! Repairs checksums of made-up bytes, so that a fuzzer gets past them and reaches the decoders behind.

/// `bytes` with CRC-32 of all others in the last four.
#[must_use]
pub fn with_fitting_crc(bytes: &[u8]) -> Vec<u8> {
    let mut fitting = bytes.to_vec();
    if let Some(end) = fitting.len().checked_sub(4) {
        fit(&mut fitting[..], end);
    }
    fitting
}

/// Each whole part of `len` bytes with a fitting CRC of its own.
#[must_use]
pub fn with_fitting_parts(bytes: &[u8], len: usize) -> Vec<u8> {
    let mut fitting = bytes.to_vec();
    fitting.chunks_exact_mut(len).for_each(|part| fit(part, len - 4));
    fitting
}

/// A message whose record headers and head have fitting CRCs, if it is long enough for those it claims.
#[must_use]
pub fn fitting_message(bytes: &[u8]) -> Vec<u8> {
    const HEADER: usize = 128;
    let mut fitting = bytes.to_vec();
    let number = |at: usize| bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes(b.try_into().expect("four bytes")));
    // Only these kinds hold records; both have two fields.
    if !matches!(bytes.get(6), Some(7 | 9)) {
        return with_fitting_crc(bytes);
    }
    let (start, records) = (16 + 2 * 8, usize::try_from(number(12)).unwrap_or(0));
    let end = start + HEADER * records.min(1 << 20);
    if let Some(headers) = fitting.get_mut(start..end) {
        headers.chunks_exact_mut(HEADER).for_each(|header| fit(header, HEADER - 4));
    }
    if end + 4 <= fitting.len() {
        fit(&mut fitting, end);
    }
    fitting
}

/// Puts CRC-32 of what is before `end` there.
fn fit(bytes: &mut [u8], end: usize) {
    let crc = crc32fast::hash(&bytes[..end]);
    bytes[end..end + 4].copy_from_slice(&crc.to_le_bytes());
}
