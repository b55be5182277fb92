//! Reading committed content, verified (S18), and reading records back from the journal.
//!
//! A read takes what the overlay has, zeros where the block table says so, and reads the rest from the image. Each block
//! that comes back is checked against what the block table said when the read was issued: what was there at that time is a
//! right answer, also if it was changed since. If it does not match, the block may have been changed meanwhile: then it is
//! taken anew. If not, it is read once more, and then the read fails: a block that can't be verified never leaves.
//! Where the table is not in memory, that part of the read waits for it.

use crate::api::{LogGone, Output};
use crate::io::{DiskOpKind, FileId};
use crate::merge::Deferred;
use crate::ops::{CopyTag, Cx};
use crate::pages::Wait;
use crate::replica::{Entry, Location, Replica};
use crate::runs::pieces;
use crate::tables::{Seek, by_leaf, entry_slot};
use bytes::Bytes;
use holdfast_format::{
    ALLOCATED_ZEROS, Record, RecordHeader, TableKind, TablePage, block_checksum, padded, zero_block,
};
use holdfast_types::{BLOCK_SIZE, BlockIndex, BlockRange, Lsn, MAX_VOLUME_BYTES, ReadFault, SECTOR_SIZE};
use std::collections::BTreeMap;

const BLOCK: u64 = BLOCK_SIZE as u64;
const MAX_BLOCKS: u64 = MAX_VOLUME_BYTES / BLOCK;
/// How often a block is read whose entry of the table is not in memory when it does not match.
const ATTEMPTS: u32 = 4;

/// Reads of one copy that have not ended.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    next: u64,
    images: BTreeMap<u64, ImageRead>,
    logs: BTreeMap<u64, LogReading>,
}

#[derive(Debug)]
struct ImageRead {
    tag: u64,
    /// First block → content of one or more blocks.
    found: BTreeMap<u64, Bytes>,
    missing: usize,
    corrupt: Option<BlockIndex>,
    /// Holes and zeros are read, too.
    whole: bool,
    /// Block table entries of the blocks being read, as they were when the read was issued.
    expected: BTreeMap<u64, u64>,
}

#[derive(Debug)]
struct LogReading {
    tag: u64,
    from: Lsn,
    parts: Vec<LogPart>,
    missing: usize,
}

#[derive(Debug)]
enum LogPart {
    Here(Record),
    /// To be read, and what is expected.
    Wanted(Location, u64),
    /// Rot.
    Unreadable,
}

impl Reads {
    /// Whether nothing is being read from the image.
    pub(crate) fn no_images(&self) -> bool {
        self.images.is_empty()
    }

    /// The tags of all reads and log reads, taken out: the copy fails or leaves.
    pub(crate) fn take_tags(&mut self) -> (Vec<u64>, Vec<u64>) {
        let images = std::mem::take(&mut self.images).into_values().map(|r| r.tag).collect();
        let logs = std::mem::take(&mut self.logs).into_values().map(|r| r.tag).collect();
        (images, logs)
    }
}

impl ImageRead {
    /// Whether this is what the table said of the block when the read was issued.
    fn expects(&self, block: u64, data: &Bytes) -> bool {
        self.expected.get(&block).is_some_and(|sum| matches_entry(BlockIndex(block), data, *sum))
    }
}

impl Replica {
    /// `whole`: what the block table calls zeros is read from the image, too, and found there or not.
    pub(crate) fn read(&mut self, cx: &mut Cx<'_>, tag: u64, range: BlockRange, whole: bool) {
        // What lies behind the end reads as zeros: the volume may have become smaller since somebody decided to read.
        let inside = !range.is_empty() && range.end().0 <= MAX_BLOCKS;
        assert!(inside, "{}: a read of {range:?} lies in a volume", self.volume);
        if self.is_switching() {
            return self.deferred.push(Deferred::Read { tag, range, whole });
        }
        if whole {
            self.recheck(cx, range);
        }
        let job = self.reads.next;
        self.reads.next += 1;
        let (found, expected) = (BTreeMap::new(), BTreeMap::new());
        let mut read = ImageRead { tag, found, missing: 0, corrupt: None, whole, expected };
        self.take_blocks(cx, job, &mut read, range.start.0, range.end().0, 0);
        self.reads.images.insert(job, read);
        self.finish_read(cx, job);
    }

    /// Takes `[start, end)` from overlay and table; what must come from the image is read, neighbours together.
    fn take_blocks(&mut self, cx: &mut Cx<'_>, job: u64, read: &mut ImageRead, start: u64, end: u64, attempt: u32) {
        let mut at = start;
        let over: Vec<_> = self.overlay.overlapping(start, end).map(|(s, e, record)| (s, e, record.clone())).collect();
        for (s, e, record) in over {
            self.take_leaves(cx, job, read, at, s, attempt);
            for piece in pieces(&record, s, e) {
                match piece.data {
                    Some(data) => drop(read.found.insert(piece.start, data)),
                    None => (piece.start..piece.end).for_each(|b| drop(read.found.insert(b, zero_block()))),
                }
            }
            at = e;
        }
        self.take_leaves(cx, job, read, at, end, attempt);
    }

    /// The same without the overlay. Parts whose leaf of the block table is not here wait for it.
    fn take_leaves(&mut self, cx: &mut Cx<'_>, job: u64, read: &mut ImageRead, start: u64, end: u64, attempt: u32) {
        for (from, to) in by_leaf(start, end) {
            let wait = Wait::Read { job, start: from, end: to, attempt };
            if self.leaf(cx, TableKind::Blocks, TablePage::leaf_of(from).index, wait) {
                self.take_from_image(cx, job, read, from, to, attempt);
            } else {
                read.missing += 1;
            }
        }
    }

    /// A leaf came that a part of a read waited for.
    pub(crate) fn read_on(&mut self, cx: &mut Cx<'_>, job: u64, start: u64, end: u64, attempt: u32) {
        let Some(mut read) = self.reads.images.remove(&job) else { return };
        read.missing -= 1;
        self.take_blocks(cx, job, &mut read, start, end, attempt);
        self.reads.images.insert(job, read);
        self.finish_read(cx, job);
    }

    fn take_from_image(&mut self, cx: &mut Cx<'_>, job: u64, read: &mut ImageRead, start: u64, end: u64, attempt: u32) {
        let mut from = None;
        let entries = self.tables.blocks.entries(TablePage::leaf_of(start).index);
        let sum_of = |block: u64| entries.as_ref().map_or(0, |e| e[entry_slot(block)]);
        for block in start..=end {
            let sum = if block < end { sum_of(block) } else { 0 };
            if sum > ALLOCATED_ZEROS || (read.whole && block < end) {
                from.get_or_insert(block);
                read.expected.insert(block, sum);
                continue;
            }
            if let Some(first) = from.take() {
                let len = u32::try_from((block - first) * BLOCK).expect("a read is far below 4 GiB");
                let kind = DiskOpKind::Read { offset: first * BLOCK, len };
                let file = self.file_at(attempt);
                cx.copy_op(self.volume, CopyTag::Read(job, first, attempt), file, kind);
                read.missing += 1;
            }
            if block < end {
                read.found.insert(block, zero_block());
            }
        }
    }

    /// A part of the image came back.
    pub(crate) fn read_done(&mut self, cx: &mut Cx<'_>, job: u64, first: u64, attempt: u32, data: &Bytes) {
        let Some(mut read) = self.reads.images.remove(&job) else { return };
        read.missing -= 1;
        let blocks = u64::try_from(data.len() / BLOCK_SIZE).expect("a read is far below 4 GiB");
        let mut good_from = first;
        for i in 0..=blocks {
            let block = first + i;
            if i < blocks && read.expects(block, &slice(data, first, block, block + 1)) {
                continue;
            }
            if good_from < block {
                read.found.insert(good_from, slice(data, first, good_from, block));
            }
            good_from = block + 1;
            if i < blocks {
                self.take_again(cx, job, &mut read, block, attempt);
            }
        }
        self.reads.images.insert(job, read);
        self.finish_read(cx, job);
    }

    /// A block is not what the table said when the read was issued.
    fn take_again(&mut self, cx: &mut Cx<'_>, job: u64, read: &mut ImageRead, block: u64, attempt: u32) {
        let leaf = TablePage::leaf_of(block).index;
        let here = matches!(self.tables.blocks.seek(leaf), Seek::Here | Seek::Zeros);
        let said = here.then(|| self.tables.blocks.get(block));
        let changed = self.overlay.get(block).is_some() || (here && read.expected.get(&block).copied() != said);
        match (changed, attempt) {
            (true, _) => self.take_blocks(cx, job, read, block, block + 1, 0),
            (false, _) if attempt < self.more_attempts() => {
                self.take_blocks(cx, job, read, block, block + 1, attempt + 1);
            }
            // What the table says now is not known: it may have been another content that was read.
            (false, 1..ATTEMPTS) if !here => self.take_blocks(cx, job, read, block, block + 1, attempt + 1),
            (false, _) => {
                read.corrupt.get_or_insert(BlockIndex(block));
            }
        }
    }

    fn finish_read(&mut self, cx: &mut Cx<'_>, job: u64) {
        let read = self.reads.images.get(&job).expect("the job exists");
        if read.missing > 0 {
            return;
        }
        let read = self.reads.images.remove(&job).expect("the job exists");
        let result = match read.corrupt {
            Some(block) if read.expected.get(&block.0).is_some_and(|sum| *sum <= ALLOCATED_ZEROS) => {
                Err(ReadFault::NotZero(block))
            }
            Some(block) => Err(ReadFault::Corrupt(block)),
            None => Ok(read.found.into_values().collect()),
        };
        cx.out.push(Output::ReadDone { volume: self.volume, tag: read.tag, result });
    }

    pub(crate) fn read_log(
        &mut self,
        cx: &mut Cx<'_>,
        journal: &crate::journal::Journal,
        tag: u64,
        from: Lsn,
        max: usize,
    ) {
        let mut parts = Vec::new();
        let mut size = 0;
        let mut wanted = Vec::new();
        for (lsn, entry) in self.log.range(from..=self.durable.max(from)) {
            let len = RecordHeader::LEN + usize::try_from(entry.body_len).expect("about 1 MiB");
            let next = from.0 + u64::try_from(parts.len()).expect("a list fits in memory");
            if lsn.0 != next || *lsn > self.durable || (size + len > max && !parts.is_empty()) {
                break;
            }
            size += len;
            let part = part_of(entry);
            if let LogPart::Wanted(at, _) = &part {
                wanted.push((parts.len(), *at, entry.body_len));
            }
            parts.push(part);
        }
        if parts.is_empty() {
            let result = Err(LogGone { first: self.first() });
            return cx.out.push(Output::LogRead { volume: self.volume, tag, result });
        }
        let job = self.reads.next;
        self.reads.next += 1;
        for (part, at, body_len) in &wanted {
            let sector = at.header_at / SECTOR_SIZE as u64 * SECTOR_SIZE as u64;
            let end = at.body_at.max(at.header_at + RecordHeader::LEN as u64) + u64::from(*body_len);
            let len = padded(u32::try_from(end - sector).expect("a record lies within a frame"));
            let slot = journal.slot_of(at.generation).expect("the index names live segments only");
            let kind = DiskOpKind::Read { offset: sector, len };
            cx.copy_op(self.volume, CopyTag::Log(job, *part), FileId::Segment(slot), kind);
        }
        self.reads.logs.insert(job, LogReading { tag, from, parts, missing: wanted.len() });
        self.finish_log(cx, job);
    }

    /// A record came back from the journal.
    pub(crate) fn log_done(&mut self, cx: &mut Cx<'_>, job: u64, part: usize, data: &Bytes) {
        let Some(reading) = self.reads.logs.get_mut(&job) else { return };
        reading.missing -= 1;
        let LogPart::Wanted(at, hash) = reading.parts[part] else { unreachable!("a part is read once") };
        let record = decode_record(data, at).filter(|record| record.hash() == hash);
        reading.parts[part] = record.map_or(LogPart::Unreadable, LogPart::Here);
        self.finish_log(cx, job);
    }

    /// The device can't read it. It was applied, and others may have it; the device may still be good for everything else.
    pub(crate) fn log_failed(&mut self, cx: &mut Cx<'_>, job: u64, part: usize) {
        let Some(reading) = self.reads.logs.get_mut(&job) else { return };
        reading.missing -= 1;
        reading.parts[part] = LogPart::Unreadable;
        self.finish_log(cx, job);
    }

    fn finish_log(&mut self, cx: &mut Cx<'_>, job: u64) {
        if self.reads.logs.get(&job).is_none_or(|reading| reading.missing > 0) {
            return;
        }
        let reading = self.reads.logs.remove(&job).expect("found just now");
        let mut records = Vec::new();
        for part in reading.parts {
            let LogPart::Here(record) = part else { break };
            records.push(record);
        }
        let result = if records.is_empty() { Err(self.lost_record(cx, reading.from)) } else { Ok(records) };
        cx.out.push(Output::LogRead { volume: self.volume, tag: reading.tag, result });
    }

    /// A record that was applied can't be read from the journal: the journal no longer holds it and what is older. Above the
    /// checkpoint a start would need it: then the checkpoint moves past it at once.
    fn lost_record(&mut self, cx: &mut Cx<'_>, lsn: Lsn) -> LogGone {
        if self.log.contains_key(&lsn) {
            cx.out.push(Output::RecordsLost { volume: self.volume, first: lsn, last: lsn });
            if lsn <= self.checkpoint {
                self.forget_log(lsn);
            } else {
                self.checkpoint_now = true;
            }
        }
        LogGone { first: self.first().max(lsn.next()) }
    }
}

/// Whether a block has the content that its entry in the block table says.
pub(crate) fn matches_entry(block: BlockIndex, data: &Bytes, sum: u64) -> bool {
    if sum > ALLOCATED_ZEROS { block_checksum(block, data) == sum } else { *data == zero_block() }
}

fn slice(data: &Bytes, first: u64, start: u64, end: u64) -> Bytes {
    let at = |block: u64| usize::try_from((block - first) * BLOCK).expect("a read is far below 4 GiB");
    data.slice(at(start)..at(end))
}

fn part_of(entry: &Entry) -> LogPart {
    match (&entry.record, entry.at) {
        (Some(record), _) => LogPart::Here(record.clone()),
        (None, Some(at)) => LogPart::Wanted(at, entry.hash),
        (None, None) => unreachable!("records that are not in the journal yet are in memory"),
    }
}

/// The record at `at` from bytes that start at the sector of its header.
fn decode_record(data: &Bytes, at: Location) -> Option<Record> {
    let sector = at.header_at / SECTOR_SIZE as u64 * SECTOR_SIZE as u64;
    let skip = |offset: u64| usize::try_from(offset - sector).expect("a record lies within a frame");
    let head = skip(at.header_at);
    let header = RecordHeader::decode(data.get(head..head + RecordHeader::LEN)?)?;
    let len = usize::try_from(header.body_len).ok()?;
    let body = skip(at.body_at);
    (body + len <= data.len()).then(|| data.slice(body..body + len)).and_then(|body| Record::verify(header, body))
}
