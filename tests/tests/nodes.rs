//! Nodes are drained, die for good, and are removed, under verified load, through the command line.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_agent::admin::pb;
use holdfast_cli::workload::{Plan, Workload};
use holdfast_tests::terminal::{colours, on_a_terminal};
use holdfast_tests::{PATIENCE, TestCluster, binary, finish};
use std::process::Command;
use std::time::Duration;

const SIZE: u64 = 32 << 20;
const FAILED: i32 = 1;
const REFUSED: i32 = 3;
/// What keeps a supervisor from starting the agent again: see the unit.
const REMOVED: i32 = 4;

fn load(cluster: &TestCluster, volume: &str, seed: u64) -> Workload {
    let mut plan = Plan::new(cluster.sockets(volume), volume, 0..SIZE, seed);
    plan.depth = 2;
    Workload::start(plan).unwrap()
}

/// Ends the load, and shows that nothing was lost and that all copies on exactly these nodes are equal.
async fn prove(cluster: &TestCluster, volume: &str, workload: Workload, on: &[&str]) {
    finish(workload).await;
    cluster.wait_healthy(volume, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    let all = cluster.wait_in_sync(volume, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(all.copies, on.len());
    let found = (**cluster).volume(volume).await.unwrap();
    let found: Vec<&str> = found.copies.iter().filter(|c| c.state != "deleting").map(|c| c.node.as_str()).collect();
    assert_eq!(found, on);
}

async fn node(cluster: &TestCluster, name: &str) -> Option<pb::Node> {
    let status = cluster.status(0).await.unwrap_or_else(|e| panic!("{e}"));
    status.nodes.into_iter().find(|n| n.name == name)
}

#[tokio::test]
async fn a_node_is_drained_under_load_and_put_back() {
    let cluster = TestCluster::start_of(4, "").await;
    cluster.volume_on("v", SIZE, &["n1", "n2", "n3"], "n3").await;
    cluster.volume_on("w", SIZE, &["n2", "n3", "n4"], "n2").await;
    let (v, w) = (load(&cluster, "v", 11), load(&cluster, "w", 12));
    cluster.acknowledges(&v, 50).await;
    cluster.acknowledges(&w, 50).await;

    let said = cluster.succeeds(0, &["node", "drain", "n3"]).await;
    assert!(said.contains("n3 is drained"), "{said}");
    assert!(said.contains("left on n3"), "progress is told: {said}");
    assert!(!said.contains('█') && !said.contains('\x1b'), "where there is no terminal, in sentences: {said:?}");
    // A sentence with the notes below it.
    let told: Vec<String> = said.replace("\n  ", " ").lines().map(str::to_owned).collect();
    assert!(told.windows(2).all(|pair| pair[0] != pair[1]), "each once: {told:?}");
    cluster.succeeds(1, &["node", "drain", "n3"]).await;
    let drained = node(&cluster, "n3").await.unwrap();
    assert_eq!((drained.wanted.as_str(), drained.copies_left, drained.primaries), ("drained", 0, 0));
    cluster.fails(&["copy", "add", "v", "n3"], REFUSED, "n3 is to be drained and gets no copies").await;
    let shown = cluster.succeeds(0, &["node", "list"]).await;
    assert!(shown.contains("up, drained"), "{shown}");
    cluster.acknowledges(&v, 50).await;
    cluster.acknowledges(&w, 50).await;
    prove(&cluster, "v", v, &["n1", "n2", "n4"]).await;
    prove(&cluster, "w", w, &["n1", "n2", "n4"]).await;

    // Nobody is left to take one more node's copies: they stay, and the command says so.
    cluster.fails(&["node", "drain", "n4"], FAILED, "no other node answers that is in service").await;
    let held = cluster.status(0).await.unwrap().r#unsafe;
    assert!(held.iter().any(|s| s.contains("n4 can't be drained")), "{held:?}");
    cluster.succeeds(0, &["node", "undrain", "n4"]).await;
    cluster.succeeds(0, &["node", "undrain", "n3"]).await;
    assert_eq!(node(&cluster, "n3").await.unwrap().wanted, "in_service");
    cluster.succeeds(0, &["copy", "add", "v", "n3"]).await;
}

#[tokio::test]
async fn a_dead_node_is_replaced_and_removed_and_can_do_nothing_when_it_returns() {
    let mut cluster = TestCluster::start_of(4, "\n[cluster]\nreplace_after = \"4s\"\n").await;
    cluster.volume_on("v", SIZE, &["n1", "n2", "n3"], "n3").await;
    let workload = load(&cluster, "v", 13);
    cluster.acknowledges(&workload, 50).await;
    cluster.fails(&["node", "remove", "n3", "--yes"], REFUSED, "expected no copy that counts on n3, found 1").await;
    cluster.fails(&["node", "remove", "n1", "--yes"], REFUSED, "use --socket of another node").await;
    cluster.fails(&["node", "remove", "n9", "--yes"], FAILED, "found \"n9\"").await;

    // The primary's host dies for good: first another copy takes over, then a spare node takes its place.
    cluster.kill(2);
    let shown = cluster.wait_for("status to tell what will happen", PATIENCE, async |cluster| {
        let reasons = cluster.volume("v").await?.r#unsafe.join("; ");
        if reasons.contains("the copy on n3, gone for") { Ok(()) } else { Err(reasons) }
    });
    shown.await.unwrap_or_else(|e| panic!("{e}"));
    cluster.acknowledges(&workload, 50).await;
    let rebuilt = cluster.wait_for("a copy on n4 in place of the one on n3", PATIENCE, async |cluster| {
        let volume = cluster.volume("v").await?;
        let counts =
            |n: &str| volume.copies.iter().any(|c| c.node == n && c.role != "learner" && c.state != "deleting");
        if counts("n4") && !counts("n3") { Ok(()) } else { Err(format!("{:?}", volume.copies)) }
    });
    rebuilt.await.unwrap_or_else(|e| panic!("{e}"));
    let events = cluster.succeeds(0, &["events"]).await;
    assert!(events.contains("the copy on n3 is replaced on n4: it was gone for longer than replace_after"), "{events}");
    cluster.acknowledges(&workload, 50).await;

    let said = cluster.succeeds(0, &["node", "remove", "n3", "--yes"]).await;
    assert!(said.contains("n3 was removed"), "{said}");
    cluster.succeeds(0, &["node", "remove", "n3", "--yes"]).await;
    assert!(node(&cluster, "n3").await.is_none());

    // It does not know of that. Whoever it asks tells it, and it says so and ends, now and at each start.
    for _ in 0..2 {
        let config = cluster.nodes()[2].config().to_path_buf();
        let mut agent = Command::new("timeout");
        agent.arg("30").arg(binary()).arg("agent").arg("--config").arg(config);
        let ended = tokio::task::spawn_blocking(move || agent.output()).await.unwrap().unwrap();
        let err = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(REMOVED), "{err}");
        assert!(err.contains("this node was removed from cluster"), "{err}");
    }
    prove(&cluster, "v", workload, &["n1", "n2", "n4"]).await;

    // A new node may have the name.
    std::fs::remove_dir_all(cluster.nodes()[2].data_dir()).unwrap();
    let token = cluster.ask(0, &["token", "create"]);
    let token: serde_json::Value = serde_json::from_slice(&token.stdout).unwrap();
    let (address, token) = (token["address"].as_str().unwrap(), token["token"].as_str().unwrap());
    let config = cluster.nodes()[2].config().display().to_string();
    // As an administrator who lets nobody see the token.
    let dir = holdfast_tests::scratch();
    let file = dir.path().join("token");
    std::fs::write(&file, format!("{token}\n")).unwrap();
    let file = file.display().to_string();
    cluster
        .holdfast(["join", address, "--token-file", &file, "--config", &config])
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    cluster.launch(2).unwrap();
    let back = cluster.wait_for("the new n3 to be up", PATIENCE, async |cluster| {
        let nodes = cluster.status(0).await?.nodes;
        let new = nodes.iter().find(|n| n.name == "n3").ok_or("no n3")?;
        if new.id == 5 && new.state == "up" { Ok(()) } else { Err(format!("{new:?}")) }
    });
    back.await.unwrap_or_else(|e| panic!("{e}"));
}

#[tokio::test]
async fn a_live_node_that_is_drained_leaves_and_its_agent_ends() {
    let mut cluster = TestCluster::start_of(4, "").await;
    cluster.volume_on("v", SIZE, &["n1", "n2", "n3"], "n1").await;
    let socket = cluster.nodes()[0].admin().display().to_string();
    let line = format!("exec {} --socket {socket} node drain n3", binary().display());
    let (status, shown) = on_a_terminal(&line, "", true, |_| false);
    assert!(status.success() && shown.contains("n3 is drained"), "{status}: {shown:?}");
    assert!(shown.contains(" % 0 of 1 copy moved") && shown.contains("░"), "how far it is: {shown:?}");
    assert_eq!(colours(&shown), 0, "NO_COLOR: {shown:?}");
    cluster.succeeds(0, &["node", "remove", "n3", "--yes"]).await;
    let since = std::time::Instant::now();
    while cluster.nodes()[2].ended().is_none() {
        assert!(since.elapsed() < PATIENCE, "the agent of a removed node ends");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(cluster.nodes()[2].ended().as_deref(), Some(format!("with status {REMOVED}").as_str()));
    let log = std::fs::read_to_string(cluster.nodes()[2].log()).unwrap();
    assert!(log.contains("this node was removed from cluster"), "{log}");
    cluster.kill(2);
    let voters: Vec<String> =
        cluster.status(0).await.unwrap().nodes.into_iter().filter(|n| n.voter).map(|n| n.name).collect();
    assert_eq!(voters, ["n1", "n2", "n4"]);
    cluster.wait_healthy("v", PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
}
