//! A device that changes what it holds: bytes flip, writes are lost, go astray, or a file comes back as it was.
//!
//! Expected: detected, or harmless. What opens is a prefix of the log, reads are right or refused, and a log that is shorter than
//! what was durable says so; also at the start after that.

use crate::disk::{Astray, SimDisk};
use crate::medium::{Medium, to_u64, to_usize};
use crate::oracle::{Judgement, Volume};
use crate::rig::Rig;
use crate::workload::{Op, V1, V2, fill, prepare, small};
use holdfast_format::SegmentHeader;
use holdfast_store::StoreConfig;
use holdfast_store::io::FileId;
use holdfast_types::{Rng, VolumeId};
use std::collections::BTreeMap;
use std::time::Duration;

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RotTally {
    /// Damaged directories that were opened.
    pub damaged: u64,
    /// The journal or a copy was refused.
    pub refused: u64,
    /// A copy said that records are missing.
    pub shown: u64,
    /// A read was refused.
    pub unread: u64,
    /// Nothing was missing.
    pub harmless: u64,
}

impl RotTally {
    /// Both together.
    pub const fn add(&mut self, other: &RotTally) {
        self.damaged += other.damaged;
        self.refused += other.refused;
        self.shown += other.shown;
        self.unread += other.unread;
        self.harmless += other.harmless;
    }
}

/// What was on a device at rest: everything durable is proven.
struct Rest {
    medium: Medium,
    volumes: BTreeMap<VolumeId, Volume>,
    config: StoreConfig,
}

const SECONDS: Duration = Duration::from_secs(5);

/// The history whose writes go astray.
const HISTORY: [Op; 26] = [
    Op::Batch,
    Op::Checkpoint,
    Op::Zeroes,
    Op::Commit,
    Op::Adopt,
    Op::Write,
    Op::Recycle,
    Op::Checkpoint,
    Op::Recycle,
    Op::Write,
    Op::Cut,
    Op::Write,
    Op::Fetch,
    Op::Prove,
    Op::Switch,
    Op::Write,
    Op::Repair,
    Op::Resize,
    Op::Checkpoint,
    Op::Resize,
    Op::Write,
    Op::Delete,
    Op::Checkpoint,
    Op::Batch,
    Op::Commit,
    Op::Write,
];

fn rested(rig: &mut Rig<SimDisk>) -> Rest {
    rig.rest(SECONDS);
    Rest { medium: rig.device.cut().medium, volumes: rig.volumes.clone(), config: rig.config().clone() }
}

fn short() -> Rest {
    let mut rig = Rig::new(SimDisk::default(), &small(), 7);
    prepare(&mut rig, true);
    [Op::Batch, Op::Checkpoint, Op::Zeroes, Op::Commit, Op::Write].iter().for_each(|op| {
        op.apply(&mut rig);
        rig.drain();
    });
    rested(&mut rig)
}

/// A journal of a thousand records.
fn long() -> Rest {
    let config = StoreConfig { segment_bytes: 2 << 20, max_segments: 12, cache_bytes: 1 << 20, ..small() };
    let mut rig = Rig::new(SimDisk::default(), &config, 7);
    prepare(&mut rig, false);
    for n in 0..100 {
        fill(&mut rig, V1, 7);
        fill(&mut rig, V2, 3);
        rig.drain();
        if n == 50 {
            rig.commit(V1);
            rig.commit(V2);
            rig.rest(SECONDS);
        }
    }
    rested(&mut rig)
}

/// One byte in so many of every file, and of a long journal, changed.
///
/// # Errors
/// The first broken promise, in words.
pub fn rot_sweep(one_in: u64, seed: u64) -> Result<RotTally, String> {
    let mut tally = RotTally::default();
    let mut rng = Rng::new(seed);
    let small = short();
    sweep(&small, &mut rng, one_in, &mut tally)?;
    records(&long(), &mut rng, one_in, &mut tally)?;
    Ok(tally)
}

fn sweep(rest: &Rest, rng: &mut Rng, one_in: u64, tally: &mut RotTally) -> Result<(), String> {
    for (file, content) in &rest.medium.0 {
        let used = to_u64(content.iter().rposition(|b| *b != 0).map_or(0, |at| (at + 513).min(content.len())));
        let mut at = rng.below(one_in);
        while at < used {
            flip(rest, *file, at, rng, tally)?;
            at += if one_in == 1 { 1 } else { 1 + rng.below(2 * one_in - 1) };
        }
    }
    Ok(())
}

/// Every record of the journal (or one in so many): a byte of its header, of its body, and of its frame's header.
fn records(rest: &Rest, rng: &mut Rng, one_in: u64, tally: &mut RotTally) -> Result<(), String> {
    for (file, content) in rest.medium.0.iter().filter(|(file, _)| matches!(file, FileId::Segment(_))) {
        let sectors = content.chunks_exact(512).enumerate().skip(8);
        for (n, _) in sectors.filter(|(_, sector)| sector.starts_with(b"HFFR")) {
            if rng.below(one_in.min(200)) > 0 {
                continue;
            }
            let frame = to_u64(n) * 512;
            for (from, len) in [(0, 128), (128, 128), (512, 8192)] {
                let at = frame + from + rng.below(len);
                flip(rest, *file, at.min(to_u64(content.len()) - 1), rng, tally)?;
            }
        }
    }
    Ok(())
}

fn flip(rest: &Rest, file: FileId, at: u64, rng: &mut Rng, tally: &mut RotTally) -> Result<(), String> {
    let mut medium = rest.medium.clone();
    let mask = 1 << rng.below(8);
    medium.file_mut(file)[to_usize(at)] ^= mask;
    judge(rest, medium, tally).map_err(|what| format!("byte {at} of {file:?} changed by {mask:#x}: {what}"))
}

/// Opens what a device made of a directory, twice.
fn judge(rest: &Rest, medium: Medium, tally: &mut RotTally) -> Result<(), String> {
    tally.damaged += 1;
    let mut rig = Rig::over(SimDisk::on(medium), &rest.config, rest.volumes.clone(), Judgement::Damaged);
    let first = open(&mut rig, tally)?;
    // What was seen once is seen again: the first start took no evidence away.
    let next = rig.device.cut();
    let all = crate::Pick { kept: vec![true; next.uncertain().count()], torn: None };
    let mut again = Rig::over(SimDisk::on(next.state(&all)), &rest.config, rest.volumes.clone(), Judgement::Damaged);
    let second = open(&mut again, &mut RotTally::default()).map_err(|what| format!("at the second start: {what}"))?;
    if first != second {
        return Err(format!("the copies ended at {first:?}, at the second start at {second:?}"));
    }
    Ok(())
}

fn open(rig: &mut Rig<SimDisk>, tally: &mut RotTally) -> Result<BTreeMap<VolumeId, u64>, String> {
    rig.start();
    let mut unread = 0;
    for v in rig.opened.clone().into_keys() {
        unread += rig.read_all(v);
    }
    rig.rest(SECONDS);
    if let Some(what) = rig.wrong.first() {
        return Err(format!("{what}; failed: {:?}", rig.failed));
    }
    let accounted = |v: &VolumeId| rig.opened.contains_key(v) || rig.volumes[v].failed;
    if let Some(v) = rig.volumes.keys().find(|v| !accounted(v)) {
        return Err(format!("{v} neither opened nor failed"));
    }
    let shown = rig.opened.values().any(|c| c.unknown_to.is_some());
    tally.refused += u64::from(!rig.failed.is_empty());
    tally.shown += u64::from(shown);
    tally.unread += u64::from(unread > 0);
    tally.harmless += u64::from(rig.failed.is_empty() && !shown && unread == 0);
    Ok(rig.opened.iter().map(|(v, c)| (*v, c.last.0)).collect())
}

/// Every write of a history (one in so many) is lost, or lands elsewhere; every file comes back as it was at some time.
///
/// # Errors
/// The first broken promise, in words.
pub fn astray_sweep(one_in: u64, seed: u64) -> Result<RotTally, String> {
    let mut tally = RotTally::default();
    let mut rng = Rng::new(seed);
    let writes = stray(None).0.device.writes;
    for nth in 0..writes {
        for to in Astray::ALL {
            if rng.below(one_in) > 0 {
                continue;
            }
            let name = |what: String| format!("write {nth} of {writes} went astray, {to:?}: {what}");
            let (mut rig, _) = stray(Some((nth, to)));
            let rest = rested(&mut rig);
            if let Some(what) = rig.wrong.first() {
                return Err(name(what.clone()));
            }
            judge(&rest, rest.medium.clone(), &mut tally).map_err(name)?;
        }
    }
    rolled_back(one_in, &mut rng, &mut tally)?;
    Ok(tally)
}

/// Runs the history with one write astray; also gives what was on the device after each step.
fn stray(astray: Option<(u64, Astray)>) -> (Rig<SimDisk>, Vec<Medium>) {
    let mut rig = Rig::new(SimDisk::default(), &small(), 7);
    rig.device.astray = astray;
    prepare(&mut rig, true);
    let mut media = vec![rig.device.cut().medium];
    for op in HISTORY {
        if rig.opened.contains_key(&V1) && !rig.volume(V1).failed {
            op.apply(&mut rig);
        }
        rig.rest(SECONDS);
        media.push(rig.device.cut().medium);
    }
    (rig, media)
}

/// One file as it was, the others as they are. Not the segment that is open, and not the superblock: see docs/decisions. What
/// was written since the newest segment was opened has its only witness in that segment, and a promise in the superblock.
fn rolled_back(one_in: u64, rng: &mut Rng, tally: &mut RotTally) -> Result<(), String> {
    let (mut rig, media) = stray(None);
    let rest = rested(&mut rig);
    let open = newest_segment(&rest.medium);
    for (step, old) in media.iter().enumerate() {
        for (file, content) in &old.0 {
            if rng.below(one_in) > 0
                || Some(*file) == open
                || matches!(file, FileId::Superblock(_))
                || rest.medium.0.get(file).is_none_or(|now| now == content)
            {
                continue;
            }
            let mut medium = rest.medium.clone();
            medium.0.insert(*file, content.clone());
            judge(&rest, medium, tally).map_err(|what| format!("{file:?} is as it was after step {step}: {what}"))?;
        }
    }
    Ok(())
}

fn newest_segment(medium: &Medium) -> Option<FileId> {
    let segments = medium.0.iter().filter(|(file, _)| matches!(file, FileId::Segment(_)));
    let found = segments.filter_map(|(file, content)| Some((SegmentHeader::decode(content)?.generation, *file)));
    found.max().map(|(_, file)| file)
}
