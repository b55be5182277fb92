//! Values that the tests of the formats share.
#![allow(dead_code, missing_docs, unreachable_pub)]

use bytes::Bytes;
use holdfast_format::message::{
    BeatVolume, Message, NoRegions, NotHeld, Region, RegionCut, RegionQuery, ShardMessage, SumNode, TailReport,
};
use holdfast_format::{Draft, Record, RecordHeader, RecordKind, TableSums, block_checksum, encode_configuration};
use holdfast_types::{
    BLOCK_SIZE, BlockIndex, BlockRange, Configuration, Epoch, EpochTable, Incarnation, Lsn, Member, NodeId,
    REGION_BLOCKS, RegionIndex, VolumeId, VolumeSize,
};

pub fn concat(pieces: &[Bytes]) -> Bytes {
    pieces.concat().into()
}

pub fn configuration() -> Configuration {
    let member = |n| Member { node: NodeId(n), incarnation: Incarnation(0x1111_2222_3333_0000 + n) };
    let members = vec![member(1), member(2), member(5)];
    Configuration { epoch: Epoch(4), primary: Some(NodeId(2)), members, write_quorum: 2 }
}

pub fn table(entries: &[(u64, u64)]) -> EpochTable {
    EpochTable::new(entries.iter().map(|&(e, l)| (Epoch(e), Lsn(l))).collect()).expect("entries increase")
}

/// `blocks` blocks, no two alike.
pub fn body(blocks: usize, seed: u64) -> Bytes {
    let word = |i: u64| (seed ^ i).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
    (0..(blocks * BLOCK_SIZE / 8) as u64).flat_map(word).collect::<Vec<u8>>().into()
}

pub fn draft(kind: RecordKind, lsn: u64, body: Bytes) -> Draft {
    let edges = u64::from(kind == RecordKind::Discard);
    let tebibyte = (1 << 40) / BLOCK_SIZE as u64;
    let range = match kind {
        RecordKind::Write => BlockRange::new(10, (body.len() / BLOCK_SIZE) as u64),
        RecordKind::EpochStart => BlockRange::default(),
        RecordKind::Resize => BlockRange::new(10 * tebibyte, 54 * tebibyte),
        _ => BlockRange::new(32, 8 + edges),
    };
    let (head, tail) = (!body.is_empty() && kind == RecordKind::Discard, false);
    let (volume, epoch, prev_hash) = (VolumeId(7), Epoch(4), lsn * 1000);
    Draft { volume, epoch, lsn: Lsn(lsn), prev_hash, committed: Lsn(lsn / 2), kind, head, tail, range, body }
}

/// A resize that cuts off more than any other record may change.
pub fn resize() -> Record {
    Record::seal(draft(RecordKind::Resize, 13, Record::resize_body(2)))
}

/// An epoch start, a write, zeroes without a body, a discard with one edge.
pub fn records() -> Vec<Record> {
    vec![
        Record::seal(draft(RecordKind::EpochStart, 9, encode_configuration(&configuration()))),
        Record::seal(draft(RecordKind::Write, 10, body(1, 1))),
        Record::seal(draft(RecordKind::WriteZeroes, 11, Bytes::new())),
        Record::seal(draft(RecordKind::Discard, 12, body(1, 2))),
    ]
}

pub fn header() -> RecordHeader {
    *records()[1].header()
}

pub fn report() -> TailReport {
    TailReport {
        incarnation: Incarnation(0xABCD),
        last_epoch: Epoch(3),
        last: Lsn(40),
        last_hash: 0x0123_4567_89AB_CDEF,
        table: table(&[(1, 1), (3, 20)]),
        committed: Lsn(38),
        applied: Lsn(30),
        first: Lsn(12),
        unknown_to: Some(Lsn(44)),
        forgot: Epoch(3),
    }
}

/// A region whose blocks are holes, zeros that keep their space, or content, in turn from `seed` on.
pub fn region(index: u64, lsn: u64, seed: u64) -> Region {
    let mut sums = [0; 16];
    let mut data = Vec::new();
    for (i, sum) in (0u64..).zip(&mut sums) {
        *sum = (seed + i) % 3;
        if *sum > 1 {
            let content = body(1, seed ^ i);
            *sum = block_checksum(BlockIndex(index * REGION_BLOCKS + i), &content);
            data.extend_from_slice(&content);
        }
    }
    Region { index: RegionIndex(index), lsn: Lsn(lsn), sums, data: data.into() }
}

pub fn cut() -> RegionCut {
    let sums = TableSums { blocks: 0xB10C, regions: 0x4E67 };
    let size = VolumeSize::new(1 << 40).expect("a size");
    let (at, epoch, hash) = (Lsn(90), Epoch(3), 0x0123_4567_89AB_CDEF);
    RegionCut { at, epoch, hash, sums, size, resized: 4, cut: (Lsn(77), BlockIndex(1 << 20)) }
}

/// One of each kind, with a name for its golden file.
pub fn messages() -> Vec<(&'static str, Message)> {
    let epoch = Epoch(4);
    let records = records();
    let appended = vec![records[0].clone(), records[2].clone()];
    vec![
        ("pre-claim", Message::PreClaim { base: Epoch(3) }),
        ("pre-claim-reply", Message::PreClaimReply { base: Epoch(3), yes: true }),
        ("fence", Message::Fence { epoch, base: Epoch(3) }),
        ("tail", Message::Tail { epoch, report: report() }),
        (
            "tail-empty",
            Message::Tail {
                epoch,
                report: TailReport { unknown_to: None, table: table(&[]), forgot: Epoch(0), ..report() },
            },
        ),
        ("reject", Message::Reject { epoch, promised: Epoch(5) }),
        ("fetch-log", Message::FetchLog { epoch, from: Lsn(9), to: Lsn(12) }),
        ("log-part", Message::LogPart { epoch, from: Lsn(9), records }),
        ("adopt", Message::Adopt { epoch, table: table(&[(1, 1), (3, 20), (4, 41)]), last: Lsn(43) }),
        ("append", Message::Append { epoch, committed: Lsn(8), records: appended }),
        ("append-empty", Message::Append { epoch, committed: Lsn(12), records: vec![] }),
        ("append-ack", Message::AppendAck { epoch, received: Lsn(12), durable: Lsn(11), checkpoint: Lsn(6) }),
        ("gap", Message::Gap { epoch, expected: Lsn(10) }),
        ("release", Message::Release { epoch, last: Lsn(12) }),
        ("fetch-block", Message::FetchBlock { block: BlockIndex(77) }),
        ("block", Message::Block { block: BlockIndex(77), data: Some(Bytes::from(vec![0x5A; 4096])) }),
        ("block-none", Message::Block { block: BlockIndex(77), data: None }),
        ("hold", Message::Hold { epoch, run: 0x5151, at: Lsn(12) }),
        ("held", Message::Held { run: 0x5151, at: Lsn(12), found: Ok(0xD1_6E57) }),
        ("held-not", Message::Held { run: 0x5151, at: Lsn(12), found: Err(NotHeld::Pressed) }),
        ("fetch-sums", Message::FetchSums { run: 0x5151, node: SumNode { level: 2, index: 3 } }),
        ("sums", Message::Sums { run: 0x5151, node: SumNode { level: 2, index: 3 }, sums: vec![9, 0, 77] }),
        ("sums-none", Message::Sums { run: 0x5151, node: SumNode { level: 1, index: 3 }, sums: vec![] }),
        ("go-on", Message::GoOn { run: 0x5151 }),
        ("proof", Message::Proof { epoch, applied: Lsn(12), digest: 0xD1_6E57 }),
        ("digest-at", Message::DigestAt { epoch, at: Lsn(12) }),
        ("digest", Message::Digest { epoch, at: Lsn(12), digest: 0x5AA5_0FF0_1234_5678 }),
        (
            "need-regions",
            Message::NeedRegions { epoch, table: table(&[(1, 1), (4, 41)]), last: Lsn(99), base: Lsn(80) },
        ),
        (
            "fetch-regions",
            Message::FetchRegions {
                epoch,
                request: 5,
                query: RegionQuery {
                    from: RegionIndex(4),
                    end: RegionIndex(512),
                    after: Lsn(30),
                    held: vec![(RegionIndex(4), Lsn(31)), (RegionIndex(9), Lsn(77))],
                },
            },
        ),
        (
            "regions",
            Message::Regions {
                epoch,
                request: 5,
                cut: cut(),
                next: Some(RegionIndex(12)),
                total: 40,
                last: true,
                regions: vec![region(5, 88, 0), region(11, 90, 1)],
            },
        ),
        (
            "regions-none",
            Message::Regions { epoch, request: 6, cut: cut(), next: None, total: 0, last: false, regions: vec![] },
        ),
        ("no-regions", Message::NoRegions { epoch, request: 5, why: NoRegions::Damaged(BlockIndex(77)) }),
    ]
}

pub fn shard_messages() -> Vec<(&'static str, ShardMessage)> {
    let beat = |n| BeatVolume { volume: VolumeId(n), epoch: Epoch(n + 1), committed: Lsn(n * 9), trim: Lsn(n * 2) };
    vec![
        ("beat", ShardMessage::Beat { seq: 77, volumes: vec![beat(3), beat(8)] }),
        ("beat-ack", ShardMessage::BeatAck { seq: 77, refused: vec![VolumeId(8)] }),
    ]
}

/// Every encoding that has a golden file: decoder, name, bytes.
pub fn encodings() -> Vec<(&'static str, &'static str, Bytes)> {
    let mut all = vec![
        ("record_header", "write", Bytes::copy_from_slice(&header().encode())),
        ("record_header", "resize", Bytes::copy_from_slice(&resize().header().encode())),
        ("configuration", "three-members", encode_configuration(&configuration())),
    ];
    all.extend(messages().iter().map(|(name, m)| ("message", *name, concat(&m.encode()))));
    all.extend(shard_messages().iter().map(|(name, m)| ("shard_message", *name, m.encode())));
    all
}
