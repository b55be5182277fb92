//! What anybody in the network sends to the metrics port.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| holdfast_agent::fuzz_http(bytes));
