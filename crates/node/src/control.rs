//! The control plane of one node: Raft, the cluster's state machine and the failure detector, wired together.
//!
//! Flow
//! ```text
//!  Tick, Message, PeerUp .. ─► Control::handle ─► Send, Persist, Compact
//!  Propose (admin API)      ─►                 ─► Done, once the command is applied *here*
//!  CopyCreated, Request ..  ─►                 ─► Local: what this node's copies are to do
//! ```
//! Every node runs one: voters and learners alike hold the whole state, so that any node answers `status` and each
//! gets its own volumes' views from its own log. A proposal goes to whoever leads, wrapped in an envelope that names
//! the proposer; the proposer learns the outcome when the entry reaches its own state (see [`applied`]).
//!
//! Heartbeats go from every node to every node, outside the log: each leader-to-be already knows who lives. Only the
//! leader acts on it.
//!
//! Invariants
//! - What a copy is told (`Output::Local`) was committed by Raft.
//! - A proposal is applied at most once, however often it was sent.
//! - A waiting caller gets exactly one answer, at the latest when its time is up.
//! - `Persist` and `Compact` leave in the order in which Raft gave them.
//!
//! Deliberately absent: sockets, files, clocks; the decisions themselves (see `holdfast-cluster`).

mod api;
mod applied;
mod copies;
mod events;
mod lead;
mod leave;
mod proposals;
mod regime;
mod timers;
mod told;
mod voters;
mod wire;

#[cfg(test)]
mod tests;

use crate::local::LocalView;
use applied::{Applied, ApplyError, Replicated};
use bytes::Bytes;
use copies::Copies;
use events::Watch;
use holdfast_cluster::{Changes, Command, Detector, Heartbeat, Recovery, RefusalKind, State};
use holdfast_consensus as consensus;
use holdfast_consensus::{Raft, RaftStatus, Stored};
use holdfast_types::{ClusterVersion, ControlRequest, Generation, Mutant, NodeId, Speaks, Time, VolumeId, mutated};
use proposals::{Pending, Proposals};
use regime::Regime;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use timers::Every;
use wire::{Envelope, MAX_INTRODUCED, Message};

pub use api::{ControlConfig, Failure, Input, Output, founding_snapshot};
pub use events::{Event, EventKind};
pub use regime::{RecoveryOrder, RecoveryRefusal, Remains, RemainsError};
#[cfg(any(test, feature = "fuzz"))]
pub use wire::fuzz_control;

/// How long a caller waits for the outcome of its proposal.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// A proposal of the node itself: its cause is looked at again after that.
const SHORT_PATIENCE: Duration = Duration::from_secs(2);
/// Silence after which a proposal is sent again.
const RESEND: Duration = Duration::from_millis(500);
/// How often the leader looks whether something is to be decided, and everybody whether something is to be repeated.
const HOUSEKEEPING: Duration = Duration::from_millis(200);
/// Every so many heartbeats bring the reports of all copies, changed or not.
const FULL_HEARTBEAT: u32 = 10;
/// Every so many heartbeats a node tells what it speaks; it does so to whoever it meets, too.
const SPEAKS_EVERY: u32 = 50;
/// Ticks of Raft caught up with after a gap: more would start an election for no reason but the gap.
const MAX_TICKS_AT_ONCE: u32 = 3;

/// Tokens of what is proposed to Raft without an id of this node's proposals.
const FORWARDED: u64 = u64::MAX;
const MEMBERSHIP: u64 = u64::MAX - 1;

/// What may have changed: with thousands of volumes nobody looks at each whenever something happens to one of them.
#[derive(Default)]
struct Changed {
    /// Anything.
    all: bool,
    /// Where the peers are.
    peers: bool,
    volumes: BTreeSet<VolumeId>,
}

impl Changed {
    /// By a command that changed no other volume; `None`: it may have changed anything.
    fn note(&mut self, volume: Option<VolumeId>) {
        match volume {
            Some(volume) => drop(self.volumes.insert(volume)),
            None => self.all = true,
        }
    }
}

/// The control plane of one node.
pub struct Control {
    config: ControlConfig,
    raft: Raft,
    regime: Regime,
    replicated: Replicated,
    detector: Detector,
    proposals: Proposals,
    copies: Copies,
    watch: Watch,
    /// Peers with an open lane.
    connected: BTreeSet<NodeId>,
    /// Nodes that peers named.
    introduced: BTreeMap<NodeId, String>,
    /// On the file system of this node's copies.
    free_bytes: Option<u64>,
    longest_file: Option<u64>,
    told_version: Option<ClusterVersion>,
    told: told::Told,
    told_local: Option<LocalView>,
    told_peers: BTreeMap<NodeId, String>,
    /// What may have changed since `told_local` and `told_peers` were made.
    changed: Changed,
    applied_since_snapshot: u64,
    /// Something was agreed upon that can't be carried out here: nothing is from then on, and least of all made a snapshot of.
    gave_up: bool,
    /// Heartbeats until the reports are told again; 0 as soon as they have changed.
    brief_heartbeats: u32,
    /// Heartbeats until what is spoken is told again.
    speaks_in: u32,
    /// This process is to end, and hands over what it leads.
    leaving: Option<leave::Leaving>,
    /// Peers to which Raft spoke since the last heartbeat: they know that this node lives.
    spoken_to: BTreeSet<NodeId>,
    tick: Every,
    heartbeat: Every,
    housekeeping: Every,
}

impl Control {
    /// What this process speaks.
    #[must_use]
    pub const fn speaks(&self) -> Speaks {
        self.config.speaks
    }

    /// A node with what its storage holds.
    ///
    /// # Errors
    /// What is stored contradicts itself.
    pub fn new(config: ControlConfig, stored: Stored, now: Time) -> Result<Control, consensus::ConsensusError> {
        config.validate();
        Ok(Control {
            raft: Raft::new(config.raft(), stored)?,
            regime: Regime::of(config.recovery.clone()),
            replicated: Replicated::default(),
            detector: Detector::with_config(config.detector(), now),
            proposals: Proposals::new(config.me, config.life),
            copies: Copies::default(),
            watch: Watch::default(),
            connected: BTreeSet::new(),
            introduced: BTreeMap::new(),
            free_bytes: None,
            longest_file: None,
            told_version: None,
            told: told::Told::default(),
            told_local: None,
            told_peers: BTreeMap::new(),
            changed: Changed { all: true, ..Changed::default() },
            applied_since_snapshot: 0,
            gave_up: false,
            brief_heartbeats: 0,
            speaks_in: 0,
            leaving: None,
            spoken_to: BTreeSet::new(),
            // At once: the first one brings what is stored.
            tick: Every::from(config.tick, now),
            heartbeat: Every::new(config.heartbeat, now),
            housekeeping: Every::new(HOUSEKEEPING, now),
            config,
        })
    }

    /// Something happened; what is to be done is appended to `out`.
    pub fn handle(&mut self, input: Input, now: Time, out: &mut Vec<Output>) {
        if self.gave_up {
            return;
        }
        let first = out.len();
        self.take(input, now, out);
        if !self.gave_up {
            self.tell(now, out);
            self.propose_for_copies(now);
            self.send_proposals(now, out);
            // Who is alone in Raft has carried it out by now.
            self.tell(now, out);
        }
        self.regime.mark(&mut out[first..]);
    }

    fn take(&mut self, input: Input, now: Time, out: &mut Vec<Output>) {
        match input {
            Input::Tick => self.tick(now, out),
            Input::Message { from, bytes } => self.message(from, bytes, now, out),
            Input::PeerUp(peer) => {
                self.connected.insert(peer);
                out.extend(self.notice(peer, Generation::FIRST).map(|bytes| Output::Send { to: peer, bytes }));
                out.push(Output::Send { to: peer, bytes: self.heartbeat_message() });
                out.extend(self.speaks_message().map(|bytes| Output::Send { to: peer, bytes }));
                if self.replicated.state().is_some() {
                    out.push(Output::Send { to: peer, bytes: Message::Peers(self.told_peers.clone()).encode() });
                }
            }
            Input::PeerDown(peer) => {
                self.connected.remove(&peer);
                self.raft(consensus::Input::Unreachable(peer), now, out);
            }
            Input::Persisted { batch } => self.raft(consensus::Input::Persisted { batch }, now, out),
            Input::Request(request) => self.request(&request, now),
            Input::CopyCreated { volume, incarnation } => {
                self.copies.created(volume, incarnation);
                // It may be another copy than the one that counts: that is to be said now.
                self.changed.volumes.insert(volume);
            }
            Input::CopyDeleted { volume } => self.copies.deleted(volume),
            Input::Reports(reports) => {
                self.copies.reports = reports;
                self.brief_heartbeats = 0;
            }
            Input::Space { free_bytes, longest_file } => {
                self.free_bytes = Some(free_bytes);
                if std::mem::replace(&mut self.longest_file, longest_file) != longest_file {
                    self.brief_heartbeats = 0;
                }
            }
            Input::Upkeep { node, wish } if node == self.config.me => out.push(Output::Upkeep(wish)),
            Input::Upkeep { node, wish } => out.push(Output::Send { to: node, bytes: Message::Upkeep(wish).encode() }),
            Input::Propose { token, command } => self.propose_for(token, &command, now, out),
            Input::HandOver => {
                self.leaving.get_or_insert_default();
                self.hand_over(now);
            }
            Input::Restarts { within } => self.say_restarts(within, now, out),
            Input::StepDown => self.step_down(now, out),
        }
    }

    /// When `Input::Tick` is due.
    #[must_use]
    pub fn next_timeout(&self) -> Time {
        self.tick.next().min(self.heartbeat.next()).min(self.housekeeping.next())
    }

    /// The replicated state, if this node has received it.
    #[must_use]
    pub fn state(&self) -> Option<&State> {
        self.replicated.state()
    }

    /// Who lives, and what the copies reported.
    #[must_use]
    pub fn detector(&self) -> &Detector {
        &self.detector
    }

    /// Raft's view of itself.
    #[must_use]
    pub fn raft_status(&self) -> RaftStatus {
        self.raft.status()
    }

    /// Peers with an open lane.
    #[must_use]
    pub fn connected(&self) -> &BTreeSet<NodeId> {
        &self.connected
    }

    fn tick(&mut self, now: Time, out: &mut Vec<Output>) {
        let mut ticks = 0;
        while ticks < MAX_TICKS_AT_ONCE && self.tick.due(now) {
            ticks += 1;
            self.raft(consensus::Input::Tick, now, out);
        }
        if self.heartbeat.due(now) {
            self.beat(now, out);
        }
        if self.housekeeping.due(now) {
            self.keep_house(now, out);
        }
    }

    /// Tells everybody that this node lives and how its copies are, itself included. What everybody knows is not said: the
    /// reports travel when they have changed, and whoever heard of Raft needs no word at all.
    fn beat(&mut self, now: Time, out: &mut Vec<Output>) {
        let (me, life) = (self.config.me, self.config.life);
        let mut spoken_to = std::mem::take(&mut self.spoken_to);
        let bytes = if let Some(left) = self.brief_heartbeats.checked_sub(1) {
            self.brief_heartbeats = left;
            self.detector.lives(me, life.0, now);
            self.alive_message()
        } else {
            self.brief_heartbeats = FULL_HEARTBEAT - 1;
            // Who follows Raft's leader would never learn that it has missed something.
            spoken_to.clear();
            let own = self.own_heartbeat();
            let bytes = self.news_message(&own);
            self.detector.heard(own, now);
            bytes
        };
        let peers = self.told_peers.keys().filter(|peer| **peer != me && !spoken_to.contains(peer));
        out.extend(peers.map(|peer| Output::Send { to: *peer, bytes: bytes.clone() }));
        self.tell_what_is_spoken(now, out);
    }

    /// Behind the first heartbeat of this life, and now and then again: a message may be lost.
    fn tell_what_is_spoken(&mut self, now: Time, out: &mut Vec<Output>) {
        let due = self.speaks_in.checked_sub(1);
        self.speaks_in = due.unwrap_or(SPEAKS_EVERY - 1);
        let Some(bytes) = self.speaks_message().filter(|_| due.is_none()) else { return };
        let (me, life) = (self.config.me, self.config.life.0);
        self.detector.tells(me, life, self.config.speaks, &self.config.build, now);
        let peers = self.told_peers.keys().filter(|peer| **peer != me);
        out.extend(peers.map(|peer| Output::Send { to: *peer, bytes: bytes.clone() }));
    }

    fn keep_house(&mut self, now: Time, out: &mut Vec<Output>) {
        for pending in self.proposals.expired(now) {
            let failure = self.no_leader(&pending, now);
            answer(&pending, Err(failure), out);
        }
        let status = self.raft.status();
        if status.leader.is_none() && status.voters == [self.config.me] {
            // Nobody else can lead, so there is nobody to wait for.
            self.raft(consensus::Input::Campaign, now, out);
        }
        self.lead(now, out);
        self.hand_over(now);
        self.look_whether_removed(&status, out);
        if let Some(state) = self.replicated.state() {
            self.watch.liveness(state, &self.detector, now, out);
        }
        if self.applied_since_snapshot >= self.config.snapshot_every {
            self.compact(self.raft.status().applied, now, out);
        }
    }

    /// The state says that this node was removed. As long as it has a vote, the others may need it to agree on that.
    fn look_whether_removed(&self, status: &RaftStatus, out: &mut Vec<Output>) {
        let me = self.config.me;
        let removed = self.replicated.state().and_then(|s| s.nodes.get(&me)).is_some_and(|n| n.removed);
        if removed && !status.voters.contains(&me) {
            out.push(Output::Removed);
        }
    }

    fn message(&mut self, from: NodeId, bytes: Bytes, now: Time, out: &mut Vec<Output>) {
        let Some((generation, bytes)) = wire::generation_of(bytes) else { return };
        let message = Message::decode(bytes);
        if let Some(Message::Recovered(bytes)) = &message {
            if let Some(recovery) = Recovery::decode(bytes) {
                self.hears_of(recovery, now, out);
            }
            return;
        }
        if !self.takes(from, generation, now, out) {
            return;
        }
        match message {
            Some(Message::Raft(bytes)) => {
                self.detector.spoke(from, now);
                self.raft(consensus::Input::Message { from, bytes }, now, out);
            }
            Some(Message::Heartbeat(bytes)) => self.heartbeat_of(from, (&bytes, None), now, out),
            Some(Message::All(number, bytes)) => self.heartbeat_of(from, (&bytes, Some(number)), now, out),
            Some(Message::Speaks(life, speaks, build)) if self.config.speaks.tells() => {
                self.detector.tells(from, life.0, speaks, &build, now);
            }
            Some(Message::Alive(life)) => self.detector.lives(from, life.0, now),
            Some(Message::AliveAt(life, number)) => {
                if !self.detector.lives_at(from, life.0, number, now) {
                    out.push(Output::Send { to: from, bytes: Message::TellAll.encode() });
                }
            }
            Some(Message::Changes(bytes)) => {
                // A node speaks for itself alone.
                let news = Changes::decode(&bytes).ok().filter(|news| news.of.node == from);
                if news.is_some_and(|news| !self.detector.changed(news, now)) {
                    out.push(Output::Send { to: from, bytes: Message::TellAll.encode() });
                }
            }
            Some(Message::TellAll) => out.push(Output::Send { to: from, bytes: self.heartbeat_message() }),
            Some(Message::Peers(nodes)) => {
                self.changed.peers = true;
                self.introduced.extend(nodes);
                while self.introduced.len() > MAX_INTRODUCED {
                    self.introduced.pop_first();
                }
            }
            Some(Message::Upkeep(wish)) => out.push(Output::Upkeep(wish)),
            Some(Message::Restarts(life, ms)) => {
                self.detector.restarts(from, life.0, Duration::from_millis(u64::from(ms)), now);
            }
            Some(Message::Forward(data)) => self.forwarded(from, data, now, out),
            Some(Message::Speaks(..) | Message::Recovered(_)) | None => {}
        }
    }

    fn heartbeat_of(&mut self, from: NodeId, (bytes, number): (&[u8], Option<u64>), now: Time, out: &mut Vec<Output>) {
        match Heartbeat::decode(bytes, self.config.speaks) {
            // A node speaks for itself alone.
            Ok(heartbeat) if heartbeat.node == from => match number {
                Some(number) => self.detector.heard_upto(heartbeat, number, now),
                None => self.detector.heard(heartbeat, now),
            },
            Ok(_) => {}
            Err(why) => {
                if self.detector.unreadable(from, why.to_string()) {
                    let name = lead::name(self.replicated.state(), from);
                    self.watch.unreadable(&name, &why.to_string(), now, out);
                }
            }
        }
    }

    /// A peer takes this node for the leader. If it is not, the peer finds out by itself and sends again.
    fn forwarded(&mut self, from: NodeId, data: Bytes, now: Time, out: &mut Vec<Output>) {
        let Some(envelope) = Envelope::decode(data.clone()) else { return };
        // Checked before it is in the log, where every node would trip over it.
        let may = |c: &Command| self.replicated.state().is_some_and(|s| s.may_order(c).is_ok());
        let command = Command::decode(&envelope.command, self.config.speaks);
        let sound = envelope.node == from && command.is_ok_and(|c| may(&c));
        if sound && self.raft.status().is_leader {
            self.raft(consensus::Input::Propose { token: FORWARDED, data }, now, out);
        }
    }

    fn propose_for(&mut self, token: u64, command: &Command, now: Time, out: &mut Vec<Output>) {
        if let Some(Err(refusal)) = self.replicated.state().map(|s| s.may_order(command)) {
            return out.push(Output::Done { token, result: Err(Failure::Refused(refusal)) });
        }
        if !self.proposals.add(Some(token), Bytes::from(command.encode()), now, PATIENCE) {
            out.push(Output::Done { token, result: Err(Failure::Busy) });
        }
    }

    /// Proposes without waiting for the outcome, unless the same is on its way.
    fn propose(&mut self, command: &Command, now: Time) {
        if self.replicated.state().is_none_or(|s| s.may_order(command).is_err()) {
            // Its cause is looked at again when the cluster has been raised.
            return;
        }
        let bytes = Bytes::from(command.encode());
        if !self.proposals.contains(&bytes) {
            // A full queue drops it: its cause is looked at again.
            self.proposals.add(None, bytes, now, SHORT_PATIENCE);
        }
    }

    /// A copy asks again until it sees the outcome in its view.
    fn request(&mut self, request: &ControlRequest, now: Time) {
        let node = self.config.me;
        let command = match *request {
            ControlRequest::Claim { volume, base, life } => Command::Claim { volume, base, node, life },
            ControlRequest::Activate { volume, epoch } => Command::Activate { volume, epoch },
            ControlRequest::NoteKept { volume, epoch, last, known, whole } => {
                Command::NoteKept { volume, epoch, last, known, whole }
            }
            ControlRequest::Reconfigure { volume, base, life, ref members } => {
                Command::Reconfigure { volume, base, node, life, members: members.clone() }
            }
        };
        self.propose(&command, now);
    }

    fn propose_for_copies(&mut self, now: Time) {
        let Some(local) = self.told_local.as_ref().filter(|_| self.replicated.state().is_some()) else { return };
        for command in self.copies.due(local, self.config.me, now) {
            self.propose(&command, now);
        }
    }

    fn send_proposals(&mut self, now: Time, out: &mut Vec<Output>) {
        let status = self.raft.status();
        let Some(leader) = status.leader else { return };
        for (id, data) in self.proposals.due(now, RESEND) {
            if status.is_leader {
                self.raft(consensus::Input::Propose { token: id, data }, now, out);
            } else {
                out.push(Output::Send { to: leader, bytes: Message::Forward(data).encode() });
            }
        }
    }

    /// Feeds Raft, and carries its outputs on until it has no more.
    fn raft(&mut self, input: consensus::Input, now: Time, out: &mut Vec<Output>) {
        let mut inputs = VecDeque::from([input]);
        let mut outputs = Vec::new();
        while let Some(input) = inputs.pop_front() {
            self.raft.handle(input, &mut outputs);
            for output in outputs.drain(..) {
                if let Some(next) = raft_output(self, output, now, out) {
                    inputs.push_back(next);
                }
            }
        }
    }

    fn apply(&mut self, index: u64, data: Bytes, now: Time, out: &mut Vec<Output>) {
        if self.gave_up {
            return;
        }
        self.applied_since_snapshot += 1;
        match self.replicated.apply(index, data, self.config.speaks) {
            Ok((envelope, applied)) => {
                let pending = self.proposals.applied(&envelope);
                let Applied::Done(result, volume) = applied else { return };
                if result.is_ok() {
                    self.changed.note(volume);
                }
                if let Some(refused) = result.as_ref().err().filter(|r| r.kind == RefusalKind::Broken) {
                    let message = format!("entry {index} of the control plane's log was refused: {refused}");
                    out.push(Output::Event(Event { at: now, kind: EventKind::Defect, volume: None, message }));
                }
                if let Some(pending) = pending {
                    answer(&pending, result.map_err(Failure::Refused), out);
                }
            }
            Err(e) => self.give_up(&e, out),
        }
    }

    fn give_up(&mut self, why: &ApplyError, out: &mut Vec<Output>) {
        self.gave_up = true;
        out.push(Output::Fatal(why.to_string()));
    }

    fn restore(&mut self, state: Bytes, out: &mut Vec<Output>) {
        let restored = Replicated::restore(state, self.config.cluster, self.config.speaks);
        match restored.and_then(|r| self.is_of_this_regime(&r).map(|()| r)) {
            Ok(replicated) => self.replicated = replicated,
            Err(e) => return self.give_up(&e, out),
        }
        self.changed.all = true;
        self.applied_since_snapshot = 0;
        let (me, life) = (self.config.me, self.config.life);
        // Applied while this node was behind: that it happened is known, how it ended is not.
        for pending in self.proposals.take(|id| self.replicated.saw(me, life, id)) {
            answer(&pending, Err(Failure::Unknown), out);
        }
    }

    fn compact(&mut self, upto: u64, now: Time, out: &mut Vec<Output>) {
        if let Some(compact) = self.compaction(upto) {
            self.raft(compact, now, out);
        }
    }

    fn compaction(&mut self, upto: u64) -> Option<consensus::Input> {
        let state = self.snapshot()?;
        self.applied_since_snapshot = 0;
        Some(consensus::Input::Compact { upto, state })
    }

    /// What is applied, unless this node can't vouch for it any more.
    fn snapshot(&self) -> Option<Bytes> {
        self.replicated.snapshot().filter(|_| !self.gave_up)
    }

    /// Tells the shard, the transport and the operator what changed for them.
    fn tell(&mut self, now: Time, out: &mut Vec<Output>) {
        let changed = std::mem::take(&mut self.changed);
        if self.gave_up {
            return;
        }
        if let Some(state) = self.replicated.state().filter(|_| changed.all || !changed.volumes.is_empty()) {
            if self.told_version != Some(state.version) {
                // The peers are told in its words from now on.
                self.brief_heartbeats = 0;
                self.told_version = Some(state.version);
                out.push(Output::Version(state.version));
            }
            let only = (!changed.all).then_some(&changed.volumes);
            self.watch.state(state, only, now, out);
            self.copies.strangers(state, self.config.me, now, out);
            self.tell_local(only, out);
        }
        if changed.all || changed.peers {
            self.tell_peers(out);
        }
    }

    /// `only`: the volumes that may have changed, if not all.
    fn tell_local(&mut self, only: Option<&BTreeSet<VolumeId>>, out: &mut Vec<Output>) {
        let (Some(state), me) = (self.replicated.state(), self.config.me) else { return };
        if let (Some(told), Some(only)) = (&self.told_local, only)
            && !only.iter().any(|id| copies::concerns(state, me, *id) || told.names(*id))
        {
            return;
        }
        let local = copies::local_view(state, me);
        if self.told_local.as_ref() != Some(&local) {
            out.push(Output::Local(local.clone()));
            self.told_local = Some(local);
        }
    }

    fn tell_peers(&mut self, out: &mut Vec<Output>) {
        let mut peers = self.replicated.state().map_or_else(|| self.config.peers.clone(), lead::addresses);
        for (node, address) in &self.introduced {
            // A node that the state knows is where the state says, and nowhere if it was removed.
            if self.replicated.state().is_none_or(|state| !state.nodes.contains_key(node)) {
                peers.entry(*node).or_insert_with(|| address.clone());
            }
        }
        if self.told_peers != peers {
            out.push(Output::Peers(peers.clone()));
            self.told_peers = peers;
            if self.replicated.state().is_some() {
                let bytes = Message::Peers(self.told_peers.clone()).encode();
                out.extend(self.connected.iter().map(|to| Output::Send { to: *to, bytes: bytes.clone() }));
            }
        }
    }

    fn own_heartbeat(&self) -> Heartbeat {
        Heartbeat {
            node: self.config.me,
            life: self.config.life.0,
            copies: self.copies.reports.clone(),
            free_bytes: self.free_bytes,
            longest_file: self.longest_file,
        }
    }

    /// The cluster's.
    fn version(&self) -> ClusterVersion {
        if mutated(Mutant::SpeaksNewTooEarly) {
            return self.config.speaks.newest();
        }
        self.replicated.state().map_or(ClusterVersion::FIRST, |s| s.version)
    }

    fn tells_changes(&self) -> bool {
        self.version() >= ClusterVersion::TOLD
    }

    fn alive_message(&self) -> Bytes {
        let life = self.config.life;
        let message =
            if self.tells_changes() { Message::AliveAt(life, self.told.number) } else { Message::Alive(life) };
        message.encode()
    }

    /// What has changed since it was told last, where that is what is told, else all.
    fn news_message(&mut self, own: &Heartbeat) -> Bytes {
        if !self.tells_changes() {
            return self.heartbeat_message();
        }
        match self.told.news(own) {
            Some(news) => Message::Changes(Bytes::from(news.encode(self.version()))).encode(),
            None => self.alive_message(),
        }
    }

    fn heartbeat_message(&mut self) -> Bytes {
        let (own, version) = (self.own_heartbeat(), self.version());
        let message = if self.tells_changes() {
            let all = self.told.all(&own);
            Message::All(self.told.number, Bytes::from(all.encode(version)))
        } else {
            Message::Heartbeat(Bytes::from(own.encode(version)))
        };
        message.encode()
    }

    fn speaks_message(&self) -> Option<Bytes> {
        let ControlConfig { life, speaks, build, .. } = &self.config;
        let message = || Message::Speaks(*life, *speaks, build.clone()).encode();
        speaks.tells().then(message)
    }

    fn no_leader(&self, pending: &Pending, now: Time) -> Failure {
        let status = self.raft.status();
        let state = self.replicated.state();
        let name = |node: &NodeId| lead::name(state, *node);
        let answering = |node: &&NodeId| **node == self.config.me || self.detector.alive(**node, now);
        Failure::NoLeader {
            waited: now.since(pending.since),
            leader: status.leader.as_ref().map(name),
            answering: status.voters.iter().filter(answering).map(name).collect(),
            voters: status.voters.iter().map(name).collect(),
        }
    }
}

/// Carries one output of Raft on; what Raft is to be told in return.
fn raft_output(
    control: &mut Control,
    output: consensus::Output,
    now: Time,
    out: &mut Vec<Output>,
) -> Option<consensus::Input> {
    match output {
        consensus::Output::Persist(batch) => out.push(Output::Persist(batch)),
        consensus::Output::Compacted { first_index, snapshot } => out.push(Output::Compact { first_index, snapshot }),
        consensus::Output::Send { to, bytes } => {
            control.spoken_to.insert(to);
            out.push(Output::Send { to, bytes: Message::Raft(bytes).encode() });
        }
        consensus::Output::Apply { index, data } => control.apply(index, data, now, out),
        consensus::Output::Restore { state, .. } => control.restore(state, out),
        // What was dropped is sent again: when the leader changes, or after a silence.
        consensus::Output::Dropped { .. } | consensus::Output::ReadReady { .. } => {}
        // The next step need not wait: until the last one the loss of one node may be the loss of the majority.
        consensus::Output::MembershipApplied { .. } => control.housekeeping = Every::from(HOUSEKEEPING, now),
        consensus::Output::RoleChanged { leader, .. } => {
            control.proposals.forget_sent();
            let leader = leader.map(|node| lead::name(control.replicated.state(), node));
            control.watch.leader(leader, now, out);
        }
        consensus::Output::SnapshotWanted { index } => return control.compaction(index),
    }
    None
}

fn answer(pending: &Pending, result: Result<holdfast_cluster::Outcome, Failure>, out: &mut Vec<Output>) {
    if let Some(token) = pending.token {
        out.push(Output::Done { token, result });
    }
}
