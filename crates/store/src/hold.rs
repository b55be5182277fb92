//! Holding the image at one record, so that copies can be compared while writes go on.
//!
//! No batch goes beyond the record; when the image has reached it, the digest is told, and the sums of the digest tree can be
//! asked for until the hold ends. What is committed meanwhile waits in journal and overlay, as it always does before it is
//! applied: reads see it, and guests are answered.
//!
//! The tree of table pages keeps the sum of each leaf, which is what the nodes of level 2 are made of: they are told without a
//! look at a leaf. Pages that are not in memory are read one at a time, and nobody else waits for them.
//!
//! Bounds: a hold that has reached its record ends by itself when the journal is full, or when it made too much wait. How long it
//! may last is for its owner to say.

use crate::api::Output;
use crate::journal::Journal;
use crate::ops::Cx;
use crate::pages::Wait;
use crate::replica::Replica;
use crate::tables::{Tree, entry_slot, leaves};
use holdfast_format::message::{NotHeld, SumNode};
use holdfast_format::{LEAF_PARENT_FANOUT, PAGE_ENTRIES, TableKind, TablePage, digest_term};
use holdfast_types::{BlockIndex, Lsn, REGION_BLOCKS};

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

    /// Whether too much waits for an image that is kept still.
    pub(crate) const fn is_pressed(&self, journal: &Journal) -> bool {
        journal.pressure() || self.backlog > MAX_WAITING
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
        let pressed = self.applied == at && self.is_pressed(journal);
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
    pub(crate) fn held_sums(&mut self, cx: &mut Cx<'_>, node: SumNode) {
        let at = self.hold.as_ref().map_or(Lsn::ZERO, Hold::at);
        self.sum_on(cx, Summing { node, at, sums: Vec::new() });
    }

    /// Goes on with a question until a page of the block table is not here, which brings it back.
    pub(crate) fn sum_on(&mut self, cx: &mut Cx<'_>, mut summing: Summing) {
        let Summing { node, at, .. } = summing;
        if !self.hold.as_ref().is_some_and(|hold| hold.reached && hold.at == at) {
            // What was summed belongs to no record: the image has moved on since.
            return cx.out.push(Output::Sums { volume: self.volume, node, sums: Vec::new() });
        }
        let (blocks, step) = (node.blocks(self.image_size().blocks()), node.child_blocks());
        loop {
            let start = blocks.start.0 + step * u64::try_from(summing.sums.len()).expect("256 at most");
            let end = (start + step).min(blocks.end().0);
            if start >= end {
                return cx.out.push(Output::Sums { volume: self.volume, node, sums: summing.sums });
            }
            let leaf = TablePage::leaf_of(start);
            let by_leaves = node.level == SumNode::TOP;
            let page = if by_leaves { leaf.parent().expect("a leaf is no root").0 } else { leaf };
            if !self.page(cx, TableKind::Blocks, page, Wait::Sums(summing.clone())) {
                return;
            }
            let table = &mut self.tables.blocks;
            let sum = if by_leaves { sum_of_leaves(table, start, end) } else { sum_in_leaf(table, start, end) };
            summing.sums.push(sum);
        }
    }
}

/// A question about sums, and what was found so far.
#[derive(Clone, Debug)]
pub(crate) struct Summing {
    pub(crate) node: SumNode,
    /// The image was held here when it was asked.
    at: Lsn,
    sums: Vec<u64>,
}

const LEAF: u64 = PAGE_ENTRIES as u64;
const TOP_CHILD: u64 = REGION_BLOCKS * SumNode::FAN;
// A child of a node of level 2 is made of whole leaves of one parent, a region lies in one leaf.
const _: () = assert!(TOP_CHILD.is_multiple_of(LEAF) && (LEAF * LEAF_PARENT_FANOUT).is_multiple_of(TOP_CHILD));
const _: () = assert!(LEAF.is_multiple_of(REGION_BLOCKS) && SumNode::TOP == 2);

/// What blocks `[start, end)` add to the digest. Entries behind the end of the volume are 0.
fn sum_of_leaves(table: &mut Tree, start: u64, end: u64) -> u64 {
    leaves(start, end).fold(0, |sum, leaf| sum.wrapping_add(table.leaf_sum(leaf)))
}

/// The same of blocks in one leaf.
fn sum_in_leaf(table: &mut Tree, start: u64, end: u64) -> u64 {
    let Some(entries) = table.entries(TablePage::leaf_of(start).index) else { return 0 };
    let term = |block: u64| digest_term(BlockIndex(block), entries[entry_slot(block)]);
    (start..end).map(term).fold(0, u64::wrapping_add)
}
