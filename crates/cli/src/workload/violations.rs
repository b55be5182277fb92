//! What must not be, counted; the first few are kept in words.

use std::collections::BTreeSet;

/// Sentences kept; after the first handful the rest says nothing new.
const KEPT: usize = 20;

/// Kinds of broken promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// An acknowledged or observed write is gone.
    Lost,
    /// Data that was never written there.
    Corrupt,
    /// A write that a read had found absent came back.
    Resurrected,
    /// A part of a write is there, another is not.
    Torn,
    /// A deposed primary answered a new request.
    Deposed,
    /// The guest saw an I/O error.
    GuestError,
}

/// One broken promise.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Its kind.
    pub wrong: Wrong,
    /// The write that is concerned.
    pub request: u64,
    /// What was expected, what was found.
    pub sentence: String,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Violations {
    kept: Vec<Violation>,
    lost: BTreeSet<u64>,
    corrupt: u64,
    other: u64,
}

impl Violations {
    pub(super) fn add(&mut self, violation: Violation) {
        match violation.wrong {
            Wrong::Lost => _ = self.lost.insert(violation.request),
            Wrong::Corrupt | Wrong::Torn | Wrong::Resurrected => self.corrupt += 1,
            Wrong::Deposed | Wrong::GuestError => self.other += 1,
        }
        if self.kept.len() < KEPT {
            self.kept.push(violation);
        }
    }

    /// No promise was broken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lost.is_empty() && self.corrupt == 0 && self.other == 0
    }

    /// Writes that were acknowledged, or observed, and are gone.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.len().try_into().unwrap_or(u64::MAX)
    }

    /// Sectors found with wrong data.
    #[must_use]
    pub fn corrupt(&self) -> u64 {
        self.corrupt
    }

    /// Answers of deposed primaries, and I/O errors.
    #[must_use]
    pub fn other(&self) -> u64 {
        self.other
    }

    /// The first of them, in words.
    #[must_use]
    pub fn kept(&self) -> &[Violation] {
        &self.kept
    }
}
