//! This node's certificate is renewed before it ends, while the agent runs.
//!
//! ```text
//! half of cluster.certificate_lifetime is left ──► ask ──► the node with the authority's key signs the same key anew
//!        ▲                                          │ refused, or nobody answers: an event, and again after a while
//!        └── node.pem is written ◄── both endpoints use it for new connections ◄──┘
//! ```
//! Asked for with the request of the join, over the conversation for nodes without a certificate: so a node whose certificate has
//! ended while it was away gets another one, and a node that was removed gets none. A stranger who sends that request gets a
//! certificate for a key that it does not have.
//!
//! Deliberately absent: new keys. Whoever must give a key up removes the node, and joins it under another name.

use crate::config::Config;
use crate::control::Ask;
use crate::error::AgentError;
use crate::found::{FOUNDER, authority};
use crate::join::{JoinAnswer, RenewRequest};
use crate::paths::{self, Paths};
use crate::random;
use bytes::Bytes;
use holdfast_transport::{Identity, join_client, pki};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// The clock is looked at so often: it may be set.
const LOOK: Duration = Duration::from_hours(1);
/// Nodes that are asked in one attempt, the founder first.
const MOST_ASKED: usize = 8;
/// Between two attempts, at least.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// What is known of this node's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Certificate {
    /// When it ends, in seconds since 1970.
    pub(crate) until: u64,
    /// How long a new one is made to hold.
    pub(crate) lifetime: Duration,
}

impl Certificate {
    /// # Errors
    /// It can't be read.
    pub(crate) fn of(identity: &Identity, lifetime: Duration) -> Result<Certificate, AgentError> {
        let read = |e: pki::PkiError| AgentError::Pki { what: "read this node's certificate", reason: e.to_string() };
        Ok(Certificate { until: pki::expiry(&identity.cert_pem).map_err(read)?, lifetime })
    }

    /// Its renewal has failed for half of the time that there was for it.
    pub(crate) fn is_overdue(self, now: u64) -> bool {
        self.until.saturating_sub(now) < self.lifetime.as_secs() / 4
    }
}

/// Renews one certificate again and again.
pub(crate) struct Renewal {
    paths: Paths,
    identity: Identity,
    lifetime: Duration,
    asks: mpsc::Sender<Ask>,
}

impl Renewal {
    pub(crate) fn new(config: &Config, identity: Identity, asks: mpsc::Sender<Ask>) -> Renewal {
        let lifetime = config.cluster.certificate_lifetime;
        Renewal { paths: Paths::new(&config.node.data_dir), identity, lifetime, asks }
    }

    /// As long as the agent runs.
    pub(crate) async fn keep(mut self) {
        loop {
            let wait = match pki::expiry(&self.identity.cert_pem) {
                Ok(until) => until_due(until, random::unix_ms() / 1000, self.lifetime),
                // It was good enough to start with.
                Err(_) => LOOK,
            };
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
                continue;
            }
            let (kind, text) = match self.renew().await {
                Ok(until) => {
                    let until = crate::audit::utc(until.saturating_mul(1000));
                    ("certificate_renewed", format!("this node's certificate was renewed and holds until {until}"))
                }
                Err(why) => ("certificate_not_renewed", format!("this node's certificate could not be renewed: {why}")),
            };
            let failed = kind == "certificate_not_renewed";
            if self.asks.send(Ask::Happened(kind, None, text)).await.is_err() {
                return;
            }
            if failed {
                tokio::time::sleep(pause(self.lifetime)).await;
            }
        }
    }

    /// Until when the new one holds.
    async fn renew(&mut self) -> Result<u64, String> {
        let cert_pem = self.new_certificate().await?;
        let identity = Identity { cert_pem, ..self.identity.clone() };
        let until = pki::expiry(&identity.cert_pem).map_err(|e| e.to_string())?;
        if until <= pki::expiry(&self.identity.cert_pem).map_err(|e| e.to_string())? {
            return Err("expected one that holds longer, found one that does not; is cluster.certificate_lifetime the same everywhere?".to_owned());
        }
        let (answer, answered) = oneshot::channel();
        let stopping = || "the agent is stopping".to_owned();
        self.asks.send(Ask::Identity(Box::new(identity.clone()), answer)).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())??;
        // In use from now on, whatever the disk says.
        let (path, text) = (self.paths.node_pem(), identity.cert_pem.clone());
        self.identity = identity;
        let written = tokio::task::spawn_blocking(move || paths::write_durable(&path, text.as_bytes(), 0o644)).await;
        match written {
            Ok(Ok(())) => Ok(until),
            Ok(Err(e)) => Err(format!("it is in use and could not be kept: {e}")),
            Err(_) => Err("the agent is stopping".to_owned()),
        }
    }

    async fn new_certificate(&self) -> Result<String, String> {
        let (paths, identity) = (self.paths.clone(), self.identity.clone());
        let until = random::unix_ms() / 1000 + self.lifetime.as_secs();
        let own = tokio::task::spawn_blocking(move || sign_here(&paths, &identity, until)).await;
        match own.map_err(|_| "the agent is stopping".to_owned())? {
            Ok(Some(cert_pem)) => return Ok(cert_pem),
            Ok(None) => {}
            Err(e) => return Err(e.to_string()),
        }
        let csr = paths::read(&self.paths.join_csr()).map_err(|e| e.to_string())?;
        let renew = String::from_utf8(csr).map_err(|_| "the request of the join is no text".to_owned())?;
        let request = serde_json::to_vec(&RenewRequest { renew }).expect("text is always JSON");
        let fingerprint = pki::fingerprint(&self.identity.ca_pem).map_err(|e| e.to_string())?;
        let mut complaints = Vec::new();
        for (name, address) in self.nodes().await? {
            match self.ask(&name, address, &fingerprint, request.clone().into()).await {
                Ok(cert_pem) => return Ok(cert_pem),
                Err(why) => complaints.push(format!("{name}: {why}")),
            }
        }
        Err(format!("expected one of the nodes to hold the key of the cluster's CA, found: {}", complaints.join("; ")))
    }

    async fn ask(&self, name: &str, address: SocketAddr, fingerprint: &str, request: Bytes) -> Result<String, String> {
        let answer = join_client(address, fingerprint, request).await.map_err(|e| e.to_string())?;
        match JoinAnswer::parse(&answer)? {
            JoinAnswer::Welcome { node, cert_pem, .. } if node == self.identity.node.0 => Ok(cert_pem),
            JoinAnswer::Welcome { node, .. } => Err(format!("{name} answered with a certificate of node {node}")),
            JoinAnswer::Refused { reason } => Err(format!("it refused: {reason}")),
        }
    }

    /// Who may hold the authority's key: the founder has it, unless an operator had to give it to another node.
    async fn nodes(&self) -> Result<Vec<(String, SocketAddr)>, String> {
        let (answer, answered) = oneshot::channel();
        let look = Ask::Look(Box::new(move |view| {
            let me = view.me;
            let nodes = view.control.state().into_iter().flat_map(|s| s.nodes()).filter(|n| n.id != me);
            let found = nodes.filter_map(|n| Some((n.id != FOUNDER, (n.name.clone(), n.address.parse().ok()?))));
            let mut found: Vec<(bool, (String, SocketAddr))> = found.collect();
            found.sort();
            // Whoever asked has gone.
            drop(answer.send(found.into_iter().map(|(_, node)| node).take(MOST_ASKED).collect()));
        }));
        self.asks.send(look).await.map_err(|_| "the agent is stopping".to_owned())?;
        answered.await.map_err(|_| "the agent is stopping".to_owned())
    }
}

/// By the authority's key, where it lies here.
fn sign_here(paths: &Paths, identity: &Identity, until: u64) -> Result<Option<String>, AgentError> {
    let Some(ca) = authority(paths)? else { return Ok(None) };
    let pki = |what| move |e: pki::PkiError| AgentError::Pki { what, reason: e.to_string() };
    let csr = pki::request_for(&identity.key_pem).map_err(pki("request a certificate"))?;
    let signed = pki::sign_csr(&ca, identity.cluster, identity.node, &csr, Some(until));
    signed.map(Some).map_err(pki("renew this node's certificate"))
}

/// How long nothing is to be done about a certificate that ends at `until`; zero: it is to be renewed now.
fn until_due(until: u64, now: u64, lifetime: Duration) -> Duration {
    let due = until.saturating_sub(lifetime.as_secs() / 2);
    Duration::from_secs(due.saturating_sub(now)).min(LOOK)
}

fn pause(lifetime: Duration) -> Duration {
    (lifetime / 20).clamp(SHORTEST_PAUSE, LOOK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_when_half_of_it_is_left() {
        let year = Duration::from_hours(8760);
        let (now, years) = (1_800_000_000, 8760 * 3600);
        assert_eq!(until_due(now + years, now, year), LOOK, "fresh");
        assert_eq!(until_due(now + years / 2 + 60, now, year), Duration::from_secs(60));
        assert!(until_due(now + years / 2, now, year).is_zero());
        assert!(until_due(now - 1, now, year).is_zero(), "it has ended: the more so");
        assert_eq!(until_due(u64::MAX, now, year), LOOK, "one that never ends stays");
        assert_eq!((pause(year), pause(Duration::from_secs(20))), (LOOK, SHORTEST_PAUSE));
    }
}
