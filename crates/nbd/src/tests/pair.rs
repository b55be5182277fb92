//! The client against the server, its bytes cut anywhere, its requests answered in any order, compared with a plain array.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::limits::MAX_PAYLOAD;
use crate::wire::rep;
use crate::{
    Client, ClientConfig, ClientError, ClientEvent, ClientRequest, Command, Completion, Cookie, ErrorCode, Extent,
    NbdError, Refusal, RefusalKind, ReplyData, Request, RequestError,
};

type Outcome = Result<ReplyData, NbdError>;

/// A client and a server with a disk in memory, and a seed that decides about cuts and orders.
struct Pair {
    client: Client,
    server: Connection,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    disk: Vec<u8>,
    held: Vec<Request>,
    seed: u64,
    ready: Option<crate::ExportInfo>,
    failed: Option<ClientError>,
    replies: BTreeMap<Cookie, Outcome>,
    refuse: Option<Refusal>,
    /// Everything the server sent.
    sent: Vec<u8>,
}

impl Pair {
    fn new(config: ClientConfig, limits: ServerConfig, seed: u64) -> Self {
        Self {
            client: Client::new(config),
            server: Connection::new(limits),
            to_server: Vec::new(),
            to_client: Vec::new(),
            disk: vec![0; usize::try_from(SIZE).unwrap()],
            held: Vec::new(),
            seed,
            ready: None,
            failed: None,
            replies: BTreeMap::new(),
            refuse: None,
            sent: Vec::new(),
        }
    }

    fn random(&mut self, below: usize) -> usize {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.seed >> 33).unwrap() % below
    }

    /// Sometimes byte by byte, sometimes everything.
    fn cut(&mut self, len: usize) -> usize {
        let largest = [3, 40, 5000, 200_000][self.random(4)];
        len.min(1 + self.random(largest))
    }

    /// Runs until nothing moves any more.
    fn run(&mut self) {
        let mut idle = 0;
        while idle < 3 {
            idle = if self.turn() { 0 } else { idle + 1 };
        }
        assert!(self.held.is_empty() && self.to_server.is_empty() && self.to_client.is_empty());
    }

    fn turn(&mut self) -> bool {
        self.to_server.extend(self.client.take_output().concat());
        let sent = self.server.take_output().concat();
        self.sent.extend_from_slice(&sent);
        self.to_client.extend(sent);
        let cut = if self.server.wants_input() { self.cut(self.to_server.len()) } else { 0 };
        let taken = self.server.receive(&self.to_server[..cut]);
        self.to_server.drain(..taken);
        let cut = self.cut(self.to_client.len());
        let received = self.client.receive(&self.to_client[..cut]);
        self.to_client.drain(..received);
        let mut moved = taken + received > 0;
        while let Some(event) = self.server.next_event() {
            moved = true;
            self.serve(event);
        }
        while !self.held.is_empty() && self.random(3) > 0 {
            moved = true;
            let index = self.random(self.held.len());
            let request = self.held.swap_remove(index);
            let completion = self.carry_out(&request);
            assert!(self.server.complete(request.key, completion));
        }
        while let Some(event) = self.client.next_event() {
            moved = true;
            match event {
                ClientEvent::Ready(info) => self.ready = Some(info),
                ClientEvent::Failed(error) => self.failed = Some(error),
                ClientEvent::Reply { cookie, result } => {
                    assert!(self.replies.insert(cookie, result).is_none(), "answered twice");
                }
            }
        }
        moved || !self.held.is_empty()
    }

    fn serve(&mut self, event: Event) {
        match event {
            Event::Open { .. } => {
                let answer = self.refuse.take().map_or(Ok(Export::new(SIZE)), Err);
                self.server.answer_open(answer);
            }
            Event::Request(request) => self.held.push(request),
            Event::List | Event::Disconnect => {}
        }
    }

    fn carry_out(&mut self, request: &Request) -> Completion {
        let start = usize::try_from(request.offset).unwrap();
        let range = start..start + wide(request.len);
        match request.command {
            Command::Read if self.disk[range.clone()].iter().all(|byte| *byte == 0) => Completion::Zeroes,
            Command::Read => Completion::Data(vec![Bytes::copy_from_slice(&self.disk[range])]),
            Command::Write => {
                self.disk[range].copy_from_slice(&request.data);
                Completion::Done
            }
            Command::WriteZeroes => {
                self.disk[range].fill(0);
                Completion::Done
            }
            Command::BlockStatus => Completion::Extents(vec![Extent::hole(request.len)]),
            Command::Flush | Command::Trim | Command::Cache => Completion::Done,
        }
    }

    fn ask(&mut self, request: ClientRequest) -> Cookie {
        self.client.request(request).unwrap()
    }
}

fn config(structured: bool) -> ClientConfig {
    ClientConfig { structured, block_status: structured, ..ClientConfig::new("vm1") }
}

#[test]
fn the_handshake_agrees_on_what_both_know() {
    for structured in [false, true] {
        let mut pair = Pair::new(config(structured), ServerConfig::default(), 1);
        assert_eq!(pair.client.request(ClientRequest::Flush), Err(RequestError::NotReady));
        pair.run();
        let info = pair.ready.unwrap();
        assert_eq!((info.size, info.structured, info.block_status), (SIZE, structured, structured));
        assert_eq!(info.block_sizes, Some((1, 4096, MAX_PAYLOAD)));
        assert!(info.multi_conn() && !info.read_only());
    }
}

#[test]
fn a_refusal_reaches_the_client_with_its_text() {
    let mut pair = Pair::new(config(true), ServerConfig::default(), 1);
    pair.refuse = Some(Refusal::new(RefusalKind::Policy, "the primary of vm1 is n2"));
    pair.run();
    let message = "the primary of vm1 is n2".to_owned();
    assert_eq!(pair.failed, Some(ClientError::Refused { code: rep::ERR_POLICY, message }));
    assert!(pair.client.is_closed());
}

#[test]
fn every_command_is_answered() {
    for structured in [false, true] {
        let mut pair = Pair::new(config(structured), ServerConfig::default(), 3);
        pair.run();
        let data = pattern(1, 5000);
        let write = pair.ask(ClientRequest::Write { offset: 100, data: data.clone(), fua: true });
        pair.run();
        let read = pair.ask(ClientRequest::Read { offset: 100, len: 5000 });
        let hole = pair.ask(ClientRequest::Read { offset: 1 << 20, len: 3000 });
        let beyond = pair.ask(ClientRequest::Read { offset: SIZE, len: 1 });
        let full = pair.ask(ClientRequest::Write { offset: SIZE, data, fua: false });
        let done = [
            write,
            pair.ask(ClientRequest::Flush),
            pair.ask(ClientRequest::Trim { offset: 1 << 20, len: 4096, fua: true }),
            pair.ask(ClientRequest::WriteZeroes { offset: 1 << 20, len: 4096, fua: true, no_hole: true }),
            pair.ask(ClientRequest::Cache { offset: 0, len: 4096 }),
        ];
        pair.run();
        done.iter().for_each(|cookie| assert_eq!(pair.replies[cookie], Ok(ReplyData::Done)));
        assert_eq!(pair.replies[&read], Ok(ReplyData::Data(pattern(1, 5000))));
        assert_eq!(pair.replies[&hole], Ok(ReplyData::Data(vec![0; 3000].into())));
        assert_eq!(pair.replies[&beyond].as_ref().unwrap_err().code, ErrorCode::Invalid);
        assert_eq!(pair.replies[&full].as_ref().unwrap_err().code, ErrorCode::NoSpace);
        assert_eq!(pair.replies[&full].as_ref().unwrap_err().message.is_empty(), !structured);
        let status = ClientRequest::BlockStatus { offset: 0, len: 4096, req_one: true };
        if structured {
            let cookie = pair.ask(status);
            pair.run();
            assert_eq!(pair.replies[&cookie], Ok(ReplyData::Extents(vec![Extent::hole(4096)])));
        } else {
            assert_eq!(pair.client.request(status), Err(RequestError::NotNegotiated));
        }
        pair.client.disconnect();
        pair.to_server.extend(pair.client.take_output().concat());
        pair.run();
        assert!(pair.server.is_closed());
    }
}

/// What a server must not send: each line is a reply to a READ of 8 bytes at 16, cookie 1.
#[test]
fn the_client_refuses_replies_that_do_not_fit() {
    let data = |offset: u64, len: u32| [offset.to_be_bytes().to_vec(), pattern(0, len).to_vec()].concat();
    let hole = |offset: u64, len: u32| [offset.to_be_bytes().as_slice(), &len.to_be_bytes()].concat();
    let cases = [
        ("a simple reply", simple_reply(0, 1)),
        ("no such request", chunk(1, 0, 2, &[])),
        ("too little", chunk(1, 1, 1, &data(16, 7))),
        ("too much", chunk(1, 1, 1, &data(16, 9))),
        ("before", chunk(1, 1, 1, &data(15, 8))),
        ("behind", chunk(1, 1, 1, &data(17, 8))),
        ("empty", chunk(0, 1, 1, &data(16, 0))),
        ("overlap", [chunk(0, 1, 1, &data(16, 5)), chunk(1, 1, 1, &data(20, 4))].concat()),
        ("gap", [chunk(0, 1, 1, &data(16, 3)), chunk(1, 1, 1, &data(20, 4))].concat()),
        ("twice", [chunk(0, 1, 1, &data(16, 4)), chunk(1, 2, 1, &hole(16, 4))].concat()),
        ("huge hole", chunk(1, 2, 1, &hole(16, u32::MAX))),
        ("nothing", chunk(1, 0, 1, &[])),
        ("none that goes on", chunk(0, 0, 1, &[])),
        ("a status", chunk(1, 5, 1, &[0; 12])),
        ("unknown", chunk(1, 6, 1, &[])),
        ("a lying text", chunk(1, 0x8001, 1, &[0, 0, 0, 5, 0, 9, b'x'])),
        ("magic", vec![0; 16]),
    ];
    for (name, bytes) in cases {
        let mut client = ready_client();
        client.request(ClientRequest::Read { offset: 16, len: 8 }).unwrap();
        assert_eq!(client.receive(&bytes), bytes.len());
        let event = client.next_event();
        assert!(matches!(event, Some(ClientEvent::Failed(ClientError::Violation(_)))), "{name}: {event:?}");
        assert!(client.is_closed());
    }
}

#[test]
fn the_client_assembles_chunks_in_any_order() {
    let mut client = ready_client();
    let cookie = client.request(ClientRequest::Read { offset: 16, len: 8 }).unwrap();
    let bytes = [
        chunk(0, 1, 1, &[&20_u64.to_be_bytes(), b"ef".as_slice()].concat()),
        chunk(0, 2, 1, &[22_u64.to_be_bytes().as_slice(), &2_u32.to_be_bytes()].concat()),
        chunk(0, 1, 1, &[&16_u64.to_be_bytes(), b"abcd".as_slice()].concat()),
        chunk(1, 0, 1, &[]),
    ];
    client.receive(&bytes.concat());
    let result = Ok(ReplyData::Data(Bytes::from_static(b"abcdef\0\0")));
    assert_eq!(client.next_event(), Some(ClientEvent::Reply { cookie, result }));
    assert_eq!(client.in_flight(), 0);
}

fn ready_client() -> Client {
    let mut pair = Pair::new(config(true), ServerConfig::default(), 1);
    pair.run();
    pair.client
}

#[derive(Clone, Debug)]
enum Op {
    Read(u64, u32),
    Write(u64, u32, u8),
    Zero(u64, u32),
    Flush,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let len = prop_oneof![4 => 1_u32..9000, 1 => 1_u32..(3 << 20)];
    let range = (0_u64..SIZE, len).prop_map(|(offset, len)| {
        let rest = u32::try_from(SIZE - offset).unwrap();
        (offset, len.min(rest))
    });
    let op = prop_oneof![
        range.clone().prop_map(|(offset, len)| Op::Read(offset, len)),
        (range.clone(), any::<u8>()).prop_map(|((offset, len), seed)| Op::Write(offset, len, seed)),
        range.prop_map(|(offset, len)| Op::Zero(offset, len)),
        Just(Op::Flush),
    ];
    proptest::collection::vec(op, 1..25)
}

/// Whether two operations may be in flight together without a race about the result.
fn overlaps(one: &Op, other: &Op) -> bool {
    let range = |op: &Op| match op {
        Op::Read(offset, len) | Op::Write(offset, len, _) | Op::Zero(offset, len) => {
            (*offset, offset + u64::from(*len))
        }
        Op::Flush => (0, 0),
    };
    let ((a, b), (c, d)) = (range(one), range(other));
    a < d && c < b
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn reads_return_what_a_plain_array_holds(
        ops in ops(), seed in any::<u64>(), structured in any::<bool>(), max_requests in 1_usize..6, max_bytes in 1_usize..100_000,
    ) {
        let limits = ServerConfig { max_requests, max_bytes };
        let mut pair = Pair::new(config(structured), limits, seed);
        pair.run();
        let mut model = vec![0_u8; usize::try_from(SIZE).unwrap()];
        let mut flying: Vec<Op> = Vec::new();
        let mut expected = BTreeMap::new();
        for op in ops {
            if flying.iter().any(|other| overlaps(&op, other)) {
                pair.run();
                flying.clear();
            }
            let (cookie, outcome) = match op.clone() {
                Op::Read(offset, len) => {
                    let start = usize::try_from(offset).unwrap();
                    let data = Bytes::copy_from_slice(&model[start..start + wide(len)]);
                    (pair.ask(ClientRequest::Read { offset, len }), ReplyData::Data(data))
                }
                Op::Write(offset, len, seed) => {
                    let (start, data) = (usize::try_from(offset).unwrap(), pattern(seed, len));
                    model[start..start + wide(len)].copy_from_slice(&data);
                    (pair.ask(ClientRequest::Write { offset, data, fua: false }), ReplyData::Done)
                }
                Op::Zero(offset, len) => {
                    let start = usize::try_from(offset).unwrap();
                    model[start..start + wide(len)].fill(0);
                    let request = ClientRequest::WriteZeroes { offset, len, fua: false, no_hole: false };
                    (pair.ask(request), ReplyData::Done)
                }
                Op::Flush => (pair.ask(ClientRequest::Flush), ReplyData::Done),
            };
            expected.insert(cookie, Ok(outcome));
            flying.push(op);
        }
        pair.run();
        prop_assert!(pair.replies == expected, "replies differ from the model");
        prop_assert!(pair.disk == model, "the disk differs from the model");
        prop_assert_eq!(pair.server.in_flight() + pair.client.in_flight(), 0);
    }

    /// Bits flipped in what the server sends: the client fails or goes on, but never panics.
    #[test]
    fn a_corrupted_server_stream_never_panics(
        seed in any::<u64>(), flips in proptest::collection::vec((any::<proptest::sample::Index>(), 0_u32..8), 1..5),
    ) {
        let mut stream = recorded(seed);
        for (position, bit) in flips {
            let index = 1 + position.index(stream.len() - 1);
            stream[index] ^= 1 << bit;
        }
        crate::fuzz_client(&stream);
    }
}

/// What a server sent in answer to the requests of `fuzz_client`, after the steering byte that fits.
fn recorded(seed: u64) -> Vec<u8> {
    let mut pair = Pair::new(config(true), ServerConfig::default(), seed);
    pair.disk[4096..8192].fill(7);
    pair.run();
    for request in crate::fuzz::requests() {
        pair.ask(request);
    }
    pair.run();
    let mut stream = vec![u8::try_from(seed % 64).unwrap() << 2 | 3];
    stream.append(&mut pair.sent);
    stream
}

/// The property above proves nothing if the recorded stream broke off early.
#[test]
fn an_intact_server_stream_answers_every_request() {
    for seed in 0..50 {
        assert_eq!(crate::fuzz::drive_client(&recorded(seed)), crate::fuzz::requests().len());
    }
}
