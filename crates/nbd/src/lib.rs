//! The NBD protocol as a sans-IO state machine, fixed newstyle.
