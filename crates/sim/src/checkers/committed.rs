//! S5, S6, S15 and S16: one committed log, rebuilt from what primaries send, and what every copy must hold by it.

use super::Violation;
use super::register::change_in;
use crate::options::index;
use bytes::Bytes;
use holdfast_format::{Record, digest_term};
use holdfast_types::{BLOCK_SIZE, BlockIndex, Epoch, Lsn, NodeId, Resized, SECTOR_SIZE, Sizes, VolumeId, VolumeSize};
use std::collections::BTreeMap;

/// A record that was seen on the wire.
#[derive(Debug)]
struct Seen {
    hash: u64,
    prev_hash: u64,
    /// Until it is committed.
    record: Option<Record>,
}

/// The log of one volume as the world knows it.
#[derive(Debug)]
pub(crate) struct Committed {
    volume: VolumeId,
    seen: BTreeMap<(Lsn, Epoch), Seen>,
    /// First record of each epoch.
    starts: BTreeMap<Epoch, Lsn>,
    /// Hash and epoch of each committed record, from LSN 1 on.
    log: Vec<(u64, Epoch)>,
    /// Bytes that they changed, from LSN 0 on.
    bytes: Vec<u64>,
    /// Digest of the image after each of them, from LSN 0 on.
    digests: Vec<u64>,
    blocks: Vec<(Option<Bytes>, u64)>,
    /// What former primaries said of their images before the world knew that much to be committed.
    deferred: Vec<(NodeId, Lsn, u64)>,
    /// In which record each change was first seen.
    changes: BTreeMap<u64, (Lsn, Epoch)>,
    /// The sizes of the volume along the committed log.
    sizes: Sizes,
    /// Those that nobody has asked about.
    told: Vec<Resized>,
    /// Records are kept when they are committed: a part of the log may have to be taken back.
    keeps: bool,
}

impl Committed {
    pub(crate) fn new(volume: VolumeId, size: VolumeSize) -> Committed {
        Committed {
            volume,
            seen: BTreeMap::new(),
            starts: BTreeMap::new(),
            log: Vec::new(),
            bytes: vec![0],
            digests: vec![0],
            blocks: vec![(None, 0); index(size.blocks().0)],
            deferred: Vec::new(),
            changes: BTreeMap::new(),
            sizes: Sizes::new(Resized { lsn: Lsn::ZERO, size, decision: 0 }),
            told: Vec::new(),
            keeps: false,
        }
    }

    /// From now on what was committed can be taken back.
    pub(crate) fn keep_records(&mut self) {
        self.keeps = true;
    }

    /// An operator has given up everything above `to`: the changes that are lost by it, and their records.
    pub(crate) fn roll_back(&mut self, to: Lsn) -> Vec<(u64, Lsn)> {
        assert!(self.keeps, "records were kept");
        let gone =
            |(change, (lsn, _)): (&u64, &(Lsn, Epoch))| (*lsn > to && self.holds(*change)).then_some((*change, *lsn));
        let lost: Vec<(u64, Lsn)> = self.changes.iter().filter_map(gone).collect();
        if to >= self.last() {
            return lost;
        }
        self.log.truncate(index(to.0));
        self.bytes.truncate(1);
        self.digests = vec![0];
        self.blocks.iter_mut().for_each(|slot| *slot = (None, 0));
        for (lsn, (_, epoch)) in (1..).zip(self.log.clone()) {
            let record = self.seen[&(Lsn(lsn), epoch)].record.clone();
            self.apply(&record.expect("it is kept"));
        }
        self.deferred.retain(|(_, lsn, _)| *lsn <= to);
        lost
    }

    /// The size at the end of the committed log.
    pub(crate) fn size(&self) -> Resized {
        self.sizes.last()
    }

    /// The smallest size from the start of `epoch` on.
    pub(crate) fn smallest_since(&self, epoch: Epoch) -> u64 {
        let start = self.start_of(epoch).unwrap_or(Lsn::ZERO);
        let ends = (start.0..=self.last().0).map(|lsn| self.sizes.at(Lsn(lsn)).size.bytes());
        ends.min().unwrap_or_else(|| self.size().size.bytes())
    }

    /// What was committed since this was asked.
    pub(crate) fn take_resized(&mut self) -> Vec<Resized> {
        std::mem::take(&mut self.told)
    }

    /// End of the committed log.
    pub(crate) fn last(&self) -> Lsn {
        Lsn(self.log.len() as u64)
    }

    pub(crate) fn start_of(&self, epoch: Epoch) -> Option<Lsn> {
        self.starts.get(&epoch).copied()
    }

    /// The record in which a change was first sent.
    pub(crate) fn record_of(&self, change: u64) -> Option<(Lsn, Epoch)> {
        self.changes.get(&change).copied()
    }

    /// Whether a change is in the committed log.
    pub(crate) fn holds(&self, change: u64) -> bool {
        self.record_of(change).is_some_and(|(lsn, epoch)| self.at(lsn).is_some_and(|(_, e)| e == epoch))
    }

    /// The content of a block by the committed log. Behind the volume's end there is none: a write that went astray may have made
    /// the file longer.
    pub(crate) fn block(&self, block: u64) -> Option<&Bytes> {
        self.blocks.get(index(block))?.0.as_ref()
    }

    /// Which change a sector holds by the committed log; 0: zeros.
    pub(crate) fn change_at(&self, sector: u64) -> u64 {
        let per_block = (BLOCK_SIZE / SECTOR_SIZE) as u64;
        let (block, at) = (sector / per_block, index(sector % per_block) * SECTOR_SIZE);
        let content = self.block(block).map(|data| &data[at..at + SECTOR_SIZE]);
        content.and_then(|content| change_in(content, sector)).unwrap_or(0)
    }

    /// Records on the wire.
    pub(crate) fn observe(&mut self, records: &[Record]) -> Result<(), Violation> {
        for record in records {
            let (lsn, epoch) = (record.lsn(), record.epoch());
            let (hash, prev_hash) = (record.hash(), record.header().prev_hash);
            if let Some(seen) = self.seen.get(&(lsn, epoch)) {
                if seen.hash != hash {
                    let text =
                        format!("{} has two records {lsn} of {epoch}: {:016x} and {hash:016x}", self.volume, seen.hash);
                    return Err(Violation::new("S15", text));
                }
                continue;
            }
            self.note_changes(record);
            let first = self.starts.entry(epoch).or_insert(lsn);
            *first = lsn.min(*first);
            self.seen.insert((lsn, epoch), Seen { hash, prev_hash, record: Some(record.clone()) });
        }
        Ok(())
    }

    /// Everything up to `lsn` of the log of `epoch` is committed: what is newly so, in order.
    pub(crate) fn advance(&mut self, epoch: Epoch, lsn: Lsn) -> Result<Vec<(Lsn, Epoch)>, Violation> {
        if lsn <= self.last() {
            return Ok(Vec::new());
        }
        let path = self.path(epoch, lsn)?;
        for (lsn, epoch) in &path {
            let seen = self.seen.get_mut(&(*lsn, *epoch)).expect("the path was walked on records that were seen");
            let record = if self.keeps { seen.record.clone() } else { seen.record.take() };
            let hash = seen.hash;
            self.log.push((hash, *epoch));
            self.apply(&record.expect("it is committed once"));
        }
        Ok(path)
    }

    /// The chain from the end of the committed log to `lsn` of `epoch`, checked by hashes on the way back.
    fn path(&self, epoch: Epoch, lsn: Lsn) -> Result<Vec<(Lsn, Epoch)>, Violation> {
        let Some(start) = self.start_of(epoch) else {
            let text = format!(
                "{} counts {lsn} of {epoch} as committed, but no record of that epoch was ever sent",
                self.volume
            );
            return Err(Violation::new("S1", text));
        };
        if start <= self.last() {
            let known = self.at(start).map(|(_, e)| e);
            if known != Some(epoch) {
                let text = format!(
                    "{epoch} starts at record {start}, but records up to {} are committed: it lost some",
                    self.last()
                );
                return Err(Violation::new("S1", text));
            }
        }
        let mut at = if self.seen.contains_key(&(lsn, epoch)) { (lsn, epoch) } else { (start, epoch) };
        if at.0 < lsn {
            let text = format!("record {lsn} of {epoch} counts as committed, but was never sent to another copy");
            return Err(Violation::new("S1", text));
        }
        let mut path = Vec::new();
        while at.0 > self.last() {
            if at.0 <= lsn {
                path.push(at);
            }
            let prev_hash = self.seen[&at].prev_hash;
            let before = at.0.prev();
            if before == self.last() {
                let known = self.log.last().map_or(0, |l| l.0);
                if known != prev_hash {
                    let text = format!(
                        "record {} of {} does not follow the committed record {before}: the volume's log is no prefix",
                        at.0, at.1
                    );
                    return Err(Violation::new("S6", text));
                }
                break;
            }
            at = self.seen_with_hash(before, at.1, prev_hash).ok_or_else(|| {
                Violation::new(
                    "S1",
                    format!("record {before} counts as committed under {epoch}, but was never sent to another copy"),
                )
            })?;
        }
        path.reverse();
        Ok(path)
    }

    fn seen_with_hash(&self, lsn: Lsn, upto: Epoch, hash: u64) -> Option<(Lsn, Epoch)> {
        self.seen.range((lsn, Epoch::ZERO)..=(lsn, upto)).find(|(_, s)| s.hash == hash).map(|(key, _)| *key)
    }

    /// Bytes changed by committed records above `held`, up to `upto`.
    pub(crate) fn bytes_between(&self, held: Lsn, upto: Lsn) -> u64 {
        let at = |lsn: Lsn| self.bytes[index(lsn.0.min(self.last().0))];
        at(upto).saturating_sub(at(held))
    }

    /// The epoch of a committed record.
    pub(crate) fn epoch_of(&self, lsn: Lsn) -> Option<Epoch> {
        self.at(lsn).map(|(_, epoch)| epoch)
    }

    fn at(&self, lsn: Lsn) -> Option<(u64, Epoch)> {
        self.log.get(index(lsn.0).checked_sub(1)?).copied()
    }

    fn apply(&mut self, record: &Record) {
        if let Some(resized) = record.resized() {
            self.sizes.push(resized);
            self.told.push(resized);
        }
        let before = *self.bytes.last().expect("nothing was changed before the first record");
        self.bytes.push(before + record.header().range.count.bytes());
        let mut digest = *self.digests.last().expect("there is a digest of the empty image");
        for block in record.header().range.iter() {
            let slot = &mut self.blocks[index(block.0)];
            digest = digest.wrapping_sub(digest_term(block, slot.1));
            *slot = (record.block(block).map(|(data, _)| data), record.block_sum(block));
            digest = digest.wrapping_add(digest_term(block, slot.1));
        }
        self.digests.push(digest);
    }

    fn note_changes(&mut self, record: &Record) {
        let key = (record.lsn(), record.epoch());
        for block in record.header().range.iter() {
            let Some((data, _)) = record.block(block) else { continue };
            for (sector, content) in sectors_of(block).zip(data.chunks_exact(SECTOR_SIZE)) {
                if let Some(change) = change_in(content, sector).filter(|c| *c != 0) {
                    self.changes.entry(change).or_insert(key);
                }
            }
        }
    }

    /// S16: a copy says how far its image is, and its digest there. `led`: it was primary in this life, so it may have
    /// committed something in its last turn, which nobody was told.
    pub(crate) fn image_at(&mut self, node: NodeId, led: bool, applied: Lsn, digest: u64) -> Result<(), Violation> {
        if led && applied > self.last() {
            if self.deferred.last() != Some(&(node, applied, digest)) {
                self.deferred.push((node, applied, digest));
            }
            return Ok(());
        }
        self.image_is(node, applied, digest)
    }

    /// What was deferred must hold by now.
    pub(crate) fn settle_deferred(&mut self) -> Result<(), Violation> {
        let deferred = std::mem::take(&mut self.deferred);
        deferred.into_iter().try_for_each(|(node, applied, digest)| self.image_is(node, applied, digest))
    }

    fn image_is(&self, node: NodeId, applied: Lsn, digest: u64) -> Result<(), Violation> {
        let Some(expected) = self.digests.get(index(applied.0)) else {
            let text = format!(
                "the image of {} at {node} holds record {applied}, but only {} are committed",
                self.volume,
                self.last()
            );
            return Err(Violation::new("S16", text));
        };
        if *expected != digest {
            let text = format!(
                "the image of {} at {node} has digest {digest:016x} at record {applied}; by the committed log it is {expected:016x}",
                self.volume
            );
            return Err(Violation::new("S5", text));
        }
        Ok(())
    }
}

/// Sectors of a block.
pub(crate) fn sectors_of(block: BlockIndex) -> impl Iterator<Item = u64> {
    let per_block = (BLOCK_SIZE / SECTOR_SIZE) as u64;
    block.0 * per_block..(block.0 + 1) * per_block
}
