//! Volumes become larger and smaller under load, while nodes are down and primaries die; and a deleted one gives its space back.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_cli::workload::{Plan, Transfer, Workload};
use holdfast_tests::{PATIENCE, TestCluster, binary, finish, scratch, tool, try_tool};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

const VOLUME: &str = "v";
const MIB: u64 = 1 << 20;
const REFUSED: i32 = 3;
const USAGE: i32 = 2;

async fn resize(cluster: &TestCluster, at: usize, size: &str, more: &[&str]) -> Value {
    let args = [&["volume", "resize", VOLUME, "--size", size, "--output", "json"], more].concat();
    let output = cluster.run(at, &args).await;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{args:?}\nstdout: {out}\nstderr: {err}");
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}"))
}

async fn refused(cluster: &TestCluster, at: usize, status: i32, args: &[&str], why: &str) {
    let output = cluster.run(at, &[&["volume", "resize", VOLUME], args].concat()).await;
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{args:?}: {err}");
    assert!(err.contains(why), "{args:?}: expected {why:?} in {err}");
}

/// Where the volume is served, asked of the sockets themselves.
async fn served_at(cluster: &TestCluster) -> String {
    let open = Transfer::open(&cluster.sockets(VOLUME), VOLUME, PATIENCE).await.unwrap();
    let node = open.node();
    open.close();
    cluster.uri(node, VOLUME)
}

fn size(uri: &str) -> u64 {
    tool("nbdinfo", ["--size", uri]).trim().parse().unwrap()
}

fn qemu_io(uri: &str, script: &[&str]) {
    let commands = script.iter().flat_map(|command| ["-c", command]);
    let out = tool("qemu-io", ["-f", "raw"].into_iter().chain(commands).chain([uri]));
    assert!(!out.contains("verification failed"), "{script:?}: {out}");
}

fn image(cluster: &TestCluster, at: usize) -> PathBuf {
    cluster.nodes()[at].data_dir().join("shard-0/copies/1/image.raw")
}

/// Every copy is there and follows, also under load.
async fn healthy(cluster: &TestCluster) {
    cluster.wait_healthy(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
}

async fn in_sync(cluster: &TestCluster) {
    healthy(cluster).await;
    cluster.wait_in_sync(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
}

#[tokio::test]
async fn a_volume_changes_its_size_while_nodes_come_and_go() {
    let dir = scratch();
    let mut cluster = TestCluster::start().await;
    cluster.volume(VOLUME, 64 * MIB).await;
    let primary = cluster.primary(VOLUME).await;
    let (away, ask) = ((primary + 1) % 3, (primary + 2) % 3);
    let workload = Workload::start(Plan::new(cluster.sockets(VOLUME), VOLUME, 0..16 * MIB, 7)).unwrap();
    cluster.acknowledges(&workload, 100).await;

    // Larger, while a copy is away.
    cluster.kill(away);
    let grown = resize(&cluster, ask, "128MiB", &[]).await;
    assert_eq!((grown["size"].as_u64(), grown["size_wanted"].as_u64()), (Some(128 * MIB), None), "{grown}");
    let again = resize(&cluster, ask, "128MiB", &[]).await;
    assert_eq!(again["size"].as_u64(), Some(128 * MIB));
    let uri = served_at(&cluster).await;
    assert_eq!(size(&uri), 128 * MIB);
    qemu_io(&uri, &["read -P 0 64M 64M", "write -P 0x5a 100M 28M", "flush"]);
    cluster.launch(away).unwrap();
    healthy(&cluster).await;

    // Another primary has the same size, and what was written behind the old end.
    cluster.kill(primary);
    cluster.acknowledges(&workload, 100).await;
    let uri = served_at(&cluster).await;
    assert_eq!(size(&uri), 128 * MIB);
    qemu_io(&uri, &["read -P 0x5a 100M 28M"]);

    // Smaller only if that is meant; the old primary is away and hears of it later.
    refused(&cluster, ask, REFUSED, &["--size", "48MiB"], "--shrink").await;
    refused(&cluster, ask, REFUSED, &["--size", "48MiB"], "the last 83886080 bytes, from byte 50331648 on").await;
    refused(&cluster, ask, REFUSED, &["--size", "48MiB", "--shrink"], "behind the first 48MiB of").await;
    refused(&cluster, ask, USAGE, &["--size", "1000"], "multiple of 4KiB").await;
    refused(&cluster, ask, USAGE, &["--size", "65TiB"], "64 TiB").await;
    assert_eq!(size(&uri), 128 * MIB, "a refusal changes nothing");
    // Whoever is attached goes on with what it was told, and is refused what is not there any more.
    let mut attached = Command::new("qemu-io");
    let (wait, beyond) = ("sleep 6000", "write -P 0x77 100M 4k");
    attached.args(["-f", "raw", "-c", "read 0 4k", "-c", wait, "-c", beyond, &uri]);
    let attached = attached.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    let shrunk = resize(&cluster, ask, "48MiB", &["--shrink", "--yes"]).await;
    assert_eq!(shrunk["size"].as_u64(), Some(48 * MIB));
    assert_eq!(size(&uri), 48 * MIB);
    let said = attached.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr);
    assert!(said.contains("No space left on device"), "{said}");
    let beyond = try_tool("qemu-io", ["-f", "raw", "-c", "read 47M 2M", &uri]);
    let said = String::from_utf8_lossy(&beyond.stdout).into_owned() + &String::from_utf8_lossy(&beyond.stderr);
    assert!(!said.contains("read 2097152/2097152"), "{said}");
    cluster.launch(primary).unwrap();
    healthy(&cluster).await;

    // As large as it was: zeros where it was cut, under every primary.
    resize(&cluster, primary, "128MiB", &[]).await;
    cluster.acknowledges(&workload, 100).await;
    let to = cluster.nodes()[primary].name().to_owned();
    let moved = cluster.run(ask, &["failover", VOLUME, "--to", &to]).await;
    assert!(moved.status.success(), "{moved:?}");
    let uri = cluster.uri(primary, VOLUME);
    qemu_io(&uri, &["read -P 0 48M 80M", "write -P 0x66 127M 1M", "flush"]);
    finish(workload).await;
    in_sync(&cluster).await;
    tool("qemu-img", ["convert", "-f", "raw", "-O", "raw", &uri, dir.path().join("served").to_str().unwrap()]);

    // What the disks say without the agents.
    let served = fs::read(dir.path().join("served")).unwrap();
    assert_eq!(served.len() as u64, 128 * MIB);
    (0..3).for_each(|at| cluster.kill(at));
    for at in 0..3 {
        assert_eq!(fs::metadata(image(&cluster, at)).unwrap().len(), 128 * MIB);
        let data = cluster.nodes()[at].data_dir();
        let data = data.to_str().unwrap();
        let out = tool(binary().to_str().unwrap(), ["fsck", data]);
        assert!(out.contains("clean") && out.contains("128 MiB"), "{out}");
        let to = dir.path().join(format!("exported-{at}.raw"));
        let to = to.to_str().unwrap();
        let _ = tool(binary().to_str().unwrap(), ["export", data, "--upto", "durable", "--to", to]);
        assert!(fs::read(to).unwrap() == served, "what node {at} holds is what was served");
        fs::remove_file(to).unwrap();
    }
}

/// Space that files of a node take, in bytes.
fn taken(cluster: &TestCluster, at: usize) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(image(cluster, at)).map_or(0, |meta| meta.blocks() * 512)
}

#[tokio::test]
async fn what_is_cut_off_or_deleted_gives_its_space_back() {
    let cluster = TestCluster::start().await;
    cluster.volume(VOLUME, 64 * MIB).await;
    let uri = served_at(&cluster).await;
    qemu_io(&uri, &["write -P 0x11 0 64M", "flush"]);
    let filled = cluster.wait_for("images to hold what was written", PATIENCE, async |_| {
        let least = (0..3).map(|at| taken(&cluster, at)).min().unwrap_or(0);
        if least >= 60 * MIB { Ok(()) } else { Err(format!("{least} bytes")) }
    });
    filled.await.unwrap_or_else(|e| panic!("{e}"));
    resize(&cluster, 0, "4MiB", &["--shrink", "--yes"]).await;
    let freed = cluster.wait_for("images to give space back", PATIENCE, async |_| {
        let most = (0..3).map(|at| taken(&cluster, at)).max().unwrap_or(0);
        if most <= 5 * MIB { Ok(()) } else { Err(format!("{most} bytes")) }
    });
    freed.await.unwrap_or_else(|e| panic!("{e}"));
    qemu_io(&uri, &["read -P 0x11 0 4M"]);
    let deleted = cluster.run(0, &["volume", "delete", VOLUME, "--yes"]).await;
    assert!(deleted.status.success(), "{deleted:?}");
    let gone = cluster.wait_for("all files to go", PATIENCE, async |_| {
        let left = (0..3).filter(|at| image(&cluster, *at).parent().is_some_and(std::path::Path::exists)).count();
        if left == 0 { Ok(()) } else { Err(format!("{left} copies are there")) }
    });
    gone.await.unwrap_or_else(|e| panic!("{e}"));
}
