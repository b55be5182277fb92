//! Sizes and times of a store.

use holdfast_format::{FrameHeader, PAGE_BYTES, SegmentHeader, padded};
use holdfast_types::{MAX_BODY_BYTES, SECTOR_SIZE};
use std::time::Duration;

/// Sizes and times of a store; `Default` gives what production uses.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Bytes of a journal segment. Existing segments keep theirs.
    pub segment_bytes: u64,
    /// Segments that are made ready at once.
    pub min_segments: u32,
    /// Segments that the journal may grow to.
    pub max_segments: u32,
    /// What was spare for as long is given back, down to `min_segments`.
    pub shrink_interval: Duration,
    /// Frames being written at the same time.
    pub frames_in_flight: usize,
    /// A frame takes no further record when it has reached this many bytes.
    pub frame_bytes: u32,
    /// Largest body that will be appended; below `MAX_BODY_BYTES` only in tests, which want small segments.
    pub max_body_bytes: usize,
    /// How long the journal is idle before the last frame is proven durable by another one, and how long a commit
    /// position waits for a record that carries it before it gets a mark of its own.
    pub seal_delay: Duration,
    /// Bytes applied after which a checkpoint is due.
    pub checkpoint_bytes: u64,
    /// Time after which a checkpoint is due if anything was applied.
    pub checkpoint_interval: Duration,
    /// What a start replays is kept below this, as far as the measured speed of the images tells.
    pub replay_target: Duration,
    /// Bytes of records applied to an image as one batch.
    pub apply_batch_bytes: u64,
    /// Committed records wait in memory for so many bytes of them, so that a block that is written often is written to the
    /// image once; over all volumes.
    pub apply_start_bytes: u64,
    /// They wait no longer than this.
    pub apply_delay: Duration,
    /// Writes to an image in flight, of each copy: reads and the journal share the device with them.
    pub apply_in_flight: usize,
    /// The same while guests write and images keep up easily; between the two as they keep up less.
    pub apply_beside: usize,
    /// Bytes of committed records that are in no image yet, over all volumes, at which writes stop; from half of it on
    /// they are slowed.
    pub debt_bytes: u64,
    /// Bytes that wait for the journal, over all volumes, above which guests hand over nothing more.
    pub queue_bytes: u64,
    /// Largest write to an image or a table.
    pub apply_write_bytes: usize,
    /// Memory for pages of block and region tables, in bytes over all volumes.
    pub table_bytes: usize,
    /// Pages of tables that one batch changes, above which it takes no further record.
    pub apply_batch_pages: usize,
    /// Whether regions of a side area that is part of a copy are moved to its image. What only looks at copies does not.
    pub moves_regions: bool,
    /// Whether the journal's newest segment is read around what the device can't read. What lies there may have been acknowledged and
    /// be missing without a trace: an agent refuses the journal, and only who brings out what is left of a dead disk goes on
    /// ([`Findings::gap`](crate::Findings::gap)).
    pub reads_around_gaps: bool,
    /// Orphans kept of each copy; the oldest go first.
    pub orphans: usize,
    /// Bytes of them, of each copy; of a cut that is longer only its first records are kept.
    pub orphan_bytes: u64,
    /// Applied records kept in memory for lagging copies, in bytes over all volumes.
    pub cache_bytes: u64,
    /// How often all copies are looked at while any has work, and not only those whose time has come: should one wait for something that
    /// nobody told it of, that costs it so much time and not its service. Never relied on: tests and the simulator don't have it.
    pub look_interval: Option<Duration>,
    /// How long an operation that found no space waits for its next attempt.
    pub retry_interval: Duration,
    /// How long an operation that somebody waits for may take before the device counts as hung.
    pub hung_after: Duration,
    /// The same for work in the background: a sync of an image has much to write.
    pub background_hung_after: Duration,
    /// The same for what images and new segments need while guests are held back until it has ended.
    pub pressed_hung_after: Duration,
}

impl Default for StoreConfig {
    fn default() -> StoreConfig {
        StoreConfig {
            segment_bytes: 16 << 20,
            min_segments: 4,
            max_segments: 64,
            shrink_interval: Duration::from_secs(60),
            frames_in_flight: 2,
            frame_bytes: 1 << 20,
            max_body_bytes: MAX_BODY_BYTES,
            seal_delay: Duration::from_millis(20),
            checkpoint_bytes: 64 << 20,
            checkpoint_interval: Duration::from_secs(5),
            replay_target: Duration::from_secs(5),
            apply_batch_bytes: 32 << 20,
            apply_start_bytes: 32 << 20,
            apply_delay: Duration::from_secs(1),
            apply_in_flight: 16,
            apply_beside: 1,
            debt_bytes: 128 << 20,
            queue_bytes: 64 << 20,
            apply_write_bytes: 1 << 20,
            table_bytes: 128 << 20,
            apply_batch_pages: 512,
            moves_regions: true,
            reads_around_gaps: false,
            orphans: 16,
            orphan_bytes: 64 << 20,
            cache_bytes: 64 << 20,
            look_interval: Some(Duration::from_secs(1)),
            retry_interval: Duration::from_secs(1),
            hung_after: Duration::from_secs(3),
            background_hung_after: Duration::from_secs(30),
            pressed_hung_after: Duration::from_secs(9),
        }
    }
}

impl StoreConfig {
    /// Pages of tables in memory.
    pub(crate) const fn table_pages(&self) -> usize {
        self.table_bytes / PAGE_BYTES
    }

    /// Panics unless the numbers make sense together.
    pub fn validate(&self) {
        let body = u32::try_from(self.max_body_bytes).expect("a body is far below 4 GiB");
        let largest = u64::from(FrameHeader::head_len(1) + padded(body));
        let header = u64::try_from(SegmentHeader::LEN).expect("4096");
        assert!(
            self.segment_bytes >= header + largest,
            "a segment of {} bytes holds the largest record",
            self.segment_bytes
        );
        assert!(self.segment_bytes <= 1 << 30, "a segment is read whole at start: at most 1 GiB");
        assert!(self.segment_bytes.is_multiple_of(SECTOR_SIZE as u64), "segments are written with direct I/O");
        // Some room for the starts of lives with a full journal, and for what must not wait for room in it.
        let most = u32::try_from(SegmentHeader::MAX_CLOSED).expect("120") - 20;
        assert!(self.min_segments >= 3 && self.min_segments <= self.max_segments);
        // One is written, three are spare.
        assert!(self.max_segments >= 4 && self.max_segments <= most);
        let patience = [self.hung_after, self.pressed_hung_after, self.background_hung_after];
        assert!(patience.is_sorted(), "what somebody waits for is the more urgent");
        assert!(
            (1..=self.apply_in_flight).contains(&self.apply_beside),
            "some writes, and not more beside guests than without"
        );
        assert!(self.debt_bytes >= 4 && self.queue_bytes >= 1);
        assert!(self.frames_in_flight >= 1 && self.max_body_bytes <= MAX_BODY_BYTES);
        assert!(self.frame_bytes + padded(body) <= FrameHeader::MAX_BYTES, "a frame's length fits its format");
    }
}
