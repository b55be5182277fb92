//! Who lives, and how the copies are, as this node has heard.
//!
//! Heartbeats go from every node to every node, outside Raft. Times are those of this node's own clock at reception;
//! a heartbeat carries none.

use crate::command::{DecodeError, decode, encode};
use crate::integrity::Integrity;
use crate::wire;
use holdfast_types::{Epoch, Incarnation, Lsn, NodeId, Time, VolumeId};
use serde::{Deserialize, Serialize};
use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a copy may be gone before it is replaced, unless the configuration says otherwise.
pub const REPLACE_AFTER: Duration = Duration::from_mins(10);

/// What a node tells every other one, several times per failure timeout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
}

/// How one copy is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
    /// As primary: clients attached to the volume.
    #[serde(default)]
    pub clients: u32,
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
}

/// Acknowledged data with fewer copies than promised, as a primary counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
#[serde(deny_unknown_fields)]
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
#[serde(deny_unknown_fields)]
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
#[serde(deny_unknown_fields, rename_all = "snake_case")]
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

impl Heartbeat {
    /// For the wire.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// From the wire.
    ///
    /// # Errors
    /// No heartbeat of this version.
    pub fn decode(bytes: &[u8]) -> Result<Heartbeat, DecodeError> {
        decode(bytes)
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
}

impl Default for DetectorConfig {
    fn default() -> DetectorConfig {
        DetectorConfig {
            failure_timeout: Duration::from_secs(1),
            restart_patience: Duration::from_secs(2),
            nominee_patience: Duration::from_secs(3),
            nominee_patience_max: Duration::from_secs(30),
            replace_after: Some(REPLACE_AFTER),
        }
    }
}

/// Longer no node is waited for, whatever it says: its volumes would stand still behind a mistyped number.
const LONGEST_RESTART: Duration = Duration::from_mins(10);

struct Heard {
    at: Time,
    life: u64,
    /// That life is about to end: another one is to be heard of within this time after `at`.
    restarts_within: Option<Duration>,
    copies: BTreeMap<VolumeId, CopyReport>,
    /// Since when a copy says that it has failed.
    failed: BTreeMap<VolumeId, Time>,
    free_bytes: Option<u64>,
}

/// One per node. Its own heartbeats are fed to it, too.
pub struct Detector {
    pub(crate) config: DetectorConfig,
    started: Time,
    heard: BTreeMap<NodeId, Heard>,
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
        Detector { config, started: now, heard: BTreeMap::new(), leading: None }
    }

    /// A heartbeat arrived. The caller has checked that it is from whom it says.
    pub fn heard(&mut self, heartbeat: impl Borrow<Heartbeat>, now: Time) {
        let Heartbeat { node, life, copies, free_bytes } = heartbeat.borrow();
        let before = self.heard.get(node).map(|h| &h.failed);
        let since = |v: VolumeId| before.and_then(|b| b.get(&v).copied()).unwrap_or(now);
        let failed = copies.iter().filter(|c| c.failed()).map(|c| (c.volume, since(c.volume))).collect();
        let copies = copies.iter().map(|c| (c.volume, c.clone())).collect();
        let same = self.heard.get(node).filter(|h| h.life == *life);
        let restarts_within = same.and_then(|h| h.restarts_within);
        let heard = Heard { at: now, life: *life, restarts_within, copies, failed, free_bytes: *free_bytes };
        self.heard.insert(*node, heard);
    }

    /// A heartbeat arrived that brings nothing new: the copies are as that life of the node said last.
    pub fn lives(&mut self, node: NodeId, life: u64, now: Time) {
        match self.heard.get_mut(&node) {
            Some(heard) if heard.life == life => heard.at = now,
            // What another life reported says nothing about this one.
            _ => {
                let (copies, failed) = (BTreeMap::new(), BTreeMap::new());
                let heard = Heard { at: now, life, restarts_within: None, copies, failed, free_bytes: None };
                self.heard.insert(node, heard);
            }
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

    /// Since when the copy says that it has failed, if it does.
    pub(crate) fn failed_since(&self, node: NodeId, volume: VolumeId) -> Option<Time> {
        self.heard.get(&node)?.failed.get(&volume).copied()
    }

    /// What the node told of its file system.
    #[must_use]
    pub fn free_bytes(&self, node: NodeId) -> Option<u64> {
        self.heard.get(&node)?.free_bytes
    }

    /// The process of the node as last heard.
    #[must_use]
    pub fn life(&self, node: NodeId) -> Option<u64> {
        self.heard.get(&node).map(|h| h.life)
    }
}
