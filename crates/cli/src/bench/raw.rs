//! The same requests on files of the same file system, without anything in between.

use super::load::LoadError;
use super::plan::Plan;
use super::sample::Sample;
use holdfast_disk::raw::{RawOptions, RawStream};
use holdfast_types::Rng;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Files that are driven at the same time, each by a thread of its own, as copies of a volume are by their agents.
pub(crate) struct Raw {
    paths: Vec<PathBuf>,
    plan: Plan,
}

impl Raw {
    /// `path` itself for one stream; `path.1`, `path.2`, … for several.
    ///
    /// # Errors
    /// One of them exists: a benchmark overwrites nothing that it did not make.
    pub(crate) fn new(path: &Path, streams: u32, plan: &Plan) -> Result<Raw, LoadError> {
        let numbered = |n: u32| {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        };
        let paths: Vec<PathBuf> =
            if streams == 1 { vec![path.to_owned()] } else { (1..=streams).map(numbered).collect() };
        if let Some(taken) = paths.iter().find(|p| p.exists()) {
            let text =
                format!("expected --raw to name a new file, found {}, which would be overwritten", taken.display());
            return Err(LoadError::Io(io::Error::new(io::ErrorKind::AlreadyExists, text)));
        }
        Ok(Raw { paths, plan: plan.clone() })
    }

    /// # Errors
    /// A file can't be made or used.
    pub(crate) fn run(&self, warm_up: Duration, duration: Duration) -> Result<Sample, LoadError> {
        let one = |(n, path): (u64, &PathBuf)| stream(path, &self.plan, n, warm_up, duration);
        let samples: Vec<Result<Sample, LoadError>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..).zip(&self.paths).map(|job| scope.spawn(move || one(job))).collect();
            threads.into_iter().map(|t| t.join().expect("a panic of any thread ends the process")).collect()
        });
        let mut whole = Sample::new();
        for sample in samples {
            whole.add(&sample?);
        }
        Ok(whole)
    }
}

fn stream(path: &Path, plan: &Plan, n: u64, warm_up: Duration, duration: Duration) -> Result<Sample, LoadError> {
    let depth = u32::try_from(plan.raw_depth).expect("a 16-bit depth");
    let options = RawOptions { size: plan.region, block: plan.block, depth };
    let unusable = |e: io::Error| io::Error::new(e.kind(), format!("cannot use {} as a raw file: {e}", path.display()));
    let mut stream = RawStream::create(path, options).map_err(unusable)?;
    let mut rng = Rng::new(plan.seed.wrapping_add(n));
    let blocks = plan.blocks();
    let mut next = 0;
    let mut pick = |rng: &mut Rng| {
        next = if plan.pattern.is_sequential() { (next + 1) % blocks } else { rng.below(blocks) };
        next * u64::from(plan.block)
    };
    let write = |rng: &mut Rng| plan.pattern.writes() && (!plan.pattern.reads() || rng.chance(500_000));
    let mut done = Vec::new();
    let mut run = |length: Duration| {
        let mut sample = Sample::new();
        let start = Instant::now();
        let mut sent = vec![start; plan.raw_depth];
        let mut free: Vec<u32> = (0..depth).collect();
        loop {
            let now = Instant::now();
            while now < start + length
                && let Some(slot) = free.pop()
            {
                sent[usize::try_from(slot).expect("a slot is below the depth")] = now;
                stream.queue(slot, pick(&mut rng), write(&mut rng));
            }
            if free.len() == plan.raw_depth {
                sample.elapsed = start.elapsed();
                return Ok::<Sample, LoadError>(sample);
            }
            stream.wait(&mut done)?;
            let now = Instant::now();
            for done in done.drain(..) {
                done.result.map_err(unusable)?;
                sample.note(
                    now - sent[usize::try_from(done.slot).expect("a slot is below the depth")],
                    u64::from(plan.block),
                );
                free.push(done.slot);
            }
        }
    };
    run(warm_up)?;
    run(duration)
}
