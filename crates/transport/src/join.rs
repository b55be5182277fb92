//! The join conversation: one request and one answer between a node that has no certificate yet and a member.
//!
//! The joining node knows an address and the fingerprint of the cluster's CA (both in its token); it accepts only a
//! server whose chain contains that CA. The member knows nothing about the joining node: it bounds the conversation in
//! rate, number, size and time, and leaves the judgement of the request to its owner.

use crate::endpoint::Shared;
use crate::error::JoinError;
use crate::events::Event;
use crate::pki;
use crate::tls::{ALPN_JOIN, node_of};
use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::version::TLS13;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::error::Error;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Largest request, and largest answer.
pub const MAX_JOIN_BYTES: usize = 64 << 10;
/// Conversations at once.
pub(crate) const MAX_JOINS: usize = 16;
/// A joining node has to send its request within this time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The owner has to answer within this time: a join is a Raft proposal or two.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// The joining node gives up after this time.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(20);

/// Takes the answer to a join request.
#[derive(Debug)]
pub struct JoinReply(oneshot::Sender<Bytes>);

impl JoinReply {
    /// Sends the answer. `false` if the joining node is gone, or the answer is larger than [`MAX_JOIN_BYTES`].
    #[must_use]
    pub fn send(self, answer: Bytes) -> bool {
        answer.len() <= MAX_JOIN_BYTES && self.0.send(answer).is_ok()
    }
}

type Cause = Box<dyn Error + Send + Sync>;

/// The member's side of one conversation.
pub(crate) async fn serve(shared: &Shared, connection: &quinn::Connection) {
    let remote = connection.remote_address();
    let permit = shared.joins.try_acquire();
    if permit.is_err() || !shared.join_rate.allows() {
        connection.close(3u32.into(), b"too many nodes are joining at once; try again in a few seconds");
        shared.refused(&format_args!("{remote}: too many join conversations"));
        return;
    }
    match converse(shared, connection).await {
        Ok(()) => connection.close(0u32.into(), b"done"),
        Err(error) => {
            connection.close(4u32.into(), b"the join conversation failed; the member's log says why");
            shared.refused(&format_args!("{remote}: the join conversation failed: {error}"));
        }
    }
}

async fn converse(shared: &Shared, connection: &quinn::Connection) -> Result<(), Cause> {
    let remote = connection.remote_address();
    let received = async {
        let (send, mut receive) = connection.accept_bi().await?;
        let request = receive.read_to_end(MAX_JOIN_BYTES).await?;
        Ok::<_, Cause>((send, request))
    };
    let (mut send, request) =
        tokio::time::timeout(REQUEST_TIMEOUT, received).await.map_err(|_| "no request in time")??;
    let (reply, answer) = oneshot::channel();
    let answered = async {
        let event = Event::Join { remote, request: request.into(), reply: JoinReply(reply) };
        shared.events.send(false, event).await.map_err(|_| "the agent is shutting down")?;
        answer.await.map_err(|_| "the agent refused the request")
    };
    let answer =
        tokio::time::timeout(ANSWER_TIMEOUT, answered).await.map_err(|_| "the agent did not answer in time")??;
    send.write_chunk(answer).await?;
    send.finish()?;
    // Closing before the other side has everything would take the answer back.
    tokio::time::timeout(REQUEST_TIMEOUT, send.stopped()).await.map_err(|_| "the answer was not taken in time")??;
    Ok(())
}

/// Sends `request` to the member at `address` and returns its answer. `ca_fingerprint`: SHA-256 of the CA's
/// certificate in hexadecimal, from the token; nobody else is believed.
///
/// # Errors
/// See [`JoinError`].
pub async fn join_client(address: SocketAddr, ca_fingerprint: &str, request: Bytes) -> Result<Bytes, JoinError> {
    if request.len() > MAX_JOIN_BYTES {
        return Err(JoinError::TooLarge { max: MAX_JOIN_BYTES, found: request.len() });
    }
    let fingerprint = ca_fingerprint.to_ascii_lowercase();
    if fingerprint.len() != 64 || !fingerprint.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(JoinError::Fingerprint);
    }
    let config = client_config(fingerprint).map_err(|source| JoinError::Setup { address, source })?;
    let local: SocketAddr =
        if address.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let endpoint = quinn::Endpoint::client(local).map_err(JoinError::Socket)?;
    // The name is not checked: which member answers does not matter, that it is one does.
    let connecting = endpoint
        .connect_with(config, address, "join.holdfast")
        .map_err(|source| JoinError::Setup { address, source: source.into() })?;
    let conversation = async {
        let connection = connecting.await?;
        match ask(&connection, request).await {
            Ok(answer) => {
                connection.close(0u32.into(), b"done");
                Ok(answer)
            }
            // What the member said when it hung up tells more than that the stream broke.
            Err(error) => Err(connection.close_reason().map_or(error, Cause::from)),
        }
    };
    let result = tokio::time::timeout(CLIENT_TIMEOUT, conversation).await;
    // Lets the other side know that we are through.
    let _ = tokio::time::timeout(Duration::from_millis(500), endpoint.wait_idle()).await;
    match result {
        Ok(answer) => answer.map_err(|source| JoinError::Connect { address, source }),
        Err(_) => Err(JoinError::Timeout { address, seconds: CLIENT_TIMEOUT.as_secs() }),
    }
}

async fn ask(connection: &quinn::Connection, request: Bytes) -> Result<Bytes, Cause> {
    let (mut send, mut receive) = connection.open_bi().await?;
    send.write_chunk(request).await?;
    send.finish()?;
    Ok(receive.read_to_end(MAX_JOIN_BYTES).await?.into())
}

fn client_config(fingerprint: String) -> Result<quinn::ClientConfig, Cause> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(PinnedCa { fingerprint, provider: Arc::clone(&provider) });
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    Ok(quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?)))
}

/// Accepts a node's certificate signed by the one CA whose fingerprint we know.
#[derive(Debug)]
struct PinnedCa {
    fingerprint: String,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = intermediates
            .iter()
            .find(|cert| pki::fingerprint_der(cert) == self.fingerprint)
            .ok_or(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone().into_owned())?;
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], now, algorithms)?;
        if node_of(end_entity).is_none() {
            return Err(rustls::Error::InvalidCertificate(CertificateError::NotValidForName));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
