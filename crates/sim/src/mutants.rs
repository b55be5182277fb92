//! Proof that the checkers can fail: worlds in which one deliberate mistake is made.
//!
//! A case is a mistake in the code under test (`holdfast_types::Mutant`) or in the world around it ([`WorldMutant`]). It is
//! run over seeds, which take the mixes of `focus` in turn (mistakes about members, resyncs and sizes: the mixes for these), until a
//! checker or an assertion objects. A case that nobody objects to shows a checker that is blind, or faults that are too tame.

use crate::checkers::Violation;
use crate::focus::{
    focused, of_disks, of_forced, of_leases, of_lost_voters, of_members, of_pairs, of_refusals, of_resync, of_sizes,
    of_slow, of_takeovers, of_unread, of_versions, of_wiped,
};
use crate::options::{Mutant as WorldMutant, Options};
use crate::runner::{replay_mutant, run_world};
use crate::world::World;
use holdfast_types::{Mutant, select_mutant};

/// The property of a catch whose seed fails without the mistake as well.
pub const FALSE_ALARM: &str = "FALSE ALARM";

/// Mistakes that nothing shows while the members of a volume stay the same.
const OF_MEMBERS: [Mutant; 10] = [
    Mutant::AppendsToOldEpochAfterReconf,
    Mutant::FencesNewMembers,
    Mutant::LearnerCounts,
    Mutant::AddedNotWaitedFor,
    Mutant::AnswersBeforeReconf,
    Mutant::LearnerGrants,
    Mutant::RemovedCopyReturns,
    Mutant::DrainedGetsCopies,
    Mutant::WitnessHoldsCopies,
    Mutant::GoesBeforeSuccessor,
];

/// Mistakes that nothing shows while the log reaches every copy.
const OF_RESYNC: [Mutant; 7] = [
    Mutant::SwitchesBeforeComplete,
    Mutant::ChangeNotNoted,
    Mutant::OlderRegionWins,
    Mutant::SideNotProven,
    Mutant::OldLogDroppedEarly,
    Mutant::NewLogReportedEarly,
    Mutant::SwitchesBackwards,
];

/// Mistakes that nothing shows while volumes keep their sizes.
const OF_SIZES: [Mutant; 3] = [Mutant::ResizeNotRolledBack, Mutant::ShrinkKeepsBytes, Mutant::StaleResize];

/// Mistakes that hardly anything shows but two primaries, one of which has only its lease left.
const OF_LEASES: [Mutant; 3] = [Mutant::LeaseFromReceipt, Mutant::NoDriftMargin, Mutant::GrantForgotten];

/// Mistakes that hardly anything shows but a primary that is to go and is still heard.
const OF_REFUSALS: [Mutant; 2] = [Mutant::RefusalGrants, Mutant::ServesAfterRelease];

/// Mistakes that hardly anything shows but disks that fail.
const OF_DISKS: [Mutant; 3] = [Mutant::JournalErrorIgnored, Mutant::TornTakenForRot, Mutant::SuperblockAtOnce];

/// Mistakes that hardly anything shows but one takeover after the other.
const OF_TAKEOVERS: [Mutant; 2] = [Mutant::NoPromiseCheck, Mutant::LastEpochFromTable];

/// Mistakes that nothing shows while nobody forces a recovery.
const OF_FORCED: [Mutant; 5] = [
    Mutant::ForcedFencesFew,
    Mutant::ForcedSkipsLease,
    Mutant::ForcedKeepsOldMembers,
    Mutant::ForcedTakesBack,
    Mutant::ReceiptSaysNothing,
];

/// Mistakes that nothing shows while a majority of the voters is there.
const OF_REGIMES: [Mutant; 5] = [
    Mutant::GenerationNotChecked,
    Mutant::GivenUpVotesOn,
    Mutant::EpochsNotRaised,
    Mutant::RecoveredFencesFew,
    Mutant::UnknownReignIgnored,
];

/// Mistakes that nothing shows while there are more than two copies.
const OF_PAIRS: [Mutant; 3] = [Mutant::AloneBeforeActivation, Mutant::LeftOutStaysMember, Mutant::StallGoesOn];

/// Mistakes that nothing shows while all nodes are of one build.
const OF_VERSIONS: [Mutant; 2] = [Mutant::RaisedTooEarly, Mutant::SpeaksNewTooEarly];

/// One mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// In the code under test.
    Code(Mutant),
    /// In the world around it.
    World(WorldMutant),
}

/// How a case was caught.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catch {
    /// Seeds that ran, the one that caught it included.
    pub seeds: u64,
    /// The one that caught it.
    pub seed: u64,
    /// The property that broke; `assert` if an assertion of the code under test stopped it.
    pub property: &'static str,
    /// What was expected and what was found.
    pub text: String,
}

impl Case {
    /// Every case, the ones that must always be caught first.
    #[must_use]
    pub fn all() -> Vec<Case> {
        let world = WorldMutant::ALL.iter().map(|m| Case::World(*m));
        let mut all: Vec<Case> = Mutant::ALL.iter().map(|m| Case::Code(*m)).chain(world).collect();
        all.sort_by_key(|case| !case.is_core());
        all
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Case::Code(mutant) => mutant.name().to_owned(),
            Case::World(mutant) => format!("{mutant:?}"),
        }
    }

    /// What is broken, in a sentence.
    #[must_use]
    pub fn what(self) -> &'static str {
        match self {
            Case::Code(mutant) => mutant.what().trim(),
            Case::World(mutant) => mutant.what(),
        }
    }

    /// The step, trap or property that is broken.
    #[must_use]
    pub fn reference(self) -> &'static str {
        match self {
            Case::Code(mutant) => mutant.reference().trim_start_matches("core "),
            Case::World(_) => "world",
        }
    }

    /// One of the mistakes that docs/PROTOCOL.md names.
    #[must_use]
    pub fn is_core(self) -> bool {
        match self {
            Case::Code(mutant) => mutant.reference().starts_with("core "),
            Case::World(mutant) => mutant == WorldMutant::NoCompareAndSwap,
        }
    }

    /// The test that must catch it, where no seeds look for it.
    #[must_use]
    pub fn test(self) -> Option<&'static str> {
        match self {
            Case::Code(mutant) => mutant.test(),
            Case::World(_) => None,
        }
    }

    /// Runs seeds from `first` on until one catches it; `None` if `most` of them did not.
    #[must_use]
    pub fn hunt(self, first: u64, most: u64) -> Option<Catch> {
        (first..first + most).find_map(|seed| {
            let Violation { property, text } = self.run(seed)?;
            let property = if property == "panic" { "assert" } else { property };
            // A seed that fails without the mistake says nothing about it.
            let property = if self.objection(seed).is_some() { FALSE_ALARM } else { property };
            Some(Catch { seeds: seed - first + 1, seed, property, text })
        })
    }

    /// Runs one seed.
    fn run(self, seed: u64) -> Option<Violation> {
        match self {
            Case::Code(mutant) => {
                select_mutant(Some(mutant));
                let violation = self.objection(seed);
                select_mutant(None);
                violation
            }
            Case::World(mutant) => replay_mutant(seed, mutant, false).result.err(),
        }
    }

    /// What a checker or an assertion says to the world of a seed.
    fn objection(self, seed: u64) -> Option<Violation> {
        run_world(&mut World::new(seed, self.world(seed), false)).err()
    }

    fn world(self, seed: u64) -> Options {
        match self {
            Case::Code(mutant) if OF_MEMBERS.contains(&mutant) => of_members(seed),
            Case::Code(mutant) if OF_RESYNC.contains(&mutant) => of_resync(seed),
            Case::Code(Mutant::WindowIgnored) => of_slow(seed),
            Case::Code(Mutant::FenceSetTooSmall) => of_unread(seed),
            Case::Code(Mutant::BlankDiskKeepsIdentity) => of_wiped(seed),
            Case::Code(mutant) if OF_SIZES.contains(&mutant) => of_sizes(seed),
            Case::Code(mutant) if OF_PAIRS.contains(&mutant) => of_pairs(seed),
            Case::Code(mutant) if OF_VERSIONS.contains(&mutant) => of_versions(seed),
            Case::Code(mutant) if OF_FORCED.contains(&mutant) => of_forced(seed),
            Case::Code(mutant) if OF_REGIMES.contains(&mutant) => of_lost_voters(seed),
            Case::Code(mutant) if OF_LEASES.contains(&mutant) => of_leases(seed),
            Case::Code(mutant) if OF_REFUSALS.contains(&mutant) => of_refusals(seed),
            Case::Code(mutant) if OF_DISKS.contains(&mutant) => of_disks(seed),
            Case::Code(mutant) if OF_TAKEOVERS.contains(&mutant) => of_takeovers(seed),
            Case::Code(_) | Case::World(_) => focused(seed),
        }
    }
}
