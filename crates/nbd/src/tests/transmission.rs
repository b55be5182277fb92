//! One test per command and per clause of its validation.

use super::*;
use crate::limits::{MAX_DRAIN, MAX_PAYLOAD, MAX_REQUEST};
use crate::wire::{chunk as kind, cmd};
use crate::{CloseReason, Command, Completion, ErrorCode, Extent, NbdError, Request, ShutdownMode};

const FUA: u16 = 1;
const NO_HOLE: u16 = 2;
const DF: u16 = 4;
const REQ_ONE: u16 = 8;
const FAST_ZERO: u16 = 16;

fn take(connection: &mut Connection) -> Request {
    match connection.next_event() {
        Some(Event::Request(request)) => request,
        other => panic!("a request was due, not {other:?}"),
    }
}

fn ask(connection: &mut Connection, bytes: &[u8]) -> Request {
    feed(connection, bytes);
    take(connection)
}

/// Sends a request that must be answered by the connection alone, with this error, and leave the stream in step.
fn rejected(mode: Mode, export: Export, bytes: &[u8], code: ErrorCode) {
    let mut connection = transmitting(mode, export, ServerConfig::default());
    feed(&mut connection, bytes);
    assert_eq!(connection.next_event(), None, "{bytes:?}");
    let reply = output(&mut connection);
    if mode == Mode::Simple {
        assert_eq!(reply, simple_reply(code.value(), 5));
    } else {
        let payload = &reply[20..];
        assert_eq!(reply, chunk(1, kind::ERROR, 5, payload));
        assert_eq!(payload[..4], code.value().to_be_bytes());
        let length = usize::from(u16::from_be_bytes([payload[4], payload[5]]));
        assert!(length > 0 && payload.len() == 6 + length, "an error without a text");
    }
    let flush = ask(&mut connection, &request(cmd::FLUSH, 0, 6, 0, 0));
    assert!(connection.complete(flush.key, Completion::Done));
    assert_eq!(output(&mut connection), simple_reply(0, 6));
}

fn both(bytes: &[u8], code: ErrorCode) {
    rejected(Mode::Simple, Export::new(SIZE), bytes, code);
    rejected(Mode::Structured, Export::new(SIZE), bytes, code);
}

fn offset_data(offset: u64, data: &[u8]) -> Vec<u8> {
    [offset.to_be_bytes().as_slice(), data].concat()
}

#[test]
fn read_simple_and_structured() {
    let data = pattern(1, 5000);
    for mode in [Mode::Simple, Mode::Structured] {
        let mut connection = start(mode);
        let read = ask(&mut connection, &request(cmd::READ, 0, 0xabcd, 123, 5000));
        assert_eq!((read.command, read.offset, read.len), (Command::Read, 123, 5000));
        let parts = vec![data.slice(..1000), Bytes::new(), data.slice(1000..)];
        assert!(connection.complete(read.key, Completion::Data(parts)));
        let expected = match mode {
            Mode::Simple => [simple_reply(0, 0xabcd), data.to_vec()].concat(),
            _ => chunk(1, kind::OFFSET_DATA, 0xabcd, &offset_data(123, &data)),
        };
        assert_eq!(output(&mut connection), expected);
        assert_eq!(connection.in_flight(), 0);
    }
}

#[test]
fn a_hole_is_sent_as_one_where_the_client_knows_holes() {
    let mut connection = start(Mode::Structured);
    let read = ask(&mut connection, &request(cmd::READ, DF, 9, 4096, 200_000));
    connection.complete(read.key, Completion::Zeroes);
    let payload = [4096_u64.to_be_bytes().as_slice(), &200_000_u32.to_be_bytes()].concat();
    assert_eq!(output(&mut connection), chunk(1, kind::OFFSET_HOLE, 9, &payload));

    let mut connection = start(Mode::Simple);
    let read = ask(&mut connection, &request(cmd::READ, 0, 9, 4096, 200_000));
    connection.complete(read.key, Completion::Zeroes);
    assert_eq!(output(&mut connection), [simple_reply(0, 9), vec![0; 200_000]].concat());
}

#[test]
fn errors_carry_their_text_only_in_structured_replies() {
    for mode in [Mode::Simple, Mode::Structured] {
        let mut connection = start(mode);
        let read = ask(&mut connection, &request(cmd::READ, 0, 7, 0, 512));
        connection.complete(read.key, Completion::Error(NbdError::new(ErrorCode::Io, "bad block")));
        let expected = match mode {
            Mode::Simple => simple_reply(5, 7),
            _ => chunk(1, kind::ERROR, 7, b"\0\0\0\x05\0\x09bad block"),
        };
        assert_eq!(output(&mut connection), expected);
    }
}

#[test]
fn write_carries_its_payload_and_flags() {
    let mut connection = start(Mode::Structured);
    let data = pattern(2, 1000);
    let bytes = [request(cmd::WRITE, FUA, 3, 512, 1000), data.to_vec()].concat();
    let (first, last) = bytes.split_at(bytes.len() - 1);
    feed(&mut connection, first);
    assert_eq!(connection.next_event(), None, "a payload must be complete");
    let write = ask(&mut connection, last);
    assert_eq!((write.command, write.offset, write.len, write.fua), (Command::Write, 512, 1000, true));
    assert_eq!(write.data, data);
    assert!(connection.complete(write.key, Completion::Done));
    assert_eq!(output(&mut connection), simple_reply(0, 3));
    assert!(!connection.complete(write.key, Completion::Done), "answered twice");
    assert!(output(&mut connection).is_empty());
}

#[test]
fn a_payload_read_into_the_connection_is_not_copied() {
    let mut connection = start(Mode::Simple);
    feed(&mut connection, &request(cmd::WRITE, 0, 3, 0, MAX_PAYLOAD));
    assert_eq!(connection.next_event(), None);
    let room = connection.room();
    assert!(room.capacity() >= wide(MAX_PAYLOAD));
    room.extend_from_slice(&pattern(1, MAX_PAYLOAD));
    let address = room.as_ptr();
    assert_eq!(take(&mut connection).data.as_ptr(), address);
}

#[test]
fn the_other_commands_reach_the_shell_with_their_flags() {
    let mut connection = start(Mode::BlockStatus);
    let big = 1 << 22;
    let trim = ask(&mut connection, &request(cmd::TRIM, FUA, 1, 1, big));
    assert_eq!((trim.command, trim.offset, trim.len, trim.fua), (Command::Trim, 1, big, true));
    let zero = ask(&mut connection, &request(cmd::WRITE_ZEROES, NO_HOLE | FAST_ZERO, 2, 0, big));
    assert_eq!((zero.command, zero.no_hole, zero.fast_zero, zero.fua), (Command::WriteZeroes, true, true, false));
    let cache = ask(&mut connection, &request(cmd::CACHE, 0, 3, 0, big));
    assert_eq!((cache.command, cache.len), (Command::Cache, big));
    let flush = ask(&mut connection, &request(cmd::FLUSH, FUA, 4, 0, 0));
    assert_eq!(flush.command, Command::Flush);
    assert_eq!(connection.in_flight(), 4);
    for (request, cookie) in [(flush, 4), (trim, 1), (cache, 3), (zero, 2)] {
        assert!(connection.complete(request.key, Completion::Done));
        assert_eq!(output(&mut connection), simple_reply(0, cookie), "answers leave in the order of completion");
    }
}

fn status(flags: u16, len: u32, extents: Vec<Extent>) -> Vec<u8> {
    let mut connection = start(Mode::BlockStatus);
    let asked = ask(&mut connection, &request(cmd::BLOCK_STATUS, flags, 8, 4096, len));
    assert_eq!((asked.command, asked.req_one), (Command::BlockStatus, flags == REQ_ONE));
    connection.complete(asked.key, Completion::Extents(extents));
    output(&mut connection)
}

fn status_chunk(extents: &[(u32, u32)]) -> Vec<u8> {
    let mut payload = 1_u32.to_be_bytes().to_vec();
    extents.iter().for_each(|(len, flags)| {
        payload.put_u32(*len);
        payload.put_u32(*flags);
    });
    chunk(1, kind::BLOCK_STATUS, 8, &payload)
}

#[test]
fn block_status_is_brought_into_the_form_that_the_protocol_demands() {
    let (data, hole) = (Extent::data, Extent::hole);
    assert_eq!(status(0, 9000, vec![data(4096), hole(8192)]), status_chunk(&[(4096, 0), (8192, 3)]));
    assert_eq!(status(0, 9000, vec![data(1), data(2), data(0), hole(5)]), status_chunk(&[(3, 0), (5, 3)]));
    assert_eq!(status(0, 4096, vec![data(4096), hole(8192)]), status_chunk(&[(4096, 0)]));
    assert_eq!(status(REQ_ONE, 9000, vec![data(100), hole(8192)]), status_chunk(&[(100, 0)]));
    assert_eq!(status(REQ_ONE, 9000, vec![data(5000), data(5000), hole(1)]), status_chunk(&[(9000, 0)]));
    let huge = status(0, u32::try_from(SIZE - 4096).unwrap(), vec![hole(u32::MAX), hole(1)]);
    assert_eq!(huge, status_chunk(&[(u32::MAX, 3)]));
    let empty = status(0, 9000, vec![data(0)]);
    assert_eq!(empty[6..8], kind::ERROR.to_be_bytes());
    let many = (0..300_000).map(|index| if index % 2 == 0 { data(1) } else { hole(1) }).collect();
    assert_eq!(status(0, 400_000, many).len(), 20 + 4 + 8 * 131_072);
}

#[test]
fn ranges_beyond_the_end() {
    for (offset, len) in [(SIZE, 1), (SIZE - 1, 2), (u64::MAX, 1), (u64::MAX - 1, u32::MAX >> 8)] {
        for command in [cmd::READ, cmd::TRIM, cmd::CACHE] {
            both(&request(command, 0, 5, offset, len), ErrorCode::Invalid);
        }
        both(&request(cmd::WRITE_ZEROES, 0, 5, offset, len), ErrorCode::NoSpace);
        rejected(
            Mode::BlockStatus,
            Export::new(SIZE),
            &request(cmd::BLOCK_STATUS, 0, 5, offset, len),
            ErrorCode::Invalid,
        );
    }
    both(&[request(cmd::WRITE, 0, 5, SIZE - 1, 2), vec![1, 2]].concat(), ErrorCode::NoSpace);
    let mut connection = start(Mode::Simple);
    ask(&mut connection, &request(cmd::READ, 0, 5, SIZE - 1, 1));
}

#[test]
fn flags_that_a_command_does_not_know() {
    let valid = [
        (cmd::READ, FUA | DF),
        (cmd::TRIM, FUA),
        (cmd::CACHE, FUA),
        (cmd::WRITE_ZEROES, FUA | NO_HOLE | FAST_ZERO),
        (cmd::BLOCK_STATUS, FUA | REQ_ONE),
    ];
    for (command, valid) in valid {
        for flag in (0..16).map(|bit| 1 << bit) {
            let bytes = request(command, flag, 5, 0, 512);
            if valid & flag == 0 {
                rejected(Mode::BlockStatus, Export::new(SIZE), &bytes, ErrorCode::Invalid);
            } else {
                ask(&mut start(Mode::BlockStatus), &bytes);
            }
        }
    }
    rejected(Mode::Simple, Export::new(SIZE), &request(cmd::READ, DF, 5, 0, 512), ErrorCode::Invalid);
    both(&[request(cmd::WRITE, NO_HOLE, 5, 0, 3), vec![1, 2, 3]].concat(), ErrorCode::Invalid);
}

#[test]
fn other_invalid_requests() {
    for command in [cmd::READ, cmd::WRITE, cmd::TRIM, cmd::CACHE, cmd::WRITE_ZEROES] {
        both(&request(command, 0, 5, 0, 0), ErrorCode::Invalid);
    }
    both(&request(cmd::FLUSH, 0, 5, 0, 1), ErrorCode::Invalid);
    both(&request(cmd::FLUSH, 0, 5, 1, 0), ErrorCode::Invalid);
    both(&request(cmd::BLOCK_STATUS, 0, 5, 0, 512), ErrorCode::Invalid);
    both(&request(8, 0, 5, 0, 512), ErrorCode::Invalid);
    both(&request(0xffff, 0, 5, 0, 512), ErrorCode::Invalid);
}

#[test]
fn a_read_only_export_refuses_every_change() {
    let export = Export { read_only: true, ..Export::new(SIZE) };
    for mode in [Mode::Simple, Mode::Structured] {
        let write = [request(cmd::WRITE, 0, 5, 0, 3), vec![1, 2, 3]].concat();
        rejected(mode, export.clone(), &write, ErrorCode::Perm);
        rejected(mode, export.clone(), &request(cmd::TRIM, 0, 5, 0, 3), ErrorCode::Perm);
        rejected(mode, export.clone(), &request(cmd::WRITE_ZEROES, 0, 5, 0, 3), ErrorCode::Perm);
    }
}

#[test]
fn payloads_beyond_the_limits() {
    let large = Export::new(1 << 40);
    let read = |flags, len| request(cmd::READ, flags, 5, 0, len);
    rejected(Mode::Simple, large.clone(), &read(0, MAX_REQUEST + 1), ErrorCode::Invalid);
    rejected(Mode::Structured, large.clone(), &read(0, MAX_REQUEST + 1), ErrorCode::Overflow);
    rejected(Mode::Structured, large.clone(), &read(DF, MAX_PAYLOAD + 1), ErrorCode::Overflow);

    let mut connection = transmitting(Mode::Simple, large.clone(), ServerConfig::default());
    feed(&mut connection, &request(cmd::WRITE, 0, 5, 0, MAX_REQUEST + 1));
    let payload = vec![0_u8; 1 << 16];
    let mut left = wide(MAX_REQUEST + 1);
    while left > 0 {
        assert!(output(&mut connection).is_empty() && connection.wants_input());
        left -= connection.receive(&payload[..left.min(payload.len())]);
        assert_eq!(connection.next_event(), None);
        assert!(connection.input_capacity() <= 1 << 18);
    }
    assert_eq!(output(&mut connection), simple_reply(22, 5));
    ask(&mut connection, &request(cmd::FLUSH, 0, 6, 0, 0));

    let mut connection = transmitting(Mode::Simple, large, ServerConfig::default());
    feed(&mut connection, &request(cmd::WRITE, 0, 5, 0, MAX_DRAIN + 1));
    assert_eq!(connection.next_event(), None);
    assert!(matches!(connection.close_reason(), Some(CloseReason::Violation(_))));
}

#[test]
fn wrong_magic_closes() {
    let mut connection = start(Mode::Simple);
    let mut bytes = request(cmd::READ, 0, 5, 0, 512);
    bytes[3] ^= 1;
    feed(&mut connection, &bytes);
    assert_eq!(connection.next_event(), None);
    assert!(matches!(connection.close_reason(), Some(CloseReason::Violation(_))));
}

#[test]
fn a_large_read_is_cut_between_blocks_and_answered_once() {
    let (offset, len) = (1000, 2 * MAX_PAYLOAD + 5000);
    let data = pattern(4, len);
    for mode in [Mode::Simple, Mode::Structured] {
        let mut connection = start(mode);
        feed(&mut connection, &request(cmd::READ, 0, 5, offset, len));
        let pieces: Vec<Request> = std::iter::from_fn(|| match connection.next_event() {
            Some(Event::Request(request)) => Some(request),
            _ => None,
        })
        .collect();
        let lens: Vec<u32> = pieces.iter().map(|piece| piece.len).collect();
        assert_eq!(lens, [MAX_PAYLOAD - 1000, MAX_PAYLOAD, 6000]);
        assert!(pieces[1..].iter().all(|piece| piece.offset.is_multiple_of(4096)));
        for index in [2, 0, 1] {
            assert!(output(&mut connection).is_empty(), "answered before its last piece");
            let piece = &pieces[index];
            let start = usize::try_from(piece.offset - offset).unwrap();
            let part = data.slice(start..start + wide(piece.len));
            assert!(connection.complete(piece.key, Completion::Data(vec![part])));
        }
        let reply = output(&mut connection);
        if mode == Mode::Simple {
            assert_eq!(reply, [simple_reply(0, 5), data.to_vec()].concat());
        } else {
            let (a, b) = (wide(MAX_PAYLOAD - 1000), wide(2 * MAX_PAYLOAD - 1000));
            let expected = [
                chunk(0, kind::OFFSET_DATA, 5, &offset_data(1000, &data[..a])),
                chunk(0, kind::OFFSET_DATA, 5, &offset_data(1000 + a as u64, &data[a..b])),
                chunk(1, kind::OFFSET_DATA, 5, &offset_data(1000 + b as u64, &data[b..])),
            ];
            assert_eq!(reply, expected.concat());
        }
    }
}

#[test]
fn a_large_write_fails_if_any_piece_fails() {
    for failing in [None, Some(0), Some(1), Some(2)] {
        let mut connection = start(Mode::Simple);
        let data = pattern(5, 3 * MAX_PAYLOAD);
        let bytes = [request(cmd::WRITE, 0, 5, 0, 3 * MAX_PAYLOAD), data.to_vec()].concat();
        let (mut rest, mut pieces) = (bytes.as_slice(), Vec::new());
        while !rest.is_empty() {
            rest = &rest[connection.receive(rest)..];
            while let Some(Event::Request(piece)) = connection.next_event() {
                pieces.push(piece);
            }
        }
        assert_eq!(pieces.iter().flat_map(|piece| piece.data.clone()).collect::<Bytes>(), data);
        assert_eq!(pieces.len(), 3);
        for (index, piece) in pieces.iter().enumerate() {
            assert!(output(&mut connection).is_empty());
            let failure = Completion::Error(ErrorCode::NoSpace.into());
            let completion = if failing == Some(index) { failure } else { Completion::Done };
            assert!(connection.complete(piece.key, completion));
        }
        assert_eq!(output(&mut connection), simple_reply(if failing.is_some() { 28 } else { 0 }, 5));
    }
}

#[test]
fn an_answer_that_does_not_fit_becomes_eio() {
    let wrong = [
        (cmd::READ, Completion::Done),
        (cmd::READ, Completion::Data(vec![pattern(0, 511)])),
        (cmd::READ, Completion::Data(vec![pattern(0, 512), pattern(0, 1)])),
        (cmd::TRIM, Completion::Zeroes),
        (cmd::CACHE, Completion::Extents(vec![Extent::data(512)])),
    ];
    for (command, completion) in wrong {
        let mut connection = start(Mode::Simple);
        let asked = ask(&mut connection, &request(command, 0, 5, 0, 512));
        assert!(connection.complete(asked.key, completion));
        assert_eq!(output(&mut connection), simple_reply(5, 5));
    }
}

#[test]
fn requests_in_flight_are_limited_and_make_back_pressure() {
    let config = ServerConfig { max_requests: 2, ..ServerConfig::default() };
    let mut connection = transmitting(Mode::Simple, Export::new(SIZE), config);
    for cookie in 0..5 {
        feed(&mut connection, &request(cmd::FLUSH, 0, cookie, 0, 0));
    }
    let first = take(&mut connection);
    take(&mut connection);
    assert_eq!(connection.next_event(), None);
    assert!(!connection.wants_input());
    connection.complete(first.key, Completion::Done);
    assert!(connection.wants_input());
    take(&mut connection);
    assert_eq!(connection.next_event(), None);
}

#[test]
fn bytes_in_flight_and_unsent_are_limited() {
    let config = ServerConfig { max_bytes: 8192, ..ServerConfig::default() };
    let mut connection = transmitting(Mode::Simple, Export::new(SIZE), config);
    for cookie in 0..4 {
        feed(&mut connection, &request(cmd::READ, 0, cookie, 0, 4096));
    }
    let first = take(&mut connection);
    take(&mut connection);
    assert_eq!(connection.next_event(), None, "two reads fill the limit");
    connection.complete(first.key, Completion::Data(vec![pattern(0, 4096)]));
    assert_eq!(connection.next_event(), None, "an unsent reply still counts");
    assert!(!connection.wants_input());
    output(&mut connection);
    assert!(connection.wants_input());
    take(&mut connection);
}

/// A payload is let in although its own request took the last slot; it would wait for itself otherwise.
#[test]
fn the_last_slot_still_gets_its_payload() {
    let config = ServerConfig { max_requests: 1, max_bytes: 1 };
    let mut connection = transmitting(Mode::Simple, Export::new(SIZE), config);
    feed(&mut connection, &request(cmd::WRITE, 0, 1, 0, 100_000));
    assert_eq!(connection.next_event(), None);
    assert!(connection.wants_input());
    feed(&mut connection, &pattern(0, 100_000));
    let write = take(&mut connection);
    assert!(!connection.wants_input());
    connection.complete(write.key, Completion::Done);
    output(&mut connection);
    assert!(connection.wants_input());
}

#[test]
fn invalid_requests_without_reading_the_answers_do_not_grow_the_output() {
    let config = ServerConfig { max_bytes: 1000, ..ServerConfig::default() };
    let mut connection = transmitting(Mode::Structured, Export::new(SIZE), config);
    let bad = request(99, 0, 5, 0, 0);
    for _ in 0..10_000 {
        connection.receive(&bad);
        assert_eq!(connection.next_event(), None);
    }
    assert!(connection.output_len() < 1100, "{}", connection.output_len());
    assert!(!connection.wants_input());
}

#[test]
fn disconnect_waits_for_what_is_in_flight_and_reads_nothing_more() {
    let mut connection = start(Mode::Simple);
    let flush = ask(&mut connection, &request(cmd::FLUSH, 0, 1, 0, 0));
    feed(&mut connection, &[request(cmd::DISC, 0, 2, 0, 0), request(cmd::FLUSH, 0, 3, 0, 0)].concat());
    assert_eq!(connection.next_event(), Some(Event::Disconnect));
    assert_eq!(connection.next_event(), None);
    assert!(!connection.is_closed() && !connection.wants_input());
    connection.complete(flush.key, Completion::Done);
    assert_eq!(output(&mut connection), simple_reply(0, 1));
    assert_eq!(connection.close_reason(), Some(CloseReason::Disconnect));
}

#[test]
fn shutdown_for_reconnect_answers_what_was_taken_and_no_more() {
    let mut connection = start(Mode::Simple);
    let flush = ask(&mut connection, &request(cmd::FLUSH, 0, 1, 0, 0));
    feed(&mut connection, &request(cmd::WRITE, 0, 2, 0, 512));
    assert_eq!(connection.next_event(), None);
    connection.shutdown(ShutdownMode::Reconnect);
    feed(&mut connection, &pattern(0, 512));
    assert_eq!(connection.next_event(), None, "taken after the shutdown");
    assert!(!connection.is_closed());
    connection.complete(flush.key, Completion::Done);
    assert_eq!(output(&mut connection), simple_reply(0, 1));
    assert_eq!(connection.close_reason(), Some(CloseReason::Server));

    let mut idle = start(Mode::Simple);
    idle.shutdown(ShutdownMode::Reconnect);
    assert!(idle.is_closed());
}

#[test]
fn shutdown_by_refusal_answers_every_further_request() {
    let mut connection = start(Mode::Simple);
    let flush = ask(&mut connection, &request(cmd::FLUSH, 0, 1, 0, 0));
    connection.shutdown(ShutdownMode::Refuse);
    feed(&mut connection, &[request(cmd::WRITE, 0, 2, 0, 2), vec![1, 2], request(cmd::READ, 0, 3, 0, 2)].concat());
    assert_eq!(connection.next_event(), None);
    assert_eq!(output(&mut connection), [simple_reply(108, 2), simple_reply(108, 3)].concat());
    assert!(connection.complete(flush.key, Completion::Done));
    assert_eq!(output(&mut connection), simple_reply(0, 1));
    assert!(!connection.is_closed());
}

#[test]
fn completions_after_the_end_are_ignored() {
    let mut connection = start(Mode::Simple);
    let flush = ask(&mut connection, &request(cmd::FLUSH, 0, 1, 0, 0));
    connection.close();
    assert!(!connection.complete(flush.key, Completion::Done));
    assert!(connection.is_closed() && output(&mut connection).is_empty());
    assert_eq!(connection.receive(&[0; 100_000]), 100_000);
    assert_eq!(connection.next_event(), None);
}
