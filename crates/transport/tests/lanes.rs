//! Lanes over real sockets on the loopback interface.
#![allow(clippy::unwrap_used, reason = "a helper of a test may panic like a test")]

use bytes::Bytes;
use holdfast_transport::pki::{self, CaMaterial};
use holdfast_transport::{
    Endpoint, Event, Events, Identity, JoinError, Lane, SendError, TransportConfig, TransportError, join_client,
};
use holdfast_types::{ClusterId, NodeId, VolumeId};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const CLUSTER: ClusterId = ClusterId(0xC1);
const PATIENCE: Duration = Duration::from_secs(20);

fn volume(n: u64) -> Lane {
    Lane::Volume(VolumeId(n))
}

fn identity(ca: &CaMaterial, cluster: ClusterId, node: u64) -> Identity {
    let cert = pki::issue_node(ca, cluster, NodeId(node), None).unwrap();
    let (cert_pem, key_pem) = (cert.cert_pem, cert.key_pem);
    Identity { cluster, node: NodeId(node), ca_pem: ca.cert_pem.clone(), cert_pem, key_pem }
}

fn config(port: u16) -> TransportConfig {
    TransportConfig {
        idle_timeout: Duration::from_millis(1500),
        keep_alive: Duration::from_millis(200),
        ..TransportConfig::new(SocketAddr::from(([127, 0, 0, 1], port)))
    }
}

struct Node {
    id: NodeId,
    endpoint: Endpoint,
    events: Events,
    address: SocketAddr,
    /// Why others were refused here.
    refused: Vec<String>,
}

impl Node {
    async fn start(identity: &Identity, config: TransportConfig) -> Node {
        let begun = Instant::now();
        let (endpoint, events) = loop {
            match Endpoint::bind(config.clone(), identity).await {
                // What another endpoint of the test had is free a moment after that has ended.
                Err(TransportError::Bind { source, .. })
                    if source.kind() == std::io::ErrorKind::AddrInUse && begun.elapsed() < PATIENCE =>
                {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                bound => break bound.unwrap(),
            }
        };
        let address = endpoint.local_addr().unwrap();
        Node { id: identity.node, endpoint, events, address, refused: Vec::new() }
    }

    async fn next(&mut self) -> Event {
        tokio::time::timeout(PATIENCE, self.heard()).await.expect("an event in time").expect("the endpoint lives")
    }

    /// Whatever comes next but refusals, which are kept.
    async fn heard(&mut self) -> Option<Event> {
        loop {
            match self.events.recv().await {
                Some(Event::Refused { what }) => self.refused.push(what),
                other => return other,
            }
        }
    }

    /// No event for a while.
    async fn quiet(&mut self, time: Duration) {
        if let Ok(event) = tokio::time::timeout(time, self.heard()).await {
            panic!("expected no event, found {event:?}");
        }
    }

    async fn up(&mut self, to: NodeId, on: Lane) -> u64 {
        let found = self.find("the lane to come up", |event| match event {
            Event::LaneUp { peer, lane, session } if peer == to && lane == on => Some(session),
            Event::Message { .. } => panic!("expected the lane to come up before messages arrive"),
            _ => None,
        });
        found.await
    }

    async fn message(&mut self) -> (NodeId, Lane, u64, Bytes) {
        let found = self.find("a message", |event| match event {
            Event::Message { peer, lane, session, bytes } => Some((peer, lane, session, bytes)),
            _ => None,
        });
        found.await
    }

    /// The first event that is it, however many others come.
    async fn find<T>(&mut self, what: &str, is: impl Fn(Event) -> Option<T>) -> T {
        let search = async {
            loop {
                let event = self.heard().await.expect("the endpoint lives");
                if let Some(found) = is(event) {
                    return found;
                }
            }
        };
        let found = tokio::time::timeout(PATIENCE, search).await;
        found.unwrap_or_else(|_| panic!("expected {what} within {PATIENCE:?}, found other events at most"))
    }

    fn send(&self, to: NodeId, lane: Lane, session: u64, text: impl Into<Bytes>) -> Result<(), SendError> {
        self.endpoint.send(to, lane, session, vec![text.into()])
    }
}

/// Waits for what comes by itself.
async fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "expected {what} within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn introduce(nodes: &[&Node]) {
    let peers: BTreeMap<NodeId, SocketAddr> = nodes.iter().map(|n| (n.id, n.address)).collect();
    for node in nodes {
        node.endpoint.set_peers(&peers);
    }
}

async fn nodes(count: u64, config: impl Fn() -> TransportConfig) -> Vec<Node> {
    let ca = pki::create_ca(CLUSTER).unwrap();
    let mut nodes = Vec::new();
    for n in 1..=count {
        nodes.push(Node::start(&identity(&ca, CLUSTER, n), config()).await);
    }
    introduce(&nodes.iter().collect::<Vec<_>>());
    nodes
}

async fn pair(configure: impl Fn() -> TransportConfig) -> (Node, Node) {
    let mut nodes = nodes(2, configure).await;
    let b = nodes.pop().unwrap();
    (nodes.pop().unwrap(), b)
}

#[tokio::test]
async fn ten_thousand_messages_arrive_in_order_on_each_lane_between_three_nodes() {
    let mut nodes = nodes(3, || config(0)).await;
    let lanes = [Lane::Control, Lane::Beat, volume(1), volume(2)];
    let each = 10_000u64 / 4 / 3;
    let ids: Vec<NodeId> = nodes.iter().map(|n| n.id).collect();
    let mut tasks = Vec::new();
    for mut node in nodes.drain(..) {
        let others: Vec<NodeId> = ids.iter().copied().filter(|&id| id != node.id).collect();
        tasks.push(tokio::spawn(async move {
            for (&peer, lane) in others.iter().flat_map(|p| lanes.iter().map(move |l| (p, *l))) {
                node.endpoint.open(peer, lane);
            }
            let mut next: BTreeMap<(NodeId, Lane), u64> = BTreeMap::new();
            let wanted = each * 8;
            let mut received = 0;
            let mut sent = 0;
            while received < wanted || sent < 8 {
                match node.next().await {
                    Event::LaneUp { peer, lane, session } => {
                        sent += 1;
                        for n in 0..each {
                            let pieces = vec![
                                Bytes::copy_from_slice(&n.to_le_bytes()),
                                Bytes::new(),
                                Bytes::from_static(b"tail"),
                            ];
                            node.endpoint.send(peer, lane, session, pieces).unwrap();
                        }
                    }
                    Event::Message { peer, lane, bytes, .. } => {
                        let expected = next.entry((peer, lane)).or_default();
                        assert_eq!(bytes[..8], expected.to_le_bytes(), "{peer} {lane}");
                        assert_eq!(&bytes[8..], b"tail");
                        *expected += 1;
                        received += 1;
                    }
                    Event::LaneDown { .. } | Event::IncomingClosed { .. } => panic!("nothing breaks"),
                    Event::Incoming { .. } | Event::Join { .. } | Event::Removed { .. } | Event::Refused { .. } => {}
                }
            }
            node
        }));
    }
    // Kept until everybody is through: a node that leaves closes its lanes.
    let mut finished = Vec::new();
    for task in tasks {
        finished.push(tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap());
    }
}

#[tokio::test]
async fn big_messages_arrive_whole() {
    let (mut a, mut b) = pair(|| config(0)).await;
    a.endpoint.open(b.id, volume(1));
    let session = a.up(b.id, volume(1)).await;
    let body: Vec<u8> = (0u32..1_153_434).map(|n| (n % 251).to_le_bytes()[0]).collect();
    let body = Bytes::from(body);
    for _ in 0..20 {
        a.endpoint.send(b.id, volume(1), session, vec![body.slice(..512), body.slice(512..)]).unwrap();
    }
    a.send(b.id, volume(1), session, Bytes::new()).unwrap();
    for _ in 0..20 {
        assert!(b.message().await.3 == body);
    }
    assert!(b.message().await.3.is_empty());
    let limit = TransportConfig::new(a.address).max_message_bytes;
    assert_eq!(a.send(b.id, volume(1), session, vec![0; limit + 1]), Err(SendError::TooLarge));
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_refused() {
    let (ours, theirs) = (pki::create_ca(CLUSTER).unwrap(), pki::create_ca(CLUSTER).unwrap());
    let mut a = Node::start(&identity(&ours, CLUSTER, 1), config(0)).await;
    let mut b = Node::start(&identity(&theirs, CLUSTER, 2), config(0)).await;
    // Trusts our CA, but shows a certificate of another one.
    let mixed = Identity { ca_pem: ours.cert_pem.clone(), ..identity(&theirs, CLUSTER, 3) };
    let mut c = Node::start(&mixed, config(0)).await;
    introduce(&[&a, &b, &c]);
    for (from, to) in [(&a, &b), (&b, &a), (&a, &c), (&c, &a)] {
        from.endpoint.open(to.id, Lane::Control);
    }
    a.quiet(Duration::from_secs(1)).await;
    b.quiet(Duration::from_millis(1)).await;
    c.quiet(Duration::from_millis(1)).await;
    // Whoever was knocked at tells of it, with where from and why, and not of each knock.
    let why = a.refused.iter().filter(|what| what.contains("127.0.0.1:") && what.contains("the handshake failed"));
    assert!((1..=20).contains(&why.count()), "{:?}", a.refused);
}

#[tokio::test]
async fn a_node_of_another_cluster_is_refused_even_by_the_same_ca() {
    let ca = pki::create_ca(CLUSTER).unwrap();
    let mut a = Node::start(&identity(&ca, CLUSTER, 1), config(0)).await;
    let mut b = Node::start(&identity(&ca, ClusterId(0xC2), 2), config(0)).await;
    introduce(&[&a, &b]);
    a.endpoint.open(b.id, Lane::Control);
    b.endpoint.open(a.id, Lane::Control);
    a.quiet(Duration::from_secs(1)).await;
    b.quiet(Duration::from_millis(1)).await;
}

fn unix_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// The same node with a certificate that ends then.
fn until(ca: &CaMaterial, identity: &Identity, seconds: u64) -> Identity {
    let request = pki::request_for(&identity.key_pem).unwrap();
    let cert_pem = pki::sign_csr(ca, identity.cluster, identity.node, &request, Some(seconds)).unwrap();
    Identity { cert_pem, ..identity.clone() }
}

#[tokio::test]
async fn an_expired_certificate_is_refused_by_either_side_until_it_is_renewed() {
    let ca = pki::create_ca(CLUSTER).unwrap();
    let (first, second) = (identity(&ca, CLUSTER, 1), identity(&ca, CLUSTER, 2));
    let mut a = Node::start(&first, config(0)).await;
    let mut b = Node::start(&until(&ca, &second, unix_now() - 10), config(0)).await;
    introduce(&[&a, &b]);
    a.endpoint.open(b.id, Lane::Control);
    b.endpoint.open(a.id, Lane::Control);
    a.quiet(Duration::from_secs(1)).await;
    b.quiet(Duration::from_millis(1)).await;
    b.endpoint.set_identity(&until(&ca, &second, unix_now() + 600)).unwrap();
    a.up(b.id, Lane::Control).await;
    b.up(a.id, Lane::Control).await;
}

#[tokio::test]
async fn a_renewed_certificate_disturbs_no_lane_and_a_wrong_one_changes_nothing() {
    let ca = pki::create_ca(CLUSTER).unwrap();
    let (first, second) = (identity(&ca, CLUSTER, 1), identity(&ca, CLUSTER, 2));
    let mut a = Node::start(&first, config(0)).await;
    let mut b = Node::start(&second, config(0)).await;
    introduce(&[&a, &b]);
    a.endpoint.open(b.id, volume(1));
    let session = a.up(b.id, volume(1)).await;
    for identity in [&first, &second] {
        let node = if identity.node == a.id { &a } else { &b };
        let other = pki::create_ca(CLUSTER).unwrap();
        let foreign = until(&other, identity, unix_now() + 600);
        let expired = until(&ca, identity, unix_now() - 10);
        let another_key = Identity { key_pem: self::identity(&ca, CLUSTER, 9).key_pem, ..identity.clone() };
        let another_node = Identity { node: NodeId(7), ..identity.clone() };
        for wrong in [foreign, expired, another_key, another_node] {
            assert!(node.endpoint.set_identity(&wrong).is_err());
        }
        node.endpoint.set_identity(&until(&ca, identity, unix_now() + 600)).unwrap();
    }
    a.send(b.id, volume(1), session, "still here").unwrap();
    assert_eq!(b.message().await.3, "still here");
}

#[tokio::test]
async fn who_is_removed_is_cut_off_at_once_and_can_not_come_back() {
    let ca = pki::create_ca(CLUSTER).unwrap();
    let mut a = Node::start(&identity(&ca, CLUSTER, 1), config(0)).await;
    let mut b = Node::start(&identity(&ca, CLUSTER, 2), config(0)).await;
    introduce(&[&a, &b]);
    b.endpoint.open(a.id, Lane::Control);
    let session = b.up(a.id, Lane::Control).await;
    b.send(a.id, Lane::Control, session, "in").unwrap();
    assert_eq!(a.message().await.3, "in");
    let since = Instant::now();
    a.endpoint.set_removed([b.id].into());
    a.endpoint.set_peers(&BTreeMap::new());
    let by =
        b.find("to be told of the removal", |event| if let Event::Removed { by } = event { Some(by) } else { None });
    assert_eq!(by.await, a.id);
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    // Its certificate holds for years, and is of no use: whatever it tries, nothing of it arrives.
    b.endpoint.close(a.id, Lane::Control);
    b.endpoint.open(a.id, Lane::Control);
    let quiet = tokio::time::timeout(Duration::from_secs(2), async {
        loop {
            match a.next().await {
                Event::Incoming { peer, .. } | Event::Message { peer, .. } => panic!("{peer} was heard"),
                _ => {}
            }
        }
    });
    assert!(quiet.await.is_err());
}

#[tokio::test]
async fn whoever_answers_must_be_the_node_that_was_dialled() {
    let ca = pki::create_ca(CLUSTER).unwrap();
    let mut a = Node::start(&identity(&ca, CLUSTER, 1), config(0)).await;
    let b = Node::start(&identity(&ca, CLUSTER, 2), config(0)).await;
    b.endpoint.set_peers(&BTreeMap::from([(a.id, a.address)]));
    a.endpoint.set_peers(&BTreeMap::from([(NodeId(3), b.address)]));
    a.endpoint.open(NodeId(3), Lane::Control);
    a.quiet(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_foreign_name_is_refused_at_the_start() {
    let ca = pki::create_ca(CLUSTER).unwrap();
    let wrong = Identity { node: NodeId(9), ..identity(&ca, CLUSTER, 1) };
    let error = Endpoint::bind(config(0), &wrong).await.err().expect("the certificate is of node 1");
    assert!(matches!(error, TransportError::WrongName { .. }), "{error}");
}

#[tokio::test]
async fn a_client_without_certificate_gets_no_lane() {
    let (mut a, _b) = pair(|| config(0)).await;
    let (client, error) = raw_connection(a.address, b"holdfast/1").await;
    assert!(error.to_string().contains("join the cluster first"), "{error}");
    drop(client);
    a.quiet(Duration::from_millis(200)).await;
    assert!(a.refused.iter().any(|what| what.contains("join the cluster first")), "{:?}", a.refused);
}

/// Without a certificate.
struct Stranger {
    endpoint: quinn::Endpoint,
    config: quinn::ClientConfig,
}

impl Stranger {
    fn new(alpn: &[u8]) -> Stranger {
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(std::sync::Arc::new(Anybody))
            .with_no_client_auth();
        tls.alpn_protocols = vec![alpn.to_vec()];
        let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
        let endpoint = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        Stranger { endpoint, config: quinn::ClientConfig::new(std::sync::Arc::new(crypto)) }
    }

    async fn connect(&self, address: SocketAddr) -> Result<quinn::Connection, quinn::ConnectionError> {
        self.endpoint.connect_with(self.config.clone(), address, "any.holdfast").unwrap().await
    }
}

/// Somebody who looks which ports are open, and an agent that ends while it shakes hands, show no wrong certificate: they show none.
#[tokio::test]
async fn who_gives_up_in_the_middle_of_a_handshake_is_not_said_to_be_of_another_authority() {
    let (mut a, _b) = pair(|| config(0)).await;
    // What it says arrives, and no answer comes back: the handshake goes on no further.
    let relay = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (through, target) = (relay.local_addr().unwrap(), a.address);
    let (speaks, mut spoken) = tokio::sync::mpsc::unbounded_channel();
    let forwards = tokio::spawn(async move {
        let mut datagram = vec![0; 2048];
        loop {
            let (len, from) = relay.recv_from(&mut datagram).await.unwrap();
            if from == target {
                speaks.send(()).unwrap();
            } else {
                relay.send_to(&datagram[..len], target).await.unwrap();
            }
        }
    });
    let stranger = Stranger::new(b"holdfast/1");
    let dials = stranger.endpoint.connect_with(stranger.config.clone(), through, "any.holdfast").unwrap();
    // Its first words were heard.
    tokio::time::timeout(PATIENCE, spoken.recv()).await.expect("an answer that the relay keeps").unwrap();
    stranger.endpoint.close(0u32.into(), b"");
    drop(dials);
    wait_until("it to be counted", || a.endpoint.turned_away().abandoned == 1).await;
    a.quiet(Duration::from_millis(100)).await;
    let said = a.refused.join("\n");
    // That it gave up may have got lost on its way.
    let gone = said.contains("gave up") || said.contains("took too long");
    assert!(gone && !said.contains("certificate of this cluster"), "{said}");
    assert_eq!(a.endpoint.turned_away().all, 1);
    forwards.abort();
}

/// Connects without a certificate and waits for the end.
async fn raw_connection(address: SocketAddr, alpn: &[u8]) -> (Stranger, quinn::ConnectionError) {
    let stranger = Stranger::new(alpn);
    let connection = stranger.connect(address).await.unwrap();
    let error = tokio::time::timeout(PATIENCE, connection.closed()).await.expect("the server hangs up");
    (stranger, error)
}

/// What nobody reads is memory: 2 GiB in the streams of a member, nothing in those of whoever may only ask to join.
#[tokio::test]
async fn a_stranger_gets_no_streams_to_fill() {
    let (a, _b) = pair(|| config(0)).await;
    let stranger = Stranger::new(b"holdfast-join/1");
    let connection = stranger.connect(a.address).await.unwrap();
    let look = Duration::from_millis(500);
    assert!(tokio::time::timeout(look, connection.open_uni()).await.is_err(), "no lane");
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    assert!(tokio::time::timeout(look, connection.open_bi()).await.is_err(), "one conversation");
    // What it says there is cut off above the largest request.
    let ended = tokio::time::timeout(PATIENCE, send.write_all(&[7; 1 << 20])).await.expect("the member hangs up");
    assert!(ended.is_err(), "it took 1 MiB of a request to join");
}

/// Handshakes of strangers without end, whose addresses are proven: a member that was away comes back all the same.
#[tokio::test]
async fn members_come_back_while_strangers_knock() {
    let ca = pki::create_ca(CLUSTER).unwrap();
    let strict = TransportConfig { stranger_handshakes_per_second: 8, ..config(0) };
    let mut a = Node::start(&identity(&ca, CLUSTER, 1), strict).await;
    let of_b = identity(&ca, CLUSTER, 2);
    let b = Node::start(&of_b, config(0)).await;
    introduce(&[&a, &b]);
    b.endpoint.open(a.id, Lane::Control);
    assert!(matches!(a.next().await, Event::Incoming { .. }));
    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (stranger, target) = (Stranger::new(b"holdfast-join/1"), a.address);
        flood.spawn(async move {
            loop {
                // Refused, or let in and gone again.
                drop(stranger.connect(target).await);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
    let address = b.address;
    b.endpoint.shutdown().await;
    wait_until("50 strangers to be turned away", || a.endpoint.turned_away().strangers >= 50).await;
    for _ in 0..3 {
        let before = a.endpoint.turned_away().strangers;
        let begun = Instant::now();
        let mut b = Node::start(&of_b, config(address.port())).await;
        introduce(&[&a, &b]);
        b.endpoint.open(a.id, Lane::Control);
        b.up(a.id, Lane::Control).await;
        assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
        wait_until("strangers to knock on", || a.endpoint.turned_away().strangers > before).await;
        b.endpoint.shutdown().await;
    }
    while tokio::time::timeout(Duration::from_millis(200), a.heard()).await.is_ok() {}
    let found = a.endpoint.turned_away();
    assert!(found.members == 0 && found.all >= found.strangers, "{found:?}");
    assert!(a.refused.iter().any(|what| what.contains("too many handshakes")), "{:?}", a.refused);
    flood.shutdown().await;
    // The strangers' share fills up again.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(Stranger::new(b"holdfast-join/1").connect(a.address).await.is_ok());
}

#[derive(Debug)]
struct Anybody;

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn a_node_that_was_removed_is_told_so_at_once_and_whenever_it_dials() {
    let (mut a, b) = pair(|| config(0)).await;
    a.endpoint.open(b.id, Lane::Control);
    a.up(b.id, Lane::Control).await;
    b.endpoint.set_removed([a.id].into());
    b.endpoint.set_peers(&BTreeMap::new());
    for _ in 0..2 {
        let by = a
            .find("to be told of the removal", |event| if let Event::Removed { by } = event { Some(by) } else { None });
        assert_eq!(by.await, b.id);
    }
}

#[tokio::test]
async fn a_removed_peer_is_closed_and_refused() {
    let (mut a, mut b) = pair(|| config(0)).await;
    a.endpoint.open(b.id, Lane::Control);
    let session = a.up(b.id, Lane::Control).await;
    assert!(matches!(b.next().await, Event::Incoming { .. }));
    b.endpoint.set_peers(&BTreeMap::new());
    assert!(matches!(b.next().await, Event::IncomingClosed { .. }));
    assert!(matches!(a.next().await, Event::LaneDown { session: s, .. } if s == session));
    a.quiet(Duration::from_millis(600)).await;
    introduce(&[&a, &b]);
    assert_ne!(a.up(b.id, Lane::Control).await, session);
}

#[tokio::test]
async fn a_lane_that_is_closed_and_opened_again_never_mixes_sessions() {
    let (mut a, mut b) = pair(|| config(0)).await;
    for round in 0..20u64 {
        a.endpoint.open(b.id, volume(1));
        let session = a.up(b.id, volume(1)).await;
        for _ in 0..50 {
            a.send(b.id, volume(1), session, round.to_le_bytes().to_vec()).unwrap();
        }
        a.endpoint.close(b.id, volume(1));
        assert_eq!(a.send(b.id, volume(1), session, "late"), Err(SendError::Down));
        assert!(matches!(a.next().await, Event::LaneDown { session: s, .. } if s == session));
    }
    let (mut open, mut last) = (None, 0);
    let mut sessions = 0;
    while sessions < 20 {
        match b.next().await {
            Event::Incoming { session, .. } => assert!(open.replace(session).is_none() && session > last),
            Event::IncomingClosed { session, .. } => {
                assert_eq!(open.take(), Some(session));
                last = session;
                sessions += 1;
            }
            Event::Message { session, .. } => assert_eq!(open, Some(session)),
            other => panic!("unexpected {other:?}"),
        }
    }
}

#[tokio::test]
async fn lanes_come_back_after_a_restart_of_the_peer() {
    let ca = pki::create_ca(CLUSTER).unwrap();
    let (first, second) = (identity(&ca, CLUSTER, 1), identity(&ca, CLUSTER, 2));
    let mut a = Node::start(&first, config(0)).await;
    let b = Node::start(&second, config(0)).await;
    let address = b.address;
    introduce(&[&a, &b]);
    a.endpoint.open(b.id, volume(1));
    let session = a.up(b.id, volume(1)).await;
    b.endpoint.shutdown().await;
    drop(b.events);
    assert!(matches!(a.next().await, Event::LaneDown { session: s, .. } if s == session));
    assert_eq!(a.send(NodeId(2), volume(1), session, "lost"), Err(SendError::Down));
    let mut b = Node::start(&second, config(address.port())).await;
    introduce(&[&a, &b]);
    let again = a.up(b.id, volume(1)).await;
    assert_ne!(again, session);
    assert_eq!(a.send(b.id, volume(1), session, "stale"), Err(SendError::Down));
    a.send(b.id, volume(1), again, "back").unwrap();
    assert_eq!(b.message().await.3, "back");
}

/// Like `kill -9`: the runtime goes, no packet says so. The successor at the same address tells the peer at once.
#[tokio::test]
async fn a_crashed_peer_is_noticed_when_its_successor_answers() {
    let ca = pki::create_ca(CLUSTER).unwrap();
    let (first, second) = (identity(&ca, CLUSTER, 1), identity(&ca, CLUSTER, 2));
    let patient = |port| TransportConfig { idle_timeout: Duration::from_secs(60), ..config(port) };
    let mut a = Node::start(&first, patient(0)).await;
    let peers = BTreeMap::from([(a.id, a.address)]);
    let (address, running) = crashing_node(second.clone(), peers);
    a.endpoint.set_peers(&BTreeMap::from([(NodeId(2), address)]));
    a.endpoint.open(NodeId(2), volume(1));
    let session = a.up(NodeId(2), volume(1)).await;
    drop(running);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let b = Node::start(&second, patient(address.port())).await;
    b.endpoint.set_peers(&BTreeMap::from([(a.id, a.address)]));
    let begun = Instant::now();
    assert!(matches!(a.next().await, Event::LaneDown { session: s, .. } if s == session));
    assert_ne!(a.up(NodeId(2), volume(1)).await, session);
    assert!(begun.elapsed() < Duration::from_secs(5), "long before the idle timeout: {:?}", begun.elapsed());
}

/// A node on a thread of its own that vanishes when the returned sender is dropped.
fn crashing_node(
    identity: Identity,
    peers: BTreeMap<NodeId, SocketAddr>,
) -> (SocketAddr, tokio::sync::oneshot::Sender<()>) {
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let node = runtime.block_on(async {
            let node = Node::start(&identity, config(0)).await;
            node.endpoint.set_peers(&peers);
            tell.send(node.address).unwrap();
            let _ = stopped.await;
            node
        });
        // The tasks and the socket go before the endpoint could say goodbye.
        drop(runtime);
        drop(node);
    });
    (told.recv_timeout(PATIENCE).unwrap(), stop)
}

#[tokio::test]
async fn a_control_message_overtakes_bulk() {
    const MIB: usize = 1 << 20;
    let (mut a, mut b) = pair(|| config(0)).await;
    let mut sessions = BTreeMap::new();
    for lane in [Lane::Control, volume(1), volume(2), volume(3), volume(4)] {
        a.endpoint.open(b.id, lane);
        sessions.insert(lane, a.up(b.id, lane).await);
    }
    let body = Bytes::from(vec![7; MIB]);
    for n in 0..52 {
        let lane = volume(n % 4 + 1);
        a.send(b.id, lane, sessions[&lane], body.clone()).unwrap();
    }
    let mut bulk = 0;
    while bulk < 4 * MIB {
        bulk += b.message().await.3.len();
    }
    a.send(b.id, Lane::Control, sessions[&Lane::Control], "now").unwrap();
    loop {
        let (_, lane, _, bytes) = b.message().await;
        if lane == Lane::Control {
            break;
        }
        bulk += bytes.len();
    }
    assert!(bulk < 20 * MIB, "the control message came after {} MiB of 52", bulk / MIB);
    while bulk < 52 * MIB {
        bulk += b.message().await.3.len();
    }
}

#[tokio::test]
async fn a_slow_owner_fills_the_queue_and_nothing_else() {
    let small = || TransportConfig {
        max_message_bytes: 64 << 10,
        queue_bytes: 1 << 20,
        receive_bytes: 1 << 20,
        stream_window: 256 << 10,
        ..config(0)
    };
    let (mut a, mut b) = pair(small).await;
    for lane in [volume(1), volume(2), Lane::Beat] {
        a.endpoint.open(b.id, lane);
    }
    let mut sessions = BTreeMap::new();
    while sessions.len() < 3 {
        if let Event::LaneUp { lane, session, .. } = a.next().await {
            sessions.insert(lane, session);
        }
    }
    // The owner of `b` reads nothing; what is accepted must end where queue, windows and its own queue end.
    let mut sent = 0u64;
    let mut refusals = 0;
    while refusals < 20 {
        let mut message = sent.to_le_bytes().to_vec();
        message.resize(32 << 10, 0);
        match a.send(b.id, volume(1), sessions[&volume(1)], message) {
            Ok(()) => sent += 1,
            Err(SendError::Full) => {
                refusals += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(other) => panic!("unexpected {other:?}"),
        }
    }
    assert!((32..=96).contains(&sent), "about 2.3 MiB are accepted in all, found {sent} messages of 32 KiB");
    // The other lanes are not held up.
    a.send(b.id, Lane::Beat, sessions[&Lane::Beat], "tick").unwrap();
    a.send(b.id, volume(2), sessions[&volume(2)], "small").unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(b.message().await.3, "tick");
    let mut next = 0u64;
    let mut other = false;
    while next < sent || !other {
        let (_, lane, _, bytes) = b.message().await;
        if lane == volume(1) {
            assert_eq!(bytes[..8], next.to_le_bytes());
            next += 1;
        } else {
            other = true;
        }
    }
}

#[tokio::test]
async fn joining_works_and_trusts_the_pinned_ca_only() {
    let ca = pki::create_ca(CLUSTER).unwrap();
    let mut member = Node::start(&identity(&ca, CLUSTER, 1), config(0)).await;
    let address = member.address;
    let csr = pki::create_csr().unwrap();
    let request = Bytes::from(csr.csr_pem.clone());
    let fingerprint = pki::fingerprint(&ca.cert_pem).unwrap();

    let client = tokio::spawn({
        let (request, fingerprint) = (request.clone(), fingerprint.clone());
        async move { join_client(address, &fingerprint, request).await }
    });
    let Event::Join { request: received, reply, .. } = member.next().await else { panic!("expected a join request") };
    assert_eq!(received, request);
    let cert_pem = pki::sign_csr(&ca, CLUSTER, NodeId(2), std::str::from_utf8(&received).unwrap(), None).unwrap();
    assert!(reply.send(cert_pem.clone().into()));
    let answer = client.await.unwrap().unwrap();
    assert_eq!(answer, cert_pem);

    // The new certificate makes a member.
    let joined =
        Identity { cluster: CLUSTER, node: NodeId(2), ca_pem: ca.cert_pem.clone(), cert_pem, key_pem: csr.key_pem };
    let mut joined = Node::start(&joined, config(0)).await;
    introduce(&[&member, &joined]);
    joined.endpoint.open(member.id, Lane::Control);
    joined.up(member.id, Lane::Control).await;
    assert!(matches!(member.next().await, Event::Incoming { peer: NodeId(2), .. }));

    let other = pki::fingerprint(&pki::create_ca(CLUSTER).unwrap().cert_pem).unwrap();
    let error = join_client(address, &other, request.clone()).await.unwrap_err();
    assert!(matches!(error, JoinError::Connect { .. }), "{error}");
    assert!(matches!(join_client(address, "abc", request).await, Err(JoinError::Fingerprint)));
    let long = Bytes::from(vec![0; (64 << 10) + 1]);
    assert!(matches!(join_client(address, &fingerprint, long).await, Err(JoinError::TooLarge { .. })));
    member.quiet(Duration::from_millis(100)).await;
}

#[tokio::test]
async fn joins_are_refused_by_dropping_them_and_limited_in_rate() {
    let ca = pki::create_ca(CLUSTER).unwrap();
    let strict = TransportConfig { joins_per_second: 1, ..config(0) };
    let mut member = Node::start(&identity(&ca, CLUSTER, 1), strict).await;
    let (address, fingerprint) = (member.address, pki::fingerprint(&ca.cert_pem).unwrap());
    let client = tokio::spawn({
        let fingerprint = fingerprint.clone();
        async move { join_client(address, &fingerprint, Bytes::from_static(b"please")).await }
    });
    drop(member.next().await);
    assert!(client.await.unwrap().is_err());
    let error = join_client(address, &fingerprint, Bytes::from_static(b"again")).await.unwrap_err();
    assert!(error.to_string().contains("too many"), "{error}");
}

/// Trap 10: the older reader still holds messages back when the newer stream arrives.
#[tokio::test]
async fn nothing_of_a_replaced_session_follows_its_end() {
    let small = || TransportConfig {
        max_message_bytes: 32 << 10,
        queue_bytes: 1 << 20,
        receive_bytes: 128 << 10,
        stream_window: 256 << 10,
        ..config(0)
    };
    let (mut a, mut b) = pair(small).await;
    for round in 1..=2u64 {
        a.endpoint.open(b.id, volume(1));
        let session = a.up(b.id, volume(1)).await;
        let mut message = round.to_le_bytes().to_vec();
        message.resize(32 << 10, 0);
        for _ in 0..10 {
            a.send(b.id, volume(1), session, message.clone()).unwrap();
        }
        // Enough for the stream's window to fill while the owner of `b` reads nothing.
        tokio::time::sleep(Duration::from_millis(150)).await;
        a.endpoint.close(b.id, volume(1));
        assert!(matches!(a.next().await, Event::LaneDown { .. }));
    }
    let (mut open, mut opened) = (None, 0);
    while opened < 2 || open.is_some() {
        match b.next().await {
            Event::Incoming { session, .. } => {
                assert!(open.replace(session).is_none(), "the older session has not ended yet");
                opened += 1;
            }
            Event::IncomingClosed { session, .. } => assert_eq!(open.take(), Some(session)),
            Event::Message { session, bytes, .. } => {
                assert_eq!(open, Some(session));
                assert_eq!(bytes[..8], u64::to_le_bytes(opened));
            }
            other => panic!("unexpected {other:?}"),
        }
    }
}

/// A node may hold a copy of each volume of its cluster, and another one, too.
#[tokio::test]
async fn two_nodes_have_more_than_a_thousand_lanes() {
    const LANES: u64 = 1500;
    let (mut a, mut b) = pair(|| config(0)).await;
    (1..=LANES).for_each(|n| a.endpoint.open(b.id, volume(n)));
    for _ in 0..LANES {
        a.find("another lane to come up", |event| matches!(event, Event::LaneUp { .. }).then_some(())).await;
        b.find("another lane to arrive", |event| matches!(event, Event::Incoming { .. }).then_some(())).await;
    }
}
