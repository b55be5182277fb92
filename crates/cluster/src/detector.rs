//! Who lives, and how the copies are, as this node has heard.
//!
//! Heartbeats go from every node to every node, outside Raft. Times are those of this node's own clock at reception;
//! a heartbeat carries none. Fields that are not known here are passed over: nothing is decided by a heartbeat alone.

use crate::command::{DecodeError, encode};
use crate::integrity::Integrity;
use crate::wire;
use holdfast_types::{
    BLOCK_SIZE, ClusterVersion, Epoch, Incarnation, Lsn, Mutant, NodeId, Speaks, Time, VolumeId, mutated,
};
use serde::{Deserialize, Serialize};
use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a copy may be gone before it is replaced, unless the configuration says otherwise.
pub const REPLACE_AFTER: Duration = Duration::from_mins(10);
/// How long every node has to speak a later version before the cluster is raised to it: a node whose first start with it fails at once
/// can be put back.
pub const RAISE_AFTER: Duration = Duration::from_secs(10);

/// What a node tells every other one, several times per failure timeout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The sender.
    #[serde(with = "wire::one")]
    pub node: NodeId,
    /// Its process.
    pub life: u64,
    /// All its copies.
    pub copies: Vec<CopyReport>,
    /// On the file system of its copies, if it knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<u64>,
    /// The longest file that this file system takes, if the node knows: no longer volume can have a copy there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest_file: Option<u64>,
}

/// What has changed since the node said all, or since its last change. Of version 2.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// The node, with the reports of those copies alone that fare otherwise than before.
    pub of: Heartbeat,
    /// Counts the changes of that life, from 1: who missed one asks for all.
    pub number: u64,
    /// Copies that there are no more.
    #[serde(default, with = "wire::list", skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<VolumeId>,
}

/// How one copy is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyReport {
    /// The volume.
    #[serde(with = "wire::one")]
    pub volume: VolumeId,
    /// Epoch of the last record it holds.
    #[serde(with = "wire::one")]
    pub epoch: Epoch,
    /// What it does.
    pub role: CopyRole,
    /// How it fares.
    pub state: CopyState,
    /// In memory.
    #[serde(with = "wire::one")]
    pub received: Lsn,
    /// On stable storage.
    #[serde(with = "wire::one")]
    pub durable: Lsn,
    /// Known to be committed and held.
    #[serde(with = "wire::one")]
    pub committed: Lsn,
    /// In the image.
    #[serde(with = "wire::one")]
    pub applied: Lsn,
    /// Of the image at `applied`.
    pub digest: Option<u64>,
    /// Why it is not better, for the operator.
    pub reason: Option<String>,
    /// It drains for a switchover.
    pub switchover: bool,
    /// As primary: copies that its log no longer reaches. They can't know it themselves.
    #[serde(default)]
    pub lost: Vec<LostCopy>,
    /// As primary: copies that are to become members, and what keeps each from it.
    #[serde(default)]
    pub learners: Vec<LostCopy>,
    /// As primary or claimant: members that do not follow, as far as it knows.
    #[serde(default, with = "wire::list", skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<NodeId>,
    /// What it once held durably and can't read, or took back: it stands for nothing of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damaged: Option<String>,
    /// It knows of a reign that began before the control plane was recovered, and which nobody else knows of: its log may not be the
    /// volume's, so it opens nothing before an operator says so.
    #[serde(default, skip_serializing_if = "wire::is_false")]
    pub unknown_reign: bool,
    /// As primary: clients attached to the volume.
    #[serde(default)]
    pub clients: u32,
    /// Clients asked for the volume there a short while ago and were refused, as another node leads it.
    #[serde(default, skip_serializing_if = "wire::is_false")]
    pub asked_for: bool,
    /// On its node's file system.
    #[serde(default)]
    pub space: SpaceLeft,
    /// Whether it holds what it should.
    #[serde(default)]
    pub integrity: Integrity,
    /// Bytes of the volume, as far as that is committed here, and the decision that made it so.
    #[serde(default)]
    pub size: Option<(u64, u64)>,
    /// What its device has not answered for too long, in the copy's words.
    #[serde(default)]
    pub hung: Option<String>,
    /// How far its resync by regions is, if it needs one.
    #[serde(default)]
    pub resync: Option<ResyncProgress>,
    /// Its orphans: at the adoption of which epoch they were cut, and their bytes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orphans: Vec<(u64, u64)>,
    /// What had fewer copies than promised while it led.
    #[serde(default)]
    pub exposure: Exposure,
    /// As primary: copies that are alive and slow. Of version 2.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slow: Vec<SlowCopy>,
}

/// A copy that makes records durable much later than the others do, as its primary measured it when it became so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowCopy {
    /// Who holds it.
    #[serde(with = "wire::one")]
    pub node: NodeId,
    /// Microseconds until a record is durable there.
    pub latency_us: u64,
    /// The same of the other copies.
    pub others_us: u64,
    /// It is the primary, whose way to all others is slow.
    #[serde(default)]
    pub link: bool,
}

/// Acknowledged data with fewer copies than promised, as a primary counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exposure {
    /// Bytes, now.
    pub bytes: u64,
    /// For so many seconds.
    pub seconds: u64,
    /// Bytes × seconds in this life of the process.
    pub byte_seconds: u64,
}

/// Whether a copy finds the space that it needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpaceLeft {
    /// It does.
    #[default]
    Enough,
    /// Something waits for space, writes go on for a while.
    Short,
    /// Writes wait for space.
    Out,
}

/// A resync by regions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResyncProgress {
    /// Where the regions come from now.
    #[serde(with = "wire::opt")]
    pub source: Option<NodeId>,
    /// Passes over the volume, the present one included.
    pub passes: u64,
    /// Bytes that are here.
    pub done_bytes: u64,
    /// Of so many that are known to be needed.
    pub total_bytes: u64,
    /// As measured.
    pub bytes_per_second: u64,
    /// Seconds to its end at this rate.
    pub eta_seconds: Option<u64>,
    /// Why it does not go on, if it does not.
    pub paused: Option<String>,
}

/// A copy of which its primary alone knows how it fares: one that the log no longer reaches, or a learner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostCopy {
    /// Who holds it.
    #[serde(with = "wire::one")]
    pub node: NodeId,
    /// In the primary's words.
    pub reason: String,
    /// It fetches regions from another copy; otherwise only a person can help.
    #[serde(default)]
    pub resyncs: bool,
}

/// What a copy does in the replication of its volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyRole {
    /// Leads an active epoch.
    Primary,
    /// Follows.
    Secondary,
    /// Tries to lead the next epoch.
    Claimant,
    /// Neither.
    Idle,
}

/// How a copy fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyState {
    /// Primary, answers reads and writes.
    Serving,
    /// Secondary, holds what is committed.
    InSync,
    /// Receives what it lacks of the log.
    CatchingUp,
    /// What it lacks is no longer in any log.
    Resyncing,
    /// Counts itself no more (P8).
    Failed {
        /// The device's or the checksum's word.
        reason: String,
    },
    /// Recovers, or opens an epoch.
    Opening,
    /// Promised a later epoch, follows nobody yet.
    Sealed,
    /// Given up by a forced recovery, kept as evidence. `epoch` of the report is that of its last record.
    Aside {
        /// Its on-disk state.
        #[serde(with = "wire::one")]
        incarnation: Incarnation,
        /// Nothing that it once held durably is unreadable or gone.
        whole: bool,
    },
}

/// An envelope of whatever version: what is known of its body counts.
#[derive(Deserialize)]
struct Opened<T> {
    body: T,
}

impl Changes {
    /// For the wire of a cluster in which they are told.
    #[must_use]
    pub fn encode(&self, version: ClusterVersion) -> Vec<u8> {
        assert!(version >= ClusterVersion::TOLD, "an agent of the first version does not know what changes are");
        encode(self, version)
    }

    /// From the wire.
    ///
    /// # Errors
    /// Nothing that tells of changes.
    pub fn decode(bytes: &[u8]) -> Result<Changes, DecodeError> {
        let Opened { body } = serde_json::from_slice(bytes)?;
        Ok(body)
    }
}

impl Heartbeat {
    /// For the wire of a cluster of that version.
    #[must_use]
    pub fn encode(&self, version: ClusterVersion) -> Vec<u8> {
        if version >= ClusterVersion::TOLD || mutated(Mutant::SpeaksNewTooEarly) {
            return encode(self, version);
        }
        let mut known = self.clone();
        known.longest_file = None;
        for copy in &mut known.copies {
            copy.slow.clear();
            copy.absent.clear();
            (copy.damaged, copy.asked_for) = (None, false);
        }
        encode(&known, version)
    }

    /// From the wire, by an agent that speaks these versions.
    ///
    /// # Errors
    /// No heartbeat. An agent of the first version takes nothing that it would not have written itself.
    pub fn decode(bytes: &[u8], speaks: Speaks) -> Result<Heartbeat, DecodeError> {
        let Opened::<Heartbeat> { body } = serde_json::from_slice(bytes)?;
        if !speaks.tells() && body.encode(ClusterVersion::FIRST) != bytes {
            return Err(DecodeError::Later);
        }
        Ok(body)
    }
}

impl CopyReport {
    pub(crate) fn failed(&self) -> bool {
        matches!(self.state, CopyState::Failed { .. })
    }

    /// It can neither lead nor hold anything now: it failed, or its device does not answer.
    pub(crate) fn unable(&self) -> bool {
        self.failed() || self.hung.is_some()
    }
}

/// How patient the detector is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DetectorConfig {
    /// Silence after which a node counts as dead.
    pub failure_timeout: Duration,
    /// What a live primary that does not serve gets, to claim by itself.
    pub restart_patience: Duration,
    /// What a nominee gets without progress, at first; doubles with each nominee that made none.
    pub nominee_patience: Duration,
    /// Up to here.
    pub nominee_patience_max: Duration,
    /// A copy that is gone for so long is replaced on another node; `None`: never.
    pub replace_after: Option<Duration>,
    /// A primary that is slow hands over to a copy that is not.
    pub move_slow_primary: bool,
    /// Every node speaks a later version for so long before the cluster is raised to it.
    pub raise_after: Duration,
}

impl Default for DetectorConfig {
    fn default() -> DetectorConfig {
        DetectorConfig {
            failure_timeout: Duration::from_secs(1),
            restart_patience: Duration::from_secs(2),
            nominee_patience: Duration::from_secs(3),
            nominee_patience_max: Duration::from_secs(30),
            replace_after: Some(REPLACE_AFTER),
            move_slow_primary: false,
            raise_after: RAISE_AFTER,
        }
    }
}

/// Longer no node is waited for, whatever it says: its volumes would stand still behind a mistyped number.
const LONGEST_RESTART: Duration = Duration::from_mins(10);

pub(crate) struct Heard {
    pub(crate) at: Time,
    pub(crate) life: u64,
    /// What that life speaks, and which build it is, if it has told.
    pub(crate) speaks: Option<(Speaks, String)>,
    /// That life is about to end: another one is to be heard of within this time after `at`.
    restarts_within: Option<Duration>,
    copies: BTreeMap<VolumeId, CopyReport>,
    /// Since when a copy says that it has failed.
    failed: BTreeMap<VolumeId, Time>,
    free_bytes: Option<u64>,
    longest_file: Option<u64>,
    /// All that this life of the node has told is known, up to the change of this number; `None`: not all, or it tells no changes.
    known: Option<u64>,
}

impl Heard {
    /// A word of a life of which nothing else is known.
    pub(crate) const fn first(at: Time, life: u64) -> Heard {
        Heard {
            at,
            life,
            speaks: None,
            restarts_within: None,
            copies: BTreeMap::new(),
            failed: BTreeMap::new(),
            free_bytes: None,
            longest_file: None,
            known: None,
        }
    }
}

/// One per node. Its own heartbeats are fed to it, too.
pub struct Detector {
    pub(crate) config: DetectorConfig,
    started: Time,
    pub(crate) heard: BTreeMap<NodeId, Heard>,
    /// Why the last heartbeat of a node could not be read, if so.
    pub(crate) unreadable: BTreeMap<NodeId, String>,
    /// A version that every node speaks, and since when, while this node leads.
    pub(crate) raisable: Option<(ClusterVersion, Time)>,
    /// Since when this node leads, and what it follows up.
    pub(crate) leading: Option<crate::decide::Leading>,
}

impl Detector {
    /// A detector that has heard nobody yet and gives everybody a full `failure_timeout`.
    #[must_use]
    pub fn new(failure_timeout: Duration, now: Time) -> Detector {
        Detector::with_config(DetectorConfig { failure_timeout, ..DetectorConfig::default() }, now)
    }

    /// The same with every setting.
    #[must_use]
    pub fn with_config(config: DetectorConfig, now: Time) -> Detector {
        Detector {
            config,
            started: now,
            heard: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            raisable: None,
            leading: None,
        }
    }

    /// All was told, with so many changes in it. The caller has checked that it is from whom it says.
    pub fn heard_upto(&mut self, heartbeat: impl Borrow<Heartbeat>, number: u64, now: Time) {
        let node = heartbeat.borrow().node;
        self.heard(heartbeat, now);
        self.heard.get_mut(&node).expect("it was just heard").known = Some(number);
    }

    /// A heartbeat arrived. The caller has checked that it is from whom it says.
    pub fn heard(&mut self, heartbeat: impl Borrow<Heartbeat>, now: Time) {
        let Heartbeat { node, life, copies, free_bytes, longest_file } = heartbeat.borrow();
        let before = self.heard.get(node).map(|h| &h.failed);
        let since = |v: VolumeId| before.and_then(|b| b.get(&v).copied()).unwrap_or(now);
        let failed = copies.iter().filter(|c| c.failed()).map(|c| (c.volume, since(c.volume))).collect();
        let copies = copies.iter().map(|c| (c.volume, c.clone())).collect();
        let same = self.heard.get(node).filter(|h| h.life == *life);
        let (restarts_within, speaks) = same.map_or((None, None), |h| (h.restarts_within, h.speaks.clone()));
        let (free_bytes, longest_file) = (*free_bytes, *longest_file);
        let first = Heard::first(now, *life);
        let heard = Heard { restarts_within, speaks, copies, failed, free_bytes, longest_file, ..first };
        self.heard.insert(*node, heard);
        self.unreadable.remove(node);
    }

    /// Changes arrived. False if an earlier one is missing: then the node is to be asked for all, and what it said last stands until then.
    pub fn changed(&mut self, changes: Changes, now: Time) -> bool {
        let Changes { of: Heartbeat { node, life, copies, free_bytes, longest_file }, number, gone } = changes;
        self.lives(node, life, now);
        let heard = self.heard.get_mut(&node).expect("it was just heard");
        if heard.known.is_none() || heard.known != number.checked_sub(1) {
            return heard.known >= Some(number);
        }
        (heard.known, heard.free_bytes, heard.longest_file) = (Some(number), free_bytes, longest_file);
        for volume in gone {
            heard.copies.remove(&volume);
            heard.failed.remove(&volume);
        }
        for copy in copies {
            if copy.failed() {
                heard.failed.entry(copy.volume).or_insert(now);
            } else {
                heard.failed.remove(&copy.volume);
            }
            heard.copies.insert(copy.volume, copy);
        }
        true
    }

    /// A heartbeat arrived of a node that has told of so many changes. False if not all of them are known here.
    pub fn lives_at(&mut self, node: NodeId, life: u64, number: u64, now: Time) -> bool {
        self.lives(node, life, now);
        self.heard[&node].known >= Some(number)
    }

    /// A heartbeat arrived that brings nothing new: the copies are as that life of the node said last.
    pub fn lives(&mut self, node: NodeId, life: u64, now: Time) {
        match self.heard.get_mut(&node) {
            Some(heard) if heard.life == life => heard.at = now,
            // What another life reported says nothing about this one.
            _ => drop(self.heard.insert(node, Heard::first(now, life))),
        }
    }

    /// That life of the node is about to end, and promises another one within this time, counted from its last word. It may still be heard
    /// for a while: it lets go of what it leads first.
    pub fn restarts(&mut self, node: NodeId, life: u64, within: Duration, now: Time) {
        let within = within.min(LONGEST_RESTART);
        if let Some(heard) = self.heard.get_mut(&node).filter(|h| h.life == life) {
            (heard.at, heard.restarts_within) = (now, Some(within));
        }
    }

    /// What is left of the time that a node has asked for to restart, until something is heard of its next life.
    #[must_use]
    pub fn restarting(&self, node: NodeId, now: Time) -> Option<Duration> {
        let heard = self.heard.get(&node)?;
        heard.restarts_within?.checked_sub(now.since(heard.at)).filter(|left| !left.is_zero())
    }

    /// Something else arrived from the node, after its first heartbeat on the same ordered lane.
    pub fn spoke(&mut self, node: NodeId, now: Time) {
        if let Some(heard) = self.heard.get_mut(&node) {
            heard.at = now;
        }
    }

    /// Whether the node counts as alive.
    #[must_use]
    pub fn alive(&self, node: NodeId, now: Time) -> bool {
        self.silence(node, now) < self.config.failure_timeout
    }

    /// How long nothing was heard of the node; counted from the start if never.
    #[must_use]
    pub fn silence(&self, node: NodeId, now: Time) -> Duration {
        now.since(self.heard.get(&node).map_or(self.started, |h| h.at))
    }

    /// When something was last heard of the node.
    #[must_use]
    pub fn heard_at(&self, node: NodeId) -> Option<Time> {
        self.heard.get(&node).map(|h| h.at)
    }

    /// The latest report, however old.
    #[must_use]
    pub fn report(&self, node: NodeId, volume: VolumeId) -> Option<&CopyReport> {
        self.heard.get(&node)?.copies.get(&volume)
    }

    /// Whether every copy on the node has failed: its device, or the journal under all of them. A new one would fare no better.
    #[must_use]
    pub fn has_failed(&self, node: NodeId) -> bool {
        self.heard.get(&node).is_some_and(|h| !h.copies.is_empty() && h.copies.len() == h.failed.len())
    }

    /// Since when the copy says that it has failed, if it does.
    pub(crate) fn failed_since(&self, node: NodeId, volume: VolumeId) -> Option<Time> {
        self.heard.get(&node)?.failed.get(&volume).copied()
    }

    /// What the node told of its file system.
    #[must_use]
    pub fn free_bytes(&self, node: NodeId) -> Option<u64> {
        self.heard.get(&node)?.free_bytes
    }

    /// Whether the node's file system takes a file as long as the image of a volume of `size` bytes, as far as it has told.
    ///
    /// # Errors
    /// It does not: a clause about the node, for a person.
    pub fn takes_length(&self, node: NodeId, size: u64) -> Result<(), String> {
        // An image consists of whole blocks; the tables beside it are shorter.
        let needed = size.next_multiple_of(BLOCK_SIZE as u64);
        match self.heard.get(&node).and_then(|h| h.longest_file).filter(|longest| *longest < needed) {
            Some(longest) => Err(format!("has a file system whose files have at most {longest} bytes")),
            None => Ok(()),
        }
    }

    /// The process of the node as last heard.
    #[must_use]
    pub fn life(&self, node: NodeId) -> Option<u64> {
        self.heard.get(&node).map(|h| h.life)
    }
}
