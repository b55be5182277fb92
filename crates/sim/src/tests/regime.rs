//! Majorities of voters that are lost for ever, and come back.

use super::super::*;
use super::clean_seeds;

fn setup() -> Setup {
    Setup { profile: Profile::find("lost-voters").expect("there is one"), ..Setup::default() }
}

#[test]
fn seeds_with_lost_voters_are_clean() {
    let fired = clean_seeds(&setup());
    for kind in [FaultKind::VotersLost, FaultKind::GivenUpReturned] {
        assert!(fired.contains_key(&kind), "{kind:?} never fired: {fired:?}");
    }
}

/// Two lost voters met each other before they heard of the later regime, and opened a volume in their own.
#[test]
fn a_lost_majority_that_goes_on_by_itself_opens_nothing_that_the_later_regime_opened() {
    let replay = play(119, &setup(), false);
    replay.result.unwrap_or_else(|violation| panic!("{violation}"));
}
