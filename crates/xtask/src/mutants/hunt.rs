//! The hunt itself: cases are handed to threads, each of which makes one mistake at a time. Cases that a named test must catch
//! come first, in processes of their own.

use super::Arguments;
use super::scenario::{Binaries, Ended};
use holdfast_sim::{Case, Catch, FALSE_ALARM};
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

/// Of the other mistakes, one of so many is in a sample.
const SAMPLE: usize = 8;

/// What came of a case.
enum Found {
    /// A seed objected.
    Seed(Catch),
    /// Its test was run.
    Test(&'static str, Ended),
    /// All seeds passed.
    Nothing,
}

impl Found {
    fn is_caught(&self) -> bool {
        match self {
            Found::Seed(catch) => catch.property != FALSE_ALARM,
            Found::Test(_, ended) => matches!(ended, Ended::Failed(_)),
            Found::Nothing => false,
        }
    }

    fn seeds(&self) -> Option<u64> {
        match self {
            Found::Seed(catch) => Some(catch.seeds),
            Found::Test(..) | Found::Nothing => None,
        }
    }

    /// Which property broke.
    fn property(&self) -> &'static str {
        match self {
            Found::Seed(catch) => catch.property,
            Found::Test(_, Ended::Failed(_)) => "test",
            Found::Test(_, Ended::Void(_)) => "VOID",
            Found::Test(_, Ended::Passed) | Found::Nothing => "SURVIVED",
        }
    }

    /// What was said about it.
    fn text(&self) -> &str {
        match self {
            Found::Seed(catch) => &catch.text,
            Found::Test(_, Ended::Failed(text) | Ended::Void(text)) => text,
            Found::Test(_, Ended::Passed) => "the test passes with the mistake",
            Found::Nothing => "no seed objected",
        }
    }
}

type Row = (Case, Found);

pub(super) fn run(root: &Path, arguments: &Arguments) -> ExitCode {
    let cases = chosen(arguments).and_then(|cases| {
        let has_test = |case: &Case| case.test().is_some() && !arguments.by_seeds;
        let (scripted, hunted): (Vec<Case>, Vec<Case>) = cases.into_iter().partition(has_test);
        Ok((Binaries::build(root, scripted.iter().filter_map(|case| case.test()))?, scripted, hunted))
    });
    let (binaries, scripted, hunted) = match cases {
        Ok(cases) => cases,
        Err(sentence) => {
            eprintln!("{sentence}");
            return ExitCode::from(2);
        }
    };
    let mut rows: Vec<Row> = Vec::new();
    for case in scripted {
        let Some(test) = case.test() else { continue };
        let found = Found::Test(test, binaries.run(test, &case.name()));
        report(case, &found, arguments);
        rows.push((case, found));
    }
    // Caught panics are findings here, in the table.
    std::panic::set_hook(Box::new(|_| {}));
    rows.extend(hunt_all(hunted, arguments));
    if rows.len() > 1 || arguments.json {
        summarize(&rows, arguments);
    }
    if rows.iter().all(|(_, found)| found.is_caught()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn chosen(arguments: &Arguments) -> Result<Vec<Case>, String> {
    let all = Case::all();
    let unknown = arguments.only.iter().find(|name| all.iter().all(|case| case.name() != **name));
    if let Some(name) = unknown {
        let names: Vec<String> = all.iter().map(|case| case.name()).collect();
        return Err(format!("expected the name of a mutant, found {name}; there are {}", names.join(", ")));
    }
    let named = |case: &Case| arguments.only.is_empty() || arguments.only.contains(&case.name());
    let days = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400);
    let turn = usize::try_from(days).unwrap_or(0) % SAMPLE;
    let sampled = |(at, case): &(usize, Case)| !arguments.sample || case.is_core() || at % SAMPLE == turn;
    Ok(all.into_iter().filter(named).enumerate().filter(sampled).map(|(_, case)| case).collect())
}

fn hunt_all(cases: Vec<Case>, arguments: &Arguments) -> Vec<Row> {
    let waiting = Mutex::new(cases.into_iter());
    let rows = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().map(|mut cases| cases.next());
                    let Ok(Some(case)) = next else { return };
                    let found = case.hunt(arguments.from, arguments.most()).map_or(Found::Nothing, Found::Seed);
                    report(case, &found, arguments);
                    if let Ok(mut rows) = rows.lock() {
                        rows.push((case, found));
                    }
                }
            });
        }
    });
    rows.into_inner().unwrap_or_default()
}

/// One line for one case, as soon as it is known.
fn report(case: Case, found: &Found, arguments: &Arguments) {
    let (name, what, reference) = (case.name(), case.what(), case.reference());
    if arguments.json {
        let (seeds, property, text) = (found.seeds(), found.property(), found.text());
        println!(
            "{}",
            json!({"mutant": name, "breaks": reference, "what": what, "test": case.test(), "seeds": seeds,
                "caught": found.is_caught(), "property": property, "text": text})
        );
        return;
    }
    let result = match found {
        Found::Test(test, _) => format!("{:<16} {test}:", found.property()),
        Found::Seed(_) | Found::Nothing => {
            format!("{:>5} {:<10}", found.seeds().unwrap_or_else(|| arguments.most()), found.property())
        }
    };
    println!("{name:<24} {result} {reference:<8} {what}");
    let seed = if let Found::Seed(catch) = found { format!("seed {}: ", catch.seed) } else { String::new() };
    if arguments.only.contains(&name) || matches!(found, Found::Test(_, Ended::Void(_))) {
        println!("  {seed}{}", found.text());
    }
}

fn summarize(rows: &[Row], arguments: &Arguments) {
    let mut seeds: Vec<u64> = rows.iter().filter_map(|(_, found)| found.seeds()).collect();
    seeds.sort_unstable();
    let (median, max) = (seeds.get(seeds.len() / 2), seeds.last());
    let survivors: Vec<String> = rows.iter().filter(|(_, f)| !f.is_caught()).map(|(case, _)| case.name()).collect();
    let caught = rows.len() - survivors.len();
    let tests = rows.iter().filter(|(_, found)| matches!(found, Found::Test(..)) && found.is_caught()).count();
    if arguments.json {
        println!(
            "{}",
            json!({"mutants": rows.len(), "caught": caught, "by_tests": tests, "median_seeds": median, "max_seeds": max,
                "survivors": survivors})
        );
        return;
    }
    let number = |seeds: Option<&u64>| seeds.map_or("no".to_owned(), u64::to_string);
    println!(
        "{} mutants, {caught} caught, {tests} of them by their tests; until a seed objected a median of {} seeds, at most {}",
        rows.len(),
        number(median),
        number(max)
    );
    if !survivors.is_empty() {
        println!(
            "expected every mutant to be caught, found {} survivors: {}; teach a checker, the faults or a test to see them",
            survivors.len(),
            survivors.join(", ")
        );
    }
}
