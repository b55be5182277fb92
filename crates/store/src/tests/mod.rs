//! Tests of the whole store, on a disk in memory.

mod basic;
mod disk;
mod faults;
mod harness;
mod hold;
mod journal;
mod large;
mod leaving;
mod orphans;
mod pace;
mod random;
mod resize;
mod resync;
mod rot;
mod rounds;
