//! Seeds in which copies come and go.

use super::super::*;
use super::clean_seeds;

fn setup() -> Setup {
    Setup { profile: Profile::find("membership").expect("there is one"), ..Setup::default() }
}

/// `HOLDFAST_SEEDS=FROM..TO` runs others than the usual few. Seed 23 once removed the copy that was to stay while another
/// one was made anew.
#[test]
fn seeds_with_changing_members_are_clean() {
    let fired = clean_seeds(&setup());
    for kind in crate::faults::MEMBERS {
        assert!(fired.contains_key(kind), "{kind:?} never fired: {fired:?}");
    }
}
