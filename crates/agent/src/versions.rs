//! What this build speaks, and the note that keeps an older one from a directory of a cluster that was raised.
//!
//! The note is `cluster/version.json`: the version of the cluster, written durably before anything of that version is done here. It is
//! looked at before anything else of the directory, so that an agent that is too old changes nothing.

use crate::error::AgentError;
use crate::paths::{self, Paths};
use holdfast_types::{ClusterVersion, Speaks};
use serde::{Deserialize, Serialize};

/// For tests of mixed clusters: `OLDEST-NEWEST` in place of what this build speaks.
pub(crate) const SPEAKS_VARIABLE: &str = "HOLDFAST_SPEAKS";

/// Which build this is.
pub(crate) const BUILD: &str = env!("CARGO_PKG_VERSION");

/// The file. Later builds may add to it: what is needed to refuse it stays.
#[derive(Serialize, Deserialize)]
struct Note {
    version: u32,
    written_by: String,
}

/// What this process speaks.
///
/// # Errors
/// The variable for tests holds no range.
pub(crate) fn speaks() -> Result<Speaks, AgentError> {
    let Ok(text) = std::env::var(SPEAKS_VARIABLE) else { return Ok(Speaks::THIS) };
    let range = text.split_once('-').and_then(|(a, b)| Speaks::new(a.parse().ok()?, b.parse().ok()?));
    let within = |s: &Speaks| Speaks::THIS.contains(s.oldest()) && Speaks::THIS.contains(s.newest());
    range.filter(within).ok_or(AgentError::Speaks { found: text })
}

/// Refuses a directory of a cluster whose version this process does not speak.
pub(crate) fn check(paths: &Paths, speaks: Speaks) -> Result<(), AgentError> {
    let path = paths.version();
    if !path.exists() {
        return Ok(());
    }
    let damaged = |e: serde_json::Error| AgentError::Damaged {
        what: "the version of the cluster",
        path: path.clone(),
        found: e.to_string(),
    };
    let note: Note = serde_json::from_slice(&paths::read(&path)?).map_err(damaged)?;
    match speaks.refusal(ClusterVersion(note.version)) {
        None => Ok(()),
        Some(found) => Err(AgentError::Version { path, found, by: note.written_by }),
    }
}

/// The cluster is of this version: from now on no older agent opens this directory.
/// What is noted already is not written again: a start needs no room on the disk for it.
pub(crate) fn note(paths: &Paths, version: ClusterVersion) -> Result<(), AgentError> {
    let noted = std::fs::read(paths.version()).ok().and_then(|text| serde_json::from_slice::<Note>(&text).ok());
    if noted.is_some_and(|noted| noted.version == version.0) {
        return Ok(());
    }
    let note = Note { version: version.0, written_by: format!("holdfast {BUILD}") };
    let text = serde_json::to_vec(&note).expect("text and numbers are always JSON");
    paths::write_durable(&paths.version(), &text, 0o644)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_a_later_version_is_refused_with_a_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let of = |a, b| Speaks::new(a, b).unwrap();
        check(&paths, of(1, 1)).expect("a directory without a note is of the first version");
        paths::create_dir(&paths.cluster_dir()).unwrap();
        note(&paths, ClusterVersion(2)).unwrap();
        check(&paths, of(1, 2)).unwrap();
        let written = std::fs::metadata(paths.version()).unwrap().modified().unwrap();
        note(&paths, ClusterVersion(2)).unwrap();
        assert_eq!(std::fs::metadata(paths.version()).unwrap().modified().unwrap(), written, "it is there already");
        let refused = check(&paths, of(1, 1)).unwrap_err();
        assert!(refused.is_unsafe());
        let text = refused.to_string();
        assert!(text.contains("this agent speaks 1 alone") && text.contains(BUILD), "{text}");
        std::fs::write(paths.version(), "{\"version\":2,\"written_by\":\"x\",\"of a later build\":1}").unwrap();
        check(&paths, of(2, 3)).expect("what a later build adds is passed over");
        std::fs::write(paths.version(), "two").unwrap();
        assert!(matches!(check(&paths, of(1, 2)), Err(AgentError::Damaged { .. })));
    }
}
