//! Ids, units, positions, limits and the state of a copy, shared by every crate.
//!
//! Every number with a unit has a type of its own, so that a block index can't be passed where a byte offset is
//! expected. Constructors reject the impossible; arithmetic that could overflow says so with `expect` and the
//! invariant that rules it out.
//!
//! Deliberately absent: I/O, clocks, randomness sources, serialization (see `holdfast-format`).

mod config;
mod copy;
mod generation;
mod guest;
mod ids;
mod limits;
mod mutant;
mod positions;
mod proof;
mod rng;
mod sizes;
mod time;
mod units;
mod version;
mod view;

pub use config::{Configuration, Durability, EpochTable, EpochTableError, Member, QuorumRule};
pub use copy::{MAX_UNREPAIRABLE, OpenedCopy, ReadFault, ScrubFound, ScrubKept};
pub use generation::Generation;
pub use guest::{BANDWIDTH, BURST_MS, DEFAULT_BURST_MS, GuestLimits, MAX_IOPS, SocketAccess};
pub use ids::{ClusterId, Epoch, Incarnation, Lsn, NodeId, RequestId, SessionId, VolumeId};
pub use limits::*;
#[cfg(feature = "mutants")]
pub use mutant::select_mutant;
pub use mutant::{Mutant, mutated};
pub use positions::Positions;
pub use proof::{Answerable, Durable, Quorum};
pub use rng::Rng;
pub use sizes::{Resized, Sizes};
pub use time::Time;
pub use units::{BlockCount, BlockIndex, BlockRange, ByteOffset, RegionIndex, VolumeSize, VolumeSizeError};
pub use version::{ClusterVersion, Speaks};
pub use view::{ControlRequest, Forced, Life, Nominee, Pending, VolumeView};
