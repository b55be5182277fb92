//! The hunt itself: cases are handed to threads, each of which makes one mistake at a time.

use super::Arguments;
use holdfast_sim::{Case, Catch, FALSE_ALARM};
use serde_json::json;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

/// Of the other mistakes, one of so many is in a sample.
const SAMPLE: usize = 8;

/// What came of each case.
type Row = (Case, Option<Catch>);

pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let cases = match chosen(arguments) {
        Ok(cases) => cases,
        Err(sentence) => {
            eprintln!("{sentence}");
            return ExitCode::from(2);
        }
    };
    // Caught panics are findings here, in the table.
    std::panic::set_hook(Box::new(|_| {}));
    let rows = hunt_all(cases, arguments);
    if rows.len() > 1 || arguments.json {
        summarize(&rows, arguments);
    }
    if rows.iter().all(|(_, catch)| catch.as_ref().is_some_and(|c| c.property != FALSE_ALARM)) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
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
    let sampled =
        |(at, case): &(usize, Case)| !arguments.sample || case.is_core() || (at % SAMPLE == turn && !case.is_open());
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
                    let catch = case.hunt(arguments.from, arguments.most());
                    report(case, catch.as_ref(), arguments);
                    if let Ok(mut rows) = rows.lock() {
                        rows.push((case, catch));
                    }
                }
            });
        }
    });
    rows.into_inner().unwrap_or_default()
}

/// One line for one case, as soon as it is known.
fn report(case: Case, catch: Option<&Catch>, arguments: &Arguments) {
    let (name, what, reference) = (case.name(), case.what(), case.reference());
    if arguments.json {
        let (seeds, property) = (catch.map(|c| c.seeds), catch.map(|c| c.property));
        let text = catch.map(|c| &c.text);
        println!(
            "{}",
            json!({"mutant": name, "breaks": reference, "what": what, "seeds": seeds, "property": property, "text": text})
        );
        return;
    }
    let found = match catch {
        Some(catch) => format!("{:>5} {:<10}", catch.seeds, catch.property),
        None => format!("{:>5} {:<10}", arguments.most(), "SURVIVED"),
    };
    println!("{name:<24} {found} {reference:<8} {what}");
    if let Some(catch) = catch.filter(|_| arguments.only.contains(&name)) {
        println!("  seed {}: {}", catch.seed, catch.text);
    }
}

fn summarize(rows: &[Row], arguments: &Arguments) {
    let mut seeds: Vec<u64> = rows.iter().filter_map(|(_, catch)| catch.as_ref()).map(|c| c.seeds).collect();
    seeds.sort_unstable();
    let (median, max) = (seeds.get(seeds.len() / 2), seeds.last());
    let survivors: Vec<String> = rows.iter().filter(|(_, c)| c.is_none()).map(|(case, _)| case.name()).collect();
    if arguments.json {
        let (mutants, caught) = (rows.len(), seeds.len());
        println!(
            "{}",
            json!({"mutants": mutants, "caught": caught, "median_seeds": median, "max_seeds": max, "survivors": survivors})
        );
        return;
    }
    let number = |seeds: Option<&u64>| seeds.map_or("no".to_owned(), u64::to_string);
    println!(
        "{} mutants, {} caught; until caught a median of {} seeds, at most {}",
        rows.len(),
        seeds.len(),
        number(median),
        number(max)
    );
    if !survivors.is_empty() {
        println!(
            "expected every mutant to be caught, found {} survivors: {}; teach a checker or the faults to see them",
            survivors.len(),
            survivors.join(", ")
        );
    }
}
