//! The n-th operation fails, for all n.

use holdfast_crash::{ErrorTally, FaultClass, error_sweep};
use holdfast_store::io::DiskError;

#[test]
fn whatever_operation_fails_nothing_wrong_is_said() {
    let (mut runs, mut switched) = (0, 0);
    for class in FaultClass::ALL {
        for error in [DiskError::Io(5), DiskError::NoSpace] {
            for for_ever in [false, true] {
                let tally: ErrorTally =
                    error_sweep(class, error, for_ever).unwrap_or_else(|what| panic!("{class:?}: {what}"));
                eprintln!("{class:?} {error:?} {for_ever}: {tally:?}");
                runs += tally.runs;
                switched += tally.switched;
            }
        }
    }
    assert!(runs > 500 && switched > runs / 2, "{switched} of {runs} had a resync that ended");
}
