//! `holdfast copy`: says what is wanted, then waits until it is so, and tells what it waits for.

use super::filling::Filling;
use super::{Agent, LOOK};
use crate::args::{CopyCommand, CopyWait, Output};
use crate::error::CliError;
use crate::output;
use crate::progress::{Progress, Step};
use holdfast_agent::admin::pb;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long the data of a copy may take, unless the operator says otherwise.
const FILLING: Duration = Duration::from_secs(3600);

/// What is wanted of the copies of a volume.
pub(crate) struct Wish {
    pub(crate) volume: String,
    /// A copy here counts.
    pub(crate) on: Option<String>,
    /// There is none here.
    pub(crate) off: Option<String>,
}

impl Wish {
    /// `None`: it is so. Otherwise what keeps it.
    fn lacks(&self, volume: &pb::Volume) -> Option<String> {
        let copy = |node: &str| volume.copies.iter().find(|c| c.node == node);
        if let Some(node) = &self.on {
            match copy(node) {
                None => return Some(format!("{node} holds no copy yet")),
                Some(c) if c.role == "learner" || c.state != "healthy" => return Some(describe(c, volume)),
                Some(_) => {}
            }
        }
        let gone = self.off.as_deref().and_then(copy)?;
        // What counts no more is deleted when its node can; nobody waits for one that is down.
        (gone.state != "deleting").then(|| describe(gone, volume))
    }

    /// How far the copy that is to count is, and what keeps it below that.
    fn step(&self, volume: &pb::Volume, filling: &mut Filling, lacks: String) -> Step {
        let counts_not = |c: &&pb::Copy| c.role == "learner" || c.state != "healthy";
        let new = volume.copies.iter().filter(counts_not).find(|c| Some(&c.node) == self.on.as_ref());
        let Some((copy, step)) = new.and_then(|copy| Some((copy, filling.step(copy, volume, Instant::now())?))) else {
            return Step::waiting(lacks);
        };
        let source = copy.resync.as_ref().map(|r| r.source.as_str()).filter(|source| !source.is_empty());
        let source = source.map_or_else(String::new, |source| format!(", from the one on {source}"));
        Step { notes: vec![format!("the copy on {} is {}{source}", copy.node, copy.state)], ..step }
    }

    /// Why the new copy will not be filled by itself.
    fn hopeless(&self, volume: &pb::Volume) -> Option<String> {
        let node = self.on.as_deref()?;
        let copy = volume.copies.iter().find(|c| c.node == node && c.role == "learner")?;
        (copy.state == "lost").then(|| {
            let name = &self.volume;
            format!(
                "expected the new copy of {name} to be filled, found that it can't be: {}; no copy was removed; take the wish back: `holdfast copy remove {name} {node}`, or after a \
                 replacement `holdfast copy replace {name} {node} OLD`",
                copy.note
            )
        })
    }
}

/// Not with positions: each sentence is told once.
fn describe(copy: &pb::Copy, volume: &pb::Volume) -> String {
    let about = match (copy.note.as_str(), volume.reason.as_str()) {
        ("", "") => String::new(),
        ("", reason) => format!(": {reason}"),
        (note, _) => format!(": {note}"),
    };
    format!("the copy on {} is {}{about}", copy.node, copy.state)
}

pub(super) async fn run(agent: &mut Agent<'_>, output: Output, command: CopyCommand) -> Result<(), CliError> {
    let (wish, CopyWait { no_wait }) = match command {
        CopyCommand::Add { volume, node, wait } => {
            let request = pb::CopyAddRequest { volume: volume.clone(), node: node.clone() };
            agent.ask(async |c| c.copy_add(request).await).await?;
            (Wish { volume, on: Some(node), off: None }, wait)
        }
        CopyCommand::Remove { volume, node, yes, wait } => {
            output::confirm(&format!("this deletes the copy of {volume} on {node}"), "yes", yes)?;
            let request = pb::CopyRemoveRequest { volume: volume.clone(), node: node.clone() };
            agent.ask(async |c| c.copy_remove(request).await).await?;
            (Wish { volume, on: None, off: Some(node) }, wait)
        }
        CopyCommand::Replace { volume, old, new, yes, wait } => {
            // With another node the old copy stays until the new one counts.
            if old == new {
                let what = format!("this throws the copy of {volume} on {old} away, and makes it anew from the others");
                output::confirm(&what, "yes", yes)?;
            }
            let request = pb::CopyReplaceRequest { volume: volume.clone(), old: old.clone(), new: new.clone() };
            agent.ask(async |c| c.copy_replace(request).await).await?;
            let off = (old != new).then_some(old);
            (Wish { volume, on: Some(new), off }, wait)
        }
    };
    let reached = if no_wait { None } else { Some(wait_for(agent, &wish).await?) };
    let reached = reached.as_ref();
    output::print(output, || output::copies_json(&wish, reached), || output::copies_text(&wish, reached));
    Ok(())
}

/// What keeps it is told on stderr, so that stdout stays the answer's: as a bar on a terminal, elsewhere in a sentence whenever that changes.
async fn wait_for(agent: &mut Agent<'_>, wish: &Wish) -> Result<pb::Volume, CliError> {
    let limit = agent.limit.unwrap_or(FILLING);
    let start = Instant::now();
    let (mut told, mut progress, mut filling) = (String::new(), Progress::new(), Filling::default());
    loop {
        let volume = agent.volume(&wish.volume).await?;
        let Some(lacks) = wish.lacks(&volume) else { return Ok(volume) };
        if let Some(why) = wish.hopeless(&volume) {
            return Err(CliError::Hopeless(why));
        }
        if start.elapsed() >= limit {
            let what = format!("the copies of {} are to change, expected that to be done", wish.volume);
            return Err(CliError::Unfinished { what, limit, found: lacks, volume: wish.volume.clone() });
        }
        if !progress.is_shown() && lacks != told {
            eprintln!("{lacks}");
            told.clone_from(&lacks);
        }
        progress.show(|| wish.step(&volume, &mut filling, lacks));
        sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(node: &str, role: &str, state: &str, note: &str) -> pb::Copy {
        let text = str::to_owned;
        pb::Copy { node: text(node), role: text(role), state: text(state), note: text(note), ..pb::Copy::default() }
    }

    #[test]
    fn a_replacement_is_done_when_the_new_copy_counts_and_the_old_one_does_not() {
        let wish = Wish { volume: "v".to_owned(), on: Some("n4".to_owned()), off: Some("n3".to_owned()) };
        let of = |copies: Vec<pb::Copy>| wish.lacks(&pb::Volume { copies, ..pb::Volume::default() });
        let old = || copy("n3", "secondary", "leaving", "goes once the copies that join count");
        assert!(of(vec![old()]).unwrap().contains("n4 holds no copy"));
        let lacks = of(vec![old(), copy("n4", "learner", "joining", "lacks 7 of 9 records")]).unwrap();
        assert_eq!(lacks, "the copy on n4 is joining: lacks 7 of 9 records");
        assert!(of(vec![old(), copy("n4", "learner", "healthy", "")]).is_some(), "a learner counts for nothing");
        assert!(of(vec![old(), copy("n4", "secondary", "healthy", "")]).unwrap().contains("n3 is leaving"));
        assert_eq!(of(vec![copy("n3", "secondary", "deleting", ""), copy("n4", "secondary", "healthy", "")]), None);
        assert_eq!(of(vec![copy("n4", "primary", "healthy", "")]), None);
    }

    #[test]
    fn a_bar_is_of_the_copy_that_is_to_count() {
        let wish = Wish { volume: "v".to_owned(), on: Some("n4".to_owned()), off: Some("n3".to_owned()) };
        let mut filling = Filling::default();
        let mut step =
            |copies| wish.step(&pb::Volume { copies, ..Default::default() }, &mut filling, "it waits".to_owned());
        let mut new = copy("n4", "learner", "joining", "");
        assert_eq!(step(vec![new.clone()]), Step::waiting("it waits"), "nothing is known of it");
        let resync = pb::Resync { source: "n1".to_owned(), done_bytes: 1, total_bytes: 2, ..Default::default() };
        new.resync = Some(resync.clone());
        let shown = step(vec![new]);
        assert_eq!(
            (shown.done, shown.all, shown.notes),
            (1, 2, vec!["the copy on n4 is joining, from the one on n1".to_owned()])
        );
        let old = pb::Copy { resync: Some(resync), ..copy("n3", "secondary", "leaving", "") };
        assert_eq!(step(vec![old, copy("n4", "secondary", "healthy", "")]), Step::waiting("it waits"), "it counts");
    }
}
