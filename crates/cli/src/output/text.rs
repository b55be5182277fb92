//! Tables and sentences.

use super::screen::{Tone, paint};
use super::table::Rows;
use crate::commands::{Duty, Wish};
use crate::units;
use holdfast_agent::admin::pb;
use std::fmt::Write;
use std::time::Duration;

/// What is not known.
const UNKNOWN: &str = "-";

pub(crate) fn status_text(status: &pb::StatusResponse) -> String {
    let leader = if status.leader.is_empty() { "none" } else { &status.leader };
    let mut out = format!(
        "cluster {}, version {}, leader {leader}, answered by {}\n",
        status.cluster, status.version, status.answered_by
    );
    if let Some(r) = status.recoveries.last() {
        let (at, lost) = (units::time(r.unix_ms), r.given_up.join(", "));
        let _ = writeln!(
            out,
            "control plane of generation {}, recovered on {} at {at} by {} on {}; {lost} were given up",
            r.generation, r.node, r.user, r.host
        );
    }
    if !status.version_held.is_empty() {
        let _ = writeln!(out, "{}", status.version_held);
    }
    out += &warnings("", &status.r#unsafe);
    let _ = writeln!(out, "\n{}", nodes_text(&status.nodes));
    match status.volumes.as_slice() {
        [] => out += "\nno volumes; create one with: holdfast volume create NAME --size SIZE\n",
        [one] => out += &format!("\n{}", volume_text(one)),
        many => {
            let _ = writeln!(out, "\n{}", volumes_table(many));
            for volume in many {
                out += &warnings(&format!("{}: ", volume.name), &volume.r#unsafe);
            }
        }
    }
    out
}

/// The table, and what becomes of the copies on nodes that are to hold none.
pub(crate) fn nodes_text(nodes: &[pb::Node]) -> String {
    let mut out = nodes_table(nodes);
    for node in nodes {
        for note in &node.notes {
            let _ = write!(out, "\n{} is to be {}: {note}", node.name, node.wanted);
        }
    }
    out
}

pub(crate) fn duty_text(name: &str, duty: Duty, done: bool) -> String {
    match (duty, done) {
        (Duty::InService, _) => format!("{name} is in service"),
        (Duty::Drained, true) => format!("{name} is drained: it holds no copy that counts"),
        (Duty::Drained, false) => format!("{name} is to be drained. See: holdfast node list"),
        (Duty::Removed, true) => {
            format!("{name} was removed from the cluster; its data directory is of no use any more")
        }
        (Duty::Removed, false) => format!("{name} is to be removed. See: holdfast node list"),
    }
}

fn nodes_table(nodes: &[pb::Node]) -> String {
    let mut table = Rows::new(&["node", "state", "raft", "address", "domain", "copies", "primaries", "speaks"]);
    for node in nodes {
        let raft = match (node.leader, node.voter, node.witness) {
            (true, _, false) => "leader",
            (true, _, true) => "leader, witness",
            (false, true, false) => "voter",
            (false, true, true) => "witness",
            (false, false, _) => UNKNOWN,
        };
        let wish = match (node.wanted.as_str(), node.copies_left + node.primaries) {
            ("drained", 0) => ", drained",
            ("drained", _) => ", draining",
            ("removed", _) => ", to be removed",
            _ => "",
        };
        let state = format!("{}{wish}", node.state);
        let (copies, primaries) = (node.copies.to_string(), node.primaries.to_string());
        let speaks = speaks(node);
        let row = [&node.name, state.as_str(), raft, &node.address, &node.failure_domain, &copies, &primaries, &speaks];
        table.add(row);
    }
    table.to_string()
}

/// The versions, and the build where it has told.
fn speaks(node: &pb::Node) -> String {
    let versions = match (node.speaks_oldest, node.speaks_newest) {
        (_, 0) => return UNKNOWN.to_owned(),
        (oldest, newest) if oldest == newest => newest.to_string(),
        (oldest, newest) => format!("{oldest}-{newest}"),
    };
    if node.build.is_empty() { versions } else { format!("{versions} ({})", node.build) }
}

pub(crate) fn volumes_table(volumes: &[pb::Volume]) -> String {
    let mut table = Rows::new(&["volume", "size", "state", "primary", "epoch", "quorum", "durability"]);
    for volume in volumes {
        let row = [
            volume.name.clone(),
            size(volume),
            volume.state.clone(),
            known(&volume.primary),
            volume.epoch.to_string(),
            format!("{} of {}", volume.quorum, counting(volume)),
            volume.durability.clone(),
        ];
        table.add(row);
    }
    table.to_string()
}

/// What guests see, and what they are to see.
fn size(volume: &pb::Volume) -> String {
    let now = units::bytes(volume.size);
    volume.size_wanted.map_or_else(|| now.clone(), |wanted| format!("{now} (to be {})", units::bytes(wanted)))
}

pub(crate) fn volume_text(volume: &pb::Volume) -> String {
    let mut out = format!(
        "volume {}: {}, {}, {}, epoch {}, a write needs {} of {} copies\n",
        volume.name,
        paint(&volume.state, Tone::of(&volume.state)),
        size(volume),
        volume.durability,
        volume.epoch,
        volume.quorum,
        counting(volume),
    );
    match volume.degraded.as_str() {
        "allow" => out += "while one copy is gone, the other one goes on alone (--degraded allow)\n",
        "stall" => out += "while one copy is gone, writes wait for it (--degraded stall)\n",
        _ => {}
    }
    if volume.pending_epoch != 0 {
        let _ = writeln!(out, "epoch {} is claimed by {}", volume.pending_epoch, known(&volume.pending_primary));
    }
    out += &attach(volume);
    out += &granted(volume);
    if let Some(bytes) = volume.exposed_bytes.filter(|n| *n > 0) {
        let (seconds, sum) = (volume.exposed_seconds.unwrap_or(0), volume.exposure.unwrap_or(0));
        let _ = writeln!(out, "exposed: {bytes} bytes have too few copies for {seconds} s; so far {sum} byte-seconds");
    }
    if let Some(clients) = volume.clients.filter(|n| *n > 0) {
        let _ = writeln!(out, "clients attached: {clients}");
    }
    out += &warnings("", &volume.r#unsafe);
    let mut table = Rows::new(&["copy on", "role", "state", "durable", "applied", "digest", "behind"]);
    for copy in &volume.copies {
        let row = [
            copy.node.clone(),
            if copy.role == "unknown" { UNKNOWN.to_owned() } else { copy.role.clone() },
            copy.state.clone(),
            number(copy.durable_lsn),
            number(copy.applied_lsn),
            known(&copy.digest),
            behind(copy),
        ];
        table.add(row);
    }
    let _ = writeln!(out, "{table}");
    for copy in volume.copies.iter().filter(|copy| !copy.note.is_empty()) {
        let _ = writeln!(out, "the copy on {} is {}: {}", copy.node, copy.state, copy.note);
    }
    out += &super::receipts_text(volume);
    out + &super::integrity_lines(volume)
}

/// How many copies a quorum is of.
fn counting(volume: &pb::Volume) -> usize {
    let counts = |copy: &&pb::Copy| !matches!(copy.role.as_str(), "learner" | "aside") && copy.state != "deleting";
    match volume.copies.iter().filter(counts).count() {
        // The volume itself is being deleted.
        0 => volume.copies.len(),
        counting => counting,
    }
}

pub(crate) fn copies_text(wish: &Wish, reached: Option<&pb::Volume>) -> String {
    if let Some(reached) = reached {
        return volume_text(reached);
    }
    let on = wish.on.as_ref().map(|node| format!("a copy on {node}"));
    let off = wish.off.as_ref().map(|node| format!("none on {node}"));
    let wish_words: Vec<String> = on.into_iter().chain(off).collect();
    format!("{0} is to have {1}. See: holdfast status {0}", wish.volume, wish_words.join(" and "))
}

pub(crate) fn restart_text(answer: &pb::NodeRestartResponse) -> String {
    let pb::NodeRestartResponse { node, primaries, within_seconds } = answer;
    format!(
        "the agent of {node} answers what is in flight and ends; {primaries} volumes that it leads wait up to {within_seconds} s for its \
         next start"
    )
}

pub(crate) fn token_text(token: &pb::TokenCreateResponse) -> String {
    format!(
        "On the new node, once, before {} UTC:\n\n  holdfast join {} --token-file - --config FILE\n\n\
         and this, when it asks for the token:\n\n  {}\n",
        units::time(token.expires_unix_ms),
        token.address,
        token.token,
    )
}

pub(crate) fn deleted_text(volume: &str, silent: &[String]) -> String {
    match silent {
        [] => format!("volume {volume} is deleted"),
        silent => format!(
            "volume {volume} is being deleted; the copies on nodes that do not answer go when those return: {}",
            silent.join(", ")
        ),
    }
}

pub(crate) fn failover_text(volume: &str, answer: &pb::FailoverResponse, reached: Option<&pb::Volume>) -> String {
    if answer.from == answer.to {
        let epoch = reached.map_or(answer.epoch, |v| v.epoch);
        let at = reached.map_or_else(String::new, |v| format!("\n{}", attach(v)));
        return format!("{volume}: {} is primary already, in epoch {epoch}; nothing was to be done{at}", answer.to);
    }
    if let Some(reached) = reached {
        let (primary, epoch) = (&reached.primary, reached.epoch);
        let head = format!(
            "{volume}: {primary} is primary in epoch {epoch}, it was {} in epoch {}",
            known(&answer.from),
            answer.epoch
        );
        let wish = if *primary == answer.to { String::new() } else { format!("; {} was asked for", answer.to) };
        return format!("{head}{wish}\n{}", attach(reached));
    }
    let from = if answer.from.is_empty() { "no primary" } else { &answer.from };
    let how = if answer.planned { "drains and hands over" } else { "is not waited for" };
    format!("{volume}: {} becomes primary; {from} {how}. See: holdfast status {volume}", answer.to)
}

pub(crate) fn event_line(event: &pb::Event) -> String {
    let about = if event.volume.is_empty() { String::new() } else { format!(" {}:", event.volume) };
    format!("{}  {:<8} {:<16}{about} {}", units::time(event.unix_ms), event.node, event.kind, event.message)
}

/// The socket lies on the primary's node; any other one can only say which node that is.
fn attach(volume: &pb::Volume) -> String {
    let (name, primary) = (&volume.name, &volume.primary);
    match (volume.nbd_socket.as_str(), primary.is_empty()) {
        ("", true) => String::new(),
        ("", false) => {
            format!("attach on {primary} at nbd+unix:///{name}?socket=NBD_DIR/{name}.sock (its listen.nbd_dir)\n")
        }
        (socket, _) => format!("attach on {primary} at nbd+unix:///{name}?socket={socket}\n"),
    }
}

/// What its guests are granted, where that is not what is usual.
fn granted(volume: &pb::Volume) -> String {
    let mut out = String::new();
    if let Some(limits) = &volume.limits {
        let iops = (limits.iops != 0).then(|| format!("{} requests per second", units::count(limits.iops)));
        let bytes = (limits.bytes_per_second != 0).then(|| format!("{}/s", units::bytes(limits.bytes_per_second)));
        let both: Vec<String> = iops.into_iter().chain(bytes).collect();
        let burst = units::duration(Duration::from_millis(limits.burst_ms));
        let _ = writeln!(out, "limited to {}; {burst} of that may be used at once", both.join(" and "));
    }
    if let Some(socket) = &volume.socket_access {
        let (owner, group) = (known(&socket.owner), known(&socket.group));
        let _ = writeln!(out, "socket: owner {owner}, group {group}, mode {:04o}", socket.mode);
    }
    out
}

fn warnings(prefix: &str, sentences: &[String]) -> String {
    sentences.iter().map(|sentence| format!("{} {prefix}{sentence}\n", paint("UNSAFE", Tone::Bad))).collect()
}

fn behind(copy: &pb::Copy) -> String {
    match (copy.lag_bytes, copy.lag_seconds) {
        // In step, or so short behind that records say more.
        (None, None) | (Some(0), Some(0.0)) => match copy.lag_lsn {
            None => UNKNOWN.to_owned(),
            Some(1) => "1 record".to_owned(),
            Some(records) => format!("{} records", units::count(records)),
        },
        (Some(bytes), None) => units::bytes(bytes),
        (bytes, Some(seconds)) => {
            let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
            format!("{}, {}", bytes.map_or_else(|| UNKNOWN.to_owned(), units::bytes), units::duration(time))
        }
    }
}

pub(super) fn known(text: &str) -> String {
    if text.is_empty() { UNKNOWN.to_owned() } else { text.to_owned() }
}

fn number(number: Option<u64>) -> String {
    number.map_or_else(|| UNKNOWN.to_owned(), |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str) -> pb::Volume {
        let why = format!("the copy on n2 of {name} has failed: it is worn out");
        pb::Volume {
            name: name.to_owned(),
            state: "degraded".to_owned(),
            reason: why.clone(),
            r#unsafe: vec![why],
            copies: vec![pb::Copy { node: "n2".to_owned(), state: "failed".to_owned(), ..Default::default() }],
            ..Default::default()
        }
    }

    #[test]
    fn what_is_wrong_is_said_once() {
        let one = pb::StatusResponse { volumes: vec![volume("vm1")], ..Default::default() };
        let many = pb::StatusResponse { volumes: vec![volume("vm1"), volume("vm2")], ..Default::default() };
        for said in [status_text(&one), status_text(&many), volume_text(&volume("vm1"))] {
            assert_eq!(said.matches("the copy on n2 of vm1 has failed: it is worn out").count(), 1, "{said}");
            assert!(said.contains("UNSAFE"), "{said}");
        }
    }

    #[test]
    fn a_failover_to_the_primary_says_that_nothing_was_done() {
        let answer =
            |from: &str| pb::FailoverResponse { epoch: 4, from: from.to_owned(), to: "n1".to_owned(), planned: false };
        let led = pb::Volume { primary: "n1".to_owned(), epoch: 5, ..volume("vm1") };
        assert!(
            failover_text("vm1", &answer("n1"), Some(&led))
                .starts_with("vm1: n1 is primary already, in epoch 5; nothing")
        );
        assert_eq!(
            failover_text("vm1", &answer("n1"), None),
            "vm1: n1 is primary already, in epoch 4; nothing was to be done"
        );
        assert!(
            failover_text("vm1", &answer("n2"), Some(&led)).starts_with("vm1: n1 is primary in epoch 5, it was n2")
        );
    }
}
