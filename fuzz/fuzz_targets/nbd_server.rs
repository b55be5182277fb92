//! The NBD server against any client.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| holdfast_nbd::fuzz_server(bytes));
