//! Messages between the copies of a volume, and between shards. Their bytes are in docs/FORMAT.md.

mod codec;
mod regions;

pub use regions::{NoRegions, Region, RegionCut, RegionQuery, RegionsFound};

use crate::Record;
use bytes::Bytes;
use holdfast_types::{
    BlockCount, BlockIndex, BlockRange, Epoch, EpochTable, Incarnation, Lsn, REGION_BLOCKS, RegionIndex, VolumeId,
};

/// Between two copies of one volume. One ordered stream per volume and pair of nodes carries them.
#[derive(Clone, Debug)]
pub enum Message {
    /// T0: "would you fence epoch `base`?"
    PreClaim {
        /// The active epoch that the sender wants to succeed.
        base: Epoch,
    },
    /// Answer to `PreClaim`.
    PreClaimReply {
        /// Copied from the question.
        base: Epoch,
        /// No live lease grant stands against it.
        yes: bool,
    },
    /// T2: promise `epoch`, drain, report your tail. Also sent by a primary to a member that (re)connects.
    Fence {
        /// The claimed (or already active) epoch of the sender.
        epoch: Epoch,
        /// The active epoch that the claim succeeds.
        base: Epoch,
    },
    /// Answer to `Fence`, once the promise is durable.
    Tail {
        /// The promised epoch.
        epoch: Epoch,
        /// What the member holds.
        report: TailReport,
    },
    /// The receiver has promised a higher epoch than the message it answers carried.
    Reject {
        /// The epoch of the refused message.
        epoch: Epoch,
        /// The promised epoch.
        promised: Epoch,
    },
    /// T5: send me records `from..=to`.
    FetchLog {
        /// The claimed epoch; fences its target (trap 8).
        epoch: Epoch,
        /// First record wanted.
        from: Lsn,
        /// Last record wanted.
        to: Lsn,
    },
    /// Answer to `FetchLog`: consecutive records; empty if the first one can't be supplied.
    LogPart {
        /// Copied from the question.
        epoch: Epoch,
        /// First record asked for.
        from: Lsn,
        /// The records, from `from` on.
        records: Vec<Record>,
    },
    /// T7: adopt this epoch table, then acknowledge. The receiver computes the highest common point itself and cuts what
    /// conflicts with the table; a point computed by the sender from an older report could cut acknowledged records.
    Adopt {
        /// The sender's epoch, the last entry of the table.
        epoch: Epoch,
        /// The epoch table of the sender's log.
        table: EpochTable,
        /// End of the sender's log now.
        last: Lsn,
    },
    /// N2: consecutive records.
    Append {
        /// The sender's epoch (a caught-up record may carry an older one).
        epoch: Epoch,
        /// Committed at the sender.
        committed: Lsn,
        /// The records, consecutive; may be empty (then only `committed` is news).
        records: Vec<Record>,
    },
    /// N3: cumulative acknowledgement.
    AppendAck {
        /// The epoch acknowledged under.
        epoch: Epoch,
        /// Held in memory up to here.
        received: Lsn,
        /// Held on stable storage up to here.
        durable: Lsn,
        /// In a synced image up to here; the journal is not needed below (for trim).
        checkpoint: Lsn,
    },
    /// The first record's predecessor is not the receiver's tail: send from `expected`.
    Gap {
        /// The epoch of the refused message.
        epoch: Epoch,
        /// The LSN that the receiver expects next.
        expected: Lsn,
    },
    /// What is the committed content of this block at your copy? Mine can't be verified.
    FetchBlock {
        /// The block.
        block: BlockIndex,
    },
    /// Answer to `FetchBlock`.
    Block {
        /// Copied from the question.
        block: BlockIndex,
        /// 4 KiB, or nothing if the sender can't verify its own.
        data: Option<Bytes>,
    },
    /// Apply up to `at` and no further, then say what the digest is there; the images are compared.
    Hold {
        /// The sender's epoch.
        epoch: Epoch,
        /// Which comparison.
        run: u64,
        /// The receiver has no later record yet: on this stream all of them come after this message.
        at: Lsn,
    },
    /// Answer to `Hold`.
    Held {
        /// Copied from the question.
        run: u64,
        /// Copied from the question.
        at: Lsn,
        /// The digest of the image at `at`, or why there is none.
        found: Result<u64, NotHeld>,
    },
    /// Which sums has the part of your digest tree below this node? Only while you hold.
    FetchSums {
        /// Which comparison.
        run: u64,
        /// The node.
        node: SumNode,
    },
    /// Answer to `FetchSums`.
    Sums {
        /// Copied from the question.
        run: u64,
        /// Copied from the question.
        node: SumNode,
        /// One sum for each child that lies in the volume; none if the sender does not hold any more.
        sums: Vec<u64>,
    },
    /// The comparison is over: apply again.
    GoOn {
        /// Which comparison.
        run: u64,
    },
    /// The sender's image at `applied`, for a primary that passes or passed the same record.
    Proof {
        /// The epoch that the sender follows.
        epoch: Epoch,
        /// In the image.
        applied: Lsn,
        /// Digest of the image there.
        digest: u64,
    },
    /// R1: the log of `epoch` no longer reaches the receiver: it must fetch regions.
    NeedRegions {
        /// The sender's epoch, the last entry of the table.
        epoch: Epoch,
        /// The epoch table of the sender's log.
        table: EpochTable,
        /// End of the sender's log now.
        last: Lsn,
        /// The log goes on from here: a copy at this LSN or above can be caught up by it.
        base: Lsn,
    },
    /// R3: send me the regions that changed since.
    FetchRegions {
        /// The epoch that both must follow.
        epoch: Epoch,
        /// Names the question.
        request: u64,
        /// Which ones.
        query: RegionQuery,
    },
    /// Answer to `FetchRegions`, in one or more parts.
    Regions {
        /// Copied from the question.
        epoch: Epoch,
        /// Copied from the question.
        request: u64,
        /// The state that the whole answer belongs to.
        cut: RegionCut,
        /// The window goes on here; nothing: it was looked at to its end.
        next: Option<RegionIndex>,
        /// How many regions of the volume changed after the LSN in the question, if that is known; else 0.
        total: u64,
        /// The last part.
        last: bool,
        /// The content, by region.
        regions: Vec<Region>,
    },
    /// Answer to `FetchRegions`: not from here, not now.
    NoRegions {
        /// Copied from the question.
        epoch: Epoch,
        /// Copied from the question.
        request: u64,
        /// Why.
        why: NoRegions,
    },
    /// The primary of `epoch` serves no more and its lease ends now (planned hand-over).
    Release {
        /// The sender's epoch.
        epoch: Epoch,
        /// Last LSN of its log.
        last: Lsn,
    },
    /// M2: tell me the digest of your image when it holds exactly the records up to `at`.
    DigestAt {
        /// The sender's epoch.
        epoch: Epoch,
        /// Committed at the sender: no image is further.
        at: Lsn,
    },
    /// Answer to `DigestAt`.
    Digest {
        /// Copied from the question.
        epoch: Epoch,
        /// Copied from the question.
        at: Lsn,
        /// Of the image at exactly `at`.
        digest: u64,
    },
}

/// Why a copy does not hold its image at the record that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotHeld {
    /// It had applied later records already.
    Passed,
    /// It would have grown too much while it held, and went on.
    Pressed,
    /// It does not follow the asking primary.
    Stranger,
}

/// A node of the digest tree: the sum of a leaf is over the block table of one region, that of a node over its children.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SumNode {
    /// 1: its children are regions; 2: its children are nodes of level 1.
    pub level: u8,
    /// Its place among the nodes of its level.
    pub index: u64,
}

impl SumNode {
    /// Children of a node.
    pub const FAN: u64 = 256;
    /// The highest level. A volume's digest is the sum over all nodes of it.
    pub const TOP: u8 = 2;

    /// Blocks below one child of a node of this level.
    #[must_use]
    pub const fn child_blocks(self) -> u64 {
        if self.level == Self::TOP { REGION_BLOCKS * Self::FAN } else { REGION_BLOCKS }
    }

    /// Blocks below the node, cut off at the end of the volume.
    #[must_use]
    pub fn blocks(self, volume: BlockCount) -> BlockRange {
        let len = self.child_blocks() * Self::FAN;
        let start = self.index.saturating_mul(len).min(volume.0);
        BlockRange::new(start, len.min(volume.0 - start))
    }

    /// How many nodes of the highest level a volume has.
    #[must_use]
    pub const fn tops(volume: BlockCount) -> u64 {
        volume.0.div_ceil(REGION_BLOCKS * Self::FAN * Self::FAN)
    }
}

/// What a fenced member holds (T2d).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TailReport {
    /// Which on-disk state speaks.
    pub incarnation: Incarnation,
    /// Epoch of the last record *held* (never the top of the table); 0 if the log is empty.
    pub last_epoch: Epoch,
    /// Last LSN of the valid contiguous log.
    pub last: Lsn,
    /// Hash of that record's header.
    pub last_hash: u64,
    /// Which epoch wrote which part.
    pub table: EpochTable,
    /// Highest LSN that this member knows to be committed.
    pub committed: Lsn,
    /// In the image up to here.
    pub applied: Lsn,
    /// Oldest record that the member can still supply; `last + 1` if none.
    pub first: Lsn,
    /// Rot: records above `last`, up to here, were once durable here and can't be read now. Presence unknown (trap 12).
    pub unknown_to: Option<Lsn>,
    /// The epoch that this copy followed when an earlier life of its process ended: what it held of it in memory alone is
    /// gone. 0 if there is none.
    pub forgot: Epoch,
}

/// Between two nodes' shards, on a lane that bulk data can't starve: one message for all volumes they share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShardMessage {
    /// From a node to one that holds copies of volumes it leads: asks for a lease, tells what is committed.
    Beat {
        /// Numbers the beats of this sender's life.
        seq: u64,
        /// The volumes led by the sender.
        volumes: Vec<BeatVolume>,
    },
    /// Answer to `Beat`: a lease for every volume asked for but the refused ones.
    BeatAck {
        /// Copied from the beat.
        seq: u64,
        /// Volumes for which the answering member gives no lease.
        refused: Vec<VolumeId>,
    },
}

/// One volume in a `Beat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeatVolume {
    /// The volume.
    pub volume: VolumeId,
    /// The epoch in which the sender is primary.
    pub epoch: Epoch,
    /// Committed at the sender.
    pub committed: Lsn,
    /// Every member has everything up to here in a synced image; journals may drop it.
    pub trim: Lsn,
}
