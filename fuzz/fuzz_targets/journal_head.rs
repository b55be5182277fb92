//! Any bytes are judged, and a head that is valid is what would be encoded.
#![no_main]

use holdfast_format::{JournalHead, JournalHeadFound};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let JournalHeadFound::Valid(head) = JournalHead::judge(bytes) {
        assert_eq!(JournalHead::judge(&head.encode()), JournalHeadFound::Valid(head));
    }
});
