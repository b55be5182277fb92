//! A file driven as directly as the kernel allows: the measure that every other path to the same device is held against.
//!
//! One stream: `depth` requests of one size, O_DIRECT, writes with RWF_DSYNC, from registered memory through a registered
//! file. The file is zero-written first, because an unwritten extent costs twice the latency.
//!
//! Invariant: the memory of a request in flight is not freed before the kernel has answered, also when the stream is
//! dropped.
//!
//! Deliberately absent: everything that a store does (journal, checksums, recovery). Nothing but benchmarks uses this.

use io_uring::{IoUring, opcode, squeue, types};
use memmap2::MmapMut;
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Written at once when a file is made.
const PIECE: usize = 1 << 20;

/// How a stream works.
#[derive(Clone, Copy, Debug)]
pub struct RawOptions {
    /// Bytes of the file; a multiple of `block`.
    pub size: u64,
    /// Bytes of each request; a multiple of 512.
    pub block: u32,
    /// Requests in flight at most.
    pub depth: u32,
}

/// A request that ended.
#[derive(Debug)]
pub struct RawDone {
    /// Its slot, free again.
    pub slot: u32,
    /// How it went.
    pub result: io::Result<()>,
}

/// One stream on a file of its own, which is deleted with it.
#[derive(Debug)]
pub struct RawStream {
    // Not dropped while the kernel may still use it: see `Drop`.
    inner: ManuallyDrop<Inner>,
    in_flight: usize,
    path: PathBuf,
}

struct Inner {
    ring: IoUring,
    memory: MmapMut,
    _file: File,
    block: u32,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("block", &self.block).finish_non_exhaustive()
    }
}

impl RawStream {
    /// Makes the file, which must not exist, and writes all of it.
    ///
    /// # Errors
    /// The file exists, the file system takes no direct I/O, or the kernel has no usable io_uring.
    pub fn create(path: &Path, options: RawOptions) -> io::Result<RawStream> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .custom_flags(libc::O_DIRECT | libc::O_CLOEXEC)
            .open(path)?;
        let made = Inner::new(file, options);
        // A file that is not ours may not be deleted, and one that is may not stay.
        let inner = made.inspect_err(|_| drop(std::fs::remove_file(path)))?;
        Ok(RawStream { inner: ManuallyDrop::new(inner), in_flight: 0, path: path.to_owned() })
    }

    /// Queues a durable write (or a read) of one block at `offset`, from (or into) the memory of `slot`, which is free.
    /// It leaves with the next [`RawStream::wait`].
    pub fn queue(&mut self, slot: u32, offset: u64, write: bool) {
        let entry = self.inner.entry(slot, offset, write);
        // SAFETY: the entry's memory is a part of the mapping, which outlives the request (see `Drop`), and the caller does
        // not use a slot twice at a time.
        unsafe { self.inner.ring.submission().push(&entry) }.expect("the ring has room for every slot");
        self.in_flight += 1;
    }

    /// Sends what is queued, and waits until at least one request ended.
    ///
    /// # Errors
    /// The kernel refuses the ring itself.
    pub fn wait(&mut self, done: &mut Vec<RawDone>) -> io::Result<()> {
        match self.inner.ring.submit_and_wait(1) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        let block = i32::try_from(self.inner.block).expect("a block is far below 2 GiB");
        for entry in self.inner.ring.completion() {
            self.in_flight -= 1;
            let slot = u32::try_from(entry.user_data()).expect("user data is the slot");
            let result = match entry.result() {
                n if n == block => Ok(()),
                n if n < 0 => Err(io::Error::from_raw_os_error(-n)),
                n => Err(io::Error::other(format!("expected {block} bytes to be moved at once, found {n}"))),
            };
            done.push(RawDone { slot, result });
        }
        Ok(())
    }
}

impl Inner {
    fn new(file: File, options: RawOptions) -> io::Result<Inner> {
        let block = usize::try_from(options.block).expect("usize has 32 bits at least");
        let depth = usize::try_from(options.depth).expect("usize has 32 bits at least");
        let mut memory = MmapMut::map_anon((block * depth).max(PIECE))?;
        fill(&file, &mut memory, options.size)?;
        let mut builder = IoUring::builder();
        builder.dontfork().setup_single_issuer().setup_defer_taskrun();
        let ring = builder.build(options.depth.next_power_of_two())?;
        let iovec = libc::iovec { iov_base: memory.as_mut_ptr().cast(), iov_len: memory.len() };
        // SAFETY: the mapping lives as long as the ring (both in `Inner`), and is unmapped after it.
        unsafe { ring.submitter().register_buffers(&[iovec]) }?;
        ring.submitter().register_files(&[file.as_raw_fd()])?;
        Ok(Inner { ring, memory, _file: file, block: options.block })
    }

    fn entry(&mut self, slot: u32, offset: u64, write: bool) -> squeue::Entry {
        let len = usize::try_from(self.block).expect("usize has 32 bits at least");
        let start = usize::try_from(slot).expect("usize has 32 bits at least") * len;
        let memory = &mut self.memory[start..start + len];
        let fd = types::Fixed(0);
        let entry = if write {
            opcode::WriteFixed::new(fd, memory.as_ptr(), self.block, 0).offset(offset).rw_flags(libc::RWF_DSYNC).build()
        } else {
            opcode::ReadFixed::new(fd, memory.as_mut_ptr(), self.block, 0).offset(offset).build()
        };
        entry.user_data(u64::from(slot))
    }
}

/// Writes every byte of the file, with content that no device takes for zeros.
fn fill(file: &File, memory: &mut MmapMut, size: u64) -> io::Result<()> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for word in memory.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    let mut at = 0;
    while at < size {
        let len = usize::try_from((size - at).min(PIECE as u64)).expect("at most a MiB");
        file.write_all_at(&memory[..len], at)?;
        at += len as u64;
    }
    file.sync_all()
}

impl Drop for RawStream {
    fn drop(&mut self) {
        let mut done = Vec::new();
        while self.in_flight > 0 {
            if let Err(error) = self.wait(&mut done) {
                tracing::error!(%error, "cannot wait for requests in flight; their memory stays until the process ends");
                return;
            }
        }
        // SAFETY: dropped once, here, and not used afterwards; the kernel has answered everything.
        unsafe { ManuallyDrop::drop(&mut self.inner) };
        // It was made by `create`; a file that somebody else has deleted meanwhile is gone as well.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_writes_reads_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir_in(".").expect("a directory on a file system with direct I/O");
        let path = dir.path().join("raw");
        let mut stream =
            RawStream::create(&path, RawOptions { size: 1 << 20, block: 4096, depth: 4 }).expect("a stream");
        assert!(RawStream::create(&path, RawOptions { size: 4096, block: 4096, depth: 1 }).is_err(), "not over a file");
        let mut done = Vec::new();
        for slot in 0..4 {
            stream.queue(slot, u64::from(slot) * 4096, slot % 2 == 0);
        }
        while done.len() < 4 {
            stream.wait(&mut done).expect("a working ring");
        }
        assert!(done.iter().all(|d| d.result.is_ok()), "{done:?}");
        stream.queue(0, 1 << 30, false);
        done.clear();
        stream.wait(&mut done).expect("a working ring");
        assert!(done[0].result.is_err(), "a read beyond the end is no success");
        drop(stream);
        assert!(!path.exists());
    }
}
