//! A resync gives way to guests: it asks for regions one answer at a time, and where an answer takes longer than it once did, somebody else
//! wants the same disks or the same network. Then it waits three times as long as it was held up before it asks again.
//!
//! ```text
//!   asked ──(source reads, sends; this copy writes)──► held      took − what the quickest answer of that source took = held up
//! ```
//! So it takes a quarter of what is left over, and never less than a quarter of its limit where that is there: guests that are always busy
//! must not keep a copy away for ever. Where a resync has to hurry, because guests change regions faster than they come, nobody asks here.
//!
//! Deliberately absent: priorities on the network and in the kernel's queues. A source need not know who waits for what, and older ones take part.

use holdfast_types::{NodeId, Time};
use std::time::Duration;

/// Waited for each moment of being held up.
const TIMES: u32 = 3;

/// How long answers take.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Courtesy {
    /// Who was asked, and when.
    asked: Option<(NodeId, Time)>,
    /// The quickest answer of that source: nanoseconds for a KiB.
    quickest: Option<u64>,
}

impl Courtesy {
    /// A question goes out.
    pub(crate) fn asks(&mut self, source: NodeId, now: Time) {
        if self.asked.is_none_or(|(before, _)| before != source) {
            self.quickest = None;
        }
        self.asked = Some((source, now));
    }

    /// The answer, so many bytes, is held. How long to give way before the next question, beside `pace`, which the limit of bandwidth asks for
    /// anyway. Answers of less than `least` bytes say nothing: there the way counts, not what it carries.
    pub(crate) fn held(&mut self, bytes: u64, least: u64, pace: Duration, now: Time) -> Duration {
        let Some((_, at)) = self.asked else { return Duration::ZERO };
        if bytes < least.max(1024) {
            return Duration::ZERO;
        }
        let (took, units) = (now.since(at), bytes / 1024);
        let each = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX) / units;
        let quickest = self.quickest.map_or(each, |before| before.min(each));
        assert!(quickest <= each, "no answer is quicker than the quickest");
        self.quickest = Some(quickest);
        let held_up = Duration::from_nanos((each - quickest).saturating_mul(units));
        held_up.saturating_mul(TIMES).min(pace.saturating_mul(TIMES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const PACE: Duration = Duration::from_millis(16);

    fn ms(n: u64) -> Time {
        Time(n * 1_000_000)
    }

    /// An answer of 1 MiB that takes so many milliseconds.
    fn takes(courtesy: &mut Courtesy, source: u64, took: u64) -> Duration {
        courtesy.asks(NodeId(source), ms(1000));
        courtesy.held(MIB, MIB / 2, PACE, ms(1000 + took))
    }

    #[test]
    fn it_waits_three_times_as_long_as_it_was_held_up_and_three_quarters_of_the_time_at_most() {
        let mut courtesy = Courtesy::default();
        assert_eq!(takes(&mut courtesy, 1, 4), Duration::ZERO, "nothing to compare with");
        assert_eq!(takes(&mut courtesy, 1, 4), Duration::ZERO, "nobody is in the way");
        let waits = takes(&mut courtesy, 1, 6);
        assert!((5900..=6000).contains(&waits.as_micros()), "{waits:?}");
        assert_eq!(takes(&mut courtesy, 1, 400), PACE * 3, "a quarter of the limit is its own");
        assert_eq!(takes(&mut courtesy, 1, 4), Duration::ZERO, "they are gone");
    }

    #[test]
    fn each_source_has_its_own_measure_and_short_answers_have_none() {
        let mut courtesy = Courtesy::default();
        takes(&mut courtesy, 1, 1);
        assert_eq!(takes(&mut courtesy, 2, 9), Duration::ZERO, "another source is as slow as it is");
        assert!(takes(&mut courtesy, 2, 12) > Duration::ZERO);
        courtesy.asks(NodeId(2), ms(0));
        assert_eq!(courtesy.held(MIB / 4, MIB / 2, PACE, ms(500)), Duration::ZERO);
        assert_eq!(courtesy.held(0, 0, PACE, ms(500)), Duration::ZERO, "an answer without regions");
        assert_eq!(Courtesy::default().held(MIB, 0, PACE, ms(500)), Duration::ZERO, "nobody was asked");
    }
}
