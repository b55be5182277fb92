//! Random histories with crashes, against the model.

use super::harness::{BLOCKS, Harness, small};
use crate::StoreConfig;
use crate::api::Input;
use holdfast_format::PAGE_BYTES;
use holdfast_types::{BlockRange, Lsn, VolumeId};

fn volume_step(h: &mut Harness, v: VolumeId) {
    let m = h.models[&v].clone();
    let adopting = m.before_adoption.is_some();
    match h.rng.below(100) {
        // Back-pressure, as the caller of the store does.
        0..30 if m.may_append && m.last() - m.committed < 24 => {
            let count = 1 + h.rng.below(4);
            h.append(v, count);
        }
        // A secondary gets again what it lost: the same records.
        0..30 if !m.lost.is_empty() && !adopting => {
            let mut lost = m.lost;
            let n = 1 + usize::try_from(h.rng.below(u64::try_from(lost.len()).expect("small"))).expect("small");
            let rest = lost.split_off(n);
            let model = h.models.get_mut(&v).expect("known");
            lost.iter().for_each(|r| model.push(r.clone()));
            model.lost = rest;
            h.input(Input::Append { volume: v, records: lost });
        }
        0..32 if !adopting => {
            let cut = m.ever_committed + h.rng.below(m.last() - m.ever_committed + 1);
            h.adopt(v, cut);
        }
        32..34 if !adopting => {
            let epoch = m.epoch.max(m.promised).max(m.promising.unwrap_or_default()).next();
            h.models.get_mut(&v).expect("known").promising = Some(epoch);
            h.models.get_mut(&v).expect("known").may_append = false;
            h.input(Input::Promise { volume: v, epoch });
        }
        34..60 if !adopting && m.durable > m.committed => {
            let upto = m.committed + 1 + h.rng.below(m.durable - m.committed);
            h.commit(v, upto);
        }
        60..80 => {
            let start = h.rng.below(BLOCKS);
            let count = 1 + h.rng.below(BLOCKS - start);
            h.read(v, BlockRange::new(start, count));
        }
        80..86 if m.durable > 0 && !adopting => {
            let from = 1 + h.rng.below(m.durable);
            let max = usize::try_from(h.rng.below(60_000)).expect("small");
            h.read_log(v, from, max);
        }
        86..90 => h.input(Input::Trim { volume: v, upto: Lsn(m.committed) }),
        _ => {}
    }
}

fn run(seed: u64, steps: usize, config: StoreConfig) -> Harness {
    let mut h = Harness::new(seed, config);
    h.resizes = seed.is_multiple_of(2);
    h.start();
    let volumes = [VolumeId(1), VolumeId(2), VolumeId(9)];
    volumes.iter().for_each(|v| h.create(*v));
    let crash_chance = [500, 3_000, 15_000][usize::try_from(seed % 3).expect("small")];
    for _ in 0..steps {
        if h.rng.chance(crash_chance) {
            let power = h.rng.chance(700_000);
            h.crash(power);
            h.input(Input::Start);
            // Crashes while starting, too.
            while !h.started {
                if h.rng.chance(10_000) {
                    let power = h.rng.chance(700_000);
                    h.crash(power);
                    h.input(Input::Start);
                }
                if !h.complete_one() && !h.started {
                    // Replay waits for space, and is tried again.
                    h.disk.full = false;
                    assert!(h.tick(), "the start ends");
                }
            }
            volumes.iter().for_each(|v| assert!(h.opened.contains_key(v)));
            if h.rng.chance(300_000) {
                volumes.iter().for_each(|v| h.read_all(*v));
            }
        }
        match h.rng.below(10) {
            0..5 => drop(h.complete_one()),
            5 if h.rng.chance(100_000) => drop(h.tick()),
            _ => {
                let v = volumes[usize::try_from(h.rng.below(3)).expect("small")];
                volume_step(&mut h, v);
            }
        }
        if h.rng.chance(1_000) {
            h.disk.full ^= true;
        }
    }
    h.disk.full = false;
    // A journal full of uncommitted records takes more only when some are committed.
    for _ in 0..20 {
        h.quiesce();
        for v in volumes {
            let durable = h.models[&v].durable;
            h.commit(v, durable);
        }
    }
    for v in volumes {
        let m = h.models[&v].clone();
        assert_eq!(m.durable, m.last(), "{v}: in the end all is durable; {}", h.store.journal_state());
    }
    for v in volumes {
        let last = Lsn(h.models[&v].last());
        let p = h.store.positions(v).expect("open");
        assert_eq!(
            (p.applied, p.received),
            (last, last),
            "{v}: in the end all is applied; {}",
            h.store.journal_state()
        );
        assert_eq!(h.store.digest(v), Some(h.models[&v].digest(last.0)));
        h.read_all(v);
        h.scrub(v);
        let blocks = h.models[&v].blocks();
        assert!(h.disk.bytes_behind(v, blocks * 4096).all(|b| b == 0), "{v}: {blocks} blocks and nothing behind them");
    }
    assert_eq!(h.store.backlog_bytes(), 0);
    h
}

#[test]
fn random_histories_with_crashes_equal_the_model() {
    let seeds = std::env::var("HOLDFAST_STORE_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(20);
    let first = std::env::var("HOLDFAST_STORE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let (mut checkpoints, mut log_records) = (0, 0);
    for seed in first..first + seeds {
        eprintln!("seed {seed}");
        // From less than one batch needs to more than all volumes have.
        let pick = |of: [usize; 3]| of[usize::try_from(seed / 3 % 3).expect("small")];
        let (table_bytes, apply_batch_pages) = (pick([1, 12, 512]) * PAGE_BYTES, pick([64, 1, 4]));
        let h = run(seed, 4_000, StoreConfig { table_bytes, apply_batch_pages, ..small() });
        checkpoints += h.checkpoints;
        log_records += h.log_records;
    }
    assert!(checkpoints > 10 && log_records > 10, "the histories do something: {checkpoints} {log_records}");
}
