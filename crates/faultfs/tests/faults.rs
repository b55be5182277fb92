//! The file system as a program meets it: passing through, O_DIRECT and RWF_DSYNC, and each fault.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use holdfast_faultfs::{Counts, Fault, FaultFs, Op, Options, Rule};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tempfile::TempDir;

struct Mounted {
    fs: FaultFs,
    dir: TempDir,
}

impl Mounted {
    fn new() -> Mounted {
        let dir = tempfile::tempdir().unwrap();
        for name in ["real", "seen"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let fs = FaultFs::mount(&dir.path().join("real"), &dir.path().join("seen"), Options { sync: true });
        Mounted { fs: fs.unwrap(), dir }
    }

    fn seen(&self, name: &str) -> PathBuf {
        self.dir.path().join("seen").join(name)
    }

    fn real(&self, name: &str) -> PathBuf {
        self.dir.path().join("real").join(name)
    }

    fn rule(&self, ops: &[Op], fault: Fault) -> u64 {
        self.fs.rules().add(Rule::new("", ops, fault))
    }

    fn counts(&self) -> Counts {
        self.fs.rules().counts()
    }
}

fn number(result: io::Result<impl Sized>) -> i32 {
    result.err().and_then(|e| e.raw_os_error()).unwrap_or(0)
}

#[test]
fn names_and_content_pass_through() {
    let m = Mounted::new();
    fs::create_dir_all(m.seen("a/b")).unwrap();
    fs::write(m.seen("a/b/one"), b"content").unwrap();
    assert_eq!(fs::read(m.real("a/b/one")).unwrap(), b"content");
    fs::rename(m.seen("a/b/one"), m.seen("a/b/two")).unwrap();
    fs::rename(m.seen("a/b"), m.seen("a/c")).unwrap();
    assert_eq!(fs::read(m.seen("a/c/two")).unwrap(), b"content");
    let names: Vec<_> = fs::read_dir(m.seen("a")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["c"]);
    let file = File::options().read(true).write(true).open(m.seen("a/c/two")).unwrap();
    file.set_len(3).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 3);
    fs::remove_file(m.seen("a/c/two")).unwrap();
    let mut rest = String::new();
    (&file).read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "con", "open and without a name");
    File::open(m.seen("a")).unwrap().sync_all().unwrap();
    fs::write(m.seen("a/c/two"), b"another").unwrap();
    assert_eq!(fs::read(m.seen("a/c/two")).unwrap(), b"another");
    assert!(!m.seen("a/c/three").exists());
    fs::remove_file(m.seen("a/c/two")).unwrap();
    fs::remove_dir(m.seen("a/c")).unwrap();
    assert!(!m.real("a/c").exists());
}

#[test]
fn direct_and_durable_writes_arrive_one_by_one() {
    let m = Mounted::new();
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(true).custom_flags(libc::O_DIRECT);
    let file = options.open(m.seen("direct")).unwrap();
    let memory = vec![7_u8; 3 * 4096];
    let at = memory.as_ptr().align_offset(4096);
    let page = &memory[at..at + 4096];
    let before = m.counts();
    let iov = libc::iovec { iov_base: page.as_ptr().cast_mut().cast(), iov_len: page.len() };
    // SAFETY: `iov` points to `page`, which outlives the call and is only read.
    let written = unsafe { libc::pwritev2(file.as_raw_fd(), &raw const iov, 1, 8192, libc::RWF_DSYNC) };
    assert_eq!(written, 4096, "{}", io::Error::last_os_error());
    let after = m.counts();
    let came = |op| after.seen.get(&op).unwrap_or(&0) - before.seen.get(&op).unwrap_or(&0);
    assert_eq!((came(Op::Write), came(Op::Sync)), (1, 1), "{after}");
    assert_eq!(&fs::read(m.real("direct")).unwrap()[8192..], page);
    // SAFETY: the descriptor is open.
    let punched = unsafe {
        libc::fallocate(file.as_raw_fd(), libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 8192, 4096)
    };
    assert_eq!(punched, 0, "{}", io::Error::last_os_error());
    assert_eq!(fs::read(m.seen("direct")).unwrap(), vec![0; 3 * 4096]);
}

#[test]
fn each_fault_does_what_it_says() {
    let m = Mounted::new();
    let path = m.seen("file");
    fs::write(&path, [1; 4096]).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let mut buffer = [0; 4096];

    m.fs.rules().add(Rule::new("file", &[Op::Sync], Fault::Errno(libc::EIO)).once());
    assert_eq!(number(file.sync_data()), libc::EIO);
    assert_eq!(number(file.sync_data()), 0, "once");
    let rule = m.rule(&[Op::Read], Fault::Errno(libc::EIO));
    assert_eq!(number(file.read_at(&mut buffer, 0)), libc::EIO);
    m.fs.rules().remove(rule);
    m.rule(&Op::CHANGES, Fault::Errno(libc::EROFS));
    assert_eq!(number(file.write_at(&[2; 10], 0)), libc::EROFS);
    assert_eq!(number(fs::write(m.seen("other"), b"x")), libc::EROFS);
    assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 4096, "reads go on");
    m.fs.rules().clear();
    m.rule(&[Op::Write], Fault::Torn);
    assert_eq!(number(file.write_at(&[2; 4096], 0)), libc::EIO);
    assert_eq!(fs::read(m.real("file")).unwrap()[2047..2049], [2, 1], "half of it");
    m.fs.rules().clear();
    m.rule(&[Op::Write], Fault::Short);
    assert_eq!(file.write_at(&[3; 4096], 0).unwrap(), 2048);
    m.fs.rules().clear();
    m.rule(&[Op::Write], Fault::Lost);
    (&file).write_all(&[4; 4096]).unwrap();
    m.fs.rules().clear();
    assert_eq!(fs::read(m.real("file")).unwrap()[2047..2049], [3, 1]);
    m.rule(&[Op::Read], Fault::Flip);
    assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 4096);
    assert_eq!(buffer[2047..2050], [3, 0, 1], "one bit, and only in what was read");
    m.fs.rules().clear();
    m.rule(&[], Fault::Errno(libc::ENODEV));
    assert_eq!(number(File::open(&path)), libc::ENODEV);
    assert_eq!(number(file.read_at(&mut buffer, 0)), libc::ENODEV);
    assert!(m.counts().hits() >= 10, "{}", m.counts());
}

#[test]
fn what_hangs_or_is_slow_holds_up_nothing_else() {
    let m = Mounted::new();
    for name in ["stuck", "free"] {
        fs::write(m.seen(name), [1; 512]).unwrap();
    }
    m.fs.rules().add(Rule::new("stuck", &[Op::Read], Fault::Hang));
    let path = m.seen("stuck");
    let readers: Vec<_> = (0..10)
        .map(|_| {
            let path = path.clone();
            std::thread::spawn(move || fs::read(path).unwrap().len())
        })
        .collect();
    let start = Instant::now();
    while m.counts().waiting < 10 {
        assert!(start.elapsed() < Duration::from_secs(20), "{}", m.counts());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(fs::read(m.seen("free")).unwrap().len(), 512);
    m.rule(&[Op::Read], Fault::Delay(Duration::from_millis(100)));
    let start = Instant::now();
    assert_eq!(fs::read(m.seen("free")).unwrap().len(), 512);
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert!(readers.iter().all(|r| !r.is_finished()), "a delay of others ends no hang");
    m.fs.rules().clear();
    for reader in readers {
        assert_eq!(reader.join().unwrap(), 512);
    }
}
