//! Wrong input: each mistake is answered with one sentence on stderr and the right exit status, and damages nothing.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_cli::workload::{Plan, Workload};
use holdfast_tests::{PATIENCE, TestCluster, binary, scratch};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

const FAILED: i32 = 1;
const USAGE: i32 = 2;
const REFUSED: i32 = 3;
/// A daemon that runs although it should not is ended after so many seconds, with status 124.
const TOO_LONG: &str = "20";
const SIZE: u64 = 16 << 20;

/// Runs the binary, which must refuse with this status and one sentence that holds all of `words`.
fn refuse(args: &[&str], status: i32, words: &[&str]) {
    let output = Command::new("timeout").arg(TOO_LONG).arg(binary()).args(args).output().expect("timeout is there");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(status), "{args:?}\nstdout: {out}\nstderr: {err}");
    assert!(!err.contains("panicked"), "{args:?}: {err}");
    // A daemon logs before it refuses.
    let sentence = err.lines().last().unwrap_or_default();
    assert!(sentence.starts_with("holdfast: ") && sentence.len() > 20, "{args:?}: expected a sentence, found {err:?}");
    for word in words {
        assert!(sentence.contains(word), "{args:?}: expected {word:?} in {sentence:?}");
    }
    assert!(out.is_empty(), "{args:?}: expected nothing on stdout, found {out}");
}

struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new() -> Files {
        Files { dir: scratch() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A configuration; `more` is appended.
    fn config(&self, name: &str, data_dir: &Path, more: &str) -> String {
        let (dir, data) = (self.dir.path().display(), data_dir.display());
        let text = format!(
            "[node]\nname = \"{name}\"\ndata_dir = \"{data}\"\n[listen]\npeer = \"127.0.0.1:17999\"\n\
             admin = \"{dir}/{name}.sock\"\nnbd_dir = \"{dir}\"\n{more}"
        );
        self.write(&format!("{name}.toml"), &text)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

#[test]
fn configurations() {
    let files = Files::new();
    let data = files.path("data");
    let unknown_key = files.config("a", &data, "pear = 1\n");
    refuse(&["agent", "--config", &unknown_key], USAGE, &["listen.pear", "peer"]);
    let unknown_section = files.config("b", &data, "[clusters]\n");
    refuse(&["init", "--config", &unknown_section], USAGE, &["clusters", "cluster"]);
    let no_parent = files.config("c", &files.path("missing/data"), "");
    refuse(&["init", "--config", &no_parent], USAGE, &["missing", "exist"]);
    let wrong_type = files.config("d", &data, "[cluster]\nvoter = \"perhaps\"\n");
    refuse(&["agent", "--config", &wrong_type], USAGE, &["voter"]);
    let wrong_time = files.config("e", &data, "[cluster]\nlease = \"soon\"\n");
    refuse(&["agent", "--config", &wrong_time], USAGE, &["soon", "duration"]);
    let no_toml = files.write("f.toml", "this is no TOML");
    refuse(&["agent", "--config", &no_toml], USAGE, &["TOML"]);
    refuse(&["agent", "--config", "/nonexistent/config"], USAGE, &["/nonexistent/config"]);
    assert!(!data.exists(), "a refused configuration left a data directory");
}

#[test]
fn a_node_without_a_cluster() {
    let files = Files::new();
    let config = files.config("a", &files.path("data"), "");
    refuse(&["agent", "--config", &config], FAILED, &["holdfast init", "holdfast join"]);
    let socket = files.path("nobody.sock").display().to_string();
    refuse(&["status", "--socket", &socket], FAILED, &["nobody.sock", "--socket"]);
    refuse(&["join", "127.0.0.1:1", "--token", "nonsense", "--config", &config], USAGE, &["token"]);
    let from = |file: &str| ["join", "127.0.0.1:1", "--config", &config, "--token-file", file].map(str::to_owned);
    let refuse_file =
        |file: &str, status, words: &[&str]| refuse(&from(file).each_ref().map(String::as_str), status, words);
    refuse_file("/nonexistent/token", FAILED, &["read the token", "/nonexistent/token"]);
    // Of standard input, which is empty, and of a file that is no text and has no end.
    refuse_file("-", USAGE, &["expected a join token"]);
    refuse_file("/dev/zero", USAGE, &["expected a join token"]);
    refuse(&["join", "nowhere", "--token", "nonsense", "--config", &config], USAGE, &["HOST:PORT"]);
    refuse(&["volume", "create", "v", "--size", "large", "--socket", &socket], USAGE, &["--size", "large"]);
}

/// How large it is shows only when it is attached.
fn an_export_is_used_as_far_as_it_reaches(uri: &str) {
    let bench =
        ["bench", "--pattern", "randread", "--duration", "20ms", "--warm-up", "1ms", "--rounds", "1", "--nbd", uri];
    let words = ["--region: expected at most what taken has, 16 MiB", "found 1 GiB"];
    refuse(&[&bench[..], &["--region", "1GiB"]].concat(), FAILED, &words);
    let output = Command::new(binary()).args(bench).args(["--output", "json"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let measured: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(measured["region"], SIZE, "all of it is less than what is usual: {measured}");
}

#[test]
fn founding_twice() {
    let files = Files::new();
    let config = files.config("a", &files.path("data"), "");
    let status = Command::new(binary()).args(["init", "--config", &config]).output().unwrap();
    assert!(status.status.success(), "{status:?}");
    let before = snapshot(&files.path("data/cluster"));
    refuse(&["init", "--config", &config], FAILED, &["already"]);
    let renamed = files.config("b", &files.path("data"), "");
    refuse(&["agent", "--config", &renamed], FAILED, &["node.name", "a"]);
    assert_eq!(snapshot(&files.path("data/cluster")), before, "a refused command changed the identity");
}

#[tokio::test]
async fn volumes_and_nodes() {
    let mut cluster = TestCluster::start().await;
    cluster.volume("taken", SIZE).await;
    let socket = cluster.nodes()[1].admin().display().to_string();
    let ask = |args: &[&str], status, words: &[&str]| refuse(&[args, &["--socket", &socket]].concat(), status, words);
    ask(&["volume", "create", "v", "--size", "0"], USAGE, &["512 bytes"]);
    ask(&["volume", "create", "v", "--size", "1000"], USAGE, &["512"]);
    ask(&["volume", "create", "../v", "--size", "1MiB"], USAGE, &["name"]);
    ask(&["volume", "create", "v", "--size", "1MiB", "--on", "n1,n2,n9"], FAILED, &["n9"]);
    ask(&["volume", "create", "v", "--size", "1MiB", "--on", "n1,n1,n2"], USAGE, &["one copy"]);
    ask(&["volume", "create", "v", "--size", "65TiB"], USAGE, &["--size", "64 TiB"]);
    ask(&["volume", "create", "V", "--size", "1MiB"], USAGE, &["name", "a-z"]);
    ask(&["volume", "create", "v", "--size", "1MiB", "--copies", "0"], USAGE, &["--copies", "1 or more"]);
    ask(&["volume", "create", "v", "--size", "1MiB", "--quorum", "0"], USAGE, &["--quorum", "1 or more"]);
    ask(&["volume", "create", "v", "--size", "1MiB", "--copies", "2", "--on", "n1,n2,n3"], USAGE, &["--on", "found 3"]);
    ask(&["volume", "create", "v", "--size", "1MiB", "--copies", "4"], FAILED, &["found 3", "join more"]);
    ask(&["events", "--volume", "unknown"], FAILED, &["unknown"]);
    ask(&["volume", "create", "v", "--size", "1MiB", "--quorum", "4"], USAGE, &["quorum"]);
    ask(&["volume", "create", "v", "--size", "1MiB", "--durability", "async", "--quorum", "2"], USAGE, &["async"]);
    ask(&["volume", "create", "taken", "--size", "1MiB"], FAILED, &["taken"]);
    ask(&["volume", "show", "unknown"], FAILED, &["unknown"]);
    ask(&["status", "unknown"], FAILED, &["unknown"]);
    ask(&["volume", "delete", "unknown", "--yes"], FAILED, &["unknown"]);
    // One rule for all that can't be undone: without a terminal and without --yes it is refused, and nothing is asked of the cluster.
    for (args, what) in [
        (&["volume", "delete", "taken"][..], "for ever"),
        (&["copy", "remove", "taken", "n1"], "the copy of taken on n1"),
        (&["node", "remove", "n3"], "n3"),
        (&["orphan", "delete", "taken/n1/1"], "taken/n1/1"),
        (&["bench", "--nbd", "nbd://127.0.0.1:1/taken"], "overwrites"),
    ] {
        ask(args, REFUSED, &[what, "--yes", "nothing was done"]);
    }
    let primary = cluster.primary("taken").await;
    an_export_is_used_as_far_as_it_reaches(&cluster.uri(primary, "taken"));
    ask(&["failover", "unknown"], FAILED, &["unknown"]);
    ask(&["token", "create", "--valid", "721h"], USAGE, &["--valid", "720h"]);
    ask(&["top", "--interval", "soon"], USAGE, &["--interval", "soon"]);
    // What is refused leaves no files, so that it may be asked again.
    let files = Files::new();
    let target = files.path("lost.raw").display().to_string();
    ask(&["orphan", "export", "taken/n2/9", "--to", &target], FAILED, &["taken/n2/9"]);
    assert!(walk(files.dir.path()).is_empty(), "{:?}", walk(files.dir.path()));
    ask(&["failover", "taken", "--to", "n9"], FAILED, &["n9"]);
    // A program gets one line for a wrong command line, too.
    ask(&["failover", "taken", "--forze", "--output", "json"], USAGE, &["'--forze'", "'--force'"]);
    ask(&["volume", "create", "v", "--output", "json"], USAGE, &["--size <SIZE>"]);
    assert_eq!(cluster.volume_names().await, ["taken"]);
    cluster.wait_in_sync("taken", PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    // An agent that stands still.
    cluster.stop(1);
    ask(&["status", "--timeout", "1s"], FAILED, &[&socket, "within 1s", "--timeout"]);
    cluster.go_on(1);
}

#[tokio::test]
async fn what_is_reported_done_is_done() {
    let mut cluster = TestCluster::start().await;
    let socket = cluster.nodes()[1].admin().display().to_string();
    let run = |args: &[&str]| {
        let output =
            Command::new(binary()).args(args).args(["--socket", &socket, "--output", "json"]).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let created = run(&["volume", "create", "v", "--size", "16MiB"]);
    assert!(created["epoch"].as_u64() > Some(0), "{created}");
    let from = created["primary"].as_str().unwrap().to_owned();
    let to = if from == "n3" { "n1" } else { "n3" };
    cluster.wait_in_sync("v", PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    let moved = run(&["failover", "v", "--to", to]);
    assert_eq!((&moved["old_primary"], &moved["new_primary"]), (&from.as_str().into(), &to.into()), "{moved}");
    assert!(moved["new_epoch"].as_u64() > moved["old_epoch"].as_u64(), "{moved}");
    // Who asks for what is so already, as a script does that runs twice, gets it, and no other epoch.
    let again = run(&["failover", "v", "--to", to]);
    assert_eq!((&again["old_primary"], &again["new_primary"]), (&to.into(), &to.into()), "{again}");
    assert_eq!((&again["old_epoch"], &again["new_epoch"]), (&moved["new_epoch"], &moved["new_epoch"]), "{again}");
    let said = cluster.succeeds(1, &["failover", "v", "--to", to]).await;
    assert!(said.contains(&format!("v: {to} is primary already")), "{said}");
    // Not under the feet of a client.
    let workload = Workload::start(Plan::new(cluster.sockets("v"), "v", 0..SIZE, 1)).unwrap();
    let attached = cluster.wait_for("node 2 to know of the client", PATIENCE, async |cluster| {
        let status = cluster.status(1).await?;
        let volume = status.volumes.first().ok_or("no volume")?;
        if volume.clients == Some(1) { Ok(()) } else { Err(format!("{:?}", volume.clients)) }
    });
    attached.await.unwrap_or_else(|e| panic!("{e}"));
    refuse(&["volume", "delete", "v", "--yes", "--socket", &socket], REFUSED, &["client", to, "--force"]);
    workload.finish(PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    cluster.kill(0);
    let down = cluster.wait_for("node 2 to miss node 1", PATIENCE, async |cluster| {
        let down = cluster.status(1).await?.nodes.iter().any(|n| n.name == "n1" && n.state == "down");
        if down { Ok(()) } else { Err("n1 is up".to_owned()) }
    });
    down.await.unwrap_or_else(|e| panic!("{e}"));
    let deleted = run(&["volume", "delete", "v", "--force", "--yes"]);
    assert_eq!(deleted["copies_left_on"], serde_json::json!(["n1"]), "{deleted}");
}

#[test]
fn a_demo_without_an_image_leaves_nothing() {
    let files = Files::new();
    let dir = files.path("demo");
    let image = files.path("missing.img").display().to_string();
    refuse(&["demo", "--image", &image, "--dir", &dir.display().to_string()], FAILED, &["missing.img"]);
    assert!(!dir.exists(), "{} is left", dir.display());
}

#[test]
fn what_a_shard_needs() {
    let files = Files::new();
    let config = files.config("a", &files.path("data"), "");
    assert!(Command::new(binary()).args(["init", "--config", &config]).status().unwrap().success());
    let text = fs::read_to_string(&config).unwrap();
    let nowhere = text.replace("nbd_dir = \"", "nbd_dir = \"/proc/");
    let nowhere = files.write("nowhere.toml", &nowhere);
    refuse(&["agent", "--config", &nowhere], FAILED, &["nbd_dir"]);
    let output = Command::new(binary()).args(["agent", "--config", &nowhere]).output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stderr).contains("the agent runs"), "{output:?}");
}

#[tokio::test]
async fn what_belongs_to_another() {
    let mut cluster = TestCluster::start().await;
    cluster.volume("v", SIZE).await;
    let files = Files::new();
    // Somebody else's sockets and directories.
    let config = cluster.nodes()[0].config().display().to_string();
    refuse(&["agent", "--config", &config], FAILED, &["another one running"]);
    let other = files.config("n3", &files.path("other"), "");
    assert!(Command::new(binary()).args(["init", "--config", &other]).status().unwrap().success());
    let same_socket = fs::read_to_string(&other)
        .unwrap()
        .replace(&format!("{}/n3.sock", files.dir.path().display()), &cluster.nodes()[0].admin().display().to_string());
    let same_socket = files.write("same.toml", &same_socket);
    refuse(&["agent", "--config", &same_socket], FAILED, &["running agent"]);
    // The certificate of another cluster.
    cluster.kill(2);
    let (here, there) = (cluster.nodes()[2].data_dir().join("cluster"), files.path("other/cluster"));
    let before = snapshot(&here);
    for name in ["node.pem", "node.key"] {
        fs::copy(there.join(name), here.join(name)).unwrap();
    }
    let config = cluster.nodes()[2].config().display().to_string();
    refuse(&["agent", "--config", &config], FAILED, &[]);
    // All that says who this is, and then what this node promised in the other cluster.
    restore(&here, &snapshot(&there));
    refuse(&["agent", "--config", &config], FAILED, &["control plane's log", "cluster", "n3"]);
    restore(&here, &before);
    fs::remove_file(here.join("ca.key")).unwrap();
    let log = cluster.nodes()[2].data_dir().join("control/raft.redb");
    let whole = fs::read(&log).unwrap();
    fs::copy(files.path("other/control/raft.redb"), &log).unwrap();
    refuse(&["agent", "--config", &config], FAILED, &["control plane's log", "cluster", "n3"]);
    fs::write(&log, &whole[..whole.len() / 2]).unwrap();
    refuse(&["agent", "--config", &config], FAILED, &["control plane's log", "new node"]);
    fs::remove_file(&log).unwrap();
    refuse(&["agent", "--config", &config], FAILED, &["control plane's log", "found none"]);
    fs::write(&log, whole).unwrap();
    cluster.launch(2).unwrap();
    cluster.wait_healthy("v", PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
}

/// The copies of a node whose journal is not what it wrote take no part; the node itself answers, says why, and keeps its vote.
#[tokio::test]
async fn an_answer_that_cannot_be_printed_is_a_failure() {
    let cluster = TestCluster::start().await;
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = cluster.command(0, &["status"]).stdout(full).output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(FAILED), "{err}");
    assert!(err.contains("could not be printed") && !err.contains("panicked"), "{err}");
}

#[tokio::test]
async fn journals_that_are_not_ours() {
    let mut cluster = TestCluster::start().await;
    cluster.volume("v", SIZE).await;
    cluster.wait_in_sync("v", PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    cluster.kill(2);
    let shard = cluster.nodes()[2].data_dir().join("shard-0");
    let segment = first_segment(&shard);
    let whole = fs::read(&segment).unwrap();
    File::options().write(true).open(&segment).unwrap().set_len(whole.len() as u64 / 2 + 100).unwrap();
    journal_refused(&mut cluster, &shard).await;
    let mut foreign = File::create(&segment).unwrap();
    foreign.write_all(&vec![0x5A; whole.len()]).unwrap();
    drop(foreign);
    journal_refused(&mut cluster, &shard).await;
    fs::write(&segment, whole).unwrap();
    cluster.launch(2).unwrap();
    cluster.wait_in_sync("v", PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));

    // Without the original files: a replacement waits, and says for what, until they are moved away as a whole.
    cluster.kill(2);
    fs::write(&segment, b"").unwrap();
    journal_refused(&mut cluster, &shard).await;
    cluster.launch(2).unwrap();
    cluster.fails(&["copy", "replace", "v", "n3", "n3", "--no-wait"], REFUSED, "throws the copy of v on n3 away").await;
    cluster.succeeds(0, &["copy", "replace", "v", "n3", "n3", "--no-wait", "--yes"]).await;
    let told = cluster.wait_for("the replacement to say what it waits for", PATIENCE, async |cluster| {
        let volume = cluster.volume("v").await?;
        let note = volume.copies.iter().find(|c| c.node == "n3").map(|c| c.note.clone()).unwrap_or_default();
        if note.contains("can't make or delete a copy") && note.contains("as a whole") { Ok(()) } else { Err(note) }
    });
    told.await.unwrap_or_else(|e| panic!("{e}"));
    cluster.kill(2);
    fs::rename(&shard, shard.with_extension("refused")).unwrap();
    cluster.launch(2).unwrap();
    cluster.wait_in_sync("v", PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
}

/// Starts n3 and ends it, when its own status has said what is wrong and what to do. Nothing in its directory changes.
async fn journal_refused(cluster: &mut TestCluster, shard: &Path) {
    let before: Vec<(PathBuf, u64)> =
        walk(shard).into_iter().map(|f| (f.clone(), f.metadata().unwrap().len())).collect();
    cluster.launch(2).unwrap();
    let told = cluster.wait_for("n3 to refuse its journal", PATIENCE, async |cluster| {
        let status = cluster.status(2).await?;
        let volume = status.volumes.first().ok_or("no volume is known there yet")?;
        let copy = volume.copies.iter().find(|c| c.node == "n3").ok_or("no copy of n3")?;
        let said = volume.r#unsafe.join("; ");
        let says =
            ["segment", "put the original files back", "restart the agent"].iter().all(|word| said.contains(word));
        if copy.state == "failed" && says { Ok(()) } else { Err(format!("{}: {said}", copy.state)) }
    });
    told.await.unwrap_or_else(|e| panic!("{e}"));
    let answers = cluster.ask(2, &["status"]);
    assert!(answers.status.success(), "{answers:?}");
    // A new copy in its place can't be made there either, and whoever asks for one is told why.
    let created = cluster.run(0, &["volume", "create", "w", "--size", "16MiB"]).await;
    let said = String::from_utf8_lossy(&created.stderr).into_owned();
    assert!(!created.status.success() && said.contains("have not all failed"), "{said}");
    cluster.kill(2);
    let after: Vec<(PathBuf, u64)> =
        walk(shard).into_iter().map(|f| (f.clone(), f.metadata().unwrap().len())).collect();
    assert_eq!(before, after, "the files are evidence");
}

/// The first file below `dir` whose path names a segment.
fn first_segment(dir: &Path) -> PathBuf {
    let mut found: Vec<PathBuf> =
        walk(dir).into_iter().filter(|path| path.to_string_lossy().contains("segment")).collect();
    found.sort();
    found.into_iter().next().unwrap_or_else(|| panic!("a segment file in {}: {:?}", dir.display(), walk(dir)))
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

fn snapshot(dir: &Path) -> Vec<(OsString, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

fn restore(dir: &Path, files: &[(OsString, Vec<u8>)]) {
    for (name, content) in files {
        fs::write(dir.join(name), content).unwrap();
    }
}
