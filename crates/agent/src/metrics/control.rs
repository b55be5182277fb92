//! What the control thread tells a scrape: the cluster as this node sees it.

use super::text::{Kind, Page};
use crate::control::View;
use holdfast_cluster::{self as cluster, CopyReport, Phase, VolumeStatus};
use holdfast_consensus::RaftStatus;
use holdfast_transport::{PeerStats, TurnedAway};
use holdfast_types::{Lsn, NodeId, VolumeId};
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

/// Volumes with a copy here, or with one that is still to be made here. The leader tells besides of those whose nodes are all silent: nobody
/// else does, and a volume that stands in no metrics wakes nobody.
fn told(view: &View<'_>) -> Vec<VolumeId> {
    let leads = view.control.raft_status().is_leader;
    let tells = |v: &cluster::Volume| match &v.phase {
        _ if view.local.binary_search(&v.id).is_ok() => true,
        // Another volume may have its name.
        Phase::Deleting { .. } => false,
        Phase::Creating { copies, .. } if copies.contains_key(&view.me) => true,
        Phase::Creating { .. } | Phase::Open { .. } => leads && !v.holders().into_iter().any(|n| view.alive(n)),
    };
    let volumes = view.control.state().into_iter().flat_map(|s| s.volumes());
    volumes.filter(|v| tells(v)).map(|v| v.id).collect()
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
