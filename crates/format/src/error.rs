//! Why bytes are not what they should be.

/// Why a decoder refused its input. The bytes came from a peer or a disk; nothing of them was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The input ends too early.
    #[error("{what}: expected {needed} bytes more, found {found}; the sender or the file is cut short")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Bytes that the next part takes.
        needed: u64,
        /// Bytes that were left.
        found: u64,
    },
    /// The input goes on after its end.
    #[error("{what}: expected its end, found {extra} bytes more; sender and receiver disagree about its layout")]
    Trailing {
        /// What was being read.
        what: &'static str,
        /// Bytes after the end.
        extra: u64,
    },
    /// The input is something else.
    #[error("{what}: expected its magic number, found {found:#010x}; these bytes are of another kind")]
    Magic {
        /// What was being read.
        what: &'static str,
        /// The number found.
        found: u32,
    },
    /// A version that this build does not speak (trap 36: it never guesses).
    #[error("{what}: expected version {expected}, found {found}; run the same release on both sides")]
    Version {
        /// What was being read.
        what: &'static str,
        /// The version of this build.
        expected: u16,
        /// The version found.
        found: u16,
    },
    /// The checksum does not match.
    #[error("{what}: its checksum does not match; the bytes were damaged, ask the sender again")]
    Checksum {
        /// What was being read.
        what: &'static str,
    },
    /// The checksum matches, and yet a field has a value that no encoder writes.
    #[error("{what}: {field} has a value that is never written; sender and receiver disagree about its layout")]
    Field {
        /// What was being read.
        what: &'static str,
        /// The field.
        field: &'static str,
    },
    /// A record whose header or body is damaged.
    #[error("record {index} of a message: its header or its body does not verify; ask the sender again")]
    Record {
        /// Position within the message, from 0.
        index: u64,
    },
}
