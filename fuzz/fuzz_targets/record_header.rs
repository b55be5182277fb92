//! Whatever decodes is exactly what would be encoded. The CRC is repaired first, or no input would get past it.
#![no_main]

use holdfast_format::RecordHeader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    check(&holdfast_fuzz::with_fitting_crc(bytes));
});

fn check(bytes: &[u8]) {
    if let Some(header) = RecordHeader::decode(bytes) {
        assert_eq!(header.encode(), bytes);
    }
}
