//! One copy: its positions, its log in memory, and the commands that wait for their turn.
//!
//! Flow of a record: `Append` → journal queue → frame durable (`on_durable`) → `Commit` (`on_commit`: into the overlay,
//! visible to reads) → batch applied to the image → checkpoint.
//!
//! Invariants: `checkpoint ≤ applied ≤ carried on disk as committed`, `applied ≤ committed ≤ durable ≤ received`.
//! Records above `applied` are in memory; records above `checkpoint` are in the journal.
//!
//! The image never runs ahead of what a recovery would know to be committed (`known_committed`: the highest commit
//! position in a durable record header, commit mark or superblock). Otherwise a recovery could take a record for
//! uncommitted, let it be cut, and the image would still hold it, against S16. So a batch is bounded by
//! `known_committed`, and where no later record carries the commit position, a mark in the journal does.
//!
//! `Promise` and `Adopt` are barriers: they wait until every earlier append is durable (trap 9) and everything after
//! them waits until they are on disk (trap 13: the table is durable before the first append of its epoch).

use crate::api::{Output, Switch};
use crate::apply::Batch;
use crate::checkpoint::Checkpoint;
use crate::hold::Hold;
use crate::journal::Journal;
use crate::merge::{Deferred, Merge, SwitchTo};
use crate::ops::Cx;
use crate::orphans::Orphan;
use crate::pages::Wait;
use crate::read::Reads;
use crate::regions::RegionReads;
use crate::runs::RunMap;
use crate::side::Side;
use crate::superblock::{Waiter, Writer};
use crate::tables::{Tables, Tree};
use holdfast_format::{Record, Superblock, TableKind, TablePage};
use holdfast_types::{
    BlockIndex, Durable, Epoch, EpochTable, Lsn, Mutant, OpenedCopy, Resized, Sizes, Time, VolumeId, VolumeSize,
    mutated,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Where a record lies in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    pub(crate) generation: u64,
    pub(crate) header_at: u64,
    pub(crate) body_at: u64,
}

/// What is known in memory about one record of the log.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) epoch: Epoch,
    pub(crate) hash: u64,
    pub(crate) body_len: u32,
    /// Absent until its frame is issued.
    pub(crate) at: Option<Location>,
    /// Always there above `applied`; below as long as the cache holds it.
    pub(crate) record: Option<Record>,
}

/// Where a copy is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Files are being made.
    Creating(Making),
    /// Superblock is being repaired and the roots of the tables are being read.
    Loading,
    /// Committed records are being applied again.
    Replaying,
    /// Serving.
    Open,
}

/// How far a creation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Making {
    /// The superblock's file is being made.
    Superblock,
    /// The mark that nothing counts yet is being written.
    Mark,
    /// So many of the other files are missing; the superblock follows.
    Files(u32),
}

#[derive(Clone, Debug)]
pub(crate) enum Command {
    Append(Vec<Record>),
    Promise(Epoch),
    Adopt { epoch: Epoch, table: EpochTable, cut_after: Lsn },
    Switch(Switch),
}

/// The adoption being made durable: first the orphan, then the superblock.
#[derive(Debug)]
pub(crate) struct Adoption {
    pub(crate) epoch: Epoch,
    table: EpochTable,
    cut_after: Lsn,
    pub(crate) orphan: Orphan,
    /// The copy takes another state with it.
    pub(crate) switch: Option<SwitchTo>,
}

#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) volume: VolumeId,
    pub(crate) stage: Stage,
    /// What the superblock says, or is about to say.
    pub(crate) sb: Superblock,
    pub(crate) writer: Writer,
    pub(crate) received: Lsn,
    pub(crate) received_epoch: Epoch,
    pub(crate) received_hash: u64,
    pub(crate) durable: Lsn,
    pub(crate) committed: Lsn,
    /// A recovery would know that records up to here are committed.
    pub(crate) known_committed: Lsn,
    /// The highest commit position that is durable or on its way into the journal.
    pub(crate) carried: Lsn,
    pub(crate) applied: Lsn,
    /// Durable in the superblock, unlike `sb.checkpoint`, which may be on its way.
    pub(crate) checkpoint: Lsn,
    pub(crate) trim: Lsn,
    /// The lesser of the last two, as the journal knows it.
    free: Lsn,
    /// From the checkpoint on.
    pub(crate) sizes: Sizes,
    /// The last record in the image that cut the volume, and the first block that was ever cut (`Superblock::cut`).
    pub(crate) cut_off: (Lsn, BlockIndex),
    /// Tables being shortened.
    pub(crate) shortening: u32,
    pub(crate) log: BTreeMap<Lsn, Entry>,
    pub(crate) commands: VecDeque<Command>,
    /// A promise or adoption is being made durable.
    pub(crate) barrier: bool,
    pub(crate) adoption: Option<Adoption>,
    /// Newest committed content that the image does not hold yet.
    pub(crate) overlay: RunMap,
    pub(crate) tables: Tables,
    /// Pages of the tables on their way, and what goes on when they come.
    pub(crate) waits: BTreeMap<(TableKind, TablePage), Vec<Wait>>,
    /// What the shard knows of the pages that this copy needs.
    pub(crate) pages_counted: usize,
    /// What the next batch needs, if it found no room.
    pub(crate) pages_wanted: usize,
    pub(crate) batch: Option<Batch>,
    /// Blocks of the image that are being written again with the content they should have.
    pub(crate) repairing_blocks: BTreeSet<u64>,
    /// Nothing above a record is applied, because copies are compared there.
    pub(crate) hold: Option<Hold>,
    pub(crate) checkpointing: Option<Checkpoint>,
    pub(crate) applied_bytes: u64,
    pub(crate) first_applied: Option<Time>,
    pub(crate) checkpoint_now: bool,
    /// The next checkpoint writes pages again that rotted on disk, though nothing else may be new.
    pub(crate) tables_rotten: bool,
    /// The process is about to end: a checkpoint is to cover this.
    pub(crate) settle_to: Option<Lsn>,
    pub(crate) reads: Reads,
    pub(crate) region_reads: RegionReads,
    pub(crate) side: Side,
    /// Reads of the side area on behalf of others that are under way.
    pub(crate) side_reads: usize,
    /// Regions of the side area are being moved to the image.
    pub(crate) merge: Option<Merge>,
    /// What came during a switch or a move.
    pub(crate) deferred: Vec<Deferred>,
    pub(crate) commit_hint: Lsn,
    pub(crate) unknown_to: Option<Lsn>,
    /// What was promised when the copy was opened: what can't be read may have been acknowledged up to this epoch.
    promised_before: Epoch,
    pub(crate) orphans: BTreeMap<Epoch, u64>,
    /// Those that are being removed.
    pub(crate) orphans_leaving: BTreeSet<Epoch>,
    /// Bytes of the records above `applied`.
    pub(crate) backlog: u64,
    /// Where batches end, because somebody wants to know the digest there.
    pub(crate) digests_at: BTreeSet<Lsn>,
    /// Those that are committed.
    pub(crate) debt: u64,
    /// Since when the oldest one of them could be applied.
    pub(crate) debt_since: Option<Time>,
    /// The log was cut after this: the journal need not keep what was cut.
    pub(crate) cut: Option<Lsn>,
    /// The copy must not go on: why.
    pub(crate) broken: Option<String>,
    /// Roots of tables that have not come.
    pub(crate) loading: u32,
    /// Applied records up to here are accounted for in the cache.
    pub(crate) cached_upto: Lsn,
}

/// Bytes of a record with its header.
pub(crate) fn len_of(record: &Record) -> u64 {
    u64::try_from(record.len_bytes()).expect("a record is about 1 MiB")
}

impl Replica {
    /// A copy that holds what the superblock's checkpoint says and nothing after it.
    pub(crate) fn new(sb: Superblock, stage: Stage) -> Replica {
        let tables = Tables::opened(Tree::new(TableKind::Blocks), Tree::new(TableKind::Regions), sb.sums);
        let (checkpoint, epoch, hash) = (sb.checkpoint, sb.checkpoint_epoch, sb.checkpoint_hash);
        let sizes = Sizes::new(Resized { lsn: checkpoint, size: sb.size, decision: sb.resized });
        Replica {
            volume: sb.volume,
            stage,
            writer: Writer::default(),
            received: checkpoint,
            received_epoch: epoch,
            received_hash: hash,
            durable: checkpoint,
            committed: checkpoint,
            known_committed: sb.committed,
            carried: sb.committed,
            applied: checkpoint,
            checkpoint,
            trim: Lsn::ZERO,
            free: Lsn::ZERO,
            sizes,
            cut_off: sb.cut,
            shortening: 0,
            log: BTreeMap::new(),
            commands: VecDeque::new(),
            barrier: false,
            adoption: None,
            overlay: RunMap::default(),
            tables,
            waits: BTreeMap::new(),
            pages_counted: 0,
            pages_wanted: 0,
            batch: None,
            broken: None,
            repairing_blocks: BTreeSet::new(),
            hold: None,
            checkpointing: None,
            applied_bytes: 0,
            first_applied: None,
            checkpoint_now: false,
            tables_rotten: false,
            settle_to: None,
            reads: Reads::default(),
            region_reads: RegionReads::default(),
            side: Side::default(),
            side_reads: 0,
            merge: None,
            deferred: Vec::new(),
            commit_hint: sb.committed,
            unknown_to: None,
            promised_before: sb.promised,
            orphans: BTreeMap::new(),
            orphans_leaving: BTreeSet::new(),
            backlog: 0,
            digests_at: BTreeSet::new(),
            debt: 0,
            debt_since: None,
            cut: None,
            loading: 0,
            cached_upto: checkpoint,
            sb,
        }
    }

    /// Panics unless the positions are in order: a copy that lost count of itself must stop.
    pub(crate) fn validate(&self) {
        let ordered = self.checkpoint <= self.applied
            && self.applied <= self.committed
            && self.committed <= self.durable
            && self.durable <= self.received;
        assert!(
            (ordered && self.applied <= self.known_committed.max(self.checkpoint))
                || mutated(Mutant::AppliesUnknownCommit)
                || mutated(Mutant::AppliesUncommitted),
            "positions of {} are ordered: checkpoint {} applied {} committed {} (on disk {}) durable {} received {}",
            self.volume,
            self.checkpoint,
            self.applied,
            self.committed,
            self.known_committed,
            self.durable,
            self.received
        );
    }

    /// Does what can be done now: commands, then applying, then a checkpoint.
    ///
    /// `hurry`: committed records wait for no others to be applied with.
    pub(crate) fn pump(&mut self, cx: &mut Cx<'_>, journal: &mut Journal, hurry: bool) {
        if let Some(last) = self.cut.take() {
            journal.clip(self.volume, last);
        }
        let free = self.checkpoint.min(self.trim);
        journal.unrest |= std::mem::replace(&mut self.free, free) != free;
        // What a checkpoint that has just ended gives back is room for the next batch.
        self.count_pages(cx);
        if self.stage == Stage::Open {
            self.run_commands(cx, journal);
            if self.committed > self.carried {
                journal.want_mark(self.volume, self.committed, cx.now);
            }
            // A full journal takes no marks, and without them nothing is applied and the journal stays full.
            if journal.pressure() && self.committed > self.known_committed && !self.writer.hint_queued() {
                self.write_superblock(cx, Waiter::Hint);
            }
            self.checkpoint_now |= journal.pressure() && self.applied > self.checkpoint;
        }
        self.pump_merge_size(cx);
        self.pump_deferred(cx);
        self.pump_side(cx);
        if self.is_pressed(journal) || matches!(self.commands.front(), Some(Command::Switch(_))) {
            self.region_reads.let_go();
        }
        self.pump_regions(cx);
        if matches!(self.stage, Stage::Replaying | Stage::Open) {
            let hurry = hurry || self.stage == Stage::Replaying || self.settles();
            if !self.yields_to_batch() {
                self.pump_merge(cx);
            }
            self.pump_apply(cx, hurry);
            self.pump_merge(cx);
            if self.pump_hold(cx, journal) {
                self.pump_apply(cx, hurry);
            }
            self.finish_replay(cx);
            let presses = cx.ops.pages.presses(self.tables.changed(), cx.config.table_pages());
            self.checkpoint_now |= (presses && self.applied > self.checkpoint) || self.settles_by_checkpoint();
            self.pump_checkpoint(cx);
        }
        self.pump_merged(cx);
        self.count_pages(cx);
        self.validate();
    }

    fn run_commands(&mut self, cx: &mut Cx<'_>, journal: &mut Journal) {
        while !self.barrier {
            let drained = self.durable == self.received;
            match self.commands.front() {
                None => return,
                Some(Command::Append(_)) => {}
                Some(Command::Switch(_)) => {
                    let Some(Command::Switch(switch)) = self.commands.front().cloned() else { return };
                    if !self.is_ready_to_switch(&switch, journal) {
                        return;
                    }
                }
                Some(_) if drained || mutated(Mutant::PromiseWithoutDrain) => {}
                // What is to be cut and has not left need not be journaled first. It could wait for ever: for room in a
                // journal that only this cut makes.
                Some(Command::Adopt { cut_after, .. }) if self.drained_for_cut(*cut_after, journal) => {}
                Some(_) => return,
            }
            match self.commands.pop_front().expect("there is one in front") {
                Command::Append(records) => {
                    for record in records {
                        cx.ops.written.guest += u64::from(record.header().body_len);
                        self.append(record, journal);
                    }
                }
                Command::Promise(epoch) => {
                    assert!(epoch >= self.sb.promised, "{}: promise {epoch} after {}", self.volume, self.sb.promised);
                    self.barrier = true;
                    self.sb.promised = epoch;
                    self.write_superblock(cx, Waiter::Promise(epoch));
                }
                Command::Adopt { epoch, table, cut_after } => self.adopt(cx, epoch, table, cut_after, None),
                Command::Switch(switch) => self.switch(cx, switch, journal),
            }
        }
    }

    /// A promise or an adoption can't go on before what was appended is durable.
    pub(crate) fn waits_to_drain(&self) -> bool {
        !self.barrier && self.commands.front().is_some_and(|c| !matches!(c, Command::Append(_)))
    }

    pub(crate) fn drained_for_cut(&self, cut_after: Lsn, journal: &mut Journal) -> bool {
        journal.drop_queued_after(self.volume, cut_after);
        let issued = self.log.iter().rev().find(|(_, entry)| entry.at.is_some()).map_or(Lsn::ZERO, |(lsn, _)| *lsn);
        self.durable >= issued.max(cut_after)
    }

    fn append(&mut self, record: Record, journal: &mut Journal) {
        let h = record.header();
        let v = self.volume;
        assert!(h.volume == v && h.lsn == self.received.next(), "{v}: record {} after {}", h.lsn, self.received);
        assert_eq!(h.prev_hash, self.received_hash, "{v}: record {} continues the log (S15)", h.lsn);
        assert_eq!(self.sb.table.epoch_at(h.lsn), Some(h.epoch), "{v}: the epoch table gives {} its epoch", h.lsn);
        assert!(h.fits(self.sizes.last().size), "{v}: record {} lies in the volume: {:?}", h.lsn, self.sizes);
        // The log reaches this copy after all.
        self.side.is_of_no_use();
        self.received = h.lsn;
        self.received_epoch = h.epoch;
        self.received_hash = record.hash();
        self.carried = self.carried.max(h.committed);
        self.backlog += len_of(&record);
        self.remember(&record, None);
        if mutated(Mutant::ReadsSeeUncommitted) {
            self.overlay.insert(&record);
        }
        journal.enqueue(record);
    }

    pub(crate) fn remember(&mut self, record: &Record, at: Option<Location>) {
        let h = record.header();
        let entry =
            Entry { epoch: h.epoch, hash: record.hash(), body_len: h.body_len, at, record: Some(record.clone()) };
        self.log.insert(h.lsn, entry);
        if let Some(resized) = record.resized() {
            self.sizes.push(resized);
        }
    }

    /// A frame that holds `lsn`, and every frame before it, is on stable storage.
    pub(crate) fn on_durable(&mut self, lsn: Lsn, committed: Lsn) {
        assert_eq!(lsn, self.durable.next(), "{}: frames hold records in order", self.volume);
        self.durable = lsn;
        self.known_committed = self.known_committed.max(committed);
        // Where the damage reached is a guess upwards; the start of an epoch that came later decides as well.
        if let Some(unknown) = self.unknown_to {
            let later = |(epoch, _): &&(Epoch, Lsn)| *epoch > self.promised_before;
            let start = self.sb.table.entries().last().filter(later).map(|(_, start)| *start);
            if start.map_or(unknown, |start| start.min(unknown)) <= lsn {
                self.unknown_to = None;
                self.cut = Some(self.received);
            }
        }
    }

    pub(crate) fn attest_durable(&self, out: &mut Vec<Output>) {
        out.push(Output::Durable { volume: self.volume, upto: Durable::attest(self.durable) });
    }

    /// Records up to `upto` are committed: reads see them from now on.
    pub(crate) fn on_commit(&mut self, upto: Lsn) {
        assert!(
            upto <= self.durable,
            "{}: commit {upto} of records up to {} that are durable",
            self.volume,
            self.durable
        );
        while self.committed < upto {
            self.committed = self.committed.next();
            let entry = self.log.get(&self.committed).expect("records above the checkpoint are in the log");
            let record = entry.record.as_ref().expect("records above applied are in memory");
            self.debt += len_of(record);
            if !mutated(Mutant::ReadsSkipOverlay) {
                self.overlay.insert(record);
            }
        }
    }

    /// Epoch and hash of the record at `lsn`, which is not below the checkpoint.
    pub(crate) fn identity(&self, lsn: Lsn) -> (Epoch, u64) {
        if lsn == self.received {
            return (self.received_epoch, self.received_hash);
        }
        if lsn == self.sb.checkpoint {
            return (self.sb.checkpoint_epoch, self.sb.checkpoint_hash);
        }
        let entry = self.log.get(&lsn).expect("records above the checkpoint are in the log");
        (entry.epoch, entry.hash)
    }

    /// The volume's size as the image has it.
    pub(crate) fn image_size(&self) -> VolumeSize {
        self.sizes.at(self.applied).size
    }

    /// The volume's size as reads see it.
    pub(crate) fn size(&self) -> VolumeSize {
        self.sizes.at(self.committed).size
    }

    /// The oldest record that the journal still holds; `received + 1` if none.
    pub(crate) fn first(&self) -> Lsn {
        self.log.first_key_value().map_or(self.received.next(), |(lsn, _)| *lsn)
    }

    /// Records up to `upto` are no longer in the journal.
    pub(crate) fn forget_log(&mut self, upto: Lsn) {
        assert!(upto <= self.checkpoint, "{}: records above the checkpoint stay in the journal", self.volume);
        self.log = self.log.split_off(&upto.next());
    }

    pub(crate) fn adopt(
        &mut self,
        cx: &mut Cx<'_>,
        epoch: Epoch,
        table: EpochTable,
        cut_after: Lsn,
        switch: Option<SwitchTo>,
    ) {
        let v = self.volume;
        assert!(epoch >= self.sb.promised, "{v}: adopt {epoch} after promise {}", self.sb.promised);
        assert!(self.committed <= cut_after && cut_after <= self.received, "{v}: cut after {cut_after}");
        self.barrier = true;
        // A record that was dropped before it left carries no commit position any more.
        self.carried = self.known_committed;
        let cut = self.log.split_off(&cut_after.next());
        self.sizes.cut_after(cut_after);
        let mut orphan = Orphan::default();
        for entry in cut.into_values() {
            let record = entry.record.expect("uncommitted records are in memory");
            self.backlog -= len_of(&record);
            orphan.push(&record, cx.config.orphan_bytes);
        }
        let (last_epoch, last_hash) = if cut_after == self.received {
            (self.received_epoch, self.received_hash)
        } else {
            self.identity(cut_after)
        };
        self.received = cut_after;
        self.durable = cut_after;
        self.received_epoch = last_epoch;
        self.received_hash = last_hash;
        let empty = orphan.parts.is_empty();
        self.adoption = Some(Adoption { epoch, table, cut_after, orphan, switch });
        if empty {
            self.adopt_in_superblock(cx);
        } else {
            self.create_orphan(cx);
        }
    }

    pub(crate) fn adopt_in_superblock(&mut self, cx: &mut Cx<'_>) {
        let adoption = self.adoption.as_ref().expect("an adoption is under way");
        assert_eq!(adoption.cut_after, self.received, "nothing is appended during an adoption");
        self.sb.promised = adoption.epoch;
        self.sb.table = adoption.table.clone();
        let epoch = adoption.epoch;
        if adoption.switch.is_some() {
            self.switch_in_superblock();
        }
        self.write_superblock(cx, Waiter::Adopt(epoch));
    }

    /// The adoption is on disk.
    pub(crate) fn adopted(&mut self, cx: &mut Cx<'_>, epoch: Epoch) {
        let adoption = self.adoption.take().expect("an adoption was made durable");
        self.barrier = false;
        self.bound_orphans(cx);
        if let Some(to) = adoption.switch {
            self.switched(cx, epoch, to);
            self.cut = Some(self.received);
            return;
        }
        // What could not be read is not here yet: until it came again, the journal keeps the evidence that it is missing.
        if self.unknown_to.is_none() {
            self.cut = Some(self.received);
        }
        let (last, last_hash) = (self.received, self.received_hash);
        cx.out.push(Output::Adopted { volume: self.volume, epoch, last, last_hash });
    }

    /// Opens the copy once everything committed is in the image again: before that blocks of it may be newer than the tables.
    fn finish_replay(&mut self, cx: &mut Cx<'_>) {
        if self.stage != Stage::Replaying || self.applied < self.committed || self.broken.is_some() {
            return;
        }
        self.stage = Stage::Open;
        let (volume, first) = (self.volume, self.received.next());
        if let Some(last) = self.unknown_to {
            cx.out.push(Output::RecordsLost { volume, first, last });
        }
        cx.out.push(Output::Opened { volume, copy: self.opened() });
    }

    pub(crate) fn opened(&self) -> OpenedCopy {
        OpenedCopy {
            incarnation: self.sb.incarnation,
            sizes: self.sizes.clone(),
            promised: self.sb.promised,
            table: self.sb.table.clone(),
            last: self.received,
            last_epoch: self.received_epoch,
            last_hash: self.received_hash,
            committed: self.committed,
            commit_hint: self.commit_hint.max(self.committed),
            applied: self.applied,
            digest: self.tables.digest,
            checkpoint: self.checkpoint,
            first: self.first(),
            unknown_to: self.unknown_to,
            scrub: self.sb.scrub.clone(),
        }
    }
}
