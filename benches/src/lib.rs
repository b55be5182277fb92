//! Holdfast benches.
