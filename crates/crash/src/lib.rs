//! What a crash, a failing device or a rotting one may leave of one store: every such state, opened by the store and judged by a
//! slow oracle.
//!
//! ```text
//! workload ─► Rig (store + device + oracle) ─► cut: medium and unflushed writes ─► every subset, torn ─► open ─► judge
//! ```
//!
//! | module | role |
//! | --- | --- |
//! | `medium`, `disk` | what lies on stable storage; a device that says exactly what is not there yet |
//! | `oracle` | what a copy may be, record by record, and what it was promised to be |
//! | `cache`, `recorder` | what is certain of what was changed; the same for a real device that is watched |
//! | `rig` | a store that works on a device, watched by the oracle |
//! | `workload` | every short sequence of what a store can be asked to do |
//! | `cuts` | power cuts (TESTING.md: crash states) |
//! | `errors` | the n-th operation fails |
//! | `rot` | bytes change, writes are lost, go astray or come back |
//! | `conformance` | what every device keeps, the simulated ones and the real one |
//!
//! Deliberately absent: other copies. What a loss at one copy means for a volume is the simulator's matter.

mod cache;
pub mod conformance;
mod cuts;
mod disk;
mod errors;
mod medium;
mod oracle;
mod recorder;
mod rig;
mod rot;
mod workload;

pub use cuts::{CutPlan, Tally, cut_states, explore};
pub use disk::{Astray, Fault, FaultClass, Schedule, SimDisk};
pub use errors::{ErrorTally, error_sweep};
pub use medium::{Changes, Cut, Effect, Medium, Pick};
pub use oracle::{Judgement, Volume};
pub use recorder::{Issued, Recorder};
pub use rig::{Device, Rig};
pub use rot::{RotTally, astray_sweep, rot_sweep};
pub use workload::{BLOCKS, Op, V1, V2, Workload, prepare, small};
