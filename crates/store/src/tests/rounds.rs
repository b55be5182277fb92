//! Rot in rounds: random bytes of every kind of file of a store, changed while it is stopped and while it runs. Nothing wrong
//! is ever returned; what was damaged is refused with a sentence, or repaired with what other copies hold.
//!
//! HOLDFAST_ROT_ROUNDS  rounds (200), half of them stopped and half running
//! HOLDFAST_ROT_FROM    the first round; a round is its seed (0)

use super::harness::{BLOCKS, Harness, small};
use crate::api::Input;
use crate::io::FileId;
use bytes::Bytes;
use holdfast_types::{BlockIndex, BlockRange, Lsn, Rng, VolumeId};

const VOLUMES: [VolumeId; 2] = [VolumeId(1), VolumeId(2)];

/// How the rounds went; each counts for both volumes.
#[derive(Debug, Default)]
struct Tally {
    bytes: u64,
    whole: u64,
    /// Records of the log came again from elsewhere.
    refetched: u64,
    /// Blocks of the image were written again.
    blocks: u64,
    refused: u64,
    /// Copies that wait for the journal's room until a failed neighbour is replaced.
    waiting: u64,
}

/// Two volumes at rest: everything durable is proven, everything is committed and most of it is in the images.
fn at_rest(seed: u64) -> Harness {
    let mut h = Harness::new(seed, small());
    h.start();
    for v in VOLUMES {
        h.create(v);
        h.adopt(v, 0);
    }
    for _ in 0..6 + h.rng.below(8) {
        let (first, second) = (1 + h.rng.below(2), h.rng.below(2));
        h.append(VOLUMES[0], first);
        h.append(VOLUMES[1], second + 1);
        h.quiesce();
        if h.rng.chance(700_000) {
            for v in VOLUMES {
                let durable = h.models[&v].durable;
                h.commit(v, durable);
            }
            h.quiesce();
        }
    }
    h
}

fn damage(h: &mut Harness, rng: &mut Rng) -> u64 {
    let files: Vec<FileId> = h.disk.files.keys().copied().collect();
    let hits = 1 + rng.below(4);
    for _ in 0..hits {
        let file = files[usize::try_from(rng.below(files.len() as u64)).expect("small")];
        let medium = &h.disk.files[&file].medium;
        let used = medium.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1);
        // Mostly where something was written, sometimes anywhere.
        let len = if used > 0 && rng.chance(900_000) { used } else { medium.len() as u64 };
        if len > 0 {
            let at = usize::try_from(rng.below(len)).expect("small");
            h.disk.rot(file, at, u8::try_from(1 + rng.below(255)).expect("a byte"));
        }
    }
    hits
}

fn round(seed: u64, tally: &mut Tally) {
    let mut base = at_rest(seed);
    base.crash(true);
    let mut rng = Rng::new(seed ^ 0x0507);
    let mut h = Harness::new(seed ^ 1, small());
    h.models = base.models.clone();
    h.disk.files = base.disk.files.clone();
    let running = seed % 2 == 1;
    if running {
        h.start();
        h.quiesce();
    }
    h.strict = false;
    tally.bytes += damage(&mut h, &mut rng);
    if running {
        // What is read is right or refused; what fails, fails with a sentence; then the host restarts.
        for v in VOLUMES {
            h.read(v, BlockRange::new(0, BLOCKS));
            h.read_log(v, 1, 1 << 20);
            h.append(v, 1);
        }
        h.quiesce();
        h.crash(rng.chance(500_000));
    }
    sentences(&h);
    h.failures.clear();
    h.start();
    h.quiesce();
    sentences(&h);
    // A whole neighbour first: what it has not applied fills the journal that both share.
    let mut volumes = VOLUMES;
    volumes.sort_by_key(|v| h.opened.get(v).is_none_or(|c| c.unknown_to.is_some()));
    commit_all(&mut h);
    for v in volumes {
        if has_failed(&h, v) {
            tally.refused += 1;
        } else {
            repair(&mut h, &base, v, seed, tally);
        }
    }
}

/// Everybody's quorum has what is durable here: what is not committed of one volume would keep the room from the other.
fn commit_all(h: &mut Harness) {
    for v in VOLUMES.into_iter().filter(|v| !has_failed(h, *v)).collect::<Vec<_>>() {
        let last = h.opened[&v].last.0;
        h.models.get_mut(&v).expect("known").durable = last;
        h.commit(v, last);
    }
    h.quiesce();
}

fn has_failed(h: &Harness, v: VolumeId) -> bool {
    h.failures.iter().any(|(of, _)| of.is_none_or(|of| of == v))
}

fn sentences(h: &Harness) {
    for (_, reason) in &h.failures {
        assert!(reason.len() > 40 && reason.contains(' '), "a sentence says what to do: {reason:?}");
    }
}

/// An opened copy: its log is right as far as it goes, and what is missing is said to be unknown; with the records and blocks
/// of another copy it is whole again.
fn repair(h: &mut Harness, base: &Harness, v: VolumeId, seed: u64, tally: &mut Tally) {
    let held = base.models[&v].durable;
    let c = h.opened[&v].clone();
    assert_eq!(c.last_hash, h.models[&v].hash(c.last.0), "{seed}: {v}: what is there is right");
    let mut damaged = false;
    if c.last.0 < held {
        assert!(c.unknown_to.is_some_and(|to| to.0 >= held), "{seed}: {v} lost records in silence: {c:?} of {held}");
        damaged = true;
        tally.refetched += 1;
    }
    let m = h.models.get_mut(&v).expect("known");
    let records = m.log[usize::try_from(c.last.0).expect("small")..].to_vec();
    // As a primary sends them: what is committed follows what is durable, so that the journal has room.
    for record in records {
        let lsn = record.lsn().0;
        h.input(Input::Append { volume: v, records: vec![record] });
        h.quiesce();
        if refused_late(h, v, tally) {
            return;
        }
        let lacks = VOLUMES.into_iter().any(|n| n != v && h.opened.get(&n).is_some_and(|c| c.unknown_to.is_some()));
        if h.models[&v].durable < lsn && (lacks || !h.failures.is_empty()) {
            // A neighbour that failed keeps its records until it is replaced, as evidence so does one that lacks some itself, and these
            // journals are tiny.
            assert!(h.store.is_journal_full(), "{seed}: {v}; {:?}", h.failures);
            tally.waiting += 1;
            return;
        }
        assert_eq!(h.models[&v].durable, lsn, "{seed}: {v} takes its records again; {:?}", h.failures);
        h.commit(v, lsn);
        h.quiesce();
    }
    let last = h.models[&v].last();
    let sound = sound(h, base, v);
    for block in 0..BLOCKS {
        let before = h.corrupt_reads;
        h.read(v, BlockRange::new(block, 1));
        h.drain_disk();
        if h.corrupt_reads == before {
            continue;
        }
        if refused_late(h, v, tally) {
            return;
        }
        damaged = true;
        tally.blocks += 1;
        let at = usize::try_from(block).expect("small") * 4096;
        let data = Bytes::copy_from_slice(&sound[at..at + 4096]);
        h.input(Input::Repair { volume: v, block: BlockIndex(block), data });
        h.drain_disk();
        assert_eq!(h.repaired.pop(), Some((block, true)), "{seed}: {v}");
        let before = h.corrupt_reads;
        h.read(v, BlockRange::new(block, 1));
        h.drain_disk();
        assert_eq!(h.corrupt_reads, before, "{seed}: {v}: block {block} is whole again");
    }
    if refused_late(h, v, tally) {
        return;
    }
    assert_eq!(h.store.digest(v), Some(h.models[&v].digest(last)), "{seed}: {v}");
    assert!(h.store.positions(v).is_some_and(|p| p.applied == Lsn(last)), "{seed}: {v}");
    tally.whole += u64::from(!damaged);
}

/// A page of a table is read when it is needed first: only then a damaged one fails its copy.
fn refused_late(h: &Harness, v: VolumeId, tally: &mut Tally) -> bool {
    let failed = has_failed(h, v);
    if failed {
        sentences(h);
        tally.refused += 1;
    }
    failed
}

/// The image of another copy with the same log.
fn sound(h: &Harness, base: &Harness, v: VolumeId) -> Vec<u8> {
    let mut other = Harness::new(77, small());
    other.models = base.models.clone();
    other.disk.files = base.disk.files.clone();
    other.start();
    other.quiesce();
    commit_all(&mut other);
    let (held, last) = (other.models[&v].last(), h.models[&v].last());
    let m = other.models.get_mut(&v).expect("known");
    let records = h.models[&v].log[usize::try_from(held).expect("small")..].to_vec();
    records.iter().cloned().for_each(|record| m.push(record));
    if !records.is_empty() {
        other.input(Input::Append { volume: v, records });
        other.quiesce();
    }
    other.commit(v, last);
    other.quiesce();
    other.disk.files[&FileId::Image(v)].medium.clone()
}

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("expected {name} as a whole number, found {text:?}")),
        Err(_) => default,
    }
}

#[test]
fn rot_is_repaired_or_refused() {
    let (rounds, from) = (number("HOLDFAST_ROT_ROUNDS", 200), number("HOLDFAST_ROT_FROM", 0));
    let mut tally = Tally::default();
    for seed in from..from + rounds {
        round(seed, &mut tally);
    }
    let Tally { bytes, whole, refetched, blocks, refused, waiting } = tally;
    println!(
        "rot: rounds={rounds} bytes={bytes} whole={whole} refetched={refetched} blocks={blocks} refused={refused} waiting={waiting}"
    );
    assert!(rounds < 100 || (whole > 0 && refetched > 0 && blocks > 0 && refused > 0), "every outcome is met");
}
