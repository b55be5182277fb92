//! The NBD protocol as a sans-IO state machine, fixed newstyle.
//!
//! Purpose: everything between a socket's bytes and requests that are safe to carry out, for a server
//! ([`Connection`]) and for a client ([`Client`]). The protocol text is `doc/proto.md` of NetworkBlockDevice/nbd.
//!
//! Flow: bytes in, events out, answers in, bytes out. No I/O, clock, thread or await; the shell owns the socket.
//!
//! Invariants: hostile bytes never panic; memory stays within [`limits`] and [`ServerConfig`]; a request is validated
//! once, completely, before the shell sees it.
//!
//! Deliberately absent: TLS, extended headers (64-bit lengths), resize, metadata contexts other than `base:allocation`.

mod client;
mod error;
#[cfg(any(test, feature = "fuzz"))]
mod fuzz;
mod input;
pub mod limits;
mod output;
mod server;
mod wire;

pub use client::{
    Client, ClientConfig, ClientError, ClientEvent, ClientRequest, Cookie, ExportInfo, MAX_IN_FLIGHT, ReplyData,
    RequestError,
};
pub use error::{ErrorCode, NbdError};
#[cfg(any(test, feature = "fuzz"))]
pub use fuzz::{fuzz_client, fuzz_server};
pub use server::{
    CloseReason, Command, Completion, Connection, Event, Export, Extent, OpenPurpose, Refusal, RefusalKind, Request,
    RequestKey, ServerConfig, ShutdownMode,
};

#[cfg(test)]
mod tests;
