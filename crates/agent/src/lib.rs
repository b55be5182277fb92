//! The daemon: shards, control plane, admin API, NBD sockets.
