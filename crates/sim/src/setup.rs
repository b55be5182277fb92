//! What is chosen around a seed: profile, shape of the cluster, timers, cuts. What is not chosen, the seed decides.

use crate::cuts::Cuts;
use crate::faults::Declared;
use crate::log::{MS, Nanos};
use crate::options::{Mutant, Options, VolumePlan, index};
use crate::profiles::{PROFILES, Profile};
use crate::world::GIVE_UP;
use holdfast_types::{Durability, NodeId, Rng};
use std::time::Duration;

/// Nodes of a world: fewer could not outvote one, more would take long.
pub(crate) const NODES: std::ops::RangeInclusive<u64> = 3..=15;
/// Volumes of a world.
pub(crate) const VOLUMES: std::ops::RangeInclusive<u64> = 1..=16;
/// Copies of a volume.
pub(crate) const COPIES: std::ops::RangeInclusive<u64> = 2..=7;

/// What is chosen; the default chooses nothing.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The mix of faults.
    pub profile: &'static Profile,
    /// The cluster.
    pub topology: Option<Topology>,
    /// Its timers.
    pub timing: Option<Timing>,
    /// What is left out.
    pub cuts: Cuts,
    /// How the world misbehaves.
    pub mutant: Option<Mutant>,
    /// One failure, whose effect on the first volume is measured.
    pub episode: Option<Episode>,
}

/// A failure in a calm world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Episode {
    /// The host of the primary fails.
    PrimaryHost,
    /// Its rack fails: all nodes whose number has the same remainder by this many.
    PrimaryRack {
        /// Racks of the cluster.
        racks: u64,
    },
    /// So many hosts fail that nobody can serve; then, much later, as many copies as are needed are there again.
    CopiesReturn,
}

/// Nodes of a world, at most.
#[must_use]
pub const fn most_nodes() -> u64 {
    *NODES.end()
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            profile: &PROFILES[0],
            topology: None,
            timing: None,
            cuts: Cuts::default(),
            mutant: None,
            episode: None,
        }
    }
}

/// A cluster's shape. Which nodes hold a volume, its size and its load are drawn by the seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    nodes: u64,
    volumes: Vec<VolumeShape>,
}

/// Copies of a volume, and how many of them hold a write before it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeShape {
    /// Copies, each on another node.
    pub copies: u64,
    /// Copies that acknowledge; `None` is a majority.
    pub write_quorum: Option<u64>,
}

/// A shape that no cluster has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found {found}; change the topology")]
pub struct BadTopology {
    expected: String,
    found: u64,
}

impl Topology {
    /// A cluster with volumes.
    ///
    /// # Errors
    /// Numbers out of bounds, or a volume with more copies than nodes.
    pub fn new(nodes: u64, volumes: Vec<VolumeShape>) -> Result<Topology, BadTopology> {
        let check = |fits: bool, expected: String, found: u64| {
            if fits { Ok(()) } else { Err(BadTopology { expected, found }) }
        };
        check(NODES.contains(&nodes), format!("{} to {} nodes", NODES.start(), NODES.end()), nodes)?;
        let count = volumes.len() as u64;
        check(VOLUMES.contains(&count), format!("{} to {} volumes", VOLUMES.start(), VOLUMES.end()), count)?;
        for shape in &volumes {
            let most = nodes.min(*COPIES.end());
            let copies = COPIES.contains(&shape.copies) && shape.copies <= most;
            check(copies, format!("{} to {most} copies on {nodes} nodes", COPIES.start()), shape.copies)?;
            let quorum = shape.write_quorum();
            let least = shape.copies / 2 + 1;
            let fits = (least..=shape.copies).contains(&quorum);
            check(fits, format!("a write quorum of {least} to {} of {0} copies", shape.copies), quorum)?;
        }
        Ok(Topology { nodes, volumes })
    }
}

impl VolumeShape {
    fn write_quorum(&self) -> u64 {
        self.write_quorum.unwrap_or(self.copies / 2 + 1)
    }
}

/// The timers of a cluster, as its configuration file sets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    lease: Duration,
    heartbeat: Duration,
    failure_timeout: Duration,
}

/// Timers that no configuration file may have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {name} of {least:?} to {most:?}, found {found:?}; change the timers")]
pub struct BadTiming {
    name: &'static str,
    least: Duration,
    most: Duration,
    found: Duration,
}

impl Timing {
    /// `lease`: how long a primary serves without hearing from a quorum. `heartbeat`: time between two beats of a node.
    /// `failure_timeout`: silence after which a node counts as failed.
    ///
    /// # Errors
    /// What the daemon refuses as well.
    pub fn new(lease: Duration, heartbeat: Duration, failure_timeout: Duration) -> Result<Timing, BadTiming> {
        let minute = Duration::from_secs(60);
        let check = |name, found: Duration, least: Duration, most: Duration| {
            if found < least || found > most { Err(BadTiming { name, least, most, found }) } else { Ok(()) }
        };
        check("heartbeat", heartbeat, Duration::from_millis(10), Duration::from_secs(10))?;
        check("failure_timeout", failure_timeout, heartbeat * 3, minute)?;
        check("lease", lease, heartbeat * 2, minute)?;
        Ok(Timing { lease, heartbeat, failure_timeout })
    }
}

impl Setup {
    /// The world of a seed under what was chosen.
    pub(crate) fn options(&self, seed: u64) -> Options {
        let mut options = Options::draw(seed, self);
        self.profile.of(seed).tune(&mut options);
        if let Some(timing) = self.timing {
            options.set_timing(timing);
        }
        options.mutant = self.mutant;
        if let Some(mutant) = self.mutant {
            options.suit(mutant);
        }
        if let Some(episode) = self.episode {
            options.set_episode(episode, seed);
        }
        options.cut(&self.cuts);
        options
    }

    /// How many nodes, if that was chosen.
    pub(crate) fn nodes(&self) -> Option<u64> {
        self.topology.as_ref().map(|t| t.nodes)
    }

    /// The shape of each volume, if that was chosen.
    pub(crate) fn volumes(&self) -> Option<&[VolumeShape]> {
        self.topology.as_ref().map(|t| t.volumes.as_slice())
    }
}

impl VolumeShape {
    /// Makes this the shape of a volume that would have another one.
    pub(crate) fn of(&self) -> (usize, usize) {
        (index(self.copies), index(self.write_quorum()))
    }
}

impl Options {
    fn set_timing(&mut self, timing: Timing) {
        self.timers.lease = timing.lease;
        self.beat = timing.heartbeat;
        let control = &mut self.control;
        (control.heartbeat, control.failure_timeout) = (timing.heartbeat, timing.failure_timeout);
        // The daemon's tick, unless that is longer than the timeout.
        control.tick = Duration::from_millis(100).min(timing.failure_timeout);
        // Some changes of epoch in a row, each after a lease and a detection.
        self.heal_bound = self.heal_bound.max(6 * nanos(timing.lease + timing.failure_timeout));
    }

    /// Copies of neighbours by number: they are in different racks. The founder of the cluster is one among all.
    fn set_episode(&mut self, episode: Episode, seed: u64) {
        self.episode = Some(episode);
        self.declared = Declared::Nothing;
        self.storm = GIVE_UP;
        self.requests = self.requests.min(200);
        let mut rng = Rng::new(seed ^ 0x65_7069_736f_6465);
        let count = self.nodes.len() as u64;
        for volume in &mut self.volumes {
            // With `flush` the stall lasts until every member whose memory counts has answered: another measure.
            volume.durability = Durability::Sync;
            let first = rng.below(count);
            let copies = volume.members.len() as u64;
            volume.members = (first..first + copies).map(|i| self.nodes[index(i % count)]).collect();
            volume.members.sort_unstable();
            volume.first_primary = volume.members[index(rng.below(copies))];
        }
    }

    fn cut(&mut self, cuts: &Cuts) {
        self.kept_faults.clone_from(&cuts.faults);
        self.order = cuts.order.unwrap_or(0);
        self.storm = self.storm.min(cuts.storm_ms.map_or(Nanos::MAX, |ms| ms.saturating_mul(MS))).max(MS);
        self.requests = self.requests.min(cuts.requests.unwrap_or(u64::MAX));
        if let Some(kept) = cuts.volumes.as_ref().filter(|k| self.volumes.iter().any(|v| k.contains(&v.id.0))) {
            self.volumes.retain(|v| kept.contains(&v.id.0));
        }
        if let Some(clients) = cuts.clients {
            self.volumes.iter_mut().for_each(|v| v.clients = v.clients.min(index(clients.max(1))));
        }
        if let Some(nodes) = cuts.nodes {
            self.nodes.truncate(index(nodes.max(*NODES.start())));
            let nodes = &self.nodes;
            self.control.named.retain(|n| nodes.contains(n));
            self.control.learner = self.control.learner.filter(|n| nodes.contains(n));
            self.volumes.iter_mut().for_each(|v| v.stay_on(nodes));
        }
    }
}

impl VolumePlan {
    /// Some nodes are not there: copies on them are not there either, or on others if too few would remain.
    fn stay_on(&mut self, nodes: &[NodeId]) {
        let all = usize::from(self.write_quorum) == self.members.len();
        let had = self.members.len();
        self.members.retain(|m| nodes.contains(m));
        let spare: Vec<NodeId> = nodes.iter().copied().filter(|n| !self.members.contains(n)).collect();
        self.members.extend(spare.into_iter().take(2_usize.saturating_sub(self.members.len())));
        self.members.sort_unstable();
        if !self.members.contains(&self.first_primary) {
            self.first_primary = self.members[0];
        }
        if self.members.len() < had {
            let majority = self.members.len() / 2 + 1;
            let quorum = if all { self.members.len() } else { majority };
            self.write_quorum = u8::try_from(quorum).expect("at most seven copies");
        }
    }
}

fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(Nanos::MAX)
}
