//! What the control thread tells a scrape: the cluster as this node sees it.

use super::text::{Kind, Page};
use crate::control::View;
use holdfast_cluster::{self as cluster, CopyReport, Detector, Phase, VolumeStatus};
use holdfast_consensus::RaftStatus;
use holdfast_transport::{PeerStats, TurnedAway};
use holdfast_types::{Lsn, NodeId, Time, VolumeId};
use std::collections::BTreeMap;

/// The control thread at one moment.
pub(crate) struct ControlSample {
    /// The cluster's state has reached this node.
    pub(crate) knows_cluster: bool,
    pub(crate) leader: Option<NodeId>,
    raft: RaftStatus,
    /// Names of all nodes, by id.
    pub(crate) names: BTreeMap<NodeId, String>,
    /// Nodes that answer, this one included.
    up: BTreeMap<NodeId, bool>,
    pub(crate) peers: Vec<(NodeId, PeerStats)>,
    pub(crate) turned_away: TurnedAway,
    events: Vec<(&'static str, u64)>,
    /// When this node's certificate ends, in seconds since 1970.
    certificate_until: u64,
    /// Volumes of which this node is to tell, see [`told`].
    pub(crate) volumes: Vec<VolumeHere>,
}

/// A volume of which this node holds a copy, or of which nobody else tells.
pub(crate) struct VolumeHere {
    pub(crate) id: VolumeId,
    pub(crate) status: VolumeStatus,
    /// This node is its primary.
    pub(crate) led_here: bool,
    /// How the copy here is, in the words of `holdfast status`; `None`: there is none.
    pub(crate) copy_state: Option<&'static str>,
    pub(crate) report: Option<CopyReport>,
    /// What the other holders have on stable storage, as last heard.
    pub(crate) others: Vec<(NodeId, Lsn)>,
    pub(crate) epoch_changes: u64,
}

impl ControlSample {
    pub(crate) fn take(view: &View<'_>) -> ControlSample {
        let state = view.control.state();
        let raft = view.control.raft_status();
        let nodes = || state.into_iter().flat_map(|s| s.nodes()).filter(|n| !n.removed);
        ControlSample {
            knows_cluster: state.is_some(),
            leader: raft.leader,
            raft,
            names: nodes().map(|n| (n.id, n.name.clone())).collect(),
            up: nodes().map(|n| (n.id, view.alive(n.id))).collect(),
            peers: view.endpoint.peer_stats(),
            turned_away: view.endpoint.turned_away(),
            events: view.event_counts.iter().map(|(kind, count)| (*kind, *count)).collect(),
            certificate_until: view.certificate.until,
            volumes: told(view).into_iter().filter_map(|id| volume(view, id)).collect(),
        }
    }

    pub(crate) fn name(&self, node: NodeId) -> String {
        self.names.get(&node).cloned().unwrap_or_else(|| node.to_string())
    }

    pub(crate) fn write(&self, page: &mut Page) {
        let raft = &self.raft;
        for (name, help, value) in [
            ("holdfast_raft_term", "Current term of the control plane's Raft group.", raft.term),
            ("holdfast_raft_commit_index", "Highest index known to be committed.", raft.commit),
            ("holdfast_raft_applied_index", "Highest index that this node has applied.", raft.applied),
            ("holdfast_raft_last_index", "End of this node's log.", raft.last_index),
            ("holdfast_raft_leader", "Whether this node leads the control plane.", u64::from(raft.is_leader)),
            ("holdfast_raft_has_leader", "Whether this node knows a leader.", u64::from(raft.leader.is_some())),
            ("holdfast_raft_voters", "Nodes that vote.", raft.voters.len() as u64),
        ] {
            page.family(name, Kind::Gauge, help).sample(&[], value);
        }
        let help = "Raft messages that were refused as malformed or impossible.";
        page.family("holdfast_raft_refused_messages_total", Kind::Counter, help).sample(&[], raft.refused);
        let help = "When this node's certificate ends, in seconds since 1970.";
        let name = "holdfast_certificate_expiry_timestamp_seconds";
        page.family(name, Kind::Gauge, help).sample(&[], self.certificate_until);
        page.family("holdfast_node_up", Kind::Gauge, "Whether a node answers, as this one sees it.");
        for (node, up) in &self.up {
            page.sample(&[("node", &self.name(*node))], u8::from(*up));
        }
        page.family(
            "holdfast_events_total",
            Kind::Counter,
            "Things that happened, as `holdfast events` tells them, by kind.",
        );
        for (kind, count) in &self.events {
            page.sample(&[("kind", kind)], count);
        }
    }
}

/// The volumes of which this node is to tell: of its own by [`tells`], and as the control plane's leader of those of which nobody else does. A
/// volume that stands in no metrics wakes nobody.
fn told(view: &View<'_>) -> Vec<VolumeId> {
    let leads = view.control.raft_status().is_leader;
    let expected = |node| view.alive(node) || is_expected(view.control.detector(), node, view.now);
    let volumes = view.control.state().into_iter().flat_map(|s| s.volumes());
    volumes.filter(|v| tells(v, view.me) || leads && is_untold(v, expected)).map(|v| v.id).collect()
}

/// Whether a node that lives tells of this volume by itself: one with a copy that counts or learns, or with one that the volume is created of.
/// A copy that is left over, put aside or not made yet says nothing of the volume.
fn tells(volume: &cluster::Volume, node: NodeId) -> bool {
    match &volume.phase {
        Phase::Creating { copies, .. } => copies.contains_key(&node),
        Phase::Open { .. } | Phase::Deleting { .. } => volume.has_copy_in_use(node),
    }
}

/// Whether nobody tells of it by itself.
fn is_untold(volume: &cluster::Volume, expected: impl Fn(NodeId) -> bool) -> bool {
    // Of what is being deleted nobody is to tell: another volume may have its name.
    let deleting = matches!(volume.phase, Phase::Deleting { .. });
    !deleting && !volume.holders().into_iter().any(|node| tells(volume, node) && expected(node))
}

/// Whether a node answers, or has announced that it soon will again: nobody is to be woken for that.
fn is_expected(detector: &Detector, node: NodeId, now: Time) -> bool {
    detector.alive(node, now) || detector.restarting(node, now).is_some()
}

fn volume(view: &View<'_>, id: VolumeId) -> Option<VolumeHere> {
    let state = view.control.state()?;
    let detector = view.control.detector();
    let status = cluster::volume_status(state, detector, view.now, id)?;
    let me = view.name(view.me);
    let here = status.copies.iter().find(|c| c.node == me).map(|c| c.state);
    let holders = state.volumes.get(&id).map(cluster::Volume::holders).unwrap_or_default();
    let others = holders.into_iter().filter(|n| *n != view.me);
    Some(VolumeHere {
        id,
        led_here: status.primary.as_ref() == Some(&me),
        copy_state: here.map(crate::status::copy_word),
        report: detector.report(view.me, id).cloned(),
        others: others.filter_map(|n| Some((n, detector.report(n, id)?.durable))).collect(),
        epoch_changes: view.epoch_changes.get(&id).map_or(0, |(_, changes)| *changes),
        status,
    })
}

/// Volume 1, `v`, with copies on n1, n2 and n3 of five nodes, led by n1 in epoch 1.
///
/// # Panics
/// The cluster's rules have changed.
#[cfg(test)]
pub(crate) fn open_volume() -> cluster::State {
    use holdfast_types::{ClusterId, Durability, Epoch, GuestLimits, Incarnation, Life, SocketAccess, Speaks};

    let mut state = cluster::State::new(ClusterId(7), "test");
    state.version = Speaks::THIS.newest();
    let mut order = |command| state.apply(&command).unwrap_or_else(|why| panic!("{command:?}: {why}"));
    for n in 1..=5 {
        order(cluster::Command::AddNode {
            name: format!("n{n}"),
            address: format!("n{n}:7000"),
            failure_domain: String::new(),
            voter: true,
            witness: false,
            fingerprint: "ab12".to_owned(),
            token_id: None,
        });
    }
    order(cluster::Command::CreateVolume {
        name: "v".to_owned(),
        size: 1 << 20,
        durability: Durability::Sync,
        write_quorum: 2,
        nodes: [1, 2, 3].map(NodeId).to_vec(),
        primary: None,
        degraded: None,
        limits: GuestLimits::default(),
        socket: SocketAccess::default(),
    });
    for n in 1..=3 {
        order(cluster::Command::RegisterCopy { volume: VolumeId(1), node: NodeId(n), incarnation: Incarnation(n) });
    }
    order(cluster::Command::Claim { volume: VolumeId(1), base: Epoch::ZERO, node: NodeId(1), life: Life(1) });
    order(cluster::Command::Activate { volume: VolumeId(1), epoch: Epoch(1) });
    state
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_cluster::{Command, Heartbeat};
    use holdfast_types::Incarnation;
    use std::time::Duration;

    #[test]
    fn a_node_with_a_copy_that_counts_for_nothing_does_not_tell_of_its_volume() {
        let mut state = open_volume();
        let only = |at: u64| move |node: NodeId| node == NodeId(at);
        let volume =
            |state: &cluster::State| state.volumes().find(|v| v.id == VolumeId(1)).cloned().expect("it is open");
        assert!(!is_untold(&volume(&state), only(3)), "n3 tells");
        assert!(is_untold(&volume(&state), only(4)), "n4 holds nothing of it");
        state.apply(&Command::AddCopy { volume: VolumeId(1), node: NodeId(4) }).expect("n4 has room");
        assert!(volume(&state).holders().contains(&NodeId(4)) && !tells(&volume(&state), NodeId(4)));
        assert!(is_untold(&volume(&state), only(4)), "n4 has not made its copy, and is in no log");
        let made = Command::RegisterCopy { volume: VolumeId(1), node: NodeId(4), incarnation: Incarnation(44) };
        state.apply(&made).expect("it was to be made");
        assert!(tells(&volume(&state), NodeId(4)) && !is_untold(&volume(&state), only(4)));
        state.apply(&Command::RemoveCopy { volume: VolumeId(1), node: NodeId(4) }).expect("it counts for nothing yet");
        assert!(volume(&state).holders().contains(&NodeId(4)), "it is to be deleted there");
        assert!(is_untold(&volume(&state), only(4)), "what is to be deleted says nothing");
        state.apply(&Command::DeleteVolume { volume: VolumeId(1) }).expect("nobody forbids it");
        assert!(!is_untold(&volume(&state), only(5)), "another volume may have its name");
    }

    #[test]
    fn who_restarts_as_announced_is_waited_for() {
        let (node, mut now) = (NodeId(2), Time::ZERO);
        let mut detector = Detector::new(Duration::from_secs(1), now);
        detector.heard(Heartbeat { node, life: 7, copies: Vec::new(), free_bytes: None, longest_file: None }, now);
        detector.restarts(node, 7, Duration::from_secs(30), now);
        now = now + Duration::from_secs(20);
        assert!(!detector.alive(node, now) && is_expected(&detector, node, now));
        now = now + Duration::from_secs(11);
        assert!(!is_expected(&detector, node, now), "its time is over");
    }
}
