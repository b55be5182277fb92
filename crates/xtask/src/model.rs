//! `cargo xtask model`: explores the model of the epoch change and shows what was seen.

use holdfast_model::{Bound, End, Mutant, Outcome, Scope, Step, explore, scope_of, scopes};
use serde::Serialize;
use std::process::ExitCode;
use std::time::Instant;

const USAGE: &str = "cargo xtask model [--bound small|ci|full] [--mutants] [--output table|json]";

/// Different states of one scope; beyond it the table of them would no longer fit a small machine.
const LIMIT: u64 = 150_000_000;

struct Options {
    bound: Bound,
    bound_name: String,
    mutants: bool,
    json: bool,
}

/// One exploration.
#[derive(Serialize)]
struct Row {
    name: String,
    states: u64,
    distinct: u64,
    /// Steps to the farthest state; of a counterexample, its length.
    depth: usize,
    seconds: f64,
    /// `complete`, `incomplete`, or the property that is broken.
    result: String,
    #[serde(skip)]
    steps: Vec<Step>,
    #[serde(skip)]
    fast: u8,
}

/// The one line of `--output json`. States are those of the scopes; what the mutants cost is not counted as covered.
#[derive(Serialize)]
struct Summary<'a> {
    bound: &'a str,
    states: u64,
    distinct: u64,
    seconds: f64,
    violations: usize,
    survivors: usize,
    scopes: &'a [Row],
    mutants: &'a [Row],
}

pub(crate) fn run(args: &[String]) -> ExitCode {
    let options = match parse(args) {
        Ok(options) => options,
        Err(sentence) => {
            eprintln!("{sentence}; usage: {USAGE}");
            return ExitCode::from(2);
        }
    };
    let say = |line: String| if options.json { eprintln!("{line}") } else { println!("{line}") };
    say(header("scope"));
    let rows: Vec<Row> = scopes(options.bound).iter().map(|scope| shown(explored(scope.name, scope), &say)).collect();
    let mut mutants = Vec::new();
    if options.mutants {
        say(header("mutant"));
        let explore_mutant = |m: &Mutant| explored(m.describe(), &scope_of(*m));
        mutants = Mutant::ALL.iter().map(|m| shown(explore_mutant(m), &say)).collect();
    }
    let wrong: Vec<&Row> = rows.iter().filter(|row| row.result != "complete").collect();
    let survivors = mutants.iter().filter(|row| row.steps.is_empty()).count();
    for row in wrong.iter().filter(|row| !row.steps.is_empty()) {
        say(format!("\n{} breaks {} in these steps (fast clocks: {:03b}):", row.name, row.result, row.fast));
        row.steps.iter().for_each(|step| say(format!("  {step}")));
    }
    let summary = Summary {
        bound: &options.bound_name,
        states: rows.iter().map(|row| row.states).sum(),
        distinct: rows.iter().map(|row| row.distinct).sum(),
        seconds: rows.iter().chain(&mutants).map(|row| row.seconds).sum(),
        violations: wrong.len(),
        survivors,
        scopes: &rows,
        mutants: &mutants,
    };
    finish(&summary, options.json)
}

fn finish(summary: &Summary, json: bool) -> ExitCode {
    let Summary { states, distinct, seconds, violations, survivors, .. } = summary;
    if json {
        println!("{}", serde_json::to_string(summary).expect("numbers and names have a JSON form"));
    } else {
        println!(
            "\n{states} states, {distinct} of them different, without the mutants'; {seconds:.0} s in all; {violations} scopes \
             not complete or with a violation; {survivors} of {} mutants not caught",
            summary.mutants.len()
        );
    }
    if *violations == 0 && *survivors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn parse(args: &[String]) -> Result<Options, String> {
    let mut options = Options { bound: Bound::Ci, bound_name: "ci".to_owned(), mutants: false, json: false };
    let mut words = args.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "--mutants" => options.mutants = true,
            "--output" => match words.next() {
                Some("json") => options.json = true,
                Some("table") => options.json = false,
                other => return Err(format!("expected table or json, found {}", other.unwrap_or("nothing"))),
            },
            "--bound" => {
                let name = words.next().unwrap_or("nothing");
                let known = [("small", Bound::Small), ("ci", Bound::Ci), ("full", Bound::Full)];
                let bound = known.into_iter().find(|(word, _)| *word == name);
                let (word, bound) = bound.ok_or_else(|| format!("expected small, ci or full, found {name}"))?;
                (options.bound, options.bound_name) = (bound, word.to_owned());
            }
            other => return Err(format!("expected an option, found {other}")),
        }
    }
    Ok(options)
}

fn explored(name: &str, scope: &Scope) -> Row {
    let start = Instant::now();
    let Outcome { states, distinct, depth, end, .. } = explore(scope, LIMIT);
    let row = Row {
        name: name.to_owned(),
        states,
        distinct,
        depth,
        seconds: start.elapsed().as_secs_f64(),
        result: String::new(),
        steps: Vec::new(),
        fast: 0,
    };
    match end {
        End::Complete => Row { result: "complete".to_owned(), ..row },
        End::Limit => Row { result: "incomplete".to_owned(), ..row },
        End::Violation(v) => {
            Row { result: v.property.to_string(), depth: v.steps.len(), steps: v.steps, fast: v.fast, ..row }
        }
    }
}

fn header(what: &str) -> String {
    format!("{what:<80} {:>11} {:>11} {:>5} {:>7}  result", "states", "different", "depth", "s")
}

fn shown(row: Row, say: &impl Fn(String)) -> Row {
    let Row { name, states, distinct, depth, seconds, result, .. } = &row;
    say(format!("{name:<80} {states:>11} {distinct:>11} {depth:>5} {seconds:>7.1}  {result}"));
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn options_are_read_and_nonsense_is_named() {
        let options = parse(&words("--bound full --mutants --output json")).expect("options");
        assert!(options.bound == Bound::Full && options.mutants && options.json);
        assert!(!parse(&words("")).expect("none is fine").mutants);
        for (text, sentence) in [
            ("--bound big", "expected small, ci or full, found big"),
            ("--output", "expected table or json, found nothing"),
            ("fast", "expected an option, found fast"),
        ] {
            assert_eq!(parse(&words(text)).err().as_deref(), Some(sentence));
        }
    }

    /// `scripts/model` reads the totals from before the rows.
    #[test]
    fn totals_stand_before_the_rows() {
        let rows = [shown(explored("one", &Scope { epochs: 1, ..scopes(Bound::Small)[0] }), &|_| {})];
        let [Row { states, distinct, .. }] = rows;
        let summary = Summary {
            bound: "small",
            states,
            distinct,
            seconds: 0.0,
            violations: 0,
            survivors: 0,
            scopes: &rows,
            mutants: &[],
        };
        let line = serde_json::to_string(&summary).expect("JSON");
        let totals = line.split("\"scopes\":").next().expect("a first part");
        assert!(totals.contains(&format!("\"states\":{states},\"distinct\":{distinct},\"seconds\":0.0")), "{line}");
        assert!(states > distinct && distinct > 10, "some states without any takeover: {line}");
    }

    #[test]
    fn a_violation_is_shown_as_its_property() {
        let row = explored("lone witness", &scope_of(Mutant::WitnessCounts));
        assert_eq!((row.result.as_str(), row.depth), ("S22", row.steps.len()));
        assert!(!row.steps.is_empty(), "a mutant counts as caught by its steps");
    }
}
