//! `holdfast top`: the cluster as it goes, again and again.
//!
//! Flow: two looks at the agent's counters, one interval apart, and one at its status make a [`Sample`]; `screen` puts it into lines. On a
//! terminal the lines replace each other until somebody ends it; elsewhere one sample is printed, or in JSON one object for each.
//!
//! Deliberately absent: the rates of volumes that other nodes lead, as each agent counts what it serves.

mod keys;
pub(crate) mod sample;
mod screen;

use crate::args::{Output, TopArgs};
use crate::commands::Agent;
use crate::error::CliError;
use crate::output::screen::{columns, rows};
use crate::terminal::Ends;
use holdfast_agent::admin::pb;
use holdfast_agent::config::parse_duration;
use keys::Keys;
use sample::Sample;
use std::io::{IsTerminal, Write};
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{Instant, sleep_until};

/// Between two samples: less would measure the asking, more is no live view.
const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(250)..=Duration::from_secs(3600);
/// Events of a sample, the newest last.
const EVENTS: usize = 8;
/// How soon a key is noticed.
const KEY: Duration = Duration::from_millis(100);

pub(crate) fn interval(args: &TopArgs) -> Result<Duration, CliError> {
    let interval = parse_duration(&args.interval).map_err(|e| CliError::Usage(format!("--interval: {e}")))?;
    if !INTERVALS.contains(&interval) {
        return Err(CliError::Usage(format!("--interval: expected 250ms to 1h, found {}", args.interval)));
    }
    Ok(interval)
}

pub(crate) async fn run(agent: &mut Agent<'_>, output: Output, args: &TopArgs) -> Result<(), CliError> {
    let interval = interval(args)?;
    let mut looks = Looks { last: counters(agent).await?, taken: Instant::now() };
    let terminal = std::io::stdout().is_terminal();
    if output == Output::Table && terminal && !args.once {
        return live(agent, looks, interval).await;
    }
    loop {
        sleep_until(looks.taken + interval).await;
        let sample = looks.sample(agent).await?;
        match output {
            Output::Json => println!("{}", sample.json()),
            Output::Table => println!("{}", screen::text(&sample, columns(), None).trim_end()),
        }
        if args.once || output == Output::Table {
            return Ok(());
        }
    }
}

/// What was counted at the last look.
struct Looks {
    last: pb::CountersResponse,
    taken: Instant,
}

impl Looks {
    /// What happened since then.
    async fn sample(&mut self, agent: &mut Agent<'_>) -> Result<Sample, CliError> {
        self.taken = Instant::now();
        let now = counters(agent).await?;
        let status = agent.ask(async |c| c.status(pb::StatusRequest::default()).await).await?;
        let events = agent.past_events(EVENTS).await?;
        let before = std::mem::replace(&mut self.last, now);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        Ok(Sample::new(unix_ms, &before, &self.last, status, events))
    }
}

/// Nothing, of an agent from before it could tell.
async fn counters(agent: &mut Agent<'_>) -> Result<pb::CountersResponse, CliError> {
    match agent.ask(async |c| c.counters(pb::CountersRequest {}).await).await {
        Err(CliError::Status(status)) if status.code() == tonic::Code::Unimplemented => {
            Ok(pb::CountersResponse::default())
        }
        answer => answer,
    }
}

/// On a terminal, until a key or a signal ends it. An agent that is being restarted is waited for.
async fn live(agent: &mut Agent<'_>, mut looks: Looks, interval: Duration) -> Result<(), CliError> {
    let mut ends = Ends::listen().map_err(CliError::io("listen for signals"))?;
    let mut keys = Keys::take().map_err(CliError::io("take the terminal over"))?;
    let mut shown = "the first sample comes after one interval\n".to_owned();
    let mut told = None;
    loop {
        draw(&shown, told.as_deref()).map_err(CliError::io("draw"))?;
        if ended(&mut keys, &mut ends, looks.taken + interval).await {
            return Ok(());
        }
        let asked = tokio::select! {
            sample = looks.sample(agent) => sample,
            _ = ends.any() => return Ok(()),
        };
        told = match asked {
            Ok(sample) => {
                shown = screen::text(&sample, columns(), Some(rows().saturating_sub(1)));
                None
            }
            Err(error) => Some(format!("{error}; what is shown is older")),
        };
    }
}

/// Whether somebody wants it to end, or the time is over.
async fn ended(keys: &mut Keys, ends: &mut Ends, until: Instant) -> bool {
    loop {
        if keys.quit() {
            return true;
        }
        let now = Instant::now();
        if now >= until {
            return false;
        }
        tokio::select! {
            () = sleep_until(until.min(now + KEY)) => {}
            _ = ends.any() => return true,
        }
    }
}

/// Over what stood there, without a moment of nothing in between.
fn draw(shown: &str, told: Option<&str>) -> std::io::Result<()> {
    let told = told.map(|text| crate::output::cut(text, columns()));
    let mut screen = "\x1b[H".to_owned();
    for line in told.as_deref().into_iter().chain(shown.lines()) {
        screen += line;
        screen += "\x1b[K\n";
    }
    screen += "\x1b[J";
    let mut out = std::io::stdout().lock();
    out.write_all(screen.as_bytes())?;
    out.flush()
}
