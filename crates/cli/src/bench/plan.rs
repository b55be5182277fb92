//! What is to be measured, checked before anything is touched.

use crate::args::BenchArgs;
use crate::error::CliError;
use crate::units;
use holdfast_agent::config::{parse_duration, parse_size};
use holdfast_types::SECTOR_SIZE;
use std::path::PathBuf;
use std::time::Duration;

/// Largest payload of one request.
const MAX_BLOCK: u64 = 1 << 20;
/// What is written over and over if the operator does not say.
const REGION: u64 = 1 << 30;

/// Where requests go, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Pattern {
    /// Writes anywhere in the region
    Randwrite,
    /// Reads anywhere in the region
    Randread,
    /// Writes one after another
    Write,
    /// Reads one after another
    Read,
    /// Reads and writes anywhere, as many of each
    Mixed,
    /// Like `mixed`, and every read is compared with what was written there last
    Verify,
}

impl Pattern {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Pattern::Randwrite => "randwrite",
            Pattern::Randread => "randread",
            Pattern::Write => "write",
            Pattern::Read => "read",
            Pattern::Mixed => "mixed",
            Pattern::Verify => "verify",
        }
    }

    pub(crate) const fn writes(self) -> bool {
        !matches!(self, Pattern::Randread | Pattern::Read)
    }

    pub(crate) const fn reads(self) -> bool {
        !matches!(self, Pattern::Randwrite | Pattern::Write)
    }

    pub(crate) const fn is_sequential(self) -> bool {
        matches!(self, Pattern::Write | Pattern::Read)
    }
}

/// A measurement.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) pattern: Pattern,
    /// Bytes of each request.
    pub(crate) block: u32,
    /// Requests in flight on each connection.
    pub(crate) depth: usize,
    /// Connections to each volume.
    pub(crate) connections: usize,
    pub(crate) fua: bool,
    /// A flush after so many writes of a connection; 0: none.
    pub(crate) flush_every: u64,
    pub(crate) warm_up: Duration,
    pub(crate) duration: Duration,
    pub(crate) rounds: u32,
    /// Bytes of each volume that are used, from its start.
    pub(crate) region: u64,
    /// That many were asked for.
    pub(crate) region_chosen: bool,
    /// Writes the region first, so that reads find data.
    pub(crate) fill: bool,
    pub(crate) raw: Option<PathBuf>,
    pub(crate) raw_streams: u32,
    pub(crate) raw_depth: usize,
    pub(crate) plot: Option<PathBuf>,
    pub(crate) seed: u64,
}

impl Plan {
    /// # Errors
    /// Arguments that make no sense, alone or together.
    pub(crate) fn new(args: &BenchArgs) -> Result<Plan, CliError> {
        if args.volumes.is_empty() == args.nbd.is_empty() {
            return Err(usage("expected volumes, or --nbd URI, and not both; see holdfast bench --help"));
        }
        let block = size("--block-size", &args.block_size)?;
        if block == 0 || block > MAX_BLOCK || !block.is_multiple_of(SECTOR_SIZE as u64) {
            return Err(usage(format!("--block-size: expected a multiple of 512 up to 1 MiB, found {block}")));
        }
        let region = args.region.as_deref().map_or(Ok(REGION), |text| size("--region", text))?;
        let region = region / block * block;
        if region < block {
            return Err(usage(format!("--region: expected at least one block of {block} bytes, found {region}")));
        }
        if args.pattern == Pattern::Verify && !block.is_multiple_of(4096) {
            return Err(usage("--pattern verify: expected a --block-size that is a multiple of 4096"));
        }
        if args.raw_streams > 1 && args.raw.is_none() {
            return Err(usage("--raw-streams: expected --raw FILE with it"));
        }
        let duration = time("--duration", &args.duration)?;
        if duration < Duration::from_millis(10) {
            return Err(usage("--duration: expected 10ms or more"));
        }
        Ok(Plan {
            pattern: args.pattern,
            block: u32::try_from(block).expect("at most 1 MiB"),
            depth: usize::from(args.depth),
            connections: usize::from(args.connections),
            fua: args.fua,
            flush_every: args.flush_every,
            warm_up: time("--warm-up", &args.warm_up)?,
            duration,
            rounds: args.rounds,
            region,
            region_chosen: args.region.is_some(),
            fill: args.fill,
            raw: args.raw.clone(),
            raw_streams: args.raw_streams,
            raw_depth: usize::from(args.raw_depth.unwrap_or(args.depth)),
            plot: args.plot.clone(),
            seed: args.seed,
        })
    }

    /// Nobody asked for a region, and the smallest volume is smaller than what is usual: all of that.
    ///
    /// # Errors
    /// A region was asked for that is larger, or the volume has no block.
    pub(crate) fn fit(&mut self, volume: &str, bytes: u64) -> Result<(), CliError> {
        if bytes >= self.region {
            return Ok(());
        }
        let whole = bytes / u64::from(self.block) * u64::from(self.block);
        if self.region_chosen || whole == 0 {
            let (region, bytes) = (units::bytes(self.region), units::bytes(bytes));
            return Err(usage(format!("--region: expected at most what {volume} has, {bytes}, found {region}")));
        }
        self.region = whole;
        Ok(())
    }

    /// Whether what the volumes hold is overwritten.
    pub(crate) const fn destroys(&self) -> bool {
        self.pattern.writes() || self.fill
    }

    /// Blocks of the region.
    pub(crate) fn blocks(&self) -> u64 {
        self.region / u64::from(self.block)
    }
}

fn usage(text: impl Into<String>) -> CliError {
    CliError::Usage(text.into())
}

fn size(flag: &str, text: &str) -> Result<u64, CliError> {
    parse_size(text).map_err(|e| usage(format!("{flag}: {e}")))
}

fn time(flag: &str, text: &str) -> Result<Duration, CliError> {
    parse_duration(text).map_err(|e| usage(format!("{flag}: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn plan(line: &str) -> Plan {
        let cli = Cli::try_parse_from(format!("holdfast bench vm1 {line}").split_whitespace()).expect("a command line");
        let Command::Bench(args) = cli.command else { unreachable!("it says bench") };
        Plan::new(&args).expect("it makes sense")
    }

    #[test]
    fn a_small_volume_is_used_whole_and_no_more_is_said_to_be_overwritten() {
        let mut usual = plan("");
        usual.fit("vm1", 64 << 30).expect("it is large enough");
        assert_eq!(usual.region, REGION);
        usual.fit("vm1", (16 << 20) + 512).expect("it has blocks");
        assert_eq!(usual.region, 16 << 20, "whole blocks");
        let refused = |line, bytes| plan(line).fit("vm1", bytes).expect_err("too small").to_string();
        assert_eq!(
            refused("--region 32MiB", 16 << 20),
            "--region: expected at most what vm1 has, 16 MiB, found 32 MiB"
        );
        assert!(refused("--block-size 8KiB", 4096).contains("expected at most what vm1 has"), "not one block");
    }
}
