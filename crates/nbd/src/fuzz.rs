//! Entry points for fuzzers: any bytes, no panic, memory within the limits.
//!
//! The first byte of the input steers chunk sizes, answers and limits, so that a fuzzer reaches every state.

use bytes::Bytes;

use crate::limits::{MAX_PAYLOAD, MAX_REQUEST, READ_AHEAD};
use crate::{
    Client, ClientConfig, ClientEvent, ClientRequest, Command, Completion, Connection, ErrorCode, Event, Export,
    Extent, Refusal, RefusalKind, Request, ServerConfig, ShutdownMode,
};

/// Size of the export that the fuzzed server serves; large enough for a request of every accepted length.
const EXPORT_SIZE: u64 = 64 << 20;

/// Feeds `bytes` to a server after a steering byte. Panics if an invariant is broken.
pub fn fuzz_server(bytes: &[u8]) {
    let Some((&steering, mut bytes)) = bytes.split_first() else { return };
    let config = ServerConfig { max_requests: 1 + usize::from(steering & 7), max_bytes: 2 << 20 };
    let bound = config.max_bytes + MAX_REQUEST as usize + 2 * MAX_PAYLOAD as usize;
    let mut connection = Connection::new(config.clone());
    let chunk = 1 + usize::from(steering >> 3) * 97;
    let mut held = Vec::new();
    loop {
        let taken = connection.receive(&bytes[..bytes.len().min(chunk)]);
        bytes = &bytes[taken..];
        let mut moved = taken > 0;
        while let Some(event) = connection.next_event() {
            moved = true;
            respond(&mut connection, event, steering, &mut held);
        }
        assert!(held.len() <= config.max_requests * MAX_REQUEST.div_ceil(MAX_PAYLOAD - 4096) as usize);
        assert!(connection.in_flight() <= config.max_requests, "more in flight than allowed");
        assert!(connection.output_len() <= bound, "more output than allowed");
        assert!(connection.input_capacity() <= 4 * (MAX_PAYLOAD as usize + READ_AHEAD), "more input than allowed");
        // Answers are held back until nothing else moves, so that the limits are reached.
        if !moved {
            if held.is_empty() && (bytes.is_empty() || !connection.wants_input()) && connection.output_len() == 0 {
                break;
            }
            connection.take_output();
            for request in held.drain(..) {
                let (key, completion) = (request.key, completion_of(&request, steering));
                let closed = connection.is_closed();
                assert!(connection.complete(key, completion) || closed, "a request was forgotten");
                assert!(!connection.complete(key, Completion::Done), "a request was answered twice");
            }
        }
    }
    let open = !connection.is_closed();
    assert!(!(open && connection.in_flight() == 0 && !connection.wants_input()), "stuck with nothing to wait for");
    connection.shutdown(ShutdownMode::Reconnect);
}

fn respond(connection: &mut Connection, event: Event, steering: u8, held: &mut Vec<Request>) {
    match event {
        Event::Open { .. } if steering & 0x80 != 0 => {
            connection.answer_open(Err(Refusal::new(RefusalKind::Policy, "the primary is n2")));
        }
        Event::Open { name, .. } => {
            let export = Export { read_only: name == "ro", ..Export::new(EXPORT_SIZE) };
            connection.answer_open(Ok(export));
        }
        Event::List => connection.answer_list(Ok(vec!["vm1".to_owned()])),
        Event::Request(request) => {
            let end = request.offset + u64::from(request.len);
            assert!(end <= EXPORT_SIZE, "a request beyond the end");
            let payload = if request.command == Command::Write { request.len as usize } else { 0 };
            assert_eq!(request.data.len(), payload);
            let moves = matches!(request.command, Command::Read | Command::Write);
            assert!(!moves || request.len <= MAX_PAYLOAD);
            held.push(request);
        }
        Event::Disconnect => {}
    }
}

fn completion_of(request: &Request, steering: u8) -> Completion {
    match request.command {
        _ if steering & 0x40 != 0 => Completion::Error(ErrorCode::Io.into()),
        Command::Read if steering & 0x20 != 0 => Completion::Zeroes,
        Command::Read => Completion::Data(vec![Bytes::from(vec![0xa5; request.len as usize])]),
        Command::BlockStatus => Completion::Extents(vec![Extent::data(1), Extent::hole(request.len)]),
        _ => Completion::Done,
    }
}

/// Feeds `bytes` to a client after a steering byte, with requests in flight as soon as it is ready.
pub fn fuzz_client(bytes: &[u8]) {
    drive_client(bytes);
}

/// What the fuzzed client asks for.
pub(crate) fn requests() -> Vec<ClientRequest> {
    vec![
        ClientRequest::Read { offset: 4096, len: 1 },
        ClientRequest::Read { offset: 4000, len: 4096 },
        ClientRequest::Read { offset: 4096, len: 65536 },
        ClientRequest::Flush,
        ClientRequest::BlockStatus { offset: 0, len: 4096, req_one: false },
    ]
}

/// Returns how many requests were answered.
pub(crate) fn drive_client(bytes: &[u8]) -> usize {
    let Some((&steering, mut bytes)) = bytes.split_first() else { return 0 };
    let config =
        ClientConfig { export: "vm1".to_owned(), structured: steering & 1 != 0, block_status: steering & 2 != 0 };
    let mut client = Client::new(config);
    let chunk = 1 + usize::from(steering >> 2) * 61;
    let mut replies = 0;
    while !bytes.is_empty() {
        let taken = client.receive(&bytes[..bytes.len().min(chunk)]);
        bytes = &bytes[taken..];
        let mut moved = taken > 0;
        while let Some(event) = client.next_event() {
            moved = true;
            match event {
                // Block status may not have been negotiated; that request is then refused, which is fine.
                ClientEvent::Ready(_) => requests().into_iter().for_each(|request| {
                    let _ = client.request(request);
                }),
                ClientEvent::Reply { .. } => replies += 1,
                ClientEvent::Failed(_) => assert!(client.is_closed()),
            }
        }
        client.take_output();
        assert!(moved, "a client that takes nothing and says nothing");
        assert!(client.input_capacity() <= 4 * ((8 << 20) + READ_AHEAD), "more input than allowed");
    }
    replies
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
        let inputs: Vec<_> =
            fs::read_dir(corpus).unwrap().map(|file| fs::read(file.unwrap().path()).unwrap()).collect();
        assert!(!inputs.is_empty());
        inputs
    }

    #[test]
    fn committed_inputs_of_the_fuzzer_hold() {
        corpus("nbd_server").iter().for_each(|input| fuzz_server(input));
        corpus("nbd_client").iter().for_each(|input| fuzz_client(input));
    }
}
