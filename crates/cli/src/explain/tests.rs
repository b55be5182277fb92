//! Every state of a volume and of a copy is put before `explain`, and each has to say something of its own.

use super::*;

fn copy(node: &str, role: &str, state: &str) -> pb::Copy {
    pb::Copy { node: node.to_owned(), role: role.to_owned(), state: state.to_owned(), ..Default::default() }
}

/// Three nodes that are up, and a volume whose copies are in these states.
fn scene(state: &str, copies: [&str; 3]) -> (pb::StatusResponse, pb::Volume) {
    let node = |name: &str| pb::Node { name: name.to_owned(), state: "up".to_owned(), ..Default::default() };
    let roles = ["primary", "secondary", "secondary"];
    let names = ["n1", "n2", "n3"];
    let copies = names.iter().zip(roles).zip(copies).map(|((name, role), state)| copy(name, role, state)).collect();
    let volume = pb::Volume {
        name: "vm1".to_owned(),
        epoch: 4,
        primary: "n1".to_owned(),
        state: state.to_owned(),
        durability: "sync".to_owned(),
        quorum: 2,
        copies_wanted: 3,
        copies,
        ..Default::default()
    };
    let status = pb::StatusResponse { nodes: names.map(node).to_vec(), leader: "n2".to_owned(), ..Default::default() };
    (status, volume)
}

fn said(sentences: &[String], what: &str) -> bool {
    sentences.iter().any(|s| s.contains(what))
}

#[test]
fn a_healthy_volume_needs_nothing() {
    let (status, volume) = scene("healthy", ["healthy"; 3]);
    let e = explain(&status, &volume);
    assert!(e.state.contains("vm1 is healthy: served by n1 in epoch 4, and all 3 copies"), "{e:?}");
    assert_eq!(
        (e.why.as_slice(), e.dangers.as_slice(), e.could.as_slice()),
        (["nothing is wrong".to_owned()].as_slice(), [].as_slice(), [].as_slice())
    );
    assert!(said(&e.next, "if n1 dies") && said(&e.next, "1 of the copies can be away"), "{e:?}");
    let text = e.text();
    assert!(text.contains("What is unsafe:\n  Nothing.") && text.contains("What you could do:\n  Nothing."), "{text}");
    let json = e.json("vm1");
    assert_eq!((&json["volume"], &json["unsafe"]), (&"vm1".into(), &json!([])));
}

#[test]
fn every_state_of_a_copy_says_what_comes_next_and_what_could_be_done() {
    // State, a word under `next`, a word under `could` (empty: nothing to do).
    for (state, next, could) in [
        ("catching_up", "from the primary's journal", ""),
        ("resyncing", "fetches the regions", ""),
        ("joining", "being filled", ""),
        ("creating", "creates its copy", ""),
        ("leaving", "the copy on n3 goes", ""),
        ("deleting", "is deleted", ""),
        ("unreachable", "when n3 is back", "holdfast copy replace vm1 n3 NODE"),
        ("hung", "when its device answers", "dmesg"),
        ("failed", "not trusted again", "restart its agent"),
        ("lost", "took back", "holdfast copy replace vm1 n3 n3"),
    ] {
        let (status, mut volume) = scene("degraded", ["healthy", "healthy", state]);
        volume.r#unsafe = vec![format!("the copy on n3 is {state}")];
        let e = explain(&status, &volume);
        assert!(e.state.contains("2 of 3 copies"), "{state}: {e:?}");
        assert!(said(&e.why, state) && said(&e.next, next), "{state}: {e:?}");
        assert!(said(&e.dangers, "2 are good: if one more fails"), "{state}: {e:?}");
        assert_eq!(e.could.is_empty(), could.is_empty(), "{state}: {e:?}");
        assert!(could.is_empty() || said(&e.could, could), "{state}: {e:?}");
        assert!(!e.text().contains(".."), "one full stop after a sentence: {}", e.text());
    }
}

#[test]
fn every_state_of_a_volume_says_what_requests_do() {
    for (state, epoch, pending, in_state, next) in [
        ("stalled", 4, "", "requests wait", "each answered once"),
        ("opening", 0, "", "being created", "every node has created its copy"),
        ("opening", 4, "n2", "n2 opens epoch 5", "everything that was acknowledged"),
        ("opening", 4, "", "between two primaries", "everything that was acknowledged"),
        ("failed", 4, "", "too few of its copies", "until enough of the copies"),
    ] {
        let (status, mut volume) = scene(state, ["unreachable", "healthy", "unreachable"]);
        (volume.epoch, volume.pending_primary, volume.pending_epoch) = (epoch, pending.to_owned(), 5);
        volume.r#unsafe = vec!["the reason that status gives".to_owned()];
        let e = explain(&status, &volume);
        assert!(e.state.contains(in_state), "{state}: {e:?}");
        assert!(said(&e.next, next), "{state}: {e:?}");
        assert!(said(&e.why, "the reason that status gives"), "{state}: {e:?}");
    }
    let (status, volume) = scene("failed", ["failed", "failed", "healthy"]);
    assert!(said(&explain(&status, &volume).could, "delete nothing"));
}

#[test]
fn what_is_special_is_said() {
    let (mut status, mut volume) = scene("stalled", ["unreachable", "healthy", "healthy"]);
    status.nodes[0].state = "restarting".to_owned();
    status.leader.clear();
    let e = explain(&status, &volume);
    assert!(said(&e.next, "the agent of n1 is being restarted and goes on"), "{e:?}");
    assert!(e.could.len() == 1 && said(&e.dangers, "no leader"), "its node needs no start, the voters do: {e:?}");
    (volume.state, volume.quorum, volume.durability) = ("healthy".to_owned(), 1, "sync".to_owned());
    assert!(said(&explain(&status, &volume).dangers, "on one copy alone"));
    volume.durability = "async".to_owned();
    assert!(said(&explain(&status, &volume).dangers, "nobody takes over without it"));
    (volume.durability, volume.quorum) = ("flush".to_owned(), 2);
    assert!(said(&explain(&status, &volume).dangers, "not flushed"));
    volume.size_wanted = Some(8192);
    assert!(said(&explain(&status, &volume).next, "8192 bytes"));
    let range = pb::Range { offset: 0, length: 4096 };
    let rotten =
        pb::Integrity { unrepairable: vec![range], differs: vec![pb::Difference::default()], ..Default::default() };
    volume.copies[0].integrity = Some(rotten);
    let e = explain(&status, &volume);
    assert!(said(&e.could, "holdfast scrub vm1") && said(&e.could, "holdfast verify vm1"), "{e:?}");
    let resync = pb::Resync {
        done_bytes: 3 << 20,
        total_bytes: 9 << 20,
        paused: "waits for space".to_owned(),
        ..Default::default()
    };
    volume.copies[2] = pb::Copy { resync: Some(resync), ..copy("n3", "secondary", "resyncing") };
    let e = explain(&status, &volume);
    assert!(said(&e.next, "3 of 9 MiB") && said(&e.could, "waits for space"), "{e:?}");
}
