//! A disk in memory that forgets what a real one may forget.
//!
//! Operations take effect when they complete, in any order. A write that is not durable lives in a volatile layer, by
//! sector; a sync moves to the medium what had completed when it was *issued*. At a power cut each volatile sector
//! survives or not, and each operation in flight has happened, sector by sector, or not.

use crate::io::{DiskDone, DiskError, DiskOp, DiskOpKind, DiskReply, FileId};
use bytes::Bytes;
use holdfast_types::Rng;
use std::collections::BTreeMap;

pub(crate) const SECTOR: usize = 512;

#[derive(Clone, Debug, Default)]
pub(crate) struct File {
    pub(crate) medium: Vec<u8>,
    /// Sector → when it was written, and its bytes.
    volatile: BTreeMap<usize, (u64, [u8; SECTOR])>,
}

#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) files: BTreeMap<FileId, File>,
    pub(crate) in_flight: Vec<(u64, DiskOp)>,
    stamp: u64,
    /// Every `Create` and every write that is not durable finds no space.
    pub(crate) full: bool,
    /// Operations on this file fail with EIO.
    pub(crate) broken: Option<FileId>,
    /// Reads of this file that touch these bytes fail with EIO.
    pub(crate) unreadable: Option<(FileId, std::ops::Range<u64>)>,
    /// A sync finds no space: what was written back late had none.
    pub(crate) full_at_sync: bool,
    pub(crate) durable_writes: usize,
}

impl File {
    /// As a repair of the file system may leave it.
    pub(crate) fn zero(&mut self) {
        self.medium.fill(0);
        self.volatile.clear();
    }

    fn new(len: u64) -> File {
        let len = usize::try_from(len).expect("small").next_multiple_of(SECTOR);
        File { medium: vec![0; len], volatile: BTreeMap::new() }
    }

    fn grow(&mut self, end: usize) {
        if self.medium.len() < end {
            self.medium.resize(end.next_multiple_of(SECTOR), 0);
        }
    }

    fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        let mut all = self.medium.clone();
        for (sector, (_, bytes)) in &self.volatile {
            all[sector * SECTOR..][..SECTOR].copy_from_slice(bytes);
        }
        all.resize(all.len().max(offset + len), 0);
        all[offset..offset + len].to_vec()
    }

    fn put(&mut self, sector: usize, bytes: [u8; SECTOR], durable: bool, stamp: u64) {
        if durable {
            self.volatile.remove(&sector);
            self.medium[sector * SECTOR..][..SECTOR].copy_from_slice(&bytes);
        } else {
            self.volatile.insert(sector, (stamp, bytes));
        }
    }
}

/// What a write or punch makes of each sector.
fn sectors(kind: &DiskOpKind) -> Option<(usize, Vec<u8>, bool)> {
    match kind {
        DiskOpKind::Write { offset, data, durable } => {
            let mut all = data.iter().flat_map(|b| b.iter().copied()).collect::<Vec<u8>>();
            all.resize(all.len().next_multiple_of(SECTOR), 0);
            Some((usize::try_from(*offset).expect("small"), all, *durable))
        }
        DiskOpKind::Punch { offset, len } | DiskOpKind::Zero { offset, len } => {
            Some((usize::try_from(*offset).expect("small"), vec![0; usize::try_from(*len).expect("small")], false))
        }
        _ => None,
    }
}

impl File {
    /// Another length: what lies behind a new end is zeros, once that is synced.
    fn set_len(&mut self, len: u64, stamp: u64) {
        let len = usize::try_from(len).expect("small").next_multiple_of(SECTOR);
        self.grow(len);
        for sector in len / SECTOR..self.medium.len() / SECTOR {
            self.put(sector, [0; SECTOR], false, stamp);
        }
    }
}

impl Disk {
    /// What a reader of the image finds from `from` on.
    pub(crate) fn bytes_behind(&self, v: holdfast_types::VolumeId, from: u64) -> impl Iterator<Item = u8> {
        let file = &self.files[&FileId::Image(v)];
        let from = usize::try_from(from).expect("small");
        file.read(from, file.medium.len().saturating_sub(from)).into_iter()
    }

    pub(crate) fn submit(&mut self, op: DiskOp) {
        if let Some((offset, data, _)) = sectors(&op.kind) {
            assert!(offset.is_multiple_of(SECTOR));
            if let (FileId::Segment(_) | FileId::Superblock(_), DiskOpKind::Write { data, .. }) = (op.file, &op.kind) {
                let len: usize = data.iter().map(Bytes::len).sum();
                assert!(len.is_multiple_of(SECTOR), "direct I/O writes whole sectors: {len}");
            }
            let end = offset + data.len();
            for (_, other) in self.in_flight.iter().filter(|(_, other)| other.file == op.file) {
                if let Some((o, d, _)) = sectors(&other.kind) {
                    assert!(end <= o || o + d.len() <= offset, "two writes overlap in flight: {op:?} {other:?}");
                }
            }
        }
        if let (FileId::Segment(_) | FileId::Superblock(_), DiskOpKind::Read { offset, len }) = (op.file, &op.kind) {
            assert!(offset.is_multiple_of(512) && len.is_multiple_of(512), "direct I/O reads whole sectors");
        }
        self.in_flight.push((self.stamp, op));
    }

    /// Completes the `i`-th operation in flight.
    pub(crate) fn complete(&mut self, i: usize) -> DiskDone {
        let (issued, op) = self.in_flight.remove(i);
        let result = self.execute(issued, &op);
        DiskDone { id: op.id, result }
    }

    fn execute(&mut self, issued: u64, op: &DiskOp) -> Result<DiskReply, DiskError> {
        self.stamp += 1;
        if self.broken == Some(op.file) && !matches!(op.kind, DiskOpKind::List) {
            return Err(DiskError::Io(5));
        }
        let volatile = matches!(op.kind, DiskOpKind::Write { durable: false, .. } | DiskOpKind::Create { .. });
        if self.full && volatile {
            return Err(DiskError::NoSpace);
        }
        if self.full_at_sync && matches!(op.kind, DiskOpKind::Sync) {
            return Err(DiskError::NoSpace);
        }
        match &op.kind {
            DiskOpKind::List => {
                let len = |f: &File| u64::try_from(f.medium.len()).expect("small");
                return Ok(DiskReply::Files(self.files.iter().map(|(id, f)| (*id, len(f))).collect()));
            }
            DiskOpKind::Create { len, .. } => drop(self.files.insert(op.file, File::new(*len))),
            DiskOpKind::Delete => drop(self.files.remove(&op.file)),
            DiskOpKind::Read { offset, len } => {
                let hit = |(file, bytes): &(FileId, std::ops::Range<u64>)| {
                    *file == op.file && *offset < bytes.end && bytes.start < offset + u64::from(*len)
                };
                if self.unreadable.as_ref().is_some_and(hit) {
                    return Err(DiskError::Io(5));
                }
                let file = self.files.get(&op.file).ok_or(DiskError::NotFound)?;
                let data = file.read(usize::try_from(*offset).expect("small"), usize::try_from(*len).expect("small"));
                return Ok(DiskReply::Data(Bytes::from(data)));
            }
            DiskOpKind::Sync => {
                let file = self.files.get_mut(&op.file).ok_or(DiskError::NotFound)?;
                for (sector, (stamp, bytes)) in std::mem::take(&mut file.volatile) {
                    let durable = stamp <= issued;
                    file.put(sector, bytes, durable, stamp);
                }
            }
            DiskOpKind::SetLen { len } => {
                let stamp = self.stamp;
                self.files.get_mut(&op.file).ok_or(DiskError::NotFound)?.set_len(*len, stamp);
            }
            DiskOpKind::Write { .. } | DiskOpKind::Punch { .. } | DiskOpKind::Zero { .. } => {
                let stamp = self.stamp;
                let file = self.files.get_mut(&op.file).ok_or(DiskError::NotFound)?;
                let (offset, data, durable) = sectors(&op.kind).expect("a write");
                self.durable_writes += usize::from(durable);
                file.grow(offset + data.len());
                for (i, bytes) in data.chunks_exact(SECTOR).enumerate() {
                    file.put(offset / SECTOR + i, bytes.try_into().expect("a sector"), durable, stamp);
                }
            }
        }
        Ok(DiskReply::Done)
    }

    /// The end of a life. `power`: the volatile layer goes, too; otherwise only the process died.
    pub(crate) fn crash(&mut self, rng: &mut Rng, power: bool) {
        // All, nothing, or any sector of what was in flight.
        let chance = [0, 500_000, 1_000_000, 930_000][usize::try_from(rng.below(4)).expect("small")];
        for (_, op) in std::mem::take(&mut self.in_flight) {
            self.half_execute(&op, chance, rng);
        }
        if power {
            for file in self.files.values_mut() {
                for (sector, (_, bytes)) in std::mem::take(&mut file.volatile) {
                    if rng.chance(chance) {
                        file.put(sector, bytes, true, 0);
                    }
                }
            }
        }
    }

    fn half_execute(&mut self, op: &DiskOp, chance: u32, rng: &mut Rng) {
        match &op.kind {
            DiskOpKind::Create { len, .. } if rng.chance(chance) => {
                let len = if rng.chance(500_000) { *len } else { rng.below(*len + 1) };
                self.files.insert(op.file, File::new(len));
            }
            DiskOpKind::Delete if rng.chance(chance) => drop(self.files.remove(&op.file)),
            DiskOpKind::SetLen { len } if rng.chance(chance) => {
                if let Some(file) = self.files.get_mut(&op.file) {
                    file.set_len(*len, self.stamp);
                }
            }
            DiskOpKind::Write { .. } | DiskOpKind::Punch { .. } | DiskOpKind::Zero { .. } => {
                let Some(file) = self.files.get_mut(&op.file) else { return };
                let (offset, data, _) = sectors(&op.kind).expect("a write");
                file.grow(offset + data.len());
                for (i, bytes) in data.chunks_exact(SECTOR).enumerate() {
                    if rng.chance(chance) {
                        // Where it ends up, volatile layer or medium, decides the power cut that follows, if one does.
                        file.put(
                            offset / SECTOR + i,
                            bytes.try_into().expect("a sector"),
                            rng.chance(500_000),
                            self.stamp,
                        );
                    }
                }
            }
            _ => {}
        }
    }

    /// Flips bits of one byte.
    pub(crate) fn rot(&mut self, file: FileId, at: usize, mask: u8) {
        let file = self.files.get_mut(&file).expect("the file exists");
        file.medium[at] ^= mask;
        if let Some((_, bytes)) = file.volatile.get_mut(&(at / SECTOR)) {
            bytes[at % SECTOR] ^= mask;
        }
    }
}
