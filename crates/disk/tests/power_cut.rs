//! Power cuts of the real device: every call that the ring makes for a workload is recorded, and the directory rebuilt as a cut
//! may leave it, at any moment, with any subset of what no sync had covered and with the last write torn. Each is opened by the
//! real device and the store, and judged by the oracle of `holdfast-crash`: acknowledged records are there, the image is a prefix,
//! no read is wrong.
#![allow(clippy::unwrap_used, reason = "a helper of a test may panic like a test")]

mod common;

use common::{Real, build};
use holdfast_crash::{Cut, Effect, Issued, Judgement, Medium, Op, Recorder, Rig, Volume, prepare, small};
use holdfast_disk::{Backend, Call, Observer};
use holdfast_store::io::FileId;
use holdfast_types::{Rng, VolumeId};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;

#[derive(Default)]
struct Calls(Recorder);

impl Observer for Calls {
    fn issued(&mut self, ticket: u64, file: FileId, call: Call<'_>) {
        let call = match call {
            Call::Write { offset, data, durable } => {
                Issued::Change(Effect::Write(offset, bytes::Bytes::copy_from_slice(data)), durable)
            }
            Call::Zero { offset, len } => Issued::Change(Effect::Zero(offset, len), false),
            Call::Create { len } => Issued::Change(Effect::Create(len), true),
            Call::Delete => Issued::Change(Effect::Delete, true),
            Call::SetLen { len } => Issued::Change(Effect::SetLen(len), false),
            Call::Sync => Issued::Sync,
        };
        self.0.issued(ticket, file, call);
    }

    fn ended(&mut self, ticket: u64, well: bool, _done: usize) {
        self.0.ended(ticket, well);
    }
}

type Moment = (Cut, BTreeMap<VolumeId, Volume>);

/// Runs a workload on the real device; gives every moment of it, and how many calls there were.
fn record(dir: &Path, ops: &[Op]) -> (Vec<Moment>, u64) {
    let calls = Rc::new(RefCell::new(Calls::default()));
    let mut real = Real::open(dir, Backend::IoUring);
    real.disk.observe(calls.clone());
    let mut rig = Rig::new(real, &small(), 7);
    prepare(&mut rig, true);
    let mut moments = Vec::new();
    for op in ops {
        op.apply(&mut rig);
        loop {
            moments.push((calls.borrow().0.cut(), rig.volumes.clone()));
            if !rig.complete_one() {
                break;
            }
        }
    }
    assert!(rig.wrong.is_empty() && rig.failed.is_empty(), "{:?} {:?}", rig.wrong, rig.failed);
    let count = calls.borrow().0.calls;
    (moments, count)
}

fn open(medium: &Medium, volumes: &BTreeMap<VolumeId, Volume>, backend: Backend) -> Vec<String> {
    // Many small directories: in memory where that is possible.
    let base = ["/dev/shm".into(), std::env::temp_dir()].into_iter().find(|dir| dir.is_dir()).unwrap();
    let dir = tempfile::tempdir_in(base).unwrap();
    build(dir.path(), medium);
    let mut rig = Rig::over(Real::open(dir.path(), backend), &small(), volumes.clone(), Judgement::Strict);
    rig.start();
    rig.check_all();
    rig.wrong
}

const WORKLOADS: [&[Op]; 8] = [
    &[Op::Batch, Op::Commit, Op::Checkpoint, Op::Zeroes, Op::Checkpoint, Op::Write],
    &[Op::Promise, Op::Adopt, Op::Batch, Op::Cut, Op::Write, Op::Recycle, Op::Checkpoint],
    &[Op::Recycle, Op::Recycle, Op::Delete, Op::Recycle, Op::Delete, Op::Commit],
    &[Op::Batch, Op::Checkpoint, Op::Repair, Op::Zeroes, Op::Recycle, Op::Checkpoint, Op::Cut],
    &[Op::Batch, Op::Resize, Op::Checkpoint, Op::Write, Op::Resize, Op::Write, Op::Checkpoint],
    &[Op::Batch, Op::Commit, Op::Fetch, Op::Prove, Op::Switch, Op::Write, Op::Checkpoint, Op::Checkpoint],
    &[Op::Batch, Op::Fetch, Op::Prove, Op::Switch, Op::Zeroes, Op::Recycle, Op::Checkpoint],
    &[Op::Resize, Op::Commit, Op::Cut, Op::Resize, Op::Resize, Op::Zeroes, Op::Checkpoint, Op::Recycle],
];

/// `HOLDFAST_STATES` says how many states of each workload are opened at most.
#[test]
fn whatever_a_cut_leaves_of_the_real_device_opens_with_everything_acknowledged() {
    let most = std::env::var("HOLDFAST_STATES").ok().and_then(|n| n.parse().ok()).unwrap_or(500);
    let (mut opened, mut states, mut calls) = (0usize, 0usize, 0);
    for (n, ops) in WORKLOADS.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let (moments, count) = record(dir.path(), ops);
        calls += count;
        let mut rng = Rng::new(n as u64);
        let mut seen = BTreeSet::new();
        let mut chosen: Vec<(Medium, usize, String)> = Vec::new();
        for (i, (cut, _)) in moments.iter().enumerate() {
            for pick in cut.picks(32, 3, &mut rng) {
                states += 1;
                let medium = cut.state(&pick);
                if seen.insert(medium.hash()) {
                    chosen.push((medium, i, format!("workload {n}, moment {i}, {pick:?}")));
                }
            }
        }
        // Evenly over all moments.
        let step = chosen.len().div_ceil(most).max(1);
        for (medium, moment, name) in chosen.iter().skip(n % step).step_by(step) {
            let backend = if opened % 8 == 7 { Backend::Pread } else { Backend::IoUring };
            let wrong = open(medium, &moments[*moment].1, backend);
            assert!(wrong.is_empty(), "{name}: {wrong:?}");
            opened += 1;
        }
    }
    eprintln!("{calls} calls, {states} states, {opened} of them opened");
    assert!(calls > 300 && opened > 400, "{calls} calls, {opened} states opened");
}
