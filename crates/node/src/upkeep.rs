//! What operators want done to the copies of one node. It goes past the Raft log: nothing has to be agreed about it, and whoever
//! asks sees in the copies' reports whether it was heard, and asks again if it was not.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use holdfast_types::{Epoch, VolumeId};

/// A wish for one copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upkeep {
    /// The volume.
    pub volume: VolumeId,
    /// A random name of the wish, above 0: heard twice, it is done once.
    pub run: u64,
    /// What is to be done.
    pub task: Task,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Read and verify the whole copy.
    Scrub {
        /// At most so fast, above 0.
        bytes_per_second: u64,
    },
    /// Compare all copies; to the primary.
    Verify,
    /// Remove what was cut when this epoch was adopted.
    DeleteOrphan {
        /// Above 0.
        epoch: Epoch,
    },
}

const LEN: usize = 3 * 8;
/// In place of a rate: an epoch follows.
const ORPHAN: u64 = u64::MAX;

impl Upkeep {
    /// Volume, run, and the rate, which is 0 for a comparison. An orphan's epoch follows a rate that no scrub has.
    pub(crate) fn encode(self) -> Bytes {
        let (rate, epoch) = match self.task {
            Task::Scrub { bytes_per_second } => (bytes_per_second.clamp(1, ORPHAN - 1), None),
            Task::Verify => (0, None),
            Task::DeleteOrphan { epoch } => (ORPHAN, Some(epoch.0)),
        };
        let mut out = BytesMut::with_capacity(LEN + 8);
        [self.volume.0, self.run, rate].into_iter().chain(epoch).for_each(|field| out.put_u64_le(field));
        out.freeze()
    }

    /// `None`: malformed.
    pub(crate) fn decode(mut bytes: Bytes) -> Option<Upkeep> {
        if bytes.len() != LEN && bytes.len() != LEN + 8 {
            return None;
        }
        let longer = bytes.len() > LEN;
        let (volume, run) = (VolumeId(bytes.get_u64_le()), bytes.get_u64_le());
        let task = match bytes.get_u64_le() {
            ORPHAN if longer => Task::DeleteOrphan { epoch: Epoch(bytes.get_u64_le()) },
            ORPHAN => return None,
            _ if longer => return None,
            0 => Task::Verify,
            bytes_per_second => Task::Scrub { bytes_per_second },
        };
        Some(Upkeep { volume, run, task })
    }
}
