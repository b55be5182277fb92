//! The store: takes inputs, carries them to the journal and the copies, and after each input does what can be done now.
//!
//! Invariants: each operation given out is answered once; a copy that failed gives no more promises in this life (P8); the
//! journal's failure is the failure of every copy.

mod leaving;
mod resync;
mod shown;

use crate::api::{Input, LogGone, Output};
use crate::config::StoreConfig;
use crate::copies::Copies;
use crate::findings::Findings;
use crate::io::{DiskDone, DiskError, DiskReply, FileId};
use crate::journal::{HeadFile, Journal};
use crate::ops::{CopyTag, Cx, Hung, Ops, Tag};
use crate::replica::{Command, Making, Replica, Stage};
use crate::start::{Found, Progress, Start};
use holdfast_format::{Superblock, TableRoots, TableSums};
use holdfast_types::{
    BlockIndex, BlockRange, Epoch, EpochTable, Incarnation, Lsn, Mutant, ReadFault, ScrubKept, Time, VolumeId,
    VolumeSize, mutated,
};
use leaving::Leaving;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A device that failed stays failed in this life (P8); what the next life can read and prove, counts again.
pub(crate) const WHAT_TO_DO: &str =
    "check the device (dmesg), then restart this node's agent if it is sound, or replace the device and the copy";

const LONGER_FILES: &str =
    "replace the copy, on a file system that takes files of the volume's size (xfs does, ext4 ends at 16 TiB)";

/// One shard's storage.
#[derive(Debug)]
pub struct Store {
    config: StoreConfig,
    seed: u64,
    phase: Phase,
    ops: Ops,
    journal: Journal,
    replicas: Copies,
    /// Which superblock copies were good, of copies that wait for the new life's segment.
    to_load: BTreeMap<VolumeId, [bool; 4]>,
    leaving: BTreeMap<VolumeId, Leaving>,
    touched: BTreeSet<VolumeId>,
    findings: Findings,
    /// What the device has not answered for too long.
    hung: Vec<Hung>,
    /// When to look again, unless something ends before.
    hung_at: Option<Time>,
    /// Since when guests are held back by work in the background.
    pressed: Option<Time>,
    cache: VecDeque<(VolumeId, Lsn, u64)>,
    cache_bytes: u64,
    now: Time,
    /// When all copies were looked at last.
    looked_at: Time,
}

#[derive(Debug)]
enum Phase {
    New,
    Finding(Box<Start>),
    /// The new life's segment is made durable.
    Opening,
    /// What an interrupted creation or deletion left is being removed; copies are being opened.
    Loading,
    Running,
    Failed,
}

impl Store {
    /// A store that does nothing before `Input::Start`. `seed` is a random number, the id of the journal if an empty
    /// directory is formatted.
    ///
    /// Panics if the configuration makes no sense.
    #[must_use]
    pub fn new(config: StoreConfig, seed: u64) -> Store {
        config.validate();
        Store {
            config,
            seed,
            phase: Phase::New,
            ops: Ops::default(),
            journal: Journal::new(seed, 0, 0, 0),
            replicas: Copies::default(),
            to_load: BTreeMap::new(),
            leaving: BTreeMap::new(),
            touched: BTreeSet::new(),
            findings: Findings::default(),
            hung: Vec::new(),
            hung_at: None,
            pressed: None,
            cache: VecDeque::new(),
            cache_bytes: 0,
            now: Time::default(),
            looked_at: Time::default(),
        }
    }

    /// Takes one input; pushes everything that follows from it.
    pub fn handle(&mut self, input: Input, now: Time, out: &mut Vec<Output>) {
        self.now = now;
        match input {
            Input::Start => self.start(now, out),
            Input::Done(done) => self.done(done, now, out),
            Input::Tick => {
                self.cx(now, out).retry();
                self.touched.extend(self.replicas.due(now));
                if self.look_due().is_some_and(|at| at <= now) {
                    self.looked_at = now;
                    self.touch_all();
                }
            }
            command => self.command(command, now, out),
        }
        self.replicas.count(&self.config);
        self.give_up_hung(now, out);
        self.settle(now, out);
        self.replicas.count(&self.config);
        #[cfg(test)]
        self.replicas.check(&self.config);
        let pressed = self.journal.is_stuck() || self.ops.pace.slows(&self.config);
        self.pressed = pressed.then(|| self.pressed.unwrap_or(now));
        (self.hung, self.hung_at) = self.ops.hung(&self.config, now, self.pressed);
    }

    /// A copy whose image hangs while the rest of the device works holds up its neighbours, as what its image lacks counts as debt of
    /// all. So it fails in the end, as if its device had said so. If the journal hangs as well, if it is not this copy's debt that
    /// holds them up, or if there is no neighbour, that helps nobody, and it is waited for.
    fn give_up_hung(&mut self, now: Time, out: &mut Vec<Output>) {
        let slows = self.ops.pace.slows(&self.config);
        if !slows || self.hung.is_empty() || self.hung.iter().any(|h| h.volume.is_none()) {
            return;
        }
        let debt = self.debt_bytes();
        let hangs = |volume: VolumeId| self.hung.iter().any(|h| h.volume == Some(volume));
        if !self.replicas.values().any(|r| r.stage == Stage::Open && !hangs(r.volume)) {
            return;
        }
        for (volume, file) in self.ops.given_up(&self.config, now) {
            // What others lack is not taken away with it.
            if self.replicas.get(&volume).is_none_or(|r| r.debt <= debt / 2) {
                continue;
            }
            let waited = self.config.background_hung_after.as_secs();
            let reason = format!("{file} has not answered for {waited} s, and other copies wait for it; {WHAT_TO_DO}");
            self.fail_copy(volume, &reason, out);
        }
    }

    /// When `Input::Tick` is wanted.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Time> {
        if matches!(self.phase, Phase::Failed) {
            return None;
        }
        let paced = self.ops.pace.ready_at(&self.config).filter(|at| *at > self.now);
        let journal = self.journal.next_timeout(self.config.seal_delay);
        let due = [self.replicas.next_due(), paced, self.ops.retry_at(), journal, self.hung_at, self.look_due()];
        due.into_iter().flatten().min()
    }

    /// When all copies are looked at, if any of them has work.
    fn look_due(&self) -> Option<Time> {
        let interval = self.config.look_interval.filter(|_| !self.replicas.working().is_empty())?;
        Some(self.looked_at + interval)
    }

    const fn cx<'a>(&'a mut self, now: Time, out: &'a mut Vec<Output>) -> Cx<'a> {
        Cx { ops: &mut self.ops, out, now, config: &self.config }
    }

    fn start(&mut self, now: Time, out: &mut Vec<Output>) {
        assert!(matches!(self.phase, Phase::New), "a store starts once");
        let mut start = Box::<Start>::default();
        start.begin(&mut self.cx(now, out));
        self.phase = Phase::Finding(start);
    }

    // ---- operations that ended

    fn done(&mut self, done: DiskDone, now: Time, out: &mut Vec<Output>) {
        let result = match done.result {
            Err(DiskError::NoSpace)
                if !mutated(Mutant::FullDiskIsBroken) && self.ops.park(done.id, now + self.config.retry_interval) =>
            {
                return;
            }
            Err(error) => Err(error),
            Ok(reply) => Ok(reply),
        };
        let (tag, file) = self.ops.end(done.id, now);
        let result = if ignored(tag) { Ok(DiskReply::Done) } else { result };
        if matches!(self.phase, Phase::Failed) {
            return;
        }
        match (tag, result) {
            (Tag::Start(number), result) => self.start_done(number, result, now, out),
            (Tag::Copy(volume, tag), result) => self.copy_done(volume, (tag, file), result, now, out),
            (Tag::Removal(slot), Err(DiskError::NotFound)) => self.journal.slot_removed(slot),
            (_, Err(error)) => {
                let mut reason = format!("{file} can't be written: {error}");
                // Of a journal that was never opened in this life the shard says what to do.
                if !matches!(self.phase, Phase::Opening) {
                    reason = format!("{reason}; {WHAT_TO_DO}");
                }
                self.fail_journal(&reason, out);
            }
            (Tag::Slot(slot), Ok(_)) => self.journal.slot_created(slot),
            (Tag::Removal(slot), Ok(_)) => self.journal.slot_removed(slot),
            (Tag::SegmentHeader, Ok(_)) => {
                let Store { ops, config, journal, .. } = self;
                journal.write_head(&mut Cx { ops, out, now, config });
            }
            (Tag::Head(false), Ok(_)) => self.journal.head = HeadFile::Present,
            (Tag::Head(true), Ok(_)) => self.segment_opened(now, out),
            (Tag::Frame(seq), Ok(_)) => {
                let Store { ops, config, journal, replicas, touched, .. } = self;
                touched.extend(journal.frame_done(&mut Cx { ops, out, now, config }, seq, replicas));
            }
        }
    }

    fn start_done(&mut self, number: u32, result: Result<DiskReply, DiskError>, now: Time, out: &mut Vec<Output>) {
        let Store { ops, config, phase: Phase::Finding(start), seed, .. } = self else {
            unreachable!("a step of the start ends while the store starts")
        };
        let mut cx = Cx { ops, out, now, config };
        let progress = match result {
            Ok(reply) => start.done(&mut cx, number, reply, *seed),
            Err(error) => start.failed(&mut cx, number, &error.to_string(), *seed),
        };
        match progress {
            Progress::Going => {}
            Progress::Broken(reason) => self.fail_journal(&reason, out),
            Progress::Found(found) => self.found(*found, out),
        }
    }

    fn found(&mut self, found: Found, out: &mut Vec<Output>) {
        self.journal = found.journal;
        self.findings = found.findings;
        self.phase = Phase::Opening;
        for (volume, (replica, good)) in found.replicas {
            self.to_load.insert(volume, good);
            self.replicas.insert(volume, replica);
        }
        let orphans = |v: &VolumeId| found.orphans.get(v).cloned().unwrap_or_default();
        for (volume, reason) in found.failed {
            self.leaving.insert(volume, Leaving::failed(orphans(&volume)));
            out.push(Output::Failed { volume: Some(volume), reason: format!("copy of {volume}: {reason}") });
        }
        for volume in found.garbage {
            self.leaving.insert(volume, Leaving::leftover(orphans(&volume)));
        }
    }

    fn segment_opened(&mut self, now: Time, out: &mut Vec<Output>) {
        self.journal.segment_opened();
        if !matches!(self.phase, Phase::Opening) {
            return;
        }
        self.phase = Phase::Loading;
        for (volume, good) in std::mem::take(&mut self.to_load) {
            let Store { ops, config, replicas, touched, .. } = self;
            // Where nothing needs to be read, it goes on at once.
            touched.insert(volume);
            let replica = replicas.get_mut(&volume).expect("nothing leaves before it is loaded");
            replica.load(&mut Cx { ops, out, now, config }, good);
        }
    }

    fn copy_done(
        &mut self,
        volume: VolumeId,
        (tag, file): (CopyTag, FileId),
        result: Result<DiskReply, DiskError>,
        now: Time,
        out: &mut Vec<Output>,
    ) {
        self.touched.insert(volume);
        let reply = match result {
            Err(DiskError::NotFound) if matches!(tag, CopyTag::Delete | CopyTag::OrphanGone(_)) => DiskReply::Done,
            // Without the mark a crash in between leaves a copy that is refused, and deleted again.
            Err(_) if tag == CopyTag::Void && self.leaving.contains_key(&volume) => DiskReply::Done,
            // A cut must not wait for room to remember what it cuts (L8).
            Err(DiskError::NoSpace) if matches!(tag, CopyTag::Orphan(_)) => {
                let Store { ops, config, replicas, .. } = self;
                if let Some(replica) = replicas.get_mut(&volume) {
                    replica.orphan_has_no_room(&mut Cx { ops, out, now, config }, tag == CopyTag::Orphan(true));
                }
                return;
            }
            Err(DiskError::Io(_)) if matches!(tag, CopyTag::Log(..)) => {
                let (Store { ops, config, replicas, .. }, CopyTag::Log(job, part)) = (self, tag) else { return };
                if let Some(replica) = replicas.get_mut(&volume) {
                    replica.log_failed(&mut Cx { ops, out, now, config }, job, part);
                }
                return;
            }
            Err(error) => return self.copy_error(volume, (tag, file), error, out),
            Ok(reply) => reply,
        };
        if matches!(tag, CopyTag::Void | CopyTag::Delete) && self.leaving.contains_key(&volume) {
            return self.removed(volume, now, out);
        }
        let Store { ops, config, replicas, .. } = self;
        // A copy that left does not care any more.
        let Some(replica) = replicas.get_mut(&volume) else { return };
        let cx = &mut Cx { ops, out, now, config };
        if matches!((tag, file), (CopyTag::Read(..) | CopyTag::Region(..), FileId::SideImage(_))) {
            replica.side_reads -= 1;
        }
        match (tag, reply) {
            (CopyTag::Create, _) => replica.file_created(cx),
            (CopyTag::Page(kind, page, attempt), DiskReply::Data(data)) => {
                replica.page_read(cx, kind, page, attempt, &data)
            }
            (CopyTag::Superblock, _) => {
                replica.superblock_done(cx);
                replica.maybe_replay();
            }
            (CopyTag::Recheck(kind, page, sequence), DiskReply::Data(data)) => {
                replica.rechecked(cx, (kind, page), sequence, &data);
            }
            (CopyTag::RecheckSuperblock(sequence), DiskReply::Data(data)) => {
                replica.superblock_rechecked(cx, sequence, &data);
            }
            (CopyTag::Orphan(written), _) => replica.orphan_done(cx, written),
            (CopyTag::OrphanGone(epoch), _) => replica.orphan_gone(cx, epoch),
            (CopyTag::Apply, _) => replica.write_done(cx),
            (CopyTag::Checkpoint, _) => replica.checkpoint_done(cx),
            (CopyTag::Shorten, _) => replica.shortening -= 1,
            (CopyTag::Read(job, first, attempt), DiskReply::Data(data)) => {
                replica.read_done(cx, job, first, attempt, &data)
            }
            (CopyTag::Repair(block, synced), _) => replica.repair_done(cx, block, synced),
            (CopyTag::Log(job, part), DiskReply::Data(data)) => replica.log_done(cx, job, part, &data),
            (tag, reply) => Store::resync_done(replica, cx, tag, reply),
        }
    }

    /// What a copy can't do without.
    fn copy_error(
        &mut self,
        volume: VolumeId,
        (tag, file): (CopyTag, FileId),
        error: DiskError,
        out: &mut Vec<Output>,
    ) {
        let reads = matches!(
            tag,
            CopyTag::Log(..)
                | CopyTag::Read(..)
                | CopyTag::Page(..)
                | CopyTag::Recheck(..)
                | CopyTag::RecheckSuperblock(_)
                | CopyTag::Region(..)
                | CopyTag::SideRead(_)
                | CopyTag::SideSums(_)
                | CopyTag::MergeRead(_)
        );
        let what = if reads { "read" } else { "written" };
        let what_to_do = if error.is_of_length() { LONGER_FILES } else { WHAT_TO_DO };
        let reason = format!("{file} can't be {what}: {error}; {what_to_do}");
        self.fail_copy(volume, &reason, out);
    }

    // ---- commands

    fn command(&mut self, command: Input, now: Time, out: &mut Vec<Output>) {
        match command {
            Input::Create { volume, incarnation, size } => self.create(volume, incarnation, size, now, out),
            Input::Delete { volume } => self.delete(volume, out),
            Input::Append { volume, records } => self.queue(volume, Command::Append(records)),
            Input::Promise { volume, epoch } => self.queue(volume, Command::Promise(epoch)),
            Input::Adopt { volume, epoch, table, cut_after } => {
                assert_eq!(table.entries().last().map(|e| e.0), Some(epoch), "the adopted epoch ends the table");
                self.queue(volume, Command::Adopt { epoch, table, cut_after });
            }
            Input::DeleteOrphan { volume, epoch } => {
                let Store { ops, config, replicas, .. } = self;
                if let Some(replica) = replicas.get_mut(&volume) {
                    replica.delete_orphan(&mut Cx { ops, out, now, config }, epoch);
                }
            }
            Input::Commit { volume, upto } => {
                if let Some(replica) = self.serving(volume) {
                    replica.on_commit(upto);
                }
            }
            Input::DigestAt { volume, at } => {
                if let Some(replica) = self.serving(volume) {
                    replica.digests_at.insert(at);
                }
            }
            Input::Trim { volume, upto } => {
                if let Some(replica) = self.serving(volume) {
                    replica.trim = replica.trim.max(upto);
                }
            }
            Input::Read { volume, tag, range } => self.read(volume, tag, range, false, now, out),
            Input::Scrub { volume, tag, range } => self.read(volume, tag, range, true, now, out),
            Input::ReadLog { volume, tag, from, max_bytes } => {
                let Store { ops, config, replicas, journal, .. } = self;
                match replicas.open_mut(volume) {
                    Some(replica) => replica.read_log(&mut Cx { ops, out, now, config }, journal, tag, from, max_bytes),
                    None => out.push(Output::LogRead { volume, tag, result: Err(LogGone { first: from.next() }) }),
                }
            }
            Input::Switch { volume, switch } => {
                let last = switch.table.entries().last().map(|e| e.0);
                assert_eq!(last, Some(switch.epoch), "the adopted epoch ends the table");
                self.queue(volume, Command::Switch(switch));
            }
            other => self.upkeep(other, now, out),
        }
    }

    /// What looks after the image, or asks about it.
    fn upkeep(&mut self, command: Input, now: Time, out: &mut Vec<Output>) {
        match command {
            Input::Hold { volume, at } => {
                self.touched.insert(volume);
                let Store { ops, config, replicas, .. } = self;
                if let Some(replica) = replicas.open_mut(volume) {
                    replica.start_hold(&mut Cx { ops, out, now, config }, at);
                }
            }
            Input::GoOn { volume } => {
                if let Some(replica) = self.serving(volume) {
                    replica.hold = None;
                }
            }
            Input::Sums { volume, node } => {
                let Store { ops, config, replicas, .. } = self;
                match replicas.open_mut(volume) {
                    Some(replica) => replica.held_sums(&mut Cx { ops, out, now, config }, node),
                    None => out.push(Output::Sums { volume, node, sums: Vec::new() }),
                }
            }
            Input::Extents { volume, tag, range } => {
                let Store { ops, config, replicas, .. } = self;
                match replicas.open_mut(volume) {
                    Some(replica) => replica.extents(&mut Cx { ops, out, now, config }, tag, range),
                    None => out.push(Output::Extents { volume, tag, extents: Vec::new() }),
                }
            }
            Input::Scrubbed { volume, kept, at_once } => {
                let Store { ops, config, replicas, .. } = self;
                if let Some(replica) = replicas.open_mut(volume) {
                    replica.keep_scrub(&mut Cx { ops, out, now, config }, kept, at_once);
                }
            }
            Input::Repair { volume, block, data } => {
                let Store { ops, config, replicas, touched, .. } = self;
                if let Some(replica) = replicas.open_mut(volume) {
                    touched.insert(volume);
                    replica.repair(&mut Cx { ops, out, now, config }, block, data);
                }
            }
            Input::Settle => self.settle_copies(now, out),
            other => self.resync(other, now, out),
        }
    }

    pub(crate) fn open_replicas(&self) -> impl Iterator<Item = &Replica> {
        self.replicas.values().filter(|r| r.stage == Stage::Open)
    }

    pub(crate) fn each_open(&mut self, now: Time, out: &mut Vec<Output>, mut f: impl FnMut(&mut Replica, &mut Cx<'_>)) {
        let Store { ops, config, replicas, .. } = self;
        for replica in replicas.values_mut().filter(|r| r.stage == Stage::Open) {
            f(replica, &mut Cx { ops, out, now, config });
        }
    }

    pub(crate) fn touch_all(&mut self) {
        self.touched.extend(self.replicas.keys());
    }

    fn read(&mut self, volume: VolumeId, tag: u64, range: BlockRange, whole: bool, now: Time, out: &mut Vec<Output>) {
        let Store { ops, config, replicas, .. } = self;
        match replicas.open_mut(volume) {
            Some(replica) => replica.read(&mut Cx { ops, out, now, config }, tag, range, whole),
            None => out.push(Output::ReadDone { volume, tag, result: Err(ReadFault::CopyFailed) }),
        }
    }

    /// The copy, if it is open; its pump runs afterwards. Commands to a copy that failed or left go nowhere.
    fn serving(&mut self, volume: VolumeId) -> Option<&mut Replica> {
        if matches!(self.phase, Phase::Failed) {
            return None;
        }
        self.touched.insert(volume);
        self.replicas.open_mut(volume)
    }

    fn queue(&mut self, volume: VolumeId, command: Command) {
        if let Some(replica) = self.serving(volume) {
            replica.commands.push_back(command);
        }
    }

    fn create(
        &mut self,
        volume: VolumeId,
        incarnation: Incarnation,
        size: VolumeSize,
        now: Time,
        out: &mut Vec<Output>,
    ) {
        if matches!(self.phase, Phase::Failed) {
            return;
        }
        assert!(matches!(self.phase, Phase::Running), "copies are created after the start");
        let unknown = !self.replicas.contains_key(&volume) && !self.leaving.contains_key(&volume);
        assert!(unknown, "{volume} has a copy here: delete it first");
        let sb = Superblock {
            sequence: 0,
            volume,
            incarnation,
            size,
            resized: 0,
            cut: (Lsn::ZERO, BlockIndex(0)),
            promised: Epoch::ZERO,
            table: EpochTable::default(),
            checkpoint: Lsn::ZERO,
            checkpoint_epoch: Epoch::ZERO,
            checkpoint_hash: 0,
            sums: TableSums::default(),
            roots: TableRoots::default(),
            scrub: ScrubKept::default(),
            merging: None,
            stale_behind_cut: false,
            committed: Lsn::ZERO,
            journal: self.journal.id,
            born: (self.journal.life, self.journal.next_seq),
        };
        let mut replica = Replica::new(sb, Stage::Creating(Making::Superblock));
        replica.create_files(&mut self.cx(now, out));
        self.replicas.insert(volume, replica);
    }

    // ---- after each input

    fn settle(&mut self, now: Time, out: &mut Vec<Output>) {
        if matches!(self.phase, Phase::New | Phase::Finding(_) | Phase::Failed) {
            return;
        }
        self.open_life(now, out);
        self.pump(now, out);
        self.replicas.count(&self.config);
        self.remove_files(now, out);
        self.report_deleted(out);
        self.trim_cache();
        self.trim_tables();
        // Copies open when they can: one that waits for space must not keep others, and orders to delete, waiting.
        if matches!(self.phase, Phase::Loading) && !self.leaving.values().any(Leaving::holds_up) {
            self.phase = Phase::Running;
            let opening = self.replicas.values().filter(|r| r.stage != Stage::Open).map(|r| r.volume).collect();
            out.push(Output::Started { opening });
        }
    }

    fn open_life(&mut self, now: Time, out: &mut Vec<Output>) {
        if !matches!(self.phase, Phase::Opening) || self.journal.opening.is_some() {
            return;
        }
        let failed = self.failed();
        let Store { ops, config, journal, replicas, .. } = self;
        let cx = &mut Cx { ops, out, now, config };
        journal.create_head(cx);
        if journal.spares.is_empty() && journal.may_add() {
            journal.create_spare(cx);
        } else if journal.spares.is_empty()
            || (journal.head == HeadFile::Present && !journal.open_first_segment(cx, replicas, &failed))
        {
            self.fail_journal(
                "expected room for one more segment, found as many as the format allows, all of them needed by copies that failed or \
                 wait for a quorum: replace or delete the copies that failed, elsewhere, and then this node's data directory",
                out,
            );
        }
    }

    fn pump(&mut self, now: Time, out: &mut Vec<Output>) {
        self.keep_pace(now);
        // Whoever waits for a segment gets its turn whenever anything happens.
        if self.journal.pressure() {
            self.touched.extend(self.replicas.keys());
        }
        self.pump_copies(now, out);
        if matches!(self.phase, Phase::Opening) {
            return;
        }
        let failed = self.failed();
        let relaxed = !self.journal.pressure();
        let Store { ops, config, journal, replicas, .. } = self;
        journal.pump(&mut Cx { ops, out, now, config }, replicas, &failed);
        if relaxed && self.journal.pressure() {
            self.touched.extend(self.replicas.keys());
            self.pump_copies(now, out);
        }
    }

    /// Looks at all copies together: what of them the images lack, and what a start would replay.
    fn keep_pace(&mut self, now: Time) {
        let Store { ops, config, replicas, touched, journal, .. } = self;
        replicas.count(config);
        let sums = replicas.sums();
        ops.pace.note(now, sums.debt, sums.batches > 0, journal.pressure());
        if ops.pace.hurries(config) {
            let waits = |v: &&VolumeId| replicas[*v].debt > 0 && replicas[*v].batch.is_none();
            touched.extend(replicas.working().iter().filter(waits));
        }
        if sums.applied >= ops.pace.replayable(config) {
            // Those with more than their share, so that few checkpoints do.
            let share = (sums.applied / replicas.working().len() as u64).max(1);
            for volume in replicas.working().clone() {
                let replica = replicas.get_mut(&volume).expect("counted just now");
                if replica.applied_bytes >= share {
                    replica.checkpoint_now |= replica.checkpointing.is_none();
                    touched.insert(volume);
                }
            }
        }
    }

    /// Pumps what was touched; and all copies, as long as there is news for one that waits for room for pages of tables: room that
    /// one copy gives belongs to another, and others give it only when they are pressed.
    fn pump_copies(&mut self, now: Time, out: &mut Vec<Output>) {
        loop {
            if self.ops.pages.take_news() {
                self.touched.extend(self.replicas.keys());
            }
            if self.touched.is_empty() {
                return;
            }
            self.pump_touched(now, out);
        }
    }

    fn pump_touched(&mut self, now: Time, out: &mut Vec<Output>) {
        let mut broken = Vec::new();
        let hurry = self.journal.pressure() || self.ops.pace.hurries(&self.config);
        let Store { ops, config, journal, replicas, touched, .. } = self;
        for volume in std::mem::take(touched) {
            if let Some(replica) = replicas.get_mut(&volume) {
                let opened = replica.stage == Stage::Open;
                replica.pump(&mut Cx { ops, out, now, config }, journal, hurry);
                if !opened && replica.stage == Stage::Open {
                    // Much is only done by copies that are open.
                    touched.insert(volume);
                }
                broken.extend(replica.broken.take().map(|why| (volume, why)));
            }
        }
        for (volume, why) in broken {
            self.fail_copy(volume, &why, out);
        }
    }

    /// Forgets pages of tables above the bound, of the copy that has most of them.
    fn trim_tables(&mut self) {
        let mut total = self.replicas.sums().pages;
        let bound = self.config.table_pages();
        if total <= bound {
            return;
        }
        let mut largest: Vec<(usize, VolumeId)> = self.replicas.values().map(|r| (r.tables.len(), r.volume)).collect();
        largest.sort_unstable();
        while total > bound
            && let Some((_, volume)) = largest.pop()
        {
            let replica = self.replicas.get_mut(&volume).expect("listed just now");
            total -= replica.tables.forget(total - bound);
        }
    }

    /// Keeps the newest applied records in memory, up to the bound.
    fn trim_cache(&mut self) {
        for volume in self.replicas.uncached() {
            let replica = self.replicas.get_mut(&volume).expect("counted just now");
            while replica.cached_upto < replica.applied {
                replica.cached_upto = replica.cached_upto.next();
                let Some(entry) = replica.log.get(&replica.cached_upto) else { continue };
                let len = u64::from(entry.body_len) + 256;
                self.cache.push_back((volume, replica.cached_upto, len));
                self.cache_bytes += len;
            }
        }
        while self.cache_bytes > self.config.cache_bytes {
            let (volume, lsn, len) = self.cache.pop_front().expect("bytes in the cache belong to records");
            self.cache_bytes -= len;
            let Some(replica) = self.replicas.get_mut(&volume).filter(|r| lsn <= r.applied) else { continue };
            if let Some(entry) = replica.log.get_mut(&lsn) {
                entry.record = None;
            }
        }
    }
}

/// Deliberate mistakes: errors of these operations pass as success.
fn ignored(tag: Tag) -> bool {
    match tag {
        Tag::Frame(_) => mutated(Mutant::JournalErrorIgnored),
        Tag::Copy(_, CopyTag::Checkpoint) => mutated(Mutant::CheckpointErrorIgnored),
        Tag::Copy(_, CopyTag::Apply) => mutated(Mutant::ApplyErrorIgnored),
        _ => false,
    }
}
