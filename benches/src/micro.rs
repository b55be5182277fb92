//! Steps of a write's way, each alone and without a device, to be counted in instructions: on a shared machine a time says more
//! about the neighbours, and a count stays what it is.

use bytes::Bytes;
use holdfast_format::message::Message;
use holdfast_format::{Draft, Record, RecordKind, block_checksum};
use holdfast_nbd::{
    Client, ClientConfig, ClientEvent, ClientRequest, Completion, Connection, Event, Export, ServerConfig,
};
use holdfast_store::io::{DiskDone, DiskOp, DiskOpKind, DiskReply};
use holdfast_store::{Input, Output, Store, StoreConfig};
use holdfast_types::{
    BLOCK_SIZE, BlockIndex, BlockRange, Epoch, EpochTable, Incarnation, Lsn, Time, VolumeId, VolumeSize,
};
use std::collections::VecDeque;
use std::hint::black_box;
use std::time::Duration;

const V: VolumeId = VolumeId(1);
const SIZE: u64 = 64 << 20;
const BLOCKS: u64 = SIZE / BLOCK_SIZE as u64;

/// A step, and what runs it so many times.
pub struct Case {
    /// As the command line has it.
    pub name: &'static str,
    /// What one run of it is.
    pub about: &'static str,
    /// Runs it.
    pub run: fn(u64),
}

/// All of them.
pub static CASES: [Case; 8] = [
    Case { name: "block-checksum", about: "checksum of a block of 4 KiB", run: checksum },
    Case { name: "record-seal", about: "a record of 4 KiB, sealed", run: seal },
    Case { name: "record-verify", about: "a record of 4 KiB, verified", run: verify },
    Case { name: "message-encode", about: "an Append of one record of 4 KiB, encoded", run: encode },
    Case { name: "message-decode", about: "the same, decoded and verified", run: decode },
    Case {
        name: "journal-append",
        about: "a record of 4 KiB: appended, durable, committed, applied; one at a time",
        run: append_1,
    },
    Case { name: "journal-append-32", about: "the same, 32 at a time", run: append_32 },
    Case { name: "nbd-write", about: "a WRITE of 4 KiB: sent, parsed, answered, its reply parsed", run: nbd },
];

fn record(lsn: Lsn, prev_hash: u64, block: u64, body: &Bytes) -> Record {
    Record::seal(Draft {
        volume: V,
        epoch: Epoch(1),
        lsn,
        prev_hash,
        committed: Lsn(lsn.0 - 1),
        kind: RecordKind::Write,
        head: false,
        tail: false,
        range: BlockRange::new(block, 1),
        body: body.clone(),
    })
}

fn body() -> Bytes {
    Bytes::from(vec![0x5A; BLOCK_SIZE])
}

fn checksum(times: u64) {
    let data = body();
    for i in 0..times {
        black_box(block_checksum(BlockIndex(i), black_box(&data)));
    }
}

fn seal(times: u64) {
    let data = body();
    for i in 0..times {
        black_box(record(Lsn(i + 1), i, i % BLOCKS, &data));
    }
}

fn verify(times: u64) {
    let sealed = record(Lsn(1), 0, 0, &body());
    for _ in 0..times {
        let verified = Record::verify(*black_box(sealed.header()), sealed.body().clone());
        assert!(verified.is_some(), "what was sealed verifies");
    }
}

fn message() -> Message {
    Message::Append { epoch: Epoch(1), committed: Lsn(0), records: vec![record(Lsn(1), 0, 0, &body())] }
}

fn encode(times: u64) {
    let message = message();
    for _ in 0..times {
        black_box(black_box(&message).encode());
    }
}

fn decode(times: u64) {
    let bytes = Bytes::from(message().encode().concat());
    for _ in 0..times {
        assert!(Message::decode(black_box(bytes.clone())).is_ok(), "what was encoded decodes");
    }
}

fn append_1(times: u64) {
    append(times, 1);
}

fn append_32(times: u64) {
    append(times, 32);
}

/// A store whose device has done everything as soon as it is asked.
struct Instant {
    store: Store,
    ops: VecDeque<DiskOp>,
    now: Time,
    durable: Lsn,
    ready: bool,
}

impl Instant {
    fn input(&mut self, input: Input) {
        let mut out = Vec::new();
        self.store.handle(input, self.now, &mut out);
        loop {
            for output in out.drain(..) {
                match output {
                    Output::Disk(op) => self.ops.push_back(op),
                    Output::Durable { upto, .. } => self.durable = upto.get(),
                    Output::Started { .. } | Output::Opened { .. } | Output::Adopted { .. } => self.ready = true,
                    Output::Failed { reason, .. } => panic!("the store failed: {reason}"),
                    _ => {}
                }
            }
            let Some(op) = self.ops.pop_front() else { break };
            let reply = match op.kind {
                DiskOpKind::List => DiskReply::Files(Vec::new()),
                DiskOpKind::Read { .. } => unreachable!("a new store reads nothing"),
                _ => DiskReply::Done,
            };
            self.store.handle(Input::Done(DiskDone { id: op.id, result: Ok(reply) }), self.now, &mut out);
        }
    }

    fn must(&mut self, input: Input) {
        self.ready = false;
        self.input(input);
        assert!(self.ready, "a device that answers at once leaves nothing to wait for");
    }
}

fn append(times: u64, at_once: u64) {
    let store = Store::new(StoreConfig::default(), 7);
    let mut shard = Instant { store, ops: VecDeque::new(), now: Time(1), durable: Lsn::ZERO, ready: false };
    shard.must(Input::Start);
    let size = VolumeSize::new(SIZE).expect("64 MiB");
    shard.must(Input::Create { volume: V, incarnation: Incarnation(1), size });
    let table = EpochTable::default().continued(Lsn::ZERO, Epoch(1));
    shard.must(Input::Adopt { volume: V, epoch: Epoch(1), table, cut_after: Lsn::ZERO });
    let data = body();
    let (mut last, mut hash) = (Lsn::ZERO, 0);
    while last.0 < times {
        for _ in 0..at_once.min(times - last.0) {
            last = last.next();
            // Far from the one before, as random writes are.
            let record = record(last, hash, last.0.wrapping_mul(0x9E37_79B9) % BLOCKS, &data);
            hash = record.hash();
            shard.input(Input::Append { volume: V, records: vec![record] });
        }
        assert_eq!(shard.durable, last, "what was appended is durable at once");
        shard.input(Input::Commit { volume: V, upto: last });
        shard.input(Input::Trim { volume: V, upto: last });
        shard.now = shard.now + Duration::from_micros(100);
        if shard.store.next_timeout().is_some_and(|at| at <= shard.now) {
            shard.input(Input::Tick);
        }
    }
}

fn nbd(times: u64) {
    let (mut client, mut server) = (Client::new(ClientConfig::new("v")), Connection::new(ServerConfig::default()));
    let data = body();
    let (mut sent, mut answered) = (0, 0);
    while answered < times {
        for piece in client.take_output() {
            assert_eq!(server.receive(&piece), piece.len(), "the server has room for one request");
        }
        while let Some(event) = server.next_event() {
            match event {
                Event::Open { .. } => server.answer_open(Ok(Export::new(SIZE))),
                Event::Request(request) => assert!(server.complete(request.key, Completion::Done)),
                Event::List | Event::Disconnect => unreachable!("the client writes"),
            }
        }
        for piece in server.take_output() {
            client.receive(&piece);
        }
        while let Some(event) = client.next_event() {
            match event {
                ClientEvent::Ready(_) => {}
                ClientEvent::Reply { result, .. } => {
                    assert!(result.is_ok(), "a write succeeds");
                    answered += 1;
                }
                ClientEvent::Failed(error) => panic!("the connection failed: {error}"),
            }
        }
        if sent == answered {
            let offset = sent % BLOCKS * BLOCK_SIZE as u64;
            let write = ClientRequest::Write { offset, data: data.clone(), fua: false };
            sent += u64::from(client.request(write).is_ok());
        }
    }
}
