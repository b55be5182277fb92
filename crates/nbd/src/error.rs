//! Errors that travel in replies, and the bound on their texts.

use std::borrow::Cow;
use std::fmt;

use crate::limits::MAX_STRING;

/// The error values of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ErrorCode {
    /// Operation not permitted: a write to a read-only export.
    Perm,
    /// Input/output error.
    Io,
    /// Out of memory.
    NoMemory,
    /// Invalid argument; also stands for values that this crate does not know.
    Invalid,
    /// No space left on device, and writes beyond the end.
    NoSpace,
    /// Value too large.
    Overflow,
    /// Operation not supported (a fast zero that would be slow).
    NotSupported,
    /// The server is shutting down.
    Shutdown,
}

impl ErrorCode {
    /// The value on the wire.
    pub fn value(self) -> u32 {
        match self {
            Self::Perm => 1,
            Self::Io => 5,
            Self::NoMemory => 12,
            Self::Invalid => 22,
            Self::NoSpace => 28,
            Self::Overflow => 75,
            Self::NotSupported => 95,
            Self::Shutdown => 108,
        }
    }

    /// The code of a value on the wire. Unknown values count as [`ErrorCode::Invalid`], as the protocol asks.
    pub fn from_value(value: u32) -> Self {
        match value {
            1 => Self::Perm,
            5 => Self::Io,
            12 => Self::NoMemory,
            28 => Self::NoSpace,
            75 => Self::Overflow,
            95 => Self::NotSupported,
            108 => Self::Shutdown,
            _ => Self::Invalid,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Perm => "EPERM",
            Self::Io => "EIO",
            Self::NoMemory => "ENOMEM",
            Self::Invalid => "EINVAL",
            Self::NoSpace => "ENOSPC",
            Self::Overflow => "EOVERFLOW",
            Self::NotSupported => "ENOTSUP",
            Self::Shutdown => "ESHUTDOWN",
        }
    }
}

/// The failure of one request: a code for the program, a text for the human (sent only in structured replies).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NbdError {
    /// What the client's program sees.
    pub code: ErrorCode,
    /// What the client's operator sees; may be empty.
    pub message: Cow<'static, str>,
}

impl NbdError {
    /// A failure with a text.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<ErrorCode> for NbdError {
    fn from(code: ErrorCode) -> Self {
        Self { code, message: Cow::Borrowed("") }
    }
}

impl fmt::Display for NbdError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.as_ref() {
            "" => formatter.write_str(self.code.name()),
            message => write!(formatter, "{}: {message}", self.code.name()),
        }
    }
}

impl std::error::Error for NbdError {}

/// The longest prefix of `text` that the protocol allows as a string.
pub(crate) fn bounded(text: &str) -> &str {
    let mut end = text.len().min(MAX_STRING);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
