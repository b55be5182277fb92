//! Deterministic simulator of whole clusters, and its checkers.
