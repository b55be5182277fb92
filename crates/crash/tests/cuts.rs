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

/// For a number that scripts/crash-states printed.
#[test]
#[ignore = "wants HOLDFAST_WORKLOAD=N"]
fn one_workload() {
    let n =
        std::env::var("HOLDFAST_WORKLOAD").ok().and_then(|n| n.parse().ok()).expect("HOLDFAST_WORKLOAD is a number");
    let plan = CutPlan { subsets: 256, torn: 8, deep: 25, deep_subsets: 16, seed: 0 };
    eprintln!("{:?}", explore(n, &plan).unwrap_or_else(|what| panic!("{what}")));
}
