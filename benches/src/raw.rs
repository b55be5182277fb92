//! Durable 4 KiB writes with nothing between them and the kernel (`holdfast_disk::raw`), into blocks that were written before,
//! as a journal segment's were.

use holdfast_disk::raw::{RawOptions, RawStream};
use holdfast_types::Rng;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes of the file.
const LEN: u64 = 64 << 20;
/// Bytes of a write.
const BLOCK: u32 = 4096;

/// A file to write to.
#[derive(Debug)]
pub struct Raw {
    stream: RawStream,
    depth: u32,
}

impl Raw {
    /// Makes the file at `path`, writes all of it, and takes up to `depth` writes at a time.
    ///
    /// # Errors
    /// What the file system says.
    pub fn create(path: &Path, depth: u32) -> io::Result<Raw> {
        let stream = RawStream::create(path, RawOptions { size: LEN, block: BLOCK, depth })?;
        Ok(Raw { stream, depth })
    }

    /// One write after the other, each behind the last: how long each took.
    ///
    /// # Errors
    /// What the device says.
    pub fn sequential(&mut self, count: u64) -> io::Result<Vec<Duration>> {
        let mut done = Vec::new();
        let mut took = Vec::new();
        for i in 0..count {
            let began = Instant::now();
            self.stream.queue(0, i * u64::from(BLOCK) % LEN, true);
            while done.is_empty() {
                self.stream.wait(&mut done)?;
            }
            took.push(began.elapsed());
            done.drain(..).try_for_each(|d| d.result)?;
        }
        Ok(took)
    }

    /// As many writes at a time as were announced, anywhere: writes in a second.
    ///
    /// # Errors
    /// What the device says.
    pub fn random_iops(&mut self, count: u64) -> io::Result<f64> {
        let mut rng = Rng::new(count);
        let mut free: Vec<u32> = (0..self.depth).collect();
        let mut done = Vec::new();
        let (mut sent, mut ended) = (0, 0);
        let began = Instant::now();
        while ended < count {
            for slot in free.drain(..).take(usize::try_from(count - sent).unwrap_or(usize::MAX)) {
                self.stream.queue(slot, rng.below(LEN / u64::from(BLOCK)) * u64::from(BLOCK), true);
                sent += 1;
            }
            self.stream.wait(&mut done)?;
            for d in done.drain(..) {
                d.result?;
                free.push(d.slot);
                ended += 1;
            }
        }
        Ok(count as f64 / began.elapsed().as_secs_f64())
    }
}
