//! Random bytes, valid sessions with flipped bits, and truncated ones: no panic, bounded memory, no dead end.
//!
//! The assertions are inside `fuzz_server` and `fuzz_client`, shared with the fuzz targets.

use proptest::prelude::*;

use super::*;
use crate::{fuzz_client, fuzz_server};

/// A session that visits every state of the server.
fn session() -> Vec<u8> {
    let mut bytes = 3_u32.to_be_bytes().to_vec();
    bytes.extend(option(opt::STRUCTURED_REPLY, &[]));
    bytes.extend(option(opt::LIST, &[]));
    bytes.extend(option(opt::SET_META_CONTEXT, &meta_data("vm1", &["base:allocation"])));
    bytes.extend(option(opt::INFO, &open_data("vm1", &[1, 2, 3])));
    bytes.extend(option(opt::GO, &open_data("vm1", &[3])));
    for round in 0..4_u64 {
        bytes.extend(request(0, 0, round, 4096 * round, 8192));
        bytes.extend(request(0, 0, 100 + round, 777, 3 << 20));
        bytes.extend(request(1, 1, 200 + round, 512, 1000));
        bytes.extend(pattern(7, 1000));
        bytes.extend(request(1, 0, 300 + round, u64::MAX, 100));
        bytes.extend(pattern(9, 100));
        bytes.extend(request(3, 0, 400 + round, 0, 0));
        bytes.extend(request(4, 0, 500 + round, 0, 1 << 20));
        bytes.extend(request(6, 2, 600 + round, 0, 1 << 20));
        bytes.extend(request(7, 8, 700 + round, 0, 1 << 20));
        bytes.extend(request(5, 0, 800 + round, 0, 1 << 20));
    }
    bytes.extend(request(1, 0, 1, 100, (1 << 20) + 5000));
    bytes.extend(pattern(3, (1 << 20) + 5000));
    bytes.extend(request(2, 0, 0, 0, 0));
    bytes
}

#[test]
fn a_valid_session_passes_under_every_steering() {
    for steering in 0..=255 {
        // A small chunk size and a long session together only cost time.
        if steering >> 3 & 0x1f >= 2 {
            fuzz_server(&[&[steering], session().as_slice()].concat());
        }
    }
}

/// The checks above prove nothing if the session broke off early.
#[test]
fn the_session_reaches_its_end() {
    let mut connection = Connection::new(ServerConfig::default());
    let session = session();
    let mut rest = session.as_slice();
    let (mut requests, mut disconnected) = (0, false);
    while !disconnected {
        let taken = connection.receive(rest);
        rest = &rest[taken..];
        while let Some(event) = connection.next_event() {
            match event {
                Event::Open { .. } => connection.answer_open(Ok(Export::new(SIZE))),
                Event::List => connection.answer_list(Ok(vec![])),
                Event::Request(request) => {
                    requests += 1;
                    connection.complete(request.key, crate::Completion::Error(crate::ErrorCode::Io.into()));
                }
                Event::Disconnect => disconnected = true,
            }
            output(&mut connection);
        }
    }
    assert!(rest.is_empty() && connection.is_closed());
    // Per round: seven requests of one piece, one of four (3 MiB, unaligned); at the end two pieces.
    assert_eq!(requests, 4 * (7 + 4) + 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        fuzz_server(&bytes);
        fuzz_client(&bytes);
    }

    #[test]
    fn random_options(steering in any::<u8>(), options in proptest::collection::vec(
        (0_u32..12, proptest::collection::vec(any::<u8>(), 0..64)), 0..20)) {
        let mut bytes = vec![steering, 0, 0, 0, 3];
        options.iter().for_each(|(kind, data)| bytes.extend(option(*kind, data)));
        fuzz_server(&bytes);
    }

    #[test]
    fn random_requests(steering in any::<u8>(), requests in proptest::collection::vec(
        (0_u16..9, 0_u16..32, any::<u64>(), 0_u64..(65 << 20), prop_oneof![0_u32..9000, any::<u32>()]), 0..30)) {
        let mut bytes = vec![steering & 0x7f, 0, 0, 0, 3];
        bytes.extend(option(opt::STRUCTURED_REPLY, &[]));
        bytes.extend(option(opt::SET_META_CONTEXT, &meta_data("vm1", &["base:allocation"])));
        bytes.extend(option(opt::GO, &open_data("vm1", &[])));
        for (kind, flags, cookie, offset, len) in requests {
            bytes.extend(request(kind, flags, cookie, offset, len));
            if kind == 1 && len < 9000 {
                bytes.extend(pattern(1, len));
            }
        }
        fuzz_server(&bytes);
    }

    #[test]
    fn flipped_bits_and_truncation(
        steering in any::<u8>(),
        flips in proptest::collection::vec((0_usize..6000, 0_u32..8), 0..6),
        length in 0_usize..12_000,
    ) {
        let mut bytes = [&[steering & 0x7f], session().as_slice()].concat();
        bytes.truncate(length);
        for (position, bit) in flips {
            if let Some(byte) = bytes.get_mut(1 + position) {
                *byte ^= 1 << bit;
            }
        }
        fuzz_server(&bytes);
    }
}
