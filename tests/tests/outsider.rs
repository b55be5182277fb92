//! A node of the cluster, with its own valid certificate, that holds no copy of a volume: it can neither read nor write it.
//!
//! It speaks the protocol between copies, correctly, over real QUIC, from the address where it is known. That the questions are such
//! that a member is answered is shown by asking them with the certificate of one, too.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use bytes::Bytes;
use holdfast_cli::harness::free_ports;
use holdfast_cli::workload::{Plan, Workload};
use holdfast_format::message::{BeatVolume, Message, RegionQuery, ShardMessage};
use holdfast_format::{Draft, Record, RecordKind};
use holdfast_tests::scrape::Scrape;
use holdfast_tests::{PATIENCE, TestCluster, finish, peer_address};
use holdfast_transport::{Endpoint, Event, Events, Identity, Lane, TransportConfig};
use holdfast_types::{BlockIndex, BlockRange, ClusterId, Epoch, EpochTable, Lsn, NodeId, RegionIndex, VolumeId};
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

const VOLUME: &str = "vm1";
const SIZE: u64 = 32 << 20;
/// How long is waited for answers that must not come, from when all lanes are open.
const LOOK: Duration = Duration::from_secs(3);

/// Somebody with a node's certificate, at the address of its shard.
struct Speaker {
    endpoint: Endpoint,
    events: Events,
}

/// What came back.
#[derive(Default)]
struct Heard {
    /// On the volume's lane.
    messages: Vec<Message>,
    /// Leases of the volume, in answers to heartbeats.
    granted: usize,
}

impl Speaker {
    async fn start(identity: &Identity, at: SocketAddr, targets: &BTreeMap<NodeId, SocketAddr>) -> Speaker {
        let (endpoint, events) = Endpoint::bind(TransportConfig::new(at), identity).await.unwrap();
        endpoint.set_peers(targets);
        Speaker { endpoint, events }
    }

    /// Opens both lanes to these and says all of it once a lane is there; what came back within a while.
    async fn says(&mut self, targets: &[NodeId], volume: VolumeId, epoch: Epoch, messages: &[Message]) -> Heard {
        for to in targets {
            self.endpoint.open(*to, Lane::Volume(volume));
            self.endpoint.open(*to, Lane::Beat);
        }
        let (mut heard, mut lanes) = (Heard::default(), BTreeMap::new());
        let (begun, mut all_open) = (Instant::now(), None::<Instant>);
        // Again and again: an answer needs a lane back, which may open later.
        let mut again = tokio::time::interval(LOOK / 5);
        while all_open.is_none_or(|since| since.elapsed() < LOOK) {
            assert!(begun.elapsed() < PATIENCE, "it is a node of the cluster: every lane opens; {} did", lanes.len());
            if lanes.len() == targets.len() {
                all_open.get_or_insert_with(Instant::now);
            }
            let event = tokio::select! {
                event = self.events.recv() => event.expect("the endpoint lives"),
                _ = again.tick() => {
                    for ((peer, session), message) in lanes.iter().flat_map(|l| messages.iter().map(move |m| (l, m))) {
                        // Down again, or full: the next time.
                        let _ = self.endpoint.send(*peer, Lane::Volume(volume), *session, message.encode());
                    }
                    continue;
                }
            };
            match event {
                Event::LaneUp { peer, lane: Lane::Volume(_), session } => drop(lanes.insert(peer, session)),
                Event::LaneUp { peer, lane: Lane::Beat, session } => {
                    let volumes = vec![BeatVolume { volume, epoch, committed: Lsn(1 << 40), trim: Lsn(1 << 40) }];
                    let beat = ShardMessage::Beat { seq: 1, volumes }.encode();
                    assert!(self.endpoint.send(peer, Lane::Beat, session, vec![beat]).is_ok());
                }
                Event::Message { lane: Lane::Volume(_), bytes, .. } => {
                    heard.messages.push(Message::decode(bytes).unwrap());
                }
                Event::Message { lane: Lane::Beat, bytes, .. } => match ShardMessage::decode(&bytes).unwrap() {
                    ShardMessage::BeatAck { refused, .. } => heard.granted += usize::from(!refused.contains(&volume)),
                    ShardMessage::Beat { .. } => {}
                },
                _ => {}
            }
        }
        heard
    }
}

/// Questions that a member answers, about content, and positions.
fn questions(epoch: Epoch) -> Vec<Message> {
    let query = RegionQuery { from: RegionIndex(0), end: RegionIndex(64), after: Lsn(0), held: Vec::new() };
    vec![
        Message::FetchBlock { block: BlockIndex(0) },
        Message::FetchBlock { block: BlockIndex(1) },
        Message::FetchLog { epoch, from: Lsn(1), to: Lsn(4) },
        Message::FetchRegions { epoch, request: 7, query },
        Message::DigestAt { epoch, at: Lsn(1) },
        Message::PreClaim { base: epoch },
    ]
}

/// What would change the volume, or who may write it.
fn orders(volume: VolumeId, epoch: Epoch) -> Vec<Message> {
    let higher = Epoch(epoch.0 + 100);
    let record = |epoch, lsn| {
        Record::seal(Draft {
            volume,
            epoch,
            lsn: Lsn(lsn),
            prev_hash: 0,
            committed: Lsn(0),
            kind: RecordKind::Write,
            head: false,
            tail: false,
            range: BlockRange::new(0, 1),
            body: Bytes::from(vec![0xEE; 4096]),
        })
    };
    let table = |epoch| EpochTable::new(vec![(epoch, Lsn(1))]).unwrap();
    let mut orders = vec![
        Message::Append { epoch, committed: Lsn(1 << 40), records: vec![] },
        Message::Append { epoch, committed: Lsn(0), records: vec![record(epoch, 1)] },
        Message::AppendAck { epoch, received: Lsn(1 << 40), durable: Lsn(1 << 40), checkpoint: Lsn(1 << 40) },
        Message::Release { epoch, last: Lsn(1 << 40) },
        Message::Block { block: BlockIndex(0), data: Some(Bytes::from(vec![0xEE; 4096])) },
        Message::Hold { epoch, run: 1, at: Lsn(1 << 40) },
    ];
    orders.extend([
        Message::Fence { epoch: higher, base: epoch },
        Message::Adopt { epoch: higher, table: table(higher), last: Lsn(1) },
        Message::Append { epoch: higher, committed: Lsn(1), records: vec![record(higher, 1)] },
        Message::NeedRegions { epoch: higher, table: table(higher), last: Lsn(1), base: Lsn(1) },
    ]);
    orders
}

fn identity(data: &Path) -> Identity {
    let text = |name: &str| fs::read_to_string(data.join("cluster").join(name)).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text("cluster.json")).unwrap();
    let cluster = ClusterId(u64::from_str_radix(json["cluster"].as_str().unwrap(), 16).unwrap());
    let node = NodeId(json["node"].as_u64().unwrap());
    Identity { cluster, node, ca_pem: text("ca.pem"), cert_pem: text("node.pem"), key_pem: text("node.key") }
}

/// Where a node's shard listens: one port above its control plane.
fn shard(config: &Path) -> SocketAddr {
    let peer = peer_address(config);
    SocketAddr::new(peer.ip(), peer.port() + 1)
}

fn number(cluster: &TestCluster, at: usize, series: &str) -> f64 {
    let scrape = Scrape::take(cluster.nodes()[at].metrics().unwrap()).unwrap_or_else(|e| panic!("{e}"));
    scrape.get(series).unwrap_or_else(|| panic!("expected {series} in\n{}", scrape.text))
}

#[tokio::test]
async fn a_node_without_a_copy_can_neither_read_nor_write_a_volume() {
    let mut cluster = TestCluster::start_observed("").await;
    let volume = cluster.volume(VOLUME, SIZE).await;
    let (id, epoch) = (VolumeId(volume.id), Epoch(volume.epoch));
    let primary = cluster.primary(VOLUME).await;
    let workload = Workload::start(Plan::new(cluster.sockets(VOLUME), VOLUME, 0..SIZE, 31)).unwrap();
    cluster.acknowledges(&workload, 100).await;
    let said = cluster.ask(0, &["token", "create"]);
    let said: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    let dir = holdfast_tests::scratch();
    let (config, data) = (dir.path().join("eve.toml"), dir.path().join("eve"));
    let port = free_ports().unwrap();
    let text = format!(
        "[node]\nname = \"eve\"\ndata_dir = {data:?}\n[listen]\npeer = \"127.0.0.1:{port}\"\n[cluster]\nvoter = false\n"
    );
    fs::write(&config, text).unwrap();
    let (to, token) = (said["address"].as_str().unwrap(), said["token"].as_str().unwrap());
    cluster.succeeds(0, &["join", to, "--token", token, "--config", config.to_str().unwrap()]).await;

    let targets: BTreeMap<NodeId, SocketAddr> =
        (0..3).map(|at| (NodeId(at as u64 + 1), shard(cluster.nodes()[at].config()))).collect();
    let nodes: Vec<NodeId> = targets.keys().copied().collect();
    let mut eve = Speaker::start(&identity(&data), shard(&config), &targets).await;
    let everything = [questions(epoch), orders(id, epoch)].concat();
    let heard = eve.says(&nodes, id, epoch, &everything).await;
    assert!(heard.messages.is_empty(), "nobody answers: {:?}", heard.messages);
    assert_eq!(heard.granted, 0, "nor gives a lease");
    // Everybody has seen it.
    let mut events = String::new();
    for at in 0..3 {
        let all = cluster.wait_for("all to be refused", PATIENCE, async |_| {
            let refused = number(&cluster, at, "holdfast_refused_messages_total");
            let expected = everything.len();
            if refused >= expected as f64 { Ok(()) } else { Err(format!("{refused} of {expected} on node {at}")) }
        });
        all.await.unwrap_or_else(|e| panic!("{e}"));
        let log = fs::read_to_string(cluster.nodes()[at].log()).unwrap();
        let told = log.lines().filter(|line| line.contains("refused a message of n4: it is no member of"));
        assert!((1..=8).contains(&told.count()), "told, but not each: {log}");
        events += &cluster.succeeds(at, &["events"]).await;
    }
    // A node that had others to tell of just before, as when all start, tells of it later.
    assert!(events.lines().any(|line| line.contains("peer_refused") && line.contains("no member of")), "{events}");
    // Nothing has changed: the same reign, and every write is there and equal on all copies.
    cluster.acknowledges(&workload, 100).await;
    let after = cluster.wait_healthy(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((after.epoch, after.primary), (epoch.0, cluster.nodes()[primary].name().to_owned()));

    // Removed, it is hung up on at once, by all of them.
    let begun = Instant::now();
    cluster.succeeds(0, &["node", "remove", "eve", "--yes"]).await;
    let mut lost = Vec::new();
    let waits = async {
        while lost.len() < 3 {
            match eve.events.recv().await {
                Some(Event::LaneDown { peer, .. }) if !lost.contains(&peer) => lost.push(peer),
                Some(_) => {}
                None => break,
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(10), waits).await;
    assert_eq!(lost.len(), 3, "after {:?} only {lost:?} have hung up", begun.elapsed());
    eprintln!("a removed node was hung up on by all within {:?}", begun.elapsed());
    for to in &nodes {
        eve.endpoint.close(*to, Lane::Volume(id));
        eve.endpoint.open(*to, Lane::Volume(id));
    }
    let opens = async { while !matches!(eve.events.recv().await, Some(Event::LaneUp { .. }) | None) {} };
    assert!(tokio::time::timeout(LOOK, opens).await.is_err(), "no lane opens any more");
    eve.endpoint.shutdown().await;

    // The same questions with a member's certificate are answered: it was the membership.
    let member = (primary + 1) % 3;
    cluster.kill(member);
    let (own, address) = (identity(&cluster.nodes()[member].data_dir()), shard(cluster.nodes()[member].config()));
    let others: BTreeMap<NodeId, SocketAddr> = targets.into_iter().filter(|(node, _)| *node != own.node).collect();
    let nodes: Vec<NodeId> = others.keys().copied().collect();
    let mut speaker = Speaker::start(&own, address, &others).await;
    let heard = speaker.says(&nodes, id, epoch, &questions(epoch)).await;
    let read = heard.messages.iter().any(|message| matches!(message, Message::Block { data: Some(_), .. }));
    assert!(read, "a member may read: {:?}", heard.messages);
    speaker.endpoint.shutdown().await;
    cluster.launch(member).unwrap();
    cluster.wait_healthy(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    finish(workload).await;
}
