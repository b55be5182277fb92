//! The real store over an overlay: one operation after the other, until nothing is left to do.
//!
//! Time stands still. So no timer of the store comes: it neither seals its journal nor writes checkpoints because of the hour,
//! and what it does is a function of the bytes alone.

use super::OfflineError;
use bytes::Bytes;
use holdfast_disk::Overlay;
use holdfast_store::io::{DiskOp, FileId};
use holdfast_store::{Findings, Input, Output, Store, StoreConfig};
use holdfast_types::{BlockIndex, BlockRange, ByteOffset, Lsn, OpenedCopy, ReadFault, Time, VolumeId};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;

/// Blocks that are read at once.
pub(super) const READ_BLOCKS: u64 = 256;

/// A store that has started.
pub(super) struct Engine {
    store: Store,
    disk: Overlay,
    out: Vec<Output>,
    ops: VecDeque<DiskOp>,
    answer: Option<Result<Vec<Bytes>, ReadFault>>,
    runs: Vec<(BlockRange, bool)>,
    started: bool,
    /// Copies that opened.
    pub(super) opened: BTreeMap<VolumeId, OpenedCopy>,
    /// Copies that did not, or not for long, and why.
    pub(super) failed: BTreeMap<VolumeId, String>,
    /// The journal can't be used, and no copy.
    pub(super) broken: Option<String>,
}

/// A part of a volume, in order.
pub(super) enum Piece {
    /// Nothing was ever written there, or it was discarded.
    Hole(BlockRange),
    /// Verified content.
    Data(BlockRange, Vec<Bytes>),
    /// A block that does not match its checksum.
    Bad(u64),
    /// A block that is to be zeros, reads as zeros, and is something else in the image.
    NotZero(u64),
}

/// How much of a copy is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// What a guest could get.
    Content,
    /// What is to be zeros as well, as a scrub does.
    Zeros,
}

impl Engine {
    /// Runs the recovery. `reads_around_gaps`: also where the journal's end can't be read, which no agent would do.
    pub(super) fn start(disk: Overlay, dir: PathBuf, reads_around_gaps: bool) -> Result<Engine, OfflineError> {
        // Records in the images need not stay in memory, and no bound on the journal keeps the new life from its segment. What a resync
        // has not moved to the image yet is read where it is: a move would copy it to the overlay.
        let config = StoreConfig {
            cache_bytes: 0,
            max_segments: 100,
            moves_regions: false,
            reads_around_gaps,
            ..StoreConfig::default()
        };
        let mut engine = Engine {
            store: Store::new(config, 1),
            disk,
            out: Vec::new(),
            ops: VecDeque::new(),
            answer: None,
            runs: Vec::new(),
            started: false,
            opened: BTreeMap::new(),
            failed: BTreeMap::new(),
            broken: None,
        };
        engine.feed(Input::Start)?;
        if engine.started || engine.broken.is_some() { Ok(engine) } else { Err(OfflineError::Stuck { dir }) }
    }

    pub(super) fn findings(&self) -> &Findings {
        self.store.findings()
    }

    fn feed(&mut self, input: Input) -> Result<(), OfflineError> {
        self.store.handle(input, Time::default(), &mut self.out);
        loop {
            for output in std::mem::take(&mut self.out) {
                self.take(output);
            }
            let Some(op) = self.ops.pop_front() else { return Ok(()) };
            let done = self.disk.execute(&op);
            if let Some(error) = self.disk.spill_error() {
                let source = std::io::Error::new(error.kind(), error.to_string());
                return Err(OfflineError::Spill { dir: std::env::temp_dir(), source });
            }
            self.store.handle(Input::Done(done), Time::default(), &mut self.out);
        }
    }

    fn take(&mut self, output: Output) {
        match output {
            Output::Disk(op) => self.ops.push_back(op),
            Output::Started { .. } => self.started = true,
            Output::Opened { volume, copy } => drop(self.opened.insert(volume, copy)),
            Output::Failed { volume: Some(volume), reason } => {
                self.opened.remove(&volume);
                self.failed.insert(volume, reason);
            }
            Output::Failed { volume: None, reason } => {
                self.opened.clear();
                self.broken = Some(reason);
            }
            Output::ReadDone { result, .. } => self.answer = Some(result),
            Output::Extents { extents, .. } => self.runs = extents,
            // What a running agent needs to know.
            _ => {}
        }
    }

    /// Takes the records up to here for committed, in this life, which nobody else sees.
    pub(super) fn commit(&mut self, volume: VolumeId, upto: Lsn) -> Result<(), OfflineError> {
        self.feed(Input::Commit { volume, upto })
    }

    fn read(
        &mut self,
        volume: VolumeId,
        range: BlockRange,
        depth: Depth,
    ) -> Result<Result<Vec<Bytes>, ReadFault>, OfflineError> {
        self.answer = None;
        self.feed(match depth {
            Depth::Content => Input::Read { volume, tag: 0, range },
            Depth::Zeros => Input::Scrub { volume, tag: 0, range },
        })?;
        Ok(self.answer.take().unwrap_or(Err(ReadFault::CopyFailed)))
    }

    /// Why a copy can't be read.
    pub(super) fn reason(&self, volume: VolumeId) -> String {
        let reason = self.failed.get(&volume).or(self.broken.as_ref());
        reason.cloned().unwrap_or_else(|| "it does not open".to_owned())
    }

    /// Reads a whole copy, verified.
    pub(super) fn walk(
        &mut self,
        volume: VolumeId,
        depth: Depth,
        each: &mut dyn FnMut(Piece) -> Result<(), OfflineError>,
    ) -> Result<(), OfflineError> {
        let blocks = self.opened.get(&volume).map_or(0, |copy| copy.size().blocks().0);
        let mut at = 0;
        while at < blocks {
            self.runs.clear();
            self.feed(Input::Extents { volume, tag: 0, range: BlockRange::new(at, blocks - at) })?;
            let runs = std::mem::take(&mut self.runs);
            if runs.is_empty() {
                return Err(self.unusable(volume));
            }
            for (run, hole) in runs {
                at = run.end().0;
                match (hole, depth) {
                    (true, Depth::Content) => each(Piece::Hole(run))?,
                    (true, Depth::Zeros) => self.walk_hole(volume, run, each)?,
                    (false, _) => self.walk_run(volume, run, depth, each)?,
                }
            }
        }
        Ok(())
    }

    /// A hole is read where its file has space there: the rest can be nothing but zeros.
    fn walk_hole(
        &mut self,
        volume: VolumeId,
        run: BlockRange,
        each: &mut dyn FnMut(Piece) -> Result<(), OfflineError>,
    ) -> Result<(), OfflineError> {
        let mut at = run.start.0;
        while at < run.end().0 {
            let bytes = BlockIndex(at).offset().0..run.end().offset().0;
            let filled = self.disk.filled(FileId::Image(volume), bytes).map_or(run.end()..run.end(), |filled| {
                let covered = BlockRange::covering(ByteOffset(filled.start), filled.end - filled.start);
                covered.start..covered.end().min(run.end())
            });
            if at < filled.start.0 {
                each(Piece::Hole(BlockRange::new(at, filled.start.0 - at)))?;
            }
            let mut from = filled.start.0;
            while from < filled.end.0 {
                let part = BlockRange::new(from, READ_BLOCKS.min(filled.end.0 - from));
                from = part.end().0;
                if self.read(volume, part, Depth::Zeros)?.is_ok() {
                    each(Piece::Hole(part))?;
                } else {
                    self.walk_run(volume, part, Depth::Zeros, &mut |piece| match piece {
                        Piece::Data(zeros, _) => each(Piece::Hole(zeros)),
                        other => each(other),
                    })?;
                }
            }
            at = filled.end.0;
        }
        Ok(())
    }

    fn walk_run(
        &mut self,
        volume: VolumeId,
        run: BlockRange,
        depth: Depth,
        each: &mut dyn FnMut(Piece) -> Result<(), OfflineError>,
    ) -> Result<(), OfflineError> {
        let mut at = run.start.0;
        while at < run.end().0 {
            let range = BlockRange::new(at, READ_BLOCKS.min(run.end().0 - at));
            at = range.end().0;
            match self.read(volume, range, depth)? {
                Ok(pieces) => each(Piece::Data(range, pieces))?,
                Err(ReadFault::CopyFailed) => return Err(self.unusable(volume)),
                // The answer names the first bad one alone.
                Err(ReadFault::Corrupt(_) | ReadFault::NotZero(_)) => {
                    for block in range.iter() {
                        let single = BlockRange::new(block.0, 1);
                        match self.read(volume, single, depth)? {
                            Ok(pieces) => each(Piece::Data(single, pieces))?,
                            Err(ReadFault::CopyFailed) => return Err(self.unusable(volume)),
                            Err(ReadFault::Corrupt(_)) => each(Piece::Bad(block.0))?,
                            Err(ReadFault::NotZero(_)) => each(Piece::NotZero(block.0))?,
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn unusable(&self, volume: VolumeId) -> OfflineError {
        OfflineError::Unusable { volume: volume.to_string(), reason: self.reason(volume), way: "" }
    }
}
