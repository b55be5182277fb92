//! What commands print: tables and sentences for people, JSON for programs.

#[cfg(test)]
mod documented;
mod integrity;
mod json;
mod losses;
pub(crate) mod screen;
mod table;
mod text;

pub(crate) use integrity::{
    REACH, WALK, copy_outcome, integrity_json, integrity_lines, scrubbed_json, scrubbed_text, told_json, told_text,
    verdict_json, verdict_text,
};

pub(crate) use json::{
    copies_json, deleted_json, duty_json, event_json, failover_json, nodes_json, restart_json, status_json, token_json,
    volume_json, volumes_json,
};
pub(crate) use losses::{
    orphan_deleted_json, orphan_exported_json, orphan_shown_json, orphan_shown_text, orphans_json, orphans_text,
    plan_text, receipt_json, receipts_text, recovered_json, recovered_text,
};
pub(crate) use table::{Rows, cut};
pub(crate) use text::{
    copies_text, deleted_text, duty_text, event_line, failover_text, nodes_text, restart_text, status_text, token_text,
    volume_text, volumes_table,
};

use crate::args::Output;
use crate::error::CliError;
use serde_json::Value;
use std::io::{IsTerminal, Write};

/// Prints one of the two.
pub(crate) fn print(output: Output, json: impl FnOnce() -> Value, text: impl FnOnce() -> String) {
    let answer = match output {
        Output::Json => json().to_string(),
        Output::Table => text().trim_end().to_owned(),
    };
    if let Err(error) = writeln!(std::io::stdout(), "{answer}") {
        // Whoever redirected it to a full disk must not take what is there for all.
        eprintln!("holdfast: the answer could not be printed: {error}; make room, or print it elsewhere");
        std::process::exit(1);
    }
}

/// Goes on with what can't be undone only after a yes: that of `--yes`, or `word`, typed on a terminal. Anything else is a refusal.
pub(crate) fn confirm(what: &str, word: &str, yes: bool) -> Result<(), CliError> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(CliError::Unsafe(format!(
            "{what}: expected --yes or a terminal to ask on, found neither; nothing was done"
        )));
    }
    match ask(&format!("{what}. Type {word} to go on: "))?.trim() {
        answer if answer == word => Ok(()),
        answer => {
            Err(CliError::Unsafe(format!("{what}: expected the answer {word}, found {answer:?}; nothing was done")))
        }
    }
}

/// Asks on stderr; the line that is typed on stdin.
fn ask(question: &str) -> Result<String, CliError> {
    eprint!("{question}");
    std::io::stderr().flush().map_err(CliError::io("ask"))?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(CliError::io("read the answer"))?;
    Ok(answer)
}
