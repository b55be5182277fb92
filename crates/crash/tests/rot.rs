//! Bytes change, writes are lost or go astray: a sample of what scripts/corruption-sweep does.

use holdfast_crash::{astray_sweep, rot_sweep};

#[test]
fn a_changed_byte_is_seen_or_does_no_harm() {
    let tally = rot_sweep(97, 1).unwrap_or_else(|what| panic!("{what}"));
    eprintln!("{tally:?}");
    assert!(tally.refused > 0 && tally.shown > 0 && tally.unread > 0 && tally.harmless > 0, "{tally:?}");
}

#[test]
fn a_write_that_is_lost_or_lands_elsewhere_is_seen_or_does_no_harm() {
    let tally = astray_sweep(1, 1).unwrap_or_else(|what| panic!("{what}"));
    eprintln!("{tally:?}");
    assert!(tally.refused > 0 && tally.shown > 0 && tally.unread > 0 && tally.harmless > 0, "{tally:?}");
}
