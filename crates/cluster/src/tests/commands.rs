//! Each command, and each reason to refuse it.

use super::*;
use crate::RefusalKind::{self, Exists, Invalid, NotFound, Stale, Unsafe};
use holdfast_types::{Durability, Nominee, Speaks, VolumeSize};

fn refused(state: &State, command: &Command) -> RefusalKind {
    let mut after = state.clone();
    let refusal = after.apply(command).expect_err("a refusal");
    assert_eq!(after, *state, "a refusal changes nothing: {refusal}");
    assert!(refusal.message.len() > 10);
    refusal.kind
}

fn volume_with(change: impl Fn(&mut String, &mut u64, &mut u8, &mut Vec<NodeId>, &mut Option<NodeId>)) -> Command {
    let Command::CreateVolume {
        mut name,
        mut size,
        durability,
        mut write_quorum,
        mut nodes,
        mut primary,
        degraded,
        limits,
        socket,
    } = create("disk", &[1, 2, 3])
    else {
        unreachable!()
    };
    change(&mut name, &mut size, &mut write_quorum, &mut nodes, &mut primary);
    Command::CreateVolume { name, size, durability, write_quorum, nodes, primary, degraded, limits, socket }
}

#[test]
fn nodes_have_names_and_ids_of_their_own() {
    let mut state = cluster(2);
    assert_eq!(refused(&state, &add_node("n1")), Exists);
    for bad in ["", "UPPER", "a/b", "..", "ü", &"x".repeat(65)] {
        assert_eq!(refused(&state, &add_node(bad)), Invalid, "{bad}");
    }
    state.apply(&Command::RemoveNode { node: NodeId(2) }).unwrap();
    assert_eq!(state.node(NodeId(2)), None);
    assert_eq!(refused(&state, &Command::RemoveNode { node: NodeId(2) }), NotFound);
    // The name is free again, the id never is.
    assert_eq!(state.apply(&add_node("n2")), Ok(Outcome::Node(NodeId(3))));
    assert_eq!(state.node_by_name("n2"), Some(NodeId(3)));
}

#[test]
fn a_node_with_copies_and_the_last_voter_stay() {
    assert_eq!(refused(&open(), &Command::RemoveNode { node: NodeId(2) }), Unsafe);
    assert_eq!(refused(&cluster(1), &Command::RemoveNode { node: NodeId(1) }), Unsafe);
}

#[test]
fn a_join_token_admits_one_node_once() {
    let mut state = cluster(1);
    let hash = "00ff".repeat(16);
    let token = |id| Command::AddToken { id, hash: hash.clone(), expires: 1000 };
    assert_eq!(refused(&state, &Command::AddToken { id: 5, hash: "zz".into(), expires: 1 }), Invalid);
    state.apply(&token(5)).unwrap();
    assert_eq!(refused(&state, &token(5)), Exists);
    assert_eq!(refused(&state, &token(6)), Exists, "the same secret twice");
    assert_eq!(state.usable_token(&hash, 999), Ok(5));
    assert!(state.usable_token(&hash, 1000).unwrap_err().message.contains("expired"));
    let join = |name: &str, token| {
        let Command::AddNode { address, failure_domain, voter, fingerprint, .. } = add_node(name) else {
            unreachable!()
        };
        Command::AddNode {
            name: name.into(),
            address,
            failure_domain,
            voter,
            witness: false,
            fingerprint,
            token_id: Some(token),
        }
    };
    assert_eq!(refused(&state, &join("n9", 4)), NotFound);
    assert_eq!(state.apply(&join("n9", 5)), Ok(Outcome::Node(NodeId(2))));
    assert_eq!(refused(&state, &join("n8", 5)), Stale);
    assert!(state.usable_token(&hash, 0).unwrap_err().message.contains("used"));
}

#[test]
fn tokens_are_bounded_and_used_ones_go_first() {
    let mut state = cluster(1);
    for id in 0..300_u64 {
        state.apply(&Command::AddToken { id, hash: format!("{id:064x}"), expires: 1000 - id }).unwrap();
    }
    assert_eq!(state.tokens.len(), 256);
    assert!(state.tokens.contains_key(&299) && state.tokens.contains_key(&0));
}

#[test]
fn volumes_that_make_no_sense_are_refused() {
    let state = cluster(3);
    assert_eq!(refused(&state, &volume_with(|name, _, _, _, _| *name = "No".into())), Invalid);
    for size in [0, 513, u64::MAX] {
        let command = volume_with(|_, s, _, _, _| *s = size);
        assert_eq!(refused(&state, &command), Invalid);
        let said = state.clone().apply(&command).unwrap_err().message;
        assert_eq!(said, VolumeSize::new(size).unwrap_err().to_string());
    }
    assert_eq!(refused(&state, &volume_with(|_, _, w, _, _| *w = 1)), Unsafe, "no majority");
    assert_eq!(refused(&state, &volume_with(|_, _, w, _, _| *w = 4)), Invalid, "more than copies");
    assert_eq!(refused(&state, &volume_with(|_, _, _, n, _| n.clear())), Invalid);
    assert_eq!(refused(&state, &volume_with(|_, _, _, n, _| *n = vec![NodeId(1); 3])), Invalid, "twice on a node");
    assert_eq!(refused(&state, &volume_with(|_, _, _, n, _| n[2] = NodeId(9))), NotFound);
    assert_eq!(refused(&state, &volume_with(|_, _, _, n, _| n.push(NodeId(4)))), Invalid, "copies > nodes");
    assert_eq!(refused(&state, &volume_with(|_, _, _, _, p| *p = Some(NodeId(9)))), Invalid);
    assert_eq!(refused(&open(), &create("disk", &[1, 2, 3])), Exists);
}

#[test]
fn an_asynchronous_volume_has_its_primary_for_a_quorum() {
    let mut state = cluster(3);
    let asynchronous = |w| {
        let Command::CreateVolume { name, size, nodes, primary, degraded, limits, socket, .. } =
            create("disk", &[1, 2, 3])
        else {
            unreachable!()
        };
        let durability = Durability::Async;
        Command::CreateVolume { name, size, durability, write_quorum: w, nodes, primary, degraded, limits, socket }
    };
    assert_eq!(refused(&state, &asynchronous(2)), Invalid);
    state.apply(&asynchronous(1)).unwrap();
    for n in 1..=3 {
        state.apply(&register(1, n, 10 + n)).unwrap();
    }
    state.validate();
    assert!(state.view(VolumeId(1)).unwrap().active.primary_decides());
}

#[test]
fn a_volume_opens_when_every_copy_is_registered() {
    let mut state = cluster(4);
    let command = volume_with(|_, _, _, _, p| *p = Some(NodeId(2)));
    assert_eq!(state.apply(&command), Ok(Outcome::Volume(VolumeId(1))));
    assert_eq!(state.view(VolumeId(1)), None);
    assert_eq!(state.copies_wanted(NodeId(1)), [(VolumeId(1), VolumeSize::new(1 << 20).unwrap())]);
    assert!(state.copies_wanted(NodeId(4)).is_empty());
    assert_eq!(refused(&state, &claim(0, 1)), Stale);
    assert_eq!(refused(&state, &register(1, 4, 5)), NotFound);
    assert_eq!(refused(&state, &register(2, 1, 5)), NotFound);
    assert_eq!(refused(&state, &register(1, 1, 0)), Invalid);
    for n in 1..=3 {
        state.apply(&register(1, n, 10 + n)).unwrap();
        assert!(state.copies_wanted(NodeId(n)).is_empty());
    }
    let view = state.view(VolumeId(1)).unwrap();
    view.active.validate();
    assert_eq!((view.active.epoch, view.active.primary, view.active.members.len()), (Epoch(0), None, 3));
    assert_eq!(view.nominee, Some(Nominee { node: NodeId(2), base: Epoch(0), planned: false }));
    assert_eq!(state.views_for(NodeId(3)), [view]);
    assert!(state.views_for(NodeId(4)).is_empty());
}

#[test]
fn a_copy_that_lost_its_memory_does_not_register() {
    // S20, before and after the volume is open.
    let mut creating = cluster(3);
    creating.apply(&create("disk", &[1, 2, 3])).unwrap();
    creating.apply(&register(1, 1, 11)).unwrap();
    for state in [creating, open()] {
        assert_eq!(state.clone().apply(&register(1, 1, 11)), Ok(Outcome::Done), "repeated");
        assert_eq!(refused(&state, &register(1, 1, 99)), Unsafe);
    }
}

#[test]
fn a_volume_goes_when_its_copies_are_gone() {
    let mut state = open();
    let gone = |n| Command::CopyDeleted { volume: VolumeId(1), node: NodeId(n) };
    assert_eq!(refused(&state, &gone(1)), Unsafe, "nobody asked for that");
    assert_eq!(refused(&state, &Command::DeleteVolume { volume: VolumeId(2) }), NotFound);
    for _ in 0..2 {
        assert_eq!(state.apply(&Command::DeleteVolume { volume: VolumeId(1) }), Ok(Outcome::Done));
    }
    assert_eq!(state.view(VolumeId(1)), None);
    assert_eq!(state.copies_unwanted(NodeId(2)), [VolumeId(1)]);
    for command in [claim(1, 2), activate(1), nominate(1, 2, false), register(1, 1, 11)] {
        assert_eq!(refused(&state, &command), Stale);
    }
    // The name is free at once, the id never again.
    assert_eq!(state.apply(&create("disk", &[1, 2, 3])), Ok(Outcome::Volume(VolumeId(2))));
    state.apply(&Command::DeleteVolume { volume: VolumeId(2) }).unwrap();
    state.apply(&gone(1)).unwrap();
    state.apply(&gone(2)).unwrap();
    assert!(state.volumes.contains_key(&VolumeId(1)));
    // A node that is lost for ever takes its copies along.
    state.apply(&Command::RemoveNode { node: NodeId(3) }).unwrap();
    assert!(!state.volumes.contains_key(&VolumeId(1)));
    assert_eq!(state.volumes[&VolumeId(2)].holders(), [NodeId(1), NodeId(2)]);
    assert_eq!(state.apply(&gone(3)), Ok(Outcome::Done), "repeated");
}

#[test]
fn a_command_that_would_break_an_invariant_changes_nothing() {
    // What no command leads to, for the commands that did were mended: a copy on a node that is gone.
    let mut broken = open();
    broken.nodes.get_mut(&NodeId(3)).unwrap().removed = true;
    let (volume, node) = (VolumeId(1), NodeId(2));
    let delete = Command::DeleteVolume { volume };
    for command in [Command::RemoveCopy { volume, node }, nominate(1, 2, false), delete, add_node("n4")] {
        let mut state = broken.clone();
        let refusal = state.apply(&command).expect_err("it breaks an invariant");
        assert_eq!(refusal.kind, RefusalKind::Broken);
        assert!(refusal.message.contains("v1 has a copy on no node"), "{refusal}");
        assert_eq!(state, broken, "{command:?}");
    }
}

#[test]
fn of_two_claims_the_later_one_holds_and_only_it_activates() {
    let mut state = open();
    assert_eq!(state.apply(&claim(1, 2)), Ok(Outcome::Epoch(Epoch(2))));
    assert_eq!(state.apply(&claim(1, 3)), Ok(Outcome::Epoch(Epoch(3))));
    assert_eq!(refused(&state, &activate(2)), Stale, "S21: superseded");
    assert_eq!(state.apply(&activate(3)), Ok(Outcome::Epoch(Epoch(3))));
    assert_eq!(state.apply(&activate(3)), Ok(Outcome::Epoch(Epoch(3))), "repeated");
    assert_eq!(refused(&state, &activate(2)), Stale);
    assert_eq!(refused(&state, &claim(1, 2)), Stale, "S21: the base is gone");
    let view = state.view(VolumeId(1)).unwrap();
    assert_eq!((view.active.epoch, view.active.primary, view.pending), (Epoch(3), Some(NodeId(3)), None));
    assert_eq!(state.apply(&claim(3, 1)), Ok(Outcome::Epoch(Epoch(4))));
    let pending = state.view(VolumeId(1)).unwrap().pending.unwrap();
    assert_eq!((pending.base, pending.life, pending.configuration.primary), (Epoch(3), Life(101), Some(NodeId(1))));
}

#[test]
fn only_members_claim() {
    let mut state = cluster(4);
    state.apply(&create("disk", &[1, 2, 3])).unwrap();
    (1..=3).for_each(|n| assert!(state.apply(&register(1, n, n)).is_ok()));
    assert_eq!(refused(&state, &claim(0, 4)), Unsafe);
    assert_eq!(refused(&state, &nominate(0, 4, false)), Invalid);
}

#[test]
fn a_nomination_is_for_one_epoch() {
    let mut state = open();
    assert!(matches!(phase(&state), Phase::Open { nominee: None, .. }), "cleared by the first activation");
    assert_eq!(refused(&state, &nominate(0, 2, true)), Stale);
    state.apply(&nominate(1, 2, true)).unwrap();
    assert_eq!(state.view(VolumeId(1)).unwrap().nominee.map(|n| (n.node, n.planned)), Some((NodeId(2), true)));
    let clear = |base| Command::ClearNominee { volume: VolumeId(1), base: Epoch(base) };
    assert_eq!(refused(&state, &clear(0)), Stale);
    state.apply(&clear(1)).unwrap();
    assert_eq!(state.view(VolumeId(1)).unwrap().nominee, None);
    state.apply(&nominate(1, 2, false)).unwrap();
    state.apply(&claim(1, 3)).unwrap();
    assert!(state.view(VolumeId(1)).unwrap().nominee.is_some(), "a claim decides nothing yet");
    state.apply(&activate(2)).unwrap();
    assert_eq!(state.view(VolumeId(1)).unwrap().nominee, None);
}

#[test]
fn bytes_that_are_not_understood_are_errors() {
    let good = String::from_utf8(claim(1, 2).encode()).unwrap();
    assert!(Command::decode(good.as_bytes(), Speaks::THIS).is_ok());
    assert!(Command::decode(good.replace("\"life\"", "\"lives\"").as_bytes(), Speaks::THIS).is_err());
    assert!(Command::decode(good.replace("\"node\":2", "\"node\":2,\"extra\":1").as_bytes(), Speaks::THIS).is_err());
    let version = Command::decode(good.replace("\"version\":1", "\"version\":9").as_bytes(), Speaks::THIS).unwrap_err();
    assert!(version.to_string().contains("found one of version 9"), "{version}");
    let snapshot = String::from_utf8(open().encode()).unwrap();
    assert_eq!(State::decode(snapshot.as_bytes(), Speaks::THIS).unwrap(), open());
    // A snapshot that breaks an invariant is an error, not a panic.
    for (from, to) in [("\"max_epoch\":1", "\"max_epoch\":0"), ("\"next_node\":4", "\"next_node\":3")] {
        assert!(snapshot.contains(from), "{snapshot}");
        assert!(State::decode(snapshot.replace(from, to).as_bytes(), Speaks::THIS).is_err());
    }
}

#[test]
fn a_volume_is_resized_by_whole_blocks_and_made_smaller_only_if_that_is_meant() {
    let mut state = open();
    let now = state.volumes[&VolumeId(1)].size.bytes();
    let after = |after, size, shrink| Command::ResizeVolume { volume: VolumeId(1), after, size, shrink, found: None };
    let resize = |size, shrink| after(0, size, shrink);
    for (size, why) in [(0, "0"), (now + 512, "multiple of 4096"), (1 << 60, "64 TiB")] {
        assert_eq!(refused(&state, &resize(size, true)), Invalid);
        let said = state.clone().apply(&resize(size, true)).unwrap_err().message;
        assert!(said.contains(why), "{said}");
    }
    let smaller = (now / 2).next_multiple_of(4096);
    assert_eq!(refused(&state, &resize(smaller, false)), Unsafe);
    let said = state.clone().apply(&resize(smaller, false)).unwrap_err().message;
    assert!(said.contains(&format!("the last {} bytes", now - smaller)) && said.contains("--shrink"), "{said}");
    let elsewhere = Command::ResizeVolume { volume: VolumeId(9), after: 0, size: 4096, shrink: false, found: None };
    assert_eq!(refused(&state, &elsewhere), NotFound);

    let larger = now.next_multiple_of(4096) * 2;
    for (known, size, shrink) in [(0, larger, false), (0, larger, false), (1, smaller, true), (1, smaller, false)] {
        state.apply(&after(known, size, shrink)).unwrap();
    }
    assert_eq!(refused(&state, &after(1, larger, false)), Stale, "it is asked for late");
    let view = state.view(VolumeId(1)).unwrap();
    let decisions: Vec<(u64, u64)> = view.resizes.iter().map(|(n, size)| (*n, size.bytes())).collect();
    assert_eq!(decisions, [(1, larger), (2, smaller)], "asking for what is wanted already decides nothing");
    assert_eq!(view.size.bytes(), smaller);
    // A new copy begins where the log begins.
    assert_eq!(state.volumes[&VolumeId(1)].first_size.bytes(), now);
    for round in 0..20 {
        state.apply(&after(2 + round, larger + round * 4096, true)).unwrap();
    }
    let view = state.view(VolumeId(1)).unwrap();
    assert_eq!((view.resizes.len(), view.resizes.last().unwrap().0), (8, 22), "decisions are bounded, and counted on");
    assert_eq!(State::decode(&state.encode(), Speaks::THIS).unwrap(), state);
    state.apply(&Command::DeleteVolume { volume: VolumeId(1) }).unwrap();
    assert_eq!(refused(&state, &after(22, larger * 2, true)), Stale);
}

#[test]
fn guests_are_granted_what_an_operator_says_and_nothing_else() {
    let mut state = open();
    let (volume, limits) = (VolumeId(1), GuestLimits { iops: 500, bandwidth: 1 << 20, burst_ms: 2000 });
    let limit = |limits| Command::LimitVolume { volume, limits };
    let share = |owner: &str, mode| Command::ShareVolume {
        volume,
        socket: SocketAccess { owner: owner.into(), group: String::new(), mode },
    };
    assert_eq!(refused(&state, &limit(GuestLimits { burst_ms: 0, ..limits })), Invalid);
    assert_eq!(refused(&state, &limit(GuestLimits { bandwidth: 1, ..limits })), Invalid);
    assert_eq!(refused(&state, &share("a b", 0)), Invalid);
    assert_eq!(refused(&state, &share("a", 0o777)), Invalid);
    assert_eq!(refused(&state, &Command::LimitVolume { volume: VolumeId(9), limits }), NotFound);
    assert_eq!(state.apply(&limit(limits)), Ok(Outcome::Done));
    assert_eq!(state.apply(&share("vm1", 0o600)), Ok(Outcome::Done));
    assert_eq!((state.volumes[&volume].limits, state.volumes[&volume].socket.owner.as_str()), (limits, "vm1"));
    assert_eq!(State::decode(&state.encode(), Speaks::THIS).unwrap(), state);
    // Lifted they are what they were, whatever burst was named with it: all nodes agree, also one that reads a snapshot.
    state.apply(&limit(GuestLimits { iops: 0, bandwidth: 0, burst_ms: 50 })).unwrap();
    state.apply(&Command::ShareVolume { volume, socket: SocketAccess::default() }).unwrap();
    assert_eq!(state, open());
    assert_eq!(State::decode(&state.encode(), Speaks::THIS).unwrap(), state);
    state.apply(&Command::DeleteVolume { volume }).unwrap();
    assert_eq!(refused(&state, &limit(limits)), Stale);
}

/// What was written before there were limits is read, and what has none is written as it was then.
#[test]
fn commands_and_states_without_grants_are_what_they_were() {
    let before = r#"{"version":1,"body":{"create_volume":{"name":"disk","size":1048576,"durability":"sync","write_quorum":2,"nodes":[1,2,3],"primary":null}}}"#;
    let command = create("disk", &[1, 2, 3]);
    assert_eq!(Command::decode(before.as_bytes(), Speaks::THIS).unwrap(), command);
    assert_eq!(String::from_utf8(command.encode()).unwrap(), before);
    let text = String::from_utf8(open().encode()).unwrap();
    assert!(!text.contains("limits") && !text.contains("socket"), "{text}");
    let strange = before
        .replace(r#""primary":null"#, r#""primary":null,"limits":{"iops":1,"bandwidth":0,"burst_ms":1000,"x":1}"#);
    assert!(Command::decode(strange.as_bytes(), Speaks::THIS).is_err(), "unknown names stay errors");
}

/// The log may have followed decisions of those that were lost: numbers of them are not given away again, and what has grown is not cut
/// by the way.
#[test]
fn after_a_recovery_a_resize_goes_by_what_the_log_has() {
    let mut state = open();
    let now = state.volumes[&VolumeId(1)].size.bytes().next_multiple_of(4096);
    let resize = |after, size, shrink, found| Command::ResizeVolume { volume: VolumeId(1), after, size, shrink, found };
    let grown = Some((8 * now, 2));
    assert_eq!(resize(0, now, false, None).needs(), holdfast_types::ClusterVersion::FIRST);
    assert_eq!(resize(0, now, false, grown).needs(), holdfast_types::ClusterVersion::TOLD, "others can't read it");
    state.apply(&resize(0, 2 * now, false, grown)).unwrap();
    assert_eq!(state.view(VolumeId(1)).unwrap().resizes.len(), 1, "no word of a log counts where nothing was lost");
    let mut state = crate::tests::regime::recovered(&open());
    assert_eq!(refused(&state, &resize(0, 2 * now, false, grown)), Unsafe, "it would cut what has grown");
    state.apply(&resize(0, 9 * now, false, grown)).unwrap();
    let decided: Vec<(u64, u64)> =
        state.view(VolumeId(1)).unwrap().resizes.iter().map(|(n, size)| (*n, size.bytes())).collect();
    assert_eq!(decided, [(2, 8 * now), (3, 9 * now)]);
    // Also where decisions between are unknown.
    let mut before = open();
    before.apply(&resize(0, 2 * now, false, None)).unwrap();
    let mut state = crate::tests::regime::recovered(&before);
    state.apply(&resize(1, 9 * now, false, Some((8 * now, 3)))).unwrap();
    assert_eq!(state.view(VolumeId(1)).unwrap().resizes.last().map(|r| r.0), Some(4));
    state.validate();
    let mut state = crate::tests::regime::recovered(&open());
    state.apply(&resize(0, 8 * now, false, grown)).unwrap();
    assert_eq!(state.view(VolumeId(1)).unwrap().resizes.len(), 1, "it has that size");
    assert_eq!(state.volumes[&VolumeId(1)].size.bytes(), 8 * now);
}
