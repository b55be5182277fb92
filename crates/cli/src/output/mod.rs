//! What commands print: tables and sentences for people, JSON for programs.

mod integrity;
mod json;
mod losses;
mod text;

pub(crate) use integrity::{
    copy_outcome, integrity_json, integrity_lines, scrubbed_json, scrubbed_text, told_json, told_text, verdict_json,
    verdict_text,
};

pub(crate) use json::{
    copies_json, deleted_json, duty_json, event_json, failover_json, nodes_json, restart_json, status_json, token_json,
    volume_json, volumes_json,
};
pub(crate) use losses::{
    orphan_shown_json, orphan_shown_text, orphans_json, orphans_text, plan_text, receipt_json, receipts_text,
    recovered_json, recovered_text,
};
pub(crate) use text::{
    copies_text, deleted_text, duty_text, event_line, failover_text, nodes_text, restart_text, status_text, table,
    token_text, volume_text, volumes_table,
};

use crate::args::Output;
use crate::error::CliError;
use serde_json::Value;
use std::io::{IsTerminal, Write};

/// Prints one of the two.
pub(crate) fn print(output: Output, json: impl FnOnce() -> Value, text: impl FnOnce() -> String) {
    match output {
        Output::Json => println!("{}", json()),
        Output::Table => println!("{}", text().trim_end()),
    }
}

/// Goes on with what can't be undone only after a yes: that of `--yes`, or one that is typed on a terminal.
pub(crate) fn confirm(what: &str, yes: bool) -> Result<(), CliError> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(CliError::Usage(format!(
            "{what}: expected --yes or a terminal to ask on, found neither; nothing was done"
        )));
    }
    match ask(&format!("{what}. Type yes to go on: "))?.trim() {
        "yes" => Ok(()),
        _ => Err(CliError::Usage(format!("{what}: expected the answer yes, found another one; nothing was done"))),
    }
}

/// Asks on stderr; the line that is typed on stdin.
pub(crate) fn ask(question: &str) -> Result<String, CliError> {
    eprint!("{question}");
    std::io::stderr().flush().map_err(CliError::io("ask"))?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(CliError::io("read the answer"))?;
    Ok(answer)
}
