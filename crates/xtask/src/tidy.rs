//! Taste, enforced by a program.
//!
//! Each check takes texts and returns findings, so that a unit test can prove that it is able to fail. Only `check`
//! reads files.

mod bans;
mod direction;
mod mutants;
mod size;
mod source;
mod text;

#[cfg(test)]
mod tests;

use size::Ratchet;
use source::Source;
use std::fmt;
use std::path::Path;
use std::process::Command;

/// Something to change, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    path: String,
    line: usize,
    sentence: String,
}

impl Finding {
    fn new(path: &str, line: usize, sentence: impl Into<String>) -> Finding {
        Finding { path: path.to_owned(), line, sentence: sentence.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.sentence)
    }
}

type Error = Box<dyn std::error::Error>;

const RATCHET: &str = "crates/xtask/ratchet.toml";

/// Everything there is to say about the repository at `root`.
pub(crate) fn check(root: &Path) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    let mut sources = Vec::new();
    for path in files(root)? {
        // A binary file, such as a fuzzer's input, has no lines; a link or a file deleted just now has no text.
        let Ok(text) = std::fs::read_to_string(root.join(&path)) else { continue };
        findings.extend(text::check(&path, &text));
        if is_member_manifest(&path) {
            findings.extend(direction::check(&path, &text)?);
            findings.extend(mutants::check_manifest(&path, &text)?);
        }
        if path.ends_with(".rs") {
            sources.push(Source::parse(&path, &text));
        }
    }
    mark_test_files(&mut sources);
    let sizes: Vec<_> = sources.iter().flat_map(size::measure).collect();
    findings.extend(sources.iter().flat_map(bans::check));
    findings.extend(mutants::check_sources(&sources));
    let ratchet = std::fs::read_to_string(root.join(RATCHET))?;
    findings.extend(size::check(&sizes, &Ratchet::parse(&ratchet)?));
    findings.sort();
    Ok(findings)
}

/// A file is a test if its parent declares it as one, whatever its name.
fn mark_test_files(sources: &mut [Source]) {
    let modules: Vec<String> = sources.iter().flat_map(source::test_modules).collect();
    for source in sources {
        let path = source.path.trim_end_matches(".rs");
        if modules
            .iter()
            .any(|module| path == module || path.strip_prefix(module.as_str()).is_some_and(|p| p.starts_with('/')))
        {
            source.belong_to_tests();
        }
    }
}

/// Every file that is tracked, or would be after `git add`.
fn files(root: &Path) -> Result<Vec<String>, Error> {
    let out = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()?;
    if !out.status.success() {
        return Err(format!("git ls-files failed: {}", String::from_utf8_lossy(&out.stderr).trim()).into());
    }
    let names = String::from_utf8(out.stdout)?;
    Ok(names.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

fn is_member_manifest(path: &str) -> bool {
    path.ends_with("/Cargo.toml") && !path.starts_with("fuzz/")
}

/// The workspace member that a path belongs to: `store` of `crates/store/src/lib.rs`, `tests` of `tests/src/lib.rs`.
fn member(path: &str) -> &str {
    let path = path.strip_prefix("crates/").unwrap_or(path);
    path.split('/').next().unwrap_or(path)
}
