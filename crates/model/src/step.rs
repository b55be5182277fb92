//! The steps of the protocol and of the world around it, as abstract as the model needs them.

use crate::scope::Scope;
use crate::state::{EPOCHS, NODES, NodeSet};
use std::fmt;

/// One step. Nodes are numbered from 0, epochs and LSNs from 1. A message's delay, loss and repetition are steps that come
/// late or never: nothing is ever due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// T1: the control group commits a claim; `members` are those of the new epoch.
    Claim {
        /// Who will be primary.
        node: u8,
        /// A bit for each.
        members: NodeSet,
    },
    /// T2a to T2c at one member.
    Promise {
        /// Who promises.
        member: u8,
        /// What.
        epoch: u8,
    },
    /// T2d, T3, T4: the member's tail reaches the claimant, which chooses as soon as it may.
    Report {
        /// Who reports.
        member: u8,
        /// To the claimant of this epoch.
        epoch: u8,
    },
    /// T5: the next record that the claimant lacks; T6 after the last one.
    Fetch {
        /// Of this claimant.
        epoch: u8,
    },
    /// T7 at a member: cut, adopt, acknowledge.
    Adopt {
        /// Who adopts.
        member: u8,
        /// Whose log.
        epoch: u8,
    },
    /// N3: the next record of the epoch's log reaches a member.
    Append {
        /// Who receives it.
        member: u8,
        /// Whose record.
        epoch: u8,
    },
    /// Everything in a node's log becomes durable.
    Flush {
        /// Whose.
        node: u8,
    },
    /// N4: a member's greatest acknowledgement arrives.
    Acknowledge {
        /// Whose.
        member: u8,
        /// At the primary of this epoch.
        epoch: u8,
    },
    /// T8: the claimant asks for the activation.
    Request {
        /// Of its epoch.
        epoch: u8,
    },
    /// T8, T9: the control group carries it out.
    Activate {
        /// Of this epoch.
        epoch: u8,
    },
    /// N2: a guest's next write.
    Write {
        /// To the primary of this epoch.
        epoch: u8,
    },
    /// N5: a member learns what is committed, and applies it (N6).
    Learn {
        /// Who.
        member: u8,
    },
    /// M1, M2: the primary changes the members.
    Change {
        /// The epoch that ends.
        epoch: u8,
        /// The next epoch's members.
        members: NodeSet,
    },
    /// A read returns what the primary has appended and not committed; only a mutant does that.
    ReadUncommitted {
        /// At the primary of this epoch.
        epoch: u8,
    },
    /// N8: the primary asks a member for a lease.
    Beat {
        /// Whom.
        member: u8,
        /// For this epoch.
        epoch: u8,
    },
    /// The member grants it.
    Grant {
        /// Who.
        member: u8,
        /// For this epoch.
        epoch: u8,
    },
    /// The grant arrives.
    Hold {
        /// Whose grant.
        member: u8,
        /// At the primary of this epoch.
        epoch: u8,
    },
    /// Time passes.
    Tick,
    /// The primary gives its leases up for a hand-over.
    Release {
        /// Its epoch.
        epoch: u8,
    },
    /// A node restarts; of the records that were being written so many had landed.
    Crash {
        /// Which node.
        node: u8,
        /// How many records survive beyond the durable ones.
        landed: u8,
    },
    /// A node's disk is replaced by a blank one.
    Wipe {
        /// Which node's.
        node: u8,
    },
    /// A durable record rots; the restarted node finds that.
    Rot {
        /// On which node.
        node: u8,
        /// Which record.
        lsn: u8,
    },
    /// A disk silently loses durable records, and its node restarts.
    Rollback {
        /// Which node's.
        node: u8,
        /// What is left.
        len: u8,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Every step that could ever be taken in a scope.
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
        all.extend([Step::Fetch { epoch }, Step::Request { epoch }, Step::Activate { epoch }, Step::Write { epoch }]);
    }
    if scope.volatile != crate::scope::Volatile::Nobody {
        all.extend(nodes().map(|node| Step::Flush { node }));
    }
    if scope.hints {
        all.extend(nodes().map(|member| Step::Learn { member }));
    }
    if scope.mutant == Some(crate::scope::Mutant::ReadUncommitted) {
        all.extend(epochs().map(|epoch| Step::ReadUncommitted { epoch }));
    }
    if scope.leases {
        for (member, epoch) in pairs() {
            all.extend([Step::Beat { member, epoch }, Step::Grant { member, epoch }, Step::Hold { member, epoch }]);
        }
        all.push(Step::Tick);
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
