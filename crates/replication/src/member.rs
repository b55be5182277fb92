//! What every copy does, primary or not: promise, report its tail, adopt a log, append, grant leases.

use crate::api::Output;
use crate::lease::Granted;
use crate::replica::{Replica, Role};
use holdfast_format::Record;
use holdfast_format::message::{BeatVolume, Message, TailReport};
use holdfast_types::{Durability, Epoch, EpochTable, Lsn, Mutant, NodeId, Time, mutated};

/// A fence that is being answered: the lease is waited for, then the promise persisted, then the tail reported.
///
/// ```text
/// WaitingLease ──grant over──► Persisting ──promise durable, drained──► answered
/// Draining (same epoch again, after a reconnect) ──drained──► answered
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FenceStage {
    WaitingLease,
    Persisting,
    Draining,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Fence {
    pub(crate) from: NodeId,
    pub(crate) epoch: Epoch,
    pub(crate) stage: FenceStage,
}

/// A read of the log on behalf of a claimant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fetch {
    to_node: NodeId,
    epoch: Epoch,
    from: Lsn,
    to: Lsn,
}

impl Replica {
    /// T0: would this copy let `claimant` succeed `base` now?
    pub(crate) fn would_fence(&self, claimant: NodeId, base: Epoch, now: Time) -> bool {
        let serving_here = claimant != self.me && matches!(&self.role, Role::Reign(r) if r.serves());
        self.view.active.epoch == base
            && self.view.active.member(claimant).is_some()
            && !serving_here
            && !self.grant_blocks(claimant, now)
    }

    fn grant_blocks(&self, claimant: NodeId, now: Time) -> bool {
        let blocks = |g: Granted| g.blocks(claimant, now) && (g.to.is_none() || g.epoch > self.released);
        self.granted.is_some_and(blocks) && !mutated(Mutant::GrantIgnored)
    }

    pub(crate) fn on_preclaim(&mut self, from: NodeId, base: Epoch, now: Time, out: &mut Vec<Output>) {
        // Somebody was nominated in this copy's place. Its own control plane's log lies on the same device, and may never tell.
        if self.hung && self.view.active.epoch == base {
            self.release(out);
        }
        let yes = self.would_fence(from, base, now);
        self.send(from, Message::PreClaimReply { base, yes }, out);
    }

    /// T2. Also how a reigning primary greets a member that (re)connects: same epoch, same answer.
    pub(crate) fn on_fence(&mut self, from: NodeId, epoch: Epoch, now: Time, out: &mut Vec<Output>) {
        let highest = self.fence.map_or(self.log.promised, |f| f.epoch.max(self.log.promised));
        if epoch < highest {
            self.send(from, Message::Reject { epoch, promised: highest }, out);
            return;
        }
        let stage = match self.fence {
            Some(f) if f.epoch == epoch => f.stage,
            _ if epoch > self.log.promised => FenceStage::WaitingLease,
            _ => FenceStage::Draining,
        };
        self.fence = Some(Fence { from, epoch, stage });
        if mutated(Mutant::TailBeforePromise) && self.log.positions.durable == self.log.positions.received {
            self.send(from, Message::Tail { epoch, report: self.log.tail() }, out);
        }
        self.step_fence(now, out);
    }

    /// Takes the fence under way as far as it goes now.
    pub(crate) fn step_fence(&mut self, now: Time, out: &mut Vec<Output>) {
        let Some(fence) = self.fence else { return };
        if self.is_switching() {
            // Its log is about to be another one: it answers with that.
            return;
        }
        match fence.stage {
            FenceStage::WaitingLease if !self.grant_blocks(fence.from, now) => {
                // In memory first: from here on every append of an older epoch is refused (trap 9).
                assert!(
                    fence.epoch > self.log.promised,
                    "promises rise (S14): {} after {}",
                    fence.epoch,
                    self.log.promised
                );
                self.log.promised = fence.epoch;
                self.leave_roles_below(fence.epoch, out);
                self.fence = Some(Fence { stage: FenceStage::Persisting, ..fence });
                out.push(Output::Promise(fence.epoch));
                if mutated(Mutant::PromiseInMemory) && self.log.positions.durable == self.log.positions.received {
                    self.answer_fence(now, out);
                }
            }
            FenceStage::Draining if self.log.positions.durable == self.log.positions.received => {
                self.answer_fence(now, out)
            }
            FenceStage::WaitingLease | FenceStage::Persisting | FenceStage::Draining => {}
        }
    }

    pub(crate) fn on_promised(&mut self, epoch: Epoch, now: Time, out: &mut Vec<Output>) {
        if self.fence.is_some_and(|f| f.epoch == epoch && f.stage == FenceStage::Persisting) {
            self.answer_fence(now, out);
        }
    }

    fn answer_fence(&mut self, now: Time, out: &mut Vec<Output>) {
        let fence = self.fence.take().expect("a fence is being answered");
        let report = self.report();
        if fence.from == self.me {
            self.on_tail(self.me, fence.epoch, report, now, out);
        } else {
            self.send(fence.from, Message::Tail { epoch: fence.epoch, report }, out);
        }
    }

    /// What this copy holds: the log that it has, also while it fetches another state.
    pub(crate) fn report(&self) -> TailReport {
        let mut report = self.log.tail();
        let Some(resync) = &self.resync else { return report };
        if mutated(Mutant::OldLogDroppedEarly) {
            let last = self.log.positions.committed;
            (report.last, report.last_epoch) = (last, self.log.table.epoch_at(last).unwrap_or_default());
        }
        if let Some(cut) = resync.last_seen().filter(|_| mutated(Mutant::NewLogReportedEarly)) {
            (report.last, report.last_epoch, report.last_hash) = (cut.at, cut.epoch, cut.hash);
        }
        report
    }

    /// Epoch first: whether a message of `epoch` is of the epoch this copy promised. Older ones are refused.
    pub(crate) fn is_promised(&mut self, from: NodeId, epoch: Epoch, out: &mut Vec<Output>) -> bool {
        if epoch < self.log.promised {
            let promised = self.log.promised;
            self.send(from, Message::Reject { epoch, promised }, out);
        }
        epoch == self.log.promised
    }

    /// T7 at the receiver.
    pub(crate) fn on_adopt(&mut self, from: NodeId, epoch: Epoch, table: EpochTable, last: Lsn, out: &mut Vec<Output>) {
        if !self.is_promised(from, epoch, out) {
            return;
        }
        let ends_in_epoch = table.entries().last().is_some_and(|(e, _)| *e == epoch);
        if !ends_in_epoch || from == self.me {
            out.push(Output::Event(format!("{from} sent an epoch table of {epoch} that does not end in it: ignored")));
            return;
        }
        self.leader = Some((from, epoch));
        self.log.recall_at(last);
        if self.log.adopted == epoch {
            self.acknowledge(out);
            return;
        }
        if mutated(Mutant::AcksBeforeAdoption) {
            self.acknowledge(out);
        }
        self.adopt(epoch, table, out);
    }

    /// Cuts what conflicts with `table` and persists it. Says no if the tables no longer reach back to a common record.
    pub(crate) fn adopt(&mut self, epoch: Epoch, table: EpochTable, out: &mut Vec<Output>) -> bool {
        if self.adopting.as_ref().is_some_and(|(e, _)| *e == epoch) {
            return true;
        }
        let Some(cut_after) = self.log.cut_under(&table) else {
            self.waiting =
                Some("the log no longer reaches back to a common record: this copy must be replaced".to_owned());
            return false;
        };
        if cut_after < self.log.positions.committed {
            self.fail(
                format!(
                    "adopting {epoch} would cut committed records {} to {} (S16); keep this copy's directory for analysis and \
                     replace the copy",
                    cut_after.next(),
                    self.log.positions.committed
                ),
                out,
            );
            return false;
        }
        self.adopting = Some((epoch, table.clone()));
        out.push(Output::Adopt { epoch, table, cut_after });
        true
    }

    pub(crate) fn on_adopted(&mut self, epoch: Epoch, last: Lsn, last_hash: u64, now: Time, out: &mut Vec<Output>) {
        let (adopting, table) = self.adopting.take().expect("the store adopts only what it was told to");
        assert_eq!(adopting, epoch, "the store adopts in order");
        self.log.note_adopted(epoch, table, last, last_hash);
        self.commit_known = self.commit_known.min(self.log.commit_hint());
        self.waiting = None;
        if matches!(&self.role, Role::Reign(r) if r.next.as_ref().is_some_and(|n| n.configuration.epoch == epoch)) {
            self.open_next(now, out);
        } else if matches!(self.role, Role::Claimant(_)) {
            self.claimant_adopted(now, out);
        } else {
            self.acknowledge(out);
        }
    }

    /// N3.
    pub(crate) fn on_append(
        &mut self,
        from: NodeId,
        epoch: Epoch,
        committed: Lsn,
        records: Vec<Record>,
        out: &mut Vec<Output>,
    ) {
        let promised = self.is_promised(from, epoch, out) || mutated(Mutant::NoPromiseCheck);
        if !promised || self.log.adopted != epoch || self.leader != Some((from, epoch)) || self.is_switching() {
            // Not adopted: this copy restarted while the append was under way; the primary greets it anew.
            return;
        }
        let expected = self.log.last().next();
        if records.first().is_some_and(|r| r.lsn() > expected) {
            self.send(from, Message::Gap { epoch, expected }, out);
            return;
        }
        let fresh: Vec<Record> = records.into_iter().filter(|r| r.lsn() >= expected).collect();
        for record in &fresh {
            if let Err(why) = self.log.push(record) {
                self.fail(why, out);
                return;
            }
        }
        if !fresh.is_empty() {
            self.end_resync();
            out.push(Output::Append(fresh));
            if self.view.durability == Durability::Flush {
                self.acknowledge(out);
            }
        }
        self.learn_committed(committed, out);
    }

    pub(crate) fn learn_committed(&mut self, committed: Lsn, out: &mut Vec<Output>) {
        self.commit_known = self.commit_known.max(committed);
        if let Some(lsn) = self.log.note_committed(committed) {
            out.push(Output::Commit(lsn));
        }
    }

    /// Tells the primary what is held here. What it says to be durable stands behind a `Durable` proof or an adoption.
    pub(crate) fn acknowledge(&mut self, out: &mut Vec<Output>) {
        let Some((leader, epoch)) = self.leader else { return };
        let promised = epoch == self.log.promised || mutated(Mutant::NoPromiseCheck);
        if !promised || (epoch != self.log.adopted && !mutated(Mutant::AcksBeforeAdoption)) {
            return;
        }
        let received = self.log.positions.received;
        let durable = if mutated(Mutant::AcksOnReceipt) { received } else { self.log.positions.durable };
        let checkpoint = self.log.checkpoint;
        self.send(leader, Message::AppendAck { epoch, received, durable, checkpoint }, out);
    }

    /// A heartbeat of a primary: grants it a lease (true) or not.
    pub(crate) fn on_beat(&mut self, from: NodeId, beat: &BeatVolume, now: Time, out: &mut Vec<Output>) -> bool {
        let follows = beat.epoch == self.log.promised
            && self.log.adopted == beat.epoch
            && self.leader == Some((from, beat.epoch));
        if !follows || beat.epoch <= self.released {
            return false;
        }
        if self.fence.is_some_and(|f| f.epoch > beat.epoch) {
            // A fence waits for the last grant to end: renewing it would let a deposed primary hold it off for ever.
            return false;
        }
        self.granted = Some(Granted::new(Some(from), beat.epoch, &self.timers, now));
        self.learn_committed(beat.committed, out);
        if beat.trim > Lsn::ZERO {
            out.push(Output::Trim(beat.trim.min(self.log.checkpoint)));
        }
        true
    }

    pub(crate) fn on_release(&mut self, from: NodeId, epoch: Epoch, now: Time, out: &mut Vec<Output>) {
        if self.leader == Some((from, epoch))
            || (self.view.active.epoch == epoch && self.view.active.primary == Some(from))
        {
            self.released = self.released.max(epoch);
            self.step_fence(now, out);
            self.preclaim_now(now, out);
        }
    }

    /// T5 at the source.
    pub(crate) fn on_fetch(&mut self, from_node: NodeId, epoch: Epoch, from: Lsn, to: Lsn, out: &mut Vec<Output>) {
        if !self.is_promised(from_node, epoch, out) {
            return;
        }
        if from == Lsn::ZERO || from > to || to > self.log.positions.durable {
            self.send(from_node, Message::LogPart { epoch, from, records: Vec::new() }, out);
            return;
        }
        let tag = self.next_tag();
        self.fetches.insert(tag, Fetch { to_node: from_node, epoch, from, to });
        out.push(Output::ReadLog { tag, from, max_bytes: self.limits.catch_up_bytes });
    }

    /// A log read ended; true if it was for a fetch.
    pub(crate) fn fetch_read(&mut self, tag: u64, records: Option<&[Record]>, out: &mut Vec<Output>) -> bool {
        let Some(fetch) = self.fetches.remove(&tag) else { return false };
        let records = records.unwrap_or_default().iter().filter(|r| r.lsn() <= fetch.to).cloned().collect();
        self.send(fetch.to_node, Message::LogPart { epoch: fetch.epoch, from: fetch.from, records }, out);
        true
    }
}
