//! The journal against the device: rounds of raw writes and of records, in turns; medians over the rounds.

use crate::raw::Raw;
use crate::shard::Shard;
use holdfast_store::StoreConfig;
use serde_json::{Value, json};
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

/// Writes at a time where many are.
const DEPTH: u32 = 32;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    /// Rounds of everything but recovery.
    pub rounds: u64,
    /// Writes in a round.
    pub writes: u64,
    /// Bytes in the journal that is recovered.
    pub recovery_bytes: u64,
}

/// One row: what was measured, beside what the machine gives by itself.
#[derive(Clone, Debug)]
pub struct Row {
    /// What.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// The device, median of the rounds' medians; `None` where there is nothing to compare with.
    pub raw: Option<f64>,
    /// Holdfast, likewise.
    pub holdfast: f64,
    /// What is wanted of the ratio, or of the figure where there is none.
    pub goal: &'static str,
    /// Whether it was reached.
    pub reached: bool,
}

impl Row {
    /// Holdfast's figure over the device's.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        self.raw.map(|raw| self.holdfast / raw)
    }

    /// For `--output json`.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({
            "name": self.name, "unit": self.unit, "raw": self.raw, "holdfast": self.holdfast, "ratio": self.ratio(),
            "goal": self.goal, "reached": self.reached,
        })
    }
}

/// Measures in `dir`, which is on the device in question and empty.
///
/// # Errors
/// What the file system or the disk driver says.
pub fn run(dir: &Path, amount: Amount) -> Result<Vec<Row>, Box<dyn Error>> {
    let mut raw = Raw::create(&dir.join("raw"), DEPTH)?;
    let mut shard = Shard::open(&dir.join("shard"), StoreConfig::default())?;
    let (mut raw_one, mut one, mut raw_many, mut many) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..amount.rounds {
        raw_one.push(median(&mut micros(&raw.sequential(amount.writes)?)));
        one.push(median(&mut micros(&shard.write(1, 1, amount.writes, false))));
        shard.rest();
        raw_many.push(raw.random_iops(amount.writes * 4)?);
        let began = Instant::now();
        let count = amount.writes * 4;
        shard.write(DEPTH as usize, 1, count, false);
        many.push(count as f64 / began.elapsed().as_secs_f64());
        shard.rest();
    }
    drop(shard);
    let beside = beside(dir, amount)?;
    let (raw_one, one) = (median(&mut raw_one), median(&mut one));
    let (raw_many, many) = (median(&mut raw_many), median(&mut many));
    let recovery = recovery(&dir.join("recovery"), amount.recovery_bytes)?;
    Ok(vec![
        Row {
            name: "4 KiB durable, depth 1, p50",
            unit: "µs",
            raw: Some(raw_one),
            holdfast: one,
            goal: "at most 1.1 × raw",
            reached: one <= raw_one * 1.1,
        },
        Row {
            name: "4 KiB durable, depth 32",
            unit: "IOPS",
            raw: Some(raw_many),
            holdfast: many,
            goal: "at least 3 × raw, random",
            reached: many >= raw_many * 3.0,
        },
        beside,
        Row {
            name: "start with a full journal",
            unit: "s",
            raw: None,
            holdfast: recovery.as_secs_f64(),
            goal: "below 3 s for 1 GiB",
            reached: recovery < Duration::from_secs(3),
        },
    ])
}

/// What the slowest of a guest's writes wait while what it wrote goes to the image, with few writes of the image beside them and with
/// as many as when no guest writes.
fn beside(dir: &Path, amount: Amount) -> Result<Row, Box<dyn Error>> {
    let few = StoreConfig::default();
    let many = StoreConfig { apply_beside: few.apply_in_flight, ..StoreConfig::default() };
    let mut shards = [Shard::open(&dir.join("many"), many)?, Shard::open(&dir.join("few"), few)?];
    let mut slowest = [Vec::new(), Vec::new()];
    for _ in 0..amount.rounds {
        for (shard, slowest) in shards.iter_mut().zip(&mut slowest) {
            let mut times = micros(&shard.write(1, 1, amount.writes * 4, true));
            times.sort_by(f64::total_cmp);
            slowest.push(times[times.len() * 99 / 100]);
            shard.rest();
        }
    }
    let [many, few] = slowest.map(|mut of| median(&mut of));
    Ok(Row {
        name: "beside the image, p99 (raw: 16)",
        unit: "µs",
        raw: Some(many),
        holdfast: few,
        goal: "at most 0.7 × with sixteen writes of it at once",
        reached: few <= many * 0.7,
    })
}

/// How long a start takes that reads so many bytes of journal.
fn recovery(dir: &Path, bytes: u64) -> Result<Duration, Box<dyn Error>> {
    let config = StoreConfig { max_segments: 80, ..StoreConfig::default() };
    let mut shard = Shard::open(dir, config.clone())?;
    // Nothing is trimmed, so all of it stays.
    shard.write(4, 256, bytes >> 20, true);
    shard.rest();
    drop(shard);
    let began = Instant::now();
    let shard = Shard::open(dir, config)?;
    let took = began.elapsed();
    drop(shard);
    Ok(took)
}

fn micros(times: &[Duration]) -> Vec<f64> {
    times.iter().map(|t| t.as_secs_f64() * 1e6).collect()
}

/// The middle one; of an even number the upper one of the two.
///
/// # Panics
/// There are none.
pub fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
