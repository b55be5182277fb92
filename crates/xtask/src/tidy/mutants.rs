//! Deliberate mistakes stay out of what is shipped, and each one that is declared is made somewhere.

use super::source::{Source, find_word};
use super::{Error, Finding, member};
use toml::{Table, Value};

const FEATURE: &str = "mutants";
/// Where the mistakes are declared.
const DECLARED: &str = "crates/types/src/mutant.rs";
/// Who may switch them on: the simulator, in a feature of the same name, and the task that hunts them.
const HUNTERS: [&str; 2] = ["sim", "xtask"];

/// What a manifest does with the feature.
pub(crate) fn check_manifest(path: &str, manifest: &str) -> Result<Vec<Finding>, Error> {
    let parsed: Table = manifest.parse().map_err(|e| format!("{path} is no TOML: {e}"))?;
    let mut findings = Vec::new();
    let mut found = |sentence: String| findings.push(Finding::new(path, 1, sentence));
    let hunter = HUNTERS.contains(&member(path)) && path.starts_with("crates/");
    for (name, enables) in parsed.get("features").and_then(Value::as_table).into_iter().flatten() {
        let names = |text: &str| text == FEATURE || text.ends_with(&format!("/{FEATURE}"));
        let enabled = enables.as_array().into_iter().flatten().filter_map(Value::as_str).any(names);
        if enabled && !(hunter && name == FEATURE) {
            found(format!("feature `{name}` switches the feature `{FEATURE}` on; only the simulator's own may"));
        }
    }
    for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
        for (name, value) in parsed.get(section).and_then(Value::as_table).into_iter().flatten() {
            let features = value.get("features").and_then(Value::as_array).into_iter().flatten();
            let enabled = features.filter_map(Value::as_str).any(|f| f == FEATURE);
            let optional = value.get("optional").and_then(Value::as_bool) == Some(true);
            if enabled && !(hunter && optional) {
                found(format!("{name} is built with `{FEATURE}` for everybody; make it optional, in xtask alone"));
            }
        }
    }
    Ok(findings)
}

/// Declared mistakes that nobody makes.
pub(crate) fn check_sources(sources: &[Source]) -> Vec<Finding> {
    let Some(declared) = sources.iter().find(|s| s.path == DECLARED) else { return Vec::new() };
    let made: Vec<&Source> =
        sources.iter().filter(|s| s.path != DECLARED && !HUNTERS.contains(&member(&s.path))).collect();
    let mut findings = Vec::new();
    for (line, name) in names(declared) {
        let call = format!("mutated(Mutant::{name})");
        if !made.iter().any(|source| source.lines().any(|(_, text)| find_word(text, &call).is_some())) {
            let sentence = format!("mutant `{name}` is declared and made nowhere; make it or remove it");
            findings.push(Finding::new(DECLARED, line, sentence));
        }
    }
    findings
}

/// Lines such as `Name: "step",` between the braces of the declaration, whose literals are blanked out.
fn names(declared: &Source) -> impl Iterator<Item = (usize, &str)> {
    let inside = declared.lines().skip_while(|(_, text)| text.trim() != "mutants! {").skip(1);
    inside.take_while(|(_, text)| text.trim() != "}").filter_map(|(line, text)| {
        let (name, _) = text.trim().split_once(':')?;
        Some((line, name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_feature_is_enabled_by_hunters_alone() {
        let forwarded = "[features]\nmutants = [\"holdfast-types/mutants\"]\n";
        let default = "[features]\ndefault = [\"mutants\"]\nmutants = []\n";
        let always = "[dependencies]\nholdfast-sim = { workspace = true, features = [\"mutants\"] }\n";
        let optional =
            "[dependencies]\nholdfast-sim = { workspace = true, optional = true, features = [\"mutants\"] }\n";
        let cases = [
            ("crates/types/Cargo.toml", "[features]\nmutants = []\n", 0),
            ("crates/sim/Cargo.toml", forwarded, 0),
            ("crates/store/Cargo.toml", forwarded, 1),
            ("crates/sim/Cargo.toml", default, 1),
            ("crates/agent/Cargo.toml", default, 1),
            ("crates/xtask/Cargo.toml", optional, 0),
            ("crates/xtask/Cargo.toml", always, 1),
            ("crates/cli/Cargo.toml", optional, 1),
        ];
        for (path, manifest, expected) in cases {
            let findings = check_manifest(path, manifest).expect("it is TOML");
            assert_eq!(findings.len(), expected, "{path} with {manifest}");
        }
    }

    #[test]
    fn a_mutant_that_nobody_makes_is_found() {
        let declared = Source::parse(DECLARED, "mutants! {\n    /// Doc.\n    Made: \"S1\",\n    Idle: \"S2\",\n}\n");
        let code = "fn f() -> bool { mutated(Mutant::Made) }\n#[cfg(test)]\nfn g() -> bool { mutated(Mutant::Idle) }\n";
        let findings = check_sources(&[declared, Source::parse("crates/store/src/store.rs", code)]);
        assert_eq!(findings.iter().map(|f| f.line).collect::<Vec<_>>(), [4], "{findings:?}");
    }
}
