//! A shard's directory, written by the real store through plain files, and what each record made of the image.

use bytes::Bytes;
use holdfast_disk::Overlay;
use holdfast_format::{Draft, Record, RecordKind};
use holdfast_store::io::{DiskDone, DiskOp, DiskOpKind, DiskReply};
use holdfast_store::{Input, Output, Store, StoreConfig};
use holdfast_types::{BLOCK_SIZE, BlockRange, Epoch, EpochTable, Incarnation, Lsn, Rng, Time, VolumeId, VolumeSize};
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// The volume's id.
pub(super) const V: u64 = 7;
const BLOCKS: u64 = 48;
/// The guest's end lies within the last block.
const SIZE: u64 = BLOCKS * 4096 - 512;

pub(super) struct World {
    dir: TempDir,
    store: Store,
    now: Time,
    out: Vec<Output>,
    rng: Rng,
    log: Vec<Record>,
    /// After each record.
    images: Vec<Vec<u8>>,
    pub(super) committed: u64,
    epoch: Epoch,
    checkpoints: u32,
    cut: (u64, u64),
}

fn small() -> StoreConfig {
    StoreConfig {
        segment_bytes: 96 << 10,
        min_segments: 3,
        max_segments: 6,
        frame_bytes: 40 << 10,
        max_body_bytes: 8 * BLOCK_SIZE,
        checkpoint_bytes: 150 << 10,
        ..StoreConfig::default()
    }
}

impl World {
    /// About a hundred records with some checkpoints between them; the last ones are not committed. The process is gone.
    pub(super) fn make(seed: u64) -> World {
        let dir = tempfile::Builder::new().prefix("hf-").tempdir().expect("the temporary directory is writable");
        fs::create_dir(dir.path().join("shard")).expect("a new directory");
        fs::create_dir(dir.path().join("out")).expect("a new directory");
        let mut world = World {
            dir,
            store: Store::new(small(), seed + 1),
            now: Time(1),
            out: Vec::new(),
            rng: Rng::new(seed),
            log: Vec::new(),
            images: vec![vec![0; usize::try_from(SIZE).expect("small")]],
            committed: 0,
            epoch: Epoch(1),
            checkpoints: 0,
            cut: (0, 0),
        };
        world.feed(Input::Start);
        let size = VolumeSize::new(SIZE).expect("whole sectors");
        world.feed(Input::Create { volume: VolumeId(V), incarnation: Incarnation(9), size });
        let table = EpochTable::new(vec![(Epoch(1), Lsn(1))]).expect("a table");
        world.feed(Input::Adopt { volume: VolumeId(V), epoch: Epoch(1), table, cut_after: Lsn(0) });
        while world.checkpoints < 3 {
            world.append();
            world.commit(world.last() - 1);
        }
        (0..7).for_each(|_| world.append());
        world.commit(world.last() - 4);
        // The mark that says so goes into the journal, and the last frame is proven.
        world.sleep(Duration::from_millis(50));
        world.sleep(Duration::from_millis(50));
        assert!(world.last() > 20, "a history worth looking at");
        world
    }

    /// A new reign cuts what is not committed.
    pub(super) fn adopt_and_cut(mut self) -> World {
        self.cut = (self.committed + 1, self.last());
        let table = EpochTable::new(vec![(Epoch(1), Lsn(1)), (Epoch(2), Lsn(self.committed + 1))]).expect("a table");
        let cut_after = Lsn(self.committed);
        self.feed(Input::Adopt { volume: VolumeId(V), epoch: Epoch(2), table, cut_after });
        self.log.truncate(usize::try_from(self.committed).expect("small"));
        self.images.truncate(self.log.len() + 1);
        self
    }

    pub(super) fn cut(&self) -> (u64, u64) {
        self.cut
    }

    pub(super) fn dir(&self) -> PathBuf {
        self.dir.path().join("shard")
    }

    pub(super) fn scratch(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    pub(super) fn last(&self) -> u64 {
        u64::try_from(self.log.len()).expect("small")
    }

    /// What the guest saw after a record.
    pub(super) fn image(&self, lsn: u64) -> Vec<u8> {
        self.images[usize::try_from(lsn).expect("small")].clone()
    }

    /// A block that holds data on the medium, written before the last checkpoint and never again.
    pub(super) fn data_block(&self) -> u64 {
        self.old_block(true)
    }

    /// A block that is zeros, and no record of the last ones speaks of it.
    pub(super) fn zero_block(&self) -> u64 {
        self.old_block(false)
    }

    fn old_block(&self, holds: bool) -> u64 {
        let recent = |block: u64| self.log.iter().rev().take(40).any(|r| r.header().range.iter().any(|b| b.0 == block));
        let image = self.images.last().expect("never empty");
        let at = |block: u64| usize::try_from(block * 4096).expect("small");
        let data = |block: u64| image[at(block)..(at(block) + 4096).min(image.len())].iter().any(|b| *b != 0);
        (0..BLOCKS - 1).find(|b| data(*b) == holds && !recent(*b)).expect("some block is old")
    }

    /// Every file with its bytes.
    pub(super) fn bytes(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        files(&self.dir())
            .into_iter()
            .map(|path| (path.strip_prefix(self.dir()).expect("below").to_owned(), fs::read(&path).expect("readable")))
            .collect()
    }

    /// Flips bits of one byte. `file` is below the directory, or a whole path.
    pub(super) fn flip(&self, file: impl AsRef<Path>, at: u64) {
        let file = File::options().read(true).write(true).open(self.dir().join(file)).expect("it exists");
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("within the file");
        file.write_all_at(&[byte[0] ^ 0x24], at).expect("writable");
    }

    fn append(&mut self) {
        let lsn = self.last() + 1;
        let start = self.rng.below(BLOCKS - 1);
        let count = 1 + self.rng.below((BLOCKS - start).min(6));
        let write = self.rng.chance(800_000);
        let fill = u8::try_from(1 + self.rng.below(255)).expect("a byte");
        let range = BlockRange::new(start, count);
        let body = if write { vec![fill; usize::try_from(range.count.bytes()).expect("small")] } else { Vec::new() };
        let mut image = self.images.last().expect("never empty").clone();
        let (from, to) = (start * 4096, ((start + count) * 4096).min(SIZE));
        image[usize::try_from(from).expect("small")..usize::try_from(to).expect("small")].fill(if write {
            fill
        } else {
            0
        });
        let record = Record::seal(Draft {
            volume: VolumeId(V),
            epoch: self.epoch,
            lsn: Lsn(lsn),
            prev_hash: self.log.last().map_or(0, Record::hash),
            committed: Lsn(self.committed),
            kind: if write { RecordKind::Write } else { RecordKind::Discard },
            head: false,
            tail: false,
            range,
            body: Bytes::from(body),
        });
        self.log.push(record.clone());
        self.images.push(image);
        self.feed(Input::Append { volume: VolumeId(V), records: vec![record] });
    }

    fn commit(&mut self, upto: u64) {
        self.committed = upto;
        self.feed(Input::Commit { volume: VolumeId(V), upto: Lsn(upto) });
        self.feed(Input::Trim { volume: VolumeId(V), upto: Lsn(upto) });
    }

    fn sleep(&mut self, time: Duration) {
        self.now = self.now + time;
        self.feed(Input::Tick);
    }

    fn feed(&mut self, input: Input) {
        let mut ops = VecDeque::new();
        self.store.handle(input, self.now, &mut self.out);
        loop {
            for output in std::mem::take(&mut self.out) {
                match output {
                    Output::Disk(op) => ops.push_back(op),
                    Output::Checkpointed { .. } => self.checkpoints += 1,
                    Output::Failed { reason, .. } => panic!("{reason}"),
                    _ => {}
                }
            }
            let Some(op) = ops.pop_front() else { return };
            let reply = self.execute(&op);
            self.store.handle(Input::Done(DiskDone { id: op.id, result: Ok(reply) }), self.now, &mut self.out);
        }
    }

    /// Plain files, at the paths that the disk gives them.
    fn execute(&self, op: &DiskOp) -> DiskReply {
        let overlay = Overlay::open(&self.dir()).expect("a directory");
        let path = overlay.path(op.file);
        let open = || File::options().read(true).write(true).open(&path).expect("the store uses files that exist");
        match &op.kind {
            DiskOpKind::List => return DiskReply::Files(overlay.files().collect()),
            DiskOpKind::Create { len, .. } => {
                fs::create_dir_all(path.parent().expect("a file lies in a directory")).expect("writable");
                File::create(&path).and_then(|file| file.set_len(*len)).expect("writable");
            }
            DiskOpKind::Read { offset, len } => {
                let whole = fs::read(&path).expect("readable");
                let (from, len) = (usize::try_from(*offset).expect("small"), usize::try_from(*len).expect("small"));
                let mut part = whole.get(from..).unwrap_or(&[]).to_vec();
                part.resize(len, 0);
                return DiskReply::Data(part.into());
            }
            DiskOpKind::Write { offset, data, .. } => open().write_all_at(&data.concat(), *offset).expect("writable"),
            DiskOpKind::Punch { offset, len } | DiskOpKind::Zero { offset, len } => {
                let zeros = vec![0; usize::try_from(*len).expect("small")];
                open().write_all_at(&zeros, *offset).expect("writable");
            }
            DiskOpKind::SetLen { len } => open().set_len(*len).expect("writable"),
            DiskOpKind::Sync => {}
            DiskOpKind::Delete => fs::remove_file(&path).expect("it exists"),
        }
        DiskReply::Done
    }
}

/// All files below a directory, sorted.
pub(super) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort_unstable();
    found
}
