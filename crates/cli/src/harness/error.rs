//! What can go wrong with a cluster of processes.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A sentence, and for some the agents' last words.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HarnessError {
    /// A file or a process.
    #[error("could not {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A path that no Unix socket can have.
    #[error("expected a directory whose sockets have paths of at most 107 bytes, found {}; use a shorter one with --dir", path.display())]
    Path {
        /// The socket.
        path: PathBuf,
    },
    /// A command or a request was answered with no.
    #[error("could not {what}: {found}")]
    Refused {
        /// What was tried.
        what: String,
        /// The answer.
        found: String,
    },
    /// Not in time.
    #[error("expected {what} within {waited:?}, found: {found}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        waited: Duration,
        /// What was found last.
        found: String,
        /// The ends of the agents' logs.
        tails: String,
    },
    /// An agent ended by itself.
    #[error("expected {what}, found that the agent of {node} had ended {how}; its log says why")]
    Died {
        /// What was waited for.
        what: String,
        /// Whose agent.
        node: String,
        /// Status or signal.
        how: String,
        /// The ends of the agents' logs.
        tails: String,
    },
    /// The cluster did not come up.
    #[error("the cluster did not start: {source}")]
    Start {
        /// The step that failed.
        #[source]
        source: Box<HarnessError>,
        /// The ends of the agents' logs.
        tails: String,
    },
}

impl HarnessError {
    /// The ends of the agents' logs, if they may say why.
    #[must_use]
    pub fn tails(&self) -> &str {
        match self {
            HarnessError::Timeout { tails, .. }
            | HarnessError::Died { tails, .. }
            | HarnessError::Start { tails, .. } => tails,
            HarnessError::Io { .. } | HarnessError::Path { .. } | HarnessError::Refused { .. } => "",
        }
    }
}
