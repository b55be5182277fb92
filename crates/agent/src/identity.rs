//! Who this node is: `cluster.json`, written once by `init` or `join`.

use crate::config::Config;
use crate::error::AgentError;
use crate::paths::{self, Paths};
use holdfast_types::{ClusterId, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// A node's place in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The cluster.
    pub(crate) cluster: ClusterId,
    /// The node.
    pub(crate) node: NodeId,
    /// Its name.
    pub(crate) name: String,
    /// Where other nodes were when this one joined, or went over to a later generation of the control plane: enough to be found by the
    /// leader, which then tells the rest.
    pub(crate) peers: BTreeMap<NodeId, String>,
}

/// The file. Ids are text, because numbers in JSON lose digits in many tools.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    cluster: String,
    node: u64,
    name: String,
    peers: BTreeMap<u64, String>,
}

impl Identity {
    /// Reads the identity of the node that `config` describes.
    ///
    /// # Errors
    /// There is none, it is damaged, or it has another name.
    pub(crate) fn load(config: &Config) -> Result<Identity, AgentError> {
        let paths = Paths::new(&config.node.data_dir);
        let identity = Identity::find(&paths.identity())?
            .ok_or_else(|| AgentError::NotMember { data_dir: config.node.data_dir.clone() })?;
        if paths.removed().exists() {
            let (cluster, data_dir) = (identity.cluster.to_string(), config.node.data_dir.clone());
            return Err(AgentError::Removed { cluster, data_dir });
        }
        if identity.name != config.node.name {
            let (joined, configured) = (identity.name, config.node.name.clone());
            return Err(AgentError::Renamed { joined, configured });
        }
        Ok(identity)
    }

    /// Refuses a data directory that belongs to a cluster.
    pub(crate) fn refuse_member(config: &Config) -> Result<(), AgentError> {
        let paths = Paths::new(&config.node.data_dir);
        match Identity::find(&paths.identity())? {
            None => Ok(()),
            Some(found) => Err(AgentError::AlreadyMember {
                data_dir: config.node.data_dir.clone(),
                cluster: found.cluster.to_string(),
                name: found.name,
            }),
        }
    }

    /// The node in words, unique among all clusters: the mark of what belongs to it.
    pub(crate) fn owner(&self) -> String {
        format!("node {} ({}) of cluster {}", self.name, self.node.0, self.cluster)
    }

    /// A node that gives up what it knows of the control plane must still be able to let in whoever tells it more: these are the nodes
    /// that it knows by now.
    pub(crate) fn remember(mut self, paths: &Paths, peers: &BTreeMap<NodeId, String>) -> Result<(), AgentError> {
        let me = self.node;
        self.peers
            .extend(peers.iter().filter(|(node, _)| **node != me).map(|(node, address)| (*node, address.clone())));
        self.save(paths)
    }

    pub(crate) fn save(&self, paths: &Paths) -> Result<(), AgentError> {
        let file = File {
            cluster: self.cluster.to_string(),
            node: self.node.0,
            name: self.name.clone(),
            peers: self.peers.iter().map(|(node, address)| (node.0, address.clone())).collect(),
        };
        let text = serde_json::to_vec_pretty(&file).expect("text and numbers are always JSON");
        paths::write_durable(&paths.identity(), &text, 0o644)
    }

    pub(crate) fn find(path: &Path) -> Result<Option<Identity>, AgentError> {
        if !path.exists() {
            return Ok(None);
        }
        let damaged =
            |found: String| AgentError::Damaged { what: "the identity of a node", path: path.to_path_buf(), found };
        let file: File = serde_json::from_slice(&paths::read(path)?).map_err(|e| damaged(e.to_string()))?;
        let cluster =
            u64::from_str_radix(&file.cluster, 16).map_err(|_| damaged(format!("cluster {:?}", file.cluster)))?;
        if file.node == 0 {
            return Err(damaged("node 0".to_owned()));
        }
        let peers = file.peers.into_iter().map(|(node, address)| (NodeId(node), address)).collect();
        Ok(Some(Identity { cluster: ClusterId(cluster), node: NodeId(file.node), name: file.name, peers }))
    }
}
