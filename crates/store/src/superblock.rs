//! Writing a copy's superblock: one write at a time, as two durable steps, so that two equal copies are always whole.
//!
//! Whoever changes `sb` queues a waiter; the next write carries all changes made so far, and its end answers every
//! waiter that was queued when it began. A write in flight is never changed.

use crate::api::Output;
use crate::io::{DiskOpKind, FileId};
use crate::ops::{CopyTag, Cx};
use crate::replica::{Replica, Stage};
use bytes::Bytes;
use holdfast_format::Superblock;
use holdfast_types::{Epoch, Lsn, Mutant, ScrubKept, mutated};

/// What to do when the change is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiter {
    /// The copy was created.
    Create,
    /// Say `Promised`.
    Promise(Epoch),
    /// Say `Adopted`.
    Adopt(Epoch),
    /// The checkpoint holds.
    Checkpoint(Lsn),
    /// What a switch left in the image behind a cut is gone.
    Sized,
    /// The commit position is on disk; nobody asked.
    Hint,
}

#[derive(Debug, Default)]
pub(crate) struct Writer {
    queued: Vec<Waiter>,
    answering: Vec<Waiter>,
    step: Step,
    /// The scrub has come further than any superblock says that was written or is on its way.
    scrub_ahead: bool,
}

#[derive(Debug, Default)]
enum Step {
    #[default]
    Idle,
    /// Damaged copies are being replaced by what the others say; so many are missing.
    Repair(u32),
    /// Copies 0 and 1 are being written.
    First(Bytes, Lsn),
    /// Copies 2 and 3 are being written.
    Second(Lsn),
}

impl Writer {
    /// Nothing is being written.
    pub(crate) const fn rests(&self) -> bool {
        matches!(self.step, Step::Idle)
    }

    pub(crate) fn hint_queued(&self) -> bool {
        self.queued.contains(&Waiter::Hint) || self.answering.contains(&Waiter::Hint)
    }
}

const PAIR: u64 = 2 * Superblock::LEN as u64;

impl Replica {
    /// Queues what `sb` says now to be written.
    pub(crate) fn write_superblock(&mut self, cx: &mut Cx<'_>, waiter: Waiter) {
        self.writer.queued.push(waiter);
        self.begin_superblock(cx);
    }

    /// Notes how far the scrub is. Nothing depends on it: a write that something else needs carries it along.
    pub(crate) fn keep_scrub(&mut self, cx: &mut Cx<'_>, kept: ScrubKept, at_once: bool) {
        self.writer.scrub_ahead |= self.sb.scrub != kept;
        self.sb.scrub = kept;
        if at_once {
            self.write_scrub(cx);
        }
    }

    /// Writes what was noted of the scrub, if that was not done.
    pub(crate) fn write_scrub(&mut self, cx: &mut Cx<'_>) {
        if self.writer.scrub_ahead {
            self.write_superblock(cx, Waiter::Hint);
        }
    }

    fn begin_superblock(&mut self, cx: &mut Cx<'_>) {
        if !matches!(self.writer.step, Step::Idle) || self.writer.queued.is_empty() {
            return;
        }
        self.sb.sequence += 1;
        self.sb.committed = self.sb.committed.max(self.committed);
        self.writer.answering = std::mem::take(&mut self.writer.queued);
        self.writer.scrub_ahead = false;
        let bytes = self.sb.encode();
        self.superblock_pair(cx, 0, &bytes);
        self.writer.step = Step::First(bytes, self.sb.committed);
    }

    fn superblock_pair(&self, cx: &mut Cx<'_>, offset: u64, bytes: &Bytes) {
        let (offset, copies) = if mutated(Mutant::SuperblockAtOnce) { (0, Superblock::COPIES) } else { (offset, 2) };
        let durable = !mutated(Mutant::SuperblockNotDurable);
        let kind = DiskOpKind::Write { offset, data: vec![bytes.clone(); copies], durable };
        cx.copy_op(self.volume, CopyTag::Superblock, FileId::Superblock(self.volume), kind);
    }

    /// Rewrites the copies that differ from `bytes`, which the good ones hold. Only those: two good ones stay throughout.
    pub(crate) fn repair_superblock(&mut self, cx: &mut Cx<'_>, bytes: &Bytes, good: [bool; 4]) {
        let mut missing = 0;
        for (offset, _) in (0u64..).step_by(Superblock::LEN).zip(good).filter(|(_, good)| !good) {
            let kind = DiskOpKind::Write { offset, data: vec![bytes.clone()], durable: true };
            cx.copy_op(self.volume, CopyTag::Superblock, FileId::Superblock(self.volume), kind);
            missing += 1;
        }
        self.writer.step = if missing == 0 { Step::Idle } else { Step::Repair(missing) };
    }

    pub(crate) const fn repairing(&self) -> bool {
        matches!(self.writer.step, Step::Repair(_))
    }

    /// A step of the write ended.
    pub(crate) fn superblock_done(&mut self, cx: &mut Cx<'_>) {
        match std::mem::take(&mut self.writer.step) {
            Step::Idle => unreachable!("a superblock write that ended had begun"),
            Step::Repair(1) => self.begin_superblock(cx),
            Step::Repair(missing) => self.writer.step = Step::Repair(missing - 1),
            Step::First(bytes, committed) => {
                self.superblock_pair(cx, PAIR, &bytes);
                self.writer.step = Step::Second(committed);
            }
            Step::Second(committed) => {
                self.known_committed = self.known_committed.max(committed);
                self.carried = self.carried.max(committed);
                for waiter in std::mem::take(&mut self.writer.answering) {
                    self.answer(cx, waiter);
                }
                self.begin_superblock(cx);
            }
        }
    }

    fn answer(&mut self, cx: &mut Cx<'_>, waiter: Waiter) {
        let volume = self.volume;
        match waiter {
            Waiter::Create => {
                self.stage = Stage::Open;
                cx.out.push(Output::Opened { volume, copy: self.opened() });
            }
            Waiter::Promise(epoch) => {
                self.barrier = false;
                cx.out.push(Output::Promised { volume, epoch });
            }
            Waiter::Adopt(epoch) => self.adopted(cx, epoch),
            Waiter::Checkpoint(upto) => self.checkpointed(cx, upto),
            Waiter::Sized => self.merge_sized(cx),
            Waiter::Hint => {}
        }
    }
}
