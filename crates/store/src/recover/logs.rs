//! From the journal's frames to the log of each volume.
//!
//! A record `(e, n)` is valid only if the epoch table gives `e` to `n` (trap 13): after a cut, records of the cut tail
//! still lie in the journal. The log grows from the checkpoint upwards along the hash chain, and from the checkpoint
//! downwards for what lagging copies may ask for. The same `(e, n)` may lie in two frames; by S15 both are equal, and
//! one that can be read stands for both.
//!
//! What is reported beyond the log's end is evidence, never a guess: `unknown_to` if records of the volume were durable
//! beyond it, or may have been because whose records were lost can't be told; `commit_hint` if they were committed.

use crate::recover::resolve::{Place, Resolved};
use crate::recover::scan::{FoundBody, FoundRecord};
use crate::replica::{Entry, Location, Replica, len_of};
use holdfast_format::Record;
use holdfast_types::{Epoch, Lsn, Mutant, VolumeId, mutated};
use std::collections::BTreeMap;

/// One finding of a record.
struct Candidate<'a> {
    place: Place,
    generation: u64,
    record: &'a FoundRecord,
}

type Candidates<'a> = BTreeMap<Lsn, Vec<Candidate<'a>>>;

/// Gives each copy its log, positions and evidence. Copies come with what their superblock says.
pub(crate) fn recover_logs(resolved: &Resolved, replicas: &mut BTreeMap<VolumeId, Replica>) {
    let mut found: BTreeMap<VolumeId, Candidates<'_>> = BTreeMap::new();
    for frame in &resolved.frames {
        let place = (frame.life, frame.seq);
        for record in &frame.records {
            let header = &record.header;
            let Some(replica) = replicas.get_mut(&header.volume).filter(|r| place >= r.sb.born) else { continue };
            replica.commit_hint = replica.commit_hint.max(header.committed);
            let of_volume = found.entry(header.volume).or_default();
            let candidate = Candidate { place, generation: frame.generation, record };
            of_volume.entry(header.lsn).or_default().push(candidate);
        }
        for mark in &frame.marks {
            if let Some(replica) = replicas.get_mut(&mark.volume).filter(|r| place >= r.sb.born) {
                replica.commit_hint = replica.commit_hint.max(mark.committed);
            }
        }
    }
    for (volume, replica) in replicas {
        recover_log(replica, &found.remove(volume).unwrap_or_default(), resolved);
    }
}

/// Copies whose superblock is older than their journal, and the epoch that shows it: an epoch is in the superblock before
/// the first record of it is written. Such a copy has forgotten a promise (S14), and by its table records of a cut tail would
/// count again (trap 13).
pub(crate) fn outdated(resolved: &Resolved, replicas: &BTreeMap<VolumeId, Replica>) -> BTreeMap<VolumeId, Epoch> {
    let mut found = BTreeMap::new();
    for frame in &resolved.frames {
        for header in frame.records.iter().map(|r| &r.header) {
            let newer = |r: &&Replica| (frame.life, frame.seq) >= r.sb.born && header.epoch > r.sb.promised;
            if replicas.get(&header.volume).filter(newer).is_some() {
                found.insert(header.volume, header.epoch);
            }
        }
    }
    found
}

fn recover_log(replica: &mut Replica, candidates: &Candidates<'_>, resolved: &Resolved) {
    let last_place = grow_up(replica, candidates);
    replica.durable = replica.received;
    replica.unknown_to = unknown_to(replica, candidates, resolved, last_place);
    let committed = replica.commit_hint.min(replica.received);
    replica.known_committed = replica.known_committed.max(committed);
    replica.carried = replica.known_committed;
    replica.on_commit(committed);
    if mutated(Mutant::ReplaySkipped) {
        replica.applied = committed;
    }
    grow_down(replica, candidates);
}

/// Follows the chain from the checkpoint upwards. Gives the place of the last record.
fn grow_up(replica: &mut Replica, candidates: &Candidates<'_>) -> Place {
    let mut place = replica.sb.born;
    loop {
        let lsn = replica.received.next();
        let next = candidates.get(&lsn).into_iter().flatten().rev().find_map(|candidate| {
            let FoundBody::Kept(record) = &candidate.record.body else { return None };
            let assigned = replica.sb.table.epoch_at(lsn) == Some(record.epoch());
            let valid = (assigned || mutated(Mutant::StaleRecordsCount))
                && record.header().prev_hash == replica.received_hash
                && record.header().fits(replica.sizes.last().size);
            valid.then_some((candidate, record))
        });
        let Some((candidate, record)) = next else { break };
        place = candidate.place;
        take(replica, candidate, record);
    }
    if replica.received == replica.sb.checkpoint {
        place = candidates.get(&replica.received).into_iter().flatten().map(|c| c.place).max().unwrap_or(place);
    }
    place
}

fn take(replica: &mut Replica, candidate: &Candidate<'_>, record: &Record) {
    replica.received = record.lsn();
    replica.received_epoch = record.epoch();
    replica.received_hash = record.hash();
    replica.backlog += len_of(record);
    replica.remember(record, Some(location(candidate)));
}

const fn location(candidate: &Candidate<'_>) -> Location {
    let FoundRecord { header_at, body_at, .. } = *candidate.record;
    Location { generation: candidate.generation, header_at, body_at }
}

/// The highest LSN that was, or may have been, durable here beyond the end of the log.
fn unknown_to(replica: &Replica, candidates: &Candidates<'_>, resolved: &Resolved, last_place: Place) -> Option<Lsn> {
    let last = replica.received;
    let valid = |c: &Candidate<'_>| replica.sb.table.epoch_at(c.record.header.lsn) == Some(c.record.header.epoch);
    let seen = candidates.range(last.next()..).filter(|(_, list)| list.iter().any(valid)).map(|(lsn, _)| *lsn).max();
    let lost: u64 = resolved.rots.iter().filter(|rot| rot.place >= last_place).map(|rot| rot.records).sum();
    let maybe = (lost > 0).then(|| Lsn(last.0.saturating_add(lost)));
    seen.max(maybe)
}

/// Indexes the records at and below the checkpoint that the journal still holds, along the chain downwards.
fn grow_down(replica: &mut Replica, candidates: &Candidates<'_>) {
    let (mut lsn, mut hash) = (replica.sb.checkpoint, replica.sb.checkpoint_hash);
    while lsn > Lsn::ZERO {
        let held = candidates.get(&lsn).into_iter().flatten().rev().find(|c| c.record.hash() == Some(hash));
        let Some(candidate) = held else { return };
        let header = &candidate.record.header;
        let at = Some(location(candidate));
        let entry = Entry { epoch: header.epoch, hash, body_len: header.body_len, at, record: None };
        replica.log.insert(lsn, entry);
        hash = header.prev_hash;
        lsn = lsn.prev();
    }
}
