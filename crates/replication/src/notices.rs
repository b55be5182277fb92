//! Events of one kind, of which a whole disk of rot would make millions: some are told one by one, the others as a number.

use crate::api::Output;
use holdfast_types::{BlockIndex, Time};
use std::time::Duration;

/// Told one by one in each window.
const SINGLY: u64 = 8;
/// Then the number of the others is told.
const WINDOW: Duration = Duration::from_mins(1);

/// The events of the present window.
#[derive(Debug, Default)]
pub(crate) struct Notices {
    ends: Option<Time>,
    count: u64,
    /// Blocks of those that were not told: the lowest and the highest.
    untold: Option<(BlockIndex, BlockIndex)>,
}

impl Notices {
    /// When there is something to be told though nothing happens.
    pub(crate) fn next_timeout(&self) -> Option<Time> {
        self.ends.filter(|_| self.untold.is_some())
    }

    /// Something happened to a block.
    pub(crate) fn say(&mut self, block: BlockIndex, what: &str, text: String, now: Time, out: &mut Vec<Output>) {
        self.step(what, now, out);
        let ends = *self.ends.get_or_insert(now + WINDOW);
        assert!(now < ends, "the window is the present one");
        self.count += 1;
        if self.count <= SINGLY {
            out.push(Output::Event(text));
            return;
        }
        let (low, high) = self.untold.unwrap_or((block, block));
        self.untold = Some((low.min(block), high.max(block)));
    }

    /// Ends the window if its time has come; `what` happened to the blocks.
    pub(crate) fn step(&mut self, what: &str, now: Time, out: &mut Vec<Output>) {
        if self.ends.is_none_or(|ends| now < ends) {
            return;
        }
        if let Some((low, high)) = self.untold {
            let more = self.count - SINGLY;
            out.push(Output::Event(format!(
                "{more} more blocks of the image, between block {} and block {}, {what}",
                low.0, high.0
            )));
        }
        *self = Notices::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ones_are_told_and_the_others_counted() {
        let (mut notices, mut out) = (Notices::default(), Vec::new());
        for block in (0..1000).rev() {
            notices.say(BlockIndex(block), "were lost", "lost".to_owned(), Time(block), &mut out);
        }
        assert_eq!(out.len(), 8);
        let ends = notices.next_timeout().expect("some were not told");
        notices.step("were lost", ends, &mut out);
        let Some(Output::Event(text)) = out.get(8) else { panic!("{out:?}") };
        assert_eq!(text, "992 more blocks of the image, between block 0 and block 991, were lost");
        assert_eq!(notices.next_timeout(), None);
        notices.say(BlockIndex(5), "were lost", "lost".to_owned(), ends, &mut out);
        assert_eq!(out.len(), 10, "a new window");
    }
}
