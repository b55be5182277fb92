//! The recovery table: every combination of what can be found where frame `expected` should be is one named row.
//!
//! The one question is: torn or rotten? A frame that was never reported durable may be cut. One that was proven durable (by
//! a later frame's `proven`, or by a later life's segment header) is rot when it can't be read: nothing may be cut, the
//! copies concerned say *unknown* and ask their peers (traps 11 and 12).

/// What the place of the expected frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderSeen {
    /// A whole head: header and slots.
    Good,
    /// The header is good, the slots are not as written.
    SlotsBad,
    /// No frame header of this segment.
    Bad,
}

/// How the frame's number relates to the expected one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SeqSeen {
    Expected,
    /// Higher: the frames between are missing.
    Gap,
    /// Lower: was there before.
    Old,
}

/// All that the decision depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Observation {
    pub(crate) header: HeaderSeen,
    pub(crate) seq: SeqSeen,
    /// Every body is as its record header says.
    pub(crate) bodies_good: bool,
    /// The *expected* frame was durable.
    pub(crate) proven: bool,
}

/// The rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Row {
    /// A whole frame. It is part of the journal, proven or not: it may have been reported durable.
    Whole,
    /// The bodies of an unproven frame are not all there: the write was torn.
    TornBody,
    /// A body of a proven frame can't be read; the other records are good.
    RotBody,
    /// The slots of an unproven frame are not as written.
    TornSlots,
    /// The slots of a proven frame are not as written; good ones are evidence.
    RotSlots,
    /// Unproven frames are missing before this one: it was in flight with a torn one.
    TornGap,
    /// Proven frames are missing before this one.
    RotGap,
    /// No frame here, and none was proven: the end.
    End,
    /// No frame here, though it was durable.
    RotHeader,
    /// A frame of this very segment that comes again: never written so; it proves nothing and is passed over.
    Stale,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// The frame is part of the journal.
    Take,
    /// The frame is part of the journal; what can't be read of it is unknown.
    TakeDamaged,
    /// Note the missing frames as rot, then look at the same finding again as expected.
    NoteMissing,
    /// The journal ends before the expected frame.
    Cut,
    /// Pass over the finding.
    Skip,
}

/// The row of an observation.
pub(crate) const fn classify(seen: Observation) -> Row {
    match (seen.header, seen.seq, seen.bodies_good, seen.proven) {
        (HeaderSeen::Bad, _, _, true) => Row::RotHeader,
        (HeaderSeen::Bad, _, _, false) => Row::End,
        (_, SeqSeen::Old, _, _) => Row::Stale,
        (_, SeqSeen::Gap, _, true) => Row::RotGap,
        (_, SeqSeen::Gap, _, false) => Row::TornGap,
        (HeaderSeen::SlotsBad, SeqSeen::Expected, _, true) => Row::RotSlots,
        (HeaderSeen::SlotsBad, SeqSeen::Expected, _, false) => Row::TornSlots,
        (HeaderSeen::Good, SeqSeen::Expected, true, _) => Row::Whole,
        (HeaderSeen::Good, SeqSeen::Expected, false, true) => Row::RotBody,
        (HeaderSeen::Good, SeqSeen::Expected, false, false) => Row::TornBody,
    }
}

impl Row {
    pub(crate) const fn action(self) -> Action {
        match self {
            Row::Whole => Action::Take,
            Row::RotBody | Row::RotSlots => Action::TakeDamaged,
            Row::RotGap | Row::RotHeader => Action::NoteMissing,
            Row::TornBody | Row::TornSlots | Row::TornGap | Row::End => Action::Cut,
            Row::Stale => Action::Skip,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// The table as a person would write it down; `*` is any.
    const TABLE: [(&str, &str, &str, &str, Row); 10] = [
        ("good", "expected", "good", "*", Row::Whole),
        ("good", "expected", "bad", "no", Row::TornBody),
        ("good", "expected", "bad", "yes", Row::RotBody),
        ("slots", "expected", "*", "no", Row::TornSlots),
        ("slots", "expected", "*", "yes", Row::RotSlots),
        ("good slots", "gap", "*", "no", Row::TornGap),
        ("good slots", "gap", "*", "yes", Row::RotGap),
        ("good slots", "old", "*", "*", Row::Stale),
        ("bad", "*", "*", "no", Row::End),
        ("bad", "*", "*", "yes", Row::RotHeader),
    ];

    #[test]
    fn every_combination_has_exactly_one_row() {
        let headers = [("good", HeaderSeen::Good), ("slots", HeaderSeen::SlotsBad), ("bad", HeaderSeen::Bad)];
        let seqs = [("expected", SeqSeen::Expected), ("gap", SeqSeen::Gap), ("old", SeqSeen::Old)];
        let mut used = BTreeMap::new();
        let fits = |cell: &str, value: &str| cell == "*" || cell.split(' ').any(|c| c == value);
        for (h, header) in headers {
            for (s, seq) in seqs {
                for (b, bodies_good) in [("good", true), ("bad", false)] {
                    for (p, proven) in [("yes", true), ("no", false)] {
                        let rows: Vec<Row> = TABLE
                            .iter()
                            .filter(|t| fits(t.0, h) && fits(t.1, s) && fits(t.2, b) && fits(t.3, p))
                            .map(|t| t.4)
                            .collect();
                        let row = classify(Observation { header, seq, bodies_good, proven });
                        assert_eq!(rows, [row], "{h} {s} {b} {p}");
                        *used.entry(row).or_insert(0) += 1;
                        // The rule above all: what was proven is never cut.
                        assert!(!(proven && row.action() == Action::Cut), "{h} {s} {b} {p}");
                    }
                }
            }
        }
        assert_eq!((used.len(), used.values().sum::<i32>()), (TABLE.len(), 36));
    }
}
