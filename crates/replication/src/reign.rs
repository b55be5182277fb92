//! An epoch of this copy's own: brings members to the log, counts the quorum, activates, commits.
//!
//! A member's way: `Down ──lane up──► Fencing ──tail──► Adopting ──acknowledged──► Streaming`; back to `Down` when the lane
//! ends. Where the log does not reach it: `Resyncing`, until its next tail. Every reconnect walks the whole way: what the old lane lost is found by positions, never guessed.

use crate::api::Output;
use crate::claim::tail_is_whole;
use crate::exposure::{News, Written};
use crate::guest::Guests;
use crate::lease::Grants;
use crate::pace::{Change, Paces, SlowCopy};
use crate::reconfigure::{Before, Check};
use crate::replica::{Replica, Role};
use crate::tracker::Tracker;
use holdfast_format::Record;
use holdfast_format::message::{BeatVolume, Message, TailReport};
use holdfast_types::{
    Configuration, ControlRequest, Durability, Epoch, Incarnation, Lsn, Mutant, NodeId, Nominee, Pending, Time, mutated,
};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PeerState {
    Down,
    Fencing,
    Adopting,
    Streaming,
    /// The log does not reach it: it fetches regions, and reports when it is back.
    Resyncing,
    /// It lost what it had acknowledged: it must be replaced.
    Lost,
}

/// What a member says it holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) received: Lsn,
    pub(crate) durable: Lsn,
    pub(crate) checkpoint: Lsn,
}

/// A member as its primary sees it.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) state: PeerState,
    /// The copy that counts, or learns, there.
    pub(crate) incarnation: Incarnation,
    /// Acknowledged to be durable there, in this reign of this life.
    pub(crate) held: Lsn,
    /// Whether its image was found equal (M2).
    pub(crate) check: Check,
    /// Next record to send.
    pub(crate) next: Lsn,
    /// Sent and not acknowledged: last LSN and bytes of each message, and when it was sent.
    unacknowledged: VecDeque<(Lsn, usize, Time)>,
    /// It has kept up with what is written since it was greeted: from then on it is measured.
    kept_up: bool,
    pub(crate) window_used: usize,
    /// A read of the log is under way for it.
    pub(crate) reading: Option<u64>,
    checkpoint: Lsn,
    /// Why it is `Lost` or `Resyncing`.
    pub(crate) lost: Option<String>,
    /// Since when it follows without a break.
    pub(crate) steady: Option<Time>,
}

impl Peer {
    pub(crate) fn new(incarnation: Incarnation) -> Peer {
        Peer {
            state: PeerState::Down,
            incarnation,
            held: Lsn::ZERO,
            check: Check::Unknown,
            next: Lsn::ZERO,
            unacknowledged: VecDeque::new(),
            kept_up: false,
            window_used: 0,
            reading: None,
            checkpoint: Lsn::ZERO,
            lost: None,
            steady: None,
        }
    }

    pub(crate) fn restart(&mut self, state: PeerState) {
        *self = Peer { state, checkpoint: self.checkpoint, held: self.held, ..Peer::new(self.incarnation) };
    }

    /// It must be replaced; a person is told once per connection, and the status as long as it is so.
    pub(crate) fn lose(&mut self, why: String, out: &mut Vec<Output>) {
        self.restart(PeerState::Lost);
        out.push(Output::Event(why.clone()));
        self.lost = Some(why);
    }

    /// The log does not reach it.
    fn resync(&mut self, why: String, out: &mut Vec<Output>) {
        self.restart(PeerState::Resyncing);
        out.push(Output::Event(why.clone()));
        self.lost = Some(why);
    }

    fn sent(&mut self, records: &[Record], now: Time) {
        let Some(last) = records.last() else { return };
        let bytes = records.iter().map(Record::len_bytes).sum();
        self.next = last.lsn().next();
        self.unacknowledged.push_back((last.lsn(), bytes, now));
        self.window_used += bytes;
    }

    fn acknowledged(&mut self, durable: Lsn, mut took: impl FnMut(Time)) {
        while let Some((_, bytes, at)) = self.unacknowledged.front().copied().filter(|(lsn, ..)| *lsn <= durable) {
            self.unacknowledged.pop_front();
            if self.kept_up {
                took(at);
            }
            self.window_used -= if mutated(Mutant::WindowNeverFreed) { 0 } else { bytes };
        }
    }
}

impl Peer {
    /// How long the oldest record sent to it has not been answered, if it is measured.
    fn waits(&self, now: Time) -> Option<Duration> {
        let oldest = self.unacknowledged.front().filter(|_| self.kept_up && self.state == PeerState::Streaming);
        oldest.map(|(_, _, at)| now.since(*at))
    }
}

/// A reign, from its first record on.
#[derive(Debug)]
pub(crate) struct Reign {
    pub(crate) configuration: Configuration,
    /// LSN of the epoch's own first record: nothing is committed before it is.
    pub(crate) start: Lsn,
    pub(crate) active: bool,
    /// What the members that were fenced for it knew to be committed.
    pub(crate) known: Lsn,
    pub(crate) activate_at: Time,
    pub(crate) peers: BTreeMap<NodeId, Peer>,
    pub(crate) tracker: Tracker,
    /// How fast the copies are.
    pub(crate) paces: Paces,
    pub(crate) grants: Grants,
    pub(crate) guests: Guests,
    /// M1: the claim of this primary's next epoch is known, and its table is being made durable.
    pub(crate) next: Option<Pending>,
    /// M2, M3: the epoch that this one succeeds under the same primary, until this one is active.
    pub(crate) before: Option<Before>,
    /// M1 is asked for again at this time.
    pub(crate) change_at: Option<Time>,
    /// Peers that have not answered are greeted again at this time.
    pub(crate) greet_at: Time,
    /// LSNs at which images are compared, and this copy's digest there once it is known.
    pub(crate) digests: BTreeMap<Lsn, Option<u64>>,
    /// Bytes that were changed in this reign, for the exposure.
    pub(crate) written: Written,
    /// Appended in this round, not handed to store and members yet.
    pub(crate) fresh: Vec<Record>,
    /// What the store was last told to be dispensable.
    trimmed: Lsn,
    /// What members were last told to be committed.
    told: Lsn,
    pub(crate) tell_at: Option<Time>,
    /// A switchover is under way: nothing new is admitted, and the lease is released when all is answered.
    pub(crate) draining: bool,
    /// A member promised a higher epoch: only a new epoch can have its acknowledgements again.
    pub(crate) overtaken_at: Option<Time>,
}

impl Reign {
    pub(crate) fn new(me: NodeId, configuration: Configuration, start: Lsn, now: Time) -> Reign {
        let others = configuration.members.iter().filter(|m| m.node != me);
        let peers = others.map(|m| (m.node, Peer::new(m.incarnation))).collect();
        Reign {
            tracker: Tracker::new(&configuration),
            paces: Paces::new(now),
            configuration,
            start,
            active: false,
            known: Lsn::ZERO,
            activate_at: now,
            peers,
            grants: Grants::default(),
            guests: Guests::default(),
            next: None,
            before: None,
            change_at: None,
            greet_at: now,
            digests: BTreeMap::new(),
            written: Written::new(start.prev()),
            fresh: Vec::new(),
            trimmed: Lsn::ZERO,
            told: Lsn::ZERO,
            tell_at: None,
            draining: false,
            overtaken_at: None,
        }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.configuration.epoch
    }

    /// Epoch with which a member that came up is greeted.
    pub(crate) fn greeting(&mut self, peer: NodeId) -> Epoch {
        if let Some(p) = self.peers.get_mut(&peer) {
            p.restart(PeerState::Fencing);
        }
        self.epoch()
    }

    /// Every member has everything up to here in a synced image.
    pub(crate) fn trim(&self, own: Lsn) -> Lsn {
        let of_peers = self.peers.values().map(|p| p.checkpoint).filter(|_| !mutated(Mutant::TrimsTooMuch));
        of_peers.min().map_or(own, |c| c.min(own))
    }

    /// Bytes that are committed and that a copy which is to stay lacks: members and learners, but not those that are leaving.
    fn exposed(&self, me: NodeId, own: Lsn, committed: Lsn, leaving: &[NodeId], size: u64) -> u64 {
        let stays = |node: &NodeId| !leaving.contains(node);
        let counts = |p: &Peer| p.state == PeerState::Streaming || !mutated(Mutant::ExposureForgetsAbsent);
        let peers = self.peers.iter().filter(|(node, p)| stays(node) && counts(p));
        // Of a copy that no log reaches, nobody here knows what it still has.
        if peers.clone().any(|(_, p)| matches!(p.state, PeerState::Lost | PeerState::Resyncing)) {
            return size;
        }
        let own = Some(own).filter(|_| stays(&me));
        let least = peers.map(|(_, p)| p.held).chain(own).min().unwrap_or(committed);
        self.written.between(least, committed).min(size)
    }

    pub(crate) fn take_fresh(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.fresh)
    }

    /// Members that the log does not reach, and why.
    pub(crate) fn lost(&self) -> Vec<(NodeId, String)> {
        self.peers.iter().filter_map(|(node, p)| Some((*node, p.lost.clone()?))).collect()
    }

    /// Those of them that fetch regions.
    pub(crate) fn resyncing(&self) -> Vec<NodeId> {
        self.peers.iter().filter(|(_, p)| p.state == PeerState::Resyncing).map(|(node, _)| *node).collect()
    }

    /// Whether this member has had all that is durable here, up to what is on its way.
    fn follows(&self, node: NodeId, durable: Lsn) -> bool {
        let has_had_all = |p: &Peer| p.kept_up || p.next > durable;
        self.peers.get(&node).is_some_and(|p| p.state == PeerState::Streaming && has_had_all(p))
    }

    /// Members beside this one that must grant a lease.
    pub(crate) fn grants_needed(&self) -> usize {
        usize::from(self.configuration.write_quorum - u8::from(mutated(Mutant::OneGrantTooFew))).saturating_sub(1)
    }

    /// When `maintain` wants to be called without any other input.
    pub(crate) fn next_timeout(&self) -> Option<Time> {
        let activate = (!self.active && self.is_held()).then_some(self.activate_at);
        let greets = self.peers.values().any(|p| p.state == PeerState::Fencing).then_some(self.greet_at);
        let give_up = self.before.as_ref().map(|b| b.give_up_at);
        [activate, self.tell_at, self.overtaken_at, greets, give_up, self.change_at].into_iter().flatten().min()
    }
}

impl Replica {
    /// Assigns nothing, checks nothing: takes a sealed record into the log, for `maintain` to hand out.
    pub(crate) fn append(&mut self, record: Record, out: &mut Vec<Output>) {
        if let Err(why) = self.log.push(&record) {
            self.fail(why, out);
            return;
        }
        let Role::Reign(r) = &mut self.role else { unreachable!("only a reign appends records of its own") };
        r.written.push(record.lsn(), record.header().range.count.bytes());
        r.fresh.push(record);
    }

    /// The small block of work after every batch of inputs: what was appended goes to the store and to the members in one
    /// piece each.
    pub(crate) fn maintain_reign(&mut self, now: Time, out: &mut Vec<Output>) {
        self.step_resize(out);
        self.hand_out(now, out);
        self.step_activation(now, out);
        self.step_overtaken(now, out);
        self.step_change(now, out);
        self.step_paces(now, out);
    }

    /// Looks once a second who is slow, while there is anything to do.
    fn step_paces(&mut self, now: Time, out: &mut Vec<Output>) {
        let (me, bound) = (self.me, self.timers.slow_latency);
        let Role::Reign(r) = &mut self.role else { return };
        if bound.is_zero() || !r.paces.is_due(now) {
            return;
        }
        let own = r.paces.own_waits(now);
        let of = |node: NodeId| if node == me { own } else { r.peers.get(&node).and_then(|p| p.waits(now)) };
        let waits: Vec<_> = r.configuration.members.iter().map(|m| (m.node, of(m.node))).collect();
        for change in r.paces.judge(me, &waits, bound, now) {
            out.push(Output::Event(match change {
                Change::Slow(SlowCopy { node, latency, others, link: false }) => format!(
                    "the copy on {node} is slow: it takes {latency:.0?} to make records durable, the others {others:.1?}"
                ),
                Change::Slow(SlowCopy { node, latency, others, .. }) => format!(
                    "the way from {node}, the primary, to all other copies is slow: they take {latency:.0?}, its own disk {others:.1?}"
                ),
                Change::Recovered(node) => format!("the copy on {node} is as fast as the others again"),
            }));
        }
    }

    /// Counts what has fewer copies than it should.
    pub(crate) fn step_exposure(&mut self, now: Time, out: &mut Vec<Output>) {
        let (me, own, committed) = (self.me, self.log.positions.durable, self.log.positions.committed);
        let committed = if mutated(Mutant::ExposureCountsUncommitted) { self.log.last() } else { committed };
        let (leaving, size) = (&self.view.leaving, self.log.size().bytes());
        let bytes = match &mut self.role {
            Role::Reign(r) if r.serves() => {
                let least = r.peers.values().map(|p| p.held).min().unwrap_or(own);
                r.written.forget(least.min(own).min(committed));
                r.exposed(me, own, committed, leaving, size)
            }
            _ => 0,
        };
        let text = match self.exposure.look(bytes, now) {
            Some(News::Begun { bytes }) => {
                format!("{bytes} bytes that were acknowledged have fewer copies than promised")
            }
            Some(News::Ended { byte_seconds, seconds, most }) if self.is_serving() => format!(
                "all copies hold what was acknowledged: for {seconds} s up to {most} bytes had fewer than promised, {byte_seconds} \
                 byte-seconds"
            ),
            Some(News::Ended { byte_seconds, seconds, most }) => format!(
                "the exposure is not measured here any more: for {seconds} s up to {most} bytes had fewer copies than promised, \
                 {byte_seconds} byte-seconds"
            ),
            None => return,
        };
        out.push(Output::Event(text));
    }

    /// What was appended in this round goes out.
    pub(crate) fn hand_out(&mut self, now: Time, out: &mut Vec<Output>) {
        let committed = self.commit_known;
        let (window, message_bytes) = (self.limits.window_bytes, self.limits.catch_up_bytes);
        let Role::Reign(r) = &mut self.role else { return };
        let epoch = r.epoch();
        let fresh = std::mem::take(&mut r.fresh);
        let mut told = false;
        if let (Some(first), Some(last)) = (fresh.first(), fresh.last()) {
            r.paces.given(last.lsn(), now);
            for (node, peer) in &mut r.peers {
                let has_room = peer.window_used < window || mutated(Mutant::WindowIgnored);
                if peer.state == PeerState::Streaming && peer.next == first.lsn() && has_room {
                    peer.kept_up = true;
                    for part in parts(&fresh, message_bytes) {
                        peer.sent(part, now);
                        let message = Message::Append { epoch, committed, records: part.to_vec() };
                        out.push(Output::Send { to: *node, message });
                    }
                    told = true;
                }
            }
            out.push(Output::Append(fresh));
        }
        if told {
            r.told = committed;
            r.tell_at = None;
        } else if committed > r.told && r.active {
            let due = *r.tell_at.get_or_insert(now + self.timers.commit_delay);
            if now >= due {
                self.tell_committed(out);
            }
        }
    }

    fn tell_committed(&mut self, out: &mut Vec<Output>) {
        let committed = self.commit_known;
        let Role::Reign(r) = &mut self.role else { return };
        let epoch = r.epoch();
        r.told = committed;
        r.tell_at = None;
        for (node, _) in r.peers.iter().filter(|(_, p)| p.state == PeerState::Streaming) {
            out.push(Output::Send { to: *node, message: Message::Append { epoch, committed, records: Vec::new() } });
        }
    }

    /// T8: asks the control plane once W members hold the first record, and again until it answers.
    fn step_activation(&mut self, now: Time, out: &mut Vec<Output>) {
        let (volume, retry) = (self.view.volume, self.timers.control_retry);
        let Role::Reign(r) = &mut self.role else { return };
        let held = r.is_held() || mutated(Mutant::ActivatesBeforeQuorum);
        if r.active || !held || now < r.activate_at {
            return;
        }
        r.activate_at = now + retry;
        if let Some(forced) = self.view.forced.filter(|f| f.noted != Some(r.epoch())) {
            // The receipt first: an epoch that opens with less than was acknowledged never does so unsaid (S19).
            let (epoch, last, known) = (r.epoch(), r.start.prev(), r.known);
            let whole = self.reigned == forced.before;
            out.push(Output::Control(ControlRequest::NoteKept { volume, epoch, last, known, whole }));
            return;
        }
        self.waiting = Some(format!("{} is held by a quorum; its activation is before the control plane", r.epoch()));
        out.push(Output::Control(ControlRequest::Activate { volume, epoch: r.epoch() }));
    }

    /// A member promised a higher epoch, and nothing came of it: only a new epoch of our own gets its acknowledgements.
    fn step_overtaken(&mut self, now: Time, out: &mut Vec<Output>) {
        let Role::Reign(r) = &mut self.role else { return };
        if r.overtaken_at.is_none_or(|at| now < at) {
            return;
        }
        r.overtaken_at = None;
        if self.is_wanted() {
            out.push(Output::Event(
                "a member promised a higher epoch that was never opened: claiming a new one".to_owned(),
            ));
            self.leave_role(out);
            self.become_candidate(now, out);
        }
    }

    pub(crate) fn on_reject(&mut self, epoch: Epoch, promised: Epoch, now: Time) {
        let retry = self.timers.control_retry;
        if let Role::Reign(r) = &mut self.role
            && r.epoch() == epoch
            && promised > epoch
            && !mutated(Mutant::RejectIgnored)
        {
            r.overtaken_at.get_or_insert(now + retry + retry);
        }
    }

    /// The control plane made this reign the active one (T9).
    pub(crate) fn activated(&mut self, now: Time, out: &mut Vec<Output>) {
        let Role::Reign(r) = &mut self.role else { return };
        if r.active {
            return;
        }
        let held = r.is_held() || mutated(Mutant::ActivatesBeforeQuorum);
        assert!(
            held || mutated(Mutant::ServesBeforeActivation),
            "an epoch is activated only after its start is on a quorum (T8)"
        );
        r.active = true;
        self.reigned = r.epoch();
        let before = r.before.take();
        let served = before.is_some();
        if let Some(before) = before {
            self.returns.note(before.left_out(&r.configuration, &self.view.learners), now);
        }
        self.waiting = None;
        out.push(Output::Event(format!("{} is active, {} is primary from record {} on", r.epoch(), self.me, r.start)));
        if !served {
            out.push(Output::Serving(true));
        }
        if r.grants.confirmed(r.grants_needed()) {
            r.guests.believe(out);
        }
        out.push(Output::BeatNow);
        self.follow_members(out);
        self.advance(now, out);
        self.retry_unleased(now, out);
    }

    /// T7 at the primary: a member told what it holds.
    pub(crate) fn reign_tail(&mut self, from: NodeId, report: &TailReport, out: &mut Vec<Output>) {
        let table = self.log.table.clone();
        let Role::Reign(r) = &mut self.role else { return };
        let epoch = r.epoch();
        let Some(peer) = r.peers.get_mut(&from) else { return };
        let acknowledged = peer.held;
        let reaches = table.entries().first().is_some_and(|(_, start)| *start <= report.last.next());
        if peer.incarnation != report.incarnation {
            let found = report.incarnation;
            let why =
                format!("{from} has incarnation {found} of the copy, which is not the registered one: replace it");
            peer.lose(why, out);
        } else if report.last < acknowledged && tail_is_whole(report) {
            // Trap 16: its disk took back what it had promised. It never counts again.
            let last = report.last;
            let why = format!(
                "{from} had acknowledged records up to {acknowledged} and now ends at {last}: its disk lies; replace it"
            );
            peer.lose(why, out);
        } else if !reaches || report.table.common_point(report.last, &table, Lsn(u64::MAX)).is_none() {
            peer.resync(format!("the log no longer reaches back to what {from} holds: it is resynced by regions"), out);
            self.need_regions(from, out);
        } else {
            peer.restart(PeerState::Adopting);
            let last = self.log.last();
            self.send(from, Message::Adopt { epoch, table, last }, out);
        }
    }

    /// N3 arrives at the primary.
    pub(crate) fn on_ack(&mut self, from: NodeId, epoch: Epoch, held: Held, now: Time, out: &mut Vec<Output>) {
        let Held { received, durable, checkpoint } = held;
        let last = self.log.last();
        let Role::Reign(r) = &mut self.role else { return };
        if let Some(before) = r.before.as_mut().filter(|b| b.epoch() == epoch) {
            // Given before the member promised the next epoch.
            before.note(from, received, durable);
            return self.advance(now, out);
        }
        if r.epoch() != epoch {
            return;
        }
        let Some(peer) = r.peers.get_mut(&from) else { return };
        if received.max(durable) > last {
            let claimed = received.max(durable);
            self.fail(
                format!(
                    "{from} acknowledged record {claimed} of {epoch}, of which this primary wrote none above {last}"
                ),
                out,
            );
            return;
        }
        match peer.state {
            PeerState::Adopting => {
                peer.state = PeerState::Streaming;
                peer.steady = Some(now);
                peer.next = durable.next();
            }
            PeerState::Streaming => {
                let paces = &mut r.paces;
                peer.acknowledged(durable, |at| paces.sample(from, now.since(at)));
            }
            PeerState::Down | PeerState::Fencing | PeerState::Resyncing | PeerState::Lost => return,
        }
        peer.checkpoint = peer.checkpoint.max(checkpoint);
        peer.held = peer.held.max(durable);
        r.tracker.note(from, received, durable);
        if let Some(before) = &mut r.before {
            before.note(from, received, durable);
        }
        let trim = r.trim(self.log.checkpoint);
        if trim > r.trimmed {
            r.trimmed = trim;
            out.push(Output::Trim(trim));
        }
        self.pump(from, out);
        self.advance(now, out);
    }

    pub(crate) fn on_gap(&mut self, from: NodeId, epoch: Epoch, expected: Lsn, out: &mut Vec<Output>) {
        let Role::Reign(r) = &mut self.role else { return };
        if r.epoch() != epoch {
            return;
        }
        if let Some(peer) = r.peers.get_mut(&from).filter(|p| p.state == PeerState::Streaming) {
            let steady = peer.steady;
            peer.restart(PeerState::Streaming);
            (peer.steady, peer.next) = (steady, expected);
            self.pump(from, out);
        }
    }

    /// Reads the log for a member that is behind what is sent live, as far as its window allows.
    pub(crate) fn pump(&mut self, to: NodeId, out: &mut Vec<Output>) {
        let durable = self.log.positions.durable;
        let (window, max_bytes) = (self.limits.window_bytes, self.limits.catch_up_bytes);
        let tag = self.next_tag();
        let Role::Reign(r) = &mut self.role else { return };
        let Some(peer) = r.peers.get_mut(&to) else { return };
        let behind =
            peer.next <= durable && !mutated(Mutant::NoCatchUp) && r.fresh.first().is_none_or(|f| peer.next < f.lsn());
        if peer.state == PeerState::Streaming && behind && peer.reading.is_none() && peer.window_used < window {
            peer.reading = Some(tag);
            out.push(Output::ReadLog { tag, from: peer.next, max_bytes });
        }
    }

    pub(crate) fn pump_all(&mut self, out: &mut Vec<Output>) {
        let Role::Reign(r) = &self.role else { return };
        let behind: Vec<NodeId> = r.peers.keys().copied().collect();
        for peer in behind {
            self.pump(peer, out);
        }
    }

    /// A read of the log for a lagging member ended.
    pub(crate) fn catch_up_read(&mut self, tag: u64, records: Option<Vec<Record>>, now: Time, out: &mut Vec<Output>) {
        let committed = self.commit_known;
        let Role::Reign(r) = &mut self.role else { return };
        let epoch = r.epoch();
        let Some((&to, peer)) = r.peers.iter_mut().find(|(_, p)| p.reading == Some(tag)) else { return };
        peer.reading = None;
        let Some(records) = records.filter(|r| !r.is_empty()) else {
            let next = peer.next;
            let why = format!("the journal no longer holds record {next}, which {to} lacks: it is resynced by regions");
            peer.resync(why, out);
            self.need_regions(to, out);
            return;
        };
        if records[0].lsn() != peer.next {
            return;
        }
        peer.sent(&records, now);
        out.push(Output::Send { to, message: Message::Append { epoch, committed, records } });
        self.pump(to, out);
    }

    /// R1. Above the checkpoint the journal holds everything.
    fn need_regions(&self, to: NodeId, out: &mut Vec<Output>) {
        let (epoch, table) = (self.log.promised, self.log.table.clone());
        let (last, base) = (self.log.last(), self.log.checkpoint);
        self.send(to, Message::NeedRegions { epoch, table, last, base }, out);
    }

    /// N4, N5: counts, commits, answers.
    pub(crate) fn advance(&mut self, now: Time, out: &mut Vec<Output>) {
        let Role::Reign(r) = &mut self.role else { return };
        let p = self.log.positions;
        let durable = if mutated(Mutant::PrimaryCountsMemory) { p.received } else { p.durable };
        r.tracker.note(self.me, p.received, durable);
        if mutated(Mutant::AloneBeforeActivation) && self.view.alone == Some(self.me) {
            r.tracker.needs_one();
        }
        r.paces.own_durable(self.me, p.durable, now);
        let quorum = r.tracker.quorum();
        let early = mutated(Mutant::CommitsBeforeActivation) || (mutated(Mutant::AnswersBeforeReconf) && r.serves());
        let active = r.active || early;
        if !active && let Some(before) = &mut r.before {
            // M3: what was appended before still counts where it was appended.
            before.note(self.me, p.received, durable);
            let held = before.tracker.quorum();
            r.guests.answer_writes(before.tracker.answerable(Durability::Sync), held, out);
            self.learn_committed(held.get(), out);
            return self.guests_committed(now, out);
        }
        if !active || quorum.get() < r.start {
            return;
        }
        r.guests.answer_writes(r.tracker.answerable(self.view.durability), quorum, out);
        self.learn_committed(quorum.get(), out);
        self.guests_committed(now, out);
        self.step_drain(out);
    }

    /// A switchover: once the successor follows, admits nothing more; when every admitted request is answered, gives the lease up.
    pub(crate) fn step_drain(&mut self, out: &mut Vec<Output>) {
        let durable = self.log.positions.durable;
        let planned = self.view.nominee.filter(|n| n.planned && n.node != self.me);
        let Role::Reign(r) = &mut self.role else { return };
        let follows = |n: &Nominee| n.base == r.epoch() && r.follows(n.node, durable);
        if r.active && r.next.is_none() && planned.is_some_and(|n| follows(&n)) {
            r.draining = true;
        }
        if r.draining && r.active && r.next.is_none() && r.guests.is_idle() && r.fresh.is_empty() {
            self.release(out);
        }
    }

    /// Ends this reign: no read is served and nothing appended any more, and members may fence at once.
    pub(crate) fn release(&mut self, out: &mut Vec<Output>) {
        let Some((epoch, last)) = self.abdicate(out) else { return };
        self.waiting = Some(format!("{epoch} was handed over at record {last}"));
        let why = if self.retiring { "the agent ends" } else { "for a switchover" };
        out.push(Output::Event(format!("{epoch} is released at record {last}: {why}")));
    }

    /// Ends this reign and tells the members, which may fence at once.
    pub(crate) fn abdicate(&mut self, out: &mut Vec<Output>) -> Option<(Epoch, Lsn)> {
        let Role::Reign(r) = &self.role else { return None };
        let (epoch, last) = (r.epoch(), self.log.last());
        if !mutated(Mutant::ServesAfterRelease) {
            self.leave_role(out);
        }
        self.released = self.released.max(epoch);
        for peer in self.partners() {
            self.send(peer, Message::Release { epoch, last }, out);
        }
        Some((epoch, last))
    }

    /// What a heartbeat to `peer` says of this volume, if this copy leads it and `peer` follows.
    pub(crate) fn beat_for(&self, peer: NodeId) -> Option<BeatVolume> {
        let Role::Reign(r) = &self.role else { return None };
        let follows = r.peers.get(&peer).is_some_and(|p| p.state == PeerState::Streaming);
        let trim = r.trim(self.log.checkpoint);
        (r.active && follows).then(|| BeatVolume {
            volume: self.view.volume,
            epoch: r.epoch(),
            committed: self.commit_known,
            trim,
        })
    }
}

/// Cuts records into runs of at most `bytes`, each with at least one record.
fn parts(records: &[Record], bytes: usize) -> impl Iterator<Item = &[Record]> {
    let mut rest = records;
    std::iter::from_fn(move || {
        let mut sum = 0;
        let fits = |r: &&Record| {
            sum += r.len_bytes();
            sum <= bytes
        };
        let count = rest.iter().take_while(fits).count().max(1).min(rest.len());
        let (part, left) = rest.split_at(count);
        rest = left;
        (!part.is_empty()).then_some(part)
    })
}
