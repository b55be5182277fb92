//! Block numbers as ranges: few for a damaged track, bounded for a device that returns nothing right.

use serde::Serialize;
use std::fmt;

/// Ranges that are listed; above that they are counted.
const MAX_LISTED: usize = 10_000;
/// Ranges that a sentence holds.
const MAX_SHOWN: usize = 20;

/// Blocks, noted in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ranges {
    /// First and last block of each range.
    pub listed: Vec<(u64, u64)>,
    /// All blocks, those that are not listed too.
    pub blocks: u64,
}

impl Ranges {
    pub(super) fn add(&mut self, block: u64) {
        self.blocks += 1;
        let room = self.listed.len() < MAX_LISTED;
        match self.listed.last_mut() {
            Some((_, last)) if *last + 1 == block => *last = block,
            _ if room => self.listed.push((block, block)),
            _ => {}
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks == 0
    }
}

impl Ranges {
    /// `17-18, 40`.
    pub(super) fn numbers(&self) -> String {
        let range =
            |(first, last): &(u64, u64)| if first == last { first.to_string() } else { format!("{first}-{last}") };
        let shown: Vec<String> = self.listed.iter().take(MAX_SHOWN).map(range).collect();
        let more = if self.listed.len() > MAX_SHOWN { " and more" } else { "" };
        shown.join(", ") + more
    }
}

/// `3 of 4 KiB: 17-18, 40`.
impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of 4 KiB: {}", self.blocks, self.numbers())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_range_and_the_list_is_bounded() {
        let mut ranges = Ranges::default();
        [3, 4, 5, 9].into_iter().for_each(|block| ranges.add(block));
        assert_eq!(ranges.to_string(), "4 of 4 KiB: 3-5, 9");
        (0..1_000_000).for_each(|i| ranges.add(20 + 2 * i));
        assert_eq!((ranges.listed.len(), ranges.blocks), (MAX_LISTED, 1_000_004));
        assert!(ranges.to_string().len() < 300, "{ranges}");
    }
}
