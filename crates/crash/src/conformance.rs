//! What every device keeps.
