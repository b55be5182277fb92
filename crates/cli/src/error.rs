//! How a command ends: a sentence on stderr, and an exit status that a script can act on.

use crate::harness::HarnessError;
use crate::workload::WorkloadError;
use holdfast_agent::AgentError;
use holdfast_agent::admin::ConnectError;
use holdfast_agent::config::ConfigError;
use holdfast_agent::offline::{OfflineError, RegimeError};
use std::path::PathBuf;
use std::process::ExitCode;

/// Exit statuses other than 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It was tried and failed.
    Failed,
    /// The command makes no sense as written.
    Usage,
    /// It would be unsafe.
    Refused,
    /// The agent's node was removed from its cluster, or given up: to start it again is of no use.
    Removed,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(match exit {
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Refused => 3,
            Exit::Removed => 4,
        })
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// The daemon, `init` or `join`.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No agent on the admin socket.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The agent's answer.
    #[error("{}", .0.message())]
    Status(#[source] Box<tonic::Status>),
    /// The agent said nothing.
    #[error(
        "expected an answer of the agent on {socket} within {limit:?}, found none: it stands still or is overloaded; look at \
         its process and its log, or give it more time with --timeout"
    )]
    Late {
        /// The admin socket.
        socket: String,
        /// How long was waited.
        limit: std::time::Duration,
    },
    /// It was agreed to, and is not done.
    #[error("{what} within {limit:?}: {found}; it goes on by itself, look at `{}`", format!("holdfast status {volume}").trim_end())]
    Unfinished {
        /// What was agreed to, and what was expected then.
        what: String,
        /// How long was waited.
        limit: std::time::Duration,
        /// How things stood last.
        found: String,
        /// Of this volume; empty: of the cluster.
        volume: String,
    },
    /// Copies are not what they should be.
    #[error("{0}")]
    Unequal(String),
    /// It was agreed to, and does not come by itself.
    #[error("{0}")]
    Hopeless(String),
    /// An argument.
    #[error("{0}")]
    Usage(String),
    /// Processes of the demo.
    #[error(transparent)]
    Harness(#[from] HarnessError),
    /// Load of the demo.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    /// The demo found a broken promise.
    #[error("expected every acknowledged write, equal copies and a clean file system, found: {0}")]
    Broken(String),
    /// The simulator found one.
    #[error("{0}")]
    Simulator(String),
    /// A measurement that gave no figures.
    #[error("{0}")]
    Bench(String),
    /// What would destroy something, and was not asked for in so many words.
    #[error("{0}")]
    Unsafe(String),
    /// The directory of a stopped agent can't be looked at.
    #[error(transparent)]
    Offline(#[from] OfflineError),
    /// `fsck` found something.
    #[error(
        "expected {} to be whole, found {problems} problem(s), listed above; {mendable} can be mended with --repair, the rest from \
         another copy", dir.display()
    )]
    Damaged {
        /// The directory.
        dir: PathBuf,
        /// How many.
        problems: usize,
        /// How many of them `--repair` mends.
        mendable: usize,
    },
    /// `export` left something out.
    #[error("{} is not complete: {lacks}", file.display())]
    Incomplete {
        /// What was written.
        file: PathBuf,
        /// What is missing, in words.
        lacks: String,
    },
    /// A tool of the system.
    #[error("expected {tool} to {what}, found: {found}; install it with scripts/setup if it is missing")]
    Tool {
        /// Its name.
        tool: &'static str,
        /// What it was to do.
        what: &'static str,
        /// What it said.
        found: String,
    },
    /// A file or a pipe.
    #[error("could not {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// Ctrl-C.
    #[error("interrupted; all processes of the demo were ended")]
    Interrupted,
}

impl CliError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> CliError {
        let what = what.into();
        move |source| CliError::Io { what, source }
    }

    /// The status that the process ends with.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            CliError::Config(_) | CliError::Usage(_) => Exit::Usage,
            CliError::Agent(e) if e.is_usage() => Exit::Usage,
            CliError::Agent(AgentError::Removed { .. } | AgentError::Superseded { .. }) => Exit::Removed,
            CliError::Agent(e) if e.is_unsafe() => Exit::Refused,
            CliError::Unsafe(_) => Exit::Refused,
            CliError::Offline(e) if e.is_usage() => Exit::Usage,
            CliError::Offline(e) if e.is_refused() => Exit::Refused,
            CliError::Status(status) => match status.code() {
                tonic::Code::InvalidArgument => Exit::Usage,
                tonic::Code::FailedPrecondition => Exit::Refused,
                _ => Exit::Failed,
            },
            _ => Exit::Failed,
        }
    }
}

impl From<RegimeError> for CliError {
    fn from(error: RegimeError) -> CliError {
        match error {
            RegimeError::Place(e) => e.into(),
            RegimeError::Agent(e) => e.into(),
            RegimeError::Usage(why) => CliError::Usage(why),
            other => CliError::Unsafe(other.to_string()),
        }
    }
}

impl From<tonic::Status> for CliError {
    fn from(status: tonic::Status) -> CliError {
        CliError::Status(Box::new(status))
    }
}
