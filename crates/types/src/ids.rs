//! Names of things: nodes, volumes, positions in a log, reigns.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl $name {
            /// The number itself, for formats and messages.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id!(
    /// A host with an agent; also its id in the Raft group. Never 0, never reused.
    NodeId, "n");
id!(
    /// A virtual disk. Allocated by the control plane, never reused within a cluster.
    VolumeId, "v");
id!(
    /// Position in a volume's log. Dense: the record after `n` is `n + 1`. 0 is the empty log.
    Lsn, "");
id!(
    /// Number of a reign. Raised only through Raft; one primary per epoch. 0 is "before the first reign".
    Epoch, "e");
id!(
    /// One connection of a guest to an agent.
    SessionId, "s");
id!(
    /// One request within a session.
    RequestId, "r");

/// Random id of one on-disk state of a copy. A wiped or replaced disk gets a new one (S20).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Incarnation(pub u64);

/// Random id of a cluster, made by `holdfast init`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClusterId(pub u64);

macro_rules! hex_id {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}
hex_id!(Incarnation);
hex_id!(ClusterId);

impl Lsn {
    /// The position before the first record.
    pub const ZERO: Lsn = Lsn(0);

    /// The next position.
    #[must_use]
    pub const fn next(self) -> Lsn {
        Lsn(self.0.checked_add(1).expect("2^64 records are never written"))
    }

    /// The position before; `ZERO` stays `ZERO`.
    #[must_use]
    pub const fn prev(self) -> Lsn {
        Lsn(self.0.saturating_sub(1))
    }
}

impl Epoch {
    /// Before the first reign: no record carries it.
    pub const ZERO: Epoch = Epoch(0);

    /// The next reign.
    #[must_use]
    pub const fn next(self) -> Epoch {
        Epoch(self.0.checked_add(1).expect("2^64 epochs never pass"))
    }
}
