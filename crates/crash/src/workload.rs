//! Every short sequence of what a store can be asked to do.

use crate::disk::{Schedule, SimDisk};
use crate::oracle::Volume;
use crate::rig::{Device, Rig};
use bytes::Bytes;
use holdfast_format::message::{Region, RegionCut};
use holdfast_format::{ALLOCATED_ZEROS, Draft, Record, RecordKind, TableSums, digest_term};
use holdfast_store::{Input, StoreConfig, Switch};
use holdfast_types::{BLOCK_SIZE, BlockIndex, BlockRange, Lsn, RegionIndex, Rng, VolumeId, VolumeSize};
use std::time::Duration;

/// The volume that most operations are about.
pub const V1: VolumeId = VolumeId(1);
/// Its neighbour in the same journal.
pub const V2: VolumeId = VolumeId(2);
/// Blocks of each.
pub const BLOCKS: u64 = 8;

const LETTERS: u64 = Op::ALL.len() as u64;

/// The alphabet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// One record of one block.
    Write,
    /// Three records that overlap.
    Batch,
    /// Discards and zeroes, with edges.
    Zeroes,
    /// What is durable is committed.
    Commit,
    /// The same, and a checkpoint.
    Checkpoint,
    /// Of the next epoch.
    Promise,
    /// The next epoch, with the whole log.
    Adopt,
    /// The next epoch, without what is not committed.
    Cut,
    /// The neighbour fills segments; what is not needed is given free.
    Recycle,
    /// The neighbour goes, or comes back.
    Delete,
    /// A block of the image is written again.
    Repair,
    /// The process ends and another one starts.
    Restart,
    /// The volume becomes smaller, or as large again as it was.
    Resize,
    /// What a new reign wrote over the committed state comes by regions, into the side area. The three that follow each other are not
    /// part of the alphabet: apart they are nothing.
    Fetch,
    /// Image and side area are compared with that state.
    Prove,
    /// They become the copy, with a log that begins there; what was not committed goes.
    Switch,
}

/// A sequence of operations from a base, in an order of completion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// The copies have a history.
    pub old: bool,
    /// Operations are given out without waiting for the one before.
    pub lazy: bool,
    /// In which order they complete.
    pub schedule: Schedule,
    /// What is asked, in order.
    pub ops: Vec<Op>,
}

/// As small as a store can be: the sizes of a workload.
#[must_use]
pub fn small() -> StoreConfig {
    StoreConfig {
        segment_bytes: 20 << 10,
        min_segments: 3,
        max_segments: 5,
        frame_bytes: 16 << 10,
        max_body_bytes: 2 * BLOCK_SIZE,
        checkpoint_bytes: 1 << 20,
        checkpoint_interval: Duration::from_millis(500),
        apply_batch_bytes: 32 << 10,
        apply_write_bytes: 16 << 10,
        cache_bytes: 8 << 10,
        look_interval: None,
        ..StoreConfig::default()
    }
}

impl Op {
    /// Those that short sequences are made of.
    pub const ALL: [Op; 13] = [
        Op::Write,
        Op::Batch,
        Op::Zeroes,
        Op::Commit,
        Op::Checkpoint,
        Op::Promise,
        Op::Adopt,
        Op::Cut,
        Op::Recycle,
        Op::Delete,
        Op::Repair,
        Op::Restart,
        Op::Resize,
    ];

    /// Asks the store for it.
    pub fn apply<D: Device>(self, rig: &mut Rig<D>) {
        match self {
            Op::Write => append(rig, V1, &[(RecordKind::Write, false, false, 1)]),
            Op::Batch => append(rig, V1, &[(RecordKind::Write, false, false, 2); 3]),
            Op::Zeroes => {
                append(rig, V1, &[(RecordKind::Discard, true, false, 3), (RecordKind::WriteZeroes, false, true, 2)]);
            }
            Op::Commit => rig.commit(V1),
            Op::Checkpoint => {
                rig.commit(V1);
                rig.wait(rig.config().checkpoint_interval + Duration::from_millis(1));
                rig.wait(rig.config().checkpoint_interval + Duration::from_millis(1));
            }
            Op::Promise => {
                let v = rig.volume_mut(V1);
                let epoch = v.epoch.max(v.promised).max(v.promising).next();
                (v.promising, v.may_append) = (epoch, false);
                rig.input(Input::Promise { volume: V1, epoch });
            }
            Op::Adopt => adopt(rig, V1, false),
            Op::Cut => adopt(rig, V1, true),
            Op::Recycle => recycle(rig),
            Op::Delete => come_or_go(rig),
            Op::Repair => {
                let applied = rig.volume(V1).applied;
                let block =
                    (0..BLOCKS).find(|b| rig.volume(V1).image(applied)[usize::try_from(*b).expect("small")] > 1);
                let block = block.unwrap_or(0);
                let data = rig.volume(V1).content(applied, block);
                rig.input(Input::Repair { volume: V1, block: BlockIndex(block), data });
            }
            Op::Resize => resize(rig),
            Op::Fetch => fetch(rig),
            Op::Prove => {
                if let Some(cut) = rig.fetched.as_ref().map(|fetched| fetched.1) {
                    rig.input(Input::ProveSide { volume: V1, cut });
                }
            }
            Op::Switch => switch(rig),
            Op::Restart => {
                rig.device.orphaned();
                rig.forget();
                rig.start();
            }
        }
    }
}

/// Appends records of these kinds: with a head, with a tail, of so many blocks.
fn append<D: Device>(rig: &mut Rig<D>, v: VolumeId, kinds: &[(RecordKind, bool, bool, u64)]) {
    if rig.volumes.get(&v).is_none_or(|volume| volume.switching) {
        return;
    }
    if !rig.volume(v).may_append {
        adopt(rig, v, false);
    }
    let mut records = Vec::new();
    for &(kind, head, tail, count) in kinds {
        let record = draft(rig.volume(v), v, kind, head, tail, count);
        rig.volume_mut(v).push(record.clone());
        records.push(record);
    }
    rig.input(Input::Append { volume: v, records });
}

fn draft(volume: &Volume, v: VolumeId, kind: RecordKind, head: bool, tail: bool, count: u64) -> Record {
    let lsn = volume.last() + 1;
    let mut rng = Rng::new(lsn << 8 ^ volume.epoch.0);
    let range = BlockRange::new(lsn * 3 % (volume.blocks(volume.last()) + 1 - count), count);
    let edges = u64::from(head) + u64::from(tail);
    let blocks = if kind == RecordKind::Write { count } else { edges };
    let mut body = vec![0; usize::try_from(blocks).expect("small") * BLOCK_SIZE];
    body.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&rng.next_u64().to_le_bytes()));
    Record::seal(Draft {
        volume: v,
        epoch: volume.epoch,
        lsn: Lsn(lsn),
        prev_hash: volume.hash(lsn - 1),
        committed: Lsn(volume.committed.min(lsn - 1)),
        kind,
        head,
        tail,
        range,
        body: Bytes::from(body),
    })
}

/// Half as large and a little more, or as large as it was: in whole blocks, for none of them is left in part.
fn resize<D: Device>(rig: &mut Rig<D>) {
    if !rig.volume(V1).may_append {
        adopt(rig, V1, false);
    }
    let volume = rig.volume(V1);
    let (lsn, old) = (volume.last() + 1, volume.blocks(volume.last()));
    let new = if old == BLOCKS { BLOCKS / 2 + 1 } else { BLOCKS };
    let record = Record::seal(Draft {
        volume: V1,
        epoch: volume.epoch,
        lsn: Lsn(lsn),
        prev_hash: volume.hash(lsn - 1),
        committed: Lsn(volume.committed.min(lsn - 1)),
        kind: RecordKind::Resize,
        head: false,
        tail: false,
        range: BlockRange::new(new, old.saturating_sub(new)),
        body: Record::resize_body(lsn),
    });
    rig.volume_mut(V1).push(record.clone());
    rig.input(Input::Append { volume: V1, records: vec![record] });
}

/// Another node's copy: what is committed here, and three records of the next epoch. All of it is one region.
fn fetch<D: Device>(rig: &mut Rig<D>) {
    rig.rest(Duration::from_secs(3));
    let mut there = rig.volume(V1).clone();
    if there.before.is_some() {
        // An adoption that waits for space: its reign fetches nothing yet.
        return;
    }
    there.adopt(there.committed);
    for _ in 0..3 {
        let record = draft(&there, V1, RecordKind::Write, false, false, 2);
        there.push(record);
    }
    let at = there.last();
    there.committed = at;
    let image = there.image(at).to_vec();
    let mut sums = [0; 16];
    sums[..image.len()].copy_from_slice(&image);
    let content =
        (0..).zip(&image).filter(|(_, sum)| **sum > ALLOCATED_ZEROS).map(|(block, _)| there.content(at, block));
    let data = Bytes::from(content.collect::<Vec<_>>().concat());
    let size = VolumeSize::new(BLOCKS * BLOCK_SIZE as u64 - 512).expect("a size");
    let cut = RegionCut {
        at: Lsn(at),
        epoch: there.epoch,
        hash: there.hash(at),
        sums: TableSums { blocks: there.digest(at), regions: digest_term(BlockIndex(0), at) },
        size,
        resized: 0,
        cut: (Lsn::ZERO, BlockIndex(0)),
    };
    rig.input(Input::OpenSide { volume: V1, size });
    rig.drain();
    let region = Region { index: RegionIndex(0), lsn: Lsn(at), sums, data };
    rig.input(Input::WriteSide { volume: V1, regions: vec![region] });
    (rig.fetched, rig.proven) = (Some(Box::new((there, cut))), false);
}

fn switch<D: Device>(rig: &mut Rig<D>) {
    // What a device lost is fetched again another time.
    let proven = std::mem::take(&mut rig.proven);
    let Some((mut there, cut)) = rig.fetched.take().filter(|_| proven).map(|fetched| *fetched) else { return };
    let here = rig.volume(V1);
    let cut_after = Lsn(here.committed);
    (there.before, there.switching) = (Some(Box::new(here.clone())), true);
    let (epoch, table) = (there.epoch, there.table.clone());
    rig.volumes.insert(V1, there);
    rig.input(Input::Switch { volume: V1, switch: Switch { epoch, table, cut_after, cut } });
}

fn adopt<D: Device>(rig: &mut Rig<D>, v: VolumeId, cut: bool) {
    if rig.volume(v).before.is_some() {
        rig.drain();
    }
    let volume = rig.volume(v);
    if volume.before.is_none() {
        let last = if cut { volume.committed } else { volume.last() };
        rig.adopt(v, last);
    }
}

/// Writes of two blocks, one frame each.
pub(crate) fn fill<D: Device>(rig: &mut Rig<D>, v: VolumeId, writes: u64) {
    for _ in 0..writes {
        append(rig, v, &[(RecordKind::Write, false, false, 2)]);
    }
}

fn recycle<D: Device>(rig: &mut Rig<D>) {
    for v in [V1, V2] {
        if let Some(volume) = rig.volumes.get(&v) {
            let upto = Lsn(volume.committed);
            rig.input(Input::Trim { volume: v, upto });
        }
    }
    if rig.volumes.get(&V2).is_some_and(|v| v.created && !v.deleting) {
        fill(rig, V2, 3);
        rig.commit(V2);
    } else {
        fill(rig, V1, 3);
    }
}

fn come_or_go<D: Device>(rig: &mut Rig<D>) {
    match rig.volumes.get(&V2).map(|v| (v.created, v.deleting)) {
        Some((true, false)) => {
            rig.volume_mut(V2).deleting = true;
            rig.input(Input::Delete { volume: V2 });
        }
        Some(_) => {
            rig.drain();
            if !rig.volumes.contains_key(&V2) {
                rig.create(V2);
            }
        }
        None => rig.create(V2),
    }
}

impl Workload {
    /// How many there are with up to `ops` operations.
    #[must_use]
    pub fn count(ops: u32) -> u64 {
        8 * (1..=ops).map(|n| LETTERS.pow(n)).sum::<u64>()
    }

    /// The `n`-th one: short ones first.
    #[must_use]
    pub fn nth(n: u64) -> Workload {
        let (way, mut rest) = (n % 8, n / 8);
        let mut len = 1;
        while rest >= LETTERS.pow(len) {
            rest -= LETTERS.pow(len);
            len += 1;
        }
        let letter = |i: u32| Op::ALL[usize::try_from(rest / LETTERS.pow(i) % LETTERS).expect("below 13")];
        Workload {
            old: way & 1 != 0,
            lazy: way & 2 != 0,
            schedule: if way & 4 != 0 { Schedule::Lifo } else { Schedule::Fifo },
            ops: (0..len).rev().map(letter).collect(),
        }
    }

    /// Its base, at rest: two copies, new or with a history.
    #[must_use]
    pub fn base(old: bool) -> Rig<SimDisk> {
        let mut rig = Rig::new(SimDisk::default(), &small(), 7);
        prepare(&mut rig, old);
        assert!(rig.wrong.is_empty() && rig.failed.is_empty(), "{:?} {:?}", rig.wrong, rig.failed);
        rig
    }
}

/// Two copies, new or with a history that ends in an uncommitted tail.
pub fn prepare<D: Device>(rig: &mut Rig<D>, old: bool) {
    rig.start();
    if rig.started {
        populate(rig, old);
    }
}

/// The same, in a store that has started.
pub(crate) fn populate<D: Device>(rig: &mut Rig<D>, old: bool) {
    for v in [V1, V2] {
        rig.create(v);
        rig.rest(Duration::from_secs(3));
        if !rig.opened.contains_key(&v) {
            return;
        }
        rig.adopt(v, 0);
        rig.rest(Duration::from_secs(3));
    }
    if old {
        for _ in 0..2 {
            fill(rig, V1, 2);
            fill(rig, V2, 1);
            rig.drain();
            rig.commit(V1);
            rig.commit(V2);
            rig.rest(Duration::from_secs(3));
        }
        fill(rig, V1, 1);
        rig.rest(Duration::from_secs(3));
    }
}
