//! What operators want done to the copies of one node. It goes past the Raft log: nothing has to be agreed about it, and whoever
//! asks sees in the copies' reports whether it was heard, and asks again if it was not.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use holdfast_types::VolumeId;

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
}

const LEN: usize = 3 * 8;

impl Upkeep {
    /// Volume, run, and the rate, which is 0 for a comparison.
    pub(crate) fn encode(self) -> Bytes {
        let rate = match self.task {
            Task::Scrub { bytes_per_second } => bytes_per_second.max(1),
            Task::Verify => 0,
        };
        let mut out = BytesMut::with_capacity(LEN);
        [self.volume.0, self.run, rate].into_iter().for_each(|field| out.put_u64_le(field));
        out.freeze()
    }

    /// `None`: malformed.
    pub(crate) fn decode(mut bytes: Bytes) -> Option<Upkeep> {
        if bytes.len() != LEN {
            return None;
        }
        let (volume, run) = (VolumeId(bytes.get_u64_le()), bytes.get_u64_le());
        let task = match bytes.get_u64_le() {
            0 => Task::Verify,
            bytes_per_second => Task::Scrub { bytes_per_second },
        };
        Some(Upkeep { volume, run, task })
    }
}
