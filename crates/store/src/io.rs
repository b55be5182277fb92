//! Disk I/O as values: the store emits `DiskOp`, a shell (io_uring, or the simulator's disk) executes it and returns
//! one `DiskDone` for each. Operations may complete in any order; the store never has two writes to overlapping
//! ranges of one file in flight.

use bytes::Bytes;
use holdfast_types::{Epoch, VolumeId};
use std::fmt;

/// Names one operation of one store; never reused within a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// A file of the shard's directory. The shell alone knows paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileId {
    /// A journal segment, by slot.
    Segment(u32),
    /// Which segment of the journal was opened last.
    JournalHead,
    /// Four equal superblocks of a copy.
    Superblock(VolumeId),
    /// The plain image: block n at offset n × 4096, sparse.
    Image(VolumeId),
    /// 64-bit checksum per block.
    BlockTable(VolumeId),
    /// Last LSN per region.
    RegionTable(VolumeId),
    /// Content of regions that came from another copy, as in the image.
    SideImage(VolumeId),
    /// Their checksums per block.
    SideBlocks(VolumeId),
    /// Their last LSN; 0: not there.
    SideRegions(VolumeId),
    /// A never-committed tail, cut when the copy adopted the epoch.
    Orphan(VolumeId, Epoch),
}

/// For people: the file's name below the shard's directory.
impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileId::Segment(slot) => write!(f, "journal/segment-{slot}"),
            FileId::JournalHead => write!(f, "journal/head"),
            FileId::Superblock(volume) => write!(f, "copies/{}/superblock", volume.0),
            FileId::Image(volume) => write!(f, "copies/{}/image.raw", volume.0),
            FileId::BlockTable(volume) => write!(f, "copies/{}/blocks.tab", volume.0),
            FileId::RegionTable(volume) => write!(f, "copies/{}/regions.tab", volume.0),
            FileId::SideImage(volume) => write!(f, "copies/{}/side.raw", volume.0),
            FileId::SideBlocks(volume) => write!(f, "copies/{}/side-blocks.tab", volume.0),
            FileId::SideRegions(volume) => write!(f, "copies/{}/side-regions.tab", volume.0),
            FileId::Orphan(volume, epoch) => write!(f, "copies/{}/orphan-{}", volume.0, epoch.0),
        }
    }
}

/// What to do. Offsets and lengths in bytes. For `Segment`, `JournalHead` and `Superblock` both are multiples of 512 (direct I/O).
#[derive(Clone, Debug)]
pub enum DiskOpKind {
    /// Which files exist: answered with `DiskReply::Files`.
    List,
    /// Creates a file of `len` bytes that reads as zeros. `written`: really write the zeros and sync (an unwritten
    /// extent costs twice the latency later); otherwise sparse. The file and its name are durable when this completes.
    /// An existing file is replaced.
    Create {
        /// Length in bytes.
        len: u64,
        /// Write zeros instead of leaving holes.
        written: bool,
    },
    /// Reads exactly `len` bytes: answered with `DiskReply::Data`. Past the end of a file: zeros.
    Read {
        /// Where.
        offset: u64,
        /// How much.
        len: u32,
    },
    /// Writes the pieces one after the other. `durable`: on stable storage (with all data of this write) when it completes.
    Write {
        /// Where.
        offset: u64,
        /// What.
        data: Vec<Bytes>,
        /// RWF_DSYNC.
        durable: bool,
    },
    /// Everything written to the file before is on stable storage when this completes (fdatasync). One that fails may have
    /// dropped it: a later life reads what the device has, not what a cache still shows.
    Sync,
    /// The range reads as zeros afterwards, and its space is given back.
    Punch {
        /// Where.
        offset: u64,
        /// How much.
        len: u64,
    },
    /// The range reads as zeros afterwards, and has its space.
    Zero {
        /// Where.
        offset: u64,
        /// How much.
        len: u64,
    },
    /// The file ends here: what lies behind is gone, and what was not there reads as zeros. Certain after a `Sync`.
    SetLen {
        /// Length in bytes.
        len: u64,
    },
    /// Removes the file, durably. Removing what does not exist succeeds.
    Delete,
}

/// One operation. `file` is ignored by `List`.
#[derive(Clone, Debug)]
pub struct DiskOp {
    /// Names it in `DiskDone`.
    pub id: OpId,
    /// On which file.
    pub file: FileId,
    /// What.
    pub kind: DiskOpKind,
}

/// An operation's end.
#[derive(Clone, Debug)]
pub struct DiskDone {
    /// Which operation.
    pub id: OpId,
    /// How it went.
    pub result: Result<DiskReply, DiskError>,
}

/// What an operation brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskReply {
    /// Done, nothing to say.
    Done,
    /// What was read.
    Data(Bytes),
    /// Files with their lengths in bytes, sorted.
    Files(Vec<(FileId, u64)>),
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// The device or file system failed; carries errno. Latches: the device counts as failed from now on (P8).
    Io(i32),
    /// No space (ENOSPC, EDQUOT): nothing lost; may succeed later.
    NoSpace,
    /// The file does not exist.
    NotFound,
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DiskError::Io(Self::EFBIG) => {
                write!(f, "the file system takes no file of this length (EFBIG), or a limit of the process forbids it")
            }
            DiskError::Io(errno @ (Self::ENFILE | Self::EMFILE)) => {
                write!(f, "the agent was out of file descriptors for too long (errno {errno}; raise LimitNOFILE)")
            }
            DiskError::Io(errno) => write!(f, "the device failed with errno {errno}"),
            DiskError::NoSpace => write!(f, "no space left on the device"),
            DiskError::NotFound => write!(f, "the file does not exist"),
        }
    }
}

impl DiskError {
    /// The errno of a file that would become too long.
    const EFBIG: i32 = 27;
    /// The errnos of a host, and of a process, without a free descriptor.
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;

    /// The device is well: the file would be longer than its file system takes.
    pub(crate) const fn is_of_length(self) -> bool {
        matches!(self, DiskError::Io(Self::EFBIG))
    }
}

impl std::error::Error for DiskError {}
