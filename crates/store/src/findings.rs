//! What a start found in its directory, in the words of whoever inspects one. The store itself has no use for it.

use crate::recover::resolve::Resolved;
use crate::recover::scan::SegmentScan;
use holdfast_types::VolumeId;
use std::collections::{BTreeMap, BTreeSet};

/// What a start found besides the copies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// The journal; `None` if there was none, or none that can be used.
    pub journal: Option<JournalFound>,
    /// Copies with a superblock to open with, and which of its four copies say the same.
    pub superblocks: BTreeMap<VolumeId, [bool; 4]>,
    /// Volumes whose creation or deletion never ended: a start removes their files.
    pub leftovers: BTreeSet<VolumeId>,
    /// Segment files that can't be read, by number, and why. A start makes those anew that the journal does not need, and refuses
    /// the others.
    pub unreadable: BTreeMap<u32, String>,
    /// The journal's newest segment, if the device can't read all of it, and why. The last records may be missing without a trace.
    pub gap: Option<(u32, String)>,
}

/// A journal that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalFound {
    /// Its random id.
    pub id: u64,
    /// How often a store started on it.
    pub life: u64,
    /// Its segments, oldest first.
    pub segments: Vec<SegmentFound>,
    /// The last frame that is part of it.
    pub last_frame: u64,
    /// Frames that were durable and can't be read whole.
    pub lost: Vec<LostFrames>,
}

/// A segment that is part of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentFound {
    /// Number of its file.
    pub slot: u32,
    /// Which use of a segment file it is.
    pub generation: u64,
    /// Frames of it that are part of the journal.
    pub frames: u64,
    /// Records in them.
    pub records: u64,
    /// Something that was durable in it can't be read.
    pub damaged: bool,
}

/// Frames that were durable and can't be read whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostFrames {
    /// The life that wrote them.
    pub life: u64,
    /// The last of them.
    pub last: u64,
    /// As many records, at most, are lost whose volumes nobody can tell.
    pub records: u64,
}

impl JournalFound {
    pub(crate) fn new(scans: &[SegmentScan], slots: &BTreeMap<u64, u32>) -> JournalFound {
        let newest = &scans.last().expect("a journal has a newest segment").header;
        let segment = |scan: &SegmentScan| SegmentFound {
            slot: slots[&scan.header.generation],
            generation: scan.header.generation,
            frames: 0,
            records: 0,
            damaged: false,
        };
        JournalFound {
            id: newest.journal,
            life: newest.life,
            segments: scans.iter().map(segment).collect(),
            last_frame: 0,
            lost: Vec::new(),
        }
    }

    /// Says what the walk through the segments made of them.
    pub(crate) fn judged(mut self, resolved: &Resolved) -> JournalFound {
        for segment in &mut self.segments {
            let frames = || resolved.frames.iter().filter(|f| f.generation == segment.generation);
            let count = |n: usize| u64::try_from(n).expect("a count fits in 64 bits");
            segment.frames = count(frames().count());
            segment.records = count(frames().map(|f| f.records.len()).sum());
            segment.damaged = resolved.damaged.contains(&segment.generation);
        }
        self.last_frame = resolved.last_seq;
        self.lost = resolved
            .rots
            .iter()
            .map(|rot| LostFrames { life: rot.place.0, last: rot.place.1, records: rot.records })
            .collect();
        self
    }
}
