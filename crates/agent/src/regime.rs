//! The note that the control plane was recovered and this node given up (PROTOCOL.md, G2).
//!
//! `cluster/superseded` holds the recovery. It is written before the agent ends, and looked at before it votes again. A node that takes part
//! in that generation or a later one has no use for it.

use crate::audit;
use crate::error::AgentError;
use crate::paths::{self, Paths};
use holdfast_cluster::{Operator, Recovery};
use holdfast_types::Generation;

/// The recovery of which this node was told that it was given up.
pub(crate) fn met(paths: &Paths) -> Result<Option<Recovery>, AgentError> {
    let path = paths.superseded();
    if !path.exists() {
        return Ok(None);
    }
    let found = Recovery::decode(&paths::read(&path)?);
    let damaged = || AgentError::Damaged {
        what: "the recovery of the control plane by which this node was given up",
        path: path.clone(),
        found: "something else".to_owned(),
    };
    found.map(Some).ok_or_else(damaged)
}

/// Notes it. What was noted before and is later stays: this node is asked for nothing of an earlier one.
pub(crate) fn note(paths: &Paths, recovery: &Recovery) -> Result<(), AgentError> {
    if met(paths)?.is_some_and(|known| known.generation >= recovery.generation) {
        return Ok(());
    }
    paths::write_durable(&paths.superseded(), &recovery.encode(), 0o644)
}

/// Refuses to start a node that was given up. `own`: what opened the generation of its log.
pub(crate) fn check(paths: &Paths, own: Option<&Recovery>) -> Result<(), AgentError> {
    let own = own.map_or(Generation::FIRST, |r| r.generation);
    match met(paths)?.filter(|met| met.generation > own) {
        Some(met) => Err(superseded(paths, own, &met)),
        None => Ok(()),
    }
}

pub(crate) fn superseded(paths: &Paths, own: Generation, by: &Recovery) -> AgentError {
    AgentError::Superseded {
        own,
        generation: by.generation,
        node: by.node,
        by: who(&by.by),
        at: audit::utc(by.at_ms),
        data_dir: paths.root().to_path_buf(),
    }
}

/// For people.
pub(crate) fn who(by: &Operator) -> String {
    match by.uid {
        Some(uid) => format!("{} (uid {uid}) on {}", by.user, by.host),
        None => format!("an unknown user on {}", by.host),
    }
}
