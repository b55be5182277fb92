//! Whether what copies hold is what they should hold: counters and findings of each copy, as its node reports them.
//!
//! One struct for all of it, so that whoever exports it names each number once. Counters are of one life of the process.

use crate::wire;
use holdfast_types::{Lsn, NodeId};
use serde::{Deserialize, Serialize};

/// What verifying one copy came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Integrity {
    /// By the scrub and by guests' reads, in this life.
    pub total: BlockCounts,
    /// Ranges of blocks that no copy could supply when they were last read.
    pub unrepairable: Vec<Blocks>,
    /// There are more of them.
    pub more: bool,
    /// The scrub of this copy.
    pub scrub: ScrubReport,
    /// As primary: the comparison that is under way, by the name of the wish.
    pub verifying: Option<u64>,
    /// The last comparison that this copy made as primary.
    pub verdict: Option<Verdict>,
    /// Comparisons in this life.
    pub verify_runs: u64,
    /// Digests of other copies that were compared in passing.
    pub proofs: u64,
    /// As primary: copies whose digest differed when it was last compared.
    pub differs: Vec<Difference>,
}

/// Blocks that were verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockCounts {
    /// Read from the image and verified by the scrub.
    pub verified: u64,
    /// Not what they are to be.
    pub mismatches: u64,
    /// Repaired.
    pub repaired: u64,
    /// Nobody could supply them.
    pub unrepairable: u64,
}

/// A range of bytes of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocks {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// How far the scrub of a copy has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubReport {
    /// Bytes of the image that the present pass has read.
    pub position: u64,
    /// Bytes of the image.
    pub length: u64,
    /// The present pass was asked for by an operator.
    pub requested: bool,
    /// By whose wish the last pass of an operator is or was made; 0: none.
    pub run: u64,
    /// What that pass found.
    pub of_run: BlockCounts,
    /// Passes that ended in this life.
    pub passes: u64,
    /// When the present pass began, in milliseconds, if that was in this life. The shell's clock.
    pub started_ms: Option<u64>,
    /// When the last pass ended, in milliseconds since 1970, whichever life that was.
    pub ended_ms: Option<u64>,
}

/// What a comparison of all copies found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Which wish.
    pub run: u64,
    /// At this record.
    #[serde(with = "wire::one")]
    pub lsn: Lsn,
    /// When it ended. The shell's clock.
    pub ended_ms: u64,
    /// The primary's copy first.
    pub copies: Vec<CopyVerdict>,
}

/// What a comparison found of one copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyVerdict {
    /// Who holds it.
    #[serde(with = "wire::one")]
    pub node: NodeId,
    /// Of its image there, if it is known.
    pub digest: Option<u64>,
    /// Why it could not be compared.
    pub missing: Option<String>,
    /// Where it differs from the primary's copy.
    pub ranges: Vec<Blocks>,
    /// It differs elsewhere, too, or that is not known.
    pub more: bool,
}

/// A copy that differs from the primary's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Who holds it.
    #[serde(with = "wire::one")]
    pub node: NodeId,
    /// At this record.
    #[serde(with = "wire::one")]
    pub lsn: Lsn,
}
