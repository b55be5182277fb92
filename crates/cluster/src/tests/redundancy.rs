//! Nodes that are drained, copies that are gone for long, and what is taken back.

use super::decider::{Scene, in_sync, report, serving};
use super::*;
use crate::placement::Loads;
use crate::{Copies, CopyRole, CopyState, Duty, RefusalKind, Successor, Why, placement, status};
use holdfast_types::{ClusterVersion, Member, Speaks};

/// Five nodes, volume 1 on the first three of them, all alive; the copies follow node 1.
fn five() -> Scene {
    let mut state = cluster(5);
    state.apply(&create("disk", &[1, 2, 3])).unwrap();
    for node in 1..=3 {
        state.apply(&register(1, node, 10 + node)).unwrap();
    }
    state.apply(&claim(0, 1)).unwrap();
    state.apply(&activate(1)).unwrap();
    let live = vec![(1, Some(serving())), (2, Some(in_sync(9))), (3, Some(in_sync(8))), (4, None), (5, None)];
    let mut scene = Scene::new(state, live);
    assert!(scene.run(5_000).is_empty(), "nothing to do");
    scene
}

fn want(scene: &mut Scene, node: u64, wanted: Duty) {
    scene.state.apply(&Command::WantNode { node: NodeId(node), wanted }).unwrap();
}

fn moved(old: u64, new: u64, why: Why) -> Command {
    Command::MoveCopy { volume: VolumeId(1), old: NodeId(old), new: NodeId(new), why }
}

fn kept(node: u64) -> Command {
    Command::KeepCopy { volume: VolumeId(1), node: NodeId(node) }
}

fn copies(scene: &Scene) -> &Copies {
    let Phase::Open { copies, .. } = phase(&scene.state) else { panic!("it is open") };
    copies
}

fn wanted(scene: &Scene) -> Vec<u64> {
    copies(scene).wanted.iter().map(|n| n.0).collect()
}

/// The learner there has registered its copy, and the primary makes it a member.
fn promote(scene: &mut Scene, base: u64, nodes: &[u64]) {
    let members = nodes.iter().map(|n| Member { node: NodeId(*n), incarnation: Incarnation(10 + n) }).collect();
    let (volume, base, node, life) = (VolumeId(1), Epoch(base), NodeId(1), Life(101));
    let epoch = scene.state.apply(&Command::Reconfigure { volume, base, node, life, members }).unwrap();
    let Outcome::Epoch(epoch) = epoch else { panic!("{epoch:?}") };
    scene.state.apply(&Command::Activate { volume, epoch }).unwrap();
}

fn minutes(scene: &mut Scene, minutes: u64) -> Vec<Command> {
    scene.run(minutes * 60_000)
}

#[test]
fn a_copy_that_is_gone_for_ten_minutes_is_replaced_on_a_spare_node() {
    let mut scene = five();
    scene.silence(3);
    assert!(minutes(&mut scene, 9).is_empty());
    let shown = status(&scene.state, &scene.detector, scene.now).volumes.remove(0).reasons.join("; ");
    assert!(shown.contains("the copy on n3, gone for 540 s, will be replaced on another node in 60 s"), "{shown}");
    assert_eq!(minutes(&mut scene, 2), [moved(3, 4, Why::Gone)]);
    assert_eq!((wanted(&scene), copies(&scene).successor_of(NodeId(3))), (vec![1, 2, 4], Some((NodeId(4), Why::Gone))));
    // The old one is a member until the new one counts.
    assert!(copies(&scene).leaving(&scene.state.view(VolumeId(1)).unwrap().active).is_empty());
    let shown = status(&scene.state, &scene.detector, scene.now).volumes.remove(0).reasons.join("; ");
    assert!(shown.contains("is being replaced on n4"), "{shown}");

    scene.state.apply(&register(1, 4, 14)).unwrap();
    promote(&mut scene, 1, &[1, 2, 3, 4]);
    assert!(copies(&scene).successors.is_empty());
    promote(&mut scene, 2, &[1, 2, 4]);
    assert_eq!(copies(&scene).dropped.iter().map(|n| n.0).collect::<Vec<_>>(), [3]);
}

#[test]
fn a_node_that_returns_first_keeps_its_copy() {
    let mut scene = five();
    scene.silence(3);
    minutes(&mut scene, 11);
    scene.say(3, Some(report(CopyRole::Secondary, CopyState::CatchingUp, 1, 5)));
    assert!(scene.run(5_000).is_empty(), "the race is not over while it catches up");
    scene.say(3, Some(in_sync(9)));
    assert_eq!(scene.run(2_000), [kept(3)]);
    assert_eq!(wanted(&scene), [1, 2, 3]);
    assert!(copies(&scene).dropped.contains(&NodeId(4)), "what was begun there is deleted");
    assert!(minutes(&mut scene, 20).is_empty());
}

#[test]
fn nothing_is_replaced_while_more_than_a_third_of_the_nodes_is_missing() {
    let mut scene = five();
    scene.silence(3);
    scene.silence(5);
    assert!(minutes(&mut scene, 30).is_empty());
    let shown = status(&scene.state, &scene.detector, scene.now).volumes.remove(0).reasons.join("; ");
    assert!(shown.contains("is not replaced: 2 of 5 nodes do not answer, which is more than a third"), "{shown}");
    scene.say(5, None);
    assert_eq!(scene.run(2_000), [moved(3, 4, Why::Gone)]);
}

#[test]
fn never_means_never_and_a_failed_copy_is_gone_although_its_node_answers() {
    let mut scene = five();
    scene.say(3, Some(report(CopyRole::Idle, CopyState::Failed { reason: "EIO".into() }, 1, 8)));
    assert_eq!(minutes(&mut scene, 11), [moved(3, 4, Why::Gone)]);
    let mut scene = five();
    scene.detector.config.replace_after = None;
    scene.silence(3);
    assert!(minutes(&mut scene, 60).is_empty());
}

#[test]
fn a_spare_node_that_dies_has_a_spare_node() {
    let mut scene = five();
    scene.silence(3);
    minutes(&mut scene, 11);
    scene.silence(4);
    assert!(minutes(&mut scene, 20).is_empty(), "two of five are missing");
    scene.state.apply(&add_node("n6")).unwrap();
    scene.say(6, None);
    assert_eq!(scene.run(2_000), [moved(4, 5, Why::Gone)]);
    let succeeds = Successor { of: NodeId(3), why: Why::Gone };
    assert_eq!(
        copies(&scene).successors.iter().next(),
        Some((&NodeId(5), &succeeds)),
        "the first one can still be kept"
    );
    scene.say(3, Some(in_sync(9)));
    assert_eq!(scene.run(2_000), [kept(3)]);
}

#[test]
fn a_spare_node_is_elsewhere_and_has_room() {
    let mut scene = five();
    let domain = |scene: &mut Scene, node: u64, domain: &str| {
        scene.state.nodes.get_mut(&NodeId(node)).unwrap().failure_domain = domain.into();
    };
    let full = |scene: &mut Scene, node: u64, free| {
        let heartbeat = crate::Heartbeat {
            node: NodeId(node),
            life: 1,
            copies: Vec::new(),
            free_bytes: Some(free),
            longest_file: None,
        };
        scene.detector.heard(heartbeat, scene.now);
    };
    domain(&mut scene, 4, "rack-n2");
    let volume = scene.state.volumes[&VolumeId(1)].clone();
    let spare = |scene: &Scene| scene.detector.spare(&scene.state, &Loads::default(), &volume, NodeId(3), scene.now);
    assert_eq!(spare(&scene), Ok(NodeId(5)), "not where another copy's rack is");
    full(&mut scene, 5, (1 << 20) - 1);
    assert_eq!(spare(&scene), Ok(NodeId(4)), "better there than nowhere");
    full(&mut scene, 4, 4096);
    assert_eq!(
        spare(&scene),
        Err("no other node has room for it: n4 has 4 KiB free of the 1 MiB that a full copy takes, n5 has 1023 KiB free of \
             the 1 MiB that a full copy takes"
            .to_owned())
    );
}

#[test]
fn a_node_whose_files_are_too_short_gets_no_copy() {
    let mut scene = five();
    let say = |scene: &mut Scene, node: u64, longest| {
        let heartbeat = crate::Heartbeat {
            node: NodeId(node),
            life: 1,
            copies: Vec::new(),
            free_bytes: None,
            longest_file: Some(longest),
        };
        scene.detector.heard(heartbeat, scene.now);
    };
    let volume = scene.state.volumes[&VolumeId(1)].clone();
    let spare = |scene: &Scene| scene.detector.spare(&scene.state, &Loads::default(), &volume, NodeId(3), scene.now);
    assert_eq!(spare(&scene), Ok(NodeId(4)), "who has not told counts as able");
    say(&mut scene, 4, (1 << 20) - 4096);
    assert_eq!(spare(&scene), Ok(NodeId(5)));
    say(&mut scene, 5, 1 << 20);
    assert_eq!(spare(&scene), Ok(NodeId(5)), "just as long as the image");
    say(&mut scene, 5, 8192);
    let why = spare(&scene).unwrap_err();
    assert!(why.contains("n5 has a file system whose files have at most 8192 bytes"), "{why}");
    // An image has whole blocks.
    assert_eq!(scene.detector.takes_length(NodeId(5), 8192), Ok(()));
    assert!(scene.detector.takes_length(NodeId(5), 8192 + 512).is_err());
    // An agent that does not tell says what those of before said.
    let untold =
        crate::Heartbeat { node: NodeId(5), life: 1, copies: Vec::new(), free_bytes: Some(7), longest_file: None };
    let bytes = untold.encode(ClusterVersion::FIRST);
    assert!(!String::from_utf8_lossy(&bytes).contains("longest"));
    assert!(crate::Heartbeat::decode(&bytes, Speaks::THIS).is_ok_and(|told| told == untold));
}

#[test]
fn a_drained_node_hands_over_loses_its_copies_and_gets_none() {
    let mut scene = five();
    want(&mut scene, 1, Duty::Drained);
    assert_eq!(scene.run(2_000), [nominate(1, 2, true), moved(1, 4, Why::Drained)]);
    assert!(!placement(&scene.state, 5, |_| true).contains(&NodeId(1)));
    for command in [
        create("other", &[1, 2, 3]),
        Command::ReplaceCopy { volume: VolumeId(1), old: NodeId(2), new: NodeId(1) },
        moved(2, 1, Why::Gone),
        Command::AddCopy { volume: VolumeId(1), node: NodeId(1) },
    ] {
        let refusal = scene.state.apply(&command).unwrap_err();
        let (kind, said) = (refusal.kind, refusal.message);
        assert!(matches!(kind, RefusalKind::Unsafe | RefusalKind::Invalid) || said.contains("to have"), "{said}");
    }
    let node = status(&scene.state, &scene.detector, scene.now).nodes.remove(0);
    assert_eq!((node.wanted, node.copies_left, node.held), ("drained", 1, false));
    assert!(node.notes[0].starts_with("disk: the copy on n1 is moving to n4"), "{:?}", node.notes);
}

#[test]
fn undrained_at_any_moment_what_does_not_count_yet_is_taken_back() {
    let mut scene = five();
    want(&mut scene, 3, Duty::Drained);
    assert_eq!(scene.run(2_000), [moved(3, 4, Why::Drained)]);
    want(&mut scene, 3, Duty::InService);
    assert_eq!(scene.run(2_000), [kept(3)]);
    assert_eq!(wanted(&scene), [1, 2, 3]);

    want(&mut scene, 3, Duty::Drained);
    scene.run(2_000);
    let Phase::Open { copies, .. } = phase(&scene.state) else { panic!() };
    let new = copies.successor_of(NodeId(3)).unwrap().0;
    scene.state.apply(&register(1, new.0, 10 + new.0)).unwrap();
    promote(&mut scene, 1, &[1, 2, 3, new.0]);
    want(&mut scene, 3, Duty::InService);
    assert!(scene.run(2_000).is_empty(), "what has moved has moved");
}

#[test]
fn a_copy_that_nobody_can_take_stays_and_that_is_said() {
    let mut scene = five();
    want(&mut scene, 4, Duty::Drained);
    want(&mut scene, 5, Duty::Drained);
    want(&mut scene, 3, Duty::Drained);
    assert!(scene.run(5_000).is_empty());
    let again = Command::AddCopy { volume: VolumeId(1), node: NodeId(3) };
    assert_eq!(scene.state.apply(&again), Ok(Outcome::Done), "it is wanted there still");
    let node = status(&scene.state, &scene.detector, scene.now).nodes.remove(2);
    assert_eq!((node.held, node.copies_left), (true, 1));
    assert!(
        node.notes[0].contains("stays there for now: no other node answers that is in service"),
        "{:?}",
        node.notes
    );
}

#[test]
fn a_node_is_drained_while_it_is_down() {
    let mut scene = five();
    scene.silence(3);
    scene.run(2_000);
    want(&mut scene, 3, Duty::Drained);
    assert_eq!(scene.run(2_000), [moved(3, 4, Why::Drained)], "nobody waits for replace_after");
}

#[test]
fn copies_leave_a_node_one_by_one() {
    let mut scene = five();
    scene.state.apply(&create("second", &[1, 2, 3])).unwrap();
    for node in 1..=3 {
        scene.state.apply(&register(2, node, 20 + node)).unwrap();
    }
    want(&mut scene, 3, Duty::Drained);
    let second = Command::MoveCopy { volume: VolumeId(2), old: NodeId(3), new: NodeId(5), why: Why::Drained };
    let all = scene.run(5_000);
    assert!(all.contains(&moved(3, 4, Why::Drained)) && !all.contains(&second), "{all:?}");
    // A volume without a primary that serves does not hold up the others.
    scene.say(1, Some(report(CopyRole::Primary, CopyState::Opening, 1, 10)));
    let all = scene.run(5_000);
    assert!(all.contains(&second), "{all:?}");
}

#[test]
fn a_node_goes_only_without_copies_that_count_and_its_name_is_free_then() {
    let mut scene = five();
    let remove = |node: u64| Command::WantNode { node: NodeId(node), wanted: Duty::Removed };
    let refusal = scene.state.apply(&remove(3)).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Unsafe);
    assert!(
        refusal.message.contains("expected no copy that counts on n3, found 1, the first of volume disk"),
        "{refusal}"
    );
    scene.state.apply(&remove(5)).unwrap();
    scene.state.apply(&remove(5)).unwrap();
    scene.state.apply(&Command::RemoveNode { node: NodeId(5) }).unwrap();
    assert_eq!(scene.state.apply(&add_node("n5")), Ok(Outcome::Node(NodeId(6))));
    for node in [2, 3, 4] {
        scene.state.nodes.get_mut(&NodeId(node)).unwrap().voter_wanted = false;
    }
    scene.state.nodes.get_mut(&NodeId(6)).unwrap().voter_wanted = false;
    want(&mut scene, 1, Duty::Drained);
    assert!(scene.state.apply(&remove(1)).is_err(), "it holds copies, and is the last voter");
}

#[test]
fn an_operator_may_undo_what_the_leader_began() {
    let begun = || {
        let mut scene = five();
        want(&mut scene, 3, Duty::Drained);
        scene.run(2_000);
        scene
    };
    let mut scene = begun();
    scene.state.apply(&Command::RemoveCopy { volume: VolumeId(1), node: NodeId(4) }).unwrap();
    assert_eq!(wanted(&scene), [1, 2, 3], "whom it was to succeed is needed as before");
    let mut scene = begun();
    scene.state.apply(&Command::ReplaceCopy { volume: VolumeId(1), old: NodeId(4), new: NodeId(5) }).unwrap();
    assert!(copies(&scene).successors.is_empty(), "what an operator wants is not taken back");
    assert_eq!(wanted(&scene), [1, 2, 5]);
}

#[test]
fn a_copy_that_is_being_replaced_is_made_anew_where_it_is_and_its_successor_goes() {
    let mut scene = five();
    scene.state.apply(&moved(3, 4, Why::Gone)).unwrap();
    let anew = Command::ReplaceCopy { volume: VolumeId(1), old: NodeId(3), new: NodeId(3) };
    scene.state.apply(&anew).unwrap();
    assert_eq!((wanted(&scene), copies(&scene).successors.len()), (vec![1, 2, 3], 0));
    assert!(copies(&scene).renew.contains(&NodeId(3)) && copies(&scene).dropped.contains(&NodeId(4)));
}

#[test]
fn a_copy_is_not_taken_back_beside_as_many_as_a_volume_may_have() {
    let mut state = cluster(8);
    state.apply(&create("disk", &[1, 2, 3, 4, 5, 6, 7])).unwrap();
    for node in 1..=7 {
        state.apply(&register(1, node, 10 + node)).unwrap();
    }
    state.apply(&claim(0, 1)).unwrap();
    state.apply(&activate(1)).unwrap();
    state.apply(&moved(7, 8, Why::Drained)).unwrap();
    let back = Command::AddCopy { volume: VolumeId(1), node: NodeId(7) };
    assert_eq!(state.apply(&back).unwrap_err().kind, RefusalKind::Invalid);
    state.apply(&Command::ReplaceCopy { volume: VolumeId(1), old: NodeId(7), new: NodeId(7) }).unwrap();
    let Phase::Open { copies, .. } = phase(&state) else { panic!("it is open") };
    assert_eq!(copies.wanted.len(), 7);
}

#[test]
fn the_last_copy_that_is_wanted_stays_wanted() {
    let (volume, node) = (VolumeId(1), NodeId);
    let replace = |old, new| Command::ReplaceCopy { volume, old: node(old), new: node(new) };
    let remove = |old| Command::RemoveCopy { volume, node: node(old) };
    for copies in 1..=2 {
        let mut state = cluster(5);
        state.apply(&create("disk", &[1, 2][..copies])).unwrap();
        for n in 1..=copies as u64 {
            state.apply(&register(1, n, 10 + n)).unwrap();
        }
        state.apply(&claim(0, 1)).unwrap();
        state.apply(&activate(1)).unwrap();
        state.apply(&replace(1, 4)).unwrap();
        if copies == 2 {
            state.apply(&replace(2, 5)).unwrap();
            state.apply(&remove(5)).unwrap();
        }
        let before = state.clone();
        let refusal = state.apply(&remove(4)).expect_err("nothing would be wanted any more");
        assert_eq!((refusal.kind, &state), (RefusalKind::Unsafe, &before), "{refusal}");
    }
}
