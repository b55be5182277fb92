//! The header of a journal segment: each of its two equal copies decodes to what would be encoded.
#![no_main]

use holdfast_format::SegmentHeader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    check(&holdfast_fuzz::with_fitting_parts(bytes, SegmentHeader::LEN / 2));
});

fn check(bytes: &[u8]) {
    if let Some(header) = SegmentHeader::decode(bytes) {
        assert_eq!(SegmentHeader::decode(&header.encode()), Some(header));
    }
}
