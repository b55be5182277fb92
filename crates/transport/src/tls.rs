//! TLS 1.3 and QUIC settings, and reading who a peer is from its certificate.
//!
//! One port serves two protocols, told apart by ALPN: lanes, where both sides show a certificate of the cluster, and
//! join, where the client has none yet and checks the server against the CA's fingerprint in its token. The server asks
//! for a certificate and verifies it if there is one; `incoming` insists on it for lanes.

use crate::config::{Identity, TransportConfig};
use crate::error::TransportError;
use crate::pki;
use holdfast_types::{ClusterId, NodeId};
use quinn::crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig};
use quinn::{ConnectionId, ConnectionIdGenerator, IdleTimeout, MtuDiscoveryConfig, VarInt};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, version::TLS13};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Lanes between members.
pub(crate) const ALPN_LANES: &[u8] = b"holdfast/1";
/// The join conversation.
pub(crate) const ALPN_JOIN: &[u8] = b"holdfast-join/1";

/// What somebody may send that nobody knows yet: more than the largest request to join.
const STRANGERS_WINDOW: u32 = 128 << 10;
/// Callers that the gate has not looked at yet, and the bytes that wait of one and of all: it looks at once, unless the thread is busy.
const MOST_WAITING: usize = 1024;
const WAITING_BYTES: u64 = 64 << 10;
const ALL_WAITING_BYTES: u64 = 4 << 20;

/// What an endpoint needs of TLS.
pub(crate) struct Tls {
    pub(crate) endpoint: quinn::EndpointConfig,
    pub(crate) server: quinn::ServerConfig,
    pub(crate) client: quinn::ClientConfig,
}

type Cause = Box<dyn Error + Send + Sync>;

fn fail<E: Into<Cause>>(what: &'static str) -> impl FnOnce(E) -> TransportError {
    move |source| TransportError::Identity { what, source: source.into() }
}

pub(crate) fn build(identity: &Identity, config: &TransportConfig) -> Result<Tls, TransportError> {
    let ca = CertificateDer::from_pem_slice(identity.ca_pem.as_bytes()).map_err(fail("the CA's certificate"))?;
    let cert = CertificateDer::from_pem_slice(identity.cert_pem.as_bytes()).map_err(fail("this node's certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).map_err(fail("this node's key"))?;
    check_name(identity, &cert)?;
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).map_err(fail("the CA's certificate"))?;
    let roots = Arc::new(roots);
    // The CA goes along for joining nodes, which know only its fingerprint.
    let chain = vec![cert, ca];
    Ok(Tls {
        endpoint: endpoint_config(&key, config),
        server: server_config(&roots, chain.clone(), key.clone_key(), config)?,
        client: client_config(&roots, chain, key, config)?,
    })
}

fn check_name(identity: &Identity, cert: &CertificateDer<'_>) -> Result<(), TransportError> {
    let expected = pki::node_name(identity.cluster, identity.node);
    let found = node_of(cert).map(|(cluster, node)| pki::node_name(cluster, node));
    if found.as_ref() == Some(&expected) {
        return Ok(());
    }
    Err(TransportError::WrongName { expected, found: found.unwrap_or_else(|| "no node of a Holdfast cluster".into()) })
}

/// Whether the certificate was signed by the CA for a node, and holds now: peers will look, too.
pub(crate) fn check_issued(identity: &Identity) -> Result<(), TransportError> {
    let ca = CertificateDer::from_pem_slice(identity.ca_pem.as_bytes()).map_err(fail("the CA's certificate"))?;
    let cert = CertificateDer::from_pem_slice(identity.cert_pem.as_bytes()).map_err(fail("this node's certificate"))?;
    let mut roots = RootCertStore::empty();
    roots.add(ca).map_err(fail("the CA's certificate"))?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    let verifier = verifier.build().map_err(fail("the CA's certificate"))?;
    let verified = verifier.verify_client_cert(&cert, &[], UnixTime::now());
    verified.map(drop).map_err(fail("this node's certificate"))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn server_config(
    roots: &Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    config: &TransportConfig,
) -> Result<quinn::ServerConfig, TransportError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider())
        .allow_unauthenticated()
        .build()
        .map_err(fail("the CA's certificate"))?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(fail("TLS 1.3"))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(fail("this node's certificate and key"))?;
    tls.alpn_protocols = vec![ALPN_LANES.to_vec(), ALPN_JOIN.to_vec()];
    // Neither tickets nor early data: whatever changes state must not be replayable (trap 10).
    tls.send_tls13_tickets = 0;
    tls.max_early_data_size = 0;
    let crypto = QuicServerConfig::try_from(tls).map_err(fail("QUIC's cipher suite"))?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let mut quic = quic_config(config);
    // Nothing but a join conversation, until the other end has proven who it is: what nobody reads is memory.
    quic.max_concurrent_uni_streams(VarInt::from_u32(0)).max_concurrent_bidi_streams(VarInt::from_u32(1));
    quic.receive_window(VarInt::from_u32(STRANGERS_WINDOW))
        .stream_receive_window(VarInt::from_u32(config.stream_window));
    // A node that changes its address reconnects; packets from elsewhere are nobody's.
    server.transport_config(Arc::new(quic)).migration(false);
    server.max_incoming(MOST_WAITING).incoming_buffer_size(WAITING_BYTES).incoming_buffer_size_total(ALL_WAITING_BYTES);
    Ok(server)
}

/// Lets a peer have what lanes need: it has proven who it is.
pub(crate) fn trust(connection: &quinn::Connection, config: &TransportConfig) {
    connection.set_receive_window(VarInt::from_u64(window_of_all(config)).unwrap_or(VarInt::MAX));
    connection.set_max_concurrent_uni_streams(VarInt::from_u32(config.max_lanes));
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(0));
}

/// Each lane has its own window, and the connection's does not bind: a lane that nobody reads, or that the network holds up, takes nothing
/// from the others, and `Beat` finds room. Only where a thousand lanes are full at once it does, which bounds memory: who is so far
/// behind is not alive.
fn window_of_all(config: &TransportConfig) -> u64 {
    (u64::from(config.stream_window) * (u64::from(config.max_lanes) + 1)).min(config.connection_window)
}

fn client_config(
    roots: &Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    config: &TransportConfig,
) -> Result<quinn::ClientConfig, TransportError> {
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(fail("TLS 1.3"))?
        .with_root_certificates(Arc::clone(roots))
        .with_client_auth_cert(chain, key)
        .map_err(fail("this node's certificate and key"))?;
    tls.alpn_protocols = vec![ALPN_LANES.to_vec()];
    tls.resumption = Resumption::disabled();
    let crypto = QuicClientConfig::try_from(tls).map_err(fail("QUIC's cipher suite"))?;
    let mut client = quinn::ClientConfig::new(Arc::new(crypto));
    let mut quic = quic_config(config);
    // The acceptor's welcome.
    quic.max_concurrent_uni_streams(VarInt::from_u32(1)).max_concurrent_bidi_streams(VarInt::from_u32(0));
    client.transport_config(Arc::new(quic));
    Ok(client)
}

fn quic_config(config: &TransportConfig) -> quinn::TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(config.mtu_max);
    let stream = VarInt::from_u32(config.stream_window);
    let all = window_of_all(config);
    let mut quic = quinn::TransportConfig::default();
    quic.initial_mtu(1200)
        .mtu_discovery_config(Some(mtu))
        .max_idle_timeout(Some(idle(config.idle_timeout)))
        .keep_alive_interval(Some(config.keep_alive))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(stream)
        .receive_window(VarInt::from_u64(all).unwrap_or(VarInt::MAX))
        .send_window(all);
    if config.ack_at_once {
        let mut acks = quinn::AckFrequencyConfig::default();
        acks.ack_eliciting_threshold(VarInt::from_u32(0));
        quic.ack_frequency_config(Some(acks));
    }
    quic
}

fn idle(timeout: Duration) -> IdleTimeout {
    IdleTimeout::try_from(timeout).expect("the configuration was checked: at most 10 minutes")
}

/// A restarted agent knows nothing of its old connections. A key derived from the node's private key lets it say so at
/// once (a stateless reset) when a peer's next packet arrives, instead of leaving the peer to its idle timeout.
fn endpoint_config(key: &PrivateKeyDer<'_>, config: &TransportConfig) -> quinn::EndpointConfig {
    let root = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key.secret_der());
    let derived = ring::hmac::sign(&root, b"holdfast stateless reset");
    let reset = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, derived.as_ref());
    let mut endpoint = quinn::EndpointConfig::new(Arc::new(reset));
    endpoint
        .cid_generator(|| Box::new(RandomIds(SystemRandom::new())))
        .max_udp_payload_size(config.mtu_max.max(1472))
        .expect("the configuration was checked: 1200 to 65527 bytes");
    endpoint
}

/// Connection ids without structure. quinn's default ids carry a mark of their endpoint, and packets with the mark of a
/// former life are dropped in silence, which would suppress the stateless reset.
struct RandomIds(SystemRandom);

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; 8];
        self.0.fill(&mut id).expect("the operating system has randomness once it has booted");
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The node that a certificate was issued to.
pub(crate) fn node_of(cert: &[u8]) -> Option<(ClusterId, NodeId)> {
    let (_, cert) = X509Certificate::from_der(cert).ok()?;
    let names = &cert.subject_alternative_name().ok()??.value.general_names;
    match names.as_slice() {
        [GeneralName::DNSName(name)] => pki::parse_node_name(name),
        _ => None,
    }
}

/// The node at the other end, by its verified certificate; `None` if it showed none, or one without our name in it.
pub(crate) fn peer_of(connection: &quinn::Connection) -> Option<(ClusterId, NodeId)> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    node_of(chain.first()?)
}

/// Which protocol was agreed on.
pub(crate) fn alpn_of(connection: &quinn::Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol
}
