//! Rules for every text file: no trailing whitespace, no tabs in Rust, no leftover marks.

use super::Finding;
use super::source::find_word;

/// Marks of unfinished work. Spelled in halves, so that this file does not find itself.
const MARKS: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

pub(crate) fn check(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let mut found = |sentence: String| findings.push(Finding::new(path, number, sentence));
        if line.ends_with([' ', '\t', '\r']) {
            found("the line ends in whitespace; remove it".to_owned());
        }
        if path.ends_with(".rs") && line.contains('\t') {
            found("Rust is indented with spaces, found a tab; run `cargo fmt`".to_owned());
        }
        if let Some(mark) = MARKS.iter().find(|mark| find_word(line, mark).is_some()) {
            found(format!("found the mark {mark}; do it, or write down why it is not done"));
        }
    }
    findings
}
