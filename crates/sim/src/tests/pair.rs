//! Seeds with two copies and a witness.

use super::super::*;
use super::clean_seeds;

/// `HOLDFAST_SEEDS=FROM..TO` runs others than the usual few.
#[test]
fn seeds_with_two_copies_are_clean() {
    let setup = Setup { profile: Profile::find("pair").expect("there is one"), ..Setup::default() };
    let fired = clean_seeds(&setup);
    let ended = [FaultKind::OrderlyEnd, FaultKind::OrderlyRestart];
    // Of the removal of a node, which a drain must come before, the batch with nodes that come and go asks.
    let moved = [FaultKind::CopyReplace, FaultKind::CopyRemove, FaultKind::NodeDrain];
    for kind in [FaultKind::WentAlone, FaultKind::BothAgain].iter().chain(&ended).chain(&moved) {
        assert!(fired.contains_key(kind), "{kind:?} never fired: {fired:?}");
    }
}
