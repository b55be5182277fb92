//! One test per option and per clause of the handshake.

use super::*;
use crate::limits::{MAX_OPTION, MAX_OPTION_DRAIN, MAX_OPTIONS};
use crate::wire::{info, rep};
use crate::{CloseReason, OpenPurpose, Refusal, RefusalKind, ShutdownMode};

const ALL: u16 = 0b1101_0110_1101; // flags of a writable export without structured replies

fn error_text(reply: &[u8], kind: u32, error: u32) -> String {
    let data = &reply[20..];
    assert_eq!(reply, option_reply(kind, error, data), "another reply was due");
    String::from_utf8(data.to_vec()).unwrap()
}

#[test]
fn greeting_is_fixed_newstyle_with_no_zeroes() {
    let mut connection = Connection::new(ServerConfig::default());
    assert_eq!(output(&mut connection), b"NBDMAGICIHAVEOPT\0\x03");
}

#[test]
fn unknown_client_flags_close() {
    let mut connection = greeted(0x8000_0003);
    assert_eq!(connection.next_event(), None);
    assert!(matches!(connection.close_reason(), Some(CloseReason::Violation(_))));
}

#[test]
fn without_fixed_newstyle_only_export_name_is_taken() {
    let mut connection = greeted(0);
    feed(&mut connection, &option(opt::LIST, &[]));
    assert_eq!(connection.next_event(), None);
    assert!(connection.is_closed());
}

#[test]
fn wrong_option_magic_closes() {
    let mut connection = greeted(3);
    let mut bytes = option(opt::LIST, &[]);
    bytes[0] ^= 1;
    feed(&mut connection, &bytes);
    assert_eq!(connection.next_event(), None);
    assert!(connection.is_closed());
}

#[test]
fn export_name_is_answered_with_or_without_padding() {
    for (flags, padding) in [(1, 124), (3, 0)] {
        let mut connection = greeted(flags);
        feed(&mut connection, &option(opt::EXPORT_NAME, b"vm1"));
        let event = Event::Open { name: "vm1".to_owned(), purpose: OpenPurpose::UseByName };
        assert_eq!(connection.next_event(), Some(event));
        connection.answer_open(Ok(Export::new(SIZE)));
        let mut expected = SIZE.to_be_bytes().to_vec();
        expected.put_u16(ALL);
        expected.put_bytes(0, padding);
        assert_eq!(output(&mut connection), expected);
        feed(&mut connection, &request(3, 0, 1, 0, 0));
        assert!(matches!(connection.next_event(), Some(Event::Request(_))));
    }
}

#[test]
fn export_name_refused_can_only_close() {
    let mut connection = greeted(3);
    feed(&mut connection, &option(opt::EXPORT_NAME, b"vm1"));
    connection.next_event().unwrap();
    connection.answer_open(Err(Refusal::new(RefusalKind::Policy, "the primary is n2")));
    assert_eq!(connection.close_reason(), Some(CloseReason::Refused));
    assert!(output(&mut connection).is_empty());
}

#[test]
fn go_sends_what_was_asked_for_and_enters_transmission() {
    let mut connection = greeted(3);
    haggle(&mut connection, opt::STRUCTURED_REPLY, &[]);
    let items = [info::NAME, info::DESCRIPTION, info::BLOCK_SIZE, 77];
    feed(&mut connection, &option(opt::GO, &open_data("", &items)));
    assert_eq!(connection.next_event(), Some(Event::Open { name: String::new(), purpose: OpenPurpose::Use }));
    let export = Export { name: Some("vm1".into()), description: Some("disk".into()), ..Export::new(SIZE) };
    connection.answer_open(Ok(export));
    let mut size = vec![0, 0];
    size.put_u64(SIZE);
    size.put_u16(ALL | 1 << 7);
    let expected = [
        option_reply(opt::GO, rep::INFO, &size),
        option_reply(opt::GO, rep::INFO, b"\0\x01vm1"),
        option_reply(opt::GO, rep::INFO, b"\0\x02disk"),
        option_reply(opt::GO, rep::INFO, b"\0\x03\0\0\0\x01\0\0\x10\0\0\x10\0\0"),
        option_reply(opt::GO, rep::ACK, &[]),
    ];
    assert_eq!(output(&mut connection), expected.concat());
    feed(&mut connection, &request(2, 0, 0, 0, 0));
    assert_eq!(connection.next_event(), Some(Event::Disconnect));
    assert_eq!(connection.close_reason(), Some(CloseReason::Disconnect));
}

#[test]
fn info_stays_in_negotiation_and_shows_read_only() {
    let mut connection = greeted(3);
    feed(&mut connection, &option(opt::INFO, &open_data("vm1", &[])));
    assert!(matches!(connection.next_event(), Some(Event::Open { purpose: OpenPurpose::Inspect, .. })));
    connection.answer_open(Ok(Export { read_only: true, multi_conn: false, ..Export::new(SIZE) }));
    let mut size = vec![0, 0];
    size.put_u64(SIZE);
    size.put_u16(0b100_0000_1111); // HAS_FLAGS READ_ONLY FLUSH FUA CACHE
    let expected = [option_reply(opt::INFO, rep::INFO, &size), option_reply(opt::INFO, rep::ACK, &[])];
    assert_eq!(output(&mut connection), expected.concat());
    assert_eq!(haggle(&mut connection, opt::ABORT, b"bye"), option_reply(opt::ABORT, rep::ACK, &[]));
    assert_eq!(connection.close_reason(), Some(CloseReason::Abort));
}

#[test]
fn a_refusal_carries_its_text_and_the_client_may_try_again() {
    let kinds = [
        (RefusalKind::Unknown, rep::ERR_UNKNOWN),
        (RefusalKind::Policy, rep::ERR_POLICY),
        (RefusalKind::Shutdown, rep::ERR_SHUTDOWN),
    ];
    let mut connection = greeted(3);
    for (kind, error) in kinds {
        feed(&mut connection, &option(opt::GO, &open_data("vm1", &[])));
        assert!(connection.next_event().is_some());
        connection.answer_open(Err(Refusal::new(kind, "the primary is n2")));
        assert_eq!(error_text(&output(&mut connection), opt::GO, error), "the primary is n2");
    }
    feed(&mut connection, &option(opt::GO, &open_data("vm1", &[])));
    assert!(connection.next_event().is_some());
    connection.answer_open(Err(Refusal::new(RefusalKind::Policy, "ä".repeat(4000))));
    assert_eq!(error_text(&output(&mut connection), opt::GO, rep::ERR_POLICY), "ä".repeat(2048));
    assert!(!connection.is_closed());
}

#[test]
fn nothing_is_decoded_while_a_question_is_open() {
    let mut connection = greeted(3);
    let bytes = [option(opt::INFO, &open_data("a", &[])), option(opt::LIST, &[])].concat();
    feed(&mut connection, &bytes);
    assert!(connection.next_event().is_some());
    assert_eq!(connection.next_event(), None);
    assert!(!connection.wants_input());
    connection.answer_list(Ok(vec![]));
    assert!(output(&mut connection).is_empty(), "an answer to another question");
    connection.answer_open(Ok(Export::new(SIZE)));
    assert_eq!(connection.next_event(), Some(Event::List));
}

#[test]
fn list_is_answered_with_names() {
    let mut connection = greeted(3);
    feed(&mut connection, &option(opt::LIST, &[]));
    assert_eq!(connection.next_event(), Some(Event::List));
    connection.answer_list(Ok(vec!["vm1".into(), "b".into()]));
    let expected = [
        option_reply(opt::LIST, rep::SERVER, b"\0\0\0\x03vm1"),
        option_reply(opt::LIST, rep::SERVER, b"\0\0\0\x01b"),
        option_reply(opt::LIST, rep::ACK, &[]),
    ];
    assert_eq!(output(&mut connection), expected.concat());
    feed(&mut connection, &option(opt::LIST, &[]));
    connection.next_event();
    connection.answer_list(Err(Refusal::new(RefusalKind::Policy, "no")));
    assert_eq!(error_text(&output(&mut connection), opt::LIST, rep::ERR_POLICY), "no");
}

#[test]
fn options_without_data_refuse_data() {
    let mut connection = greeted(3);
    for kind in [opt::LIST, opt::STARTTLS, opt::STRUCTURED_REPLY] {
        let reply = haggle(&mut connection, kind, b"x");
        error_text(&reply, kind, rep::ERR_INVALID);
    }
}

#[test]
fn starttls_and_unknown_options_are_unsupported() {
    let mut connection = greeted(3);
    for (kind, data) in [(opt::STARTTLS, b"".as_slice()), (4, b"peek"), (11, b""), (9999, b"abc")] {
        let reply = haggle(&mut connection, kind, data);
        error_text(&reply, kind, rep::ERR_UNSUP);
    }
}

#[test]
fn malformed_names_and_items_are_invalid() {
    let mut connection = greeted(3);
    let too_long = open_data(&"x".repeat(4097), &[]);
    let reply = haggle(&mut connection, opt::GO, &too_long);
    error_text(&reply, opt::GO, rep::ERR_TOO_BIG);
    let mut trailing = open_data("a", &[]);
    trailing.push(0);
    let cases: [&[u8]; 7] = [
        b"",
        b"\0\0\0",
        b"\0\0\0\x05abc\0\0",
        b"\xff\xff\xff\xffabc",
        b"\0\0\0\x01a\0\x01",
        b"\0\0\0\x01\xff\0\0",
        b"\0\0\0\x01\0\0\0",
    ];
    for data in cases.into_iter().chain([trailing.as_slice()]) {
        let reply = haggle(&mut connection, opt::GO, data);
        error_text(&reply, opt::GO, rep::ERR_INVALID);
    }
    feed(&mut connection, &option(opt::GO, &open_data(&"x".repeat(4096), &[])));
    assert!(matches!(connection.next_event(), Some(Event::Open { .. })));
}

#[test]
fn set_meta_context_needs_structured_replies() {
    let mut connection = greeted(3);
    let data = meta_data("vm1", &["base:allocation"]);
    let reply = haggle(&mut connection, opt::SET_META_CONTEXT, &data);
    error_text(&reply, opt::SET_META_CONTEXT, rep::ERR_INVALID);
}

#[test]
fn meta_contexts_follow_the_rules_of_their_queries() {
    let mut connection = greeted(3);
    let ack = option_reply(opt::STRUCTURED_REPLY, rep::ACK, &[]);
    assert_eq!(haggle(&mut connection, opt::STRUCTURED_REPLY, &[]), ack);
    let (set, list) = (opt::SET_META_CONTEXT, opt::LIST_META_CONTEXT);
    let cases: [(u32, &[&str], Option<u8>); 9] = [
        (set, &["base:allocation"], Some(1)),
        (set, &["qemu:dirty-bitmap:x", "base:allocation"], Some(1)),
        (set, &["base:"], None),
        (set, &[], None),
        (set, &["base:other"], None),
        (list, &[], Some(0)),
        (list, &["base:"], Some(0)),
        (list, &["base:allocation"], Some(0)),
        (list, &["qemu:"], None),
    ];
    for (kind, queries, found) in cases {
        let mut expected = Vec::new();
        if let Some(id) = found {
            expected = option_reply(kind, rep::META_CONTEXT, &[&[0, 0, 0, id], b"base:allocation".as_slice()].concat());
        }
        expected.extend(option_reply(kind, rep::ACK, &[]));
        assert_eq!(haggle(&mut connection, kind, &meta_data("vm1", queries)), expected, "{kind} {queries:?}");
    }
    let mut lying = meta_data("vm1", &["base:allocation"]);
    lying[7..11].copy_from_slice(&u32::MAX.to_be_bytes());
    error_text(&haggle(&mut connection, set, &lying), set, rep::ERR_INVALID);
}

/// Block status answers only when the last SET_META_CONTEXT succeeded and named the export in use.
#[test]
fn a_meta_context_belongs_to_its_export_and_the_last_selection() {
    let selections: [(&[(&str, &str)], bool); 4] = [
        (&[("vm1", "base:allocation")], true),
        (&[("other", "base:allocation")], false),
        (&[("vm1", "base:allocation"), ("vm1", "x:y")], false),
        (&[("vm1", "x:y"), ("vm1", "base:allocation")], true),
    ];
    for (selection, works) in selections {
        let mut connection = greeted(3);
        haggle(&mut connection, opt::STRUCTURED_REPLY, &[]);
        for (export, query) in selection {
            haggle(&mut connection, opt::SET_META_CONTEXT, &meta_data(export, &[query]));
        }
        feed(&mut connection, &option(opt::GO, &open_data("vm1", &[])));
        connection.next_event();
        connection.answer_open(Ok(Export::new(SIZE)));
        feed(&mut connection, &request(7, 0, 1, 0, 4096));
        assert_eq!(connection.next_event().is_some(), works, "{selection:?}");
    }
}

#[test]
fn long_option_data_is_skipped_and_longer_data_closes() {
    let mut connection = greeted(3);
    let long = option(77, &vec![7; wide(MAX_OPTION) + 1]);
    for part in long.chunks(10_000) {
        feed(&mut connection, part);
        assert_eq!(connection.next_event(), None);
        assert!(connection.input_capacity() < 300_000);
    }
    error_text(&output(&mut connection), 77, rep::ERR_TOO_BIG);
    let mut header = option(77, &[]);
    header[12..].copy_from_slice(&(MAX_OPTION_DRAIN + 1).to_be_bytes());
    feed(&mut connection, &header);
    assert_eq!(connection.next_event(), None);
    assert!(connection.is_closed());
}

#[test]
fn a_client_that_haggles_for_ever_is_cut_off() {
    let mut connection = greeted(3);
    for _ in 0..MAX_OPTIONS {
        haggle(&mut connection, 77, &[]);
        assert!(!connection.is_closed());
    }
    haggle(&mut connection, 77, &[]);
    assert!(connection.is_closed());
}

#[test]
fn shutdown_refuses_options_but_not_abort() {
    let mut connection = greeted(3);
    feed(&mut connection, &option(opt::GO, &open_data("vm1", &[])));
    connection.next_event();
    connection.shutdown(ShutdownMode::Reconnect);
    error_text(&output(&mut connection), opt::GO, rep::ERR_SHUTDOWN);
    connection.answer_open(Ok(Export::new(SIZE)));
    assert!(output(&mut connection).is_empty(), "a late answer must not be sent");
    let reply = haggle(&mut connection, opt::STRUCTURED_REPLY, &[]);
    error_text(&reply, opt::STRUCTURED_REPLY, rep::ERR_SHUTDOWN);
    assert_eq!(haggle(&mut connection, opt::ABORT, &[]), option_reply(opt::ABORT, rep::ACK, &[]));
    assert!(connection.is_closed());
}

#[test]
fn answers_that_nobody_reads_stop_the_negotiation() {
    let mut connection = Connection::new(ServerConfig { max_bytes: 200, ..ServerConfig::default() });
    output(&mut connection);
    feed(&mut connection, &3_u32.to_be_bytes());
    for _ in 0..100 {
        feed(&mut connection, &option(77, &[]));
        assert_eq!(connection.next_event(), None);
    }
    assert!(connection.output_len() < 300 && !connection.wants_input());
    let first = output(&mut connection).len();
    assert_eq!(connection.next_event(), None);
    assert!(connection.output_len() > 0 && first > 0, "the rest is answered once there is room");
}

#[test]
fn no_more_is_received_than_the_limit_allows() {
    let mut connection = Connection::new(ServerConfig::default());
    let flood = vec![0; 10 << 20];
    assert_eq!(connection.receive(&flood), crate::limits::READ_AHEAD);
    assert_eq!(connection.receive(&flood), 0);
    assert!(!connection.wants_input());
}
