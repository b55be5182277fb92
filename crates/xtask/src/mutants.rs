//! `cargo xtask mutants`: runs every deliberate mistake through the simulator, or through the test that is named for it, and
//! prints who caught it.
//!
//! This binary is built without the simulator. Asked for mutants, it has itself built anew, in release mode, with the
//! feature `mutants`, and hands its arguments on.

#[cfg(feature = "mutants")]
mod hunt;
#[cfg(any(test, feature = "mutants"))]
#[cfg_attr(not(feature = "mutants"), expect(dead_code, reason = "used by the hunt, which is built on request"))]
mod scenario;

use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "cargo xtask mutants [--only NAME] [--seeds N] [--from SEED] [--jobs J] [--sample] [--by-seeds]\n\
  [--output json]\n\
  --only NAME    this one alone; may be given several times\n\
  --seeds N      give up on a mutant after so many seeds (5000; of a sample 500)\n\
  --from SEED    the first seed (0)\n\
  --jobs J       threads (1)\n\
  --sample       the mistakes that docs/PROTOCOL.md names, and a few others that differ from day to day\n\
  --by-seeds     seeds look also for those that have a test\n\
  --output json  one object a line, the last one the summary";

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Arguments {
    only: Vec<String>,
    seeds: Option<u64>,
    from: u64,
    jobs: usize,
    sample: bool,
    by_seeds: bool,
    json: bool,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
        let mut found = Arguments { jobs: 1, ..Arguments::default() };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("expected a value behind {word}, found nothing"));
            match word.as_str() {
                "--only" => found.only.push(value()?),
                "--seeds" => found.seeds = Some(number(&word, &value()?)?),
                "--from" => found.from = number(&word, &value()?)?,
                "--jobs" => found.jobs = number::<usize>(&word, &value()?)?.max(1),
                "--sample" => found.sample = true,
                "--by-seeds" => found.by_seeds = true,
                "--output" => found.json = value()? == "json",
                _ => return Err(format!("expected an option, found {word}")),
            }
        }
        Ok(found)
    }

    /// Seeds that a mutant may live through.
    #[cfg_attr(not(feature = "mutants"), expect(dead_code, reason = "used by the hunt, which is built on request"))]
    fn most(&self) -> u64 {
        self.seeds.unwrap_or(if self.sample { 500 } else { 5_000 })
    }
}

fn number<T: std::str::FromStr>(option: &str, word: &str) -> Result<T, String> {
    word.parse().map_err(|_| format!("expected a whole number behind {option}, found {word}"))
}

pub(crate) fn run(root: &Path, words: impl Iterator<Item = String>) -> ExitCode {
    let words: Vec<String> = words.collect();
    match Arguments::parse(words.iter().cloned()) {
        Ok(arguments) => hunt(root, &arguments, &words),
        Err(sentence) => {
            eprintln!("{sentence}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

#[cfg(feature = "mutants")]
fn hunt(root: &Path, arguments: &Arguments, _words: &[String]) -> ExitCode {
    hunt::run(root, arguments)
}

#[cfg(not(feature = "mutants"))]
fn hunt(root: &Path, _arguments: &Arguments, words: &[String]) -> ExitCode {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = ["run", "--quiet", "--release", "--package", "xtask", "--features", "mutants", "--", "mutants"];
    let status = std::process::Command::new(cargo).args(built).args(words).current_dir(root).status();
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cargo can't be started: {error}; run this through `cargo xtask mutants`");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Arguments, String> {
        Arguments::parse(words.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments_are_understood_or_refused_with_a_sentence() {
        let all = parse("--only A --only B --seeds 7 --from 3 --jobs 2 --sample --by-seeds --output json");
        let (only, seeds) = (vec!["A".to_owned(), "B".to_owned()], Some(7));
        assert_eq!(all, Ok(Arguments { only, seeds, from: 3, jobs: 2, sample: true, by_seeds: true, json: true }));
        assert_eq!(parse("").map(|a| (a.seeds, a.jobs, a.json)), Ok((None, 1, false)));
        for bad in ["--seeds", "--seeds many", "--unknown"] {
            assert!(parse(bad).is_err_and(|sentence| sentence.starts_with("expected")), "{bad}");
        }
    }
}
