//! What the control plane has decided about a volume, as one of its copies sees it.

use crate::{Configuration, Durability, Epoch, Lsn, Member, Mutant, NodeId, QuorumRule, VolumeId, VolumeSize, mutated};

/// Random id of one life of an agent process. An epoch belongs to one life (N0): a restarted primary no longer knows
/// its volatile tail, so it never appends to its old epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Life(pub u64);

/// The state of one volume in the control plane. Every change of it went through Raft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeView {
    /// The volume.
    pub volume: VolumeId,
    /// The size that it is to have; what it has is in its log.
    pub size: VolumeSize,
    /// The decisions that made it so, numbered, oldest first: the last few of them. None if it was created so.
    pub resizes: Vec<(u64, VolumeSize)>,
    /// When a write is acknowledged.
    pub durability: Durability,
    /// The configuration that decides now. Epoch 0: the volume was never open.
    pub active: Configuration,
    /// The claim that may succeed it, if there is one.
    pub pending: Option<Pending>,
    /// Who should claim next, if the control plane wants a change.
    pub nominee: Option<Nominee>,
    /// Copies that receive the log, count for nothing, and are to become members; sorted by node.
    pub learners: Vec<Member>,
    /// Members that are to be removed now; sorted.
    pub leaving: Vec<NodeId>,
    /// Agreed: the next epoch has the copy on this node as its only member, as the other one of two is out of reach.
    pub alone: Option<NodeId>,
    /// How W follows from the number of members.
    pub rule: QuorumRule,
    /// The active configuration was made by a forced recovery and nobody has opened it yet.
    pub forced: Option<Forced>,
    /// The control plane was recovered since it was last opened: the active epoch has no records and succeeds this one, or others that
    /// are not known of.
    pub recovered: Option<Epoch>,
}

/// A forced recovery that goes on: what was acknowledged before may be held by no member, so no write quorum of the
/// active configuration stands for it. Every member must be fenced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forced {
    /// The epoch that was given up.
    pub before: Epoch,
    /// The claimed epoch of which the control plane knows where it continues the log; nothing else is activated.
    pub noted: Option<Epoch>,
}

impl VolumeView {
    /// A volume that nobody wants to change.
    #[must_use]
    pub fn settled(volume: VolumeId, size: VolumeSize, durability: Durability, active: Configuration) -> VolumeView {
        let rule = QuorumRule::of_order(durability, active.write_quorum, active.members.len());
        VolumeView {
            volume,
            size,
            resizes: Vec::new(),
            durability,
            active,
            pending: None,
            nominee: None,
            learners: Vec::new(),
            leaving: Vec::new(),
            alone: None,
            rule,
            forced: None,
            recovered: None,
        }
    }

    /// Whether nobody wants to change anything about it.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let wanted = self.pending.is_some() || self.nominee.is_some() || self.alone.is_some();
        let moving = !self.learners.is_empty() || !self.leaving.is_empty();
        !(wanted || moving || self.forced.is_some() || self.recovered.is_some())
    }

    /// Members that the next epoch goes on without, for a while.
    #[must_use]
    pub fn left_out(&self) -> Vec<NodeId> {
        let Some(alone) = self.alone else { return Vec::new() };
        self.active.members.iter().map(|m| m.node).filter(|n| *n != alone).collect()
    }

    /// Whether the members for which `answered` holds may decide what the log is: they meet every set that may have
    /// acknowledged a write, or, after a forced recovery, are all that is left.
    #[must_use]
    pub fn is_fence(&self, answered: impl Fn(NodeId) -> bool) -> bool {
        if self.forced.is_some() && !mutated(Mutant::ForcedFencesFew) {
            return self.active.members.iter().all(|m| answered(m.node));
        }
        if self.recovered.is_some() && !mutated(Mutant::RecoveredFencesFew) {
            return self.active.is_wide_fence(self.rule, answered);
        }
        self.active.is_fence(answered)
    }

    /// Whether a reign of this epoch began before the control plane was recovered, and is not known of: who counted in it can't be told.
    #[must_use]
    pub fn is_unknown(&self, epoch: Epoch) -> bool {
        self.recovered.is_some_and(|known| known < epoch && epoch < self.active.epoch)
    }

    /// The epoch that whoever has led this volume last may have led.
    #[must_use]
    pub fn last_reign(&self) -> Epoch {
        self.recovered.unwrap_or(self.active.epoch)
    }

    /// The copy on `node` that belongs to the volume, whether it counts or still learns.
    #[must_use]
    pub fn holder(&self, node: NodeId) -> Option<Member> {
        self.active.member(node).or_else(|| self.learners.iter().copied().find(|m| m.node == node))
    }
}

/// A claim on a volume: made by compare-and-swap on `base`, void once another epoch is active (S21).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The configuration that is claimed; its epoch is unique.
    pub configuration: Configuration,
    /// The active epoch that the claim succeeds.
    pub base: Epoch,
    /// The life of the claimant's process; a later life of the same node must not use this claim (N0).
    pub life: Life,
    /// M1: the primary of the base goes on with other members, without a takeover.
    pub same_primary: bool,
}

/// The wish that `node` become primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nominee {
    /// Who should claim.
    pub node: NodeId,
    /// The active epoch that is to end; the wish is void in any other.
    pub base: Epoch,
    /// A switchover: the primary drains and releases its epoch first. Otherwise nobody waits for it.
    pub planned: bool,
}

/// What a copy asks of the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlRequest {
    /// T1: commit a pending configuration with this node as primary, if the active epoch is `base`.
    Claim {
        /// The volume.
        volume: VolumeId,
        /// The active epoch to succeed.
        base: Epoch,
        /// This process.
        life: Life,
    },
    /// M1: commit a pending configuration with these members and this node, the primary of `base`, as primary.
    Reconfigure {
        /// The volume.
        volume: VolumeId,
        /// The active epoch to succeed.
        base: Epoch,
        /// This process.
        life: Life,
        /// The members of the next epoch: one more or one less than now.
        members: Vec<Member>,
    },
    /// After a forced recovery, before T8: where the pending epoch continues the log, for the loss receipt.
    NoteKept {
        /// The volume.
        volume: VolumeId,
        /// The claimed epoch.
        epoch: Epoch,
        /// The last record that is kept.
        last: Lsn,
        /// What the members that were left knew to be committed.
        known: Lsn,
        /// This life led the epoch that was given up until then: nothing above `last` was acknowledged.
        whole: bool,
    },
    /// T8: make the pending epoch the active one, if it is still the pending one.
    Activate {
        /// The volume.
        volume: VolumeId,
        /// The claimed epoch.
        epoch: Epoch,
    },
}
