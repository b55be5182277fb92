//! Which copies an open volume is to have, and the steps to there (PROTOCOL.md, M1 to M3).
//!
//! ```text
//!   wanted ──AddCopy──► learner, without a copy ──RegisterCopy──► learner ──Reconfigure, Activate──► member
//!   member ──RemoveCopy──► leaving ──Reconfigure, Activate──► dropped ──CopyDeleted──► gone
//! ```
//! What is wanted and what is are two sets of nodes; commands change the wanted one, whether or not anybody can follow at
//! that moment, and the primary walks towards it one member at a time. A copy that is wanted anew on its own node goes
//! first, and comes back as a learner under another incarnation (S20).

use crate::alone::Alone;
use crate::command::{Outcome, Refusal, RefusalKind};
use crate::state::{Phase, State, Volume};
use crate::wire;
use RefusalKind::{Invalid, NotFound, Stale, Unsafe};
use holdfast_types::{
    Configuration, Epoch, Incarnation, Life, MAX_MEMBERS, Member, Mutant, NodeId, Pending, VolumeId, mutated,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// So many members stay while a copy is made anew where it is.
const ANEW_BESIDE: usize = 2;

/// The copies of an open volume beside the configuration that decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copies {
    /// Nodes that are to hold a copy.
    #[serde(with = "wire::list")]
    pub wanted: BTreeSet<NodeId>,
    /// Members whose copy is to be thrown away and made anew.
    #[serde(with = "wire::list")]
    pub renew: BTreeSet<NodeId>,
    /// Wanted nodes that are no members yet, and the copy that each registered.
    #[serde(with = "wire::incarnations")]
    pub learners: BTreeMap<NodeId, Option<Incarnation>>,
    /// Nodes that have not deleted a copy that counts no more.
    #[serde(with = "wire::list")]
    pub dropped: BTreeSet<NodeId>,
    /// Learners that the leader wants in place of a member, which is wanted again if that is taken back.
    #[serde(default, with = "wire::map", skip_serializing_if = "BTreeMap::is_empty")]
    pub successors: BTreeMap<NodeId, Successor>,
    /// Copies that a forced recovery gave up. They count for nothing and stay where they are, as evidence, until an operator has them
    /// removed or made anew.
    #[serde(default, with = "wire::by_node", skip_serializing_if = "BTreeMap::is_empty")]
    pub aside: BTreeMap<NodeId, Incarnation>,
    /// The next epoch has one member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alone: Option<Alone>,
    /// Learners that were members until the volume went on without them, and the last epoch in which each counted. They keep what they
    /// hold, and come back under the incarnation that they had.
    #[serde(default, with = "wire::numbers", skip_serializing_if = "BTreeMap::is_empty")]
    pub left_out: BTreeMap<NodeId, Epoch>,
}

/// What a learner is to take the place of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Successor {
    /// A member that goes once the learner counts.
    #[serde(with = "wire::one")]
    pub of: NodeId,
    /// Because of what.
    pub why: Why,
}

/// Why a copy is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Its node is to hold none.
    Drained,
    /// It is gone for longer than anybody wants to wait.
    Gone,
    /// An operator asked for another one in its place: the leader takes nothing back. Noted of copies that are left out alone.
    Asked,
}

impl Copies {
    pub(crate) fn of(active: &Configuration) -> Copies {
        Copies { wanted: active.members.iter().map(|m| m.node).collect(), ..Copies::default() }
    }

    /// Learners that may receive the log.
    #[must_use]
    pub fn registered(&self) -> Vec<Member> {
        let registered = |(node, i): (&NodeId, &Option<Incarnation>)| Some(Member { node: *node, incarnation: (*i)? });
        self.learners.iter().filter_map(registered).filter(|m| !self.dropped.contains(&m.node)).collect()
    }

    /// The copy that learns on `node`, if it may receive the log.
    #[must_use]
    pub fn learner(&self, node: NodeId) -> Option<Incarnation> {
        self.learners.get(&node).copied().flatten().filter(|_| !self.dropped.contains(&node))
    }

    /// Members that are to go now. One that is replaced stays until its successor counts, so that there are never fewer
    /// copies than are wanted.
    pub(crate) fn leaving(&self, active: &Configuration) -> Vec<NodeId> {
        let (now, wanted) = (active.members.len(), self.wanted.len());
        let due = (now > wanted || now == MAX_MEMBERS || mutated(Mutant::GoesBeforeSuccessor))
            && (self.renew.is_empty() || now > ANEW_BESIDE + 1);
        // While one is made anew, two others hold everything.
        let anew = |n: &NodeId| now > ANEW_BESIDE && self.renew.contains(n);
        let goes = |n: &NodeId| anew(n) || (now > 1 && due && !self.wanted.contains(n));
        active.members.iter().map(|m| m.node).filter(goes).collect()
    }

    /// A learner is no longer wanted; it may hold files.
    pub(crate) fn drop_learner(&mut self, node: NodeId) {
        self.learners.remove(&node);
        self.left_out.remove(&node);
        self.successors.retain(|new, s| *new != node && s.of != node);
        self.wanted.remove(&node);
        self.dropped.insert(node);
    }

    /// Who is to take the place of this member.
    #[must_use]
    pub fn successor_of(&self, member: NodeId) -> Option<(NodeId, Why)> {
        self.successors.iter().find(|(_, s)| s.of == member).map(|(new, s)| (*new, s.why))
    }

    /// Nothing is taken back any more.
    fn forget_successor_of(&mut self, member: NodeId) {
        self.successors.retain(|_, s| s.of != member);
    }

    /// F1: who counted before and does not count now is set aside, learners too.
    pub(crate) fn give_up(&mut self, before: &Configuration, now: &Configuration) {
        let learners = self.registered();
        let gone = before.members.iter().chain(&learners).filter(|m| now.member(m.node).is_none());
        let gone: Vec<Member> = gone.copied().collect();
        let takes_back = mutated(Mutant::ForcedTakesBack);
        if !takes_back {
            self.aside.extend(gone.iter().map(|m| (m.node, m.incarnation)));
        }
        // A learner without a copy may be making one.
        let unregistered = self.learners.keys().filter(|n| learners.iter().all(|m| m.node != **n));
        self.dropped.extend(unregistered.copied());
        self.learners.clear();
        self.left_out.clear();
        self.alone = None;
        self.renew.clear();
        self.successors.clear();
        self.wanted = now.members.iter().map(|m| m.node).collect();
        if takes_back {
            self.wanted.extend(gone.iter().map(|m| m.node));
            self.learners = gone.into_iter().map(|m| (m.node, Some(m.incarnation))).collect();
        }
    }

    /// A node is to hold a copy. What is set aside there goes first: the new copy is made anew (S20).
    fn want(&mut self, node: NodeId) {
        if self.aside.remove(&node).is_some() {
            self.dropped.insert(node);
        }
        self.wanted.insert(node);
        self.learners.entry(node).or_insert(None);
    }

    /// The members are others now.
    pub(crate) fn activated(&mut self, before: &Configuration, now: &Configuration) {
        self.learners.retain(|node, _| now.member(*node).is_none());
        self.left_out.retain(|node, _| now.member(*node).is_none());
        let alone = self.alone.take().is_some();
        for gone in before.members.iter().filter(|m| now.member(m.node).is_none()) {
            let renewed = self.renew.remove(&gone.node);
            // Nobody goes for good who is wanted, or whom somebody is to succeed who lacks more: one of two is out of reach (A3).
            if alone && !self.wanted.contains(&gone.node) && self.successor_of(gone.node).is_none() {
                // One that was left out before lacks more than this one.
                let free = |n: &&NodeId| self.successors.get(n).is_none_or(|s| self.left_out.contains_key(&s.of));
                let comes = self.learners.keys().filter(|n| self.wanted.contains(n)).find(free);
                self.successors.extend(comes.map(|new| (*new, Successor { of: gone.node, why: Why::Asked })));
            }
            let kept = self.wanted.contains(&gone.node) || (alone && self.successor_of(gone.node).is_some());
            if !renewed && kept {
                self.learners.insert(gone.node, Some(gone.incarnation));
                self.left_out.insert(gone.node, before.epoch);
                continue;
            }
            if !mutated(Mutant::RemovedCopyReturns) {
                self.dropped.insert(gone.node);
            }
            if self.wanted.contains(&gone.node) {
                self.learners.insert(gone.node, None);
            }
        }
        let stays = |n: NodeId| now.member(n).is_some() || self.left_out.contains_key(&n);
        let learners = &self.learners;
        self.successors.retain(|new, s| learners.contains_key(new) && stays(s.of));
    }

    /// What is asserted after every command.
    pub(crate) fn check(&self, active: &Configuration) -> Result<(), String> {
        let member = |n: &NodeId| active.member(*n).is_some();
        let is = |holds: bool, otherwise: &str| if holds { Ok(()) } else { Err(otherwise.to_owned()) };
        is((1..=MAX_MEMBERS).contains(&self.wanted.len()), "a number of wanted copies out of range")?;
        // A copy that was left out is kept until whoever takes its place counts.
        let kept = self.successors.values().map(|s| s.of).filter(|n| self.left_out.contains_key(n));
        let to_come: BTreeSet<NodeId> = self.wanted.iter().copied().filter(|n| !member(n)).chain(kept).collect();
        let learners: BTreeSet<NodeId> = self.learners.keys().copied().collect();
        is(to_come == learners, "learners are the wanted nodes that are no members")?;
        is(self.renew.iter().all(|n| member(n) && self.wanted.contains(n)), "what is made anew is a wanted member")?;
        let registered = |n: &NodeId| self.learners.get(n).is_some_and(Option::is_some);
        is(
            self.left_out.keys().all(registered),
            "S20: a copy that was left out is a learner with its own incarnation",
        )?;
        let stays = |n: &NodeId| member(n) || self.left_out.contains_key(n);
        let succeeds =
            |(new, s): (&NodeId, &Successor)| learners.contains(new) && stays(&s.of) && !self.wanted.contains(&s.of);
        is(self.successors.iter().all(succeeds), "a successor is a learner, and whom it succeeds an unwanted member")?;
        let of: BTreeSet<NodeId> = self.successors.values().map(|s| s.of).collect();
        is(of.len() == self.successors.len(), "two learners succeed one member")?;
        let aside = |n: &NodeId| {
            let elsewhere = self.wanted.contains(n) || self.dropped.contains(n);
            self.aside.contains_key(n) && (member(n) || elsewhere)
        };
        let pair = active.members.len() == 2;
        is(
            self.alone.is_none_or(|a| pair && a.base == active.epoch && member(&a.node)),
            "S21: a copy goes on alone that is none of two members, or on another base",
        )?;
        is(!self.aside.keys().any(aside), "S20: a copy that was set aside counts or is to count")?;
        is(!self.dropped.iter().any(member), "S20: a member's copy is to be deleted")
    }
}

/// An open volume's parts that a change of members looks at.
struct Changing<'a> {
    name: &'a str,
    active: &'a Configuration,
    pending: Option<&'a Pending>,
    copies: &'a mut Copies,
}

impl Changing<'_> {
    /// A learner that is becoming a member right now stays one until that is decided.
    fn may_drop(&self, node: NodeId, who: &str) -> Result<(), Refusal> {
        let promoted = |p: &Pending| p.same_primary && p.configuration.member(node).is_some();
        if self.pending.is_some_and(promoted) {
            let name = self.name;
            return Err(Refusal::new(
                Stale,
                format!("the copy of {name} on {who} is being added right now; try again"),
            ));
        }
        Ok(())
    }

    fn may_want(&self, node: NodeId, who: &str) -> Result<(), Refusal> {
        if self.copies.wanted.len() < MAX_MEMBERS || self.copies.wanted.contains(&node) {
            return Ok(());
        }
        let message = format!("volume {} is to have {MAX_MEMBERS} copies, no more fit; {who} gets none", self.name);
        Err(Refusal::new(Invalid, message))
    }
}

impl State {
    pub(crate) fn add_copy(&mut self, id: VolumeId, node: NodeId) -> Result<Outcome, Refusal> {
        self.must_be_present(node)?;
        // A copy that leaves a drained node is not taken back: it may have left by the time that it is wanted again.
        if !self.volumes.get(&id).is_some_and(|v| v.is_wanted_on(node)) {
            self.may_hold(node)?;
        }
        let who = self.name_of(node);
        let c = self.changing(id)?;
        c.may_want(node, &who)?;
        if c.active.member(node).is_some() {
            c.copies.wanted.insert(node);
            c.copies.renew.remove(&node);
            c.copies.forget_successor_of(node);
            return Ok(Outcome::Done);
        }
        c.copies.want(node);
        c.copies.forget_successor_of(node);
        Ok(Outcome::Done)
    }

    pub(crate) fn remove_copy(&mut self, id: VolumeId, node: NodeId) -> Result<Outcome, Refusal> {
        let who = self.name_of(node);
        let c = self.changing(id)?;
        if c.copies.learners.contains_key(&node) {
            c.may_drop(node, &who)?;
            let of = c.copies.successors.get(&node).map(|s| s.of);
            if of.is_none() && c.copies.wanted.iter().all(|n| *n == node) {
                let message = format!(
                    "the copy on {who} is the last one that volume {} is to have; add another one first, or delete the volume",
                    c.name
                );
                return Err(Refusal::new(Unsafe, message));
            }
            c.copies.drop_learner(node);
            // Whom it was to succeed is needed as before.
            c.copies.wanted.extend(of);
            return Ok(Outcome::Done);
        }
        if c.active.member(node).is_none() {
            if c.copies.aside.remove(&node).is_some() {
                c.copies.dropped.insert(node);
                return Ok(Outcome::Done);
            }
            if c.copies.dropped.contains(&node) {
                return Ok(Outcome::Done);
            }
            return Err(Refusal::new(NotFound, format!("volume {} has no copy on {who}", c.name)));
        }
        let others = c.active.members.iter().filter(|m| m.node != node && c.copies.wanted.contains(&m.node)).count();
        if others == 0 {
            let message = format!(
                "{who} holds the last copy of volume {} that counts; add another one first, or delete the volume",
                c.name
            );
            return Err(Refusal::new(Unsafe, message));
        }
        let anew = c.copies.renew.iter().any(|n| *n != node);
        if anew && c.copies.wanted.len() <= ANEW_BESIDE + 1 {
            let message = format!("a copy of volume {} is being made anew; wait until it counts", c.name);
            return Err(Refusal::new(Stale, message));
        }
        c.copies.wanted.remove(&node);
        c.copies.renew.remove(&node);
        Ok(Outcome::Done)
    }

    pub(crate) fn replace_copy(&mut self, id: VolumeId, old: NodeId, new: NodeId) -> Result<Outcome, Refusal> {
        self.must_be_present(new)?;
        let (from, to) = (self.name_of(old), self.name_of(new));
        if old == new {
            return self.renew_copy(id, old);
        }
        self.may_hold(new)?;
        let c = self.changing(id)?;
        if !c.copies.wanted.contains(&old) && c.copies.wanted.contains(&new) {
            return Ok(Outcome::Done);
        }
        if !c.copies.wanted.contains(&old) {
            return Err(Refusal::new(NotFound, format!("volume {} is to have no copy on {from} anyway", c.name)));
        }
        if c.copies.wanted.contains(&new) {
            let message = format!("volume {} has a copy on {to} already; choose a node without one", c.name);
            return Err(Refusal::new(Invalid, message));
        }
        let mut of = None;
        if c.copies.learners.contains_key(&old) {
            c.may_drop(old, &from)?;
            // A copy that was left out is kept until somebody else counts, whoever that is.
            let succeeded = c.copies.successors.get(&old).map(|s| s.of);
            of = succeeded.filter(|of| c.copies.left_out.contains_key(of) && *of != new);
            if let Some(of) = of.filter(|_| c.active.member(new).is_some()) {
                c.may_drop(of, &of.to_string())?;
            }
            c.copies.drop_learner(old);
        }
        c.copies.wanted.remove(&old);
        c.copies.renew.remove(&old);
        if c.active.member(new).is_some() {
            c.copies.wanted.insert(new);
        } else {
            c.copies.want(new);
            c.copies.successors.extend(of.map(|of| (new, Successor { of, why: Why::Asked })));
        }
        c.copies.forget_successor_of(new);
        Ok(Outcome::Done)
    }

    /// The leader replaces a copy, and notes why.
    pub(crate) fn move_copy(&mut self, id: VolumeId, old: NodeId, new: NodeId, why: Why) -> Result<Outcome, Refusal> {
        self.must_be_present(new)?;
        self.may_hold(new)?;
        let (from, to) = (self.name_of(old), self.name_of(new));
        let c = self.changing(id)?;
        if c.copies.successors.get(&new) == Some(&Successor { of: old, why }) {
            return Ok(Outcome::Done);
        }
        let known = |n: &NodeId| c.copies.wanted.contains(n) || c.copies.left_out.contains_key(n);
        if !c.copies.wanted.contains(&old) || known(&new) || c.active.member(new).is_some() {
            let message = format!("the copies of {} are others meanwhile, {from} to {to} is no move any more", c.name);
            return Err(Refusal::new(Stale, message));
        }
        let of = if c.copies.left_out.contains_key(&old) {
            // It holds what it held: it is not thrown away before another one counts.
            Some(old)
        } else if c.copies.learners.contains_key(&old) {
            c.may_drop(old, &from)?;
            // What a successor was to succeed, its own successor does.
            let of = c.copies.successors.get(&old).map(|s| s.of);
            c.copies.drop_learner(old);
            of
        } else {
            Some(old)
        };
        c.copies.wanted.remove(&old);
        c.copies.renew.remove(&old);
        c.copies.want(new);
        c.copies.successors.extend(of.map(|of| (new, Successor { of, why })));
        Ok(Outcome::Done)
    }

    /// A move is taken back while its new copy counts for nothing.
    pub(crate) fn keep_copy(&mut self, id: VolumeId, node: NodeId) -> Result<Outcome, Refusal> {
        let c = self.changing(id)?;
        let Some((new, _)) = c.copies.successor_of(node) else {
            let stays = c.copies.wanted.contains(&node);
            let message = format!("the copy of {} on {node} has no successor that could be taken back", c.name);
            return if stays { Ok(Outcome::Done) } else { Err(Refusal::new(Stale, message)) };
        };
        c.may_drop(new, &new.to_string())?;
        c.copies.drop_learner(new);
        c.copies.wanted.insert(node);
        Ok(Outcome::Done)
    }

    /// The copy there is thrown away and made anew: its disk lost its memory, or can't be trusted.
    fn renew_copy(&mut self, id: VolumeId, node: NodeId) -> Result<Outcome, Refusal> {
        let who = self.name_of(node);
        let c = self.changing(id)?;
        if c.copies.learners.contains_key(&node) {
            c.may_drop(node, &who)?;
            let succeeds = c.copies.successors.get(&node).copied();
            if let Some((new, _)) = c.copies.successor_of(node) {
                c.may_drop(new, &new.to_string())?;
                c.copies.drop_learner(new);
            }
            c.copies.drop_learner(node);
            c.copies.wanted.insert(node);
            c.copies.learners.insert(node, None);
            c.copies.successors.extend(succeeds.map(|s| (node, s)));
            return Ok(Outcome::Done);
        }
        if c.active.member(node).is_none() {
            return Err(Refusal::new(NotFound, format!("volume {} has no copy on {who}", c.name)));
        }
        let others = c.active.members.iter().filter(|m| m.node != node && !c.copies.renew.contains(&m.node)).count();
        if others < ANEW_BESIDE {
            let message = format!(
                "while the copy of volume {} on {who} is made anew, {others} other would hold everything, {ANEW_BESIDE} must; add \
                 a copy elsewhere first, or take back with `copy add` that another one is made anew",
                c.name
            );
            return Err(Refusal::new(Unsafe, message));
        }
        // It stays where it is after all: whoever was to succeed it is not needed.
        if let Some((new, _)) = c.copies.successor_of(node) {
            c.may_drop(new, &new.to_string())?;
            c.copies.drop_learner(new);
        }
        c.may_want(node, &who)?;
        c.copies.wanted.insert(node);
        c.copies.renew.insert(node);
        Ok(Outcome::Done)
    }

    /// M1 in the control group.
    pub(crate) fn reconfigure(
        &mut self,
        id: VolumeId,
        base: Epoch,
        (node, life): (NodeId, Life),
        members: &[Member],
    ) -> Result<Outcome, Refusal> {
        let refuse = |kind, message: String| Err(Refusal::new(kind, message));
        let volume = self.volumes.get_mut(&id).ok_or_else(|| Refusal::new(NotFound, format!("there is no {id}")))?;
        let Volume { name, rule, max_epoch, phase, .. } = volume;
        let Phase::Open { active, pending, nominee, copies } = phase else {
            return refuse(Stale, format!("volume {name} is not open"));
        };
        if active.epoch != base || active.primary != Some(node) {
            let found = active.epoch;
            return refuse(Stale, format!("expected {name} to be in epoch {base} under {node}, found {found}"));
        }
        if nominee.is_some_and(|n| n.node != node) {
            return refuse(Stale, format!("another primary of {name} is wanted first"));
        }
        if let Some(known) = pending.as_ref().filter(|p| p.life == life && p.configuration.primary == Some(node)) {
            // The same request again, or a claim of the same process that must not be taken from it.
            let same = known.same_primary && known.configuration.members == members;
            let epoch = known.configuration.epoch;
            return if same {
                Ok(Outcome::Epoch(epoch))
            } else {
                refuse(Stale, format!("{epoch} of {name} is pending"))
            };
        }
        let configuration = Configuration {
            epoch: max_epoch.next(),
            primary: Some(node),
            members: members.to_vec(),
            write_quorum: rule.write_quorum(members.len()),
        };
        let (learners, leaving) = (copies.registered(), copies.leaving(active));
        let expected = |m: &Member| active.members.contains(m) || learners.contains(m);
        let left_out = |n: NodeId| copies.alone.is_some_and(|a| a.node == node && n != node);
        let due = |m: &Member| configuration.member(m.node).is_some() || leaving.contains(&m.node) || left_out(m.node);
        let sound = members.windows(2).all(|w| w[0].node < w[1].node) && (1..=MAX_MEMBERS).contains(&members.len());
        if !sound || !members.iter().all(expected) || !active.members.iter().all(due) {
            return refuse(Stale, format!("these are no members that {name} is to have next"));
        }
        if configuration.member(node).is_none() || !active.may_change_to(&configuration) {
            return refuse(Unsafe, format!("S21: {name} changes by one member at a time, and keeps its primary"));
        }
        *max_epoch = configuration.epoch;
        let epoch = configuration.epoch;
        *pending = Some(Pending { configuration, base, life, same_primary: true });
        Ok(Outcome::Epoch(epoch))
    }

    fn changing(&mut self, id: VolumeId) -> Result<Changing<'_>, Refusal> {
        let volume =
            self.volumes.get_mut(&id).ok_or_else(|| Refusal::new(NotFound, format!("there is no volume {id}")))?;
        match &mut volume.phase {
            Phase::Open { active, pending, copies, .. } => {
                Ok(Changing { name: &volume.name, active, pending: pending.as_ref(), copies })
            }
            Phase::Creating { .. } => {
                Err(Refusal::new(Stale, format!("volume {} waits for copies to be created; try again", volume.name)))
            }
            Phase::Deleting { .. } => Err(Refusal::new(Stale, format!("volume {} is being deleted", volume.name))),
        }
    }

    fn must_be_present(&self, node: NodeId) -> Result<(), Refusal> {
        match self.node(node) {
            Some(_) => Ok(()),
            None => Err(Refusal::new(NotFound, format!("there is no node {node}"))),
        }
    }

    /// Whether a copy may come to the node.
    pub(crate) fn may_hold(&self, node: NodeId) -> Result<(), Refusal> {
        let Some(n) = self.node(node) else { return Ok(()) };
        let name = &n.name;
        if n.witness && !mutated(Mutant::WitnessHoldsCopies) {
            return Err(Refusal::new(
                Invalid,
                format!("S22: node {name} is a witness and never holds copies; choose another node"),
            ));
        }
        if n.is_drained() && !mutated(Mutant::DrainedGetsCopies) {
            return Err(Refusal::new(
                Unsafe,
                format!(
                    "node {name} is to be drained and gets no copies; choose another node, or `holdfast node undrain {name}`"
                ),
            ));
        }
        Ok(())
    }

    fn name_of(&self, node: NodeId) -> String {
        self.nodes.get(&node).map_or_else(|| node.to_string(), |n| n.name.clone())
    }
}
