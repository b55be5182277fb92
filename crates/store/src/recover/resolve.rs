//! Which frames are the journal, where it ends, and what of it is rot.
//!
//! Segments of earlier lives: the newest segment header fixes their ends, and everything up to there was durable. The
//! segments of the last life: frames follow one another up to the first one that is torn; what its frames prove was
//! durable. One walk does both, with the recovery table at each step.

use crate::recover::scan::{FoundFrame, SegmentScan};
use crate::recover::table::{Action, HeaderSeen, Observation, SeqSeen, classify};
use holdfast_types::{MAX_FRAME_RECORDS, Mutant, mutated};
use std::collections::BTreeMap;

/// Place of a frame in the order of all frames ever written: life, sequence number.
pub(crate) type Place = (u64, u64);

/// Records that were durable and can't be read; whose they are is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rot {
    /// The last frame of the damage.
    pub(crate) place: Place,
    /// How many records it can be at most.
    pub(crate) records: u64,
}

/// The journal as it was found.
#[derive(Debug, Default)]
pub(crate) struct Resolved {
    /// In the order of writing.
    pub(crate) frames: Vec<FoundFrame>,
    pub(crate) rots: Vec<Rot>,
    /// Generation → last frame, for the segments that stay part of the journal.
    pub(crate) ends: BTreeMap<u64, u64>,
    /// Generations with rot.
    pub(crate) damaged: Vec<u64>,
    /// The last frame that is part of the journal.
    pub(crate) last_seq: u64,
}

/// Walks the segments, which are the newest one and those that its header lists, oldest first.
pub(crate) fn resolve(scans: Vec<SegmentScan>) -> Resolved {
    let newest = scans.last().expect("a journal has a newest segment").header.clone();
    let assigned: BTreeMap<u64, u64> = newest.closed.iter().map(|c| (c.generation, c.end)).collect();
    let proven_by_frames = scans
        .iter()
        .filter(|scan| scan.header.life == newest.life)
        .flat_map(|scan| scan.frames.iter().map(|frame| frame.proven))
        .max()
        .unwrap_or(0);
    let mut resolved = Resolved { last_seq: newest.first_seq - 1, ..Resolved::default() };
    let mut cut_off = false;
    for scan in scans {
        if cut_off {
            // Empty by the cut, yet listed by the newest header: free only when a newer one no longer lists it.
            resolved.ends.insert(scan.header.generation, resolved.last_seq);
            continue;
        }
        let (generation, life) = (scan.header.generation, scan.header.life);
        let end = assigned.get(&generation).copied();
        let proven = match end {
            Some(end) if life != newest.life => end,
            // What can't be read looks like a frame that was never whole, and may have been acknowledged: it counts as durable.
            Some(end) if scan.unreadable => proven_by_frames.max(end),
            // The newest one, read around its gaps: what is whole behind them is wanted, too.
            None if scan.unreadable => {
                scan.frames.iter().map(|frame| frame.seq).max().unwrap_or(0).max(proven_by_frames)
            }
            _ => proven_by_frames,
        };
        let Walk { next, cut } = walk(scan, end, proven, &mut resolved);
        resolved.ends.insert(generation, next - 1);
        if life == newest.life {
            resolved.last_seq = next - 1;
            cut_off = cut;
        }
    }
    resolved
}

/// Where the walk through a segment ended: the next frame expected, and whether a torn one was there.
struct Walk {
    next: u64,
    cut: bool,
}

/// Walks one segment. `end`: its last frame, if known; frames up to `proven` were durable.
fn walk(scan: SegmentScan, end: Option<u64>, proven: u64, resolved: &mut Resolved) -> Walk {
    let (generation, life) = (scan.header.generation, scan.header.life);
    let mut next = scan.header.first_seq;
    let within = |seq: u64| end.is_none_or(|end| seq <= end);
    let lose = |resolved: &mut Resolved, upto: u64, records: u64| {
        resolved.rots.push(Rot { place: (life, upto), records });
        if resolved.damaged.last() != Some(&generation) {
            resolved.damaged.push(generation);
        }
    };
    for frame in scan.frames {
        if !within(frame.seq) {
            // Behind the cut that a later life made: never valid again, however well it checks.
            break;
        }
        loop {
            let seen = observe(&frame, next, proven);
            match classify(seen).action() {
                Action::Cut => return Walk { next, cut: true },
                Action::Skip => break,
                Action::NoteMissing => {
                    lose(resolved, frame.seq - 1, (frame.seq - next).saturating_mul(MAX_FRAME_RECORDS as u64));
                    next = frame.seq;
                }
                action @ (Action::Take | Action::TakeDamaged) => {
                    if action == Action::TakeDamaged {
                        lose(resolved, frame.seq, frame.unreadable);
                    }
                    resolved.frames.push(frame);
                    next += 1;
                    break;
                }
            }
        }
    }
    // The frames that the segment should hold as well.
    let Some(end) = end.filter(|end| next <= *end) else { return Walk { next, cut: false } };
    let missing =
        Observation { header: HeaderSeen::Bad, seq: SeqSeen::Expected, bodies_good: false, proven: next <= proven };
    if classify(missing).action() == Action::Cut {
        return Walk { next, cut: true };
    }
    let lost_to = end.min(proven);
    lose(resolved, lost_to, (lost_to + 1 - next).saturating_mul(MAX_FRAME_RECORDS as u64));
    Walk { next: lost_to + 1, cut: lost_to < end }
}

fn observe(frame: &FoundFrame, expected: u64, proven: u64) -> Observation {
    let seq = match frame.seq.cmp(&expected) {
        std::cmp::Ordering::Less => SeqSeen::Old,
        std::cmp::Ordering::Equal => SeqSeen::Expected,
        std::cmp::Ordering::Greater => SeqSeen::Gap,
    };
    let header = if frame.slots_good { HeaderSeen::Good } else { HeaderSeen::SlotsBad };
    Observation {
        header,
        seq,
        bodies_good: frame.bodies_good,
        proven: expected <= proven || mutated(Mutant::TornTakenForRot),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_format::{ClosedSegment, SegmentHeader};

    fn frame(life: u64, generation: u64, seq: u64, proven: u64) -> FoundFrame {
        let (records, marks) = (Vec::new(), Vec::new());
        FoundFrame { generation, life, seq, proven, slots_good: true, bodies_good: true, unreadable: 0, records, marks }
    }

    fn segment(
        life: u64,
        generation: u64,
        first_seq: u64,
        closed: &[(u64, u64)],
        frames: Vec<FoundFrame>,
    ) -> SegmentScan {
        let closed = closed.iter().map(|&(generation, end)| ClosedSegment { generation, end }).collect();
        SegmentScan {
            header: SegmentHeader { journal: 1, generation, life, first_seq, bytes: 1 << 20, slot: 0, closed },
            frames,
            unreadable: false,
        }
    }

    fn seqs(resolved: &Resolved) -> Vec<Place> {
        resolved.frames.iter().map(|f| (f.life, f.seq)).collect()
    }

    /// Traps 13 and 14: frames behind the end that a later life fixed are whole now, and still not part of the journal.
    #[test]
    fn a_cut_is_for_ever() {
        let old = (1..=5).map(|seq| frame(1, 1, seq, seq - 1)).collect();
        let resolved = resolve(vec![segment(1, 1, 1, &[], old), segment(2, 2, 4, &[(1, 3)], vec![frame(2, 2, 4, 3)])]);
        assert_eq!(seqs(&resolved), [(1, 1), (1, 2), (1, 3), (2, 4)]);
        assert_eq!((resolved.last_seq, resolved.rots.len()), (4, 0));
    }

    #[test]
    fn missing_frames_of_an_earlier_life_are_rot_and_of_the_last_are_torn() {
        let old = || vec![frame(1, 1, 1, 0), frame(1, 1, 3, 1)];
        let resolved = resolve(vec![segment(1, 1, 1, &[], old()), segment(2, 2, 5, &[(1, 4)], vec![])]);
        assert_eq!(seqs(&resolved), [(1, 1), (1, 3)]);
        assert_eq!(resolved.rots.iter().map(|r| r.place).collect::<Vec<_>>(), [(1, 2), (1, 4)]);
        assert_eq!(resolved.damaged, [1]);
        let resolved = resolve(vec![segment(1, 1, 1, &[], old())]);
        assert_eq!((seqs(&resolved), resolved.last_seq, resolved.rots.len()), (vec![(1, 1)], 1, 0));
        let proven = vec![frame(1, 1, 1, 0), frame(1, 1, 3, 2)];
        let resolved = resolve(vec![segment(1, 1, 1, &[], proven)]);
        assert_eq!((seqs(&resolved), resolved.rots.len()), (vec![(1, 1), (1, 3)], 1));
    }

    /// The last frame of a closed segment can't be read, and no later one proves that it was durable: it may have been acknowledged.
    #[test]
    fn an_unreadable_frame_is_rot_where_a_torn_one_would_cut() {
        let segments = |unreadable| {
            let mut first = segment(1, 1, 1, &[], vec![frame(1, 1, 1, 0)]);
            first.unreadable = unreadable;
            vec![first, segment(1, 2, 3, &[(1, 2)], vec![frame(1, 2, 3, 1)])]
        };
        assert_eq!(seqs(&resolve(segments(false))), [(1, 1)]);
        let resolved = resolve(segments(true));
        assert_eq!(seqs(&resolved), [(1, 1), (1, 3)]);
        assert_eq!(resolved.rots.iter().map(|r| r.place).collect::<Vec<_>>(), [(1, 2)]);
        assert_eq!((resolved.last_seq, resolved.damaged), (3, vec![1]));
    }

    /// A torn frame at the end of a segment cuts the next one of the same life, which stays listed until it is released.
    #[test]
    fn a_cut_empties_the_segments_behind_it() {
        let resolved = resolve(vec![
            segment(1, 1, 1, &[], vec![frame(1, 1, 1, 0)]),
            segment(1, 2, 3, &[(1, 2)], vec![frame(1, 2, 3, 1)]),
        ]);
        assert_eq!((seqs(&resolved), resolved.last_seq), (vec![(1, 1)], 1));
        assert_eq!(resolved.ends, BTreeMap::from([(1, 1), (2, 1)]));
    }
}
