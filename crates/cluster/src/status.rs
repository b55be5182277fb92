//! The cluster at a glance: what `holdfast status` prints, as plain data.
//!
//! Made from the agreed state and from what one node has heard; two nodes may differ for the age of a heartbeat.

use crate::alone::Degraded;
use crate::detector::{CopyReport, CopyRole, CopyState, Detector, LostCopy, ResyncProgress, SlowCopy, SpaceLeft};
use crate::integrity::Integrity;
use crate::placement::Loads;
use crate::state::{Phase, State, Volume};
use crate::wire;
use holdfast_types::{
    Configuration, Durability, Epoch, GuestLimits, NodeId, Nominee, Pending, SocketAccess, Time, VolumeId,
};
use serde::Serialize;

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClusterStatus {
    /// The cluster's name.
    pub cluster: String,
    /// Nodes that are not removed.
    pub nodes: Vec<NodeStatus>,
    /// Volumes.
    pub volumes: Vec<VolumeStatus>,
    /// Of the cluster.
    pub version: u32,
    /// What keeps it from a later version that some node speaks.
    pub held_back: Option<String>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: u64,
    /// `alive`, `silent`, or `restarting` while the others wait for its next life.
    pub state: &'static str,
    /// Whether it is to vote.
    pub voter: bool,
    /// It never holds copies.
    pub witness: bool,
    /// Where it listens.
    pub address: String,
    /// What fails together with it.
    pub failure_domain: String,
    /// `in_service`, `drained` or `removed`: what is wanted of it.
    pub wanted: &'static str,
    /// Copies on it that count or are to count.
    pub copies_left: usize,
    /// What becomes of each, while the node is to hold none.
    pub notes: Vec<String>,
    /// Copies are left, and none of them can move.
    pub held: bool,
    /// On the file system of its copies, if it has told.
    pub free_bytes: Option<u64>,
    /// The oldest and newest version that it speaks, if anything was heard of it.
    pub speaks: Option<(u32, u32)>,
    /// Which build it is, if it has told.
    pub build: Option<String>,
    /// Why its heartbeats can't be read here.
    pub unreadable: Option<String>,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VolumeStatus {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: u64,
    /// Bytes that guests see.
    pub size: u64,
    /// Bytes that they are to see, while that is another number.
    pub size_wanted: Option<u64>,
    /// The active epoch.
    pub epoch: u64,
    /// The primary's name.
    pub primary: Option<String>,
    /// In one word.
    pub state: VolumeState,
    /// `sync`, `flush` or `async`.
    pub durability: &'static str,
    /// W.
    pub quorum: u8,
    /// `allow` or `stall`: what becomes of writes while one of two copies is gone; `None`: nobody has chosen.
    pub degraded: Option<&'static str>,
    /// It goes on with one copy alone, as the other one of two is gone.
    pub single_copy: bool,
    /// How many copies it is to have.
    pub copies_wanted: usize,
    /// Its copies.
    pub copies: Vec<CopyStatus>,
    /// Bytes × seconds with too few copies, counted by all who led it in their present lives; `None`: none of them was heard of.
    pub exposure: Option<u64>,
    /// Bytes that have too few copies now, and for how many seconds; `None`: no primary was heard of lately.
    pub exposed: Option<(u64, u64)>,
    /// How much its guests may ask for.
    #[serde(with = "wire::GuestLimitsDef")]
    pub limits: GuestLimits,
    /// Who may open its socket.
    #[serde(with = "wire::SocketAccessDef")]
    pub socket: SocketAccess,
    /// What is unsafe, and why; empty if healthy.
    #[serde(rename = "unsafe")]
    pub reasons: Vec<String>,
}

/// A volume in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeState {
    /// Serving with every copy in sync.
    Healthy,
    /// Serving with fewer.
    Degraded,
    /// I/O waits.
    Stalled,
    /// Being created, or between two reigns.
    Opening,
    /// Too many copies failed.
    Failed,
}

/// A copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CopyStatus {
    /// Its node's name.
    pub node: String,
    /// `primary`, `secondary`, `claimant`, `learner`, `aside`, `idle` or `unknown`.
    pub role: &'static str,
    /// `serving`, `in_sync`, `catching_up`, `resyncing`, `lost`, `failed`, `hung`, `opening`, `sealed`, `silent`, `creating`,
    /// `joining`, `leaving`, `deleting`, `aside` or `unknown`.
    pub state: &'static str,
    /// As last heard.
    pub durable_lsn: Option<u64>,
    /// As last heard.
    pub applied_lsn: Option<u64>,
    /// At `applied_lsn`, in hexadecimal.
    pub digest: Option<String>,
    /// Records behind the furthest copy.
    pub lag_lsn: Option<u64>,
    /// Whether it holds what it should, as last heard.
    pub integrity: Option<Integrity>,
    /// What keeps a copy that is joining, leaving or being deleted.
    pub note: Option<String>,
    /// Of a copy that no log reaches.
    pub resync: Option<ResyncProgress>,
    /// It is alive and slow, by the word of its primary.
    pub slow: Option<SlowCopy>,
}

/// What this node knows at `now`.
#[must_use]
pub fn status(state: &State, detector: &Detector, now: Time) -> ClusterStatus {
    let look = Look { state, detector, now, loads: Loads::default() };
    let nodes = state.nodes().map(|n| look.node(n));
    let volumes = state.volumes().map(|v| look.volume(v)).collect();
    let (version, held_back) = (state.version.0, detector.held_back(state, now));
    ClusterStatus { cluster: state.name.clone(), nodes: nodes.collect(), volumes, version, held_back }
}

/// The same of one volume; `None`: there is none of that id.
#[must_use]
pub fn volume_status(state: &State, detector: &Detector, now: Time, volume: VolumeId) -> Option<VolumeStatus> {
    Some(Look { state, detector, now, loads: Loads::default() }.volume(state.volumes.get(&volume)?))
}

/// What one node knows at one moment.
pub(crate) struct Look<'a> {
    pub(crate) state: &'a State,
    pub(crate) detector: &'a Detector,
    pub(crate) now: Time,
    pub(crate) loads: Loads,
}

impl Look<'_> {
    pub(crate) fn name(&self, node: NodeId) -> String {
        self.state.nodes.get(&node).map_or_else(|| node.to_string(), |n| n.name.clone())
    }

    fn volume(&self, v: &Volume) -> VolumeStatus {
        let (epoch, primary) = match &v.phase {
            Phase::Open { active, .. } => (active.epoch.0, active.primary),
            Phase::Creating { .. } | Phase::Deleting { .. } => (0, None),
        };
        let (state, reasons) = match &v.phase {
            Phase::Open { active, pending, nominee, copies } => {
                let (state, mut reasons) = self.open(v, active, pending.as_ref(), *nominee);
                reasons.splice(0..0, self.of_two(v, state));
                reasons.extend(self.outlook(v));
                reasons.extend(v.recovered.map(|known| self.unopened(v, active, known)));
                reasons.extend(self.stranded(v, active));
                let (now, wanted) = (active.members.len(), copies.wanted.len());
                if now < wanted {
                    reasons.push(format!("{now} of {wanted} copies count, the others are joining"));
                }
                if let Some(receipt) = v.receipts.last().filter(|_| !copies.aside.is_empty()) {
                    let who: Vec<String> = copies.aside.keys().map(|n| self.name(*n)).collect();
                    let (who, lost) = (who.join(", "), receipt.sentence(v.durability));
                    reasons.push(format!("the copies on {who} were given up by a forced recovery: {lost}"));
                }
                let fewer = now < wanted && state == VolumeState::Healthy;
                (if fewer { VolumeState::Degraded } else { state }, reasons)
            }
            Phase::Creating { copies, .. } => {
                let missing = copies.iter().filter(|(_, i)| i.is_none()).map(|(n, _)| *n);
                let waits = |n: NodeId| {
                    let why = self.cannot(v, n).map_or_else(String::new, |why| format!(", which it can't: {why}"));
                    format!("waits for {} to create its copy{why}", self.name(n))
                };
                (VolumeState::Opening, missing.map(waits).collect())
            }
            Phase::Deleting { .. } => (VolumeState::Stalled, vec!["is being deleted".to_owned()]),
        };
        VolumeStatus {
            name: v.name.clone(),
            id: v.id.0,
            size: self.size(v),
            size_wanted: Some(v.size.bytes()).filter(|wanted| *wanted != self.size(v)),
            epoch,
            primary: primary.map(|p| self.name(p)),
            state,
            durability: match v.durability {
                Durability::Sync => "sync",
                Durability::Flush => "flush",
                Durability::Async => "async",
            },
            quorum: match &v.phase {
                Phase::Open { active, .. } => active.write_quorum,
                Phase::Creating { .. } | Phase::Deleting { .. } => v.write_quorum,
            },
            degraded: v.degraded.map(Degraded::name),
            single_copy: is_single(v),
            copies_wanted: match &v.phase {
                Phase::Open { copies, .. } => copies.wanted.len(),
                Phase::Creating { .. } | Phase::Deleting { .. } => v.holders().len(),
            },
            copies: v.holders().into_iter().map(|n| self.copy(v, n)).collect(),
            exposure: self.exposure(v),
            exposed: self.exposed(v),
            limits: v.limits,
            socket: v.socket.clone(),
            reasons,
        }
    }

    /// It waits to be opened for the first time since the control plane was recovered.
    fn unopened(&self, v: &Volume, active: &Configuration, known: Epoch) -> String {
        let here = |n: NodeId| self.detector.alive(n, self.now);
        let silent: Vec<String> = active.members.iter().filter(|m| !here(m.node)).map(|m| self.name(m.node)).collect();
        let because = match silent.as_slice() {
            [] => "it opens as soon as they agree on its log".to_owned(),
            silent => format!("{} do not answer", silent.join(", ")),
        };
        format!(
            "the control plane was recovered and knows of its epochs up to {known}: members enough to know of any change since must answer, \
             {because}; for those that are gone for ever: `holdfast failover {} --force --accept-loss`",
            v.name
        )
    }

    fn exposure(&self, v: &Volume) -> Option<u64> {
        let counted = v.holders().into_iter().filter_map(|n| self.detector.report(n, v.id));
        counted.map(|r| r.exposure.byte_seconds).reduce(u64::saturating_add)
    }

    fn exposed(&self, v: &Volume) -> Option<(u64, u64)> {
        let Phase::Open { active, .. } = &v.phase else { return None };
        let report = self.fresh(v, active.primary?).filter(|r| r.state == CopyState::Serving)?;
        Some((report.exposure.bytes, report.exposure.seconds))
    }

    /// What the primary serves, as last heard: what is decided is carried out in the volume's log.
    fn size(&self, v: &Volume) -> u64 {
        let Phase::Open { active, .. } = &v.phase else { return v.size.bytes() };
        let said = active.primary.and_then(|p| self.detector.report(p, v.id)).and_then(|r| r.size);
        said.map_or(v.size.bytes(), |(bytes, _)| bytes)
    }

    /// The copy's report, if its node lives.
    pub(crate) fn fresh(&self, v: &Volume, node: NodeId) -> Option<&CopyReport> {
        self.detector.report(node, v.id).filter(|_| self.detector.alive(node, self.now))
    }

    fn copy(&self, v: &Volume, node: NodeId) -> CopyStatus {
        let report = self.detector.report(node, v.id);
        let furthest = v.holders().iter().filter_map(|n| self.detector.report(*n, v.id)).map(|r| r.durable.0).max();
        let change = change_of(v, node);
        let learns = change == Some(Change::Joins);
        CopyStatus {
            node: self.name(node),
            role: match change {
                _ if learns => "learner",
                Some(Change::Stays) => "aside",
                _ => report.map_or("unknown", |r| role_word(r.role)),
            },
            state: self.copy_state(v, node, change),
            note: self.note_of(v, node),
            durable_lsn: report.map(|r| r.durable.0),
            applied_lsn: report.map(|r| r.applied.0),
            digest: report.and_then(|r| r.digest).map(|d| format!("{d:016x}")),
            lag_lsn: furthest.zip(report).map(|(f, r)| f.saturating_sub(r.durable.0)),
            integrity: report.map(|r| r.integrity.clone()),
            resync: report.and_then(|r| r.resync.clone()),
            slow: self.slow(v, node),
        }
    }

    /// What the primary says of a copy that its log no longer reaches; the copy itself can't know.
    fn lost(&self, v: &Volume, node: NodeId) -> Option<&LostCopy> {
        let Phase::Open { active, .. } = &v.phase else { return None };
        let report = self.fresh(v, active.primary?).filter(|r| r.state == CopyState::Serving)?;
        report.lost.iter().find(|l| l.node == node)
    }

    /// What the primary says of a copy that is slow.
    fn slow(&self, v: &Volume, node: NodeId) -> Option<SlowCopy> {
        let Phase::Open { active, .. } = &v.phase else { return None };
        let report = self.fresh(v, active.primary?).filter(|r| r.state == CopyState::Serving)?;
        report.slow.iter().copied().find(|s| s.node == node)
    }

    fn copy_state(&self, v: &Volume, node: NodeId, change: Option<Change>) -> &'static str {
        let word = |r: &CopyReport| if r.hung.is_some() && !r.failed() { "hung" } else { state_word(&r.state) };
        let said = self.detector.report(node, v.id).map_or("unknown", word);
        let sound = !matches!(said, "failed" | "hung");
        match &v.phase {
            // It counts no more, wherever its node is.
            Phase::Open { .. } if change == Some(Change::Goes) => "deleting",
            Phase::Open { .. } if change == Some(Change::Stays) => "aside",
            _ if !self.detector.alive(node, self.now) => "silent",
            Phase::Creating { copies, .. } if copies.get(&node) == Some(&None) => "creating",
            Phase::Deleting { .. } => "deleting",
            Phase::Open { .. } if let Some(lost) = self.lost(v, node) => {
                if lost.resyncs {
                    "resyncing"
                } else {
                    "lost"
                }
            }
            Phase::Open { .. } if change == Some(Change::Joins) && sound => "joining",
            Phase::Open { .. } if change == Some(Change::Leaves) && sound => "leaving",
            Phase::Creating { .. } | Phase::Open { .. } => said,
        }
    }

    /// Why a node that answers can't make or remove a copy.
    fn cannot(&self, v: &Volume, node: NodeId) -> Option<&str> {
        match &self.fresh(v, node)?.state {
            CopyState::Failed { reason } => Some(reason),
            _ => None,
        }
    }

    /// What keeps a change of the copy on that node, if it is to change.
    pub(crate) fn note_of(&self, v: &Volume, node: NodeId) -> Option<String> {
        change_of(v, node).map(|change| self.note(v, node, change))
    }

    /// What keeps a change of one copy.
    fn note(&self, v: &Volume, node: NodeId, change: Change) -> String {
        let Phase::Open { active, copies, .. } = &v.phase else { return "the volume is being deleted".to_owned() };
        let silent = !self.detector.alive(node, self.now);
        let primary = active.primary.and_then(|p| self.fresh(v, p)).filter(|r| r.state == CopyState::Serving);
        match change {
            Change::Stays => {
                let there = if silent { "its node does not answer; it" } else { "it" };
                format!(
                    "{there} was given up by a forced recovery, counts for nothing and is kept as evidence: `holdfast copy remove {0} {1}` deletes \
                     it, `holdfast copy add {0} {1}` makes a new copy in its place",
                    v.name,
                    self.name(node)
                )
            }
            Change::Joins | Change::Goes if silent => {
                "its node does not answer; it goes on when that returns".to_owned()
            }
            Change::Joins | Change::Goes if let Some(why) = self.cannot(v, node) => {
                format!("its node can't make or delete a copy: {why}")
            }
            Change::Goes => "it counts no more, and its data is being deleted".to_owned(),
            Change::Joins if copies.dropped.contains(&node) => "its old data is being deleted first".to_owned(),
            Change::Joins if copies.learners.get(&node) == Some(&None) => "its file is being created".to_owned(),
            Change::Joins if primary.is_none() => "nobody fills it while no primary serves".to_owned(),
            Change::Joins => {
                let said = primary.and_then(|r| r.learners.iter().find(|l| l.node == node));
                let said = said.map_or_else(|| "the primary has not told of it yet".to_owned(), |l| l.reason.clone());
                match self.detector.report(node, v.id).and_then(|r| r.resync.as_ref()) {
                    Some(resync) => format!("{said}; {}", self.progress(resync)),
                    None => said,
                }
            }
            Change::Leaves if primary.is_none() => "it goes once a primary serves".to_owned(),
            Change::Leaves if active.primary == Some(node) => {
                "it is the primary, and hands over before it goes".to_owned()
            }
            Change::Leaves if copies.leaving(active).contains(&node) => "it goes with the next epoch".to_owned(),
            Change::Leaves => {
                let joining: Vec<String> = copies.learners.keys().map(|n| self.name(*n)).collect();
                format!("it goes once enough others count; joining: {}", joining.join(", "))
            }
        }
    }

    fn open(
        &self,
        v: &Volume,
        active: &Configuration,
        pending: Option<&Pending>,
        nominee: Option<Nominee>,
    ) -> (VolumeState, Vec<String>) {
        let members: Vec<NodeId> = active.members.iter().map(|m| m.node).collect();
        let mut reasons: Vec<String> = members.iter().filter_map(|n| self.complaint(v, *n)).collect();
        let count = |good: &dyn Fn(&CopyReport) -> bool| {
            members.iter().filter_map(|n| self.fresh(v, *n)).filter(|r| good(r)).count()
        };
        let failed = count(&CopyReport::failed);
        let follows = |n: &&NodeId| self.lost(v, **n).is_none();
        let good = |r: &&CopyReport| {
            matches!(r.state, CopyState::Serving | CopyState::InSync) && r.space != SpaceLeft::Out && r.hung.is_none()
        };
        let in_sync = members.iter().filter(follows).filter_map(|n| self.fresh(v, *n)).filter(good).count();
        let able = count(&|r| !r.failed());
        let (n, w, r) = (members.len(), usize::from(active.write_quorum), active.fence_quorum());
        let alone = active.primary.filter(|_| active.primary_decides());
        let full = active.primary.and_then(|p| self.fresh(v, p)).is_some_and(|r| r.space == SpaceLeft::Out);
        let short = count(&|r| r.space != SpaceLeft::Enough) > 0;
        let serves = |p| self.fresh(v, p).is_some_and(|r| r.state == CopyState::Serving);
        let state = if active.primary.is_some_and(serves) && in_sync >= w && !full {
            if in_sync == n && !short { VolumeState::Healthy } else { VolumeState::Degraded }
        } else if n - failed < r {
            reasons.push(format!("{failed} of {n} copies have failed, {r} sound ones are needed to open"));
            VolumeState::Failed
        } else if full && active.primary.is_some_and(serves) {
            // The complaint about its copy says why.
            VolumeState::Stalled
        } else if active.primary.is_some_and(serves) {
            reasons.push(format!("only {in_sync} of {n} copies are in sync, {w} are needed to acknowledge a write"));
            VolumeState::Stalled
        } else if able < r {
            reasons.push(format!("only {able} of {n} copies answer, {r} are needed to open"));
            VolumeState::Stalled
        } else if let Some(primary) = alone.filter(|p| self.fresh(v, *p).is_none_or(CopyReport::failed)) {
            reasons.push(format!(
                "{} alone holds everything that was acknowledged (durability async): the volume opens when it returns",
                self.name(primary)
            ));
            VolumeState::Stalled
        } else if let Some(next) = pending.and_then(|p| p.configuration.primary).or(nominee.map(|n| n.node)) {
            reasons.push(format!("{} is becoming primary", self.name(next)));
            VolumeState::Opening
        } else {
            reasons.push("the primary does not serve".to_owned());
            VolumeState::Stalled
        };
        // What is rotten or different serves all the same: it is no reason for the state.
        let integrity = |n: &NodeId| Some((*n, &self.fresh(v, *n)?.integrity));
        for (node, found) in members.iter().filter_map(integrity) {
            reasons.extend(self.rotten(node, found));
            reasons.extend(found.differs.iter().filter(|_| active.primary == Some(node)).map(|d| {
                format!(
                    "the copy on {} differs from the primary's at record {}: `holdfast verify {}` names the regions",
                    self.name(d.node),
                    d.lsn,
                    v.name
                )
            }));
        }
        // So does what is slow: a quorum without it sets the pace.
        reasons.extend(members.iter().filter_map(|n| self.slow(v, *n)).map(|s| self.slowness(v, active, s)));
        (state, reasons)
    }

    /// What is slow, what that means, and what to do.
    fn slowness(&self, v: &Volume, active: &Configuration, s: SlowCopy) -> String {
        let (name, led) = (self.name(s.node), active.primary == Some(s.node));
        let (latency, others) = (millis(s.latency_us), millis(s.others_us));
        if s.link {
            return format!(
                "the way from {name}, the primary, to all other copies is slow: they take {latency}, its own disk {others}; check the network of \
                 {name}, or move the primary: `holdfast failover {}`",
                v.name
            );
        }
        let what =
            format!("the copy on {name} is slow: it takes {latency} to make a write durable, the others {others}");
        let spare = active.members.len() > usize::from(active.write_quorum);
        let means = match (led, spare) {
            (true, _) => format!(
                "it is the primary's, so reads wait for it; check the device of {name}, or move the primary: `holdfast failover {}`",
                v.name
            ),
            (false, true) => format!("writes do not wait for it; check the device of {name} and its network"),
            (false, false) => {
                format!("every write waits for it; check the device of {name} and its network, or replace the copy")
            }
        };
        format!("{what}; {means}")
    }

    /// Blocks of a copy that nobody could supply.
    fn rotten(&self, node: NodeId, found: &Integrity) -> Option<String> {
        let first = found.unrepairable.first()?;
        let bytes: u64 = found.unrepairable.iter().map(|r| r.length).sum();
        let least = if found.more { "at least " } else { "" };
        Some(format!(
            "{least}{bytes} bytes of the copy on {} are rotten and no copy that answers has them, from offset {} on: reads of them \
             fail; bring all copies back and scrub the volume, or write them anew from a backup",
            self.name(node),
            first.offset
        ))
    }

    fn progress(&self, r: &ResyncProgress) -> String {
        let (done, total, rate) = (r.done_bytes >> 20, r.total_bytes >> 20, r.bytes_per_second >> 20);
        let from = r.source.map_or_else(String::new, |n| format!(" from {}", self.name(n)));
        let ends = r.eta_seconds.map_or_else(String::new, |s| format!(", {s} s to go"));
        let paused = r.paused.as_ref().map_or_else(String::new, |why| format!("; it {why}"));
        format!("{done} of {total} MiB fetched{from} at {rate} MiB/s{ends}{paused}")
    }

    /// What is wrong with one copy.
    fn complaint(&self, v: &Volume, node: NodeId) -> Option<String> {
        let name = self.name(node);
        if let Some(left) = self.detector.restarting(node, self.now) {
            let left = left.as_secs();
            return Some(format!(
                "the agent of {name} restarts: what it leads waits for it, for {left} s more at most"
            ));
        }
        if !self.detector.alive(node, self.now) {
            return Some(format!("{name} is silent for {} s", self.detector.silence(node, self.now).as_secs()));
        }
        let Some(report) = self.detector.report(node, v.id) else {
            return Some(format!("{name} has not reported on its copy"));
        };
        if let Some(resync) = &report.resync {
            return Some(format!("the copy on {name} is resynced by regions: {}", self.progress(resync)));
        }
        if let Some(lost) = self.lost(v, node) {
            let what = if lost.resyncs { "is to be resynced by regions" } else { "is lost" };
            return Some(format!("the copy on {name} {what}: {}", lost.reason));
        }
        if let Some(hung) = &report.hung {
            return Some(format!(
                "the copy on {name} hangs: {hung}; check that device of {name} (dmesg) and its way to the host, restart the \
                 agent of {name} if it does not come back"
            ));
        }
        let said = report.reason.as_ref().map_or_else(String::new, |r| format!(": {r}"));
        match &report.state {
            _ if let Some(damaged) = &report.damaged => Some(format!("the copy on {name} is damaged: {damaged}")),
            CopyState::Serving | CopyState::InSync => no_space(report.space, &name),
            CopyState::Failed { reason } => Some(format!("the copy on {name} has failed: {reason}")),
            CopyState::CatchingUp => Some(format!("the copy on {name} is catching up{said}")),
            CopyState::Resyncing => Some(format!("the copy on {name} is resynced by regions{said}")),
            CopyState::Opening => Some(format!("the copy on {name} is opening{said}")),
            CopyState::Sealed => Some(format!("the copy on {name} waits for a new epoch{said}")),
            CopyState::Aside { .. } => Some(format!("the copy on {name} was given up")),
        }
    }
}

/// What is to become of a copy that does not just stay what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// A learner.
    Joins,
    /// A member that is not to stay one.
    Leaves,
    /// Its data is to be deleted.
    Goes,
    /// It was given up and is evidence.
    Stays,
}

/// Whether the volume goes on without a copy that is to be one again.
pub(crate) fn is_single(v: &Volume) -> bool {
    matches!(&v.phase, Phase::Open { active, copies, .. } if active.members.len() == 1 && !copies.left_out.is_empty())
}

fn change_of(v: &Volume, node: NodeId) -> Option<Change> {
    let Phase::Open { active, copies, .. } = &v.phase else { return None };
    if active.member(node).is_some() {
        let stays = copies.wanted.contains(&node) && !copies.renew.contains(&node);
        return (!stays).then_some(Change::Leaves);
    }
    let learns = copies.learners.contains_key(&node);
    if copies.aside.contains_key(&node) {
        return Some(Change::Stays);
    }
    Some(if learns { Change::Joins } else { Change::Goes })
}

fn no_space(space: SpaceLeft, name: &str) -> Option<String> {
    let effect = match space {
        SpaceLeft::Enough => return None,
        SpaceLeft::Short => "its copy takes writes only while its journal and memory last",
        SpaceLeft::Out => "its copy takes no more writes",
    };
    Some(format!("the file system of {name} is full and {effect}: free space on the device of {name}, or enlarge it"))
}

/// Microseconds for people.
fn millis(us: u64) -> String {
    if us < 10_000 { format!("{}.{} ms", us / 1000, us % 1000 / 100) } else { format!("{} ms", us / 1000) }
}

fn role_word(role: CopyRole) -> &'static str {
    match role {
        CopyRole::Primary => "primary",
        CopyRole::Secondary => "secondary",
        CopyRole::Claimant => "claimant",
        CopyRole::Idle => "idle",
    }
}

fn state_word(state: &CopyState) -> &'static str {
    match state {
        CopyState::Serving => "serving",
        CopyState::InSync => "in_sync",
        CopyState::CatchingUp => "catching_up",
        CopyState::Resyncing => "resyncing",
        CopyState::Failed { .. } => "failed",
        CopyState::Opening => "opening",
        CopyState::Sealed => "sealed",
        CopyState::Aside { .. } => "aside",
    }
}
