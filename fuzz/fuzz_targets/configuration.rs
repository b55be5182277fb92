//! Whatever decodes is exactly what would be encoded, and makes sense. The CRC is repaired first, or no input would get
//! past it.
#![no_main]

use holdfast_format::{decode_configuration, encode_configuration};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    check(&holdfast_fuzz::with_fitting_crc(bytes));
});

fn check(bytes: &[u8]) {
    if let Ok(configuration) = decode_configuration(bytes) {
        assert_eq!(encode_configuration(&configuration), bytes);
    }
}
