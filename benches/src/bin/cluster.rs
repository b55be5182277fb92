//! Three agents on this machine, every workload next to the raw file system, one row each.
//!
//! usage: cluster HOLDFAST_BINARY DIRECTORY [ROUNDS] [SECONDS]
//!
//! The directory must be on the file system that is to be measured; what is made there is removed. Prints a table in
//! Markdown, and the figures as JSON to `bench.json` in that directory. Measures by calling
//! `holdfast bench`, so that everybody can repeat a single row by hand.

use holdfast_agent::admin::pb;
use holdfast_cli::harness::{Cluster, ClusterOptions};
use serde_json::Value;
use std::error::Error;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use Goal::{AtLeast, AtMost, Elsewhere};
use Volumes::{Flush, Many, One};

const PATIENCE: Duration = Duration::from_secs(120);
/// Volumes of the workload with many.
const MANY: usize = 50;
const VOLUME: u64 = 1 << 30;
const SMALL: u64 = 64 << 20;

/// A row of the table.
struct Row {
    workload: &'static str,
    /// What of it counts.
    figure: &'static str,
    volumes: Volumes,
    args: &'static [&'static str],
    take: fn(&Value) -> Option<f64>,
    /// What a user can rely on, and what is aimed at; each with the sense of the comparison.
    must: Goal,
    moonshot: Goal,
}

#[derive(Clone, Copy)]
enum Volumes {
    One,
    Flush,
    Many,
}

#[derive(Clone, Copy)]
enum Goal {
    /// Another row of the same workload has it.
    Elsewhere,
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    fn is_met(self, value: f64) -> bool {
        match self {
            Goal::Elsewhere => false,
            Goal::AtMost(limit) => value <= limit,
            Goal::AtLeast(limit) => value >= limit,
        }
    }
}

impl std::fmt::Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Goal::Elsewhere => write!(f, "–"),
            Goal::AtMost(limit) => write!(f, "≤ {limit}"),
            Goal::AtLeast(limit) => write!(f, "≥ {limit}"),
        }
    }
}

fn ratio(value: &Value, raw: &str, figure: &str) -> Option<f64> {
    value["ratio_to"][raw][figure].as_f64()
}

const WRITE_1: &[&str] = &["--pattern", "randwrite", "--depth", "1"];
const WRITE_32: &[&str] = &["--pattern", "randwrite", "--depth", "32", "--raw-streams", "3"];
const HOT_32: &[&str] = &["--pattern", "randwrite", "--depth", "32", "--region", "16MiB"];
const MANY_1: &[&str] =
    &["--pattern", "randwrite", "--depth", "1", "--raw-depth", "32", "--raw-streams", "3", "--region", "48MiB"];
const SEQUENTIAL: &[&str] = &["--pattern", "write", "--block-size", "128KiB", "--depth", "8"];
const READ_1: &[&str] = &["--pattern", "randread", "--depth", "1", "--fill"];
const READ_32: &[&str] = &["--pattern", "randread", "--depth", "32", "--fill"];

/// The workloads. Two rows with equal arguments are one measurement.
#[rustfmt::skip]
static ROWS: [Row; 13] = [
    row("4 KiB random write, depth 1", "p50 × raw", One, WRITE_1, |v| ratio(v, "raw", "p50"), AtMost(3.5), AtMost(2.2)),
    row("4 KiB random write, depth 1", "p99 × raw", One, WRITE_1, |v| ratio(v, "raw", "p99"), AtMost(4.0), AtMost(2.5)),
    row("4 KiB random write, depth 32", "IOPS × raw×3", One, WRITE_32, |v| ratio(v, "raw×3", "iops"), AtLeast(1.5), Elsewhere),
    row("4 KiB random write, depth 32", "IOPS × raw", One, WRITE_32, |v| ratio(v, "raw", "iops"), Elsewhere, AtLeast(1.0)),
    row("50 volumes, depth 1 each", "IOPS × raw×3 at depth 32", Many, MANY_1, |v| ratio(v, "raw×3", "iops"), AtLeast(1.2), Elsewhere),
    row("50 volumes, depth 1 each", "IOPS × raw at depth 32", Many, MANY_1, |v| ratio(v, "raw", "iops"), Elsewhere, AtLeast(1.0)),
    row("4 KiB random write, depth 32", "CPU µs, all processes", One, WRITE_32, processor, AtMost(60.0), AtMost(30.0)),
    row("128 KiB sequential write, depth 8", "MB/s × raw", One, SEQUENTIAL, |v| ratio(v, "raw", "mb_per_s"), AtLeast(0.15), AtLeast(0.33)),
    row("4 KiB random read, depth 1", "p50 × raw", One, READ_1, |v| ratio(v, "raw", "p50"), AtMost(1.6), AtMost(1.3)),
    row("4 KiB random read, depth 32", "IOPS × raw", One, READ_32, |v| ratio(v, "raw", "iops"), AtLeast(0.7), AtLeast(0.9)),
    row("durability flush, 4 KiB, depth 1", "p50 × raw", Flush, WRITE_1, |v| ratio(v, "raw", "p50"), AtMost(1.6), AtMost(1.0)),
    row("4 KiB random write, depth 32", "MiB of an agent, peak", One, WRITE_32, memory, AtMost(256.0), AtMost(128.0)),
    row("4 KiB random write, 16 MiB hot", "bytes written per byte and copy", One, HOT_32, written, AtMost(1.5), AtMost(1.2)),
];

const fn row(
    workload: &'static str,
    figure: &'static str,
    volumes: Volumes,
    args: &'static [&'static str],
    take: fn(&Value) -> Option<f64>,
    must: Goal,
    moonshot: Goal,
) -> Row {
    Row { workload, figure, volumes, args, take, must, moonshot }
}

fn processor(value: &Value) -> Option<f64> {
    value["targets"][0]["cpu_us_per_op"].as_f64()
}

fn written(value: &Value) -> Option<f64> {
    value["written_per_byte_and_copy"].as_f64()
}

fn memory(value: &Value) -> Option<f64> {
    Some(value["agent_peak_memory_bytes"].as_f64()? / f64::from(1 << 20))
}

type Failure = Box<dyn Error>;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [binary, directory, rest @ ..] = &args[..] else {
        return Err("usage: cluster HOLDFAST_BINARY DIRECTORY [ROUNDS] [SECONDS]".into());
    };
    let rounds = rest.first().map_or("5", String::as_str);
    let seconds = format!("{}s", rest.get(1).map_or("5", String::as_str));
    let place = tempfile::Builder::new().prefix("holdfast-bench-").tempdir_in(directory)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let cluster = runtime.block_on(start(Path::new(binary), place.path()))?;
    let measured = measure(binary, &cluster, place.path(), rounds, &seconds);
    let (table, all) = measured?;
    print!("{table}");
    std::fs::write(Path::new(directory).join("bench.json"), serde_json::to_vec_pretty(&all)?)?;
    drop(cluster);
    Ok(())
}

async fn start(binary: &Path, place: &Path) -> Result<Cluster, Failure> {
    let binary = std::fs::canonicalize(binary)?;
    let cluster = Cluster::start(ClusterOptions::new(binary, place.to_path_buf())).await?;
    let volume = |name: &str, size_bytes: u64, durability: &str| pb::VolumeCreateRequest {
        name: name.to_owned(),
        size_bytes,
        durability: durability.to_owned(),
        copies: 3,
        quorum: 2,
        primary: cluster.nodes()[0].name().to_owned(),
        ..Default::default()
    };
    cluster.create_volume(volume("sync", VOLUME, "sync"), PATIENCE).await?;
    cluster.create_volume(volume("flush", VOLUME, "flush"), PATIENCE).await?;
    for name in many() {
        cluster.create_volume(volume(&name, SMALL, "sync"), PATIENCE).await?;
    }
    Ok(cluster)
}

fn many() -> impl Iterator<Item = String> {
    (0..MANY).map(|n| format!("many-{n}"))
}

fn measure(
    binary: &str,
    cluster: &Cluster,
    place: &Path,
    rounds: &str,
    seconds: &str,
) -> Result<(String, Vec<Value>), Failure> {
    let mut table =
        String::from("| workload | figure | measured | must | moonshot |\n| --- | --- | ---: | --- | --- |\n");
    let mut done: Vec<(Vec<String>, Value)> = Vec::new();
    for row in &ROWS {
        let mut args: Vec<String> = match row.volumes {
            One => vec!["sync".to_owned()],
            Flush => vec!["flush".to_owned()],
            Many => many().collect(),
        };
        args.extend(row.args.iter().map(|a| (*a).to_owned()));
        if !done.iter().any(|(known, _)| *known == args) {
            let value = bench(binary, cluster.nodes()[0].admin(), &place.join("raw"), &args, rounds, seconds)?;
            done.push((args.clone(), value));
        }
        let value = done.iter().find(|(known, _)| *known == args).map(|(_, value)| value).expect("measured just now");
        let measured = (row.take)(value).ok_or_else(|| format!("{}: no figure in {value}", row.workload))?;
        let mark = |goal: Goal| if goal.is_met(measured) { format!("{goal} ✓") } else { goal.to_string() };
        let (must, moonshot) = (mark(row.must), mark(row.moonshot));
        table.push_str(&format!("| {} | {} | {measured:.2} | {must} | {moonshot} |\n", row.workload, row.figure));
        eprintln!("{}: {} {measured:.2}", row.workload, row.figure);
    }
    Ok((table, done.into_iter().map(|(_, value)| value).collect()))
}

fn bench(
    binary: &str,
    admin: &Path,
    raw: &Path,
    args: &[String],
    rounds: &str,
    seconds: &str,
) -> Result<Value, Failure> {
    let mut command = Command::new(binary);
    command.arg("--socket").arg(admin).args(["--output", "json", "bench"]).args(args);
    if !args.iter().any(|a| a == "--region") {
        command.args(["--region", "512MiB"]);
    }
    command.args(["--rounds", rounds, "--duration", seconds, "--warm-up", "1s", "--yes"]);
    command.args([OsStr::new("--raw"), raw.as_os_str()]);
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("holdfast bench {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
