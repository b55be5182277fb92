//! The daemon: shards, control plane, admin API, NBD sockets.
//!
//! Two threads carry the work (docs/decisions): the *control* thread runs Raft, heartbeats and the admin API; the *shard*
//! thread runs the copies, their peers' lanes and the guests' connections. A third one writes Raft's log. They share nothing
//! but channels, so that a slow commit of the control plane never stalls a guest.
//!
//! `offline` looks at a data directory without any of them.

pub mod admin;
mod admin_socket;
mod api;
mod audit;
pub mod config;
mod control;
mod daemon;
mod doors;
mod ending;
mod error;
mod found;
mod guard;
mod guests;
mod hooks;
mod identity;
mod join;
mod lanes;
mod metrics;
mod notify;
pub mod offline;
mod paths;
mod peer;
mod raft_store;
mod random;
mod refusals;
mod regime;
mod renewal;
mod roles;
mod runner;
mod shard;
mod shard_link;
mod sparing;
mod status;
mod token;
mod upkeep;
mod versions;

pub use api::TWO_COPIES;
pub use daemon::run;
pub use error::AgentError;
pub use found::found;
#[cfg(any(test, feature = "fuzz"))]
pub use join::fuzz_join;
pub use join::join;
#[cfg(any(test, feature = "fuzz"))]
pub use metrics::fuzz_http;
pub use paths::Paths;

/// Whether colours may go to this stream: it is a terminal, and nobody has set NO_COLOR (no-color.org).
#[must_use]
pub fn may_colour(stream: &impl std::io::IsTerminal) -> bool {
    let wished_away = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !wished_away && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod corpus {
    //! Every committed fuzz input of this crate's targets, in every test run.

    use std::fs;
    use std::path::Path;

    fn each(target: &str, run: impl Fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
        let inputs: Vec<_> =
            fs::read_dir(corpus).unwrap().map(|file| fs::read(file.unwrap().path()).unwrap()).collect();
        assert!(!inputs.is_empty());
        inputs.iter().for_each(|input| run(input));
    }

    #[test]
    fn committed_inputs_of_the_fuzzer_hold() {
        each("join", super::fuzz_join);
        each("http_request", super::fuzz_http);
    }
}
