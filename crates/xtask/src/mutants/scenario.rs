//! Mistakes that a named test must fail with: the tests of the crates that have them, built with the feature `mutants`, one
//! binary a crate, are run without the mistake, when they must pass, and with it.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What tells a test's process which mistake to make.
const TOLD: &str = "HOLDFAST_MUTANT";

/// How a test ended that was run with the mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It failed, saying this.
    Failed(String),
    /// It passed: the mutant lives.
    Passed,
    /// It proves nothing, for this reason.
    Void(String),
}

/// Test binaries by crate.
#[derive(Debug, Default)]
pub(super) struct Binaries(BTreeMap<String, PathBuf>);

impl Binaries {
    /// Builds those that `tests`, such as `store::tests::basic::cut_tails_do_not_return`, are in.
    pub(super) fn build<'a>(root: &Path, tests: impl Iterator<Item = &'a str>) -> Result<Binaries, String> {
        let crates: BTreeSet<&str> = tests.map(|test| split(test).0).collect();
        if crates.is_empty() {
            return Ok(Binaries::default());
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(["test", "--quiet", "--no-run", "--lib", "--message-format", "json"]);
        command.args(["--features", "holdfast-types/mutants", "--package", "holdfast-types"]);
        for name in crates {
            command.args(["--package", &format!("holdfast-{name}")]);
        }
        let output = command.current_dir(root).stderr(Stdio::inherit()).output();
        let output = output.map_err(|error| format!("cargo can't be started: {error}"))?;
        if !output.status.success() {
            return Err(format!("the tests can't be built: cargo ended with {}", output.status));
        }
        Ok(Binaries(String::from_utf8_lossy(&output.stdout).lines().filter_map(binary).collect()))
    }

    /// Runs one without the mistake and with it.
    pub(super) fn run(&self, test: &str, mutant: &str) -> Ended {
        let (name, path) = split(test);
        let Some(binary) = self.0.get(name) else {
            return Ended::Void(format!("crate holdfast-{name} has no tests"));
        };
        let run = |mutant: Option<&str>| {
            let mut command = Command::new(binary);
            command.args(["--exact", path, "--test-threads", "1"]).env_remove(TOLD).env("RUST_BACKTRACE", "0");
            command.envs(mutant.map(|name| (TOLD, name)));
            command.output().map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
        };
        match (run(None), run(Some(mutant))) {
            (Ok(without), Ok(with)) => judge(&without, &with),
            (Err(error), _) | (_, Err(error)) => Ended::Void(format!("{} can't be run: {error}", binary.display())),
        }
    }
}

/// `store::tests::basic::name` as the crate and the name that its test binary knows.
fn split(test: &str) -> (&str, &str) {
    test.split_once("::").unwrap_or((test, ""))
}

/// What one line of cargo's says of a test binary.
fn binary(line: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(line).ok()?;
    let name = message["target"]["name"].as_str()?.strip_prefix("holdfast_")?.to_owned();
    message["profile"]["test"].as_bool().filter(|test| *test)?;
    Some((name, message["executable"].as_str()?.into()))
}

/// What two runs of a test prove, by what they printed.
fn judge(without: &str, with: &str) -> Ended {
    if !without.contains("test result: ok. 1 passed; 0 failed") {
        let absent = without.contains("test result: ok. 0 passed");
        let what = if absent { "there is no such test" } else { "it fails without the mistake as well" };
        return Ended::Void(what.to_owned());
    }
    if with.contains("test result: ok. 1 passed; 0 failed") {
        return Ended::Passed;
    }
    let said = with.lines().skip_while(|line| !line.contains("panicked at")).skip(1).take_while(|l| !l.is_empty());
    let said: Vec<&str> = said.filter(|line| !line.starts_with("note: ")).map(str::trim).collect();
    if with.contains("test result: FAILED. 0 passed; 1 failed") && !said.is_empty() {
        return Ended::Failed(said.join(" "));
    }
    // An end in the middle, as by a signal, is no judgement of the test.
    Ended::Void("with the mistake it ended without a result".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSED: &str = "\nrunning 1 test\ntest a::b ... ok\n\ntest result: ok. 1 passed; 0 failed; 0 ignored\n";
    const ABSENT: &str = "\nrunning 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored; 9 filtered out\n";
    const FAILED: &str = "\nrunning 1 test\ntest a::b ... FAILED\n\nfailures:\n\n---- a::b stdout ----\n\n\
        thread 'a::b' (7) panicked at crates/x/src/tests.rs:3:5:\nassertion failed: S1\n  left: 1\nnote: run with\n\n\
        failures:\n    a::b\n\ntest result: FAILED. 0 passed; 1 failed; 0 ignored\n";

    #[test]
    fn a_mistake_is_caught_by_a_test_that_passes_without_it_and_fails_with_it() {
        assert_eq!(judge(PASSED, FAILED), Ended::Failed("assertion failed: S1 left: 1".to_owned()));
        assert_eq!(judge(PASSED, PASSED), Ended::Passed);
        for (without, with) in [(FAILED, FAILED), (ABSENT, FAILED), (PASSED, "running 1 test\n"), (PASSED, "")] {
            assert!(matches!(judge(without, with), Ended::Void(_)), "{without} {with}");
        }
    }

    #[test]
    fn binaries_are_found_in_what_cargo_says() {
        let line = |test: bool| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"name":"holdfast_store"}},"profile":{{"test":{test}}},"executable":"/t/store"}}"#
            )
        };
        assert_eq!(binary(&line(true)), Some(("store".to_owned(), PathBuf::from("/t/store"))));
        assert_eq!((binary(&line(false)), binary("not JSON"), binary("{}")), (None, None, None));
        assert_eq!(split("store::tests::basic::name"), ("store", "tests::basic::name"));
    }
}
