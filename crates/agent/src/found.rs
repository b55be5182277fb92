//! Founding a cluster: the CA, this node's certificate, the first voter.

use crate::config::Config;
use crate::error::AgentError;
use crate::identity::Identity;
use crate::paths::{self, Paths};
use crate::raft_store::RaftStore;
use crate::random;
use crate::versions;
use holdfast_cluster::{Command, State};
use holdfast_consensus::Stored;
use holdfast_node::control::founding_snapshot;
use holdfast_transport::pki;
use holdfast_types::{ClusterId, NodeId};
use std::collections::BTreeMap;

/// The founder's id in every cluster.
pub(crate) const FOUNDER: NodeId = NodeId(1);

/// Founds a cluster of one node in `config`'s data directory.
///
/// # Errors
/// The directory belongs to a cluster already, is in use, or can't be written.
pub async fn found(config: &Config) -> Result<(), AgentError> {
    let paths = Paths::new(&config.node.data_dir);
    Identity::refuse_member(config)?;
    let _lock = paths.lock()?;
    let cluster = ClusterId(random::id());
    let pki = |what| move |e: pki::PkiError| AgentError::Pki { what, reason: e.to_string() };
    let ca = pki::create_ca(cluster).map_err(pki("create the cluster's CA"))?;
    let until = random::unix_ms() / 1000 + config.cluster.certificate_lifetime.as_secs();
    let node = pki::issue_node(&ca, cluster, FOUNDER, Some(until)).map_err(pki("issue this node's certificate"))?;
    let fingerprint = pki::fingerprint(&node.cert_pem).map_err(pki("read this node's certificate"))?;
    let mut state = State::new(cluster, "holdfast");
    // Nobody is here yet who could not read it.
    state.version = versions::speaks()?.newest();
    let founder = Command::AddNode {
        name: config.node.name.clone(),
        address: config.advertised().to_string(),
        failure_domain: config.node.failure_domain.clone(),
        voter: true,
        witness: config.node.witness,
        fingerprint,
        token_id: None,
    };
    let added = state.apply(&founder).map_err(|refusal| AgentError::Control { reason: refusal.to_string() })?;
    assert_eq!(added, holdfast_cluster::Outcome::Node(FOUNDER), "the first node of a cluster is its founder");
    let identity = Identity { cluster, node: FOUNDER, name: config.node.name.clone(), peers: BTreeMap::new() };
    RaftStore::found(&paths.raft(), &identity.owner(), &Stored::founding(FOUNDER, founding_snapshot(state)))?;
    write_credentials(&paths, &ca.cert_pem, &node.cert_pem, &node.key_pem)?;
    paths::write_durable(&paths.ca_key(), ca.key_pem.as_bytes(), 0o600)?;
    identity.save(&paths)
}

/// Writes what a node proves itself with. The identity file comes last, by the caller.
pub(crate) fn write_credentials(paths: &Paths, ca: &str, cert: &str, key: &str) -> Result<(), AgentError> {
    paths::write_durable(&paths.ca_pem(), ca.as_bytes(), 0o644)?;
    paths::write_durable(&paths.node_pem(), cert.as_bytes(), 0o644)?;
    paths::write_durable(&paths.node_key(), key.as_bytes(), 0o600)
}

/// The authority, if its key lies here.
pub(crate) fn authority(paths: &Paths) -> Result<Option<pki::CaMaterial>, AgentError> {
    if !paths.ca_key().exists() {
        return Ok(None);
    }
    let text = |bytes: Vec<u8>, path| {
        String::from_utf8(bytes).map_err(|_| AgentError::Damaged {
            what: "PEM text",
            path,
            found: "other bytes".to_owned(),
        })
    };
    let key_pem = text(paths::read_private(&paths.ca_key())?, paths.ca_key())?;
    Ok(Some(pki::CaMaterial { cert_pem: text(paths::read(&paths.ca_pem())?, paths.ca_pem())?, key_pem }))
}

/// Reads them back, and refuses a key that others can read.
pub(crate) fn credentials(paths: &Paths, identity: &Identity) -> Result<holdfast_transport::Identity, AgentError> {
    let text = |path: std::path::PathBuf, bytes: Vec<u8>| {
        String::from_utf8(bytes).map_err(|_| AgentError::Damaged {
            what: "PEM text",
            path,
            found: "other bytes".to_owned(),
        })
    };
    Ok(holdfast_transport::Identity {
        cluster: identity.cluster,
        node: identity.node,
        ca_pem: text(paths.ca_pem(), paths::read(&paths.ca_pem())?)?,
        cert_pem: text(paths.node_pem(), paths::read(&paths.node_pem())?)?,
        key_pem: text(paths.node_key(), paths::read_private(&paths.node_key())?)?,
    })
}
