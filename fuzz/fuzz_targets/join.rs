//! What strangers send to a member, and a stranger to a node that joins: whatever is understood reads the same when it is written again.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| holdfast_agent::fuzz_join(bytes));
