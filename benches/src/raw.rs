//! Durable writes with nothing between them and the kernel: `pwrite` on a file opened with `O_DIRECT | O_DSYNC` whose blocks
//! were written before, as a journal segment's were.

use holdfast_types::Rng;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes of the file.
const LEN: u64 = 64 << 20;
/// Bytes of a write.
const BLOCK: usize = 4096;

/// A file to write to.
#[derive(Debug)]
pub struct Raw {
    file: File,
}

/// Memory that direct I/O takes.
#[repr(C, align(4096))]
struct Aligned([u8; BLOCK]);

impl Raw {
    /// Makes the file at `path` and writes all of it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn create(path: &Path) -> io::Result<Raw> {
        let mut file = File::create(path)?;
        let chunk = vec![0; 1 << 20];
        for _ in 0..LEN >> 20 {
            file.write_all(&chunk)?;
        }
        file.sync_all()?;
        let file = File::options().write(true).custom_flags(libc::O_DIRECT | libc::O_DSYNC).open(path)?;
        Ok(Raw { file })
    }

    /// One write after the other, each behind the last: how long each took.
    ///
    /// # Errors
    /// What the device says.
    pub fn sequential(&self, count: u64) -> io::Result<Vec<Duration>> {
        let data = Aligned([0x5A; BLOCK]);
        (0..count).map(|i| self.write(&data, i * BLOCK as u64 % LEN)).collect()
    }

    /// `depth` threads that write blocks anywhere: writes in a second, over all.
    ///
    /// # Errors
    /// What the device says.
    pub fn random_iops(&self, depth: u64, count: u64) -> io::Result<f64> {
        let began = Instant::now();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..depth)
                .map(|seed| {
                    scope.spawn(move || -> io::Result<()> {
                        let (mut rng, data) = (Rng::new(seed), Aligned([0xA5; BLOCK]));
                        (0..count / depth).try_for_each(|_| {
                            self.write(&data, rng.below(LEN / BLOCK as u64) * BLOCK as u64).map(drop)
                        })
                    })
                })
                .collect();
            threads.into_iter().try_for_each(|t| t.join().expect("a writer does not panic"))
        })?;
        Ok((count / depth * depth) as f64 / began.elapsed().as_secs_f64())
    }

    fn write(&self, data: &Aligned, offset: u64) -> io::Result<Duration> {
        let at = libc::off_t::try_from(offset).expect("64 MiB");
        let began = Instant::now();
        // SAFETY: the buffer outlives the call and is only read; the descriptor is open.
        let count = unsafe { libc::pwrite(self.file.as_raw_fd(), data.0.as_ptr().cast(), BLOCK, at) };
        match usize::try_from(count) {
            Ok(BLOCK) => Ok(began.elapsed()),
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }
}
