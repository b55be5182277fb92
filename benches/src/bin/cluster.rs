//! Three agents on this machine, every workload next to the raw file system, one row each.
//!
//! usage: cluster HOLDFAST_BINARY DIRECTORY [ROUNDS] [SECONDS]
//!
//! The directory must be on the file system that is to be measured; what is made there is removed. Prints a table in
//! Markdown, and the figures as JSON to `bench.json` in that directory.

use holdfast_benches::table::{self, Failure, Measured, Pace, Place};
use holdfast_cli::harness::{Cluster, ClusterOptions};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

struct Here {
    binary: PathBuf,
    cluster: Cluster,
    raw: PathBuf,
}

impl Place for Here {
    async fn bench(&mut self, args: Vec<String>) -> Result<Measured, Failure> {
        let value = table::bench(&self.binary, self.cluster.nodes()[0].admin(), &self.raw, &args).await?;
        Ok(Measured { args, value, spent: Vec::new() })
    }
}

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [binary, directory, rest @ ..] = &args[..] else {
        return Err("usage: cluster HOLDFAST_BINARY DIRECTORY [ROUNDS] [SECONDS]".into());
    };
    let rounds = rest.first().map_or(Ok(5), |r| r.parse())?;
    let round = Duration::from_secs(rest.get(1).map_or(Ok(5), |s| s.parse())?);
    let pace = Pace { rounds, round, rehearsal: false };
    let place = tempfile::Builder::new().prefix("holdfast-bench-").tempdir_in(directory)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (table, done) = runtime.block_on(async {
        let binary = std::fs::canonicalize(binary)?;
        let cluster = Cluster::start(ClusterOptions::new(binary.clone(), place.path().to_path_buf())).await?;
        table::create_volumes(&cluster, &pace).await?;
        table::measure(&mut Here { binary, cluster, raw: place.path().join("raw") }, &pace).await
    })?;
    print!("{table}");
    let all: Vec<Value> = done.into_iter().map(|measured| measured.value).collect();
    std::fs::write(Path::new(directory).join("bench.json"), serde_json::to_vec_pretty(&all)?)?;
    Ok(())
}
