//! The contract of `DiskOp`, checked on both backends with real files.
#![allow(clippy::unwrap_used, reason = "a helper of a test may panic like a test")]

use bytes::Bytes;
use holdfast_disk::{Backend, Disk, DiskConfig, DiskOpenError};
use holdfast_store::io::{DiskDone, DiskError, DiskOp, DiskOpKind, DiskReply, FileId, OpId};
use holdfast_types::{Epoch, Rng, VolumeId};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const V: VolumeId = VolumeId(7);
const PATIENCE: Duration = Duration::from_secs(20);

/// A disk with a runtime to wait on it.
struct Bench {
    disk: Disk,
    runtime: tokio::runtime::Runtime,
    next: u64,
}

impl Bench {
    /// Without a reserve: what the tests run on may be small.
    fn open(dir: &Path, backend: Backend) -> Bench {
        Bench::open_with_reserve(dir, backend, 0)
    }

    fn open_with_reserve(dir: &Path, backend: Backend, reserve: u64) -> Bench {
        // Small slots, so that ordinary writes need several.
        let config = DiskConfig {
            backend,
            staging_slots: 4,
            staging_slot_bytes: 64 << 10,
            depth: 16,
            max_open_files: 6,
            reserve_bytes: reserve,
            ..DiskConfig::new(dir)
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Bench { disk: Disk::open(&config).unwrap(), runtime, next: 0 }
    }

    fn submit(&mut self, file: FileId, kind: DiskOpKind) -> OpId {
        self.next += 1;
        let id = OpId(self.next);
        self.disk.submit([DiskOp { id, file, kind }]);
        id
    }

    /// Waits until something has ended.
    fn done(&mut self) -> Vec<DiskDone> {
        let mut out = Vec::new();
        self.disk.completed(&mut out);
        let disk = &mut self.disk;
        self.runtime.block_on(async {
            while out.is_empty() {
                tokio::time::timeout(PATIENCE, disk.wait()).await.expect("an operation in flight ends");
                disk.completed(&mut out);
            }
        });
        out
    }

    fn run(&mut self, file: FileId, kind: DiskOpKind) -> Result<DiskReply, DiskError> {
        let id = self.submit(file, kind);
        let mut done = self.done();
        assert_eq!(done.len(), 1);
        assert_eq!(done[0].id, id);
        done.remove(0).result
    }

    fn create(&mut self, file: FileId, len: u64, written: bool) {
        assert_eq!(self.run(file, DiskOpKind::Create { len, written }), Ok(DiskReply::Done));
    }

    fn write(&mut self, file: FileId, offset: u64, data: &[u8], durable: bool) {
        assert_eq!(self.run(file, write(offset, data, durable)), Ok(DiskReply::Done));
    }

    fn read(&mut self, file: FileId, offset: u64, len: u32) -> Bytes {
        match self.run(file, DiskOpKind::Read { offset, len }) {
            Ok(DiskReply::Data(data)) => data,
            other => panic!("expected data of {file:?}, found {other:?}"),
        }
    }

    fn list(&mut self) -> Vec<(FileId, u64)> {
        match self.run(FileId::Segment(0), DiskOpKind::List) {
            Ok(DiskReply::Files(files)) => files,
            other => panic!("expected files, found {other:?}"),
        }
    }
}

/// In uneven pieces, as the store sends headers and bodies.
fn write(offset: u64, data: &[u8], durable: bool) -> DiskOpKind {
    let mut pieces = Vec::new();
    let mut rest = data;
    for size in [100, 1, 5000, 0, 20_000].into_iter().cycle().take(1000) {
        let (piece, tail) = rest.split_at(rest.len().min(size));
        pieces.push(Bytes::copy_from_slice(piece));
        rest = tail;
    }
    assert!(rest.is_empty());
    DiskOpKind::Write { offset, data: pieces, durable }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    (0..len).map(|_| rng.next_u64().to_le_bytes()[0]).collect()
}

/// On the disk of the repository and, where there is one, on tmpfs (no or different direct I/O).
fn everywhere(test: impl Fn(&Path, Backend)) {
    for backend in [Backend::IoUring, Backend::Pread] {
        for base in [std::env::temp_dir(), "/dev/shm".into()] {
            if base.is_dir() {
                let dir = tempfile::tempdir_in(&base).unwrap();
                test(dir.path(), backend);
            }
        }
    }
}

/// A file system of its own, of 24 MiB.
struct SmallFileSystem(tempfile::TempDir);

impl SmallFileSystem {
    fn mount() -> SmallFileSystem {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(dir.path());
        let status = mount.status().expect("`mount` is installed");
        assert!(status.success(), "expected to mount a tmpfs, which needs root (CAP_SYS_ADMIN): {status}");
        SmallFileSystem(dir)
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        let status = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(status.is_ok_and(|s| s.success()), "what was mounted can be unmounted");
    }
}

#[test]
fn copies_leave_the_reserve_to_the_control_log() {
    for backend in [Backend::IoUring, Backend::Pread] {
        let fs = SmallFileSystem::mount();
        let dir = fs.0.path();
        let mut bench = Bench::open_with_reserve(dir, backend, 8 << 20);
        bench.create(FileId::Segment(0), 1 << 20, true);
        for file in [FileId::Superblock(V), FileId::Image(V), FileId::BlockTable(V)] {
            bench.create(file, 1 << 16, matches!(file, FileId::Superblock(_)));
        }
        let piece = noise(1, 256 << 10);
        let image = |n: u64| write(n << 18, &piece, false);
        let taken = (0..200).find(|n| bench.run(FileId::Image(V), image(*n)) == Err(DiskError::NoSpace));
        let taken = taken.expect("the image can't have all of it");
        assert!((50..62).contains(&taken), "15 MiB less a little are there for it, found {taken} quarters");

        let no_space = Err(DiskError::NoSpace);
        let create = |written| DiskOpKind::Create { len: 1 << 20, written };
        assert_eq!(bench.run(FileId::BlockTable(V), write(0, &piece, true)), no_space);
        assert_eq!(bench.run(FileId::Segment(1), create(true)), no_space);
        assert_eq!(bench.run(FileId::Orphan(V, Epoch(3)), create(true)), no_space);
        bench.write(FileId::Segment(0), 4096, &piece, true);
        bench.write(FileId::Superblock(V), 0, &noise(2, 512), true);
        assert_eq!(bench.read(FileId::Image(V), 0, 1 << 18), piece, "what was written is there");
        std::fs::write(dir.join("control.log"), vec![1; 7 << 20]).expect("the control log finds room");

        std::fs::remove_file(dir.join("control.log")).unwrap();
        let punch = DiskOpKind::Punch { offset: 0, len: 4 << 20 };
        assert_eq!(bench.run(FileId::Image(V), punch), Ok(DiskReply::Done), "giving space back needs none");
        assert_eq!(bench.run(FileId::Segment(1), create(true)), Ok(DiskReply::Done), "there is space again");
        assert_eq!(bench.run(FileId::Image(V), image(0)), Ok(DiskReply::Done));
    }
}

#[test]
fn created_files_read_as_zeros_and_are_listed() {
    everywhere(|dir, backend| {
        let mut bench = Bench::open(dir, backend);
        assert_eq!(bench.list(), []);
        bench.create(FileId::Segment(3), 3 << 20, true);
        bench.create(FileId::Segment(12), 4096, true);
        bench.create(FileId::Superblock(V), 16384, true);
        bench.create(FileId::Image(V), 1 << 30, false);
        bench.create(FileId::BlockTable(V), 1001, false);
        bench.create(FileId::RegionTable(V), 0, false);
        bench.create(FileId::Orphan(V, Epoch(4)), 5, true);
        assert!(bench.read(FileId::Segment(3), (3 << 20) - 4096, 4096).iter().all(|&b| b == 0));
        assert!(bench.read(FileId::Image(V), 1 << 29, 8192).iter().all(|&b| b == 0));
        std::fs::write(dir.join("journal/notes.txt"), "not ours").unwrap();
        std::fs::create_dir(dir.join("copies/lost+found")).unwrap();
        let expected = vec![
            (FileId::Segment(3), 3 << 20),
            (FileId::Segment(12), 4096),
            (FileId::Superblock(V), 16384),
            (FileId::Image(V), 1 << 30),
            (FileId::BlockTable(V), 1001),
            (FileId::RegionTable(V), 0),
            (FileId::Orphan(V, Epoch(4)), 5),
        ];
        assert_eq!(bench.list(), expected);
        for path in ["journal/segment-3", "copies/7/superblock", "copies/7/image.raw", "copies/7/orphan-4"] {
            assert!(dir.join(path).is_file(), "{path}");
        }
    });
}

#[test]
fn every_kind_of_file_gives_back_what_was_written_also_after_reopening() {
    everywhere(|dir, backend| {
        let files = [
            (FileId::Segment(0), 4096, 512 * 21),
            (FileId::Superblock(V), 512, 512),
            (FileId::Image(V), 40960, 8192),
            (FileId::Image(V), 1 << 20, 1001),
            (FileId::BlockTable(V), 13, 777),
            (FileId::RegionTable(V), 1, 1),
            (FileId::Orphan(V, Epoch(2)), 0, 100_003),
        ];
        {
            let mut bench = Bench::open(dir, backend);
            for (n, (file, offset, len)) in files.into_iter().enumerate() {
                if n != 3 {
                    bench.create(file, 64 << 10, n % 2 == 0);
                }
                bench.write(file, offset, &noise(offset, len), n % 2 == 0);
                assert_eq!(bench.run(file, DiskOpKind::Sync), Ok(DiskReply::Done));
            }
        }
        let mut bench = Bench::open(dir, backend);
        for (file, offset, len) in files {
            assert_eq!(bench.read(file, offset, u32::try_from(len).unwrap()), noise(offset, len), "{file:?}");
        }
    });
}

#[test]
fn reads_past_the_end_give_zeros() {
    everywhere(|dir, backend| {
        let mut bench = Bench::open(dir, backend);
        for (file, unit) in [(FileId::Segment(0), 512), (FileId::Image(V), 4096), (FileId::BlockTable(V), 7)] {
            bench.create(file, unit * 2, true);
            bench.write(file, unit, &vec![9; usize::try_from(unit).unwrap()], false);
            let data = bench.read(file, unit, u32::try_from(unit * 3).unwrap());
            let (inside, outside) = data.split_at(usize::try_from(unit).unwrap());
            assert!(inside.iter().all(|&b| b == 9) && outside.iter().all(|&b| b == 0), "{file:?}");
            assert_eq!(bench.read(file, unit * 100, 4096), vec![0; 4096]);
            assert_eq!(bench.list().iter().find(|f| f.0 == file), Some(&(file, unit * 2)), "reading changes no length");
        }
    });
}

#[test]
fn a_write_may_be_larger_than_every_slot_together() {
    everywhere(|dir, backend| {
        let mut bench = Bench::open(dir, backend);
        for (file, durable) in [(FileId::Segment(0), true), (FileId::Image(V), false), (FileId::BlockTable(V), true)] {
            bench.create(file, 4096, true);
            let data = noise(1, 4 << 20);
            bench.write(file, 4096, &data, durable);
            assert_eq!(bench.read(file, 4096, 4 << 20), data);
        }
    });
}

#[test]
fn punched_ranges_read_as_zeros_and_give_their_space_back() {
    use std::os::unix::fs::MetadataExt;
    everywhere(|dir, backend| {
        let mut bench = Bench::open(dir, backend);
        let file = FileId::Image(V);
        bench.create(file, 1 << 20, false);
        bench.write(file, 0, &noise(3, 1 << 20), true);
        let blocks = || std::fs::metadata(dir.join("copies/7/image.raw")).unwrap().blocks();
        let before = blocks();
        assert_eq!(bench.run(file, DiskOpKind::Punch { offset: 65536, len: 1 << 19 }), Ok(DiskReply::Done));
        assert_eq!(bench.run(file, DiskOpKind::Punch { offset: 0, len: 0 }), Ok(DiskReply::Done));
        assert_eq!(bench.run(file, DiskOpKind::Sync), Ok(DiskReply::Done));
        assert!(blocks() + 1000 < before, "{before} blocks before, {} after", blocks());
        let mut expected = noise(3, 1 << 20);
        expected[65536..65536 + (1 << 19)].fill(0);
        assert_eq!(bench.read(file, 0, 1 << 20), expected);
    });
}

#[test]
fn zeroed_ranges_read_as_zeros_and_have_their_space() {
    use std::os::unix::fs::MetadataExt;
    everywhere(|dir, backend| {
        let mut bench = Bench::open(dir, backend);
        let file = FileId::Image(V);
        bench.create(file, 1 << 20, false);
        bench.write(file, 0, &noise(3, 1 << 18), true);
        let blocks = || std::fs::metadata(dir.join("copies/7/image.raw")).unwrap().blocks();
        let before = blocks();
        let zero = DiskOpKind::Zero { offset: 1 << 17, len: 1 << 19 };
        assert_eq!(bench.run(file, zero), Ok(DiskReply::Done));
        assert_eq!(bench.run(file, DiskOpKind::Sync), Ok(DiskReply::Done));
        assert!(blocks() >= before + 700, "768 blocks more, {before} before, {} after", blocks());
        let mut expected = noise(3, 1 << 18);
        expected.resize(1 << 20, 0);
        expected[1 << 17..].fill(0);
        assert_eq!(bench.read(file, 0, 1 << 20), expected);
    });
}

#[test]
fn missing_files_are_not_found_and_deleting_them_succeeds() {
    everywhere(|dir, backend| {
        let mut bench = Bench::open(dir, backend);
        for kind in [
            DiskOpKind::Read { offset: 0, len: 512 },
            write(0, &[1; 512], true),
            DiskOpKind::Sync,
            DiskOpKind::Punch { offset: 0, len: 4096 },
        ] {
            assert_eq!(bench.run(FileId::Image(V), kind), Err(DiskError::NotFound));
        }
        assert_eq!(bench.run(FileId::Image(V), DiskOpKind::Delete), Ok(DiskReply::Done));
        bench.create(FileId::Image(V), 4096, false);
        bench.create(FileId::Superblock(V), 4096, false);
        assert_eq!(bench.run(FileId::Image(V), DiskOpKind::Delete), Ok(DiskReply::Done));
        assert_eq!(bench.run(FileId::Image(V), DiskOpKind::Sync), Err(DiskError::NotFound));
        assert!(dir.join("copies/7").is_dir());
        assert_eq!(bench.run(FileId::Superblock(V), DiskOpKind::Delete), Ok(DiskReply::Done));
        assert!(!dir.join("copies/7").exists(), "the directory of a copy goes with its last file");
    });
}

#[test]
fn operations_sent_together_keep_to_create_and_delete() {
    everywhere(|dir, backend| {
        let mut bench = Bench::open(dir, backend);
        let file = FileId::Segment(1);
        let kinds = [
            DiskOpKind::Create { len: 2 << 20, written: true },
            write(0, &[1; 4096], true),
            DiskOpKind::Create { len: 8192, written: true },
            write(4096, &[2; 4096], true),
            DiskOpKind::Sync,
        ];
        let count = kinds.len();
        for kind in kinds {
            bench.submit(file, kind);
        }
        let mut done = 0;
        while done < count {
            for d in bench.done() {
                assert_eq!(d.result, Ok(DiskReply::Done));
                done += 1;
            }
        }
        let mut expected = vec![0; 4096];
        expected.extend([2; 4096]);
        assert_eq!(bench.read(file, 0, 8192), expected, "the second file replaces the first with what was in it");
    });
}

#[test]
fn an_unfinished_creation_disappears() {
    let dir = tempfile::tempdir().unwrap();
    {
        let _bench = Bench::open(dir.path(), Backend::Pread);
    }
    let leftover = dir.path().join("journal/segment-9.new");
    std::fs::write(&leftover, [0; 100]).unwrap();
    let mut bench = Bench::open(dir.path(), Backend::Pread);
    assert_eq!(bench.list(), []);
    assert!(!leftover.exists());
}

#[test]
fn a_second_agent_is_refused_until_the_first_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let config = DiskConfig { backend: Backend::Pread, ..DiskConfig::new(dir.path()) };
    let first = Disk::open(&config).unwrap();
    let error = Disk::open(&config).err().expect("the directory is locked");
    assert!(matches!(error, DiskOpenError::Locked { .. }));
    assert!(error.to_string().contains("stop that agent first"), "{error}");
    drop(first);
    assert!(Disk::open(&config).is_ok());
}

#[test]
fn nonsense_configurations_are_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let config = DiskConfig { staging_slot_bytes: 1000, ..DiskConfig::new(dir.path()) };
    let error = Disk::open(&config).err().expect("1000 bytes are no slot");
    assert!(error.to_string().contains("multiple of 4096"), "{error}");
}

#[test]
fn the_default_configuration_opens() {
    let dir = tempfile::tempdir().unwrap();
    Disk::open(&DiskConfig::new(dir.path())).unwrap();
}

#[test]
fn dropping_a_busy_disk_waits_for_the_kernel() {
    everywhere(|dir, backend| {
        {
            let mut bench = Bench::open(dir, backend);
            bench.create(FileId::Segment(0), 8 << 20, true);
            for n in 0..64u64 {
                bench.submit(FileId::Segment(0), write(n * 65536, &noise(n, 65536), true));
                bench.submit(FileId::Segment(0), DiskOpKind::Read { offset: n * 65536, len: 65536 });
            }
        }
        let mut bench = Bench::open(dir, backend);
        assert_eq!(bench.read(FileId::Segment(0), 0, 4096).len(), 4096);
    });
}

/// Cells of each file; one operation at most is in flight on a cell, as the store promises.
const CELLS: u64 = 24;

struct Model {
    cells: BTreeMap<(FileId, u64), Vec<u8>>,
    busy: BTreeMap<OpId, (FileId, u64, Expect)>,
}

enum Expect {
    Data(Vec<u8>),
    Done,
}

fn cell_bytes(file: FileId) -> usize {
    match file {
        FileId::Segment(_) => 512 * 9,
        FileId::Image(_) => 4096 * 40,
        _ => 1003,
    }
}

impl Model {
    fn step(&mut self, rng: &mut Rng, bench: &mut Bench) {
        let all = [
            FileId::Segment(0),
            FileId::Segment(1),
            FileId::Image(V),
            FileId::Image(VolumeId(8)),
            FileId::BlockTable(V),
        ];
        let file = all[usize::try_from(rng.below(5)).unwrap()];
        let cell = rng.below(CELLS);
        if self.busy.values().any(|b| (b.0, b.1) == (file, cell)) {
            return;
        }
        let bytes = cell_bytes(file);
        let offset = cell * bytes as u64;
        let content = self.cells.entry((file, cell)).or_insert_with(|| vec![0; bytes]);
        let (kind, expect) = match rng.below(10) {
            0..=3 => (DiskOpKind::Read { offset, len: u32::try_from(bytes).unwrap() }, Expect::Data(content.clone())),
            4..=7 => {
                *content = noise(rng.next_u64(), bytes);
                (write(offset, content, rng.chance(500_000)), Expect::Done)
            }
            8 => {
                content.fill(0);
                (DiskOpKind::Punch { offset, len: bytes as u64 }, Expect::Done)
            }
            _ => (DiskOpKind::Sync, Expect::Done),
        };
        let id = bench.submit(file, kind);
        self.busy.insert(id, (file, cell, expect));
    }

    fn check(&mut self, done: DiskDone) {
        let (file, cell, expect) = self.busy.remove(&done.id).expect("each operation ends once");
        match (expect, done.result) {
            (Expect::Done, Ok(DiskReply::Done)) => {}
            (Expect::Data(expected), Ok(DiskReply::Data(found))) => {
                assert!(expected == found, "cell {cell} of {file:?} differs from the model");
            }
            (_, other) => panic!("cell {cell} of {file:?}: unexpected {other:?}"),
        }
    }
}

#[test]
fn random_operations_agree_with_a_model() {
    everywhere(|dir, backend| {
        let mut model = Model { cells: BTreeMap::new(), busy: BTreeMap::new() };
        let mut rng = Rng::new(42);
        {
            let mut bench = Bench::open(dir, backend);
            for v in [V, VolumeId(8)] {
                bench.create(FileId::Image(v), CELLS * cell_bytes(FileId::Image(v)) as u64, false);
            }
            bench.create(FileId::BlockTable(V), 0, false);
            bench.create(FileId::Segment(0), CELLS * 512 * 9, true);
            bench.create(FileId::Segment(1), CELLS * 512 * 9, false);
            for _ in 0..500 {
                model.step(&mut rng, &mut bench);
                if model.busy.len() >= 32 {
                    bench.done().into_iter().for_each(|d| model.check(d));
                }
            }
            while !model.busy.is_empty() {
                bench.done().into_iter().for_each(|d| model.check(d));
            }
        }
        let mut bench = Bench::open(dir, backend);
        for ((file, cell), content) in &model.cells {
            let found = bench.read(*file, cell * content.len() as u64, u32::try_from(content.len()).unwrap());
            assert!(found == content, "cell {cell} of {file:?} differs after reopening");
        }
    });
}
