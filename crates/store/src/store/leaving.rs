//! Copies on their way out: those that failed, and those whose files are removed.
//!
//! ```text
//! waiting ─► marking (superblock copies 2 and 3, then 0 and 1, say that nothing counts) ─► the other files ─► the superblock ─► gone
//! ```
//! The mark is the proof by which a start goes on with it. Without a mark files are kept, whatever is missing beside them:
//! a file that was lost looks like one that never was.

use super::{Phase, Store};
use crate::api::{LogGone, Output};
use crate::io::{DiskOpKind, FileId};
use crate::ops::{CopyTag, Cx};
use crate::ring::{Failed, Held};
use holdfast_format::Superblock;
use holdfast_types::{Epoch, ReadFault, Time, VolumeId};
use std::collections::BTreeMap;

/// A copy that has failed or is being removed.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    orphans: BTreeMap<Epoch, u64>,
    /// What the journal keeps for it; everything, if it could not even be opened.
    held: Held,
    /// To be removed; false for a copy that only failed.
    delete: bool,
    /// Leftover of an interrupted creation or deletion: nobody asked.
    silent: bool,
    /// The next start will not open it.
    void: bool,
    step: Removal,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Removal {
    #[default]
    Waiting,
    /// The second pair of the superblock's copies, or the first, becomes void.
    Marking(Pair),
    /// So many files are still there, besides the superblock.
    Files(usize),
    Superblock,
    Gone,
    /// A file could not be removed: it never ends in this life.
    Stuck,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pair {
    Second,
    First,
}

impl Leaving {
    /// Could not be opened.
    pub(super) fn failed(orphans: BTreeMap<Epoch, u64>) -> Leaving {
        Leaving { orphans, ..Leaving::default() }
    }

    /// Files that a start found with a mark.
    pub(super) fn leftover(orphans: BTreeMap<Epoch, u64>) -> Leaving {
        Leaving { orphans, delete: true, silent: true, void: true, ..Leaving::default() }
    }

    /// Whether the start waits for its end.
    pub(super) fn holds_up(&self) -> bool {
        self.silent && self.step != Removal::Stuck
    }
}

impl Store {
    pub(super) fn delete(&mut self, volume: VolumeId, out: &mut Vec<Output>) {
        if matches!(self.phase, Phase::Failed) {
            return;
        }
        if self.replicas.contains_key(&volume) {
            self.take_out(volume, out);
        }
        self.to_load.remove(&volume);
        let Some(leaving) = self.leaving.get_mut(&volume) else {
            return out.push(Output::Deleted { volume });
        };
        leaving.delete = true;
        leaving.silent = false;
    }

    /// Takes a copy out of service: what it was asked is answered, what waits is dropped.
    pub(super) fn take_out(&mut self, volume: VolumeId, out: &mut Vec<Output>) {
        let Some(mut replica) = self.replicas.remove(volume) else { return };
        let (reads, logs) = replica.reads.take_tags();
        for tag in reads {
            out.push(Output::ReadDone { volume, tag, result: Err(ReadFault::CopyFailed) });
        }
        for tag in logs {
            out.push(Output::LogRead { volume, tag, result: Err(LogGone { first: replica.received.next() }) });
        }
        for tag in replica.region_reads.take_tags() {
            out.push(Output::RegionsRead { volume, tag, result: Err(ReadFault::CopyFailed) });
        }
        replica.answer_waiting(out);
        self.ops.pages.leaves(volume, replica.pages_counted);
        self.ops.drop_parked(volume);
        self.journal.drop_queued(volume);
        let held = Held::by(&replica);
        self.leaving.insert(volume, Leaving { orphans: replica.orphans, held, ..Leaving::default() });
    }

    pub(super) fn fail_copy(&mut self, volume: VolumeId, reason: &str, out: &mut Vec<Output>) {
        if let Some(leaving) = self.leaving.get_mut(&volume) {
            // Other errors of a copy that left are old news.
            if !matches!(leaving.step, Removal::Files(_) | Removal::Superblock) {
                return;
            }
            leaving.step = Removal::Stuck;
        }
        self.take_out(volume, out);
        self.to_load.remove(&volume);
        out.push(Output::Failed { volume: Some(volume), reason: format!("copy of {volume}: {reason}") });
    }

    pub(super) fn fail_journal(&mut self, reason: &str, out: &mut Vec<Output>) {
        self.phase = Phase::Failed;
        for volume in self.replicas.keys().copied().collect::<Vec<_>>() {
            self.take_out(volume, out);
        }
        out.push(Output::Failed { volume: None, reason: format!("journal: {reason}") });
    }

    /// Takes the next step of every removal that waits for nothing.
    pub(super) fn remove_files(&mut self, now: Time, out: &mut Vec<Output>) {
        let Store { ops, config, leaving, journal, .. } = self;
        for (volume, leaving) in leaving.iter_mut().filter(|(_, l)| l.delete && l.step == Removal::Waiting) {
            if ops.of_volume(*volume) > 0 || journal.carries(*volume) {
                continue;
            }
            let cx = &mut Cx { ops, out, now, config };
            if leaving.void { leaving.remove_all(cx, *volume) } else { leaving.mark(cx, *volume, Pair::Second) }
        }
    }

    /// A step of a removal ended.
    pub(super) fn removed(&mut self, volume: VolumeId, now: Time, out: &mut Vec<Output>) {
        let Store { ops, config, leaving, journal, .. } = self;
        let leaving = leaving.get_mut(&volume).expect("files of a leaving copy are removed");
        let cx = &mut Cx { ops, out, now, config };
        match leaving.step {
            Removal::Marking(Pair::Second) => leaving.mark(cx, volume, Pair::First),
            Removal::Marking(Pair::First) => leaving.remove_all(cx, volume),
            Removal::Files(1) => leaving.remove_superblock(cx, volume),
            Removal::Files(more) => leaving.step = Removal::Files(more - 1),
            Removal::Superblock => {
                leaving.step = Removal::Gone;
                journal.forget(volume);
            }
            Removal::Stuck => {}
            step @ (Removal::Waiting | Removal::Gone) => unreachable!("{volume}: nothing is removed while {step:?}"),
        }
    }

    pub(super) fn report_deleted(&mut self, out: &mut Vec<Output>) {
        let gone: Vec<VolumeId> =
            self.leaving.iter().filter(|(_, l)| l.step == Removal::Gone).map(|(v, _)| *v).collect();
        for volume in gone {
            let leaving = self.leaving.remove(&volume).expect("found just now");
            if !leaving.silent {
                out.push(Output::Deleted { volume });
            }
        }
    }

    /// Copies that are out of service and that the next start would open.
    pub(super) fn failed(&self) -> Failed {
        self.leaving.iter().filter(|(_, l)| !l.void).map(|(volume, l)| (*volume, l.held)).collect()
    }
}

impl Leaving {
    fn mark(&mut self, cx: &mut Cx<'_>, volume: VolumeId, pair: Pair) {
        self.step = Removal::Marking(pair);
        let copies = Superblock::COPIES / 2;
        let offset = if pair == Pair::First { 0 } else { (copies * Superblock::LEN) as u64 };
        let kind = DiskOpKind::Write { offset, data: vec![Superblock::void(volume); copies], durable: true };
        cx.copy_op(volume, CopyTag::Void, FileId::Superblock(volume), kind);
    }

    fn remove_all(&mut self, cx: &mut Cx<'_>, volume: VolumeId) {
        let v = volume;
        let mut files = vec![FileId::Image(v), FileId::BlockTable(v), FileId::RegionTable(v)];
        files.extend([FileId::SideImage(v), FileId::SideBlocks(v), FileId::SideRegions(v)]);
        files.extend(self.orphans.keys().map(|epoch| FileId::Orphan(v, *epoch)));
        self.step = Removal::Files(files.len());
        for file in files {
            cx.copy_op(v, CopyTag::Delete, file, DiskOpKind::Delete);
        }
    }

    fn remove_superblock(&mut self, cx: &mut Cx<'_>, volume: VolumeId) {
        self.step = Removal::Superblock;
        cx.copy_op(volume, CopyTag::Delete, FileId::Superblock(volume), DiskOpKind::Delete);
    }
}
