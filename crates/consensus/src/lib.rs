//! Sans-IO wrapper around the raft crate: the only place that names its types.
