//! Taking over: candidate (T0, T1), then claimant (T2 to T6).
//!
//! ```text
//! follower ──nominated, or restarted primary──► candidate ──R yes, claim committed──► claimant: fencing
//!   ──R valid tails──► adopting the chosen table ──► fetching what is missing ──► reign (not active yet)
//! ```
//! Every stage ends when the control plane shows a newer claim, or when a higher epoch is promised here.

use crate::api::Output;
use crate::lease::Granted;
use crate::reign::Reign;
use crate::replica::{Replica, Role};
use holdfast_format::message::{Message, TailReport};
use holdfast_format::{Draft, Record, RecordKind, encode_configuration};
use holdfast_types::{
    BlockRange, Configuration, ControlRequest, Durability, Epoch, EpochTable, Lsn, MAX_EPOCH_TABLE, Mutant, NodeId,
    Pending, Time, mutated,
};
use std::collections::{BTreeMap, BTreeSet};

/// Entries of an epoch table above which old ones are forgotten; far below the limit, so that a claim always fits.
pub(crate) const TABLE_SOFT_LIMIT: usize = 64;

/// Asks whether a claim would be let through, before it disturbs anybody.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) base: Epoch,
    yes: BTreeSet<NodeId>,
    pub(crate) ask_at: Time,
    claim_at: Time,
}

#[derive(Clone, Debug)]
pub(crate) struct Claimant {
    pub(crate) pending: Pending,
    pub(crate) tails: BTreeMap<NodeId, TailReport>,
    pub(crate) chosen: Option<Chosen>,
    /// When members that have not answered are asked again.
    pub(crate) greet_at: Time,
    /// Since when the source of the chosen log is out of reach.
    pub(crate) source_gone: Option<Time>,
    /// After a forced recovery: until then a grant of a member that counts no more may let the old primary serve reads.
    pub(crate) leases_end: Option<Time>,
}

/// The log that the new epoch continues.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    source: NodeId,
    last: Lsn,
    table: EpochTable,
}

impl Replica {
    /// Whether this copy should want to become primary, by what the control plane says.
    pub(crate) fn is_wanted(&self) -> bool {
        let active = &self.view.active;
        if active.member(self.me).is_none_or(|m| m.incarnation != self.log.incarnation) {
            return false;
        }
        if self.hung || self.retiring {
            return false;
        }
        match self.view.nominee.filter(|n| n.base == active.epoch) {
            Some(nominee) => nominee.node == self.me,
            // N0: a restarted primary does not know its volatile tail, so it needs a new epoch.
            None => active.primary == Some(self.me),
        }
    }

    pub(crate) fn become_candidate(&mut self, now: Time, out: &mut Vec<Output>) {
        let base = self.view.active.epoch;
        self.role = Role::Candidate(Candidate { base, yes: BTreeSet::new(), ask_at: now, claim_at: now });
        self.step_candidate(now, out);
    }

    /// Asks again at once: something changed that may turn a no into a yes.
    pub(crate) fn preclaim_now(&mut self, now: Time, out: &mut Vec<Output>) {
        if let Role::Candidate(c) = &mut self.role {
            c.ask_at = now;
            self.step_candidate(now, out);
        }
    }

    pub(crate) fn step_candidate(&mut self, now: Time, out: &mut Vec<Output>) {
        let (me, retry) = (self.me, self.timers.preclaim_retry);
        let Role::Candidate(c) = &mut self.role else { return };
        if now < c.ask_at {
            return;
        }
        c.ask_at = now + retry;
        c.yes.clear();
        let base = c.base;
        for peer in self.peers() {
            self.send(peer, Message::PreClaim { base }, out);
        }
        let own = self.would_fence(me, base, now);
        self.on_preclaim_reply(me, base, own, now, out);
    }

    pub(crate) fn on_preclaim_reply(&mut self, from: NodeId, base: Epoch, yes: bool, now: Time, out: &mut Vec<Output>) {
        let active = &self.view.active;
        let retry = self.timers.control_retry;
        let (volume, life) = (self.view.volume, self.life);
        let Role::Candidate(c) = &mut self.role else { return };
        if c.base != base || !yes {
            return;
        }
        c.yes.insert(from);
        if !self.view.is_fence(|n| c.yes.contains(&n)) || !c.yes.contains(&self.me) {
            self.waiting = Some(format!("{} of {} would let this copy take over", c.yes.len(), needed(active)));
        } else if now >= c.claim_at {
            c.claim_at = now + retry;
            self.waiting = Some("the claim is before the control plane".to_owned());
            out.push(Output::Control(ControlRequest::Claim { volume, base, life }));
        }
    }

    /// The control plane committed a claim of this life.
    pub(crate) fn become_claimant(&mut self, pending: Pending, now: Time, out: &mut Vec<Output>) {
        let epoch = pending.configuration.epoch;
        pending.configuration.validate();
        assert!(
            epoch > self.log.promised || mutated(Mutant::EpochOfAnEarlierLife),
            "a claim of this life is above every promise: {epoch}, {}",
            self.log.promised
        );
        self.leave_role(out);
        self.end_resync();
        self.waiting = Some(format!("fencing {epoch}"));
        let greet_at = now + self.timers.control_retry;
        let lease = || Granted::new(None, epoch, &self.timers, now).until;
        let leases_end = self.view.forced.filter(|_| !mutated(Mutant::ForcedSkipsLease)).map(|_| lease());
        let (tails, chosen, source_gone) = (BTreeMap::new(), None, None);
        self.role = Role::Claimant(Claimant { pending, tails, chosen, greet_at, source_gone, leases_end });
        for peer in self.peers() {
            self.greet(peer, out);
        }
        if mutated(Mutant::FencesNewMembers) {
            let learners: Vec<NodeId> = self.view.learners.iter().map(|m| m.node).collect();
            learners.into_iter().for_each(|learner| self.greet(learner, out));
        }
        self.on_fence(self.me, epoch, now, out);
    }

    /// T2 to one member: also sent again whenever a lane to it comes up.
    pub(crate) fn greet(&mut self, peer: NodeId, out: &mut Vec<Output>) {
        let base = self.view.active.epoch;
        let epoch = match &mut self.role {
            // T2 asks who counts in the base. A learner is greeted by the reign.
            Role::Claimant(c) if self.view.active.member(peer).is_some() || mutated(Mutant::FencesNewMembers) => {
                c.pending.configuration.epoch
            }
            Role::Reign(r) if r.peers.contains_key(&peer) => r.greeting(peer),
            _ => return,
        };
        self.send(peer, Message::Fence { epoch, base }, out);
    }

    /// T2d arrives.
    pub(crate) fn on_tail(&mut self, from: NodeId, epoch: Epoch, report: TailReport, now: Time, out: &mut Vec<Output>) {
        match &mut self.role {
            Role::Claimant(c) if c.pending.configuration.epoch == epoch => {
                c.tails.insert(from, report);
                if c.chosen.as_ref().is_some_and(|chosen| chosen.source == from) {
                    // The source reconnected in the middle of a fetch.
                    self.fetch_on(now, out);
                } else {
                    self.choose(now, out);
                }
            }
            Role::Reign(r) if r.epoch() == epoch => self.reign_tail(from, &report, out),
            _ => {}
        }
    }

    /// After a forced recovery the leases of whoever counts no more are waited out.
    pub(crate) fn step_claimant(&mut self, now: Time, out: &mut Vec<Output>) {
        if let Role::Claimant(c) = &mut self.role
            && c.leases_end.is_some_and(|at| now >= at)
        {
            c.leases_end = None;
            self.choose(now, out);
        }
        self.look_for_source(now, out);
    }

    /// Whoever holds the chosen log may be gone for good. If others could open without it, a new claim lets them choose among their logs: as
    /// safe as if this process had ended here, and this epoch's table, which is durable, is not written a second time.
    fn look_for_source(&mut self, now: Time, out: &mut Vec<Output>) {
        let (me, patience) = (self.me, 2 * self.timers.control_retry);
        let Role::Claimant(c) = &mut self.role else { return };
        let here = |n: NodeId| n == me || self.up.contains(&n);
        if c.chosen.as_ref().is_none_or(|chosen| here(chosen.source)) {
            c.source_gone = None;
            return;
        }
        let since = *c.source_gone.get_or_insert(now);
        let whole = |n: NodeId| here(n) && c.tails.get(&n).is_some_and(tail_is_whole);
        let active = &self.view.active;
        let left = active.members.iter().filter(|m| whole(m.node)).count();
        let enough = left >= usize::from(c.pending.configuration.write_quorum) && self.view.is_fence(whole);
        if enough && now.since(since) >= patience {
            out.push(Output::Event("the copy with the chosen log is gone: claiming anew without it".to_owned()));
            self.leave_role(out);
            self.want(now, out);
        }
    }

    /// T3 and T4.
    fn choose(&mut self, now: Time, out: &mut Vec<Output>) {
        let Role::Claimant(c) = &self.role else { return };
        if c.chosen.is_some() || !c.tails.contains_key(&self.me) {
            return;
        }
        if c.leases_end.is_some_and(|at| now < at) {
            self.waiting = Some("waiting out leases that lost members may have granted".to_owned());
            return;
        }
        let forced = self.view.forced.is_some();
        let widened = mutated(Mutant::FencesNewMembers).then(|| self.with_learners());
        let base = widened.as_ref().unwrap_or(&self.view.active);
        let registered =
            |node: NodeId, t: &TailReport| base.member(node).is_some_and(|m| m.incarnation == t.incarnation);
        let (tails, writers) = (c.tails.iter(), usize::from(c.pending.configuration.write_quorum));
        let fenced: Vec<(NodeId, &TailReport)> =
            tails.map(|(node, t)| (*node, t)).filter(|(node, t)| registered(*node, t)).collect();
        // R are enough to choose. But an epoch that W can't hold yet only makes the log longer, with every life that claims.
        if fenced.len() < writers {
            let found = fenced.len();
            self.waiting =
                Some(format!("{found} of the {writers} members that must hold a write answered; waiting for more"));
            return;
        }
        let valid: Vec<(NodeId, &TailReport)> = fenced.into_iter().filter(|(_, t)| tail_is_whole(t)).collect();
        let answered = |n: NodeId| valid.iter().any(|(node, _)| *node == n);
        let fence = if widened.is_some() { base.is_fence(answered) } else { self.view.is_fence(answered) };
        if !fence {
            self.waiting = Some(format!(
                "{} of {} answered with a whole log ({} answered); the volume opens when more return",
                valid.len(),
                needed(base),
                c.tails.len()
            ));
            return;
        }
        let untold = self.untold(&valid).or_else(|| self.forgotten(base, &valid).filter(|_| !forced));
        if untold.is_some() {
            self.waiting = untold;
            return;
        }
        let own = |node: NodeId| node == self.me;
        let best =
            valid.iter().max_by_key(|(node, t)| (mutated(Mutant::OwnLogChosen) && own(*node), rank(t), own(*node)));
        let best = best.expect("R is at least 1");
        let committed = c.tails.values().map(|t| t.committed).max().expect("R is at least 1");
        let (source, last) = (best.0, best.1.last);
        if last < committed && !forced {
            // S19: loss is loud. Only more members can help, or an operator who knows that there are none.
            self.waiting = Some(format!(
                "the longest log of the members that answered ends at {last}, but {committed} is known to be committed: more \
                 was lost than the volume is made for, unless another member returns"
            ));
            return;
        }
        let mut table = best.1.table.continued(last, c.pending.configuration.epoch);
        table.forget(self.log.checkpoint, TABLE_SOFT_LIMIT);
        if table.entries().len() > MAX_EPOCH_TABLE {
            self.waiting = Some(format!(
                "{MAX_EPOCH_TABLE} epochs began since this copy's last checkpoint and none could be opened: another copy must \
                 take over"
            ));
            return;
        }
        self.take(Chosen { source, last, table }, now, out);
    }

    /// A reign in this table that began before the control plane was recovered, and is not known of. Of a member whose log was
    /// repaired since, the table still tells.
    pub(crate) fn unknown_reign(&self, table: &EpochTable) -> Option<Epoch> {
        table.entries().iter().map(|(epoch, _)| *epoch).rfind(|epoch| self.view.is_unknown(*epoch))
    }

    /// A reign that keeps a fence from being enough, as it should know who counted in it and can't. Also where all that are left are
    /// asked: what was given up in a forced recovery was given up before that reign.
    fn untold(&self, valid: &[(NodeId, &TailReport)]) -> Option<String> {
        let unknown = |(node, t): &(NodeId, &TailReport)| Some((*node, self.unknown_reign(&t.table)?));
        let (node, epoch) = valid.iter().find_map(unknown).filter(|_| !mutated(Mutant::UnknownReignIgnored))?;
        Some(format!(
            "{node} knows of {epoch}, of which the control plane knows nothing since it was recovered: who counted then, and may hold more, \
             is not known here; an operator must decide"
        ))
    }

    /// Members whose memory would be needed to tell what the log is, and which lost it.
    fn forgotten(&self, base: &Configuration, valid: &[(NodeId, &TailReport)]) -> Option<String> {
        let forgetful =
            self.view.durability == Durability::Flush && !memory_is_met(base, self.view.last_reign(), valid);
        forgetful.then(|| {
            "a member that answered has restarted and forgot what it held in memory; the volume opens when one that has not, or every \
             member, answers"
                .to_owned()
        })
    }

    /// T6 first, then T5: the table is durable before the first record that it describes.
    fn take(&mut self, chosen: Chosen, _now: Time, out: &mut Vec<Output>) {
        let Role::Claimant(c) = &mut self.role else { return };
        let epoch = c.pending.configuration.epoch;
        let table = chosen.table.clone();
        c.chosen = Some(chosen);
        self.waiting = Some(format!("adopting the log for {epoch}"));
        if !self.adopt(epoch, table, out) {
            self.waiting =
                Some("this copy's log does not reach back to the chosen log: another copy must take over".to_owned());
        }
    }

    pub(crate) fn claimant_adopted(&mut self, now: Time, out: &mut Vec<Output>) {
        let Role::Claimant(c) = &self.role else { return };
        if c.pending.configuration.epoch == self.log.adopted {
            self.fetch_on(now, out);
        }
    }

    /// T5: asks for what is still missing, or opens.
    fn fetch_on(&mut self, now: Time, out: &mut Vec<Output>) {
        let Role::Claimant(c) = &self.role else { return };
        let epoch = c.pending.configuration.epoch;
        let Some(chosen) = c.chosen.clone().filter(|_| self.log.adopted == epoch) else { return };
        let from = self.log.last().next();
        if from > chosen.last {
            self.open(now, out);
            return;
        }
        self.waiting = Some(format!("fetching records {from} to {} from {}", chosen.last, chosen.source));
        self.send(chosen.source, Message::FetchLog { epoch, from, to: chosen.last }, out);
    }

    pub(crate) fn on_log_part(
        &mut self,
        from_node: NodeId,
        epoch: Epoch,
        from: Lsn,
        records: Vec<Record>,
        now: Time,
        out: &mut Vec<Output>,
    ) {
        let Role::Claimant(c) = &self.role else { return };
        let expected = self.log.last().next();
        let wanted = c.chosen.as_ref().is_some_and(|ch| ch.source == from_node && ch.last >= expected);
        if c.pending.configuration.epoch != epoch || self.log.adopted != epoch || !wanted || from != expected {
            return;
        }
        if records.is_empty() {
            self.waiting = Some(format!("{from_node} no longer holds record {from}: another copy must take over"));
            return;
        }
        for record in &records {
            if let Err(why) = self.log.push(record) {
                self.fail(why, out);
                return;
            }
        }
        out.push(Output::Append(records));
        self.fetch_on(now, out);
    }

    /// T6, second half: the new epoch's own record, without which epoch e + 2 could bring back what e + 1 opened without
    /// (trap 2).
    fn open(&mut self, now: Time, out: &mut Vec<Output>) {
        let Role::Claimant(c) = std::mem::replace(&mut self.role, Role::Follower) else { return };
        let configuration = c.pending.configuration;
        let epoch = configuration.epoch;
        let start = self.log.last().next();
        let first = if mutated(Mutant::NoEpochStart) { self.log.last() } else { start };
        let record = self.epoch_start(&configuration);
        self.waiting = Some(format!("bringing a quorum to the start of {epoch}"));
        self.leader = Some((self.me, epoch));
        let known = c.tails.values().map(|t| t.committed).max().unwrap_or_default();
        let mut reign = Reign::new(self.me, configuration, first, now);
        reign.known = known;
        self.role = Role::Reign(Box::new(reign));
        self.follow_members(out);
        if first == start {
            self.append(record, out);
        }
        if mutated(Mutant::ServesBeforeActivation) {
            self.activated(now, out);
        }
        for (node, report) in &c.tails {
            if *node != self.me && self.up.contains(node) {
                self.reign_tail(*node, report, out);
            }
        }
        // Members whose tail is not in yet have been greeted; their answers come to the reign.
        for peer in self.peers().into_iter().filter(|p| !c.tails.contains_key(p)) {
            self.greet(peer, out);
        }
    }

    /// An epoch's own first record.
    pub(crate) fn epoch_start(&self, configuration: &Configuration) -> Record {
        let lsn = self.log.last().next();
        let epoch = configuration.epoch;
        assert_eq!(self.log.table.epoch_at(lsn), Some(epoch), "the table gives the new epoch to its first record");
        Record::seal(Draft {
            volume: self.view.volume,
            epoch,
            lsn,
            prev_hash: self.log.last_hash(),
            committed: self.log.positions.committed,
            kind: RecordKind::EpochStart,
            head: false,
            tail: false,
            range: BlockRange::default(),
            body: encode_configuration(configuration),
        })
    }
}

/// Who must answer, for people.
fn needed(configuration: &Configuration) -> String {
    match configuration.primary.filter(|_| configuration.primary_decides()) {
        Some(primary) => format!("the 1 member needed, {primary}, which alone knows what was acknowledged,"),
        None => format!("the {} members needed", configuration.fence_quorum()),
    }
}

/// Durability `flush`: whether the tails meet every set of W memories that may have answered a write.
///
/// x members that restarted have forgotten what was not durable. Of W memories that held a write, at least W − x are left
/// among the N − x members that remember, so R of those meet them: the same R, counted without the forgetful. From x = W
/// on, more memories were lost than the promise covers, and every flushed write is met by any fence. When all members
/// answered there is nothing more to learn.
fn memory_is_met(base: &Configuration, reigned: Epoch, valid: &[(NodeId, &TailReport)]) -> bool {
    let forgetful = valid.iter().filter(|(_, t)| t.forgot == reigned && reigned > Epoch::ZERO).count();
    valid.len() == base.members.len()
        || forgetful >= usize::from(base.write_quorum)
        || valid.len() - forgetful >= base.fence_quorum()
}

/// T4: which log is the volume's. The epoch of its end counts first: a longer log of an older epoch was never committed.
fn rank(tail: &TailReport) -> (Epoch, Lsn) {
    let epoch = if mutated(Mutant::LongerLogChosen) { Epoch::ZERO } else { tail.last_epoch };
    if mutated(Mutant::ShorterLogChosen) { (Epoch::ZERO, Lsn(u64::MAX - tail.last.0)) } else { (epoch, tail.last) }
}

/// Whether a tail counts (T3): nothing that the member once held durably is unreadable or gone.
pub(crate) fn tail_is_whole(tail: &TailReport) -> bool {
    tail.unknown_to.is_none()
}
