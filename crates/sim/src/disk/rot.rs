//! What a medium does to data behind the back of whoever wrote it: bits that flip, writes and reads that go astray, syncs
//! that lie, states that come back.
//!
//! A disk knows what it has damaged. That knowledge excuses exactly the damage: an EIO for a rotten block, and for no other.
//!
//! Kept out, because the formats can't tell yet (docs/FORMAT.md), and a run with it would end in wrong data: a frame of the
//! journal that is lost or rots before a later one proves it looks like a torn write (trap 11). Rot picks proven frames; a lost
//! frame that nothing on the medium proves when the process ends turns up after all.

use super::{Disk, File, Unsynced};
use crate::faults::FaultKind;
use crate::options::index;
use bytes::Bytes;
use holdfast_format::{FrameHeader, RecordHeader, SegmentHeader, Superblock};
use holdfast_store::io::{DiskOp, DiskOpKind, FileId};
use holdfast_types::{BLOCK_SIZE, Epoch, Lsn, Rng, SECTOR_SIZE, VolumeId};
use std::collections::{BTreeMap, BTreeSet};

const PAIR: usize = 2 * Superblock::LEN;

/// What is wrong on one disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Damage {
    /// Blocks of images that are not what was written there last.
    blocks: BTreeSet<(VolumeId, u64)>,
    /// Copies whose digest does not follow from their records.
    digests: BTreeSet<VolumeId>,
    /// Blocks that have been written anew since, which a power cut may undo.
    healed: BTreeSet<(VolumeId, u64)>,
    /// Frames that were called durable and never reached the medium.
    phantoms: Vec<(FileId, usize, Bytes)>,
}

/// Damage that waits for an operation that it fits.
#[derive(Debug, Default)]
pub(super) struct Armed {
    flip_read: bool,
    /// The same, but only on the way from an image, where it is seen and read again.
    flip_image: bool,
    stray_read: bool,
    lose_write: bool,
    stray_write: bool,
    lie: bool,
    /// What fired; to be counted.
    fired: Vec<FaultKind>,
}

/// Where a write went.
#[derive(Clone, Copy, Debug)]
pub(super) enum Astray {
    Lost,
    To(usize),
}

/// All files of a disk.
pub(crate) type Files = BTreeMap<FileId, File>;

/// An earlier state of the whole disk, with what was wrong then.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) files: Files,
    damage: Damage,
}

impl Damage {
    /// Whether blocks `[start, end)` of a copy may be unreadable here.
    pub(crate) fn covers(&self, volume: VolumeId, start: u64, end: u64) -> bool {
        self.blocks.range((volume, start)..(volume, end)).next().is_some()
    }

    pub(crate) fn digest_may_differ(&self, volume: VolumeId) -> bool {
        self.digests.contains(&volume)
    }

    fn damage_blocks(&mut self, file: FileId, offset: usize, len: usize) {
        if let FileId::Image(volume) = file {
            let (first, end) = (offset / BLOCK_SIZE, (offset + len).div_ceil(BLOCK_SIZE));
            self.blocks.extend((first..end).map(|b| (volume, b as u64)));
        }
    }

    /// New bytes lie there now.
    pub(super) fn rewritten(&mut self, file: FileId, offset: usize, len: usize) {
        if let FileId::Image(volume) = file {
            let (first, end) = (offset.div_ceil(BLOCK_SIZE) as u64, ((offset + len) / BLOCK_SIZE) as u64);
            let healed = self.blocks.extract_if(.., |(v, b)| *v == volume && (first..end).contains(b));
            self.healed.extend(healed);
        }
        self.phantoms.retain(|(f, at, data)| *f != file || *at >= offset + len || offset >= at + data.len());
    }

    /// Nothing that was written to the file can be undone any more.
    pub(super) fn synced(&mut self, file: FileId) {
        self.healed.retain(|(v, _)| FileId::Image(*v) != file);
    }

    pub(super) fn power_cut(&mut self) {
        self.blocks.append(&mut self.healed);
    }

    /// What was written to the file since its last sync may be undone: a failed sync is a power cut of one file.
    pub(super) fn sync_failed(&mut self, file: FileId) {
        self.blocks.extend(self.healed.extract_if(.., |(v, _)| FileId::Image(*v) == file));
    }

    pub(super) fn lost(&mut self, file: FileId, u: &Unsynced) {
        self.damage_blocks(file, u.offset, u.new.len());
    }
}

impl Disk {
    pub(crate) const fn damage(&self) -> &Damage {
        &self.damage
    }

    /// A read of an image meets damage that a second read does not.
    pub(crate) fn arm_image(&mut self, kind: FaultKind) {
        match kind {
            FaultKind::ReadFlip => self.armed.flip_image = true,
            _ => self.armed.stray_read = true,
        }
    }

    /// Damage of this kind meets the next operation that it fits.
    pub(crate) fn arm(&mut self, kind: FaultKind) {
        match kind {
            FaultKind::ReadFlip => self.armed.flip_read = true,
            FaultKind::PhantomWrite => self.armed.lose_write = true,
            FaultKind::MisdirectedWrite => self.armed.stray_write = true,
            _ => self.armed.lie = true,
        }
    }

    pub(crate) fn disarm(&mut self) {
        self.armed = Armed::default();
    }

    pub(crate) fn take_fired(&mut self) -> Vec<FaultKind> {
        std::mem::take(&mut self.armed.fired)
    }

    /// A bit flips at rest. `spare`: whether a block of an image must stay as it is. Says whether there was anything to flip.
    pub(crate) fn rot(
        &mut self,
        kind: FaultKind,
        volume: VolumeId,
        rng: &mut Rng,
        spare: impl Fn(u64) -> bool,
    ) -> bool {
        let found = match kind {
            FaultKind::RotJournal => self.rot_in_journal(rng),
            FaultKind::RotImage => self.rot_in_image(volume, rng, spare),
            FaultKind::RotBlockTable => self.rot_in_table(volume, rng),
            FaultKind::RotRegionTable => self.somewhere(FileId::RegionTable(volume), rng),
            _ => self.rot_in_superblock(volume, rng),
        };
        let Some((file, at)) = found else { return false };
        let quiet = |f: &File| !f.unsynced.iter().any(|u| u.offset <= at && at < u.offset + u.new.len());
        let Some(held) = self.files.get_mut(&file).filter(|f| quiet(f)) else { return false };
        held.content[at] ^= 1 << rng.below(8);
        self.damage.damage_blocks(file, at, 1);
        if kind == FaultKind::RotJournal {
            self.doubt_digests();
        }
        true
    }

    fn somewhere(&self, file: FileId, rng: &mut Rng) -> Option<(FileId, usize)> {
        let len = self.files.get(&file)?.content.len() as u64;
        (len > 0).then(|| (file, index(rng.below(len))))
    }

    fn rot_in_image(&self, volume: VolumeId, rng: &mut Rng, spare: impl Fn(u64) -> bool) -> Option<(FileId, usize)> {
        let file = FileId::Image(volume);
        let content = &self.files.get(&file)?.content;
        let held = |b: &[u8]| b.iter().any(|x| *x != 0);
        let blocks: Vec<u64> =
            (0..).zip(content.chunks(BLOCK_SIZE)).filter(|(i, b)| held(b) && !spare(*i)).map(|(i, _)| i).collect();
        let block = pick(&blocks, rng)?;
        Some((file, index(block) * BLOCK_SIZE + index(rng.below(BLOCK_SIZE as u64))))
    }

    fn rot_in_table(&self, volume: VolumeId, rng: &mut Rng) -> Option<(FileId, usize)> {
        let file = FileId::BlockTable(volume);
        let content = &self.files.get(&file)?.content;
        let held = |e: &[u8]| e.iter().filter(|x| **x != 0).count() > 1;
        let entries: Vec<u64> = (0..).zip(content.chunks(8)).filter(|(_, e)| held(e)).map(|(i, _)| i).collect();
        let entry = pick(&entries, rng)?;
        Some((file, index(entry * 8 + rng.below(8))))
    }

    /// One copy of four, while all are good: with another one torn by a crash, no two equal ones might be left.
    fn rot_in_superblock(&self, volume: VolumeId, rng: &mut Rng) -> Option<(FileId, usize)> {
        let file = FileId::Superblock(volume);
        let good = self.files.get(&file)?.content.chunks(Superblock::LEN).all(|c| Superblock::decode(c).is_some());
        if good { self.somewhere(file, rng) } else { None }
    }

    /// A proven frame, or a segment's header.
    fn rot_in_journal(&self, rng: &mut Rng) -> Option<(FileId, usize)> {
        let live = self.live_segments();
        if rng.chance(150_000) {
            let heads: Vec<FileId> = live.iter().map(|(file, _)| *file).collect();
            return Some((pick(&heads, rng)?, index(rng.below(SegmentHeader::LEN as u64))));
        }
        let proven = self.proven_frames(&live);
        let (file, at, header) = pick(&proven, rng)?;
        Some((file, at + index(rng.below(u64::from(header.total_len)))))
    }

    /// The segments of the newest journal on the medium.
    fn live_segments(&self) -> Vec<(FileId, SegmentHeader)> {
        let heads: Vec<(FileId, SegmentHeader)> = self
            .files
            .iter()
            .filter(|(id, _)| matches!(id, FileId::Segment(_)))
            .filter_map(|(id, f)| Some((*id, SegmentHeader::decode(f.content.get(..SegmentHeader::LEN)?)?)))
            .collect();
        let Some(newest) = heads.iter().map(|(_, h)| h).max_by_key(|h| h.generation).cloned() else { return heads };
        let listed = |g: u64| g == newest.generation || newest.closed.iter().any(|c| c.generation == g);
        heads.into_iter().filter(|(_, h)| listed(h.generation)).collect()
    }

    /// Frames that a recovery would not take for torn, however many of them it can't read.
    fn proven_frames(&self, live: &[(FileId, SegmentHeader)]) -> Vec<(FileId, usize, FrameHeader)> {
        let frames: Vec<_> = live.iter().flat_map(|(file, head)| self.frames_in(*file, head)).collect();
        let settled = |file: &FileId| self.files[file].unsynced.is_empty();
        let life = live.iter().map(|(_, h)| h.life).max().unwrap_or(0);
        let proof = frames.iter().filter(|(f, _, h)| h.life == life && settled(f)).map(|(_, _, h)| h.proven).max();
        let proven = |h: &FrameHeader| h.life == life && proof.is_some_and(|p| h.seq <= p);
        frames.into_iter().filter(|(_, _, h)| proven(h)).collect()
    }

    fn frames_in(&self, file: FileId, head: &SegmentHeader) -> Vec<(FileId, usize, FrameHeader)> {
        let content = &self.files[&file].content;
        let mut frames = Vec::new();
        let mut at = SegmentHeader::LEN;
        while at + SECTOR_SIZE <= content.len() {
            let found = FrameHeader::decode(&content[at..]).filter(|h| h.generation == head.generation);
            at += found.as_ref().map_or(SECTOR_SIZE, |h| index(u64::from(h.total_len)));
            frames.extend(found.map(|h| (file, at - index(u64::from(h.total_len)), h)));
        }
        frames
    }

    /// Bytes on their way to a reader.
    pub(super) fn misread(&mut self, op: &DiskOp, data: &mut [u8]) {
        let DiskOpKind::Read { offset, .. } = op.kind else { return };
        if self.armed.stray_read && matches!(op.file, FileId::Image(_)) {
            let content = &self.files[&op.file].content;
            let blocks = (content.len() / BLOCK_SIZE) as u64;
            let from = index(self.rng.below(blocks.max(1))) * BLOCK_SIZE;
            if from != index(offset) {
                self.armed.stray_read = false;
                self.armed.fired.push(FaultKind::MisdirectedRead);
                let held = content.len().saturating_sub(from).min(data.len());
                data.fill(0);
                data[..held].copy_from_slice(&content[from..from + held]);
            }
        }
        // A whole segment is read by a recovery, which would take a flip in the last frame for a torn write.
        let whole = matches!(op.file, FileId::Segment(_)) && offset == 0 && data.len() > SegmentHeader::LEN;
        let flip = self.armed.flip_read || (self.armed.flip_image && matches!(op.file, FileId::Image(_)));
        if flip && !whole && !data.is_empty() {
            (self.armed.flip_read, self.armed.flip_image) = (false, false);
            self.armed.fired.push(FaultKind::ReadFlip);
            let at = index(self.rng.below(data.len() as u64));
            data[at] ^= 1 << self.rng.below(8);
        }
    }

    /// A write that is reported done and is not, or lies elsewhere; `None`: it goes where it should.
    pub(super) fn miswrite(&mut self, op: &DiskOp, offset: usize, data: &Bytes) -> Option<Astray> {
        let frame = matches!(op.file, FileId::Segment(_)) && offset > 0;
        let image = matches!(op.file, FileId::Image(_));
        let superblock = matches!(op.file, FileId::Superblock(_)) && data.len() == PAIR;
        let table = matches!(op.file, FileId::BlockTable(_) | FileId::RegionTable(_));
        if self.armed.lose_write && (frame || image || superblock || table) {
            self.armed.lose_write = false;
            self.armed.fired.push(FaultKind::PhantomWrite);
            self.damage.damage_blocks(op.file, offset, data.len());
            if frame {
                self.doubt_digests();
                self.damage.phantoms.push((op.file, offset, data.clone()));
            }
            return Some(Astray::Lost);
        }
        let blocks = self.files[&op.file].content.len() / BLOCK_SIZE;
        if self.armed.stray_write && image && blocks > data.len() / BLOCK_SIZE {
            let room = (blocks - data.len() / BLOCK_SIZE) as u64;
            let to = index(self.rng.below(room)) * BLOCK_SIZE;
            let to = if to < offset { to } else { to + BLOCK_SIZE };
            self.armed.stray_write = false;
            self.armed.fired.push(FaultKind::MisdirectedWrite);
            self.damage.damage_blocks(op.file, offset, data.len());
            self.damage.damage_blocks(op.file, to, data.len());
            return Some(Astray::To(to));
        }
        None
    }

    /// How many of the newest writes to a file a sync forgets although it says otherwise.
    pub(super) fn lie_about(&mut self, op: &DiskOp) -> usize {
        if !self.armed.lie || !matches!(op.file, FileId::Image(_)) || self.files[&op.file].unsynced.is_empty() {
            return 0;
        }
        self.armed.lie = false;
        self.armed.fired.push(FaultKind::LyingSync);
        index(self.rng.range(1, 9))
    }

    /// The process ends: lost frames that nothing proves turn up (see above).
    pub(super) fn settle_phantoms(&mut self) {
        for (file, offset, data) in std::mem::take(&mut self.damage.phantoms) {
            let Some(lost) = FrameHeader::decode(&data) else { continue };
            let live = self.live_segments();
            let proven = self.proven_frames(&live).iter().map(|(_, _, h)| h.seq).max();
            let ours = live.iter().any(|(_, h)| h.generation == lost.generation);
            let newest = live.iter().map(|(_, h)| h.life).max();
            if ours && newest == Some(lost.life) && proven.is_none_or(|p| p < lost.seq) {
                self.seq += 1;
                let seq = self.seq;
                if let Some(f) = self.files.get_mut(&file) {
                    f.apply(seq, offset, data, true);
                }
            }
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot { files: self.files.clone(), damage: self.damage.clone() }
    }

    /// What a copy's superblock says in a state of the disk.
    pub(crate) fn superblock(files: &Files, volume: VolumeId) -> Option<Superblock> {
        let file = files.get(&FileId::Superblock(volume))?;
        match Superblock::judge(&file.content) {
            holdfast_format::SuperblockFound::Valid(sb, _) => Some(*sb),
            _ => None,
        }
    }

    pub(crate) const fn files(&self) -> &Files {
        &self.files
    }

    /// The disk is what it was.
    pub(crate) fn roll_back(&mut self, snapshot: Snapshot) {
        self.files = snapshot.files;
        self.damage = snapshot.damage;
        self.doubt_digests();
    }

    /// A copy whose log ends early, with tables that were written later, has a digest of no position at all until it has
    /// caught up.
    fn doubt_digests(&mut self) {
        self.damage.digests = self.volumes();
    }

    /// One copy's superblock is what it was.
    pub(crate) fn roll_back_superblock(&mut self, snapshot: &Snapshot, volume: VolumeId) {
        let id = FileId::Superblock(volume);
        if let Some(file) = snapshot.files.get(&id) {
            self.files.insert(id, File { unsynced: Vec::new(), ..file.clone() });
            self.damage.digests.insert(volume);
        }
    }

    fn volumes(&self) -> BTreeSet<VolumeId> {
        self.files.keys().filter_map(|f| if let FileId::Superblock(v) = f { Some(*v) } else { None }).collect()
    }

    /// Every record whose header lies in the journal's files.
    pub(crate) fn records(&self) -> Vec<RecordHeader> {
        self.files.iter().flat_map(|(id, f)| super::records_in(*id, &f.content)).collect()
    }

    /// The highest epoch and the highest position of a copy's records in the journal.
    pub(crate) fn journal_reaches(&self, volume: VolumeId) -> Option<(Epoch, Lsn)> {
        let live = self.live_segments();
        let frames = live.iter().flat_map(|(file, head)| self.frames_in(*file, head));
        let records = frames.flat_map(|(file, at, h)| {
            let end = at + index(u64::from(FrameHeader::head_len(h.slots)));
            super::records_in(file, &self.files[&file].content[at..end])
        });
        let of_volume = records.filter(|r| r.volume == volume).map(|r| (r.epoch, r.lsn));
        of_volume.reduce(|a, b| (a.0.max(b.0), a.1.max(b.1)))
    }
}

fn pick<T: Clone>(from: &[T], rng: &mut Rng) -> Option<T> {
    (!from.is_empty()).then(|| from[index(rng.below(from.len() as u64))].clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::DiskPlan;
    use holdfast_store::io::{DiskReply, OpId};

    const V: VolumeId = VolumeId(1);
    const IMAGE: FileId = FileId::Image(V);

    fn act(disk: &mut Disk, file: FileId, kind: DiskOpKind) -> DiskReply {
        let (ticket, _) = disk.submit(DiskOp { id: OpId(1), file, kind }, 0);
        disk.complete(ticket).unwrap().done.result.unwrap()
    }

    fn write(disk: &mut Disk, block: u64, byte: u8) {
        let data = vec![Bytes::from(vec![byte; BLOCK_SIZE])];
        act(disk, IMAGE, DiskOpKind::Write { offset: block * BLOCK_SIZE as u64, data, durable: false });
    }

    fn image(blocks: u64) -> Disk {
        let mut disk = Disk::new(DiskPlan { latency_min: 1, latency_max: 2 }, Rng::new(1));
        act(&mut disk, IMAGE, DiskOpKind::Create { len: 8 * BLOCK_SIZE as u64, written: false });
        (0..blocks).for_each(|b| write(&mut disk, b, 7));
        act(&mut disk, IMAGE, DiskOpKind::Sync);
        disk
    }

    fn damaged(disk: &Disk) -> Vec<u64> {
        (0..8).filter(|b| disk.damage().covers(V, *b, *b + 1)).collect()
    }

    #[test]
    fn rot_is_known_until_the_block_is_written_for_good() {
        let mut disk = image(1);
        assert!(!disk.rot(FaultKind::RotImage, V, &mut Rng::new(2), |_| true), "it was to be spared");
        assert!(disk.rot(FaultKind::RotImage, V, &mut Rng::new(2), |_| false));
        assert_ne!(disk.content(IMAGE).unwrap()[..BLOCK_SIZE], [7; BLOCK_SIZE]);
        assert_eq!(damaged(&disk), [0]);
        write(&mut disk, 0, 8);
        assert_eq!(damaged(&disk), [0; 0]);
        disk.crash(&mut Vec::new());
        assert_eq!(damaged(&disk), [0], "a power cut may have undone the repair");
        write(&mut disk, 0, 8);
        disk.fail_next = Some(FaultKind::SyncError);
        let (ticket, _) = disk.submit(DiskOp { id: OpId(1), file: IMAGE, kind: DiskOpKind::Sync }, 0);
        assert!(disk.complete(ticket).unwrap().done.result.is_err());
        assert_eq!(damaged(&disk), [0], "so may a failed sync");
        write(&mut disk, 0, 9);
        act(&mut disk, IMAGE, DiskOpKind::Sync);
        disk.crash(&mut Vec::new());
        assert_eq!(damaged(&disk), [0; 0]);
    }

    #[test]
    fn lost_and_stray_writes_are_known() {
        let mut disk = image(8);
        disk.arm(FaultKind::PhantomWrite);
        write(&mut disk, 3, 8);
        assert_eq!((damaged(&disk), disk.content(IMAGE).unwrap()[3 * BLOCK_SIZE]), (vec![3], 7));
        let mut disk = image(8);
        disk.arm(FaultKind::MisdirectedWrite);
        write(&mut disk, 3, 8);
        assert_eq!((damaged(&disk).len(), disk.content(IMAGE).unwrap()[3 * BLOCK_SIZE]), (2, 7));
        assert_eq!(disk.take_fired(), [FaultKind::MisdirectedWrite]);
    }

    #[test]
    fn a_lie_comes_out_at_a_power_cut() {
        let lost = (0..20).filter(|seed| {
            let mut disk = image(0);
            disk.rng = Rng::new(*seed);
            disk.arm(FaultKind::LyingSync);
            (0..4).for_each(|b| write(&mut disk, b, 7));
            act(&mut disk, IMAGE, DiskOpKind::Sync);
            assert_eq!(damaged(&disk), [0; 0], "nothing shows before");
            disk.crash(&mut Vec::new());
            let intact = |b: usize| disk.content(IMAGE).unwrap()[b * BLOCK_SIZE..][..BLOCK_SIZE] == [7; BLOCK_SIZE];
            (0..4).for_each(|b| assert!(intact(b) || damaged(&disk).contains(&(b as u64))));
            !damaged(&disk).is_empty()
        });
        assert!(lost.count() > 5);
    }

    #[test]
    fn a_read_goes_wrong_once() {
        let mut disk = image(1);
        disk.arm_image(FaultKind::ReadFlip);
        let mut read = || act(&mut disk, IMAGE, DiskOpKind::Read { offset: 0, len: 4096 });
        let good = DiskReply::Data(vec![7; BLOCK_SIZE].into());
        assert_ne!(read(), good);
        assert_eq!(read(), good);
    }
}
