//! Which crate may know which: from `Cargo.toml` files.

use super::{Error, Finding, member};
use toml::{Table, Value};

const PREFIX: &str = "holdfast-";

/// For each crate the crates of the project that it may depend on. Siblings do not know each other: whoever owns both
/// carries the outputs of one to the inputs of the other.
const MAY_KNOW: [(&str, &[&str]); 17] = [
    ("types", &[]),
    ("format", &["types"]),
    ("replication", &["types", "format"]),
    ("store", &["types", "format"]),
    ("cluster", &["types", "format"]),
    ("consensus", &["types", "format"]),
    ("nbd", &["types", "format"]),
    ("node", &["types", "format", "replication", "store", "cluster", "consensus"]),
    ("sim", &["types", "format", "replication", "store", "cluster", "consensus", "nbd", "node"]),
    ("crash", &["types", "format", "store"]),
    ("disk", &["types", "format", "store"]),
    ("transport", &["types", "format"]),
    ("agent", &["types", "format", "replication", "store", "cluster", "consensus", "nbd", "node", "disk", "transport"]),
    (
        "cli",
        &[
            "types",
            "format",
            "replication",
            "store",
            "cluster",
            "consensus",
            "nbd",
            "node",
            "sim",
            "disk",
            "transport",
            "agent",
        ],
    ),
    // The model knows nothing of the code that it is the measure of.
    ("model", &[]),
    // A tool of tests: it knows files, not what is in them.
    ("faultfs", &[]),
    // The simulator for the mutants, and only when it is asked for them.
    ("xtask", &["model", "sim", "crash", "store"]),
];

/// Members outside the house, which may look into every room.
const GUESTS: [&str; 2] = ["tests", "benches"];

/// Crates of others that only these may name, so that replacing one is the work of one crate.
const OWNED: [(&str, &[&str]); 10] = [
    ("quinn", &["transport"]),
    ("io-uring", &["disk"]),
    ("memmap2", &["disk"]),
    ("raft", &["consensus"]),
    ("raft-prost", &["consensus"]),
    ("slog", &["consensus"]),
    ("tokio", &["disk", "transport", "agent", "cli", "tests", "benches"]),
    ("tokio-stream", &["disk", "transport", "agent", "cli", "tests", "benches"]),
    ("redb", &["agent"]),
    ("rcgen", &["transport", "agent"]),
];

/// Whether a dependency of tests alone counts: they may look further inside the house, not name foreign crates.
const TABLES: [(&str, bool); 3] = [("dependencies", true), ("build-dependencies", true), ("dev-dependencies", false)];

pub(crate) fn check(path: &str, manifest: &str) -> Result<Vec<Finding>, Error> {
    let parsed: Table = manifest.parse().map_err(|e| format!("{path} is no TOML: {e}"))?;
    let name = member(path);
    let known = MAY_KNOW.iter().find(|(crate_name, _)| *crate_name == name).map(|(_, known)| *known);
    if known.is_none() && !GUESTS.contains(&name) {
        let sentence =
            format!("crate {name} has no place in the house; give it one in crates/xtask/src/tidy/direction.rs");
        return Ok(vec![Finding::new(path, 1, sentence)]);
    }
    let mut findings = Vec::new();
    for (dependency, counts) in dependencies(&parsed) {
        let line = line_of(manifest, &dependency);
        let inner = dependency.strip_prefix(PREFIX);
        if let (Some(inner), Some(known), true) = (inner, known, counts)
            && !known.contains(&inner)
        {
            let sentence =
                format!("crate {name} must not depend on {inner}; let their owner carry values between them");
            findings.push(Finding::new(path, line, sentence));
        }
        if let Some((_, owners)) =
            OWNED.iter().find(|(foreign, owners)| *foreign == dependency && !owners.contains(&name))
        {
            let sentence = format!("only {} may name {dependency}; use what it offers instead", owners.join(", "));
            findings.push(Finding::new(path, line, sentence));
        }
    }
    Ok(findings)
}

/// Names of all dependencies, those under `[target.…]` too.
fn dependencies(manifest: &Table) -> Vec<(String, bool)> {
    let targets = manifest.get("target").and_then(Value::as_table);
    let targets = targets.into_iter().flat_map(|t| t.values()).filter_map(Value::as_table);
    let mut all = Vec::new();
    for table in std::iter::once(manifest).chain(targets) {
        for (section, counts) in TABLES {
            let names = table.get(section).and_then(Value::as_table).into_iter().flat_map(Table::iter);
            all.extend(names.map(|(key, value)| (real_name(key, value), counts)));
        }
    }
    all
}

/// A renamed crate is still that crate. Where the workspace renames it, the new name stands in `OWNED`.
fn real_name(key: &str, value: &Value) -> String {
    value.get("package").and_then(Value::as_str).unwrap_or(key).to_owned()
}

fn line_of(manifest: &str, dependency: &str) -> usize {
    manifest.lines().position(|line| line.contains(dependency)).map_or(1, |at| at + 1)
}
