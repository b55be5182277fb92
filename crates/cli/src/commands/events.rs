//! `holdfast events`: what happened, and with `--follow` what happens until somebody ends it.
//!
//! An agent hangs up on whoever leaves its pings unanswered for half a minute, as does a command that was stopped (Ctrl-Z). It asks anew
//! when it goes on: agents keep what happened last, and number it. What may be missing is said.

use super::{ANSWER, Agent, in_time};
use crate::args::Output;
use crate::error::CliError;
use crate::{output, units};
use holdfast_agent::admin::pb;
use std::error::Error;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// A connection that is lost again so soon is not made anew.
const LASTS: Duration = Duration::from_secs(1);

pub(super) async fn run(
    agent: &mut Agent<'_>,
    output: Output,
    follow: bool,
    volume: Option<String>,
) -> Result<(), CliError> {
    let request = pb::EventsRequest { follow, volume: volume.unwrap_or_default() };
    let mut seen = Seen { all: request.volume.is_empty(), last: None, anew: false };
    let mut stream = agent.ask(async |c| c.events(request.clone()).await).await?;
    let mut asked = Instant::now();
    loop {
        let next = async { Ok(stream.message().await?) };
        // Whoever follows waits for what has not happened yet.
        let next = if follow { next.await } else { in_time(agent.socket, agent.limit.unwrap_or(ANSWER), next).await };
        match next {
            // One line per event in both forms, so that `--follow` can be piped.
            Ok(Some(event)) => {
                let (is_new, gap) = seen.look(&event);
                gap.inspect(|gap| eprintln!("{gap}"));
                match output {
                    _ if !is_new => {}
                    Output::Json => println!("{}", output::event_json(&event)),
                    Output::Table => println!("{}", output::event_line(&event)),
                }
                continue;
            }
            Ok(None) if follow => {}
            Err(CliError::Status(status)) if follow && is_lost(&status) => {}
            Ok(None) => return Ok(()),
            Err(error) => return Err(error),
        }
        let ended = |found: &str| {
            let socket = agent.socket.display();
            CliError::Hopeless(format!(
                "expected the agent on {socket} to go on telling what happens, found {found}; ask again once it runs"
            ))
        };
        if asked.elapsed() < LASTS {
            return Err(ended("that it hangs up at once"));
        }
        let again = timeout(ANSWER, agent.client.events(request.clone())).await;
        stream = match again {
            Ok(Ok(again)) => again.into_inner(),
            Ok(Err(status)) if !is_lost(&status) => return Err(status.into()),
            _ => return Err(ended("that it ended, or answers nobody")),
        };
        (asked, seen.anew) = (Instant::now(), true);
    }
}

/// Not the agent's word, but that of the connection to it.
fn is_lost(status: &tonic::Status) -> bool {
    status.source().is_some()
}

/// What was told already.
struct Seen {
    /// Of all volumes, so that numbers follow one another.
    all: bool,
    /// Number and time of the last event.
    last: Option<(u64, u64)>,
    /// It was asked for anew, and nothing shows yet that nothing is missing.
    anew: bool,
}

impl Seen {
    /// Whether an event is news, and what to say of those before it.
    fn look(&mut self, event: &pb::Event) -> (bool, Option<String>) {
        let Some((seq, unix_ms)) = self.last else {
            self.last = Some((event.seq, event.unix_ms));
            return (true, None);
        };
        // Numbers of an agent that was started since begin anew.
        if event.seq <= seq && event.unix_ms <= unix_ms {
            // The agent still knows of it, and so of all that followed.
            self.anew = false;
            return (false, None);
        }
        self.last = Some((event.seq, event.unix_ms));
        let anew = std::mem::take(&mut self.anew);
        let missing = event.seq.saturating_sub(seq + 1);
        let gap = if self.all && missing > 0 {
            Some(format!(
                "{missing} events are missing here: they came faster than they were read, or while this stood still"
            ))
        } else if anew && event.seq != seq + 1 {
            let (from, to) = (units::time(unix_ms), units::time(event.unix_ms));
            Some(format!("events between {from} and {to} may be missing here: the connection to the agent was lost"))
        } else {
            None
        };
        (true, gap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: u64, unix_ms: u64) -> pb::Event {
        pb::Event { seq, unix_ms, ..Default::default() }
    }

    #[test]
    fn what_was_told_is_not_told_again_and_a_gap_is() {
        let mut seen = Seen { all: true, last: None, anew: false };
        assert_eq!(seen.look(&event(4, 100)), (true, None), "whatever was before the first one");
        assert_eq!(seen.look(&event(5, 100)), (true, None));
        let (is_new, gap) = seen.look(&event(8, 130));
        assert!(is_new && gap.as_deref().is_some_and(|g| g.starts_with("2 events are missing")), "{gap:?}");
        // The connection is lost, and made again.
        seen.anew = true;
        for old in [4, 5, 8] {
            assert_eq!(seen.look(&event(old, 130)), (false, None));
        }
        assert_eq!(seen.look(&event(9, 200)), (true, None));
        // And again; the agent was started meanwhile.
        seen.anew = true;
        let (is_new, gap) = seen.look(&event(1, 300));
        assert!(is_new && gap.as_deref().is_some_and(|g| g.contains("may be missing")), "{gap:?}");
        assert_eq!(seen.look(&event(2, 300)), (true, None));
    }

    #[test]
    fn of_one_volume_numbers_say_nothing() {
        let mut seen = Seen { all: false, last: None, anew: false };
        assert_eq!((seen.look(&event(4, 100)), seen.look(&event(9, 130))), ((true, None), (true, None)));
        seen.anew = true;
        assert_eq!(seen.look(&event(9, 130)), (false, None));
        assert_eq!(seen.look(&event(20, 140)), (true, None), "the agent knew of the last one");
        seen.anew = true;
        let (is_new, gap) = seen.look(&event(90, 990));
        assert!(is_new && gap.is_some_and(|g| g.contains("may be missing")), "it knew of none that was told");
    }

    #[test]
    fn a_lost_connection_is_told_from_a_refusal() {
        let refused = tonic::Status::not_found("expected a volume");
        let lost = tonic::Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::BrokenPipe)));
        assert!(!is_lost(&refused) && is_lost(&lost));
    }
}
