//! Why a node can't take part.

/// Why a `Raft` could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConsensusError {
    /// A setting that makes no sense.
    #[error("raft settings: {0}")]
    Config(String),
    /// What was read from stable storage contradicts itself. The node must not take part: its promises are unknown.
    #[error("the stored raft state is damaged: {what}; rebuild this node under a new id")]
    Damaged {
        /// The contradiction.
        what: String,
    },
}

impl ConsensusError {
    pub(crate) fn damaged(what: impl Into<String>) -> ConsensusError {
        ConsensusError::Damaged { what: what.into() }
    }
}
