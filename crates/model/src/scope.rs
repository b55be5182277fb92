//! How large a world is explored, which faults it has, and which mistake is put into the protocol.

use crate::state::{Budget, NodeSet, count};
use std::fmt;

/// Whose appends are first in memory and only later durable. Elsewhere both are one step, which saves states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Volatile {
    /// Appending is durable.
    Nobody,
    /// The primary's own copy (N0 needs it).
    Primary,
    /// All copies (drain, and acknowledging what is in memory only).
    Everybody,
}

/// What is explored completely.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// Its name in tables.
    pub name: &'static str,
    /// Nodes with a disk, 2 or 3.
    pub nodes: u8,
    /// Members at first, a bit each; other nodes are blank.
    pub members: NodeSet,
    /// `W` is all members instead of a majority.
    pub all: bool,
    /// Epochs, the first of which is open at first.
    pub epochs: u8,
    /// Writes of guests, 3 at most.
    pub writes: u8,
    /// Who has a memory.
    pub volatile: Volatile,
    /// Whether members learn what is committed (S16, S19).
    pub hints: bool,
    /// Whether reads are leased; every combination of slow and fast clocks is a first state.
    pub leases: bool,
    /// Whether nodes that are no members follow the log.
    pub learners: bool,
    /// Whether the third voter of the control group has no disk.
    pub witness: bool,
    /// Faults and changes.
    pub budget: Budget,
    /// The mistake, if there is one.
    pub mutant: Option<Mutant>,
}

impl Scope {
    pub(crate) fn write_quorum(&self, members: NodeSet) -> usize {
        let n = count(members);
        if self.all { n } else { n / 2 + 1 }
    }

    pub(crate) fn fence_quorum(&self, members: NodeSet) -> usize {
        count(members) + 1 - self.write_quorum(members)
    }
}

/// A property of docs/PROTOCOL.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Property {
    /// Durability: what was acknowledged is in every log that is activated later.
    S1,
    /// Atomicity: members that follow an activated epoch agree on what was in flight before it.
    S2,
    /// What an activation found absent stays absent.
    S8,
    /// What a read returned stays.
    S9,
    /// One record is acknowledged at each point of the log, whoever acknowledges.
    S11,
    /// No read is served by a superseded primary.
    S13,
    /// Epochs never fall.
    S14,
    /// Same epoch and LSN, same past.
    S15,
    /// An image holds committed records only, and nothing known to be committed is cut.
    S16,
    /// Loss is loud.
    S19,
    /// A blank disk is not the copy it was.
    S20,
    /// Configurations follow each other by compare-and-swap.
    S21,
    /// A witness is no copy.
    S22,
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

macro_rules! mutants {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// A mistake in the protocol. The exploration must find what it breaks.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutant {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Mutant {
            /// All of them, the twelve of docs/PROTOCOL.md first.
            pub const ALL: &[Mutant] = &[$(Mutant::$name),+];

            /// What is wrong with it, in words.
            #[must_use]
            pub fn describe(self) -> &'static str {
                match self {
                    $(Mutant::$name => concat!($($doc),+).trim_ascii(),)+
                }
            }
        }
    };
}

mutants! {
    /// an epoch is activated before W members hold its start
    ActivateBeforeQuorum,
    /// the primary appends to the old epoch after it changed the members
    AppendAfterChange,
    /// the fence quorum is one too small
    FenceTooFew,
    /// a takeover fences the new members instead of the old ones
    FenceNewMembers,
    /// the shorter log is chosen
    ChooseShorter,
    /// recovery reads a member that has not promised
    ReportWithoutFence,
    /// appends are taken whatever was promised
    NoPromiseCheck,
    /// an activation does not look whether its epoch is pending
    ActivateWithoutCas,
    /// records are acknowledged before the epoch is active
    CommitBeforeActivation,
    /// a blank disk counts as the copy it was
    SameIdentity,
    /// a blank disk may follow the epoch whose configuration names another
    BlankFollows,
    /// a new epoch has no record of its own
    NoEpochStart,
    /// the log is chosen by its length alone
    ChooseByLength,
    /// a restarted process goes on in its old epoch
    RestartKeepsEpoch,
    /// the promise is forgotten in a restart
    PromiseNotDurable,
    /// a member acknowledges what is in its memory only
    AckBeforeDurable,
    /// the tail is reported before older appends have landed
    ReportBeforeDrain,
    /// a claim is not compared with the active epoch
    ClaimWithoutCas,
    /// a node that is no member any more claims, and counts itself
    ExcludedMemberClaims,
    /// a learner's acknowledgement counts
    LearnerCounts,
    /// the witness counts as a copy
    WitnessCounts,
    /// a member keeps a tail that the new epoch's log does not have
    AdoptWithoutCut,
    /// a member is cut to where an older report ended
    StaleCut,
    /// a report names the newest epoch of its table, not that of the last record held
    TopOfTable,
    /// what the claimant lacks is read from a member that may have promised more
    FetchWithoutFence,
    /// a rotten record counts as absent
    CorruptIsAbsent,
    /// a log shorter than what is known to be committed is opened
    NoLossCheck,
    /// the image holds what is durable, committed or not
    ApplyBeyondCommit,
    /// a read returns a record that is not committed
    ReadUncommitted,
    /// the holder counts its lease from the grant's arrival
    HoldFromReceipt,
    /// the holder trusts as long as the grantor waits, whatever the clocks
    NoDriftMargin,
    /// a fence does not wait for the lease
    FenceIgnoresGrant,
    /// a restarted member does not wait for what it may have granted
    RestartForgetsGrant,
    /// one grant fewer than W - 1 is enough to read
    TooFewGrants,
    /// a lease is granted for an epoch below the promise
    GrantAfterPromise,
    /// a primary that released its epoch goes on reading
    ReleaseKeepsServing,
}
