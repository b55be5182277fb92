//! Tests of the whole store, on a disk in memory.

mod basic;
mod disk;
mod harness;
mod journal;
mod pace;
mod random;
mod rot;
