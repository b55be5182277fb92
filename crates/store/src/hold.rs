//! Holding the image at one record, so that copies can be compared while writes go on.
//!
//! No batch goes beyond the record; when the image has reached it, the digest is told, and the sums of the digest tree can be
//! asked for until the hold ends. What is committed meanwhile waits in journal and overlay, as it always does before it is
//! applied: reads see it, and guests are answered.
//!
//! Bounds: a hold that has reached its record ends by itself when the journal is full, or when it made too much wait. How long it
//! may last is for its owner to say.

use crate::api::Output;
use crate::journal::Journal;
use crate::ops::Cx;
use crate::replica::Replica;
use holdfast_format::digest_term;
use holdfast_format::message::{NotHeld, SumNode};
use holdfast_types::{BlockIndex, Lsn};

/// Bytes of records that may wait for a hold.
const MAX_WAITING: u64 = 32 << 20;

/// Up to where a copy applies.
#[derive(Debug)]
pub(crate) struct Hold {
    at: Lsn,
    /// The image is there, and its owner knows.
    reached: bool,
}

impl Hold {
    pub(crate) const fn at(&self) -> Lsn {
        self.at
    }
}

impl Replica {
    pub(crate) fn start_hold(&mut self, cx: &mut Cx<'_>, at: Lsn) {
        if self.applied.max(self.applying_upto()) > at {
            self.let_go(cx, at, NotHeld::Passed);
        } else {
            self.hold = Some(Hold { at, reached: false });
        }
    }

    /// True if the hold has ended, so that there is something to apply.
    pub(crate) fn pump_hold(&mut self, cx: &mut Cx<'_>, journal: &Journal) -> bool {
        let Some(hold) = self.hold.as_mut() else { return false };
        let at = hold.at;
        assert!(self.applied <= at, "{}: applied {} while held at {at}", self.volume, self.applied);
        if self.applied == at && !hold.reached {
            hold.reached = true;
            let (volume, digest) = (self.volume, self.tables.digest);
            cx.out.push(Output::Held { volume, at, digest });
        }
        let pressed = self.applied == at && (journal.pressure() || self.backlog > MAX_WAITING);
        if pressed {
            self.let_go(cx, at, NotHeld::Pressed);
        }
        pressed
    }

    fn let_go(&mut self, cx: &mut Cx<'_>, at: Lsn, why: NotHeld) {
        self.hold = None;
        cx.out.push(Output::LetGo { volume: self.volume, at, why });
    }

    /// The sums below a node of the digest tree, if the image is held at a record.
    pub(crate) fn held_sums(&self, node: SumNode) -> Vec<u64> {
        if !self.hold.as_ref().is_some_and(|hold| hold.reached) {
            return Vec::new();
        }
        let (blocks, step) = (node.blocks(self.sb.size.blocks()), node.child_blocks());
        let mut sums = Vec::new();
        let mut at = blocks.start.0;
        while at < blocks.end().0 {
            let end = (at + step).min(blocks.end().0);
            sums.push(self.tables.blocks.sum_of(at, end));
            at = end;
        }
        sums
    }
}

impl crate::tables::SparseTable {
    /// What the entries of `[start, end)` add to the digest.
    fn sum_of(&self, start: u64, end: u64) -> u64 {
        let term = |(index, value)| digest_term(BlockIndex(index), value);
        self.nonzero_in(start, end).map(term).fold(0, u64::wrapping_add)
    }
}
