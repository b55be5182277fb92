//! Proofs that let code answer only what it may answer.
//!
//! Completing a write takes an `Answerable<Lsn>`; a flush takes a `Quorum<Lsn>`; acknowledging on a secondary takes a
//! `Durable<Lsn>`. Rust can't say "only the crate `store` constructs this" across crates, so `cargo xtask tidy` does:
//! `Durable::attest` is allowed in `store` alone, `Quorum::attest` and `Answerable::attest` in `replication`'s quorum
//! tracker alone.

/// Held on stable storage of this copy. Made by the store alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Durable<T>(T);

/// Held on stable storage of a write quorum. Made by the quorum tracker alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quorum<T>(T);

/// Held by a write quorum in the way that the volume's durability asks for before a write is answered. Made by the quorum
/// tracker alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Answerable<T>(T);

impl<T: Copy> Durable<T> {
    /// Vouches that `value` is on stable storage here. Only the store may call this.
    pub const fn attest(value: T) -> Durable<T> {
        Durable(value)
    }

    /// What is proven.
    pub const fn get(self) -> T {
        self.0
    }
}

impl<T: Copy> Quorum<T> {
    /// Vouches that `value` is on stable storage of a write quorum. Only the quorum tracker may call this.
    pub const fn attest(value: T) -> Quorum<T> {
        Quorum(value)
    }

    /// What is proven.
    pub const fn get(self) -> T {
        self.0
    }
}

impl<T: Copy> Answerable<T> {
    /// Vouches that `value` may be answered. Only the quorum tracker may call this.
    pub const fn attest(value: T) -> Answerable<T> {
        Answerable(value)
    }

    /// What is proven.
    pub const fn get(self) -> T {
        self.0
    }
}
