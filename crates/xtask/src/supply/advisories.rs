//! Known flaws of packages: the snapshot, how it is made, and what of it concerns us.

use super::version::{Version, matches};
use super::{Error, Locked};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use toml::{Table, Value};

/// Sentences about packages with a known flaw, packages that the snapshot does not cover, and exceptions that are of no use.
pub(super) fn check(packages: &BTreeSet<Locked>, snapshot: &Table, rules: &Table) -> Result<Vec<String>, Error> {
    let covered: BTreeSet<&str> = texts(snapshot.get("covers"));
    let ignored = ignored(rules)?;
    let (mut found, mut used) = (Vec::new(), BTreeSet::new());
    let uncovered: BTreeSet<&str> = packages.iter().map(|p| p.name.as_str()).filter(|n| !covered.contains(n)).collect();
    found.extend(uncovered.into_iter().map(|name| {
        format!("{name} is newer than the snapshot of advisories; make it anew: cargo xtask advisories DIR")
    }));
    let none = Vec::new();
    for advisory in snapshot.get("advisory").and_then(Value::as_array).unwrap_or(&none) {
        let text = |key: &str| advisory.get(key).and_then(Value::as_str).unwrap_or_default();
        let (id, name) = (text("id"), text("package"));
        for package in packages.iter().filter(|p| p.name == name) {
            if !concerns(advisory, &package.version).map_err(|e| format!("{id}: {e}"))? {
                continue;
            }
            if ignored.contains(id) {
                used.insert(id);
                continue;
            }
            let patched: Vec<&str> = texts(advisory.get("patched")).into_iter().collect();
            let kind = Some(text("informational")).filter(|k| !k.is_empty()).unwrap_or("a flaw");
            let cure = if patched.is_empty() {
                "there is no version without it".to_owned()
            } else {
                format!("use {}", patched.join(" or "))
            };
            found.push(format!("{name} {}: {id}, {kind}: {}; {cure}", package.version, text("title")));
        }
    }
    let unused = ignored.iter().filter(|id| !used.contains(**id));
    found.extend(unused.map(|id| format!("deny.toml ignores {id}, which concerns nothing here; take it out")));
    Ok(found)
}

/// Ids that are excused.
fn ignored(rules: &Table) -> Result<BTreeSet<&str>, Error> {
    let list = rules
        .get("advisories")
        .and_then(|a| a.get("ignore")?.as_array())
        .ok_or("expected advisories.ignore in deny.toml")?;
    let mut ids = BTreeSet::new();
    for entry in list {
        let text = |key: &str| entry.get(key).and_then(Value::as_str).filter(|t| !t.is_empty());
        text("reason").ok_or("expected each of advisories.ignore to give a reason")?;
        ids.insert(text("id").ok_or("expected each of advisories.ignore to have an id")?);
    }
    Ok(ids)
}

/// Neither patched nor never affected.
fn concerns(advisory: &Value, version: &str) -> Result<bool, String> {
    let version = Version::parse(version)?;
    for requirement in texts(advisory.get("patched")).into_iter().chain(texts(advisory.get("unaffected"))) {
        if matches(requirement, version)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn texts(list: Option<&Value>) -> BTreeSet<&str> {
    list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

/// The text of the snapshot, from a clone of the database, and how many advisories are in it.
pub(super) fn snapshot(dir: &Path, names: &BTreeSet<String>) -> Result<(String, usize), Error> {
    let git = |args: &[&str]| -> Result<String, Error> {
        let out = Command::new("git").arg("-C").arg(dir).args(args).output()?;
        if !out.status.success() {
            return Err(format!(
                "git {} in {}: {}",
                args.join(" "),
                dir.display(),
                String::from_utf8_lossy(&out.stderr).trim()
            )
            .into());
        }
        Ok(String::from_utf8(out.stdout)?.trim().to_owned())
    };
    let mut text = String::from(
        "# Advisories of RustSec's advisory-db (CC0-1.0) about packages in our lock files. Made by `cargo xtask advisories DIR`.\n\n",
    );
    writeln!(
        text,
        "snapshot = {:?}\ncommit = {:?}",
        git(&["log", "-1", "--format=%cs"])?,
        git(&["rev-parse", "HEAD"])?
    )?;
    writeln!(text, "covers = [")?;
    names.iter().try_for_each(|name| writeln!(text, "  {name:?},"))?;
    writeln!(text, "]")?;
    let mut count = 0;
    for name in names {
        let of = dir.join("crates").join(name);
        let Ok(entries) = std::fs::read_dir(&of) else { continue };
        let mut files: Vec<_> = entries.flatten().map(|e| e.path()).collect();
        files.sort();
        for file in files {
            let advisory = entry(&std::fs::read_to_string(&file)?).map_err(|e| format!("{}: {e}", file.display()))?;
            if let Some(advisory) = advisory {
                text += &advisory;
                count += 1;
            }
        }
    }
    Ok((text, count))
}

/// One file of the database, as an entry of the snapshot; `None`: it was withdrawn.
fn entry(file: &str) -> Result<Option<String>, Error> {
    let inner =
        file.split("```toml").nth(1).and_then(|rest| rest.split("```").next()).ok_or("expected a block of TOML")?;
    let table: Table = inner.parse()?;
    let advisory = table.get("advisory").ok_or("expected [advisory]")?;
    if advisory.get("withdrawn").is_some() {
        return Ok(None);
    }
    let title = file.lines().find_map(|line| line.strip_prefix("# ")).unwrap_or_default().trim();
    let mut text = String::from("\n[[advisory]]\n");
    for key in ["id", "package", "date", "informational"] {
        if let Some(value) = advisory.get(key).and_then(Value::as_str) {
            writeln!(text, "{key} = {value:?}")?;
        }
    }
    writeln!(text, "title = {title:?}")?;
    for key in ["patched", "unaffected"] {
        let list: Vec<&str> = texts(table.get("versions").and_then(|v| v.get(key))).into_iter().collect();
        writeln!(text, "{key} = {list:?}")?;
    }
    Ok(Some(text))
}

#[cfg(test)]
pub(super) fn entry_of(file: &str) -> Option<String> {
    entry(file).expect("it is one")
}
