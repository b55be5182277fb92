//! A Rust file, with what is no code blanked out, and knowledge of which lines are tests.

/// A Rust file.
pub(crate) struct Source {
    pub(crate) path: String,
    /// The text with comments and the content of literals replaced by spaces; line breaks stay, so lines count the same.
    pub(crate) code: String,
    /// For each line whether it belongs to a test.
    pub(crate) is_test: Vec<bool>,
}

impl Source {
    pub(crate) fn parse(path: &str, text: &str) -> Source {
        let code = blank(text);
        let mut is_test = vec![is_test_file(path); code.lines().count()];
        for (from, to) in test_items(&code) {
            let (first, last) = (line_at(&code, from), line_at(&code, to));
            is_test[first - 1..last.min(code.lines().count())].fill(true);
        }
        Source { path: path.to_owned(), code, is_test }
    }

    /// The whole file is a test: its parent said so.
    pub(crate) fn belong_to_tests(&mut self) {
        self.is_test.fill(true);
    }

    /// The lines outside tests, numbered from 1.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let numbered = (1..).zip(self.code.lines());
        numbered.zip(&self.is_test).filter(|(_, test)| !**test).map(|(line, _)| line)
    }
}

/// The line of a byte position, from 1.
pub(crate) fn line_at(text: &str, at: usize) -> usize {
    text.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1
}

/// Where `word` stands alone in `text`, not as a part of a longer name.
pub(crate) fn find_word(text: &str, word: &str) -> Option<usize> {
    let is_name = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    let (bytes, starts_as_name) = (text.as_bytes(), is_name(word.as_bytes().first()));
    let ends_as_name = is_name(word.as_bytes().last());
    text.match_indices(word).map(|(at, _)| at).find(|&at| {
        let before = at.checked_sub(1).and_then(|i| bytes.get(i));
        !(starts_as_name && is_name(before) || ends_as_name && is_name(bytes.get(at + word.len())))
    })
}

fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.starts_with("tests/") || path.contains("/tests/") || path.starts_with("fuzz/")
}

/// Modules in files of their own that are declared under `#[cfg(test)]`, as paths without `.rs`.
pub(crate) fn test_modules(source: &Source) -> Vec<String> {
    let (folder, file) = source.path.rsplit_once('/').unwrap_or((".", &source.path));
    let stem = file.trim_end_matches(".rs");
    let folder = if ["lib", "main", "mod"].contains(&stem) { folder.to_owned() } else { format!("{folder}/{stem}") };
    let declarations = test_items(&source.code).into_iter().map(|(from, to)| &source.code[from..to]);
    declarations
        .filter(|item| !item.contains('{'))
        .filter_map(|item| find_word(item, "mod").map(|at| item[at + 3..].trim()))
        .map(|name| format!("{folder}/{name}"))
        .collect()
}

/// Byte ranges of items under `#[cfg(test)]`.
fn test_items(code: &str) -> Vec<(usize, usize)> {
    const ATTRIBUTE: &str = "#[cfg(test)]";
    code.match_indices(ATTRIBUTE)
        .map(|(at, _)| {
            let body = at + ATTRIBUTE.len();
            let end = match body_of(&code[body..]) {
                Body::Braces(end) => end,
                Body::None(end) => end,
            };
            (at, body + end)
        })
        .collect()
}

/// How an item ends.
pub(crate) enum Body {
    /// With a block; the position of its closing brace.
    Braces(usize),
    /// With a semicolon, or with the text; the position.
    None(usize),
}

/// The end of the item that `code` starts with. A brace or semicolon within parentheses or brackets is not its own.
pub(crate) fn body_of(code: &str) -> Body {
    let mut nested = 0usize;
    for (at, byte) in code.bytes().enumerate() {
        match byte {
            b'(' | b'[' => nested += 1,
            b')' | b']' => nested = nested.saturating_sub(1),
            b';' if nested == 0 => return Body::None(at),
            b'{' if nested == 0 => return Body::Braces(at + closing(&code[at..])),
            _ => {}
        }
    }
    Body::None(code.len())
}

/// Position of the brace that closes the one `code` starts with; the end if none does.
fn closing(code: &str) -> usize {
    let mut depth = 0usize;
    for (at, byte) in code.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return at,
            b'}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

/// Replaces comments and the content of literals by spaces.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let skipped = skip(&bytes[at..], out.last().copied());
        let kept = if skipped == 0 { 1 } else { 0 };
        out.extend_from_slice(&bytes[at..at + kept]);
        out.extend(bytes[at + kept..at + skipped.max(kept)].iter().map(|b| if *b == b'\n' { b'\n' } else { b' ' }));
        at += skipped.max(kept);
    }
    // Only ASCII was put in place of characters, each byte by one space, so this never replaces anything.
    String::from_utf8_lossy(&out).into_owned()
}

/// Length of the comment or literal that `bytes` starts with; 0 if it starts with code.
fn skip(bytes: &[u8], before: Option<u8>) -> usize {
    let in_name = before.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    match bytes {
        [b'/', b'/', ..] => bytes.iter().position(|b| *b == b'\n').unwrap_or(bytes.len()),
        [b'/', b'*', ..] => block_comment(bytes),
        [b'"', ..] => string(bytes),
        [b'b' | b'c', b'"', ..] if !in_name => 1 + string(&bytes[1..]),
        [b'r', b'"' | b'#', ..] if !in_name => raw_string(bytes, 1),
        [b'b' | b'c', b'r', b'"' | b'#', ..] if !in_name => raw_string(bytes, 2),
        [b'\'', ..] => character(bytes),
        _ => 0,
    }
}

fn block_comment(bytes: &[u8]) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" if depth == 1 => return at + 2,
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    bytes.len()
}

fn string(bytes: &[u8]) -> usize {
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// `r"…"`, `r#"…"#`; 0 for a raw identifier.
fn raw_string(bytes: &[u8], prefix: usize) -> usize {
    let hashes = bytes[prefix..].iter().take_while(|b| **b == b'#').count();
    if bytes.get(prefix + hashes) != Some(&b'"') {
        return 0;
    }
    let end: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
    let body = prefix + hashes + 1;
    bytes[body..].windows(end.len()).position(|w| w == end).map_or(bytes.len(), |at| body + at + end.len())
}

/// A character literal; 0 for a lifetime.
fn character(bytes: &[u8]) -> usize {
    let end_from =
        |from: usize| bytes.get(from..).and_then(|rest| rest.iter().position(|b| *b == b'\'')).map(|p| from + p + 1);
    match (bytes.get(1), bytes.get(2)) {
        (Some(b'\\'), _) => end_from(3).unwrap_or(0),
        (Some(_), Some(b'\'')) => 3,
        // A lifetime has no quote right behind its first character.
        (Some(b), _) if b.is_ascii() => 0,
        (Some(_), _) => end_from(1).filter(|len| *len <= 6).unwrap_or(0),
        (None, _) => 0,
    }
}
