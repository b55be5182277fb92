//! The head of a journal frame: header and slots that decode are exactly what would be encoded.
#![no_main]

use holdfast_format::{FrameHeader, FrameSlot};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    check(&holdfast_fuzz::with_fitting_parts(bytes, FrameHeader::LEN));
});

fn check(bytes: &[u8]) {
    if let Some(header) = FrameHeader::decode(bytes) {
        assert_eq!(header.encode(), bytes[..FrameHeader::LEN]);
        let (whole, slots) = header.slots_of(bytes);
        assert!(!whole || slots.iter().all(Option::is_some), "a whole frame has all its slots");
    }
    for slot in bytes.chunks_exact(FrameHeader::LEN) {
        if let Some(decoded) = FrameSlot::decode(slot) {
            assert_eq!(decoded.encode(), slot);
        }
    }
}
