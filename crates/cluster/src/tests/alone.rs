//! Two copies and a witness: who goes on alone, who waits, and what the one that was left out may do.

use super::decider::{Scene, in_sync, report, serving};
use super::*;
use crate::RefusalKind::{self, Invalid, Stale, Unsafe};
use crate::{
    Copies, CopyReport, CopyRole, CopyState, Degraded, Detector, Duty, Heartbeat, Known, Loss, Operator,
    RefusalKind as Kind, Why, recovery_plan, status,
};
use holdfast_types::{GuestLimits, Lsn, Member, SocketAccess, Speaks, Time};
use std::time::Duration;

const V: VolumeId = VolumeId(1);

/// Nodes 1 and 2 hold the volume, which is open under node 1; node 3 votes.
fn pair(degraded: Option<Degraded>) -> State {
    let mut state = cluster(3);
    let Command::CreateVolume { name, size, durability, write_quorum, nodes, primary, .. } = create("disk", &[1, 2])
    else {
        unreachable!()
    };
    let (limits, socket) = (GuestLimits::default(), SocketAccess::default());
    let command =
        Command::CreateVolume { name, size, durability, write_quorum, nodes, primary, degraded, limits, socket };
    state.apply(&command).unwrap();
    for node in 1..=2 {
        state.apply(&register(1, node, 10 + node)).unwrap();
    }
    state.apply(&claim(0, 1)).unwrap();
    state.apply(&activate(1)).unwrap();
    state
}

fn go_alone(base: u64, node: u64) -> Command {
    Command::GoAlone { volume: V, base: Epoch(base), node: NodeId(node) }
}

fn reconfigure(base: u64, node: u64, nodes: &[u64]) -> Command {
    let members = nodes.iter().map(|n| Member { node: NodeId(*n), incarnation: Incarnation(10 + n) }).collect();
    Command::Reconfigure { volume: V, base: Epoch(base), node: NodeId(node), life: Life(100 + node), members }
}

fn refused(state: &State, command: &Command) -> RefusalKind {
    let mut after = state.clone();
    let kind = after.apply(command).expect_err("a refusal").kind;
    assert_eq!(after, *state, "a refusal changes nothing");
    kind
}

fn copies(state: &State) -> &Copies {
    let Phase::Open { copies, .. } = phase(state) else { panic!("it is open") };
    copies
}

fn members(state: &State) -> Vec<u64> {
    state.view(V).unwrap().active.members.iter().map(|m| m.node.0).collect()
}

/// Node 1 goes on alone in epoch 2.
fn single() -> State {
    let mut state = pair(Some(Degraded::Allow));
    state.apply(&go_alone(1, 1)).unwrap();
    state.apply(&reconfigure(1, 1, &[1])).unwrap();
    state.apply(&activate(2)).unwrap();
    state
}

#[test]
fn a_primary_goes_on_alone_and_takes_the_other_copy_back() {
    let mut state = pair(Some(Degraded::Allow));
    assert_eq!(refused(&state, &reconfigure(1, 1, &[1])), Stale, "nobody decides that alone");
    assert_eq!(refused(&state, &go_alone(1, 3)), Invalid, "a witness holds nothing");
    assert_eq!(refused(&state, &go_alone(0, 1)), Stale);
    state.apply(&go_alone(1, 1)).unwrap();
    assert_eq!(state.apply(&go_alone(1, 1)), Ok(Outcome::Done), "to say it again does no harm");
    assert_eq!(members(&state), [1, 2], "nothing is decided by the wish");
    assert_eq!(refused(&state, &reconfigure(1, 1, &[2])), Stale, "the primary stays");
    state.apply(&reconfigure(1, 1, &[1])).unwrap();
    state.apply(&activate(2)).unwrap();
    let view = state.view(V).unwrap();
    assert_eq!((members(&state), view.active.write_quorum, view.alone), (vec![1], 1, None));
    assert_eq!(view.learners, [Member { node: NodeId(2), incarnation: Incarnation(12) }], "it keeps what it holds");
    assert_eq!(copies(&state).left_out[&NodeId(2)], Epoch(1));
    assert!(state.copies_unwanted(NodeId(2)).is_empty() && state.copies_wanted(NodeId(2)).is_empty());
    // What was left out never leads.
    assert_eq!(refused(&state, &claim(2, 2)), Unsafe);
    assert_eq!(refused(&state, &nominate(2, 2, false)), Invalid);
    assert_eq!(refused(&state, &go_alone(2, 2)), Invalid);
    let copy = State::decode(&state.encode(), Speaks::THIS).expect("it reads what it wrote");
    assert_eq!(copy, state);
    state.apply(&reconfigure(2, 1, &[1, 2])).unwrap();
    state.apply(&activate(3)).unwrap();
    assert_eq!((members(&state), state.view(V).unwrap().active.write_quorum), (vec![1, 2], 2));
    assert!(copies(&state).left_out.is_empty() && copies(&state).learners.is_empty());
}

#[test]
fn a_survivor_claims_alone_and_the_old_primary_only_learns() {
    let mut state = pair(Some(Degraded::Allow));
    state.apply(&nominate(1, 2, false)).unwrap();
    state.apply(&claim(1, 2)).unwrap();
    assert_eq!(state.view(V).unwrap().pending.unwrap().configuration.members.len(), 2);
    state.apply(&go_alone(1, 2)).unwrap();
    let view = state.view(V).unwrap();
    assert_eq!(view.nominee.map(|n| n.node), Some(NodeId(2)));
    let mut both = state.clone();
    both.apply(&activate(2)).expect("both hold the claimed epoch after all");
    assert_eq!((members(&both), both.view(V).unwrap().alone), (vec![1, 2], None), "nobody needs to go on alone");
    // The old primary comes back first: its claim has both members, so it opens nothing without node 2.
    state.apply(&claim(1, 1)).unwrap();
    assert_eq!(state.view(V).unwrap().pending.unwrap().configuration.members.len(), 2);
    state.apply(&claim(1, 2)).unwrap();
    assert_eq!(state.view(V).unwrap().pending.unwrap().configuration.members.len(), 1);
    assert_eq!(state.apply(&activate(4)), Ok(Outcome::Epoch(Epoch(4))));
    assert_eq!(members(&state), [2]);
    assert_eq!(refused(&state, &claim(4, 1)), Unsafe);
    assert_eq!(state.views_for(NodeId(1)).len(), 1, "it learns");
}

#[test]
fn of_two_survivors_one_goes_on() {
    let mut state = pair(Some(Degraded::Allow));
    state.apply(&go_alone(1, 1)).unwrap();
    state.apply(&reconfigure(1, 1, &[1])).unwrap();
    state.apply(&go_alone(1, 2)).unwrap();
    let mut first = state.clone();
    first.apply(&activate(2)).unwrap();
    assert_eq!((members(&first), refused(&first, &claim(2, 2))), (vec![1], Unsafe));
    assert!(copies(&first).left_out.contains_key(&NodeId(2)) && first.copies_unwanted(NodeId(2)).is_empty());
    state.apply(&claim(1, 2)).unwrap();
    assert_eq!(refused(&state, &activate(2)), Stale, "replaced by the newer claim");
    state.apply(&activate(3)).unwrap();
    assert_eq!((members(&state), refused(&state, &claim(3, 1))), (vec![2], Unsafe));
}

#[test]
fn whoever_is_to_wait_never_goes_on_alone() {
    for degraded in [Some(Degraded::Stall), None] {
        let state = pair(degraded);
        assert_eq!(refused(&state, &go_alone(1, 1)), Unsafe);
        let mut scene = watched(state);
        scene.say(1, Some(misses(serving(), 2)));
        scene.silence(2);
        assert!(scene.run(60_000).is_empty());
        let shown = status(&scene.state, &scene.detector, scene.now).volumes.remove(0);
        assert!(shown.reasons.iter().any(|r| r.contains("both copies must hold a write")), "{shown:?}");
    }
    let mut state = cluster(3);
    let Command::CreateVolume { name, size, durability, write_quorum, nodes, primary, .. } = create("disk", &[1, 2, 3])
    else {
        unreachable!()
    };
    let degraded = Some(Degraded::Allow);
    let (limits, socket) = (GuestLimits::default(), SocketAccess::default());
    let three =
        Command::CreateVolume { name, size, durability, write_quorum, nodes, primary, degraded, limits, socket };
    assert_eq!(refused(&state, &three), Invalid, "that is a choice for two copies");
    state.apply(&create("disk", &[1, 2, 3])).unwrap();
}

#[test]
fn a_state_without_the_choice_is_read() {
    let text = String::from_utf8(pair(None).encode()).unwrap();
    assert!(!text.contains("degraded") && !text.contains("left_out") && !text.contains("alone"), "{text}");
}

/// The leader of the control group is node 3, as in every scene.
fn watched(state: State) -> Scene {
    let mut scene = Scene::new(state, vec![(1, Some(serving())), (2, Some(in_sync(9))), (3, None)]);
    assert!(scene.run(5_000).is_empty(), "nothing to do");
    scene
}

fn misses(mut report: CopyReport, node: u64) -> CopyReport {
    report.absent = vec![NodeId(node)];
    report
}

#[test]
fn the_leader_acts_on_the_word_of_whoever_leads() {
    let mut scene = watched(pair(Some(Degraded::Allow)));
    scene.silence(2);
    assert!(scene.run(10_000).is_empty(), "the primary reaches it: the leader alone does not hear it");
    let mut scene = watched(pair(Some(Degraded::Allow)));
    scene.say(1, Some(misses(serving(), 2)));
    assert!(scene.run(900).is_empty(), "a connection that is made anew is no lost copy");
    scene.say(1, Some(serving()));
    scene.run(200);
    scene.say(1, Some(misses(serving(), 2)));
    assert!(scene.run(900).is_empty(), "and its time begins anew");
    assert_eq!(scene.run(300), [go_alone(1, 1)], "cut off from the primary, though the leader hears it");
    assert!(scene.run(5_000).is_empty(), "it is agreed");
}

#[test]
fn a_claimant_that_finds_nobody_goes_on_alone() {
    let mut scene = watched(pair(Some(Degraded::Allow)));
    scene.silence(1);
    assert_eq!(scene.run(1_500), [nominate(1, 2, false)], "first as with more copies");
    scene.say(2, Some(misses(report(CopyRole::Claimant, CopyState::Opening, 2, 9), 1)));
    assert_eq!(scene.run(1_500), [go_alone(1, 2)]);
    // Neither one that restarts in order, nor one whose log is damaged.
    let mut scene = watched(pair(Some(Degraded::Allow)));
    scene.detector.restarts(NodeId(2), 1, Duration::from_secs(30), scene.now);
    scene.silence(2);
    scene.say(1, Some(misses(serving(), 2)));
    assert!(scene.run(20_000).is_empty(), "it has asked to be waited for");
    let mut scene = watched(pair(Some(Degraded::Allow)));
    let mut damaged = misses(serving(), 2);
    damaged.damaged = Some("record 7 can't be read".into());
    scene.say(1, Some(damaged));
    scene.silence(2);
    assert!(scene.run(20_000).is_empty(), "it may lack what was acknowledged");
}

#[test]
fn a_device_that_hangs_or_fails_is_a_lost_copy() {
    let mut scene = watched(pair(Some(Degraded::Allow)));
    let mut hung = in_sync(9);
    hung.hung = Some("no answer".into());
    scene.say(2, Some(hung));
    assert_eq!(scene.run(2_000), [go_alone(1, 1)]);
    let mut scene = watched(pair(Some(Degraded::Allow)));
    let mut hung = serving();
    hung.hung = Some("no answer".into());
    scene.say(1, Some(hung));
    assert_eq!(scene.run(300), [nominate(1, 2, false)], "the other one could hold writes alone");
}

fn sentences(state: &State, live: &[(u64, CopyReport)]) -> Vec<String> {
    let mut detector = Detector::new(Duration::from_secs(1), Time::ZERO);
    let now = Time::ZERO + Duration::from_secs(10);
    for (node, report) in live {
        let heartbeat = Heartbeat {
            node: NodeId(*node),
            life: 1,
            copies: vec![report.clone()],
            free_bytes: None,
            longest_file: None,
        };
        detector.heard(heartbeat, now);
    }
    let shown = status(state, &detector, now).volumes.remove(0);
    assert!(shown.single_copy);
    shown.reasons
}

#[test]
fn status_says_that_there_is_one_copy_and_what_to_do() {
    let alone = sentences(&single(), &[(1, serving())]);
    assert!(alone[0].contains("SINGLE COPY: n1 goes on alone") && alone[0].contains("bring n2 back"), "{alone:?}");
    assert!(alone[0].contains("holdfast copy replace disk n2 NODE"), "{alone:?}");
    let back = report(CopyRole::Secondary, CopyState::CatchingUp, 2, 5);
    let returning = sentences(&single(), &[(1, serving()), (2, back.clone())]);
    assert!(returning[0].contains("is catching up and counts again by itself"), "{returning:?}");
    let waits = sentences(&single(), &[(2, back)]);
    assert!(waits[0].contains("the copy on n2 answers, lacks them, and waits"), "{waits:?}");
    assert!(waits[0].contains("failover disk --force --accept-loss"), "{waits:?}");
}

#[test]
fn a_copy_that_was_left_out_is_kept_until_another_one_counts() {
    let moved = Command::MoveCopy { volume: V, old: NodeId(2), new: NodeId(3), why: Why::Gone };
    let mut state = single();
    state.apply(&moved).unwrap();
    assert!(state.copies_unwanted(NodeId(2)).is_empty(), "nothing is thrown away before another one counts");
    assert_eq!(state.view(V).unwrap().learners.len(), 1, "it may still come back first");
    // It is back first.
    let mut back = state.clone();
    back.apply(&Command::KeepCopy { volume: V, node: NodeId(2) }).unwrap();
    assert_eq!(back.copies_unwanted(NodeId(3)), [V]);
    back.apply(&reconfigure(2, 1, &[1, 2])).unwrap();
    back.apply(&activate(3)).unwrap();
    assert_eq!(members(&back), [1, 2]);
    // The other one counts first.
    state.apply(&register(1, 3, 13)).unwrap();
    state.apply(&reconfigure(2, 1, &[1, 3])).unwrap();
    state.apply(&activate(3)).unwrap();
    assert_eq!((members(&state), state.copies_unwanted(NodeId(2))), (vec![1, 3], vec![V]));
    assert!(copies(&state).left_out.is_empty());
}

/// Node 2 is left out and node 3 is to take its place; node 4 is spare.
fn replaced(why: Why) -> State {
    let mut state = single();
    state.apply(&add_node("n4")).unwrap();
    state.apply(&Command::MoveCopy { volume: V, old: NodeId(2), new: NodeId(3), why }).unwrap();
    state
}

#[test]
fn a_node_stays_while_its_left_out_copy_is_kept() {
    let mut state = replaced(Why::Gone);
    let remove = Command::RemoveNode { node: NodeId(2) };
    assert_eq!(refused(&state, &remove), Unsafe);
    assert_eq!(refused(&state, &Command::WantNode { node: NodeId(2), wanted: Duty::Removed }), Unsafe);
    state.apply(&register(1, 3, 13)).unwrap();
    state.apply(&reconfigure(2, 1, &[1, 3])).unwrap();
    state.apply(&activate(3)).unwrap();
    state.apply(&remove).expect("the other one counts: nobody needs what it holds");
    assert!(state.node(NodeId(2)).is_none() && copies(&state).dropped.is_empty());
}

#[test]
fn a_copy_that_is_to_go_is_kept_when_the_volume_goes_on_without_it() {
    let moved = Command::MoveCopy { volume: V, old: NodeId(2), new: NodeId(3), why: Why::Drained };
    let replaced = Command::ReplaceCopy { volume: V, old: NodeId(2), new: NodeId(3) };
    for (command, why) in [(moved, Why::Drained), (replaced, Why::Asked)] {
        let mut state = pair(Some(Degraded::Allow));
        state.apply(&command).unwrap();
        state.apply(&go_alone(1, 1)).unwrap();
        state.apply(&reconfigure(1, 1, &[1])).unwrap();
        state.apply(&activate(2)).unwrap();
        assert!(state.copies_unwanted(NodeId(2)).is_empty(), "nothing else is as complete until node 3 is");
        assert_eq!(copies(&state).left_out[&NodeId(2)], Epoch(1));
        assert_eq!(copies(&state).successor_of(NodeId(2)), Some((NodeId(3), why)), "it goes once node 3 counts");
        assert_eq!(State::decode(&state.encode(), Speaks::THIS).expect("it reads what it wrote"), state);
        // It is back first: all is as before.
        let mut back = state.clone();
        back.apply(&reconfigure(2, 1, &[1, 2])).unwrap();
        back.apply(&activate(3)).unwrap();
        assert_eq!((members(&back), copies(&back).successor_of(NodeId(2))), (vec![1, 2], Some((NodeId(3), why))));
        // Nobody is to take its place after all.
        let mut kept = state.clone();
        kept.apply(&Command::RemoveCopy { volume: V, node: NodeId(3) }).unwrap();
        assert!(copies(&kept).wanted.contains(&NodeId(2)), "it is needed as before");
        // Its successor is another one.
        state.apply(&add_node("n4")).unwrap();
        state.apply(&Command::ReplaceCopy { volume: V, old: NodeId(3), new: NodeId(4) }).unwrap();
        assert!(state.copies_unwanted(NodeId(2)).is_empty(), "nor is node 4 complete");
        state.apply(&register(1, 4, 14)).unwrap();
        state.apply(&reconfigure(2, 1, &[1, 4])).unwrap();
        state.apply(&activate(3)).unwrap();
        assert_eq!((members(&state), state.copies_unwanted(NodeId(2))), (vec![1, 4], vec![V]));
    }
    // Whoever is to go for good, and for nobody, goes.
    let mut state = pair(Some(Degraded::Allow));
    state.apply(&Command::RemoveCopy { volume: V, node: NodeId(2) }).unwrap();
    state.apply(&go_alone(1, 1)).unwrap();
    state.apply(&reconfigure(1, 1, &[1])).unwrap();
    state.apply(&activate(2)).unwrap();
    assert_eq!((state.copies_unwanted(NodeId(2)), copies(&state).left_out.len()), (vec![V], 0));
}

#[test]
fn a_copy_that_is_about_to_count_again_keeps_its_successor() {
    let replace = |old, new| Command::ReplaceCopy { volume: V, old: NodeId(old), new: NodeId(new) };
    let returning = || {
        let mut state = single();
        state.apply(&add_node("n4")).unwrap();
        state.apply(&reconfigure(2, 1, &[1, 2])).unwrap();
        state.apply(&Command::MoveCopy { volume: V, old: NodeId(2), new: NodeId(3), why: Why::Drained }).unwrap();
        state
    };
    let mut state = returning();
    state.apply(&replace(3, 4)).unwrap();
    assert_eq!(copies(&state).successor_of(NodeId(2)), Some((NodeId(4), Why::Asked)));
    state.apply(&activate(3)).unwrap();
    assert_eq!((members(&state), copies(&state).successor_of(NodeId(2)).is_some()), (vec![1, 2], true));
    // A member that was to go takes the place of the new copy: then nobody succeeds the one that is about to count.
    let mut state = returning();
    state.apply(&add_node("n5")).unwrap();
    state.apply(&replace(1, 4)).unwrap();
    assert_eq!(refused(&state, &replace(3, 1)), Stale);
    state.apply(&activate(3)).unwrap();
    state.apply(&replace(3, 1)).unwrap();
}

#[test]
fn a_survivor_that_is_to_go_goes_on_until_others_count() {
    let moved = Command::MoveCopy { volume: V, old: NodeId(1), new: NodeId(3), why: Why::Drained };
    let removed = Command::RemoveCopy { volume: V, node: NodeId(1) };
    for (command, wanted) in [(moved, Duty::Drained), (removed, Duty::InService)] {
        let mut scene = watched(pair(Some(Degraded::Allow)));
        scene.state.apply(&Command::WantNode { node: NodeId(1), wanted }).unwrap();
        scene.state.apply(&command).unwrap();
        scene.say(1, Some(misses(serving(), 2)));
        scene.silence(2);
        assert_eq!(scene.run(3_000).last(), Some(&go_alone(1, 1)), "and no second time");
        assert_eq!(scene.state.view(V).unwrap().alone, Some(NodeId(1)), "agreed");
        let mut state = scene.state;
        state.apply(&reconfigure(1, 1, &[1])).unwrap();
        state.apply(&activate(2)).unwrap();
        assert_eq!((members(&state), state.view(V).unwrap().leaving.len()), (vec![1], 0));
        assert_eq!(copies(&state).left_out[&NodeId(2)], Epoch(1));
        // The other one is back, and nothing keeps the first one any more.
        state.apply(&reconfigure(2, 1, &[1, 2])).unwrap();
        state.apply(&activate(3)).unwrap();
        let leaves = state.view(V).unwrap().leaving == [NodeId(1)];
        assert_eq!(leaves, copies(&state).successors.is_empty(), "once its successor counts, if it has one");
    }
}

#[test]
fn what_an_operator_replaces_is_not_taken_back_by_the_leader() {
    let mut state = pair(Some(Degraded::Allow));
    state.apply(&Command::ReplaceCopy { volume: V, old: NodeId(2), new: NodeId(3) }).unwrap();
    state.apply(&go_alone(1, 1)).unwrap();
    state.apply(&reconfigure(1, 1, &[1])).unwrap();
    state.apply(&activate(2)).unwrap();
    let mut scene = Scene::new(state, vec![(1, Some(serving())), (2, Some(in_sync(9))), (3, None)]);
    assert!(scene.run(5_000).is_empty(), "it stays replaced, though it is in service and in sync");
}

#[test]
fn an_operator_may_go_on_with_the_copy_that_was_left_out() {
    let state = single();
    let mut detector = Detector::new(Duration::from_secs(1), Time::ZERO);
    let heard = |detector: &mut Detector, node: u64, report: CopyReport, ms: u64| {
        let heartbeat =
            Heartbeat { node: NodeId(node), life: 1, copies: vec![report], free_bytes: None, longest_file: None };
        detector.heard(heartbeat, Time::ZERO + Duration::from_millis(ms));
    };
    let mut led = serving();
    (led.durable, led.committed) = (Lsn(20), Lsn(20));
    heard(&mut detector, 1, led, 1_000);
    heard(&mut detector, 2, report(CopyRole::Secondary, CopyState::CatchingUp, 1, 12), 9_000);
    let now = (Time::ZERO + Duration::from_millis(9_100), 50_000);
    let plan = recovery_plan(&state, &detector, (V, None), now).expect("the copy that was left out answers");
    assert_eq!(
        (plan.survivors.clone(), plan.primary, plan.stale, plan.alone),
        (vec![NodeId(2)], NodeId(2), true, true)
    );
    assert!(plan.members.iter().any(|m| m.survives && m.state == "answers, left out after e1"), "{plan:?}");
    // As long as the one that counts answers there is nothing to force.
    heard(&mut detector, 1, serving(), 9_000);
    assert_eq!(recovery_plan(&state, &detector, (V, None), now).unwrap_err().kind, Kind::Unsafe);

    let mut state = state;
    let by = Operator { uid: Some(0), user: "root".into(), host: "h1".into() };
    assert_eq!(state.apply(&plan.command(by, 7)), Ok(Outcome::Epoch(Epoch(3))));
    assert_eq!((members(&state), state.views_for(NodeId(1)).len()), (vec![2], 0));
    assert_eq!(copies(&state).aside[&NodeId(1)], Incarnation(11), "whoever went on alone is evidence");
    state.apply(&claim(3, 2)).unwrap();
    state
        .apply(&Command::NoteKept { volume: V, epoch: Epoch(4), last: Lsn(12), known: Lsn(12), whole: false })
        .unwrap();
    state.apply(&activate(4)).unwrap();
    let receipt = state.volumes[&V].receipts.last().unwrap();
    assert!(receipt.stale);
    assert_eq!(
        receipt.loss(Durability::Sync),
        Loss::Certain { from: Lsn(13), committed: Lsn(20), to: None },
        "what node 1 had acknowledged alone"
    );
    let known = Known::default();
    assert_ne!(receipt.known, known);
    assert_eq!(State::decode(&state.encode(), Speaks::THIS).expect("it reads what it wrote"), state);
}
