//! The copies of a store, and what they are together.
//!
//! One write must not make a store look at each of a thousand idle copies, so what is asked about all of them is kept: a copy is counted
//! anew after somebody may have changed it.
//!
//! Invariant: whoever gets a copy to change it has it noted, so that [`Copies::count`] leaves nothing out.

use crate::config::StoreConfig;
use crate::replica::{Replica, Stage};
use holdfast_types::{Time, VolumeId};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;

/// All copies that can be used or will be.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    all: BTreeMap<VolumeId, Replica>,
    /// May have changed since they were counted.
    noted: BTreeSet<VolumeId>,
    counted: BTreeMap<VolumeId, Facts>,
    sums: Sums,
    /// Those with a debt, a batch under way, or applied records above their checkpoint.
    working: BTreeSet<VolumeId>,
    /// Those with applied records that the cache does not know of.
    uncached: BTreeSet<VolumeId>,
    due: BTreeSet<(Time, VolumeId)>,
}

/// What is counted of one copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Facts {
    debt: u64,
    applied: u64,
    applying: bool,
    pages: usize,
    uncached: bool,
    due: Option<Time>,
}

/// The same of all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    /// Bytes of committed records that are in no image.
    pub(crate) debt: u64,
    /// Bytes of records in images and above their checkpoints.
    pub(crate) applied: u64,
    /// Batches under way.
    pub(crate) batches: usize,
    /// Pages of tables in memory.
    pub(crate) pages: usize,
}

impl Facts {
    fn of(replica: &Replica, config: &StoreConfig) -> Facts {
        let times = || [replica.checkpoint_due(config.checkpoint_interval), replica.apply_due(config.apply_delay)];
        Facts {
            debt: replica.debt,
            applied: replica.applied_bytes,
            applying: replica.batch.is_some(),
            pages: replica.tables.len(),
            uncached: replica.cached_upto < replica.applied,
            due: (replica.stage == Stage::Open).then(times).into_iter().flatten().flatten().min(),
        }
    }

    const fn works(&self) -> bool {
        self.debt > 0 || self.applied > 0 || self.applying
    }
}

impl Deref for Copies {
    type Target = BTreeMap<VolumeId, Replica>;

    fn deref(&self) -> &Self::Target {
        &self.all
    }
}

impl Copies {
    pub(crate) fn get_mut(&mut self, volume: &VolumeId) -> Option<&mut Replica> {
        let replica = self.all.get_mut(volume)?;
        self.noted.insert(*volume);
        Some(replica)
    }

    /// The copy, if it can be used.
    pub(crate) fn open_mut(&mut self, volume: VolumeId) -> Option<&mut Replica> {
        self.get_mut(&volume).filter(|r| r.stage == Stage::Open)
    }

    /// All of them, to be changed: for what happens seldom.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut Replica> {
        self.noted.extend(self.all.keys());
        self.all.values_mut()
    }

    pub(crate) fn insert(&mut self, volume: VolumeId, replica: Replica) {
        self.noted.insert(volume);
        self.all.insert(volume, replica);
    }

    pub(crate) fn remove(&mut self, volume: VolumeId) -> Option<Replica> {
        self.noted.insert(volume);
        self.all.remove(&volume)
    }

    /// Counts what may have changed.
    pub(crate) fn count(&mut self, config: &StoreConfig) {
        while let Some(volume) = self.noted.pop_first() {
            if let Some(old) = self.counted.remove(&volume) {
                self.forget(volume, old);
            }
            if let Some(replica) = self.all.get(&volume) {
                let new = Facts::of(replica, config);
                self.take_in(volume, new);
                self.counted.insert(volume, new);
            }
        }
    }

    fn take_in(&mut self, volume: VolumeId, facts: Facts) {
        self.sums.debt += facts.debt;
        self.sums.applied += facts.applied;
        self.sums.batches += usize::from(facts.applying);
        self.sums.pages += facts.pages;
        if facts.works() {
            self.working.insert(volume);
        }
        if facts.uncached {
            self.uncached.insert(volume);
        }
        self.due.extend(facts.due.map(|at| (at, volume)));
    }

    fn forget(&mut self, volume: VolumeId, facts: Facts) {
        self.sums.debt -= facts.debt;
        self.sums.applied -= facts.applied;
        self.sums.batches -= usize::from(facts.applying);
        self.sums.pages -= facts.pages;
        self.working.remove(&volume);
        self.uncached.remove(&volume);
        if let Some(at) = facts.due {
            self.due.remove(&(at, volume));
        }
    }

    /// As they were counted last.
    pub(crate) const fn sums(&self) -> Sums {
        self.sums
    }

    /// Copies with a debt, a batch under way, or applied records above their checkpoint.
    pub(crate) const fn working(&self) -> &BTreeSet<VolumeId> {
        &self.working
    }

    /// Copies with applied records that the cache does not know of.
    pub(crate) fn uncached(&self) -> Vec<VolumeId> {
        self.uncached.iter().copied().collect()
    }

    /// When the first of them has something to do though nothing else happens.
    pub(crate) fn next_due(&self) -> Option<Time> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Those that have something to do now.
    pub(crate) fn due(&self, now: Time) -> impl Iterator<Item = VolumeId> {
        self.due.iter().take_while(move |(at, _)| *at <= now).map(|(_, volume)| *volume)
    }

    /// What is kept is what counting all of them would find.
    #[cfg(test)]
    pub(crate) fn check(&self, config: &StoreConfig) {
        let mut anew = Copies::default();
        for (volume, replica) in &self.all {
            anew.take_in(*volume, Facts::of(replica, config));
        }
        assert_eq!(
            (self.sums, &self.working, &self.uncached, &self.due),
            (anew.sums, &anew.working, &anew.uncached, &anew.due)
        );
    }
}
