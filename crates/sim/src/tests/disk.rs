//! The simulator's disk keeps the contract that the real device keeps: the same suite, with its own latencies and order of completion.

use crate::disk::Disk;
use crate::log::Nanos;
use crate::options::DiskPlan;
use holdfast_crash::{Device, conformance};
use holdfast_store::io::{DiskDone, DiskOp};
use holdfast_types::Rng;
use std::collections::BTreeSet;

struct Simulated {
    disk: Disk,
    now: Nanos,
    under_way: BTreeSet<(Nanos, u64)>,
}

impl Device for Simulated {
    fn submit(&mut self, op: DiskOp) {
        let (ticket, at) = self.disk.submit(op, self.now);
        self.under_way.insert((at, ticket));
    }

    fn next(&mut self) -> Option<DiskDone> {
        let (at, ticket) = self.under_way.pop_first()?;
        self.now = at;
        let ended = self.disk.complete(ticket).expect("what was given out is under way");
        assert!(ended.fault.is_none(), "nobody asked for one");
        Some(ended.done)
    }

    fn orphaned(&mut self) {
        self.disk.process_crash(&mut Vec::new());
        self.under_way.clear();
    }
}

#[test]
fn the_simulated_disk_conforms_in_any_order_of_completion() {
    for seed in 0..20 {
        let plan = DiskPlan { latency_min: 10, latency_max: 10_000 };
        let disk = Disk::new(plan, Rng::new(seed));
        conformance::check(&mut Simulated { disk, now: 0, under_way: BTreeSet::new() });
    }
}
