//! A random day of a cluster, with real agents on hosts of their own: an operator changes volumes, copies and nodes while agents are killed and
//! stopped, cables pulled, packets dropped and disks wiped, all of it under verified load. At its end nothing acknowledged is lost, nothing
//! wrong was read, every volume is healthy and its copies are equal.
//!
//! HOLDFAST_DAY_SECONDS  how long (140)
//! HOLDFAST_DAY_SEED     what happens, in which order (drawn, and printed)
//!
//! A seed fixes what is done in which order; whom it hits also depends on how the cluster is by then, and that is up to the machine.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

#[path = "day/kinds.rs"]
mod kinds;
#[path = "day/world.rs"]
mod world;

use holdfast_tests::number_from_env;
use std::time::{Duration, SystemTime};
use world::Day;

/// A day this long has time for everything: what it never did, it can't do.
const LONG: Duration = Duration::from_mins(10);

#[tokio::test]
async fn a_random_day_ends_with_everything_that_was_acknowledged() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = number_from_env("HOLDFAST_DAY_SEED", now.as_secs());
    let length = Duration::from_secs(number_from_env("HOLDFAST_DAY_SECONDS", 140));
    println!("a day of {length:?}, HOLDFAST_DAY_SEED={seed}");
    let mut day = Day::begin(seed).await;
    while day.lasted() < length {
        day.step().await;
    }
    let fired = day.end().await;
    let never: Vec<&str> = kinds::all().filter(|kind| !fired.contains_key(kind)).collect();
    if length >= LONG {
        assert!(never.is_empty(), "never in {length:?}: {never:?}");
    }
}
