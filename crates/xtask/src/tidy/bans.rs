//! Calls that are banned: in pure crates, because they make a run irreproducible; proofs outside their maker; `unwrap`.

use super::source::{Source, find_word, line_at};
use super::{Finding, member};

/// Crates whose every run is a function of their inputs.
const PURE: [&str; 11] =
    ["types", "format", "replication", "store", "cluster", "consensus", "nbd", "node", "sim", "model", "crash"];

const NO_CLOCK: &str = "time comes in as the parameter `now`";
const NO_IO: &str = "I/O is an output; a shell crate does it";
const NO_THREAD: &str = "a shell crate owns threads";
const NO_HASH: &str = "its order differs between runs; use BTreeMap, BTreeSet or a sorted Vec";
const NO_CHANCE: &str = "randomness comes in as `holdfast_types::Rng`";
const NO_AWAIT: &str = "`handle(input, now)` returns outputs; a shell crate awaits";
const NO_PRINT: &str = "return an output; a shell crate prints";

/// What a pure crate must not name, and why or what else.
const BANNED: [(&str, &str); 17] = [
    ("Instant::now", NO_CLOCK),
    ("SystemTime", NO_CLOCK),
    ("std::thread", NO_THREAD),
    ("thread::spawn", NO_THREAD),
    ("std::fs", NO_IO),
    ("std::net", NO_IO),
    ("std::env", NO_IO),
    ("HashMap", NO_HASH),
    ("HashSet", NO_HASH),
    ("thread_rng", NO_CHANCE),
    ("rand::", NO_CHANCE),
    ("async fn", NO_AWAIT),
    (".await", NO_AWAIT),
    ("println!", NO_PRINT),
    ("eprintln!", NO_PRINT),
    ("print!", NO_PRINT),
    ("eprint!", NO_PRINT),
];

/// Modules that hide in `use std::{…}`.
const BANNED_STD: [(&str, &str); 4] = [("fs", NO_IO), ("net", NO_IO), ("env", NO_IO), ("thread", NO_THREAD)];

/// Where tests are told which mistake to make, in a feature that nothing shipped has.
const TOLD_OUTSIDE: (&str, &str) = ("crates/types/src/mutant.rs", "std::env");

/// Who may make a proof.
const PROOFS: [(&str, &str); 3] =
    [("Durable::attest", "store"), ("Quorum::attest", "replication"), ("Answerable::attest", "replication")];

/// Unfinished or forgotten code, tests included. Spelled in halves, so that this file does not find itself.
const LEFTOVERS: [&str; 3] = [concat!("dbg", "!"), concat!("todo", "!"), concat!("unimplemented", "!")];

pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let at = |line, sentence: String| Finding::new(&source.path, line, sentence);
    let is_pure = PURE.contains(&member(&source.path)) && source.path.starts_with("crates/");
    for (number, line) in source.lines() {
        if is_pure {
            let allowed = |word: &str| (source.path.as_str(), word) == TOLD_OUTSIDE;
            let banned = BANNED.iter().filter(|(word, _)| find_word(line, word).is_some() && !allowed(word));
            findings.extend(banned.map(|(word, why)| at(number, format!("a pure crate has no `{word}`: {why}"))));
        }
        for (proof, maker) in PROOFS {
            if member(&source.path) != maker && find_word(line, proof).is_some() {
                findings.push(at(number, format!("only crate {maker} makes the proof `{proof}`; pass it on instead")));
            }
        }
        if line.contains(".unwrap()") {
            findings
                .push(at(number, "found `unwrap`; name the invariant with `expect`, or return the error".to_owned()));
        }
    }
    if is_pure {
        findings.extend(grouped_imports(source));
    }
    for (number, line) in (1..).zip(source.code.lines()) {
        let left = LEFTOVERS.iter().filter(|word| find_word(line, word).is_some());
        findings.extend(left.map(|word| at(number, format!("found `{word}`; finish it or remove it"))));
    }
    findings
}

/// `use std::{env, fs}`.
fn grouped_imports(source: &Source) -> Vec<Finding> {
    const GROUP: &str = "std::{";
    let mut findings = Vec::new();
    for (at, _) in source.code.match_indices(GROUP) {
        let line = line_at(&source.code, at);
        if source.is_test.get(line - 1) == Some(&true) {
            continue;
        }
        let group = &source.code[at + GROUP.len()..];
        let group = &group[..group.find(';').unwrap_or(group.len())];
        let banned = BANNED_STD.iter().filter(|(module, _)| names_module(group, module));
        findings.extend(banned.map(|(module, why)| {
            Finding::new(&source.path, line, format!("a pure crate has no `std::{module}`: {why}"))
        }));
    }
    findings
}

/// Whether an entry of the group itself starts with `module`; a name further inside belongs to another module.
fn names_module(group: &str, module: &str) -> bool {
    let mut depth = 0usize;
    let top: String = group
        .chars()
        .filter(|c| {
            match c {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            depth == 0
        })
        .collect();
    top.trim_end_matches('}').split(',').any(|entry| entry.trim().split("::").next() == Some(module))
}
