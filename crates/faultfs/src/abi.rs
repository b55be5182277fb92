//! The kernel's messages (include/uapi/linux/fuse.h), as far as they are needed: little readers and writers of numbers.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

pub(crate) const LOOKUP: u32 = 1;
pub(crate) const FORGET: u32 = 2;
pub(crate) const GETATTR: u32 = 3;
pub(crate) const SETATTR: u32 = 4;
pub(crate) const MKDIR: u32 = 9;
pub(crate) const UNLINK: u32 = 10;
pub(crate) const RMDIR: u32 = 11;
pub(crate) const RENAME: u32 = 12;
pub(crate) const OPEN: u32 = 14;
pub(crate) const READ: u32 = 15;
pub(crate) const WRITE: u32 = 16;
pub(crate) const STATFS: u32 = 17;
pub(crate) const RELEASE: u32 = 18;
pub(crate) const FSYNC: u32 = 20;
pub(crate) const FLUSH: u32 = 25;
pub(crate) const INIT: u32 = 26;
pub(crate) const OPENDIR: u32 = 27;
pub(crate) const READDIR: u32 = 28;
pub(crate) const RELEASEDIR: u32 = 29;
pub(crate) const FSYNCDIR: u32 = 30;
pub(crate) const CREATE: u32 = 35;
pub(crate) const INTERRUPT: u32 = 36;
pub(crate) const DESTROY: u32 = 38;
pub(crate) const BATCH_FORGET: u32 = 42;
pub(crate) const FALLOCATE: u32 = 43;
pub(crate) const RENAME2: u32 = 45;

/// No page of the file is cached: every read and write arrives.
pub(crate) const FOPEN_DIRECT_IO: u32 = 1;
pub(crate) const GETATTR_FH: u32 = 1;
pub(crate) const FATTR_MODE: u32 = 1;
pub(crate) const FATTR_SIZE: u32 = 8;
pub(crate) const FATTR_FH: u32 = 64;

/// Largest write, and the pages that hold it.
pub(crate) const MAX_WRITE: u32 = 1 << 20;
const MAX_PAGES: u16 = 256;
/// ASYNC_READ, BIG_WRITES, ASYNC_DIO, PARALLEL_DIROPS, MAX_PAGES.
const WANTED: u32 = 1 | 1 << 5 | 1 << 15 | 1 << 18 | 1 << 22;
const MAJOR: u32 = 7;
const MINOR: u32 = 31;

/// One request of the kernel.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) opcode: u32,
    pub(crate) unique: u64,
    pub(crate) node: u64,
    pub(crate) body: Reader<'a>,
}

impl<'a> Request<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Request<'a>> {
        let mut r = Reader(bytes);
        let (len, opcode, unique, node) = (r.u32()?, r.u32()?, r.u64()?, r.u64()?);
        // uid, gid, pid, lengths of extensions
        r.skip(16)?;
        (usize::try_from(len) == Ok(bytes.len())).then_some(Request { opcode, unique, node, body: r })
    }
}

/// What is left of a message.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn skip(&mut self, len: usize) -> Option<()> {
        self.bytes(len).map(|_| ())
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_ne_bytes(self.bytes(4)?.try_into().ok()?))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_ne_bytes(self.bytes(8)?.try_into().ok()?))
    }

    /// A name up to its zero.
    pub(crate) fn name(&mut self) -> Option<&'a OsStr> {
        let end = self.0.iter().position(|b| *b == 0)?;
        let name = self.bytes(end)?;
        self.skip(1)?;
        Some(OsStr::from_bytes(name))
    }
}

/// An answer's body.
#[derive(Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn u16(mut self, value: u16) -> Writer {
        self.0.extend(value.to_ne_bytes());
        self
    }

    pub(crate) fn u32(mut self, value: u32) -> Writer {
        self.0.extend(value.to_ne_bytes());
        self
    }

    pub(crate) fn u64(mut self, value: u64) -> Writer {
        self.0.extend(value.to_ne_bytes());
        self
    }

    pub(crate) fn zeros(mut self, count: usize) -> Writer {
        self.0.extend(std::iter::repeat_n(0, count));
        self
    }

    pub(crate) fn attributes(self, ino: u64, meta: &std::fs::Metadata) -> Writer {
        let time = |seconds: i64| u64::try_from(seconds).unwrap_or(0);
        let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let nanos = |nanos: i64| u32::try_from(nanos).unwrap_or(0);
        self.u64(ino)
            .u64(meta.size())
            .u64(meta.blocks())
            .u64(time(meta.atime()))
            .u64(time(meta.mtime()))
            .u64(time(meta.ctime()))
            .u32(nanos(meta.atime_nsec()))
            .u32(nanos(meta.mtime_nsec()))
            .u32(nanos(meta.ctime_nsec()))
            .u32(meta.mode())
            .u32(small(meta.nlink()))
            .u32(meta.uid())
            .u32(meta.gid())
            .u32(0)
            .u32(4096)
            .u32(0)
    }

    /// The answer to INIT: what this side can do, of what the kernel offers.
    pub(crate) fn init(offered: u32) -> Writer {
        Writer::default()
            .u32(MAJOR)
            .u32(MINOR)
            .u32(0)
            .u32(WANTED & offered)
            .u16(64)
            .u16(48)
            .u32(MAX_WRITE)
            .u32(1)
            .u16(MAX_PAGES)
            .zeros(34)
    }

    /// One name of a directory; false if it does not fit into `room` any more.
    pub(crate) fn entry(&mut self, room: usize, ino: u64, next: u64, kind: u32, name: &OsStr) -> bool {
        let len = 24 + name.len();
        if self.0.len() + len.next_multiple_of(8) > room {
            return false;
        }
        let name_len = u32::try_from(name.len()).expect("a name is short");
        let mut w = std::mem::take(self).u64(ino).u64(next).u32(name_len).u32(kind);
        w.0.extend(name.as_bytes());
        *self = w.zeros(len.next_multiple_of(8) - len);
        true
    }
}
