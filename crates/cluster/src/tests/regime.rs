//! What a recovery of the control plane makes of the state that is left (G3, G4, G5).

use super::*;
use crate::RefusalKind::Stale;
use crate::{Operator, Recovery};
use holdfast_types::{ClusterVersion, Generation, Life, Member, Speaks};
use std::collections::BTreeSet;

const V: VolumeId = VolumeId(1);

fn recovery(state: &State, node: u64, given_up: &[u64]) -> Recovery {
    let generation = state.generation().next(state.rank(NodeId(node)).unwrap()).unwrap();
    let by = Operator { uid: Some(0), user: "root".into(), host: "h".into() };
    let given_up = given_up.iter().copied().map(NodeId).collect();
    Recovery { generation, at_ms: 5, by, node: NodeId(node), given_up, before: state.generation(), term: 3, index: 9 }
}

pub(super) fn recovered(state: &State) -> State {
    state.clone().recovered(recovery(state, 3, &[1, 2])).unwrap()
}

#[test]
fn nothing_that_the_lost_can_have_given_away_is_given_away_again() {
    let mut before = open();
    before.apply(&Command::AddToken { id: 4, hash: "cd".repeat(32), expires: 9 }).unwrap();
    before.apply(&claim(1, 2)).unwrap();
    let mut state = recovered(&before);
    let floor = state.generation().floor();
    assert_eq!(state.generation(), Generation::FIRST.next(2).unwrap());
    assert!(state.tokens.is_empty(), "it may have been used");
    let view = state.view(V).unwrap();
    assert_eq!((view.active.epoch, view.recovered), (Epoch(floor + 1), Some(Epoch(1))));
    assert_eq!((&view.active.members, view.active.primary), (&before.view(V).unwrap().active.members, Some(NodeId(1))));
    assert_eq!((view.pending, view.nominee, view.alone), (None, None, None));
    // What the lost had pending, or ask for when they are back, names an epoch that is none any more.
    assert_eq!(state.apply(&activate(2)).unwrap_err().kind, Stale);
    assert_eq!(state.apply(&claim(1, 1)).unwrap_err().kind, Stale);
    assert_eq!(state.apply(&claim(floor + 1, 3)), Ok(Outcome::Epoch(Epoch(floor + 2))));
    assert_eq!(state.apply(&activate(floor + 2)), Ok(Outcome::Epoch(Epoch(floor + 2))));
    assert_eq!(state.view(V).unwrap().recovered, None, "it was opened");
    let Ok(Outcome::Node(node)) = state.apply(&add_node("new")) else { panic!("it joins") };
    assert!(node.0 >= state.generation().node_floor());
    assert_eq!(state.apply(&create("next", &[3])), Ok(Outcome::Volume(VolumeId(floor))));
    let copy = State::decode(&state.encode(), Speaks::THIS).expect("it reads what it wrote");
    assert_eq!(copy, state);
    let refused = State::decode(&state.encode(), Speaks::UNTOLD).unwrap_err().to_string();
    assert!(refused.contains("version 2"), "an agent that knows of no generations is told so: {refused}");
}

#[test]
fn a_cluster_of_the_first_version_is_raised_by_it() {
    let mut before = open();
    before.version = ClusterVersion::FIRST;
    assert_eq!(recovered(&before).version, ClusterVersion::TOLD);
}

#[test]
fn prospects_say_who_opens_by_itself() {
    let mut state = open();
    for (name, nodes, id) in [("pair", &[1, 2][..], 2), ("mine", &[3], 3)] {
        state.apply(&create(name, nodes)).unwrap();
        for n in nodes {
            state.apply(&register(id, *n, 20 + n)).unwrap();
        }
    }
    let by_itself = |lost: &[u64]| {
        let lost: BTreeSet<NodeId> = lost.iter().copied().map(NodeId).collect();
        state.prospects(&lost).iter().map(|p| p.by_itself).collect::<Vec<_>>()
    };
    assert_eq!(by_itself(&[]), [true, true, true]);
    assert_eq!(by_itself(&[1]), [true, false, true], "one of three may be silent, none of two");
    assert_eq!(by_itself(&[1, 2]), [false, false, true]);
}

#[test]
fn a_volume_that_was_not_open_yet_begins_with_an_epoch_that_nobody_can_have_led() {
    let mut state = cluster(3);
    state.apply(&create("v", &[1, 2, 3])).unwrap();
    state.apply(&register(1, 1, 11)).unwrap();
    let mut state = recovered(&state);
    for node in [2, 3] {
        state.apply(&register(1, node, 10 + node)).unwrap();
    }
    let view = state.view(V).unwrap();
    assert_eq!((view.active.epoch, view.recovered), (Epoch(state.generation().floor() + 1), Some(Epoch::ZERO)));
    assert_eq!(view.active.primary, Some(NodeId(1)));
}

/// F1 and G4: what was given up stays given up, and all that are left are still asked.
#[test]
fn a_forced_recovery_that_nobody_opened_goes_on() {
    let mut state = open();
    let force = Command::ForceRecover {
        volume: V,
        base: Epoch(1),
        survivors: vec![NodeId(3)],
        primary: NodeId(3),
        at_ms: 7,
        by: Operator { uid: None, user: String::new(), host: String::new() },
        known: crate::Known::default(),
    };
    state.apply(&force).unwrap();
    let state = recovered(&state);
    let view = state.view(V).unwrap();
    assert_eq!(view.active.members, [Member { node: NodeId(3), incarnation: Incarnation(13) }]);
    assert_eq!(view.forced.map(|f| f.before), Some(Epoch(1)));
    assert_eq!(view.recovered, Some(Epoch(2)), "it may have been opened, and members added, by those that are lost");
    assert!(view.is_unknown(Epoch(3)) && !view.is_fence(|n| n != NodeId(3)) && view.is_fence(|n| n == NodeId(3)));
    state.validate();
}

#[test]
fn a_receipt_that_does_not_fit_is_refused() {
    let state = open();
    let fits = recovery(&state, 3, &[1, 2]);
    let after = recovered(&state);
    assert!(after.clone().recovered(fits.clone()).is_err(), "of the regime before");
    let itself = Recovery { given_up: vec![NodeId(3)], ..fits.clone() };
    assert!(state.recovered(itself).is_err());
    let later = recovery(&after, 3, &[1]);
    assert!(later.generation > after.generation());
    let again = after.recovered(later).unwrap();
    assert_eq!(again.view(V).unwrap().recovered, Some(Epoch(1)), "it was not opened in between");
    assert_eq!(Recovery::decode(&fits.encode()), Some(fits.clone()));
    assert_eq!(Recovery::decode(&Recovery { generation: Generation::FIRST, ..fits }.encode()), None);
    assert_eq!(Recovery::decode(b"{}"), None);
}

/// S20: the lost may have made a copy anew where this state still wants the old one deleted.
#[test]
fn no_copy_is_deleted_before_its_volume_was_opened_again() {
    let mut before = open();
    before.apply(&Command::RemoveCopy { volume: V, node: NodeId(3) }).unwrap();
    let members = before.view(V).unwrap().active.members[..2].to_vec();
    let leaves = Command::Reconfigure { volume: V, base: Epoch(1), node: NodeId(1), life: Life(101), members };
    before.apply(&leaves).unwrap();
    before.apply(&activate(2)).unwrap();
    assert_eq!(before.copies_unwanted(NodeId(3)), [V]);
    let mut state = recovered(&before);
    assert_eq!(state.copies_unwanted(NodeId(3)), []);
    let base = state.view(V).unwrap().active.epoch;
    state.apply(&claim(base.0, 2)).unwrap();
    state.apply(&activate(base.0 + 1)).unwrap();
    assert_eq!(state.copies_unwanted(NodeId(3)), [V], "whoever was asked knew of no other copy");
}
