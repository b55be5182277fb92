//! Sizes of files and functions, with exceptions that may only shrink.

use super::source::{Body, Source, body_of, find_word, line_at};
use super::{Error, Finding, RATCHET};
use serde::Deserialize;
use std::collections::BTreeMap;

const FILE_LIMIT: usize = 800;
const FUNCTION_LIMIT: usize = 70;

/// How long something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) path: String,
    /// The function; `None` for the whole file.
    pub(crate) function: Option<String>,
    pub(crate) line: usize,
    pub(crate) lines: usize,
}

/// What may be longer than the limit, and by how much. Functions are named `path::function`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ratchet {
    #[serde(default)]
    files: BTreeMap<String, usize>,
    #[serde(default)]
    functions: BTreeMap<String, usize>,
}

impl Ratchet {
    pub(crate) fn parse(text: &str) -> Result<Ratchet, Error> {
        toml::from_str(text).map_err(|e| format!("{RATCHET} has tables `files` and `functions` of numbers: {e}").into())
    }
}

impl Size {
    fn key(&self) -> String {
        self.function.as_ref().map_or_else(|| self.path.clone(), |f| format!("{}::{f}", self.path))
    }
}

/// The file and its functions, tests left out.
pub(crate) fn measure(source: &Source) -> Vec<Size> {
    let path = source.path.clone();
    let mut sizes = vec![Size { path, function: None, line: 1, lines: source.lines().count() }];
    let mut from = 0;
    while let Some(at) = find_word(&source.code[from..], "fn").map(|found| from + found) {
        from = at + 2;
        let rest = source.code[from..].trim_start();
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let line = line_at(&source.code, at);
        // A type such as `fn(u64)` has no name; a declaration has no body.
        if name.is_empty() || source.is_test.get(line - 1) == Some(&true) {
            continue;
        }
        if let Body::Braces(end) = body_of(&source.code[from..]) {
            let last = line_at(&source.code, from + end);
            sizes.push(Size { path: source.path.clone(), function: Some(name), line, lines: last - line + 1 });
        }
    }
    sizes
}

/// Whoever is above its limit, and entries of the ratchet that are out of date.
pub(crate) fn check(sizes: &[Size], ratchet: &Ratchet) -> Vec<Finding> {
    let mut findings = Vec::new();
    // Functions of one name in one file (of two types) share an entry: the longest counts.
    let mut longest = BTreeMap::<(bool, String), &Size>::new();
    for size in sizes {
        let slot = longest.entry((size.function.is_some(), size.key())).or_insert(size);
        *slot = if size.lines > slot.lines { size } else { slot };
    }
    for ((is_function, key), size) in &longest {
        let (entries, limit) =
            if *is_function { (&ratchet.functions, FUNCTION_LIMIT) } else { (&ratchet.files, FILE_LIMIT) };
        findings.extend(judge(size, key, entries.get(key).copied(), limit));
    }
    for (is_function, key) in keys(&ratchet.files, false).chain(keys(&ratchet.functions, true)) {
        if !longest.contains_key(&(is_function, key.clone())) {
            findings.push(Finding::new(RATCHET, 1, format!("`{key}` does not exist any more; remove its entry")));
        }
    }
    findings
}

fn keys(entries: &BTreeMap<String, usize>, is_function: bool) -> impl Iterator<Item = (bool, &String)> {
    entries.keys().map(move |key| (is_function, key))
}

fn judge(size: &Size, key: &str, entry: Option<usize>, limit: usize) -> Option<Finding> {
    let Size { path, line, lines, function } = size;
    let thing = function.as_ref().map_or_else(|| "the file".to_owned(), |f| format!("function `{f}`"));
    let ratchet = |sentence| Some(Finding::new(RATCHET, 1, sentence));
    match entry {
        None if *lines > limit => Some(Finding::new(
            path,
            *line,
            format!("{thing} has at most {limit} lines, found {lines}; split it by role"),
        )),
        None => None,
        Some(_) if *lines <= limit => {
            ratchet(format!("`{key}` is within the limit of {limit} lines; remove its entry"))
        }
        Some(entry) if *lines > entry => Some(Finding::new(
            path,
            *line,
            format!("{thing} may only shrink below its {entry} lines, found {lines}; split it by role"),
        )),
        Some(entry) if *lines < entry => {
            ratchet(format!("`{key}` has shrunk from {entry} lines to {lines}; lower its entry"))
        }
        Some(_) => None,
    }
}
