//! A member gone bad speaks to a node of the control plane.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| holdfast_consensus::fuzz_member(bytes));
