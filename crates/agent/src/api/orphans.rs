//! Orphans: which copies keep any, as their nodes report, and what the ones of this node hold, read from their files.
//!
//! A file is written whole before the cut that it belongs to, and never changed: it is read past the shard, which serves guests
//! meanwhile, and nothing here can hold that up.

use super::{node_named, volume_named};
use crate::admin::pb;
use crate::control::View;
use crate::paths::Paths;
use crate::upkeep::Wishes;
use bytes::Bytes;
use holdfast_format::{Record, RecordHeader, RecordKind};
use holdfast_node::{Task, Upkeep};
use holdfast_types::{BLOCK_SIZE, BlockIndex, Epoch, NodeId, VolumeId};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::PathBuf;
use std::time::UNIX_EPOCH;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Ranges that are named.
const MAX_RANGES: usize = 4096;
/// Pieces under way to a reader; each has about 1 MiB at most.
const PIECES: usize = 4;

/// One orphan, and its file if it is here.
pub(super) struct Row {
    orphan: pb::Orphan,
    file: Option<PathBuf>,
}

/// Those that match, by volume, node and epoch.
pub(super) fn list(view: &View<'_>, r: &pb::OrphanListRequest) -> Result<Vec<Row>, Status> {
    let only = if r.volume.is_empty() { None } else { Some(volume_named(view, &r.volume)?) };
    let at = if r.node.is_empty() { None } else { Some(node_named(view, &r.node)?) };
    let mut rows = rows(view);
    rows.retain(|(volume, node, _)| only.is_none_or(|v| v == *volume) && at.is_none_or(|n| n == *node));
    Ok(rows.into_iter().map(|(_, _, row)| row).collect())
}

fn rows(view: &View<'_>) -> Vec<(VolumeId, NodeId, Row)> {
    let Some(state) = view.control.state() else { return Vec::new() };
    let mut rows = Vec::new();
    for (volume, known) in &state.volumes {
        for node in known.holders() {
            let report = view.control.detector().report(node, *volume);
            for (epoch, bytes) in report.map(|r| r.orphans.clone()).unwrap_or_default() {
                let (name, holder) = (known.name.clone(), view.name(node));
                let id = format!("{name}/{holder}/{epoch}");
                let shard = Paths::new(view.data_dir).shard();
                let file = shard.join("copies").join(volume.0.to_string()).join(format!("orphan-{epoch}"));
                let file = (node == view.me).then_some(file);
                let orphan = pb::Orphan { id, volume: name, node: holder, epoch, bytes, ..pb::Orphan::default() };
                rows.push((*volume, node, Row { orphan, file }));
            }
        }
    }
    rows
}

fn named(view: &View<'_>, id: &str) -> Result<(VolumeId, NodeId, Row), Status> {
    let unknown = || {
        Status::not_found(format!(
            "expected the name of an orphan as VOLUME/NODE/EPOCH, found {id:?}, which there is not; see `holdfast orphan list`"
        ))
    };
    rows(view).into_iter().find(|(_, _, row)| row.orphan.id == id).ok_or_else(unknown)
}

/// One whose records can be read here.
pub(super) fn here(view: &View<'_>, id: &str) -> Result<Row, Status> {
    let (_, _, row) = named(view, id)?;
    if row.file.is_none() {
        return Err(Status::failed_precondition(format!(
            "the records of {id} lie on {0}; ask the agent of {0}, this one is {1}",
            row.orphan.node,
            view.name(view.me)
        )));
    }
    Ok(row)
}

pub(super) fn deletion(view: &View<'_>, id: &str) -> Result<Wishes, Status> {
    let (volume, node, row) = named(view, id)?;
    if !view.alive(node) {
        return Err(Status::unavailable(format!("{} does not answer: ask again when it does", row.orphan.node)));
    }
    let task = Task::DeleteOrphan { epoch: Epoch(row.orphan.epoch) };
    Ok(vec![(node, Upkeep { volume, run: crate::random::id().max(1), task })])
}

/// Reading a file may take its time, and nobody else is to wait.
pub(super) async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Status::internal(e.to_string()))?
}

impl Row {
    /// With what its file says, if that is here.
    pub(super) fn described(mut self) -> pb::Orphan {
        self.look(|_| {});
        self.orphan
    }

    /// With the ranges that its records change.
    pub(super) fn shown(mut self) -> Result<pb::OrphanShowResponse, Status> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        self.look(|record| {
            let range = record.header().range;
            if range.count.0 > 0 {
                ranges.push((range.start.offset().0, range.end().offset().0));
            }
        });
        let (ranges, more) = merged(ranges);
        let ranges = ranges.into_iter().map(|(from, to)| pb::ByteRange { offset: from, length: to - from });
        Ok(pb::OrphanShowResponse { orphan: Some(self.orphan), ranges: ranges.collect(), more })
    }

    /// Reads the records one after another.
    fn look(&mut self, mut each: impl FnMut(&Record)) {
        let Some(path) = &self.file else { return };
        let written = std::fs::metadata(path).and_then(|m| m.modified()).ok();
        let since = written.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        self.orphan.cut_unix_ms = since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        let Ok(file) = File::open(path) else { return };
        let mut input = BufReader::new(file);
        let (mut records, mut read) = (0, 0);
        while let Some(record) = next(&mut input) {
            let header = *record.header();
            if records == 0 {
                (self.orphan.first_lsn, self.orphan.first_epoch) = (header.lsn.0, header.epoch.0);
            }
            (self.orphan.last_lsn, self.orphan.last_epoch) = (header.lsn.0, header.epoch.0);
            records += 1;
            read += u64::try_from(record.len_bytes()).unwrap_or(u64::MAX);
            each(&record);
        }
        self.orphan.records = Some(records);
        self.orphan.whole = read == self.orphan.bytes;
    }

    /// The records as pieces; a reader that is slow holds up nobody but itself.
    pub(super) fn pieces(self) -> impl Stream<Item = Result<pb::OrphanPiece, Status>> + Send + use<> {
        let (to, pieces) = mpsc::channel(PIECES);
        tokio::task::spawn_blocking(move || {
            let (id, expected) = (self.orphan.id.clone(), self.orphan.bytes);
            let mut read = 0;
            let sent = self.file.and_then(|path| File::open(path).ok()).is_none_or(|file| {
                let mut input = BufReader::new(file);
                std::iter::from_fn(|| next(&mut input)).all(|record| {
                    read += u64::try_from(record.len_bytes()).unwrap_or(u64::MAX);
                    pieces_of(&record).into_iter().all(|piece| to.blocking_send(Ok(piece)).is_ok())
                })
            });
            if sent && read != expected {
                let text =
                    format!("{read} of {expected} bytes of {id} could be read and verified; what follows is damaged");
                // Whoever asked may have gone.
                let _ = to.blocking_send(Err(Status::data_loss(text)));
            }
        });
        ReceiverStream::new(pieces)
    }
}

/// The next record, verified; none at the end, or at the first one that can't be read.
fn next(input: &mut impl Read) -> Option<Record> {
    let mut head = [0; RecordHeader::LEN];
    input.read_exact(&mut head).ok()?;
    let header = RecordHeader::decode(&head)?;
    let mut body = vec![0; usize::try_from(header.body_len).ok()?];
    input.read_exact(&mut body).ok()?;
    Record::verify(header, Bytes::from(body))
}

/// What a record does: zeros first, and then the blocks that it has.
fn pieces_of(record: &Record) -> Vec<pb::OrphanPiece> {
    let header = record.header();
    let kind = match header.kind {
        RecordKind::Write => "write",
        RecordKind::WriteZeroes => "zeroes",
        RecordKind::Discard => "discard",
        RecordKind::EpochStart => "epoch start",
        RecordKind::Resize => "resize",
    };
    let block = u64::try_from(BLOCK_SIZE).expect("4096");
    let (offset, length) = (header.range.start.offset().0, header.range.count.0 * block);
    let whole = pb::OrphanPiece {
        lsn: header.lsn.0,
        epoch: header.epoch.0,
        kind: kind.to_owned(),
        offset,
        length,
        data: Vec::new(),
    };
    match header.kind {
        RecordKind::Write => vec![pb::OrphanPiece { data: record.body().to_vec(), ..whole }],
        RecordKind::EpochStart | RecordKind::Resize => vec![whole],
        RecordKind::WriteZeroes | RecordKind::Discard => {
            let last = BlockIndex(header.range.end().0 - 1);
            let edges = [(header.head, header.range.start), (header.tail, last)];
            let edge = |at: BlockIndex| {
                let data = record.block(at).map(|(data, _)| data.to_vec()).unwrap_or_default();
                pb::OrphanPiece { offset: at.offset().0, length: block, data, ..whole.clone() }
            };
            let edges: Vec<_> = edges.iter().filter(|(has, _)| *has).map(|(_, at)| edge(*at)).collect();
            std::iter::once(whole.clone()).chain(edges).collect()
        }
    }
}

/// Sorted and joined; the second value: there are more than are told.
fn merged(mut ranges: Vec<(u64, u64)>) -> (Vec<(u64, u64)>, bool) {
    ranges.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (from, to) in ranges {
        match joined.last_mut() {
            Some((_, end)) if from <= *end => *end = to.max(*end),
            _ => joined.push((from, to)),
        }
    }
    let more = joined.len() > MAX_RANGES;
    joined.truncate(MAX_RANGES);
    (joined, more)
}
