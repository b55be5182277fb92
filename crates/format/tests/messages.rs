//! Messages, shard messages and configurations: identity of encode and decode, and hostile bytes.
#![allow(missing_docs)]

mod common;

use bytes::Bytes;
use common::{body, concat, cut, draft, messages, region, shard_messages};
use holdfast_format::message::{
    BeatVolume, Message, NoRegions, NotHeld, Region, RegionQuery, ShardMessage, SumNode, TailReport,
};
use holdfast_format::{DecodeError, Record, RecordHeader, RecordKind, decode_configuration, encode_configuration};
use holdfast_types::{
    BlockIndex, Configuration, Epoch, EpochTable, Incarnation, Lsn, MAX_EPOCH_TABLE, Member, NodeId, RegionIndex,
    VolumeId,
};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

fn epoch() -> impl Strategy<Value = Epoch> {
    any::<u64>().prop_map(Epoch)
}

fn lsn() -> impl Strategy<Value = Lsn> {
    any::<u64>().prop_map(Lsn)
}

fn tables() -> impl Strategy<Value = EpochTable> {
    let steps = vec((1..1u64 << 50, 1..1u64 << 50), 0..=MAX_EPOCH_TABLE);
    steps.prop_map(|steps| {
        let sum = |s: &mut (u64, u64), step: (u64, u64)| {
            *s = (s.0 + step.0, s.1 + step.1);
            Some((Epoch(s.0), Lsn(s.1)))
        };
        EpochTable::new(steps.into_iter().scan((0, 0), sum).collect()).expect("sums of positive steps increase")
    })
}

fn configurations() -> impl Strategy<Value = Configuration> {
    let members = btree_map(1u64.., any::<u64>(), 1..=7usize);
    (members, any::<prop::sample::Index>(), 0u64.., any::<u8>()).prop_map(|(members, primary, epoch, w)| {
        let member = |(n, i)| Member { node: NodeId(n), incarnation: Incarnation(i) };
        let members: Vec<Member> = members.into_iter().map(member).collect();
        let n = u8::try_from(members.len()).expect("seven at most");
        let majority = n / 2 + 1;
        let write_quorum = majority + w % (n - majority + 1);
        let primary = (epoch > 0).then(|| primary.get(&members).node);
        Configuration { epoch: Epoch(epoch), primary, members, write_quorum }
    })
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    use RecordKind::{Discard, EpochStart, Resize, Write, WriteZeroes};
    let kinds = [Write, WriteZeroes, Discard, EpochStart, Resize];
    let one = (prop::sample::select(kinds.to_vec()), 1u64.., 1..3usize, any::<u64>());
    let record = one.prop_map(|(kind, lsn, blocks, seed)| {
        let body = match kind {
            RecordKind::Write => body(blocks, seed),
            RecordKind::WriteZeroes => Bytes::new(),
            RecordKind::Discard => body(blocks - 1, seed),
            RecordKind::EpochStart | RecordKind::Resize => Bytes::copy_from_slice(&seed.to_le_bytes()),
        };
        let draft = draft(kind, lsn.min(1 << 50), body);
        Record::seal(draft)
    });
    vec(record, 0..4)
}

fn reports() -> impl Strategy<Value = TailReport> {
    let numbers = any::<[u64; 8]>();
    (numbers, tables(), prop::option::of(lsn())).prop_map(|([i, e, l, h, c, a, f, g], table, unknown_to)| TailReport {
        incarnation: Incarnation(i),
        last_epoch: Epoch(e),
        last: Lsn(l),
        last_hash: h,
        table,
        committed: Lsn(c),
        applied: Lsn(a),
        first: Lsn(f),
        unknown_to,
        forgot: Epoch(g),
    })
}

fn queries() -> impl Strategy<Value = RegionQuery> {
    let held = btree_map(0u64..1 << 30, 1u64.., 0..20usize);
    (held, any::<u64>()).prop_map(|(held, after)| RegionQuery {
        from: RegionIndex(0),
        end: RegionIndex(1 << 30),
        after: Lsn(after),
        held: held.into_iter().map(|(region, lsn)| (RegionIndex(region), Lsn(lsn))).collect(),
    })
}

fn regions() -> impl Strategy<Value = Vec<Region>> {
    let some = btree_map(0u64..1 << 30, (1u64.., 0u64..1000), 0..4usize);
    some.prop_map(|some| some.into_iter().map(|(index, (lsn, seed))| region(index, lsn, seed)).collect())
}

fn any_message() -> impl Strategy<Value = Message> {
    prop_oneof![
        epoch().prop_map(|base| Message::PreClaim { base }),
        (epoch(), any::<bool>()).prop_map(|(base, yes)| Message::PreClaimReply { base, yes }),
        (epoch(), epoch()).prop_map(|(epoch, base)| Message::Fence { epoch, base }),
        (epoch(), reports()).prop_map(|(epoch, report)| Message::Tail { epoch, report }),
        (epoch(), epoch()).prop_map(|(epoch, promised)| Message::Reject { epoch, promised }),
        (epoch(), lsn(), lsn()).prop_map(|(epoch, from, to)| Message::FetchLog { epoch, from, to }),
        (epoch(), lsn(), records()).prop_map(|(epoch, from, records)| Message::LogPart { epoch, from, records }),
        (epoch(), tables(), lsn()).prop_map(|(epoch, table, last)| Message::Adopt { epoch, table, last }),
        (epoch(), lsn(), records()).prop_map(|(epoch, committed, records)| Message::Append {
            epoch,
            committed,
            records
        }),
        (epoch(), any::<[u64; 3]>()).prop_map(|(epoch, [r, d, c])| Message::AppendAck {
            epoch,
            received: Lsn(r),
            durable: Lsn(d),
            checkpoint: Lsn(c)
        }),
        (epoch(), lsn()).prop_map(|(epoch, expected)| Message::Gap { epoch, expected }),
        (epoch(), lsn()).prop_map(|(epoch, last)| Message::Release { epoch, last }),
        any::<u64>().prop_map(|block| Message::FetchBlock { block: BlockIndex(block) }),
        (any::<u64>(), any::<u64>(), any::<bool>()).prop_map(|(block, seed, some)| Message::Block {
            block: BlockIndex(block),
            data: some.then(|| body(1, seed)),
        }),
        any_comparison(),
    ]
}

fn any_comparison() -> impl Strategy<Value = Message> {
    let node = (1..=SumNode::TOP, any::<u64>()).prop_map(|(level, index)| SumNode { level, index });
    let none = prop::sample::select(vec![NotHeld::Passed, NotHeld::Pressed, NotHeld::Stranger]);
    let found = prop_oneof![any::<u64>().prop_map(Ok), none.prop_map(Err)];
    prop_oneof![
        (epoch(), any::<u64>(), lsn()).prop_map(|(epoch, run, at)| Message::Hold { epoch, run, at }),
        (any::<u64>(), lsn(), found).prop_map(|(run, at, found)| Message::Held { run, at, found }),
        (any::<u64>(), node.clone()).prop_map(|(run, node)| Message::FetchSums { run, node }),
        (any::<u64>(), node, vec(any::<u64>(), 0..=256)).prop_map(|(run, node, sums)| Message::Sums {
            run,
            node,
            sums
        }),
        any::<u64>().prop_map(|run| Message::GoOn { run }),
        (epoch(), lsn(), any::<u64>()).prop_map(|(epoch, applied, digest)| Message::Proof { epoch, applied, digest }),
        (epoch(), lsn()).prop_map(|(epoch, at)| Message::DigestAt { epoch, at }),
        (epoch(), lsn(), any::<u64>()).prop_map(|(epoch, at, digest)| Message::Digest { epoch, at, digest }),
        (epoch(), tables(), lsn(), lsn()).prop_map(|(epoch, table, last, base)| Message::NeedRegions {
            epoch,
            table,
            last,
            base
        }),
        (epoch(), any::<u64>(), queries()).prop_map(|(epoch, request, query)| Message::FetchRegions {
            epoch,
            request,
            query
        }),
        (epoch(), any::<[u64; 2]>(), prop::option::of(any::<u64>()), any::<bool>(), regions()).prop_map(
            |(epoch, [request, total], next, last, regions)| Message::Regions {
                epoch,
                request,
                cut: cut(),
                next: next.map(RegionIndex),
                total,
                last,
                regions,
            }
        ),
        (
            epoch(),
            any::<u64>(),
            prop_oneof![
                Just(NoRegions::Busy),
                Just(NoRegions::Behind),
                any::<u64>().prop_map(|b| NoRegions::Damaged(BlockIndex(b)))
            ]
        )
            .prop_map(|(epoch, request, why)| Message::NoRegions { epoch, request, why }),
    ]
}

fn any_shard_message() -> impl Strategy<Value = ShardMessage> {
    let beat = any::<[u64; 4]>().prop_map(|[v, e, c, t]| BeatVolume {
        volume: VolumeId(v),
        epoch: Epoch(e),
        committed: Lsn(c),
        trim: Lsn(t),
    });
    prop_oneof![
        (any::<u64>(), vec(beat, 0..50)).prop_map(|(seq, volumes)| ShardMessage::Beat { seq, volumes }),
        (any::<u64>(), vec(any::<u64>().prop_map(VolumeId), 0..50))
            .prop_map(|(seq, refused)| ShardMessage::BeatAck { seq, refused }),
    ]
}

/// Whatever decodes is exactly what would be encoded: no two byte strings mean the same.
fn decode_everything(bytes: &[u8]) {
    if let Some(header) = RecordHeader::decode(bytes) {
        assert_eq!(header.encode(), bytes);
    }
    if let Ok(message) = Message::decode(Bytes::copy_from_slice(bytes)) {
        assert_eq!(concat(&message.encode()), bytes);
    }
    if let Ok(message) = ShardMessage::decode(bytes) {
        assert_eq!(message.encode(), bytes);
    }
    if let Ok(configuration) = decode_configuration(bytes) {
        assert_eq!(encode_configuration(&configuration), bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_message_comes_back(message in any_message()) {
        let decoded = Message::decode(concat(&message.encode()));
        prop_assert_eq!(format!("{decoded:?}"), format!("Ok({message:?})"));
        prop_assert_eq!(decoded, Ok(message));
    }

    #[test]
    fn a_shard_message_comes_back(message in any_shard_message()) {
        prop_assert_eq!(ShardMessage::decode(&message.encode()), Ok(message));
    }

    #[test]
    fn a_configuration_comes_back(configuration in configurations()) {
        prop_assert_eq!(decode_configuration(&encode_configuration(&configuration)), Ok(configuration));
    }

    #[test]
    fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..600)) {
        decode_everything(&bytes);
    }

    /// Hostile, not only damaged: the CRC fits.
    #[test]
    fn edited_heads_with_a_fitting_crc_never_panic(
        pick in any::<prop::sample::Index>(), edits in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let all = common::encodings();
        let (_, _, encoding) = pick.get(&all);
        let mut bytes = encoding.to_vec();
        // Bodies follow the CRC only in messages with records; there the edit is just damage.
        let end = bytes.len() - 4;
        edits.iter().for_each(|(at, byte)| bytes[at.index(end)] = *byte);
        let crc = crc32fast::hash(&bytes[..end]);
        bytes[end..].copy_from_slice(&crc.to_le_bytes());
        decode_everything(&bytes);
    }

    #[test]
    fn a_flipped_bit_is_an_error(message in any_message(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut bytes = concat(&message.encode()).to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(Message::decode(bytes.into()).is_err());
    }

    #[test]
    fn a_cut_message_is_an_error(message in any_message(), at in any::<prop::sample::Index>()) {
        let bytes = concat(&message.encode());
        prop_assert!(Message::decode(bytes.slice(..at.index(bytes.len()))).is_err());
    }

    #[test]
    fn a_damaged_shard_message_is_an_error(
        message in any_shard_message(), at in any::<prop::sample::Index>(), bit in 0..8u8,
    ) {
        let mut bytes = message.encode().to_vec();
        let at = at.index(bytes.len());
        prop_assert!(ShardMessage::decode(&bytes[..at]).is_err());
        bytes[at] ^= 1 << bit;
        prop_assert!(ShardMessage::decode(&bytes).is_err());
    }
}

#[test]
fn every_kind_comes_back_and_every_flip_and_cut_is_an_error() {
    for (name, message) in messages() {
        let bytes = concat(&message.encode());
        assert_eq!(Message::decode(bytes.clone()).as_ref(), Ok(&message), "{name}");
        let bits = if bytes.len() < 2000 { bytes.len() * 8 } else { 0 };
        for bit in 0..bits {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Message::decode(flipped.into()).is_err(), "{name}: bit {bit}");
        }
        (0..bytes.len()).for_each(|at| assert!(Message::decode(bytes.slice(..at)).is_err(), "{name}: cut at {at}"));
    }
    for (name, message) in shard_messages() {
        assert_eq!(ShardMessage::decode(&message.encode()), Ok(message), "{name}");
    }
}

#[test]
fn bodies_are_not_copied() {
    let record = Record::seal(draft(RecordKind::Write, 3, body(2, 1)));
    let pieces = Message::Append { epoch: Epoch(4), committed: Lsn(1), records: vec![record.clone()] }.encode();
    assert_eq!(pieces.len(), 2);
    assert_eq!(pieces[1].as_ptr(), record.body().as_ptr());

    let received = concat(&pieces);
    let Ok(Message::Append { records, .. }) = Message::decode(received.clone()) else { panic!("an append comes back") };
    assert_eq!(records[0].body().as_ptr(), received[pieces[0].len()..].as_ptr());
}

#[test]
fn errors_name_what_is_wrong() {
    let good = concat(&Message::PreClaim { base: Epoch(1) }.encode());
    let with = |at: usize, byte: u8| {
        let mut bytes = good.to_vec();
        bytes[at] = byte;
        Message::decode(bytes.into()).expect_err("an edited byte is an error")
    };
    assert!(matches!(with(0, b'X'), DecodeError::Magic { .. }));
    assert!(matches!(with(4, 9), DecodeError::Version { expected: 1, found: 9, .. }));
    assert!(matches!(with(6, 99), DecodeError::Field { field: "the kind", .. }));
    assert!(matches!(with(17, 1), DecodeError::Checksum { .. }));
    let longer = Bytes::from([&good[..], &[0]].concat());
    assert!(matches!(Message::decode(longer), Err(DecodeError::Trailing { extra: 1, .. })));

    let append = Message::Append { epoch: Epoch(4), committed: Lsn(1), records: common::records() };
    let mut bytes = concat(&append.encode()).to_vec();
    *bytes.last_mut().expect("a message has bytes") ^= 1;
    assert_eq!(Message::decode(bytes.into()), Err(DecodeError::Record { index: 3 }));
}

#[test]
fn a_claimed_count_allocates_nothing() {
    let mut bytes = concat(&Message::Append { epoch: Epoch(4), committed: Lsn(1), records: vec![] }.encode()).to_vec();
    bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(Message::decode(bytes.into()), Err(DecodeError::Truncated { needed, .. }) if needed > 1 << 38));
}

#[test]
fn configurations_that_no_copy_acts_on_are_errors() {
    let good = common::configuration();
    let encode = |c: &Configuration| {
        // By hand: the encoder refuses what the decoder has to refuse.
        let mut out = b"HFCF\x01\0".to_vec();
        out.extend([c.write_quorum, u8::try_from(c.members.len()).expect("few members")]);
        let ids = c.members.iter().flat_map(|m| [m.node.0, m.incarnation.0]);
        let numbers = [c.epoch.0, c.primary.map_or(0, |p| p.0)].into_iter().chain(ids);
        out.extend(numbers.flat_map(u64::to_le_bytes));
        let crc = crc32fast::hash(&out);
        [out, crc.to_le_bytes().to_vec()].concat()
    };
    assert_eq!(decode_configuration(&encode(&good)), Ok(good.clone()));
    let refused = |edit: &dyn Fn(&mut Configuration)| {
        let mut c = good.clone();
        edit(&mut c);
        assert!(matches!(decode_configuration(&encode(&c)), Err(DecodeError::Field { .. })), "{c:?}");
    };
    refused(&|c| c.write_quorum = 0);
    refused(&|c| c.write_quorum = 4);
    refused(&|c| {
        (c.members, c.write_quorum) = ((1..=4).map(|n| Member { node: NodeId(n), ..c.members[0] }).collect(), 2)
    });
    refused(&|c| c.members.swap(0, 1));
    refused(&|c| c.members[1] = c.members[0]);
    refused(&|c| c.members[0].node = NodeId(0));
    refused(&|c| c.members.clear());
    refused(&|c| c.primary = None);
    refused(&|c| c.primary = Some(NodeId(9)));
    refused(&|c| c.epoch = Epoch::ZERO);
    refused(&|c| {
        let member = |n| Member { node: NodeId(n), incarnation: Incarnation(n) };
        (c.members, c.write_quorum) = ((1..=8).map(member).collect(), 5);
    });
}
