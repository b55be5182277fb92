//! Garbled and hostile bytes are counted, and nothing panics.

use super::net::Net;
use crate::Input;
use bytes::Bytes;
use holdfast_types::{NodeId, Rng};
use raft::eraftpb::{Entry, Message, MessageType, Snapshot};
use raft_prost::Message as _;

fn send(net: &mut Net, to: u64, message: &Message) -> u64 {
    let before = net.status(to).refused;
    net.input(to, Input::Message { from: NodeId(message.from), bytes: message.encode_to_vec().into() });
    net.status(to).refused - before
}

fn message(kind: MessageType, from: u64, to: u64, term: u64) -> Message {
    let mut m = Message { from, to, term, ..Message::default() };
    m.set_msg_type(kind);
    m
}

#[test]
fn each_precondition_is_checked() {
    let mut net = Net::grown(31, 3);
    net.run(500);
    let leader = net.leader().unwrap();
    let follower = if leader == 1 { 2 } else { 1 };
    let status = net.status(follower);
    let (term, last) = (status.term, status.last_index);
    let of = |kind| message(kind, leader, follower, term);

    let beyond = Message { commit: last + 1, ..of(MessageType::MsgHeartbeat) };
    assert_eq!(send(&mut net, follower, &beyond), 1, "a commit beyond the log");
    let gap = Message {
        index: last + 9,
        entries: vec![Entry { index: last + 10, term, ..Entry::default() }],
        ..of(MessageType::MsgAppend)
    };
    assert_eq!(send(&mut net, follower, &gap), 1, "term 0 at an index beyond the log");
    let torn = vec![Entry { index: last + 2, term, ..Entry::default() }];
    let torn = Message { index: last, log_term: term, entries: torn, ..of(MessageType::MsgAppend) };
    assert_eq!(send(&mut net, follower, &torn), 1, "entries that don't follow");
    let snapshot = Message { snapshot: Some(Snapshot::default()), ..of(MessageType::MsgSnapshot) };
    assert_eq!(send(&mut net, follower, &snapshot), 1, "an empty snapshot");
    let other = 6 - leader - follower;
    assert_eq!(send(&mut net, follower, &message(MessageType::MsgHeartbeat, other, follower, term)), 1, "a rival");
    assert_eq!(send(&mut net, follower, &message(MessageType::MsgTimeoutNow, other, follower, term)), 1);
    assert_eq!(send(&mut net, follower, &message(MessageType::MsgHeartbeat, leader, 77, term)), 1, "not for us");
    for kind in [MessageType::MsgHup, MessageType::MsgPropose, MessageType::MsgSnapStatus, MessageType::MsgUnreachable]
    {
        assert_eq!(send(&mut net, follower, &of(kind)), 1, "{kind:?} is local");
    }
    assert_eq!(send(&mut net, leader, &message(MessageType::MsgReadIndex, follower, leader, 0)), 1, "no context");
    let ahead = Message { index: last + 100, ..message(MessageType::MsgAppendResponse, follower, leader, term) };
    assert_eq!(send(&mut net, leader, &ahead), 1, "acknowledges what does not exist");
    let forever = message(MessageType::MsgHeartbeat, leader, follower, u64::MAX);
    assert_eq!(send(&mut net, follower, &forever), 1, "the last term");
    net.must_work();
}

/// Found by the fuzz target `raft_message`: raft took it, and the node ended rather than take its state back.
#[test]
fn a_snapshot_of_another_history_replaces_nothing_that_is_committed() {
    let mut net = Net::grown(31, 3);
    net.run(500);
    let leader = net.leader().unwrap();
    let (node, liar) = if leader == 1 { (2, 3) } else { (1, 5 - leader) };
    let status = net.status(node);
    for index in [status.commit - 1, status.commit] {
        let mut snapshot = Snapshot { data: b"other".to_vec(), ..Snapshot::default() };
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (index, status.term + 1);
        metadata.mut_conf_state().voters = vec![1, 2, 3];
        let lie = message(MessageType::MsgSnapshot, liar, node, status.term + 1);
        send(&mut net, node, &Message { snapshot: Some(snapshot), ..lie });
        net.run(20);
    }
    assert!(net.status(node).refused > status.refused);
    net.run(500);
    net.must_work();
}

#[test]
fn the_sender_is_the_authenticated_one() {
    let mut net = Net::grown(31, 3);
    let leader = net.leader().unwrap();
    let follower = if leader == 1 { 2 } else { 1 };
    let forged = message(MessageType::MsgHeartbeat, leader, follower, net.status(leader).term);
    net.input(follower, Input::Message { from: NodeId(9), bytes: forged.encode_to_vec().into() });
    assert_eq!(net.status(follower).refused, 1);
}

#[test]
fn garbled_bytes_never_panic() {
    let mut rng = Rng::new(41);
    let mut refused = 0;
    for seed in 0..12 {
        let mut net = Net::grown(seed, 3);
        net.run(300);
        for _ in 0..300 {
            let (from, to) = (rng.range(1, 5), rng.range(1, 4));
            let status = net.status(to);
            let small =
                |rng: &mut Rng, base: u64| if rng.chance(300_000) { rng.next_u64() } else { base + rng.below(4) };
            let mut m = Message {
                msg_type: i32::try_from(rng.below(21)).unwrap(),
                from,
                to,
                // A term far ahead is plausible to Raft; keep it near, so that the group goes on.
                term: status.term.saturating_sub(1) + rng.below(3),
                log_term: small(&mut rng, status.term.saturating_sub(1)),
                index: small(&mut rng, status.last_index.saturating_sub(2)),
                commit: small(&mut rng, status.commit.saturating_sub(1)),
                reject: rng.chance(500_000),
                reject_hint: small(&mut rng, status.last_index.saturating_sub(2)),
                ..Message::default()
            };
            // Votes and matching positions that are plausible lies are out of scope (see `guard`).
            let lies =
                [MessageType::MsgRequestVote, MessageType::MsgRequestVoteResponse, MessageType::MsgAppendResponse];
            if lies.iter().any(|l| m.msg_type == i32::from(*l)) {
                m.to = 0;
            }
            if m.msg_type == i32::from(MessageType::MsgAppend) && m.log_term < 1 << 40 {
                m.entries =
                    vec![Entry { index: small(&mut rng, m.index), term: small(&mut rng, 0), ..Entry::default() }];
                m.term = m.term.min(status.term.saturating_sub(1));
            }
            if m.msg_type == i32::from(MessageType::MsgHeartbeat) {
                m.commit = m.commit.max(status.last_index + 1);
            }
            refused += send(&mut net, to, &m);
            let mut bytes = m.encode_to_vec();
            let at = usize::try_from(rng.below(u64::try_from(bytes.len()).unwrap())).unwrap();
            bytes.truncate(at);
            net.input(to, Input::Message { from: NodeId(from), bytes: Bytes::from(bytes) });
            net.run(2);
        }
    }
    assert!(refused > 500, "{refused}");
}

#[test]
fn an_amnesiac_node_is_not_followed_into_a_panic() {
    // Trap 23: the disk is gone, the id is the same. The leader believes that the node holds its log.
    let mut net = Net::grown(43, 3);
    let leader = net.leader().unwrap();
    let victim = if leader == 1 { 2 } else { 1 };
    net.crash(victim);
    net.nodes.get_mut(&victim).unwrap().disk = crate::Stored::default();
    net.start(victim);
    net.run(2000);
    assert!(net.status(victim).refused > 0, "commits beyond its log are refused and counted");
    assert_eq!(net.leader(), Some(leader));
    let token = net.propose(leader);
    net.run(500);
    assert!(!net.dropped.contains(&token) && net.known.iter().any(|(_, d)| *d == format!("command {token}")));
}

#[test]
fn a_snapshot_goes_only_to_whom_it_names() {
    let stored = crate::Stored::founding(NodeId(1), Bytes::new());
    let store = crate::store::LogStore::open(stored).unwrap();
    assert!(raft::Storage::snapshot(&store, 0, 1).is_ok());
    assert!(raft::Storage::snapshot(&store, 0, 2).is_err(), "a newcomer would refuse it, and the leader wait for ever");
    assert!(raft::Storage::snapshot(&store, 2, 1).is_err(), "older than asked for");
}
