//! Which blocks hold data, as the block table and the overlay say. Committed content only.
//!
//! An answer covers as much as is in memory, and at least the first leaf of the block table: whoever asks for more asks again.
//! What follows is fetched meanwhile. So a question about a huge volume holds up nobody and pins nothing.

use crate::api::Output;
use crate::merge::Deferred;
use crate::ops::Cx;
use crate::pages::Wait;
use crate::replica::Replica;
use crate::tables::{by_leaf, entry_slot};
use holdfast_format::{TableKind, TablePage};
use holdfast_types::{BlockIndex, BlockRange};

/// Blocks that one question looks at.
const MAX_BLOCKS: u64 = 1 << 16;
/// Leaves that are fetched for the next question.
const AHEAD: usize = 16;

impl Replica {
    /// Answers with runs of blocks that are holes (true) or have their space (false), from the start of `range` on.
    pub(crate) fn extents(&mut self, cx: &mut Cx<'_>, tag: u64, range: BlockRange) {
        if self.is_switching() {
            return self.deferred.push(Deferred::Extents { tag, range });
        }
        let end = range.end().0.min(self.size().blocks().0).min(range.start.0.saturating_add(MAX_BLOCKS));
        let mut runs: Vec<(BlockRange, bool)> = Vec::new();
        if range.start.0 >= end {
            return cx.out.push(Output::Extents { volume: self.volume, tag, extents: Vec::new() });
        }
        let mut wait = Wait::Extents { tag, range };
        let mut missing = 0;
        for (from, to) in by_leaf(range.start.0, end) {
            let asked = matches!(wait, Wait::Extents { .. });
            if !self.leaf(cx, TableKind::Blocks, TablePage::leaf_of(from).index, wait.clone()) {
                // The first one is waited for, if there is nothing to tell yet.
                missing += 1;
                if missing == AHEAD {
                    break;
                }
            } else if missing == 0 {
                self.runs_in_leaf(from, to, &mut runs);
            }
            if asked {
                wait = Wait::Nobody;
            }
        }
        if !runs.is_empty() {
            cx.out.push(Output::Extents { volume: self.volume, tag, extents: runs });
        }
    }

    fn runs_in_leaf(&mut self, from: u64, to: u64, runs: &mut Vec<(BlockRange, bool)>) {
        let entries = self.tables.blocks.entries(TablePage::leaf_of(from).index);
        for block in from..to {
            let hole = match self.overlay.get(block) {
                Some(record) => record.block_sum(BlockIndex(block)) == 0,
                None => entries.as_ref().is_none_or(|e| e[entry_slot(block)] == 0),
            };
            match runs.last_mut() {
                Some((run, kind)) if *kind == hole => *run = BlockRange::new(run.start.0, run.count.0 + 1),
                _ => runs.push((BlockRange::new(block, 1), hole)),
            }
        }
    }
}
