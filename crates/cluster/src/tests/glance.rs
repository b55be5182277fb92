//! What `holdfast status` would say.

use super::decider::report;
use super::*;
use crate::{CopyRole, CopyState, Detector, Heartbeat, LostCopy, SpaceLeft, VolumeState, VolumeStatus, status};
use holdfast_types::{ClusterVersion, Member, Speaks, Time, VolumeId};
use std::time::Duration;

fn glance(state: &State, says: &[(u64, CopyRole, CopyState, u64)]) -> VolumeStatus {
    let mut detector = Detector::new(Duration::from_secs(1), Time::ZERO);
    let now = Time::ZERO + Duration::from_secs(5);
    for (node, role, copy, durable) in says {
        let copies = vec![report(*role, copy.clone(), 1, *durable)];
        detector.heard(Heartbeat { node: NodeId(*node), life: 1, copies, free_bytes: None, longest_file: None }, now);
    }
    status(state, &detector, now).volumes.remove(0)
}

#[test]
fn each_state_of_a_volume_has_its_reasons() {
    use CopyRole::{Idle, Primary, Secondary};
    use CopyState::{CatchingUp, InSync, Sealed, Serving};
    let failed = || CopyState::Failed { reason: "EIO".into() };
    let state = open();

    let v = glance(&state, &[(1, Primary, Serving, 9), (2, Secondary, InSync, 9), (3, Secondary, InSync, 7)]);
    assert_eq!((v.state, v.reasons.len()), (VolumeState::Healthy, 0));
    assert_eq!(v.copies.iter().map(|c| c.lag_lsn).collect::<Vec<_>>(), [Some(0), Some(0), Some(2)]);
    assert_eq!((v.primary.as_deref(), v.exposure), (Some("n1"), Some(0)));

    let v = glance(&state, &[(1, Primary, Serving, 9), (2, Secondary, InSync, 9), (3, Secondary, CatchingUp, 1)]);
    assert_eq!((v.state, v.reasons.join(";")), (VolumeState::Degraded, "the copy on n3 is catching up".into()));

    let v = glance(&state, &[(1, Primary, Serving, 9), (2, Secondary, CatchingUp, 9)]);
    assert_eq!(v.state, VolumeState::Stalled);
    assert!(v.reasons.iter().any(|r| r.contains("only 1 of 3 copies are in sync, 2 are needed")), "{:?}", v.reasons);
    assert!(v.reasons.iter().any(|r| r == "n3 is silent for 5 s"));

    let v = glance(&state, &[(2, Secondary, Sealed, 9)]);
    assert_eq!(v.state, VolumeState::Stalled, "{:?}", v.reasons);

    let v = glance(&state, &[(1, Idle, failed(), 9), (2, Idle, failed(), 9), (3, Secondary, InSync, 9)]);
    assert_eq!(v.state, VolumeState::Failed);
    assert!(v.reasons.iter().any(|r| r.contains("the copy on n1 has failed: EIO")));

    let v = glance(&unopened(), &[(1, Idle, Sealed, 0), (2, Idle, Sealed, 0), (3, Idle, Sealed, 0)]);
    assert_eq!(v.state, VolumeState::Opening);
    assert!(v.reasons.contains(&"n1 is becoming primary".to_owned()));

    let mut creating = cluster(3);
    creating.apply(&create("disk", &[1, 2, 3])).unwrap();
    creating.apply(&register(1, 1, 5)).unwrap();
    let v = glance(&creating, &[]);
    assert_eq!((v.state, v.reasons.len()), (VolumeState::Opening, 2));
}

#[test]
fn a_copy_that_the_log_no_longer_reaches_is_not_in_sync_whatever_it_says() {
    let (state, now) = (open(), Time::ZERO + Duration::from_secs(5));
    let mut detector = Detector::new(Duration::from_secs(1), Time::ZERO);
    let mut primary = report(CopyRole::Primary, CopyState::Serving, 1, 900);
    primary.lost =
        vec![LostCopy { node: NodeId(3), reason: "the journal no longer holds record 8".to_owned(), resyncs: true }];
    detector.heard(
        Heartbeat { node: NodeId(1), life: 1, copies: vec![primary], free_bytes: None, longest_file: None },
        now,
    );
    for (node, durable) in [(2, 900), (3, 7)] {
        let copies = vec![report(CopyRole::Secondary, CopyState::InSync, 1, durable)];
        detector.heard(Heartbeat { node: NodeId(node), life: 1, copies, free_bytes: None, longest_file: None }, now);
    }
    let v = status(&state, &detector, now).volumes.remove(0);
    assert_eq!(v.state, VolumeState::Degraded);
    assert_eq!(v.copies.iter().map(|c| c.state).collect::<Vec<_>>(), ["serving", "in_sync", "resyncing"]);
    assert_eq!(v.reasons, ["the copy on n3 is to be resynced by regions: the journal no longer holds record 8"]);
    assert_eq!(v.copies[2].lag_lsn, Some(893));
}

#[test]
fn a_full_file_system_is_told_and_stalls_whom_it_holds_up() {
    let (state, now) = (open(), Time::ZERO + Duration::from_secs(5));
    let look = |space: [SpaceLeft; 3]| {
        let mut detector = Detector::new(Duration::from_secs(1), Time::ZERO);
        for (node, space) in (1..).zip(space) {
            let (role, copy) = if node == 1 {
                (CopyRole::Primary, CopyState::Serving)
            } else {
                (CopyRole::Secondary, CopyState::InSync)
            };
            let mut copy = report(role, copy, 1, 9);
            copy.space = space;
            let heartbeat =
                Heartbeat { node: NodeId(node), life: 1, copies: vec![copy], free_bytes: None, longest_file: None };
            let heartbeat = Heartbeat::decode(&heartbeat.encode(ClusterVersion::FIRST), Speaks::THIS).unwrap();
            detector.heard(heartbeat, now);
        }
        let v = status(&state, &detector, now).volumes.remove(0);
        (v.state, v.reasons)
    };
    use SpaceLeft::{Enough, Out, Short};
    assert_eq!(look([Enough, Enough, Enough]).0, VolumeState::Healthy);
    let hint = |n: &str| format!("free space on the device of {n}, or enlarge it");
    for (space, wanted, node) in [
        ([Short, Enough, Enough], VolumeState::Degraded, "n1"),
        ([Enough, Enough, Out], VolumeState::Degraded, "n3"),
        ([Out, Enough, Enough], VolumeState::Stalled, "n1"),
        ([Enough, Out, Out], VolumeState::Stalled, "n2"),
    ] {
        let (found, reasons) = look(space);
        assert_eq!(found, wanted, "{space:?}: {reasons:?}");
        assert!(reasons.iter().any(|r| r.ends_with(&hint(node))), "{space:?}: {reasons:?}");
    }
}

#[test]
fn a_copy_whose_device_hangs_is_not_called_healthy() {
    let (state, now) = (open(), Time::ZERO + Duration::from_secs(5));
    let mut detector = Detector::new(Duration::from_secs(1), Time::ZERO);
    for node in 1..=3 {
        let (role, copy) =
            if node == 1 { (CopyRole::Primary, CopyState::Serving) } else { (CopyRole::Secondary, CopyState::InSync) };
        let mut copy = report(role, copy, 1, 9);
        copy.hung = (node == 3).then(|| "journal/segment-1 in /data".to_owned());
        let heartbeat =
            Heartbeat { node: NodeId(node), life: 1, copies: vec![copy], free_bytes: None, longest_file: None };
        detector.heard(Heartbeat::decode(&heartbeat.encode(ClusterVersion::FIRST), Speaks::THIS).unwrap(), now);
    }
    let v = status(&state, &detector, now).volumes.remove(0);
    assert_eq!((v.state, v.copies[2].state), (VolumeState::Degraded, "hung"));
    let told = &v.reasons[0];
    assert!(["n3", "journal/segment-1 in /data", "check that device"].iter().all(|w| told.contains(w)), "{told}");
}

#[test]
fn the_json_is_the_contract() {
    let detector = Detector::new(Duration::from_secs(1), Time::ZERO);
    let json = serde_json::to_value(status(&open(), &detector, Time::ZERO)).unwrap();
    assert_eq!(json["cluster"], "test");
    assert_eq!(json["nodes"][0]["state"], "alive");
    let volume = &json["volumes"][0];
    for key in
        ["name", "id", "size", "epoch", "primary", "state", "durability", "quorum", "copies", "exposure", "unsafe"]
    {
        assert!(volume.get(key).is_some(), "{key}");
    }
    for key in ["node", "role", "state", "durable_lsn", "applied_lsn", "digest", "lag_lsn"] {
        assert!(volume["copies"][0].get(key).is_some(), "{key}");
    }
}

#[test]
fn a_copy_on_its_way_in_or_out_says_what_keeps_it() {
    use CopyRole::{Primary, Secondary};
    use CopyState::{InSync, Serving};
    let mut state = open();
    state.apply(&add_node("n4")).unwrap();
    let (volume, old, new) = (VolumeId(1), NodeId(3), NodeId(4));
    state.apply(&Command::ReplaceCopy { volume, old, new }).unwrap();
    let of = |v: &VolumeStatus, node: &str| {
        let copy = v.copies.iter().find(|c| c.node == node).unwrap_or_else(|| panic!("{node} is shown"));
        (copy.role, copy.state, copy.note.clone().unwrap_or_default())
    };
    let three = [(1, Primary, Serving, 9), (2, Secondary, InSync, 9), (3, Secondary, InSync, 9)];

    let v = glance(&state, &three);
    assert_eq!((v.state, v.copies_wanted, v.copies.len()), (VolumeState::Healthy, 3, 4), "{:?}", v.reasons);
    assert_eq!(of(&v, "n3"), ("secondary", "leaving", "it goes once enough others count; joining: n4".to_owned()));
    assert_eq!((of(&v, "n4").0, of(&v, "n4").1), ("learner", "silent"));
    assert_eq!(v.copies.iter().filter(|c| c.note.is_some()).count(), 2, "{:?}", v.copies);

    state.apply(&register(1, 4, 40)).unwrap();
    let now = Time::ZERO + Duration::from_secs(5);
    let mut detector = Detector::new(Duration::from_secs(1), Time::ZERO);
    for (node, role, copy, durable) in three.clone().into_iter().chain([(4, Secondary, CopyState::CatchingUp, 2)]) {
        let mut report = report(role, copy, 1, durable);
        if node == 1 {
            report.learners.push(LostCopy { node: new, reason: "lacks 7 of 9 records".into(), resyncs: false });
        }
        detector.heard(
            Heartbeat { node: NodeId(node), life: 1, copies: vec![report], free_bytes: None, longest_file: None },
            now,
        );
    }
    let v = status(&state, &detector, now).volumes.remove(0);
    assert_eq!(of(&v, "n4"), ("learner", "joining", "lacks 7 of 9 records".to_owned()));
    assert_eq!(v.state, VolumeState::Healthy, "a learner counts for nothing: {:?}", v.reasons);

    let mut dropped = open();
    dropped.apply(&Command::RemoveCopy { volume, node: old }).unwrap();
    let members = vec![member(1), member(2)];
    let (base, node, life) = (Epoch(1), NodeId(1), Life(7));
    dropped.apply(&Command::Reconfigure { volume, base, node, life, members }).unwrap();
    dropped.apply(&activate(2)).unwrap();
    let v = glance(&dropped, &three[..2]);
    assert_eq!((v.state, v.quorum, v.copies_wanted), (VolumeState::Healthy, 2, 2), "{:?}", v.reasons);
    assert_eq!(of(&v, "n3").1, "deleting");
}

/// As `open` registers them.
fn member(node: u64) -> Member {
    Member { node: NodeId(node), incarnation: open().volumes[&VolumeId(1)].incarnation(NodeId(node)).unwrap() }
}

/// What is decided shows until the primary has carried it out.
#[test]
fn a_size_that_is_wanted_shows_beside_the_one_that_is() {
    let mut state = open();
    let (before, after) = (state.volumes[&VolumeId(1)].size.bytes(), 1 << 30);
    let resize = Command::ResizeVolume { volume: VolumeId(1), after: 0, size: after, shrink: false, found: None };
    state.apply(&resize).unwrap();
    let look = |said: Option<(u64, u64)>| {
        let mut detector = Detector::new(Duration::from_secs(1), Time::ZERO);
        let now = Time::ZERO + Duration::from_secs(5);
        let mut primary = report(CopyRole::Primary, CopyState::Serving, 1, 9);
        primary.size = said;
        detector.heard(
            Heartbeat { node: NodeId(1), life: 1, copies: vec![primary], free_bytes: None, longest_file: None },
            now,
        );
        let volume = status(&state, &detector, now).volumes.remove(0);
        (volume.size, volume.size_wanted)
    };
    assert_eq!(look(Some((before, 0))), (before, Some(after)));
    assert_eq!(look(Some((after, 1))), (after, None));
    assert_eq!(look(None), (after, None), "nobody says anything else");
}
