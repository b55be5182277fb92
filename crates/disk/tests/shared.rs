//! The suite that the simulated devices pass as well, on real files.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::Real;
use holdfast_crash::conformance;
use holdfast_disk::Backend;

#[test]
fn the_real_device_conforms_with_either_backend() {
    for backend in [Backend::IoUring, Backend::Pread] {
        let dir = tempfile::tempdir().unwrap();
        conformance::check(&mut Real::open(dir.path(), backend));
    }
}
