//! What a volume may take of the space that all share, who is held up by a full file system, and what people are told.

use super::{Output, Shard, Space};
use holdfast_types::VolumeId;

const BEGINS: &str = "the file system of the data directory is full but for the control plane's reserve: what needs space waits, and writes wait too once journal \
                      and memory are full; free space on that device or enlarge it";
const ENDS: &str = "the file system of the data directory has space again: what waited has gone on";

/// Bytes of a volume's guests under way that no number of copies takes from it: a deep queue of small requests.
const LEAST_SHARE: usize = 256 << 10;

impl Shard {
    /// Whether the journal holds so much that is not committed that those who brought it may hand over nothing more. When that
    /// changes, [`Shard::accepts`] may change for volumes that [`Shard::maintained`] does not name.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.store.is_crowded()
    }

    /// Bytes that guests of one volume may have under way. A volume that waits for its quorum keeps its records in the journal: in
    /// bytes, all that wait leave half of it to those that don't (P9), up to the least share. In segments one that goes on writing
    /// does ([`Store::outstays`](holdfast_store::Store::outstays)); many that begin at different times, each in a segment of its own, may
    /// still fill it, and a secondary takes what its primary took.
    pub(super) fn share(&self) -> usize {
        let half = u64::from(self.config.store.max_segments) * self.config.store.segment_bytes / 2;
        let copies = u64::try_from(self.copies.len()).expect("a count fits in 64 bits").max(1);
        usize::try_from(half / copies).unwrap_or(usize::MAX).max(LEAST_SHARE)
    }

    /// Whether the copy of `volume` has the space that it needs; as a primary it is also held up by its neighbours on the
    /// same file system, through the backlog that all of them share. One that waits for its quorum is not held up by that.
    pub(super) fn space(&self, volume: VolumeId) -> Space {
        let held_up = self.store.is_short_of_space() && self.is_serving(volume) && !self.store.admits();
        if held_up { Space::Out } else { self.store.space(volume) }
    }

    /// Says once that space is missing, and once that it is there again.
    pub(super) fn tell_of_space(&mut self, out: &mut Vec<Output>) {
        let short = self.store.is_short_of_space();
        if std::mem::replace(&mut self.short_of_space, short) != short {
            let text = if short { BEGINS } else { ENDS }.to_owned();
            out.push(Output::Event { volume: None, text });
        }
    }
}
