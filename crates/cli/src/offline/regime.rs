//! `holdfast control`: says what a recovery of the control plane would mean, asks, and does it.

use crate::args::{ControlCommand, ControlRecoverArgs, ControlRejoinArgs, Output};
use crate::error::CliError;
use crate::output;
use holdfast_agent::offline::{self, ControlFiles, ControlPlan, OtherVoter, VolumeProspect};
use serde_json::{Value, json};
use std::fmt::Write;

pub(crate) fn control(command: &ControlCommand, output: Output) -> Result<(), CliError> {
    offline::hush_caught_panics();
    match command {
        ControlCommand::Recover(args) => recover(args, output),
        ControlCommand::Rejoin(args) => rejoin(args, output),
    }
}

fn recover(args: &ControlRecoverArgs, output: Output) -> Result<(), CliError> {
    let files = ControlFiles::open(&args.dir)?;
    let plan = files.plan(&args.lost, &args.other)?;
    if !args.accept_loss {
        output::print(output, || json_of(&plan, false), || text_of(&plan) + "\nNothing was done.\n");
        return Ok(());
    }
    if let Some(better) = plan.others.iter().find(|o| o.longer) {
        return Err(CliError::Unsafe(format!(
            "expected the longest log on {}, found a longer one on {}: recover there, so that nothing that it knows is lost",
            plan.node, better.node
        )));
    }
    // People read stderr; what is printed in the end is the answer.
    eprintln!("{}", text_of(&plan));
    output::confirm("this gives voters up for ever, as told above", &plan.cluster, args.yes)?;
    let recovery = files.recover(&args.lost)?;
    let (node, generation) = (&plan.node, recovery.generation);
    output::print(
        output,
        || json_of(&plan, true),
        || {
            format!(
                "{node} goes on alone as generation {generation} of the control plane. Start its agent, then the others that are left; look at \
                 `holdfast status`.\n"
            )
        },
    );
    Ok(())
}

fn rejoin(args: &ControlRejoinArgs, output: Output) -> Result<(), CliError> {
    let files = ControlFiles::open(&args.dir)?;
    if let Some(met) = files.superseded_by() {
        eprintln!(
            "The control plane was recovered as generation {} on node {} by {} on {}, and this node was given up. What it knows of the control \
             plane is set aside and counts no more; its copies stay.",
            met.generation, met.node, met.by.user, met.by.host
        );
        output::confirm("this node is to take part in that generation", "rejoin", args.yes)?;
    }
    let met = files.rejoin()?;
    let generation = met.generation.to_string();
    output::print(
        output,
        || rejoined_json(&generation),
        || format!("This node takes part in generation {generation} of the control plane. Start its agent.\n"),
    );
    Ok(())
}

fn json_of(plan: &ControlPlan, done: bool) -> Value {
    let mut value = serde_json::to_value(plan).expect("numbers and text are always JSON");
    value["done"] = done.into();
    value
}

fn rejoined_json(generation: &str) -> Value {
    json!({ "generation": generation })
}

/// An answer of each command, with a value for every field that has one.
#[cfg(test)]
pub(super) fn examples() -> [(&'static str, Value); 2] {
    let text = || "text".to_owned();
    let other = OtherVoter { node: text(), ends: Some((1, 1)), longer: false };
    let (epoch, by_itself) = (1, false);
    let prospect = VolumeProspect { name: text(), epoch, members: vec![text()], lost: vec![text()], by_itself };
    let plan = ControlPlan {
        cluster: text(),
        node: text(),
        generation: text(),
        superseded_by: Some(text()),
        next_generation: Some(text()),
        term: 1,
        index: 1,
        committed: 1,
        voters: vec![text()],
        lost: vec![text()],
        others: vec![other],
        go_over: vec![text()],
        volumes: vec![prospect],
        admits: true,
    };
    [("control recover", json_of(&plan, true)), ("control rejoin", rejoined_json("1"))]
}

fn text_of(plan: &ControlPlan) -> String {
    let ControlPlan { cluster, node, generation, term, index, committed, .. } = plan;
    let voters = plan.voters.join(", ");
    let mut out = format!(
        "Cluster {cluster}, node {node}, generation {generation} of the control plane. The voters are {voters}.\n\
         The log here ends with entry {index} of term {term}: {node}={term}/{index}. It is known here that {committed} of them were agreed on; those \
         behind may have been, so they count as well.\n"
    );
    if let Some(later) = &plan.superseded_by {
        let _ = writeln!(
            out,
            "This node was told that the control plane was recovered elsewhere, as generation {later}, and that it was given up. To go on here ends \
             that generation and what was agreed on in it; to take part in it: `holdfast control rejoin`."
        );
    }
    let Some(next) = &plan.next_generation else {
        out += "Name the voters that are gone for ever with --lost to see what it would mean to go on without them.\n";
        return out;
    };
    let lost = plan.lost.join(", ");
    let _ = write!(
        out,
        "\nGiven up for ever: {lost}. {node} goes on as the only voter, as generation {next}.\n\
         Make sure that these hosts are off and stay off. If they come back, whoever has met generation {next} takes no word of them; among \
         themselves, and before they hear of it, they could still agree on something.\n\
         What {lost} agreed on without {node} is lost, and can't be known here: volumes and nodes made or removed, copies added or taken away, limits \
         and sizes. Join tokens count no more.\n"
    );
    others(&mut out, &plan.others);
    if !plan.go_over.is_empty() {
        let _ = writeln!(out, "Go over by themselves once they reach {node}: {}.", plan.go_over.join(", "));
    }
    if !plan.admits {
        let _ = writeln!(
            out,
            "The cluster's key (cluster/ca.key) is not on {node}: if it was lost with another node, no new node can join and no certificate be \
             renewed; put it back from a backup."
        );
    }
    volumes(&mut out, &plan.volumes);
    out
}

fn others(out: &mut String, others: &[OtherVoter]) {
    for other in others {
        let node = &other.node;
        let _ = match other.ends {
            Some(_) if other.longer => writeln!(out, "{node} is left and has a longer log: recover there instead."),
            Some(_) => writeln!(out, "{node} is left and has no longer log: start its agent after this one."),
            None => writeln!(
                out,
                "{node} is left, too, and may have a longer log: run `holdfast control recover DIR` there, and say with --other what it shows. \
                 Recover on one of them alone."
            ),
        };
    }
}

fn volumes(out: &mut String, volumes: &[VolumeProspect]) {
    if volumes.is_empty() {
        return;
    }
    *out += "\nEvery volume is opened anew, after asking its members:\n";
    for v in volumes {
        let (name, members, lost) = (&v.name, v.members.join(", "), v.lost.join(", "));
        let _ = match (v.lost.is_empty(), v.by_itself) {
            (true, _) => writeln!(out, "  {name}: {members} answer for all of it, nothing acknowledged is lost"),
            (false, true) => writeln!(
                out,
                "  {name}: of {members} {lost} would be lost; the others are enough, unless somebody forced a recovery of this volume that {name} \
                 is not known here to have had"
            ),
            (false, false) => writeln!(
                out,
                "  {name}: of {members} {lost} would be lost, which may hold acknowledged writes that nobody else holds: it waits until you \
                 decide, with `holdfast failover {name} --force --accept-loss`"
            ),
        };
    }
}
