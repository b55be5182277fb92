//! Seeds in which copies come and go.

use super::super::*;

fn setup() -> Setup {
    Setup { profile: Profile::find("membership").expect("there is one"), ..Setup::default() }
}

/// `HOLDFAST_SEEDS=FROM..TO` runs others than the usual few. Seed 23 once removed the copy that was to stay while another
/// one was made anew.
#[test]
fn seeds_with_changing_members_are_clean() {
    let range = std::env::var("HOLDFAST_SEEDS").unwrap_or_else(|_| "0..24".to_owned());
    let (from, to) = range.split_once("..").expect("FROM..TO");
    let (from, to): (u64, u64) = (from.parse().expect("a seed"), to.parse().expect("a seed"));
    let setup = setup();
    let mut fired = FaultCounts::new();
    let mut failed = Vec::new();
    for seed in from..to {
        let replay = play(seed, &setup, false);
        if let Err(violation) = &replay.result {
            failed.push(format!("seed {seed}: {violation}"));
        }
        for (kind, count) in replay.faults {
            *fired.entry(kind).or_default() += count;
        }
    }
    assert!(failed.is_empty(), "{} seeds failed:\n{}", failed.len(), failed.join("\n"));
    for kind in crate::faults::MEMBERS {
        assert!(fired.contains_key(kind), "{kind:?} never fired: {fired:?}");
    }
}
