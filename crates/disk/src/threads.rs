//! The engine without io_uring: threads that call pread, pwritev2 and their like.

use crate::buffer::{ALIGN, AlignedBuf, gather};
use crate::config::DiskConfig;
use crate::disk::{Ended, Handle};
use crate::error::from_io;
use crate::file::{OpenFile, Way};
use crate::gate::{Data, Tag};
use crate::pool::Pool;
use crate::wake::Wake;
use bytes::Bytes;
use holdfast_store::io::DiskReply;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

pub(crate) struct Threads {
    pool: Pool<Ended>,
    slot_bytes: usize,
}

impl Threads {
    pub(crate) fn new(config: &DiskConfig, wake: Arc<Wake>) -> io::Result<Threads> {
        let slot_bytes = usize::try_from(config.staging_slot_bytes).expect("usize has 32 bits at least");
        Ok(Threads { pool: Pool::new("disk-io", config.threads, wake)?, slot_bytes })
    }

    pub(crate) fn start(&self, tag: Tag, handle: Handle, data: Data) {
        let slot_bytes = self.slot_bytes;
        self.pool.run(move || {
            let result = execute(&handle, data, slot_bytes).map_err(|e| from_io(&e));
            Ended { tag, result }
        });
    }

    pub(crate) fn reap(&self, out: &mut Vec<Ended>) {
        out.append(&mut self.pool.results());
    }
}

fn execute(handle: &Handle, data: Data, slot_bytes: usize) -> io::Result<DiskReply> {
    let file = &handle.file;
    match data {
        Data::Read { offset, len } => {
            let way = file.way(offset, u64::from(len));
            let len = usize::try_from(len).expect("usize has 32 bits at least");
            read(file.fd(way), way, offset, len).map(DiskReply::Data)
        }
        Data::Write { offset, data, durable } => {
            let len: usize = data.iter().map(Bytes::len).sum();
            let way = file.way(offset, len as u64);
            write(file.fd(way), offset, &data, len, durable, slot_bytes)?;
            Ok(DiskReply::Done)
        }
        Data::Sync => {
            let fd = file.fd(file.any());
            // SAFETY: the handle keeps the descriptor open for the whole call.
            check(isize::try_from(unsafe { libc::fdatasync(fd) }).expect("an int fits in isize"))?;
            Ok(DiskReply::Done)
        }
        Data::Zero { .. } | Data::SetLen { .. } => unreachable!("this goes to the threads for files"),
        Data::Punch { offset, len } => {
            allocate(file, libc::FALLOC_FL_PUNCH_HOLE, offset, len)?;
            Ok(DiskReply::Done)
        }
    }
}

/// fallocate, the length of the file stays.
pub(crate) fn allocate(file: &OpenFile, mode: i32, offset: u64, len: u64) -> io::Result<()> {
    let (offset, len, fd) = (signed(offset)?, signed(len)?, file.fd(file.any()));
    retry(|| {
        // SAFETY: `file` keeps the descriptor open for the whole call.
        let result = unsafe { libc::fallocate(fd, mode | libc::FALLOC_FL_KEEP_SIZE, offset, len) };
        isize::try_from(result).expect("an int fits in isize")
    })?;
    Ok(())
}

fn read(fd: RawFd, way: Way, offset: u64, len: usize) -> io::Result<Bytes> {
    let mut buf = AlignedBuf::new(len);
    while buf.filled() < len {
        let at = signed(offset + buf.filled() as u64)?;
        let rest = len - buf.filled();
        // SAFETY: `tail` is valid for `rest` bytes and the handle keeps the descriptor open.
        let count = retry(|| unsafe { libc::pread(fd, buf.tail().cast(), rest, at) })?;
        // SAFETY: the kernel has initialised `count` bytes.
        unsafe { buf.advance(count) };
        if count == 0 || (way == Way::Direct && !count.is_multiple_of(512)) {
            buf.fill_zeros();
        }
    }
    Ok(buf.into_bytes())
}

fn write(fd: RawFd, offset: u64, data: &[Bytes], len: usize, durable: bool, slot_bytes: usize) -> io::Result<()> {
    let mut staging = AlignedBuf::zeroed(slot_bytes.min(len).next_multiple_of(ALIGN));
    let mut done = 0;
    while done < len {
        let count = staging.len().min(len - done);
        let filled = gather(data, done, &mut staging.as_mut()[..count]);
        assert_eq!(filled, count, "the pieces hold what their lengths add up to");
        let mut written = 0;
        while written < count {
            let piece = &staging.as_ref()[written..count];
            let iov = libc::iovec { iov_base: piece.as_ptr().cast_mut().cast(), iov_len: piece.len() };
            let at = signed(offset + (done + written) as u64)?;
            let flags = if durable { libc::RWF_DSYNC } else { 0 };
            // SAFETY: `iov` points to `piece`, which outlives the call and is only read.
            written += match retry(|| unsafe { libc::pwritev2(fd, &raw const iov, 1, at, flags) })? {
                // A device that takes nothing and gives no reason would make us loop for ever.
                0 => return Err(io::Error::from_raw_os_error(libc::EIO)),
                n => n,
            };
        }
        done += count;
    }
    Ok(())
}

/// Offsets are signed in the kernel's interface.
pub(crate) fn signed(value: u64) -> io::Result<i64> {
    i64::try_from(value).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

pub(crate) fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match check(call()) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
