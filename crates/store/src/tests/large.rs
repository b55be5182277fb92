//! Volumes far larger than memory: what tables take stays bounded, and the digest is what a slow sum says.

use super::harness::small;
use crate::api::{Input, Output};
use crate::io::{DiskDone, DiskError, DiskOp, DiskOpKind, DiskReply, FileId};
use crate::{Store, StoreConfig};
use bytes::Bytes;
use holdfast_format::message::SumNode;
use holdfast_format::{ALLOCATED_ZEROS, Draft, PAGE_BYTES, Record, RecordKind, digest_term};
use holdfast_types::{
    BLOCK_SIZE, BlockCount, BlockIndex, BlockRange, Epoch, EpochTable, Incarnation, Lsn, MAX_RANGE_BLOCKS,
    MAX_VOLUME_BYTES, REGION_BLOCKS, ReadFault, Rng, Time, VolumeId, VolumeSize,
};
use std::collections::BTreeMap;
use std::time::Duration;

const BLOCKS: u64 = MAX_VOLUME_BYTES / BLOCK_SIZE as u64;
const BLOCK: u64 = BLOCK_SIZE as u64;

/// Files without the parts that are zeros; what was not synced may be undone.
#[derive(Default)]
struct Disk {
    files: BTreeMap<FileId, (u64, BTreeMap<u64, Vec<u8>>)>,
    unsynced: Vec<(FileId, u64, Option<Vec<u8>>)>,
    in_flight: Vec<DiskOp>,
    /// Operations that have ended.
    done: usize,
    /// Operations on this file don't end.
    held: Option<FileId>,
    /// Operations on this file fail.
    broken: Option<FileId>,
}

impl Disk {
    fn put(&mut self, file: FileId, page: u64, data: Option<Vec<u8>>, durable: bool) -> Result<(), DiskError> {
        let pages = &mut self.files.get_mut(&file).ok_or(DiskError::NotFound)?.1;
        let old = match data {
            Some(data) => pages.insert(page, data),
            None => pages.remove(&page),
        };
        if !durable {
            self.unsynced.push((file, page, old));
        }
        Ok(())
    }

    /// Writes of less than a page are those of the journal: read, changed, written.
    fn write(&mut self, file: FileId, offset: u64, data: &[u8], durable: bool) -> Result<(), DiskError> {
        let mut at = offset;
        while at < offset + data.len() as u64 {
            let (page, from) = (at / BLOCK, usize::try_from(at % BLOCK).expect("small"));
            let rest = &data[usize::try_from(at - offset).expect("small")..];
            let part = &rest[..rest.len().min(BLOCK_SIZE - from)];
            let held = self.files.get(&file).and_then(|f| f.1.get(&page)).cloned();
            let mut bytes = held.unwrap_or_else(|| vec![0; BLOCK_SIZE]);
            bytes[from..from + part.len()].copy_from_slice(part);
            self.put(file, page, Some(bytes), durable)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    fn execute(&mut self, op: &DiskOp) -> Result<DiskReply, DiskError> {
        self.done += 1;
        if self.broken == Some(op.file) {
            return Err(DiskError::Io(5));
        }
        match &op.kind {
            DiskOpKind::List => {
                return Ok(DiskReply::Files(self.files.iter().map(|(id, f)| (*id, f.0)).collect()));
            }
            DiskOpKind::Create { len, .. } => drop(self.files.insert(op.file, (*len, BTreeMap::new()))),
            DiskOpKind::Delete => drop(self.files.remove(&op.file)),
            DiskOpKind::Read { offset, len } => {
                let pages = &self.files.get(&op.file).ok_or(DiskError::NotFound)?.1;
                let len = usize::try_from(*len).expect("small");
                let first = offset / BLOCK;
                let mut data = Vec::with_capacity(len + 2 * BLOCK_SIZE);
                for page in first..(offset + len as u64).div_ceil(BLOCK) {
                    data.extend_from_slice(pages.get(&page).map_or(&[0; BLOCK_SIZE][..], |p| &p[..]));
                }
                let skip = usize::try_from(offset - first * BLOCK).expect("small");
                return Ok(DiskReply::Data(Bytes::from(data).slice(skip..skip + len)));
            }
            DiskOpKind::Write { offset, data, durable } => {
                let all: Vec<u8> = data.iter().flat_map(|b| b.iter().copied()).collect();
                self.write(op.file, *offset, &all, *durable)?;
            }
            DiskOpKind::Sync => self.unsynced.retain(|(file, ..)| *file != op.file),
            DiskOpKind::SetLen { len } => {
                let file = self.files.get_mut(&op.file).ok_or(DiskError::NotFound)?;
                file.0 = *len;
                let gone: Vec<u64> = file.1.range(len / BLOCK..).map(|(page, _)| *page).collect();
                gone.into_iter().try_for_each(|page| self.put(op.file, page, None, false))?;
            }
            DiskOpKind::Punch { offset, len } | DiskOpKind::Zero { offset, len } => {
                let range = offset / BLOCK..(offset + len) / BLOCK;
                let pages = &self.files.get(&op.file).ok_or(DiskError::NotFound)?.1;
                let gone: Vec<u64> = pages.range(range).map(|(page, _)| *page).collect();
                gone.into_iter().try_for_each(|page| self.put(op.file, page, None, false))?;
            }
        }
        Ok(DiskReply::Done)
    }

    /// What was in flight has happened or not, what was not synced may be undone.
    fn power_cut(&mut self, rng: &mut Rng) {
        for op in std::mem::take(&mut self.in_flight) {
            if rng.chance(500_000) {
                let _ = self.execute(&op);
            }
        }
        for (file, page, old) in std::mem::take(&mut self.unsynced).into_iter().rev() {
            if rng.chance(500_000) && self.files.contains_key(&file) {
                let _ = self.put(file, page, old, true);
            }
        }
    }

    fn bytes(&self, file: FileId) -> u64 {
        self.files[&file].1.len() as u64 * BLOCK
    }
}

/// What a sparse volume should hold: checksums of blocks that are no holes.
#[derive(Clone, Default)]
struct Volume {
    image: BTreeMap<u64, u64>,
    /// Digest after each record.
    digests: Vec<u64>,
    last: u64,
    hash: u64,
    epoch: Epoch,
    table: EpochTable,
    /// How many it has, once that was changed.
    blocks: Option<u64>,
}

impl Volume {
    fn digest(&self) -> u64 {
        self.image.iter().fold(0, |sum, (block, value)| sum.wrapping_add(digest_term(BlockIndex(*block), *value)))
    }
}

struct Bench {
    store: Store,
    config: StoreConfig,
    disk: Disk,
    rng: Rng,
    now: Time,
    volumes: BTreeMap<VolumeId, Volume>,
    opened: usize,
    /// Most that the tables took after any input.
    most: usize,
    read: BTreeMap<u64, Result<Vec<u8>, ReadFault>>,
    extents: Vec<(BlockRange, bool)>,
    held: Vec<(VolumeId, Lsn, u64)>,
    sums: Vec<(SumNode, Vec<u64>)>,
    failed: Vec<(Option<VolumeId>, String)>,
    tags: u64,
}

impl Bench {
    fn new(seed: u64, config: StoreConfig, volumes: u64) -> Bench {
        let store = Store::new(config.clone(), seed);
        let mut b = Bench {
            store,
            config,
            disk: Disk::default(),
            rng: Rng::new(seed),
            now: Time(1),
            volumes: BTreeMap::new(),
            opened: 0,
            most: 0,
            read: BTreeMap::new(),
            extents: Vec::new(),
            held: Vec::new(),
            sums: Vec::new(),
            failed: Vec::new(),
            tags: 0,
        };
        b.input(Input::Start);
        b.drain();
        let size = VolumeSize::new(MAX_VOLUME_BYTES).expect("the largest");
        for v in (1..=volumes).map(VolumeId) {
            b.volumes.insert(v, Volume::default());
            b.input(Input::Create { volume: v, incarnation: Incarnation(v.0), size });
            b.drain();
            b.adopt(v);
        }
        b
    }

    fn input(&mut self, input: Input) {
        let mut out = Vec::new();
        self.store.handle(input, self.now, &mut out);
        self.most = self.most.max(self.store.table_memory());
        for output in out {
            match output {
                Output::Disk(op) => self.disk.in_flight.push(op),
                Output::Opened { volume, copy } => {
                    self.opened += 1;
                    let model = &self.volumes[&volume];
                    assert_eq!(copy.last.0, model.last);
                    let applied = usize::try_from(copy.applied.0).expect("small");
                    let want = applied.checked_sub(1).map_or(0, |at| model.digests[at]);
                    assert_eq!(copy.digest, want, "after a start, at {applied}");
                }
                Output::ReadDone { tag, result, .. } => {
                    drop(self.read.insert(tag, result.map(|pieces| pieces.concat())));
                }
                Output::Extents { extents, .. } => self.extents = extents,
                Output::Held { volume, at, digest } => self.held.push((volume, at, digest)),
                Output::Sums { node, sums, .. } => self.sums.push((node, sums)),
                Output::Failed { volume, reason } => self.failed.push((volume, reason)),
                _ => {}
            }
        }
    }

    fn complete_one(&mut self) -> bool {
        let ready: Vec<usize> =
            (0..self.disk.in_flight.len()).filter(|i| Some(self.disk.in_flight[*i].file) != self.disk.held).collect();
        if ready.is_empty() {
            return false;
        }
        let op = self.disk.in_flight.remove(ready[usize::try_from(self.rng.below(ready.len() as u64)).expect("small")]);
        let result = self.disk.execute(&op);
        self.now = self.now + Duration::from_micros(50);
        self.input(Input::Done(DiskDone { id: op.id, result }));
        true
    }

    fn drain(&mut self) {
        while self.complete_one() {}
    }

    fn quiesce(&mut self) {
        for _ in 0..1000 {
            self.drain();
            let Some(at) = self.store.next_timeout() else { return };
            self.now = self.now.max(at);
            self.input(Input::Tick);
        }
        assert!(self.disk.held.is_some(), "the store comes to rest");
    }

    /// Images that can't keep up hold the journal up for a while.
    fn until_durable(&mut self, v: VolumeId, lsn: Lsn) {
        for _ in 0..1000 {
            self.drain();
            if self.store.positions(v).is_none_or(|p| p.durable >= lsn) {
                return;
            }
            let at = self.store.next_timeout().expect("what holds the journal up ends");
            self.now = self.now.max(at);
            self.input(Input::Tick);
        }
        panic!("record {lsn} of {v} was never durable: {}", self.store.journal_state());
    }

    fn adopt(&mut self, v: VolumeId) {
        let volume = self.volumes.get_mut(&v).expect("known");
        let cut_after = Lsn(volume.last);
        volume.epoch = volume.epoch.next();
        volume.table = volume.table.continued(cut_after, volume.epoch);
        let (epoch, table) = (volume.epoch, volume.table.clone());
        self.input(Input::Adopt { volume: v, epoch, table, cut_after });
        self.drain();
    }

    /// Appends and commits one record.
    fn change(&mut self, v: VolumeId, kind: RecordKind, range: BlockRange) {
        let volume = self.volumes.get_mut(&v).expect("known");
        let lsn = volume.last + 1;
        let blocks = if kind == RecordKind::Write { usize::try_from(range.count.0).expect("small") } else { 0 };
        let body = Bytes::from(vec![u8::try_from(lsn % 251).expect("small"); blocks * BLOCK_SIZE]);
        let (epoch, committed, prev_hash) = (volume.epoch, Lsn(lsn - 1), volume.hash);
        let (head, tail) = (false, false);
        let draft = Draft { volume: v, epoch, lsn: Lsn(lsn), prev_hash, committed, kind, head, tail, range, body };
        let record = Record::seal(draft);
        match kind {
            RecordKind::Write => volume.image.extend(range.iter().map(|b| (b.0, record.block_sum(b)))),
            RecordKind::WriteZeroes => volume.image.extend(range.iter().map(|b| (b.0, ALLOCATED_ZEROS))),
            _ => volume.image.extract_if(range.start.0..range.end().0, |_, _| true).for_each(drop),
        }
        (volume.last, volume.hash) = (lsn, record.hash());
        volume.digests.push(volume.digest());
        self.input(Input::Append { volume: v, records: vec![record] });
        // Some of the work goes on meanwhile.
        self.until_durable(v, Lsn(lsn));
        self.input(Input::Commit { volume: v, upto: Lsn(lsn) });
    }

    /// Appends and commits a record that gives the volume this many blocks.
    fn resize(&mut self, v: VolumeId, to: u64, decision: u64) {
        let volume = self.volumes.get_mut(&v).expect("known");
        let lsn = volume.last + 1;
        let old = volume.blocks.unwrap_or(MAX_VOLUME_BYTES / BLOCK);
        let record = Record::seal(Draft {
            volume: v,
            epoch: volume.epoch,
            lsn: Lsn(lsn),
            prev_hash: volume.hash,
            committed: Lsn(lsn - 1),
            kind: RecordKind::Resize,
            head: false,
            tail: false,
            range: BlockRange::new(to, old.saturating_sub(to)),
            body: Record::resize_body(decision),
        });
        volume.image.extract_if(to.., |_, _| true).for_each(drop);
        (volume.last, volume.hash, volume.blocks) = (lsn, record.hash(), Some(to));
        volume.digests.push(volume.digest());
        self.input(Input::Append { volume: v, records: vec![record] });
        self.until_durable(v, Lsn(lsn));
        self.input(Input::Commit { volume: v, upto: Lsn(lsn) });
    }

    fn settle(&mut self, v: VolumeId) {
        self.quiesce();
        assert!(self.failed.is_empty(), "{:?}", self.failed);
        assert_eq!(self.store.positions(v).map(|p| p.applied), Some(Lsn(self.volumes[&v].last)));
        assert_eq!(self.store.digest(v), Some(self.volumes[&v].digest()), "the sum over what the volume holds");
    }

    fn restart(&mut self) {
        self.disk.power_cut(&mut self.rng);
        self.store = Store::new(self.config.clone(), 99);
        self.opened = 0;
        self.input(Input::Start);
        for _ in 0..100 {
            self.drain();
            if self.opened == self.volumes.len() {
                break;
            }
            self.quiesce();
        }
        assert!(self.opened == self.volumes.len(), "{:?}", self.failed);
        for v in self.volumes.keys().copied().collect::<Vec<_>>() {
            self.adopt(v);
            // That it was committed may be forgotten; who follows commits it again.
            let upto = Lsn(self.volumes[&v].last);
            self.input(Input::Commit { volume: v, upto });
        }
    }

    fn ask_sums(&mut self, v: VolumeId, node: SumNode) -> Vec<u64> {
        self.input(Input::Sums { volume: v, node });
        self.drain();
        let sums = self.volumes[&v].sums(node);
        assert_eq!(std::mem::take(&mut self.sums), [(node, sums.clone())]);
        sums
    }

    fn ask(&mut self, v: VolumeId, block: u64) -> u64 {
        self.tags += 1;
        self.input(Input::Read { volume: v, tag: self.tags, range: BlockRange::new(block, 1) });
        self.tags
    }

    /// Reads a block and asks whether it is a hole.
    fn check(&mut self, v: VolumeId, block: u64) {
        let tag = self.ask(v, block);
        self.drain();
        let data = self.read.remove(&tag).expect("answered").expect("readable");
        let want = self.volumes[&v].image.get(&block).copied().unwrap_or(0);
        if want > ALLOCATED_ZEROS {
            assert_eq!(holdfast_format::block_checksum(BlockIndex(block), &data), want);
        } else {
            assert!(data.iter().all(|b| *b == 0));
        }
        self.input(Input::Extents { volume: v, tag, range: BlockRange::new(block, 1) });
        self.drain();
        assert_eq!(std::mem::take(&mut self.extents), [(BlockRange::new(block, 1), want == 0)]);
    }
}

impl Volume {
    /// The slow sum over what lies below each child of a node.
    fn sums(&self, node: SumNode) -> Vec<u64> {
        let blocks = node.blocks(BlockCount(BLOCKS));
        let step = usize::try_from(node.child_blocks()).expect("small");
        let term = |(block, value): (&u64, &u64)| digest_term(BlockIndex(*block), *value);
        let sum = |from: u64| self.image.range(from..from + node.child_blocks()).map(term).fold(0, u64::wrapping_add);
        (blocks.start.0..blocks.end().0).step_by(step).map(sum).collect()
    }
}

const V: VolumeId = VolumeId(1);
const W: VolumeId = VolumeId(2);

#[test]
fn a_volume_of_64_tib_takes_no_more_memory_than_its_bound() {
    let config = StoreConfig { table_bytes: 160 * 4096, apply_batch_pages: 8, ..small() };
    let mut b = Bench::new(1, config.clone(), 2);
    let mut places = Vec::new();
    for round in 0..600u64 {
        let v = if b.rng.chance(800_000) { V } else { W };
        let block = b.rng.below(BLOCKS - 8);
        places.push(block);
        let again = places[usize::try_from(b.rng.below(places.len() as u64)).expect("small")];
        match round % 5 {
            0 => b.change(v, RecordKind::Write, BlockRange::new(again, 1)),
            1 => b.change(v, RecordKind::Discard, BlockRange::new(again, 7)),
            2 => b.change(v, RecordKind::WriteZeroes, BlockRange::new(block, 3)),
            _ => b.change(v, RecordKind::Write, BlockRange::new(block, 2)),
        }
        if round % 97 == 96 {
            b.restart();
        }
    }
    for v in [V, W] {
        b.settle(v);
        places.iter().for_each(|block| b.check(v, *block));
    }
    assert!(b.most <= config.table_bytes, "{} of {}", b.most, config.table_bytes);
    assert!(b.most > config.table_bytes / 2, "the bound is met: {}", b.most);
    let table = b.disk.bytes(FileId::BlockTable(V));
    assert!(table < 32 << 20, "the file is sparse: {table} bytes");
}

/// `blkdiscard` of a large disk: requests of 4 GiB, one after the other. What holds nothing costs nothing in the block table,
/// and the region table is written piece by piece.
#[test]
fn discarding_large_ranges_is_bounded() {
    let config = StoreConfig { table_bytes: 4 << 20, apply_batch_pages: 64, ..small() };
    let mut b = Bench::new(2, config.clone(), 1);
    let step = MAX_RANGE_BLOCKS - 1;
    for n in 0..40 {
        let block = n * step + b.rng.below(step - 4);
        b.change(V, RecordKind::Write, BlockRange::new(block, 4));
    }
    b.settle(V);
    for n in 0..39 {
        b.change(V, RecordKind::Discard, BlockRange::new(n * step + 5, step));
    }
    b.settle(V);
    assert!(b.volumes[&V].image.len() <= 12, "the last ones are left");
    assert!(b.disk.bytes(FileId::BlockTable(V)) < 4 << 20);
    b.restart();
    assert!(b.most <= config.table_bytes, "{} of {}", b.most, config.table_bytes);
    // A range that keeps its space has entries; one record of the longest kind changes 2050 leaves.
    b.change(V, RecordKind::WriteZeroes, BlockRange::new(100 * step + 3, 1 << 18));
    b.settle(V);
    b.change(V, RecordKind::Discard, BlockRange::new(100 * step, step));
    b.settle(V);
    assert!(b.most <= config.table_bytes.max(24 << 20), "{}", b.most);
}

/// At a start nobody appends or commits anything, so the end of a checkpoint alone lets go on whoever waits for room: the copy whose
/// checkpoint it is, or another one.
#[test]
fn room_that_a_checkpoint_gives_is_used_at_once() {
    for bound in [1, 20, 40] {
        let mut b = Bench::new(5, StoreConfig { table_bytes: bound * 4096, apply_batch_pages: 1, ..small() }, 3);
        let all = [V, W, VolumeId(3)];
        // No checkpoint ends, so that everything is to be applied again.
        b.disk.held = Some(FileId::BlockTable(V));
        for v in all.repeat(3) {
            let block = b.rng.below(BLOCKS);
            b.change(v, RecordKind::Write, BlockRange::new(block, 1));
        }
        b.disk.held = None;
        b.restart();
        for v in all {
            let upto = Lsn(b.volumes[&v].last);
            b.input(Input::Commit { volume: v, upto });
            b.settle(v);
        }
    }
}

#[test]
fn a_page_on_its_way_holds_up_nobody_else() {
    let mut b = Bench::new(3, StoreConfig { table_bytes: 4096, ..small() }, 2);
    for v in [V, W] {
        b.change(v, RecordKind::Write, BlockRange::new(1 << 30, 1));
    }
    b.quiesce();
    b.disk.held = Some(FileId::BlockTable(V));
    let waits = b.ask(V, 1 << 30);
    b.check(W, 1 << 30);
    b.change(W, RecordKind::Write, BlockRange::new(77, 1));
    b.settle(W);
    assert!(!b.read.contains_key(&waits), "the other one still waits");
    b.disk.held = None;
    b.quiesce();
    assert!(b.read[&waits].is_ok());
}

/// An error of a page's read is that copy's end, and no other's.
#[test]
fn a_table_that_cannot_be_read_fails_its_copy_alone() {
    let mut b = Bench::new(4, StoreConfig { table_bytes: 4096, ..small() }, 2);
    for v in [V, W] {
        b.change(v, RecordKind::Write, BlockRange::new(1 << 30, 1));
    }
    b.quiesce();
    b.disk.broken = Some(FileId::BlockTable(V));
    let tag = b.ask(V, 1 << 30);
    b.drain();
    assert_eq!(b.read[&tag], Err(ReadFault::CopyFailed));
    assert!(matches!(&b.failed[..], [(Some(V), _)]), "{:?}", b.failed);
    b.check(W, 1 << 30);
}

/// Each node's sums, of both levels, are what a slow sum says, and asking for them needs no more memory than all else.
#[test]
fn sums_of_the_largest_volume_are_read_page_by_page() {
    let config = StoreConfig { table_bytes: 96 * 4096, apply_batch_pages: 4, ..small() };
    let mut b = Bench::new(5, config.clone(), 1);
    for round in 0..200u64 {
        let block = b.rng.below(BLOCKS - 8);
        let kind = if round % 3 == 0 { RecordKind::WriteZeroes } else { RecordKind::Write };
        b.change(V, kind, BlockRange::new(block, 7));
    }
    b.change(V, RecordKind::Write, BlockRange::new(BLOCKS - 3, 3));
    b.settle(V);
    b.restart();
    b.settle(V);
    let at = Lsn(b.volumes[&V].last);
    b.input(Input::Hold { volume: V, at });
    assert_eq!(b.held, [(V, at, b.volumes[&V].digest())]);
    let top_blocks = REGION_BLOCKS * SumNode::FAN * SumNode::FAN;
    let mut tops: Vec<u64> = b.volumes[&V].image.keys().map(|block| block / top_blocks).collect();
    tops.dedup();
    let mut digest = 0u64;
    for index in tops.into_iter().chain([17]) {
        let top = SumNode { level: SumNode::TOP, index };
        let sums = b.ask_sums(V, top);
        digest = sums.iter().fold(digest, |all, sum| all.wrapping_add(*sum));
        for (child, _) in (index * SumNode::FAN..).zip(&sums).filter(|(_, sum)| **sum != 0) {
            b.ask_sums(V, SumNode { level: 1, index: child });
        }
    }
    assert_eq!(digest, b.volumes[&V].digest(), "nothing is left out");
    assert!(b.most <= config.table_bytes, "{} of {}", b.most, config.table_bytes);
}

/// Who asks for sums waits for pages, and nobody else does; no answer mixes two records, and none is owed in the end.
#[test]
fn sums_that_wait_for_a_page_hold_up_nobody_and_end_with_the_hold() {
    for fails in [false, true] {
        let mut b = Bench::new(6, StoreConfig { table_bytes: 4096, ..small() }, 2);
        for v in [V, W] {
            b.change(v, RecordKind::Write, BlockRange::new(1 << 30, 1));
        }
        b.quiesce();
        b.input(Input::Hold { volume: V, at: Lsn(1) });
        b.disk.held = Some(FileId::BlockTable(V));
        let node = SumNode { level: SumNode::TOP, index: (1 << 30) / (REGION_BLOCKS * SumNode::FAN * SumNode::FAN) };
        b.input(Input::Sums { volume: V, node });
        b.change(W, RecordKind::Write, BlockRange::new(77, 1));
        b.settle(W);
        assert!(b.sums.is_empty(), "it waits");
        if fails {
            b.disk.broken = Some(FileId::BlockTable(V));
        } else {
            b.input(Input::GoOn { volume: V });
        }
        b.disk.held = None;
        b.quiesce();
        assert_eq!(b.sums, [(node, Vec::new())]);
        assert_eq!(b.failed.is_empty(), !fails, "{:?}", b.failed);
    }
}

/// A copy that waited for room in the tables when it was told to hold does not keep its place: others are behind it.
#[test]
fn a_hold_gives_up_its_place_among_those_who_wait_for_room() {
    let mut b = Bench::new(7, StoreConfig { table_bytes: 16 * 4096, ..small() }, 2);
    b.disk.held = Some(FileId::BlockTable(V));
    for n in 1..6 {
        b.change(V, RecordKind::Write, BlockRange::new(n << 30, 1));
    }
    b.drain();
    let applied = b.store.positions(V).expect("open").applied;
    assert!(applied < Lsn(5), "it waits for room, having applied {applied}");
    b.change(W, RecordKind::Write, BlockRange::new(1 << 30, 1));
    b.drain();
    assert_eq!(b.store.positions(W).map(|p| p.applied), Some(Lsn(0)), "it waits behind the other one");
    b.input(Input::Hold { volume: V, at: applied });
    b.disk.held = None;
    b.settle(W);
    assert_eq!(b.store.positions(V).map(|p| p.applied), Some(applied), "it still holds");
    b.input(Input::GoOn { volume: V });
    b.settle(V);
}

/// A replay that needs more room than there is makes checkpoints, and goes on by itself when they end: nothing else happens that
/// would wake it.
#[test]
fn a_replay_that_waits_for_room_goes_on_when_its_checkpoint_ends() {
    let mut b = Bench::new(8, StoreConfig { table_bytes: 4 << 20, ..small() }, 1);
    for n in 1..5 {
        b.change(V, RecordKind::Write, BlockRange::new(n << 30, 1));
        b.drain();
    }
    b.config = StoreConfig { table_bytes: 24 * 4096, apply_batch_pages: 1, ..b.config };
    b.store = Store::new(b.config.clone(), 99);
    b.opened = 0;
    b.input(Input::Start);
    b.drain();
    assert_eq!(b.opened, 1, "{:?}", b.store.positions(V));
}

/// Cutting off and growing again costs what is in memory, not what the volume has: there are 2²⁵ leaves behind the cut.
#[test]
fn a_volume_of_64_tib_shrinks_and_grows_at_once() {
    let config = StoreConfig { table_bytes: 1024 * PAGE_BYTES, ..StoreConfig::default() };
    let mut b = Bench::new(31, config, 1);
    let (v, most) = (VolumeId(1), MAX_VOLUME_BYTES / BLOCK);
    let mut decision = 0;
    for to in [(1 << 20) + 7, 512 * 512 * 256, 512 * 512 * 3, 512, 1] {
        let places: Vec<u64> = (0..40).map(|i| if i < 20 { b.rng.below(to) } else { b.rng.below(most) }).collect();
        let edges = [to - 1, to, to + 511, most - 1];
        for at in places.iter().chain(edges.iter().filter(|at| **at < most)) {
            b.change(v, RecordKind::Write, BlockRange::new(*at, 1));
        }
        b.settle(v);
        let ops = b.disk.done;
        decision += 1;
        b.resize(v, to, decision);
        b.settle(v);
        assert!(b.disk.done - ops < 400, "{} operations", b.disk.done - ops);
        b.check(v, to - 1);
        b.restart();
        b.settle(v);
        decision += 1;
        b.resize(v, most, decision);
        b.settle(v);
        for at in places.iter().chain(&edges).filter(|at| **at < most) {
            b.check(v, *at);
        }
    }
    assert!(b.most <= 1024 * PAGE_BYTES, "{} bytes", b.most);
}
