//! A superblock that decodes is exactly what would be encoded, and any four copies are judged.
#![no_main]

use holdfast_format::{Superblock, SuperblockFound};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    check(&holdfast_fuzz::with_fitting_crc(bytes));
});

fn check(bytes: &[u8]) {
    if let Some(superblock) = Superblock::decode(bytes) {
        assert_eq!(superblock.encode(), bytes);
        let file = bytes.repeat(Superblock::COPIES);
        assert_eq!(Superblock::judge(&file), SuperblockFound::Valid(Box::new(superblock), [true; 4]));
    }
    let _ = Superblock::judge(bytes);
}
