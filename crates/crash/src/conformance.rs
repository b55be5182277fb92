//! The contract of `DiskOp` that every device keeps: the simulated ones, and the real one with both of its backends.
//!
//! The suite asks only for what the store relies on. What a real file system shows besides (space, names, locks) is tested where
//! the real device is.

use crate::medium::{Effect, Medium, to_u64, to_usize};
use crate::rig::Device;
use bytes::Bytes;
use holdfast_store::io::{DiskDone, DiskError, DiskOp, DiskOpKind, DiskReply, FileId, OpId};
use holdfast_types::{Epoch, Rng, VolumeId};
use std::collections::BTreeMap;

const V: VolumeId = VolumeId(7);
const SEGMENT: FileId = FileId::Segment(3);
const FILES: [FileId; 5] =
    [SEGMENT, FileId::Superblock(V), FileId::Image(V), FileId::BlockTable(V), FileId::Orphan(V, Epoch(4))];

struct Bench<'a> {
    device: &'a mut dyn Device,
    next: u64,
}

impl Bench<'_> {
    fn submit(&mut self, file: FileId, kind: DiskOpKind) -> OpId {
        self.next += 1;
        self.device.submit(DiskOp { id: OpId(self.next), file, kind });
        OpId(self.next)
    }

    fn run(&mut self, file: FileId, kind: DiskOpKind) -> Result<DiskReply, DiskError> {
        let id = self.submit(file, kind);
        let done = self.device.next().expect("an operation ends");
        assert_eq!(done.id, id, "nothing else is under way");
        done.result
    }

    fn change(&mut self, file: FileId, kind: DiskOpKind) {
        assert_eq!(self.run(file, kind), Ok(DiskReply::Done), "{file:?}");
    }

    fn read(&mut self, file: FileId, offset: u64, len: u32) -> Bytes {
        match self.run(file, DiskOpKind::Read { offset, len }) {
            Ok(DiskReply::Data(data)) => data,
            other => panic!("expected data of {file:?}, found {other:?}"),
        }
    }

    fn list(&mut self) -> Vec<(FileId, u64)> {
        match self.run(SEGMENT, DiskOpKind::List) {
            Ok(DiskReply::Files(files)) => files,
            other => panic!("expected files, found {other:?}"),
        }
    }
}

fn noise(rng: &mut Rng, len: usize) -> Vec<u8> {
    (0..len).map(|_| rng.next_u64().to_le_bytes()[0]).collect()
}

/// Uneven pieces, as the store sends headers and bodies.
fn write(offset: u64, data: &[u8], durable: bool) -> DiskOpKind {
    let (head, tail) = data.split_at(data.len() / 3);
    let data = [head, &[], tail].map(Bytes::copy_from_slice).to_vec();
    DiskOpKind::Write { offset, data, durable }
}

/// The whole suite, on a device that holds nothing. Panics where the contract is broken.
pub fn check(device: &mut dyn Device) {
    let mut bench = Bench { device, next: 0 };
    what_is_not_there(&mut bench);
    new_files_are_zeros(&mut bench);
    what_is_written_is_read(&mut bench);
    zeros(&mut bench);
    lengths(&mut bench);
    replaced_and_removed(&mut bench);
    for seed in 1..=3 {
        random_operations_agree_with_a_model(&mut bench, seed);
    }
}

fn what_is_not_there(bench: &mut Bench<'_>) {
    assert_eq!(bench.list(), []);
    let kinds = [DiskOpKind::Read { offset: 0, len: 512 }, write(0, &[1; 512], true), DiskOpKind::Sync];
    for kind in kinds {
        assert_eq!(bench.run(FileId::Image(V), kind), Err(DiskError::NotFound));
    }
    bench.change(FileId::Image(V), DiskOpKind::Delete);
}

fn new_files_are_zeros(bench: &mut Bench<'_>) {
    for (n, file) in FILES.into_iter().enumerate() {
        bench.change(file, DiskOpKind::Create { len: 64 << 10, written: n % 2 == 0 });
        assert!(bench.read(file, (64 << 10) - 4096, 4096).iter().all(|b| *b == 0));
    }
    let mut expected = FILES.map(|file| (file, 64 << 10)).to_vec();
    expected.sort_unstable();
    assert_eq!(bench.list(), expected, "sorted, with their lengths");
}

fn what_is_written_is_read(bench: &mut Bench<'_>) {
    let mut rng = Rng::new(1);
    for file in FILES {
        for durable in [true, false] {
            let data = noise(&mut rng, 9 * 512);
            bench.change(file, write(1024, &data, durable));
            assert!(bench.read(file, 1024, 9 * 512) == data, "{file:?}");
            bench.change(file, DiskOpKind::Sync);
            assert!(bench.read(file, 1024, 9 * 512) == data, "{file:?} after a sync");
        }
        let tail = bench.read(file, (64 << 10) - 512, 2048);
        assert!(tail.len() == 2048 && tail[512..].iter().all(|b| *b == 0), "{file:?} ends in zeros for ever");
    }
    assert!(bench.list().iter().all(|(_, len)| *len == 64 << 10), "reading past the end makes no file longer");
}

fn zeros(bench: &mut Bench<'_>) {
    let image = FileId::Image(V);
    let data = noise(&mut Rng::new(2), 8 * 4096);
    for kind in [DiskOpKind::Punch { offset: 4096, len: 8192 }, DiskOpKind::Zero { offset: 4096, len: 8192 }] {
        bench.change(image, write(0, &data, false));
        bench.change(image, kind);
        let found = bench.read(image, 0, 8 * 4096);
        assert!(found[4096..12288].iter().all(|b| *b == 0));
        assert!(found[..4096] == data[..4096] && found[12288..] == data[12288..], "its neighbours stay");
    }
}

/// A file that was shorter for a while holds zeros where it was cut.
fn lengths(bench: &mut Bench<'_>) {
    let image = FileId::Image(V);
    let data = noise(&mut Rng::new(3), 64 << 10);
    let len = |bench: &mut Bench<'_>| bench.list().into_iter().find(|(file, _)| *file == image).map(|(_, len)| len);
    bench.change(image, write(0, &data, false));
    bench.change(image, DiskOpKind::SetLen { len: 12288 });
    assert_eq!(len(bench), Some(12288));
    let found = bench.read(image, 0, 20 << 10);
    assert!(found[..12288] == data[..12288] && found[12288..].iter().all(|b| *b == 0), "nothing lies behind its end");
    bench.change(image, DiskOpKind::SetLen { len: 64 << 10 });
    bench.change(image, DiskOpKind::Sync);
    assert_eq!(len(bench), Some(64 << 10));
    let found = bench.read(image, 0, 64 << 10);
    assert!(found[..12288] == data[..12288] && found[12288..].iter().all(|b| *b == 0), "and nothing comes back");
}

fn replaced_and_removed(bench: &mut Bench<'_>) {
    bench.change(SEGMENT, DiskOpKind::Create { len: 8192, written: true });
    assert!(bench.read(SEGMENT, 0, 8192).iter().all(|b| *b == 0), "the second file replaces the first");
    for file in FILES {
        bench.change(file, DiskOpKind::Delete);
        assert_eq!(bench.run(file, DiskOpKind::Sync), Err(DiskError::NotFound));
    }
    assert_eq!(bench.list(), []);
}

/// Sectors of a cell; one operation at most is under way on a cell, as the store promises.
const CELL: u64 = 8 * 512;
const CELLS: u64 = 16;

fn random_operations_agree_with_a_model(bench: &mut Bench<'_>, seed: u64) {
    let mut rng = Rng::new(seed);
    let mut model = Medium::default();
    let mut busy: BTreeMap<OpId, (FileId, u64, Option<Vec<u8>>)> = BTreeMap::new();
    for file in FILES {
        bench.change(file, DiskOpKind::Create { len: CELLS * CELL, written: false });
        model.apply(file, &Effect::Create(CELLS * CELL), None);
    }
    for _ in 0..400 {
        let (file, cell) = (FILES[to_usize(rng.below(to_u64(FILES.len())))], rng.below(CELLS));
        if busy.len() > 12 || busy.values().any(|(f, c, _)| (*f, *c) == (file, cell)) {
            let done = bench.device.next().expect("something is under way");
            judge(&mut busy, done);
            continue;
        }
        let offset = cell * CELL;
        let kind = match rng.below(8) {
            0..3 => DiskOpKind::Read { offset, len: u32::try_from(CELL).expect("small") },
            3..6 => write(offset, &noise(&mut rng, to_usize(CELL)), rng.chance(500_000)),
            6 if matches!(file, FileId::Image(_)) => DiskOpKind::Punch { offset, len: CELL },
            _ => DiskOpKind::Sync,
        };
        let before = model.file_mut(file)[to_usize(offset)..to_usize(offset + CELL)].to_vec();
        let expect = matches!(kind, DiskOpKind::Read { .. }).then_some(before);
        if let Some(effect) = Effect::of(&kind) {
            model.apply(file, &effect, None);
        }
        busy.insert(bench.submit(file, kind), (file, cell, expect));
    }
    while let Some(done) = bench.device.next() {
        judge(&mut busy, done);
    }
    assert!(busy.is_empty(), "each operation ends once");
    for file in FILES {
        let found = bench.read(file, 0, u32::try_from(CELLS * CELL).expect("small"));
        assert!(found == model.file_mut(file).as_slice(), "{file:?} is as the model says, seed {seed}");
        bench.change(file, DiskOpKind::Delete);
    }
}

fn judge(busy: &mut BTreeMap<OpId, (FileId, u64, Option<Vec<u8>>)>, done: DiskDone) {
    let (file, cell, expect) = busy.remove(&done.id).expect("each operation ends once");
    match (expect, done.result) {
        (None, Ok(DiskReply::Done)) => {}
        (Some(expect), Ok(DiskReply::Data(found))) => assert!(found == expect, "cell {cell} of {file:?}"),
        (_, other) => panic!("cell {cell} of {file:?}: unexpected {other:?}"),
    }
}
