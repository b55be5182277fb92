//! A sample in lines, none wider than the screen. What needs somebody comes first.

use super::sample::{Answers, Rates, Sample, real};
use crate::output::screen::{Tone, paint};
use crate::output::{Rows, cut};
use crate::units;
use holdfast_agent::admin::pb;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// What is unsafe, as far as there is room; all of it is in `holdfast status`.
const DANGERS: usize = 5;
/// Volumes that are always shown, if there are so many.
const LEAST: usize = 3;

/// In so many columns, and in so many lines if it is for a terminal.
pub(super) fn text(sample: &Sample, columns: usize, lines: Option<usize>) -> String {
    let head = head(sample, columns);
    let nodes = nodes(&sample.status);
    let tail = tail(sample, columns);
    let used = head.lines().count() + nodes.lines().count() + tail.lines().count();
    // Three blank lines, two of the table's head, one of how many more there are.
    let room = lines.map_or(usize::MAX, |lines| lines.saturating_sub(used + 6).max(LEAST));
    let mut out = format!("{head}\n{nodes}\n\n{}", volumes(sample, columns, room));
    out += &tail;
    match lines {
        None => out,
        Some(lines) => out.lines().take(lines).fold(String::new(), |text, line| text + line + "\n"),
    }
}

fn head(sample: &Sample, columns: usize) -> String {
    let status = &sample.status;
    let leader = if status.leader.is_empty() { "none" } else { &status.leader };
    let time = units::time(sample.unix_ms);
    let time = time.split('.').next().unwrap_or_default();
    let (name, over) = (&status.answered_by, units::duration(Duration::from_secs_f64(sample.seconds.max(0.0))));
    let first = format!("{time} UTC, over {over}, told by {name}, leader {leader}, cluster {}", status.cluster);
    let mut out = cut(&first, columns) + "\n" + &cut(&summary(status), columns) + "\n";
    let of_volume = |v: &pb::Volume| v.r#unsafe.iter().map(|text| format!("{}: {text}", v.name)).collect::<Vec<_>>();
    let dangers: Vec<String> =
        status.r#unsafe.iter().cloned().chain(status.volumes.iter().flat_map(of_volume)).collect();
    for danger in dangers.iter().take(DANGERS) {
        let _ = writeln!(out, "{} {}", paint("UNSAFE", Tone::Bad), cut(danger, columns.saturating_sub(7)));
    }
    if dangers.len() > DANGERS {
        let _ = writeln!(out, "{} more; see: holdfast status", dangers.len() - DANGERS);
    }
    out
}

/// `3 nodes: 3 up. 2 volumes: 1 healthy, 1 degraded.`
fn summary(status: &pb::StatusResponse) -> String {
    let counted = |states: Vec<&str>, what: &str| {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for state in &states {
            *counts.entry(state).or_default() += 1;
        }
        let counts: Vec<String> = counts.into_iter().map(|(state, count)| format!("{count} {state}")).collect();
        match states.len() {
            0 => format!("no {what}s."),
            1 => format!("1 {what}: {}.", counts.join(", ")),
            many => format!("{many} {what}s: {}.", counts.join(", ")),
        }
    };
    let nodes = counted(status.nodes.iter().map(|n| n.state.as_str()).collect(), "node");
    let volumes = counted(status.volumes.iter().map(|v| v.state.as_str()).collect(), "volume");
    format!("{nodes} {volumes}")
}

fn nodes(status: &pb::StatusResponse) -> String {
    let mut rows = Rows::new(&["node", "state", "raft", "copies", "leads", "free"]);
    for node in &status.nodes {
        let free = node.free_bytes.map_or_else(|| "-".to_owned(), units::bytes);
        let (copies, primaries) = (node.copies.to_string(), node.primaries.to_string());
        let raft = if node.leader {
            "leader"
        } else if node.voter {
            "voter"
        } else {
            "-"
        };
        rows.add([node.name.clone(), node.state.clone(), raft.to_owned(), copies, primaries, free]);
    }
    rows.to_string()
}

fn volumes(sample: &Sample, columns: usize, room: usize) -> String {
    let status = &sample.status;
    if status.volumes.is_empty() {
        return String::new();
    }
    let mut sorted: Vec<&pb::Volume> = status.volumes.iter().collect();
    let busy = |v: &pb::Volume| sample.rates.get(&v.name).map_or(0.0, Rates::requests);
    let well = |v: &pb::Volume| Tone::of(&v.state) == Tone::Good;
    sorted.sort_by(|a, b| well(a).cmp(&well(b)).then(busy(b).total_cmp(&busy(a))).then(a.name.cmp(&b.name)));
    let head = ["volume", "state", "primary", "IOPS r/w", "MiB/s r/w", "p50 ms", "p99 ms", "behind"];
    let mut rows = Rows::new(&head);
    for volume in sorted.iter().take(room) {
        let primary = if volume.primary.is_empty() { "-" } else { &volume.primary };
        let rates = sample.rates.get(&volume.name);
        let [iops, bytes, p50, p99] = rates.map_or_else(|| ["-"; 4].map(str::to_owned), figures);
        rows.add([&volume.name, &volume.state, primary, &iops, &bytes, &p50, &p99, &behind(volume, rates)]);
    }
    let mut out = format!("{rows}\n");
    if sorted.len() > room {
        let _ = writeln!(out, "{} more volumes; see: holdfast volume list", sorted.len() - room);
    }
    let elsewhere = status.volumes.iter().filter(|v| !v.primary.is_empty() && v.primary != status.answered_by).count();
    if elsewhere > 0 {
        let note = format!("figures of {elsewhere} volumes that other nodes lead: holdfast top there");
        let _ = writeln!(out, "{}", cut(&note, columns));
    }
    out
}

impl Rates {
    fn requests(&self) -> f64 {
        [&self.reads, &self.writes, &self.flushes, &self.discards].iter().map(|kind| kind.per_second).sum()
    }
}

/// IOPS, MiB/s, and two percentiles, each of reads and of writes.
fn figures(rates: &Rates) -> [String; 4] {
    const MIB: f64 = 1_048_576.0;
    let both = |of: fn(&Answers) -> Option<f64>| {
        let one = |kind| of(kind).map_or_else(|| "-".to_owned(), short);
        format!("{}/{}", one(&rates.reads), one(&rates.writes))
    };
    [both(|a| Some(a.per_second)), both(|a| Some(a.bytes / MIB)), both(|a| a.p50), both(|a| a.p99)]
}

/// Of the copy that lags most; what the primary measures, if it is the one that answers.
fn behind(volume: &pb::Volume, rates: Option<&Rates>) -> String {
    match rates.and_then(Rates::behind) {
        Some((0, 0)) => "0".to_owned(),
        Some((_, age)) if age >= 1_000_000_000 => units::duration(Duration::from_nanos(age)),
        Some((bytes, _)) => units::bytes(bytes),
        None => match volume.copies.iter().filter_map(|c| c.lag_lsn).max() {
            None => "-".to_owned(),
            Some(0) => "0".to_owned(),
            Some(records) => format!("{} rec", short(real(records))),
        },
    }
}

/// Two or three digits: `0`, `0.12`, `1.2`, `123`, `12k`, `1.2M`.
fn short(value: f64) -> String {
    match value {
        v if v < 0.005 => "0".to_owned(),
        v if v < 1.0 => format!("{v:.2}"),
        v if v < 9.95 => format!("{v:.1}"),
        v if v < 9_999.5 => format!("{v:.0}"),
        v if v < 999_500.0 => format!("{:.0}k", v / 1e3),
        v => format!("{:.1}M", v / 1e6),
    }
}

fn tail(sample: &Sample, columns: usize) -> String {
    let mut out = String::new();
    let [journal, bound] = sample.journal;
    if bound > 0 {
        let oldest = units::duration(Duration::from_nanos(sample.disk_oldest_ns));
        let line = format!(
            "journal {} of {}; disk: {} in flight, the oldest for {oldest}",
            units::bytes(journal),
            units::bytes(bound),
            sample.disk_in_flight
        );
        let _ = writeln!(out, "{}", cut(&line, columns));
    }
    for event in &sample.events {
        let time = units::time(event.unix_ms);
        let time = time.get(11..19).unwrap_or_default();
        let about = if event.volume.is_empty() { String::new() } else { format!("{}: ", event.volume) };
        let _ = writeln!(out, "{}", cut(&format!("{time} {about}{}", event.message), columns));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str, state: &str, primary: &str) -> pb::Volume {
        pb::Volume {
            name: name.to_owned(),
            state: state.to_owned(),
            primary: primary.to_owned(),
            r#unsafe: if state == "healthy" { Vec::new() } else { vec!["a sentence ".repeat(20)] },
            ..pb::Volume::default()
        }
    }

    fn sample(volumes: Vec<pb::Volume>) -> Sample {
        let node = pb::Node { name: "n".repeat(63), state: "up".to_owned(), ..pb::Node::default() };
        let event = pb::Event { message: "what happened ".repeat(20), ..pb::Event::default() };
        let status = pb::StatusResponse {
            cluster: "0123456789abcdef".to_owned(),
            nodes: vec![node; 3],
            answered_by: "n".repeat(63),
            volumes,
            ..pb::StatusResponse::default()
        };
        let rates = |per_second| {
            let kind = Answers { per_second, bytes: 1e9, errors: 0.0, p50: Some(0.21), p99: Some(12.34), mean: None };
            Rates { reads: kind, writes: kind, ..Rates::default() }
        };
        let rates = [("busy".to_owned(), rates(123_456.0)), ("calm".to_owned(), rates(1.0))].into();
        Sample { status, rates, events: vec![event; 8], journal: [1 << 20, 1 << 30], seconds: 2.0, ..Sample::default() }
    }

    #[test]
    fn what_needs_somebody_comes_first_and_what_is_busy_next() {
        let volumes = ["calm", "busy", "idle"].map(|name| volume(name, "healthy", "n1"));
        let text = text(&sample(volumes.into_iter().chain([volume("sick", "degraded", "n2")]).collect()), 80, None);
        let at = |word: &str| text.find(&format!("\n {word} ")).unwrap_or_else(|| panic!("{word} in\n{text}"));
        assert!(at("sick") < at("busy") && at("busy") < at("calm") && at("calm") < at("idle"), "{text}");
        assert!(text.contains("123k/123k") && text.contains("954/954") && text.contains("0.21/0.21"), "{text}");
        assert!(text.contains("UNSAFE sick: a sentence") && text.contains("3 healthy"), "{text}");
    }

    #[test]
    fn it_fits_whatever_the_names() {
        let volumes: Vec<pb::Volume> =
            (0..200).map(|n| volume(&format!("{n}{}", "v".repeat(60)), "stalled", "")).collect();
        let sample = sample(volumes);
        for columns in [80, 120] {
            let text = text(&sample, columns, Some(40));
            let widest = text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
            assert!(widest <= columns && text.lines().count() <= 40, "{widest} columns\n{text}");
            assert!(text.contains("more volumes") && text.contains('…'), "{text}");
        }
        assert!(!text(&sample, 80, None).contains("more volumes"), "all of them where there is no end of the screen");
    }

    #[test]
    fn figures_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.123, "0.12"),
            (1.26, "1.3"),
            (42.4, "42"),
            (9_998.0, "9998"),
            (12_345.0, "12k"),
            (2.5e6, "2.5M"),
        ] {
            assert_eq!(short(value), text);
        }
    }
}
