//! `export`: a volume's data out of a dead node's disk.
//!
//! The store recovers the copy over an overlay, takes the records of the journal's tail for committed if they are wanted, and
//! reads block by block, verified. The target gets its name when it is whole: until then it is called `FILE.partial`.

use super::control::Known;
use super::engine::{Depth, Engine, Piece};
use super::qcow2::Qcow2;
use super::ranges::Ranges;
use super::tables::AtCheckpoint;
use super::{OfflineError, Place, Progress, headers};
use bytes::Bytes;
use holdfast_disk::Overlay;
use holdfast_types::{BLOCK_SIZE, BlockRange, Lsn, OpenedCopy, VolumeId};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Up to which record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upto {
    /// What this copy knows to be committed.
    Committed,
    /// Everything that is durable here.
    Durable,
}

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name or id; `None` if there is only one copy.
    pub volume: Option<String>,
    /// The target.
    pub to: PathBuf,
    /// qcow2 instead of raw.
    pub qcow2: bool,
    /// Up to which record.
    pub upto: Upto,
    /// Zeros for what can't be verified, instead of refusing.
    pub skip_bad: bool,
    /// Without the journal: what the last checkpoint's tables vouch for. `upto` says nothing then.
    pub at_checkpoint: bool,
}

/// What was written.
#[derive(Clone, Debug, Serialize)]
pub struct Exported {
    /// Name, or id where no name is known.
    pub volume: String,
    /// The target.
    pub file: PathBuf,
    /// Bytes that the guest saw.
    pub size: u64,
    /// The last record in it.
    pub upto: u64,
    /// Of this epoch.
    pub last_epoch: u64,
    /// Records up to here are known to be committed; those after it may not have been acknowledged.
    pub committed: u64,
    /// The last record on this disk.
    pub durable: u64,
    /// Records after `durable`, up to here at most, are lost.
    pub unknown_to: Option<u64>,
    /// Why the journal's end could not be read whole: records after `durable` may be missing, and nobody knows how many.
    pub gap: Option<String>,
    /// Blocks with data.
    pub data_blocks: u64,
    /// Blocks that are zeros, because they could not be verified.
    pub bad: Ranges,
    /// The journal was not looked at: what is above `upto` is not here, whatever it holds.
    pub at_checkpoint: bool,
}

/// Where blocks go, in ascending order.
pub(super) trait Sink {
    fn put(&mut self, offset: u64, data: &[u8]) -> io::Result<()>;
    fn finish(&mut self) -> io::Result<()>;
}

/// Writes one volume.
///
/// # Errors
/// Why nothing was written: the target is not left behind.
pub fn export(place: &Place, options: &Options, progress: Progress<'_>) -> Result<Exported, OfflineError> {
    let known = place.paths.as_ref().map(Known::look).unwrap_or_default();
    let disk = Overlay::open(&place.shard)?;
    let here = disk.volumes().filter(|v| place.only.is_none_or(|only| only == *v)).collect();
    let volume = choose(&here, &known, options.volume.as_deref())?;
    let name = known.name(volume).unwrap_or_else(|| volume.to_string());
    let mut target = Target::new(place, &options.to)?;
    if options.at_checkpoint {
        return export_checkpoint(disk, volume, name, options, &mut target, progress);
    }
    let mut engine = Engine::start(disk, place.shard.clone(), options.skip_bad)?;
    let Some(copy) = engine.opened.get(&volume).cloned() else {
        let may_help = engine.broken.is_some() && !options.skip_bad;
        let way = if may_help { AROUND_GAPS } else { WITHOUT_JOURNAL };
        return Err(OfflineError::Unusable { volume: name, reason: engine.reason(volume), way });
    };
    if let Some(unknown_to) = lost(&copy).filter(|_| !options.skip_bad) {
        return Err(OfflineError::LostRecords { volume: name, last: copy.last.0, unknown_to: unknown_to.0 });
    }
    if options.upto == Upto::Durable {
        engine.commit(volume, copy.last)?;
    }
    let mut exported = described(name, &copy, options);
    let gap = engine.findings().gap.as_ref();
    exported.gap =
        gap.map(|(slot, error)| format!("not all of segment {slot}, the journal's newest, can be read: {error}"));
    write(&mut target, options, &mut exported, progress, |each| engine.walk(volume, Depth::Content, each))?;
    Ok(exported)
}

/// What to try where a copy does not open.
const WITHOUT_JOURNAL: &str =
    "; `holdfast export --at-checkpoint` brings out what was in the image at its last checkpoint, without the journal";

const AROUND_GAPS: &str = "; `holdfast export --skip-bad` reads around sectors of the journal that can't be read, `--at-checkpoint` brings out what was in the \
     image at its last checkpoint, without the journal";

/// The state of the last checkpoint, by superblock, tables and image alone.
fn export_checkpoint(
    mut disk: Overlay,
    volume: VolumeId,
    name: String,
    options: &Options,
    target: &mut Target,
    progress: Progress<'_>,
) -> Result<Exported, OfflineError> {
    let seen = headers::superblock(&mut disk, volume);
    let Some(sb) = seen.superblock else {
        let nothing = || "no copy of its superblock can be read, and nothing else vouches for its tables".to_owned();
        let reason = seen.problems.into_iter().next().unwrap_or_else(nothing);
        return Err(OfflineError::Unusable { volume: name, reason, way: "" });
    };
    let mut exported = Exported {
        volume: name,
        file: options.to.clone(),
        size: sb.size.bytes(),
        upto: sb.checkpoint.0,
        last_epoch: sb.checkpoint_epoch.0,
        committed: sb.committed.max(sb.checkpoint).0,
        durable: sb.checkpoint.0,
        unknown_to: None,
        gap: None,
        data_blocks: 0,
        bad: Ranges::default(),
        at_checkpoint: true,
    };
    let mut copy = AtCheckpoint { disk: &mut disk, sb: &sb };
    write(target, options, &mut exported, progress, |each| copy.blocks(each))?;
    Ok(exported)
}

/// Writes the pieces that `walk` gives, and names the file when it is whole.
fn write(
    target: &mut Target,
    options: &Options,
    exported: &mut Exported,
    progress: Progress<'_>,
    walk: impl FnOnce(&mut dyn FnMut(Piece) -> Result<(), OfflineError>) -> Result<(), OfflineError>,
) -> Result<(), OfflineError> {
    let (size, file) = (exported.size, target.create()?);
    let mut sink: Box<dyn Sink> =
        if options.qcow2 { Box::new(Qcow2::new(file, size)) } else { Box::new(Raw { file, size }) };
    let mut job = Job { sink: &mut *sink, exported, skip_bad: options.skip_bad, target: &target.partial };
    let blocks = size.div_ceil(BLOCK_SIZE as u64);
    walk(&mut |piece| {
        let done = job.take(piece)?;
        progress(done, blocks);
        Ok(())
    })?;
    sink.finish().map_err(OfflineError::io("write", &target.partial))?;
    target.keep()
}

/// Records up to here, above the last one, were here once.
fn lost(copy: &OpenedCopy) -> Option<Lsn> {
    copy.unknown_to.max((copy.commit_hint > copy.last).then_some(copy.commit_hint))
}

fn described(volume: String, copy: &OpenedCopy, options: &Options) -> Exported {
    let upto = if options.upto == Upto::Durable { copy.last } else { copy.committed };
    Exported {
        volume,
        file: options.to.clone(),
        size: copy.size().bytes(),
        upto: upto.0,
        last_epoch: copy.table.epoch_at(upto).map_or(0, |epoch| epoch.0),
        committed: copy.committed.0,
        durable: copy.last.0,
        unknown_to: lost(copy).map(|lsn| lsn.0),
        gap: None,
        data_blocks: 0,
        bad: Ranges::default(),
        at_checkpoint: false,
    }
}

/// By name, or by id with or without its `v`; without either, the only one.
fn choose(here: &BTreeSet<VolumeId>, known: &Known, wanted: Option<&str>) -> Result<VolumeId, OfflineError> {
    let found = match wanted {
        None => here.iter().next().copied().filter(|_| here.len() == 1),
        Some(wanted) => {
            let number = wanted.strip_prefix('v').unwrap_or(wanted).parse().ok().map(VolumeId);
            let named = here.iter().copied().find(|v| known.name(*v).as_deref() == Some(wanted));
            named.or(number.filter(|v| here.contains(v)))
        }
    };
    found.ok_or_else(|| {
        let called = |v: &VolumeId| known.name(*v).map_or_else(|| v.to_string(), |name| format!("{name} ({v})"));
        let all: Vec<String> = here.iter().map(called).collect();
        let known = if all.is_empty() { "none".to_owned() } else { all.join(", ") };
        let wanted = wanted.map_or_else(|| "none named".to_owned(), |wanted| format!("{wanted:?}"));
        OfflineError::UnknownVolume { wanted, known }
    })
}

struct Job<'a> {
    sink: &'a mut dyn Sink,
    exported: &'a mut Exported,
    skip_bad: bool,
    target: &'a Path,
}

impl Job<'_> {
    /// Gives how many blocks of the volume are done.
    fn take(&mut self, piece: Piece) -> Result<u64, OfflineError> {
        match piece {
            Piece::Hole(run) => Ok(run.end().0),
            Piece::Data(run, pieces) => {
                self.exported.data_blocks += run.count.0;
                self.put(run, &pieces).map_err(OfflineError::io("write", self.target))?;
                Ok(run.end().0)
            }
            // Who reads the volume gets zeros there.
            Piece::NotZero(block) => Ok(block + 1),
            Piece::Bad(block) if self.skip_bad => {
                self.exported.bad.add(block);
                Ok(block + 1)
            }
            Piece::Bad(block) => {
                let found = format!("that block {block} does not (`holdfast fsck` lists all that do not)");
                Err(OfflineError::Unverified { volume: self.exported.volume.clone(), found })
            }
        }
    }

    fn put(&mut self, run: BlockRange, pieces: &[Bytes]) -> io::Result<()> {
        let mut at = run.start.offset().0;
        for block in pieces.iter().flat_map(|piece| piece.chunks(BLOCK_SIZE)) {
            let left = self.exported.size.saturating_sub(at);
            let len = usize::try_from(left).map_or(block.len(), |left| left.min(block.len()));
            if block.iter().any(|byte| *byte != 0) {
                self.sink.put(at, &block[..len])?;
            }
            at += u64::try_from(block.len()).expect("4096");
        }
        Ok(())
    }
}

/// A plain file with holes where there are zeros.
struct Raw {
    file: File,
    size: u64,
}

impl Sink for Raw {
    fn put(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.file.set_len(self.size)?;
        self.file.sync_all()
    }
}

/// The target's two names. What is not kept is removed.
struct Target {
    name: PathBuf,
    partial: PathBuf,
    parent: PathBuf,
    made: bool,
}

impl Target {
    fn new(place: &Place, name: &Path) -> Result<Target, OfflineError> {
        if name.symlink_metadata().is_ok() {
            return Err(OfflineError::Exists { path: name.to_path_buf() });
        }
        let parent = name.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let parent = parent.canonicalize().map_err(OfflineError::io("use the directory", parent))?;
        let inside = place.shard.canonicalize().is_ok_and(|shard| parent.starts_with(shard));
        if inside || place.paths.as_ref().is_some_and(|paths| parent.starts_with(paths.root())) {
            return Err(OfflineError::Inside { path: name.to_path_buf() });
        }
        let mut partial = name.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        // Of an export that was killed, or of somebody else.
        if partial.symlink_metadata().is_ok() {
            return Err(OfflineError::Exists { path: partial });
        }
        Ok(Target { name: name.to_path_buf(), partial, parent, made: false })
    }

    fn create(&mut self) -> Result<File, OfflineError> {
        let file = File::options().create_new(true).write(true).mode(0o600).open(&self.partial);
        let file = file.map_err(OfflineError::io("create", &self.partial))?;
        self.made = true;
        Ok(file)
    }

    fn keep(&mut self) -> Result<(), OfflineError> {
        fs::rename(&self.partial, &self.name).map_err(OfflineError::io("name", &self.name))?;
        self.made = false;
        // Its content is on stable storage; now its name.
        let synced = File::open(&self.parent).and_then(|dir| dir.sync_all());
        synced.map_err(OfflineError::io("sync", &self.parent))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if self.made {
            let _ = fs::remove_file(&self.partial);
        }
    }
}
