//! Finding the frames of one segment in its bytes.
//!
//! As long as whole frames follow one another, the scan jumps from one to the next and never looks into bodies, which are the
//! guest's. Where no frame is found, or one that is not whole, it tries every sector up to the next frame of this segment: a
//! frame that the device put in the wrong place lies across its neighbour, whose header is the proof that both were durable.
//! Only headers with this journal's id, this life and this generation count, so neither a stale frame nor a guest's bytes
//! can pose as one.

use bytes::Bytes;
use holdfast_format::{CommitMark, FrameHeader, FrameSlot, Record, RecordHeader, SegmentHeader, padded};
use holdfast_types::{BLOCK_SIZE, SECTOR_SIZE};

/// Frames of one segment in the order of their place.
#[derive(Debug)]
pub(crate) struct SegmentScan {
    pub(crate) header: SegmentHeader,
    pub(crate) frames: Vec<FoundFrame>,
    /// Some of its sectors could not be read.
    pub(crate) unreadable: bool,
}

/// A frame with a good header.
#[derive(Clone, Debug)]
pub(crate) struct FoundFrame {
    pub(crate) generation: u64,
    pub(crate) life: u64,
    pub(crate) seq: u64,
    pub(crate) proven: u64,
    /// The slots are as written.
    pub(crate) slots_good: bool,
    /// The bodies are as their headers say.
    pub(crate) bodies_good: bool,
    /// Slots that say nothing, or not what was written: which of them do can't be told once their sum is wrong.
    pub(crate) unreadable: u64,
    pub(crate) records: Vec<FoundRecord>,
    pub(crate) marks: Vec<CommitMark>,
}

/// A record with a good header.
#[derive(Clone, Debug)]
pub(crate) struct FoundRecord {
    pub(crate) header: RecordHeader,
    pub(crate) header_at: u64,
    pub(crate) body_at: u64,
    pub(crate) body: FoundBody,
}

#[derive(Clone, Debug)]
pub(crate) enum FoundBody {
    /// Verified; kept because the record must be applied, or may be cut.
    Kept(Record),
    /// Verified; its hash.
    Verified(u64),
    Bad,
}

impl FoundRecord {
    /// The record's hash, if its body can be read.
    pub(crate) const fn hash(&self) -> Option<u64> {
        match &self.body {
            FoundBody::Kept(record) => Some(record.hash()),
            FoundBody::Verified(hash) => Some(*hash),
            FoundBody::Bad => None,
        }
    }
}

/// Scans a segment whose header was read. `keep` says which records' bodies are wanted.
pub(crate) fn scan(header: SegmentHeader, bytes: &Bytes, keep: &dyn Fn(&RecordHeader) -> bool) -> SegmentScan {
    let mut frames = Vec::new();
    let mut at = SegmentHeader::LEN;
    while at + SECTOR_SIZE <= bytes.len() {
        match frame_at(&header, bytes, at) {
            Some(found) => {
                let len = usize::try_from(found.total_len).expect("a frame is below 4 MiB");
                let frame = read_frame(&found, &bytes.slice(at..at + len), at, keep);
                at += if frame.slots_good && frame.bodies_good { len } else { SECTOR_SIZE };
                frames.push(frame);
            }
            None => at += SECTOR_SIZE,
        }
    }
    SegmentScan { header, frames, unreadable: false }
}

/// The header of a frame of this segment that fits in the rest of it.
fn frame_at(segment: &SegmentHeader, bytes: &[u8], at: usize) -> Option<FrameHeader> {
    let found = FrameHeader::decode(&bytes[at..])?;
    let ours = found.journal == segment.journal && found.life == segment.life && found.generation == segment.generation;
    let fits = usize::try_from(found.total_len).is_ok_and(|len| at + len <= bytes.len());
    (ours && fits).then_some(found)
}

fn read_frame(found: &FrameHeader, frame: &Bytes, at: usize, keep: &dyn Fn(&RecordHeader) -> bool) -> FoundFrame {
    let (slots_good, slots) = found.slots_of(frame);
    let mut result = FoundFrame {
        generation: found.generation,
        life: found.life,
        seq: found.seq,
        proven: found.proven,
        slots_good,
        bodies_good: true,
        unreadable: 0,
        records: Vec::new(),
        marks: Vec::new(),
    };
    let at = u64::try_from(at).expect("a segment is at most 1 GiB");
    let mut body_at = u64::from(FrameHeader::head_len(found.slots));
    // Behind an unreadable slot nobody knows where the next body starts.
    let mut placed = true;
    for (i, slot) in (1u64..).zip(slots) {
        match slot {
            Some(FrameSlot::Record(header)) => {
                let body = if placed { read_body(header, frame, body_at, keep) } else { FoundBody::Bad };
                result.bodies_good &= !matches!(body, FoundBody::Bad);
                let header_at = at + i * FrameHeader::LEN as u64;
                result.records.push(FoundRecord { header, header_at, body_at: at + body_at, body });
                body_at += u64::from(padded(header.body_len));
            }
            Some(FrameSlot::Commit(mark)) => result.marks.push(mark),
            None => placed = false,
        }
    }
    // A sector that a device never wrote holds slots of an older frame, each with a good checksum.
    result.unreadable = if slots_good { 0 } else { u64::from(found.slots) };
    result
}

fn read_body(header: RecordHeader, frame: &Bytes, at: u64, keep: &dyn Fn(&RecordHeader) -> bool) -> FoundBody {
    let start = usize::try_from(at).expect("a frame is below 4 MiB");
    let end = start + usize::try_from(header.body_len).expect("a body is about 1 MiB");
    if end > frame.len() {
        return FoundBody::Bad;
    }
    let body = frame.slice(start..end);
    if !keep(&header) {
        return Record::verify(header, body).map_or(FoundBody::Bad, |record| FoundBody::Verified(record.hash()));
    }
    // A copy: a slice would keep the whole segment in memory.
    Record::verify(header, Bytes::copy_from_slice(&body)).map_or(FoundBody::Bad, FoundBody::Kept)
}

const _: () = assert!(SegmentHeader::LEN.is_multiple_of(SECTOR_SIZE) && BLOCK_SIZE.is_multiple_of(SECTOR_SIZE));

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_types::{Lsn, VolumeId};

    fn frame(seq: u64) -> Bytes {
        let slots: Vec<_> =
            (1..=8).map(|n| FrameSlot::Commit(CommitMark { volume: VolumeId(n), committed: Lsn(seq) })).collect();
        let total_len = FrameHeader::head_len(8);
        FrameHeader { journal: 1, life: 1, generation: 1, seq, proven: 0, slots: 8, total_len, slots_sum: 0 }
            .encode_head(&slots)
    }

    #[test]
    fn slots_of_an_older_frame_make_all_slots_doubtful() {
        let header = SegmentHeader {
            journal: 1,
            generation: 1,
            life: 1,
            first_seq: 1,
            bytes: 1 << 20,
            slot: 0,
            closed: Vec::new(),
        };
        let (older, mut newer) = (frame(1), frame(2).to_vec());
        newer[SECTOR_SIZE..2 * SECTOR_SIZE].copy_from_slice(&older[SECTOR_SIZE..2 * SECTOR_SIZE]);
        let segment = Bytes::from([&header.encode()[..], &older, &newer].concat());
        let found = scan(header, &segment, &|_| true).frames;
        assert_eq!(found.iter().map(|f| (f.slots_good, f.unreadable)).collect::<Vec<_>>(), [(true, 0), (false, 8)]);
    }
}
