//! Power cuts of short workloads: a sample of what scripts/crash-states does.

use holdfast_crash::{CutPlan, Tally, Workload, explore};

#[test]
fn every_state_of_a_cut_opens_as_a_prefix_with_everything_promised() {
    let plan = CutPlan { subsets: 64, torn: 4, deep: 40, deep_subsets: 8, seed: 1 };
    let mut tally = Tally::default();
    for n in 0..Workload::count(1) {
        tally.add(&explore(n, &plan).unwrap_or_else(|what| panic!("{what}")));
    }
    eprintln!("{tally:?}");
}
