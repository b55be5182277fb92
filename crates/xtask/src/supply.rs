//! What others wrote and Holdfast is built of: licences, sources, banned crates, known flaws. Without a network.
//!
//! `cargo xtask supply-chain` holds Cargo.lock against `deny.toml` and the snapshot of RustSec's advisories in `security/advisories.toml`.
//! `cargo xtask advisories DIR` makes that snapshot anew, from a clone of the advisory database: of the packages in Cargo.lock alone.
//!
//! Each check takes texts and gives sentences, so that a test can prove that it is able to fail.

mod advisories;
mod licence;
mod version;

#[cfg(test)]
mod tests;

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, ExitCode};
use toml::Table;

type Error = Box<dyn std::error::Error>;

const RULES: &str = "deny.toml";
const SNAPSHOT: &str = "security/advisories.toml";
/// The workspace's, and that of the fuzzers, which no package holds.
const LOCKS: [&str; 2] = ["Cargo.lock", "fuzz/Cargo.lock"];
/// The only source.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// A package of a lock file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Locked {
    name: String,
    version: String,
    /// `None`: it is the project's own.
    source: Option<String>,
    checksum: bool,
}

pub(crate) fn check(root: &Path) -> ExitCode {
    match findings(root) {
        Ok((findings, said)) => {
            findings.iter().for_each(|finding| println!("{finding}"));
            println!("supply chain: {} findings; {said}", findings.len());
            if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("the supply chain could not be checked: {error}");
            ExitCode::FAILURE
        }
    }
}

fn findings(root: &Path) -> Result<(Vec<String>, String), Error> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).map_err(|e| format!("{path}: {e}"));
    let rules: Table = read(RULES)?.parse()?;
    let snapshot: Table = read(SNAPSHOT)?.parse()?;
    let mut found = Vec::new();
    let mut foreign = BTreeSet::new();
    for path in LOCKS {
        let locked = locked(&read(path)?)?;
        found.extend(sources(path, &locked));
        found.extend(banned(path, &locked, &rules)?);
        foreign.extend(locked.into_iter().filter(|package| package.source.is_some()));
    }
    found.extend(advisories::check(&foreign, &snapshot, &rules)?);
    let (licensed, others) = licences(root, &rules)?;
    found.extend(others);
    let of = snapshot.get("snapshot").and_then(toml::Value::as_str).unwrap_or("an unknown day");
    let said = format!("{} packages of others, licences of {licensed}, advisories as of {of}", foreign.len());
    Ok((found, said))
}

/// The packages of a lock file.
fn locked(text: &str) -> Result<Vec<Locked>, Error> {
    let lock: Table = text.parse()?;
    let packages = lock.get("package").and_then(toml::Value::as_array).ok_or("expected packages in a lock file")?;
    let of = |package: &toml::Value| {
        let text = |key: &str| package.get(key).and_then(toml::Value::as_str).map(str::to_owned);
        let name = text("name").ok_or("expected each package of a lock file to have a name")?;
        let version = text("version").ok_or("expected each package of a lock file to have a version")?;
        Ok(Locked { name, version, source: text("source"), checksum: text("checksum").is_some() })
    };
    packages.iter().map(of).collect()
}

/// Everything comes from the registry, and can't be exchanged there unnoticed.
fn sources(path: &str, locked: &[Locked]) -> Vec<String> {
    let sentence = |package: &Locked| {
        let (name, version) = (&package.name, &package.version);
        match &package.source {
            Some(source) if source != REGISTRY => {
                Some(format!("{path}: expected {name} {version} from crates.io, found {source}"))
            }
            Some(_) if !package.checksum => {
                Some(format!("{path}: expected a checksum of {name} {version}, found none"))
            }
            _ => None,
        }
    };
    locked.iter().filter_map(sentence).collect()
}

fn banned(path: &str, locked: &[Locked], rules: &Table) -> Result<Vec<String>, Error> {
    let list =
        rules.get("bans").and_then(|bans| bans.get("deny")?.as_array()).ok_or("expected bans.deny in deny.toml")?;
    let mut found = Vec::new();
    for ban in list {
        let text = |key: &str| ban.get(key).and_then(toml::Value::as_str);
        let name = text("crate").ok_or("expected each of bans.deny to name a crate")?;
        let reason = text("reason").ok_or("expected each of bans.deny to give a reason")?;
        if locked.iter().any(|package| package.name == name) {
            found.push(format!("{path}: {name} is banned: {reason}"));
        }
    }
    Ok(found)
}

/// How many packages have one, and what is wrong with those that are in no list.
fn licences(root: &Path, rules: &Table) -> Result<(usize, Vec<String>), Error> {
    let allowed =
        rules.get("licenses").and_then(|l| l.get("allow")?.as_array()).ok_or("expected licenses.allow in deny.toml")?;
    let allowed: BTreeSet<&str> = allowed.iter().filter_map(toml::Value::as_str).collect();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // Locked and built before: what it needs to know lies on this machine.
    let args = ["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform"];
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let out = Command::new(cargo).args(args).arg(target).current_dir(root).output()?;
    if !out.status.success() {
        return Err(format!("cargo metadata failed: {}", String::from_utf8_lossy(&out.stderr).trim()).into());
    }
    let metadata: Value = serde_json::from_slice(&out.stdout)?;
    let packages = metadata["packages"].as_array().ok_or("expected packages of cargo metadata")?;
    let sentence = |package: &Value| {
        let (name, licence) = (package["name"].as_str().unwrap_or_default(), package["license"].as_str());
        match licence.map(|text| licence::allows(text, &allowed)) {
            Some(Ok(true)) => None,
            Some(Ok(false)) => Some(format!("{name}: expected a licence of deny.toml, found {licence:?}")),
            Some(Err(why)) => {
                Some(format!("{name}: expected an SPDX expression as its licence, found {licence:?}: {why}"))
            }
            None => Some(format!("{name}: expected a licence, found none")),
        }
    };
    Ok((packages.len(), packages.iter().filter_map(sentence).collect()))
}

/// `cargo xtask advisories DIR`.
pub(crate) fn snapshot(root: &Path, args: &[String]) -> ExitCode {
    let [dir] = args else {
        eprintln!("expected a clone of RustSec's advisory-db: cargo xtask advisories DIR");
        return ExitCode::from(2);
    };
    let made = || -> Result<usize, Error> {
        let mut names = BTreeSet::new();
        for path in LOCKS {
            let locked = locked(&std::fs::read_to_string(root.join(path))?)?;
            names.extend(locked.into_iter().filter(|p| p.source.is_some()).map(|p| p.name));
        }
        let (text, count) = advisories::snapshot(Path::new(dir), &names)?;
        std::fs::write(root.join(SNAPSHOT), text)?;
        Ok(count)
    };
    match made() {
        Ok(count) => {
            println!("{SNAPSHOT}: {count} advisories");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("no snapshot was made: {error}");
            ExitCode::FAILURE
        }
    }
}
