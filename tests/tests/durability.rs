//! Volumes that answer from memories (`flush`) or from their primary alone (`async`), with real processes and QEMU's client.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_agent::admin::pb;
use holdfast_tests::{PATIENCE, TestCluster, tool};
use std::time::Duration;

const SIZE: u64 = 16 << 20;

async fn cluster_with(durability: &str) -> TestCluster {
    let cluster = TestCluster::start().await;
    let (name, durability) = ("v".to_owned(), durability.to_owned());
    let request = pb::VolumeCreateRequest { name, durability, size_bytes: SIZE, ..Default::default() };
    let made = cluster.create_volume(request, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(
        (made.durability.as_str(), made.quorum),
        if made.durability == "async" { ("async", 1) } else { ("flush", 2) }
    );
    cluster
}

fn qemu_io(uri: &str, commands: &[&str]) {
    let args = ["-f", "raw"].into_iter().chain(commands.iter().flat_map(|c| ["-c", c])).chain([uri]);
    let out = tool("qemu-io", args);
    assert!(!out.contains("failed") && !out.contains("error"), "{out}");
}

const WRITES: [&str; 4] = ["write -P 0x5a 0 4M", "flush", "write -f -P 0x6b 4M 64k", "write -P 0x7c 1000 3000"];
const READS: [&str; 3] = ["read -P 0x5a 4k 4092k", "read -P 0x6b 4M 64k", "read -P 0x7c 1000 3000"];

#[tokio::test]
async fn flush_survives_its_primary() {
    let mut cluster = cluster_with("flush").await;
    let primary = cluster.primary("v").await;
    qemu_io(&cluster.uri(primary, "v"), &WRITES);
    qemu_io(&cluster.uri(primary, "v"), &["flush"]);
    cluster.kill(primary);
    let sockets = cluster.sockets("v");
    let next = holdfast_cli::workload::Transfer::open(&sockets, "v", PATIENCE).await.unwrap();
    let at = next.node();
    next.close();
    assert_ne!(at, primary);
    qemu_io(&cluster.uri(at, "v"), &READS);
    cluster.launch(primary).unwrap();
    cluster.wait_healthy("v", PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
}

#[tokio::test]
async fn async_waits_for_its_primary_and_hands_over_when_asked() {
    let mut cluster = cluster_with("async").await;
    let primary = cluster.primary("v").await;
    qemu_io(&cluster.uri(primary, "v"), &WRITES);
    cluster.kill(primary);
    // Three times what a takeover would take.
    tokio::time::sleep(Duration::from_secs(7)).await;
    let other = (primary + 1) % 3;
    let status = cluster.status(other).await.unwrap();
    let volume = status.volumes.iter().find(|v| v.name == "v").unwrap();
    assert_eq!(volume.state, "stalled", "nobody takes over without the primary: {volume:?}");
    assert!(volume.r#unsafe.iter().any(|reason| reason.contains("alone holds")), "{volume:?}");
    cluster.launch(primary).unwrap();
    cluster.wait_healthy("v", PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    qemu_io(&cluster.uri(primary, "v"), &READS);
    let to = cluster.nodes()[other].name().to_owned();
    cluster.failover("v", &to, false).await.unwrap_or_else(|e| panic!("{e}"));
    let moved = cluster.wait_for("the switchover", PATIENCE, async |c| {
        let volume = c.volume("v").await?;
        if volume.primary == to && volume.state == "healthy" { Ok(()) } else { Err(format!("{volume:?}")) }
    });
    moved.await.unwrap_or_else(|e| panic!("{e}"));
    qemu_io(&cluster.uri(other, "v"), &READS);
}
