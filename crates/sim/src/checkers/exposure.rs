//! The exposure meter: what a primary counts as bytes × seconds with too few copies is what the world saw, within two bounds.
//!
//! *At least* the bytes of committed records of its reign that a copy lacks by what disks were seen to hold, or by any acknowledgement that ever
//! arrived. *At most* those that a copy has not acknowledged to this reign by what arrived, all of the volume while a copy is beyond the log's
//! reach, and all that the copies once had for one that lacks some of that. Between two turns of the node's loop the first can only fall and the second stays, so both are sums over turns, on the node's own
//! clock. The meter may be late by one look of its own (a second), or by one turn where that took longer, and is asked in whole
//! byte-seconds.
//!
//! Copies that are promised are those of the view that the node last took: members and learners, but for those that leave.
//! Not looked at: reigns of more records than the meter remembers, and what forced recoveries give up.

use super::Violation;
use super::committed::Committed;
use holdfast_format::message::Message;
use holdfast_replication::CopyStatus;
use holdfast_types::{Configuration, Epoch, Incarnation, Life, Lsn, NodeId, Time, VolumeView};
use std::collections::{BTreeMap, BTreeSet};

/// Records that the meter of a reign remembers one by one.
const REMEMBERED: u64 = 4_000;
/// A meter's total is as old as this at most while something is exposed: a second, and what a slow loop adds.
const LATE_MS: u128 = 1_500;
const NANOS: u128 = 1_000_000_000;

#[derive(Debug, Default)]
pub(crate) struct Meters {
    meters: BTreeMap<NodeId, Meter>,
    disks: BTreeMap<NodeId, Disk>,
    /// The greatest acknowledgement of each node that arrived anywhere.
    acknowledged: BTreeMap<NodeId, Lsn>,
    /// What each node was last told of the volume.
    views: BTreeMap<NodeId, VolumeView>,
    /// The greatest size that the volume ever had or was to get.
    largest: u64,
    /// The smallest one. What a view says is wanted; the log of a copy comes to it later, and counts no more than its own size.
    smallest: Option<u64>,
    /// What is given up by an operator is in nobody's sum.
    pub(crate) off: bool,
}

/// What was seen to be durable at one node.
#[derive(Debug, Default)]
struct Disk {
    /// All committed records up to here.
    holds: Lsn,
    above: BTreeMap<Lsn, Epoch>,
}

/// One process of a node.
#[derive(Debug)]
struct Meter {
    life: Life,
    /// Byte-nanoseconds on its clock.
    low: u128,
    /// Of that, what was to be counted before this turn.
    due: u128,
    high: u128,
    last: Option<Turn>,
    reign: Option<Reign>,
}

/// How things were at the end of a turn.
#[derive(Debug)]
struct Turn {
    at: Time,
    committed: Lsn,
    durable: Lsn,
    high: u64,
    /// Copies that had been promised to the knowledge of this node, if it served and its members were not changing.
    promised: Option<Vec<NodeId>>,
}

/// The reign that it serves.
#[derive(Debug)]
struct Reign {
    /// Its first record.
    from: Lsn,
    /// All promised copies had all up to here: a copy that lacks some of it may be said to lack all of it.
    once_whole: Lsn,
}

/// Acknowledgements that a primary has taken, by the messages that passed.
#[derive(Debug, Default)]
pub(crate) struct Acknowledged {
    /// Arrived since the last turn of their receiver.
    fresh: Vec<Ack>,
    held: BTreeMap<(NodeId, NodeId), (Incarnation, Lsn)>,
    /// Whom a primary has greeted with its log, after which it takes their acknowledgements.
    open: BTreeSet<(NodeId, NodeId)>,
    promised: BTreeMap<NodeId, Epoch>,
}

#[derive(Clone, Copy, Debug)]
struct Ack {
    to: NodeId,
    from: NodeId,
    copy: Option<Incarnation>,
    epoch: Epoch,
    durable: Lsn,
}

/// What a turn shows of one copy.
pub(crate) struct Shown<'a> {
    pub(crate) node: NodeId,
    pub(crate) life: Life,
    pub(crate) at: Time,
    pub(crate) status: &'a CopyStatus,
    /// What it said to other copies in this turn.
    pub(crate) said: &'a [(NodeId, &'a Message)],
}

impl Acknowledged {
    /// An acknowledgement arrived.
    pub(crate) fn arrived(&mut self, to: NodeId, from: NodeId, epoch: Epoch, durable: Lsn, view: Option<&VolumeView>) {
        let copy = view.and_then(|v| v.holder(from)).map(|m| m.incarnation);
        self.fresh.push(Ack { to, from, copy, epoch, durable });
    }

    /// A turn of the receiver ended, in which it said this to others: what counted before the turn and still does.
    fn turn(&mut self, node: NodeId, status: &CopyStatus, said: &[(NodeId, &Message)]) {
        let promised = self.promised.insert(node, status.promised);
        if promised != Some(status.promised) && !status.serving {
            // Another reign, if any: it begins with nothing.
            self.held.retain(|(to, _), _| *to != node);
        }
        for (to, message) in said {
            match message {
                Message::Fence { .. } | Message::NeedRegions { .. } => drop(self.open.remove(&(node, *to))),
                _ => {}
            }
        }
        let (mine, others) = std::mem::take(&mut self.fresh).into_iter().partition(|a: &Ack| a.to == node);
        self.fresh = others;
        for ack in mine.into_iter().filter(|a: &Ack| a.epoch == status.promised && self.open.contains(&(node, a.from)))
        {
            let Some(copy) = ack.copy else { continue };
            let entry = self.held.entry((node, ack.from)).or_insert((copy, Lsn::ZERO));
            *entry = if entry.0 == copy { (copy, entry.1.max(ack.durable)) } else { (copy, ack.durable) };
        }
        for (to, message) in said {
            if matches!(message, Message::Adopt { .. }) {
                self.open.insert((node, *to));
            }
        }
    }

    /// What the copy there has acknowledged to this reign.
    fn held(&self, to: NodeId, from: NodeId, copy: Incarnation) -> Lsn {
        self.held.get(&(to, from)).filter(|h| h.0 == copy).map_or(Lsn::ZERO, |h| h.1)
    }
}

impl Meters {
    /// A record is durable at a node.
    pub(crate) fn durable(&mut self, node: NodeId, lsn: Lsn, epoch: Epoch) {
        self.disks.entry(node).or_default().above.insert(lsn, epoch);
    }

    pub(crate) fn arrived(&mut self, from: NodeId, durable: Lsn) {
        let most = self.acknowledged.entry(from).or_default();
        *most = durable.max(*most);
    }

    /// A node is told of the volume: it acts on that from its next turn on.
    pub(crate) fn told(&mut self, node: NodeId, view: &VolumeView) {
        self.largest = sizes(view).fold(self.largest, u64::max);
        self.smallest = sizes(view).chain(self.smallest).min();
        let newer = self.views.get(&node).is_none_or(|known| known.active.epoch <= view.active.epoch);
        if newer {
            self.views.insert(node, view.clone());
        }
    }

    pub(crate) fn view(&self, node: NodeId) -> Option<&VolumeView> {
        self.views.get(&node)
    }

    /// A copy was made: it begins to count.
    pub(crate) fn made(&mut self, node: NodeId) {
        self.meters.remove(&node);
    }

    /// A process ended: what it was told, it no longer knows.
    pub(crate) fn ended(&mut self, node: NodeId) {
        self.views.remove(&node);
    }

    /// A turn of a node's loop ended.
    pub(crate) fn look(
        &mut self,
        shown: &Shown<'_>,
        committed: &Committed,
        acknowledged: &mut Acknowledged,
    ) -> Result<(), Violation> {
        if self.off {
            return Ok(());
        }
        let Shown { node, life, at, status, said } = *shown;
        acknowledged.turn(node, status, said);
        let fresh = || Meter { life, low: 0, due: 0, high: 0, last: None, reign: None };
        let mut meter = self.meters.remove(&node).filter(|m| m.life == life).unwrap_or_else(fresh);
        if let (Some(last), Some(reign)) = (&meter.last, &mut meter.reign) {
            let passed = u128::from(at.0.saturating_sub(last.at.0));
            let low = self.low(node, reign, last, committed);
            meter.due = meter.low;
            meter.low += u128::from(low) * passed;
            meter.high = meter.high.saturating_add(u128::from(last.high).saturating_mul(passed));
        }
        meter.reign = meter.reign.take().filter(|_| status.serving);
        if status.serving {
            let epoch = status.reign.unwrap_or(status.promised);
            let from = committed.start_of(epoch).unwrap_or(Lsn(1));
            meter.reign.get_or_insert(Reign { from, once_whole: from.prev() });
        }
        let high = match &meter.reign {
            Some(reign) => self.high(shown, reign, committed, acknowledged),
            None => 0,
        };
        let (committed, durable) = (status.positions.committed, status.positions.durable);
        let view = self.views.get(&node);
        // While the members change it depends on the step which copies are meant.
        let settled = view.filter(|v| v.pending.is_none() && meter.reign.is_some());
        let promised = settled.map(|v| promised(v).collect());
        meter.last = Some(Turn { at, committed, durable, high, promised });
        let verdict = meter.judge(node, status);
        self.meters.insert(node, meter);
        verdict
    }

    /// What some promised copy certainly lacks.
    fn low(&mut self, node: NodeId, reign: &mut Reign, last: &Turn, committed: &Committed) -> u64 {
        let Some(promised) = &last.promised else { return 0 };
        let upto = last.committed;
        let held = promised.iter().copied().map(|n| {
            if n == node {
                return last.durable;
            }
            let said = self.acknowledged.get(&n).copied().unwrap_or_default();
            let disk = self.disks.entry(n).or_default();
            disk.advance(committed);
            disk.holds.max(said)
        });
        let least = held.min().unwrap_or(upto).min(upto);
        reign.once_whole = reign.once_whole.max(least);
        committed.bytes_between(least.max(reign.from.prev()), upto).min(self.smallest.unwrap_or(0))
    }

    /// What no promised copy has acknowledged to this reign.
    fn high(&self, shown: &Shown<'_>, reign: &Reign, committed: &Committed, acknowledged: &Acknowledged) -> u64 {
        let Shown { node, status, .. } = *shown;
        let Some(view) = self.views.get(&node) else { return u64::MAX };
        let upto = status.positions.committed;
        if upto.0.saturating_sub(reign.from.0) > REMEMBERED {
            return u64::MAX;
        }
        if !status.lost.is_empty() {
            return self.largest;
        }
        let pending = view.pending.as_ref().map(|p| &p.configuration);
        let configurations: Vec<&Configuration> = [Some(&view.active), pending].into_iter().flatten().collect();
        let members = configurations.into_iter().flat_map(|c| &c.members).chain(&view.learners);
        let held = members.map(|m| {
            if m.node == node { status.positions.durable } else { acknowledged.held(node, m.node, m.incarnation) }
        });
        let least = held.min().unwrap_or(Lsn::ZERO);
        let least = if least < reign.once_whole { Lsn::ZERO } else { least };
        committed.bytes_between(least.max(reign.from.prev()), upto)
    }
}

/// Copies that are to stay.
fn promised(view: &VolumeView) -> impl Iterator<Item = NodeId> {
    let all = view.active.members.iter().chain(&view.learners).map(|m| m.node);
    all.filter(|n| !view.leaving.contains(n))
}

/// Every size that the volume has or may get.
fn sizes(view: &VolumeView) -> impl Iterator<Item = u64> {
    view.resizes.iter().map(|r| r.1.bytes()).chain([view.size.bytes()])
}

impl Disk {
    /// Walks as far as what it holds is the committed log.
    fn advance(&mut self, committed: &Committed) {
        loop {
            let next = self.holds.next();
            let Some(epoch) = committed.epoch_of(next) else { return };
            if self.above.get(&next) != Some(&epoch) {
                return;
            }
            self.above.remove(&next);
            self.holds = next;
        }
    }
}

impl Meter {
    fn judge(&self, node: NodeId, status: &CopyStatus) -> Result<(), Violation> {
        let said = u128::from(status.exposure.byte_seconds);
        let late = u128::from(status.exposure.bytes) * LATE_MS / 1_000;
        let (low, high) = (self.due / NANOS, self.high / NANOS);
        if said + late + 1 < low || said > high + 1 {
            let text = format!(
                "{node} counts {said} byte-seconds with too few copies ({} bytes now): the world saw {low} at least and {high} at most",
                status.exposure.bytes
            );
            return Err(Violation::new("exposure", text));
        }
        Ok(())
    }
}
