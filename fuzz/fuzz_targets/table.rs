//! A page of a table that decodes is exactly what would be encoded.
#![no_main]

use holdfast_format::{decode_page, encode_page};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(page) = decode_page(bytes) {
        assert_eq!(encode_page(&page), bytes);
    }
});
