//! Development tasks. `cargo xtask model` explores the model of the epoch change. `cargo xtask tidy` checks what compiler
//! and lints can't: the direction of crates, calls that a pure crate must not make, sizes, leftover marks. `cargo xtask
//! mutants` proves that the simulator's checkers can fail. `cargo xtask crash-states` and `cargo xtask corruption-sweep` open what
//! crashes and failing devices may leave of a store. `cargo xtask supply-chain` judges what others wrote: licences, sources, known flaws;
//! `cargo xtask advisories` makes its list of flaws anew.

mod crash;
mod model;
mod mutants;
mod supply;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("tidy") => run_tidy(),
        Some("supply-chain") => supply::check(&root()),
        Some("advisories") => supply::snapshot(&root(), &args[1..]),
        Some("model") => model::run(&args[1..]),
        Some("crash-states") => crash::states(&args[1..]),
        Some("corruption-sweep") => crash::corruption(&args[1..]),
        Some("mutants") => mutants::run(&root(), std::env::args().skip(2)),
        other => {
            eprintln!(
                "expected the name of a task, found {}; run `cargo xtask tidy`, `model`, `mutants`, `crash-states`, \
                 `corruption-sweep`, `supply-chain` or `advisories`",
                other.unwrap_or("nothing")
            );
            ExitCode::from(2)
        }
    }
}

fn run_tidy() -> ExitCode {
    match tidy::check(&root()) {
        Ok(findings) if findings.is_empty() => {
            println!("tidy: nothing to say");
            ExitCode::SUCCESS
        }
        Ok(findings) => {
            findings.iter().for_each(|finding| println!("{finding}"));
            println!("tidy: {} findings", findings.len());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("tidy could not look at the repository: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The repository: two folders above this crate.
fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    PathBuf::from(manifest).join("../..")
}
