//! The scopes that are explored, by what a run may cost, and for each mutant one in which its mistake shows.

use crate::scope::{Mutant, Scope, Volatile};
use crate::state::Budget;

/// How much is explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Seconds.
    Small,
    /// What every commit is checked with.
    Ci,
    /// Minutes: what a script accumulates.
    Full,
}

const NONE: Budget = Budget { crashes: 0, wipes: 0, rots: 0, rollbacks: 0, changes: 0, releases: 0 };
const CRASH: Budget = Budget { crashes: 1, ..NONE };
const CHANGE: Budget = Budget { changes: 1, ..NONE };
const WIPE: Budget = Budget { wipes: 1, ..NONE };
const ROT: Budget = Budget { rots: 1, ..NONE };
const ROLLBACK: Budget = Budget { rollbacks: 1, ..NONE };
const RELEASE: Budget = Budget { releases: 1, ..NONE };
const HAND_OVER: Budget = Budget { crashes: 1, releases: 1, ..NONE };

/// Three members, two of them are a quorum.
const THREE: Scope = Scope {
    name: "three members",
    nodes: 3,
    members: 7,
    all: false,
    epochs: 3,
    writes: 1,
    volatile: Volatile::Nobody,
    hints: false,
    leases: false,
    learners: false,
    witness: false,
    budget: NONE,
    mutant: None,
};

/// Two members that must both hold a write, and a witness.
const PAIR: Scope = Scope { name: "pair and witness", nodes: 2, members: 3, all: true, witness: true, ..THREE };

/// One takeover, with reads under leases.
const LEASES: Scope = Scope { name: "leases, 3 members", leases: true, epochs: 2, writes: 0, ..THREE };

/// Two members and a blank node that follows.
const LEARNER: Scope = Scope { name: "learner", members: 3, learners: true, ..THREE };

/// In which scope a mutant's mistake shows, with little else to explore.
#[must_use]
pub fn scope_of(mutant: Mutant) -> Scope {
    use Mutant as M;
    let scope = match mutant {
        M::AppendAfterChange | M::FenceNewMembers | M::CommitBeforeActivation | M::ExcludedMemberClaims => {
            Scope { budget: CHANGE, ..THREE }
        }
        M::SameIdentity | M::BlankFollows => Scope { budget: WIPE, ..THREE },
        M::RestartKeepsEpoch => Scope { budget: CRASH, volatile: Volatile::Primary, writes: 2, ..THREE },
        M::AckBeforeDurable => Scope { budget: CRASH, volatile: Volatile::Everybody, ..THREE },
        M::ReportBeforeDrain => Scope { volatile: Volatile::Everybody, ..THREE },
        M::PromiseNotDurable | M::StaleCut => Scope { budget: CRASH, ..THREE },
        M::LearnerCounts => LEARNER,
        M::WitnessCounts => PAIR,
        M::FetchWithoutFence => Scope { all: true, ..THREE },
        M::CorruptIsAbsent => Scope { budget: ROT, ..THREE },
        M::NoLossCheck => Scope { hints: true, budget: ROLLBACK, ..THREE },
        M::ApplyBeyondCommit => Scope { hints: true, ..THREE },
        M::HoldFromReceipt | M::NoDriftMargin | M::FenceIgnoresGrant | M::TooFewGrants | M::GrantAfterPromise => LEASES,
        M::RestartForgetsGrant => Scope { budget: CRASH, ..LEASES },
        M::ReleaseKeepsServing => Scope { budget: RELEASE, ..LEASES },
        M::ChooseByLength => Scope { writes: 2, ..THREE },
        _ => THREE,
    };
    Scope { mutant: Some(mutant), ..scope }
}

/// The scopes of a bound, each explored completely.
#[must_use]
pub fn scopes(bound: Bound) -> Vec<Scope> {
    match bound {
        Bound::Small => small(),
        Bound::Ci => small().into_iter().chain(ci()).collect(),
        Bound::Full => small().into_iter().chain(ci()).chain(full()).collect(),
    }
}

fn small() -> Vec<Scope> {
    vec![
        Scope { name: "takeovers, 3 members", writes: 2, ..THREE },
        Scope { name: "pair and witness", volatile: Volatile::Primary, hints: true, budget: CRASH, ..PAIR },
        Scope { name: "learner becomes a member", budget: CHANGE, ..LEARNER },
        LEASES,
    ]
}

fn ci() -> Vec<Scope> {
    let images = Scope { name: "images, 3 members", hints: true, ..THREE };
    vec![
        Scope { name: "restarts, 3 members", budget: CRASH, ..THREE },
        Scope { name: "changes of 3 members", budget: CHANGE, ..THREE },
        Scope { name: "a blank disk, 3 members", budget: WIPE, ..THREE },
        Scope { name: "a rotten record, 3 members", budget: ROT, ..THREE },
        Scope { name: "memories of 3 members", volatile: Volatile::Everybody, ..THREE },
        images,
        Scope { name: "a lying disk, 3 members", budget: ROLLBACK, writes: 0, ..images },
        Scope {
            name: "a blank disk and a change, pair and witness",
            volatile: Volatile::Primary,
            hints: true,
            budget: Budget { wipes: 1, changes: 1, ..NONE },
            ..PAIR
        },
        Scope { name: "leases, pair and witness", leases: true, budget: HAND_OVER, ..PAIR },
        Scope { name: "leases and a hand-over, 3 members", budget: RELEASE, ..LEASES },
    ]
}

/// Every run of the script takes minutes with these.
fn full() -> Vec<Scope> {
    let images = Scope { hints: true, ..THREE };
    let four = Scope { epochs: 4, ..THREE };
    vec![
        Scope { name: "3 writes and a change, 3 members", writes: 3, budget: CHANGE, ..THREE },
        Scope { name: "3 writes and a restart, 3 members", writes: 3, budget: CRASH, ..THREE },
        Scope { name: "2 writes in 4 epochs, 3 members", writes: 2, ..four },
        Scope {
            name: "a restart and a blank disk, 3 members",
            budget: Budget { crashes: 1, wipes: 1, ..NONE },
            ..THREE
        },
        Scope {
            name: "a blank disk and a change, 3 members",
            budget: Budget { wipes: 1, changes: 1, ..NONE },
            ..THREE
        },
        Scope { name: "a rotten record and images, 3 members", budget: ROT, ..images },
        Scope { name: "2 writes and images, 3 members", writes: 2, ..images },
        Scope { name: "a lying disk and a write, 3 members", budget: ROLLBACK, ..images },
        Scope { name: "memories and a restart, 3 members", volatile: Volatile::Everybody, budget: CRASH, ..THREE },
        Scope {
            name: "a primary's memory, 2 writes and a restart",
            volatile: Volatile::Primary,
            writes: 2,
            budget: CRASH,
            ..THREE
        },
        Scope { name: "all of 3 members, a restart", all: true, writes: 2, budget: CRASH, ..THREE },
        Scope {
            name: "a learner, a blank disk and a change",
            budget: Budget { wipes: 1, changes: 1, ..NONE },
            ..LEARNER
        },
        Scope {
            name: "everything, pair and witness",
            volatile: Volatile::Primary,
            hints: true,
            budget: Budget { crashes: 1, wipes: 1, rots: 1, changes: 1, ..NONE },
            ..PAIR
        },
        Scope { name: "leases in 3 epochs, 3 members", epochs: 3, ..LEASES },
        Scope { name: "leases, a restart and a hand-over, 3 members", budget: HAND_OVER, ..LEASES },
        Scope { name: "leases of all 3 members, a restart and a hand-over", all: true, budget: HAND_OVER, ..LEASES },
        Scope { name: "leases and a change, 3 members", budget: CHANGE, ..LEASES },
        Scope { name: "leases in 4 epochs, pair and witness", leases: true, epochs: 4, budget: HAND_OVER, ..PAIR },
    ]
}
