//! `holdfast node`: says what a node is to be for, then waits until it is so, and tells what it waits for.

use super::filling::Moving;
use super::{Agent, LOOK};
use crate::args::{NodeCommand, NodeWait, Output};
use crate::error::CliError;
use crate::output;
use crate::progress::{Progress, Step};
use crate::units;
use holdfast_agent::admin::pb;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long it may take to move all copies of a node, unless the operator says otherwise.
const DRAINING: Duration = Duration::from_hours(24);
/// How long the control plane may take to do without a node.
const REMOVING: Duration = Duration::from_mins(1);
/// A drain that has not moved for so long, and says that it can't, ends the command.
const HELD: Duration = Duration::from_secs(10);
/// Between two looks at everything that moves.
const WATCHED: Duration = Duration::from_millis(500);

/// What is wanted of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duty {
    InService,
    Drained,
    Removed,
}

impl Duty {
    /// In the API's words.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Duty::InService => "in_service",
            Duty::Drained => "drained",
            Duty::Removed => "removed",
        }
    }

    /// `None`: it is so. Otherwise what keeps it.
    fn lacks(self, node: Option<&pb::Node>) -> Option<String> {
        let node = node?;
        let name = &node.name;
        match self {
            _ if node.wanted != self.word() => {
                Some(format!("the agent that answers has not heard of the wish for {name} yet"))
            }
            Duty::InService => None,
            Duty::Drained if node.copies_left == 0 && node.primaries == 0 => None,
            Duty::Drained => {
                let count = node.copies_left;
                let what = if count == 1 { "copy is" } else { "copies are" };
                let notes = node.notes.iter().map(|note| format!("\n  {note}")).collect::<String>();
                Some(format!("{count} {what} left on {name}{notes}"))
            }
            Duty::Removed if node.voter => Some(format!("{name} still has a vote in the control plane")),
            Duty::Removed => Some(format!("{name} is about to be taken out")),
        }
    }
}

pub(super) async fn run(agent: &mut Agent<'_>, output: Output, command: NodeCommand) -> Result<(), CliError> {
    let (name, duty, NodeWait { no_wait }) = match command {
        NodeCommand::List => {
            let nodes = list(agent).await?;
            output::print(output, || output::nodes_json(&nodes), || output::nodes_text(&nodes));
            return Ok(());
        }
        NodeCommand::Restart => {
            let answer = agent.ask(async |c| c.node_restart(pb::NodeRestartRequest {}).await).await?;
            output::print(output, || output::restart_json(&answer), || output::restart_text(&answer));
            return Ok(());
        }
        NodeCommand::Drain { node, wait } => {
            let request = pb::NodeDrainRequest { node: node.clone() };
            agent.ask(async |c| c.node_drain(request).await).await?;
            (node, Duty::Drained, wait)
        }
        NodeCommand::Undrain { node } => {
            let request = pb::NodeUndrainRequest { node: node.clone() };
            agent.ask(async |c| c.node_undrain(request).await).await?;
            (node, Duty::InService, NodeWait { no_wait: false })
        }
        NodeCommand::Remove { node, force, yes, wait } => {
            output::confirm(&format!("this takes {node} out of the cluster, for ever"), "yes", yes)?;
            let request = pb::NodeRemoveRequest { node: node.clone(), force };
            agent.ask(async |c| c.node_remove(request).await).await?;
            (node, Duty::Removed, wait)
        }
    };
    let reached = if no_wait { None } else { Some(wait_for(agent, &name, duty).await?) };
    let node = reached.as_ref().and_then(Option::as_ref);
    output::print(
        output,
        || output::duty_json(&name, duty, reached.is_some(), node),
        || output::duty_text(&name, duty, reached.is_some()),
    );
    Ok(())
}

async fn list(agent: &mut Agent<'_>) -> Result<Vec<pb::Node>, CliError> {
    Ok(agent.ask(async |c| c.node_list(pb::NodeListRequest {}).await).await?.nodes)
}

/// What keeps it is told on stderr, so that stdout stays the answer's: as a bar on a terminal, elsewhere in a sentence whenever that changes.
/// `None`: the node is no more.
async fn wait_for(agent: &mut Agent<'_>, name: &str, duty: Duty) -> Result<Option<pb::Node>, CliError> {
    let usual = if duty == Duty::Drained { DRAINING } else { REMOVING };
    let (limit, start) = (agent.limit.unwrap_or(usual), Instant::now());
    let (mut last, mut since) = (String::new(), Instant::now());
    let (mut progress, mut moving) = (Progress::new(), Moving::new(start));
    loop {
        let node = list(agent).await?.into_iter().find(|n| n.name == name);
        if node.is_none() && duty != Duty::Removed {
            return Err(CliError::Hopeless(format!("{name} was removed from the cluster meanwhile")));
        }
        let Some(lacks) = duty.lacks(node.as_ref()) else { return Ok(node) };
        if node.as_ref().is_some_and(|n| n.held) && duty == Duty::Drained && since.elapsed() >= HELD && lacks == last {
            return Err(CliError::Hopeless(format!(
                "expected every copy to move away from {name}, found that none of those left can; it goes on by itself once one can \
                 (`holdfast node undrain {name}` takes the wish back): {}",
                lacks.replace("\n ", ";")
            )));
        }
        if start.elapsed() >= limit {
            let what = format!("{name} is to be {}, expected that to be done", duty.word());
            return Err(CliError::Unfinished { what, limit, found: lacks.replace("\n ", ";"), volume: String::new() });
        }
        let drained = node.as_ref().filter(|n| duty == Duty::Drained && n.wanted == duty.word());
        if progress.is_shown() {
            let step = match drained {
                Some(node) => moving.step(node, &agent.volumes().await?, Instant::now()),
                None => Step::waiting(lacks.as_str()),
            };
            progress.show(|| step);
        } else if lacks != last {
            let left = drained.map_or(0, |n| n.copies_left);
            let (went, most) = moving.moved(left);
            eprintln!("{}", with_time_left(&lacks, units::left(went, most, start.elapsed()).filter(|_| left > 0)));
        }
        if lacks != last {
            (last, since) = (lacks, Instant::now());
        }
        // Whoever watches a bar of all volumes of a cluster need not ask for them ten times a second.
        sleep(if progress.is_shown() && drained.is_some() { WATCHED } else { LOOK }).await;
    }
}

/// The first line with how long the copies that are left take, if they take as long as those that went.
fn with_time_left(lacks: &str, left: Option<Duration>) -> String {
    let Some(left) = left else { return lacks.to_owned() };
    let (first, notes) = lacks.split_at(lacks.find('\n').unwrap_or(lacks.len()));
    format!("{first}, about {} to go{notes}", units::duration(left.max(Duration::from_secs(1))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_tells_how_long_it_takes_once_a_copy_has_gone() {
        let lacks = "3 copies are left on n3\n  vm1: no node has room";
        assert_eq!(with_time_left(lacks, None), lacks);
        let half = units::duration(Duration::from_secs(30));
        let told = with_time_left(lacks, Some(Duration::from_secs(30)));
        assert_eq!(told, format!("3 copies are left on n3, about {half} to go\n  vm1: no node has room"));
    }

    #[test]
    fn a_node_is_drained_when_nothing_is_left_on_it() {
        let node = |wanted: &str, copies_left, primaries| pb::Node {
            name: "n3".to_owned(),
            wanted: wanted.to_owned(),
            copies_left,
            primaries,
            ..pb::Node::default()
        };
        let lacks = |node: &pb::Node| Duty::Drained.lacks(Some(node));
        assert!(lacks(&node("in_service", 0, 0)).unwrap().contains("not heard"));
        assert_eq!(lacks(&node("drained", 0, 0)), None);
        assert!(lacks(&node("drained", 1, 0)).unwrap().starts_with("1 copy is left on n3"));
        assert!(lacks(&node("drained", 0, 1)).is_some(), "a primary counts");
        assert_eq!(Duty::InService.lacks(Some(&node("in_service", 3, 1))), None);
        assert!(Duty::Removed.lacks(Some(&node("removed", 0, 0))).is_some());
        assert_eq!(Duty::Removed.lacks(None), None);
    }
}
