//! What goes into a replica and what comes out.

use crate::exposure::ExposureStatus;
use crate::pace::SlowCopy;
use crate::resync::{NotProven, ResyncStatus};
use crate::scrub::ScrubStatus;
use crate::verify::VerifyStatus;
use bytes::Bytes;
use holdfast_format::Record;
use holdfast_format::message::{Message, NotHeld, Region, RegionCut, RegionQuery, RegionsFound, SumNode};
use holdfast_types::{
    BlockIndex, BlockRange, ByteOffset, ControlRequest, Durable, Epoch, EpochTable, Lsn, NodeId, ReadFault,
    RegionIndex, RequestId, Resized, ScrubKept, SessionId, VolumeSize, VolumeView,
};
use std::time::Duration;

/// Durations of the protocol.
#[derive(Clone, Copy, Debug)]
pub struct Timers {
    /// How long a granted lease lasts on the grantor's clock.
    pub lease: Duration,
    /// Bound on the difference of two clocks' rates, parts per million. The holder counts that much less.
    pub drift_ppm: u32,
    /// Repeats a pre-claim that was answered no.
    pub preclaim_retry: Duration,
    /// Repeats a request to the control plane that had no effect yet.
    pub control_retry: Duration,
    /// Tells members what is committed if no append did meanwhile.
    pub commit_delay: Duration,
    /// A whole copy is read and verified once in this time; zero: never.
    pub scrub_period: Duration,
    /// Milliseconds since 1970 at `Time::ZERO`, for what people are told of earlier lives. Nothing is decided by it.
    pub unix_ms_at_zero: u64,
    /// A copy that takes longer than this to make records durable, and much longer than the others, is called slow; zero: never.
    pub slow_latency: Duration,
}

impl Default for Timers {
    fn default() -> Timers {
        Timers {
            lease: Duration::from_secs(2),
            drift_ppm: 10_000,
            preclaim_retry: Duration::from_millis(50),
            control_retry: Duration::from_millis(500),
            commit_delay: Duration::from_millis(20),
            scrub_period: Duration::from_hours(24 * 30),
            unix_ms_at_zero: 0,
            slow_latency: Duration::from_millis(50),
        }
    }
}

/// Bounds on memory (P13).
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes sent to a member and not acknowledged by it.
    pub window_bytes: usize,
    /// Bytes of records in one message, and of one read of the log for a member that lags; a single larger record
    /// travels alone.
    pub catch_up_bytes: usize,
    /// Bytes of guests' requests that are not answered; above it `Replica::accepts` says no.
    pub admitted_bytes: usize,
    /// Content of regions in one answer to a copy that no log reaches.
    pub resync_bytes: usize,
    /// Bytes per second that a copy fetches in a resync, at most.
    pub resync_bandwidth: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            window_bytes: 32 << 20,
            catch_up_bytes: 1 << 20,
            admitted_bytes: 64 << 20,
            resync_bytes: 4 << 20,
            resync_bandwidth: 64 << 20,
        }
    }
}

/// Names a guest's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestKey {
    /// The connection.
    pub session: SessionId,
    /// The request within it.
    pub request: RequestId,
}

/// What a guest wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GuestOp {
    /// Data of the range.
    Read,
    /// Replace the range by the data.
    Write,
    /// Answered when everything answered before it is on stable storage of a quorum.
    Flush,
    /// Zero the range, keep its space.
    WriteZeroes,
    /// Zero the range, give its space back.
    Discard,
}

/// A guest's request, checked by the shell: at most 1 MiB long if it carries or wants data.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its name, for the reply.
    pub key: RequestKey,
    /// What.
    pub op: GuestOp,
    /// Where, in bytes; any alignment.
    pub offset: ByteOffset,
    /// How much, in bytes; above 0 except for `Flush`.
    pub len: u64,
    /// Answered only when a quorum holds it on stable storage, whatever the volume's durability.
    pub fua: bool,
    /// `Write`: a private copy of `len` bytes (trap 19). Empty otherwise.
    pub data: Bytes,
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestError {
    /// A block does not match its checksum and could not be repaired.
    Corrupt,
    /// The volume ends before the range does: it became smaller, or is not larger yet.
    BeyondEnd(GuestOp),
}

/// Into a replica.
#[derive(Debug)]
pub enum Input {
    /// The control plane's state of the volume changed (or is told again).
    View(VolumeView),
    /// Messages to `peer` sent from now on will arrive in order, or not at all until the next `PeerDown`.
    PeerUp(NodeId),
    /// Messages to `peer` that were not acknowledged may be lost.
    PeerDown(NodeId),
    /// From another copy.
    Message {
        /// Its node, from its certificate.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// A time named by `next_timeout` has come.
    Tick,
    /// A guest wants something. Only while serving.
    Request(Request),
    /// A guest's connection ended: its requests without an LSN are dropped (S12).
    SessionClosed(SessionId),
    /// The store: on stable storage up to here.
    Durable(Durable<Lsn>),
    /// The store: promise persisted, appends drained.
    Promised(Epoch),
    /// The store: table persisted, tail cut.
    Adopted {
        /// The adopted epoch.
        epoch: Epoch,
        /// End of the log.
        last: Lsn,
        /// Hash of its last record.
        last_hash: u64,
    },
    /// The store: in the image up to here, with this digest.
    Applied(Lsn, u64),
    /// The store: answer to `Output::Hold`, or the hold has ended.
    Held {
        /// Copied from the question.
        at: Lsn,
        /// Digest of the image there.
        found: Result<u64, NotHeld>,
    },
    /// The store: answer to `Output::Sums`.
    Sums {
        /// Copied from the question.
        node: SumNode,
        /// None if the image is not held.
        sums: Vec<u64>,
    },
    /// An operator wants the copies compared. Only a primary does it.
    Verify {
        /// A random name of the wish: the same one again changes nothing.
        run: u64,
    },
    /// The store: in a synced image up to here.
    Checkpointed(Lsn),
    /// The store: answer to `Output::Read`.
    ReadDone {
        /// Copied from the question.
        tag: u64,
        /// Pieces that together are the blocks asked for.
        result: Result<Vec<Bytes>, ReadFault>,
    },
    /// The store: answer to `Output::Repair`.
    Repaired {
        /// The block.
        block: BlockIndex,
        /// The content matched this copy's checksum and is in the image now, or the block has changed since.
        right: bool,
    },
    /// The store: answer to `Output::ReadLog`; `None` if the journal no longer holds the first record.
    LogRead {
        /// Copied from the question.
        tag: u64,
        /// Consecutive records.
        records: Option<Vec<Record>>,
    },
    /// An operator wants the whole copy read and verified, from the start.
    Scrub {
        /// A random name of the wish: the same one again changes nothing.
        run: u64,
        /// At most so fast.
        bytes_per_second: u64,
    },
    /// The store: its device stopped answering (true), or answers again.
    Hung(bool),
    /// The process is about to end: a primary answers what it has admitted, lets go, and does not want to lead any more.
    Retire,
    /// The store: answer to `Output::ReadRegions`.
    RegionsRead {
        /// Copied from the question.
        tag: u64,
        /// All at one LSN.
        result: Result<Box<RegionsFound>, ReadFault>,
    },
    /// The store: answer to `Output::OpenSide`.
    SideOpened {
        /// Regions that the side area holds from before.
        count: u64,
        /// The highest LSN among them.
        top: Lsn,
    },
    /// The store: answer to `Output::HeldInSide`.
    SideHeld {
        /// Regions with their LSN.
        held: Vec<(RegionIndex, Lsn)>,
        /// Regions below were looked at.
        end: RegionIndex,
    },
    /// The store: answer to `Output::WriteSide`.
    SideWritten {
        /// Regions that did not reach the medium.
        bad: u64,
    },
    /// The store: answer to `Output::Switch`.
    Switched {
        /// The epoch that is adopted with it.
        epoch: Epoch,
        /// End and beginning of the log.
        last: Lsn,
        /// Epoch of the record there.
        last_epoch: Epoch,
        /// Its hash.
        last_hash: u64,
        /// Digest of the copy there.
        digest: u64,
    },
    /// The store: answer to `Output::ProveSide`.
    SideProven(Result<(), NotProven>),
    /// The store: the state is not proven any more, and the copy stays as it is.
    SwitchRefused,
    /// The store failed for good (P8): this copy takes no part any more.
    Failed(String),
}

/// Out of a replica.
#[derive(Debug)]
pub enum Output {
    /// To another copy; dropped if no lane to it is up.
    Send {
        /// Its node.
        to: NodeId,
        /// What to say.
        message: Message,
    },
    /// To the store, in this order with the other store commands: journal records.
    Append(Vec<Record>),
    /// To the store: persist a promise.
    Promise(Epoch),
    /// To the store: adopt a table, cut the tail.
    Adopt {
        /// The last epoch of the table.
        epoch: Epoch,
        /// The new table.
        table: EpochTable,
        /// What stays.
        cut_after: Lsn,
    },
    /// To the store: may be applied and read.
    Commit(Lsn),
    /// To the store: `Input::Applied` is to tell of exactly this LSN, unless the image is there already.
    DigestAt(Lsn),
    /// To the store: nobody needs the journal up to here.
    Trim(Lsn),
    /// To the store: read committed blocks.
    Read {
        /// For `Input::ReadDone`.
        tag: u64,
        /// Which blocks.
        range: BlockRange,
    },
    /// To the store: read a part of the image and verify all of it, for `Input::ReadDone`.
    Scrub {
        /// For `Input::ReadDone`.
        tag: u64,
        /// Which blocks.
        range: BlockRange,
    },
    /// To the store: apply up to here and no further.
    Hold(Lsn),
    /// To the store: apply without a bound again.
    GoOn,
    /// To the store: the sums below this node of the digest tree.
    Sums(SumNode),
    /// To the store: compare this with the checksum of a block, and write it to the image if it is right.
    Repair {
        /// The block.
        block: BlockIndex,
        /// What another copy holds there.
        data: Bytes,
    },
    /// To the store: the scrub has come so far; to be kept over restarts.
    Scrubbed {
        /// What is to be kept.
        kept: ScrubKept,
        /// Now; otherwise as it suits the store, and at the orderly end.
        at_once: bool,
    },
    /// To the store: read records.
    ReadLog {
        /// For `Input::LogRead`.
        tag: u64,
        /// First one.
        from: Lsn,
        /// At most so much.
        max_bytes: usize,
    },
    /// To the store: read regions for another copy.
    ReadRegions {
        /// For `Input::RegionsRead`.
        tag: u64,
        /// Which ones.
        query: RegionQuery,
        /// Bound on their content.
        max_bytes: usize,
    },
    /// To the store: whoever asked for regions does not go on, and what is committed need not wait for that.
    LetGoRegions,
    /// To the store: make the side area ready for a volume of this size.
    OpenSide(VolumeSize),
    /// To the store: say what the side area holds.
    HeldInSide {
        /// From this region on.
        from: RegionIndex,
        /// At most so many regions.
        max: usize,
    },
    /// To the store: bring regions into the side area.
    WriteSide(Vec<Region>),
    /// To the store: image and side area should be this state; are they?
    ProveSide(RegionCut),
    /// To the store, in this order with appends, promises and adoptions: the copy is what image and side area are together.
    Switch {
        /// The last epoch of the table.
        epoch: Epoch,
        /// The new table.
        table: EpochTable,
        /// What of the old log is above was never committed.
        cut_after: Lsn,
        /// Where the log begins: what was proven.
        cut: RegionCut,
    },
    /// To the store: the side area is of no use.
    DropSide,
    /// To a guest. Data for reads (pieces that together are exactly the bytes asked for), empty otherwise.
    Reply {
        /// Which request.
        key: RequestKey,
        /// How it went.
        result: Result<Vec<Bytes>, GuestError>,
    },
    /// To the control plane; may get lost, and is repeated by the replica then.
    Control(ControlRequest),
    /// Guests may attach (true), or must be disconnected without an answer (false).
    Serving(bool),
    /// Members should be asked for a lease at once.
    BeatNow,
    /// For people.
    Event(String),
    /// A message was not taken, because its sender may not send it. For people, and his to repeat without end.
    Refused {
        /// Who sent it.
        from: NodeId,
        /// What was expected, or found.
        why: String,
    },
    /// The copy found that an invariant does not hold and must take no part any more.
    Fail(String),
}

/// Role of a copy, for status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleName {
    /// Follows a primary.
    Secondary,
    /// Wants to claim, or has claimed and is not active yet.
    Claimant,
    /// Active primary.
    Primary,
    /// Takes no part any more.
    Failed,
}

/// Where a copy's log ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEnd {
    /// Epoch of the last record.
    pub last_epoch: Epoch,
    /// The last record, durable or not.
    pub last: Lsn,
    /// Known to be committed, and held.
    pub committed: Lsn,
    /// In a synced image.
    pub checkpoint: Lsn,
    /// What it has promised.
    pub promised: Epoch,
    /// Which epoch wrote which part.
    pub table: EpochTable,
    /// Nothing that was once durable here is unreadable or gone.
    pub whole: bool,
    /// Another state is about to become the copy's: where that ends is not known yet.
    pub switching: bool,
}

/// A copy at a glance.
#[derive(Clone, Debug)]
pub struct CopyStatus {
    /// Its role.
    pub role: RoleName,
    /// Serves guests.
    pub serving: bool,
    /// The active epoch in which it does.
    pub reign: Option<Epoch>,
    /// Follows the active epoch's log (a secondary that adopted it, or its primary).
    pub in_epoch: bool,
    /// A secondary that holds everything that was committed a second ago, as far as it knows.
    pub caught_up: bool,
    /// A switchover is under way: nothing new is admitted.
    pub draining: bool,
    /// The epoch it promised.
    pub promised: Epoch,
    /// The volume's size, as far as it is committed here.
    pub size: Resized,
    /// Where it stands.
    pub positions: holdfast_types::Positions,
    /// What its scrub has reached.
    pub scrub: ScrubStatus,
    /// How its image compares with those of the others.
    pub verify: VerifyStatus,
    /// How far its resync by regions is, if it needs one.
    pub resync: Option<ResyncStatus>,
    /// Copies that this primary can't bring up to date from its log, and why: they are resynced, or must be replaced.
    pub lost: Vec<(NodeId, String)>,
    /// Those of them that are resynced.
    pub resyncing: Vec<NodeId>,
    /// As primary: copies that are to become members, and what keeps each from it.
    pub learners: Vec<(NodeId, String)>,
    /// As primary or claimant: other members that do not follow.
    pub absent: Vec<NodeId>,
    /// Records up to here were durable once, or known to be committed, and can't be read.
    pub unreadable_to: Option<Lsn>,
    /// Its epoch table names a reign of which the control plane knows nothing since it was recovered (G4).
    pub unknown_reign: bool,
    /// What it waits for, if anything.
    pub waiting: Option<String>,
    /// As primary: copies that are alive and slow, this one among them.
    pub slow: Vec<SlowCopy>,
    /// As primary, now or earlier: what had fewer copies than promised.
    pub exposure: ExposureStatus,
}
