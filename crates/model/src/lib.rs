//! A small exhaustive model of the epoch change (docs/PROTOCOL.md): all that can happen to two or three copies in three or
//! four epochs.
//!
//! Purpose: the simulator draws some runs of the real code; here *every* run of an abstract protocol is looked at, up to a
//! size at which the mistakes of this field show (a resurrected write needs three epochs and two writes). It shares no code
//! with the other crates: what is wrong there can't hide itself here.
//!
//! Flow: a [`Scope`] says what exists and what may go wrong; [`explore`] visits all its states breadth first, by the steps
//! ([`Step`]) of `rules/`, and ends at the first property ([`Property`]) that does not hold, with a shortest way there.
//! [`scopes`] are what is checked, by cost; [`scope_of`] each [`Mutant`] is where a mistake in the rules must be found;
//! [`conforms`] replays a run that was recorded elsewhere (`tests/conformance.rs` records runs of the real replication code).
//!
//! ```text
//!   claim ─► begin ─► promise ─► report ×R ─► (choose) ─► fetch* ─► (open) ─► adopt      rules/control.rs, rules/takeover.rs
//!         ─► append* ─► acknowledge ─► request ─► activate ─► (commit)                    rules/reign.rs, rules/control.rs
//! ```
//! What follows at once without waiting for anybody (in brackets) is part of the step before it. Messages have no queue: what
//! a sender said and a receiver may still hear is kept with the reign (its log, each member's greatest acknowledgement), and
//! hearing it is a step that may come at any time, or never. Clocks are two rates within the bound, and time is a step.
//!
//! Invariants
//! - A step that is not possible changes nothing; what can make no difference any more is cleared (`State::settle`), so that
//!   equal futures are one state.
//! - The state remembers what became final (committed log, writes established as absent, writes returned by a read), and
//!   nothing else beyond what copies, claimants and control group know.
//! - Every property is broken by some mutant, and every kind of step is taken by some scope (`tests.rs`).
//!
//! Deliberately absent: liveness; pre-claims and nominations, which only keep claims away (any member may claim at any time);
//! hashes (records are compared instead); trim, checkpoints and rebuild by regions; overlapping blocks (a write is a record);
//! sessions; durability `flush` and `async`; a control group of several nodes (it is linearizable, or not there).

mod bounds;
mod conform;
mod explore;
mod log;
mod properties;
mod rules;
mod scope;
mod state;
mod step;

#[cfg(test)]
mod tests;

pub use bounds::{Bound, scope_of, scopes};
pub use conform::{Deviation, conforms, parse};
pub use explore::{End, Outcome, Violation, explore};
pub use scope::{Mutant, Property, Scope, Volatile};
pub use state::Budget;
pub use step::{NotAStep, Step};
