//! What was measured, and on what.

use super::RunArgs;
use super::station::Station;
use crate::table::{self, Measured};
use std::sync::Arc;

/// A round trip between two hosts, in microseconds.
pub(super) struct Trip {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) p50: Option<f64>,
    pub(super) p99: Option<f64>,
    pub(super) lost: u64,
}

/// The whole report in Markdown.
pub(super) fn text(
    args: &RunArgs,
    date: &str,
    stations: &[Arc<Station>],
    trips: &[Trip],
    table: &str,
    done: &[Measured],
) -> String {
    let first = stations.first().map_or("", |station| station.host());
    let mut text = format!("# {date}, commit {}\n\n", args.commit);
    if args.rehearsal {
        text.push_str("A rehearsal: small volumes and rounds of 100 ms; the figures mean nothing.\n\n");
    }
    text.push_str(&format!(
        "{} hosts, mutual TLS, three copies, two must hold a write; {} rounds of {} s, on the primary's host {first} beside a raw file in the same \
         directory. *raw×3* are three such files at once, all on {first}: the other copies have devices of their own here.\n\n",
        stations.len(),
        args.rounds,
        args.seconds,
    ));
    text.push_str(&hosts(stations));
    text.push_str(&network(trips));
    text.push_str(table);
    text.push_str(&spent(args, stations, done));
    text
}

fn hosts(stations: &[Arc<Station>]) -> String {
    let mut text = "| host | address | processors | Linux | device | file system | directory | clock |\n".to_owned();
    text.push_str("| --- | --- | --- | --- | --- | --- | --- | ---: |\n");
    for station in stations {
        let f = &station.facts;
        text.push_str(&format!(
            "| {} ({}) | {} | {} | {} | {} | {} | {} | {:+} s |\n",
            station.host(),
            station.node,
            f.address,
            f.processors,
            f.kernel,
            f.device,
            f.filesystem,
            f.path,
            f.clock
        ));
    }
    for note in stations.iter().filter_map(|station| station.facts.note.as_ref()) {
        text.push_str(&format!("\n{note}.\n"));
    }
    text + "\n"
}

fn network(trips: &[Trip]) -> String {
    let mut text = "| round trip, UDP | p50 | p99 | lost of 100 |\n| --- | ---: | ---: | ---: |\n".to_owned();
    let micros = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |v| format!("{v:.0} µs"));
    for trip in trips {
        text.push_str(&format!(
            "| {} – {} | {} | {} | {} |\n",
            trip.from,
            trip.to,
            micros(trip.p50),
            micros(trip.p99),
            trip.lost
        ));
    }
    text + "\n"
}

/// What each host's own agent spent; one that holds no copy of the volume spent nothing on it.
fn spent(args: &RunArgs, stations: &[Arc<Station>], done: &[Measured]) -> String {
    let [writes, hot] = table::spent(done, &args.pace());
    let mut text =
        "\n| agent of | CPU µs per 4 KiB write, depth 32 | MiB, peak | bytes written per byte, 16 MiB hot |\n"
            .to_owned();
    text.push_str("| --- | ---: | ---: | ---: |\n");
    for ((station, writes), hot) in stations.iter().zip(writes).zip(hot) {
        text.push_str(&format!(
            "| {} ({}) | {:.2} | {:.2} | {:.2} |\n",
            station.host(),
            station.node,
            writes.cpu_us,
            writes.memory / f64::from(1 << 20),
            hot.written
        ));
    }
    text.push_str("\nThe client is in *CPU µs, all processes* alone. An agent is counted over all of its workload, with what it does in the background.\n");
    text
}
