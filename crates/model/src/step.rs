//! The steps of the protocol and of the world around it, as abstract as the model needs them.

use crate::scope::{Mutant, Scope, Volatile};
use crate::state::{EPOCHS, NODES, NodeSet, bit, has};
use std::fmt;
use std::str::FromStr;

macro_rules! steps {
    ($($(#[doc = $doc:literal])+ $name:ident $word:literal { $($(#[doc = $of:literal])+ $field:ident),* })+) => {
        /// One step. Nodes are numbered from 0, epochs and LSNs from 1. A message's delay, loss and repetition are steps
        /// that come late or never: nothing is ever due. As text, `promise member=2 epoch=3`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Step {
            $($(#[doc = $doc])+ $name { $($(#[doc = $of])+ $field: u8),* },)+
        }

        impl fmt::Display for Step {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {
                    $(Step::$name { $($field),* } => {
                        f.write_str($word)?;
                        $(show(f, stringify!($field), $field)?;)*
                        Ok(())
                    })+
                }
            }
        }

        impl FromStr for Step {
            type Err = NotAStep;

            fn from_str(text: &str) -> Result<Step, NotAStep> {
                let mut words = text.split_whitespace();
                let step = match words.next() {
                    $(Some($word) => Step::$name { $($field: read(text, words.next(), stringify!($field))?),* },)+
                    _ => return Err(NotAStep(text.to_owned())),
                };
                if words.next().is_none() { Ok(step) } else { Err(NotAStep(text.to_owned())) }
            }
        }
    };
}

steps! {
    /// T1: the control group commits a claim of `node` to lead `members`, a bit for each.
    Claim "claim" {
        /// Who will be primary.
        node,
        /// Of the new epoch.
        members
    }
    /// The claimant learns that its claim is committed.
    Begin "begin" {
        /// Its epoch.
        epoch
    }
    /// T2a to T2c at one member.
    Promise "promise" {
        /// Who promises.
        member,
        /// What.
        epoch
    }
    /// T2d, T3, T4: the member's tail reaches the claimant, which chooses as soon as it may.
    Report "report" {
        /// Who reports.
        member,
        /// To the claimant of this epoch.
        epoch
    }
    /// T5: the next record that the claimant lacks; T6 after the last one.
    Fetch "fetch" {
        /// Of this claimant.
        epoch
    }
    /// T7 at a member: cut, adopt, acknowledge.
    Adopt "adopt" {
        /// Who adopts.
        member,
        /// Whose log.
        epoch
    }
    /// N3: the next record of the epoch's log reaches a member.
    Append "append" {
        /// Who receives it.
        member,
        /// Whose record.
        epoch
    }
    /// Everything in a node's log becomes durable.
    Flush "flush" {
        /// Whose.
        node
    }
    /// N4: a member's greatest acknowledgement arrives.
    Acknowledge "acknowledge" {
        /// Whose.
        member,
        /// At the primary of this epoch.
        epoch
    }
    /// T8: the claimant asks for the activation.
    Request "request" {
        /// Of its epoch.
        epoch
    }
    /// T8, T9: the control group carries it out.
    Activate "activate" {
        /// Of this epoch.
        epoch
    }
    /// N2: a guest's next write.
    Write "write" {
        /// To the primary of this epoch.
        epoch
    }
    /// N5: the primary answers a guest. It changes nothing, so it is no step of an exploration, only of a trace.
    Answer "answer" {
        /// The primary's epoch.
        epoch,
        /// The record that was answered.
        lsn
    }
    /// N5: a member learns what is committed, and applies it (N6).
    Learn "learn" {
        /// Who.
        member
    }
    /// M1, M2: the primary changes the members.
    Change "change" {
        /// The epoch that ends.
        epoch,
        /// Of the next epoch, a bit for each.
        members
    }
    /// A read returns what the primary has appended and not committed; only a mutant does that.
    ReadUncommitted "read-uncommitted" {
        /// At the primary of this epoch.
        epoch
    }
    /// N8: the primary asks a member for a lease.
    Beat "beat" {
        /// Whom.
        member,
        /// For this epoch.
        epoch
    }
    /// The member grants it.
    Grant "grant" {
        /// Who.
        member,
        /// For this epoch.
        epoch
    }
    /// The grant arrives.
    Hold "hold" {
        /// Whose grant.
        member,
        /// At the primary of this epoch.
        epoch
    }
    /// Time passes.
    Tick "tick" {}
    /// The primary gives its leases up for a hand-over.
    Release "release" {
        /// Its epoch.
        epoch
    }
    /// A node restarts; of the records that were being written so many had landed.
    Crash "crash" {
        /// Which node.
        node,
        /// How many records survive beyond the durable ones.
        landed
    }
    /// A node's disk is replaced by a blank one.
    Wipe "wipe" {
        /// Which node's.
        node
    }
    /// A durable record rots; the restarted node finds that.
    Rot "rot" {
        /// On which node.
        node,
        /// Which record.
        lsn
    }
    /// A disk silently loses durable records, and its node restarts.
    Rollback "rollback" {
        /// Which node's.
        node,
        /// What is left.
        len
    }
}

/// A line that names no step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAStep(String);

impl fmt::Display for NotAStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected a step such as `promise member=2 epoch=3`, found `{}`", self.0)
    }
}

impl std::error::Error for NotAStep {}

/// A set of nodes is shown by its digits: `members=012`.
fn show(f: &mut fmt::Formatter<'_>, field: &str, value: u8) -> fmt::Result {
    if field != "members" {
        return write!(f, " {field}={value}");
    }
    let digits: String = (0..3).filter(|n| has(value, *n)).map(|n| char::from(b'0' + n)).collect();
    write!(f, " {field}={digits}")
}

fn read(text: &str, word: Option<&str>, field: &str) -> Result<u8, NotAStep> {
    let value = word.and_then(|w| w.strip_prefix(field)).and_then(|w| w.strip_prefix('='));
    let value = value.and_then(|v| if field == "members" { set_of(v) } else { v.parse().ok() });
    value.ok_or_else(|| NotAStep(text.to_owned()))
}

fn set_of(digits: &str) -> Option<NodeSet> {
    digits.chars().try_fold(0, |set, c| {
        let node = u8::try_from(c.to_digit(3)?).ok()?;
        Some(set | bit(node))
    })
}

/// Every step that could ever change anything in a scope.
pub(crate) fn alphabet(scope: &Scope) -> Vec<Step> {
    let nodes = || 0..scope.nodes;
    let epochs = || 1..=scope.epochs;
    let sets = || (1..8).filter(|set| *set < 1 << scope.nodes);
    let pairs = || epochs().flat_map(move |epoch| nodes().map(move |member| (member, epoch)));
    let lengths = || 0..crate::log::CAPACITY;
    let mut all = Vec::new();
    all.extend(nodes().flat_map(|node| sets().map(move |members| Step::Claim { node, members })));
    for (member, epoch) in pairs() {
        all.push(Step::Promise { member, epoch });
        all.push(Step::Report { member, epoch });
        all.push(Step::Adopt { member, epoch });
        all.push(Step::Append { member, epoch });
        all.push(Step::Acknowledge { member, epoch });
    }
    for epoch in epochs() {
        all.extend([
            Step::Begin { epoch },
            Step::Fetch { epoch },
            Step::Request { epoch },
            Step::Activate { epoch },
            Step::Write { epoch },
        ]);
    }
    if scope.volatile != Volatile::Nobody {
        all.extend(nodes().map(|node| Step::Flush { node }));
    }
    if scope.hints {
        all.extend(nodes().map(|member| Step::Learn { member }));
    }
    if scope.mutant == Some(Mutant::ReadUncommitted) {
        all.extend(epochs().map(|epoch| Step::ReadUncommitted { epoch }));
    }
    if scope.leases {
        for (member, epoch) in pairs() {
            all.extend([Step::Beat { member, epoch }, Step::Grant { member, epoch }, Step::Hold { member, epoch }]);
        }
        all.push(Step::Tick {});
    }
    let budget = &scope.budget;
    if budget.changes > 0 {
        all.extend(epochs().flat_map(|epoch| sets().map(move |members| Step::Change { epoch, members })));
    }
    if budget.releases > 0 {
        all.extend(epochs().map(|epoch| Step::Release { epoch }));
    }
    if budget.crashes > 0 {
        all.extend(nodes().flat_map(|node| lengths().map(move |landed| Step::Crash { node, landed })));
    }
    if budget.wipes > 0 {
        all.extend(nodes().map(|node| Step::Wipe { node }));
    }
    if budget.rots > 0 {
        all.extend(nodes().flat_map(|node| lengths().map(move |lsn| Step::Rot { node, lsn })));
    }
    if budget.rollbacks > 0 {
        all.extend(nodes().flat_map(|node| lengths().map(move |len| Step::Rollback { node, len })));
    }
    all
}

const _: () = assert!(NODES == 3 && EPOCHS == 4, "sets of nodes are below 8, and a scope names its epochs up to 4");
