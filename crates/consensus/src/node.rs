//! One node of the group: inputs to raft, raft's "ready" to outputs.
//!
//! ```text
//!   handle: stored state out (once) -> step the input -> until raft has nothing: take a ready -> answer reads
//!   ready:  persist + held messages -> PendingBatch -> (Persisted) -> messages, Restore
//!           committed entries       -> Apply | membership
//! ```
//! Raft's asynchronous mode is used: several batches may be on their way to the disk while the node goes on.

use crate::api::{Input, MembershipChange, Output, PeerProgress, PersistBatch, RaftConfig, RaftStatus, Stored};
use crate::error::ConsensusError;
use crate::guard::{self, Verdict};
use crate::store::{LogStore, encode};
use bytes::Bytes;
use holdfast_types::{NodeId, Rng};
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, Message, Snapshot};
use raft::{Config, ProgressState, RawNode, ReadOnlyOption, Ready, SnapshotStatus, StateRole};
use raft_prost::Message as _;
use std::collections::{BTreeMap, VecDeque};

/// Largest proposal, and largest payload of an append message.
const MAX_PROPOSAL_BYTES: usize = 1 << 20;
/// Largest message that is decoded; a snapshot of the control plane is far smaller.
const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// Proposals that are not committed yet, in bytes; above this they are dropped.
const MAX_UNCOMMITTED_BYTES: u64 = 16 << 20;
/// Reads that wait for an answer.
const MAX_READS: usize = 1024;

/// A batch on its way to stable storage, and what waits for it.
struct PendingBatch {
    batch: u64,
    /// Number of the last raft "ready" that is durable with this batch.
    ready: u64,
    /// Carries entries or a snapshot.
    log: bool,
    /// Carries a term or a vote.
    promise: bool,
    messages: Vec<Message>,
    restore: Option<Snapshot>,
}

struct Read {
    token: u64,
    /// Tick at which it is given up: raft forgets reads silently when a message is lost.
    deadline: u64,
    /// The index that must be applied, once raft has said it.
    index: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Role {
    leader: u64,
    state: StateRole,
    term: u64,
}

/// One node of the Raft group. See the crate's documentation.
pub struct Raft {
    node: RawNode<LogStore>,
    config: RaftConfig,
    rng: Rng,
    /// Our own draw, valid while `timeout_of` holds.
    timeout: usize,
    timeout_of: Role,
    reported: Option<Role>,
    next_batch: u64,
    pending: VecDeque<PendingBatch>,
    applied: u64,
    /// The membership in force from an index on; the first one is the snapshot's.
    memberships: BTreeMap<u64, ConfState>,
    /// The stored state, until the first `handle`.
    initial: Option<(u64, Bytes)>,
    reads: BTreeMap<u64, Read>,
    next_read: u64,
    /// Distinguishes the reads of this life from those of an earlier one.
    nonce: u64,
    ticks: u64,
    /// Peers that were sent a snapshot, and since when.
    snapshots: BTreeMap<u64, u64>,
    refused: u64,
}

impl Raft {
    /// A node from what its stable storage holds.
    ///
    /// # Errors
    /// Settings that make no sense, or a stored state that contradicts itself.
    pub fn new(config: RaftConfig, stored: Stored) -> Result<Raft, ConsensusError> {
        let store = LogStore::open(stored)?;
        let snapshot = store.snapshot().clone();
        let applied = store.base();
        let raft_config = raft_config(&config, applied);
        raft_config.validate().map_err(|e| ConsensusError::Config(e.to_string()))?;
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&raft_config, store, &logger).map_err(|e| ConsensusError::Config(e.to_string()))?;
        let mut rng = Rng::new(config.seed);
        let nonce = rng.next_u64();
        let mut raft = Raft {
            timeout: 0,
            timeout_of: role(&node),
            reported: None,
            next_batch: 1,
            pending: VecDeque::new(),
            applied,
            memberships: BTreeMap::from([(applied, snapshot.get_metadata().get_conf_state().clone())]),
            initial: (applied > 0).then(|| (applied, snapshot.data.into())),
            reads: BTreeMap::new(),
            next_read: 0,
            nonce,
            ticks: 0,
            snapshots: BTreeMap::new(),
            refused: 0,
            node,
            config,
            rng,
        };
        raft.draw_timeout();
        Ok(raft)
    }

    /// The same node without anything that it stored, and the number of the batch that is to stand for forgetting it: to be written behind
    /// all that this one has handed out.
    ///
    /// # Panics
    /// Never: what is empty does not contradict itself.
    #[must_use]
    pub fn forgetful(&mut self) -> (Raft, u64) {
        let config = RaftConfig { seed: self.rng.next_u64(), ..self.config.clone() };
        let raft = Raft::new(config, Stored::default()).expect("nothing was stored, and the settings are sound");
        (Raft { next_batch: self.next_batch + 1, ..raft }, self.next_batch)
    }

    /// Takes one input and pushes what follows from it.
    pub fn handle(&mut self, input: Input, out: &mut Vec<Output>) {
        if let Some((index, state)) = self.initial.take() {
            out.push(Output::Restore { index, state });
            self.settle(out);
        }
        self.step(input, out);
        self.settle(out);
        self.validate();
    }

    /// The node as it sees itself.
    #[must_use]
    pub fn status(&self) -> RaftStatus {
        let raft = &self.node.raft;
        let membership = self.membership();
        RaftStatus {
            leader: node_id(raft.leader_id),
            is_leader: self.is_leader(),
            term: raft.term,
            commit: raft.raft_log.committed,
            applied: self.applied,
            last_index: raft.raft_log.last_index(),
            voters: node_ids(&membership.voters),
            learners: node_ids(&membership.learners),
            progress: self.progress(),
            refused: self.refused,
        }
    }

    fn progress(&self) -> Vec<PeerProgress> {
        if !self.is_leader() {
            return Vec::new();
        }
        let of = |id: NodeId| {
            let p = self.node.raft.prs().get(id.get())?;
            Some(PeerProgress { node: id, matched: p.matched, recent_active: p.recent_active })
        };
        self.peers().into_iter().filter_map(of).collect()
    }

    /// The other members, ascending.
    fn peers(&self) -> Vec<NodeId> {
        let membership = self.membership();
        let all: Vec<u64> = membership.voters.iter().chain(&membership.learners).copied().collect();
        node_ids(&all).into_iter().filter(|id| *id != self.config.id).collect()
    }

    fn membership(&self) -> &ConfState {
        self.memberships.last_key_value().expect("the snapshot's membership is always kept").1
    }

    fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    fn leader(&self) -> Option<NodeId> {
        node_id(self.node.raft.leader_id)
    }

    fn step(&mut self, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Tick => self.tick(out),
            Input::Message { from, bytes } => self.message(from, &bytes),
            Input::Propose { token, data } => self.propose(token, &data, out),
            Input::ChangeMembership { token, change } => self.change_membership(token, change, out),
            Input::Persisted { batch } => self.persisted(batch, out),
            Input::ReadIndex { token } => self.read_index(token, out),
            Input::TransferLeadership(to) => {
                if self.is_leader() {
                    self.node.transfer_leader(to.get());
                }
            }
            Input::Compact { upto, state } => self.compact(upto, &state, out),
            Input::Unreachable(peer) => self.unreachable(peer.get()),
            Input::Campaign => {
                if self.may_campaign() {
                    // A node without a vote is answered with nothing, too.
                    self.node.campaign().ok();
                }
            }
        }
    }

    /// A node whose log is not durable must not become leader: raft asserts it, and its log is not what it claims.
    fn may_campaign(&self) -> bool {
        self.node.raft.promotable() && !self.pending.iter().any(|p| p.log)
    }

    fn tick(&mut self, out: &mut Vec<Output>) {
        self.ticks += 1;
        if self.is_leader() || !self.node.raft.promotable() || self.may_campaign() {
            self.node.tick();
        }
        self.retry_snapshots();
        let overdue: Vec<u64> =
            self.reads.iter().filter(|(_, r)| r.deadline <= self.ticks).map(|(id, _)| *id).collect();
        self.drop_reads(&overdue, out);
    }

    /// Raft waits for ever for the answer to a snapshot, unless it is told that the snapshot was lost.
    fn retry_snapshots(&mut self) {
        let patience = 2 * u64::try_from(self.config.election_ticks).expect("a number of ticks fits in 64 bits");
        for peer in if self.is_leader() { self.peers() } else { Vec::new() } {
            let peer = peer.get();
            if self.node.raft.prs().get(peer).is_none_or(|p| p.state != ProgressState::Snapshot) {
                self.snapshots.remove(&peer);
            } else if *self.snapshots.entry(peer).or_insert(self.ticks) + patience <= self.ticks {
                self.unreachable(peer);
            }
        }
    }

    fn unreachable(&mut self, peer: u64) {
        self.snapshots.remove(&peer);
        if self.is_leader() {
            self.node.report_unreachable(peer);
            self.node.report_snapshot(peer, SnapshotStatus::Failure);
        }
    }

    fn message(&mut self, from: NodeId, bytes: &Bytes) {
        let decoded = if bytes.len() <= MAX_MESSAGE_BYTES { Message::decode(bytes.as_ref()).ok() } else { None };
        let Some(message) = decoded else {
            self.refused += 1;
            return;
        };
        match guard::judge(&self.node, from.get(), &message) {
            Verdict::Refuse => self.refused += 1,
            Verdict::Stale => {}
            Verdict::Accept => {
                let starts_election = message.get_msg_type() == raft::eraftpb::MessageType::MsgTimeoutNow;
                if !starts_election || self.may_campaign() {
                    // The errors left are "unknown peer" and the like: nothing to do about them.
                    self.node.step(message).ok();
                }
            }
        }
    }

    fn propose(&mut self, token: u64, data: &Bytes, out: &mut Vec<Output>) {
        assert!(!data.is_empty(), "an empty command can't be told from raft's own entries");
        // A follower's raft would forward it; that is the caller's job, who can also wait for the answer.
        let fits = data.len() <= MAX_PROPOSAL_BYTES;
        if !fits || !self.is_leader() || self.node.propose(Vec::new(), data.to_vec()).is_err() {
            out.push(Output::Dropped { token, leader: self.leader() });
        }
    }

    fn change_membership(&mut self, token: u64, change: MembershipChange, out: &mut Vec<Output>) {
        // With a change pending raft would replace this one by an empty entry without a word.
        let possible = self.is_leader() && !self.node.raft.has_pending_conf();
        let change = if possible { self.conf_change(change) } else { None };
        let proposed = change.is_some_and(|c| self.node.propose_conf_change(Vec::new(), c).is_ok());
        if !proposed {
            out.push(Output::Dropped { token, leader: self.leader() });
        }
    }

    /// Raft's form of a change, or `None` if it must not be made.
    fn conf_change(&self, change: MembershipChange) -> Option<ConfChangeV2> {
        let membership = self.membership();
        let votes = |id: NodeId| membership.voters.contains(&id.get());
        let listens = |id: NodeId| membership.learners.contains(&id.get());
        let (kind, id, sound) = match change {
            MembershipChange::AddLearner(id) => (ConfChangeType::AddLearnerNode, id, !votes(id) && !listens(id)),
            MembershipChange::AddVoter(id) => (ConfChangeType::AddNode, id, listens(id)),
            MembershipChange::TakeVote(id) => {
                let others = membership.voters.len() > 1;
                (ConfChangeType::AddLearnerNode, id, votes(id) && others && id != self.config.id)
            }
            MembershipChange::Remove(id) => {
                (ConfChangeType::RemoveNode, id, (votes(id) || listens(id)) && id != self.config.id)
            }
        };
        let mut single = ConfChangeSingle { node_id: id.get(), ..ConfChangeSingle::default() };
        single.set_change_type(kind);
        (sound && id.get() != 0).then(|| ConfChangeV2 { changes: vec![single], ..ConfChangeV2::default() })
    }

    fn persisted(&mut self, batch: u64, out: &mut Vec<Output>) {
        assert!(batch < self.next_batch, "batch {batch} was never handed out; the next one is {}", self.next_batch);
        while self.pending.front().is_some_and(|p| p.batch <= batch) {
            let done = self.pending.pop_front().expect("looked at above");
            self.node.on_persist_ready(done.ready);
            if let Some(snapshot) = done.restore {
                self.restore(snapshot, out);
            }
            self.send(&done.messages, out);
        }
    }

    fn restore(&mut self, snapshot: Snapshot, out: &mut Vec<Output>) {
        let metadata = snapshot.get_metadata();
        let index = metadata.index;
        assert!(index > self.applied, "a snapshot at {index} never takes the state back from {}", self.applied);
        self.memberships = BTreeMap::from([(index, metadata.get_conf_state().clone())]);
        self.applied = index;
        self.node.advance_apply_to(index);
        out.push(Output::Restore { index, state: snapshot.data.into() });
    }

    fn read_index(&mut self, token: u64, out: &mut Vec<Output>) {
        let answerable = match self.leader() {
            // A leader that has not committed in its term does not know yet what is committed; raft drops the read.
            Some(_) => !self.is_leader() || self.node.raft.commit_to_current_term(),
            None => false,
        };
        if !answerable || self.reads.len() >= MAX_READS {
            out.push(Output::Dropped { token, leader: self.leader() });
            return;
        }
        let id = self.next_read;
        self.next_read += 1;
        let patience = 2 * u64::try_from(self.config.election_ticks).expect("a number of ticks fits in 64 bits");
        self.reads.insert(id, Read { token, deadline: self.ticks + patience, index: None });
        let context: Vec<u8> = [self.config.id.get(), self.nonce, id].iter().flat_map(|n| n.to_le_bytes()).collect();
        self.node.read_index(context);
    }

    /// Raft's answer to one of our reads; answers to reads of an earlier life are not ours.
    fn read_answered(&mut self, context: &[u8], index: u64) {
        let Some((head, id)) = context.split_last_chunk::<8>() else { return };
        let ours = [self.config.id.get(), self.nonce];
        if head.len() == 16
            && ours.iter().flat_map(|n| n.to_le_bytes()).eq(head.iter().copied())
            && let Some(read) = self.reads.get_mut(&u64::from_le_bytes(*id))
        {
            read.index = Some(index);
        }
    }

    fn answer_reads(&mut self, out: &mut Vec<Output>) {
        let applied = self.applied;
        self.reads.retain(|_, read| match read.index {
            Some(index) if index <= applied => {
                out.push(Output::ReadReady { token: read.token, index });
                false
            }
            _ => true,
        });
    }

    fn drop_reads(&mut self, ids: &[u64], out: &mut Vec<Output>) {
        let leader = self.leader();
        for read in ids.iter().filter_map(|id| self.reads.remove(id)) {
            out.push(Output::Dropped { token: read.token, leader });
        }
    }

    fn compact(&mut self, upto: u64, state: &Bytes, out: &mut Vec<Output>) {
        assert!(upto <= self.applied, "only what is applied can be compacted: {upto} above {}", self.applied);
        if upto <= self.node.store().base() {
            return;
        }
        let (&since, membership) =
            self.memberships.range(..=upto).next_back().expect("a membership since the snapshot");
        let membership = membership.clone();
        if let Some(snapshot) = self.node.mut_store().compact(upto, membership, state) {
            self.memberships = self.memberships.split_off(&since);
            out.push(Output::Compacted { first_index: upto + 1, snapshot });
            if self.is_leader() {
                // To whom raft could send no snapshot it would try again only after the next heartbeat.
                self.node.raft.bcast_append();
            }
        }
    }

    fn settle(&mut self, out: &mut Vec<Output>) {
        loop {
            self.draw_timeout();
            self.report_role(out);
            if !self.node.has_ready() {
                break;
            }
            self.take_ready(out);
        }
        self.answer_reads(out);
        if self.node.store().take_wanted() {
            out.push(Output::SnapshotWanted { index: self.applied });
        }
    }

    /// Raft has drawn a timeout of its own if the role changed, or even without: ours replaces it always.
    fn draw_timeout(&mut self) {
        let now = role(&self.node);
        if self.timeout == 0 || now != self.timeout_of {
            let ticks = u64::try_from(self.config.election_ticks).expect("a number of ticks fits in 64 bits");
            let drawn = self.rng.range(ticks, 2 * ticks);
            self.timeout = usize::try_from(drawn).expect("below twice a usize of ticks");
            self.timeout_of = now;
        }
        self.node.raft.set_randomized_election_timeout(self.timeout);
    }

    fn report_role(&mut self, out: &mut Vec<Output>) {
        let now = role(&self.node);
        let before = self.reported.replace(now);
        let seen = |r: Role| (r.leader, r.state == StateRole::Leader, r.term);
        if before.map(seen) == Some(seen(now)) {
            return;
        }
        let is_leader = self.is_leader();
        out.push(Output::RoleChanged { leader: self.leader(), is_leader, term: now.term });
        // Raft forgets the reads of another reign.
        let lost: Vec<u64> = self.reads.iter().filter(|(_, r)| r.index.is_none()).map(|(id, _)| *id).collect();
        self.drop_reads(&lost, out);
        self.snapshots.clear();
    }

    fn take_ready(&mut self, out: &mut Vec<Output>) {
        let mut ready = self.node.ready();
        let mut batch = PersistBatch::default();
        let promise = ready.hs().cloned().is_some_and(|hs| self.node.mut_store().set_hard_state(&hs, &mut batch));
        let restore = (!ready.snapshot().is_empty()).then(|| ready.snapshot().clone());
        if let Some(snapshot) = &restore {
            self.node.mut_store().restore(snapshot, &mut batch);
        }
        let entries = ready.take_entries();
        let log = restore.is_some() || !entries.is_empty();
        self.node.mut_store().append(entries, &mut batch);
        let held = ready.take_persisted_messages();
        let immediate = ready.take_messages();
        let pending = PendingBatch { batch: 0, ready: ready.number(), log, promise, messages: held, restore };
        let reads = ready.take_read_states();
        let committed = self.finish_ready(ready);

        self.hold(pending, batch, out);
        self.send_at_once(immediate, out);
        for read in reads {
            self.read_answered(&read.request_ctx, read.index);
        }
        self.apply(committed, out);
    }

    fn finish_ready(&mut self, mut ready: Ready) -> Vec<Entry> {
        let committed = ready.take_committed_entries();
        self.node.advance_append_async(ready);
        committed
    }

    /// Hands out a batch, or, with nothing to write, lets the messages wait for what is still being written.
    fn hold(&mut self, mut pending: PendingBatch, mut batch: PersistBatch, out: &mut Vec<Output>) {
        if !batch.is_empty() {
            batch.batch = self.next_batch;
            pending.batch = self.next_batch;
            self.next_batch += 1;
            out.push(Output::Persist(batch));
            self.pending.push_back(pending);
        } else if let Some(last) = self.pending.back_mut() {
            last.ready = pending.ready;
            last.messages.extend(pending.messages);
        } else {
            self.node.on_persist_ready(pending.ready);
            self.send(&pending.messages, out);
        }
    }

    /// A leader's messages go out before its entries are durable, but never before the vote that made it leader: a
    /// group of one voter elects itself at once, and after a crash would use the same term again.
    fn send_at_once(&mut self, messages: Vec<Message>, out: &mut Vec<Output>) {
        match self.pending.iter_mut().rev().find(|p| p.promise) {
            Some(pending) => pending.messages.extend(messages),
            None => self.send(&messages, out),
        }
    }

    fn send(&self, messages: &[Message], out: &mut Vec<Output>) {
        out.extend(messages.iter().map(|m| Output::Send { to: NodeId(m.to), bytes: encode(m) }));
    }

    fn apply(&mut self, committed: Vec<Entry>, out: &mut Vec<Output>) {
        for entry in committed {
            assert_eq!(entry.index, self.applied + 1, "committed entries are handed out without gaps");
            self.applied = entry.index;
            match entry.get_entry_type() {
                EntryType::EntryNormal if entry.data.is_empty() => {}
                EntryType::EntryNormal => out.push(Output::Apply { index: entry.index, data: entry.data.into() }),
                EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => self.apply_membership(&entry, out),
            }
        }
        self.node.advance_apply_to(self.applied);
    }

    fn apply_membership(&mut self, entry: &Entry, out: &mut Vec<Output>) {
        let change = ConfChangeV2::decode(entry.data.as_slice()).ok();
        // Raft refuses a change alike on every node, so skipping it keeps them equal.
        let Some(Ok(mut membership)) = change.map(|c| self.node.apply_conf_change(&c)) else {
            self.refused += 1;
            return;
        };
        membership.voters.sort_unstable();
        membership.learners.sort_unstable();
        if self.is_leader() && !membership.voters.contains(&self.config.id.get()) {
            // Proposed by an earlier leader, applied by the node it removes. Raft would go on leading, and panic
            // when it looks for itself among the members.
            let term = self.node.raft.term;
            self.node.raft.become_follower(term, raft::INVALID_ID);
        }
        let (voters, learners) = (node_ids(&membership.voters), node_ids(&membership.learners));
        self.memberships.insert(entry.index, membership);
        out.push(Output::MembershipApplied { index: entry.index, voters, learners });
    }

    fn validate(&self) {
        let log = &self.node.raft.raft_log;
        assert!(
            self.applied <= log.committed && log.committed <= log.last_index(),
            "applied, committed, last in order"
        );
        assert!(self.node.store().base() <= self.applied || self.pending.iter().any(|p| p.restore.is_some()));
        assert!(
            self.pending.iter().zip(self.pending.iter().skip(1)).all(|(a, b)| a.batch < b.batch && a.ready < b.ready)
        );
    }
}

fn raft_config(config: &RaftConfig, applied: u64) -> Config {
    Config {
        id: config.id.get(),
        election_tick: config.election_ticks,
        heartbeat_tick: config.heartbeat_ticks,
        applied,
        max_size_per_msg: MAX_PROPOSAL_BYTES as u64,
        max_inflight_msgs: config.max_inflight,
        max_uncommitted_size: MAX_UNCOMMITTED_BYTES,
        // Trap 30: a node that hears nobody neither raises the term nor keeps believing that it leads.
        check_quorum: true,
        pre_vote: true,
        read_only_option: ReadOnlyOption::Safe,
        ..Config::default()
    }
}

fn role(node: &RawNode<LogStore>) -> Role {
    Role { leader: node.raft.leader_id, state: node.raft.state, term: node.raft.term }
}

fn node_id(id: u64) -> Option<NodeId> {
    (id != raft::INVALID_ID).then_some(NodeId(id))
}

fn node_ids(ids: &[u64]) -> Vec<NodeId> {
    let mut ids: Vec<NodeId> = ids.iter().copied().map(NodeId).collect();
    ids.sort_unstable();
    ids
}
