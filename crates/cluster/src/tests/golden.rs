//! Bytes that a build from before versions wrote: every command, a state with everything in it, a heartbeat of copies in every state. A
//! cluster of the first version writes exactly these, and every build reads them.

use super::*;
use crate::{
    BlockCounts, Blocks, CopyReport, CopyRole, CopyState, CopyVerdict, Difference, Duty, Exposure, FoundCopy,
    Heartbeat, Integrity, Known, LastHeard, LostCopy, Operator, ResyncProgress, ScrubReport, SpaceLeft, Verdict, Why,
};
use holdfast_types::{ClusterVersion, Lsn, Member, Speaks};
use std::path::PathBuf;

const V: VolumeId = VolumeId(1);

fn golden(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("expected the golden file {}, found {e}", path.display()))
}

fn first() -> [Speaks; 2] {
    [Speaks::UNTOLD, Speaks::THIS]
}

fn operator() -> Operator {
    Operator { uid: Some(1000), user: "anna".into(), host: "h1".into() }
}

fn force(survivors: &[u64]) -> Command {
    let heard = LastHeard { node: NodeId(1), at_ms: Some(5), epoch: Epoch(1), durable: Lsn(9), committed: Lsn(8) };
    Command::ForceRecover {
        volume: V,
        base: Epoch(1),
        survivors: survivors.iter().copied().map(NodeId).collect(),
        primary: NodeId(3),
        at_ms: 7,
        by: operator(),
        known: Known { members: vec![heard], committed: Lsn(8), bound: None, since_ms: Some(4), until_ms: Some(6) },
    }
}

fn found() -> Command {
    let found = FoundCopy { last_epoch: Epoch(1), last: Lsn(12), committed: Lsn(11), whole: true };
    Command::FoundCopy { volume: V, node: NodeId(1), incarnation: Incarnation(11), found }
}

fn kept() -> Command {
    Command::NoteKept { volume: V, epoch: Epoch(3), last: Lsn(9), known: Lsn(8), whole: false }
}

/// One of each.
fn commands() -> Vec<Command> {
    let witness = Command::AddNode {
        name: "w".into(),
        address: "w:7000".into(),
        failure_domain: "rack-w".into(),
        voter: true,
        witness: true,
        fingerprint: "ab12".into(),
        token_id: Some(u64::MAX),
    };
    let (two, four) = (NodeId(2), NodeId(4));
    let member = |n: u64| Member { node: NodeId(n), incarnation: Incarnation(10 + n) };
    let members = vec![member(1), member(2)];
    let mut primary = create("disk", &[1, 2, 3]);
    if let Command::CreateVolume { primary, durability, .. } = &mut primary {
        (*primary, *durability) = (Some(two), Durability::Flush);
    }
    vec![
        add_node("n1"),
        witness,
        Command::RemoveNode { node: two },
        Command::WantNode { node: two, wanted: Duty::Drained },
        Command::AddToken { id: 9, hash: "0123456789abcdef0123456789abcdef".into(), expires: 77 },
        create("disk", &[1, 2, 3]),
        primary,
        Command::ResizeVolume { volume: V, after: 1, size: 1 << 21, shrink: true, found: None },
        register(1, 2, 12),
        Command::DeleteVolume { volume: V },
        Command::CopyDeleted { volume: V, node: two },
        claim(1, 2),
        Command::Reconfigure { volume: V, base: Epoch(1), node: two, life: Life(102), members },
        Command::AddCopy { volume: V, node: four },
        Command::RemoveCopy { volume: V, node: four },
        Command::ReplaceCopy { volume: V, old: two, new: four },
        Command::MoveCopy { volume: V, old: two, new: four, why: Why::Gone },
        Command::KeepCopy { volume: V, node: two },
        activate(2),
        force(&[3]),
        kept(),
        found(),
        nominate(1, 2, true),
        Command::ClearNominee { volume: V, base: Epoch(1) },
    ]
}

/// Volumes in every phase, moves, a nominee, a pending claim, sizes, tokens, a receipt.
fn state() -> State {
    let mut state = cluster(5);
    state.version = ClusterVersion::FIRST;
    let done = |state: &mut State, command: &Command| {
        state.apply(command).unwrap_or_else(|e| panic!("{command:?}: {e}"));
    };
    let volume = |n: u64, command: Command| {
        // The helpers speak of volume 1.
        let text = format!("{command:?}");
        assert!(text.contains("v1"), "{text}");
        match command {
            Command::Claim { base, node, life, .. } => Command::Claim { volume: VolumeId(n), base, node, life },
            Command::Activate { epoch, .. } => Command::Activate { volume: VolumeId(n), epoch },
            other => other,
        }
    };
    done(&mut state, &commands()[1].clone().without_token());
    done(&mut state, &commands()[4]);
    for id in 1..=4 {
        done(&mut state, &create(&format!("disk{id}"), &[1, 2, 3]));
    }
    for id in 1..=3 {
        for node in 1..=3 {
            done(&mut state, &register(id, node, 10 + node));
        }
        done(&mut state, &volume(id, claim(0, 1)));
        done(&mut state, &volume(id, activate(1)));
    }
    done(&mut state, &force(&[3]));
    done(&mut state, &claim(2, 3));
    done(&mut state, &kept());
    done(&mut state, &activate(3));
    done(&mut state, &found());
    let two = VolumeId(2);
    done(&mut state, &Command::MoveCopy { volume: two, old: NodeId(3), new: NodeId(4), why: Why::Drained });
    done(&mut state, &register(2, 4, 14));
    done(&mut state, &Command::ReplaceCopy { volume: two, old: NodeId(2), new: NodeId(2) });
    done(&mut state, &Command::ResizeVolume { volume: two, after: 0, size: 1 << 22, shrink: false, found: None });
    done(&mut state, &Command::Nominate { volume: two, node: NodeId(2), base: Epoch(1), planned: true });
    done(&mut state, &volume(2, claim(1, 2)));
    done(&mut state, &Command::WantNode { node: NodeId(5), wanted: Duty::Drained });
    done(&mut state, &Command::DeleteVolume { volume: VolumeId(3) });
    state
}

impl Command {
    fn without_token(self) -> Command {
        match self {
            Command::AddNode { name, address, failure_domain, voter, witness, fingerprint, .. } => {
                Command::AddNode { name, address, failure_domain, voter, witness, fingerprint, token_id: None }
            }
            other => other,
        }
    }
}

fn copy(volume: u64, state: CopyState) -> CopyReport {
    CopyReport {
        volume: VolumeId(volume),
        epoch: Epoch(3),
        role: CopyRole::Secondary,
        state,
        received: Lsn(40),
        durable: Lsn(39),
        committed: Lsn(38),
        applied: Lsn(30),
        digest: Some(u64::MAX),
        reason: Some("waits".into()),
        switchover: true,
        lost: vec![LostCopy { node: NodeId(2), reason: "no log".into(), resyncs: true }],
        learners: vec![LostCopy { node: NodeId(3), reason: "fills".into(), resyncs: false }],
        clients: 2,
        space: SpaceLeft::Short,
        integrity: integrity(),
        size: Some((1 << 20, 1)),
        hung: Some("a read".into()),
        resync: Some(ResyncProgress {
            source: Some(NodeId(4)),
            passes: 2,
            done_bytes: 3,
            total_bytes: 4,
            bytes_per_second: 5,
            eta_seconds: Some(6),
            paused: Some("waits for its turn".into()),
        }),
        orphans: vec![(2, 4096)],
        exposure: Exposure { bytes: 7, seconds: 8, byte_seconds: 56 },
        slow: Vec::new(),
        absent: Vec::new(),
        damaged: None,
        unknown_reign: false,
        asked_for: false,
    }
}

fn integrity() -> Integrity {
    let counts = BlockCounts { verified: 1, mismatches: 2, repaired: 3, unrepairable: 4 };
    let blocks = Blocks { offset: 4096, length: 8192 };
    Integrity {
        total: counts,
        unrepairable: vec![blocks],
        more: true,
        scrub: ScrubReport {
            position: 1,
            length: 2,
            requested: true,
            run: 3,
            of_run: counts,
            passes: 4,
            started_ms: Some(5),
            ended_ms: None,
        },
        verifying: Some(6),
        verdict: Some(Verdict {
            run: 6,
            lsn: Lsn(30),
            ended_ms: 7,
            copies: vec![CopyVerdict {
                node: NodeId(2),
                digest: Some(8),
                missing: Some("late".into()),
                ranges: vec![blocks],
                more: false,
            }],
        }),
        verify_runs: 9,
        proofs: 10,
        differs: vec![Difference { node: NodeId(2), lsn: Lsn(30) }],
    }
}

fn heartbeat() -> Heartbeat {
    let states = [
        CopyState::Serving,
        CopyState::InSync,
        CopyState::CatchingUp,
        CopyState::Resyncing,
        CopyState::Failed { reason: "EIO".into() },
        CopyState::Opening,
        CopyState::Sealed,
        CopyState::Aside { incarnation: Incarnation(12), whole: true },
    ];
    let copies = (1..).zip(states).map(|(volume, state)| copy(volume, state)).collect();
    Heartbeat { node: NodeId(1), life: u64::MAX, copies, free_bytes: Some(1 << 40), longest_file: None }
}

#[test]
fn commands_of_the_first_version_are_as_they_were() {
    let text = String::from_utf8(golden("commands-1.jsonl")).unwrap();
    let written: Vec<&str> = text.lines().collect();
    assert_eq!(written.len(), commands().len());
    for (line, command) in written.into_iter().zip(commands()) {
        assert_eq!(String::from_utf8(command.encode()).unwrap(), line);
        assert_eq!(command.needs(), ClusterVersion::FIRST);
        for speaks in first() {
            assert_eq!(Command::decode(line.as_bytes(), speaks).unwrap(), command);
        }
    }
}

#[test]
fn a_state_of_the_first_version_is_as_it_was() {
    let bytes = golden("state-1.json");
    assert_eq!(String::from_utf8(state().encode()).unwrap(), String::from_utf8(bytes.clone()).unwrap());
    for speaks in first() {
        assert_eq!(State::decode(&bytes, speaks).unwrap(), state());
    }
}

#[test]
fn a_heartbeat_of_the_first_version_is_as_it_was() {
    let bytes = golden("heartbeat-1.json");
    let encoded = heartbeat().encode(ClusterVersion::FIRST);
    assert_eq!(String::from_utf8(encoded).unwrap(), String::from_utf8(bytes.clone()).unwrap());
    for speaks in first() {
        assert_eq!(Heartbeat::decode(&bytes, speaks).unwrap(), heartbeat());
    }
}

/// An agent of the first version refuses what it does not know; a later one takes what it knows of a heartbeat, and nothing else.
#[test]
fn what_is_unknown_is_passed_over_where_it_decides_nothing() {
    let text = String::from_utf8(golden("heartbeat-1.json")).unwrap();
    let more = text.replacen("\"volume\":1,", "\"volume\":1,\"mood\":\"good\",", 1);
    assert_ne!(more, text);
    assert_eq!(Heartbeat::decode(more.as_bytes(), Speaks::THIS).unwrap(), heartbeat());
    assert!(Heartbeat::decode(more.as_bytes(), Speaks::UNTOLD).is_err());
    // What a version brought is left out of what is said in an older one.
    let mut slow = heartbeat();
    slow.copies[0].slow.push(crate::SlowCopy { node: NodeId(2), latency_us: 9, others_us: 1, link: false });
    assert_eq!(String::from_utf8(slow.encode(ClusterVersion::FIRST)).unwrap(), text);
    assert_eq!(Heartbeat::decode(&slow.encode(ClusterVersion::TOLD), Speaks::THIS).unwrap(), slow);
    let later = heartbeat().encode(ClusterVersion(99));
    assert_eq!(Heartbeat::decode(&later, Speaks::THIS).unwrap(), heartbeat());
    assert!(Heartbeat::decode(&later, Speaks::UNTOLD).is_err());

    let state = String::from_utf8(golden("state-1.json")).unwrap();
    let more = state.replacen("\"next_node\":", "\"mood\":1,\"next_node\":", 1);
    assert!(State::decode(more.as_bytes(), Speaks::THIS).is_err(), "a part of what was agreed must not be skipped");
    let mut raised = self::state();
    raised.version = ClusterVersion::TOLD;
    let bytes = raised.encode();
    assert_eq!(State::decode(&bytes, Speaks::THIS).unwrap(), raised);
    let refused = State::decode(&bytes, Speaks::UNTOLD).unwrap_err().to_string();
    assert_eq!(refused, "expected one of version 1 alone, found one of version 2");
    let body = String::from_utf8(bytes).unwrap().replace("\"name\":", "\"of a later version\":1,\"name\":");
    let refused = State::decode(body.replace("{\"version\":2", "{\"version\":9").as_bytes(), Speaks::THIS).unwrap_err();
    assert!(refused.to_string().contains("found one of version 9"), "the label comes first: {refused}");
}
