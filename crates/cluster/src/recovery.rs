//! Forced recovery: an operator says that members of a volume are gone for ever, and that what they alone held may be lost
//! (PROTOCOL.md, F1 to F6).
//!
//! ```text
//!   active e ──ForceRecover──► active f, members: who is left ──Claim──► pending g ──NoteKept, Activate──► active g
//! ```
//! Epoch f has no records: it is there so that no claim on e, and nobody who counted in e and not in f, can decide anything
//! any more. Who counted in e alone is set aside with its data, until the operator says otherwise.
//!
//! Each recovery leaves a receipt. It knows what was kept as soon as the volume opens, and what was lost exactly once
//! enough of the lost copies have come back to be looked at.

use crate::command::{Outcome, Refusal, RefusalKind};
use crate::state::{Phase, State};
use crate::wire;
use RefusalKind::{Invalid, NotFound, Stale};
use holdfast_types::{
    Configuration, Durability, Epoch, Forced, Incarnation, Lsn, MAX_MEMBERS, Member, Mutant, NodeId, VolumeId, mutated,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Receipts kept of one volume.
const MAX_RECEIPTS: usize = 8;
/// Longest name of a user or host.
pub(crate) const MAX_WHO_BYTES: usize = 256;

/// Who ordered something, by the word of the kernel on the admin socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operator {
    /// The user's number; none if the socket did not say.
    pub uid: Option<u32>,
    /// The user's name, as the agent's host knows it; empty if it does not.
    pub user: String,
    /// That host.
    pub host: String,
}

/// What was last heard of a copy before the recovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastHeard {
    /// Who holds it.
    #[serde(with = "wire::one")]
    pub node: NodeId,
    /// When, in milliseconds since 1970; none if never.
    pub at_ms: Option<u64>,
    /// What it had promised.
    #[serde(with = "wire::one")]
    pub epoch: Epoch,
    /// Durable there.
    #[serde(with = "wire::one")]
    pub durable: Lsn,
    /// Known there to be committed.
    #[serde(with = "wire::one")]
    pub committed: Lsn,
}

/// What was known when the operator was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// What was last heard of each member.
    pub members: Vec<LastHeard>,
    /// The greatest record that anybody said to be committed.
    #[serde(with = "wire::one")]
    pub committed: Lsn,
    /// Nothing above this was acknowledged, for certain; none if nobody knows.
    #[serde(with = "wire::opt")]
    pub bound: Option<Lsn>,
    /// What was acknowledged before is kept, as far as reports tell; milliseconds since 1970.
    pub since_ms: Option<u64>,
    /// The last sign of life of a member that counts no more: nothing was acknowledged by it later that was heard of.
    pub until_ms: Option<u64>,
}

/// A copy that came back after it was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FoundCopy {
    /// Epoch of its last record.
    #[serde(with = "wire::one")]
    pub last_epoch: Epoch,
    /// Its last record.
    #[serde(with = "wire::one")]
    pub last: Lsn,
    /// Known there to be committed.
    #[serde(with = "wire::one")]
    pub committed: Lsn,
    /// Nothing that it once held durably is unreadable or gone: only then it stands for what it had acknowledged.
    pub whole: bool,
}

/// Where the volume goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// The claimed epoch.
    #[serde(with = "wire::one")]
    pub epoch: Epoch,
    /// The last record before it.
    #[serde(with = "wire::one")]
    pub last: Lsn,
}

/// The loss receipt of one forced recovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// Counts the forced recoveries of the volume, from 1.
    pub number: u64,
    /// When it was ordered, in milliseconds since 1970.
    pub at_ms: u64,
    /// By whom.
    pub by: Operator,
    /// Who counted before.
    #[serde(with = "wire::ConfigurationDef")]
    pub before: Configuration,
    /// The epoch without records that succeeded.
    #[serde(with = "wire::one")]
    pub epoch: Epoch,
    /// Who was left.
    #[serde(with = "wire::members")]
    pub survivors: Vec<Member>,
    /// What was known then.
    pub known: Known,
    /// What is kept, once the new primary knows it.
    pub kept: Option<Kept>,
    /// It was opened with that.
    pub opened: bool,
    /// Copies that were given up and came back.
    #[serde(with = "wire::map")]
    pub found: BTreeMap<NodeId, FoundCopy>,
    /// Who was left had been left out before: the volume had gone on without it (A3).
    #[serde(default, skip_serializing_if = "wire::is_false")]
    pub stale: bool,
}

/// What a forced recovery lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The volume did not open yet.
    Open,
    /// Nothing, for certain.
    Nothing,
    /// Records from `from` on may be lost: how many were acknowledged is not known.
    Possible {
        /// The first one.
        from: Lsn,
    },
    /// Records are lost.
    Certain {
        /// The first one.
        from: Lsn,
        /// Up to here they were committed, so the guest was or could be told.
        committed: Lsn,
        /// No record above was acknowledged; none: not known.
        to: Option<Lsn>,
    },
    /// Records `from` to `to` are lost, and whether any of them was acknowledged is not known.
    Bounded {
        /// The first one.
        from: Lsn,
        /// The last one that may have been acknowledged.
        to: Lsn,
    },
}

impl Receipt {
    /// What was lost, as far as is known by now.
    #[must_use]
    pub fn loss(&self, durability: Durability) -> Loss {
        let Some(kept) = self.kept.filter(|_| self.opened) else { return Loss::Open };
        if mutated(Mutant::ReceiptSaysNothing) {
            return Loss::Nothing;
        }
        let (from, bound) = (kept.last.next(), self.bound(durability));
        let committed =
            self.found.values().map(|f| f.committed).chain([self.known.committed]).max().unwrap_or_default();
        let bound = bound.map(|b| b.max(committed));
        match bound {
            Some(to) if to <= kept.last => Loss::Nothing,
            to if committed > kept.last => Loss::Certain { from, committed, to },
            Some(to) => Loss::Bounded { from, to },
            None => Loss::Possible { from },
        }
    }

    /// Nothing above was acknowledged: known from a primary that is left, or because enough copies came back that every
    /// write quorum is met by one that is left or was looked at.
    fn bound(&self, durability: Durability) -> Option<Lsn> {
        let kept = self.kept?.last;
        let whole = |n: NodeId| self.found.get(&n).is_some_and(|f| f.whole);
        let seen = |n: NodeId| whole(n) || self.survivors.iter().any(|m| m.node == n);
        // What only memories held is on no disk that could be looked at: then only all copies tell.
        let all = self.before.members.iter().all(|m| seen(m.node));
        let met = all || (durability != Durability::Flush && self.before.is_fence(seen));
        let looked_at = met.then(|| self.found.values().map(|f| f.last).max().unwrap_or_default().max(kept));
        [looked_at, self.known.bound].into_iter().flatten().min()
    }

    /// Whether nothing more can be found out.
    #[must_use]
    pub fn is_complete(&self, durability: Durability) -> bool {
        self.opened && self.bound(durability).is_some()
    }

    /// The loss in a sentence.
    #[must_use]
    pub fn sentence(&self, durability: Durability) -> String {
        match self.loss(durability) {
            Loss::Open => "what is lost is known once the volume opens".to_owned(),
            Loss::Nothing => "nothing that was acknowledged is lost".to_owned(),
            Loss::Possible { from } => format!(
                "records from {from} on may be lost: how many of them were acknowledged is not known until a copy that was given up is back"
            ),
            Loss::Bounded { from, to } => format!(
                "records {from} to {to} are lost, and no later one was acknowledged; of these it is not known which were"
            ),
            Loss::Certain { from, committed, to: Some(to) } if to > committed => format!(
                "records {from} to {to} are lost: up to {committed} they were committed, above that acknowledged or not, and no later one was acknowledged"
            ),
            Loss::Certain { from, committed, to: Some(_) } => {
                format!("records {from} to {committed} are lost, which were committed; no later one was acknowledged")
            }
            Loss::Certain { from, committed, to: None } => format!(
                "records {from} to {committed} are lost, which were committed, and later ones may be: that is not known until a copy that was given up is back"
            ),
        }
    }

    /// Members of the configuration before that count no more.
    pub fn given_up(&self) -> impl Iterator<Item = Member> {
        self.before.members.iter().copied().filter(|m| !self.survivors.contains(m))
    }
}

/// What a forced recovery asks for.
pub(crate) struct Order<'a> {
    pub(crate) base: Epoch,
    pub(crate) survivors: &'a [NodeId],
    pub(crate) primary: NodeId,
    pub(crate) at_ms: u64,
    pub(crate) by: &'a Operator,
    pub(crate) known: &'a Known,
}

impl State {
    /// F1.
    pub(crate) fn force_recover(&mut self, id: VolumeId, order: &Order<'_>) -> Result<Outcome, Refusal> {
        let refuse = |kind, message: String| Err(Refusal::new(kind, message));
        let volume = self.volumes.get_mut(&id).ok_or_else(|| Refusal::new(NotFound, format!("there is no {id}")))?;
        let (name, rule) = (volume.name.clone(), volume.rule);
        let Phase::Open { active, pending, nominee, copies } = &mut volume.phase else {
            return refuse(Stale, format!("volume {name} is not open"));
        };
        if active.epoch != order.base || active.epoch == Epoch::ZERO {
            let (base, found) = (order.base, active.epoch);
            return refuse(
                Stale,
                format!("expected {name} to be in epoch {base} and once opened, found {found}; look again"),
            );
        }
        let wanted: BTreeSet<NodeId> = order.survivors.iter().copied().collect();
        // Either members, or, where none is left, copies that the volume went on without.
        let stale = wanted.iter().all(|n| copies.left_out.contains_key(n));
        let left = if stale { copies.registered() } else { active.members.clone() };
        let survivors: Vec<Member> = left.into_iter().filter(|m| wanted.contains(&m.node)).collect();
        if survivors.is_empty() || survivors.len() != wanted.len() || !wanted.contains(&order.primary) {
            return refuse(
                Invalid,
                format!("{name} goes on with members of epoch {}, one of which leads", active.epoch),
            );
        }
        let fits = |text: &str| text.len() <= MAX_WHO_BYTES;
        if !fits(&order.by.user) || !fits(&order.by.host) || order.known.members.len() > MAX_MEMBERS {
            return refuse(Invalid, "who orders a recovery, or what is known of the members, is too long".to_owned());
        }
        let epoch = volume.max_epoch.next();
        let members = if mutated(Mutant::ForcedKeepsOldMembers) { active.members.clone() } else { survivors.clone() };
        let write_quorum = rule.write_quorum(members.len());
        let next = Configuration { epoch, primary: Some(order.primary), members, write_quorum };
        next.validate();
        let before = std::mem::replace(active, next);
        volume.max_epoch = epoch;
        // All that are left are asked, and nobody else: what else there may have been is given up.
        volume.recovered = None;
        (*pending, *nominee) = (None, None);
        copies.give_up(&before, active);
        // One that never opened is continued: what its lost members held is lost by this one, too.
        let unopened = volume.receipts.pop_if(|r| r.epoch == order.base);
        let number = unopened.as_ref().or(volume.receipts.last()).map_or(1, |r| r.number + 1);
        let stale = stale || unopened.as_ref().is_some_and(|r| r.stale);
        let (before, found, mut known) = match unopened {
            Some(r) => {
                (r.before, r.found, Known { committed: order.known.committed.max(r.known.committed), ..r.known })
            }
            None => (before, BTreeMap::new(), order.known.clone()),
        };
        known.bound = None;
        if volume.receipts.len() >= MAX_RECEIPTS {
            volume.receipts.remove(0);
        }
        volume.receipts.push(Receipt {
            number,
            at_ms: order.at_ms,
            by: order.by.clone(),
            before,
            epoch,
            survivors,
            known,
            kept: None,
            opened: false,
            found,
            stale,
        });
        Ok(Outcome::Epoch(epoch))
    }

    /// F4: the new primary says what it goes on with.
    pub(crate) fn note_kept(
        &mut self,
        id: VolumeId,
        kept: Kept,
        (known, whole): (Lsn, bool),
    ) -> Result<Outcome, Refusal> {
        let epoch = kept.epoch;
        let volume = self.volumes.get_mut(&id).ok_or_else(|| Refusal::new(NotFound, format!("there is no {id}")))?;
        let Phase::Open { active, pending, .. } = &volume.phase else {
            return Err(Refusal::new(Stale, format!("volume {} is not open", volume.name)));
        };
        let claimed = pending.as_ref().is_some_and(|p| p.configuration.epoch == epoch);
        let receipt = volume.receipts.last_mut().filter(|r| r.epoch == active.epoch && claimed);
        let Some(receipt) = receipt else {
            return Err(Refusal::new(Stale, format!("{epoch} of {} does not follow a forced recovery", volume.name)));
        };
        receipt.kept = Some(kept);
        receipt.known.committed = receipt.known.committed.max(known);
        // Of this claim: an earlier one that did not open may have been another node's.
        receipt.known.bound = whole.then_some(kept.last);
        Ok(Outcome::Done)
    }

    /// F5: a copy that was given up is there, after all.
    pub(crate) fn found_copy(
        &mut self,
        id: VolumeId,
        (node, incarnation): (NodeId, Incarnation),
        found: &FoundCopy,
    ) -> Result<Outcome, Refusal> {
        let volume = self.volumes.get_mut(&id).ok_or_else(|| Refusal::new(NotFound, format!("there is no {id}")))?;
        let Phase::Open { copies, .. } = &volume.phase else {
            return Err(Refusal::new(Stale, format!("volume {} is not open", volume.name)));
        };
        if copies.aside.get(&node) != Some(&incarnation) {
            let message = format!("no copy {incarnation} of volume {} on {node} was set aside", volume.name);
            return Err(Refusal::new(Stale, message));
        }
        let gave_up = |r: &&mut Receipt| r.given_up().any(|m| m.node == node && m.incarnation == incarnation);
        if let Some(receipt) = volume.receipts.iter_mut().rev().find(gave_up) {
            // It is looked at once, before anything of it is touched.
            receipt.found.entry(node).or_insert_with(|| found.clone());
        }
        Ok(Outcome::Done)
    }

    /// Whether a copy that was set aside was looked at.
    #[must_use]
    pub fn was_found(&self, id: VolumeId, node: NodeId) -> bool {
        let Some(volume) = self.volumes.get(&id) else { return false };
        let Phase::Open { copies, .. } = &volume.phase else { return false };
        let Some(incarnation) = copies.aside.get(&node) else { return false };
        let this = |m: Member| m.node == node && m.incarnation == *incarnation;
        let mine = volume.receipts.iter().rev().find(|r| r.given_up().any(this));
        // One that learned and never counted tells nothing about what was acknowledged.
        mine.is_none_or(|r| r.found.contains_key(&node))
    }
}

/// What a copy is told of a forced recovery that goes on.
pub(crate) fn forced(receipts: &[Receipt], active: &Configuration) -> Option<Forced> {
    let receipt = receipts.last().filter(|r| r.epoch == active.epoch)?;
    Some(Forced { before: receipt.before.epoch, noted: receipt.kept.map(|k| k.epoch) })
}

/// Receipts that contradict the rest of the state.
pub(crate) fn check(receipts: &[Receipt], max_epoch: Epoch) -> Result<(), String> {
    let is = |holds: bool, otherwise: &str| if holds { Ok(()) } else { Err(otherwise.to_owned()) };
    is(receipts.len() <= MAX_RECEIPTS, "more receipts than are kept")?;
    is(receipts.windows(2).all(|w| w[1].number > w[0].number && w[1].epoch > w[0].epoch), "receipts do not rise")?;
    for r in receipts {
        is(r.before.epoch < r.epoch && r.epoch <= max_epoch, "S14: a forced recovery does not rise")?;
        is(
            !r.survivors.is_empty() && (r.stale || r.survivors.iter().all(|m| r.before.members.contains(m))),
            "S20: a survivor that was no member",
        )?;
        is(r.kept.is_none_or(|k| k.epoch > r.epoch), "S14: what is kept belongs to a later epoch")?;
        is(!r.opened || r.kept.is_some(), "S19: opened without saying what is kept")?;
    }
    Ok(())
}
