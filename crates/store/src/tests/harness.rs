//! A store on a test disk, against a slow model of each volume: a list of records, and the image after each of them.

use super::disk::Disk;
use crate::api::{Input, Output};
use crate::io::FileId;
use crate::{Store, StoreConfig};
use bytes::Bytes;
use holdfast_format::message::NotHeld;
use holdfast_format::{ALLOCATED_ZEROS, Draft, Record, RecordKind, block_checksum, digest_term};
use holdfast_types::{
    BLOCK_SIZE, BlockIndex, BlockRange, Epoch, EpochTable, Incarnation, Lsn, OpenedCopy, ReadFault, Rng, Time,
    VolumeId, VolumeSize,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub(crate) const BLOCKS: u64 = 48;

pub(crate) fn small() -> StoreConfig {
    StoreConfig {
        segment_bytes: 96 << 10,
        min_segments: 3,
        max_segments: 7,
        shrink_interval: Duration::from_secs(2),
        frame_bytes: 40 << 10,
        max_body_bytes: 8 * BLOCK_SIZE,
        checkpoint_bytes: 150 << 10,
        checkpoint_interval: Duration::from_millis(500),
        apply_batch_bytes: 48 << 10,
        apply_start_bytes: 96 << 10,
        apply_delay: Duration::from_millis(100),
        apply_in_flight: 4,
        apply_beside: 1,
        look_interval: None,
        apply_write_bytes: 16 << 10,
        cache_bytes: 40 << 10,
        ..StoreConfig::default()
    }
}

/// What a volume should be.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) incarnation: Incarnation,
    /// Record `n` is `log[n - 1]`.
    pub(crate) log: Vec<Record>,
    /// Block checksums after record `n`; 0 for zeros.
    pub(crate) images: Vec<Vec<u64>>,
    pub(crate) table: EpochTable,
    pub(crate) epoch: Epoch,
    pub(crate) committed: u64,
    /// Ever committed, in any life: never cut.
    pub(crate) ever_committed: u64,
    pub(crate) durable: u64,
    pub(crate) promised: Epoch,
    /// Promises asked for and not answered.
    pub(crate) promising: Option<Epoch>,
    /// The log and table before an adoption that was not answered.
    pub(crate) before_adoption: Option<Box<Model>>,
    /// Where that adoption cuts.
    pub(crate) cut: u64,
    /// The tail that was lost at a crash: records that a peer may send again.
    pub(crate) lost: Vec<Record>,
    /// A restarted primary appends nothing new to its old epoch (N0).
    pub(crate) may_append: bool,
    pub(crate) created: bool,
}

impl Model {
    pub(crate) fn new(incarnation: u64) -> Model {
        let images = vec![vec![0; usize::try_from(BLOCKS).expect("small")]];
        Model {
            incarnation: Incarnation(incarnation),
            log: Vec::new(),
            images,
            table: EpochTable::default(),
            epoch: Epoch::ZERO,
            committed: 0,
            ever_committed: 0,
            durable: 0,
            promised: Epoch::ZERO,
            promising: None,
            before_adoption: None,
            cut: 0,
            lost: Vec::new(),
            may_append: false,
            created: false,
        }
    }

    pub(crate) fn last(&self) -> u64 {
        u64::try_from(self.log.len()).expect("small")
    }

    pub(crate) fn hash(&self, lsn: u64) -> u64 {
        lsn.checked_sub(1).map_or(0, |i| self.log[usize::try_from(i).expect("small")].hash())
    }

    pub(crate) fn image(&self, lsn: u64) -> &[u64] {
        &self.images[usize::try_from(lsn).expect("small")]
    }

    pub(crate) fn digest(&self, lsn: u64) -> u64 {
        let terms = (0..).zip(self.image(lsn)).map(|(b, sum)| digest_term(BlockIndex(b), *sum));
        terms.fold(0, u64::wrapping_add)
    }

    /// Blocks of the volume at the end of its log.
    pub(crate) fn blocks(&self) -> u64 {
        self.blocks_at(self.last())
    }

    pub(crate) fn blocks_at(&self, lsn: u64) -> u64 {
        let records = &self.log[..usize::try_from(lsn).expect("small")];
        records.iter().rev().find_map(Record::resized).map_or(BLOCKS, |resized| resized.size.blocks().0)
    }

    pub(crate) fn push(&mut self, record: Record) {
        let mut image = self.images.last().expect("never empty").clone();
        for block in record.header().range.iter() {
            image[usize::try_from(block.0).expect("small")] = record.block_sum(block);
        }
        self.images.push(image);
        self.log.push(record);
    }

    pub(crate) fn truncate(&mut self, last: u64) {
        let last = usize::try_from(last).expect("small");
        self.log.truncate(last);
        self.images.truncate(last + 1);
    }

    /// Opened in a later life: a lost tail is fine, a lost durable record is not.
    pub(crate) fn check_opened(&mut self, v: VolumeId, c: &OpenedCopy) {
        if let Some(before) = self.before_adoption.take()
            && c.table == before.table
        {
            let promising = self.promising.max(Some(self.epoch));
            let ever_committed = self.ever_committed;
            *self = *before;
            self.promising = promising;
            self.ever_committed = ever_committed;
        }
        assert_eq!((c.incarnation, &c.table), (self.incarnation, &self.table), "{v}");
        assert!(c.last.0 >= self.durable, "{v}: {} was durable, the log ends at {}", self.durable, c.last);
        assert!(c.last.0 <= self.last(), "{v}: {} was never appended, last {}", c.last, self.last());
        assert_eq!(c.last_hash, self.hash(c.last.0), "{v}");
        let epoch =
            c.last.0.checked_sub(1).map_or(Epoch::ZERO, |i| self.log[usize::try_from(i).expect("small")].epoch());
        assert_eq!(c.last_epoch, epoch, "{v}");
        assert!(c.promised >= self.promised, "{v}: promised {} then {}", self.promised, c.promised);
        assert!(
            c.promised == self.promised || Some(c.promised) <= self.promising,
            "{v}: nobody asked for {}",
            c.promised
        );
        assert!(c.committed <= c.last && c.committed.0 <= self.ever_committed, "{v}: {c:?} of {}", self.committed);
        assert!(c.commit_hint <= c.last && c.unknown_to.is_none(), "{v}: nothing was lost: {c:?}");
        assert!(c.checkpoint <= c.applied && c.applied == c.committed, "{v}: {c:?}");
        assert_eq!(c.digest, self.digest(c.applied.0), "{v} at {}", c.applied);
        assert_eq!(c.size().blocks().0, self.blocks_at(c.committed.0), "{v}: {c:?}");
        assert_eq!(c.sizes.last().size.blocks().0, self.blocks_at(c.last.0), "{v}: {c:?}");
        self.lost = self.log[usize::try_from(c.last.0).expect("small")..].to_vec();
        self.truncate(c.last.0);
        self.committed = c.committed.0;
        self.durable = c.last.0;
        self.promised = c.promised;
        self.promising = None;
        self.may_append = false;
        self.created = true;
    }
}

/// A read that was not answered: committed when asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) volume: VolumeId,
    pub(crate) range: BlockRange,
    pub(crate) committed: u64,
}

pub(crate) struct Harness {
    pub(crate) store: Store,
    pub(crate) disk: Disk,
    pub(crate) rng: Rng,
    pub(crate) now: Time,
    pub(crate) config: StoreConfig,
    pub(crate) models: BTreeMap<VolumeId, Model>,
    pub(crate) reads: BTreeMap<u64, Asked>,
    pub(crate) log_reads: BTreeMap<u64, (VolumeId, Lsn)>,
    pub(crate) next_tag: u64,
    /// The start has ended, and every copy that was found is open or failed.
    pub(crate) started: bool,
    pub(crate) opening: BTreeSet<VolumeId>,
    /// Records that the journal was said to have lost.
    pub(crate) lost: Vec<(VolumeId, u64, u64)>,
    pub(crate) opened: BTreeMap<VolumeId, OpenedCopy>,
    pub(crate) failures: Vec<(Option<VolumeId>, String)>,
    pub(crate) corrupt_reads: usize,
    pub(crate) extents: Vec<(BlockRange, bool)>,
    pub(crate) repaired: Vec<(u64, bool)>,
    pub(crate) mended: Vec<FileId>,
    pub(crate) held: Vec<(Lsn, Result<u64, NotHeld>)>,
    pub(crate) sums: Vec<u64>,
    /// The blocks that reads found bad.
    pub(crate) faults: Vec<ReadFault>,
    /// Check what is opened against the models; off where damage was done on purpose.
    pub(crate) strict: bool,
    /// Drafts give volumes other sizes, too.
    pub(crate) resizes: bool,
    pub(crate) checkpoints: usize,
    pub(crate) deleted: Vec<VolumeId>,
    pub(crate) log_records: usize,
    /// What was said about regions and the side area.
    pub(crate) resync: Vec<Output>,
}

impl Harness {
    pub(crate) fn new(seed: u64, config: StoreConfig) -> Harness {
        Harness::on(Disk::default(), seed, config)
    }

    pub(crate) fn on(disk: Disk, seed: u64, config: StoreConfig) -> Harness {
        Harness {
            store: Store::new(config.clone(), seed ^ 0xF00D),
            disk,
            rng: Rng::new(seed),
            now: Time(1),
            config,
            models: BTreeMap::new(),
            reads: BTreeMap::new(),
            log_reads: BTreeMap::new(),
            next_tag: 0,
            started: false,
            opening: BTreeSet::new(),
            lost: Vec::new(),
            opened: BTreeMap::new(),
            failures: Vec::new(),
            corrupt_reads: 0,
            extents: Vec::new(),
            repaired: Vec::new(),
            mended: Vec::new(),
            held: Vec::new(),
            sums: Vec::new(),
            faults: Vec::new(),
            strict: true,
            resizes: false,
            checkpoints: 0,
            deleted: Vec::new(),
            log_records: 0,
            resync: Vec::new(),
        }
    }

    pub(crate) fn input(&mut self, input: Input) {
        let mut out = Vec::new();
        self.store.handle(input, self.now, &mut out);
        for output in out {
            self.output(output);
        }
    }

    fn model(&mut self, v: VolumeId) -> &mut Model {
        self.models.get_mut(&v).expect("outputs speak of known volumes")
    }

    fn output(&mut self, output: Output) {
        if let Output::Opened { volume, .. } | Output::Failed { volume: Some(volume), .. } = &output {
            self.started |= self.opening.remove(volume) && self.opening.is_empty();
        }
        match output {
            Output::Disk(op) => self.disk.submit(op),
            Output::Orphan { .. } => {}
            Output::RecordsLost { volume, first, last } => self.lost.push((volume, first.0, last.0)),
            Output::Started { opening } => {
                self.started = opening.is_empty();
                self.opening = opening;
            }
            Output::Mended { file, .. } => self.mended.push(file),
            Output::Opened { volume, copy } => {
                if self.strict {
                    self.model(volume).check_opened(volume, &copy);
                }
                self.opened.insert(volume, copy);
            }
            Output::Deleted { volume } => self.deleted.push(volume),
            Output::Durable { volume, upto } => {
                let m = self.model(volume);
                // An adoption drains first: until it is answered, what becomes durable was appended before it.
                let cut = m.cut;
                let old = m.before_adoption.as_deref_mut();
                let bound = if old.is_some() { cut } else { u64::MAX };
                if let Some(old) = old {
                    assert!(upto.get().0 > old.durable && upto.get().0 <= old.last(), "{volume}: {upto:?}");
                    old.durable = upto.get().0;
                } else {
                    assert!(upto.get().0 > m.durable && upto.get().0 <= m.last(), "{volume}: {upto:?}");
                }
                m.durable = upto.get().0.min(bound);
            }
            Output::Promised { volume, epoch } => {
                let m = self.model(volume);
                assert!(epoch >= m.promised && Some(epoch) <= m.promising);
                m.promised = epoch;
                if let Some(old) = m.before_adoption.as_deref_mut() {
                    old.promised = epoch;
                }
            }
            Output::Adopted { volume, epoch, last, last_hash } => {
                let m = self.model(volume);
                m.before_adoption = None;
                m.promised = epoch;
                m.durable = last.0;
                assert_eq!(m.hash(last.0), last_hash);
            }
            Output::Applied { volume, upto, digest } => {
                let m = self.model(volume);
                assert!(upto.0 <= m.committed);
                assert_eq!(digest, m.digest(upto.0), "{volume} at {upto}");
            }
            Output::Checkpointed { .. } => self.checkpoints += 1,
            Output::ReadDone { volume, tag, result } => self.read_done(volume, tag, result),
            Output::Extents { extents, .. } => self.extents = extents,
            Output::Repaired { block, right, .. } => self.repaired.push((block.0, right)),
            Output::Held { at, digest, .. } => self.held.push((at, Ok(digest))),
            Output::LetGo { at, why, .. } => self.held.push((at, Err(why))),
            Output::Sums { sums, .. } => self.sums = sums,
            Output::LogRead { volume, tag, result } => {
                let (v, from) = self.log_reads.remove(&tag).expect("asked");
                assert_eq!(v, volume);
                let Ok(records) = result else { return };
                assert!(!records.is_empty());
                for (lsn, record) in (from.0..).zip(&records) {
                    assert_eq!(record.lsn().0, lsn);
                    // What is not committed may have been cut and replaced since it was asked for.
                    if self.strict && lsn <= self.models[&volume].ever_committed {
                        assert_eq!(record.hash(), self.models[&volume].hash(lsn));
                    }
                }
                self.log_records += records.len();
            }
            output @ (Output::RegionsRead { .. }
            | Output::SideOpened { .. }
            | Output::SideHeld { .. }
            | Output::SideWritten { .. }
            | Output::SideProven { .. }
            | Output::Switched { .. }
            | Output::SwitchRefused { .. }) => self.resync.push(output),
            Output::Failed { volume, reason } => {
                assert!(!self.strict, "{volume:?} failed: {reason}");
                self.failures.push((volume, reason));
            }
        }
    }

    fn read_done(&mut self, volume: VolumeId, tag: u64, result: Result<Vec<Bytes>, ReadFault>) {
        let asked = self.reads.remove(&tag).expect("asked");
        assert_eq!(asked.volume, volume);
        let pieces = match result {
            Ok(pieces) => pieces,
            Err(error) => {
                assert!(!self.strict, "{volume} {asked:?}: {error:?}");
                self.corrupt_reads += 1;
                self.faults.push(error);
                return;
            }
        };
        let all: Vec<u8> = pieces.iter().flat_map(|p| p.iter().copied()).collect();
        assert_eq!(u64::try_from(all.len() / BLOCK_SIZE).expect("small"), asked.range.count.0);
        let model = &self.models[&volume];
        for (block, data) in asked.range.iter().zip(all.chunks_exact(BLOCK_SIZE)) {
            // Zeros may have been written as data, or be nothing but an entry of the table.
            let zeros = data.iter().all(|&b| b == 0);
            let sum = block_checksum(block, data);
            let i = usize::try_from(block.0).expect("small");
            let fits = (asked.committed..=model.committed)
                .map(|lsn| model.image(lsn)[i])
                .any(|want| want == sum || (zeros && want <= ALLOCATED_ZEROS));
            assert!(fits, "{volume}: block {block:?} is of no state in {}..={}", asked.committed, model.committed);
        }
    }

    pub(crate) fn complete_one(&mut self) -> bool {
        let n = u64::try_from(self.disk.in_flight.len()).expect("small");
        if n == 0 {
            return false;
        }
        let i = usize::try_from(self.rng.below(n)).expect("small");
        let done = self.disk.complete(i);
        self.now = self.now + Duration::from_micros(50);
        self.input(Input::Done(done));
        true
    }

    pub(crate) fn tick(&mut self) -> bool {
        let Some(at) = self.store.next_timeout() else { return false };
        self.now = self.now.max(at);
        self.input(Input::Tick);
        true
    }

    /// Until nothing is in flight and no timer runs.
    pub(crate) fn quiesce(&mut self) {
        for _ in 0..200_000 {
            if !self.complete_one() && !self.tick() {
                return;
            }
        }
        panic!("the store never comes to rest; next timeout {:?}, now {:?}", self.store.next_timeout(), self.now);
    }

    /// So many ticks, each with what follows: for what comes to no rest.
    pub(crate) fn quiesce_for(&mut self, ticks: u32) {
        for _ in 0..ticks {
            self.drain_disk();
            self.tick();
        }
    }

    pub(crate) fn drain_disk(&mut self) {
        while self.complete_one() {}
    }

    /// Lets everything end but what `held` names.
    pub(crate) fn drain_disk_but(&mut self, held: impl Fn(&crate::io::DiskOp) -> bool) {
        while let Some(i) = self.disk.in_flight.iter().position(|(_, op)| !held(op)) {
            let done = self.disk.complete(i);
            self.input(Input::Done(done));
        }
    }

    pub(crate) fn start(&mut self) {
        self.input(Input::Start);
        while !self.started && self.complete_one() {}
        assert!(self.started || !self.strict, "the start ends");
    }

    /// Commits what is durable and lets everything end but what `held` names.
    pub(crate) fn commit_all_without(&mut self, v: VolumeId, held: impl Fn(&crate::io::DiskOp) -> bool) {
        for round in 0..100 {
            self.drain_disk_but(&held);
            let durable = self.models[&v].durable;
            self.commit(v, durable);
            if round > 2 && self.disk.in_flight.iter().all(|(_, op)| held(op)) && !self.tick() {
                return;
            }
        }
    }

    /// Forgets the process.
    pub(crate) fn crash(&mut self, power: bool) {
        let mut rng = self.rng.fork();
        self.disk.crash(&mut rng, power);
        self.store = Store::new(self.config.clone(), self.rng.next_u64());
        self.reads.clear();
        self.log_reads.clear();
        self.opened.clear();
        self.started = false;
    }

    pub(crate) fn create(&mut self, v: VolumeId) {
        let incarnation = self.rng.next_u64();
        self.models.insert(v, Model::new(incarnation));
        let size = VolumeSize::new(BLOCKS * 4096 - 512).expect("a size");
        self.input(Input::Create { volume: v, incarnation: Incarnation(incarnation), size });
        while !self.opened.contains_key(&v) && self.complete_one() {}
        assert!(self.opened.contains_key(&v));
    }

    pub(crate) fn adopt(&mut self, v: VolumeId, cut: u64) {
        let m = self.models.get_mut(&v).expect("known");
        let epoch = m.epoch.max(m.promised).max(m.promising.unwrap_or_default()).next();
        let before = m.before_adoption.take().unwrap_or_else(|| Box::new(m.clone()));
        m.before_adoption = Some(before);
        m.truncate(cut);
        m.cut = cut;
        m.durable = m.durable.min(cut);
        m.table = m.table.continued(Lsn(cut), epoch);
        m.epoch = epoch;
        m.promising = m.promising.max(Some(epoch));
        m.lost.clear();
        m.may_append = true;
        let table = m.table.clone();
        self.input(Input::Adopt { volume: v, epoch, table, cut_after: Lsn(cut) });
    }

    pub(crate) fn draft(&mut self, v: VolumeId) -> Record {
        let m = &self.models[&v];
        let (lsn, blocks) = (Lsn(m.last() + 1), m.blocks());
        if self.resizes && self.rng.chance(60_000) {
            let to = 1 + self.rng.below(BLOCKS);
            return self.draft_resize(v, to);
        }
        let start = self.rng.below(blocks);
        let mut count = 1 + self.rng.below(8.min(blocks - start));
        let pick = self.rng.below(10);
        let (kind, head, tail) = match pick {
            0 => (RecordKind::Discard, count > 1 && self.rng.chance(500_000), self.rng.chance(300_000)),
            1 => (RecordKind::WriteZeroes, false, self.rng.chance(500_000)),
            2 => (RecordKind::EpochStart, false, false),
            _ => (RecordKind::Write, false, false),
        };
        let edges = u64::from(head) + u64::from(tail);
        if kind == RecordKind::Discard && edges == 0 {
            count = blocks - start;
        }
        let range = if kind == RecordKind::EpochStart { BlockRange::default() } else { BlockRange::new(start, count) };
        let len = match kind {
            RecordKind::EpochStart => 60 + usize::try_from(pick).expect("small"),
            RecordKind::Write => usize::try_from(count).expect("small") * BLOCK_SIZE,
            _ => usize::try_from(edges).expect("small") * BLOCK_SIZE,
        };
        let mut body = vec![0; len];
        // Some blocks of zeros written as data, others random.
        if !self.rng.chance(50_000) {
            for chunk in body.chunks_mut(8) {
                let x = self.rng.next_u64().to_le_bytes();
                chunk.copy_from_slice(&x[..chunk.len()]);
            }
        }
        let m = &self.models[&v];
        Record::seal(Draft {
            volume: v,
            epoch: m.epoch,
            lsn,
            prev_hash: m.hash(lsn.0 - 1),
            committed: Lsn(m.committed.min(lsn.0 - 1)),
            kind,
            head,
            tail,
            range,
            body: Bytes::from(body),
        })
    }

    /// The volume is to have `to` blocks.
    fn draft_resize(&self, v: VolumeId, to: u64) -> Record {
        let m = &self.models[&v];
        let (lsn, decision) =
            (m.last() + 1, m.log.iter().rev().find_map(Record::resized).map_or(0, |r| r.decision) + 1);
        Record::seal(Draft {
            volume: v,
            epoch: m.epoch,
            lsn: Lsn(lsn),
            prev_hash: m.hash(lsn - 1),
            committed: Lsn(m.committed.min(lsn - 1)),
            kind: RecordKind::Resize,
            head: false,
            tail: false,
            range: BlockRange::new(to, m.blocks().saturating_sub(to)),
            body: Record::resize_body(decision),
        })
    }

    pub(crate) fn resize(&mut self, v: VolumeId, to: u64) {
        let record = self.draft_resize(v, to);
        self.models.get_mut(&v).expect("known").push(record.clone());
        self.input(Input::Append { volume: v, records: vec![record] });
    }

    pub(crate) fn append(&mut self, v: VolumeId, count: u64) {
        let mut records = Vec::new();
        for _ in 0..count {
            let record = self.draft(v);
            self.models.get_mut(&v).expect("known").push(record.clone());
            records.push(record);
        }
        self.input(Input::Append { volume: v, records });
    }

    /// One record without edges; a write's blocks hold its LSN.
    pub(crate) fn append_range(&mut self, v: VolumeId, kind: RecordKind, range: BlockRange) {
        let m = self.models.get_mut(&v).expect("known");
        let lsn = m.last() + 1;
        let body = match kind {
            RecordKind::Write => usize::try_from(range.count.0).expect("small") * BLOCK_SIZE,
            RecordKind::EpochStart => 60,
            _ => 0,
        };
        let record = Record::seal(Draft {
            volume: v,
            epoch: m.epoch,
            lsn: Lsn(lsn),
            prev_hash: m.hash(lsn - 1),
            committed: Lsn(m.committed),
            kind,
            head: false,
            tail: false,
            range,
            body: Bytes::from(vec![u8::try_from(lsn % 251).expect("small"); body]),
        });
        m.push(record.clone());
        self.input(Input::Append { volume: v, records: vec![record] });
    }

    pub(crate) fn commit(&mut self, v: VolumeId, upto: u64) {
        let m = self.models.get_mut(&v).expect("known");
        m.committed = m.committed.max(upto);
        m.ever_committed = m.ever_committed.max(upto);
        self.input(Input::Commit { volume: v, upto: Lsn(upto) });
    }

    pub(crate) fn read(&mut self, v: VolumeId, range: BlockRange) {
        let tag = self.next_tag;
        self.next_tag += 1;
        let committed = self.models[&v].committed;
        self.reads.insert(tag, Asked { volume: v, range, committed });
        self.input(Input::Read { volume: v, tag, range });
    }

    /// Reads and verifies everything, holes too.
    pub(crate) fn scrub(&mut self, v: VolumeId) {
        self.begin_scrub(v);
        self.drain_disk();
    }

    pub(crate) fn begin_scrub(&mut self, v: VolumeId) {
        let (tag, range) = (self.next_tag, BlockRange::new(0, BLOCKS));
        self.next_tag += 1;
        let committed = self.models[&v].committed;
        self.reads.insert(tag, Asked { volume: v, range, committed });
        self.input(Input::Scrub { volume: v, tag, range });
    }

    /// What the store says of holes at the start of `range`.
    pub(crate) fn ask_extents(&mut self, v: VolumeId, range: BlockRange) -> Vec<(BlockRange, bool)> {
        self.input(Input::Extents { volume: v, tag: 0, range });
        while self.extents.is_empty() && self.complete_one() {}
        std::mem::take(&mut self.extents)
    }

    pub(crate) fn read_log(&mut self, v: VolumeId, from: u64, max_bytes: usize) {
        let tag = self.next_tag;
        self.next_tag += 1;
        self.log_reads.insert(tag, (v, Lsn(from)));
        self.input(Input::ReadLog { volume: v, tag, from: Lsn(from), max_bytes });
    }

    /// Reads everything, and waits for it.
    pub(crate) fn read_all(&mut self, v: VolumeId) {
        self.read(v, BlockRange::new(0, BLOCKS));
        self.drain_disk();
        assert!(self.reads.is_empty());
    }
}
