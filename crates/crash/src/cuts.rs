//! Power cuts: every moment of a workload, every subset of what was not certain then, torn; each state opened and judged; and
//! cuts while that start is under way.
//!
//! A workload is cut within its last operation only: what comes before is the end of a shorter one.

use crate::disk::SimDisk;
use crate::medium::{Cut, Medium, to_u64};
use crate::oracle::{Judgement, Volume};
use crate::rig::{Device, Rig};
use crate::workload::{V1, V2, Workload, small};
use holdfast_store::Input;
use holdfast_store::io::FileId;
use holdfast_types::{BLOCK_SIZE, Lsn, OpenedCopy, Resized, Rng, Sizes, VolumeId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How many states of a cut are looked at.
#[derive(Clone, Copy, Debug)]
pub struct CutPlan {
    /// Subsets of what is uncertain; all if there are no more.
    pub subsets: usize,
    /// Ways to tear the last write of a subset.
    pub torn: usize,
    /// One in so many states is also cut while it is opened.
    pub deep: u64,
    /// Subsets there.
    pub deep_subsets: usize,
    /// What is drawn.
    pub seed: u64,
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Workloads.
    pub workloads: u64,
    /// Moments of cuts.
    pub cuts: u64,
    /// States, counted as often as they are reached.
    pub states: u64,
    /// States that were opened: different ones within a workload.
    pub opened: u64,
    /// Of these, states of a cut while another one was being opened.
    pub deep: u64,
}

impl Tally {
    /// Both together.
    pub const fn add(&mut self, other: &Tally) {
        self.workloads += other.workloads;
        self.cuts += other.cuts;
        self.states += other.states;
        self.opened += other.opened;
        self.deep += other.deep;
    }
}

type Volumes = BTreeMap<VolumeId, Volume>;

struct Explorer<'a> {
    plan: &'a CutPlan,
    rng: Rng,
    tally: Tally,
    /// Media that were opened, with what the oracle knew: a medium is opened again when more was promised.
    seen: BTreeSet<(u64, u64)>,
}

/// Cuts workload `n` everywhere.
///
/// # Errors
/// The state that broke a promise, in words.
pub fn explore(n: u64, plan: &CutPlan) -> Result<Tally, String> {
    let workload = Workload::nth(n);
    let mut rig = Workload::base(workload.old);
    rig.device.schedule(workload.schedule);
    let name = |what: String| format!("workload {n}, {workload:?}: {what}");
    let (last, before) = workload.ops.split_last().expect("a workload has an operation");
    for op in before {
        op.apply(&mut rig);
        if !workload.lazy {
            rig.drain();
        }
    }
    let rng = Rng::new(plan.seed ^ n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut explorer = Explorer { plan, rng, tally: Tally { workloads: 1, ..Tally::default() }, seen: BTreeSet::new() };
    if *last == crate::Op::Restart {
        rig.device.orphaned();
        rig.forget();
        rig.input(Input::Start);
    } else {
        last.apply(&mut rig);
    }
    explorer.walk(&mut rig, true).map_err(name)?;
    Ok(explorer.tally)
}

/// Every state that one cut may leave, opened and judged against `volumes`; for cuts that somebody else recorded.
///
/// # Errors
/// The state that broke a promise, in words.
pub fn cut_states(
    cut: &Cut,
    volumes: &BTreeMap<VolumeId, Volume>,
    plan: &CutPlan,
    rng: &mut Rng,
) -> Result<Tally, String> {
    let mut explorer = Explorer { plan, rng: rng.fork(), tally: Tally::default(), seen: BTreeSet::new() };
    explorer.cut(cut, volumes, true)?;
    Ok(explorer.tally)
}

impl Explorer<'_> {
    /// Cuts at this moment, and after each operation that ends, until all have.
    fn walk(&mut self, rig: &mut Rig<SimDisk>, deep: bool) -> Result<(), String> {
        loop {
            if let Some(what) = rig.wrong.first() {
                return Err(format!("without a cut: {what}"));
            }
            self.cut(&rig.device.cut(), &rig.volumes, deep)?;
            if !rig.complete_one() {
                return Ok(());
            }
        }
    }

    fn cut(&mut self, cut: &Cut, volumes: &Volumes, deep: bool) -> Result<(), String> {
        self.tally.cuts += 1;
        let known = promises(volumes);
        let (subsets, torn) = if deep { (self.plan.subsets, self.plan.torn) } else { (self.plan.deep_subsets, 2) };
        for pick in cut.picks(subsets, torn, &mut self.rng) {
            self.tally.states += 1;
            let medium = cut.state(&pick);
            if !self.seen.insert((medium.hash(), known)) {
                continue;
            }
            self.tally.opened += 1;
            self.tally.deep += u64::from(!deep);
            let deeper = deep && self.plan.deep > 0 && self.tally.opened.is_multiple_of(self.plan.deep);
            self.open(&medium, volumes, deeper).map_err(|what| {
                let changes: Vec<_> = cut.uncertain().map(|(file, effect, _)| (file, effect.sectors())).collect();
                format!(
                    "{} after a cut of {changes:?} with {pick:?}: {what}",
                    if deep { "opened" } else { "opened again" }
                )
            })?;
        }
        Ok(())
    }

    fn open(&mut self, medium: &Medium, volumes: &Volumes, deep: bool) -> Result<(), String> {
        if deep {
            let mut rig = over(medium, volumes);
            rig.input(Input::Start);
            self.walk(&mut rig, false)?;
        }
        let mut rig = over(medium, volumes);
        rig.start();
        let first = rig.opened.clone();
        // A second start, after a cut that took nothing: the same again.
        rig.check_all();
        let mut again = over(&rig.device.cut().medium, &rig.volumes);
        again.start();
        again.check_all();
        let same = |(v, c): (&VolumeId, &OpenedCopy)| again.opened.get(v).is_some_and(|a| as_found(a) == as_found(c));
        if rig.wrong.is_empty() && again.wrong.is_empty() && !first.iter().all(same) {
            again.wrong.push(format!("expected {first:?} again, found {:?}", again.opened));
        }
        if self.tally.opened.is_multiple_of(16) {
            go_on(&mut rig);
        }
        rig.wrong.into_iter().chain(again.wrong).next().map_or(Ok(()), Err)
    }
}

/// What may not change from one start to the next: where the journal begins may.
fn as_found(copy: &OpenedCopy) -> OpenedCopy {
    // And from where on the sizes are known.
    let sizes = Sizes::new(Resized { lsn: Lsn::ZERO, ..copy.sizes.last() });
    OpenedCopy { first: copy.last, checkpoint: copy.applied, sizes, ..copy.clone() }
}

fn over(medium: &Medium, volumes: &Volumes) -> Rig<SimDisk> {
    Rig::over(SimDisk::on(medium.clone()), &small(), volumes.clone(), Judgement::Strict)
}

/// The store is of use: it takes an epoch and a record, applies it, and the image is what it should be.
fn go_on(rig: &mut Rig<SimDisk>) {
    for v in [V1, V2] {
        if !rig.opened.contains_key(&v) {
            continue;
        }
        let last = rig.volume(v).last();
        rig.adopt(v, last);
        crate::workload::fill(rig, v, 1);
        // A journal full of what is not committed takes more only when some of it is.
        for _ in 0..3 {
            rig.drain();
            rig.commit(v);
            rig.rest(Duration::from_secs(3));
        }
        let done = rig.store().positions(v).map(|p| (p.durable.0, p.applied.0));
        if done != Some((last + 1, last + 1)) {
            rig.wrong.push(format!("{v} does not go on after {last}: {done:?}"));
        }
        let medium = rig.device.cut().medium;
        rig.check_image(&medium, v);
        let len = medium.0.get(&FileId::Image(v)).map_or(0, |content| to_u64(content.len()));
        let blocks = rig.volume(v).blocks(last + 1);
        if len != blocks * to_u64(BLOCK_SIZE) {
            rig.wrong.push(format!("{v} has {blocks} blocks, and its image {len} bytes"));
        }
    }
}

/// A number for what was promised: a state is judged again when that changed.
fn promises(volumes: &Volumes) -> u64 {
    let said = volumes.iter().map(|(v, m)| {
        let before = m.before.as_ref().map(|b| (b.durable, b.applied));
        (
            v.0,
            m.last(),
            m.durable,
            m.applied,
            m.checkpoint,
            m.committed,
            (m.promised.0, m.promising.0, before, m.deleting, m.created),
        )
    });
    xxhash_rust::xxh3::xxh3_64(format!("{:?}", said.collect::<Vec<_>>()).as_bytes())
}
