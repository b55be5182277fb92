//! The replicated state: its data, questions to it, its invariants.
//!
//! ```text
//!   volume:  Creating --(last RegisterCopy)--> Open --(DeleteVolume)--> Deleting --(last CopyDeleted)--> gone
//!                 +-----------------(DeleteVolume)------------------------^
//!   within Open:  active --(Claim, base = active)--> pending --(Activate)--> active'
//! ```

use crate::alone::Degraded;
use crate::command::{DecodeError, Refusal, RefusalKind, decode, encode};
use crate::members::Copies;
use crate::recovery::{self, Receipt};
use crate::regime::{self, Recovery};
use crate::wire;
use holdfast_types::{
    ClusterId, ClusterVersion, Configuration, Durability, Epoch, GuestLimits, Incarnation, Mutant, NodeId, Nominee,
    Pending, QuorumRule, SocketAccess, Speaks, VolumeId, VolumeSize, VolumeView, mutated,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Everything that the cluster has agreed on. Changes by [`State::apply`] alone; the fields are public to be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The cluster.
    #[serde(with = "wire::one")]
    pub cluster: ClusterId,
    /// Its name.
    pub name: String,
    /// Every node that ever was.
    #[serde(with = "wire::map")]
    pub nodes: BTreeMap<NodeId, Node>,
    /// Every volume that is.
    #[serde(with = "wire::map")]
    pub volumes: BTreeMap<VolumeId, Volume>,
    /// Join tokens.
    pub tokens: BTreeMap<u64, Token>,
    /// Never given away so far.
    #[serde(with = "wire::one")]
    pub next_node: NodeId,
    /// Never given away so far.
    #[serde(with = "wire::one")]
    pub next_volume: VolumeId,
    /// What every node speaks: formats, fields and commands of later versions are not used.
    #[serde(default = "wire::first_version", with = "wire::version", skip_serializing_if = "wire::is_first_version")]
    pub version: ClusterVersion,
    /// Recoveries of the control plane after a majority of its voters was lost, the last few, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recoveries: Vec<Recovery>,
}

/// A host with an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Its id, the key in `State::nodes`.
    #[serde(with = "wire::one")]
    pub id: NodeId,
    /// Unique among the nodes that are not removed.
    pub name: String,
    /// Where its peers reach it.
    pub address: String,
    /// What fails together with it.
    pub failure_domain: String,
    /// Whether it is to vote in Raft. Whether it does, Raft knows.
    pub voter_wanted: bool,
    /// It votes, and never holds copies.
    #[serde(default, skip_serializing_if = "wire::is_false")]
    pub witness: bool,
    /// Of its certificate.
    pub fingerprint: String,
    /// What the operator wants of it.
    #[serde(default, skip_serializing_if = "Duty::is_in_service")]
    pub wanted: Duty,
    /// Gone for ever; kept so that its id is never used again.
    pub removed: bool,
}

impl Node {
    /// Whether it may get copies.
    #[must_use]
    pub fn takes_copies(&self) -> bool {
        !self.removed && !self.witness && self.wanted == Duty::InService
    }

    /// Whether it is to hold nothing although it could.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.wanted != Duty::InService
    }
}

/// What a node is to be for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Duty {
    /// It holds copies and gets new ones.
    #[default]
    InService,
    /// It is to hold no copy and to lead no volume.
    Drained,
    /// The same, and it is to leave the cluster for ever.
    Removed,
}

impl Duty {
    fn is_in_service(&self) -> bool {
        *self == Duty::InService
    }
}

/// Permission to join, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Of the secret, in hexadecimal.
    pub hash: String,
    /// Seconds since 1970.
    pub expires_unix_s: u64,
    /// Who used it up.
    #[serde(with = "wire::opt")]
    pub used_by: Option<NodeId>,
}

/// A virtual disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Its id, the key in `State::volumes`.
    #[serde(with = "wire::one")]
    pub id: VolumeId,
    /// Unique among the volumes that are not being deleted.
    pub name: String,
    /// Bytes that the guest is to see.
    #[serde(with = "wire::size")]
    pub size: VolumeSize,
    /// The size that its log begins with.
    #[serde(with = "wire::size")]
    pub first_size: VolumeSize,
    /// The last decisions about its size, numbered, oldest first.
    #[serde(with = "wire::resizes")]
    pub resizes: Vec<(u64, VolumeSize)>,
    /// When a write is acknowledged.
    #[serde(with = "wire::DurabilityDef")]
    pub durability: Durability,
    /// W, as ordered at creation.
    pub write_quorum: u8,
    /// How W follows from the number of copies, by that order.
    #[serde(with = "wire::QuorumRuleDef")]
    pub rule: QuorumRule,
    /// What becomes of writes while one of two copies is gone; nobody has chosen: they wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degraded: Option<Degraded>,
    /// The highest epoch ever claimed.
    #[serde(with = "wire::one")]
    pub max_epoch: Epoch,
    /// Where in its life it stands.
    pub phase: Phase,
    /// Of its forced recoveries, the last few, oldest first: with one its lineage is lossy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub receipts: Vec<Receipt>,
    /// How much its guests may ask for.
    #[serde(default, with = "wire::GuestLimitsDef", skip_serializing_if = "GuestLimits::is_none")]
    pub limits: GuestLimits,
    /// Who may open its socket.
    #[serde(default, with = "wire::SocketAccessDef", skip_serializing_if = "SocketAccess::is_default")]
    pub socket: SocketAccess,
    /// The control plane was recovered since it was last opened: the active epoch has no records, and this one is the last that is known
    /// to have had any.
    #[serde(default, with = "wire::opt", skip_serializing_if = "Option::is_none")]
    pub recovered: Option<Epoch>,
}

/// The life of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "nearly every volume is open: boxing that would cost more than it saves")]
pub enum Phase {
    /// Some chosen node has not registered its copy.
    Creating {
        /// Who is to lead first.
        #[serde(with = "wire::one")]
        primary: NodeId,
        /// The chosen nodes, and what they registered.
        #[serde(with = "wire::incarnations")]
        copies: BTreeMap<NodeId, Option<Incarnation>>,
    },
    /// In use.
    Open {
        /// What decides now.
        #[serde(with = "wire::ConfigurationDef")]
        active: Configuration,
        /// The newest claim.
        #[serde(with = "wire::pending")]
        pending: Option<Pending>,
        /// Who should claim next.
        #[serde(with = "wire::nominee")]
        nominee: Option<Nominee>,
        /// The copies that are to be, and what is to be done until then.
        copies: Copies,
    },
    /// Nobody may use it; these nodes have not deleted their copies yet.
    Deleting {
        /// Nodes with a copy.
        #[serde(with = "wire::list")]
        copies: BTreeSet<NodeId>,
    },
}

impl Volume {
    /// The nodes with a copy, ascending.
    #[must_use]
    pub fn holders(&self) -> Vec<NodeId> {
        match &self.phase {
            Phase::Creating { copies, .. } => copies.keys().copied().collect(),
            Phase::Open { active, copies, .. } => {
                let members = active.members.iter().map(|m| m.node);
                let others = copies.learners.keys().chain(&copies.dropped).chain(copies.aside.keys()).copied();
                let all: BTreeSet<NodeId> = members.chain(others).collect();
                all.into_iter().collect()
            }
            Phase::Deleting { copies } => copies.iter().copied().collect(),
        }
    }

    /// Whether it is open and `node` holds a copy that counts or learns.
    #[must_use]
    pub fn has_copy_in_use(&self, node: NodeId) -> bool {
        match &self.phase {
            Phase::Open { active, copies, .. } => active.member(node).is_some() || copies.learner(node).is_some(),
            Phase::Creating { .. } | Phase::Deleting { .. } => false,
        }
    }

    /// Who leads it, or is to.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        match &self.phase {
            Phase::Creating { primary, .. } => Some(*primary),
            Phase::Open { active, nominee, .. } => nominee.map(|n| n.node).or(active.primary),
            Phase::Deleting { .. } => None,
        }
    }

    /// The registered on-disk state of the copy on `node` (S20).
    #[must_use]
    pub fn incarnation(&self, node: NodeId) -> Option<Incarnation> {
        match &self.phase {
            Phase::Creating { copies, .. } => copies.get(&node).copied().flatten(),
            Phase::Open { active, copies, .. } => {
                let learner = || copies.registered().into_iter().find(|m| m.node == node);
                active.member(node).or_else(learner).map(|m| m.incarnation)
            }
            Phase::Deleting { .. } => None,
        }
    }

    /// Whether a copy on `node` is wanted, counts, or is to count.
    #[must_use]
    pub fn counts_on(&self, node: NodeId) -> bool {
        let member = matches!(&self.phase, Phase::Open { active, .. } if active.member(node).is_some());
        member || self.is_wanted_on(node)
    }

    /// Whether a copy on `node` is wanted.
    pub(crate) fn is_wanted_on(&self, node: NodeId) -> bool {
        match &self.phase {
            Phase::Creating { copies, .. } => copies.contains_key(&node),
            Phase::Open { copies, .. } => copies.wanted.contains(&node),
            Phase::Deleting { .. } => false,
        }
    }

    /// Whether the node can't go: its copy counts, or is kept because the volume went on without it and nobody counts in its place yet.
    #[must_use]
    pub fn needs(&self, node: NodeId) -> bool {
        let kept = matches!(&self.phase, Phase::Open { copies, .. } if copies.left_out.contains_key(&node));
        kept || self.counts_on(node)
    }

    pub(crate) fn is_deleting(&self) -> bool {
        matches!(self.phase, Phase::Deleting { .. })
    }
}

impl State {
    /// A cluster without nodes. The founder's `AddNode` comes first and gets id 1.
    #[must_use]
    pub fn new(cluster: ClusterId, name: impl Into<String>) -> State {
        State {
            cluster,
            name: name.into(),
            nodes: BTreeMap::new(),
            volumes: BTreeMap::new(),
            tokens: BTreeMap::new(),
            next_node: NodeId(1),
            next_volume: VolumeId(1),
            version: ClusterVersion::FIRST,
            recoveries: Vec::new(),
        }
    }

    /// The nodes that are not removed, by id.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|n| !n.removed)
    }

    /// The volumes, by id.
    pub fn volumes(&self) -> impl Iterator<Item = &Volume> {
        self.volumes.values()
    }

    /// A node that is not removed.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id).filter(|n| !n.removed)
    }

    /// The node of that name that is not removed.
    #[must_use]
    pub fn node_by_name(&self, name: &str) -> Option<NodeId> {
        self.nodes.iter().find(|(_, n)| !n.removed && n.name == name).map(|(id, _)| *id)
    }

    /// The volume of that name that is not being deleted.
    #[must_use]
    pub fn volume_by_name(&self, name: &str) -> Option<VolumeId> {
        self.volumes.iter().find(|(_, v)| !v.is_deleting() && v.name == name).map(|(id, _)| *id)
    }

    /// An open volume as its copies see it; `None` while it is being created or deleted.
    #[must_use]
    pub fn view(&self, volume: VolumeId) -> Option<VolumeView> {
        let v = self.volumes.get(&volume)?;
        let Phase::Open { active, pending, nominee, copies } = &v.phase else { return None };
        let (learners, leaving) = (copies.registered(), copies.leaving(active));
        let alone = copies.alone.map(|a| a.node);
        let (active, pending, nominee) = (active.clone(), pending.clone(), *nominee);
        let (size, resizes, durability, rule) = (v.size, v.resizes.clone(), v.durability, v.rule);
        let (forced, recovered) = (recovery::forced(&v.receipts, &active), v.recovered);
        Some(VolumeView {
            volume,
            size,
            resizes,
            durability,
            active,
            pending,
            nominee,
            learners,
            leaving,
            alone,
            rule,
            forced,
            recovered,
        })
    }

    /// The open volumes of which `node` holds a copy that counts or learns.
    #[must_use]
    pub fn views_for(&self, node: NodeId) -> Vec<VolumeView> {
        // A view is large: it is made of those alone that are wanted.
        let volumes = self.volumes.iter().filter(|(_, v)| v.has_copy_in_use(node));
        volumes.filter_map(|(id, _)| self.view(*id)).collect()
    }

    /// Copies that `node` must create and register, with the size that their log begins with.
    #[must_use]
    pub fn copies_wanted(&self, node: NodeId) -> Vec<(VolumeId, VolumeSize)> {
        let wanted = |v: &Volume| match &v.phase {
            Phase::Creating { copies, .. } => copies.get(&node) == Some(&None),
            Phase::Open { copies, .. } => copies.learners.get(&node) == Some(&None) && !copies.dropped.contains(&node),
            Phase::Deleting { .. } => false,
        };
        self.volumes.iter().filter(|(_, v)| wanted(v)).map(|(id, v)| (*id, v.first_size)).collect()
    }

    /// Copies that `node` must delete and report.
    #[must_use]
    pub fn copies_unwanted(&self, node: NodeId) -> Vec<VolumeId> {
        let unwanted = |v: &Volume| match &v.phase {
            Phase::Deleting { copies } => copies.contains(&node),
            // Since a recovery of the control plane it may be another copy, made anew by those that were lost, and the last one.
            Phase::Open { copies, .. } => v.recovered.is_none() && copies.dropped.contains(&node),
            Phase::Creating { .. } => false,
        };
        self.volumes.iter().filter(|(_, v)| unwanted(v)).map(|(id, _)| *id).collect()
    }

    /// The token with that hash, if it may be used now. For the leader, before it proposes `AddNode`.
    ///
    /// # Errors
    /// Unknown, used up or expired.
    pub fn usable_token(&self, hash: &str, now_unix_s: u64) -> Result<u64, Refusal> {
        let refuse = |why| Err(Refusal::new(RefusalKind::NotFound, format!("this join token {why}; make a new one")));
        match self.tokens.iter().find(|(_, t)| t.hash == hash) {
            None => refuse("is unknown"),
            Some((_, t)) if t.used_by.is_some() => refuse("has been used"),
            Some((_, t)) if t.expires_unix_s <= now_unix_s => refuse("has expired"),
            Some((id, _)) => Ok(*id),
        }
    }

    /// For a snapshot.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self, self.version)
    }

    /// From a snapshot, by an agent that speaks these versions.
    ///
    /// # Errors
    /// No snapshot, one of a version that is not spoken here, or one that contradicts itself.
    pub fn decode(bytes: &[u8], speaks: Speaks) -> Result<State, DecodeError> {
        let state: State = decode(bytes, speaks)?;
        if !speaks.contains(state.version) {
            return Err(DecodeError::Version { speaks, found: state.version.0 });
        }
        state.check().map_err(DecodeError::Contradiction)?;
        Ok(state)
    }

    /// Panics unless the invariants hold: a node must not act on a state that breaks them.
    pub fn validate(&self) {
        if let Err(what) = self.check() {
            panic!("the replicated state breaks an invariant: {what}");
        }
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        ensure(self.nodes.iter().all(|(id, n)| *id == n.id), "a node is filed under another id")?;
        ensure(self.volumes.iter().all(|(id, v)| *id == v.id), "a volume is filed under another id")?;
        ensure(self.nodes.keys().all(|id| id.0 > 0 && *id < self.next_node), "an id of a node was not given away")?;
        ensure(self.volumes.keys().all(|id| id.0 > 0 && *id < self.next_volume), "an id of a volume was not given")?;
        let present: Vec<&str> = self.nodes.values().filter(|n| !n.removed).map(|n| n.name.as_str()).collect();
        ensure(present.iter().collect::<BTreeSet<_>>().len() == present.len(), "two nodes have one name")?;
        let names: Vec<&str> = self.volumes.values().filter(|v| !v.is_deleting()).map(|v| v.name.as_str()).collect();
        ensure(names.iter().collect::<BTreeSet<_>>().len() == names.len(), "two volumes have one name")?;
        self.volumes.values().try_for_each(|volume| self.check_volume(volume))?;
        regime::check(&self.recoveries)
    }

    /// What a command may have broken that changed this volume alone: a cluster has thousands of others, and each node carries out every
    /// command.
    pub(crate) fn check_one(&self, id: VolumeId) -> Result<(), String> {
        let Some(volume) = self.volumes.get(&id) else { return Ok(()) };
        ensure(volume.id == id, "a volume is filed under another id")?;
        ensure(id.0 > 0 && id < self.next_volume, "an id of a volume was not given")?;
        self.check_volume(volume)
    }

    fn check_volume(&self, volume: &Volume) -> Result<(), String> {
        let (id, holders) = (volume.id, volume.holders());
        ensure(!holders.is_empty(), format!("{id} has no copy"))?;
        ensure(holders.iter().all(|n| self.node(*n).is_some()), format!("{id} has a copy on no node"))?;
        let counted = volume.resizes.windows(2).all(|w| w[1].0 == w[0].0 + 1);
        let wanted = volume.resizes.last().map_or(volume.first_size, |r| r.1);
        ensure(counted && wanted == volume.size, format!("{id} has a size that was not decided"))?;
        check_phase(volume).map_err(|what| format!("{id}: {what}"))?;
        recovery::check(&volume.receipts, volume.max_epoch).map_err(|what| format!("{id}: {what}"))?;
        volume.check_recovered().map_err(|what| format!("{id}: {what}"))?;
        volume.limits.check().map_err(|what| format!("{id}: {what}"))?;
        volume.socket.check().map_err(|what| format!("{id}: {what}"))
    }
}

fn ensure(holds: bool, otherwise: impl Into<String>) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

fn check_phase(volume: &Volume) -> Result<(), String> {
    let (active, pending, nominee, copies) = match &volume.phase {
        Phase::Open { active, pending, nominee, copies } => (active, pending, nominee, copies),
        Phase::Creating { primary, copies } => {
            ensure(copies.values().any(Option::is_none), "every copy is registered, but it is not open")?;
            return ensure(copies.contains_key(primary), "the first primary holds no copy");
        }
        Phase::Deleting { .. } => return Ok(()),
    };
    check_configuration(active)?;
    ensure(active.epoch <= volume.max_epoch, "S14: an epoch above the highest claimed one")?;
    copies.check(active)?;
    if let Some(Pending { configuration, base, same_primary, .. }) = pending {
        check_configuration(configuration)?;
        ensure(*base == active.epoch, "S21: a claim on what is not active")?;
        ensure(configuration.epoch == volume.max_epoch, "S14: an older claim survived a newer one")?;
        ensure(configuration.epoch > active.epoch, "S14: a claim does not rise")?;
        let same = configuration.members == active.members && configuration.write_quorum == active.write_quorum;
        let one =
            active.members.len() == 2 && configuration.members.iter().all(|m| Some(m.node) == configuration.primary);
        let mistaken = mutated(Mutant::LeftOutStaysMember) || mutated(Mutant::StallGoesOn);
        let alone = (one && volume.degraded == Some(Degraded::Allow)) || mistaken;
        ensure(same || alone || *same_primary, "S21: a claim changed who counts")?;
        let learns = |n| copies.registered().into_iter().find(|m| m.node == n);
        let known = configuration.members.iter().all(|m| active.member(m.node).or_else(|| learns(m.node)) == Some(*m));
        ensure(known, "S20: a claim names a copy that is not registered")?;
        let one = !same_primary || active.may_change_to(configuration);
        ensure(one, "S21: more than one member changes, or deciding sets don't meet")?;
    }
    let nominee_fits = nominee.is_none_or(|n| n.base == active.epoch && active.member(n.node).is_some());
    ensure(nominee_fits, "a nominee of another epoch, or none of the members")
}

/// The same as `Configuration::validate`, which panics; a snapshot is input.
fn check_configuration(c: &Configuration) -> Result<(), String> {
    let n = c.members.len();
    ensure((1..=holdfast_types::MAX_MEMBERS).contains(&n), "a number of members out of range")?;
    ensure(c.members.windows(2).all(|m| m[0].node < m[1].node), "members are not sorted")?;
    ensure(c.quorum_is_sound(), "W is no majority of the members")?;
    ensure(c.primary.is_none() == (c.epoch == Epoch::ZERO), "a reign without a primary")?;
    ensure(c.primary.is_none_or(|p| c.member(p).is_some()), "a primary that is no member")?;
    c.validate();
    Ok(())
}
