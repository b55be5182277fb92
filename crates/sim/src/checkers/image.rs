//! S16 at the bytes: an image holds, in every sector, zeros or a change that is committed, whatever was torn.

use super::register::change_in;
use super::{Committed, Violation, VolumeChecks};
use holdfast_types::{NodeId, SECTOR_SIZE, VolumeId};

const PER_BLOCK: u64 = (holdfast_types::BLOCK_SIZE / SECTOR_SIZE) as u64;

impl VolumeChecks {
    /// Looks at the bytes of a copy's image, but for blocks that are known to be damaged.
    pub(crate) fn image_bytes(
        &self,
        node: NodeId,
        volume: VolumeId,
        image: &[u8],
        spared: impl Fn(u64) -> bool,
    ) -> Result<(), Violation> {
        for (sector, content) in (0u64..).zip(image.chunks_exact(SECTOR_SIZE)) {
            if spared(sector / PER_BLOCK) {
                continue;
            }
            let Some(change) = change_in(content, sector) else {
                let text =
                    format!("sector {sector} of the image of {volume} at {node} holds bytes that nobody wrote there");
                return Err(Violation::new("S16", text));
            };
            if change != 0 && !self.committed.holds(change) {
                let text = format!(
                    "sector {sector} of the image of {volume} at {node} holds change {change}, which is not committed"
                );
                return Err(Violation::new("S16", text));
            }
        }
        Ok(())
    }

    /// At a quiet end: the bytes are exactly what the committed log says.
    pub(crate) fn image_equals(
        &self,
        node: NodeId,
        volume: VolumeId,
        image: &[u8],
        spared: impl Fn(u64) -> bool,
    ) -> Result<(), Violation> {
        let blocks = image.chunks(holdfast_types::BLOCK_SIZE);
        match (0u64..).zip(blocks).find(|(i, b)| !spared(*i) && !equals(&self.committed, *i, b)) {
            None => Ok(()),
            Some((i, _)) => {
                let text = format!("block {i} of the image of {volume} at {node} is not what the committed log says");
                Err(Violation::new("S16", text))
            }
        }
    }
}

fn equals(committed: &Committed, block: u64, found: &[u8]) -> bool {
    match committed.block(block) {
        Some(data) => data.starts_with(found),
        None => found.iter().all(|b| *b == 0),
    }
}
