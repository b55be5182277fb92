//! Attacks on real agents, each refused and seen, while a verified load on somebody else's volume goes on.
//!
//! Every attack is measured against the same load just before it: the mean time to acknowledge a write may grow, because attacker and
//! agents share this machine's processors, but only within a wide bound.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_cli::harness::free_ports;
use holdfast_cli::workload::{Plan, Workload};
use holdfast_tests::scrape::Scrape;
use holdfast_tests::{PATIENCE, TestCluster, binary, finish, group, peer_address, try_tool};
use holdfast_transport::{Endpoint, Event, Events, Identity, Lane, TransportConfig, join_client, pki};
use holdfast_types::{ClusterId, NodeId, Rng, VolumeId};
use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const VOLUME: &str = "vm1";
const OTHER: &str = "vm2";
const SIZE: u64 = 32 << 20;
/// Times the mean latency without an attack. Two processors run three agents, the load and the attacker.
const MOST: f64 = 20.0;
/// And so much at least, in seconds: what one slow write of a quiet second would do to the ratio.
const ALWAYS_FINE: f64 = 0.25;
/// How long an attack is looked at.
const LOOK: Duration = Duration::from_secs(3);

struct Scene {
    cluster: TestCluster,
    workload: Workload,
    primary: usize,
}

impl Scene {
    async fn start(extra: &str) -> Scene {
        let cluster = TestCluster::start_observed(extra).await;
        cluster.volume(VOLUME, SIZE).await;
        cluster.volume(OTHER, SIZE).await;
        let primary = cluster.primary(VOLUME).await;
        let mut plan = Plan::new(cluster.sockets(VOLUME), VOLUME, 0..SIZE, 99);
        plan.depth = 1;
        let workload = Workload::start(plan).unwrap();
        cluster.acknowledges(&workload, 100).await;
        Scene { cluster, workload, primary }
    }

    fn scrape(&self, at: usize) -> Scrape {
        Scrape::take(self.cluster.nodes()[at].metrics().unwrap()).unwrap_or_else(|e| panic!("{e}"))
    }

    fn number(&self, at: usize, series: &str) -> f64 {
        let scrape = self.scrape(at);
        scrape.get(series).unwrap_or_else(|| panic!("expected {series} in\n{}", scrape.text))
    }

    /// Mean time to acknowledge a write, from now on for a while.
    async fn latency(&self) -> f64 {
        let of = |what: &str| {
            self.number(self.primary, &format!("holdfast_volume_write_duration_seconds_{what}{{volume=\"{VOLUME}\"}}"))
        };
        let (sum, count) = (of("sum"), of("count"));
        tokio::time::sleep(LOOK).await;
        let (sum, count) = (of("sum") - sum, of("count") - count);
        assert!(count > 0.0, "no write was acknowledged for {LOOK:?}");
        sum / count
    }

    /// Runs an attack for as long as the latency is looked at, or until it is over.
    async fn undisturbed<A: Future>(&self, what: &str, attack: A) -> A::Output {
        let before = self.latency().await;
        let (during, outcome) = tokio::join!(self.latency(), attack);
        eprintln!("{what}: {:.2} ms before, {:.2} ms during: {:.1} times", before * 1e3, during * 1e3, during / before);
        assert!(during <= (before * MOST).max(ALWAYS_FINE), "{what}: {before} s before, {during} s during");
        self.cluster.acknowledges(&self.workload, 20).await;
        outcome
    }

    /// Everything is as it was: the same primary, no violation, and everybody else is served.
    async fn end(self) {
        let volume = self.cluster.wait_healthy(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(volume.primary, self.cluster.nodes()[self.primary].name(), "no attack moved it");
        self.cluster.wait_healthy(OTHER, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
        for node in self.cluster.nodes() {
            assert!(node.ended().is_none(), "the agent of {} has ended", node.name());
            let log = fs::read_to_string(node.log()).unwrap();
            assert!(!log.contains("panicked"), "{log}");
        }
        finish(self.workload).await;
    }

    fn address(&self, at: usize) -> SocketAddr {
        peer_address(self.cluster.nodes()[at].config())
    }

    fn credentials(&self, at: usize) -> Credentials {
        Credentials::read(&self.cluster.nodes()[at].data_dir())
    }

    /// How many were turned away by a node on both planes.
    fn turned_away(&self, at: usize) -> f64 {
        self.scrape(at).of("holdfast_refused_connections_total").map(|(_, count)| count).sum()
    }
}

/// What lies in a node's `data_dir/cluster`.
#[derive(Clone)]
struct Credentials {
    identity: Identity,
    ca_key: Option<String>,
    csr: Option<String>,
}

impl Credentials {
    fn read(data: &Path) -> Credentials {
        let text = |name: &str| fs::read_to_string(data.join("cluster").join(name)).ok();
        let json: serde_json::Value = serde_json::from_str(&text("cluster.json").unwrap()).unwrap();
        let cluster = ClusterId(u64::from_str_radix(json["cluster"].as_str().unwrap(), 16).unwrap());
        let node = NodeId(json["node"].as_u64().unwrap());
        let (ca_pem, cert_pem, key_pem) =
            (text("ca.pem").unwrap(), text("node.pem").unwrap(), text("node.key").unwrap());
        let identity = Identity { cluster, node, ca_pem, cert_pem, key_pem };
        Credentials { identity, ca_key: text("ca.key"), csr: text("join.csr") }
    }

    fn ca(&self) -> pki::CaMaterial {
        pki::CaMaterial { cert_pem: self.identity.ca_pem.clone(), key_pem: self.ca_key.clone().expect("the founder") }
    }
}

/// Somebody who speaks the nodes' protocol, with whatever he has for a certificate.
struct Attacker {
    endpoint: Endpoint,
    events: Events,
}

impl Attacker {
    async fn start(identity: &Identity, targets: &[(NodeId, SocketAddr)]) -> Attacker {
        let mut config = TransportConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)));
        // What nobody takes from him is not for his own limits to stop.
        config.max_message_bytes = 256 << 20;
        (config.queue_bytes, config.receive_bytes) = (512 << 20, 512 << 20);
        let (endpoint, events) = Endpoint::bind(config, identity).await.unwrap();
        endpoint.set_peers(&targets.iter().copied().collect::<BTreeMap<_, _>>());
        Attacker { endpoint, events }
    }

    /// Tries to get a lane for a while; the session if he got one.
    async fn tries(&mut self, to: NodeId, lane: Lane) -> Result<u64, Option<NodeId>> {
        self.endpoint.open(to, lane);
        let waits = async {
            loop {
                match self.events.recv().await {
                    Some(Event::LaneUp { peer, lane: up, session }) if peer == to && up == lane => return Ok(session),
                    Some(Event::Removed { by }) => return Err(Some(by)),
                    Some(_) => {}
                    None => return Err(None),
                }
            }
        };
        tokio::time::timeout(LOOK, waits).await.unwrap_or(Err(None))
    }
}

fn unix_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// A certificate of another authority, one that has ended, and one of a node that was never added: none of them is heard.
#[tokio::test]
async fn certificates_that_do_not_count() {
    let scene = Scene::start("").await;
    let founder = scene.credentials(0);
    let cluster = founder.identity.cluster;
    let of = |ca: &pki::CaMaterial, node: u64, until: Option<u64>| {
        let cert = pki::issue_node(ca, cluster, NodeId(node), until).unwrap();
        let (cert_pem, key_pem) = (cert.cert_pem, cert.key_pem);
        Identity { node: NodeId(node), cert_pem, key_pem, ..founder.identity.clone() }
    };
    let theirs = pki::create_ca(cluster).unwrap();
    let attackers = [
        ("another authority", of(&theirs, 2, None)),
        ("an ended certificate", of(&founder.ca(), 2, Some(unix_now() - 60))),
        ("a node that was never added", of(&founder.ca(), 77, None)),
    ];
    for (what, identity) in attackers {
        let before = scene.turned_away(0);
        let target = (NodeId(1), scene.address(0));
        let heard = scene.undisturbed(what, async {
            let mut attacker = Attacker::start(&identity, &[target]).await;
            (attacker.tries(target.0, Lane::Control).await, attacker.tries(target.0, Lane::Beat).await)
        });
        assert_eq!(heard.await, (Err(None), Err(None)), "{what}");
        let after = scene.turned_away(0);
        assert!(after > before, "{what} is counted: {before}, then {after}");
    }
    let log = fs::read_to_string(scene.cluster.nodes()[0].log()).unwrap();
    assert!(log.contains("the handshake failed") && log.contains("is not among the nodes"), "{log}");
    let events = scene.cluster.succeeds(0, &["events"]).await;
    assert!(events.contains("peer_refused") && events.contains("the handshake failed"), "{events}");
    scene.end().await;
}

/// A join token counts once, in time, and for the key that used it; a node that was removed gets nowhere with what it has.
#[tokio::test]
async fn tokens_and_removed_nodes() {
    let mut scene = Scene::start("").await;
    let token = |scene: &Scene, valid: &str| {
        let said = scene.cluster.ask(0, &["token", "create", "--valid", valid]);
        let said: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
        (said["address"].as_str().unwrap().to_owned(), said["token"].as_str().unwrap().to_owned())
    };
    let dir = holdfast_tests::scratch();
    let config = |name: &str, port: u16| {
        let path = dir.path().join(format!("{name}.toml"));
        let (dir, data) = (dir.path().display(), dir.path().join(name));
        let text = format!(
            "[node]\nname = {name:?}\ndata_dir = {data:?}\n[listen]\npeer = \"127.0.0.1:{port}\"\nadmin = \"{dir}/{name}.sock\"\n\
             nbd_dir = \"{dir}/{name}.nbd\"\n"
        );
        fs::write(&path, text).unwrap();
        (path.display().to_string(), data)
    };
    let join = async |scene: &Scene, address: &str, token: &str, config: &str| {
        scene.cluster.run(0, &["join", address, "--token", token, "--config", config]).await
    };
    let refused = |output: Output, why: &str| {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(why), "expected {why:?} in {said}");
    };
    let ((address, good), (_, short)) = (token(&scene, "1h"), token(&scene, "1s"));
    let (eve, eve_data) = config("eve", 17_411);
    let joined = join(&scene, &address, &good, &eve).await;
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    let (mallory, _) = config("mallory", 17_413);
    let used = scene.undisturbed("a used token", join(&scene, &address, &good, &mallory)).await;
    refused(used, "this join token has been used");
    refused(join(&scene, &address, &short, &mallory).await, "this join token has expired");
    let (front, last) = good.split_at(good.len() - 20);
    let altered: String = last.chars().rev().collect();
    refused_usage(&join(&scene, &address, &format!("{front}{altered}"), &mallory).await);
    let events = scene.cluster.succeeds(0, &["events"]).await;
    assert!(events.contains("join_refused"), "{events}");

    // Eve runs, and is removed: her agent ends, with the status that keeps a supervisor from starting it again.
    let agent = std::process::Command::new("timeout")
        .args(["60"])
        .arg(binary())
        .args(["agent", "--config", &eve])
        .stderr(fs::File::create(dir.path().join("eve.log")).unwrap())
        .spawn()
        .unwrap();
    let up = scene.cluster.wait_for("eve to be up", PATIENCE, async |cluster| {
        let nodes = cluster.status(0).await?.nodes;
        if nodes.iter().any(|n| n.name == "eve" && n.state == "up") { Ok(()) } else { Err(format!("{nodes:?}")) }
    });
    up.await.unwrap_or_else(|e| panic!("{e}"));
    let stolen = Credentials::read(&eve_data);
    scene.cluster.succeeds(0, &["node", "remove", "eve", "--yes"]).await;
    let mut agent = agent;
    let ended = tokio::task::spawn_blocking(move || agent.wait().unwrap()).await.unwrap();
    assert_eq!(ended.code(), Some(4), "{}", fs::read_to_string(dir.path().join("eve.log")).unwrap());

    // Her certificate would hold for a year. Nobody takes it, and nobody renews it.
    let targets: Vec<(NodeId, SocketAddr)> = (0..3).map(|at| (NodeId(at as u64 + 1), scene.address(at))).collect();
    let before: f64 = (0..3).map(|at| scene.turned_away(at)).sum();
    let heard = scene.undisturbed("a removed node", async {
        let mut heard = Vec::new();
        for target in &targets {
            let mut attacker = Attacker::start(&stolen.identity, &[*target]).await;
            heard.push(attacker.tries(target.0, Lane::Control).await);
        }
        // And the shards, one port higher.
        for (node, address) in &targets {
            let shard = SocketAddr::new(address.ip(), address.port() + 1);
            let mut attacker = Attacker::start(&stolen.identity, &[(*node, shard)]).await;
            heard.push(attacker.tries(*node, Lane::Volume(VolumeId(1))).await);
        }
        heard
    });
    let heard = heard.await;
    assert!(heard.iter().all(Result::is_err), "{heard:?}");
    assert_eq!(heard[..3], [Err(Some(NodeId(1))), Err(Some(NodeId(2))), Err(Some(NodeId(3)))], "each tells her why");
    let after: f64 = (0..3).map(|at| scene.turned_away(at)).sum();
    assert!(after >= before + 6.0, "each is counted: {before}, then {after}");
    let fingerprint = pki::fingerprint(&stolen.identity.ca_pem).unwrap();
    let request = serde_json::json!({ "renew": stolen.csr.clone().unwrap() }).to_string();
    let answer = join_client(scene.address(0), &fingerprint, request.into()).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.contains("Refused") && answer.contains("was removed"), "{answer}");
    // One that is a member gets a certificate for its own key and name, and for nothing else.
    let member = scene.credentials(1);
    let request = serde_json::json!({ "renew": member.csr.clone().unwrap() }).to_string();
    let answer = join_client(scene.address(0), &fingerprint, request.into()).await.unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    let cert_pem = answer["Welcome"]["cert_pem"].as_str().unwrap().to_owned();
    assert_eq!(answer["Welcome"]["node"], member.identity.node.0);
    let useless = Identity { cert_pem, key_pem: stolen.identity.key_pem.clone(), ..member.identity };
    let config = TransportConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    assert!(Endpoint::bind(config, &useless).await.is_err(), "without the key it is good for nothing");
    scene.primary = scene.cluster.primary(VOLUME).await;
    scene.end().await;
}

fn refused_usage(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("expected a join token"), "{said}");
}

/// A member gone bad sends what is no message, and more than anybody takes. It is disconnected, and that is all.
#[tokio::test]
async fn garbage_and_oversized_frames_of_a_member() {
    let scene = Scene::start("").await;
    let (address, victim) = (scene.address(scene.primary), scene.primary);
    let target = NodeId(victim as u64 + 1);
    // A member of the cluster that is nobody's: a fourth node that joined and never ran.
    let said = scene.cluster.ask(0, &["token", "create"]);
    let said: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    let dir = holdfast_tests::scratch();
    let (config, data) = (dir.path().join("bad.toml"), dir.path().join("bad"));
    let port = free_ports().unwrap();
    let text = format!(
        "[node]\nname = \"bad\"\ndata_dir = {data:?}\n[listen]\npeer = \"127.0.0.1:{port}\"\n[cluster]\nvoter = false\n"
    );
    fs::write(&config, text).unwrap();
    let (to, token, file) =
        (said["address"].as_str().unwrap(), said["token"].as_str().unwrap(), config.to_str().unwrap());
    scene.cluster.succeeds(0, &["join", to, "--token", token, "--config", file]).await;
    let bad = Credentials::read(&data);
    let mut rng = Rng::new(5);
    let mut garbage = |len: usize| -> Vec<u8> { (0..len).map(|_| u8::try_from(rng.below(256)).unwrap()).collect() };
    let pieces: Vec<Vec<u8>> = [0, 1, 2, 16, 100, 4096, 70_000].iter().map(|len| garbage(*len)).collect();
    let shard = SocketAddr::new(address.ip(), address.port() + 1);
    for (what, address, lane) in [
        ("garbage to the control plane", address, Lane::Control),
        ("garbage heartbeats", shard, Lane::Beat),
        ("garbage for a volume", shard, Lane::Volume(VolumeId(1))),
    ] {
        let sent = scene.undisturbed(what, async {
            let mut attacker = Attacker::start(&bad.identity, &[(target, address)]).await;
            let mut sent = 0;
            for piece in pieces.iter().cycle().take(60) {
                // It may be thrown out meanwhile, and come back.
                let Ok(session) = attacker.tries(target, lane).await else { break };
                sent += u32::from(attacker.endpoint.send(target, lane, session, vec![piece.clone().into()]).is_ok());
                tokio::time::sleep(Duration::from_millis(10)).await;
                attacker.endpoint.close(target, lane);
            }
            sent
        });
        assert!(sent.await > 0, "{what}: it is a member, and heard");
    }
    for (what, address, lane, len) in [
        ("an oversized message to the control plane", address, Lane::Control, (64 << 20) + 1),
        ("an oversized record", shard, Lane::Volume(VolumeId(1)), (8 << 20) + 1),
    ] {
        let lost = scene.undisturbed(what, async {
            let mut attacker = Attacker::start(&bad.identity, &[(target, address)]).await;
            let session = attacker.tries(target, lane).await.expect("it is a member");
            attacker.endpoint.send(target, lane, session, vec![vec![7; len].into()]).unwrap();
            let down = async {
                loop {
                    match attacker.events.recv().await {
                        Some(Event::LaneDown { session: ended, .. }) if ended == session => return true,
                        Some(_) => {}
                        None => return false,
                    }
                }
            };
            tokio::time::timeout(PATIENCE, down).await.unwrap_or(false)
        });
        assert!(lost.await, "{what}: it is disconnected");
    }
    let log = fs::read_to_string(scene.cluster.nodes()[victim].log()).unwrap();
    assert!(log.contains("disconnecting a peer that breaks the lane protocol"), "{log}");
    assert!(log.contains("expected at most 67108864") && log.contains("expected at most 8388608"), "{log}");
    scene.end().await;
}

/// Datagrams of nobody, handshakes that are begun and never ended, and joins without end, on both ports.
#[tokio::test]
async fn strangers_on_the_network() {
    let scene = Scene::start("").await;
    let victim = scene.primary;
    let address = scene.address(victim);
    let ports = [address, SocketAddr::new(address.ip(), address.port() + 1)];
    let mut rng = Rng::new(6);
    scene
        .undisturbed("random datagrams", async {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            for at in 0..20_000u32 {
                let len = usize::try_from(rng.below(1400)).unwrap();
                let mut bytes: Vec<u8> = (0..len).map(|_| u8::try_from(rng.below(256)).unwrap()).collect();
                // Half of them look like the beginning of a connection of QUIC version 1.
                if at % 2 == 0 && len >= 5 {
                    bytes[..5].copy_from_slice(&[0xc3, 0, 0, 0, 1]);
                    bytes.resize(1200, 0);
                }
                // The buffers of the kernel may be full: that is one of the bounds.
                let _ = socket.send_to(&bytes, ports[at as usize % 2]);
                if at % 50 == 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        })
        .await;

    // Of each handshake only the first datagram arrives; the answer is never taken.
    let before = scene.turned_away(victim);
    let fingerprint = pki::fingerprint(&scene.credentials(0).identity.ca_pem).unwrap();
    let ended = scene.undisturbed("handshakes that never end", async {
        let mut handshakes = tokio::task::JoinSet::new();
        for at in 0..300 {
            let (target, fingerprint) = (ports[at % 2], fingerprint.clone());
            handshakes.spawn(async move {
                let relay = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
                let there = relay.local_addr().unwrap();
                let first = async {
                    let mut bytes = vec![0; 2048];
                    let (len, _) = relay.recv_from(&mut bytes).await.unwrap();
                    relay.send_to(&bytes[..len], target).await.unwrap();
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    () = first => false,
                    joined = tokio::time::timeout(LOOK, join_client(there, &fingerprint, "{}".into())) => {
                        matches!(joined, Ok(Ok(_)))
                    }
                }
            });
        }
        let mut welcomed = 0;
        while let Some(done) = handshakes.join_next().await {
            welcomed += u32::from(done.unwrap());
        }
        welcomed
    });
    assert_eq!(ended.await, 0);
    let counted = scene.cluster.wait_for("the unfinished handshakes to be counted", PATIENCE, async |cluster| {
        let scrape = Scrape::take(cluster.nodes()[victim].metrics().unwrap())?;
        let now: f64 = scrape.of("holdfast_refused_connections_total").map(|(_, count)| count).sum();
        let abandoned: f64 = scrape.of("holdfast_abandoned_handshakes_total").map(|(_, count)| count).sum();
        let all = now >= before + 32.0 && abandoned > 0.0;
        if all { Ok(()) } else { Err(format!("{before}, then {now}, {abandoned} of them abandoned")) }
    });
    counted.await.unwrap_or_else(|e| panic!("{e}"));

    // More joins than anybody needs; whoever is one of us is let in all the same, soon.
    let (garbage, refused) = ("{\"secret\":\"00\"}", scene.turned_away(victim));
    let answered = scene.undisturbed("joins without end", async {
        let mut joins = tokio::task::JoinSet::new();
        for _ in 0..200 {
            let fingerprint = fingerprint.clone();
            joins.spawn(async move { join_client(address, &fingerprint, garbage.into()).await.is_ok() });
        }
        let mut answered = 0;
        while let Some(done) = joins.join_next().await {
            answered += u32::from(done.unwrap());
        }
        answered
    });
    let answered = answered.await;
    assert!(answered < 150, "{answered} of 200 were answered");
    assert!(scene.turned_away(victim) > refused);
    scene.end().await;
}

/// A tenant with its own volume: garbage, connections without end, and other people's exports. Its neighbour notices nothing.
#[tokio::test]
async fn a_hostile_tenant() {
    let scene = Scene::start("").await;
    let node = scene.cluster.primary(OTHER).await;
    let socket = scene.cluster.nodes()[node].socket(OTHER);
    let held = scene.undisturbed("thousands of connections to one socket", async {
        let mut held = Vec::new();
        let mut refused = 0;
        for at in 0..4000 {
            match UnixStream::connect(&socket).await {
                Ok(stream) => held.push(stream),
                // The backlog is full: that is one of the bounds.
                Err(_) => refused += 1,
            }
            if at % 100 == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        assert!(refused > 1000, "{refused} of 4000 were refused");
        held
    });
    let held = held.await;
    let open = scene.number(node, "process_open_fds");
    assert!(open < 1000.0, "{open} files are open in the agent");
    drop(held);

    let mut rng = Rng::new(8);
    scene
        .undisturbed("garbage of a client", async {
            for round in 0..300 {
                let Ok(mut stream) = UnixStream::connect(&socket).await else { continue };
                let mut garbage: Vec<u8> = (0..2000).map(|_| u8::try_from(rng.below(256)).unwrap()).collect();
                if round % 2 == 0 {
                    // As far as into the transmission, by the shortest negotiation there is.
                    let mut greeting = [0; 18];
                    let _ = stream.read_exact(&mut greeting).await;
                    let head =
                        [&3u32.to_be_bytes()[..], b"IHAVEOPT", &1u32.to_be_bytes(), &0u32.to_be_bytes()].concat();
                    garbage.splice(0..0, head);
                }
                // It may hang up at once.
                let _ = stream.write_all(&garbage).await;
                let _ = tokio::time::timeout(Duration::from_millis(20), stream.read(&mut [0; 256])).await;
            }
        })
        .await;

    let series = format!("holdfast_volume_foreign_exports_total{{volume=\"{OTHER}\"}}");
    let before = scene.number(node, &series);
    let uri = format!("nbd+unix:///{VOLUME}?socket={}", socket.display());
    for _ in 0..3 {
        let output = try_tool("nbdinfo", ["--size", &uri]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(&format!("no export named '{VOLUME}'")), "{said}");
    }
    let counted = scene.cluster.wait_for("them to be counted", PATIENCE, async |cluster| {
        let scrape = Scrape::take(cluster.nodes()[node].metrics().unwrap())?;
        let now = scrape.get(&series).unwrap_or(0.0);
        if now >= before + 3.0 { Ok(()) } else { Err(format!("{before}, then {now}")) }
    });
    counted.await.unwrap_or_else(|e| panic!("{e}"));
    // Its own volume is served as before.
    let output = try_tool("nbdinfo", ["--size", &scene.cluster.uri(node, OTHER)]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    scene.end().await;
}

/// Users of this host at the admin socket: operators and viewers by group, and everybody else.
#[tokio::test]
async fn roles_at_the_admin_socket() {
    // Groups that every Debian has and nobody is in.
    let scene = Scene::start("admin_group = \"games\"\nviewer_group = \"users\"\n").await;
    let admin = scene.cluster.nodes()[0].admin().to_owned();
    for dir in admin.ancestors().skip(1).take(2) {
        let mode = fs::metadata(dir).unwrap().permissions().mode() | 0o711;
        fs::set_permissions(dir, fs::Permissions::from_mode(mode)).unwrap();
    }
    let (games, users) = (group("games"), group("users"));
    let run = |groups: &str, args: &[&str]| {
        let socket = admin.display().to_string();
        let groups = if groups.is_empty() { "--clear-groups".to_owned() } else { format!("--groups={groups}") };
        let head = ["--reuid=64111", "--regid=64111", &groups, binary().to_str().unwrap(), "--socket", &socket];
        let output = try_tool("setpriv", head.iter().chain(args));
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let looks: [&[&str]; 5] =
        [&["status"], &["node", "list"], &["volume", "list"], &["volume", "show", VOLUME], &["events"]];
    let changes: [&[&str]; 6] = [
        &["volume", "limit", OTHER, "--iops", "100000"],
        &["volume", "socket", OTHER, "--default"],
        &["volume", "delete", OTHER, "--yes", "--force"],
        &["token", "create"],
        &["node", "drain", "n2", "--no-wait"],
        &["failover", VOLUME, "--no-wait"],
    ];
    for args in looks {
        assert_eq!(run(&games, args).0, Some(0), "an operator may {args:?}");
        assert_eq!(run(&users, args).0, Some(0), "a viewer may {args:?}");
        let (status, said) = run("", args);
        assert!(
            status == Some(1) && said.contains("admin_group or viewer_group"),
            "a stranger may not {args:?}: {said}"
        );
    }
    let answers = scene.undisturbed("calls of those who may not", async {
        let mut answers = Vec::new();
        for args in changes {
            answers.push((args, run(&users, args), run("", args)));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        answers
    });
    for (args, viewer, stranger) in answers.await {
        assert!(viewer.0 == Some(1) && viewer.1.contains("may only look"), "a viewer may not {args:?}: {viewer:?}");
        assert!(
            stranger.0 == Some(1) && stranger.1.contains("admin_group"),
            "a stranger may not {args:?}: {stranger:?}"
        );
    }
    // More than anybody has to say: what is told of it stays short.
    for len in [1000, 100_000] {
        let (status, said) = run(&users, &["volume", "delete", &"x".repeat(len), "--yes"]);
        assert!(status == Some(1) && said.contains("may only look"), "{said}");
    }
    assert_eq!(run(&games, changes[0]).0, Some(0), "an operator may");
    let volume = (*scene.cluster).volume(OTHER).await.unwrap();
    assert_eq!(volume.limits.map(|l| l.iops), Some(100_000));
    // All of it is on record.
    let audit = fs::read_to_string(scene.cluster.nodes()[0].data_dir().join("audit.log")).unwrap();
    let lines: Vec<serde_json::Value> = audit.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |outcome: &str| {
        let is = |l: &&serde_json::Value| l["uid"] == 64_111 && l["outcome"].as_str().unwrap().starts_with(outcome);
        lines.iter().filter(is).map(|l| l["command"].as_str().unwrap()).collect::<Vec<_>>()
    };
    let expected = ["VolumeLimit", "VolumeSocket", "VolumeDelete", "TokenCreate", "NodeDrain", "Failover"];
    let viewers = of("refused: the user may only look");
    assert_eq!(viewers[..6], expected, "{audit}");
    assert_eq!(viewers[6..], ["VolumeDelete"; 2], "{audit}");
    let strangers = of("refused: the user is in no group that may ask");
    assert!(expected.iter().all(|call| strangers.contains(call)) && strangers.contains(&"Status"), "{audit}");
    assert!(audit.contains("bytes were cut]") && audit.contains("more than 4096"), "{audit}");
    assert!(audit.lines().all(|line| line.len() < 2000), "{audit}");
    assert_eq!(of("done"), ["VolumeLimit"], "{audit}");
    let limit = lines.iter().find(|l| l["command"] == "VolumeLimit" && l["outcome"] == "done").unwrap();
    assert_eq!((&limit["arguments"]["name"], &limit["arguments"]["iops"]), (&OTHER.into(), &100_000.into()), "{limit}");
    // And seen by whoever watches.
    let refused =
        |role: &str| scene.number(0, &format!("holdfast_admin_refused_total{{role=\"{role}\",what=\"call\"}}"));
    assert!(refused("viewer") == 8.0 && refused("stranger") >= 11.0 && refused("operator") == 0.0);
    let events = scene.cluster.succeeds(0, &["events"]).await;
    assert!(events.contains("admin_refused") && events.contains("user 64111 was refused"), "{events}");
    let log = fs::read_to_string(scene.cluster.nodes()[0].log()).unwrap();
    assert!(log.contains("user 64111 was refused"), "strangers are in the agent's log");
    // A connection on which nothing is said is closed: it has a place that somebody else may need.
    let mut silent = UnixStream::connect(&admin).await.unwrap();
    silent.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    let mut greeting = Vec::new();
    let closed = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut greeting)).await;
    assert!(closed.is_ok(), "it is still open");
    scene.end().await;
}
