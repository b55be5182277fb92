//! Joining a cluster: the conversation between a node without a certificate and a member that holds the CA's key.

use crate::config::Config;
use crate::error::AgentError;
use crate::found::write_credentials;
use crate::identity::Identity;
use crate::paths::{self, Paths};
use crate::raft_store::RaftStore;
use crate::token::{Token, hex};
use crate::versions;
use bytes::Bytes;
use holdfast_transport::{join_client, pki};
use holdfast_types::{ClusterVersion, NodeId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What the joining node says.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JoinRequest {
    /// SHA-256 of this proves the token, and is what the cluster keeps.
    pub(crate) secret: String,
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) failure_domain: String,
    pub(crate) voter: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) witness: bool,
    pub(crate) csr_pem: String,
    /// The oldest and the newest version that the joining agent speaks; one that does not tell speaks the first alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) speaks: Option<(u32, u32)>,
}

/// What an agent that speaks the first version alone says to a request that tells versions.
pub(crate) const UNKNOWN_FIELD: &str = "unknown field `speaks`";

/// An ordinary node asks as it did before there were witnesses.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// What a node says that has joined and wants its certificate anew: the request that it joined with, and nothing else.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RenewRequest {
    pub(crate) renew: String,
}

/// What a stranger may ask for.
pub(crate) enum Asked {
    Join(JoinRequest),
    Renew(RenewRequest),
}

impl Asked {
    /// # Errors
    /// It is neither: what is wrong with it as a request to join.
    pub(crate) fn parse(request: &[u8]) -> Result<Asked, String> {
        if let Ok(renewal) = serde_json::from_slice(request) {
            return Ok(Asked::Renew(renewal));
        }
        serde_json::from_slice(request).map(Asked::Join).map_err(|e| format!("the request can't be read: {e}"))
    }
}

/// What it is told.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) enum JoinAnswer {
    Welcome { node: u64, ca_pem: String, cert_pem: String, peers: BTreeMap<u64, String> },
    Refused { reason: String },
}

impl JoinAnswer {
    /// # Errors
    /// It is none.
    pub(crate) fn parse(answer: &[u8]) -> Result<JoinAnswer, String> {
        serde_json::from_slice(answer).map_err(|e| format!("its answer can't be read: {e}"))
    }
}

/// Joins the cluster of `token` through the node at `address`.
///
/// # Errors
/// The directory belongs to a cluster, the token is none, or the cluster refuses.
pub async fn join(config: &Config, address: SocketAddr, token: &str) -> Result<(), AgentError> {
    let token = Token::parse(token)?;
    let paths = Paths::new(&config.node.data_dir);
    Identity::refuse_member(config)?;
    let _lock = paths.lock()?;
    let csr = request_for_certificate(&paths)?;
    let speaks = versions::speaks()?;
    let mut request = JoinRequest {
        secret: hex(&token.secret),
        name: config.node.name.clone(),
        address: config.advertised().to_string(),
        failure_domain: config.node.failure_domain.clone(),
        voter: config.cluster.voter,
        witness: config.node.witness,
        csr_pem: csr.csr_pem,
        speaks: speaks.tells().then_some((speaks.oldest().0, speaks.newest().0)),
    };
    let failed = |reason: String| AgentError::Join { address, reason };
    let mut answer = ask(address, &token, &request).await?;
    // A cluster of the first version does not know the question, and needs no answer to it.
    let knows =
        |answer: &JoinAnswer| !matches!(answer, JoinAnswer::Refused { reason } if reason.contains(UNKNOWN_FIELD));
    if !knows(&answer) && speaks.contains(ClusterVersion::FIRST) {
        request.speaks = None;
        answer = ask(address, &token, &request).await?;
    }
    match answer {
        JoinAnswer::Refused { reason } => Err(failed(reason)),
        JoinAnswer::Welcome { node, ca_pem, cert_pem, peers } => {
            write_credentials(&paths, &ca_pem, &cert_pem, &csr.key_pem)?;
            let peers = peers.into_iter().map(|(n, a)| (NodeId(n), a)).collect();
            let name = config.node.name.clone();
            let identity = Identity { cluster: token.cluster, node: NodeId(node), name, peers };
            // A node without a log has lost it, from now on.
            RaftStore::open(&paths.raft(), &identity.owner())?;
            identity.save(&paths)
        }
    }
}

async fn ask(address: SocketAddr, token: &Token, request: &JoinRequest) -> Result<JoinAnswer, AgentError> {
    let failed = |reason: String| AgentError::Join { address, reason };
    let request = Bytes::from(serde_json::to_vec(request).expect("text and flags are always JSON"));
    let answer = join_client(address, &hex(&token.ca_fingerprint), request).await.map_err(|e| failed(e.to_string()))?;
    JoinAnswer::parse(&answer).map_err(failed)
}

/// This node's key and request, on disk before they are used: if the answer is lost, the next try is known to come from
/// the same node, and its token still counts.
fn request_for_certificate(paths: &Paths) -> Result<pki::Csr, AgentError> {
    let path = paths.join_csr();
    if path.exists() {
        let text = |path: PathBuf, bytes: Vec<u8>| {
            String::from_utf8(bytes).map_err(|_| AgentError::Damaged {
                what: "PEM text",
                path,
                found: "other bytes".to_owned(),
            })
        };
        let key = paths.node_key();
        return Ok(pki::Csr {
            csr_pem: text(path.clone(), paths::read(&path)?)?,
            key_pem: text(key.clone(), paths::read_private(&key)?)?,
        });
    }
    let csr =
        pki::create_csr().map_err(|e| AgentError::Pki { what: "create this node's key", reason: e.to_string() })?;
    paths::write_durable(&paths.node_key(), csr.key_pem.as_bytes(), 0o600)?;
    paths::write_durable(&path, csr.csr_pem.as_bytes(), 0o600)?;
    Ok(csr)
}

/// What strangers send before and while they join, and what a stranger answers who is taken for a member: read as the agent does.
///
/// # Panics
/// Something was understood that does not read the same when it is written again, or a request was signed that is none.
#[cfg(any(test, feature = "fuzz"))]
pub fn fuzz_join(bytes: &[u8]) {
    use std::sync::LazyLock;
    const CLUSTER: holdfast_types::ClusterId = holdfast_types::ClusterId(7);
    static AUTHORITY: LazyLock<pki::CaMaterial> =
        LazyLock::new(|| pki::create_ca(CLUSTER).expect("there is randomness"));
    let again = |written: Result<Vec<u8>, serde_json::Error>| written.expect("what was read can be written");
    let sign = |csr_pem: &str| {
        if let Ok(cert_pem) = pki::sign_csr(&AUTHORITY, CLUSTER, NodeId(9), csr_pem, Some(1_800_000_000)) {
            assert_eq!(pki::expiry(&cert_pem).ok(), Some(1_800_000_000), "the request has no say in it");
        }
    };
    match Asked::parse(bytes) {
        Ok(Asked::Join(request)) => {
            let written = again(serde_json::to_vec(&request));
            let Ok(Asked::Join(read)) = Asked::parse(&written) else { panic!("a request to join is one") };
            assert_eq!(again(serde_json::to_vec(&read)), written);
            let _ = crate::token::unhex(&request.secret);
            let _ = request.speaks.and_then(|(oldest, newest)| holdfast_types::Speaks::new(oldest, newest));
            sign(&request.csr_pem);
        }
        Ok(Asked::Renew(request)) => sign(&request.renew),
        Err(_) => {}
    }
    if let Ok(answer) = JoinAnswer::parse(bytes) {
        let written = again(serde_json::to_vec(&answer));
        assert_eq!(again(serde_json::to_vec(&JoinAnswer::parse(&written).expect("an answer is one"))), written);
        if let JoinAnswer::Welcome { ca_pem, cert_pem, .. } = answer {
            let _ = (pki::fingerprint(&ca_pem), pki::expiry(&cert_pem));
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(token) = Token::parse(text)
    {
        assert_eq!(token.to_string(), text.trim().to_ascii_lowercase());
    }
}
