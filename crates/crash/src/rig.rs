//! A store that works on a device, watched by the oracle.

use crate::medium::{Medium, to_u64};
use crate::oracle::{Judgement, Volume};
use crate::workload::BLOCKS;
use bytes::Bytes;
use holdfast_format::message::RegionCut;
use holdfast_store::io::{DiskDone, DiskOp, FileId};
use holdfast_store::{Input, Output, Store, StoreConfig};
use holdfast_types::{
    BLOCK_SIZE, BlockRange, Epoch, EpochTable, Lsn, OpenedCopy, ReadFault, Time, VolumeId, VolumeSize,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What carries operations out.
pub trait Device {
    /// Takes an operation.
    fn submit(&mut self, op: DiskOp);
    /// The next one that ended; `None` if none is under way.
    fn next(&mut self) -> Option<DiskDone>;
    /// The process that gave operations out has ended, and another one starts.
    fn orphaned(&mut self);
    /// Whether something of what it is asked goes wrong: then a resync may not come to its end.
    fn harms(&self) -> bool {
        false
    }
}

/// More completions than this are none that anybody waits for: the store does not come to rest.
const PATIENCE: usize = 20_000;

/// A store at work.
#[derive(Debug)]
pub struct Rig<D> {
    store: Store,
    /// The device.
    pub device: D,
    config: StoreConfig,
    now: Time,
    seed: u64,
    /// The copies as they should be.
    pub volumes: BTreeMap<VolumeId, Volume>,
    /// Copies that opened in this life.
    pub opened: BTreeMap<VolumeId, OpenedCopy>,
    /// The start has ended, and every copy that was found is open or failed.
    pub started: bool,
    /// Copies that are found and not open yet.
    opening: BTreeSet<VolumeId>,
    /// What failed: copies, or with `None` the journal.
    pub failed: Vec<(Option<VolumeId>, String)>,
    reads: BTreeMap<u64, (VolumeId, u64)>,
    /// Reads that were refused.
    pub refused_reads: u64,
    judgement: Judgement,
    /// Broken promises.
    pub wrong: Vec<String>,
    /// What a resync brings, and which state that is.
    pub fetched: Option<Box<(Volume, RegionCut)>>,
    /// How often a copy became what was fetched.
    pub switches: u64,
    /// It was found to be that state.
    pub proven: bool,
}

impl<D: Device> Rig<D> {
    /// A store that has not started.
    #[must_use]
    pub fn new(device: D, config: &StoreConfig, seed: u64) -> Rig<D> {
        Rig {
            store: Store::new(config.clone(), seed),
            device,
            config: config.clone(),
            now: Time(1),
            seed,
            volumes: BTreeMap::new(),
            opened: BTreeMap::new(),
            started: false,
            opening: BTreeSet::new(),
            failed: Vec::new(),
            reads: BTreeMap::new(),
            refused_reads: 0,
            judgement: Judgement::Strict,
            wrong: Vec::new(),
            fetched: None,
            proven: false,
            switches: 0,
        }
    }

    /// A store that is to open what these volumes left.
    #[must_use]
    pub fn over(device: D, config: &StoreConfig, volumes: BTreeMap<VolumeId, Volume>, judgement: Judgement) -> Rig<D> {
        Rig { volumes, judgement, ..Rig::new(device, config, 0xC0FFEE) }
    }

    /// What is asked of what opens from now on.
    pub const fn judge(&mut self, judgement: Judgement) {
        self.judgement = judgement;
    }

    /// The sizes that the store works with.
    #[must_use]
    pub const fn config(&self) -> &StoreConfig {
        &self.config
    }

    /// The copy as it should be. Panics if there never was one.
    #[must_use]
    pub fn volume(&self, v: VolumeId) -> &Volume {
        &self.volumes[&v]
    }

    /// The same, to be changed.
    pub fn volume_mut(&mut self, v: VolumeId) -> &mut Volume {
        self.volumes.get_mut(&v).expect("the volume is known")
    }

    /// The store that works.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// Gives the store an input and takes what follows.
    pub fn input(&mut self, input: Input) {
        let mut out = Vec::new();
        self.store.handle(input, self.now, &mut out);
        out.into_iter().for_each(|output| self.output(output));
    }

    fn complain(&mut self, what: String) {
        self.wrong.push(what);
    }

    fn output(&mut self, output: Output) {
        if let Output::Opened { volume, .. } | Output::Failed { volume: Some(volume), .. } = &output {
            self.started |= self.opening.remove(volume) && self.opening.is_empty();
        }
        match output {
            // Nothing is known of a copy that the oracle did not see come to be.
            Output::Applied { volume, .. } | Output::Checkpointed { volume, .. }
                if !self.volumes.contains_key(&volume) =>
            {
                self.complain(format!("{volume} is unknown"));
            }
            Output::Disk(op) => self.device.submit(op),
            Output::Started { opening } => {
                self.started = opening.is_empty();
                self.opening = opening;
            }
            Output::Opened { volume, copy } => self.on_opened(volume, copy),
            Output::Deleted { volume } => drop(self.volumes.remove(&volume)),
            Output::Durable { volume, upto } => {
                if let Err(what) = self.volume_mut(volume).on_durable(upto.get().0) {
                    self.complain(format!("{volume}: {what}"));
                }
            }
            Output::Promised { volume, epoch } => self.volume_mut(volume).on_promised(epoch),
            Output::Adopted { volume, epoch, last, last_hash } => {
                self.volume_mut(volume).on_adopted(epoch, last.0);
                if self.volume(volume).hash(last.0) != last_hash {
                    self.complain(format!("{volume}: adopted with another record at {last}"));
                }
            }
            Output::Applied { volume, upto, digest } => {
                let v = self.volume_mut(volume);
                v.applied = upto.0;
                if upto.0 > v.committed || digest != v.digest(upto.0) {
                    self.complain(format!("{volume}: applied up to {upto} with digest {digest:016x}"));
                }
            }
            Output::Checkpointed { volume, upto } => self.volume_mut(volume).checkpoint = upto.0,
            Output::ReadDone { volume, tag, result } => self.on_read(volume, tag, result),
            Output::Repaired { .. }
            | Output::RecordsLost { .. }
            | Output::Mended { .. }
            | Output::LogRead { .. }
            | Output::Extents { .. }
            | Output::Orphan { .. } => {}
            // Answers to what is not asked here.
            Output::Held { .. } | Output::LetGo { .. } | Output::Sums { .. } => {}
            Output::SideWritten { volume, bad: bad @ 1.. } if !self.device.harms() => {
                self.complain(format!("{volume}: {bad} regions are not in its side area"));
            }
            Output::SideProven { volume, result: Err(why) } if !self.device.harms() => {
                self.complain(format!("{volume}: not proven: {why:?}"));
            }
            Output::SideProven { result, .. } => self.proven = result.is_ok(),
            Output::SideWritten { .. }
            | Output::RegionsRead { .. }
            | Output::SideOpened { .. }
            | Output::SideHeld { .. } => {}
            Output::Switched { volume, epoch, last, digest, .. } => self.on_switched(volume, epoch, last, digest),
            Output::SwitchRefused { volume } => self.complain(format!("{volume}: a state that was proven is refused")),
            Output::Failed { volume, reason } => {
                let concerned = |v: &VolumeId| volume.is_none_or(|failed| failed == *v);
                self.volumes.iter_mut().filter(|(v, _)| concerned(v)).for_each(|(_, v)| v.failed = true);
                self.failed.push((volume, reason));
            }
        }
    }

    fn on_switched(&mut self, volume: VolumeId, epoch: Epoch, last: Lsn, digest: u64) {
        self.switches += 1;
        self.volume_mut(volume).on_switched(epoch, last.0);
        if self.volume(volume).digest(last.0) != digest {
            self.complain(format!("{volume}: switched to another state at {last}"));
        }
    }

    fn on_opened(&mut self, v: VolumeId, copy: OpenedCopy) {
        let Some(known) = self.volumes.get(&v) else {
            self.opened.insert(v, copy);
            return self.complain(format!("{v} opened, which was deleted or never made"));
        };
        match known.check(&copy, self.judgement) {
            Ok(then) => drop(self.volumes.insert(v, then)),
            Err(what) => self.complain(format!("{v}: {what}")),
        }
        self.opened.insert(v, copy);
    }

    fn on_read(&mut self, v: VolumeId, tag: u64, result: Result<Vec<Bytes>, ReadFault>) {
        let (_, committed) = self.reads.remove(&tag).expect("it was asked");
        let Ok(pieces) = result else {
            self.refused_reads += 1;
            return;
        };
        let all = pieces.concat();
        let volume = self.volume(v);
        let states = committed..=volume.committed;
        let start = tag % BLOCKS;
        let wrong = (start..)
            .zip(all.chunks_exact(BLOCK_SIZE))
            .find(|(block, data)| !states.clone().any(|lsn| volume.holds(lsn, *block, data)));
        if let Some((block, _)) = wrong {
            self.complain(format!("{v}: block {block} is of no state in {states:?}"));
        }
    }

    /// Lets one operation end.
    pub fn complete_one(&mut self) -> bool {
        let Some(done) = self.device.next() else { return false };
        self.now = self.now + Duration::from_micros(50);
        self.input(Input::Done(done));
        true
    }

    /// Lets all operations end, and those that follow from them.
    pub fn drain(&mut self) {
        for _ in 0..PATIENCE {
            if !self.complete_one() {
                return;
            }
        }
        self.complain("the store gives out operations without end".to_owned());
    }

    /// Goes to the next time that the store has asked for.
    pub fn tick(&mut self) -> bool {
        let Some(at) = self.store.next_timeout() else { return false };
        self.now = self.now.max(at);
        self.input(Input::Tick);
        true
    }

    /// Lets time pass.
    pub fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        self.input(Input::Tick);
    }

    /// Until nothing is under way and no time is waited for, or `limit` of time has passed.
    pub fn rest(&mut self, limit: Duration) {
        let until = self.now + limit;
        for _ in 0..PATIENCE {
            if !self.complete_one() && (self.store.next_timeout().is_none_or(|at| at > until) || !self.tick()) {
                return;
            }
        }
        self.complain("the store never comes to rest".to_owned());
    }

    /// The same, for copies that the oracle does not know: what it would complain of is dropped.
    pub fn rest_unwatched(&mut self, limit: Duration) {
        let before = self.wrong.len();
        self.rest(limit);
        self.wrong.truncate(before);
    }

    /// Starts the store and waits.
    pub fn start(&mut self) {
        self.input(Input::Start);
        for _ in 0..PATIENCE {
            if self.started || !self.complete_one() {
                return;
            }
        }
        self.complain("the start does not end".to_owned());
    }

    /// Makes a copy.
    pub fn create(&mut self, v: VolumeId) {
        self.seed = self.seed.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        let volume = Volume::new(self.seed, BLOCKS);
        let incarnation = volume.incarnation;
        self.volumes.insert(v, volume);
        let size = VolumeSize::new(BLOCKS * to_u64(BLOCK_SIZE) - 512).expect("a size");
        self.input(Input::Create { volume: v, incarnation, size });
    }

    /// Asks for an adoption that cuts after `cut`.
    pub fn adopt(&mut self, v: VolumeId, cut: u64) {
        self.volume_mut(v).adopt(cut);
        let (epoch, table): (_, EpochTable) = (self.volume(v).epoch, self.volume(v).table.clone());
        self.input(Input::Adopt { volume: v, epoch, table, cut_after: Lsn(cut) });
    }

    /// Commits what is durable.
    pub fn commit(&mut self, v: VolumeId) {
        let volume = self.volume_mut(v);
        if volume.switching {
            return;
        }
        volume.committed = volume.committed.max(volume.durable);
        let upto = Lsn(volume.committed);
        self.input(Input::Commit { volume: v, upto });
    }

    /// Reads every block of a copy, one by one so that a bad one hides no other. Gives how many were refused.
    pub fn read_all(&mut self, v: VolumeId) -> u64 {
        let before = self.refused_reads;
        for block in 0..BLOCKS {
            let tag = (to_u64(self.reads.len()) + 1) * BLOCKS * 1000 + block;
            self.reads.insert(tag, (v, self.volumes[&v].committed));
            self.input(Input::Read { volume: v, tag, range: BlockRange::new(block, 1) });
        }
        self.drain();
        if !self.reads.is_empty() {
            self.complain(format!("{v}: reads are not answered"));
            self.reads.clear();
        }
        self.refused_reads - before
    }

    /// The process is gone; the next one has not started. What was under way is the device's matter.
    pub fn forget(&mut self) {
        self.seed = self.seed.wrapping_add(1);
        self.store = Store::new(self.config.clone(), self.seed);
        self.reads.clear();
        self.opened.clear();
        self.started = false;
    }

    /// After a start that found nothing wrong: who had to open did, and reads as it should.
    pub fn check_all(&mut self) {
        if !self.started {
            return self.complain(format!("the start did not end: {:?}", self.failed));
        }
        for (v, volume) in self.volumes.clone() {
            if self.opened.contains_key(&v) {
                if self.read_all(v) > 0 {
                    self.complain(format!("{v}: reads are refused"));
                }
            } else if volume.created && !volume.deleting {
                self.complain(format!("{v} did not open: {:?}", self.failed));
            }
        }
        if !self.failed.is_empty() {
            self.complain(format!("{:?}", self.failed));
        }
    }

    /// An image, read without the store, is what its copy says that it has applied.
    pub fn check_image(&mut self, medium: &Medium, v: VolumeId) {
        let (Some(image), Some(p)) = (medium.0.get(&FileId::Image(v)), self.store.positions(v)) else { return };
        let volume = &self.volumes[&v];
        let wrong =
            (0..).zip(image.chunks_exact(BLOCK_SIZE)).find(|(block, data)| !volume.holds(p.applied.0, *block, data));
        if let Some((block, _)) = wrong {
            self.complain(format!("{v}: block {block} of the image is not that of record {}", p.applied));
        }
    }
}
