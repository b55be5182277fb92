//! `holdfast sim what-if`: a year of somebody's cluster, from episodes that the simulator measured.

use super::batch;
use super::report::Progress;
use super::setup::parse_timers;
use crate::args::{Output, WhatIfArgs};
use crate::error::CliError;
use crate::units;
use holdfast_agent::config::parse_size;
use holdfast_sim::{Episode, Episodes, Profile, Setup, Topology, VolumeShape, Year, YearPlan, most_nodes, year};
use holdfast_types::Rng;
use serde_json::{Value, json};
use std::time::Duration;

/// Years that are drawn come from this seed: the same question has the same answer.
const SEED: u64 = 1;

pub(super) fn run(args: &WhatIfArgs, output: Output) -> Result<(), CliError> {
    let plan = plan(args).map_err(CliError::Usage)?;
    let setup = setup(args, &plan).map_err(CliError::Usage)?;
    let episodes = measure(args, &plan, &setup)?;
    let mut rng = Rng::new(SEED);
    let years: Vec<Year> = (0..args.years).map(|_| year(&plan, &episodes, &mut rng)).collect();
    let answer = Answer { args, plan: &plan, episodes: &episodes, years: &years };
    match output {
        Output::Json => println!("{}", answer.json()),
        Output::Table => print!("{}", answer.text()),
    }
    Ok(())
}

fn plan(args: &WhatIfArgs) -> Result<YearPlan, String> {
    let (copies, racks) = (args.copies, args.racks);
    if copies > racks {
        return Err(format!(
            "expected as many racks as copies, each in another rack, found {copies} copies and {racks} racks"
        ));
    }
    for (name, rate) in [
        ("failures-per-node-year", args.failures_per_node_year),
        ("rack-failures-per-year", args.rack_failures_per_year),
        ("repair-hours", args.repair_hours),
    ] {
        if !(0.0..=10_000.0).contains(&rate) {
            return Err(format!("expected --{name} of 0 to 10000, found {rate}"));
        }
    }
    Ok(YearPlan {
        racks,
        nodes_per_rack: args.nodes_per_rack,
        volumes: args.volumes,
        copies,
        write_quorum: args.write_quorum.unwrap_or(copies / 2 + 1),
        volume_bytes: parse_size(&args.size).map_err(|e| format!("--size: {e}"))?,
        failures_per_node_year: args.failures_per_node_year,
        failures_per_rack_year: args.rack_failures_per_year,
        repair_hours: args.repair_hours,
    })
}

/// The world in which episodes are measured: calm, with as many nodes as the simulator takes.
fn setup(args: &WhatIfArgs, plan: &YearPlan) -> Result<Setup, String> {
    let default = Setup::default();
    let shape = VolumeShape { copies: plan.copies, write_quorum: Some(plan.write_quorum) };
    let topology = Topology::new(nodes(plan), vec![shape]).map_err(|e| e.to_string())?;
    Ok(Setup {
        profile: Profile::find("calm").unwrap_or(default.profile),
        topology: Some(topology),
        timing: Some(parse_timers(args.timers.as_deref().unwrap_or_default())?),
        ..default
    })
}

fn nodes(plan: &YearPlan) -> u64 {
    plan.racks * plan.nodes_per_rack.min((most_nodes() / plan.racks).max(1))
}

fn measure(args: &WhatIfArgs, plan: &YearPlan, setup: &Setup) -> Result<Episodes, CliError> {
    let mut episodes = Episodes::default();
    let progress = Progress::measuring(args.samples * 3);
    let sample = |episode| sample(args, setup, episode, &progress);
    // Without one of its copies a volume may have to wait for it: then nobody takes over.
    if plan.copies > plan.needed() {
        episodes.host = sample(Episode::PrimaryHost)?;
        episodes.rack = sample(Episode::PrimaryRack { racks: plan.racks })?;
    }
    episodes.copies_return = sample(Episode::CopiesReturn)?;
    progress.finish();
    Ok(episodes)
}

fn sample(args: &WhatIfArgs, setup: &Setup, episode: Episode, progress: &Progress) -> Result<Vec<Duration>, CliError> {
    let setup = Setup { episode: Some(episode), ..setup.clone() };
    let mut stalls = Vec::new();
    let jobs = batch::jobs(args.jobs);
    let summary = batch::run(0..args.samples, &setup, jobs, false, &mut |_, replay| {
        stalls.extend(replay.stall);
        progress.try_done();
    });
    match summary.failures.first() {
        Some(failure) => Err(CliError::Simulator(format!("{failure} (while {episode:?} was measured)"))),
        None => Ok(stalls),
    }
}

struct Answer<'a> {
    args: &'a WhatIfArgs,
    plan: &'a YearPlan,
    episodes: &'a Episodes,
    years: &'a [Year],
}

impl Answer<'_> {
    fn method(&self) -> String {
        format!(
            "{} failures of each kind were simulated message by message on {} nodes: the code of the daemon decides, disks, \
             network and clocks are simulated with latencies drawn for each. {} years were then drawn and composed of these \
             times: failures are independent, times away exponential with a mean of {} h, copies of a volume in different \
             racks, all hosts vote. Not counted: what a copy that returns must still fetch, a guest's time to attach, planned \
             work, and a failure within the seconds of another one. No copy is made elsewhere while a host is away.",
            self.args.samples,
            nodes(self.plan),
            self.args.years,
            self.plan.repair_hours
        )
    }

    /// Mean of a sum over all volumes, for one volume and year.
    fn each(&self, what: fn(&Year) -> f64) -> f64 {
        self.mean(what) / real(self.plan.volumes)
    }

    fn mean(&self, what: fn(&Year) -> f64) -> f64 {
        self.years.iter().map(what).sum::<f64>() / real(self.years.len() as u64)
    }

    /// How far the mean stall may be off because only so many years were drawn: what seldom happens lasts long.
    fn stalled_error(&self) -> f64 {
        let (mean, years) = (self.mean(Year::stalled), real(self.years.len() as u64));
        let variance = self.years.iter().map(|y| (y.stalled() - mean).powi(2)).sum::<f64>() / years;
        (variance / years).sqrt() / real(self.plan.volumes)
    }

    fn undisturbed(&self) -> f64 {
        self.each(|y| real(y.undisturbed)) * 100.0
    }

    fn worst(&self) -> f64 {
        let worst: Vec<f64> = self.years.iter().map(|y| y.worst_volume).collect();
        quantile(worst, 0.99)
    }

    fn kinds(&self) -> [(&'static str, &[Duration]); 3] {
        let e = self.episodes;
        [
            ("primary's host fails", &e.host),
            ("primary's rack fails", &e.rack),
            ("too few copies, one returns", &e.copies_return),
        ]
    }

    fn text(&self) -> String {
        let mut text = String::from("From failure to service, measured       median      p99  longest\n");
        for (name, times) in self.kinds().into_iter().filter(|(_, times)| !times.is_empty()) {
            let s = seconds(times);
            let (median, p99, longest) = (quantile(s.clone(), 0.5), quantile(s.clone(), 0.99), quantile(s, 1.0));
            text.push_str(&format!("  {name:<36} {median:>6.2} s {p99:>6.2} s {longest:>6.2} s\n"));
        }
        let exposed = self.mean(|y| y.exposed_byte_seconds);
        let day = real(1 << 40) * 86_400.0;
        let rows = [
            ("I/O stands still, all causes", time(self.each(Year::stalled))),
            ("  standard error of that", time(self.stalled_error())),
            ("  until another copy takes over: host", time(self.each(|y| y.stalled_host))),
            ("  until another copy takes over: rack", time(self.each(|y| y.stalled_rack))),
            ("  too few copies or voters are there", time(self.each(|y| y.stalled_copies))),
            ("Primaries that fail over", format!("{:.2}", self.each(|y| real(y.failovers)))),
            ("Below the promised copies", time(self.each(|y| y.below_copies))),
        ];
        text.push_str("One volume in a year, mean\n");
        for (name, value) in rows {
            text.push_str(&format!("  {name:<40} {value:>14}\n"));
        }
        let size = units::bytes(self.plan.volume_bytes);
        text.push_str(&format!("All {} volumes of {size} in a year\n", self.plan.volumes));
        let rows = [
            ("Exposed: bytes x time below the copies", format!("{:.2} TiB x d", exposed / day)),
            ("Volumes whose I/O never stood still", format!("{:.1} %", self.undisturbed())),
            ("Worst volume, in 99 of 100 years below", time(self.worst())),
        ];
        for (name, value) in rows {
            text.push_str(&format!("  {name:<40} {value:>14}\n"));
        }
        text.push_str(&format!("Method: {}\n", self.method()));
        text
    }

    fn json(&self) -> Value {
        let episodes: serde_json::Map<String, Value> = ["host", "rack", "copies_return"]
            .into_iter()
            .zip(self.kinds())
            .filter(|(_, (_, times))| !times.is_empty())
            .map(|(key, (_, times))| {
                let s = seconds(times);
                let (median, p99, longest) = (quantile(s.clone(), 0.5), quantile(s.clone(), 0.99), quantile(s, 1.0));
                let samples = times.len();
                (key.to_owned(), json!({ "samples": samples, "median_s": median, "p99_s": p99, "max_s": longest }))
            })
            .collect();
        json!({
            "episodes": episodes,
            "years": self.years.len(),
            "volume_year": {
                "stalled_s": self.each(Year::stalled),
                "stalled_standard_error_s": self.stalled_error(),
                "stalled_host_s": self.each(|y| y.stalled_host),
                "stalled_rack_s": self.each(|y| y.stalled_rack),
                "stalled_copies_s": self.each(|y| y.stalled_copies),
                "failovers": self.each(|y| real(y.failovers)),
                "below_copies_s": self.each(|y| y.below_copies),
            },
            "cluster_year": {
                "exposed_byte_seconds": self.mean(|y| y.exposed_byte_seconds),
                "undisturbed_percent": self.undisturbed(),
                "worst_volume_p99_s": self.worst(),
            },
            "method": self.method(),
        })
    }
}

#[cfg(test)]
pub(super) fn example() -> Value {
    use clap::Parser;
    let cli = crate::args::Cli::try_parse_from(["holdfast", "sim", "what-if"]).expect("a good line");
    let crate::args::Command::Sim(sim) = cli.command else { panic!("expected sim") };
    let Some(crate::args::SimCommand::WhatIf(args)) = sim.command else { panic!("expected what-if") };
    let plan = plan(&args).expect("the defaults make sense");
    let times = vec![Duration::from_secs(1)];
    let episodes = Episodes { host: times.clone(), rack: times.clone(), copies_return: times };
    Answer { args: &args, plan: &plan, episodes: &episodes, years: &[Year::default()] }.json()
}

fn seconds(times: &[Duration]) -> Vec<f64> {
    times.iter().map(Duration::as_secs_f64).collect()
}

fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = values.iter().enumerate().find(|(i, _)| real(*i as u64 + 1) >= share * real(values.len() as u64));
    at.map_or(0.0, |(_, v)| *v)
}

/// `3.2 s`, `4.1 min`, `12.0 h`.
fn time(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.2} s"),
        s if s < 7200.0 => format!("{:.1} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

#[expect(clippy::cast_precision_loss, reason = "statistics")]
const fn real(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_there() {
        let values: Vec<f64> = [4, 1, 3, 2].map(f64::from).to_vec();
        assert_eq!(quantile(values.clone(), 0.5), 2.0);
        assert_eq!(quantile(values, 0.99), 4.0);
        assert_eq!(quantile(Vec::new(), 0.5), 0.0);
    }

    #[test]
    fn times_are_told_in_their_unit() {
        assert_eq!([time(1.234), time(150.0), time(7200.0)], ["1.23 s", "2.5 min", "2.0 h"]);
    }
}
