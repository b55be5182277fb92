//! What commands print: tables and sentences for people, JSON for programs.

mod integrity;
mod json;
mod text;

pub(crate) use integrity::{
    copy_outcome, integrity_json, integrity_lines, scrubbed_json, scrubbed_text, told_json, told_text, verdict_json,
    verdict_text,
};

pub(crate) use json::{
    copies_json, deleted_json, event_json, failover_json, nodes_json, status_json, token_json, volume_json,
    volumes_json,
};
pub(crate) use text::{
    copies_text, deleted_text, event_line, failover_text, nodes_table, status_text, table, token_text, volume_text,
    volumes_table,
};

use crate::args::Output;
use serde_json::Value;

/// Prints one of the two.
pub(crate) fn print(output: Output, json: impl FnOnce() -> Value, text: impl FnOnce() -> String) {
    match output {
        Output::Json => println!("{}", json()),
        Output::Table => println!("{}", text().trim_end()),
    }
}
