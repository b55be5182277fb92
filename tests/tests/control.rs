//! A majority of the control plane's voters is lost for ever: nothing is agreed on, I/O that needs it waits, and `status` says what to do. An
//! operator goes on with one voter that is left; what was acknowledged is there; the lost ones come back and are not believed.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_agent::admin::pb;
use holdfast_tests::{Blocks, PATIENCE, TestCluster};
use serde_json::Value;
use std::ops::Range;
use std::process::Output;
use std::time::{Duration, Instant};

const SIZE: u64 = 8 << 20;
const BLOCK: u64 = 4096;
const USAGE: i32 = 2;
const UNSAFE: i32 = 3;
/// A supervisor need not start it again.
const GIVEN_UP: i32 = 4;

/// Never 0, which is what nobody wrote.
fn pattern(block: u64) -> u8 {
    u8::try_from(block % 251 + 1).unwrap()
}

fn attach(cluster: &TestCluster, node: usize, volume: &str) -> Blocks {
    let socket = cluster.nodes()[node].socket(volume);
    Blocks::attach(&socket, volume, PATIENCE).unwrap_or_else(|e| panic!("{}: {e}", socket.display()))
}

fn write(cluster: &TestCluster, node: usize, volume: &str, blocks: Range<u64>) {
    let mut attached = attach(cluster, node, volume);
    for block in blocks {
        let written = attached.write(block * BLOCK, &[pattern(block); 4096]);
        written.unwrap_or_else(|e| panic!("{volume}, block {block}: {e}"));
    }
}

/// Every one of these blocks holds what was acknowledged there.
fn holds(cluster: &TestCluster, node: usize, volume: &str, blocks: Range<u64>) {
    let mut attached = attach(cluster, node, volume);
    for block in blocks {
        let found = attached.read(block * BLOCK, 4096).unwrap();
        assert!(found.iter().all(|b| *b == pattern(block)), "{volume}, block {block}: an acknowledged write is gone");
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", said(output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", said(output)))
}

async fn asked(cluster: &TestCluster, node: usize, args: &[&str]) -> Value {
    json(&cluster.run(node, &[&["--output", "json"], args].concat()).await)
}

/// `holdfast control …` on the data directory of a node.
async fn control(cluster: &TestCluster, node: usize, what: &str, args: &[&str]) -> Output {
    let dir = cluster.nodes()[node].data_dir().display().to_string();
    cluster.run(node, &[&["--output", "json", "control", what, &dir], args].concat()).await
}

async fn refused(cluster: &TestCluster, node: usize, args: &[&str], status: i32, why: &str) {
    let output = control(cluster, node, "recover", args).await;
    let found = said(&output);
    assert_eq!(output.status.code(), Some(status), "{args:?}: {found}");
    assert!(found.contains(why), "{args:?}: expected {why:?} in {found}");
}

/// Refused while the node hears of its peers, and then done.
async fn succeeds_at_last(cluster: &TestCluster, node: usize, args: &[&str]) {
    let until = Instant::now() + PATIENCE;
    loop {
        let output = cluster.run(node, args).await;
        if output.status.success() {
            return;
        }
        assert!(Instant::now() < until, "{args:?}: {}", said(&output));
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Told to end, and gone.
async fn stop(cluster: &mut TestCluster, node: usize) {
    cluster.terminate(node);
    cluster.ended(node, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
}

async fn status_is(
    cluster: &TestCluster,
    node: usize,
    what: &str,
    is: impl Fn(&pb::StatusResponse) -> bool,
) -> pb::StatusResponse {
    let found = cluster.wait_for(what, PATIENCE, async |cluster| {
        let status = cluster.status(node).await?;
        if is(&status) { Ok(status) } else { Err(format!("{status:#?}")) }
    });
    found.await.unwrap_or_else(|e| panic!("{e}"))
}

fn volume<'a>(status: &'a pb::StatusResponse, name: &str) -> &'a pb::Volume {
    status.volumes.iter().find(|v| v.name == name).unwrap_or_else(|| panic!("{name} in {status:#?}"))
}

fn voters(status: &pb::StatusResponse) -> Vec<&str> {
    status.nodes.iter().filter(|n| n.voter).map(|n| n.name.as_str()).collect()
}

/// A node that was given up is started, hears of it, and ends; started again it does not even try.
async fn is_not_believed(cluster: &mut TestCluster, node: usize) {
    for _ in 0..2 {
        cluster.launch(node).unwrap();
        let status = cluster.ended(node, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
        let log = std::fs::read_to_string(cluster.nodes()[node].log()).unwrap();
        assert_eq!(status.code(), Some(GIVEN_UP), "{log}");
        assert!(log.contains("holdfast control rejoin") && log.contains("this node was given up"), "{log}");
    }
}

async fn rejoins(cluster: &mut TestCluster, node: usize) {
    let answer = json(&control(cluster, node, "rejoin", &["--yes"]).await);
    assert!(answer["generation"].is_string(), "{answer}");
    cluster.launch(node).unwrap();
}

#[tokio::test]
async fn the_last_of_three_voters_goes_on_and_the_others_are_not_believed() {
    let mut cluster = TestCluster::start().await;
    cluster.volume_on("v", SIZE, &["n1", "n2", "n3"], "n3").await;
    write(&cluster, 2, "v", 0..50);
    cluster.wait_in_sync("v", PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    let before = status_is(&cluster, 2, "three voters", |s| voters(s).len() == 3).await;
    assert_eq!((before.generation.as_str(), before.recoveries.len()), ("0", 0));

    cluster.kill(0);
    cluster.kill(1);
    let mut client = attach(&cluster, 2, "v");
    let lonely = std::thread::spawn(move || client.write(60 * BLOCK, &[77; 4096]));
    let says_what_to_do = |s: &pb::StatusResponse| s.r#unsafe.iter().any(|u| u.contains("holdfast control recover"));
    let status = status_is(&cluster, 2, "status to say what to do", says_what_to_do).await;
    let danger = status.r#unsafe.iter().find(|u| u.contains("control recover")).unwrap();
    assert!(danger.contains("n1, n2 do not answer") && danger.contains("gone for ever"), "{danger}");
    let stalled = |s: &pb::StatusResponse| volume(s, "v").state == "stalled";
    status_is(&cluster, 2, "the volume to have stalled", stalled).await;
    // Long enough for whatever would answer it.
    std::thread::sleep(Duration::from_secs(2));
    assert!(!lonely.is_finished(), "one copy of three answers nobody");

    // What makes no sense is refused, and changes nothing.
    let both = ["--lost", "n1,n2"];
    refused(&cluster, 2, &both, UNSAFE, "another one running").await;
    let force = cluster.run(2, &["failover", "v", "--force", "--accept-loss", "--yes"]).await;
    assert!(!force.status.success(), "without a leader it can't be agreed on: {}", said(&force));
    stop(&mut cluster, 2).await;
    assert!(lonely.join().unwrap().is_err(), "it was never answered");
    refused(&cluster, 2, &["--lost", "n1"], UNSAFE, "2 of 3 would be left").await;
    refused(&cluster, 2, &["--lost", "n1,n2,n3"], UNSAFE, "found n3, on which the control plane is to go on").await;
    refused(&cluster, 2, &["--lost", "n1,n9"], USAGE, "\"n9\"").await;
    refused(&cluster, 2, &["--accept-loss"], USAGE, "--lost").await;
    refused(&cluster, 2, &["--lost", "n1,n2", "--accept-loss"], UNSAFE, "expected --yes").await;
    let elsewhere = cluster.run(2, &["control", "recover", "/", "--lost", "n1,n2"]).await;
    assert_eq!(elsewhere.status.code(), Some(USAGE), "{}", said(&elsewhere));
    let part = cluster.nodes()[2].data_dir().join("shard-0").display().to_string();
    let part = cluster.run(2, &["control", "recover", &part, "--lost", "n1,n2"]).await;
    assert_eq!(part.status.code(), Some(USAGE), "{}", said(&part));
    let not_given_up = control(&cluster, 2, "rejoin", &["--yes"]).await;
    assert_eq!(not_given_up.status.code(), Some(UNSAFE), "{}", said(&not_given_up));

    let plan = json(&control(&cluster, 2, "recover", &both).await);
    assert_eq!(
        (&plan["done"], &plan["generation"], &plan["next_generation"]),
        (&false.into(), &"0".into(), &"1.2".into())
    );
    assert_eq!(plan["lost"], serde_json::json!(["n1", "n2"]));
    assert_eq!((&plan["volumes"][0]["name"], &plan["volumes"][0]["by_itself"]), (&"v".into(), &false.into()));
    assert!(plan["index"].as_u64() >= plan["committed"].as_u64() && plan["admits"] == false, "{plan}");
    let again = json(&control(&cluster, 2, "recover", &both).await);
    assert_eq!(again, plan, "looking changes nothing");

    let done = json(&control(&cluster, 2, "recover", &[&both[..], &["--accept-loss", "--yes"]].concat()).await);
    assert_eq!(done["done"], true);
    refused(&cluster, 2, &[&both[..], &["--accept-loss", "--yes"]].concat(), UNSAFE, "recovered here already").await;
    cluster.launch(2).unwrap();
    let waits =
        |s: &pb::StatusResponse| s.leader == "n3" && volume(s, "v").copies.iter().any(|c| c.durable_lsn.is_some());
    let status = status_is(&cluster, 2, "a leader", waits).await;
    assert_eq!((status.generation.as_str(), voters(&status)), ("1.2", vec!["n3"]));
    let receipt = status.recoveries.last().unwrap();
    assert_eq!((receipt.node.as_str(), &receipt.given_up), ("n3", &vec!["n1".to_owned(), "n2".to_owned()]));
    assert!(receipt.uid.is_some() && receipt.unix_ms > 0 && !receipt.host.is_empty(), "{receipt:?}");
    let events = said(&cluster.run(2, &["events"]).await);
    assert!(events.contains("control_recovered"), "{events}");

    // No copy is given up by that: whoever lost them says so.
    let status = status_is(&cluster, 2, "the volume to say why it waits", |s| {
        volume(s, "v").r#unsafe.iter().any(|u| u.contains("the control plane was recovered"))
    });
    assert!(status.await.volumes.iter().all(|v| v.state != "healthy"));
    succeeds_at_last(&cluster, 2, &["failover", "v", "--force", "--accept-loss", "--yes"]).await;
    holds(&cluster, 2, "v", 0..50);
    write(&cluster, 2, "v", 60..70);

    // The two of them are a majority of the voters that they know.
    cluster.launch(0).unwrap();
    cluster.launch(1).unwrap();
    for node in [0, 1] {
        cluster.ended(node, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    }
    is_not_believed(&mut cluster, 0).await;
    let events = said(&cluster.run(2, &["events"]).await);
    assert!(events.contains("n1 is back with the control plane of generation 0"), "{events}");
    rejoins(&mut cluster, 0).await;
    rejoins(&mut cluster, 1).await;
    let status = status_is(&cluster, 2, "three voters again", |s| voters(s).len() == 3 && !s.leader.is_empty()).await;
    assert_eq!(status.generation, "1.2");
    let old = cluster.nodes()[0].data_dir().join("control/raft.redb.generation-0");
    assert!(old.exists(), "what it had agreed on before lies aside");
    for node in ["n1", "n2"] {
        succeeds_at_last(&cluster, 2, &["copy", "add", "v", node]).await;
    }
    cluster.wait_healthy("v", PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    let verified = cluster.run(2, &["verify", "v"]).await;
    assert!(verified.status.success(), "{}", said(&verified));
    holds(&cluster, 2, "v", 60..70);
    // Any two of the three agree again.
    cluster.kill(2);
    let status = status_is(&cluster, 0, "another leader", |s| !s.leader.is_empty() && s.leader != "n3").await;
    assert_eq!(status.generation, "1.2");
    cluster.volume_on("later", SIZE, &["n1"], "n1").await;
}

#[tokio::test]
async fn two_of_five_voters_go_on_with_every_volume_that_has_enough_left() {
    let mut cluster = TestCluster::start_of(5, "").await;
    status_is(&cluster, 4, "five voters", |s| voters(s).len() == 5).await;
    // Of `a` one copy will be lost, of `b` two.
    cluster.volume_on("a", SIZE, &["n1", "n4", "n5"], "n1").await;
    cluster.volume_on("b", SIZE, &["n1", "n2", "n4"], "n4").await;
    write(&cluster, 0, "a", 0..100);
    write(&cluster, 3, "b", 0..100);
    for name in ["a", "b"] {
        cluster.wait_in_sync(name, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    }
    for node in [0, 1, 2] {
        cluster.kill(node);
    }
    stop(&mut cluster, 3).await;
    stop(&mut cluster, 4).await;

    // The plans of both can be compared.
    let lost = ["--lost", "n1", "--lost", "n2", "--lost", "n3"];
    let mut ends = Vec::new();
    for node in [3, 4] {
        let plan = json(&control(&cluster, node, "recover", &lost).await);
        assert_eq!(plan["others"].as_array().unwrap().len(), 1, "{plan}");
        assert_eq!(plan["others"][0]["ends"], Value::Null, "nobody said");
        ends.push((plan["term"].as_u64().unwrap(), plan["index"].as_u64().unwrap(), node));
        let volumes = plan["volumes"].as_array().unwrap();
        let by_itself = |name: &str| volumes.iter().find(|v| v["name"] == name).unwrap()["by_itself"].clone();
        assert_eq!((by_itself("a"), by_itself("b")), (true.into(), false.into()), "{plan}");
    }
    let (term, index, best) = ends.iter().copied().max().unwrap();
    let other = 7 - best;
    let better = format!("n{}={}/{index}", best + 1, term + 1);
    let worse = [&lost[..], &["--other", &better, "--accept-loss", "--yes"]].concat();
    refused(&cluster, other, &worse, UNSAFE, "recover there").await;
    let (other_term, other_index, _) = ends.into_iter().find(|e| e.2 == other).unwrap();
    let known = format!("n{}={other_term}/{other_index}", other + 1);
    let best_order = [&lost[..], &["--other", &known, "--accept-loss", "--yes"]].concat();
    let done = json(&control(&cluster, best, "recover", &best_order).await);
    assert_eq!((&done["done"], &done["others"][0]["longer"]), (&true.into(), &false.into()));
    let generation = done["next_generation"].as_str().unwrap().to_owned();

    // The other one goes over by itself, and what has copies enough opens by itself.
    cluster.launch(other).unwrap();
    cluster.launch(best).unwrap();
    let goes_on = |s: &pb::StatusResponse| {
        s.generation == generation
            && voters(s).len() == 2
            && ["degraded", "healthy"].contains(&volume(s, "a").state.as_str())
    };
    for node in [best, other] {
        status_is(&cluster, node, "two voters of the later generation, and volume a", goes_on).await;
    }
    let status = status_is(&cluster, best, "volume b to say why it waits", |s| {
        volume(s, "b").r#unsafe.iter().any(|u| u.contains("failover b --force --accept-loss"))
    });
    let status = status.await;
    let primary = cluster.index_of(&volume(&status, "a").primary).unwrap();
    holds(&cluster, primary, "a", 0..100);
    write(&cluster, primary, "a", 100..110);
    succeeds_at_last(&cluster, best, &["failover", "b", "--force", "--accept-loss", "--yes"]).await;
    holds(&cluster, 3, "b", 0..100);

    // One comes back and takes the place of another, which is removed for ever.
    is_not_believed(&mut cluster, 2).await;
    rejoins(&mut cluster, 2).await;
    status_is(&cluster, best, "three voters", |s| voters(s).len() == 3).await;
    let drained = cluster.run(best, &["node", "drain", "n1"]).await;
    assert!(drained.status.success(), "{}", said(&drained));
    // It held the key with which nodes are admitted.
    let removed = cluster.run(best, &["node", "remove", "n1", "--force", "--yes"]).await;
    assert!(removed.status.success(), "{}", said(&removed));
    let without = |s: &pb::StatusResponse| s.nodes.iter().all(|n| n.name != "n1") && volume(s, "a").state == "healthy";
    let status = status_is(&cluster, best, "volume a to have three copies elsewhere", without).await;
    assert!(volume(&status, "a").copies.iter().any(|c| c.node == "n3"), "{status:#?}");
    let answer = asked(&cluster, best, &["status"]).await;
    assert_eq!(
        (&answer["generation"], answer["recoveries"].as_array().unwrap().len()),
        (&generation.as_str().into(), 1)
    );
    let primary = cluster.index_of(&volume(&status, "a").primary).unwrap();
    holds(&cluster, primary, "a", 0..110);
}
