//! SPDX expressions: `(MIT OR Apache-2.0) AND Unicode-3.0`.

use std::collections::BTreeSet;

/// Whether an expression can be met with allowed licences alone.
///
/// # Errors
/// It is no expression: a sentence.
pub(super) fn allows(expression: &str, allowed: &BTreeSet<&str>) -> Result<bool, String> {
    // Old manifests write `MIT/Apache-2.0`.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Parser { words: &words, at: 0, allowed };
    let met = parser.either()?;
    match parser.next() {
        None => Ok(met),
        Some(word) => Err(format!("{word} stands where the end was expected")),
    }
}

struct Parser<'a> {
    words: &'a [&'a str],
    at: usize,
    allowed: &'a BTreeSet<&'a str>,
}

impl<'a> Parser<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let word = self.words.get(self.at).copied();
        self.at += 1;
        word
    }

    fn takes(&mut self, word: &str) -> bool {
        let found = self.words.get(self.at) == Some(&word);
        self.at += usize::from(found);
        found
    }

    fn either(&mut self) -> Result<bool, String> {
        let mut met = self.all()?;
        while self.takes("OR") {
            met |= self.all()?;
        }
        Ok(met)
    }

    fn all(&mut self) -> Result<bool, String> {
        let mut met = self.one()?;
        while self.takes("AND") {
            met &= self.one()?;
        }
        Ok(met)
    }

    fn one(&mut self) -> Result<bool, String> {
        if self.takes("(") {
            let met = self.either()?;
            return if self.takes(")") { Ok(met) } else { Err("a bracket is not closed".to_owned()) };
        }
        let word = self.next().filter(|word| !["OR", "AND", "WITH", ")"].contains(word));
        let licence = word.ok_or("a licence is missing")?;
        if !self.takes("WITH") {
            return Ok(self.allowed.contains(licence));
        }
        let exception = self.next().ok_or("an exception is missing")?;
        Ok(self.allowed.contains(format!("{licence} WITH {exception}").as_str()))
    }
}
