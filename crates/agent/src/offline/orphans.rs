//! Tails that were cut when an epoch was adopted, and kept: records one after another, each verified.

use super::report::OrphanReport;
use holdfast_disk::Overlay;
use holdfast_format::{Record, RecordHeader};
use holdfast_store::io::FileId;
use holdfast_types::VolumeId;

/// The orphans of a copy, oldest first.
pub(super) fn look(disk: &mut Overlay, volume: VolumeId) -> Vec<OrphanReport> {
    let files: Vec<_> = disk.files().filter(|(file, _)| matches!(file, FileId::Orphan(v, _) if *v == volume)).collect();
    files.into_iter().map(|(file, bytes)| read(disk, file, bytes)).collect()
}

fn read(disk: &mut Overlay, file: FileId, bytes: u64) -> OrphanReport {
    let FileId::Orphan(_, epoch) = file else { unreachable!("orphans alone are read") };
    let mut report = OrphanReport {
        epoch: epoch.0,
        file: disk.path(file).display().to_string(),
        records: None,
        bytes,
        whole: false,
    };
    let mut at = 0;
    while at < bytes {
        let Some(record) = record_at(disk, file, at, bytes) else { return report };
        let first = report.records.map_or(record.lsn().0, |(first, _)| first);
        report.records = Some((first, record.lsn().0));
        at += u64::try_from(record.len_bytes()).expect("a record is about 1 MiB");
    }
    report.whole = true;
    report
}

fn record_at(disk: &mut Overlay, file: FileId, at: u64, end: u64) -> Option<Record> {
    let head = disk.read(file, at, RecordHeader::LEN).ok()?;
    let header = RecordHeader::decode(&head)?;
    let body_at = at + u64::try_from(RecordHeader::LEN).expect("128");
    if body_at + u64::from(header.body_len) > end {
        return None;
    }
    let body = disk.read(file, body_at, usize::try_from(header.body_len).ok()?).ok()?;
    Record::verify(header, body)
}
