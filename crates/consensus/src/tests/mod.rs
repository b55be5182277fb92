//! The group in a seeded network that delays, loses and repeats messages, with nodes that crash and forget what was
//! not yet durable.

mod guard;
mod net;
mod storm;
