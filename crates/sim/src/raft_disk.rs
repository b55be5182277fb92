//! Where a node's Raft log outlives its process.
//!
//! Writes happen one after another, each atomic, as the agent's storage does them. At a crash those that wait are lost
//! from some point on: what was called durable never is.

use crate::log::{MS, Nanos};
use crate::options::{DiskPlan, index};
use bytes::Bytes;
use holdfast_cluster::Recovery;
use holdfast_consensus::{PersistBatch, Stored};
use holdfast_types::Rng;
use std::collections::VecDeque;

/// What waits to be written.
#[derive(Debug)]
pub(crate) enum RaftWrite {
    Batch(PersistBatch),
    Compact { first_index: u64, snapshot: Bytes },
    Adopt { batch: u64, recovery: Recovery },
}

impl RaftWrite {
    const fn batch(&self) -> Option<u64> {
        match self {
            RaftWrite::Batch(PersistBatch { batch, .. }) | RaftWrite::Adopt { batch, .. } => Some(*batch),
            RaftWrite::Compact { .. } => None,
        }
    }
}

#[derive(Debug)]
pub(crate) struct RaftDisk {
    plan: DiskPlan,
    rng: Rng,
    stored: Stored,
    /// What opened the generation to which that belongs.
    recovery: Option<Recovery>,
    /// The recovery by which this node was given up, as it was told.
    pub(crate) superseded: Option<Recovery>,
    waiting: VecDeque<RaftWrite>,
    busy_until: Nanos,
    /// Mutant: what was there some writes ago, and comes back at a crash.
    older: Option<Vec<Stored>>,
}

impl RaftDisk {
    pub(crate) fn new(plan: DiskPlan, rng: Rng, stored: Stored) -> RaftDisk {
        let (recovery, superseded) = (None, None);
        RaftDisk { plan, rng, stored, recovery, superseded, waiting: VecDeque::new(), busy_until: 0, older: None }
    }

    /// Mutant: from now on a crash takes back what was called durable.
    pub(crate) fn lie(&mut self) {
        self.older = Some(Vec::new());
    }

    /// What a process that starts now finds.
    pub(crate) fn stored(&self) -> Stored {
        self.stored.clone()
    }

    /// Of which generation it is.
    pub(crate) const fn recovery(&self) -> Option<&Recovery> {
        self.recovery.as_ref()
    }

    /// What the operator does to the file of a node that does not run.
    pub(crate) fn go_over(&mut self, recovery: Recovery, stored: Stored) {
        assert!(self.waiting.is_empty(), "nobody writes to it");
        (self.stored, self.recovery, self.superseded) = (stored, Some(recovery), None);
    }

    /// Takes a write; it is done at the time returned.
    pub(crate) fn submit(&mut self, write: RaftWrite, now: Nanos, slowness: u64, stalled_until: Nanos) -> Nanos {
        // A durable transaction is two writes and a sync.
        let span = self.plan.latency_max - self.plan.latency_min;
        let mut latency = 3 * (self.plan.latency_min + self.rng.below(span + 1)) * slowness;
        if self.rng.chance(5_000) {
            latency += self.rng.below(50 * MS);
        }
        self.waiting.push_back(write);
        self.busy_until = now.max(self.busy_until).max(stalled_until) + latency;
        self.busy_until
    }

    /// The oldest write is done: the number of its batch, if it was one.
    pub(crate) fn complete(&mut self) -> Option<u64> {
        let write = self.waiting.pop_front()?;
        let batch = write.batch();
        self.carry_out(write);
        batch
    }

    /// Nothing is slow any more: how many writes wait that may be completed at once.
    pub(crate) fn hurry(&mut self) -> usize {
        self.busy_until = 0;
        self.waiting.len()
    }

    /// Power is gone: how many batches were lost.
    pub(crate) fn crash(&mut self) -> usize {
        let survive = index(self.rng.below(self.waiting.len() as u64 + 1));
        let survivors: Vec<RaftWrite> = self.waiting.drain(..survive).collect();
        survivors.into_iter().for_each(|w| self.carry_out(w));
        self.busy_until = 0;
        if let Some(older) = self.older.as_mut().filter(|o| !o.is_empty()) {
            let back = index(self.rng.below(older.len().min(8) as u64)) + 1;
            older.truncate(older.len() + 1 - back);
            self.stored = older.pop().expect("it had that many");
        }
        self.waiting.drain(..).filter(|w| w.batch().is_some()).count()
    }

    fn carry_out(&mut self, write: RaftWrite) {
        if let Some(older) = &mut self.older {
            older.push(self.stored.clone());
        }
        match write {
            RaftWrite::Batch(batch) => self.stored.write(&batch),
            RaftWrite::Compact { first_index, snapshot } => self.stored.compact(first_index, snapshot),
            RaftWrite::Adopt { recovery, .. } => (self.stored, self.recovery) = (Stored::default(), Some(recovery)),
        }
    }
}
