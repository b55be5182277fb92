//! stub
mod bounds;
mod conform;
mod explore;
mod log;
mod properties;
mod rules;
mod scope;
mod state;
mod step;
pub use bounds::{Bound, scope_of, scopes};
pub use conform::{Deviation, conforms, parse};
pub use explore::{End, Outcome, Violation, explore};
pub use scope::{Mutant, Property, Scope, Volatile};
pub use state::Budget;
pub use step::{NotAStep, Step};
