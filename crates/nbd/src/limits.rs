//! Limits of the protocol and of this implementation. A relation that code relies on is asserted at compile time.

/// Largest payload of one event, and the maximum payload advertised to clients, in bytes.
pub const MAX_PAYLOAD: u32 = 1 << 20;
/// Largest READ or WRITE accepted, in bytes. The protocol asks servers to take 32 MiB from clients that never asked for
/// block sizes; the connection hands such requests over in pieces of at most [`MAX_PAYLOAD`].
pub const MAX_REQUEST: u32 = 32 << 20;
/// Largest payload that is drained in order to answer an error; beyond it the connection closes.
pub const MAX_DRAIN: u32 = 64 << 20;
/// Alignment of the cuts between the pieces of a large request, so that no two pieces touch the same block.
pub const PREFERRED_BLOCK: u32 = 4096;
/// Longest string of the protocol, in bytes.
pub const MAX_STRING: usize = 4096;
/// Longest data of an option that is read, in bytes.
pub const MAX_OPTION: u32 = 64 << 10;
/// Longest data of an option that is skipped in order to answer an error; beyond it the connection closes.
pub const MAX_OPTION_DRAIN: u32 = 1 << 20;
/// Options of one negotiation; a client that sends more is cut off.
pub const MAX_OPTIONS: u32 = 1000;
/// Exports of one LIST reply; a longer answer is cut.
pub const MAX_LISTED: usize = 4096;
/// Extents of one BLOCK_STATUS reply: the variable part of a chunk may not exceed the advertised payload.
pub const MAX_EXTENTS: usize = MAX_PAYLOAD as usize / 8;
/// Input read ahead of what the current message needs, in bytes.
pub const READ_AHEAD: usize = 64 << 10;

const _: () = assert!(MAX_PAYLOAD <= MAX_REQUEST && MAX_REQUEST <= MAX_DRAIN);
const _: () = assert!(MAX_PAYLOAD > 2 * PREFERRED_BLOCK);
const _: () = assert!(MAX_PAYLOAD.is_multiple_of(PREFERRED_BLOCK) && PREFERRED_BLOCK.is_power_of_two());
const _: () = assert!(READ_AHEAD >= MAX_OPTION as usize);
// A GO carries one name and its list of items; a SET_META_CONTEXT one name and at least a handful of queries.
const _: () = assert!(MAX_OPTION as usize >= 8 * MAX_STRING);
