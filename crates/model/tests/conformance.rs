//! Runs of the real replication code, three copies under a random schedule, replayed against the model (TESTING.md, G6).

mod world;

use holdfast_model::{Budget, Scope, Step, Volatile, conforms};
use std::collections::BTreeMap;
use world::World;

const RUNS: u64 = 10_000;

/// What the world can do. No leases are asked for, so members wait for none but after a restart, which the model allows.
const SCOPE: Scope = Scope {
    name: "runs of the replication code",
    nodes: 3,
    members: 7,
    all: false,
    epochs: 4,
    writes: 3,
    volatile: Volatile::Everybody,
    hints: false,
    leases: false,
    learners: false,
    witness: false,
    budget: Budget { crashes: 3, wipes: 0, rots: 0, rollbacks: 0, changes: 0, releases: 3 },
    mutant: None,
};

fn text(trace: &[Step]) -> String {
    trace.iter().enumerate().map(|(at, step)| format!("{at:>4} {step}\n")).collect()
}

#[test]
fn runs_of_the_replication_code_conform_to_the_model() {
    let mut kinds = BTreeMap::<String, u64>::new();
    for seed in 0..RUNS {
        let trace = World::run(seed);
        if let Err(deviation) = conforms(&SCOPE, 0, &trace) {
            panic!("seed {seed}: {deviation}\n{}", text(&trace));
        }
        for step in trace {
            *kinds.entry(step.to_string().split(' ').next().unwrap_or_default().to_owned()).or_default() += 1;
        }
    }
    let often = |kind: &str| kinds.get(kind).copied().unwrap_or(0) >= RUNS / 5;
    for kind in [
        "claim",
        "begin",
        "promise",
        "report",
        "fetch",
        "adopt",
        "append",
        "flush",
        "acknowledge",
        "request",
        "activate",
        "write",
        "answer",
        "crash",
        "release",
    ] {
        assert!(often(kind), "{kind} is hardly taken: {kinds:?}");
    }
}

#[test]
fn a_run_without_one_of_its_promises_or_claims_does_not_conform() {
    let mut left_out = 0;
    for seed in 0..20 {
        let trace = World::run(seed);
        for at in 0..trace.len() {
            let matters = match trace[at] {
                Step::Begin { epoch } => {
                    trace[at..].iter().any(|s| matches!(s, Step::Report { epoch: e, .. } if *e == epoch))
                }
                Step::Promise { member, epoch } => trace.contains(&Step::Report { member, epoch }),
                _ => false,
            };
            if matters {
                let mut shorter = trace.clone();
                shorter.remove(at);
                assert!(conforms(&SCOPE, 0, &shorter).is_err(), "seed {seed} without step {at}\n{}", text(&trace));
                left_out += 1;
            }
        }
    }
    assert!(left_out > 50, "only {left_out} steps were left out");
}
