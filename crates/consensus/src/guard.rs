//! What must hold of a peer's message before raft may see it.
//!
//! Raft trusts its peers: out of range indexes, empty lists and impossible terms end in a panic there. Peers are
//! authenticated, but a bug or an amnesiac disk in one node must not take the control plane of another down.
//!
//! Deliberately absent: protection against a peer that lies plausibly (a vote it did not cast, a term far ahead).
//! Raft is no Byzantine protocol.

use crate::store::{LogStore, check_snapshot};
use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use raft::{RawNode, StateRole};

/// Far above every real index and term, far enough below the maximum that sums don't overflow.
const NUMBER_LIMIT: u64 = 1 << 62;
/// Reads of followers that a leader confirms at the same time.
const MAX_FORWARDED_READS: usize = 1024;
/// The context of a read or of a transferred vote.
const MAX_CONTEXT_BYTES: usize = 64;

/// What to do with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Step it.
    Accept,
    /// Legal, of no use: drop it silently.
    Stale,
    /// Impossible: count and drop it.
    Refuse,
}

use Verdict::{Accept, Refuse, Stale};

/// Judges a decoded message of the authenticated peer `from`.
pub(crate) fn judge(node: &RawNode<LogStore>, from: u64, m: &Message) -> Verdict {
    let Some(kind) = MessageType::from_i32(m.msg_type) else { return Refuse };
    let numbers = [m.term, m.log_term, m.index, m.commit, m.commit_term, m.reject_hint];
    let plausible = numbers.iter().all(|n| *n < NUMBER_LIMIT)
        && m.request_snapshot == 0
        && m.context.len() <= MAX_CONTEXT_BYTES
        && (m.term == 0) == (kind == MessageType::MsgReadIndex);
    if from == 0 || from == node.raft.id || m.from != from || m.to != node.raft.id || !plausible {
        return Refuse;
    }
    match kind {
        MessageType::MsgAppend => of_leader(node, m, append_is_sound(m)),
        MessageType::MsgHeartbeat => of_leader(node, m, m.commit <= node.raft.raft_log.last_index()),
        MessageType::MsgSnapshot => of_leader(node, m, snapshot_is_sound(node, m)),
        MessageType::MsgTimeoutNow => of_known_leader(node, m, true),
        MessageType::MsgReadIndexResp => of_known_leader(node, m, m.entries.len() == 1),
        MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => accept_if(m.entries.is_empty()),
        MessageType::MsgReadIndex => read_index(node, m),
        MessageType::MsgAppendResponse => append_response(node, m),
        MessageType::MsgHeartbeatResponse
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgRequestPreVoteResponse => of_member(node, m),
        // Local to a node, or (proposals, transfers) sent by the caller's own means.
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgPropose
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum
        | MessageType::MsgTransferLeader => Refuse,
    }
}

fn accept_if(sound: bool) -> Verdict {
    if sound { Accept } else { Refuse }
}

/// A term has one leader. Messages of older terms pass: raft answers them with the newer term.
fn of_leader(node: &RawNode<LogStore>, m: &Message, sound: bool) -> Verdict {
    let raft = &node.raft;
    if m.term < raft.term {
        return Accept;
    }
    let rival =
        m.term == raft.term && (raft.state == StateRole::Leader || (raft.leader_id != 0 && raft.leader_id != m.from));
    accept_if(sound && !rival)
}

/// These two don't make their sender the leader; repeated after a reign they mean nothing.
fn of_known_leader(node: &RawNode<LogStore>, m: &Message, sound: bool) -> Verdict {
    match of_leader(node, m, sound) {
        Accept if node.raft.leader_id != m.from => Stale,
        verdict => verdict,
    }
}

fn of_member(node: &RawNode<LogStore>, m: &Message) -> Verdict {
    // A removed node still answers for a while.
    if node.raft.prs().get(m.from).is_some() { Accept } else { Stale }
}

fn append_is_sound(m: &Message) -> bool {
    // Term 0 at an index beyond the log would match "no entry" and leave a gap.
    let anchored = (m.log_term == 0) == (m.index == 0) && m.log_term <= m.term;
    anchored && entries_are_sound(&m.entries, m.index, m.log_term, m.term)
}

fn entries_are_sound(entries: &[Entry], index: u64, log_term: u64, term: u64) -> bool {
    let (mut index, mut at) = (index, log_term);
    entries.iter().all(|e| {
        let follows = e.index == index + 1 && at <= e.term && e.term <= term && e.term > 0;
        (index, at) = (e.index, e.term);
        follows && EntryType::from_i32(e.entry_type).is_some()
    })
}

fn snapshot_is_sound(node: &RawNode<LogStore>, m: &Message) -> bool {
    m.snapshot.as_ref().is_some_and(|s| {
        let metadata = s.get_metadata();
        // Raft would put one of another history in the place of what is committed here, and take the state back.
        let log = &node.raft.raft_log;
        let fits = metadata.index != log.committed || log.match_term(metadata.index, metadata.term);
        fits && metadata.index < NUMBER_LIMIT && metadata.term <= m.term && check_snapshot(s).is_ok()
    })
}

fn read_index(node: &RawNode<LogStore>, m: &Message) -> Verdict {
    if node.raft.state != StateRole::Leader || node.raft.pending_read_count() >= MAX_FORWARDED_READS {
        // Not forwarded a second time: the reader's own timeout answers.
        return Stale;
    }
    let sound = m.entries.len() == 1 && m.entries[0].data.len() <= MAX_CONTEXT_BYTES && !m.entries[0].data.is_empty();
    accept_if(sound)
}

fn append_response(node: &RawNode<LogStore>, m: &Message) -> Verdict {
    let raft = &node.raft;
    let Some(progress) = raft.prs().get(m.from) else { return Stale };
    if raft.state != StateRole::Leader || m.term != raft.term {
        return Accept;
    }
    if m.reject && (m.index <= progress.matched || m.reject_hint < progress.matched) {
        // A repetition from before the entries were acknowledged; acting on it would move the peer backwards. If it
        // is no repetition, the peer lost its log, and must come back under a new id.
        return Stale;
    }
    accept_if(m.reject || m.index <= raft.raft_log.last_index())
}
