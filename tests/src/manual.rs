//! docs/OPERATIONS.md as tests read it: its commands, files and answers are taken from there, so that what is tried is what stands there.
//!
//! A prompt says who types: `host#` each host, `n1#` and so on that one, `others#` each host but the first, `$` nobody of the cluster.
//! What follows `  #` on such a line is a comment, what follows the line in its block is what it answers, and a block that follows an
//! `editor FILE` is what the file is to say.

use std::fs;
use std::path::Path;

const PROMPTS: [&str; 6] = ["host", "others", "n1", "n2", "n3", "$"];

/// A command of the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Who types it.
    pub who: String,
    /// What is typed.
    pub command: String,
    /// What it is to print, among other things.
    pub answer: Vec<String>,
    /// What an `editor` is to leave in its file.
    pub file: String,
}

/// The text below a heading of the document.
///
/// # Panics
/// There is no such chapter.
#[must_use]
pub fn chapter(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/OPERATIONS.md");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let chapter = text.split(&format!("\n## {name}\n")).nth(1).unwrap_or_else(|| panic!("no chapter {name}"));
    chapter.split("\n## ").next().unwrap_or_default().to_owned()
}

/// The one block of this language in a chapter, without the indent that a list gives it.
///
/// # Panics
/// There is none, or more than one.
#[must_use]
pub fn block(name: &str, language: &str) -> String {
    let found: Vec<(String, String)> = blocks(&chapter(name)).into_iter().filter(|(of, _)| of == language).collect();
    assert_eq!(found.len(), 1, "expected one block of {language} in {name}, found {found:#?}");
    found.into_iter().map(|(_, text)| text).collect()
}

/// All commands of a chapter, in their order.
///
/// # Panics
/// There is no such chapter, or it has a file that nobody edits.
#[must_use]
pub fn steps(name: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for (language, text) in blocks(&chapter(name)) {
        if language.is_empty() {
            commands(&text, &mut steps);
        } else if let Some(step) = steps.last_mut().filter(|step| step.command.starts_with("editor ")) {
            step.file.push_str(&text);
        }
    }
    steps
}

/// The command of a chapter that begins so.
///
/// # Panics
/// There is none.
#[must_use]
pub fn command(name: &str, who: &str, begins: &str) -> String {
    let all = steps(name);
    let found = all.iter().find(|step| step.who == who && step.command.starts_with(begins));
    found.unwrap_or_else(|| panic!("expected {who}# {begins} in {name}, found {all:#?}")).command.clone()
}

/// Languages and texts.
fn blocks(chapter: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String, String)> = None;
    for line in chapter.lines() {
        let fence = line.trim_start().strip_prefix("```");
        match (open.take(), fence) {
            (None, Some(language)) => {
                open = Some((line.len() - line.trim_start().len(), language.to_owned(), String::new()))
            }
            (None, None) => {}
            (Some((_, language, text)), Some(_)) => blocks.push((language, text)),
            (Some((indent, language, mut text)), None) => {
                text.push_str(line.get(indent..).unwrap_or_default());
                text.push('\n');
                open = Some((indent, language, text));
            }
        }
    }
    blocks
}

fn commands(text: &str, steps: &mut Vec<Step>) {
    for line in text.replace("\\\n", " ").lines() {
        if let Some((who, typed)) = PROMPTS.iter().find_map(|who| Some((*who, typed(line, who)?))) {
            let command = typed.split("  #").next().unwrap_or_default().trim().to_owned();
            steps.push(Step { who: who.to_owned(), command, answer: Vec::new(), file: String::new() });
        } else if let Some(step) = steps.last_mut().filter(|_| !line.trim().is_empty()) {
            step.answer.push(line.trim().to_owned());
        }
    }
}

/// What somebody types after this prompt.
fn typed<'a>(line: &'a str, who: &str) -> Option<&'a str> {
    let rest = line.strip_prefix(who)?;
    rest.strip_prefix("# ").or_else(|| rest.strip_prefix(' ').filter(|_| who == "$"))
}
