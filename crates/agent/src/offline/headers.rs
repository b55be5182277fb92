//! Headers that are kept in several copies: each copy looked at by itself.
//!
//! The store opens with what enough copies say. It mends the others of a superblock when it starts, writes the journal's head anew when
//! it opens a segment, which every start does, and the header of a segment only when the file is used again. Here they are named, and what `repair` may write is
//! made of them: the bytes of a copy that is right over one that can't be read.

use super::repair::Repair;
use bytes::Bytes;
use holdfast_disk::Overlay;
use holdfast_format::{JournalHead, JournalHeadFound, SegmentHeader, Superblock, SuperblockFound};
use holdfast_store::SegmentFound;
use holdfast_store::io::FileId;
use holdfast_types::VolumeId;

const SUPERBLOCK_BYTES: usize = Superblock::COPIES * Superblock::LEN;

/// What the copies of one header say.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) superblock: Option<Superblock>,
    pub(super) problems: Vec<String>,
    pub(super) notes: Vec<String>,
    pub(super) repairs: Vec<Repair>,
}

impl Seen {
    /// One copy of several can't be read; `right` is what it should be.
    fn damaged(&mut self, disk: &Overlay, file: FileId, copy: usize, of: usize, right: &Bytes, found: &Bytes) {
        let len = right.len();
        let path = disk.path(file);
        let what = format!("copy {} of {of} of the header in {}", copy + 1, path.display());
        let later = match file {
            FileId::Segment(_) => "the agent leaves it so until it uses the file again",
            _ => "the agent mends it when it starts",
        };
        self.problems.push(format!(
            "{what} can't be read: it was damaged, or a power failure cut its write; {later}, `--repair` does it now"
        ));
        let offset = u64::try_from(copy * len).expect("a header is a few KiB");
        let (found, right) = (found.slice(copy * len..(copy + 1) * len), right.clone());
        self.repairs.push(Repair { path, offset, found, right, what: format!("write {what} from an equal one") });
    }
}

/// The superblock of one copy.
pub(super) fn superblock(disk: &mut Overlay, volume: VolumeId) -> Seen {
    let mut seen = Seen::default();
    let file = FileId::Superblock(volume);
    let bytes = match disk.read(file, 0, SUPERBLOCK_BYTES) {
        Ok(bytes) => bytes,
        Err(e) => {
            seen.notes.push(format!("its superblock can't be read: {e}"));
            return seen;
        }
    };
    let other =
        bytes.chunks(Superblock::LEN).filter_map(Superblock::version).find(|v| *v != u32::from(Superblock::VERSION));
    if let Some(version) = other {
        seen.problems.push(format!(
            "its superblock has format version {version}, this holdfast knows {}; use the holdfast that wrote it",
            Superblock::VERSION
        ));
        return seen;
    }
    let copies = Superblock::copies(&bytes);
    match Superblock::judge(&bytes) {
        SuperblockFound::Valid(best, _) => {
            let right = best.encode();
            for (i, copy) in copies.iter().enumerate() {
                match copy {
                    None => seen.damaged(disk, file, i, Superblock::COPIES, &right, &bytes),
                    Some(copy) if *copy != *best => {
                        let when = if copy.sequence < best.sequence { "older" } else { "newer" };
                        seen.notes.push(format!("copy {} of its superblock is {when}: a write had not ended", i + 1));
                    }
                    Some(_) => {}
                }
            }
            seen.superblock = Some(*best);
        }
        SuperblockFound::Void(_) | SuperblockFound::Blank => {}
        // The store says so as well; what one copy alone says is shown, and nothing is made of it.
        SuperblockFound::Damaged(_) => seen.superblock = copies.into_iter().flatten().max_by_key(|s| s.sequence),
    }
    seen
}

/// The headers of the journal: its head, and those of the segments that are part of it.
pub(super) fn journal(disk: &mut Overlay, segments: &[SegmentFound]) -> Seen {
    let mut seen = Seen::default();
    if let Ok(bytes) = disk.read(FileId::JournalHead, 0, JournalHead::LEN)
        && let JournalHeadFound::Valid(head) = JournalHead::judge(&bytes)
    {
        pair(&mut seen, disk, FileId::JournalHead, JournalHead::copies_good(&bytes), &head.encode(), &bytes);
    }
    for segment in segments {
        let file = FileId::Segment(segment.slot);
        if let Ok(bytes) = disk.read(file, 0, SegmentHeader::LEN)
            && let Some(header) = SegmentHeader::decode(&bytes)
        {
            pair(&mut seen, disk, file, SegmentHeader::copies_good(&bytes), &header.encode(), &bytes);
        }
    }
    seen
}

fn pair(seen: &mut Seen, disk: &Overlay, file: FileId, good: [bool; 2], whole: &Bytes, found: &Bytes) {
    let right = whole.slice(..whole.len() / 2);
    for (copy, _) in good.iter().enumerate().filter(|(_, good)| !**good) {
        seen.damaged(disk, file, copy, 2, &right, found);
    }
}

/// The version of a segment that this holdfast does not know.
pub(super) fn unknown_journal_version(disk: &mut Overlay) -> Option<u16> {
    let segments: Vec<FileId> =
        disk.files().map(|(file, _)| file).filter(|f| matches!(f, FileId::Segment(_))).collect();
    segments.into_iter().find_map(|file| {
        let bytes = disk.read(file, 0, SegmentHeader::LEN).ok()?;
        SegmentHeader::version(&bytes).filter(|version| *version != SegmentHeader::VERSION)
    })
}
