//! `holdfast events`: what happened, and with `--follow` what happens until somebody ends it.
//!
//! An agent hangs up on whoever leaves its pings unanswered for half a minute, as does a command that was stopped (Ctrl-Z), and it is started
//! again now and then. A follower asks anew: agents keep what happened last, and number it. What may be missing is said in its place, as an
//! event of number 0.

use super::{ANSWER, Agent, in_time};
use crate::args::Output;
use crate::error::CliError;
use crate::{output, units};
use holdfast_agent::admin::pb;
use std::error::Error;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Between two tries to reach an agent that ended.
const AGAIN: Duration = Duration::from_millis(200);
/// How long an agent may take to be started again, unless the operator says otherwise.
const RESTARTS: Duration = Duration::from_secs(60);

pub(super) async fn run(
    agent: &mut Agent<'_>,
    output: Output,
    follow: bool,
    volume: Option<String>,
) -> Result<(), CliError> {
    let request = pb::EventsRequest { follow, volume: volume.unwrap_or_default() };
    let mut seen = Seen::default();
    let mut stream = agent.ask(async |c| c.events(request.clone()).await).await?;
    loop {
        let next = async { Ok(stream.message().await?) };
        // Whoever follows waits for what has not happened yet.
        let next = if follow { next.await } else { in_time(agent.socket, agent.limit.unwrap_or(ANSWER), next).await };
        match next {
            Ok(Some(event)) => seen.look(event).iter().for_each(|event| show(output, event)),
            Ok(None) if follow => stream = anew(agent, &request, &mut seen).await?,
            Err(CliError::Status(status)) if follow && is_lost(&status) => {
                stream = anew(agent, &request, &mut seen).await?;
            }
            Ok(None) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// One line per event in both forms, so that `--follow` can be piped.
fn show(output: Output, event: &pb::Event) {
    match output {
        Output::Json => println!("{}", output::event_json(event)),
        Output::Table => println!("{}", output::event_line(event)),
    }
}

/// Asks again, of whoever has the socket by now.
async fn anew(
    agent: &mut Agent<'_>,
    request: &pb::EventsRequest,
    seen: &mut Seen,
) -> Result<tonic::Streaming<pb::Event>, CliError> {
    let (limit, start) = (agent.limit.unwrap_or(RESTARTS), Instant::now());
    seen.anew = true;
    loop {
        // One that hangs up at once is not asked without a pause.
        sleep(AGAIN).await;
        match timeout(ANSWER, agent.client.events(request.clone())).await {
            Ok(Ok(stream)) => return Ok(stream.into_inner()),
            // One that has just started does not know its volumes yet.
            Ok(Err(status)) if !is_lost(&status) && start.elapsed() >= limit => return Err(status.into()),
            _ if start.elapsed() >= limit => {
                let socket = agent.socket.display();
                return Err(CliError::Hopeless(format!(
                    "expected the agent on {socket} to go on telling what happens, found for {} that it ended, or answers nobody; ask again once it runs",
                    units::duration(limit)
                )));
            }
            _ => {}
        }
    }
}

/// Not the agent's word, but that of the connection to it.
fn is_lost(status: &tonic::Status) -> bool {
    status.source().is_some()
}

/// What was told already.
#[derive(Default)]
struct Seen {
    /// Number and time of the last event.
    last: Option<(u64, u64)>,
    /// It was asked for anew, and nothing shows yet that nothing is missing.
    anew: bool,
}

impl Seen {
    /// What to show for an event: nothing if it was told already, and what may be missing before it.
    fn look(&mut self, event: pb::Event) -> Vec<pb::Event> {
        if event.seq == 0 {
            return vec![event];
        }
        let now = (event.seq, event.unix_ms);
        let Some((seq, unix_ms)) = self.last else {
            self.last = Some(now);
            return vec![event];
        };
        // Numbers of an agent that was started since begin anew.
        if event.seq <= seq && event.unix_ms <= unix_ms {
            // The agent still knows of it, and so of all that followed.
            self.anew = false;
            return Vec::new();
        }
        self.last = Some(now);
        if std::mem::take(&mut self.anew) && event.seq != seq + 1 {
            return vec![gap(unix_ms, &event), event];
        }
        vec![event]
    }
}

/// In the place of what happened while nobody listened, if anything did.
fn gap(since_ms: u64, before: &pb::Event) -> pb::Event {
    let from = units::time(since_ms);
    pb::Event {
        seq: 0,
        unix_ms: before.unix_ms,
        node: before.node.clone(),
        kind: "events_missing".to_owned(),
        volume: String::new(),
        message: format!("events since {from} may be missing here: the connection to the agent was lost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: u64, unix_ms: u64) -> pb::Event {
        pb::Event { seq, unix_ms, ..Default::default() }
    }

    /// Numbers of what is shown.
    fn shown(seen: &mut Seen, seq: u64, unix_ms: u64) -> Vec<u64> {
        seen.look(event(seq, unix_ms)).iter().map(|e| e.seq).collect()
    }

    #[test]
    fn what_was_told_is_not_told_again_and_a_gap_is() {
        let mut seen = Seen::default();
        assert_eq!(shown(&mut seen, 4, 100), [4], "whatever was before the first one");
        assert_eq!(shown(&mut seen, 5, 100), [5]);
        // Of one volume they do not follow one another; what was missed is said by the agent.
        assert_eq!(shown(&mut seen, 8, 130), [8]);
        assert_eq!(shown(&mut seen, 0, 131), [0]);
        // The connection is lost, and made again.
        seen.anew = true;
        for old in [4, 5, 8] {
            assert!(shown(&mut seen, old, 130).is_empty());
        }
        assert_eq!(shown(&mut seen, 20, 200), [20], "the agent knew of the last one");
        seen.anew = true;
        assert_eq!(shown(&mut seen, 90, 990), [0, 90], "it knew of none that was told");
        // The agent was started meanwhile.
        seen.anew = true;
        let told = seen.look(event(1, 2000));
        assert!(told.len() == 2 && told[0].message.contains("may be missing"), "{told:?}");
        assert_eq!(shown(&mut seen, 2, 2000), [2]);
    }

    #[test]
    fn a_lost_connection_is_told_from_a_refusal() {
        let refused = tonic::Status::not_found("expected a volume");
        let lost = tonic::Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::BrokenPipe)));
        assert!(!is_lost(&refused) && is_lost(&lost));
    }
}
