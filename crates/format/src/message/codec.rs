//! Bytes of messages (docs/FORMAT.md, "Messages").
//!
//! A message is a head and the bodies of its records, one after another. The head holds everything else, record
//! headers included, and ends with its CRC; each body has its checksum in its record's header. So encoding copies no
//! body, and decoding hands out slices of what was received.

use super::{BeatVolume, Message, NotHeld, ShardMessage, SumNode, TailReport, regions};
use crate::reader::{Prelude, Reader, put_count, put_crc, put_u64s, u64_of};
use crate::{DecodeError, Record, RecordHeader, block_checksum};
use bytes::Bytes;
use holdfast_types::{BLOCK_SIZE, BlockIndex, Epoch, EpochTable, Incarnation, Lsn, VolumeId};

pub(super) const MESSAGE: Prelude = Prelude { what: "message", magic: u32::from_le_bytes(*b"HFMS"), version: 1 };
const SHARD_MESSAGE: Prelude = Prelude { what: "shard message", magic: u32::from_le_bytes(*b"HFSM"), version: 1 };
/// Prelude, kind, reserved byte, two counts.
const FIXED: usize = 16;
/// The kind that carries a block of an image.
const BLOCK: u8 = 14;
/// The kind that carries sums of a digest tree.
const SUMS: u8 = 18;
const TABLE_ENTRY: usize = 16;
const BEAT_VOLUME: usize = 32;
const CRC: usize = 4;

/// What a message is made of, whatever its kind.
struct Parts<'a> {
    kind: u8,
    fields: Vec<u64>,
    table: Option<&'a EpochTable>,
    records: &'a [Record],
    block: Option<&'a Bytes>,
    sums: &'a [u64],
}

impl Message {
    /// The message's bytes, as pieces to be sent one after another: the head, then each body that is not empty.
    #[must_use]
    pub fn encode(&self) -> Vec<Bytes> {
        if let Some(pieces) = regions::encode(self) {
            return pieces;
        }
        let Parts { kind, fields, table, records, block, sums } = self.parts();
        let entries = table.map_or(&[][..], EpochTable::entries);
        let lists = 8 * sums.len() + TABLE_ENTRY * entries.len() + RecordHeader::LEN * records.len();
        let len = FIXED + 8 * fields.len() + lists + CRC;
        let mut head = Vec::with_capacity(len);
        MESSAGE.write(&mut head);
        head.extend([kind, 0]);
        put_count(&mut head, entries.len() + sums.len());
        put_count(&mut head, records.len());
        put_u64s(&mut head, &fields);
        put_u64s(&mut head, sums);
        entries.iter().for_each(|(epoch, start)| put_u64s(&mut head, &[epoch.0, start.0]));
        records.iter().for_each(|r| head.extend_from_slice(&r.header().encode()));
        put_crc(&mut head);
        assert_eq!(head.len(), len, "the head has the length that was reserved for it");
        let bodies = records.iter().map(Record::body).filter(|b| !b.is_empty()).cloned();
        std::iter::once(Bytes::from(head)).chain(bodies).chain(block.cloned()).collect()
    }

    /// Reads a message. Bodies are slices of `bytes`, and every record was verified.
    ///
    /// Whether the records continue the receiver's log is for the receiver to say.
    ///
    /// # Errors
    /// Bytes that `encode` did not make; one bad record makes the whole message bad.
    #[expect(clippy::needless_pass_by_value, reason = "the buffer is given away: bodies keep it alive")]
    pub fn decode(bytes: Bytes) -> Result<Message, DecodeError> {
        let mut r = Reader::new(&MESSAGE, &bytes)?;
        let kind = r.u8()?;
        r.zero()?;
        let (entries, records) = (r.u32()?, r.u32()?);
        if kind == BLOCK && (entries, records) == (0, 0) {
            return read_block(r, &bytes);
        }
        if kind == SUMS {
            return read_sums(r, entries, records);
        }
        if let regions::FETCH_REGIONS | regions::REGIONS | regions::NO_REGIONS = kind {
            return regions::decode(kind, r, entries, records, &bytes);
        }
        let fields = read_fields(kind, &mut r)?;
        let table = r.entries(entries, TABLE_ENTRY)?;
        let headers = r.entries(records, RecordHeader::LEN)?;
        r.crc()?;
        if (entries > 0 && !fields.may_have_table()) || (records > 0 && !fields.may_have_records()) {
            return Err(r.field("a list that this kind has not"));
        }
        let table = table.map(|e| (Epoch(u64_of(e)), Lsn(u64_of(&e[8..])))).collect();
        let table = EpochTable::new(table).map_err(|_| r.field("the epoch table"))?;
        let at = r.position();
        let records = read_records(headers, bytes.slice(at..))?;
        Ok(fields.with(table, records))
    }

    fn parts(&self) -> Parts<'_> {
        let plain = |kind, fields: &[u64]| Parts {
            kind,
            fields: fields.to_vec(),
            table: None,
            records: &[],
            block: None,
            sums: &[],
        };
        match self {
            Message::PreClaim { base } => plain(1, &[base.0]),
            Message::PreClaimReply { base, yes } => plain(2, &[base.0, u64::from(*yes)]),
            Message::Fence { epoch, base } => plain(3, &[epoch.0, base.0]),
            Message::Tail { epoch, report } => {
                let t = report;
                let (known, unknown) = t.unknown_to.map_or((0, 0), |lsn| (1, lsn.0));
                let (inc, last) = (t.incarnation.0, [t.last_epoch.0, t.last.0, t.last_hash]);
                let rest = [t.committed.0, t.applied.0, t.first.0, known, unknown, t.forgot.0];
                let fields = [&[epoch.0, inc][..], &last, &rest].concat();
                Parts { table: Some(&t.table), ..plain(4, &fields) }
            }
            Message::Reject { epoch, promised } => plain(5, &[epoch.0, promised.0]),
            Message::FetchLog { epoch, from, to } => plain(6, &[epoch.0, from.0, to.0]),
            Message::LogPart { epoch, from, records } => Parts { records, ..plain(7, &[epoch.0, from.0]) },
            Message::Adopt { epoch, table, last } => Parts { table: Some(table), ..plain(8, &[epoch.0, last.0]) },
            Message::Append { epoch, committed, records } => Parts { records, ..plain(9, &[epoch.0, committed.0]) },
            Message::AppendAck { epoch, received, durable, checkpoint } => {
                plain(10, &[epoch.0, received.0, durable.0, checkpoint.0])
            }
            Message::Gap { epoch, expected } => plain(11, &[epoch.0, expected.0]),
            Message::Release { epoch, last } => plain(12, &[epoch.0, last.0]),
            Message::DigestAt { epoch, at } => plain(21, &[epoch.0, at.0]),
            Message::Digest { epoch, at, digest } => plain(22, &[epoch.0, at.0, *digest]),
            Message::FetchBlock { block } => plain(13, &[block.0]),
            Message::NeedRegions { epoch, table, last, base } => {
                Parts { table: Some(table), ..plain(23, &[epoch.0, last.0, base.0]) }
            }
            Message::FetchRegions { .. } | Message::Regions { .. } | Message::NoRegions { .. } => {
                unreachable!("regions have an encoding of their own")
            }
            Message::Block { block, data } => {
                let sum = data.as_ref().map_or(0, |data| block_checksum(*block, data));
                Parts { block: data.as_ref(), ..plain(BLOCK, &[block.0, sum]) }
            }
            Message::Hold { epoch, run, at } => plain(15, &[epoch.0, *run, at.0]),
            Message::Held { run, at, found } => {
                let (outcome, digest) = match found {
                    Ok(digest) => (0, *digest),
                    Err(NotHeld::Passed) => (1, 0),
                    Err(NotHeld::Pressed) => (2, 0),
                    Err(NotHeld::Stranger) => (3, 0),
                };
                plain(16, &[*run, at.0, outcome, digest])
            }
            Message::FetchSums { run, node } => plain(17, &[*run, u64::from(node.level), node.index]),
            Message::Sums { run, node, sums } => {
                Parts { sums, ..plain(SUMS, &[*run, u64::from(node.level), node.index]) }
            }
            Message::GoOn { run } => plain(19, &[*run]),
            Message::Proof { epoch, applied, digest } => plain(20, &[epoch.0, applied.0, *digest]),
        }
    }

    const fn may_have_table(&self) -> bool {
        matches!(self, Message::Tail { .. } | Message::Adopt { .. } | Message::NeedRegions { .. })
    }

    const fn may_have_records(&self) -> bool {
        matches!(self, Message::LogPart { .. } | Message::Append { .. })
    }

    /// Puts the lists into a message that was read without them.
    fn with(mut self, new_table: EpochTable, new_records: Vec<Record>) -> Message {
        match &mut self {
            Message::Tail { report, .. } => report.table = new_table,
            Message::Adopt { table, .. } | Message::NeedRegions { table, .. } => *table = new_table,
            Message::LogPart { records, .. } | Message::Append { records, .. } => *records = new_records,
            _ => assert!(new_table.entries().is_empty() && new_records.is_empty(), "a kind without lists has none"),
        }
        self
    }
}

/// Two messages are equal if their bytes are: a record is what its header and its body say.
impl PartialEq for Message {
    fn eq(&self, other: &Message) -> bool {
        self.encode() == other.encode()
    }
}

impl Eq for Message {}

/// The message without its lists.
fn read_fields(kind: u8, r: &mut Reader<'_>) -> Result<Message, DecodeError> {
    let table = EpochTable::default();
    let records = Vec::new();
    Ok(match kind {
        1 => Message::PreClaim { base: epoch(r)? },
        2 => Message::PreClaimReply { base: epoch(r)?, yes: r.flag("the answer")? },
        3 => Message::Fence { epoch: epoch(r)?, base: epoch(r)? },
        4 => Message::Tail { epoch: epoch(r)?, report: read_report(r)? },
        5 => Message::Reject { epoch: epoch(r)?, promised: epoch(r)? },
        6 => Message::FetchLog { epoch: epoch(r)?, from: lsn(r)?, to: lsn(r)? },
        7 => Message::LogPart { epoch: epoch(r)?, from: lsn(r)?, records },
        8 => Message::Adopt { epoch: epoch(r)?, table, last: lsn(r)? },
        9 => Message::Append { epoch: epoch(r)?, committed: lsn(r)?, records },
        10 => Message::AppendAck { epoch: epoch(r)?, received: lsn(r)?, durable: lsn(r)?, checkpoint: lsn(r)? },
        11 => Message::Gap { epoch: epoch(r)?, expected: lsn(r)? },
        12 => Message::Release { epoch: epoch(r)?, last: lsn(r)? },
        21 => Message::DigestAt { epoch: epoch(r)?, at: lsn(r)? },
        22 => Message::Digest { epoch: epoch(r)?, at: lsn(r)?, digest: r.u64()? },
        13 => Message::FetchBlock { block: BlockIndex(r.u64()?) },
        15 => Message::Hold { epoch: epoch(r)?, run: r.u64()?, at: lsn(r)? },
        16 => Message::Held { run: r.u64()?, at: lsn(r)?, found: read_found(r)? },
        17 => Message::FetchSums { run: r.u64()?, node: sum_node(r)? },
        19 => Message::GoOn { run: r.u64()? },
        20 => Message::Proof { epoch: epoch(r)?, applied: lsn(r)?, digest: r.u64()? },
        23 => Message::NeedRegions { epoch: epoch(r)?, table, last: lsn(r)?, base: lsn(r)? },
        _ => return Err(r.field("the kind")),
    })
}

fn read_report(r: &mut Reader<'_>) -> Result<TailReport, DecodeError> {
    // Fields of a struct literal are evaluated in the order in which they are written: that of the layout.
    let report = TailReport {
        incarnation: Incarnation(r.u64()?),
        last_epoch: epoch(r)?,
        last: lsn(r)?,
        last_hash: r.u64()?,
        table: EpochTable::default(),
        committed: lsn(r)?,
        applied: lsn(r)?,
        first: lsn(r)?,
        unknown_to: None,
        forgot: Epoch::ZERO,
    };
    let unknown_to = match (r.flag("the presence of unknown_to")?, r.u64()?) {
        (true, lsn) => Some(Lsn(lsn)),
        (false, 0) => None,
        (false, _) => return Err(r.field("unknown_to")),
    };
    Ok(TailReport { unknown_to, forgot: epoch(r)?, ..report })
}

fn read_found(r: &mut Reader<'_>) -> Result<Result<u64, NotHeld>, DecodeError> {
    let (outcome, digest) = (r.u64()?, r.u64()?);
    Ok(match (outcome, digest) {
        (0, digest) => Ok(digest),
        (1, 0) => Err(NotHeld::Passed),
        (2, 0) => Err(NotHeld::Pressed),
        (3, 0) => Err(NotHeld::Stranger),
        _ => return Err(r.field("the outcome")),
    })
}

fn sum_node(r: &mut Reader<'_>) -> Result<SumNode, DecodeError> {
    let (level, index) = (r.u64()?, r.u64()?);
    let level = u8::try_from(level).ok().filter(|level| (1..=SumNode::TOP).contains(level));
    Ok(SumNode { level: level.ok_or_else(|| r.field("the level"))?, index })
}

fn read_sums(mut r: Reader<'_>, sums: u32, records: u32) -> Result<Message, DecodeError> {
    let (run, node) = (r.u64()?, sum_node(&mut r)?);
    if records > 0 || u64::from(sums) > SumNode::FAN {
        return Err(r.field("the number of sums"));
    }
    let sums = r.entries(sums, 8)?.map(u64_of).collect();
    r.crc()?;
    r.end()?;
    Ok(Message::Sums { run, node, sums })
}

/// A block with its checksum, which is never 0: 0 says that there is none.
fn read_block(mut r: Reader<'_>, bytes: &Bytes) -> Result<Message, DecodeError> {
    let (block, sum) = (BlockIndex(r.u64()?), r.u64()?);
    r.crc()?;
    if sum == 0 {
        r.end()?;
        return Ok(Message::Block { block, data: None });
    }
    let at = r.position();
    let content = r.take(BLOCK_SIZE)?;
    r.end()?;
    if block_checksum(block, content) != sum {
        return Err(DecodeError::Checksum { what: "block" });
    }
    Ok(Message::Block { block, data: Some(bytes.slice(at..at + BLOCK_SIZE)) })
}

/// Cuts `bodies` as the headers say, and verifies each.
fn read_records(headers: std::slice::ChunksExact<'_, u8>, mut bodies: Bytes) -> Result<Vec<Record>, DecodeError> {
    let mut records = Vec::with_capacity(headers.len());
    for (index, header) in (0u64..).zip(headers) {
        let damaged = DecodeError::Record { index };
        let header = RecordHeader::decode(header).ok_or(damaged)?;
        let len = usize::try_from(header.body_len).map_err(|_| damaged)?;
        if len > bodies.len() {
            let (needed, found) = (u64::from(header.body_len), bodies.len() as u64);
            return Err(DecodeError::Truncated { what: "record body", needed, found });
        }
        records.push(Record::verify(header, bodies.split_to(len)).ok_or(damaged)?);
    }
    match bodies.len() {
        0 => Ok(records),
        extra => Err(DecodeError::Trailing { what: MESSAGE.what, extra: extra as u64 }),
    }
}

fn epoch(r: &mut Reader<'_>) -> Result<Epoch, DecodeError> {
    r.u64().map(Epoch)
}

fn lsn(r: &mut Reader<'_>) -> Result<Lsn, DecodeError> {
    r.u64().map(Lsn)
}

impl ShardMessage {
    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (kind, seq, count) = match self {
            ShardMessage::Beat { seq, volumes } => (1, *seq, volumes.len()),
            ShardMessage::BeatAck { seq, refused } => (2, *seq, refused.len()),
        };
        let mut out = Vec::with_capacity(FIXED + 8 + BEAT_VOLUME * count + CRC);
        SHARD_MESSAGE.write(&mut out);
        out.extend([kind, 0]);
        put_count(&mut out, count);
        put_u64s(&mut out, &[seq]);
        match self {
            ShardMessage::Beat { volumes, .. } => {
                volumes.iter().for_each(|v| put_u64s(&mut out, &[v.volume.0, v.epoch.0, v.committed.0, v.trim.0]));
            }
            ShardMessage::BeatAck { refused, .. } => refused.iter().for_each(|v| put_u64s(&mut out, &[v.0])),
        }
        put_crc(&mut out);
        out.into()
    }

    /// Reads a message.
    ///
    /// # Errors
    /// Bytes that `encode` did not make.
    pub fn decode(bytes: &[u8]) -> Result<ShardMessage, DecodeError> {
        let mut r = Reader::new(&SHARD_MESSAGE, bytes)?;
        let kind = r.u8()?;
        r.zero()?;
        let (count, seq) = (r.u32()?, r.u64()?);
        let message = match kind {
            1 => {
                let volumes = r.entries(count, BEAT_VOLUME)?.map(read_beat_volume).collect();
                ShardMessage::Beat { seq, volumes }
            }
            2 => {
                let refused = r.entries(count, 8)?.map(|e| VolumeId(u64_of(e))).collect();
                ShardMessage::BeatAck { seq, refused }
            }
            _ => return Err(r.field("the kind")),
        };
        r.crc()?;
        r.end()?;
        Ok(message)
    }
}

fn read_beat_volume(entry: &[u8]) -> BeatVolume {
    BeatVolume {
        volume: VolumeId(u64_of(entry)),
        epoch: Epoch(u64_of(&entry[8..])),
        committed: Lsn(u64_of(&entry[16..])),
        trim: Lsn(u64_of(&entry[24..])),
    }
}
