//! What `fsck` found.

use super::ranges::Ranges;
use super::repair::Repair;
use serde::Serialize;

/// A directory.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// As it was named.
    pub dir: String,
    /// Nothing is wrong.
    pub clean: bool,
    /// The control plane's files; `None` if a shard or a copy was named.
    pub control: Option<ControlReport>,
    /// The journal.
    pub journal: JournalReport,
    /// Copies, by id.
    pub volumes: Vec<VolumeReport>,
    /// What is neither wrong nor usual.
    pub notes: Vec<String>,
    /// What can be made whole here.
    #[serde(skip)]
    pub(super) repairs: Vec<Repair>,
}

/// Who the node is, and what it knew of the cluster.
#[derive(Debug, Default, Serialize)]
pub struct ControlReport {
    /// In words; `None` if it can't be told.
    pub node: Option<String>,
    /// Volumes of the cluster that the log names.
    pub volumes: Option<usize>,
    /// What is wrong.
    pub problems: Vec<String>,
}

/// The journal of all copies.
#[derive(Debug, Default, Serialize)]
pub struct JournalReport {
    /// Its id; `None` if there is none or it can't be used.
    pub id: Option<String>,
    /// How often an agent started on it.
    pub life: u64,
    /// Its segments, oldest first.
    pub segments: Vec<SegmentReport>,
    /// What is wrong.
    pub problems: Vec<String>,
}

/// A segment that is part of the journal.
#[derive(Debug, Serialize)]
pub struct SegmentReport {
    /// Its file.
    pub file: String,
    /// Which use of a segment file it is.
    pub generation: u64,
    /// Frames of it that are part of the journal.
    pub frames: u64,
    /// Records in them.
    pub records: u64,
    /// Something that was durable in it can't be read.
    pub damaged: bool,
}

/// One copy.
#[derive(Debug, Default, Serialize)]
pub struct VolumeReport {
    /// The volume's id.
    pub id: u64,
    /// Its name, if the control plane's log has it.
    pub name: Option<String>,
    /// Whether an agent would open it.
    pub opens: bool,
    /// Bytes that the guest sees.
    pub size: Option<u64>,
    /// Which on-disk state this is.
    pub incarnation: Option<String>,
    /// Highest promised epoch.
    pub promised: Option<u64>,
    /// Epochs of the log, each with its first record.
    pub epochs: Vec<(u64, u64)>,
    /// The synced image holds everything up to here.
    pub checkpoint: Option<u64>,
    /// Known here to be committed.
    pub committed: Option<u64>,
    /// On this disk.
    pub durable: Option<u64>,
    /// Records up to here may have been durable and can't be read.
    pub unknown_to: Option<u64>,
    /// Digest of the copy at `committed`.
    pub digest: Option<String>,
    /// Blocks that hold data, verified one by one.
    pub data_blocks: u64,
    /// Those that do not match their checksum.
    pub bad: Ranges,
    /// Blocks that are to be zeros, read as zeros, and are something else in the image.
    pub not_zero: Ranges,
    /// Nothing of it waits in a side area.
    #[serde(skip)]
    pub(super) settled: bool,
    /// Tails that were cut and kept.
    pub orphans: Vec<OrphanReport>,
    /// What is wrong.
    pub problems: Vec<String>,
    /// What is neither wrong nor usual.
    pub notes: Vec<String>,
}

/// Records that were cut when an epoch was adopted.
#[derive(Debug, Serialize)]
pub struct OrphanReport {
    /// The adopted epoch.
    pub epoch: u64,
    /// Its file.
    pub file: String,
    /// First and last record; `None` if there is none that can be read.
    pub records: Option<(u64, u64)>,
    /// Bytes of the file.
    pub bytes: u64,
    /// Every byte of it can be read.
    pub whole: bool,
}

impl VolumeReport {
    /// The name, or the id where no name is known.
    #[must_use]
    pub fn called(&self) -> String {
        self.name.clone().unwrap_or_else(|| format!("v{}", self.id))
    }
}

impl Report {
    /// Every sentence about something wrong, with what it is about.
    pub fn problems(&self) -> impl Iterator<Item = (String, &str)> {
        let control = self.control.iter().flat_map(|c| &c.problems).map(|p| ("control plane".to_owned(), p.as_str()));
        let journal = self.journal.problems.iter().map(|p| ("journal".to_owned(), p.as_str()));
        let volumes = self.volumes.iter().flat_map(|v| v.problems.iter().map(|p| (v.called(), p.as_str())));
        control.chain(journal).chain(volumes)
    }

    /// What `repair` would do, a sentence for each.
    pub fn repairs(&self) -> impl Iterator<Item = &str> {
        self.repairs.iter().map(|repair| repair.what.as_str())
    }
}
