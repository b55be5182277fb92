//! `micro` names the cases; `micro CASE TIMES` runs one of them so many times, for a tool that counts instructions.

use clap::Parser;
use holdfast_benches::micro::CASES;

/// Steps of a write's way, each alone, for `scripts/bench-micro`.
#[derive(Debug, Parser)]
struct Args {
    /// Which one; without it all are named.
    case: Option<String>,
    /// How often.
    #[arg(default_value_t = 1000)]
    times: u64,
}

fn main() -> Result<(), String> {
    let args = Args::parse();
    let Some(name) = args.case else {
        CASES.iter().for_each(|case| println!("{}\t{}", case.name, case.about));
        return Ok(());
    };
    let case = CASES.iter().find(|case| case.name == name);
    let case = case.ok_or_else(|| format!("expected one of the cases that `micro` names, found {name}"))?;
    (case.run)(args.times);
    Ok(())
}
