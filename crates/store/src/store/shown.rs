//! What a store says of itself: nothing here changes it.

use super::{Phase, Store};
use crate::api::Space;
use crate::findings::Findings;
use crate::io::FileId;
use crate::ops::Tag;
use crate::replica::{Replica, Stage};
use crate::stats::Written;
use holdfast_format::PAGE_BYTES;
use holdfast_types::{Epoch, Positions, VolumeId};
use std::time::Duration;

impl Store {
    /// Whether guests should hand over more. Images that can't keep up slow the journal and thereby everybody who waits
    /// for it; this bounds what is in memory of those who don't wait: the writes that other copies make durable.
    #[must_use]
    pub fn admits(&self) -> bool {
        self.journal.queue_bytes() < self.config.queue_bytes && !self.ops.pace.holds(&self.config)
    }

    /// Whether some volumes are to hand over nothing more ([`Store::outstays`]).
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.journal.is_crowded(self.config.max_segments)
    }

    /// Whether a volume's records that are not committed leave too little of the journal to its neighbours, so that its guests should hand
    /// over nothing more until they are.
    #[must_use]
    pub fn outstays(&self, volume: VolumeId) -> bool {
        let segments = self.config.max_segments;
        self.replicas.get(&volume).is_some_and(|r| self.journal.outstays(segments, volume, r.committed))
    }

    /// Bytes of committed records that are in no image yet.
    #[must_use]
    pub const fn debt_bytes(&self) -> u64 {
        self.replicas.sums().debt
    }

    /// The debt above which writes are slower than the images.
    #[must_use]
    pub fn debt_mark(&self) -> u64 {
        self.ops.pace.mark(&self.config)
    }

    /// Bytes of records that the images take in a second, as measured.
    #[must_use]
    pub fn apply_rate(&self) -> u64 {
        self.ops.pace.rate()
    }

    /// Bytes of the segment files that are part of the journal.
    #[must_use]
    pub fn journal_bytes(&self) -> u64 {
        self.journal.segments.len() as u64 * self.config.segment_bytes
    }

    /// Bytes of segment files that the journal does not grow beyond.
    #[must_use]
    pub fn journal_bound(&self) -> u64 {
        u64::from(self.config.max_segments) * self.config.segment_bytes
    }

    /// Bytes of records that wait for a frame of the journal.
    #[must_use]
    pub const fn staged_bytes(&self) -> u64 {
        self.journal.queue_bytes()
    }

    /// What was written since the start, and what for.
    #[must_use]
    pub const fn written(&self) -> Written {
        self.ops.written
    }

    /// Bytes of records that the images do not hold yet, committed or not.
    #[must_use]
    pub fn backlog_bytes(&self) -> u64 {
        self.replicas.values().map(|r| r.backlog).sum()
    }

    /// The orphans of a copy: at the adoption of which epoch they were cut, and their bytes.
    #[must_use]
    pub fn orphans(&self, volume: VolumeId) -> Vec<(Epoch, u64)> {
        self.replicas.get(&volume).map_or_else(Vec::new, |r| r.orphans.iter().map(|(e, b)| (*e, *b)).collect())
    }

    /// Whether appends wait for a journal segment.
    #[must_use]
    pub fn is_journal_full(&self) -> bool {
        self.journal.pressure()
    }

    /// Whether any operation found no space and has not ended since.
    #[must_use]
    pub const fn is_short_of_space(&self) -> bool {
        self.ops.is_short()
    }

    /// Whether a copy has the space that it needs. A journal without room is every copy's.
    #[must_use]
    pub fn space(&self, volume: VolumeId) -> Space {
        if !self.ops.is_short() {
            return Space::Enough;
        }
        let opening = matches!(self.phase, Phase::Opening);
        let holds_up = |tag| match tag {
            Tag::Slot(_) => opening,
            Tag::Start(_) | Tag::SegmentHeader | Tag::Head(_) | Tag::Frame(_) => true,
            Tag::Copy(..) | Tag::Removal(_) => false,
        };
        if self.journal.pressure() || self.ops.pace.stands(&self.config) || self.ops.short().any(holds_up) {
            Space::Out
        } else if self.ops.short().any(|tag| tag.volume().is_none_or(|v| v == volume)) {
            Space::Short
        } else {
            Space::Enough
        }
    }

    /// The file of a copy, or of the journal, that the device has not answered for too long (trap 31). It may still do so.
    #[must_use]
    pub fn hung(&self, volume: VolumeId) -> Option<FileId> {
        self.hung_for(volume).map(|(file, _)| file)
    }

    /// The same, and how long is too long.
    #[must_use]
    pub fn hung_for(&self, volume: VolumeId) -> Option<(FileId, Duration)> {
        self.hung.iter().find(|h| h.volume.is_none_or(|v| v == volume)).map(|h| (h.file, h.patience))
    }

    /// Whether the device has not answered something for too long.
    #[must_use]
    pub fn is_hung(&self) -> bool {
        !self.hung.is_empty()
    }

    /// Whether a copy still moves regions of its side area to its image.
    #[must_use]
    pub fn is_merging(&self, volume: VolumeId) -> bool {
        self.replicas.get(&volume).is_some_and(Replica::is_merging)
    }

    /// Where a copy stands.
    #[must_use]
    pub fn positions(&self, volume: VolumeId) -> Option<Positions> {
        let r = self.replicas.get(&volume)?;
        Some(Positions { applied: r.applied, committed: r.committed, durable: r.durable, received: r.received })
    }

    /// Digest of a copy at its `applied`.
    #[must_use]
    pub fn digest(&self, volume: VolumeId) -> Option<u64> {
        self.replicas.get(&volume).map(|r| r.tables.digest)
    }

    /// Bytes of memory that pages of tables take: `StoreConfig::table_bytes` at most, and what one batch adds for a moment.
    #[must_use]
    pub const fn table_memory(&self) -> usize {
        self.replicas.sums().pages * PAGE_BYTES
    }

    /// For tests that find the journal stuck.
    #[cfg(test)]
    pub(crate) fn journal_state(&self) -> String {
        let copies: Vec<_> = self
            .replicas
            .values()
            .map(|r| (r.volume, r.checkpoint, r.applied, r.committed, r.known_committed, r.durable, r.received, r.trim))
            .collect();
        format!("{:?}\n{copies:?}", self.journal)
    }

    /// What the start found besides the copies. Empty before it, and if the journal can't be used.
    #[must_use]
    pub const fn findings(&self) -> &Findings {
        &self.findings
    }

    /// The volumes that are open.
    pub fn volumes(&self) -> impl Iterator<Item = VolumeId> {
        self.replicas.values().filter(|r| r.stage == Stage::Open).map(|r| r.volume)
    }
}
