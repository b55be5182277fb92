//! The real store on the real disk driver, without a network and without guests.

use bytes::Bytes;
use holdfast_disk::{Disk, DiskConfig, DiskOpenError};
use holdfast_format::{Draft, Record, RecordKind};
use holdfast_store::{Input, Output, Store, StoreConfig};
use holdfast_types::{BLOCK_SIZE, BlockRange, Epoch, EpochTable, Incarnation, Lsn, Rng, Time, VolumeId, VolumeSize};
use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

const V: VolumeId = VolumeId(1);
const SIZE: u64 = 64 << 20;

/// One shard with one volume.
pub struct Shard {
    store: Store,
    disk: Disk,
    runtime: tokio::runtime::Runtime,
    began: Instant,
    rng: Rng,
    last: Lsn,
    last_hash: u64,
    durable: Lsn,
    table: EpochTable,
    /// When what is not durable yet was appended.
    sent: VecDeque<Instant>,
    latencies: Vec<Duration>,
    /// The start has ended, and the copy that it found is open.
    started: bool,
    replays: bool,
    open: bool,
    adopted: bool,
}

impl Shard {
    /// Starts a store in `dir` and waits until it is ready; makes its volume if there is none.
    ///
    /// # Errors
    /// See [`DiskOpenError`].
    ///
    /// # Panics
    /// If the device fails: then there is nothing to measure.
    pub fn open(dir: &Path, config: StoreConfig) -> Result<Shard, DiskOpenError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let mut shard = Shard {
            store: Store::new(config, 7),
            disk: Disk::open(&DiskConfig { reserve_bytes: 0, ..DiskConfig::new(dir) })?,
            runtime,
            began: Instant::now(),
            rng: Rng::new(1),
            last: Lsn::ZERO,
            last_hash: 0,
            durable: Lsn::ZERO,
            table: EpochTable::default(),
            sent: VecDeque::new(),
            latencies: Vec::new(),
            started: false,
            replays: false,
            open: false,
            adopted: false,
        };
        shard.input(Input::Start);
        shard.wait(|s| s.started);
        if !shard.open {
            let size = VolumeSize::new(SIZE).expect("64 MiB");
            shard.input(Input::Create { volume: V, incarnation: Incarnation(1), size });
            shard.wait(|s| s.open);
        }
        let epoch = shard.epoch().next();
        shard.table = shard.table.continued(shard.last, epoch);
        let table = shard.table.clone();
        shard.input(Input::Adopt { volume: V, epoch, table, cut_after: shard.last });
        shard.wait(|s| s.adopted);
        Ok(shard)
    }

    fn epoch(&self) -> Epoch {
        self.table.entries().last().map_or(Epoch::ZERO, |e| e.0)
    }

    /// Appends `count` records of `blocks` blocks, `depth` at a time: how long each took until it was durable. With `commit`
    /// they go on into the image.
    pub fn write(&mut self, depth: usize, blocks: u64, count: u64, commit: bool) -> Vec<Duration> {
        self.latencies.clear();
        let last = Lsn(self.last.0 + count);
        while self.durable < last {
            while self.sent.len() < depth && self.last < last {
                self.append(blocks);
            }
            let durable = self.durable;
            self.wait(|s| s.durable > durable);
            if commit {
                self.commit();
            }
        }
        std::mem::take(&mut self.latencies)
    }

    /// What is durable is committed.
    pub fn commit(&mut self) {
        self.input(Input::Commit { volume: V, upto: self.durable });
    }

    /// Waits until the image holds everything and nothing but retention keeps the journal's records.
    pub fn rest(&mut self) {
        self.commit();
        self.wait(|s| s.store.positions(V).is_some_and(|p| p.applied == p.received));
    }

    fn append(&mut self, blocks: u64) {
        let lsn = self.last.next();
        let start = self.rng.below(SIZE / BLOCK_SIZE as u64 - blocks + 1);
        let body = Bytes::from(vec![0x5A; usize::try_from(blocks).expect("a few") * BLOCK_SIZE]);
        let record = Record::seal(Draft {
            volume: V,
            epoch: self.epoch(),
            lsn,
            prev_hash: self.last_hash,
            committed: self.store.positions(V).expect("the volume is open").committed,
            kind: RecordKind::Write,
            head: false,
            tail: false,
            range: BlockRange::new(start, blocks),
            body,
        });
        (self.last, self.last_hash) = (lsn, record.hash());
        self.sent.push_back(Instant::now());
        self.input(Input::Append { volume: V, records: vec![record] });
    }

    fn now(&self) -> Time {
        Time(1) + self.began.elapsed()
    }

    fn input(&mut self, input: Input) {
        let mut out = Vec::new();
        self.store.handle(input, self.now(), &mut out);
        let mut ops = Vec::new();
        for output in out {
            match output {
                Output::Disk(op) => ops.push(op),
                Output::Started { opening } => {
                    (self.started, self.replays) = (opening.is_empty(), !opening.is_empty());
                }
                Output::Opened { copy, .. } => {
                    self.started |= self.replays;
                    (self.open, self.table) = (true, copy.table);
                    (self.last, self.last_hash, self.durable) = (copy.last, copy.last_hash, copy.last);
                }
                Output::Adopted { .. } => self.adopted = true,
                Output::Durable { upto, .. } => {
                    for _ in self.durable.0..upto.get().0 {
                        let sent = self.sent.pop_front().expect("what is durable was appended");
                        self.latencies.push(sent.elapsed());
                    }
                    self.durable = upto.get();
                }
                Output::Failed { reason, .. } => panic!("the store failed: {reason}"),
                _ => {}
            }
        }
        self.disk.submit(ops);
    }

    fn wait(&mut self, done: impl Fn(&Shard) -> bool) {
        let mut ended = Vec::new();
        while !done(self) {
            self.disk.completed(&mut ended);
            if ended.is_empty() {
                let due = self.store.next_timeout().map(|at| at.since(self.now()));
                let disk = &self.disk;
                let ticked = self.runtime.block_on(async {
                    tokio::time::timeout(due.unwrap_or(Duration::from_secs(60)), disk.wait()).await.is_err()
                });
                if ticked {
                    self.input(Input::Tick);
                }
            }
            for end in ended.drain(..) {
                self.input(Input::Done(end));
            }
        }
    }
}
