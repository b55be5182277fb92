//! Findings in words.

use crate::units;
use holdfast_agent::offline::{Exported, JournalReport, OrphanReport, Report, VolumeReport};
use std::fmt::Write;

const BLOCK: u64 = 4096;

pub(super) fn report(report: &Report, repaired: &[String], asked: bool) -> String {
    let mut out = format!("{}\n", report.dir);
    if let Some(control) = &report.control {
        let node = control.node.as_deref().unwrap_or("a node that can't be told");
        let volumes = control.volumes.map_or_else(|| "no state of the cluster".to_owned(), |n| count(n, "volume"));
        let _ = writeln!(out, "control plane: {node}, {volumes}");
        problems(&mut out, &control.problems);
    }
    journal(&mut out, &report.journal);
    for volume in &report.volumes {
        out.push('\n');
        one(&mut out, volume);
    }
    if !report.notes.is_empty() {
        out.push('\n');
    }
    report.notes.iter().for_each(|note| line(&mut out, "note: ", note));
    out.push('\n');
    repaired.iter().for_each(|what| line(&mut out, "done: ", what));
    let wrong = report.problems().count();
    if wrong == 0 {
        return out + "clean\n";
    }
    let mendable: Vec<&str> = report.repairs().collect();
    let _ = writeln!(out, "{}", count(wrong, "problem"));
    if asked && mendable.is_empty() {
        out += "nothing of this can be repaired here without another copy\n";
    }
    mendable.iter().for_each(|what| line(&mut out, "--repair would ", what));
    out
}

fn line(out: &mut String, head: &str, text: &str) {
    let _ = writeln!(out, "{head}{text}");
}

fn problems(out: &mut String, all: &[String]) {
    all.iter().for_each(|problem| line(out, "  DAMAGED ", problem));
}

fn journal(out: &mut String, journal: &JournalReport) {
    match &journal.id {
        Some(id) => {
            let (frames, records) =
                (journal.segments.iter().map(|s| s.frames).sum(), journal.segments.iter().map(|s| s.records).sum());
            let segments = count(journal.segments.len(), "segment");
            let (frames, records) = (units::count(frames), units::count(records));
            let _ =
                writeln!(out, "journal {id}: life {}, {segments}, {frames} frames, {records} records", journal.life);
        }
        None if journal.problems.is_empty() => *out += "journal: none yet\n",
        None => *out += "journal: none that can be used\n",
    }
    for segment in journal.segments.iter().filter(|s| s.damaged) {
        let _ = writeln!(out, "  DAMAGED {} (generation {})", segment.file, segment.generation);
    }
    problems(out, &journal.problems);
}

fn one(out: &mut String, volume: &VolumeReport) {
    let size = volume.size.map_or_else(|| "size unknown".to_owned(), units::bytes);
    let opens = if volume.opens { "opens" } else { "does not open" };
    let _ = writeln!(out, "volume {} (v{}): {size}, {opens}", volume.called(), volume.id);
    if let (Some(incarnation), Some(promised)) = (&volume.incarnation, volume.promised) {
        let epochs: Vec<String> =
            volume.epochs.iter().map(|(epoch, first)| format!("{epoch} from record {first}")).collect();
        let epochs = if epochs.is_empty() { "no records".to_owned() } else { epochs.join(", ") };
        let _ = writeln!(out, "  incarnation {incarnation}; epoch {promised} is promised; epochs: {epochs}");
    }
    if let (Some(checkpoint), Some(committed)) = (volume.checkpoint, volume.committed) {
        let durable = volume.durable.map_or_else(|| "unknown".to_owned(), |n| n.to_string());
        let _ = writeln!(
            out,
            "  records: in the image {checkpoint}, known to be committed {committed}, on this disk {durable}"
        );
    }
    if let (true, Some(digest)) = (volume.opens, &volume.digest) {
        let data = volume.data_blocks;
        let size = units::bytes(data.saturating_mul(BLOCK));
        let _ = writeln!(
            out,
            "  data: {size} in {} blocks, all read; digest {digest} at record {}",
            units::count(data),
            volume.committed.unwrap_or(0)
        );
    }
    volume.orphans.iter().for_each(|orphan| self::orphan(out, orphan));
    problems(out, &volume.problems);
    volume.notes.iter().for_each(|note| line(out, "  note: ", note));
}

fn orphan(out: &mut String, orphan: &OrphanReport) {
    let records = match orphan.records {
        None => "no record that can be read".to_owned(),
        Some((first, last)) => format!("records {first} to {last}"),
    };
    let (epoch, bytes) = (orphan.epoch, units::bytes(orphan.bytes));
    let _ =
        writeln!(out, "  orphan: {records} ({bytes}), cut when epoch {epoch} was adopted; they were never committed");
}

pub(super) fn exported(exported: &Exported) -> String {
    let (volume, file, size) = (&exported.volume, exported.file.display(), units::bytes(exported.size));
    let data = units::bytes(exported.data_blocks.saturating_mul(BLOCK));
    let mut out = format!(
        "{volume}: {size}, {data} of data, every block verified, written to {file}\nIt is the state at record {} of epoch {}",
        exported.upto, exported.last_epoch
    );
    if exported.at_checkpoint {
        let known = match exported.committed {
            last if last > exported.upto => format!(", up to record {last} at least,"),
            _ => String::new(),
        };
        out += &format!(
            ", the last checkpoint: the tail is missing. What came after record {}{known} may have been acknowledged and is not in it; the \
             journal was not looked at.\n",
            exported.upto
        );
        return out + OTHERS;
    }
    let unsure = (exported.upto > exported.committed).then_some((exported.committed + 1, exported.upto));
    out += &match unsure {
        None => ", all of which is known to be committed.\n".to_owned(),
        Some((first, last)) => format!(
            ". Records {first} to {last} are durable on this disk, and nothing here shows that they were acknowledged: the guest may \
             not have been told so.\n"
        ),
    };
    if exported.upto < exported.durable {
        let _ = writeln!(
            out,
            "Records {} to {} were left out: they may have been acknowledged, and --upto durable includes them.",
            exported.upto + 1,
            exported.durable
        );
    }
    out + OTHERS
}

const OTHERS: &str =
    "If any other copy of this volume survives, it may hold more, and what the cluster serves is what counts.\n";

/// What an export lacks, in words.
pub(super) fn lacks(exported: &Exported) -> String {
    let bad = (!exported.bad.is_empty())
        .then(|| format!("zeros stand for blocks that could not be verified, {}", exported.bad));
    let lost =
        exported.unknown_to.map(|upto| format!("records after {}, up to {upto} at most, are lost", exported.durable));
    let gap = exported.gap.as_ref().map(|why| {
        let last = exported.durable;
        format!("{why}; records after {last} may have been acknowledged and are not in it, and nobody knows how many")
    });
    [bad, lost, gap].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}
