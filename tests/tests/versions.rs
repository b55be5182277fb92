//! Agents of two versions in one cluster: a rolling upgrade under verified load with failovers in both directions, and the ways that do not
//! exist: an old agent in a cluster that was raised, an old agent that joins one.
//!
//! The older agent is this build told to speak the first version alone (`HOLDFAST_SPEAKS=1-1`): it then takes and sends what a build from
//! before versions took and sent; crates/cluster/golden holds that as such a build wrote it.
//!
//! HOLDFAST_OLDER_BINARY  such a build itself, in its place

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_cli::harness::Build;
use holdfast_cli::workload::{Plan, Workload};
use holdfast_tests::{PATIENCE, TestCluster, binary, finish};
use std::process::Command;

const VOLUME: &str = "mixed";
const SIZE: u64 = 64 << 20;
const FAILED: i32 = 1;
const REFUSED: i32 = 3;

fn newer() -> Build {
    Build { binary: binary().to_path_buf(), env: Vec::new() }
}

fn a_real_one() -> Option<Build> {
    let binary = std::env::var_os("HOLDFAST_OLDER_BINARY")?;
    Some(Build { binary: binary.into(), env: Vec::new() })
}

fn older() -> Build {
    let told = || Build { env: vec![("HOLDFAST_SPEAKS".to_owned(), "1-1".to_owned())], ..newer() };
    a_real_one().unwrap_or_else(told)
}

/// The node's agent ends, in order, and the other build starts in its place.
async fn change_build(cluster: &mut TestCluster, at: usize, build: Build) {
    cluster.terminate(at);
    let status = cluster.ended(at, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(status.code(), Some(0), "{}", cluster.log_tails());
    cluster.install(at, build);
    cluster.launch(at).unwrap();
    all_up(cluster).await;
}

async fn all_up(cluster: &TestCluster) {
    let up = cluster.wait_for("every node to see all nodes up", PATIENCE, async |cluster| {
        for at in 0..cluster.nodes().len() {
            let status = cluster.status(at).await?;
            if let Some(node) = status.nodes.iter().find(|n| n.state != "up") {
                return Err(format!("{} sees {} {}", cluster.nodes()[at].name(), node.name, node.state));
            }
        }
        Ok(())
    });
    up.await.unwrap_or_else(|e| panic!("{e}"));
    cluster.wait_healthy(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
}

/// A switchover to each of these nodes, and then the death of the last one.
async fn fails_over(cluster: &mut TestCluster, workload: &Workload, to: &[usize]) {
    for at in to {
        let name = cluster.nodes()[*at].name().to_owned();
        if cluster.primary(VOLUME).await != *at {
            cluster.succeeds(*at, &["failover", VOLUME, "--to", &name]).await;
        }
        cluster.acknowledges(workload, 50).await;
        assert_eq!(cluster.primary(VOLUME).await, *at);
    }
    let dies = *to.last().unwrap();
    cluster.kill(dies);
    cluster.acknowledges(workload, 50).await;
    assert_ne!(workload.progress().node, dies);
    cluster.launch(dies).unwrap();
    all_up(cluster).await;
}

async fn raised(cluster: &TestCluster, to: u32) {
    let all = cluster.wait_for("every node to know the new version", PATIENCE, async |cluster| {
        for at in 0..cluster.nodes().len() {
            let status = cluster.status(at).await?;
            if status.version != to {
                return Err(format!("version {}: {}", status.version, status.version_held));
            }
        }
        Ok(())
    });
    all.await.unwrap_or_else(|e| panic!("{e}"));
}

/// An old build at a node of a cluster that was raised: it refuses, and changes nothing.
async fn old_build_is_refused(cluster: &mut TestCluster, at: usize) {
    cluster.kill(at);
    cluster.install(at, older());
    cluster.launch(at).unwrap();
    let status = cluster.ended(at, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    let log = std::fs::read_to_string(cluster.nodes()[at].log()).unwrap();
    let last = log.lines().last().unwrap_or_default();
    if a_real_one().is_some() {
        assert_eq!(status.code(), Some(FAILED), "{last}");
        assert!(last.contains("upgrade this agent"), "{last}");
    } else {
        assert_eq!(status.code(), Some(REFUSED), "{last}");
        let expected =
            "found version 2, and this agent speaks 1 alone: the cluster was raised by agents that are newer";
        assert!(last.contains(expected) && last.contains("there is no way back"), "{last}");
    }
    cluster.install(at, newer());
    cluster.launch(at).unwrap();
}

#[tokio::test]
async fn a_cluster_is_upgraded_node_by_node_under_load() {
    let mut cluster = TestCluster::start_builds(&[older(), older(), older()], "").await;
    cluster.volume(VOLUME, SIZE).await;
    let workload = Workload::start(Plan::new(cluster.sockets(VOLUME), VOLUME, 0..SIZE, 21)).unwrap();
    cluster.acknowledges(&workload, 100).await;

    // The first new one: it follows old primaries, and leads old secondaries.
    change_build(&mut cluster, 2, newer()).await;
    let held =
        "the cluster is raised to version 2 once every node speaks it; not yet: n1 speaks 1 alone, n2 speaks 1 alone";
    let told = cluster.wait_for("the new node to say who holds the cluster back", PATIENCE, async |cluster| {
        let status = cluster.status(2).await?;
        if status.version == 1 && status.version_held == held { Ok(()) } else { Err(format!("{status:#?}")) }
    });
    told.await.unwrap_or_else(|e| panic!("{e}"));
    let shown = cluster.succeeds(2, &["status"]).await;
    assert!(shown.contains("version 1") && shown.contains("1-2 (") && shown.contains("not yet: n1 speaks"), "{shown}");
    fails_over(&mut cluster, &workload, &[0, 2]).await;
    fails_over(&mut cluster, &workload, &[2, 1]).await;

    // It may be put back as long as the cluster was not raised, and come again.
    change_build(&mut cluster, 2, older()).await;
    cluster.acknowledges(&workload, 50).await;
    change_build(&mut cluster, 2, newer()).await;
    change_build(&mut cluster, 0, newer()).await;
    fails_over(&mut cluster, &workload, &[0, 1]).await;
    fails_over(&mut cluster, &workload, &[1, 2]).await;
    assert_eq!(cluster.status(0).await.unwrap().version, 1, "one old node is left");

    change_build(&mut cluster, 1, newer()).await;
    raised(&cluster, 2).await;
    let events = cluster.succeeds(0, &["events"]).await;
    assert!(events.contains("the cluster is of version 2 now, raised from 1"), "{events}");
    fails_over(&mut cluster, &workload, &[0, 1, 2]).await;

    old_build_is_refused(&mut cluster, 1).await;
    all_up(&cluster).await;
    cluster.acknowledges(&workload, 50).await;
    finish(workload).await;
    cluster.wait_healthy(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    cluster.wait_in_sync(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    cluster.succeeds(0, &["verify", VOLUME]).await;
}

#[tokio::test]
async fn whoever_joins_speaks_what_the_cluster_speaks() {
    // A new agent joins an old cluster: it asks in the old words.
    let mut cluster = TestCluster::start_builds(&[older(), newer()], "").await;
    assert_eq!(cluster.status(1).await.unwrap().version, 1);
    cluster.terminate(0);
    cluster.ended(0, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    cluster.install(0, newer());
    cluster.launch(0).unwrap();
    raised(&cluster, 2).await;

    // An old one does not join a new one.
    let token: serde_json::Value = serde_json::from_slice(&cluster.ask(0, &["token", "create"]).stdout).unwrap();
    let dir = holdfast_tests::scratch();
    let config = dir.path().join("config.toml");
    let data_dir = dir.path().join("data");
    let text = format!("[node]\nname = \"n9\"\ndata_dir = {data_dir:?}\n\n[listen]\npeer = \"127.0.0.1:7400\"\n");
    std::fs::write(&config, text).unwrap();
    let join = |build: Build| {
        let (address, token) = (token["address"].as_str().unwrap(), token["token"].as_str().unwrap());
        let mut join = Command::new("timeout");
        join.arg("60").arg(build.binary).envs(build.env).args(["join", address, "--token", token, "--config"]);
        join.arg(&config);
        tokio::task::spawn_blocking(move || join.output())
    };
    let refused = join(older()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(FAILED), "{said}");
    assert!(said.contains("expected a cluster of a version that the joining agent speaks, found version 2"), "{said}");
    assert!(!data_dir.join("cluster/cluster.json").exists(), "it belongs to nothing");
    let joined = join(newer()).await.unwrap().unwrap();
    assert!(joined.status.success(), "the token was not used up: {}", String::from_utf8_lossy(&joined.stderr));
}
