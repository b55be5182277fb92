//! `bench-journal [--dir D] [--rounds N] [--writes N] [--recovery-mib N] [--output table|json]`

use clap::{Parser, ValueEnum};
use holdfast_benches::journal::{Amount, run};
use std::path::PathBuf;

/// The journal against raw durable writes on the same file system, in turns.
#[derive(Debug, Parser)]
struct Args {
    /// Where to write: on the device in question; it needs about 2.5 GiB.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Rounds; the figures are medians of the rounds.
    #[arg(long, default_value_t = 7)]
    rounds: u64,
    /// Writes in a round.
    #[arg(long, default_value_t = 2000)]
    writes: u64,
    /// MiB of journal that a start reads.
    #[arg(long, default_value_t = 1024)]
    recovery_mib: u64,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Table,
    Json,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let dir = tempfile::Builder::new().prefix("bench-journal-").tempdir_in(&args.dir)?;
    let amount = Amount {
        rounds: args.rounds.max(1),
        writes: args.writes.max(32),
        recovery_bytes: args.recovery_mib.max(1) << 20,
    };
    let rows = run(dir.path(), amount)?;
    match args.output {
        Output::Json => {
            println!("{}", serde_json::Value::Array(rows.iter().map(holdfast_benches::journal::Row::json).collect()));
        }
        Output::Table => {
            for row in rows {
                let raw = row.raw.map_or("-".into(), |raw| format!("{raw:.1}"));
                let ratio = row.ratio().map_or("-".into(), |ratio| format!("{ratio:.2}"));
                let verdict = if row.reached { "reached" } else { "missed" };
                println!(
                    "{:30} raw {raw:>10}  holdfast {:>10.1} {:5} ratio {ratio:>6}  {} ({verdict})",
                    row.name, row.holdfast, row.unit, row.goal
                );
            }
        }
    }
    Ok(())
}
