//! What guests feel of a resync: the latency of a durable 4 KiB write while a copy fetches a whole volume, over the latency without it,
//! on the volume that is fetched and on its neighbour.
//!
//! usage: recovery HOLDFAST_BINARY DIRECTORY [ROUNDS] [SECONDS]
//!
//! Three agents; in every round the copy of one volume on the third node is removed, measured without it, added again, and measured while
//! it is filled. Both halves of a round are measured with two copies that count. Prints medians of the rounds in Markdown.

use holdfast_agent::admin::pb;
use holdfast_benches::journal::median;
use holdfast_cli::harness::{Cluster, ClusterOptions};
use serde_json::Value;
use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(300);
/// So large that its resync outlasts a measurement, at the default bandwidth.
const SIZE: u64 = 2 << 30;
const FETCHED: &str = "fetched";
const NEIGHBOUR: &str = "neighbour";
/// Far below what is written: no log reaches a new copy.
const SMALL_JOURNAL: &str = "[limits]\njournal_segment = \"4MiB\"\njournal_max = \"64MiB\"\n";
const REGION: &str = "256MiB";

type Failure = Box<dyn Error>;

/// Microseconds.
#[derive(Clone, Copy)]
struct Latency {
    p50: f64,
    p99: f64,
}

/// One round: each volume without and with a resync, and how fast that went, in MiB/s.
struct Round {
    without: [Latency; 2],
    with: [Latency; 2],
    rate: f64,
}

struct Bench {
    binary: String,
    seconds: String,
    cluster: Cluster,
}

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [binary, directory, rest @ ..] = &args[..] else {
        return Err("usage: recovery HOLDFAST_BINARY DIRECTORY [ROUNDS] [SECONDS]".into());
    };
    let rounds: usize = rest.first().map_or(Ok(5), |r| r.parse())?;
    if rounds == 0 {
        return Err("expected at least one round, found 0".into());
    }
    let seconds = rest.get(1).map_or("3", String::as_str);
    let place = tempfile::Builder::new().prefix("holdfast-bench-").tempdir_in(directory)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        let bench = Bench::start(Path::new(binary), place.path(), seconds).await?;
        let mut done = Vec::new();
        for at in 1..=rounds {
            let round = bench.round(at % 2 == 0).await?;
            let ratio = |v: usize| round.with[v].p50 / round.without[v].p50;
            let [fetched, neighbour] = [ratio(0), ratio(1)];
            eprintln!(
                "round {at} of {rounds}: {FETCHED} {fetched:.2}, {NEIGHBOUR} {neighbour:.2}, resync at {:.0} MiB/s",
                round.rate
            );
            done.push(round);
        }
        Ok::<_, Failure>(done)
    })?;
    print!("{}", table(&done));
    Ok(())
}

fn table(rounds: &[Round]) -> String {
    let mut table = String::from(
        "| volume | p50 without | p50 during | ratio | p99 without | p99 during | ratio |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for (at, name) in [FETCHED, NEIGHBOUR].into_iter().enumerate() {
        let of = |f: &dyn Fn(&Round) -> f64| median(&mut rounds.iter().map(f).collect::<Vec<_>>());
        table.push_str(&format!(
            "| {name} | {:.0} µs | {:.0} µs | {:.2} | {:.0} µs | {:.0} µs | {:.2} |\n",
            of(&|r| r.without[at].p50),
            of(&|r| r.with[at].p50),
            of(&|r| r.with[at].p50 / r.without[at].p50),
            of(&|r| r.without[at].p99),
            of(&|r| r.with[at].p99),
            of(&|r| r.with[at].p99 / r.without[at].p99),
        ));
    }
    let rate = median(&mut rounds.iter().map(|r| r.rate).collect::<Vec<_>>());
    table + &format!("\nThe resync ran at {rate:.0} MiB/s meanwhile (medians of {} rounds).\n", rounds.len())
}

impl Bench {
    async fn start(binary: &Path, place: &Path, seconds: &str) -> Result<Bench, Failure> {
        let path = std::fs::canonicalize(binary)?;
        let options =
            ClusterOptions { extra: SMALL_JOURNAL.to_owned(), ..ClusterOptions::new(path, place.to_path_buf()) };
        let cluster = Cluster::start(options).await?;
        for name in [FETCHED, NEIGHBOUR] {
            let request = pb::VolumeCreateRequest {
                name: name.to_owned(),
                size_bytes: SIZE,
                durability: "sync".to_owned(),
                copies: 3,
                quorum: 2,
                primary: cluster.nodes()[0].name().to_owned(),
                ..Default::default()
            };
            cluster.create_volume(request, PATIENCE).await?;
        }
        let binary = binary.display().to_string();
        let bench = Bench { binary, seconds: format!("{seconds}s"), cluster };
        bench.fill()?;
        bench.cluster.wait_in_sync(FETCHED, PATIENCE).await?;
        Ok(bench)
    }

    /// All of the volume that is fetched, so that there is something to fetch.
    fn fill(&self) -> Result<(), Failure> {
        let all = format!("{}MiB", SIZE >> 20);
        let args = ["bench", FETCHED, "--pattern", "read", "--block-size", "1MiB", "--fill", "--region", &all];
        self.holdfast(&[&args[..], &["--rounds", "1", "--duration", "1s", "--yes"]].concat()).map(drop)
    }

    async fn round(&self, neighbour_first: bool) -> Result<Round, Failure> {
        let third = self.cluster.nodes()[2].name().to_owned();
        self.holdfast(&["copy", "remove", FETCHED, &third, "--yes"])?;
        self.cluster.wait_healthy(FETCHED, PATIENCE).await?;
        let without = self.measure(neighbour_first)?;
        self.holdfast(&["copy", "add", FETCHED, &third, "--no-wait"])?;
        let before = self.begun(&third).await?;
        let begin = Instant::now();
        let with = self.measure(neighbour_first)?;
        let after = self.fetched(&third).await.map_err(|found| {
            format!("expected the resync to outlast the measurement, found {found}; measure for fewer seconds")
        })?;
        let fetched = after.saturating_sub(before);
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = (fetched >> 10) as f64 / 1024.0 / begin.elapsed().as_secs_f64();
        self.cluster.wait_copy_healthy(FETCHED, &third, PATIENCE).await?;
        Ok(Round { without, with, rate })
    }

    /// Bytes that the resync has, once it has some.
    async fn begun(&self, node: &str) -> Result<u64, Failure> {
        let begun = self.cluster.wait_for("regions to have come", PATIENCE, async |_| {
            self.fetched(node).await.and_then(|bytes| if bytes > 0 { Ok(bytes) } else { Err("none".to_owned()) })
        });
        Ok(begun.await?)
    }

    async fn fetched(&self, node: &str) -> Result<u64, String> {
        let volume = self.cluster.volume(FETCHED).await?;
        let copy = volume.copies.into_iter().find(|c| c.node == node).ok_or("no copy there")?;
        copy.resync.map(|r| r.done_bytes).ok_or(format!("a copy that is {}", copy.state))
    }

    /// What is measured first meets the beginning of a resync, in every other round.
    fn measure(&self, neighbour_first: bool) -> Result<[Latency; 2], Failure> {
        if neighbour_first {
            let neighbour = self.latency(NEIGHBOUR)?;
            return Ok([self.latency(FETCHED)?, neighbour]);
        }
        Ok([self.latency(FETCHED)?, self.latency(NEIGHBOUR)?])
    }

    fn latency(&self, volume: &str) -> Result<Latency, Failure> {
        let args = ["bench", volume, "--pattern", "randwrite", "--depth", "1", "--region", REGION];
        let rest = ["--rounds", "1", "--warm-up", "500ms", "--duration", &self.seconds, "--yes", "--output", "json"];
        let value: Value = serde_json::from_slice(&self.holdfast(&[&args[..], &rest[..]].concat())?)?;
        let figure = |name: &str| value["targets"][0][name].as_f64().ok_or(format!("no {name} in {value}"));
        Ok(Latency { p50: figure("median_p50_us")?, p99: figure("median_p99_us")? })
    }

    fn holdfast(&self, args: &[&str]) -> Result<Vec<u8>, Failure> {
        let admin = self.cluster.nodes()[0].admin();
        let output = Command::new(&self.binary).arg("--socket").arg(admin).args(args).output()?;
        if !output.status.success() {
            return Err(format!("holdfast {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(output.stdout)
    }
}
