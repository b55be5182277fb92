//! Which blocks hold data, as the block table and the overlay say. Committed content only.

use crate::replica::Replica;
use holdfast_types::{BlockIndex, BlockRange};

/// Blocks that one question looks at; whoever asks for more gets an answer for the first ones and asks again, so that a
/// question about a huge volume does not hold up the shard.
const MAX_BLOCKS: u64 = 1 << 16;

impl Replica {
    /// Runs of blocks that are holes (true) or have their space (false), from the start of `range` on.
    pub(crate) fn extents(&self, range: BlockRange) -> Vec<(BlockRange, bool)> {
        let end = range.end().0.min(self.sb.size.blocks().0).min(range.start.0.saturating_add(MAX_BLOCKS));
        let mut runs: Vec<(BlockRange, bool)> = Vec::new();
        for block in range.start.0..end {
            let hole = match self.overlay.get(block) {
                Some(record) => record.block_sum(BlockIndex(block)) == 0,
                None => self.tables.blocks.get(block) == 0,
            };
            match runs.last_mut() {
                Some((run, kind)) if *kind == hole => *run = BlockRange::new(run.start.0, run.count.0 + 1),
                _ => runs.push((BlockRange::new(block, 1), hole)),
            }
        }
        runs
    }
}
