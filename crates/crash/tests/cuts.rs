//! Power cuts of short workloads: a sample of what scripts/crash-states does.

use holdfast_crash::{CutPlan, Op, Tally, Workload, explore};

#[test]
fn every_state_of_a_cut_opens_as_a_prefix_with_everything_promised() {
    let plan = CutPlan { subsets: 64, torn: 4, deep: 40, deep_subsets: 8, seed: 1 };
    let mut tally = Tally::default();
    for n in 0..Workload::count(1) {
        tally.add(&explore(n, &plan).unwrap_or_else(|what| panic!("{what}")));
    }
    eprintln!("{tally:?}");
}

/// What cuts, applies, takes back and grows again, at every moment and from both bases.
#[test]
fn a_volume_that_changes_its_size_is_cut_everywhere() {
    use Op::{Adopt, Checkpoint, Commit, Cut, Resize, Restart, Write};
    let wanted: [&[Op]; 7] = [
        &[Resize, Checkpoint],
        &[Resize, Commit, Restart],
        &[Resize, Cut],
        &[Resize, Checkpoint, Resize, Checkpoint],
        &[Resize, Resize, Write, Checkpoint],
        &[Resize, Cut, Write, Checkpoint],
        &[Resize, Commit, Adopt, Checkpoint],
    ];
    let plan = CutPlan { subsets: 48, torn: 4, deep: 40, deep_subsets: 8, seed: 2 };
    let mut tally = Tally::default();
    for n in (0..Workload::count(4)).filter(|n| wanted.contains(&&Workload::nth(*n).ops[..])) {
        tally.add(&explore(n, &plan).unwrap_or_else(|what| panic!("{what}")));
    }
    eprintln!("{tally:?}");
    assert_eq!(tally.workloads, 8 * 7, "in every order, with and without a history");
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
