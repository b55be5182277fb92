//! What a member gone bad says to another one's control plane, outside of Raft: heartbeats, commands, introductions.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| holdfast_node::control::fuzz_control(bytes));
