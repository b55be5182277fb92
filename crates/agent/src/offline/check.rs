//! `fsck`: everything that can be told of a directory, changing nothing.

use super::control::Known;
use super::engine::{Depth, Engine, Piece};
use super::headers::{self, Seen};
use super::orphans;
use super::ranges::Ranges;
use super::repair::Repair;
use super::report::{JournalReport, Report, SegmentReport, VolumeReport};
use super::tables::{AtCheckpoint, Part};
use super::{OfflineError, Place, Progress};
use holdfast_cluster::{Phase, State, Volume};
use holdfast_disk::Overlay;
use holdfast_format::{PAGE_PLACES_BYTES, Superblock, TableKind};
use holdfast_store::io::FileId;
use holdfast_types::{NodeId, OpenedCopy, REGION_BLOCKS, VolumeId};
use std::collections::BTreeSet;

/// Checks a directory. Of every copy that opens each block is read, what is to be zeros too; of every copy both tables whole.
///
/// # Errors
/// It could not be checked. What is wrong with it stands in the report.
pub fn check(place: &Place, progress: Progress<'_>) -> Result<Report, OfflineError> {
    let mut report = Report { dir: place.dir().display().to_string(), ..Report::default() };
    let known = place.paths.as_ref().map(Known::look).unwrap_or_default();
    let mut disk = Overlay::open(&place.shard)?;
    report.notes = notes(&disk);
    let volumes: BTreeSet<VolumeId> = disk.volumes().filter(|v| place.only.is_none_or(|only| only == *v)).collect();
    // Before the store mends them.
    let mut seen: Vec<(VolumeId, Seen, Vec<_>)> = Vec::new();
    for volume in &volumes {
        let superblock = headers::superblock(&mut disk, *volume);
        seen.push((*volume, superblock, orphans::look(&mut disk, *volume)));
    }
    let newer = headers::unknown_journal_version(&mut disk);
    let mut raw = disk.open_again()?;
    let mut engine = Engine::start(disk, place.shard.clone(), false)?;
    report.journal = journal(&engine, &mut raw, newer, &mut report.repairs);
    let mut meter = Meter { done: 0, total: engine.opened.values().map(|c| c.size().blocks().0).sum(), tell: progress };
    for (volume, seen, orphans) in seen {
        let mut one = VolumeReport { id: volume.0, name: known.name(volume), orphans, ..VolumeReport::default() };
        let mut looker = Looker { engine: &mut engine, raw: &mut raw, known: &known, meter: &mut meter };
        report.repairs.extend(looker.copy(&mut one, volume, seen)?);
        report.volumes.push(one);
    }
    if let (Some(state), Some(me)) = (&known.state, known.me) {
        compare(&mut report, state, me, &engine);
    }
    report.control = place.paths.as_ref().map(|_| known.report);
    report.clean = report.problems().count() == 0;
    Ok(report)
}

struct Meter<'a> {
    done: u64,
    total: u64,
    tell: Progress<'a>,
}

impl Meter<'_> {
    fn add(&mut self, blocks: u64) {
        self.done += blocks;
        (self.tell)(self.done, self.total);
    }
}

fn notes(disk: &Overlay) -> Vec<String> {
    let unfinished = disk
        .unfinished()
        .iter()
        .map(|path| format!("{}: its creation never ended; the agent removes it when it starts", path.display()));
    let strays = disk.strays().iter().map(|path| format!("{}: none of the agent's files", path.display()));
    unfinished.chain(strays).collect()
}

fn journal(engine: &Engine, raw: &mut Overlay, newer: Option<u16>, repairs: &mut Vec<Repair>) -> JournalReport {
    let mut report = JournalReport::default();
    if let Some(version) = newer {
        report.problems.push(format!(
            "a segment has format version {version}, which this holdfast does not know; use the holdfast that wrote it"
        ));
    }
    // What a newer version wrote looks damaged to this one.
    let broken = engine.broken.as_ref().filter(|_| newer.is_none());
    report.problems.extend(broken.map(|why| format!("{why}; put the original file back if there is one")));
    report.problems.extend(engine.findings().unreadable.iter().map(|(slot, error)| {
        let path = raw.path(FileId::Segment(*slot));
        format!(
            "{} can't be read: {error}; the journal does not need it, and the agent makes it anew, but watch the device",
            path.display()
        )
    }));
    let Some(found) = &engine.findings().journal else { return report };
    report.id = Some(format!("{:016x}", found.id));
    report.life = found.life;
    report.segments = found
        .segments
        .iter()
        .map(|s| SegmentReport {
            file: raw.path(FileId::Segment(s.slot)).display().to_string(),
            generation: s.generation,
            frames: s.frames,
            records: s.records,
            damaged: s.damaged,
        })
        .collect();
    for lost in &found.lost {
        let what = if lost.records == 0 {
            "holds a record that does".to_owned()
        } else {
            format!("and what is missing before it (at most {} records) do", lost.records)
        };
        report
            .problems
            .push(format!("frame {} of life {} was durable, {what} not match its checksum", lost.last, lost.life));
    }
    let seen = headers::journal(raw, &found.segments);
    report.problems.extend(seen.problems);
    repairs.extend(seen.repairs);
    report
}

/// What is needed to look at one copy.
struct Looker<'a, 'p> {
    engine: &'a mut Engine,
    /// The directory as it is, without what the recovery wrote.
    raw: &'a mut Overlay,
    known: &'a Known,
    meter: &'a mut Meter<'p>,
}

impl Looker<'_, '_> {
    /// What its superblock says, whether it opens, every block.
    fn copy(&mut self, report: &mut VolumeReport, volume: VolumeId, seen: Seen) -> Result<Vec<Repair>, OfflineError> {
        report.problems = seen.problems;
        report.notes = seen.notes;
        if let Some(sb) = &seen.superblock {
            report.size = Some(sb.size.bytes());
            report.incarnation = Some(sb.incarnation.to_string());
            report.promised = Some(sb.promised.0);
            report.epochs = sb.table.entries().iter().map(|(epoch, first)| (epoch.0, first.0)).collect();
            (report.checkpoint, report.committed) = (Some(sb.checkpoint.0), Some(sb.committed.0));
            report.settled = sb.merging.is_none();
            if let Some(next) = sb.merging {
                report.notes.push(format!(
                    "it was resynced by regions, and those from block {} on may not be in the image yet: they are read from side.raw, and the \
                     agent moves them when it runs; keep side.raw and side-regions.tab with the image",
                    next.0 * REGION_BLOCKS
                ));
            }
        }
        for orphan in report.orphans.iter().filter(|o| !o.whole) {
            report.problems.push(format!("the orphan {} can't be read to its end", orphan.file));
        }
        if self.engine.findings().leftovers.contains(&volume) {
            leftover(report, volume, self.known);
        } else if let Some(copy) = self.engine.opened.get(&volume).cloned() {
            opened(report, &copy);
            // The superblock says what it was at the checkpoint.
            report.size = Some(copy.size().bytes());
            self.blocks(report, volume)?;
        } else {
            report.problems.push(self.engine.reason(volume));
            if seen.superblock.is_some() {
                let way = "`holdfast export --at-checkpoint` brings out what was in the image at the last checkpoint, without the journal";
                report.notes.push(way.to_owned());
            }
        }
        if let Some(sb) = seen.superblock.as_ref().filter(|_| !self.engine.findings().leftovers.contains(&volume)) {
            self.tables(report, sb)?;
        }
        Ok(seen.repairs)
    }

    /// Both tables whole, as the checkpoint left them: the recovery reads a page when it needs it, and an agent may need it in months.
    fn tables(&mut self, report: &mut VolumeReport, sb: &Superblock) -> Result<(), OfflineError> {
        for (kind, name) in [(TableKind::Blocks, "blocks.tab"), (TableKind::Regions, "regions.tab")] {
            let mut bad = Ranges::default();
            AtCheckpoint { disk: self.raw, sb }.table(kind, &mut |_, part| {
                if let Part::Bad(page, ..) = part {
                    bad.add(page.offset() / PAGE_PLACES_BYTES);
                }
                Ok(())
            })?;
            if !bad.is_empty() {
                report.problems.push(format!(
                    "pages of {name} that hold in neither of their two places what the checkpoint wrote, numbered from the file's \
                     beginning, {}: the copy fails when it needs one; replace it",
                    bad.numbers()
                ));
            }
        }
        Ok(())
    }

    fn blocks(&mut self, report: &mut VolumeReport, volume: VolumeId) -> Result<(), OfflineError> {
        let meter = &mut *self.meter;
        // What a switch has not cut off yet lies behind the end, and regions that wait in the side area may be zeros there.
        let depth = if report.settled { Depth::Zeros } else { Depth::Content };
        let result = self.engine.walk(volume, depth, &mut |piece| {
            match piece {
                Piece::Hole(run) => meter.add(run.count.0),
                Piece::NotZero(block) => {
                    report.not_zero.add(block);
                    meter.add(1);
                }
                Piece::Data(run, _) => {
                    report.data_blocks += run.count.0;
                    meter.add(run.count.0);
                }
                Piece::Bad(block) => {
                    report.data_blocks += 1;
                    report.bad.add(block);
                    meter.add(1);
                }
            }
            Ok(())
        });
        match result {
            Err(OfflineError::Unusable { reason, .. }) => {
                report.opens = false;
                report.problems.push(reason);
            }
            other => other?,
        }
        if !report.bad.is_empty() {
            report.problems.push(format!("blocks that do not match their checksum, {}", report.bad));
        }
        if !report.not_zero.is_empty() {
            report.problems.push(format!(
                "blocks that are to be zeros, and are not for whoever reads image.raw without the agent, {}; guests read zeros, and the \
                 agent's scrub makes them so",
                report.not_zero
            ));
        }
        Ok(())
    }
}

/// Files whose superblock says that nothing of them counts: of a creation or a deletion that never ended.
fn leftover(report: &mut VolumeReport, volume: VolumeId, known: &Known) {
    let counted = known.state.as_ref().zip(known.me).is_some_and(|(state, me)| {
        state.volumes().find(|v| v.id == volume).is_some_and(|volume| registered(volume, me).is_some())
    });
    if counted {
        report.problems.push(
            "its superblock says that it was being made or deleted, and the cluster counts it as a copy: the files belong to another \
             node or another time; replace the copy"
                .to_owned(),
        );
    } else {
        report
            .notes
            .push("its creation or deletion never ended; the agent removes its files when it starts".to_owned());
    }
}

fn opened(report: &mut VolumeReport, copy: &OpenedCopy) {
    report.opens = true;
    (report.checkpoint, report.committed) = (Some(copy.checkpoint.0), Some(copy.committed.0));
    report.durable = Some(copy.last.0);
    report.digest = Some(format!("{:016x}", copy.digest));
    report.unknown_to = copy.unknown_to.map(|lsn| lsn.0);
    if let Some(lost) = copy.unknown_to {
        report.problems.push(format!(
            "records after {}, up to {lost} at most, were durable here and can't be read; another copy has what was acknowledged \
             of them",
            copy.last
        ));
    }
    if copy.commit_hint > copy.last {
        let hint = copy.commit_hint;
        report.problems.push(format!("record {hint} was committed, and this copy ends at {}", copy.last));
    }
}

/// What the control plane's log expects on this disk.
fn compare(report: &mut Report, state: &State, me: NodeId, engine: &Engine) {
    for one in &mut report.volumes {
        let id = VolumeId(one.id);
        match state.volumes().find(|v| v.id == id) {
            Some(volume) => {
                let (expected, found) = (registered(volume, me), engine.opened.get(&id).map(|c| c.incarnation));
                if let (Some(expected), Some(found)) = (expected, found)
                    && expected != found
                {
                    one.problems.push(format!(
                        "the cluster counts a copy of incarnation {expected} on this node, this one is {found}: it was replaced, or \
                         it belongs to another node or cluster"
                    ));
                }
            }
            None => one.notes.push("the control plane's log of this node knows no such volume".to_owned()),
        }
    }
    let here: BTreeSet<u64> = report.volumes.iter().map(|v| v.id).collect();
    for volume in state.volumes().filter(|v| registered(v, me).is_some() && !here.contains(&v.id.0)) {
        let mut one = VolumeReport { id: volume.id.0, name: Some(volume.name.clone()), ..VolumeReport::default() };
        one.problems.push("the cluster counts a copy on this node, and it is not here".to_owned());
        report.volumes.push(one);
    }
    report.volumes.sort_by_key(|v| v.id);
}

fn registered(volume: &Volume, me: NodeId) -> Option<holdfast_types::Incarnation> {
    matches!(volume.phase, Phase::Open { .. }).then(|| volume.incarnation(me)).flatten()
}
