//! A copy that is slow pins neither memory nor journal of whoever leads it (P13). The checker of bounds looks at every turn of every run; here is
//! shown that these runs get there, and that journals keep theirs.

use super::clean_seeds;
use super::*;

fn setup() -> Setup {
    Setup { profile: Profile::find("slow").expect("a row of the table"), ..Setup::default() }
}

#[test]
fn seeds_with_slow_copies_are_clean() {
    let fired = clean_seeds(&setup());
    for kind in [FaultKind::GreyDisk, FaultKind::Clog, FaultKind::SlowLink] {
        assert!(fired.contains_key(&kind), "{kind:?} fired: {fired:?}");
    }
}

/// The primary sends until the window is full and no further, and its journal goes round while the copy lags.
#[test]
fn a_slow_copy_fills_its_window_and_journals_go_round() {
    let full = (0..6).filter(|seed| {
        let options = setup().options(*seed);
        let outcome =
            play(*seed, &setup(), false).result.unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
        let bound = u64::from(options.store.max_segments) * options.store.segment_bytes;
        assert!(
            outcome.most.journal <= bound,
            "seed {seed}: a journal of {} bytes, {bound} at most",
            outcome.most.journal
        );
        // A record changes 8 KiB at least, on average.
        let goes_round = outcome.records * 8192 > 2 * bound && outcome.most.journal == bound;
        goes_round && outcome.most.sent >= options.limits.window_bytes as u64
    });
    assert!(full.count() >= 3, "windows and journals fill up in most worlds");
}
