use crate::explore::{End, Outcome, explore};
use crate::log::{Log, Record};
use crate::properties::broken;
use crate::rules::attempt;
use crate::state::State;
use crate::step::alphabet;
use crate::{Bound, Budget, Deviation, Mutant, Property, Scope, Step, conforms, parse, scope_of, scopes};
use std::collections::BTreeSet;

/// Each mutant, the property it breaks first, and the length of a shortest way there.
const CAUGHT: [(Mutant, Property, usize); 36] = [
    (Mutant::ActivateBeforeQuorum, Property::S1, 16),
    (Mutant::AppendAfterChange, Property::S1, 12),
    (Mutant::FenceTooFew, Property::S1, 13),
    (Mutant::FenceNewMembers, Property::S1, 13),
    (Mutant::ChooseShorter, Property::S1, 14),
    (Mutant::ReportWithoutFence, Property::S1, 14),
    (Mutant::NoPromiseCheck, Property::S1, 14),
    (Mutant::ActivateWithoutCas, Property::S21, 22),
    (Mutant::CommitBeforeActivation, Property::S11, 14),
    (Mutant::SameIdentity, Property::S20, 16),
    (Mutant::BlankFollows, Property::S11, 18),
    (Mutant::NoEpochStart, Property::S8, 22),
    (Mutant::ChooseByLength, Property::S8, 24),
    (Mutant::RestartKeepsEpoch, Property::S15, 4),
    (Mutant::PromiseNotDurable, Property::S14, 4),
    (Mutant::AckBeforeDurable, Property::S1, 17),
    (Mutant::ReportBeforeDrain, Property::S1, 18),
    (Mutant::ClaimWithoutCas, Property::S21, 22),
    (Mutant::ExcludedMemberClaims, Property::S1, 17),
    (Mutant::LearnerCounts, Property::S1, 16),
    (Mutant::WitnessCounts, Property::S22, 7),
    (Mutant::AdoptWithoutCut, Property::S2, 12),
    (Mutant::StaleCut, Property::S1, 17),
    (Mutant::TopOfTable, Property::S1, 20),
    (Mutant::FetchWithoutFence, Property::S14, 15),
    (Mutant::CorruptIsAbsent, Property::S1, 15),
    (Mutant::NoLossCheck, Property::S19, 16),
    (Mutant::ApplyBeyondCommit, Property::S16, 1),
    (Mutant::ReadUncommitted, Property::S9, 13),
    (Mutant::HoldFromReceipt, Property::S13, 16),
    (Mutant::NoDriftMargin, Property::S13, 16),
    (Mutant::FenceIgnoresGrant, Property::S13, 14),
    (Mutant::RestartForgetsGrant, Property::S13, 15),
    (Mutant::TooFewGrants, Property::S13, 11),
    (Mutant::GrantAfterPromise, Property::S13, 14),
    (Mutant::ReleaseKeepsServing, Property::S13, 15),
];

const LIMIT: u64 = 5_000_000;

fn small(name: &str) -> Scope {
    scopes(Bound::Small).into_iter().find(|s| s.name == name).expect("a small scope of that name")
}

fn kind(step: Step) -> String {
    step.to_string().split(' ').next().unwrap_or_default().to_owned()
}

#[test]
fn scopes_hold_completely_and_use_every_rule() {
    let mut kinds = BTreeSet::new();
    let mut used = BTreeSet::new();
    for scope in scopes(Bound::Ci) {
        let Outcome { end, distinct, taken, .. } = explore(&scope, LIMIT);
        assert!(matches!(end, End::Complete), "{}: {end:?}", scope.name);
        assert!(distinct > 5_000, "{} is hardly explored: {distinct}", scope.name);
        kinds.extend(taken.iter().map(|(step, _)| kind(*step)));
        used.extend(taken.iter().filter(|(_, count)| *count > 0).map(|(step, _)| kind(*step)));
    }
    assert_eq!(kinds, used, "every kind of step is taken somewhere");
    assert_eq!(kinds.len(), 23, "all kinds but the one that only a mutant takes: {kinds:?}");
}

#[test]
fn every_mutant_is_caught_by_a_shortest_counterexample() {
    assert_eq!(CAUGHT.map(|(m, ..)| m).as_slice(), Mutant::ALL, "each mutant has a row");
    let broken: BTreeSet<Property> = CAUGHT.map(|(_, property, _)| property).into();
    assert_eq!(broken.len(), 13, "each property is broken by some mutant: {broken:?}");
    for (mutant, property, length) in CAUGHT {
        let scope = scope_of(mutant);
        let End::Violation(found) = explore(&scope, LIMIT).end else {
            panic!("{mutant:?} survives: {}", mutant.describe());
        };
        assert_eq!((found.property, found.steps.len()), (property, length), "{mutant:?}: {:?}", found.steps);
        // The counterexample is a trace, and not one of the protocol without the mistake.
        let broken = Deviation::Broken { at: length - 1, step: found.steps[length - 1], property };
        assert_eq!(conforms(&scope, found.fast, &found.steps), Err(broken), "{mutant:?}");
        let sound = conforms(&Scope { mutant: None, ..scope }, found.fast, &found.steps);
        assert!(!matches!(sound, Err(Deviation::Broken { .. })), "without {mutant:?}: {sound:?}");
    }
}

/// Oracle: all states of a scope in full, settled at the end or after every step.
fn reachable(scope: &Scope, settle_always: bool) -> BTreeSet<State> {
    let steps = alphabet(scope);
    let mut open = State::first(scope);
    let mut seen: BTreeSet<State> = open.iter().copied().collect();
    let mut settled = BTreeSet::new();
    while let Some(state) = open.pop() {
        let mut shown = state;
        shown.settle(scope);
        settled.insert(shown);
        for step in &steps {
            let mut after = state;
            if !attempt(scope, &state, &mut after, *step).expect("the protocol is sound") {
                continue;
            }
            if settle_always {
                after.settle(scope);
            }
            assert_eq!(broken(scope, &after), None);
            if seen.insert(after) {
                open.push(after);
            }
        }
    }
    settled
}

fn tiny() -> [Scope; 4] {
    let pair = small("pair and witness");
    let leases = small("leases, 3 members");
    let crash = pair.budget;
    let wipe_and_change = Budget { changes: 1, wipes: 1, ..Budget::default() };
    [
        Scope { epochs: 3, ..pair },
        Scope {
            leases: true,
            epochs: 2,
            nodes: 2,
            members: 3,
            writes: 1,
            budget: Budget { releases: 1, ..crash },
            ..leases
        },
        Scope { epochs: 2, budget: wipe_and_change, ..small("takeovers, 3 members") },
        Scope { epochs: 2, budget: wipe_and_change, ..small("learner becomes a member") },
    ]
}

#[test]
fn a_table_of_fingerprints_loses_no_state() {
    for scope in tiny() {
        assert_eq!(explore(&scope, LIMIT).distinct, reachable(&scope, true).len() as u64, "{}", scope.name);
    }
}

#[test]
fn what_is_cleared_makes_no_difference() {
    for scope in tiny() {
        let (kept, cleared) = (reachable(&scope, false), reachable(&scope, true));
        let missing: Vec<_> = kept.difference(&cleared).take(1).collect();
        let extra: Vec<_> = cleared.difference(&kept).take(1).collect();
        assert!(missing.is_empty() && extra.is_empty(), "{}: missing {missing:?}, too many {extra:?}", scope.name);
    }
}

#[test]
fn a_limit_ends_an_exploration() {
    assert!(matches!(explore(&small("takeovers, 3 members"), 1_000).end, End::Limit));
}

const TAKEOVER: &str = "
    # write 1 is acknowledged by 0 and 2, then node 1 takes over
    write epoch=1
    append member=2 epoch=1
    acknowledge member=2 epoch=1
    claim node=1 members=012
    begin epoch=2
    promise member=1 epoch=2
    report member=1 epoch=2
    promise member=2 epoch=2
    report member=2 epoch=2
    fetch epoch=2
    adopt member=2 epoch=2
    append member=2 epoch=2
    acknowledge member=2 epoch=2
    request epoch=2
    activate epoch=2
    write epoch=2
    append member=2 epoch=2
    acknowledge member=2 epoch=2
";

#[test]
fn a_takeover_conforms() {
    let scope = small("takeovers, 3 members");
    let trace = parse(TAKEOVER).expect("steps");
    assert_eq!(conforms(&scope, 0, &trace), Ok(()));
    let again = format!("{TAKEOVER}\nwrite epoch=2");
    let beyond = conforms(&scope, 0, &parse(&again).expect("steps"));
    assert_eq!(beyond, Err(Deviation::Beyond { at: trace.len(), step: Step::Write { epoch: 2 } }));
}

#[test]
fn a_trace_without_one_of_its_steps_does_not_conform() {
    let scope = small("takeovers, 3 members");
    let whole = parse(TAKEOVER).expect("steps");
    // The last step depends on all, and an acknowledgement that never arrives on nothing but itself.
    for left_out in (0..whole.len()).filter(|at| ![2, whole.len() - 1].contains(at)) {
        let mut trace = whole.clone();
        trace.remove(left_out);
        let result = conforms(&scope, 0, &trace);
        assert!(matches!(result, Err(Deviation::NotAllowed { .. })), "without {}: {result:?}", whole[left_out]);
    }
}

#[test]
fn steps_are_read_as_they_are_written() {
    let all: Vec<Step> = scopes(Bound::Full).iter().flat_map(alphabet).collect();
    for step in all {
        assert_eq!(step.to_string().parse(), Ok(step));
    }
    for nonsense in
        ["", "promise", "promise member=1", "promise member=1 epoch=x", "tick tock", "claim node=0 members=3"]
    {
        assert!(nonsense.parse::<Step>().is_err(), "{nonsense}");
    }
    let sentence = parse("tick\n\nsleep").expect_err("no step").to_string();
    assert_eq!(sentence, "line 3: expected a step such as `promise member=2 epoch=3`, found `sleep`");
}

fn log(records: &[(u8, u8)]) -> Log {
    let mut log = Log::default();
    records.iter().for_each(|(epoch, id)| log.push(Record::write(*epoch, *id)));
    log
}

#[test]
fn logs_are_cut_where_tables_part() {
    let old = log(&[(1, 0), (1, 1), (1, 2)]);
    let new = log(&[(1, 0), (1, 1), (2, 0)]);
    assert_eq!(old.common_point(new, 2), 2);
    assert_eq!(new.common_point(new.prefix(2), 2), 3, "records of the table's last epoch stay");
    assert_eq!(old.common_point(log(&[]), 3), 0);
    assert_eq!(format!("{new:?}"), "1s 1a 2s");
    assert_eq!(new.writes(), 0b10);
}

#[test]
fn log_matching_sees_a_different_past() {
    let a = log(&[(1, 0), (1, 1)]);
    assert!(a.matches(log(&[(1, 0), (2, 0)])), "different epochs may differ");
    assert!(!a.matches(log(&[(1, 0), (1, 2)])), "two records of one epoch at one LSN");
    assert!(!log(&[(1, 0), (1, 1), (2, 0)]).matches(log(&[(1, 0), (1, 2), (2, 0)])), "a different past");
    assert!(!log(&[(2, 0), (1, 1)]).epochs_rise());
}
