//! What a copy should be: a list of records and the image after each of them, and what was said of it.

use bytes::Bytes;
use holdfast_format::{ALLOCATED_ZEROS, Record, RecordKind, block_checksum, digest_term};
use holdfast_types::{BLOCK_SIZE, BlockIndex, Epoch, EpochTable, Incarnation, Lsn, OpenedCopy};
use std::sync::Arc;

use crate::medium::{to_u64, to_usize};

/// One copy, as it should be.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Of the copy's on-disk state.
    pub incarnation: Incarnation,
    /// Record n is `log[n - 1]`.
    pub log: Vec<Record>,
    /// Checksums of the blocks after record n; 0 and 1 for zeros.
    images: Vec<Arc<Vec<u64>>>,
    /// Which epoch wrote which part.
    pub table: EpochTable,
    /// The last one of the table.
    pub epoch: Epoch,
    /// Asked to be committed.
    pub committed: u64,
    /// Called durable.
    pub durable: u64,
    /// Called applied.
    pub applied: u64,
    /// Called the checkpoint.
    pub checkpoint: u64,
    /// Called promised.
    pub promised: Epoch,
    /// Asked to be promised.
    pub promising: Epoch,
    /// What it was before an adoption that was asked for and not called done.
    pub before: Option<Box<Volume>>,
    /// That is a switch: until it is called done, nothing else is asked.
    pub switching: bool,
    /// Where that one cuts.
    cut: u64,
    /// Its epoch is its own: records may be appended.
    pub may_append: bool,
    /// Called open.
    pub created: bool,
    /// Asked to go.
    pub deleting: bool,
    /// Called failed.
    pub failed: bool,
}

/// What is asked of a copy that opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing was lost but what a cut may take.
    Strict,
    /// The device damaged something: what is there is right, and what is missing is told.
    Damaged,
}

impl Volume {
    /// A new one of so many blocks.
    #[must_use]
    pub fn new(incarnation: u64, blocks: u64) -> Volume {
        Volume {
            incarnation: Incarnation(incarnation),
            log: Vec::new(),
            images: vec![Arc::new(vec![0; to_usize(blocks)])],
            table: EpochTable::default(),
            epoch: Epoch::ZERO,
            committed: 0,
            durable: 0,
            applied: 0,
            checkpoint: 0,
            promised: Epoch::ZERO,
            promising: Epoch::ZERO,
            before: None,
            switching: false,
            cut: 0,
            may_append: false,
            created: false,
            deleting: false,
            failed: false,
        }
    }

    /// The last record's LSN.
    #[must_use]
    pub fn last(&self) -> u64 {
        to_u64(self.log.len())
    }

    /// The hash that record `lsn + 1` names; 0 at 0.
    #[must_use]
    pub fn hash(&self, lsn: u64) -> u64 {
        lsn.checked_sub(1).map_or(0, |i| self.log[to_usize(i)].hash())
    }

    /// Checksums of the blocks after `lsn`.
    #[must_use]
    pub fn image(&self, lsn: u64) -> &[u64] {
        &self.images[to_usize(lsn)]
    }

    /// The digest after `lsn`, from scratch.
    #[must_use]
    pub fn digest(&self, lsn: u64) -> u64 {
        let terms = (0..).zip(self.image(lsn)).map(|(b, sum)| digest_term(BlockIndex(b), *sum));
        terms.fold(0, u64::wrapping_add)
    }

    /// Whether `data` is what `block` holds after `lsn`. Zeros may have been written as data, or be an entry of the table alone.
    #[must_use]
    pub fn holds(&self, lsn: u64, block: u64, data: &[u8]) -> bool {
        let want = self.image(lsn)[to_usize(block)];
        want == block_checksum(BlockIndex(block), data) || (want <= ALLOCATED_ZEROS && data.iter().all(|&b| b == 0))
    }

    /// What `block` holds after `lsn`.
    #[must_use]
    pub fn content(&self, lsn: u64, block: u64) -> Bytes {
        let zeros = || Bytes::from(vec![0; BLOCK_SIZE]);
        let over = |r: &&Record| r.header().range.contains(BlockIndex(block));
        let Some(record) = self.log[..to_usize(lsn)].iter().rev().find(over) else { return zeros() };
        let (header, body) = (record.header(), record.body());
        let (first, last) = (header.range.start.0, header.range.end().0 - 1);
        let at = |n: u64| body.slice(to_usize(n) * BLOCK_SIZE..to_usize(n + 1) * BLOCK_SIZE);
        match header.kind {
            RecordKind::Write => at(block - first),
            _ if header.head && block == first => at(0),
            _ if header.tail && block == last => at(u64::from(header.head)),
            _ => zeros(),
        }
    }

    /// Blocks of the volume after `lsn`.
    #[must_use]
    pub fn blocks(&self, lsn: u64) -> u64 {
        let resized = self.log[..to_usize(lsn)].iter().rev().find_map(Record::resized);
        resized.map_or(to_u64(self.images[0].len()), |resized| resized.size.blocks().0)
    }

    /// Appends a record.
    pub fn push(&mut self, record: Record) {
        let mut image = self.images.last().expect("never empty").as_ref().clone();
        for block in record.header().range.iter() {
            image[to_usize(block.0)] = record.block_sum(block);
        }
        self.images.push(Arc::new(image));
        self.log.push(record);
    }

    fn truncate(&mut self, last: u64) {
        self.log.truncate(to_usize(last));
        self.images.truncate(to_usize(last) + 1);
    }

    /// An adoption is asked for that cuts after `cut`.
    pub fn adopt(&mut self, cut: u64) {
        assert!(self.before.is_none(), "one adoption at a time");
        self.before = Some(Box::new(self.clone()));
        let epoch = self.epoch.max(self.promised).max(self.promising).next();
        self.truncate(cut);
        self.cut = cut;
        self.durable = self.durable.min(cut);
        self.table = self.table.continued(Lsn(cut), epoch);
        self.epoch = epoch;
        self.promising = self.promising.max(epoch);
        self.may_append = true;
    }

    /// Called durable up to `upto`.
    ///
    /// # Errors
    /// What is wrong with that.
    pub fn on_durable(&mut self, upto: u64) -> Result<(), String> {
        // An adoption drains first: until it is answered, what becomes durable was appended before it.
        let bound = if self.before.is_some() { self.cut } else { u64::MAX };
        let of = self.before.as_deref().unwrap_or(self);
        if upto <= of.durable || upto > of.last() {
            return Err(format!("durable up to {upto} after {} of {}", of.durable, of.last()));
        }
        self.durable = upto.min(bound);
        if let Some(before) = self.before.as_deref_mut() {
            before.durable = upto;
        }
        Ok(())
    }

    /// Called promised.
    pub fn on_promised(&mut self, epoch: Epoch) {
        self.promised = self.promised.max(epoch);
        if let Some(before) = self.before.as_deref_mut() {
            before.promised = before.promised.max(epoch);
        }
    }

    /// Called adopted, with the log up to here.
    pub fn on_adopted(&mut self, epoch: Epoch, last: u64) {
        (self.before, self.switching) = (None, false);
        self.promised = self.promised.max(epoch);
        self.durable = last;
    }

    /// Called switched to the state at record `last`, which is under a checkpoint.
    pub fn on_switched(&mut self, epoch: Epoch, last: u64) {
        self.on_adopted(epoch, last);
        (self.committed, self.applied, self.checkpoint) = (last, last, last);
    }

    /// What a copy that opened is to be, if it is what it must be.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, found: &OpenedCopy, judgement: Judgement) -> Result<Volume, String> {
        let mut then = self.clone();
        then.switching = false;
        if let Some(before) = then.before.take()
            && found.table == before.table
        {
            let (committed, promising, applied) = (then.committed, then.promising, then.applied.max(before.applied));
            then = *before;
            then.before = None;
            (then.promising, then.applied) = (then.promising.max(promising), applied);
            then.committed = then.committed.max(committed);
        }
        let lost = then.find_fault(found, judgement);
        lost.map_or(Ok(()), |what| Err(format!("{what}: {found:?}")))?;
        then.truncate(found.last.0);
        then.committed = found.committed.0;
        then.durable = found.last.0;
        then.applied = found.applied.0;
        then.checkpoint = found.checkpoint.0;
        (then.promised, then.promising) = (found.promised, found.promised);
        (then.created, then.may_append) = (true, false);
        Ok(then)
    }

    fn find_fault(&self, found: &OpenedCopy, judgement: Judgement) -> Option<String> {
        let last = found.last.0;
        if found.incarnation != self.incarnation || found.table != self.table {
            return Some(format!("expected incarnation {:?} and {:?}", self.incarnation, self.table));
        }
        if last > self.last() {
            return Some(format!("{} records were appended", self.last()));
        }
        let blocks = (found.size().blocks().0, found.sizes.last().size.blocks().0);
        let want = (self.blocks(found.committed.0.min(last)), self.blocks(last));
        if blocks != want {
            return Some(format!("{want:?} blocks as far as committed, and in all"));
        }
        let epoch = last.checked_sub(1).map_or(Epoch::ZERO, |i| self.log[to_usize(i)].epoch());
        if (found.last_hash, found.last_epoch) != (self.hash(last), epoch) {
            return Some(format!("record {last} is another one, of {epoch}"));
        }
        if found.promised < self.promised || found.promised > self.promised.max(self.promising) {
            return Some(format!("promised {}, asked for {}", self.promised, self.promising));
        }
        if found.committed > found.last || found.committed.0 > self.committed {
            return Some(format!("committed up to {}", self.committed));
        }
        if found.applied != found.committed || found.checkpoint > found.applied {
            return Some("its positions are not in order".to_owned());
        }
        if found.digest != self.digest(found.applied.0) {
            return Some(format!("digest {:016x}", self.digest(found.applied.0)));
        }
        let shown = found.unknown_to.is_some_and(|to| to.0 >= self.durable);
        if judgement == Judgement::Damaged {
            return (last < self.durable && !shown)
                .then(|| format!("{} were durable and are cut in silence", self.durable));
        }
        if last < self.durable || found.unknown_to.is_some() || found.commit_hint > found.last {
            return Some(format!("{} were durable", self.durable));
        }
        if found.committed.0 < self.applied || found.checkpoint.0 < self.checkpoint {
            return Some(format!("applied {} and checkpoint {}", self.applied, self.checkpoint));
        }
        None
    }
}
