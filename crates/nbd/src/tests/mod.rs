//! Transcripts of single options and commands, a client against a server under arbitrary chunking, hostile bytes.

mod hostile;
mod negotiation;
mod pair;
mod transmission;

use bytes::{BufMut, Bytes};

use crate::wire::{self, opt, wide};
use crate::{Connection, Event, Export, ServerConfig};

/// Eight MiB: room for requests that are cut into pieces.
const SIZE: u64 = 8 << 20;

fn output(connection: &mut Connection) -> Vec<u8> {
    connection.take_output().concat()
}

fn feed(connection: &mut Connection, bytes: &[u8]) {
    assert_eq!(connection.receive(bytes), bytes.len(), "the test sends more than the limits allow");
}

fn option(kind: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.put_u64(wire::OPTION_MAGIC);
    bytes.put_u32(kind);
    bytes.put_u32(wire::narrow(data.len()));
    bytes.put_slice(data);
    bytes
}

fn open_data(name: &str, items: &[u16]) -> Vec<u8> {
    let mut data = Vec::new();
    data.put_u32(wire::narrow(name.len()));
    data.put_slice(name.as_bytes());
    data.put_u16(u16::try_from(items.len()).unwrap());
    items.iter().for_each(|item| data.put_u16(*item));
    data
}

fn meta_data(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = Vec::new();
    data.put_u32(wire::narrow(name.len()));
    data.put_slice(name.as_bytes());
    data.put_u32(wire::narrow(queries.len()));
    for query in queries {
        data.put_u32(wire::narrow(query.len()));
        data.put_slice(query.as_bytes());
    }
    data
}

/// A reply to an option as the server must send it.
fn option_reply(kind: u32, reply: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.put_u64(wire::OPTION_REPLY_MAGIC);
    bytes.put_u32(kind);
    bytes.put_u32(reply);
    bytes.put_u32(wire::narrow(data.len()));
    bytes.put_slice(data);
    bytes
}

fn request(kind: u16, flags: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.put_u32(wire::REQUEST_MAGIC);
    bytes.put_u16(flags);
    bytes.put_u16(kind);
    bytes.put_u64(cookie);
    bytes.put_u64(offset);
    bytes.put_u32(len);
    bytes
}

fn simple_reply(error: u32, cookie: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.put_u32(wire::SIMPLE_REPLY_MAGIC);
    bytes.put_u32(error);
    bytes.put_u64(cookie);
    bytes
}

fn chunk(flags: u16, kind: u16, cookie: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.put_u32(wire::STRUCTURED_REPLY_MAGIC);
    bytes.put_u16(flags);
    bytes.put_u16(kind);
    bytes.put_u64(cookie);
    bytes.put_u32(wire::narrow(payload.len()));
    bytes.put_slice(payload);
    bytes
}

/// A connection after the greeting and the client's flags.
fn greeted(client_flags: u32) -> Connection {
    let mut connection = Connection::new(ServerConfig::default());
    output(&mut connection);
    feed(&mut connection, &client_flags.to_be_bytes());
    connection
}

/// Sends one option that the connection answers alone, and returns the answer.
fn haggle(connection: &mut Connection, kind: u32, data: &[u8]) -> Vec<u8> {
    feed(connection, &option(kind, data));
    assert_eq!(connection.next_event(), None);
    output(connection)
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Simple,
    Structured,
    BlockStatus,
}

/// A connection in transmission.
fn transmitting(mode: Mode, export: Export, config: ServerConfig) -> Connection {
    let mut connection = Connection::new(config);
    // The greeting counts as unsent output, which matters to tests with tiny limits.
    output(&mut connection);
    feed(&mut connection, &3_u32.to_be_bytes());
    if mode != Mode::Simple {
        haggle(&mut connection, opt::STRUCTURED_REPLY, &[]);
    }
    if mode == Mode::BlockStatus {
        haggle(&mut connection, opt::SET_META_CONTEXT, &meta_data("vm1", &["base:allocation"]));
    }
    feed(&mut connection, &option(opt::GO, &open_data("vm1", &[])));
    assert!(matches!(connection.next_event(), Some(Event::Open { name, .. }) if name == "vm1"));
    connection.answer_open(Ok(export));
    output(&mut connection);
    connection
}

fn start(mode: Mode) -> Connection {
    transmitting(mode, Export::new(SIZE), ServerConfig::default())
}

/// Bytes that differ at every position within 251 and from call to call.
fn pattern(seed: u8, len: u32) -> Bytes {
    (0..wide(len)).map(|index| u8::try_from(index % 251).unwrap().wrapping_add(seed)).collect()
}
