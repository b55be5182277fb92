//! The simulated device keeps the contract, in either order of completion.

use holdfast_crash::{Schedule, SimDisk, conformance};

#[test]
fn the_simulated_device_conforms() {
    for schedule in [Schedule::Fifo, Schedule::Lifo] {
        let mut disk = SimDisk::default();
        disk.schedule(schedule);
        conformance::check(&mut disk);
    }
}
