//! The control plane after a majority of its voters is gone for ever: what one voter has left, what it would mean to go on with that, and
//! doing it (PROTOCOL.md, G1 to G5). And the way back for a node that was given up.
//!
//! The agent is stopped: the lock is held, so that nobody votes meanwhile. Nothing is written before `recover` and `rejoin`; each is one
//! transaction of the log's file, and a copy of what was there lies beside it.

use super::OfflineError;
use super::place::Place;
use crate::error::AgentError;
use crate::identity::Identity;
use crate::paths::Paths;
use crate::peer;
use crate::raft_store::{Inspected, RaftStore};
use crate::{random, regime, versions};
use holdfast_cluster::{Recovery, State};
use holdfast_consensus::Stored;
use holdfast_node::control::{RecoveryOrder, RecoveryRefusal, Remains};
use holdfast_types::{Generation, NodeId};
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::Path;

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegimeError {
    /// The directory.
    #[error(transparent)]
    Place(#[from] OfflineError),
    /// What is in it.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The command makes no sense as written.
    #[error("{0}")]
    Usage(String),
    /// It would be unsafe, or of no use.
    #[error("{0}")]
    Refused(String),
}

/// The log of another voter that is left, as the plan on its host says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherLog {
    /// Its node's name.
    pub node: String,
    /// Term of its last entry.
    pub term: u64,
    /// Its last entry.
    pub index: u64,
}

/// What a recovery on this node would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ControlPlan {
    /// The cluster's name.
    pub cluster: String,
    /// This node.
    pub node: String,
    /// The generation of its log.
    pub generation: String,
    /// A later one, of which this node was told that it was given up by it: recovering here would end that one.
    pub superseded_by: Option<String>,
    /// The one that would begin; none: nothing was given up yet, or it is refused.
    pub next_generation: Option<String>,
    /// Term of the last entry.
    pub term: u64,
    /// The last entry: of several survivors the one with the greatest (term, index) has the most.
    pub index: u64,
    /// Up to here this node knows what was agreed on.
    pub committed: u64,
    /// Who votes.
    pub voters: Vec<String>,
    /// Who would be given up.
    pub lost: Vec<String>,
    /// Other voters that are left, and whether their logs are known to be no longer than this one.
    pub others: Vec<OtherVoter>,
    /// Nodes that go over to the new regime by themselves.
    pub go_over: Vec<String>,
    /// What becomes of each volume.
    pub volumes: Vec<VolumeProspect>,
    /// The key with which new nodes are admitted lies here.
    pub admits: bool,
}

/// A voter that is left beside this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OtherVoter {
    /// Its node.
    pub node: String,
    /// Its log ends here; none: nobody said.
    pub ends: Option<(u64, u64)>,
    /// It has more than this node.
    pub longer: bool,
}

/// What a recovery means for a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VolumeProspect {
    /// Its name.
    pub name: String,
    /// The last epoch that is known here.
    pub epoch: u64,
    /// Nodes whose copies count.
    pub members: Vec<String>,
    /// Those of them that would be given up.
    pub lost: Vec<String>,
    /// It opens when the others answer. Otherwise its lost copies have to be given up as well.
    pub by_itself: bool,
}

/// A voter's files, locked.
#[derive(Debug)]
pub struct ControlFiles {
    _place: Place,
    paths: Paths,
    identity: Identity,
    recovery: Option<Recovery>,
    met: Option<Recovery>,
    remains: Option<Remains>,
}

impl ControlFiles {
    /// Looks into a data directory of a stopped agent.
    ///
    /// # Errors
    /// It is none, an agent runs, or what is in it can't be read.
    pub fn open(dir: &Path) -> Result<ControlFiles, RegimeError> {
        let place = Place::find(dir)?;
        let Some(paths) = place.paths.clone() else {
            let found = "is a part of one";
            return Err(OfflineError::Place { dir: dir.to_path_buf(), found }.into());
        };
        let speaks = versions::speaks()?;
        versions::check(&paths, speaks)?;
        let identity = Identity::find(&paths.identity())?;
        let identity = identity.ok_or_else(|| AgentError::NotMember { data_dir: dir.to_path_buf() })?;
        if paths.removed().exists() {
            let (cluster, data_dir) = (identity.cluster.to_string(), dir.to_path_buf());
            return Err(AgentError::Removed { cluster, data_dir }.into());
        }
        let path = paths.raft();
        if !path.exists() {
            return Err(AgentError::RaftMissing { path }.into());
        }
        let Inspected { owner, recovery, stored } = RaftStore::inspect(&path)?;
        if let Some(found) = owner.filter(|found| *found != identity.owner()) {
            return Err(AgentError::ForeignLog { path, expected: identity.owner(), found }.into());
        }
        let remains = Remains::of(&stored, identity.cluster, speaks)
            .map_err(|e| AgentError::RaftDamaged { path, reason: e.to_string() })?;
        let met = regime::met(&paths)?;
        Ok(ControlFiles { _place: place, paths, identity, recovery, met, remains })
    }

    /// What going on with this node would mean if the voters of these names are gone for ever. Nothing is changed.
    ///
    /// # Errors
    /// A name that is none, or a recovery that is refused.
    pub fn plan(&self, lost: &[String], others: &[OtherLog]) -> Result<ControlPlan, RegimeError> {
        let remains = self.remains()?;
        let (state, log) = (remains.state(), remains.log());
        let given_up = self.named(lost)?;
        let ordered = if lost.is_empty() { None } else { Some(self.order(&given_up)?) };
        let name = |n: &NodeId| name(state, *n);
        let names = |nodes: &mut dyn Iterator<Item = &NodeId>| nodes.map(name).collect::<Vec<_>>();
        let me = self.identity.node;
        let left: Vec<&NodeId> = log.voters.iter().filter(|n| **n != me && !given_up.contains(n)).collect();
        if let Some(other) = others.iter().find(|o| !left.iter().any(|n| name(n) == o.node)) {
            let left: Vec<String> = left.iter().map(|n| name(n)).collect();
            let (left, found) = (left.join(", "), &other.node);
            return Err(RegimeError::Usage(format!(
                "expected --other to name voters that are left ({left}), found {found:?}"
            )));
        }
        let ends = |n: &NodeId| others.iter().find(|o| o.node == name(n)).map(|o| (o.term, o.index));
        let others: Vec<OtherVoter> = left
            .iter()
            .map(|n| {
                let ends = ends(n);
                OtherVoter { node: name(n), ends, longer: ends.is_some_and(|e| e > (log.term, log.index)) }
            })
            .collect();
        let volumes = state.prospects(&given_up).into_iter().map(|p| VolumeProspect {
            name: p.name,
            epoch: p.epoch.0,
            members: names(&mut p.members.iter()),
            lost: names(&mut p.given_up.iter()),
            by_itself: p.by_itself,
        });
        let go_over: Vec<NodeId> = state.nodes().map(|n| n.id).filter(|n| *n != me && !given_up.contains(n)).collect();
        Ok(ControlPlan {
            cluster: state.name.clone(),
            node: self.identity.name.clone(),
            generation: state.generation().to_string(),
            superseded_by: self.superseded_by().map(|r| r.generation.to_string()),
            next_generation: ordered.map(|r| r.generation.to_string()),
            term: log.term,
            index: log.index,
            committed: log.commit,
            voters: names(&mut log.voters.iter()),
            lost: names(&mut given_up.iter()),
            others,
            go_over: names(&mut go_over.iter()),
            volumes: volumes.collect(),
            admits: self.paths.ca_key().exists(),
        })
    }

    /// Goes on with this node as the only voter of a later generation.
    ///
    /// # Errors
    /// It is refused, as the plan is, or the file can't be written.
    pub fn recover(self, lost: &[String]) -> Result<Recovery, RegimeError> {
        let given_up = self.named(lost)?;
        let recovery = self.order(&given_up)?;
        let Some(remains) = self.remains else { return Err(self.nothing()) };
        let stored = remains.recovered(recovery.clone()).map_err(RegimeError::Refused)?;
        write(&self.paths, &self.identity, &recovery, &stored)?;
        Ok(recovery)
    }

    /// A node that was given up takes part in the regime that it was told of, as one that listens.
    ///
    /// # Errors
    /// It was not given up, or the file can't be written.
    pub fn rejoin(self) -> Result<Recovery, RegimeError> {
        let own = self.recovery.as_ref().map_or(Generation::FIRST, |r| r.generation);
        let Some(met) = self.met.filter(|met| met.generation > own) else {
            return Err(RegimeError::Refused(format!(
                "expected a node that was told that it was given up when the control plane was recovered, found that {} takes part in \
                 generation {own} and knows of no later one; start its agent: if there is one, it is told",
                self.identity.name
            )));
        };
        // Whoever tells it more has to be let in.
        let known = self.remains.iter().flat_map(|r| r.state().nodes()).map(|n| (n.id, n.address.clone())).collect();
        self.identity.clone().remember(&self.paths, &known)?;
        write(&self.paths, &self.identity, &met, &Stored::default())?;
        Ok(met)
    }

    /// The recovery of which this node was told that it was given up, if it has not rejoined since.
    #[must_use]
    pub fn superseded_by(&self) -> Option<&Recovery> {
        let own = self.recovery.as_ref().map_or(Generation::FIRST, |r| r.generation);
        self.met.as_ref().filter(|met| met.generation > own)
    }

    fn remains(&self) -> Result<&Remains, RegimeError> {
        self.remains.as_ref().ok_or_else(|| self.nothing())
    }

    fn nothing(&self) -> RegimeError {
        RegimeError::Refused(format!(
            "expected a node that holds what the control plane agreed on, found that {} never received any of it; recover on a node that \
             votes",
            self.identity.name
        ))
    }

    fn named(&self, names: &[String]) -> Result<BTreeSet<NodeId>, RegimeError> {
        let state = self.remains()?.state();
        let named = |name: &String| {
            let known: Vec<&str> = state.nodes().map(|n| n.name.as_str()).collect();
            let known = known.join(", ");
            let found = state.node_by_name(name);
            found.ok_or_else(|| RegimeError::Usage(format!("expected --lost to name nodes of {known}, found {name:?}")))
        };
        names.iter().map(named).collect()
    }

    fn order(&self, given_up: &BTreeSet<NodeId>) -> Result<Recovery, RegimeError> {
        let remains = self.remains()?;
        let met = self.met.as_ref().map_or(Generation::FIRST, |r| r.generation);
        let by = peer::operator(Some(peer::own_uid()));
        let order = RecoveryOrder { node: self.identity.node, given_up, met, by, at_ms: random::unix_ms() };
        remains.order(order).map_err(|why| RegimeError::Refused(self.refusal(&why, given_up)))
    }

    fn refusal(&self, why: &RecoveryRefusal, given_up: &BTreeSet<NodeId>) -> String {
        let state = self.remains.as_ref().map(Remains::state);
        let name = |n: &NodeId| state.map_or_else(|| n.to_string(), |s| name(s, *n));
        let list = |nodes: &[NodeId]| nodes.iter().map(name).collect::<Vec<_>>().join(", ");
        let me = &self.identity.name;
        let done = self.recovery.as_ref().filter(|r| r.node == self.identity.node);
        if let Some(r) = done.filter(|r| given_up.iter().all(|n| r.given_up.contains(n))) {
            return format!(
                "expected a control plane whose majority is lost, found that it was recovered here already, as generation {}, by {}; nothing is \
                 left to be done: start the agent of {me}",
                r.generation,
                regime::who(&r.by)
            );
        }
        match why {
            RecoveryRefusal::NoVoter { voters } => format!(
                "expected a node that votes, found that {me} only listens; the voters are {}: recover on one of them that is left",
                list(voters)
            ),
            RecoveryRefusal::NotToGiveUp { node, .. } if *node == self.identity.node => {
                format!(
                    "expected --lost to name nodes that are gone for ever, found {me}, on which the control plane is to go on"
                )
            }
            RecoveryRefusal::NotToGiveUp { node, voters } => format!(
                "expected --lost to name voters ({}), found {}, which has no vote; a node without one is removed later, with `holdfast node \
                 remove`",
                list(voters),
                name(node)
            ),
            RecoveryRefusal::MajorityLeft { left, voters } => format!(
                "expected a majority of the voters {} to be gone for ever, found that {left} of {} would be left, which are enough; start them: \
                 they agree without any recovery",
                list(voters),
                voters.len()
            ),
            RecoveryRefusal::TooMany => "expected a generation to be left, found none".to_owned(),
        }
    }
}

fn write(paths: &Paths, identity: &Identity, recovery: &Recovery, stored: &Stored) -> Result<(), RegimeError> {
    RaftStore::open(&paths.raft(), &identity.owner())?.go_over(recovery, stored)?;
    // Of no use any more: a generation that is not above this one means nothing to this node.
    let _ = std::fs::remove_file(paths.superseded());
    Ok(())
}

fn name(state: &State, node: NodeId) -> String {
    state.nodes.get(&node).map_or_else(|| node.to_string(), |n| n.name.clone())
}
