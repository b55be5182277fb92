//! Forced recoveries: F1 to F6 in the state machine, and what receipts say.

use super::*;
use crate::RefusalKind::{self, Invalid, Stale, Unsafe};
use crate::tests::decider::report;
use crate::{CopyRole, CopyState, Detector, FoundCopy, Heartbeat, Known, Loss, Operator, Receipt, recovery_plan};
use holdfast_types::{Lsn, Member, Speaks, Time};
use std::time::Duration;

const V: VolumeId = VolumeId(1);

fn by() -> Operator {
    Operator { uid: Some(0), user: "root".into(), host: "h1".into() }
}

fn force(base: u64, survivors: &[u64], primary: u64) -> Command {
    Command::ForceRecover {
        volume: V,
        base: Epoch(base),
        survivors: survivors.iter().copied().map(NodeId).collect(),
        primary: NodeId(primary),
        at_ms: 7,
        by: by(),
        known: Known::default(),
    }
}

fn kept(epoch: u64, last: u64, known: u64, whole: bool) -> Command {
    Command::NoteKept { volume: V, epoch: Epoch(epoch), last: Lsn(last), known: Lsn(known), whole }
}

fn found(node: u64, last: u64, committed: u64) -> Command {
    let found = FoundCopy { last_epoch: Epoch(1), last: Lsn(last), committed: Lsn(committed), whole: true };
    Command::FoundCopy { volume: V, node: NodeId(node), incarnation: Incarnation(10 + node), found }
}

fn refused(state: &State, command: &Command) -> RefusalKind {
    let mut after = state.clone();
    let kind = after.apply(command).expect_err("a refusal").kind;
    assert_eq!(after, *state, "a refusal changes nothing");
    kind
}

fn receipt(state: &State) -> &Receipt {
    state.volumes[&V].receipts.last().expect("there is one")
}

fn loss(state: &State) -> Loss {
    receipt(state).loss(Durability::Sync)
}

/// Epoch 1 of three copies is given up for the one on node 3, which goes on with record `last` in epoch 3.
fn recovered(last: u64, known: u64, whole: bool) -> State {
    let mut state = open();
    state.apply(&force(1, &[3], 3)).unwrap();
    state.apply(&claim(2, 3)).unwrap();
    state.apply(&kept(3, last, known, whole)).unwrap();
    state.apply(&activate(3)).unwrap();
    state
}

#[test]
fn who_is_given_up_decides_nothing_any_more() {
    let mut state = open();
    state.apply(&claim(1, 2)).unwrap();
    assert_eq!(state.apply(&force(1, &[3], 3)), Ok(Outcome::Epoch(Epoch(3))));
    // The claim of before is void, and so is whatever else names the old epoch.
    assert_eq!(refused(&state, &activate(2)), Stale);
    assert_eq!(refused(&state, &claim(1, 1)), Stale);
    assert_eq!(refused(&state, &claim(3, 1)), Unsafe, "no member");
    assert_eq!(refused(&state, &nominate(3, 2, false)), Invalid);
    assert_eq!(refused(&state, &force(1, &[1], 1)), Stale, "of two operators one wins");
    let view = state.view(V).unwrap();
    assert_eq!(view.active.members, [Member { node: NodeId(3), incarnation: Incarnation(13) }]);
    assert_eq!((view.active.write_quorum, view.forced.map(|f| (f.before, f.noted))), (1, Some((Epoch(1), None))));
    assert!(state.views_for(NodeId(1)).is_empty() && state.copies_unwanted(NodeId(1)).is_empty(), "kept, not deleted");
    let copy = State::decode(&state.encode(), Speaks::THIS).expect("it reads what it wrote");
    assert_eq!(copy, state);
}

#[test]
fn nothing_opens_without_a_receipt() {
    let mut state = open();
    state.apply(&force(1, &[3], 3)).unwrap();
    assert_eq!(refused(&state, &kept(3, 9, 0, false)), Stale, "nobody has claimed");
    state.apply(&claim(2, 3)).unwrap();
    assert_eq!(refused(&state, &activate(3)), Stale);
    state.apply(&kept(3, 9, 0, false)).unwrap();
    // Another claim on the same base says it anew.
    state.apply(&claim(2, 3)).unwrap();
    assert_eq!(refused(&state, &activate(4)), Stale);
    state.apply(&kept(4, 8, 0, false)).unwrap();
    assert_eq!(loss(&state), Loss::Open);
    state.apply(&activate(4)).unwrap();
    assert_eq!((loss(&state), state.view(V).unwrap().forced), (Loss::Possible { from: Lsn(9) }, None));
}

#[test]
fn a_receipt_says_what_is_lost_and_is_completed() {
    assert_eq!(loss(&recovered(9, 9, true)), Loss::Nothing, "the primary is left and had led until then");
    let mut state = recovered(9, 12, false);
    assert_eq!(loss(&state), Loss::Certain { from: Lsn(10), committed: Lsn(12), to: None });
    assert_eq!(
        refused(
            &state,
            &Command::FoundCopy {
                volume: V,
                node: NodeId(1),
                incarnation: Incarnation(99),
                found: FoundCopy { last_epoch: Epoch(1), last: Lsn(99), committed: Lsn(99), whole: true },
            }
        ),
        Stale,
        "a blank disk tells nothing"
    );
    // W = 2 of 3: with the survivor and one more every write quorum is met.
    state.apply(&found(2, 14, 13)).unwrap();
    assert_eq!(loss(&state), Loss::Certain { from: Lsn(10), committed: Lsn(13), to: Some(Lsn(14)) });
    assert!(receipt(&state).is_complete(Durability::Sync) && !receipt(&state).is_complete(Durability::Flush));
    state.apply(&found(1, 15, 13)).unwrap();
    assert!(receipt(&state).is_complete(Durability::Flush));
    let mut state = recovered(9, 0, false);
    state.apply(&found(1, 9, 8)).unwrap();
    assert_eq!(loss(&state), Loss::Nothing);
    let mut state = recovered(9, 0, false);
    state.apply(&found(1, 11, 8)).unwrap();
    assert_eq!(loss(&state), Loss::Bounded { from: Lsn(10), to: Lsn(11) });
}

#[test]
fn evidence_goes_when_an_operator_says_so() {
    let mut state = recovered(9, 9, false);
    let (v, n1, n2) = (V, NodeId(1), NodeId(2));
    assert_eq!(
        refused(&state, &Command::RegisterCopy { volume: v, node: n1, incarnation: Incarnation(11) }),
        RefusalKind::NotFound
    );
    state.apply(&Command::RemoveCopy { volume: v, node: n1 }).unwrap();
    assert_eq!(state.copies_unwanted(n1), [v]);
    // Made anew: the old one goes first, and another incarnation is registered.
    state.apply(&Command::AddCopy { volume: v, node: n2 }).unwrap();
    assert_eq!((state.copies_unwanted(n2), state.copies_wanted(n2).len()), (vec![v], 0));
    state.apply(&Command::CopyDeleted { volume: v, node: n2 }).unwrap();
    assert_eq!(state.copies_wanted(n2).len(), 1);
    state.apply(&Command::RegisterCopy { volume: v, node: n2, incarnation: Incarnation(77) }).unwrap();
    assert_eq!(state.volumes[&v].incarnation(n2), Some(Incarnation(77)));
    let mut state = recovered(9, 9, false);
    state.apply(&Command::DeleteVolume { volume: v }).unwrap();
    assert_eq!(state.copies_unwanted(n1), [v], "with the volume everything goes");
}

#[test]
fn survivors_are_members_and_one_of_them_leads() {
    let state = open();
    for bad in [force(1, &[], 3), force(1, &[3], 2), force(1, &[3, 9], 3)] {
        assert_eq!(refused(&state, &bad), Invalid, "{bad:?}");
    }
    assert_eq!(refused(&unopened(), &force(0, &[3], 3)), Stale);
}

/// What node 3's detector has heard: (node, role, durable, committed) at `at`.
fn heard(copies: &[(u64, CopyRole, u64, u64)], at: Time) -> Detector {
    let mut detector = Detector::new(Duration::from_secs(1), Time::ZERO);
    for (node, role, durable, committed) in copies {
        let state = if *role == CopyRole::Primary { CopyState::Serving } else { CopyState::InSync };
        let mut copy = report(*role, state, 1, *durable);
        copy.committed = Lsn(*committed);
        detector.heard(
            Heartbeat { node: NodeId(*node), life: 1, copies: vec![copy], free_bytes: None, longest_file: None },
            at,
        );
    }
    detector
}

#[test]
fn a_plan_names_who_is_left_and_what_is_known() {
    let at = |seconds| Time::ZERO + Duration::from_secs(seconds);
    let (secondary, primary) = (CopyRole::Secondary, CopyRole::Primary);
    let all = [(1, primary, 20, 18), (2, secondary, 18, 17), (3, secondary, 15, 15)];
    let mut detector = heard(&all, at(10));
    let plan = |d: &Detector, to: Option<u64>, now| recovery_plan(&open(), d, (V, to.map(NodeId)), (now, 1_000_000));
    assert_eq!(plan(&detector, None, at(10)).unwrap_err().kind, Unsafe, "all of them answer");
    assert_eq!(plan(&detector, None, at(20)).unwrap_err().kind, Unsafe, "nobody does");
    detector.lives(NodeId(3), 1, at(20));
    let found = plan(&detector, None, at(20)).unwrap();
    assert_eq!((found.survivors.as_slice(), found.primary, found.base), ([NodeId(3)].as_slice(), NodeId(3), Epoch(1)));
    assert_eq!((found.held, found.known.committed, found.whole), (Lsn(15), Lsn(18), false));
    assert_eq!((found.known.until_ms, found.known.since_ms), (Some(990_000), None), "more was committed than is held");
    assert_eq!(plan(&detector, Some(2), at(20)).unwrap_err().kind, Unsafe, "it does not answer");
    // Two of three meet every write quorum.
    detector.lives(NodeId(2), 1, at(20));
    assert_eq!(plan(&detector, None, at(20)).unwrap_err().kind, Unsafe);
    let mut alone = heard(&[(1, primary, 20, 18), (2, secondary, 18, 18), (3, secondary, 18, 18)], at(10));
    alone.lives(NodeId(1), 1, at(20));
    assert!(plan(&alone, None, at(20)).unwrap().whole, "the primary is left");
    let mut behind = heard(&[(1, primary, 20, 18), (2, secondary, 18, 18), (3, secondary, 18, 18)], at(10));
    behind.lives(NodeId(3), 1, at(20));
    assert_eq!(plan(&behind, None, at(20)).unwrap().known.since_ms, Some(989_000), "what was reported is held");
}

#[test]
fn a_copy_that_is_not_whole_does_not_bound_the_loss() {
    let mut state = recovered(9, 0, false);
    let found = FoundCopy { last_epoch: Epoch(1), last: Lsn(9), committed: Lsn(9), whole: false };
    let (node, incarnation) = (NodeId(2), Incarnation(12));
    state.apply(&Command::FoundCopy { volume: V, node, incarnation, found }).unwrap();
    assert_eq!(loss(&state), Loss::Possible { from: Lsn(10) });
}

#[test]
fn a_recovery_that_never_opened_is_continued_by_the_next_one() {
    let mut state = cluster(5);
    state.apply(&create("disk", &[1, 2, 3, 4, 5])).unwrap();
    for n in 1..=5 {
        state.apply(&register(1, n, 10 + n)).unwrap();
    }
    state.apply(&claim(0, 1)).unwrap();
    state.apply(&activate(1)).unwrap();
    state.apply(&force(1, &[4, 5], 4)).unwrap();
    assert_eq!(state.view(V).unwrap().active.write_quorum, 2);
    state.apply(&force(2, &[5], 5)).unwrap();
    state.apply(&claim(3, 5)).unwrap();
    state.apply(&kept(4, 9, 0, false)).unwrap();
    state.apply(&activate(4)).unwrap();
    // Node 4 alone does not stand for the three that were given up first.
    state.apply(&found(4, 9, 9)).unwrap();
    assert_eq!((loss(&state), state.volumes[&V].receipts.len()), (Loss::Possible { from: Lsn(10) }, 1));
    state.apply(&found(1, 30, 20)).unwrap();
    assert_eq!(loss(&state), Loss::Certain { from: Lsn(10), committed: Lsn(20), to: Some(Lsn(30)) });
}

/// What a build without forced recoveries wrote is read, and what this one writes without any is what that one wrote.
#[test]
fn a_state_without_recoveries_is_as_it_was() {
    let state = open();
    let text = String::from_utf8(state.encode()).unwrap();
    assert!(!text.contains("receipts") && !text.contains("aside"), "{text}");
    assert_eq!(State::decode(text.as_bytes(), Speaks::THIS).unwrap(), state);
}

/// It was heard of at 10 s like all others; something is wrong with its copy.
fn with(detector: &mut Detector, node: u64, change: impl Fn(&mut crate::CopyReport)) {
    let mut copy = detector.report(NodeId(node), V).expect("it was heard of").clone();
    change(&mut copy);
    let heartbeat = Heartbeat { node: NodeId(node), life: 1, copies: vec![copy], free_bytes: None, longest_file: None };
    detector.heard(heartbeat, Time::ZERO + Duration::from_secs(10));
}

#[test]
fn a_damaged_copy_is_no_survivor() {
    let at = |s: u64| Time::ZERO + Duration::from_secs(s);
    let follows = CopyRole::Secondary;
    let plan = |d: &Detector| recovery_plan(&open(), d, (V, None), (at(10), 1_000_000));
    let two = || heard(&[(2, follows, 9, 9), (3, follows, 12, 12)], at(10));
    assert_eq!(plan(&two()).unwrap_err().kind, Unsafe, "two of three are enough without any force");
    // One of the two can't read what it once held: the other one alone goes on, although its log is shorter.
    let mut damaged = two();
    with(&mut damaged, 3, |c| c.damaged = Some("records up to 12 can't be read".into()));
    let found = plan(&damaged).expect("one copy is sound");
    assert_eq!((found.survivors.clone(), found.primary), (vec![NodeId(2)], NodeId(2)));
    let named = found.members.iter().find(|m| m.heard.node == NodeId(3)).unwrap();
    assert_eq!((named.survives, named.state.as_str()), (false, "damaged: records up to 12 can't be read"));
    with(&mut damaged, 2, |c| c.damaged = Some("too".into()));
    let refused = plan(&damaged).unwrap_err();
    assert!(refused.kind == Unsafe && refused.message.contains("n3 (damaged: records up to 12"), "{refused}");
    // Blocks that nobody has are no reason to give a copy up, but another one leads.
    let mut rotten = heard(&[(3, follows, 12, 12), (2, follows, 9, 9)], at(10));
    let rot = |c: &mut crate::CopyReport| c.integrity.unrepairable = vec![crate::Blocks { offset: 0, length: 4096 }];
    with(&mut rotten, 3, rot);
    with(&mut rotten, 2, |c| c.damaged = Some("gone".into()));
    let found = plan(&rotten).expect("it is the only one");
    assert!(
        found.members.iter().any(|m| m.survives && m.state == "answers, but 4096 bytes of it are rotten"),
        "{found:?}"
    );
}

#[test]
fn a_copy_that_is_still_opening_is_waited_for() {
    let at = Time::ZERO + Duration::from_secs(10);
    let mut detector = heard(&[(2, CopyRole::Secondary, 9, 9), (3, CopyRole::Secondary, 12, 12)], at);
    let failed = |c: &mut crate::CopyReport| c.state = CopyState::Failed { reason: "EIO".into() };
    let opens = |c: &mut crate::CopyReport| {
        (c.role, c.state, c.epoch, c.durable) = (CopyRole::Idle, CopyState::Opening, Epoch::ZERO, Lsn::ZERO);
    };
    with(&mut detector, 2, failed);
    with(&mut detector, 3, opens);
    // Nobody knows yet what it holds: it may be damaged, and its log is not empty.
    let refused = recovery_plan(&open(), &detector, (V, None), (at, 1_000_000)).unwrap_err();
    assert!(refused.kind == Unsafe && refused.message.contains("n3 is just starting"), "{refused}");
}

/// G4: enough copies answer, but one of them knows of a reign that nobody here has heard of. It opens by no other order.
#[test]
fn a_volume_that_waits_for_an_operators_word_on_an_unknown_reign_takes_it() {
    let state = crate::tests::regime::recovered(&open());
    let now = Time::ZERO + Duration::from_secs(10);
    let mut detector = heard(&[1, 2, 3].map(|node| (node, CopyRole::Secondary, 9, 9)), now);
    let plan = |d: &Detector| recovery_plan(&state, d, (V, None), (now, 1_000_000));
    assert!(plan(&detector).unwrap_err().message.contains("enough to go on without losing anything"));
    with(&mut detector, 2, |copy| copy.unknown_reign = true);
    assert_eq!(plan(&detector).unwrap().survivors.len(), 3);
}
