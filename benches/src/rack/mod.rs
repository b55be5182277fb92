//! The table of workloads on hosts that are reached by ssh: a cluster of its own on each of them, for as long as it is measured.
//!
//! ```text
//! here: story ──> station ──ssh──> there: host ──> udp      can the hosts' agents talk to each other?
//!        │         (one a host)             ├────> harness  an agent
//!        └──> table                         └────> table    `holdfast bench`, on the first host
//! ```
//! A request is a line of JSON, as is its answer. The same program runs at both ends.
//!
//! Invariants: what can be refused is refused before a host is changed. On a host everything is in one new directory. The program
//! there ends its agent and removes that directory when it is told to, when the line is closed, or when it has heard nothing for
//! [`SILENCE`]: whatever happens here, or on the way, leaves nothing there. From here whatever runs out of that directory is ended once more
//! where that program does not answer.
//!
//! Deliberately absent: passwords (ssh is to reach the hosts without), and an installed agent, which is not touched.

mod facts;
mod host;
mod report;
mod ssh;
mod station;
mod story;
mod udp;

#[cfg(test)]
mod tests;

use clap::{Parser, Subcommand};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Between two signs of life.
const SIGN: Duration = Duration::from_secs(5);
/// After so long a host takes it that nobody is there any more.
const SILENCE: Duration = Duration::from_secs(30);

/// One sentence for each thing that is wrong.
type Sentence = String;

#[derive(Debug, Parser)]
#[command(name = "rack")]
struct Args {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Measures.
    Run(RunArgs),
    /// The other end, on each host.
    Host {
        /// All that is there is removed in the end.
        dir: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// Where `holdfast` and this program are.
    #[arg(long)]
    binaries: PathBuf,
    /// What the binaries were built from.
    #[arg(long, default_value = "unknown")]
    commit: String,
    /// When.
    #[arg(long, default_value = "Today")]
    date: String,
    /// On the device that is to be measured, on each host.
    #[arg(long, default_value = "/var/tmp")]
    dir: String,
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// UDP, and the next one.
    #[arg(long, default_value_t = 7460, value_parser = clap::value_parser!(u16).range(1..65535))]
    port: u16,
    #[arg(long)]
    out: PathBuf,
    /// The program that reaches hosts, and its first arguments.
    #[arg(long, default_value = "ssh")]
    ssh: String,
    /// Small volumes, no time: shows that everything works, and measures nothing.
    #[arg(long)]
    rehearsal: bool,
    #[arg(required = true, value_parser = target)]
    hosts: Vec<Target>,
}

/// A host as it was named.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    /// As ssh knows it.
    name: String,
    /// Where the other hosts find it; if not said, where ssh did.
    address: Option<IpAddr>,
}

/// `HOST`, or `HOST=ADDRESS`.
fn target(text: &str) -> Result<Target, Sentence> {
    let (name, address) = text.split_once('=').map_or((text, None), |(name, address)| (name, Some(address)));
    // To ssh a name with a dash before it is an option.
    if name.is_empty() || name.starts_with('-') || name.contains(char::is_whitespace) {
        return Err(format!("expected a host as ssh knows it, or HOST=ADDRESS, found {text:?}"));
    }
    let parse = |address: &str| {
        let found = |_| {
            format!(
                "expected the address that the other hosts reach {name} at, as in {name}=10.0.0.1, found {address:?}"
            )
        };
        address.parse().map_err(found)
    };
    Ok(Target { name: name.to_owned(), address: address.map(parse).transpose()? })
}

/// What the program `rack` does.
#[must_use]
pub fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime of one thread");
    let done = match args.part {
        Part::Run(args) => runtime.block_on(story::run(&args)),
        Part::Host { dir } => runtime.block_on(host::serve(&dir)),
    };
    // A thread may be waiting for a line that never comes.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            for line in sentence.lines() {
                eprintln!("rack-bench: {line}");
            }
            ExitCode::FAILURE
        }
    }
}
