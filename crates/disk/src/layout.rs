//! Where each file of a shard lives. The only place that knows path names.
//!
//! ```text
//! DIR/lock
//! DIR/journal/head
//! DIR/journal/segment-<slot>
//! DIR/copies/<volume id>/{superblock,image.raw,blocks.tab,regions.tab,side.raw,side-blocks.tab,side-regions.tab,orphan-<epoch>}
//! ```
//! A file that is being created is called `<name>.new` until it is complete and durable.

use holdfast_store::io::FileId;
use holdfast_types::{Epoch, VolumeId};
use std::path::{Path, PathBuf};

/// Ending of a file that is not complete yet.
pub(crate) const UNFINISHED: &str = ".new";
const HEAD: &str = "head";
const SEGMENT: &str = "segment-";
const ORPHAN: &str = "orphan-";

pub(crate) fn journal(dir: &Path) -> PathBuf {
    dir.join("journal")
}

pub(crate) fn copies(dir: &Path) -> PathBuf {
    dir.join("copies")
}

/// Directory that holds `file`.
pub(crate) fn parent(dir: &Path, file: FileId) -> PathBuf {
    match volume(file) {
        None => journal(dir),
        Some(volume) => copies(dir).join(volume.get().to_string()),
    }
}

/// Path of `file`.
pub(crate) fn path(dir: &Path, file: FileId) -> PathBuf {
    parent(dir, file).join(name(file))
}

/// The volume whose copy `file` belongs to; `None` for a file of the journal.
pub(crate) fn volume(file: FileId) -> Option<VolumeId> {
    match file {
        FileId::Segment(_) | FileId::JournalHead => None,
        FileId::Superblock(v)
        | FileId::Image(v)
        | FileId::BlockTable(v)
        | FileId::RegionTable(v)
        | FileId::SideImage(v)
        | FileId::SideBlocks(v)
        | FileId::SideRegions(v)
        | FileId::Orphan(v, _) => Some(v),
    }
}

fn name(file: FileId) -> String {
    match file {
        FileId::Segment(slot) => format!("{SEGMENT}{slot}"),
        FileId::JournalHead => HEAD.into(),
        FileId::Superblock(_) => "superblock".into(),
        FileId::Image(_) => "image.raw".into(),
        FileId::BlockTable(_) => "blocks.tab".into(),
        FileId::RegionTable(_) => "regions.tab".into(),
        FileId::SideImage(_) => "side.raw".into(),
        FileId::SideBlocks(_) => "side-blocks.tab".into(),
        FileId::SideRegions(_) => "side-regions.tab".into(),
        FileId::Orphan(_, epoch) => format!("{ORPHAN}{}", epoch.get()),
    }
}

/// The file of the journal called `name`, unless the name is none of ours.
pub(crate) fn parse_journal_file(name: &str) -> Option<FileId> {
    if name == HEAD {
        return Some(FileId::JournalHead);
    }
    canonical(name.strip_prefix(SEGMENT)?).and_then(|n| u32::try_from(n).ok()).map(FileId::Segment)
}

/// The volume whose directory is called `name`.
pub(crate) fn parse_volume(name: &str) -> Option<VolumeId> {
    canonical(name).map(VolumeId)
}

/// The file of `volume` called `name`.
pub(crate) fn parse_copy_file(volume: VolumeId, name: &str) -> Option<FileId> {
    match name {
        "superblock" => Some(FileId::Superblock(volume)),
        "image.raw" => Some(FileId::Image(volume)),
        "blocks.tab" => Some(FileId::BlockTable(volume)),
        "regions.tab" => Some(FileId::RegionTable(volume)),
        "side.raw" => Some(FileId::SideImage(volume)),
        "side-blocks.tab" => Some(FileId::SideBlocks(volume)),
        "side-regions.tab" => Some(FileId::SideRegions(volume)),
        other => canonical(other.strip_prefix(ORPHAN)?).map(|e| FileId::Orphan(volume, Epoch(e))),
    }
}

/// A number as we write it: `007` and `+7` would name a second file of the same id.
fn canonical(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back() {
        let v = VolumeId(7);
        for file in [
            FileId::Superblock(v),
            FileId::Image(v),
            FileId::BlockTable(v),
            FileId::RegionTable(v),
            FileId::SideImage(v),
            FileId::SideBlocks(v),
            FileId::SideRegions(v),
            FileId::Orphan(v, Epoch(12)),
        ] {
            assert_eq!(parse_copy_file(v, &name(file)), Some(file));
            assert_eq!(path(Path::new(""), file), Path::new(&file.to_string()), "what people are told");
        }
        for file in [FileId::Segment(3), FileId::JournalHead] {
            assert_eq!(parse_journal_file(&name(file)), Some(file));
            assert_eq!(path(Path::new(""), file), Path::new(&file.to_string()), "what people are told");
        }
        assert_eq!(parse_volume("7"), Some(v));
    }

    #[test]
    fn foreign_names_are_not_ours() {
        for name in ["segment-", "segment-07", "segment-+7", "segment-1.new", "Segment-1", "segment-4294967296"] {
            assert_eq!(parse_journal_file(name), None, "{name}");
        }
        assert_eq!(parse_copy_file(VolumeId(1), "orphan-x"), None);
        assert_eq!(parse_volume("lost+found"), None);
    }
}
