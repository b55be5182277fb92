//! The n-th operation of a class fails, once or from then on, for all n until nothing fails any more.
//!
//! Expected: nothing wrong is read, called durable or called applied; the store comes to rest; what failed is told; what only
//! found no space is done when there is space again, but for a sync, which is never repeated; and what was called durable is
//! there after a power cut, on a device that works.

use crate::disk::{Fault, FaultClass, SimDisk};
use crate::oracle::Judgement;
use crate::rig::Rig;
use crate::workload::{Op, V1, V2, populate, prepare, small};
use holdfast_store::io::{DiskError, FileId};
use holdfast_types::Rng;
use std::time::Duration;

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorTally {
    /// Histories in which something failed.
    pub runs: u64,
    /// Of these, those in which the store gave up a copy or the journal.
    pub failed: u64,
    /// Those that waited for space and went on.
    pub recovered: u64,
    /// Those in which a resync came to its end.
    pub switched: u64,
    /// States that were opened afterwards.
    pub opened: u64,
}

/// One of each, some more than once: every class of operation comes often.
const HISTORY: [Op; 33] = [
    Op::Batch,
    Op::Commit,
    Op::Checkpoint,
    Op::Zeroes,
    Op::Commit,
    Op::Promise,
    Op::Adopt,
    Op::Write,
    Op::Checkpoint,
    Op::Repair,
    Op::Batch,
    Op::Cut,
    Op::Recycle,
    Op::Recycle,
    Op::Write,
    Op::Fetch,
    Op::Prove,
    Op::Switch,
    Op::Write,
    Op::Checkpoint,
    Op::Restart,
    Op::Zeroes,
    Op::Checkpoint,
    Op::Delete,
    Op::Recycle,
    Op::Checkpoint,
    Op::Delete,
    Op::Write,
    Op::Resize,
    Op::Checkpoint,
    Op::Resize,
    Op::Write,
    Op::Checkpoint,
];
const SECONDS: Duration = Duration::from_secs(5);

/// Every n of one class.
///
/// # Errors
/// The first broken promise, in words.
pub fn error_sweep(class: FaultClass, error: DiskError, for_ever: bool) -> Result<ErrorTally, String> {
    let mut tally = ErrorTally::default();
    for nth in 0.. {
        let fault = Fault { class, nth, for_ever, error, eighths: [0, 4, 8][usize::try_from(nth % 3).expect("small")] };
        if !one(fault, &mut tally).map_err(|what| format!("{fault:?}: {what}"))? {
            return Ok(tally);
        }
    }
    unreachable!("there is a number that no run reaches")
}

/// Runs the history with one fault. False if it never came.
fn one(fault: Fault, tally: &mut ErrorTally) -> Result<bool, String> {
    let mut rig = Rig::new(SimDisk::default(), &small(), 7);
    rig.device.fault = Some(fault);
    prepare(&mut rig, true);
    HISTORY.iter().for_each(|op| act(&mut rig, *op));
    rig.rest(SECONDS);
    if rig.device.met <= fault.nth {
        return Ok(false);
    }
    tally.runs += 1;
    tally.switched += u64::from(rig.switches > 0);
    let waits = fault.error == DiskError::NoSpace
        && !matches!(fault.class, FaultClass::Sync | FaultClass::Read | FaultClass::List);
    let harmless = match rig.device.struck {
        // Read again, piece by piece, and a lagging copy gets elsewhere what can't be read for it.
        // One that holds nothing may also be one that can't be synced: the oracle knows whether it held anything.
        Some(FileId::Segment(_)) => matches!(fault.class, FaultClass::Read | FaultClass::Sync),
        // Each is there several times, and read one by one where it can't be read as a whole.
        Some(FileId::Superblock(_) | FileId::JournalHead) if fault.class == FaultClass::Read => !fault.for_ever,
        // The mark of a deletion, of the second volume, which goes on without: a crash in between leaves a copy that is refused,
        // and deleted again.
        Some(FileId::Superblock(v)) => fault.class == FaultClass::Durable && v == V2,
        _ => false,
    };
    match (waits, rig.failed.is_empty()) {
        (false, true) if harmless => tally.recovered += 1,
        (true, false) => return Err(format!("expected to wait for space, found {:?}", rig.failed)),
        (false, true) => return Err("expected to be told of a failure, found none".to_owned()),
        (true, true) => tally.recovered += 1,
        (false, false) => tally.failed += 1,
    }
    rig.device.fault = None;
    if waits {
        rig.rest(SECONDS);
        // A copy whose creation a restart ended is asked for again.
        if rig.volumes.get(&V1).is_none_or(|v| !v.created) {
            rig.volumes.clear();
            populate(&mut rig, false);
        }
        // A journal full of what is not committed takes more only when some of it is.
        [Op::Write, Op::Checkpoint, Op::Checkpoint].iter().for_each(|op| act(&mut rig, *op));
        rig.rest(SECONDS);
        let found = rig.store().positions(V1).map(|p| (p.durable.0, p.applied.0));
        let last = rig.volumes.get(&V1).map(|v| (v.last(), v.last()));
        if rig.opened.is_empty() || found != last {
            return Err(format!("expected to go on to {last:?} with space, found {found:?}"));
        }
    }
    if let Some(what) = rig.wrong.first() {
        return Err(what.clone());
    }
    reopen(&rig, fault.nth, tally)?;
    Ok(true)
}

/// Commands go to copies that are open.
fn act(rig: &mut Rig<SimDisk>, op: Op) {
    let open = |rig: &Rig<SimDisk>| rig.opened.contains_key(&V1) && !rig.volume(V1).failed;
    if op == Op::Restart || open(rig) {
        if op == Op::Delete && rig.volumes.get(&V2).is_some_and(|v| v.failed) {
            return;
        }
        op.apply(rig);
        rig.rest(SECONDS);
        // Reads wait for a switch and for the lengths of its files, and these may wait for space.
        let short = |f: Fault| f.class == FaultClass::SetLen && f.error == DiskError::NoSpace && rig.device.met > f.nth;
        if open(rig) && !rig.volume(V1).switching && !rig.device.fault.is_some_and(short) {
            rig.read_all(V1);
        }
    }
}

/// What the history left, with and without what was not certain, on a device that works.
fn reopen(rig: &Rig<SimDisk>, nth: u64, tally: &mut ErrorTally) -> Result<(), String> {
    let cut = rig.device.cut();
    for pick in cut.picks(6, 1, &mut Rng::new(nth)) {
        let disk = SimDisk::on(cut.state(&pick));
        let mut next = Rig::over(disk, &small(), rig.volumes.clone(), Judgement::Strict);
        next.start();
        next.check_all();
        tally.opened += 1;
        if let Some(what) = next.wrong.first() {
            return Err(format!("after a cut with {pick:?}: {what}"));
        }
    }
    Ok(())
}
