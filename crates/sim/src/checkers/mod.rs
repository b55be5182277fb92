//! Checkers: each knows one property and is told what the world sees. None of them asks the code under test what it thinks.

mod bounds;
mod committed;
mod control;
mod epochs;
mod exposure;
mod flush;
mod freshness;
mod identity;
mod image;
mod memory;
mod quorum;
mod register;
mod sizes;

pub use bounds::Most;
pub(crate) use committed::Committed;
pub(crate) use control::Activation;
pub(crate) use register::{OpKind, Register, change_in, sector_content};

use crate::log::Nanos;
use crate::options::VolumePlan;
use epochs::Epochs;
pub(crate) use exposure::Shown;
use exposure::{Acknowledged, Meters};
use flush::Flushes;
use freshness::Freshness;
use holdfast_cluster::{Loss, Receipt};
use holdfast_format::message::{BeatVolume, Message};
use holdfast_format::{Record, RecordHeader};
use holdfast_node::shard::Input;
use holdfast_types::{Configuration, Durability, Epoch, Life, Lsn, NodeId, VolumeId};
use identity::Identity;
use memory::{Fate, Memories};
use quorum::Quorums;
use std::collections::BTreeMap;
use std::fmt;

/// A property that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its name in docs/PROTOCOL.md, or what else went wrong (`panic`, `liveness`, `gave up`, ..).
    pub property: &'static str,
    /// What was expected and what was found.
    pub text: String,
}

impl Violation {
    pub(crate) const fn new(property: &'static str, text: String) -> Violation {
        Violation { property, text }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.property, self.text)
    }
}

impl std::error::Error for Violation {}

/// A change of a guest that was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered {
    pub(crate) id: u64,
    pub(crate) first: u64,
    pub(crate) count: u64,
    pub(crate) invoked: Nanos,
    /// The epoch of the session.
    pub(crate) epoch: Epoch,
    pub(crate) fua: bool,
}

/// Everything known about one volume.
#[derive(Debug)]
pub(crate) struct VolumeChecks {
    pub(crate) register: Register,
    pub(crate) committed: Committed,
    pub(crate) quorums: Quorums,
    pub(crate) epochs: Epochs,
    pub(crate) freshness: Freshness,
    pub(crate) flushes: Flushes,
    pub(crate) sizes: sizes::Wishes,
    meters: Meters,
    acknowledged: Acknowledged,
    /// Only where writes are answered from memories.
    memories: Option<Memories>,
    /// What forced recoveries lost of what was answered: by the epoch that gave it up.
    pub(crate) losses: Vec<(Epoch, Vec<Lsn>)>,
}

/// All checkers.
#[derive(Debug)]
pub(crate) struct Checkers {
    volumes: BTreeMap<VolumeId, VolumeChecks>,
    identity: Identity,
    pub(crate) bounds: bounds::Bounds,
    pub(crate) control: control::Control,
    /// What a copy alone holds may become the volume's.
    watches_journals: bool,
}

impl Checkers {
    pub(crate) fn new(plans: &[VolumePlan]) -> Checkers {
        let checks = |plan: &VolumePlan| VolumeChecks {
            register: Register::new(plan.size),
            committed: Committed::new(plan.id, plan.size),
            quorums: Quorums::default(),
            epochs: Epochs::default(),
            freshness: Freshness::default(),
            flushes: Flushes::default(),
            sizes: sizes::Wishes::default(),
            losses: Vec::new(),
            meters: Meters::default(),
            acknowledged: Acknowledged::default(),
            memories: (plan.durability == Durability::Flush).then(|| Memories::new(&plan.members, plan.write_quorum)),
        };
        Checkers {
            volumes: plans.iter().map(|p| (p.id, checks(p))).collect(),
            identity: Identity::default(),
            bounds: bounds::Bounds::default(),
            control: control::Control::default(),
            watches_journals: false,
        }
    }

    /// Copies may be given up: what was committed may be taken back, and what one copy alone holds may be committed.
    pub(crate) fn expect_losses(&mut self) {
        self.watches_journals = true;
        for v in self.volumes.values_mut() {
            v.committed.keep_records();
            v.meters.off = true;
        }
    }

    /// One of two copies may go on alone: what it alone holds becomes the volume's.
    pub(crate) fn allow_alone(&mut self, volume: VolumeId) {
        self.watches_journals = true;
        self.control.chosen(volume, true);
    }

    /// Writes of a volume of two copies wait while one is gone.
    pub(crate) fn must_wait(&mut self, volume: VolumeId) {
        self.control.chosen(volume, false);
    }

    pub(crate) fn volume(&mut self, id: VolumeId) -> &mut VolumeChecks {
        self.volumes.get_mut(&id).expect("every planned volume is checked")
    }

    /// A node's process ended.
    pub(crate) fn ended(&mut self, node: NodeId, now: Nanos) {
        self.bounds.ended(node);
        for v in self.volumes.values_mut() {
            v.memories.iter_mut().for_each(|m| m.ended(node, now));
            v.meters.ended(node);
        }
    }

    /// A node's disk lost its files.
    pub(crate) fn wiped(&mut self, node: NodeId) {
        self.identity.wiped(node);
        for v in self.volumes.values_mut() {
            v.quorums.wiped(node);
        }
    }

    /// The control plane counts on another copy of the volume at a node whose disk was wiped.
    pub(crate) fn renewed(&mut self, node: NodeId, volume: VolumeId) {
        self.identity.renewed(node, volume);
        self.volume(volume).quorums.renewed(node);
    }

    /// A node's disk is what it was some time ago.
    pub(crate) fn forgot(&mut self, node: NodeId) {
        self.volumes.values_mut().for_each(|v| v.quorums.forgot(node));
    }

    /// Records reached a node's stable storage.
    pub(crate) fn durable(&mut self, node: NodeId, records: &[RecordHeader]) {
        for r in records {
            if let Some(v) = self.volumes.get_mut(&r.volume) {
                v.quorums.durable(node, r.lsn, r.epoch);
                v.meters.durable(node, r.lsn, r.epoch);
            }
        }
    }

    /// A node says something to another.
    pub(crate) fn sent(
        &mut self,
        node: NodeId,
        life: Life,
        volume: VolumeId,
        message: &Message,
    ) -> Result<(), Violation> {
        self.identity.sent(node, volume, message)?;
        let v = self.volume(volume);
        v.epochs.sent(node, life, message)?;
        match message {
            Message::Append { epoch, committed, records } => {
                v.committed.observe(records)?;
                // M3: what it appended before the members change still counts where it was appended.
                let before = v.epochs.led_by(node).filter(|e| e < epoch && !v.epochs.was_activated(*epoch));
                let Some(before) = before else { return v.commit(*epoch, *committed) };
                let end = v.committed.start_of(*epoch).map_or(*committed, Lsn::prev);
                v.commit(before, end.min(*committed))
            }
            Message::LogPart { records, .. } => v.committed.observe(records),
            _ => Ok(()),
        }
    }

    /// A node takes what its copies were given and sent, in a turn of its loop.
    pub(crate) fn takes(&mut self, node: NodeId, inputs: &[Input]) {
        for input in inputs {
            self.bounds.takes(node, input);
            match input {
                Input::Local(local) => {
                    for view in &local.views {
                        self.volume(view.volume).meters.told(node, view);
                    }
                }
                Input::Message { from, volume, message: Message::AppendAck { epoch, durable, .. } } => {
                    let v = self.volume(*volume);
                    v.acknowledged.arrived(node, *from, *epoch, *durable, v.meters.view(node));
                    v.meters.arrived(*from, *durable);
                }
                _ => {}
            }
        }
    }

    /// A node made a copy.
    pub(crate) fn made(&mut self, node: NodeId, volume: VolumeId) {
        self.volume(volume).meters.made(node);
    }

    /// A turn of a node's loop ended.
    pub(crate) fn metered(&mut self, volume: VolumeId, shown: &Shown<'_>) -> Result<(), Violation> {
        let v = self.volume(volume);
        v.meters.look(shown, &v.committed, &mut v.acknowledged)
    }

    /// Whether a node is alone in an epoch of any volume: what it appends there is never sent.
    pub(crate) fn is_alone(&self, node: NodeId) -> bool {
        if self.watches_journals {
            return true;
        }
        self.volumes.keys().any(|v| self.alone_in(*v, node).next().is_some())
    }

    fn alone_in(&self, volume: VolumeId, node: NodeId) -> impl Iterator<Item = Epoch> {
        let view = self.control.view(volume);
        let pending = view.and_then(|v| v.pending.as_ref()).map(|p| &p.configuration);
        let alone = move |c: &&Configuration| !c.members.is_empty() && c.members.iter().all(|m| m.node == node);
        view.map(|v| &v.active).into_iter().chain(pending).filter(alone).map(|c| c.epoch)
    }

    /// A node that is alone writes records to its journal: they are seen nowhere else.
    pub(crate) fn journals(&mut self, node: NodeId, records: &[Record]) -> Result<(), Violation> {
        for record in records {
            let volume = record.header().volume;
            if self.watches_journals || self.alone_in(volume, node).any(|epoch| epoch == record.epoch()) {
                self.volume(volume).committed.observe(std::slice::from_ref(record))?;
            }
        }
        Ok(())
    }

    /// A primary says how far it has committed.
    pub(crate) fn beat(&mut self, beat: &BeatVolume) -> Result<(), Violation> {
        self.volume(beat.volume).commit(beat.epoch, beat.committed)
    }
}

impl VolumeChecks {
    /// A guest's change was answered; `record` is where it was first sent.
    pub(crate) fn answered(
        &mut self,
        change: &Answered,
        record: Option<(Lsn, Epoch)>,
        now: Nanos,
    ) -> Result<(), Violation> {
        let id = change.id;
        match (&mut self.memories, record) {
            (Some(memories), Some(at)) if !change.fua => {
                memories.answered(id, (change.first, change.count), at, change.invoked, now);
            }
            // Zeros name no record: what a memory holds of them can't be told from what was there before.
            (Some(_), None) => self.register.closed(id, false, now),
            _ => {
                if let Some((lsn, of)) = record {
                    self.commit(change.epoch.max(of), lsn)?;
                    if !self.committed.holds(id) {
                        let text = format!("change {id} was answered and is in no committed record");
                        return Err(Violation::new("S1", text));
                    }
                }
                self.register.answered(id, now);
            }
        }
        if record.is_some() {
            self.flushes.answered(id, now);
        }
        Ok(())
    }

    /// A read of these sectors, or (without sectors) a flush, was answered under `epoch`: what had been answered before it was
    /// asked for is committed.
    pub(crate) fn observed(
        &mut self,
        epoch: Epoch,
        sectors: Option<(u64, u64)>,
        invoked: Nanos,
    ) -> Result<(), Violation> {
        let Some((lsn, _)) = self.memories.as_ref().and_then(|m| m.must_hold(sectors, invoked)) else { return Ok(()) };
        self.commit(epoch, lsn)
    }

    fn settle_memories(&mut self, started: Option<(Epoch, Nanos)>) -> Result<(), Violation> {
        let Some(memories) = self.memories.as_mut() else { return Ok(()) };
        let (started, now) = (started.map(|s| s.0), started.map_or(0, |s| s.1));
        for fate in memories.settle(&self.committed, started)? {
            match fate {
                Fate::Committed { change, answered } => self.register.answered(change, answered),
                Fate::Lost { change, at } => {
                    self.epochs.lost(at);
                    self.flushes.forget(change);
                    self.register.closed(change, false, now);
                }
            }
        }
        Ok(())
    }

    /// A primary of an active epoch calls everything up to `lsn` committed.
    pub(crate) fn commit(&mut self, epoch: Epoch, lsn: Lsn) -> Result<(), Violation> {
        // What is said of an epoch that was given up is of a log that is no more.
        if !self.epochs.was_activated(epoch) || self.epochs.is_given_up(epoch) {
            return Ok(());
        }
        // Said of an epoch that goes on in the next one with other members.
        let begun = |e: &Epoch| self.committed.start_of(*e).is_some_and(|start| start <= lsn);
        let next = |e: &Epoch| self.epochs.continued_by(*e).filter(begun);
        let under = std::iter::successors(Some(epoch), next).last().expect("the epoch itself");
        for (lsn, epoch) in self.committed.advance(under, lsn)? {
            self.quorums.committed(lsn, epoch, under)?;
        }
        self.settle_memories(None)
    }

    /// An operator's recovery opens: everything above `to` is lost, and the receipt must say so.
    fn given_up(&mut self, receipt: &Receipt, to: Lsn) -> Result<(), Violation> {
        if receipt.kept.map(|k| k.last) != Some(to) {
            let text = format!("the new epoch continues record {to}, the receipt says {:?}", receipt.kept);
            return Err(Violation::new("S19", text));
        }
        let lost = self.committed.roll_back(to);
        let answered: Vec<Lsn> =
            lost.iter().filter(|(change, _)| self.register.was_answered(*change)).map(|(_, lsn)| *lsn).collect();
        if receipt.loss(Durability::Sync) == Loss::Nothing && !answered.is_empty() {
            let text = format!("the receipt says that nothing is lost, but records {answered:?} had been answered");
            return Err(Violation::new("S19", text));
        }
        lost.iter().for_each(|(change, _)| self.flushes.forget(*change));
        self.epochs.give_up(receipt.epoch, to);
        self.losses.push((receipt.epoch, answered));
        Ok(())
    }

    /// The control plane activated an epoch.
    pub(crate) fn activated(&mut self, active: &Activation, now: Nanos) -> Result<(), Violation> {
        let (epoch, node) = (active.epoch, active.primary);
        self.quorums.configured(&active.configuration);
        if active.same_primary {
            self.epochs.continued(epoch);
        }
        self.epochs.activated(epoch, node)?;
        if !active.same_primary {
            self.register.activated(epoch, now);
            self.freshness.activated(epoch, now);
        }
        let Some(start) = self.committed.start_of(epoch) else {
            return Err(Violation::new(
                "S2",
                format!("{epoch} was activated although {node} never sent its first record"),
            ));
        };
        if let Some(receipt) = &active.receipt {
            self.given_up(receipt, start.prev())?;
        }
        for added in &active.added {
            self.quorums.holds_start(*added, start, epoch)?;
        }
        self.commit(epoch, start)?;
        if active.receipt.is_some() {
            let committed = &self.committed;
            self.register.roll_back(now, |sector| committed.change_at(sector));
        }
        self.settle_memories((!active.same_primary).then_some((epoch, now)))
    }
}
