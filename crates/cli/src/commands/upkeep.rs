//! `scrub` and `verify`: a wish is told to nodes, and their copies' reports show what comes of it. A wish may get lost on the way
//! (a connection, an agent that restarts): it is told again, under the same name, until a report shows it.

use super::{Agent, LOOK};
use crate::args::{Output, ScrubArgs};
use crate::error::CliError;
use crate::output;
use crate::progress::{Progress, Step, left_text};
use crate::units;
use holdfast_agent::admin::pb;
use holdfast_agent::config::parse_size;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a wish may take to show up in a report, before it is told again.
const HEARD: Duration = Duration::from_secs(3);
/// How long a node may be away while its copy is waited for.
const AWAY: Duration = Duration::from_secs(30);
/// How long a comparison may take.
const COMPARED: Duration = Duration::from_secs(60);
/// From when a primary begins.
const VERDICT: Duration = output::REACH.saturating_add(output::WALK);

/// `100MiB/s`, in bytes.
pub(super) fn parse_rate(text: &str) -> Result<u64, CliError> {
    let size = text.strip_suffix("/s").unwrap_or(text);
    match parse_size(size) {
        Ok(0) => Err(CliError::Usage("--rate: expected 1B/s or more, found 0".to_owned())),
        Ok(rate) => Ok(rate),
        Err(e) => Err(CliError::Usage(format!("--rate: {e}, with or without /s behind it"))),
    }
}

pub(super) async fn scrub(agent: &mut Agent<'_>, output: Output, args: ScrubArgs) -> Result<(), CliError> {
    let volume = args.volume.clone();
    let mut request = pb::ScrubRequest {
        volume: args.volume,
        node: args.node.unwrap_or_default(),
        bytes_per_second: parse_rate(&args.rate)?,
        run: 0,
    };
    let told = agent.ask(async |c| c.scrub(request.clone()).await).await?;
    request.run = told.run;
    if args.no_wait {
        output::print(output, || output::told_json(&volume, &told.nodes), || output::told_text(&volume, &told.nodes));
        return Ok(());
    }
    let start = Instant::now();
    let (mut heard_at, mut there_at) = (start, start);
    let mut progress = Progress::new();
    loop {
        let found = agent.volume(&volume).await?;
        let copies: Vec<&pb::Copy> = found.copies.iter().filter(|c| told.nodes.contains(&c.node)).collect();
        let state = |c: &pb::Copy| Pass::of(c, told.run);
        progress.show(|| scrubbed_so_far(&copies, told.run, start.elapsed()));
        if copies.len() == told.nodes.len() && copies.iter().all(|c| state(c) == Pass::Done) {
            drop(progress);
            output::print(
                output,
                || output::scrubbed_json(&volume, &copies),
                || output::scrubbed_text(&volume, &copies),
            );
            return scrub_verdict(&volume, &copies);
        }
        let gets_on = |c: &&pb::Copy| matches!(state(c), Pass::Going | Pass::Done);
        if copies.len() == told.nodes.len() && copies.iter().all(gets_on) {
            there_at = Instant::now();
        }
        let asked = agent.limit.filter(|limit| start.elapsed() >= *limit);
        if let Some(limit) = asked.or((there_at.elapsed() >= AWAY).then_some(AWAY)) {
            let what = format!("expected the copies of {volume} to be read to their end");
            let found: Vec<String> = told.nodes.iter().map(|node| doing(node, &copies, told.run)).collect();
            return Err(CliError::Unfinished { what, limit, found: found.join(", "), volume });
        }
        if copies.iter().all(|c| state(c) != Pass::Unheard) {
            heard_at = Instant::now();
        } else if heard_at.elapsed() >= HEARD {
            heard_at = Instant::now();
            agent.ask(async |c| c.scrub(request.clone()).await).await?;
        }
        sleep(LOOK).await;
    }
}

/// How a copy does with a wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    Unheard,
    Going,
    Done,
    /// Its node does not answer, or it failed, or is not made yet.
    Away,
}

impl Pass {
    fn of(copy: &pb::Copy, run: u64) -> Pass {
        // A copy in any other state does not hear of a wish.
        if !["healthy", "catching_up", "leaving"].contains(&copy.state.as_str()) {
            return Pass::Away;
        }
        match copy.integrity.as_ref().and_then(|i| i.scrub.as_ref()).filter(|s| s.run == run) {
            None => Pass::Unheard,
            Some(scrub) if scrub.requested => Pass::Going,
            Some(_) => Pass::Done,
        }
    }
}

/// What the copy on that node does instead of being done.
fn doing(node: &str, copies: &[&pb::Copy], run: u64) -> String {
    let Some(copy) = copies.iter().find(|c| c.node == node) else { return format!("there is none on {node} any more") };
    match Pass::of(copy, run) {
        Pass::Done => format!("{node} has ended"),
        Pass::Going => format!("{node} is being read"),
        Pass::Unheard => format!("{node} has not begun"),
        Pass::Away => format!("{node} is {}", copy.state),
    }
}

fn scrub_verdict(volume: &str, copies: &[&pb::Copy]) -> Result<(), CliError> {
    let lost = |c: &&&pb::Copy| c.integrity.as_ref().is_some_and(|i| !i.unrepairable.is_empty() || i.unrepairable_more);
    let lost: Vec<&str> = copies.iter().filter(lost).map(|c| c.node.as_str()).collect();
    if lost.is_empty() {
        return Ok(());
    }
    Err(CliError::Unequal(format!(
        "expected every block of {volume} to be repaired, found blocks that no copy that answers can supply on {}; bring all copies \
         back and scrub again, or write these ranges anew from a backup",
        lost.join(", ")
    )))
}

fn scrubbed_so_far(copies: &[&pb::Copy], run: u64, elapsed: Duration) -> Step {
    let scrubs = copies.iter().filter_map(|c| Some((Pass::of(c, run), c.integrity.as_ref()?.scrub.as_ref()?)));
    let read = |(pass, scrub): (Pass, &pb::Scrub)| match pass {
        Pass::Done => (scrub.length, scrub.length),
        Pass::Going => (scrub.position, scrub.length),
        Pass::Unheard | Pass::Away => (0, scrub.length),
    };
    let (done, all) = scrubs.map(read).fold((0, 0), |sum: (u64, u64), one| (sum.0 + one.0, sum.1 + one.1));
    if all == 0 {
        return Step::waiting("waiting for the copies to begin");
    }
    let left = left_text(units::left(done, all, elapsed));
    Step { done, all, text: format!("{} of {}{left}", units::bytes(done), units::bytes(all)), ..Step::default() }
}

/// Copies are compared at the log's end, which each has to apply first: that takes longest.
struct Reach {
    /// The last record.
    end: u64,
    /// What each copy had applied at first.
    first: BTreeMap<String, u64>,
}

impl Reach {
    fn new(copies: &[pb::Copy]) -> Reach {
        let end = copies.iter().filter_map(|c| c.durable_lsn).max().unwrap_or(0);
        let first = copies.iter().filter_map(|c| Some((c.node.clone(), c.applied_lsn?.min(end)))).collect();
        Reach { end, first }
    }

    fn so_far(&self, copies: &[pb::Copy], elapsed: Duration) -> Step {
        let all: u64 = self.first.values().map(|first| self.end - first).sum();
        let lacks = |(node, first): (&String, &u64)| {
            let applied = copies.iter().find(|c| c.node == *node).and_then(|c| c.applied_lsn);
            self.end - applied.unwrap_or(0).clamp(*first, self.end)
        };
        let done = all - self.first.iter().map(lacks).sum::<u64>();
        let step = |text| Step { done, all, text, ..Step::default() };
        let Some(most) = VERDICT.checked_sub(elapsed).filter(|most| !most.is_zero()) else {
            return step("waiting for the primary's verdict".to_owned());
        };
        let at_most = format!("{} at most", left_text(Some(most)));
        if done == all {
            return Step { done: 1, all: 1, ..step(format!("all records applied, comparing{at_most}")) };
        }
        let left = units::left(done, all, elapsed).filter(|left| *left < most);
        let left = left.map_or(at_most, |left| left_text(Some(left)));
        step(format!("{} of {} records applied{left}", units::count(done), units::count(all)))
    }
}

pub(super) async fn verify(agent: &mut Agent<'_>, output: Output, volume: String) -> Result<(), CliError> {
    let mut request = pb::VerifyRequest { volume: volume.clone(), run: 0 };
    let mut told = agent.ask(async |c| c.verify(request.clone()).await).await?;
    request.run = told.run;
    let (start, mut heard_at) = (Instant::now(), Instant::now());
    let limit = agent.limit.unwrap_or(COMPARED);
    let (mut progress, mut reach) = (Progress::new(), None);
    loop {
        let found = agent.volume(&volume).await?;
        let reach = reach.get_or_insert_with(|| Reach::new(&found.copies));
        progress.show(|| reach.so_far(&found.copies, start.elapsed()));
        let reports = || found.copies.iter().filter_map(|c| c.integrity.as_ref());
        if let Some(verdict) = reports().filter_map(|i| i.verdict.as_ref()).find(|v| v.run == told.run) {
            drop(progress);
            output::print(output, || output::verdict_json(&volume, verdict), || output::verdict_text(&volume, verdict));
            let equal = verdict.copies.iter().all(|c| c.outcome == "equal");
            let what = format!("expected all copies of {volume} to be equal at record {}", verdict.lsn);
            let odd: Vec<String> =
                verdict.copies.iter().filter(|c| c.outcome != "equal").map(output::copy_outcome).collect();
            return if equal { Ok(()) } else { Err(CliError::Unequal(format!("{what}, found: {}", odd.join("; ")))) };
        }
        if start.elapsed() >= limit {
            let what = format!("{} compares the copies of {volume}, expected a verdict", told.node);
            return Err(CliError::Unfinished { what, limit, found: "none".to_owned(), volume });
        }
        if reports().any(|i| i.verifying == told.run) {
            heard_at = Instant::now();
        } else if heard_at.elapsed() >= HEARD {
            heard_at = Instant::now();
            told = agent.ask(async |c| c.verify(request.clone()).await).await?;
        }
        sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_a_unit_of_time_or_none() {
        for (text, rate) in [("100MiB/s", 100 << 20), ("1GiB", 1 << 30)] {
            assert_eq!(parse_rate(text).ok(), Some(rate), "{text}");
        }
        for text in ["0", "0/s", "fast", "1MiB/h", ""] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_bar_says_how_long_it_takes() {
        let copy = pb::Copy {
            state: "healthy".to_owned(),
            integrity: Some(pb::Integrity {
                scrub: Some(pb::Scrub {
                    run: 7,
                    requested: true,
                    position: 1 << 30,
                    length: 2 << 30,
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let said = scrubbed_so_far(&[&copy], 7, Duration::from_secs(12));
        assert_eq!((said.done, said.all, said.text.as_str()), (1 << 30, 2 << 30, "1 GiB of 2 GiB, 12.0 s left"));
        let said = scrubbed_so_far(&[], 7, Duration::ZERO);
        assert_eq!(said, Step::waiting("waiting for the copies to begin"));
    }

    #[test]
    fn a_comparison_says_how_long_it_takes_at_most() {
        let copy = |node: &str, durable, applied| pb::Copy {
            node: node.to_owned(),
            durable_lsn: Some(durable),
            applied_lsn: Some(applied),
            ..Default::default()
        };
        let at = |a, b| [copy("n1", 1000, a), copy("n2", 900, b), pb::Copy::default()];
        let reach = Reach::new(&at(600, 400));
        let said = |a, b, seconds| {
            let step = reach.so_far(&at(a, b), Duration::from_secs(seconds));
            (step.done * 100 / step.all, step.text)
        };
        let told = |percent, text: &str| (percent, text.to_owned());
        assert_eq!(said(600, 400, 2), told(0, "0 of 1\u{202f}000 records applied, 28.0 s left at most"));
        assert_eq!(said(800, 700, 2), told(50, "500 of 1\u{202f}000 records applied, 2.0 s left"));
        // Writes go on, and one copy is not heard of any more.
        assert_eq!(said(5000, 2000, 4), told(100, "all records applied, comparing, 26.0 s left at most"));
        assert_eq!(said(610, 0, 29), told(1, "10 of 1\u{202f}000 records applied, 1.0 s left at most"));
        // Another primary may have begun anew, or this one later: nobody knows how long that takes.
        for seconds in [30, 90] {
            assert_eq!(said(610, 0, seconds), told(1, "waiting for the primary's verdict"));
        }
    }
}
