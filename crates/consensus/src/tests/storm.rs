//! Whole-group scenarios.

use super::net::{Net, encode_state};
use crate::{Input, MembershipChange, Output, Raft, RaftConfig, Stored};
use bytes::Bytes;
use holdfast_types::NodeId;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, Entry, EntryType, Message, MessageType};
use raft_prost::Message as _;

fn seeds() -> std::ops::Range<u64> {
    let count = std::env::var("HOLDFAST_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(60);
    0..count
}

fn storm_step(net: &mut Net, n: u64) {
    let (a, b) = (net.rng.range(1, n + 1), net.rng.range(1, n + 1));
    match net.rng.below(12) {
        0 => net.crash(a),
        1 | 2 => net.start(a),
        3 if a != b => {
            net.cut.insert((a, b));
        }
        4 => {
            // A node that is alone, in one direction or both.
            let both = net.rng.chance(500_000);
            for other in (1..=n).filter(|o| *o != a) {
                net.cut.insert((a, other));
                if both {
                    net.cut.insert((other, a));
                }
            }
        }
        5 => {
            for (a, b) in net.cut.clone() {
                net.reconnect(a, b);
            }
        }
        6 => net.compact(a),
        7 => net.read(a),
        8 => net.input(a, Input::TransferLeadership(NodeId(b))),
        9 => net.input(a, Input::Campaign),
        _ => {
            net.propose(a);
        }
    }
}

fn storm(seed: u64, n: u64) -> Net {
    let mut net = Net::grown(seed, n);
    for _ in 0..150 {
        storm_step(&mut net, n);
        let pause = net.rng.range(1, 120);
        net.run(pause);
        if net.rng.chance(100_000) {
            net.nodes.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| net.crash(id));
        }
    }
    net.must_work();
    net
}

#[test]
fn storms_of_three_and_five_keep_the_log_and_end() {
    let (mut applied, mut reads, mut installed) = (0, 0, 0);
    for seed in seeds() {
        let net = storm(seed, if seed % 3 == 0 { 5 } else { 3 });
        applied += net.known.len();
        reads += net.reads_done;
        installed += net.nodes.values().filter(|n| n.installed > 10).count();
        for id in net.nodes.keys() {
            assert_eq!(net.status(*id).refused, 0, "seed {seed}: honest messages are never refused");
        }
    }
    assert!(applied > 100 && reads > 10 && installed > 10, "the storm tests something: {applied} {reads} {installed}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [1, 3, 7] {
        let (a, b) = (storm(seed, 3), storm(seed, 3));
        assert_eq!((a.hash, a.now), (b.hash, b.now), "seed {seed}");
    }
    assert_ne!(storm(1, 3).hash, storm(2, 3).hash);
}

#[test]
fn a_group_grows_from_one_to_three_through_learners() {
    let mut net = Net::grown(5, 3);
    net.must_work();
    for id in 1..=3 {
        let status = net.status(id);
        assert_eq!(status.voters, [NodeId(1), NodeId(2), NodeId(3)]);
        assert!(status.learners.is_empty());
        if id > 1 {
            assert!(net.nodes[&id].installed > 1, "a newcomer starts from a snapshot that names it");
        }
    }
}

#[test]
fn a_lagging_node_is_brought_back_by_a_snapshot() {
    let mut net = Net::grown(11, 3);
    let leader = net.leader().unwrap();
    let lagging = if leader == 3 { 2 } else { 3 };
    net.crash(lagging);
    for _ in 0..50 {
        net.propose(leader);
        net.run(10);
    }
    net.run(200);
    let before = net.nodes[&lagging].installed;
    net.nodes.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| net.compact(id));
    net.must_work();
    assert!(net.nodes[&lagging].installed > before + 40, "a snapshot came, not the log");
}

#[test]
fn the_leader_is_replaced_and_may_be_removed_by_its_successor() {
    let mut net = Net::grown(17, 3);
    let old = net.leader().unwrap();
    net.crash(old);
    net.run(1500);
    let new = net.leader().expect("two of three elect");
    assert_ne!(new, old);
    net.change(new, MembershipChange::Remove(NodeId(old)));
    net.run(500);
    assert_eq!(net.status(new).voters.len(), 2);
    // What is removed does not disturb the others when it comes back.
    let term = net.status(new).term;
    net.start(old);
    net.run(3000);
    assert_eq!((net.leader(), net.status(new).term), (Some(new), term));
}

/// Node 2 of a grown group with `entries` appended behind its log by hand, in a term of their own.
fn with_entries(seed: u64, entries: Vec<Entry>) -> (Raft, u64) {
    let disk = Net::grown(seed, 3).nodes[&2].disk.clone();
    let mut raft = Raft::new(RaftConfig::new(NodeId(2), 6), disk).unwrap();
    let (term, last) = (raft.status().term + 1, raft.status().last_index);
    // The stored log ends in the term of the only leader there was.
    let at = |(i, e): (usize, Entry)| Entry { term, index: last + 1 + u64::try_from(i).unwrap(), ..e };
    let entries = entries.into_iter().enumerate().map(at).collect();
    let mut m = Message { from: 1, to: 2, term, index: last, log_term: term - 1, entries, ..Message::default() };
    m.set_msg_type(MessageType::MsgAppend);
    let mut out = Vec::new();
    raft.handle(Input::Message { from: NodeId(1), bytes: m.encode_to_vec().into() }, &mut out);
    assert_eq!(raft.status().refused, 0);
    (raft, out.iter().filter_map(|o| if let Output::Persist(b) = o { Some(b.batch) } else { None }).max().unwrap())
}

/// Answers what node 2 asks of node 1, and persists at once.
fn obey(raft: &mut Raft, mut out: Vec<Output>) -> Vec<Output> {
    let mut all = Vec::new();
    for _ in 0..20 {
        let mut next = Vec::new();
        for output in out {
            if let Output::Persist(batch) = &output {
                raft.handle(Input::Persisted { batch: batch.batch }, &mut next);
            }
            if let Output::Send { to: NodeId(1), bytes } = &output {
                let asked = Message::decode(bytes.as_ref()).unwrap();
                let (kind, index) = match asked.get_msg_type() {
                    MessageType::MsgRequestPreVote => (MessageType::MsgRequestPreVoteResponse, 0),
                    MessageType::MsgRequestVote => (MessageType::MsgRequestVoteResponse, 0),
                    MessageType::MsgAppend => {
                        (MessageType::MsgAppendResponse, asked.entries.last().map_or(asked.index, |e| e.index))
                    }
                    _ => continue,
                };
                let mut answer = Message { from: 1, to: 2, term: asked.term, index, ..Message::default() };
                answer.set_msg_type(kind);
                raft.handle(Input::Message { from: NodeId(1), bytes: answer.encode_to_vec().into() }, &mut next);
            }
            all.push(output);
        }
        out = next;
    }
    all
}

#[test]
fn a_leader_that_applies_its_own_removal_steps_down() {
    // Node 1 proposed to remove node 2 and died; node 2 leads next and commits the change.
    let mut single = ConfChangeSingle { node_id: 2, ..ConfChangeSingle::default() };
    single.set_change_type(ConfChangeType::RemoveNode);
    let change = ConfChangeV2 { changes: vec![single], ..ConfChangeV2::default() };
    let mut entry = Entry { data: change.encode_to_vec(), ..Entry::default() };
    entry.set_entry_type(EntryType::EntryConfChangeV2);
    let (mut raft, batch) = with_entries(37, vec![entry]);
    let mut out = Vec::new();
    raft.handle(Input::Persisted { batch }, &mut out);
    raft.handle(Input::Campaign, &mut out);
    let out = obey(&mut raft, out);
    assert!(out.iter().any(|o| matches!(o, Output::RoleChanged { is_leader: true, .. })), "it led: {out:?}");
    let removed =
        |o: &Output| matches!(o, Output::MembershipApplied { voters, .. } if *voters == [NodeId(1), NodeId(3)]);
    assert!(out.iter().any(removed), "{out:?}");
    assert!(!raft.status().is_leader);
    (0..100).for_each(|_| raft.handle(Input::Tick, &mut Vec::new()));
    assert!(!raft.status().is_leader && raft.status().leader.is_none());
}

#[test]
fn a_node_whose_log_is_not_durable_does_not_campaign() {
    let (mut raft, batch) = with_entries(38, vec![Entry { data: b"x".to_vec(), ..Entry::default() }]);
    let term = raft.status().term;
    let mut out = Vec::new();
    raft.handle(Input::Campaign, &mut out);
    (0..100).for_each(|_| raft.handle(Input::Tick, &mut out));
    assert_eq!((raft.status().term, raft.status().leader, sends(&out)), (term, Some(NodeId(1)), 0));
    raft.handle(Input::Persisted { batch }, &mut out);
    out.clear();
    (0..30).for_each(|_| raft.handle(Input::Tick, &mut out));
    assert!(sends(&out) > 0, "now it does");
}

#[test]
fn own_entries_are_committed_only_when_durable() {
    let mut raft = Raft::new(RaftConfig::new(NodeId(1), 1), Stored::founding(NodeId(1), Bytes::new())).unwrap();
    let mut out = Vec::new();
    raft.handle(Input::Campaign, &mut out);
    assert!(matches!(out[0], Output::Restore { index: 1, .. }), "{out:?}");
    assert!(raft.status().is_leader);
    raft.handle(Input::Propose { token: 1, data: Bytes::from_static(b"x") }, &mut out);
    let applied = |out: &[Output]| out.iter().any(|o| matches!(o, Output::Apply { .. }));
    assert!(!applied(&out), "own entries don't count before they are durable");
    let last = out.iter().filter_map(|o| if let Output::Persist(b) = o { Some(b.batch) } else { None }).max().unwrap();
    raft.handle(Input::Persisted { batch: last }, &mut out);
    assert!(applied(&out));
}

fn sends(out: &[Output]) -> usize {
    out.iter().filter(|o| matches!(o, Output::Send { .. })).count()
}

fn first_batch(out: &[Output]) -> u64 {
    out.iter().find_map(|o| if let Output::Persist(b) = o { Some(b.batch) } else { None }).expect("a batch")
}

#[test]
fn a_vote_is_answered_only_when_it_is_durable() {
    let disk = Net::grown(23, 3).nodes[&2].disk.clone();
    let mut voter = Raft::new(RaftConfig::new(NodeId(2), 6), disk).unwrap();
    let (term, last) = (voter.status().term, voter.status().last_index);
    let mut request = Message { from: 3, to: 2, term: term + 5, index: last + 1, log_term: term, ..Message::default() };
    request.set_msg_type(MessageType::MsgRequestVote);
    let mut out = Vec::new();
    voter.handle(Input::Message { from: NodeId(3), bytes: request.encode_to_vec().into() }, &mut out);
    assert_eq!(sends(&out), 0, "{out:?}");
    voter.handle(Input::Persisted { batch: first_batch(&out) }, &mut out);
    assert_eq!(sends(&out), 1, "{out:?}");
    let Some(Output::Send { bytes, .. }) = out.iter().find(|o| matches!(o, Output::Send { .. })) else { panic!() };
    let answer = Message::decode(bytes.as_ref()).unwrap();
    assert!(answer.get_msg_type() == MessageType::MsgRequestVoteResponse && !answer.reject);
}

#[test]
fn a_lone_voter_tells_its_learner_nothing_before_its_term_is_durable() {
    let mut net = Net::new(25, 2);
    net.input(1, Input::Campaign);
    net.run(200);
    net.change(1, MembershipChange::AddLearner(NodeId(2)));
    net.run(500);
    assert_eq!(net.status(1).learners, [NodeId(2)]);
    let mut lone = Raft::new(RaftConfig::new(NodeId(1), 7), net.nodes[&1].disk.clone()).unwrap();
    let mut out = Vec::new();
    lone.handle(Input::Campaign, &mut out);
    assert!(lone.status().is_leader);
    assert_eq!(sends(&out), 0, "after a crash now it would use the same term again, for other entries");
    lone.handle(Input::Persisted { batch: first_batch(&out) }, &mut out);
    assert!(sends(&out) > 0);
}

#[test]
fn stored_state_that_contradicts_itself_is_refused() {
    let config = RaftConfig::new(NodeId(1), 1);
    let good = Net::grown(29, 3).nodes[&1].disk.clone();
    assert!(Raft::new(config.clone(), good.clone()).is_ok());
    let broken = |change: fn(&mut Stored)| {
        let mut stored = good.clone();
        change(&mut stored);
        Raft::new(config.clone(), stored).err().map(|e| e.to_string())
    };
    assert!(broken(|s| s.snapshot = Some(Bytes::from_static(&[0xff, 0xff]))).is_some());
    assert!(broken(|s| s.snapshot = None).is_some(), "entries without what they follow");
    assert!(broken(|s| s.hard_state = None).unwrap().contains("term is 0"));
    let mut stored = Stored::founding(NodeId(1), encode_state(&[]));
    stored.entries.push((3, Bytes::new()));
    assert!(Raft::new(config, stored).is_err());
}
