//! `holdfast top`: what it tells of a cluster under load, on a terminal and elsewhere.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_cli::harness::Cluster;
use holdfast_cli::workload::{Plan, Workload};
use holdfast_tests::terminal::{colours, on_a_terminal};
use holdfast_tests::{PATIENCE, TestCluster, binary, finish};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{ExitStatus, Stdio};

const VOLUME: &str = "vm1";
const SIZE: u64 = 32 << 20;
/// What begins and ends the screen that it has for itself.
const TAKEN: &str = "\x1b[?1049h";
/// In each screen once.
const SCREEN: &str = " UTC, over ";
const GIVEN_BACK: &str = "\x1b[?1049l";

/// It ended well, and left the terminal as it was.
fn gave_back(status: ExitStatus, shown: &str) {
    let end: String = shown.chars().skip(shown.chars().count().saturating_sub(200)).collect();
    assert!(status.success() && end.trim_end().ends_with(GIVEN_BACK), "{status}, the end of {}: {end:?}", shown.len());
}

/// What `top` prints once it says this: on a slow machine a copy is behind for a moment.
async fn shows(cluster: &TestCluster, node: usize, args: &[&str], words: &str) -> String {
    let look = async |_: &Cluster| {
        let text = cluster.succeeds(node, args).await;
        if text.contains(words) { Ok(text) } else { Err(text) }
    };
    cluster.wait_for(words, PATIENCE, look).await.unwrap_or_else(|e| panic!("{e}"))
}

#[tokio::test]
async fn the_cluster_is_seen_as_it_goes() {
    let mut cluster = TestCluster::start().await;
    cluster.volume(VOLUME, SIZE).await;
    cluster.volume("idle", SIZE).await;
    let primary = cluster.primary(VOLUME).await;
    let other = (primary + 1) % 3;
    let workload = Workload::start(Plan::new(cluster.sockets(VOLUME), VOLUME, 0..SIZE, 5)).unwrap();
    cluster.acknowledges(&workload, 50).await;

    let once = ["top", "--once", "--interval", "1s"];
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let sample = json(&cluster.succeeds(primary, &[&once[..], &["--output", "json"]].concat()).await);
    let of = |name: &str| sample["volumes"].as_array().unwrap().iter().find(|v| v["name"] == name).unwrap().clone();
    let writes = &of(VOLUME)["rates"]["writes"];
    let number = |of: &Value, key: &str| of[key].as_f64().unwrap_or_else(|| panic!("{key} of {of}"));
    assert!(number(writes, "per_second") > 1.0 && number(writes, "bytes_per_second") > 512.0, "{sample}");
    assert!(number(writes, "p50_ms") > 0.0 && number(writes, "p99_ms") >= number(writes, "p50_ms"), "{sample}");
    assert!(number(&sample, "interval_seconds") > 0.9, "{sample}");
    let lags = of(VOLUME)["copies"].as_array().unwrap().iter().filter(|c| c["lag_seconds"].is_number()).count();
    assert_eq!((lags, sample["nodes"].as_array().unwrap().len()), (2, 3), "{sample}");
    // Nobody else knows what the primary serves, and says so.
    let elsewhere = json(&cluster.succeeds(other, &[&once[..], &["--output", "json"]].concat()).await);
    let there = elsewhere["volumes"].as_array().unwrap().iter().find(|v| v["name"] == VOLUME).unwrap();
    assert!(there["rates"].is_null() && there["state"].is_string(), "{elsewhere}");

    // One sample where there is no terminal, in 80 columns and without a code.
    let healthy = "3 nodes: 3 up. 2 volumes: 2 healthy.";
    let text = shows(&cluster, other, &["top", "--interval", "250ms"], healthy).await;
    assert!(text.contains("other nodes lead"), "{text}");
    assert!(!text.contains('\x1b') && text.lines().all(|line| line.chars().count() <= 80), "{text}");

    // In JSON one object after another.
    let mut command = cluster.command(primary, &["top", "--interval", "250ms", "--output", "json"]);
    let mut stream = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines: Vec<String> =
        BufReader::new(stream.stdout.take().unwrap()).lines().take(3).map(Result::unwrap).collect();
    stream.kill().unwrap();
    stream.wait().unwrap();
    let times: Vec<u64> = lines.iter().map(|line| json(line)["unix_ms"].as_u64().unwrap()).collect();
    assert!(times.is_sorted() && times.len() == 3, "{times:?}");

    // On a terminal, until a key.
    let socket = cluster.nodes()[primary].admin().display().to_string();
    // `exec`: a shell that stays would get the Ctrl-C too, and decide the status.
    let line = format!("exec {} --socket {socket} top --interval 250ms", binary().display());
    let screens = |count: usize| move |shown: &str| shown.matches(SCREEN).count() >= count;
    let (status, shown) = on_a_terminal(&line, "q", false, screens(3));
    assert!(shown.contains(TAKEN), "{status}: {shown:?}");
    assert!(shown.contains("\x1b[38;5;") | shown.contains("\x1b[32m"), "in colours: {shown:?}");
    gave_back(status, &shown);
    let (status, shown) = on_a_terminal(&line, "\x03", true, screens(1));
    assert_eq!(colours(&shown), 0, "NO_COLOR: {shown:?}");
    gave_back(status, &shown);

    // What is wrong is said first.
    cluster.kill(other);
    let name = cluster.nodes()[other].name().to_owned();
    let _ = shows(&cluster, primary, &once, &format!("UNSAFE nodes that do not answer: {name}")).await;
    cluster.fails(&["top", "--interval", "1ms"], 2, "250ms to 1h").await;
    cluster.launch(other).unwrap();
    cluster.wait_healthy(VOLUME, PATIENCE).await.unwrap_or_else(|e| panic!("{e}"));
    finish(workload).await;
}
