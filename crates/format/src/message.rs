//! Messages between the copies of a volume, and between shards. Their bytes are in docs/FORMAT.md.

mod codec;
mod regions;

pub use regions::{NoRegions, Region, RegionCut, RegionQuery, RegionsFound};

use crate::Record;
use bytes::Bytes;
use holdfast_types::{BlockIndex, Epoch, EpochTable, Incarnation, Lsn, RegionIndex, VolumeId};

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
        /// How many regions of the volume changed after the LSN in the question; counted if it asked from region 0 on.
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
