//! Deliberate mistakes, to prove that the checkers of the simulator find them.
//!
//! Production code asks [`mutated`] at the place of the mistake. Without the feature `mutants` the answer is a constant
//! `false`, and nothing of it is left in the machine code. With it, the answer depends on what this thread has selected, so
//! that threads can each run a mutant of their own: at first the one that the environment names in `HOLDFAST_MUTANT`, for
//! tests. Only the simulator enables the feature; `cargo xtask tidy` sees to it.
//!
//! Most mistakes are left to the simulator's seeds. Where seeds find one rarely, because two things must go wrong in the
//! same moment, the declaration names a test in which they do: `in "CRATE::MODULES::NAME"`. It must fail with the mistake and
//! pass without it.

macro_rules! mutants {
    ($($(#[doc = $what:literal])+ $name:ident: $reference:literal $(in $test:literal)?,)*) => {
        /// A mistake. The text says what is broken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mutant { $($(#[doc = $what])+ $name),* }

        impl Mutant {
            /// Every mistake.
            pub const ALL: &[Mutant] = &[$(Mutant::$name),*];

            /// Its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Mutant::$name => stringify!($name)),* }
            }

            /// What is broken, in a sentence.
            #[must_use]
            pub const fn what(self) -> &'static str {
                match self { $(Mutant::$name => concat!($($what),+)),* }
            }

            /// The rule that it breaks: a step, trap or property of docs/PROTOCOL.md; `core` for the ones that any change of
            /// the protocol must still be caught by.
            #[must_use]
            pub const fn reference(self) -> &'static str {
                match self { $(Mutant::$name => $reference),* }
            }

            /// The test that must fail with it, where no seeds look for it.
            #[must_use]
            pub const fn test(self) -> Option<&'static str> {
                match self {
                    $($(Mutant::$name => Some($test),)?)*
                    _ => None,
                }
            }
        }
    };
}

mutants! {
    // Of a control plane that was recovered.

    /// Messages of an earlier generation of the control plane are taken like any other, votes among them.
    GenerationNotChecked: "G1",
    /// A node that was given up goes on with its old log when it hears of the later generation.
    GivenUpVotesOn: "G2",
    /// After a recovery of the control plane epochs go on from the last one that is known.
    EpochsNotRaised: "G3",
    /// After a recovery of the control plane a fence of any R members is enough.
    RecoveredFencesFew: "G4"
        in "replication::tests::regime::of_two_copies_one_that_lost_records_may_have_gone_on_alone",
    /// A reign that the recovered control plane does not know of is taken for one of the same members.
    UnknownReignIgnored: "G4"
        in "replication::tests::regime::a_reign_that_is_not_known_of_opens_nothing_until_an_operator_says_so",

    // Of a forced recovery.

    /// After a forced recovery a fence of any R of the members that are left is enough.
    ForcedFencesFew: "F2"
        in "replication::tests::forced::every_survivor_is_fenced_since_no_quorum_of_them_stands_for_anything",
    /// After a forced recovery nobody waits for the leases that lost members may have granted.
    ForcedSkipsLease: "F2"
        in "replication::tests::forced::the_leases_of_who_is_gone_are_waited_out",
    /// A forced recovery leaves the lost members in the configuration.
    ForcedKeepsOldMembers: "F1",
    /// A copy that was set aside and comes back is taken for a member.
    ForcedTakesBack: "F5",
    /// The receipt of a forced recovery calls everything kept.
    ReceiptSaysNothing: "F4",

    // Of two copies, one of which is gone.

    /// The copy that is left answers writes alone as soon as it is to go on, before that is active.
    AloneBeforeActivation: "A3",
    /// A copy goes on alone by a smaller write quorum, and the one that is left out still counts.
    LeftOutStaysMember: "A3",
    /// A copy goes on alone although the volume was to wait.
    StallGoesOn: "A1",

    // Of versions.

    /// The cluster is raised to a version although a node does not speak it.
    RaisedTooEarly: "V2",
    /// Nodes tell of themselves in the newest version that they speak, whatever the cluster's is.
    SpeaksNewTooEarly: "V3",

    // The exposure meter.

    /// A copy that does not follow is not counted as missing anything.
    ExposureForgetsAbsent: "P11",
    /// What is not committed yet counts as exposed.
    ExposureCountsUncommitted: "P11",

    // The mistakes that docs/PROTOCOL.md names in its last section.

    /// An epoch is activated before W members hold its start.
    ActivatesBeforeQuorum: "core T8",
    /// A recovery is content with one member less than R.
    FenceSetTooSmall: "core T3",
    /// The shortest of the reported logs is chosen.
    ShorterLogChosen: "core T4",
    /// The longest of the reported logs is chosen, whatever the epoch of its end.
    LongerLogChosen: "core T4",
    /// A member reports its tail at once and promises only then.
    TailBeforePromise: "core trap 8",
    /// A member appends and acknowledges records of an epoch below its promise.
    NoPromiseCheck: "core N3",
    /// What a quorum holds is committed and applied before the epoch is activated.
    CommitsBeforeActivation: "core N4",
    /// A node that finds no copy makes a blank one under the registered identity.
    BlankDiskKeepsIdentity: "core S20",
    /// A reign begins without a record of its own.
    NoEpochStart: "core trap 2",
    /// A restarted process goes on with the epoch that an earlier life of it claimed.
    EpochOfAnEarlierLife: "core N0",
    /// A primary appends to its epoch after it has learned of the next one.
    AppendsToOldEpochAfterReconf: "core M1",
    /// A recovery counts the answers of copies that are only to become members.
    FencesNewMembers: "core T3"
        in "replication::tests::members::a_learner_completes_no_fence",
    /// A learner's copy counts towards W.
    LearnerCounts: "core N4",

    // Changes of members.

    /// The next epoch is activated without the member that it adds.
    AddedNotWaitedFor: "M2",
    /// Records of the next epoch are answered before it is activated.
    AnswersBeforeReconf: "M3",
    /// A learner's grant counts towards a lease.
    LearnerGrants: "N8"
        in "replication::tests::members::a_learner_counts_for_nothing",
    /// A removed member's copy stays, and is taken again when its node is added again.
    RemovedCopyReturns: "S20"
        in "cluster::tests::redundancy::a_copy_that_is_gone_for_ten_minutes_is_replaced_on_a_spare_node",
    /// A node that is to be drained gets copies.
    DrainedGetsCopies: "drain",
    /// A witness gets copies.
    WitnessHoldsCopies: "S22",
    /// A member goes before whoever takes its place counts.
    GoesBeforeSuccessor: "M1",
    // Resync by regions.

    /// A target switches although the source has more regions for it.
    SwitchesBeforeComplete: "R6",
    /// A source does not note which regions change while a pass goes on.
    ChangeNotNoted: "R4",
    /// A region takes the place of a newer one.
    OlderRegionWins: "R5"
        in "store::tests::resync::the_newer_of_two_versions_of_a_region_stays",
    /// The side area becomes part of the copy without a comparison of the sums.
    SideNotProven: "R6"
        in "store::tests::resync::a_side_area_that_is_not_the_whole_difference_is_refused",
    /// A target cuts its log when it begins to fetch regions.
    OldLogDroppedEarly: "R2"
        in "replication::tests::resync::a_copy_that_is_resynced_reports_the_log_that_it_has",
    /// A target reports the log that it will have after the switch.
    NewLogReportedEarly: "R6"
        in "replication::tests::resync::a_copy_that_is_resynced_reports_the_log_that_it_has",
    /// A target switches to a state below what it knows to be committed, or below what its table shares.
    SwitchesBackwards: "R6"
        in "replication::tests::resync::a_copy_is_not_switched_to_less_than_it_knows_to_be_committed",

    // The epoch change.

    /// A claimant takes its own log, though others are longer.
    OwnLogChosen: "T4",
    /// A claimant serves guests as soon as it has written its first record.
    ServesBeforeActivation: "trap 4",
    /// A promise is answered before it is durable.
    PromiseInMemory: "S14",
    /// A primary that has promised a higher epoch keeps its reign.
    ReignOutlivesPromise: "T2",
    /// A tail names the newest epoch of the table as that of the last record.
    LastEpochFromTable: "trap 13"
        in "replication::tests::resync::a_tail_names_the_epoch_of_the_last_record_that_is_held",
    /// A member adopts a table and keeps the part of its log that the table contradicts.
    AdoptsWithoutCut: "T7",
    /// A member cuts one record more than the table asks for.
    CutsOneTooMany: "T7",
    /// A member acknowledges the log that it had before it adopted the primary's.
    AcksBeforeAdoption: "T7",
    /// A refused primary does not claim anew.
    RejectIgnored: "L6"
        in "replication::tests::a_primary_that_was_overtaken_in_vain_claims_anew",
    /// A primary goes on after it has released its lease.
    ServesAfterRelease: "S13",

    // Writes and their quorum.

    /// One member less than W makes a quorum.
    WriteQuorumTooSmall: "N4",
    /// The primary counts its own copy before the journal has it.
    PrimaryCountsMemory: "N4",
    /// A member acknowledges what is not durable yet as durable.
    AcksOnReceipt: "N3",
    /// A member that is behind is not caught up.
    NoCatchUp: "L6",
    /// Acknowledgements free no room in a member's window.
    WindowNeverFreed: "P13",
    /// What is sent to a member is not bounded by its window.
    WindowIgnored: "P13",
    /// Journals drop what one member alone has in its image.
    TrimsTooMuch: "trim",

    // Guests.

    /// Reads see what is not committed.
    ReadsSeeUncommitted: "trap 3",
    /// A read does not wait for an overlapping write.
    ReadDoesNotWait: "N7",
    /// Requests within a block do not lock it.
    NoRangeLock: "trap 18",
    /// A request within a block merges with content that a write before it is about to change.
    MergeDoesNotWait: "trap 18",
    /// The part of an edge block that a zeroed range does not cover is zeroed as well.
    ZeroesWholeBlocks: "S7",
    /// A write within a block wipes the rest of it.
    EdgesNotMerged: "trap 18",
    /// A read that starts within a block is answered from the block's start.
    ReadsFromBlockStart: "S4",
    /// What a closed session has asked for and has no record yet is carried out.
    ClosedSessionLingers: "S12",

    // Leases.

    /// Reads are answered without a lease.
    NoLeaseCheck: "trap 5",
    /// The holder counts a lease from the answer's arrival.
    LeaseFromReceipt: "trap 5",
    /// Neither side of a lease allows for the drift of clocks.
    NoDriftMargin: "trap 5"
        in "replication::lease::tests::the_holder_stops_before_the_grantor",
    /// The holder is content with one grant too few.
    OneGrantTooFew: "trap 5",
    /// The holder counts members that refused.
    RefusalGrants: "trap 5",
    /// A member promises another epoch while its grant runs.
    GrantIgnored: "trap 5",
    /// A restarted member does not wait for grants of its earlier life.
    GrantForgotten: "trap 5"
        in "replication::tests::restarted_members_wait_for_what_they_may_have_granted",

    // The journal.

    /// Frames are written without being made durable.
    JournalNotDurable: "N3",
    /// A frame that can't be written counts as written.
    JournalErrorIgnored: "trap 15",
    /// A frame counts as durable when a later one is.
    FramesOutOfOrder: "trap 9",
    /// A promise does not wait for appends that are under way.
    PromiseWithoutDrain: "trap 9",
    /// At a start every torn frame is taken for a rotten one.
    TornTakenForRot: "trap 11"
        in "store::recover::resolve::tests::missing_frames_of_an_earlier_life_are_rot_and_of_the_last_are_torn",
    /// At a start records count though the epoch table contradicts them.
    StaleRecordsCount: "trap 13"
        in "store::tests::basic::cut_tails_do_not_return",
    /// Segments are reused when their records are applied, before a checkpoint.
    ReusesUncheckpointed: "trap 14",
    /// Segments that hold records of a failed copy are reused.
    ReusesFailedCopy: "S19"
        in "store::tests::rot::a_failed_copy_keeps_its_records",
    /// Segments are reused though other members still need them.
    ReusesUntrimmed: "trim",
    /// The last spare segment is filled like any other.
    LastSpareFilled: "L8"
        in "store::tests::journal::a_full_journal_takes_fences_cuts_and_starts_of_epochs",
    /// A full disk is taken for a broken one.
    FullDiskIsBroken: "trap 21",
    /// Commit positions are not written when no record carries them.
    NoCommitMarks: "N5",

    // Image, tables, superblock.

    /// The image takes records that are not committed.
    AppliesUncommitted: "S16",
    /// The image takes records before the disk knows them to be committed.
    AppliesUnknownCommit: "S16"
        in "store::tests::basic::nothing_is_applied_before_the_disk_knows_that_it_is_committed",
    /// A checkpoint does not sync the image.
    ImageNotSynced: "N6",
    /// A checkpoint does not sync the block table.
    TableNotSynced: "N6",
    /// A checkpoint does not write the pages of the block table that changed.
    TableNotWritten: "N6",
    /// A checkpoint ignores a failed write or sync.
    CheckpointErrorIgnored: "trap 15",
    /// A failed write to the image is ignored.
    ApplyErrorIgnored: "P8"
        in "store::tests::rot::a_failed_write_of_an_image_fails_its_copy",
    /// The superblock is written without being made durable.
    SuperblockNotDurable: "S14",
    /// All copies of the superblock are written at once.
    SuperblockAtOnce: "trap 22",
    /// A restarted copy takes its image for complete.
    ReplaySkipped: "trap 33",
    /// Reads look at the image only.
    ReadsSkipOverlay: "S4",
    /// Blocks are read from the image while they are being written.
    OverlayClearedEarly: "S4",
    /// An applied batch hides newer committed content.
    OverlayForgetsNewer: "S4",
    /// The digest does not notice zeroes.
    DigestSkipsZeroes: "P11",
    /// Zeroed ranges keep their bytes in the image.
    ZeroesNotPunched: "S7",
    /// A cut of the log leaves the size as the records that were cut had made it.
    ResizeNotRolledBack: "resize",
    /// What a smaller volume cuts off stays in image and tables.
    ShrinkKeepsBytes: "resize",
    /// A wish for a size undoes what was decided since whoever has it looked.
    StaleResize: "resize",
    /// The content of a record is not checked against its checksum.
    BodyNotVerified: "S18",
}

#[cfg(feature = "mutants")]
thread_local! {
    static SELECTED: std::cell::Cell<Option<Mutant>> = std::cell::Cell::new(named_outside());
}

/// The mistake that the environment names.
#[cfg(feature = "mutants")]
fn named_outside() -> Option<Mutant> {
    let name = std::env::var("HOLDFAST_MUTANT").ok()?;
    let found = Mutant::ALL.iter().copied().find(|mutant| mutant.name() == name);
    assert!(found.is_some(), "expected the name of a mutant in HOLDFAST_MUTANT, found {name}");
    found
}

/// From now on this thread makes this mistake, or none.
#[cfg(feature = "mutants")]
pub fn select_mutant(mutant: Option<Mutant>) {
    SELECTED.set(mutant);
}

/// Whether this thread makes this mistake.
#[cfg(feature = "mutants")]
#[must_use]
pub fn mutated(mutant: Mutant) -> bool {
    SELECTED.get() == Some(mutant)
}

/// Never: the feature `mutants` is off.
#[cfg(not(feature = "mutants"))]
#[must_use]
pub const fn mutated(_mutant: Mutant) -> bool {
    false
}
