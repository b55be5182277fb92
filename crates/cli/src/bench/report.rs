//! The figures, for people and for programs.

use super::About;
use super::plan::Plan;
use super::sample::{Figure, Sample, Series};
use crate::output::Rows;
use crate::units;
use serde_json::{Value, json};

/// Quantiles of every report.
pub(crate) const QUANTILES: [(&str, f64); 5] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)];

/// Figures that are compared with the raw file's.
const RATIOS: [(&str, Figure); 4] =
    [("p50", |s| s.micros(0.5)), ("p99", |s| s.micros(0.99)), ("iops", Sample::iops), ("mb_per_s", Sample::mb_per_s)];

/// What was measured.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// The volumes first, then the raw files.
    pub(crate) series: Vec<Series>,
    pub(crate) about: About,
    pub(crate) agents: usize,
    pub(crate) peak_memory: Option<u64>,
}

impl Outcome {
    /// Reads that did not return what had been written.
    pub(crate) fn mismatches(&self) -> u64 {
        self.series.iter().flat_map(|s| &s.samples).map(|s| s.mismatches).sum()
    }
}

pub(crate) fn json(plan: &Plan, outcome: &Outcome) -> Value {
    let subject = &outcome.series[0];
    let targets: Vec<Value> = outcome.series.iter().map(target).collect();
    let ratios: serde_json::Map<String, Value> = outcome.series[1..]
        .iter()
        .map(|raw| {
            let of = RATIOS.iter().map(|(name, figure)| ((*name).to_owned(), number(subject.ratio(raw, *figure))));
            (raw.name.clone(), Value::Object(of.collect()))
        })
        .collect();
    json!({
        "pattern": plan.pattern.name(), "block_size": plan.block, "depth": plan.depth, "connections": plan.connections,
        "fua": plan.fua, "flush_every": plan.flush_every, "region": plan.region,
        "warm_up_seconds": plan.warm_up.as_secs_f64(), "duration_seconds": plan.duration.as_secs_f64(),
        "rounds": plan.rounds, "about": outcome.about.text, "copies": outcome.about.copies,
        "written_per_byte_and_copy": amplification(plan, outcome).map(number), "agents_on_this_machine": outcome.agents,
        "agent_peak_memory_bytes": outcome.peak_memory, "targets": targets, "ratio_to": ratios,
    })
}

fn target(series: &Series) -> Value {
    let whole = series.whole();
    let latencies: serde_json::Map<String, Value> =
        QUANTILES.iter().map(|(name, q)| ((*name).to_owned(), number(whole.micros(*q)))).collect();
    json!({
        "name": series.name, "iops": number(series.median(Sample::iops)),
        "mb_per_s": number(series.median(Sample::mb_per_s)),
        "median_p50_us": number(series.median(|s| s.micros(0.5))), "median_p99_us": number(series.median(|s| s.micros(0.99))),
        "latency_us": latencies, "max_us": number(whole.micros(1.0)),
        "cpu_us_per_op": series.cpu_micros().map(number), "operations": whole.ops(), "mismatches": whole.mismatches,
    })
}

/// Bytes that each copy writes for a byte that the guest writes, if all copies are on this machine.
fn amplification(plan: &Plan, outcome: &Outcome) -> Option<f64> {
    let copies = outcome.about.copies.filter(|copies| outcome.agents as u64 >= *copies)?;
    let only_writes = plan.pattern.writes() && !plan.pattern.reads();
    only_writes.then(|| outcome.series[0].amplification()).flatten().map(|a| a / super::sample::as_f64(copies))
}

/// Rounded, so that nobody takes noise for digits.
fn number(value: f64) -> Value {
    if value.is_finite() { json!((value * 1000.0).round() / 1000.0) } else { Value::Null }
}

pub(crate) fn text(plan: &Plan, outcome: &Outcome) -> String {
    let mut head = vec!["", "IOPS", "MB/s"];
    head.extend(QUANTILES.iter().map(|(name, _)| *name));
    head.extend(["max", "CPU"]);
    let mut table = Rows::new(&head);
    for series in &outcome.series {
        let whole = series.whole();
        let mut row =
            vec![series.name.clone(), short(series.median(Sample::iops)), short(series.median(Sample::mb_per_s))];
        row.extend(QUANTILES.iter().map(|(_, q)| short(whole.micros(*q))));
        row.push(short(whole.micros(1.0)));
        row.push(series.cpu_micros().map_or_else(String::new, short));
        table.add(row);
    }
    let mut text = format!("{}\n\n{table}\n", headline(plan, outcome));
    text.push_str("IOPS and MB/s: medians of the rounds. Latencies in µs, over all rounds. ");
    text.push_str("CPU: µs of all processes for each request.\n");
    let subject = &outcome.series[0];
    for raw in &outcome.series[1..] {
        let of = RATIOS.iter().map(|(name, figure)| format!("{name} {:.2}", subject.ratio(raw, *figure)));
        text.push_str(&format!("× {}: {}\n", raw.name, of.collect::<Vec<_>>().join(", ")));
    }
    if let Some(peak) = outcome.peak_memory {
        text.push_str(&format!(
            "{} agents on this machine, at most {} of memory each\n",
            outcome.agents,
            units::bytes(peak)
        ));
    }
    if let Some(amplification) = amplification(plan, outcome) {
        text.push_str(&format!("each copy wrote {amplification:.2} bytes for a byte of the guest\n"));
    }
    let mismatches = outcome.mismatches();
    if mismatches > 0 {
        text.push_str(&format!("{mismatches} reads did not return what had been written\n"));
    }
    text
}

fn headline(plan: &Plan, outcome: &Outcome) -> String {
    let mut text = format!(
        "{} of {}, depth {}, {} connection(s) a volume, {} rounds of {}",
        plan.pattern.name(),
        units::bytes(u64::from(plan.block)),
        plan.depth,
        plan.connections,
        plan.rounds,
        units::duration(plan.duration)
    );
    if plan.fua {
        text.push_str(", FUA");
    }
    if plan.flush_every > 0 {
        text.push_str(&format!(", a flush every {} writes", plan.flush_every));
    }
    if !outcome.about.text.is_empty() {
        text.push('\n');
        text.push_str(&outcome.about.text);
    }
    text
}

#[cfg(test)]
pub(super) fn example(name: &str) -> (Plan, Outcome) {
    use clap::Parser;
    let cli = crate::args::Cli::try_parse_from(["holdfast", "bench", "vm1"]).expect("a good line");
    let crate::args::Command::Bench(args) = cli.command else { panic!("expected bench") };
    let second = std::time::Duration::from_secs(1);
    let mut sample = Sample { bytes: 4096, elapsed: second, cpu: Some(second), written: Some(1), ..Sample::new() };
    sample.note(second, 4096);
    let series = [name, "raw"].map(|name| Series { name: name.to_owned(), samples: vec![sample.clone()] });
    let about = About { text: "a sentence".to_owned(), copies: Some(3), smallest: None };
    let outcome = Outcome { series: series.into(), about, agents: 3, peak_memory: Some(1) };
    (Plan::new(&args).expect("the defaults make sense"), outcome)
}

/// Three digits at least.
fn short(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}
