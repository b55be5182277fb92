//! Whatever decodes is exactly what would be encoded. Checksums of heads are repaired first, or no input would get past it.
#![no_main]

use bytes::Bytes;
use holdfast_format::message::Message;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    check(&holdfast_fuzz::fitting_message(bytes));
});

fn check(bytes: &[u8]) {
    if let Ok(message) = Message::decode(Bytes::copy_from_slice(bytes)) {
        assert_eq!(message.encode().concat(), bytes);
    }
}
