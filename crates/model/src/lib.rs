//! stub
mod bounds; mod explore; mod log; mod properties; mod rules; mod scope; mod state; mod step;
pub use bounds::{Bound, scope_of};
pub use explore::{End, Outcome, Violation, explore};
pub use scope::{Mutant, Property, Scope, Volatile};
pub use state::Budget;
pub use step::Step;
