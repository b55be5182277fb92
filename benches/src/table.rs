//! The table of workloads: which rows there are, what is aimed at, and how a row is measured on a cluster that runs.
//!
//! Each row is a call of `holdfast bench` beside a raw file, so that everybody can repeat a single one by hand. Where the cluster runs, and
//! who calls, is the business of a [`Place`].

use holdfast_agent::admin::pb;
use holdfast_cli::harness::{Cluster, HarnessError};
use serde_json::Value;
use std::error::Error;
use std::path::Path;
use std::time::Duration;

use Goal::{AtLeast, AtMost, Elsewhere};
use Volumes::{Flush, Many, One};

const PATIENCE: Duration = Duration::from_secs(120);

/// Why there is no table.
pub type Failure = Box<dyn Error>;

/// A row of the table.
struct Row {
    workload: &'static str,
    /// What of it counts.
    figure: &'static str,
    volumes: Volumes,
    args: &'static [&'static str],
    take: fn(&Measured) -> Option<f64>,
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
    row("4 KiB random write, depth 1", "p50 × raw", One, WRITE_1, |m| m.ratio("raw", "p50"), AtMost(3.5), AtMost(2.2)),
    row("4 KiB random write, depth 1", "p99 × raw", One, WRITE_1, |m| m.ratio("raw", "p99"), AtMost(4.0), AtMost(2.5)),
    row("4 KiB random write, depth 32", "IOPS × raw×3", One, WRITE_32, |m| m.ratio("raw×3", "iops"), AtLeast(1.5), Elsewhere),
    row("4 KiB random write, depth 32", "IOPS × raw", One, WRITE_32, |m| m.ratio("raw", "iops"), Elsewhere, AtLeast(1.0)),
    row("50 volumes, depth 1 each", "IOPS × raw×3 at depth 32", Many, MANY_1, |m| m.ratio("raw×3", "iops"), AtLeast(1.2), Elsewhere),
    row("50 volumes, depth 1 each", "IOPS × raw at depth 32", Many, MANY_1, |m| m.ratio("raw", "iops"), Elsewhere, AtLeast(1.0)),
    row("4 KiB random write, depth 32", "CPU µs, all processes", One, WRITE_32, Measured::processor, AtMost(60.0), AtMost(30.0)),
    row("128 KiB sequential write, depth 8", "MB/s × raw", One, SEQUENTIAL, |m| m.ratio("raw", "mb_per_s"), AtLeast(0.15), AtLeast(0.33)),
    row("4 KiB random read, depth 1", "p50 × raw", One, READ_1, |m| m.ratio("raw", "p50"), AtMost(1.6), AtMost(1.3)),
    row("4 KiB random read, depth 32", "IOPS × raw", One, READ_32, |m| m.ratio("raw", "iops"), AtLeast(0.7), AtLeast(0.9)),
    row("durability flush, 4 KiB, depth 1", "p50 × raw", Flush, WRITE_1, |m| m.ratio("raw", "p50"), AtMost(1.6), AtMost(1.0)),
    row("4 KiB random write, depth 32", "MiB of an agent, peak", One, WRITE_32, Measured::memory, AtMost(256.0), AtMost(128.0)),
    row("4 KiB random write, 16 MiB hot", "bytes written per byte and copy", One, HOT_32, Measured::written, AtMost(1.5), AtMost(1.2)),
];

const fn row(
    workload: &'static str,
    figure: &'static str,
    volumes: Volumes,
    args: &'static [&'static str],
    take: fn(&Measured) -> Option<f64>,
    must: Goal,
    moonshot: Goal,
) -> Row {
    Row { workload, figure, volumes, args, take, must, moonshot }
}

/// What one call of `holdfast bench` brought.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The words that it was called with, without those of the place.
    pub args: Vec<String>,
    /// What it printed.
    pub value: Value,
    /// What the agent of each host spent meanwhile, the primary's first; empty where all agents run on the host of the client, which
    /// counts them itself.
    pub spent: Vec<Spent>,
}

/// What an agent spent while something was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    /// Microseconds of processor time for each record that its copy took.
    pub cpu_us: f64,
    /// Bytes sent to block devices for each byte in 4 KiB records that its copy took.
    pub written: f64,
    /// Largest resident memory so far, in bytes.
    pub memory: f64,
}

impl Measured {
    fn ratio(&self, raw: &str, figure: &str) -> Option<f64> {
        self.value["ratio_to"][raw][figure].as_f64()
    }

    /// The client and the agents beside it, and the agents of other hosts.
    fn processor(&self) -> Option<f64> {
        let here = self.value["targets"][0]["cpu_us_per_op"].as_f64()?;
        Some(here + self.spent.iter().skip(1).map(|s| s.cpu_us).sum::<f64>())
    }

    /// The mean of the copies.
    fn written(&self) -> Option<f64> {
        if self.spent.is_empty() {
            return self.value["written_per_byte_and_copy"].as_f64();
        }
        let copies: Vec<f64> = self.spent.iter().map(|s| s.written).filter(|w| *w > 0.0).collect();
        let count = u32::try_from(copies.len()).ok().filter(|count| *count > 0)?;
        Some(copies.iter().sum::<f64>() / f64::from(count))
    }

    /// The largest.
    fn memory(&self) -> Option<f64> {
        let here = self.value["agent_peak_memory_bytes"].as_f64()?;
        Some(self.spent.iter().map(|s| s.memory).fold(here, f64::max) / f64::from(1 << 20))
    }
}

/// How long is measured, and how much is written.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Of each workload.
    pub rounds: u32,
    /// The length of each round.
    pub round: Duration,
    /// Small volumes and next to no time: shows that everything works, and measures nothing.
    pub rehearsal: bool,
}

impl Pace {
    /// Bytes that a host needs for it: images, the journal, raw files.
    #[must_use]
    pub fn space(&self) -> u64 {
        if self.rehearsal { 1 << 30 } else { 8 << 30 }
    }

    /// Volumes of the workload with many.
    fn many(&self) -> impl Iterator<Item = String> + use<> {
        (0..if self.rehearsal { 3 } else { 50 }).map(|n| format!("many-{n}"))
    }

    /// The volumes of all workloads, whose primary this node is.
    fn volumes(&self, primary: &str) -> Vec<pb::VolumeCreateRequest> {
        let (large, small) = if self.rehearsal { (64 << 20, 16 << 20) } else { (1 << 30, 64 << 20) };
        let volume = |name: String, size_bytes: u64, durability: &str| pb::VolumeCreateRequest {
            name,
            size_bytes,
            durability: durability.to_owned(),
            copies: 3,
            quorum: 2,
            primary: primary.to_owned(),
            ..Default::default()
        };
        let mut volumes = vec![volume("sync".to_owned(), large, "sync"), volume("flush".to_owned(), large, "flush")];
        volumes.extend(self.many().map(|name| volume(name, small, "sync")));
        volumes
    }

    fn args(&self, row: &Row) -> Vec<String> {
        let mut args: Vec<String> = match row.volumes {
            One => vec!["sync".to_owned()],
            Flush => vec!["flush".to_owned()],
            Many => self.many().collect(),
        };
        args.extend(row.args.iter().map(|a| (*a).to_owned()));
        if !row.args.contains(&"--region") {
            args.extend(["--region", "512MiB"].map(str::to_owned));
        }
        if self.rehearsal {
            let at = args.iter().position(|a| a == "--region").expect("every row has one");
            "8MiB".clone_into(&mut args[at + 1]);
        }
        let mut add = |words: [&str; 2]| args.extend(words.map(str::to_owned));
        add(["--rounds", &self.rounds.to_string()]);
        add(["--duration", &format!("{}ms", self.round.as_millis())]);
        add(["--warm-up", if self.rehearsal { "50ms" } else { "1s" }]);
        args
    }
}

/// Makes the volumes of all workloads, and waits until each has all its copies. The cluster's first node is to be the primary of all.
///
/// # Errors
/// One is refused, or does not become healthy.
pub async fn create_volumes(cluster: &Cluster, pace: &Pace) -> Result<(), HarnessError> {
    for volume in pace.volumes(cluster.nodes()[0].name()) {
        cluster.create_volume(volume, PATIENCE).await?;
    }
    Ok(())
}

/// Where a cluster runs that has the volumes of [`create_volumes`].
pub trait Place {
    /// Calls `holdfast bench` with these words on the primary's host, beside a raw file there.
    fn bench(&mut self, args: Vec<String>) -> impl Future<Output = Result<Measured, Failure>>;
}

/// Measures all rows: the table in Markdown, and what it was made of.
///
/// # Errors
/// A measurement failed, or had not the figure of its row.
pub async fn measure(place: &mut impl Place, pace: &Pace) -> Result<(String, Vec<Measured>), Failure> {
    let mut table =
        String::from("| workload | figure | measured | must | moonshot |\n| --- | --- | ---: | --- | --- |\n");
    let mut done: Vec<Measured> = Vec::new();
    for row in &ROWS {
        let args = pace.args(row);
        if !done.iter().any(|known| known.args == args) {
            done.push(place.bench(args.clone()).await?);
        }
        let measured = done.iter().find(|known| known.args == args).expect("measured just now");
        let figure =
            (row.take)(measured).ok_or_else(|| format!("{}: no figure in {}", row.workload, measured.value))?;
        let mark = |goal: Goal| if goal.is_met(figure) { format!("{goal} ✓") } else { goal.to_string() };
        let (must, moonshot) = (mark(row.must), mark(row.moonshot));
        table.push_str(&format!("| {} | {} | {figure:.2} | {must} | {moonshot} |\n", row.workload, row.figure));
        eprintln!("{}: {} {figure:.2}", row.workload, row.figure);
    }
    Ok((table, done))
}

/// What each agent spent in the workloads that the rows on processor time and on written bytes are of.
#[must_use]
pub fn spent<'a>(done: &'a [Measured], pace: &Pace) -> [&'a [Spent]; 2] {
    [WRITE_32, HOT_32].map(|words| {
        let row = ROWS.iter().find(|row| row.args == words).expect("a row of the table");
        let args = pace.args(row);
        done.iter().find(|measured| measured.args == args).map_or(&[][..], |measured| &measured.spent)
    })
}

/// Calls `holdfast bench` with these words, and stops it if nobody waits for it any more.
///
/// # Errors
/// It failed; what it said.
pub async fn bench(binary: &Path, admin: &Path, raw: &Path, args: &[String]) -> Result<Value, Failure> {
    let mut command = tokio::process::Command::new(binary);
    command.arg("--socket").arg(admin).args(["--output", "json", "bench"]).args(args);
    command.args(["--yes", "--raw"]).arg(raw).kill_on_drop(true);
    let output = command.output().await?;
    if !output.status.success() {
        return Err(format!("holdfast bench {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
