//! Changing who counts, under the same primary: one member more or one less (PROTOCOL.md, M1 to M3).
//!
//! ```text
//! reign of e ──claim of e + 1 known (M1)──► pausing: nothing gets an LSN ──table durable──► reign of e + 1, not active (M2)
//!   ──W of the new members and every added one hold its start──► activation asked for ──active (M3)──► reign of e + 1
//! ```
//! A *learner* is a peer that receives the log like a member and counts for nothing. It becomes a member when it has all but
//! the last few records, and its image and this primary's had the same digest at the same LSN.
//!
//! Invariants: nothing is appended to an epoch once the next one has a record (the pause, and `Log::note_adopted`); records
//! of the epoch that ends are answered when W of *its* members hold them, records of the next one when it is active and W of
//! its members do; deciding sets of both meet (`Configuration::may_change_to`). Guests stay attached: what they ask for in
//! the pause, and reads until the activation, waits.
//!
//! If this primary ends on the way, or gives up because an added member is gone, the next takeover claims on the same base,
//! with the members of the base. Deliberately absent: what is wanted, and W for so many members; the control plane decides.

use crate::api::Output;
use crate::claim::TABLE_SOFT_LIMIT;
use crate::reign::{Peer, PeerState, Reign};
use crate::replica::{Replica, Role};
use crate::tracker::Tracker;
use holdfast_format::message::Message;
use holdfast_types::{
    Configuration, ControlRequest, Epoch, Incarnation, Lsn, MAX_EPOCH_TABLE, MAX_MEMBERS, Member, Mutant, NodeId,
    Pending, Time, mutated,
};
use std::collections::BTreeMap;

/// A learner that lacks more records than this does not become a member.
const CLOSE_RECORDS: u64 = 64;
/// Nor one that has so many bytes on their way to it.
const CLOSE_BYTES: usize = 4 << 20;

/// The epoch that ends, and who holds what of it.
#[derive(Clone, Debug)]
pub(crate) struct Before {
    configuration: Configuration,
    pub(crate) tracker: Tracker,
    /// Its last record.
    end: Lsn,
    /// When it is looked whether the next epoch can't be opened.
    pub(crate) give_up_at: Time,
}

impl Before {
    pub(crate) fn epoch(&self) -> Epoch {
        self.configuration.epoch
    }

    /// Members of it that are none now and are to be one again.
    pub(crate) fn left_out(&self, now: &Configuration, learners: &[Member]) -> impl Iterator<Item = NodeId> {
        let gone = self.configuration.members.iter().filter(|m| now.member(m.node).is_none());
        gone.filter(|m| learners.contains(m)).map(|m| m.node)
    }

    /// `node` holds the log of the next epoch up to here, of which this epoch's log is the beginning.
    pub(crate) fn note(&mut self, node: NodeId, received: Lsn, durable: Lsn) {
        self.tracker.note(node, received.min(self.end), durable.min(self.end));
    }
}

/// Whether a learner's image was found equal to the primary's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    Unknown,
    /// It was asked for its digest at this LSN.
    Asked(Lsn),
    /// Its digest there.
    Told(Lsn, u64),
    Equal,
}

impl Reign {
    /// Whether guests are attached: also while the next epoch of this primary is not active yet.
    pub(crate) fn serves(&self) -> bool {
        self.active || self.before.is_some()
    }

    /// The active epoch in which guests are answered.
    pub(crate) fn answers_in(&self) -> Option<Epoch> {
        let before = self.before.as_ref().map(Before::epoch);
        if self.active { Some(self.epoch()) } else { before }
    }

    /// M1: between two epochs nothing gets an LSN.
    pub(crate) fn is_pausing(&self) -> bool {
        self.next.is_some() && !mutated(Mutant::AppendsToOldEpochAfterReconf)
    }

    /// T8 and M2: W members hold the epoch's start, every added one among them.
    pub(crate) fn is_held(&self) -> bool {
        let added = |m: &Member| self.before.as_ref().is_some_and(|b| !b.configuration.members.contains(m));
        let holds = |m: &Member| self.peers.get(&m.node).is_some_and(|p| p.held >= self.start);
        self.tracker.quorum().get() >= self.start
            && (self.configuration.members.iter().filter(|m| added(m)).all(holds) || mutated(Mutant::AddedNotWaitedFor))
    }

    pub(crate) fn lost_contact(&mut self, peer: NodeId) {
        self.tracker.lost_contact(peer);
        if let Some(before) = &mut self.before {
            before.tracker.lost_contact(peer);
        }
    }

    /// Whether this peer lacks no more than what is under way.
    fn is_close(&self, peer: &Peer, last: Lsn) -> bool {
        peer.state == PeerState::Streaming
            && peer.reading.is_none()
            && last.0.saturating_sub(peer.held.0) <= CLOSE_RECORDS
            && peer.window_used <= CLOSE_BYTES
    }

    /// Whether a takeover with the members of the epoch before would get on where this change does not.
    fn is_stuck(&self, durable: Lsn, goes_alone: bool) -> bool {
        let Some(before) = &self.before else { return false };
        let holds = |m: &&Member| match self.peers.get(&m.node) {
            Some(peer) => peer.held >= self.start,
            None => durable >= self.start,
        };
        let held = before.configuration.members.iter().filter(holds).count();
        !self.is_held() && (held >= usize::from(before.configuration.write_quorum) || goes_alone)
    }
}

impl Replica {
    /// Peers are whoever counts in this epoch or the one before, and the learners.
    pub(crate) fn follow_members(&mut self, out: &mut Vec<Output>) {
        let Role::Reign(r) = &mut self.role else { return };
        let before = r.before.as_ref().map_or(&[][..], |b| &b.configuration.members);
        let all = self.view.learners.iter().chain(before).chain(&r.configuration.members);
        let wanted: BTreeMap<NodeId, Incarnation> =
            all.filter(|m| m.node != self.me).map(|m| (m.node, m.incarnation)).collect();
        r.peers.retain(|node, peer| wanted.get(node) == Some(&peer.incarnation));
        let new: Vec<NodeId> = wanted.keys().copied().filter(|n| !r.peers.contains_key(n)).collect();
        for node in &new {
            r.peers.insert(*node, Peer::new(wanted[node]));
        }
        for node in new.into_iter().filter(|n| self.up.contains(n)).collect::<Vec<_>>() {
            self.greet(node, out);
        }
    }

    /// Asks again whoever has not answered a greeting: the other side may not have known yet that this copy counts.
    pub(crate) fn step_greetings(&mut self, now: Time, out: &mut Vec<Output>) {
        let (base, again) = (self.view.active.epoch, now + self.timers.control_retry);
        let (epoch, silent): (Epoch, Vec<NodeId>) = match &mut self.role {
            Role::Claimant(c) if now >= c.greet_at => {
                c.greet_at = again;
                let members = self.view.active.members.iter().map(|m| m.node);
                let silent = members.filter(|n| *n != self.me && !c.tails.contains_key(n));
                (c.pending.configuration.epoch, silent.collect())
            }
            Role::Reign(r) if now >= r.greet_at => {
                r.greet_at = again;
                let silent = r.peers.iter().filter(|(_, p)| p.state == PeerState::Fencing).map(|(n, _)| *n);
                (r.epoch(), silent.collect())
            }
            _ => return,
        };
        for peer in silent {
            self.send(peer, Message::Fence { epoch, base }, out);
        }
    }

    /// M1: the control plane committed this primary's next epoch.
    pub(crate) fn change_members(&mut self, pending: Pending, now: Time, out: &mut Vec<Output>) {
        let epoch = pending.configuration.epoch;
        let Role::Reign(r) = &self.role else { return };
        let promises_more = self.fence.is_some_and(|f| f.epoch > epoch);
        if !r.active || r.epoch() != pending.base || r.next.is_some() || self.adopting.is_some() || promises_more {
            return;
        }
        assert!(
            r.configuration.may_change_to(&pending.configuration),
            "S21: one member more or less, and deciding sets meet: {:?} after {:?}",
            pending.configuration,
            r.configuration
        );
        // Everything of this epoch goes out and to the store before the next one's table does.
        self.hand_out(now, out);
        let mut table = self.log.table.continued(self.log.last(), epoch);
        table.forget(self.log.checkpoint, TABLE_SOFT_LIMIT);
        if table.entries().len() > MAX_EPOCH_TABLE {
            return;
        }
        if let Some(fence) = self.fence.take() {
            self.send(fence.from, Message::Reject { epoch: fence.epoch, promised: epoch }, out);
        }
        let Role::Reign(r) = &mut self.role else { return };
        r.next = Some(pending);
        self.log.promised = epoch;
        let adopts = self.adopt(epoch, table, out);
        assert!(adopts, "a primary's table continues its own log");
    }

    /// M2: the table is durable, so the next epoch may have records.
    pub(crate) fn open_next(&mut self, now: Time, out: &mut Vec<Output>) {
        let Role::Reign(r) = &mut self.role else { return };
        let next = r.next.take().expect("the next epoch's table was adopted");
        let start = self.log.last().next();
        let ended = std::mem::replace(&mut r.configuration, next.configuration);
        let tracker = std::mem::replace(&mut r.tracker, Tracker::new(&r.configuration));
        let give_up_at = now + 4 * self.timers.control_retry;
        r.before = Some(Before { configuration: ended, tracker, end: start.prev(), give_up_at });
        (r.start, r.active, r.activate_at, r.overtaken_at, r.change_at) = (start, false, now, None, None);
        r.grants.end();
        r.digests.clear();
        let (epoch, configuration) = (r.epoch(), r.configuration.clone());
        self.leader = Some((self.me, epoch));
        self.waiting = Some(format!("bringing a quorum to the start of {epoch}, which changes the members"));
        out.push(Output::Event(format!(
            "{epoch} follows at record {start}, with {} members",
            configuration.members.len()
        )));
        let record = self.epoch_start(&configuration);
        self.append(record, out);
        self.follow_members(out);
        let Role::Reign(r) = &self.role else { return };
        let peers: Vec<NodeId> = r.peers.keys().copied().filter(|n| self.up.contains(n)).collect();
        peers.into_iter().for_each(|peer| self.greet(peer, out));
        self.guests_go_on(now, out);
    }

    /// Looks whether the members are to change, and whether a change under way gets on.
    pub(crate) fn step_change(&mut self, now: Time, out: &mut Vec<Output>) {
        let (retry, durable) = (self.timers.control_retry, self.log.positions.durable);
        let Role::Reign(r) = &mut self.role else { return };
        if r.before.as_ref().is_some_and(|b| now >= b.give_up_at) {
            // A1: a claim of its own then has this member alone.
            if r.is_stuck(durable, self.view.alone == Some(self.me)) {
                return self.give_up(now, out);
            }
            r.before.iter_mut().for_each(|b| b.give_up_at = now + retry);
        }
        let settled = r.active && !r.draining && r.next.is_none() && self.view.active.epoch == r.epoch();
        if !settled || self.view.nominee.is_some_and(|n| n.node != self.me && n.base == r.epoch()) {
            r.change_at = None;
            return;
        }
        self.compare_images(out);
        let members = self.next_members(now);
        let Role::Reign(r) = &mut self.role else { return };
        let Some(members) = members else {
            let due = r.peers.iter().filter_map(|(node, p)| self.returns.due(*node, p.steady?));
            r.change_at = due.filter(|at| *at > now).min();
            return;
        };
        if r.change_at.is_none_or(|at| now >= at) {
            r.change_at = Some(now + retry);
            let (volume, base, life) = (self.view.volume, r.epoch(), self.life);
            out.push(Output::Control(ControlRequest::Reconfigure { volume, base, life, members }));
        }
    }

    /// An added member has gone, and the members before could open without it.
    fn give_up(&mut self, now: Time, out: &mut Vec<Output>) {
        out.push(Output::Event("a change of members can't be completed: claiming an epoch without it".to_owned()));
        if let Role::Reign(r) = &self.role
            && let Some(before) = &r.before
        {
            let added = r.configuration.members.iter().filter(|m| !before.configuration.members.contains(m));
            self.returns.note(added.map(|m| m.node), now);
        }
        self.leave_role(out);
        if self.is_wanted() {
            self.become_candidate(now, out);
        }
    }

    /// The members of the next epoch, if it is time for one: a learner that is complete comes first, so that a replacement
    /// never leaves fewer good copies than before.
    fn next_members(&self, now: Time) -> Option<Vec<Member>> {
        let Role::Reign(r) = &self.role else { return None };
        let (view, last) = (&self.view, self.log.last());
        let current = &r.configuration.members;
        let close = |node: NodeId| node == self.me || r.peers.get(&node).is_some_and(|p| r.is_close(p, last));
        let able = |members: &Vec<Member>| {
            let good = members.iter().filter(|m| close(m.node)).count();
            members.len() <= MAX_MEMBERS && good >= usize::from(view.rule.write_quorum(members.len()))
        };
        let complete = |m: &&Member| {
            let peer = r.peers.get(&m.node).filter(|p| p.check == Check::Equal && p.incarnation == m.incarnation);
            let steady =
                |p: &Peer| p.steady.is_some_and(|since| self.returns.due(m.node, since).is_none_or(|at| now >= at));
            peer.is_some_and(steady) && close(m.node)
        };
        let with = |m: &Member| {
            let mut members = current.clone();
            members.push(*m);
            members.sort_unstable();
            members
        };
        let without = |node: &NodeId| current.iter().copied().filter(|m| m.node != *node).collect::<Vec<_>>();
        let grown = view.learners.iter().filter(complete).map(with);
        // Whoever is to go for good first, then whoever is left out for a while.
        let left_out = view.left_out();
        let shrunk = view.leaving.iter().chain(&left_out).filter(|n| **n != self.me).map(without);
        grown.chain(shrunk).find(able)
    }

    /// Asks every learner that is close, and has not told yet, for its digest at what is committed: no image is further, and
    /// both get there even while nothing more can be committed.
    fn compare_images(&mut self, out: &mut Vec<Output>) {
        let (at, applied, digest) = (self.commit_known, self.log.positions.applied, self.log.digest);
        let last = self.log.last();
        let Role::Reign(r) = &mut self.role else { return };
        let epoch = r.epoch();
        let asks = |m: &&Member| r.peers.get(&m.node).is_some_and(|p| p.check == Check::Unknown && r.is_close(p, last));
        let asked: Vec<NodeId> = self.view.learners.iter().filter(asks).map(|m| m.node).collect();
        if asked.is_empty() {
            return;
        }
        let known = (applied == at).then_some(digest);
        if r.digests.insert(at, known).is_none() && known.is_none() {
            out.push(Output::DigestAt(at));
        }
        for node in asked {
            r.peers.get_mut(&node).expect("it is a peer").check = Check::Asked(at);
            out.push(Output::Send { to: node, message: Message::DigestAt { epoch, at } });
        }
    }

    /// A primary wants this copy's digest at an LSN.
    pub(crate) fn on_digest_at(&mut self, from: NodeId, epoch: Epoch, at: Lsn, out: &mut Vec<Output>) {
        if self.leader != Some((from, epoch)) || self.log.adopted != epoch {
            return;
        }
        let (applied, digest) = (self.log.positions.applied, self.log.digest);
        if applied == at {
            self.send(from, Message::Digest { epoch, at, digest }, out);
        } else if applied < at {
            self.digest_for = Some((from, epoch, at));
            out.push(Output::DigestAt(at));
        }
    }

    pub(crate) fn compare_learners(&mut self, upto: Lsn, digest: u64, out: &mut Vec<Output>) {
        if let Some((to, epoch, at)) = self.digest_for.take_if(|d| d.2 <= upto)
            && at == upto
        {
            self.send(to, Message::Digest { epoch, at, digest }, out);
        }
        let Role::Reign(r) = &mut self.role else { return };
        if let Some(known) = r.digests.get_mut(&upto) {
            *known = Some(digest);
            self.compare_digests(out);
        }
    }

    pub(crate) fn on_digest(&mut self, from: NodeId, epoch: Epoch, at: Lsn, digest: u64, out: &mut Vec<Output>) {
        let Role::Reign(r) = &mut self.role else { return };
        if r.epoch() != epoch {
            return;
        }
        if let Some(peer) = r.peers.get_mut(&from).filter(|p| p.check == Check::Asked(at)) {
            peer.check = Check::Told(at, digest);
            self.compare_digests(out);
        }
    }

    /// P11: equal means the same digest at the same LSN.
    fn compare_digests(&mut self, out: &mut Vec<Output>) {
        let Role::Reign(r) = &mut self.role else { return };
        for (node, peer) in &mut r.peers {
            let Check::Told(at, theirs) = peer.check else { continue };
            match r.digests.get(&at) {
                Some(Some(own)) if *own == theirs => peer.check = Check::Equal,
                Some(Some(own)) => peer.lose(
                    format!(
                        "the image on {node} differs from this one at record {at} (digest {theirs:016x}, here {own:016x}): \
                         verify this copy, then remove and add that one"
                    ),
                    out,
                ),
                Some(None) | None => {}
            }
        }
        let waits =
            |at: &Lsn| r.peers.values().any(|p| matches!(p.check, Check::Asked(a) | Check::Told(a, _) if a == *at));
        let waited_for: Vec<Lsn> = r.digests.keys().copied().filter(waits).collect();
        r.digests.retain(|at, _| waited_for.contains(at));
    }

    /// A1: an epoch that is claimed needs a copy without which this one is to go on.
    pub(crate) fn is_to_go_alone(&self, claimed: &Configuration) -> bool {
        self.view.alone == Some(self.me) && claimed.members.iter().any(|m| m.node != self.me)
    }

    /// Other members of the active configuration that don't follow this copy, if it leads or claims.
    pub(crate) fn absent(&self) -> Vec<NodeId> {
        let follows = |node: &NodeId| match &self.role {
            Role::Reign(r) => r.peers.get(node).is_some_and(|p| p.state == PeerState::Streaming),
            Role::Claimant(c) => c.tails.contains_key(node) && self.up.contains(node),
            Role::Candidate(_) | Role::Follower => true,
        };
        self.peers().into_iter().filter(|node| !follows(node)).collect()
    }

    /// What keeps each learner from being a member.
    pub(crate) fn learners_status(&self) -> Vec<(NodeId, String)> {
        let Role::Reign(r) = &self.role else { return Vec::new() };
        let last = self.log.last();
        let status = |m: &Member| {
            let what = match r.peers.get(&m.node) {
                Some(Peer { lost: Some(why), .. }) => why.clone(),
                Some(p) if r.is_close(p, last) && p.check == Check::Equal => "complete".to_owned(),
                Some(p) if r.is_close(p, last) => "images are compared".to_owned(),
                Some(p) if p.state == PeerState::Streaming => {
                    format!("lacks {} of {} records", last.0.saturating_sub(p.held.0), last.0)
                }
                _ => "not connected".to_owned(),
            };
            (m.node, what)
        };
        self.view.learners.iter().map(status).collect()
    }

    /// A mistake: whoever is to count, counts.
    pub(crate) fn with_learners(&self) -> Configuration {
        let mut all = self.view.active.clone();
        all.members.extend(&self.view.learners);
        all.members.sort_unstable();
        all.write_quorum = self.view.rule.write_quorum(all.members.len());
        all
    }
}
