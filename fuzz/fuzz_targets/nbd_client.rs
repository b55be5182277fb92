//! The NBD client against any server.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| holdfast_nbd::fuzz_client(bytes));
