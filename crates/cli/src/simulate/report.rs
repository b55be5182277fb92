//! What is said while seeds run, and about what they came to.

use crate::args::{Output, SimArgs};
use crate::units;
use holdfast_sim::{FaultKind, Setup, Shrunk, Summary};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::cell::Cell;
use std::fmt::Write;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Where nobody watches a bar, a line says now and then how far it is.
const LINE_EVERY: Duration = Duration::from_secs(20);

/// How far it is: a bar on a terminal, else a line now and then.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    count: u64,
    start: Instant,
    said: Cell<Instant>,
}

impl Progress {
    pub(super) fn new(count: u64) -> Progress {
        Progress::styled(count, "[{bar:30.cyan/dim}] {pos} of {len} seeds, {per_sec}, {eta} left{msg}")
    }

    /// Of a search whose length nobody knows.
    pub(super) fn shrinking(seed: u64) -> Progress {
        Progress::styled(0, &format!("{{spinner:.cyan}} shrinking what makes seed {seed} fail: {{pos}} worlds tried"))
    }

    pub(super) fn measuring(count: u64) -> Progress {
        Progress::styled(count, "[{bar:30.cyan/dim}] {pos} of {len} failures measured, {eta} left")
    }

    fn styled(count: u64, template: &str) -> Progress {
        let style = || ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = std::io::stderr().is_terminal().then(|| ProgressBar::new(count).with_style(style()));
        let start = Instant::now();
        Progress { bar, count, start, said: Cell::new(start) }
    }

    pub(super) fn seed_done(&self, summary: &Summary) {
        if let Some(bar) = &self.bar {
            bar.set_position(summary.seeds);
            if !summary.failures.is_empty() {
                bar.set_message(format!(", {} failed", summary.failures.len()));
            }
        } else if self.said.get().elapsed() >= LINE_EVERY {
            self.said.set(Instant::now());
            let rate = per_second(summary.seeds, self.start.elapsed());
            let failed = summary.failures.len();
            eprintln!("{} of {} seeds, {rate:.1} a second, {failed} failed", summary.seeds, self.count);
        }
    }

    pub(super) fn try_done(&self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// What a run came to.
pub(super) struct Outcome<'a> {
    pub(super) args: &'a SimArgs,
    pub(super) setup: &'a Setup,
    pub(super) summary: &'a Summary,
    pub(super) took: Duration,
    /// The first failure, shrunk.
    pub(super) shrunk: Option<Shrunk>,
    /// What was not tested.
    pub(super) gap: Option<String>,
}

impl Outcome<'_> {
    /// The report; on stdout for people. Programs get one line there, and people the rest on stderr.
    pub(super) fn tell(&self, output: Output) {
        if self.args.hash {
            println!("{:016x}", self.summary.hash);
            return;
        }
        let text = self.text();
        match output {
            Output::Table => print!("{text}"),
            Output::Json => {
                if !self.summary.failures.is_empty() {
                    eprint!("{text}");
                }
                println!("{}", self.json());
            }
        }
    }

    /// Why it is a failure, if it is one.
    pub(super) fn sentence(&self) -> Option<String> {
        let (seeds, failed) = (self.summary.seeds, self.summary.failures.len());
        match self.summary.failures.first() {
            Some(first) => {
                let again = self.replay_command(first.seed, self.shrunk.as_ref());
                Some(format!("{failed} of {seeds} seeds failed, first {}; see it: {again}", brief(&first.to_string())))
            }
            None => self.gap.clone(),
        }
    }

    fn text(&self) -> String {
        let summary = self.summary;
        let mut text = String::new();
        for failure in &summary.failures {
            line(&mut text, &brief(&failure.to_string()));
        }
        if let Some(first) = summary.failures.first() {
            self.tell_first(&mut text, first.seed);
        }
        let held = match summary.failures.len() {
            0 => "every property held".to_owned(),
            failed => format!("{failed} failed"),
        };
        line(
            &mut text,
            &format!(
                "{} seeds, {held}: {} changes acknowledged, {} reads checked, {} epochs of volumes and {} terms of the control \
                 plane, {} faults injected, {} \
                 simulated in {}, {:.1} seeds a second",
                units::count(summary.seeds),
                units::count(summary.acked),
                units::count(summary.reads),
                units::count(summary.epochs),
                units::count(summary.terms),
                units::count(summary.faults.values().sum()),
                units::duration(Duration::from_millis(summary.virtual_ms)),
                units::duration(self.took),
                per_second(summary.seeds, self.took),
            ),
        );
        text
    }

    /// The first failure: what is left of it, its last events, how to see all of them.
    fn tell_first(&self, text: &mut String, seed: u64) {
        let mut setup = self.setup.clone();
        if let Some(s) = &self.shrunk {
            setup.cuts = s.cuts.clone();
            let seconds = |ms: u64| units::duration(Duration::from_millis(ms));
            let (before, after) = (s.before, s.after);
            line(
                text,
                &format!(
                    "seed {seed} in less, found in {} worlds: {} faults of {}, {} of {}, {} events of {}: {}",
                    s.tries,
                    s.faults,
                    before.fault_events,
                    seconds(after.virtual_ms),
                    seconds(before.virtual_ms),
                    units::count(after.events),
                    units::count(before.events),
                    s.text
                ),
            );
        }
        line(text, "its last events:");
        for event in holdfast_sim::play(seed, &setup, true).last_events() {
            line(text, &format!("  {event}"));
        }
        line(text, &format!("all of them: {}", self.replay_command(seed, self.shrunk.as_ref())));
        line(text, &format!("the whole seed: {}", self.replay_command(seed, None)));
    }

    fn replay_command(&self, seed: u64, shrunk: Option<&Shrunk>) -> String {
        let mut command = format!("holdfast sim --seed {seed}");
        let topology = self.args.topology.as_ref().map(|path| path.display().to_string());
        let chosen = [
            ("--profile", self.args.profile.clone()),
            ("--topology", topology),
            ("--timers", self.args.timers.clone()),
            ("--shrink", shrunk.map(|s| s.cuts.to_string())),
        ];
        for (name, value) in chosen {
            if let Some(value) = value {
                command.push_str(&format!(" {name} {value}"));
            }
        }
        command.push_str(" --trace");
        command
    }

    fn json(&self) -> serde_json::Value {
        let summary = self.summary;
        let faults: serde_json::Map<String, serde_json::Value> = FaultKind::ALL
            .iter()
            .map(|kind| (kind.name().to_owned(), json!(summary.faults.get(kind).copied().unwrap_or(0))))
            .collect();
        let failed: Vec<_> = summary
            .failures
            .iter()
            .map(|f| json!({ "seed": f.seed, "property": f.property, "text": f.text }))
            .collect();
        json!({
            "seeds": summary.seeds,
            "failures": summary.failures.len(),
            "first_failure": summary.failures.first().map(|f| f.seed),
            "simulated_hours": (hours(summary) * 1000.0).round() / 1000.0,
            "seeds_per_second": (per_second(summary.seeds, self.took) * 10.0).round() / 10.0,
            "faults": faults,
            "events": summary.events,
            "acknowledged": summary.acked,
            "reads": summary.reads,
            "epochs": summary.epochs,
            "terms": summary.terms,
            "hash": format!("{:016x}", summary.hash),
            "failed": failed,
            "shrunk": self.shrunk.as_ref().map(|s| s.cuts.to_string()),
            "gap": self.gap,
        })
    }
}

#[cfg(test)]
pub(super) fn example() -> serde_json::Value {
    use clap::Parser;
    let cli = crate::args::Cli::try_parse_from(["holdfast", "sim"]).expect("a good line");
    let crate::args::Command::Sim(args) = cli.command else { panic!("expected sim") };
    let setup = Setup::default();
    let mut summary = super::batch::run(0..1, &setup, 1, false, &mut |_, _| {});
    summary.failures.push(holdfast_sim::Failure { seed: 1, property: "S1", text: "a sentence".to_owned() });
    let gap = Some("a sentence".to_owned());
    let took = Duration::from_secs(1);
    Outcome { args: &args, setup: &setup, summary: &summary, took, shrunk: None, gap }.json()
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a string takes any text");
}

/// The start of a long text: what is after it describes the state of every copy.
fn brief(text: &str) -> String {
    const MOST: usize = 300;
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}..", &text[..at]),
        None => text.to_owned(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn hours(summary: &Summary) -> f64 {
    summary.virtual_ms as f64 / 3_600_000.0
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn per_second(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64().max(0.001)
}

#[cfg(test)]
mod tests {
    use super::super::batch;
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;
    use holdfast_sim::Mutant;

    #[test]
    fn a_failure_is_told_with_a_command_that_replays_it() {
        let line = "holdfast sim --seeds 8 --profile disks --timers lease=1s";
        let cli = Cli::try_parse_from(line.split(' ')).expect("a good line");
        let Command::Sim(args) = cli.command else { panic!("{line} is not sim") };
        let setup = Setup { mutant: Some(Mutant::EarlyAnswers), ..Setup::default() };
        let summary = batch::run(0..8, &setup, 1, false, &mut |_, _| {});
        let seed = summary.failures.first().expect("the mutant is caught").seed;
        let mut tries = 0..20;
        let shrunk = holdfast_sim::shrink(seed, &setup, &mut || tries.next().is_some()).expect("it failed before");
        let key = shrunk.cuts.to_string();
        let took = Duration::from_secs(1);
        let outcome = Outcome { args: &args, setup: &setup, summary: &summary, took, shrunk: Some(shrunk), gap: None };
        let command = format!("holdfast sim --seed {seed} --profile disks --timers lease=1s --shrink {key} --trace");
        assert!(outcome.text().contains(&command), "expected {command} in {}", outcome.text());
        assert!(outcome.sentence().expect("it failed").ends_with(&command));
        let json = outcome.json();
        assert_eq!((&json["failures"], &json["first_failure"]), (&json!(1), &json!(seed)));
        assert!(json["faults"]["crash-in-recovery"].is_number(), "{json}");
    }
}
