//! Who the node is and what the volumes are called, from the identity file and the control plane's log.
//!
//! The log is read into memory and opened there, because opening one that a kill left behind repairs, and so changes, its file.
//! What it says is what the node last knew: the cluster may have gone on.

use super::report::ControlReport;
use crate::error::AgentError;
use crate::identity::Identity;
use crate::paths::Paths;
use crate::raft_store::{Inspected, RaftStore};
use holdfast_cluster::State;
use holdfast_node::control::{Control, ControlConfig, Input, Output};
use holdfast_types::{Life, NodeId, Time, VolumeId};

/// What the control plane's files say.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) report: ControlReport,
    pub(super) me: Option<NodeId>,
    pub(super) state: Option<State>,
}

impl Known {
    pub(super) fn look(paths: &Paths) -> Known {
        let mut known = Known::default();
        let identity = match Identity::find(&paths.identity()) {
            Ok(Some(identity)) => identity,
            Ok(None) => {
                let missing = "this node belongs to no cluster: cluster/cluster.json is missing, so `init` or `join` never ended here";
                known.report.problems.push(missing.to_owned());
                return known;
            }
            Err(e) => {
                known.report.problems.push(e.to_string());
                return known;
            }
        };
        known.report.node = Some(identity.owner());
        known.me = Some(identity.node);
        match state(paths, &identity) {
            Ok(state) => known.state = state,
            Err(e) => known.report.problems.push(e.to_string()),
        }
        known.report.volumes = known.state.as_ref().map(|state| state.volumes().count());
        known
    }

    pub(super) fn name(&self, volume: VolumeId) -> Option<String> {
        let found = self.state.as_ref()?.volumes().find(|v| v.id == volume);
        found.map(|v| v.name.clone())
    }
}

/// The replicated state up to what this node knows to be committed. `None` if it never received one.
fn state(paths: &Paths, identity: &Identity) -> Result<Option<State>, AgentError> {
    let path = paths.raft();
    if !path.exists() {
        return Err(AgentError::RaftMissing { path });
    }
    let Inspected { owner, recovery, stored } = RaftStore::inspect(&path)?;
    let expected = identity.owner();
    if let Some(found) = owner.filter(|found| *found != expected) {
        return Err(AgentError::ForeignLog { path, expected, found });
    }
    let config = ControlConfig { recovery, ..ControlConfig::new(identity.cluster, identity.node, Life(1), 1) };
    let mut control = Control::new(config, stored, Time::default())?;
    let mut out = Vec::new();
    control.handle(Input::Tick, Time::default(), &mut out);
    let fatal = out.into_iter().find_map(|o| if let Output::Fatal(reason) = o { Some(reason) } else { None });
    match fatal {
        Some(reason) => Err(AgentError::Control { reason }),
        None => Ok(control.state().cloned()),
    }
}
